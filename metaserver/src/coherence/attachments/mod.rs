//! Who has attached, and who holds which lock (P3.5, P5.7). Nothing of it is replicated: each session tells each leader what it
//! holds, in an *attachment*.
//!
//! AT1  An attachment replaces the locks that the leader knew of the session, and ends its waits. Its number is larger than
//!      that of the one before, and a request that names another number than the present one does nothing. So a grant
//!      that the client has never seen is dropped when the client attaches again, and requests need no numbers.
//! AT2  A table of locks belongs to one term. Within the term it is never forgotten: after a while in which nobody could be heard
//!      (`gate`, G4) only silences begin anew, or a lock could be granted twice.
//! AT3  What the table has decided is told, to whoever asked and to whoever waited, after a read was confirmed in the same term
//!      (P7.5). What could not be confirmed is told after a later read, or never, if the term has ended.
//! AT4  No lock is granted in a volume while a session is awaited there (`opens`, OP4): it may hold one. A session stops being
//!      awaited only after its locks are in the table (`service::lock`).
//! AT5  The session of every entry was seen alive in the state, and whoever ends a session ends its entry, after the command was
//!      applied.
//! AT6  Of one session there are at most `TOLD_LOCKS_MAX` locks, `TOLD_FILES_MAX` open files and `WRITES_OF_SESSION_MAX` Write leases
//!      on their way here (`parts`), and no more locks in the table than that (LT4).
//!
//! Not here: open files, and who is awaited (`opens`); leases (`leases`); when a session was last heard (`sessions`); what is done about its silence
//! (`worker::expire`).

mod parts;
mod shown;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use dfs_net::rpc::push::{Push, PushSender};
use dfs_proto::convert::LOCK_GRANTED;
use dfs_proto::error::MetaError;
use dfs_proto::ids::{Attachment, InodeId, SessionId, WaitId};
use dfs_proto::lock::{HeldLock, LockAsk, LockKind, LockReply, LockRequest};
use dfs_proto::meta::{Attach, HeldWrite, MetaResult};
use dfs_proto::wire;
use dfs_state::locks::{Grant, LockTable};
use prost::Message as _;
use tokio::time::Instant;

use super::soft::{BeginsAnew, Soft};
use parts::Parts;

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
    untold: Untold,
    /// Locks that were refused since the last look at silent holders, because another one is in the way.
    refused: VecDeque<HeldLock>,
}

#[derive(Default)]
struct OfSession {
    current: Option<Current>,
    /// Of an attachment of which not all parts have come.
    parts: Option<Parts>,
}

/// The present attachment.
struct Current {
    attachment: Attachment,
    pushes: PushSender,
}

/// What became of an attachment.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Told {
    /// Locks that others hold meanwhile.
    pub(crate) lost: Vec<HeldLock>,
    /// Files that the session has open.
    pub(crate) open: Vec<InodeId>,
    /// Files that it holds Write of.
    pub(crate) writes: Vec<HeldWrite>,
}

/// Grants in the order in which they were decided (AT3). Each was decided under this attachment of the session.
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

    /// Takes in a part of an attachment. The last one makes it the present one.
    pub(crate) fn attach(&self, told: Attach, pushes: PushSender) -> MetaResult<Decided<Option<Told>>> {
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
        held.known.present(session).is_some_and(|current| {
            current.attachment == attachment && current.pushes.is_same(pushes) && !current.pushes.is_ended()
        })
    }

    /// This is the number of the session's present attachment.
    pub(crate) fn is_present(&self, session: SessionId, attachment: Attachment) -> bool {
        let held = self.held.lock();
        held.known.present(session).is_some_and(|current| current.attachment == attachment)
    }

    /// Executes a request about locks.
    pub(crate) fn lock(&self, request: &LockRequest) -> Decided<LockReply> {
        let mut held = self.held.lock();
        let what = held.known.lock(request);
        Decided { term: held.term(), what }
    }

    /// Of these sessions, those that hold what another one waits for, or what was refused to one since the last call.
    pub(crate) fn in_the_way(&self, sessions: &[SessionId]) -> BTreeSet<SessionId> {
        let mut held = self.held.lock();
        let refused = std::mem::take(&mut held.known.refused);
        if sessions.is_empty() {
            return BTreeSet::new(); // the usual case, and the rest is not cheap
        }
        let locks = &held.known.locks;
        let blockers = locks.blockers();
        let holds_refused = |session: SessionId| {
            let held = locks.held_by(session);
            held.iter().any(|held| refused.iter().any(|refused| are_in_conflict(held, refused)))
        };
        let is_wanted = |session: &SessionId| {
            blockers.contains(session) || (!refused.is_empty() && holds_refused(*session))
        };
        sessions.iter().copied().filter(is_wanted).collect()
    }

    /// Every session that has an entry here.
    pub(crate) fn sessions(&self) -> Vec<SessionId> {
        self.held.lock().known.sessions.keys().copied().collect()
    }

    /// The session is no longer in the state (AT5).
    pub(crate) fn end(&self, session: SessionId) {
        self.held.lock().known.end(session);
    }

    /// For [`Attachments::tell`], after a read that begins now is confirmed.
    pub(crate) fn decided(&self) -> Before {
        let held = self.held.lock();
        let Untold { told, queue } = &held.known.untold;
        Before { term: held.term(), decided: told + queue.len() as u64 }
    }

    /// Tells those who wait of the grants that were decided before (AT3). Nobody is told of one that came to an earlier attachment.
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

    /// What was decided, if that was in this term and the term is still the same (AT3).
    pub(crate) fn stands<T>(&self, term: u64, decided: Decided<T>) -> MetaResult<T> {
        self.require_term(term)?;
        match decided.term == term {
            true => Ok(decided.what),
            false => Err(has_ended()),
        }
    }

    pub(crate) fn require_term(&self, term: u64) -> MetaResult<()> {
        match self.held.lock().term() == term {
            true => Ok(()),
            false => Err(has_ended()),
        }
    }
}

