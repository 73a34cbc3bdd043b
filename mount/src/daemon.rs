//! Going to the background: the process that was started waits until its child has mounted, then ends with the child's
//! result.
//!
//! D1  The fork happens before any thread exists, since a child has only the thread that forked.
//! D2  No pipe or socket of the process that started the daemon stays open in the child, so nobody waits for the child's
//!     end. stderr stays open only if it is a file or a terminal, so that messages are not lost needlessly.
//!
//! The child writes `+` to the pipe between the two when the mount answers, or `-` and one line that says why it does not.
//! If the pipe ends without either, the child has died.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::fs::FileTypeExt;
use std::path::Path;
use std::process::ExitCode;

const READY: u8 = b'+';
const FAILED: u8 = b'-';

/// Tells the process that started the daemon how the start went, once.
pub(crate) struct Starter(Option<File>);

impl Starter {
    /// No process waits: messages go to stderr anyway.
    pub(crate) fn foreground() -> Starter {
        Starter(None)
    }

    /// The mount answers. An error means that no process waits for it any more.
    pub(crate) fn ready(&mut self) -> io::Result<()> {
        self.0.take().map_or(Ok(()), |mut pipe| pipe.write_all(&[READY]))
    }

    /// The mount failed. True if a process waited, which reports it.
    pub(crate) fn failed(&mut self, why: &str) -> bool {
        let Some(mut pipe) = self.0.take() else { return false };
        let message: Vec<u8> = [FAILED].into_iter().chain(why.bytes()).collect();
        pipe.write_all(&message).is_ok()
    }
}

pub(crate) enum Side {
    /// The process that was started. It ends with this exit code.
    Parent(ExitCode),
    /// The process that goes on.
    Child(Starter),
}

/// Forks. The caller has one thread (D1).
pub(crate) fn background() -> io::Result<Side> {
    let (reader, writer) = pipe()?;
    // SAFETY: this process has a single thread, so the child's memory is in order and every lock is free.
    match unsafe { libc::fork() } {
        -1 => Err(io::Error::last_os_error()),
        0 => {
            drop(reader);
            become_daemon()?;
            Ok(Side::Child(Starter(Some(writer))))
        }
        _child => {
            drop(writer);
            Ok(Side::Parent(outcome(reader)))
        }
    }
}

/// Reads what the child writes, and passes it on.
fn outcome(mut pipe: File) -> ExitCode {
    let mut said = Vec::new();
    if let Err(error) = pipe.read_to_end(&mut said) {
        eprintln!("dfs-mount: wait for the daemon: {error}");
        return ExitCode::FAILURE;
    }
    match said.split_first() {
        Some((&READY, _)) => return ExitCode::SUCCESS,
        Some((_, why)) => eprintln!("dfs-mount: {}", String::from_utf8_lossy(why)),
        None => eprintln!("dfs-mount: the daemon ended before the mount answered"),
    }
    ExitCode::FAILURE
}

fn pipe() -> io::Result<(File, File)> {
    let mut ends = [0; 2];
    // SAFETY: the array has the two places that the call fills.
    if unsafe { libc::pipe2(ends.as_mut_ptr(), libc::O_CLOEXEC) } != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: both descriptors are fresh and owned by nobody else.
    let [reader, writer] = ends.map(|end| unsafe { OwnedFd::from_raw_fd(end) });
    Ok((reader.into(), writer.into()))
}

/// Gives the process a session of its own, and keeps no directory and no pipe of the starter (D2).
fn become_daemon() -> io::Result<()> {
    // SAFETY: the child of a fork leads no process group, so this only detaches it from the terminal.
    unsafe { libc::setsid() };
    std::env::set_current_dir("/")?;
    let null = OpenOptions::new().read(true).write(true).open("/dev/null")?;
    replace(libc::STDIN_FILENO, &null)?;
    replace(libc::STDOUT_FILENO, &null)?;
    if !may_keep_stderr() {
        replace(libc::STDERR_FILENO, &null)?;
    }
    Ok(())
}

fn may_keep_stderr() -> bool {
    let kind = std::fs::metadata("/proc/self/fd/2").map(|metadata| metadata.file_type());
    kind.is_ok_and(|kind| kind.is_file() || kind.is_char_device())
}

/// Opens the log file, to whose end messages go. It is made if it is missing.
pub(crate) fn open_log(path: &Path) -> io::Result<File> {
    OpenOptions::new().create(true).append(true).open(path)
}

pub(crate) fn log_to(file: &File) -> io::Result<()> {
    replace(libc::STDERR_FILENO, file)
}

fn replace(target: libc::c_int, source: &File) -> io::Result<()> {
    // SAFETY: both descriptors are open; the target is one of the three standard ones, which nothing here owns.
    if unsafe { libc::dup2(source.as_raw_fd(), target) } < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parent_of(act: impl FnOnce(&mut Starter)) -> ExitCode {
        let (reader, writer) = pipe().unwrap();
        act(&mut Starter(Some(writer)));
        outcome(reader)
    }

    #[test]
    fn the_starter_succeeds_only_when_the_mount_answers() {
        let success = format!("{:?}", ExitCode::SUCCESS);
        assert_eq!(format!("{:?}", parent_of(|starter| starter.ready().unwrap())), success);
        assert_ne!(format!("{:?}", parent_of(|starter| assert!(starter.failed("no server")))), success);
        assert_ne!(format!("{:?}", parent_of(|_| ())), success);
    }

    #[test]
    fn only_the_first_word_counts_and_the_foreground_tells_nobody() {
        let (_reader, writer) = pipe().unwrap();
        let mut starter = Starter(Some(writer));
        starter.ready().unwrap();
        assert!(!starter.failed("too late"));
        assert!(!Starter::foreground().failed("nobody waits"));
    }
}
