//! The changes of this client that are under way, and what they may alter. Recalls spare the session that asks (P3.7): nobody
//! tells this client what its own change has altered.
//!
//! OC1  While a change is under way, nothing that it may alter is kept. It is under way until it is *settled*: it was answered, or
//!      it is certain that it does not happen any more.
//! OC2  A change without an answer is *in doubt*: it may be executed late. It is settled by the answer to a later request of its
//!      lane, which says that it was given up (P8.1), and by the end of its session.
//! OC3  A change that alters what stands behind a name alters the inode to which the name led, if that was known under a lease
//!      when it began, and if nothing has touched the name since (no recall, no other change of this client, no gap in the lease).
//!      Else it is *out of sight*, and may alter any inode of that kind.

use std::collections::{BTreeMap, BTreeSet};

use dfs_proto::attr::FileKind;
use dfs_proto::ids::{InodeId, SessionId};
use dfs_proto::scope::{Behind, NameIn, Scope};

use crate::names::copy::kept::LeadsTo;
use crate::session::leases::SentAs;

/// Changes in doubt. With more than this, nothing is kept before the session ends: a cluster that is silent gets no more changes
/// than a session may have without an answer, so it takes several silences.
const IN_DOUBT_MAX: usize = 2048;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Sight {
    Of(LeadsTo),
    Lost,
}

/// What a change may alter.
pub(super) struct Reach {
    pub(super) inodes: BTreeSet<InodeId>,
    pub(super) names: BTreeSet<NameIn>,
    behind: Vec<(NameIn, ByName, Sight)>,
}

/// Which inodes may stand behind a name that a change alters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum ByName {
    /// No directory.
    Other,
    Any,
}

/// Which attributes are altered through names that are out of sight.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Unseen {
    Nothing,
    /// Of any inode that is not a directory.
    Others,
    Anything,
}

impl Reach {
    /// `leads_to` says what is known of a name.
    pub(super) fn of(scope: Scope, mut leads_to: impl FnMut(&NameIn) -> Option<LeadsTo>) -> Reach {
        let mut behind = Vec::new();
        for (name, what) in scope.behind {
            let by_name = match what {
                Behind::Shown => continue,
                Behind::File => ByName::Other,
                Behind::Any => ByName::Any,
            };
            let sight = leads_to(&name).map_or(Sight::Lost, Sight::Of);
            behind.push((name, by_name, sight));
        }
        Reach { inodes: scope.inodes, names: scope.names, behind }
    }

    /// The inodes behind its names that are in sight.
    pub(super) fn seen(&self) -> impl Iterator<Item = InodeId> {
        self.behind.iter().filter_map(|(_, _, sight)| match sight {
            Sight::Of(LeadsTo::Inode(inode)) => Some(*inode),
            Sight::Of(LeadsTo::Nothing) | Sight::Lost => None,
        })
    }

    pub(super) fn unseen(&self) -> Unseen {
        let lost = self.behind.iter().filter(|(_, _, sight)| *sight == Sight::Lost);
        let reach = lost.map(|(_, by_name, _)| match by_name {
            ByName::Other => Unseen::Others,
            ByName::Any => Unseen::Anything,
        });
        reach.max().unwrap_or(Unseen::Nothing)
    }

    fn alters(&self, inode: InodeId, kind: FileKind) -> bool {
        let by_name = match self.unseen() {
            Unseen::Nothing => false,
            Unseen::Others => kind != FileKind::Directory,
            Unseen::Anything => true,
        };
        by_name || self.inodes.contains(&inode) || self.seen().any(|seen| seen == inode)
    }

    fn lose_sight(&mut self, is_lost: impl Fn(&NameIn) -> bool) {
        for (_, _, sight) in self.behind.iter_mut().filter(|(name, _, _)| is_lost(name)) {
            *sight = Sight::Lost;
        }
    }
}

struct OwnChange {
    reach: Reach,
    /// `None`: nothing was sent.
    sent: Option<SentAs>,
    is_in_doubt: bool,
}

/// A change of this client.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct ChangeNumber(u64);

