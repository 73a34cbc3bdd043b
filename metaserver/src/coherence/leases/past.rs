//! What has lately happened to which inode. Whoever has looked at the state asks afterwards whether it has happened to an inode since.
//!
//! Only the last [`EVENTS_MAX`] are remembered: for who looked before them, it may have happened to any inode.

use std::collections::{HashMap, VecDeque};

use dfs_proto::ids::InodeId;

/// More than happen while a read is under way; each takes about 40 bytes.
pub(super) const EVENTS_MAX: usize = 65_536;

#[derive(Default)]
pub(super) struct Past {
    /// The number of the last event.
    count: u64,
    /// Of the events in `order`, the last one of each inode.
    last_of: HashMap<InodeId, u64>,
    order: VecDeque<(u64, InodeId)>,
    /// The newest event that is no longer in `order`.
    forgotten: u64,
}

/// How many events there had been at some time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Moment(u64);

impl Past {
    pub(super) fn now(&self) -> Moment {
        Moment(self.count)
    }

    pub(super) fn note(&mut self, inode: InodeId) {
        self.count += 1;
        self.last_of.insert(inode, self.count);
        self.order.push_back((self.count, inode));
        if self.order.len() > EVENTS_MAX
            && let Some((number, inode)) = self.order.pop_front()
        {
            self.forgotten = number;
            if self.last_of.get(&inode) == Some(&number) {
                self.last_of.remove(&inode);
            }
        }
    }

    /// It has certainly not happened to this inode since.
    pub(super) fn is_still(&self, inode: InodeId, since: Moment) -> bool {
        since.0 >= self.forgotten && self.last_of.get(&inode).is_none_or(|event| *event <= since.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const X: InodeId = InodeId(10);
    const Y: InodeId = InodeId(11);

    #[test]
    fn what_is_remembered_is_bounded_and_what_is_forgotten_is_never_believed() {
        let mut past = Past::default();
        let before = past.now();
        past.note(X);
        let first = past.now();
        assert!(!past.is_still(X, before) && past.is_still(X, first) && past.is_still(Y, before));
        for number in 0..EVENTS_MAX as u64 {
            past.note(InodeId(100 + number));
        }
        assert!(!past.is_still(X, before) && !past.is_still(Y, before), "it is not known any more");
        assert!(past.is_still(X, first));
        assert!(past.last_of.len() == EVENTS_MAX && past.order.len() == EVENTS_MAX);
    }
}
