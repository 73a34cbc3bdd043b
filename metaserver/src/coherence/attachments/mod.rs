//! What each session holds at this leader: locks, open files, and the connection over which it is told something unasked (P3.5,
//! P5.7, P6.5). Nothing of it is replicated. Each session tells it to each leader, in an *attachment*.
//!
//! AT1  An attachment replaces the locks that the leader knew of the session, and ends its waits. Its number is larger than
//!      that of the one before, and a request that names another number than the present one does nothing. So a lock whose
//!      grant the client has not seen is not held, and requests need no numbers.
//! AT2  Open files are added to those that the leader knows: while a client says what it holds, the answer to an open may be on
//!      its way to it. So a client repeats what it has closed until a heartbeat of its present attachment was answered.
//! AT3  A table of locks belongs to one term. Within the term it is never forgotten: after a while in which nobody could be heard
//!      (`gate`, G4) only the silences begin anew, or a lock could be granted twice.
//! AT4  What the table has decided is told, to whoever asked and to whoever waited, after a read was confirmed in the same term
//!      (P7.5). What could not be confirmed is told after a later read, or never, if the term has ended.
//! AT5  A session without an attachment may hold something as long as the state says so and it has not ended. No lock is granted
//!      in a volume before each such session has attached (P6.5).
//! AT6  The session of every entry was seen alive in the state, and whoever ends a session ends its entry, after the command was
//!      applied.
//! AT7  Of one session there are at most [`TOLD_LOCKS_MAX`] locks on their way, as many in the table as that allows (LT4), and
//!      [`OPEN_MAX`] open files.
//!
//! Not here: when a session was last heard (`sessions`), and what is done about its silence (`worker::expire`).

mod parts;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use dfs_net::rpc::push::{Push, PushSender};
use dfs_proto::convert::LOCK_GRANTED;
use dfs_proto::error::MetaError;
use dfs_proto::ids::{Attachment, InodeId, SessionId, VolumeId, WaitId};
use dfs_proto::lock::{HeldLock, LockAsk, LockKind, LockReply, LockRequest};
use dfs_proto::meta::{Attach, MetaResult};
use dfs_proto::wire;
use dfs_state::locks::{Grant, LOCKS_MAX, LockTable, WAITS_MAX};
use prost::Message as _;
use tokio::time::Instant;

use super::soft::{BeginsAnew, Soft};
use parts::Parts;

/// Files that one session may have open: more than the descriptors of a machine with many users.
pub(crate) const OPEN_MAX: usize = 100_000;
/// Locks that one session may say it holds: those it may have, and its waits, each of which may have become one.
const TOLD_LOCKS_MAX: usize = LOCKS_MAX + WAITS_MAX;
/// Refused requests that are kept for the next look at silent holders. Whoever still wants the lock asks again.
const REFUSED_MAX: usize = 1024;

pub(crate) struct Attachments {
    /// For how long a silent session keeps what somebody waits for.
    pub(crate) lease_term: Duration,
    held: Soft<Held>,
}

/// What is held in one term.
#[derive(Default)]
struct Held {
    sessions: BTreeMap<SessionId, OfSession>,
    locks: LockTable,
    /// The other side of [`OfSession::open`].
    openers: BTreeMap<InodeId, BTreeSet<SessionId>>,
    /// Volumes in which every session that may hold something has attached or ended (AT5). In this term no other one begins to.
    settled: BTreeSet<VolumeId>,
    untold: Untold,
    /// Sessions that something was refused for since the last look at silent holders.
    awaited: BTreeSet<SessionId>,
    /// Locks that were refused since then, because another one is in the way.
    refused: VecDeque<HeldLock>,
}

#[derive(Default)]
struct OfSession {
    current: Option<Current>,
    /// Of an attachment of which not all parts have come.
    parts: Option<Parts>,
    open: BTreeSet<InodeId>,
    /// Volumes in which the state says that this session holds something.
    recorded: BTreeSet<VolumeId>,
}

/// The present attachment.
struct Current {
    attachment: Attachment,
    pushes: PushSender,
}

/// Grants in the order in which they were decided (AT4). Each was decided under this attachment of the session.
#[derive(Default)]
struct Untold {
    told: u64,
    queue: VecDeque<(SessionId, Attachment, WaitId)>,
}

/// What was decided before some moment.
#[must_use]
pub(crate) struct Before {
    term: u64,
    decided: u64,
}

