//! The supplementary groups of a calling process. FUSE does not send them, so they are read from `/proc` when the
//! server answers that they would decide (P5.6).
//!
//! G1  Groups are read while their process waits for this very request, so they are the ones that it has now; they
//!     are used for that request only. (If they were kept from one request to the next, they would outlive
//!     `setgroups(2)`: a process that dropped a group would keep its rights. To check kept groups costs as much as to
//!     read them: start time and groups are both in files of `/proc/PID`, 20 to 40 µs, against the 100 µs of the
//!     request itself.)
//! G2  What is kept, in a bounded LRU, is only *whose* groups were needed, so that the next request of that process
//!     carries them at once and needs no second round. A process id that was reused costs one needless read.

use std::num::NonZeroUsize;
use std::sync::{Mutex, PoisonError};

use dfs_proto::attr::Caller;
use lru::LruCache;

/// How many processes are remembered as needing their groups. The least recent one beyond that costs a second round
/// again.
const PROCESSES_MAX: NonZeroUsize = NonZeroUsize::new(4096).expect("not zero");

/// The process that asks, as the kernel names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Requester {
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    /// The thread that waits for the answer; 0 if this process cannot see it (another pid namespace).
    pub(crate) pid: u32,
}

pub(crate) struct Groups {
    asked_for: Mutex<LruCache<u32, ()>>,
}

impl Groups {
    pub(crate) fn new() -> Groups {
        Groups { asked_for: Mutex::new(LruCache::new(PROCESSES_MAX)) }
    }

    /// The caller for the first try: with groups only if this process needed them before.
    pub(crate) fn caller(&self, who: Requester) -> Caller {
        let known = self.asked_for.lock().unwrap_or_else(PoisonError::into_inner).get(&who.pid).is_some();
        let groups = (known && who.uid != 0).then(|| read(who.pid));
        Caller { uid: who.uid, gid: who.gid, groups }
    }

    /// The caller for the second try, after the server asked for the groups.
    pub(crate) fn caller_with_groups(&self, who: Requester) -> Caller {
        if who.pid != 0 {
            self.asked_for.lock().unwrap_or_else(PoisonError::into_inner).put(who.pid, ());
        }
        Caller { uid: who.uid, gid: who.gid, groups: Some(read(who.pid)) }
    }
}

/// The supplementary groups of a process or thread. A process that this one cannot see has none.
fn read(pid: u32) -> Vec<u32> {
    let status = if pid == 0 { None } else { std::fs::read(format!("/proc/{pid}/status")).ok() };
    status.and_then(|status| parse(&status)).unwrap_or_default()
}

/// The line `Groups:` of `/proc/PID/status`. The file's first line is the process's own name, which cannot contain a
/// newline there (the kernel escapes it), so a line that starts with `Groups:` is the kernel's.
fn parse(status: &[u8]) -> Option<Vec<u32>> {
    let line = status.split(|&b| b == b'\n').find_map(|line| line.strip_prefix(b"Groups:"))?;
    let text = std::str::from_utf8(line).ok()?;
    text.split_ascii_whitespace().map(|group| group.parse().ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_groups_line_is_found_among_the_others() {
        let status = b"Name:\tGroups:\nUmask:\t0022\nUid:\t1\t1\t1\t1\nGroups:\t4 24 1000 \nNStgid:\t7\n";
        assert_eq!(parse(status), Some(vec![4, 24, 1000]));
        assert_eq!(parse(b"Name:\tx\nGroups:\t \n"), Some(vec![]));
    }

    #[test]
    fn a_status_without_groups_or_with_garbage_names_none() {
        assert_eq!(parse(b"Name:\tx\n"), None);
        assert_eq!(parse(b"Groups:\t4 x\n"), None);
        assert_eq!(parse(b"Groups:\t4 99999999999\n"), None);
    }

    #[test]
    fn the_own_process_has_the_groups_that_the_system_says() {
        let mut groups = vec![0; 65_536];
        // SAFETY: the buffer has as many places as the length that is passed.
        let count = unsafe { libc::getgroups(groups.len() as i32, groups.as_mut_ptr()) };
        groups.truncate(usize::try_from(count).unwrap());
        assert_eq!(read(std::process::id()), groups);
    }

    #[test]
    fn a_process_that_is_gone_or_not_visible_has_no_groups() {
        assert_eq!(read(0), Vec::<u32>::new());
        assert_eq!(read(u32::MAX), Vec::<u32>::new());
    }

    #[test]
    fn only_a_process_that_was_asked_for_its_groups_sends_them_at_once() {
        let groups = Groups::new();
        let who = Requester { uid: 1000, gid: 1000, pid: std::process::id() };
        assert_eq!(groups.caller(who).groups, None);
        assert!(groups.caller_with_groups(who).groups.is_some());
        assert!(groups.caller(who).groups.is_some());
        assert_eq!(groups.caller(Requester { pid: 1, ..who }).groups, None);
    }

    #[test]
    fn the_memory_of_who_needed_groups_is_bounded() {
        let groups = Groups::new();
        let who = Requester { uid: 1000, gid: 1000, pid: u32::MAX };
        groups.caller_with_groups(who);
        for pid in 0..PROCESSES_MAX.get() as u32 {
            groups.caller_with_groups(Requester { pid: u32::MAX - 1 - pid, ..who });
        }
        assert_eq!(groups.caller(who).groups, None);
        assert_eq!(groups.asked_for.lock().unwrap().len(), PROCESSES_MAX.get());
    }
}
