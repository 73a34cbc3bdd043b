//! What is being changed at this moment, and what was lately.
//!
//! FZ1  An inode is frozen while at least one change of it is under way. Changes do not exclude each other, so they are counted.
//! FZ2  A read shows every change whose freeze had ended when the read began. So what it shows may be leased if no freeze of it is
//!      there now, and none has ended since ([`Freezes::is_still`]).
//!
//! Only the last [`THAWS_MAX`] thaws are remembered: a read that began before them leases nothing.

use std::collections::{HashMap, VecDeque};

use dfs_proto::ids::InodeId;

/// More than end while a read is under way; each takes about 40 bytes.
const THAWS_MAX: usize = 65_536;

#[derive(Default)]
pub(super) struct Freezes {
    /// How many changes of each are under way.
    frozen: HashMap<InodeId, u32>,
    /// Of all together.
    count: usize,
    /// The number of the last thaw.
    thaws: u64,
    /// Of the thaws in `order`, the last one of each inode.
    last_of: HashMap<InodeId, u64>,
    order: VecDeque<(u64, InodeId)>,
    /// The newest thaw that is no longer in `order`.
    forgotten: u64,
}

/// How many thaws there had been when a read began.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Thaws(u64);

impl Freezes {
    pub(super) fn thaws(&self) -> Thaws {
        Thaws(self.thaws)
    }

    pub(super) fn freeze(&mut self, inode: InodeId) {
        *self.frozen.entry(inode).or_default() += 1;
        self.count += 1;
    }

    pub(super) fn thaw(&mut self, inode: InodeId) {
        let Some(changes) = self.frozen.get_mut(&inode) else { return };
        *changes -= 1;
        self.count -= 1;
        if *changes > 0 {
            return;
        }
        self.frozen.remove(&inode);
        self.thaws += 1;
        self.last_of.insert(inode, self.thaws);
        self.order.push_back((self.thaws, inode));
        if self.order.len() > THAWS_MAX
            && let Some((number, inode)) = self.order.pop_front()
        {
            self.forgotten = number;
            if self.last_of.get(&inode) == Some(&number) {
                self.last_of.remove(&inode);
            }
        }
    }

    /// Nothing has changed the inode since, and nothing is about to (FZ2).
    pub(super) fn is_still(&self, inode: InodeId, since: Thaws) -> bool {
        !self.frozen.contains_key(&inode)
            && since.0 >= self.forgotten
            && self.last_of.get(&inode).is_none_or(|thaw| *thaw <= since.0)
    }

    /// Freezes that have not ended: of two changes of one inode two.
    pub(super) fn count(&self) -> usize {
        self.count
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const X: InodeId = InodeId(10);
    const Y: InodeId = InodeId(11);

    #[test]
    fn what_a_change_touches_is_not_still_until_the_last_change_of_it_has_ended() {
        let mut freezes = Freezes::default();
        freezes.freeze(X);
        freezes.freeze(X);
        assert!(!freezes.is_still(X, freezes.thaws()) && freezes.is_still(Y, freezes.thaws()));
        freezes.thaw(X);
        assert!(!freezes.is_still(X, freezes.thaws()), "another change is under way");
        freezes.thaw(X);
        assert!(freezes.is_still(X, freezes.thaws()));
        assert_eq!(freezes.count(), 0);
    }

    #[test]
    fn a_read_that_began_before_a_thaw_is_too_old_for_this_inode_and_for_no_other() {
        let mut freezes = Freezes::default();
        let before = freezes.thaws();
        freezes.freeze(X);
        let during = freezes.thaws();
        freezes.thaw(X);
        for since in [before, during] {
            assert!(!freezes.is_still(X, since) && freezes.is_still(Y, since));
        }
        assert!(freezes.is_still(X, freezes.thaws()));
    }

    #[test]
    fn what_is_remembered_of_thaws_is_bounded_and_what_is_forgotten_is_never_believed() {
        let mut freezes = Freezes::default();
        let before = freezes.thaws();
        let mut change = |inode| {
            freezes.freeze(inode);
            freezes.thaw(inode);
            freezes.thaws()
        };
        let first = change(X);
        for number in 0..THAWS_MAX as u64 {
            change(InodeId(100 + number));
        }
        assert!(!freezes.is_still(X, before) && !freezes.is_still(Y, before), "it is not known any more");
        assert!(freezes.is_still(X, first));
        assert!(freezes.last_of.len() == THAWS_MAX && freezes.order.len() == THAWS_MAX);
    }
}
