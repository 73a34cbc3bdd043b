//! Attributes that the kernel may be using without asking, because it was given a time-out for them; and how they are taken back.
//!
//! KA1  An answer with a time-out shows attributes that were read from the client's copy (CY1 to CY7) after their inode was noted here. If
//!      there is no room to note it, the answer has no time-out. Only answers to GETATTR and LOOKUP have one.
//! KA2  When the copy drops attributes, an invalidation of each noted inode is written to the kernel after that, and before whoever
//!      dropped them goes on: before a recall is answered, before a change or an attachment is sent.
//! KA3  A time-out is at most [`TIMEOUT_MAX`], and ends [`LATE_MAX`] before the lease.
//! KA4  A note stays until the inode was invalidated, or for [`NOTED_FOR`]: no time-out that it was made for runs any longer.
//! KA5  The inode of a LOOKUP may not be in the kernel yet when it is invalidated. It was counted as looked up before it was noted, so
//!      while it is counted and the kernel does not know it, either the answer or a FORGET is on its way: the invalidation is repeated
//!      until the kernel knows the inode, or has taken its look-ups back.
//! KA6  An answer has a time-out only if the kernel has its size and mtime already (`taken`). So an invalidation never overtakes an answer
//!      that says something new, which the kernel would then not take.
//!
//! From KA1 and KA2 it follows that the kernel uses nothing that the copy has dropped, once whoever dropped it goes on. Either an answer
//! was read from the copy after the drop; then it has no time-out (or one by a newer lease). Or it was read before the drop; then its
//! inode was noted before the drop, and is invalidated after it. The kernel had sent the question before, so if it looks at the
//! answer after the invalidation, it finds its attributes changed since the question, and does not take the answer; if it has taken it
//! before, the invalidation ends the time-out. Answers without a time-out (LOOKUP, CREATE, SETATTR, READDIRPLUS …) end one that is
//! running when the kernel takes them; when it does not take them, it has something newer.
//!
//! If this process is stopped or dies, the time-out still ends before the lease does (KA3).

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use dfs_proto::ids::InodeId;
use tokio::time::Instant;

/// Long enough that a program that looks at the same file all the time hardly ever asks.
const TIMEOUT_MAX: Duration = Duration::from_secs(1);
/// A time-out counts from when the kernel looks at the answer, and is rounded up to its ticks (KA3).
const LATE_MAX: Duration = Duration::from_millis(50);
/// A kernel's thread that is not scheduled any sooner looks at the answer within the rest.
const NOTED_FOR: Duration = Duration::from_secs(5);
/// All of them are invalidated at once when a session attaches, which takes some 50 ms. What does not fit is asked for each time.
const NOTED_MAX: usize = 32_768;
/// To look for old notes takes a moment.
const SWEEP_INTERVAL: Duration = Duration::from_millis(100);

const _: () = assert!(TIMEOUT_MAX.as_millis() < NOTED_FOR.as_millis());

/// Makes the kernel forget the attributes of an inode, if it knows the inode. Returns when that is done.
pub(crate) type Invalidate = Box<dyn Fn(InodeId) + Send + Sync>;

/// What becomes of bytes that were written through the kernel's pages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Written {
    /// They are committed, and the content's version went from the one to the other by that alone.
    Moved {
        from: u64,
        to: u64,
    },
    Lost,
}

/// Is told what became of bytes of an inode.
pub(crate) type OnWritten = Box<dyn Fn(InodeId, Written) + Send + Sync>;

/// The lock is held for one look, and with no other.
pub(crate) struct KernelAttrs {
    noted: Mutex<Noted>,
    invalidate: OnceLock<Invalidate>,
    on_written: OnceLock<OnWritten>,
}

impl KernelAttrs {
    pub(crate) fn new() -> KernelAttrs {
        let noted = Mutex::new(Noted::with_room(NOTED_MAX));
        KernelAttrs { noted, invalidate: OnceLock::new(), on_written: OnceLock::new() }
    }

    fn noted(&self) -> MutexGuard<'_, Noted> {
        self.noted.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// To be called when the kernel is connected, before it is answered anything.
    pub(crate) fn connected(&self, invalidate: Invalidate, on_written: OnWritten) {
        let _ = self.on_written.set(on_written);
        let _ = self.invalidate.set(invalidate);
    }

    /// To be called before attributes are read from the copy (KA1). The longest time-out that the answer may have.
    pub(crate) fn note(&self, inode: InodeId) -> Duration {
        let is_noted = self.invalidate.get().is_some() && self.noted().note(inode, Instant::now());
        if is_noted { TIMEOUT_MAX } else { Duration::ZERO }
    }

    fn written(&self, inode: InodeId, written: Written) {
        if let Some(on_written) = self.on_written.get() {
            on_written(inode, written);
        }
    }

    fn invalidate(&self, inodes: Vec<InodeId>) {
        if let Some(invalidate) = self.invalidate.get() {
            inodes.into_iter().for_each(invalidate); // keeps KA2
        }
    }
}

