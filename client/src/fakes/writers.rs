//! Who may write which file, at the leader of the fake metaserver.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use dfs_proto::ids::{Attachment, InodeId, SessionId, WriteGrant};
use dfs_proto::meta::{HeldWrite, WriteRecall};
use tokio::time::Instant;

/// Of the leases on what was read.
const EARLIER_LEASES: Duration = Duration::from_millis(2200);

pub(crate) struct Writers {
    /// The leader is not of an earlier release.
    pub(crate) gives: bool,
    pub(crate) term_ms: u64,
    held: BTreeMap<InodeId, (SessionId, WriteGrant)>,
    /// Sessions that ask for Write, the first one first.
    lines: BTreeMap<InodeId, VecDeque<SessionId>>,
    /// What was recalled, so that it is pushed once under an attachment.
    pushed: BTreeSet<(SessionId, Attachment, HeldWrite)>,
    /// Of these nothing is recalled yet.
    pub(crate) kept_back: BTreeSet<InodeId>,
    /// Sessions that held some at the leader before this one, and have not attached to this one.
    pub(crate) awaited: BTreeSet<SessionId>,
    /// When the leases on what was read have ended that the leader before this one gave.
    earlier_leases_end: Option<Instant>,
    /// For the tests that count.
    pub(crate) acquired: Vec<(SessionId, InodeId)>,
    pub(crate) returned: Vec<(SessionId, HeldWrite)>,
}

impl Default for Writers {
    fn default() -> Writers {
        Writers {
            gives: true,
            term_ms: 10_000,
            held: BTreeMap::new(),
            lines: BTreeMap::new(),
            pushed: BTreeSet::new(),
            kept_back: BTreeSet::new(),
            awaited: BTreeSet::new(),
            earlier_leases_end: None,
            acquired: Vec::new(),
            returned: Vec::new(),
        }
    }
}

impl Writers {
    /// Another leader knows nothing, and waits for those who may have written.
    pub(super) fn replace(&mut self) {
        let held = std::mem::take(&mut self.held);
        self.awaited.extend(held.into_values().map(|(session, _)| session));
        self.lines.clear();
        self.pushed.clear();
        self.earlier_leases_end = Some(Instant::now() + EARLIER_LEASES);
    }

    /// Nothing is changed and granted while a client may serve what the leader before this one gave it.
    pub(super) fn may_grant(&self) -> bool {
        self.earlier_leases_end.is_none_or(|end| Instant::now() >= end)
    }

    pub(super) fn end(&mut self, session: SessionId) {
        self.held.retain(|_, (holder, _)| *holder != session);
        self.awaited.remove(&session);
    }

    pub(super) fn attach(&mut self, session: SessionId, writes: impl Iterator<Item = HeldWrite>) {
        self.end(session);
        for HeldWrite { inode, grant } in writes {
            let other = self.held.insert(inode, (session, grant));
            assert_eq!(other, None, "{inode} is written by two");
        }
    }

    pub(crate) fn holder(&self, inode: InodeId) -> Option<SessionId> {
        self.held.get(&inode).map(|(session, _)| *session)
    }

    pub(super) fn is_held(&self, session: SessionId, write: &HeldWrite) -> bool {
        self.held.get(&write.inode) == Some(&(session, write.grant))
    }

    pub(super) fn is_anybody_asking(&self, inode: InodeId) -> bool {
        self.lines.get(&inode).is_some_and(|line| !line.is_empty())
    }

    /// What others than `session` hold of these.
    pub(super) fn of_others(
        &self,
        session: SessionId,
        inodes: impl IntoIterator<Item = InodeId>,
    ) -> BTreeMap<SessionId, Vec<HeldWrite>> {
        let mut others: BTreeMap<SessionId, Vec<HeldWrite>> = BTreeMap::new();
        for inode in inodes {
            if let Some((holder, grant)) = self.held.get(&inode).filter(|(holder, _)| *holder != session) {
                others.entry(*holder).or_default().push(HeldWrite { inode, grant: *grant });
            }
        }
        others
    }

    /// `None`: it was pushed under this attachment.
    pub(super) fn recall(
        &mut self,
        session: SessionId,
        attachment: Attachment,
        mut writes: Vec<HeldWrite>,
    ) -> Option<WriteRecall> {
        writes.retain(|write| !self.kept_back.contains(&write.inode));
        writes.retain(|write| self.pushed.insert((session, attachment, *write)));
        (!writes.is_empty()).then_some(WriteRecall { attachment, writes })
    }

    pub(super) fn grant(&mut self, session: SessionId, write: HeldWrite) {
        let known = self.held.get(&write.inode).copied();
        assert!(known.is_none_or(|known| known.0 == session), "{known:?}");
        let grant = known.map_or(write.grant, |known| known.1.max(write.grant));
        self.held.insert(write.inode, (session, grant));
    }

    pub(super) fn returned(&mut self, session: SessionId, writes: Vec<HeldWrite>) {
        for write in writes {
            self.returned.push((session, write));
            let is_of = |held: &(SessionId, WriteGrant)| held.0 == session && held.1 <= write.grant;
            if self.held.get(&write.inode).is_some_and(is_of) {
                self.held.remove(&write.inode);
            }
        }
    }

    pub(super) fn line_up(&mut self, inode: InodeId, session: SessionId) {
        self.lines.entry(inode).or_default().push_back(session);
    }

    pub(super) fn is_first(&self, inode: InodeId, session: SessionId) -> bool {
        self.lines.get(&inode).and_then(|line| line.front()) == Some(&session)
    }

    pub(super) fn leave(&mut self, inode: InodeId, session: SessionId) {
        if let Some(line) = self.lines.get_mut(&inode)
            && let Some(place) = line.iter().position(|waiting| *waiting == session)
        {
            line.remove(place);
        }
    }
}
