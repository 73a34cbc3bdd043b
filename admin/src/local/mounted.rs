//! Finds out what is mounted, whether a mount answers, and which processes use it; and unmounts.
//!
//! Nothing here waits for the filesystem below a mountpoint, which may be dead. The table of mounts and the links in /proc
//! are read without touching it, and a process that can be killed asks whether it answers.

use std::ffi::{CString, OsString};
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::Context as _;
use serde::Serialize;
use tokio::process::Command;
use tokio::time::timeout;

/// A mount, as a line of /proc/self/mountinfo names it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mount {
    pub point: PathBuf,
    pub kind: String,
    pub source: String,
}

impl Mount {
    /// Whether the mount has the kind or the source that `dfs-mount` gives to its mounts.
    pub fn is_dfs(&self) -> bool {
        self.kind == "fuse.dfs" || (self.kind.starts_with("fuse") && self.source.starts_with("dfs"))
    }
}

/// All mounts in the namespace of this process. Of two at one mountpoint, the later one hides the earlier one.
pub fn all() -> anyhow::Result<Vec<Mount>> {
    let path = "/proc/self/mountinfo";
    let bytes = std::fs::read(path).with_context(|| format!("read {path}"))?;
    Ok(bytes.split(|b| *b == b'\n').filter_map(parse_line).collect())
}

/// The topmost mount at exactly this mountpoint.
pub fn at(point: &Path) -> anyhow::Result<Option<Mount>> {
    Ok(all()?.into_iter().rev().find(|mount| mount.point == point))
}

fn parse_line(line: &[u8]) -> Option<Mount> {
    let mut fields = line.split(|b| *b == b' ');
    let point = PathBuf::from(OsString::from_vec(unescape(fields.nth(4)?)));
    let mut fields = fields.skip_while(|field| *field != b"-").skip(1);
    let mut text = || fields.next().map(|f| String::from_utf8_lossy(&unescape(f)).into_owned());
    Some(Mount { point, kind: text()?, source: text()? })
}

/// Decodes the escapes of mountinfo, which has blanks and the like as `\040`.
fn unescape(field: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((first, tail)) = rest.split_first() {
        let octal = tail.get(..3).filter(|_| *first == b'\\').and_then(|d| std::str::from_utf8(d).ok());
        match octal.and_then(|digits| u8::from_str_radix(digits, 8).ok()) {
            Some(byte) => {
                bytes.push(byte);
                rest = &tail[3..];
            }
            None => {
                bytes.push(*first);
                rest = tail;
            }
        }
    }
    bytes
}

/// The absolute path of a mountpoint. Symbolic links are followed in its parent only, because the last component may be a dead
/// mount.
pub fn resolve(point: &Path) -> anyhow::Result<PathBuf> {
    let absolute = std::path::absolute(point).with_context(|| format!("use {}", point.display()))?;
    let (Some(parent), Some(name)) = (absolute.parent(), absolute.file_name()) else {
        anyhow::bail!("{}: not a place to mount at", point.display());
    };
    let parent = match parent.canonicalize() {
        Ok(parent) => parent,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => parent.to_owned(),
        Err(error) => return Err(error).with_context(|| format!("look up {}", parent.display())),
    };
    Ok(parent.join(name))
}

/// How a mount behaves when it is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Probe {
    Answers,
    /// Its daemon has died ("Transport endpoint is not connected"). Nothing is lost by taking the mount away.
    Dead,
    /// It did not answer in time, or with another error.
    Silent,
}