#[derive(Default)]
pub(super) struct OwnChanges {
    last: u64,
    under_way: BTreeMap<ChangeNumber, OwnChange>,
    in_doubt: usize,
    /// More were in doubt than are remembered.
    is_lost: bool,
}

impl OwnChanges {
    /// Returns what the others that touch the same names alter out of sight from now on.
    pub(super) fn begin(&mut self, mut reach: Reach) -> (ChangeNumber, Unseen) {
        let under_way = &self.under_way;
        reach.lose_sight(|name| under_way.values().any(|other| other.reach.names.contains(name))); // keeps OC3
        let unseen = self.lose_sight(|name| reach.names.contains(name));
        self.last += 1;
        let number = ChangeNumber(self.last);
        self.under_way.insert(number, OwnChange { reach, sent: None, is_in_doubt: false });
        (number, unseen)
    }

    pub(super) fn reach(&self, number: ChangeNumber) -> Option<&Reach> {
        self.under_way.get(&number).map(|change| &change.reach)
    }

    pub(super) fn sent(&mut self, number: ChangeNumber, sent: SentAs) {
        if let Some(change) = self.under_way.get_mut(&number) {
            change.sent = Some(sent);
        }
    }

    /// Settles a change. Returns what it may have altered.
    pub(super) fn settle(&mut self, number: ChangeNumber) -> Option<Reach> {
        let change = self.under_way.remove(&number)?;
        self.in_doubt -= usize::from(change.is_in_doubt);
        Some(change.reach)
    }

    /// The change has no answer, and nobody waits for one. Returns what it may have altered if it was never sent, which settles it.
    pub(super) fn doubt(&mut self, number: ChangeNumber) -> Option<Reach> {
        let change = self.under_way.get_mut(&number)?;
        if change.sent.is_none() {
            return self.settle(number);
        }
        change.is_in_doubt = true;
        self.in_doubt += 1;
        if self.in_doubt > IN_DOUBT_MAX {
            self.is_lost = true;
            self.forget_doubts(|_| true);
        }
        None
    }

    /// The changes in doubt that a later one, which was executed, has settled (OC2).
    pub(super) fn settled_by(&self, later: SentAs) -> Vec<ChangeNumber> {
        let below = later.answered_below;
        let is_settled = |sent: SentAs| {
            sent.session == later.session
                && sent.request.lane() == below.lane()
                && sent.request.number() < below.number()
        };
        let doubts = self.under_way.iter().filter(|(_, change)| change.is_in_doubt);
        doubts.filter(|(_, change)| change.sent.is_some_and(is_settled)).map(|(number, _)| *number).collect()
    }

    /// Nothing of sessions before this one happens any more.
    pub(super) fn session_replaced(&mut self, session: SessionId) {
        self.forget_doubts(|sent| sent.session < session);
        self.is_lost = false;
    }

    fn forget_doubts(&mut self, is_forgotten: impl Fn(SentAs) -> bool) {
        self.under_way.retain(|_, change| !(change.is_in_doubt && change.sent.is_some_and(&is_forgotten)));
        self.in_doubt = self.under_way.values().filter(|change| change.is_in_doubt).count();
    }

    /// Something other than the change itself may have touched these names. Returns what is altered out of sight by then.
    pub(super) fn lose_sight(&mut self, is_lost: impl Fn(&NameIn) -> bool) -> Unseen {
        let lose = |change: &mut OwnChange| {
            let before = change.reach.unseen();
            change.reach.lose_sight(&is_lost);
            let after = change.reach.unseen();
            if after == before { Unseen::Nothing } else { after }
        };
        self.under_way.values_mut().map(lose).max().unwrap_or(Unseen::Nothing)
    }

    pub(super) fn alter(&self, inode: InodeId, kind: FileKind) -> bool {
        self.is_lost || self.under_way.values().any(|change| change.reach.alters(inode, kind))
    }

    pub(super) fn alter_name(&self, name: &NameIn) -> bool {
        self.is_lost || self.under_way.values().any(|change| change.reach.names.contains(name))
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.under_way.len()
    }
}
