//! Locks of files: flock(2), and fcntl(2) for a process or for an open file. There is one kind of them for all three (P5.7).

use crate::ids::{Attachment, ClusterId, InodeId, LockOwner, SessionId, WaitId};

/// The last byte that a lock may cover, and what "to the end of the file" means.
pub const LOCK_END_MAX: u64 = i64::MAX as u64;

/// Of one session: whatever would leave more is refused. A process that locks bytes one by one gets as far as this.
pub const LOCKS_MAX: usize = 16_384;
/// Of one session: each is a thread that waits.
pub const WAITS_MAX: usize = 4_096;
/// Locks that one session may say it holds: those it may have, and two for each wait, which may have ended in the middle of another lock
/// of its owner.
pub const TOLD_LOCKS_MAX: usize = LOCKS_MAX + 2 * WAITS_MAX;
/// Files that one session may say it has open: more than the descriptors of a machine with many users.
pub const TOLD_FILES_MAX: usize = 1 << 20;

/// Bytes of a file, both ends included.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct LockRange {
    pub start: u64,
    /// At most [`LOCK_END_MAX`], and not below `start`.
    pub end: u64,
}

impl LockRange {
    pub const WHOLE: LockRange = LockRange { start: 0, end: LOCK_END_MAX };

    pub fn overlaps(self, other: LockRange) -> bool {
        self.start <= other.end && other.start <= self.end
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum LockKind {
    Shared,
    Exclusive,
}

/// A lock of one session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HeldLock {
    pub inode: InodeId,
    pub owner: LockOwner,
    pub range: LockRange,
    pub kind: LockKind,
    /// For those who ask who holds it.
    pub process: u32,
}

/// A request about locks. It never waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LockRequest {
    pub cluster: ClusterId,
    pub session: SessionId,
    /// Another one than the session's present one is refused ([`LockReply::NotAttached`]): so a request that was given up, and
    /// arrives after the session has attached again, sets no lock that nobody knows of.
    pub attachment: Attachment,
    pub ask: LockAsk,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LockAsk {
    /// Sets the lock in place of what the owner holds of the range. With a wait it waits in line while others are in the way.
    Set {
        lock: HeldLock,
        wait: Option<WaitId>,
    },
    /// Would this lock be granted?
    Test {
        lock: HeldLock,
    },
    Unlock {
        inode: InodeId,
        owner: LockOwner,
        range: LockRange,
    },
    /// Ends a wait. If the lock was granted meanwhile, it stays; the answer is `Granted` in both cases.
    Cancel {
        wait: WaitId,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LockReply {
    /// The lock is held, or would be. To the others: done.
    Granted,
    Waiting,
    /// This lock is in the way. `owner` is 0 when it is another session's.
    Conflict(HeldLock),
    /// The wait would close a circle of owners that wait for each other.
    Deadlock,
    /// The session has as many locks or waits as it may have.
    TooMany,
    NotAttached,
    /// A new leader does not know all locks yet: ask again.
    NotYet,
}