/// What was decided in a term. It stands if a read was confirmed in the same one ([`Attachments::stands`]).
#[must_use]
pub(crate) struct Decided<T> {
    term: u64,
    what: T,
}

impl Attachments {
    pub(crate) fn new(lease_term: Duration, now: Instant) -> Attachments {
        Attachments { lease_term, held: Soft::new(now) }
    }

    /// Takes in a part of an attachment. The last one makes it the present one, and decides which locks are lost: others hold
    /// them meanwhile.
    pub(crate) fn attach(&self, told: Attach, pushes: PushSender) -> MetaResult<Decided<Vec<HeldLock>>> {
        let mut held = self.held.lock();
        let what = held.known.attach(told, pushes)?;
        Ok(Decided { term: held.term(), what })
    }

    /// This is the session's attachment, and `pushes` its connection. If not, the client attaches again.
    pub(crate) fn is_attached(
        &self,
        session: SessionId,
        attachment: Attachment,
        pushes: &PushSender,
    ) -> bool {
        let held = self.held.lock();
        let current = held.known.sessions.get(&session).and_then(|of| of.current.as_ref());
        current.is_some_and(|current| {
            current.attachment == attachment && current.pushes.is_same(pushes) && !current.pushes.is_ended()
        })
    }

    /// The session has told what it holds.
    pub(crate) fn is_known(&self, session: SessionId) -> bool {
        self.held.lock().known.is_attached(session)
    }

    /// Executes a request about locks.
    pub(crate) fn lock(&self, request: &LockRequest) -> Decided<LockReply> {
        let mut held = self.held.lock();
        let what = held.known.lock(request);
        Decided { term: held.term(), what }
    }

    /// Nothing keeps the session from locks in this volume: AT5, and the state has its record.
    pub(crate) fn may_lock(&self, session: SessionId, volume: VolumeId) -> bool {
        self.held.lock().known.may_lock(session, volume)
    }

    /// `holders` are the sessions that may hold something in the volume, as a read has shown that was confirmed in `term`. True
    /// if all of them have attached. Otherwise somebody waits for the others from now on.
    pub(crate) fn settle(&self, term: u64, volume: VolumeId, holders: &[SessionId]) -> bool {
        let mut held = self.held.lock();
        if held.term() != term {
            return false;
        }
        let known = &mut held.known;
        let missing: Vec<SessionId> =
            holders.iter().copied().filter(|session| !known.is_attached(*session)).collect();
        match missing.is_empty() {
            true => _ = known.settled.insert(volume),
            false => known.awaited.extend(missing),
        }
        known.settled.contains(&volume)
    }

    /// The state has the record that this session holds something in this volume.
    pub(crate) fn recorded(&self, term: u64, session: SessionId, volume: VolumeId) {
        let mut held = self.held.lock();
        if held.term() == term
            && let Some(of_session) = held.known.sessions.get_mut(&session)
        {
            of_session.recorded.insert(volume);
        }
    }

    /// Somebody waits until these sessions have attached or ended.
    #[cfg_attr(not(test), expect(dead_code, reason = "for opens and last names, which come next"))]
    pub(crate) fn note_awaited(&self, sessions: &[SessionId]) {
        self.held.lock().known.awaited.extend(sessions);
    }

    /// Of these sessions, those that somebody has waited for since the last call.
    pub(crate) fn in_the_way(&self, sessions: &[SessionId]) -> BTreeSet<SessionId> {
        let mut held = self.held.lock();
        let known = &mut held.known;
        let refused = std::mem::take(&mut known.refused);
        let mut wanted = std::mem::take(&mut known.awaited);
        wanted.append(&mut known.locks.blockers());
        let holds_refused = |session: SessionId| {
            let held = known.locks.held_by(session);
            held.iter().any(|held| refused.iter().any(|refused| are_in_conflict(held, refused)))
        };
        let is_wanted = |session: &SessionId| {
            wanted.contains(session) || (!refused.is_empty() && holds_refused(*session))
        };
        sessions.iter().copied().filter(is_wanted).collect()
    }

    /// The session could have attached for a whole term, and has not.
    pub(crate) fn is_missing(&self, session: SessionId, now: Instant) -> bool {
        let held = self.held.lock();
        !held.known.is_attached(session) && now.saturating_duration_since(held.since) >= self.lease_term
    }

