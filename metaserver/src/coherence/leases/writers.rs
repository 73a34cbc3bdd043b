//! Who holds Write of which file, who acquires it, and who waits for it to come back; pure.
//!
//! WL1  One session at most holds Write of a file. While it does, or acquires it, nothing of the file is granted to anybody else.
//! WL2  Write is held from its grant until the session has returned it, has attached without it, or has ended. Nothing else ends it:
//!      neither silence nor a leader's impatience.
//! WL3  Numbers of grants are upper bounds: a return ends every grant of the file up to the number that it names, and a later one
//!      stays. So a return and a request for the next grant may cross each other. Who asks for what it holds keeps it, under the
//!      larger number.
//! WL4  A holder is asked for each of its grants once in each attachment, however many wait.
//! WL5  Nobody is granted Write of a file while somebody waits for it to come back. *A read that waits comes before the next write;
//!      who writes all the time would keep readers out otherwise.*
//!      A count is enough, and no order of arrival: once nobody holds it, reads that begin are answered at once and do not wait.
//! WL6  There are at most [`Bounds::all`] grants, and [`Bounds::of_session`] of one session. Beyond it a session is asked for its
//!      oldest. What it tells with its attachment is taken in all the same: it may be in use.
//!
//! Not here: leases of Read (`table`), sending and waiting (`writing`).

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::Duration;

use dfs_proto::ids::{Attachment, InodeId, SessionId, WriteGrant};
use dfs_proto::meta::{HeldWrite, WriteRecall};
use tokio::time::Instant;

use super::past::{Moment, Past};

/// WL6.
const BOUNDS: Bounds = Bounds { all: 1_000_000, of_session: WRITES_OF_SESSION_MAX };
/// WL6.
pub(crate) const WRITES_OF_SESSION_MAX: usize = 16_384;
/// A session that is heard, and has neither returned what it was asked for nor committed anything of it in this time, counts as
/// silent (P3.4).
const RETURN_MAX: Duration = Duration::from_secs(60);
/// So many of the oldest are asked for at once (WL6).
const OLDEST: usize = 64;
/// In one push, with the longest numbers.
const ASKED_MAX: usize = 128;

#[derive(Clone, Copy)]
pub(super) struct Bounds {
    pub(super) all: usize,
    pub(super) of_session: usize,
}

pub(super) struct Writers {
    bounds: Bounds,
    held: HashMap<InodeId, Held>,
    /// Those that hold something.
    sessions: BTreeMap<SessionId, BTreeSet<(WriteGrant, InodeId)>>,
    /// By whom.
    acquiring: HashMap<InodeId, SessionId>,
    /// How many reads and changes wait for each.
    waiting: HashMap<InodeId, usize>,
    ends: Past,
}

struct Held {
    session: SessionId,
    grant: WriteGrant,
    asked: Option<Asked>,
}

#[derive(Clone, Copy)]
struct Asked {
    /// The last attachment in which it was, for this grant.
    by: Option<Attachment>,
    /// When it was for the first time, or when the holder last committed something of it.
    since: Instant,
}

/// What became of a grant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Given {
    Yes,
    /// Somebody else has it, or waits for it.
    No,
    /// WL6.
    TooMany,
}

impl Default for Writers {
    fn default() -> Writers {
        Writers::new(BOUNDS)
    }
}

impl Writers {
    pub(super) fn new(bounds: Bounds) -> Writers {
        Writers {
            bounds,
            held: HashMap::new(),
            sessions: BTreeMap::new(),
            acquiring: HashMap::new(),
            waiting: HashMap::new(),
            ends: Past::default(),
        }
    }

    /// Before the state is read; for [`Writers::is_seen`].
    pub(super) fn now(&self) -> Moment {
        self.ends.now()
    }

    /// Nobody has held any Write since.
    pub(super) fn are_none_since(&self, since: Moment) -> bool {
        self.held.is_empty() && self.ends.now() == since
    }

    /// A state that was read since then shows all that others have written to the file under their leases.
    pub(super) fn is_seen(&self, inode: InodeId, by: SessionId, since: Moment) -> bool {
        !self.is_held_by_others(inode, Some(by)) && self.ends.is_still(inode, since)
    }

    pub(super) fn is_held_by_others(&self, inode: InodeId, than: Option<SessionId>) -> bool {
        self.held.get(&inode).is_some_and(|held| Some(held.session) != than)
    }

