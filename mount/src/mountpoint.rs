//! The directory that is mounted on: checked before the mount, freed after it.
//!
//! On a mount whose daemon died every call fails with ENOTCONN; [`prepare`] recognises and detaches it. Apart from
//! that, this process unmounts only what it mounted.

use std::ffi::CString;
use std::io;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use thiserror::Error;

/// The most dead mounts on top of each other that are detached. More than this are not from daemons that died.
const DEAD_MOUNTS_MAX: usize = 8;

#[derive(Debug, Error)]
pub(crate) enum MountpointError {
    #[error("{path}: no such directory; create it first")]
    Missing { path: PathBuf },
    #[error("{path}: not a directory")]
    NotDirectory { path: PathBuf },
    #[error("{path}: directory not empty; its contents would be hidden")]
    NotEmpty { path: PathBuf },
    #[error("{path}: a dfs federation is mounted there already")]
    Mounted { path: PathBuf },
    #[error("{path}: {what}: {source}")]
    Io { path: PathBuf, what: &'static str, source: io::Error },
}

/// Detaches dead mounts from the directory and checks it. Returns its absolute path.
pub(crate) fn prepare(given: &Path) -> Result<PathBuf, MountpointError> {
    let absolute = |source| MountpointError::Io { path: given.to_owned(), what: "resolve", source };
    for _ in 0..=DEAD_MOUNTS_MAX {
        let path = match given.canonicalize() {
            Ok(path) => path,
            Err(error) if is_dead(&error) => std::path::absolute(given).map_err(absolute)?,
            Err(error) => return Err(refusal(given, "resolve", error)),
        };
        // The kernel answers `stat` of a dead mount from its cache until the attributes time out; it always passes
        // `statfs` on.
        match look_at(&path).and_then(|()| std::fs::metadata(&path)) {
            Ok(metadata) if !metadata.is_dir() => return Err(MountpointError::NotDirectory { path }),
            Ok(_) => return check_free(path),
            Err(error) if is_dead(&error) => {
                detach(&path).map_err(|source| MountpointError::Io {
                    path: path.clone(),
                    what: "unmount what a dead daemon left",
                    source,
                })?;
            }
            Err(error) => return Err(refusal(&path, "look at it", error)),
        }
    }
    let source = io::Error::from_raw_os_error(libc::EBUSY);
    Err(MountpointError::Io { path: given.to_owned(), what: "unmount what dead daemons left", source })
}

fn check_free(path: PathBuf) -> Result<PathBuf, MountpointError> {
    let mounts = std::fs::read("/proc/self/mountinfo").unwrap_or_default();
    if is_dfs_mount(&mounts, &path) {
        return Err(MountpointError::Mounted { path });
    }
    match std::fs::read_dir(&path).map(|mut entries| entries.next().is_none()) {
        Ok(true) => Ok(path),
        Ok(false) => Err(MountpointError::NotEmpty { path }),
        Err(source) => Err(MountpointError::Io { path, what: "list it", source }),
    }
}

fn refusal(path: &Path, what: &'static str, source: io::Error) -> MountpointError {
    match source.raw_os_error() {
        Some(libc::ENOENT) => MountpointError::Missing { path: path.to_owned() },
        Some(libc::ENOTDIR) => MountpointError::NotDirectory { path: path.to_owned() },
        _ => MountpointError::Io { path: path.to_owned(), what, source },
    }
}

/// "Transport endpoint is not connected": the error of every call on a mount whose daemon is gone.
fn is_dead(error: &io::Error) -> bool {
    error.raw_os_error() == Some(libc::ENOTCONN)
}

/// The line of the topmost mount on `path` in `mountinfo`; empty if there is none.
fn top_mount<'a>(mountinfo: &'a [u8], path: &Path) -> &'a [u8] {
    let on_path = |line: &&[u8]| unescape(field(line, 4)) == path;
    mountinfo.split(|&b| b == b'\n').rfind(on_path).unwrap_or_default()
}

fn field(line: &[u8], index: usize) -> &[u8] {
    line.split(|&b| b == b' ').nth(index).unwrap_or_default()
}

fn is_dfs_mount(mountinfo: &[u8], path: &Path) -> bool {
    let mut after_dash = top_mount(mountinfo, path).split(|&b| b == b' ').skip_while(|field| *field != b"-");
    after_dash.nth(1) == Some(b"fuse.dfs")
}

/// Lets the kernel read ahead of a stream by a whole request; it starts at 128 KiB, and FUSE's handshake can only lower
/// that. Best effort: only root may.
pub(crate) fn raise_read_ahead(path: &Path, len_bytes: u32) {
    let mounts = std::fs::read("/proc/self/mountinfo").unwrap_or_default();
    let device = String::from_utf8_lossy(field(top_mount(&mounts, path), 2)).into_owned();
    let setting = format!("/sys/class/bdi/{device}/read_ahead_kb");
    if let Err(error) = std::fs::write(&setting, (len_bytes / 1024).to_string()) {
        tracing::debug!("{setting}: {error}");
    }
}