    /// Notes that the session has the file open, whether it has attached or not. False: it has too many open.
    #[cfg_attr(not(test), expect(dead_code, reason = "for opens and last names, which come next"))]
    pub(crate) fn register_open(&self, session: SessionId, inode: InodeId) -> bool {
        let mut held = self.held.lock();
        let known = &mut held.known;
        let open = &mut known.sessions.entry(session).or_default().open;
        if open.len() >= OPEN_MAX && !open.contains(&inode) {
            return false; // keeps AT7
        }
        open.insert(inode);
        known.openers.entry(inode).or_default().insert(session);
        true
    }

    /// The session has these files open no longer.
    pub(crate) fn closed(&self, session: SessionId, inodes: &[InodeId]) {
        let mut held = self.held.lock();
        for inode in inodes {
            if let Some(of_session) = held.known.sessions.get_mut(&session) {
                of_session.open.remove(inode);
            }
            held.known.is_no_opener(session, *inode);
        }
    }

    /// The sessions that have the file open, as far as they have told.
    #[cfg_attr(not(test), expect(dead_code, reason = "for opens and last names, which come next"))]
    pub(crate) fn openers(&self, inode: InodeId) -> Vec<SessionId> {
        self.held.lock().known.openers.get(&inode).into_iter().flatten().copied().collect()
    }

    /// Every session that has an entry here.
    pub(crate) fn sessions(&self) -> Vec<SessionId> {
        self.held.lock().known.sessions.keys().copied().collect()
    }

    /// The session is no longer in the state (AT6).
    pub(crate) fn end(&self, session: SessionId) {
        self.held.lock().known.end(session);
    }

    /// Sessions that have attached, locks that are held, and waits.
    pub(crate) fn counts(&self) -> (usize, usize, usize) {
        let held = self.held.lock();
        let attached = held.known.sessions.values().filter(|of| of.current.is_some()).count();
        let (locks, waits) = held.known.locks.counts();
        (attached, locks, waits)
    }

    /// For [`Attachments::tell`], after a read that begins now is confirmed.
    pub(crate) fn decided(&self) -> Before {
        let held = self.held.lock();
        let Untold { told, queue } = &held.known.untold;
        Before { term: held.term(), decided: told + queue.len() as u64 }
    }

    /// Tells those who wait of the grants that were decided before (AT4). Nobody is told of one that came to an earlier attachment.
    pub(crate) fn tell(&self, before: Before) {
        let grants = {
            let mut held = self.held.lock();
            if held.term() != before.term {
                return;
            }
            held.known.take_grants(before.decided)
        };
        for (pushes, granted) in grants {
            let push = Push { path: LOCK_GRANTED.to_owned(), message: granted.encode_to_vec().into() };
            // If its connection has ended, the session attaches again, and asks again.
            let _ = pushes.send(&push);
        }
    }

    /// What was decided, if the term is still the same after a read was confirmed (AT4).
    pub(crate) fn stands<T>(&self, decided: Decided<T>) -> MetaResult<T> {
        match self.held.lock().term() == decided.term {
            true => Ok(decided.what),
            false => Err(MetaError::Unavailable { what: "another member has led meanwhile".to_owned() }),
        }
    }
}

impl BeginsAnew for Attachments {
    fn enter_term(&self, term: u64, since: Instant) {
        self.held.enter_term(term, since);
    }

    fn begin_anew(&self, now: Instant) {
        self.held.lock().since = now; // keeps AT3
    }
}

impl Held {
    fn is_attached(&self, session: SessionId) -> bool {
        self.sessions.get(&session).is_some_and(|of| of.current.is_some())
    }

    fn attach(&mut self, told: Attach, pushes: PushSender) -> MetaResult<Vec<HeldLock>> {
        let session = told.session;
        let of_session = self.sessions.entry(session).or_default();
        let present = of_session.current.as_ref().map(|current| current.attachment);
        let begun = of_session.parts.as_ref().map(|parts| parts.attachment);
        if present.is_some_and(|present| told.attachment <= present)
            || begun.is_some_and(|begun| told.attachment < begun)
        {
            return Err(parts::invalid("the session has attached with this number or a larger one")); // keeps AT1
        }
        match Parts::add(of_session.parts.take(), told, pushes)? {
            Parts { is_complete: true, attachment, pushes, locks, open, .. } => {
                of_session.current = Some(Current { attachment, pushes });
                self.open_all(session, open);
                let (lost, grants) = self.locks.attach(session, &locks); // keeps AT1
                self.decide(grants);
                Ok(lost)
            }
            parts => {
                of_session.parts = Some(parts);
                Ok(Vec::new())
            }
        }
    }

