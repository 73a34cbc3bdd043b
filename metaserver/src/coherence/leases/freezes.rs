//! What is being changed at this moment, and what was lately.
//!
//! FZ1  An inode is frozen while at least one change of it is under way. Changes do not exclude each other, so they are counted.
//! FZ2  A read shows every change whose freeze had ended when the read began. So what it shows may be leased if no freeze of it is
//!      there now, and none has ended since ([`Freezes::is_still`]).
//! FZ3  What a change shows of an inode that it has frozen may be leased, before it thaws, if no other change of the inode was under way
//!      since the freeze: another one may be applied behind it, and has asked the holders of before ([`Freezes::is_alone`]).

use std::collections::HashMap;

use dfs_proto::ids::InodeId;

use super::past::{Moment, Past};

#[derive(Default)]
pub(super) struct Freezes {
    frozen: HashMap<InodeId, Changes>,
    /// Of all together.
    count: usize,
    thaws: Past,
}

/// Of one inode, those that are under way.
struct Changes {
    count: u32,
    /// There was never a second one since the first began.
    is_one: bool,
}

impl Freezes {
    /// For [`Freezes::is_still`].
    pub(super) fn now(&self) -> Moment {
        self.thaws.now()
    }

    pub(super) fn freeze(&mut self, inode: InodeId) {
        let another = |changes: &mut Changes| *changes = Changes { count: changes.count + 1, is_one: false };
        self.frozen.entry(inode).and_modify(another).or_insert(Changes { count: 1, is_one: true });
        self.count += 1;
    }

    pub(super) fn thaw(&mut self, inode: InodeId) {
        let Some(changes) = self.frozen.get_mut(&inode) else { return };
        changes.count -= 1;
        self.count -= 1;
        if changes.count == 0 {
            self.frozen.remove(&inode);
            self.thaws.note(inode);
        }
    }

    pub(super) fn is_frozen(&self, inode: InodeId) -> bool {
        self.frozen.contains_key(&inode)
    }

    /// One change of it is under way, and no other was at any time since that began (FZ3).
    pub(super) fn is_alone(&self, inode: InodeId) -> bool {
        self.frozen.get(&inode).is_some_and(|changes| changes.is_one)
    }

    /// Nothing has changed the inode since, and nothing is about to (FZ2).
    pub(super) fn is_still(&self, inode: InodeId, since: Moment) -> bool {
        !self.frozen.contains_key(&inode) && self.thaws.is_still(inode, since)
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
        assert!(!freezes.is_still(X, freezes.now()) && freezes.is_still(Y, freezes.now()));
        freezes.thaw(X);
        assert!(!freezes.is_still(X, freezes.now()), "another change is under way");
        freezes.thaw(X);
        assert!(freezes.is_still(X, freezes.now()));
        assert_eq!(freezes.count(), 0);
    }

    #[test]
    fn a_change_was_alone_only_if_no_other_one_was_under_way_at_any_time_of_it() {
        let mut freezes = Freezes::default();
        assert!(!freezes.is_alone(X));
        freezes.freeze(X);
        assert!(freezes.is_alone(X) && !freezes.is_alone(Y));
        freezes.freeze(X);
        assert!(!freezes.is_alone(X));
        freezes.thaw(X);
        assert!(!freezes.is_alone(X), "the other one may have been applied behind this one");
        freezes.thaw(X);
        freezes.freeze(X);
        assert!(freezes.is_alone(X));
    }

    #[test]
    fn a_read_that_began_before_a_thaw_is_too_old_for_this_inode_and_for_no_other() {
        let mut freezes = Freezes::default();
        let before = freezes.now();
        freezes.freeze(X);
        let during = freezes.now();
        freezes.thaw(X);
        for since in [before, during] {
            assert!(!freezes.is_still(X, since) && freezes.is_still(Y, since));
        }
        assert!(freezes.is_still(X, freezes.now()));
    }
}