/// Asks the filesystem at `point` by running `stat -f`, which is killed if it gets no answer.
pub async fn probe(point: &Path, deadline: Duration) -> Probe {
    let mut command = Command::new("stat");
    command.args(["-f", "-c", "%T", "--"]).arg(point).env("LC_ALL", "C").kill_on_drop(true);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
    match timeout(deadline, command.output()).await {
        Ok(Ok(output)) if output.status.success() => Probe::Answers,
        Ok(Ok(output)) if String::from_utf8_lossy(&output.stderr).contains("not connected") => Probe::Dead,
        Ok(_) | Err(_) => Probe::Silent,
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unmounted {
    Done,
    Busy,
}

/// Takes the topmost mount at `point` away; if `lazy`, even while it is in use.
pub async fn unmount(point: &Path, lazy: bool) -> anyhow::Result<Unmounted> {
    // SAFETY: geteuid has no arguments and cannot fail.
    if unsafe { libc::geteuid() } != 0 {
        return unmount_as_user(point, lazy).await;
    }
    let path = CString::new(point.as_os_str().as_bytes()).context("the mountpoint has a NUL in its path")?;
    let flags = libc::UMOUNT_NOFOLLOW | if lazy { libc::MNT_DETACH } else { 0 };
    // SAFETY: `path` is a NUL-terminated string that lives over the call.
    if unsafe { libc::umount2(path.as_ptr(), flags) } == 0 {
        return Ok(Unmounted::Done);
    }
    let error = std::io::Error::last_os_error();
    match error.raw_os_error() {
        Some(libc::EBUSY) => Ok(Unmounted::Busy),
        Some(_) | None => Err(error).with_context(|| format!("unmount {}", point.display())),
    }
}

async fn unmount_as_user(point: &Path, lazy: bool) -> anyhow::Result<Unmounted> {
    let mut command = Command::new("fusermount3");
    command.arg(if lazy { "-uz" } else { "-u" }).arg("--").arg(point);
    let output = command.output().await.context("run fusermount3")?;
    let text = String::from_utf8_lossy(&output.stderr);
    match output.status.success() {
        true => Ok(Unmounted::Done),
        false if text.contains("busy") => Ok(Unmounted::Busy),
        false => anyhow::bail!("unmount {}: {}", point.display(), text.trim()),
    }
}

/// A process that keeps a mount busy, and what it uses there.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Holder {
    pub pid: i32,
    pub command: String,
    /// `cwd`, `root`, `exe`, `fd 7` or `mapped`.
    pub how: String,
    pub path: PathBuf,
}

/// The processes that use something below `point`, sorted by pid, each with the first thing that was found.
pub fn holders(point: &Path) -> Vec<Holder> {
    let Ok(entries) = std::fs::read_dir("/proc") else { return Vec::new() };
    let pids = entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    let mut holders: Vec<Holder> = pids.filter_map(|pid| holder(pid, point)).collect();
    holders.sort_by_key(|holder| holder.pid);
    holders
}

fn holder(pid: i32, point: &Path) -> Option<Holder> {
    let proc = PathBuf::from(format!("/proc/{pid}"));
    let links = ["cwd", "root", "exe"].map(|name| (name.to_owned(), proc.join(name)));
    let files = std::fs::read_dir(proc.join("fd")).into_iter().flatten().flatten();
    let files = files.map(|entry| (format!("fd {}", entry.file_name().display()), entry.path()));
    let held = links.into_iter().chain(files).find_map(|(how, link)| {
        let path = std::fs::read_link(link).ok().filter(|path| path.starts_with(point))?;
        Some((how, path))
    });
    let (how, path) = held.or_else(|| mapped(&proc, point))?;
    let command = std::fs::read_to_string(proc.join("comm")).unwrap_or_default().trim().to_owned();
    Some(Holder { pid, command, how, path })
}

fn mapped(proc: &Path, point: &Path) -> Option<(String, PathBuf)> {
    let maps = std::fs::read(proc.join("maps")).ok()?;
    let paths = maps.split(|b| *b == b'\n').filter_map(|line| {
        let start = line.iter().position(|b| *b == b'/')?;
        Some(PathBuf::from(OsString::from_vec(line[start..].to_vec())))
    });
    paths.into_iter().find(|path| path.starts_with(point)).map(|path| ("mapped".to_owned(), path))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_of_mountinfo_is_read_with_its_escapes_and_optional_fields() {
        let line = br"36 35 98:0 / /mnt/a\040b rw,noatime shared:1 master:2 - fuse.dfs dfs rw,user_id=0";
        let mount = parse_line(line).unwrap();
        assert_eq!(mount.point, Path::new("/mnt/a b"));
        assert!(mount.is_dfs());
        assert_eq!(parse_line(b""), None);
    }

    #[test]
    fn the_root_is_mounted_and_a_fresh_directory_is_not() {
        assert!(at(Path::new("/")).unwrap().is_some());
        let temp = tempfile::tempdir().unwrap();
        assert_eq!(at(temp.path()).unwrap(), None);
    }

    #[test]
    fn an_open_file_makes_its_process_a_holder() {
        let temp = tempfile::tempdir().unwrap();
        let point = temp.path().canonicalize().unwrap();
        assert!(holders(&point).is_empty());
        let _file = std::fs::File::create(point.join("held")).unwrap();
        let found = holders(&point);
        let own = std::process::id() as i32;
        let found = found.iter().find(|holder| holder.pid == own).expect("this process holds it");
        assert!(found.how.starts_with("fd "), "{found:?}");
        assert_eq!(found.path, point.join("held"));
    }

    #[tokio::test]
    async fn a_directory_answers_and_a_missing_one_does_not() {
        let temp = tempfile::tempdir().unwrap();
        let deadline = Duration::from_secs(10);
        assert_eq!(probe(temp.path(), deadline).await, Probe::Answers);
        assert_eq!(probe(&temp.path().join("missing"), deadline).await, Probe::Silent);
    }
}
