//! The changes of this client that are under way, and what it has dropped for them. Of that the leader recalls nothing from the
//! session that asks (P3.7); so until a change is answered, nothing of it is kept.
//!
//! What else a change alters is recalled from this client as from anybody: an inode behind a name that neither the copy nor `hints`
//! knew, or to which the name leads only when the change is executed.

use std::collections::{BTreeMap, BTreeSet};

use dfs_proto::ids::InodeId;
use dfs_proto::scope::{Behind, NameIn, Scope};

/// What is dropped for a change.
#[derive(Debug)]
pub(super) struct Reach {
    /// With all names in them: what the change gives by number, and what is probably behind its names.
    pub(super) whole: BTreeSet<InodeId>,
    /// Directories of which these names change, and no others.
    pub(super) directories: BTreeSet<InodeId>,
    pub(super) names: BTreeSet<NameIn>,
    /// Those of `whole` that the change does not give by number.
    pub(super) behind: Vec<InodeId>,
}

impl Reach {
    /// `leads_to` says which inode a name probably leads to. Whether or not it does, that is dropped.
    pub(super) fn of(scope: Scope, leads_to: impl FnMut(&NameIn) -> Option<InodeId>) -> Reach {
        let altered = scope.behind.iter().filter(|(_, what)| **what != Behind::Shown).map(|(name, _)| name);
        let behind: Vec<InodeId> = altered.filter_map(leads_to).collect();
        let directories: BTreeSet<InodeId> = scope.names.iter().map(|(directory, _)| *directory).collect();
        let by_number = scope.inodes.difference(&directories).copied();
        let whole = by_number.chain(behind.iter().copied()).collect();
        Reach { whole, directories, names: scope.names, behind }
    }

    fn has(&self, inode: InodeId) -> bool {
        self.whole.contains(&inode) || self.directories.contains(&inode)
    }

    fn has_name(&self, name: &NameIn) -> bool {
        self.whole.contains(&name.0) || self.names.contains(name)
    }
}

/// A change of this client.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct ChangeNumber(u64);

#[derive(Default)]
pub(super) struct OwnChanges {
    last: u64,
    under_way: BTreeMap<ChangeNumber, Reach>,
}

impl OwnChanges {
    pub(super) fn begin(&mut self, reach: Reach) -> ChangeNumber {
        self.last += 1;
        let number = ChangeNumber(self.last);
        self.under_way.insert(number, reach);
        number
    }

    /// Returns what was dropped for it.
    pub(super) fn end(&mut self, number: ChangeNumber) -> Option<Reach> {
        self.under_way.remove(&number)
    }

    pub(super) fn have(&self, inode: InodeId) -> bool {
        self.under_way.values().any(|reach| reach.has(inode))
    }

    pub(super) fn have_name(&self, name: &NameIn) -> bool {
        self.under_way.values().any(|reach| reach.has_name(name))
    }
}