/// `mountinfo` writes blanks, newlines and backslashes of a path as `\ooo`.
fn unescape(field: &[u8]) -> PathBuf {
    let mut bytes = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((&first, tail)) = rest.split_first() {
        let octal = tail.get(..3).and_then(|digits| std::str::from_utf8(digits).ok());
        match octal.and_then(|digits| u8::from_str_radix(digits, 8).ok()) {
            Some(byte) if first == b'\\' => {
                bytes.push(byte);
                rest = &tail[3..];
            }
            Some(_) | None => {
                bytes.push(first);
                rest = tail;
            }
        }
    }
    PathBuf::from(std::ffi::OsString::from_vec(bytes))
}

/// How [`unmount`] takes the mount away.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unmount {
    /// Only when nobody uses it.
    IfIdle,
    /// Ends every request that waits for an answer, so that no process waits for this one. The mount may stay.
    Abort,
    /// Takes the mount out of the tree at once. It is gone when its last user has closed it.
    Detach,
}

/// Unmounts the topmost mount on `path`. Except with `Detach`, it may block for as long as the filesystem takes to
/// answer.
pub(crate) fn unmount(path: &Path, how: Unmount) -> io::Result<()> {
    let flags = match how {
        Unmount::IfIdle => 0,
        Unmount::Abort => libc::MNT_FORCE,
        Unmount::Detach => libc::MNT_DETACH,
    };
    let c_path = CString::new(path.as_os_str().as_bytes())?;
    // SAFETY: the path is a NUL-terminated string that lives until the call returns.
    if unsafe { libc::umount2(c_path.as_ptr(), flags | libc::UMOUNT_NOFOLLOW) } == 0 {
        return Ok(());
    }
    let error = io::Error::last_os_error();
    if error.raw_os_error() != Some(libc::EPERM) || how == Unmount::Abort {
        return Err(error);
    }
    fusermount(path, how)
}

/// Unmounts through the set-uid tool that mounted, for users other than root.
fn fusermount(path: &Path, how: Unmount) -> io::Result<()> {
    let mut command = Command::new("fusermount3");
    command.args(["-u", "-q"]).args((how == Unmount::Detach).then_some("-z")).arg("--").arg(path);
    let status = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).status()?;
    if status.success() { Ok(()) } else { Err(io::Error::from_raw_os_error(libc::EBUSY)) }
}

/// Takes the mount out of the tree, whoever uses it.
pub(crate) fn detach(path: &Path) -> io::Result<()> {
    unmount(path, Unmount::Detach)
}

/// Asks for the space and the root's attributes, as the kernel passes it on to the filesystem.
pub(crate) fn look_at(path: &Path) -> io::Result<()> {
    std::fs::metadata(path)?;
    let c_path = CString::new(path.as_os_str().as_bytes())?;
    let mut answer = std::mem::MaybeUninit::<libc::statvfs>::uninit();
    // SAFETY: both pointers are valid for the call; the answer is written, never read.
    if unsafe { libc::statvfs(c_path.as_ptr(), answer.as_mut_ptr()) } == 0 {
        return Ok(());
    }
    Err(io::Error::last_os_error())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_empty_directory_is_fit_and_its_absolute_path_is_answered() {
        let directory = tempfile::tempdir().unwrap();
        let path = prepare(directory.path()).unwrap();
        assert!(path.is_absolute());
    }

    #[test]
    fn a_missing_or_used_directory_or_a_file_is_refused_by_name() {
        let directory = tempfile::tempdir().unwrap();
        let missing = directory.path().join("missing");
        assert!(matches!(prepare(&missing), Err(MountpointError::Missing { path }) if path == missing));
        let file = directory.path().join("file");
        std::fs::write(&file, "").unwrap();
        assert!(matches!(prepare(&file), Err(MountpointError::NotDirectory { .. })));
        assert!(matches!(prepare(&file.join("below")), Err(MountpointError::NotDirectory { .. })));
        assert!(matches!(prepare(directory.path()), Err(MountpointError::NotEmpty { .. })));
    }

    #[test]
    fn our_mount_is_found_in_mountinfo_only_on_its_own_path_and_only_on_top() {
        let line = |id: u32, path: &str, kind: &str| {
            format!("{id} 26 0:52 / {path} rw,nosuid shared:1 - {kind} dfs:h:1 rw,user_id=0\n")
        };
        let ours = line(90, "/mnt/a\\040b", "fuse.dfs");
        assert!(is_dfs_mount(ours.as_bytes(), Path::new("/mnt/a b")));
        assert!(!is_dfs_mount(ours.as_bytes(), Path::new("/mnt/a")));
        let covered = ours + &line(91, "/mnt/a\\040b", "tmpfs");
        assert!(!is_dfs_mount(covered.as_bytes(), Path::new("/mnt/a b")));
        assert_eq!(field(top_mount(covered.as_bytes(), Path::new("/mnt/a b")), 2), b"0:52");
    }
}