impl BeginsAnew for Attachments {
    fn enter_term(&self, term: u64, since: Instant) {
        self.held.enter_term(term, since);
    }

    fn begin_anew(&self, now: Instant) {
        self.held.lock().since = now; // keeps AT2
    }
}

impl Held {
    fn present(&self, session: SessionId) -> Option<&Current> {
        self.sessions.get(&session)?.current.as_ref()
    }

    fn attach(&mut self, told: Attach, pushes: PushSender) -> MetaResult<Option<Told>> {
        let session = told.session;
        let of_session = self.sessions.entry(session).or_default();
        let present = of_session.current.as_ref().map(|current| current.attachment);
        let begun = of_session.parts.as_ref().map(|parts| parts.attachment);
        if present.is_some_and(|present| told.attachment <= present)
            || begun.is_some_and(|begun| told.attachment < begun)
        {
            return Err(parts::invalid("the session has attached with this number or a larger one")); // keeps AT1
        }
        let parts = Parts::add(of_session.parts.take(), told, pushes)?;
        if !parts.is_complete {
            of_session.parts = Some(parts);
            return Ok(None);
        }
        let Parts { attachment, pushes, locks, open, writes, .. } = parts;
        of_session.current = Some(Current { attachment, pushes });
        let (lost, grants) = self.locks.attach(session, &locks); // keeps AT1
        self.decide(grants);
        Ok(Some(Told { lost, open: open.into_iter().collect(), writes }))
    }

    fn lock(&mut self, request: &LockRequest) -> LockReply {
        let session = request.session;
        if self.present(session).is_none_or(|current| current.attachment != request.attachment) {
            return LockReply::NotAttached; // keeps AT1
        }
        let (reply, grants) = match request.ask {
            LockAsk::Set { lock, wait } => self.locks.set(session, lock, wait),
            LockAsk::Test { lock } => (self.locks.test(session, &lock), Vec::new()),
            LockAsk::Unlock { inode, owner, range } => self.locks.unlock(session, inode, owner, range),
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
        self.sessions.remove(&session);
        let grants = self.locks.end(session);
        self.decide(grants);
    }

    fn decide(&mut self, grants: Vec<Grant>) {
        for Grant { session, wait } in grants {
            let attachment = self.present(session).map(|current| current.attachment);
            self.untold.queue.extend(attachment.map(|attachment| (session, attachment, wait)));
        }
    }

    fn take_grants(&mut self, decided: u64) -> Vec<(PushSender, wire::LockGranted)> {
        let count = decided.saturating_sub(self.untold.told).min(self.untold.queue.len() as u64);
        self.untold.told += count;
        let grants: Vec<_> = self.untold.queue.drain(..count as usize).collect();
        let to_whom = |(session, attachment, wait): (SessionId, Attachment, WaitId)| {
            let current = self.present(session).filter(|current| current.attachment == attachment)?;
            Some((current.pushes.clone(), wire::LockGranted { attachment: attachment.0, wait: wait.0 }))
        };
        grants.into_iter().filter_map(to_whom).collect()
    }
}

fn has_ended() -> MetaError {
    MetaError::Unavailable { what: "another member has led meanwhile".to_owned() }
}

fn are_in_conflict(held: &HeldLock, wanted: &HeldLock) -> bool {
    let is_exclusive = held.kind == LockKind::Exclusive || wanted.kind == LockKind::Exclusive;
    held.inode == wanted.inode && is_exclusive && held.range.overlaps(wanted.range)
}
