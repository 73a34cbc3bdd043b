//! The leases on what was read that the leader of the fake metaserver gives, and its recalls. It waits for no answer to a recall:
//! what a client makes of one is done when the push was delivered.

use std::collections::{BTreeMap, BTreeSet};

use dfs_proto::ids::{Attachment, InodeId, SessionId};
use dfs_proto::meta::{Recall, Recalled};
use dfs_proto::scope::NameIn;

type Inodes = Vec<(InodeId, Vec<Vec<u8>>)>;

/// What a change alters.
pub(crate) struct Touched {
    /// It gives these by number.
    pub(super) named: BTreeSet<InodeId>,
    pub(super) names: BTreeSet<NameIn>,
    /// The names lead to these.
    pub(super) behind: BTreeSet<InodeId>,
}

pub(crate) struct Leases {
    /// 0: of a leader of an earlier release.
    pub(crate) term_ms: u64,
    /// Recalls are kept back.
    pub(crate) are_pushes_late: bool,
    /// Those that clients have answered, in the order of the answers.
    pub(crate) handled: Vec<(SessionId, Attachment, u64)>,
    /// Every inode of which a client was told that it is leased.
    pub(crate) given: Vec<InodeId>,
    holders: BTreeMap<InodeId, BTreeSet<SessionId>>,
    issued: BTreeMap<SessionId, u64>,
}

impl Default for Leases {
    fn default() -> Leases {
        Leases {
            term_ms: 2000,
            are_pushes_late: false,
            handled: Vec::new(),
            given: Vec::new(),
            holders: BTreeMap::new(),
            issued: BTreeMap::new(),
        }
    }
}

impl Leases {
    pub(super) fn of_term(term_ms: u64) -> Leases {
        Leases { term_ms, ..Leases::default() }
    }

    /// The session holds none any more: it has ended, or begins anew.
    pub(super) fn forget(&mut self, session: SessionId) {
        self.issued.remove(&session);
        for sessions in self.holders.values_mut() {
            sessions.remove(&session);
        }
    }

    pub(super) fn issued(&self, session: SessionId) -> u64 {
        self.issued.get(&session).copied().unwrap_or(0)
    }

    pub(super) fn give(&mut self, session: SessionId, inodes: &[InodeId]) {
        for inode in inodes {
            self.holders.entry(*inode).or_default().insert(session);
        }
        self.given.extend(inodes);
    }

    pub(super) fn is_held_by_others(&self, session: SessionId, inode: InodeId) -> bool {
        self.holders.get(&inode).is_some_and(|holders| holders.iter().any(|holder| *holder != session))
    }

    /// What is recalled for a change of `asker`. It has dropped by itself what the change names, and these inodes behind names;
    /// `None`: it has dropped nothing.
    pub(super) fn recall(
        &mut self,
        (asker, behind): (SessionId, Option<Vec<InodeId>>),
        touched: &Touched,
        attachment_of: impl Fn(SessionId) -> Option<Attachment>,
    ) -> Vec<(SessionId, Recall)> {
        let mut recalled: BTreeMap<SessionId, Inodes> = BTreeMap::new();
        for inode in touched.named.iter().chain(&touched.behind) {
            let Some(holders) = self.holders.get_mut(inode) else { continue };
            let of_inode = touched.names.iter().filter(|(directory, _)| directory == inode);
            let names: Vec<Vec<u8>> = of_inode.map(|(_, name)| name.clone()).collect();
            let is_spared = |session: SessionId| {
                let has_dropped =
                    |behind: &Vec<InodeId>| touched.named.contains(inode) || behind.contains(inode);
                session == asker && behind.as_ref().is_some_and(has_dropped)
            };
            for session in holders.iter().filter(|session| !is_spared(**session)) {
                recalled.entry(*session).or_default().push((*inode, names.clone()));
            }
            if names.is_empty() {
                holders.clear();
            }
        }
        let mut recalls = Vec::new();
        for (session, inodes) in recalled {
            let Some(attachment) = attachment_of(session) else { continue };
            let number = self.issued.entry(session).or_default();
            *number += 1;
            let what = Recalled::Inodes(inodes);
            recalls.push((session, Recall { attachment, number: *number, what }));
        }
        recalls
    }
}
