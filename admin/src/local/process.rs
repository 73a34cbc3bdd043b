//! Starts processes, and finds and ends them again in later runs of `dfs`.
//!
//! A pid alone does not identify a process, because it is used again. So a process is known by its pid, its start time (in
//! clock ticks since the boot) and the id of the boot; a signal is sent only to a process that matches all three.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs::{File, OpenOptions};
use std::io::{Read as _, Seek as _, SeekFrom};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::Context as _;
use serde::{Deserialize, Serialize};
use tokio::time::{Instant, sleep};

use super::{Dir, read_if_exists, write_json};

/// The time between two looks at a process that is to end.
const POLL: Duration = Duration::from_millis(50);
/// The time between SIGTERM and SIGKILL.
const END_DEADLINE: Duration = Duration::from_secs(15);
/// How much of the end of a log is read to find its last line.
const LOG_TAIL_BYTES: u64 = 8 << 10;

/// Identifies one process and never another one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Process {
    pub pid: i32,
    /// The start time: field 22 of /proc/PID/stat.
    pub start_ticks: u64,
    pub boot: String,
}

/// What `processes.json` has: the daemons by name (`meta1`, `chunk2`, `mount`).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Processes(pub BTreeMap<String, Process>);

impl Processes {
    pub fn load(dir: &Dir) -> anyhow::Result<Processes> {
        let path = dir.processes();
        let Some(text) = read_if_exists(&path)? else { return Ok(Processes::default()) };
        let mut processes: Processes =
            serde_json::from_str(&text).with_context(|| format!("read {}", path.display()))?;
        processes.0.retain(|_, process| process.is_of(dir));
        Ok(processes)
    }

    pub fn save(&self, dir: &Dir) -> anyhow::Result<()> {
        write_json(&dir.processes(), self)
    }

    /// The process of that name, if it still lives.
    pub fn alive(&self, name: &str) -> Option<&Process> {
        self.0.get(name).filter(|process| process.is_alive())
    }

    pub fn any_alive(&self) -> bool {
        self.0.values().any(Process::is_alive)
    }
}

impl Process {
    /// Identifies the process that has this pid now.
    pub fn of_pid(pid: i32) -> anyhow::Result<Process> {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"))
            .with_context(|| format!("look at process {pid}"))?;
        let (_, start_ticks) = parse_stat(&stat).with_context(|| format!("read /proc/{pid}/stat"))?;
        Ok(Process { pid, start_ticks, boot: boot_id()? })
    }

    /// Whether the process is still alive: it has not ended, it is no zombie, and its pid does not belong to another one.
    pub fn is_alive(&self) -> bool {
        let Ok(stat) = std::fs::read_to_string(format!("/proc/{}/stat", self.pid)) else { return false };
        let same_boot = boot_id().is_ok_and(|boot| boot == self.boot);
        same_boot
            && parse_stat(&stat)
                .is_some_and(|(state, start)| start == self.start_ticks && !"ZX".contains(state))
    }

    /// Whether its command line names something in the directory. If not, it belongs to the federation in a directory that
    /// this one is a copy of.
    fn is_of(&self, dir: &Dir) -> bool {
        let arguments = std::fs::read(format!("/proc/{}/cmdline", self.pid)).unwrap_or_default();
        arguments
            .split(|byte| *byte == 0)
            .any(|argument| Path::new(OsStr::from_bytes(argument)).starts_with(dir.path()))
    }

    /// Sends a signal if the process is still alive; returns whether it was.
    pub fn signal(&self, signal: i32) -> bool {
        // SAFETY: kill takes two integers; a pid above 0 names one process.
        self.pid > 0 && self.is_alive() && unsafe { libc::kill(self.pid, signal) } == 0
    }

    /// Ends the process by SIGTERM or, if that does not help, by SIGKILL; returns whether SIGTERM was enough.
    pub async fn end(&self) -> bool {
        self.signal(libc::SIGTERM);
        // A process that is stopped (SIGSTOP) would not handle it.
        self.signal(libc::SIGCONT);
        if self.wait_end(Instant::now() + END_DEADLINE).await {
            return true;
        }
        self.signal(libc::SIGKILL);
        self.wait_end(Instant::now() + END_DEADLINE).await;
        false
    }

