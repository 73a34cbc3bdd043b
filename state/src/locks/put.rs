//! What is done with bytes of a file: by whom they are locked, and how.

use dfs_proto::ids::{InodeId, LockOwner, SessionId};
use dfs_proto::lock::{HeldLock, LockKind, LockRange};
use dfs_proto::lock_ranges::Piece;

/// An owner of a session.
pub(super) type Holder = (SessionId, LockOwner);

/// How bytes are locked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Held {
    pub(super) kind: LockKind,
    pub(super) process: u32,
}

pub(super) fn lock_of(piece: &Piece<Held>, inode: InodeId, owner: LockOwner) -> HeldLock {
    let Held { kind, process } = piece.what;
    HeldLock { inode, owner, range: piece.range, kind, process }
}

/// What is done with bytes of one owner: they are locked in place of what it holds of them, or unlocked.
#[derive(Clone, Copy, Debug)]
pub(super) struct Put {
    pub(super) inode: InodeId,
    pub(super) owner: LockOwner,
    pub(super) range: LockRange,
    pub(super) what: Option<Held>,
}

impl Put {
    pub(super) fn lock(lock: &HeldLock) -> Put {
        let HeldLock { inode, owner, range, kind, process } = *lock;
        Put { inode, owner, range, what: Some(Held { kind, process }) }
    }
}