    /// Keeps AT2. Those that it knew are forgotten only where they would be too many.
    fn open_all(&mut self, session: SessionId, told: BTreeSet<InodeId>) {
        let Some(of_session) = self.sessions.get_mut(&session) else { return };
        let known = std::mem::take(&mut of_session.open);
        let all: BTreeSet<InodeId> = known.union(&told).copied().collect();
        let open = if all.len() > OPEN_MAX { told } else { all }; // keeps AT7
        of_session.open = open.clone();
        for inode in known.difference(&open) {
            self.is_no_opener(session, *inode);
        }
        for inode in open {
            self.openers.entry(inode).or_default().insert(session);
        }
    }

    fn is_no_opener(&mut self, session: SessionId, inode: InodeId) {
        if let Some(openers) = self.openers.get_mut(&inode) {
            openers.remove(&session);
            if openers.is_empty() {
                self.openers.remove(&inode);
            }
        }
    }

    fn may_lock(&self, session: SessionId, volume: VolumeId) -> bool {
        let is_recorded = self.sessions.get(&session).is_some_and(|of| of.recorded.contains(&volume));
        is_recorded && self.settled.contains(&volume)
    }

    fn lock(&mut self, request: &LockRequest) -> LockReply {
        let session = request.session;
        let current = self.sessions.get(&session).and_then(|of| of.current.as_ref());
        if current.is_none_or(|current| current.attachment != request.attachment) {
            return LockReply::NotAttached; // keeps AT1
        }
        let (reply, grants) = match request.ask {
            LockAsk::Set { lock, .. } if !self.may_lock(session, lock.inode.volume()) => {
                (LockReply::NotYet, Vec::new()) // keeps AT5
            }
            LockAsk::Set { lock, wait } => self.locks.set(session, lock, wait),
            LockAsk::Test { lock } if !self.settled.contains(&lock.inode.volume()) => {
                (LockReply::NotYet, Vec::new()) // keeps AT5
            }
            LockAsk::Test { lock } => (self.locks.test(session, &lock), Vec::new()),
            LockAsk::Unlock { inode, owner, range } => {
                (LockReply::Granted, self.locks.unlock(session, inode, owner, range))
            }
            LockAsk::Cancel { wait } => {
                self.locks.cancel(session, wait);
                (LockReply::Granted, Vec::new())
            }
        };
        if let (LockReply::Conflict(_), LockAsk::Set { lock, .. }) = (reply, request.ask) {
            self.refused.push_back(lock);
            if self.refused.len() > REFUSED_MAX {
                self.refused.pop_front();
            }
        }
        self.decide(grants);
        reply
    }

    fn end(&mut self, session: SessionId) {
        let of_session = self.sessions.remove(&session).unwrap_or_default();
        for inode in of_session.open {
            self.is_no_opener(session, inode);
        }
        self.awaited.remove(&session);
        let grants = self.locks.end(session);
        self.decide(grants);
    }

    fn decide(&mut self, grants: Vec<Grant>) {
        for Grant { session, wait } in grants {
            let current = self.sessions.get(&session).and_then(|of| of.current.as_ref());
            if let Some(current) = current {
                self.untold.queue.push_back((session, current.attachment, wait));
            }
        }
    }

    fn take_grants(&mut self, decided: u64) -> Vec<(PushSender, wire::LockGranted)> {
        let count = decided.saturating_sub(self.untold.told).min(self.untold.queue.len() as u64);
        self.untold.told += count;
        let grants: Vec<_> = self.untold.queue.drain(..count as usize).collect();
        let to_whom = |(session, attachment, wait): (SessionId, Attachment, WaitId)| {
            let current = self.sessions.get(&session).and_then(|of| of.current.as_ref());
            let current = current.filter(|current| current.attachment == attachment)?;
            Some((current.pushes.clone(), wire::LockGranted { attachment: attachment.0, wait: wait.0 }))
        };
        grants.into_iter().filter_map(to_whom).collect()
    }
}

fn are_in_conflict(held: &HeldLock, wanted: &HeldLock) -> bool {
    let is_exclusive = held.kind == LockKind::Exclusive || wanted.kind == LockKind::Exclusive;
    held.inode == wanted.inode && is_exclusive && held.range.overlaps(wanted.range)
}
