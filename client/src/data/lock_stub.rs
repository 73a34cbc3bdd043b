//! Locks within this process, in the place of those of the cluster: so that a mount can be tried before both are put together.

use std::collections::HashMap;
use std::sync::{LazyLock, Mutex, PoisonError};

use dfs_proto::ids::{InodeId, LockOwner};
use dfs_proto::lock::{HeldLock, LockKind, LockRange};
use tokio::sync::Notify;

use crate::data::file::File;
use crate::error::{ClientError, Result};

/// A lock that is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LockWanted {
    pub owner: LockOwner,
    pub range: LockRange,
    pub kind: LockKind,
    pub process: u32,
}

#[derive(Default)]
struct Table {
    held: Vec<HeldLock>,
    waiting: HashMap<LockOwner, HeldLock>,
}

static TABLE: LazyLock<(Mutex<Table>, Notify)> = LazyLock::new(Default::default);

fn with<T>(act: impl FnOnce(&mut Table) -> T) -> T {
    act(&mut TABLE.0.lock().unwrap_or_else(PoisonError::into_inner))
}

impl Table {
    fn in_the_way(&self, lock: &HeldLock) -> Vec<HeldLock> {
        let excludes = |other: &&HeldLock| {
            other.inode == lock.inode
                && other.owner != lock.owner
                && other.range.overlaps(lock.range)
                && (other.kind == LockKind::Exclusive || lock.kind == LockKind::Exclusive)
        };
        self.held.iter().filter(excludes).copied().collect()
    }

    fn is_circle(&self, lock: &HeldLock, start: LockOwner, depth: u32) -> bool {
        self.in_the_way(lock).iter().any(|other| {
            let waits = self.waiting.get(&other.owner);
            other.owner == start
                || depth < 20 && waits.is_some_and(|next| self.is_circle(next, start, depth + 1))
        })
    }

    fn cut(&mut self, inode: InodeId, owner: LockOwner, range: LockRange) {
        for lock in std::mem::take(&mut self.held) {
            if (lock.inode, lock.owner) != (inode, owner) || !lock.range.overlaps(range) {
                self.held.push(lock);
                continue;
            }
            if lock.range.start < range.start {
                let range = LockRange { start: lock.range.start, end: range.start - 1 };
                self.held.push(HeldLock { range, ..lock });
            }
            if lock.range.end > range.end {
                let range = LockRange { start: range.end + 1, end: lock.range.end };
                self.held.push(HeldLock { range, ..lock });
            }
        }
    }
}

struct Wait(LockOwner);

impl Drop for Wait {
    fn drop(&mut self) {
        with(|table| table.waiting.remove(&self.0));
    }
}

impl File {
    fn lock_of(&self, wanted: LockWanted) -> HeldLock {
        let LockWanted { owner, range, kind, process } = wanted;
        HeldLock { inode: self.inode(), owner, range, kind, process }
    }

    pub async fn set_lock(&self, wanted: LockWanted, waits: bool) -> Result<()> {
        let lock = self.lock_of(wanted);
        let mut waiting = None;
        loop {
            let freed = TABLE.1.notified();
            tokio::pin!(freed);
            freed.as_mut().enable();
            let is_granted = with(|table| {
                if table.in_the_way(&lock).is_empty() {
                    table.cut(lock.inode, lock.owner, lock.range);
                    table.held.push(lock);
                    return Ok(true);
                }
                match waits {
                    true if table.is_circle(&lock, lock.owner, 0) => Err(ClientError::LockDeadlock),
                    true => {
                        table.waiting.insert(lock.owner, lock);
                        Ok(false)
                    }
                    false => Err(ClientError::LockConflict),
                }
            })?;
            if is_granted {
                drop(waiting);
                TABLE.1.notify_waiters();
                return Ok(());
            }
            waiting.get_or_insert(Wait(lock.owner));
            freed.await;
        }
    }

    pub async fn test_lock(&self, wanted: LockWanted) -> Result<Option<HeldLock>> {
        Ok(with(|table| table.in_the_way(&self.lock_of(wanted)).first().copied()))
    }

    pub async fn unlock(&self, owner: LockOwner, range: LockRange) -> Result<()> {
        with(|table| table.cut(self.inode(), owner, range));
        TABLE.1.notify_waiters();
        Ok(())
    }

    pub async fn unlock_owner(&self, owner: LockOwner) -> Result<()> {
        self.unlock(owner, LockRange::WHOLE).await
    }
}