    /// Read may be granted to this session.
    pub(super) fn may_read(&self, inode: InodeId, session: SessionId) -> bool {
        !self.is_held_by_others(inode, Some(session))
            && self.acquiring.get(&inode).is_none_or(|acquiring| *acquiring == session)
    }

    /// With what the session asks for beside: an open, or a create.
    pub(super) fn grant(&mut self, session: SessionId, write: HeldWrite) -> Given {
        match self.acquiring.contains_key(&write.inode) {
            true => Given::No,
            false => self.give(session, write),
        }
    }

    /// To the session that acquires it.
    pub(super) fn grant_acquired(&mut self, session: SessionId, write: HeldWrite) -> Given {
        match self.acquiring.get(&write.inode) == Some(&session) {
            true => self.give(session, write),
            false => Given::No,
        }
    }

    fn give(&mut self, session: SessionId, HeldWrite { inode, grant }: HeldWrite) -> Given {
        if self.held.contains_key(&inode) || self.waiting.contains_key(&inode) {
            return Given::No; // keeps WL1 and WL5
        }
        if self.held.len() >= self.bounds.all || self.count_of(session) >= self.bounds.of_session {
            return Given::TooMany; // keeps WL6
        }
        self.hold(session, HeldWrite { inode, grant });
        Given::Yes
    }

    /// From here on it holds the file by this number, or by a larger one that it has.
    fn hold(&mut self, session: SessionId, HeldWrite { inode, grant }: HeldWrite) {
        let present = self.held.remove(&inode);
        let asked = present.as_ref().and_then(|held| {
            let by = held.asked?.by.filter(|_| held.grant >= grant);
            Some(Asked { by, ..held.asked? })
        });
        let of_session = self.sessions.entry(session).or_default();
        let grant = match present {
            Some(held) => {
                of_session.remove(&(held.grant, inode));
                grant.max(held.grant)
            }
            None => grant,
        };
        of_session.insert((grant, inode));
        self.held.insert(inode, Held { session, grant, asked });
    }

    /// The session asks for what it may hold already. True: it does, and goes on to do so (WL3).
    pub(super) fn keep(&mut self, session: SessionId, write: HeldWrite) -> bool {
        let is_held = self.grant_of(session, write.inode).is_some();
        if is_held {
            self.hold(session, write);
        }
        is_held
    }

    /// The grant of the file that this session holds.
    pub(super) fn grant_of(&self, session: SessionId, inode: InodeId) -> Option<WriteGrant> {
        self.held.get(&inode).filter(|held| held.session == session).map(|held| held.grant)
    }

    /// The session may commit what it has written to the file under this lease; under none, if nobody has one.
    pub(super) fn may_commit(&self, session: SessionId, inode: InodeId, under: Option<WriteGrant>) -> bool {
        match under {
            Some(grant) => self.grant_of(session, inode) == Some(grant),
            None => !self.held.contains_key(&inode),
        }
    }

    /// Its holder commits something of it.
    pub(super) fn commits(&mut self, inode: InodeId, now: Instant) {
        if let Some(asked) = self.held.get_mut(&inode).and_then(|held| held.asked.as_mut()) {
            asked.since = now;
        }
    }

    /// From here on nothing of it is granted to others. One session at a time.
    pub(super) fn begin_acquire(&mut self, session: SessionId, inode: InodeId) {
        self.acquiring.insert(inode, session);
    }

    pub(super) fn end_acquire(&mut self, inode: InodeId) {
        self.acquiring.remove(&inode);
    }

    pub(super) fn is_acquired(&self, inode: InodeId) -> bool {
        self.acquiring.contains_key(&inode)
    }

    pub(super) fn begin_wait(&mut self, inode: InodeId) {
        *self.waiting.entry(inode).or_default() += 1;
    }

    pub(super) fn end_wait(&mut self, inode: InodeId) {
        if let Some(waiting) = self.waiting.get_mut(&inode) {
            *waiting -= 1;
            if *waiting == 0 {
                self.waiting.remove(&inode);
            }
        }
    }

