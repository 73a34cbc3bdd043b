//! Locks that are set through an open file: flock(2), and fcntl(2) for a process or for an open file (P5.7).

use dfs_proto::ids::LockOwner;
use dfs_proto::lock::{HeldLock, LockKind, LockRange};

use crate::data::file::File;
use crate::error::Result;

/// A lock that somebody wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LockWanted {
    /// Locks of one owner do not exclude each other, through whichever open file of this client they are set.
    pub owner: LockOwner,
    pub range: LockRange,
    pub kind: LockKind,
    /// It is shown to those who ask who holds the lock.
    pub process: u32,
}

impl LockWanted {
    fn of(self, file: &File) -> HeldLock {
        let LockWanted { owner, range, kind, process } = self;
        HeldLock { inode: file.inode(), owner, range, kind, process }
    }
}

impl File {
    /// Sets a lock in place of what its owner holds of the range. If others are in the way, it is refused with
    /// `LockConflict`, or, if it `waits`, granted when they are not any more, however long that takes. A call that is dropped
    /// changes nothing: a wait is given up, and what was granted meanwhile is given back.
    pub async fn set_lock(&self, wanted: LockWanted, waits: bool) -> Result<()> {
        self.core.meta.set_lock(wanted.of(self), &self.lock_loss, waits).await?;
        self.lock_loss.take(); // whoever locks anew has begun anew
        Ok(())
    }

    /// A lock that is in the way of this one. Its owner is 0 if it is another client's.
    pub async fn test_lock(&self, wanted: LockWanted) -> Result<Option<HeldLock>> {
        self.core.meta.test_lock(wanted.of(self)).await
    }

    /// Takes the range out of what the owner holds. After `TooManyLocks` (what is left would be more locks than this client may have)
    /// nothing has changed; after another error the cluster hears of it when it answers again.
    pub async fn unlock(&self, owner: LockOwner, range: LockRange) -> Result<()> {
        self.core.meta.unlock(self.inode(), owner, range).await
    }

    /// Ends all locks that the owner has on this inode. It costs no request if there are none.
    pub async fn unlock_owner(&self, owner: LockOwner) -> Result<()> {
        self.core.meta.unlock_owner(self.inode(), owner).await
    }
}
