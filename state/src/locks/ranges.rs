//! What one owner holds of one file.

use dfs_proto::ids::{InodeId, LockOwner};
use dfs_proto::lock::{HeldLock, LockKind, LockRange};

/// Disjoint, in order; neighbours of one kind and process are one (LT1).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Ranges(Vec<Held>);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Held {
    pub(super) range: LockRange,
    pub(super) kind: LockKind,
    pub(super) process: u32,
}

impl Held {
    pub(super) fn of(self, inode: InodeId, owner: LockOwner) -> HeldLock {
        HeldLock { inode, owner, range: self.range, kind: self.kind, process: self.process }
    }

    /// `next`, which starts behind this one, goes on with it.
    fn goes_on_with(self, next: Held) -> bool {
        self.range.end + 1 == next.range.start && self.kind == next.kind && self.process == next.process
    }
}

impl Ranges {
    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = Held> + '_ {
        self.0.iter().copied()
    }

    /// The first one that touches `range` and is of such a kind.
    pub(super) fn first_overlap(
        &self,
        range: LockRange,
        is_wanted: impl Fn(LockKind) -> bool,
    ) -> Option<Held> {
        let first = self.0.partition_point(|held| held.range.end < range.start);
        let touching = self.0[first..].iter().take_while(|held| held.range.start <= range.end);
        touching.copied().find(|held| is_wanted(held.kind))
    }

    /// Takes `range` out.
    pub(super) fn cut(&mut self, range: LockRange) {
        let first = self.0.partition_point(|held| held.range.end < range.start);
        let behind = self.0.partition_point(|held| held.range.start <= range.end);
        if first >= behind {
            return;
        }
        let (left, right) = (self.0[first], self.0[behind - 1]);
        let mut kept = Vec::new();
        if left.range.start < range.start {
            kept.push(Held { range: LockRange { start: left.range.start, end: range.start - 1 }, ..left });
        }
        if right.range.end > range.end {
            kept.push(Held { range: LockRange { start: range.end + 1, end: right.range.end }, ..right });
        }
        self.0.splice(first..behind, kept);
    }

    /// Puts the lock in place of what is held of its range.
    pub(super) fn set(&mut self, lock: &HeldLock) {
        self.cut(lock.range);
        let at = self.0.partition_point(|held| held.range.end < lock.range.start);
        self.0.insert(at, Held { range: lock.range, kind: lock.kind, process: lock.process });
        self.join(at);
        self.join(at.saturating_sub(1));
    }

    /// Makes one of this one and the next, if they are one lock.
    fn join(&mut self, at: usize) {
        if let [this, next, ..] = self.0[at..]
            && this.goes_on_with(next)
        {
            self.0[at].range.end = next.range.end;
            self.0.remove(at + 1);
        }
    }
}
