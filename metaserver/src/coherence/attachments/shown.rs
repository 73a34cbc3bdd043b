//! What people are shown of attachments and locks. Nothing here changes anything, and no client acts on it.

use std::collections::BTreeSet;

use dfs_proto::ids::SessionId;

use super::{Attachments, OfSession};

/// What the table has of one session.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct LocksOf {
    /// It has told what it holds, over a connection that lives as far as this leader knows.
    pub(crate) is_attached: bool,
    pub(crate) locks: usize,
    pub(crate) waits: usize,
}

impl Attachments {
    /// Sessions that are attached, locks that are held, and waits.
    pub(crate) fn counts(&self) -> (usize, usize, usize) {
        let held = self.held.lock();
        let attached = held.known.sessions.values().filter(|of| of.is_attached()).count();
        let (locks, waits) = held.known.locks.counts();
        (attached, locks, waits)
    }

    pub(crate) fn of(&self, session: SessionId) -> LocksOf {
        let held = self.held.lock();
        let is_attached = held.known.sessions.get(&session).is_some_and(OfSession::is_attached);
        let (locks, waits) = held.known.locks.counts_of(session);
        LocksOf { is_attached, locks, waits }
    }

    /// Those that hold a lock that another session waits for. Refused requests do not count, other than in
    /// [`Attachments::in_the_way`], which takes them.
    pub(crate) fn waited_for(&self) -> BTreeSet<SessionId> {
        self.held.lock().known.locks.blockers()
    }
}

impl OfSession {
    fn is_attached(&self) -> bool {
        self.current.as_ref().is_some_and(|current| !current.pushes.is_ended())
    }
}