    /// What is to be sent, to ask for these back from all others than this one. Of sessions that are not attached nothing is asked:
    /// they attach anew, or end.
    pub(super) fn ask(
        &mut self,
        inodes: &[InodeId],
        than: Option<SessionId>,
        attached: impl Fn(SessionId) -> Option<Attachment>,
        now: Instant,
    ) -> Vec<(SessionId, WriteRecall)> {
        let mut asked: BTreeMap<(SessionId, Attachment), Vec<HeldWrite>> = BTreeMap::new();
        for inode in inodes {
            let Some(held) = self.held.get_mut(inode).filter(|held| Some(held.session) != than) else {
                continue;
            };
            let Some(by) = attached(held.session) else { continue };
            if held.asked.is_none_or(|asked| asked.by != Some(by)) {
                let since = held.asked.map_or(now, |asked| asked.since);
                held.asked = Some(Asked { by: Some(by), since }); // keeps WL4
                let write = HeldWrite { inode: *inode, grant: held.grant };
                asked.entry((held.session, by)).or_default().push(write);
            }
        }
        let in_parts = |((session, attachment), writes): ((SessionId, Attachment), Vec<HeldWrite>)| {
            let parts = writes.chunks(ASKED_MAX).map(|part| part.to_vec());
            parts.map(|writes| (session, WriteRecall { attachment, writes })).collect::<Vec<_>>()
        };
        asked.into_iter().flat_map(in_parts).collect()
    }

    /// The files of which this session has held Write for longest, if it has its share or all together have.
    pub(super) fn oldest_of(&self, session: SessionId) -> Vec<InodeId> {
        let of_session = self.sessions.get(&session).into_iter().flatten();
        of_session.take(OLDEST).map(|(_, inode)| *inode).collect()
    }

    /// False: it is held by a later grant, or not at all (WL3).
    pub(super) fn returned(&mut self, session: SessionId, write: HeldWrite) -> bool {
        let is_held = self.grant_of(session, write.inode).is_some_and(|held| held <= write.grant);
        if is_held {
            self.drop_one(session, write.inode);
        }
        is_held
    }

    /// The session has attached, and holds these and no others. What it named and others hold, it does not get: that is to be asked for.
    pub(super) fn attach(&mut self, session: SessionId, told: &[HeldWrite]) -> Vec<HeldWrite> {
        let named: BTreeSet<InodeId> = told.iter().map(|write| write.inode).collect();
        let had = self.sessions.get(&session).cloned().unwrap_or_default();
        let is_over = |(_, inode): &&(WriteGrant, InodeId)| !named.contains(inode);
        had.iter().filter(is_over).for_each(|(_, inode)| self.drop_one(session, *inode));
        let is_lost = |write: &HeldWrite| self.is_held_by_others(write.inode, Some(session));
        let (lost, held): (Vec<HeldWrite>, Vec<HeldWrite>) = told.iter().copied().partition(is_lost);
        held.into_iter().for_each(|write| self.hold(session, write));
        lost
    }

    /// The session has ended, and its client uses nothing of it any more.
    pub(super) fn end(&mut self, session: SessionId) {
        let held = self.sessions.remove(&session).unwrap_or_default();
        held.into_iter().for_each(|(_, inode)| self.drop_one(session, inode));
    }

    fn drop_one(&mut self, session: SessionId, inode: InodeId) {
        let Some(Held { grant, .. }) = self.held.remove(&inode) else { return };
        self.ends.note(inode);
        if let Some(of_session) = self.sessions.get_mut(&session) {
            of_session.remove(&(grant, inode));
            if of_session.is_empty() {
                self.sessions.remove(&session);
            }
        }
    }

    /// Those that hold what somebody waits for.
    pub(super) fn in_the_way(&self) -> BTreeSet<SessionId> {
        let holder = |inode: &InodeId| self.held.get(inode).map(|held| held.session);
        let acquired =
            self.acquiring.iter().filter_map(|(inode, by)| holder(inode).filter(|held| held != by));
        self.waiting.keys().filter_map(holder).chain(acquired).collect()
    }

    /// Of these, the ones that were asked long ago, and have committed nothing of it since (P3.4).
    pub(super) fn late(&self, now: Instant) -> BTreeSet<SessionId> {
        let is_late = |held: &&Held| {
            held.asked.is_some_and(|asked| now.saturating_duration_since(asked.since) >= RETURN_MAX)
        };
        let waited_for = self.waiting.keys().chain(self.acquiring.keys());
        let held = waited_for.filter_map(|inode| self.held.get(inode));
        held.filter(is_late).map(|held| held.session).collect()
    }

    /// Those that hold something.
    pub(super) fn sessions(&self) -> impl Iterator<Item = SessionId> {
        self.sessions.keys().copied()
    }

    pub(super) fn count(&self) -> usize {
        self.held.len()
    }

    pub(super) fn count_of(&self, session: SessionId) -> usize {
        self.sessions.get(&session).map_or(0, BTreeSet::len)
    }
}

#[cfg(test)]
mod tests;