/// The time-out of an answer for which `at_most` was noted, and whose lease lasts for `lease` (KA3).
pub(crate) fn timeout(at_most: Duration, lease: Duration) -> Duration {
    at_most.min(lease.saturating_sub(LATE_MAX))
}

impl KernelAttrs {
    /// KA2.
    pub(crate) fn drop_attrs(&self, inodes: &[InodeId]) {
        let noted = self.noted().take(inodes);
        self.invalidate(noted);
    }

    pub(crate) fn drop_all_attrs(&self) {
        let noted = self.noted().take_all();
        self.invalidate(noted);
    }

    pub(crate) fn content_moved(&self, inode: InodeId, from: u64, to: u64) {
        self.written(inode, Written::Moved { from, to });
    }

    pub(crate) fn content_lost(&self, inode: InodeId) {
        self.written(inode, Written::Lost);
    }
}

/// Inodes, each with the time when it was noted last.
struct Noted {
    since: HashMap<InodeId, Instant>,
    room: usize,
    /// When those that were noted long ago were looked for last.
    swept: Instant,
}

impl Noted {
    fn with_room(room: usize) -> Noted {
        Noted { since: HashMap::new(), room, swept: Instant::now() }
    }

    /// False: there is no room.
    fn note(&mut self, inode: InodeId, now: Instant) -> bool {
        if let Some(since) = self.since.get_mut(&inode) {
            *since = now;
            return true;
        }
        if self.since.len() >= self.room && now.duration_since(self.swept) >= SWEEP_INTERVAL {
            self.swept = now;
            self.since.retain(|_, since| now.duration_since(*since) < NOTED_FOR); // keeps KA4
        }
        let has_room = self.since.len() < self.room;
        if has_room {
            self.since.insert(inode, now);
        }
        has_room
    }

    /// Those of `inodes` that were noted are noted no longer.
    fn take(&mut self, inodes: &[InodeId]) -> Vec<InodeId> {
        inodes.iter().copied().filter(|inode| self.since.remove(inode).is_some()).collect()
    }

    fn take_all(&mut self) -> Vec<InodeId> {
        std::mem::take(&mut self.since).into_keys().collect()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    const INODES: [InodeId; 3] = [InodeId(5), InodeId(6), InodeId(7)];

    /// What is noted there, and what was invalidated.
    fn connected() -> (KernelAttrs, Arc<Mutex<Vec<InodeId>>>) {
        let (attrs, told) = (KernelAttrs::new(), Arc::new(Mutex::new(Vec::new())));
        let tells = told.clone();
        attrs.connected(Box::new(move |inode| tells.lock().unwrap().push(inode)), Box::new(|_, _| {}));
        (attrs, told)
    }

    fn told(told: &Mutex<Vec<InodeId>>) -> Vec<InodeId> {
        let mut told = std::mem::take(&mut *told.lock().unwrap());
        told.sort_unstable();
        told
    }

    #[tokio::test(start_paused = true)]
    async fn what_was_noted_is_invalidated_once_when_it_is_dropped_and_nothing_else_is() {
        let (attrs, kernel) = connected();
        for inode in INODES {
            assert_eq!(attrs.note(inode), TIMEOUT_MAX);
        }
        attrs.drop_attrs(&[INODES[1], InodeId(99)]);
        assert_eq!(told(&kernel), [INODES[1]]);
        attrs.drop_attrs(&[INODES[1]]);
        assert_eq!(told(&kernel), []);
        attrs.note(INODES[1]);
        attrs.drop_all_attrs();
        assert_eq!(told(&kernel), INODES);
        attrs.drop_all_attrs();
        assert_eq!(told(&kernel), []);
    }

    #[tokio::test(start_paused = true)]
    async fn before_the_kernel_is_connected_and_without_room_there_are_no_time_outs() {
        assert_eq!(KernelAttrs::new().note(INODES[0]), Duration::ZERO);
        let mut noted = Noted::with_room(2);
        let start = Instant::now();
        assert!(noted.note(INODES[0], start));
        let later = start + NOTED_FOR / 2;
        assert!(noted.note(INODES[1], later));
        assert!(!noted.note(INODES[2], later));
        assert!(noted.note(INODES[1], later), "it is noted already");
        assert!(noted.note(INODES[2], start + NOTED_FOR), "no time-out of the first one is running any more");
        let mut left = noted.take_all();
        left.sort_unstable();
        assert_eq!(left, INODES[1..]);
    }

    #[test]
    fn a_time_out_ends_before_the_lease_does() {
        let second = Duration::from_secs(1);
        assert_eq!(timeout(second, 2 * second), second);
        assert_eq!(timeout(second, second), second - LATE_MAX);
        assert_eq!(timeout(second, LATE_MAX / 2), Duration::ZERO);
        assert_eq!(timeout(Duration::ZERO, 2 * second), Duration::ZERO);
    }
}