    /// Waits until the process has ended; returns false if it is still alive at the deadline.
    pub async fn wait_end(&self, deadline: Instant) -> bool {
        while self.is_alive() {
            if Instant::now() >= deadline {
                return false;
            }
            sleep(POLL).await;
        }
        true
    }
}

/// The state letter and the start time in /proc/PID/stat. The command name there is in brackets and may have any characters,
/// brackets too.
fn parse_stat(stat: &str) -> Option<(char, u64)> {
    let (_, fields) = stat.rsplit_once(") ")?;
    let mut fields = fields.split(' ');
    let state = fields.next()?.chars().next()?;
    // The state is field 3; the start time is field 22.
    Some((state, fields.nth(22 - 4)?.parse().ok()?))
}

fn boot_id() -> anyhow::Result<String> {
    let path = "/proc/sys/kernel/random/boot_id";
    Ok(std::fs::read_to_string(path).with_context(|| format!("read {path}"))?.trim().to_owned())
}

/// The path of a daemon's program: in the folder of this program or, if it is not there, in PATH.
pub fn find_program(name: &str) -> anyhow::Result<PathBuf> {
    let own = std::env::current_exe().context("find this program's own path")?;
    let beside = own.with_file_name(name);
    if beside.is_file() {
        return Ok(beside);
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .map(|folder| folder.join(name))
        .find(|candidate| candidate.is_file())
        .with_context(|| {
            format!("{name} is neither beside {} nor in PATH: build or install it", own.display())
        })
}

/// Starts a program that outlives this process, in a session of its own. Its output is appended to `log`.
pub fn start(
    program: &Path,
    arguments: &[&OsStr],
    log: &Path,
) -> anyhow::Result<(std::process::Child, Process)> {
    let open = || {
        let file = OpenOptions::new().create(true).append(true).open(log);
        file.with_context(|| format!("open log {}", log.display()))
    };
    let mut command = Command::new(program);
    // Variables of our environment would take precedence over the configuration file, above all `DFS_FEDERATION`.
    for (name, _) in std::env::vars_os().filter(|(name, _)| name.as_encoded_bytes().starts_with(b"DFS_")) {
        command.env_remove(name);
    }
    command.args(arguments).current_dir("/").stdin(Stdio::null()).stdout(open()?).stderr(open()?);
    // SAFETY: between fork and exec only two system calls run, both async-signal-safe, on no memory of ours.
    unsafe { command.pre_exec(detach) };
    let child = command.spawn().with_context(|| format!("start {}", program.display()))?;
    let process = Process::of_pid(child.id() as i32)?;
    Ok((child, process))
}

/// Gives the new process a session of its own and none of our descriptors: a lock that this process holds would else be held
/// as long as the daemon lives.
fn detach() -> std::io::Result<()> {
    // SAFETY: neither call touches memory. CLOSE_RANGE_CLOEXEC only marks: std's own pipe for exec errors still works.
    unsafe {
        if libc::setsid() == -1 {
            return Err(std::io::Error::last_os_error());
        }
        // Before Linux 5.11 the flag is unknown: then descriptors that our caller left open are inherited.
        libc::syscall(libc::SYS_close_range, 3u32, u32::MAX, libc::CLOSE_RANGE_CLOEXEC);
    }
    Ok(())
}

/// The length of a log now, so that what is added to it can be read later.
pub fn log_length(log: &Path) -> u64 {
    std::fs::metadata(log).map_or(0, |meta| meta.len())
}

/// The last line of a log that is not empty and is behind `from`.
pub fn last_line(log: &Path, from: u64) -> Option<String> {
    let mut file = File::open(log).ok()?;
    let len = file.metadata().ok()?.len();
    file.seek(SeekFrom::Start(from.max(len.saturating_sub(LOG_TAIL_BYTES)))).ok()?;
    let mut bytes = Vec::new();
    file.take(LOG_TAIL_BYTES).read_to_end(&mut bytes).ok()?;
    let text = String::from_utf8_lossy(&bytes);
    text.lines().rev().find(|line| !line.trim().is_empty()).map(|line| line.trim().to_owned())
}

#[cfg(test)]
mod tests {

    use super::*;

    #[test]
    fn the_command_name_in_stat_may_hold_blanks_and_brackets() {
        let tail = "S 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 4242 20 21";
        assert_eq!(parse_stat(&format!("7 (a) b) c) {tail}")), Some(('S', 4242)));
        assert_eq!(parse_stat("7 (short) S 1"), None);
    }

    #[test]
    fn a_recycled_pid_is_never_signalled() {
        let own = Process::of_pid(std::process::id() as i32).unwrap();
        assert!(own.is_alive());
        let older = Process { start_ticks: own.start_ticks - 1, ..own.clone() };
        let other_boot = Process { boot: "another".to_owned(), ..own };
        for recycled in [older, other_boot] {
            assert!(!recycled.is_alive());
            // It would end this test.
            assert!(!recycled.signal(libc::SIGKILL));
        }
    }

    #[tokio::test]
    async fn a_started_process_is_known_until_it_ends_and_a_zombie_counts_as_ended() {
        let temp = tempfile::tempdir().unwrap();
        let log = temp.path().join("log");
        let arguments = ["-c", "echo begun; exec sleep 600"].map(OsStr::new);
        let (mut child, process) = start(Path::new("/bin/sh"), &arguments, &log).unwrap();
        assert!(process.is_alive());
        assert!(process.signal(libc::SIGKILL));
        // Nobody has waited for the child yet.
        assert!(process.wait_end(Instant::now() + Duration::from_secs(10)).await);
        child.wait().unwrap();
        assert!(!process.signal(libc::SIGKILL));
    }

    /// `cp -a` of a federation's directory, then `dfs down` of the copy, ended the processes of the first.
    #[test]
    fn processes_of_the_directory_that_this_one_is_a_copy_of_are_not_its_own() {
        let (first, second) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let (dir, copy) = (Dir::new(first.path()).unwrap(), Dir::new(second.path()).unwrap());
        let watched = first.path().join("watched");
        std::fs::write(&watched, "").unwrap();
        let arguments = [OsStr::new("-f"), watched.as_os_str()];
        let (mut child, process) =
            start(Path::new("/usr/bin/tail"), &arguments, &first.path().join("log")).unwrap();
        let processes = Processes(BTreeMap::from([("meta1".to_owned(), process.clone())]));
        for dir in [&dir, &copy] {
            processes.save(dir).unwrap();
        }
        assert!(Processes::load(&dir).unwrap().alive("meta1").is_some());
        assert!(Processes::load(&copy).unwrap().alive("meta1").is_none());
        assert!(process.signal(libc::SIGKILL));
        child.wait().unwrap();
    }

    #[tokio::test]
    async fn a_stopped_process_ends_too() {
        let temp = tempfile::tempdir().unwrap();
        let arguments = [OsStr::new("600")];
        let (mut child, process) =
            start(Path::new("/bin/sleep"), &arguments, &temp.path().join("log")).unwrap();
        process.signal(libc::SIGSTOP);
        assert!(process.end().await);
        child.wait().unwrap();
    }

    #[test]
    fn the_last_line_of_a_log_is_found_behind_a_position() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "old\n").unwrap();
        let from = log_length(file.path());
        assert_eq!(last_line(file.path(), from), None);
        std::fs::write(file.path(), "old\nnew one\n\n").unwrap();
        assert_eq!(last_line(file.path(), from).as_deref(), Some("new one"));
    }

    #[test]
    fn a_program_that_is_nowhere_is_named() {
        let error = find_program("dfs-no-such-program").unwrap_err().to_string();
        assert!(error.contains("dfs-no-such-program"), "{error}");
    }
}
