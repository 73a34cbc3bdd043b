//! When each session was last renewed, as this leader has heard it. Which sessions there are is part of the replicated state,
//! and only `ExpireSession` ends one (P3.1).
//!
//! SS1  The silence of a session counts from the election of this leader at the earliest ([`Soft`]). So a change of leader
//!      expires no session.
//! SS2  Before the end of a session is proposed, it is marked as *ending*, and looked at once more: from the mark on it is
//!      renewed no longer, and gets no locks. Otherwise a heartbeat could be answered just before the end is applied, and its
//!      client would go on for a term beside whoever waited for the end. The mark stays while the end may still be applied. An
//!      end that an administrator asks for (`service::admin::sessions`) is marked too; there is no silence to look at.
//! SS3  The end of a session that holds Write of files is not proposed before it was silent for a term, whoever asks for its end:
//!      what its last answered heartbeat has renewed has lapsed by then. *An end that is proposed at once would be all that the next
//!      leader knows, and it would show files beside who still writes them.*

use std::collections::BTreeMap;
use std::time::Duration;

use dfs_proto::ids::SessionId;
use tokio::time::Instant;

use crate::coherence::soft::{BeginsAnew, Soft};

pub(crate) struct Sessions {
    expiry: Duration,
    heard: Soft<Heard>,
}

/// It has at most as many entries as there are sessions: whoever ends a session removes its entry.
#[derive(Default)]
struct Heard {
    renewed: BTreeMap<SessionId, Instant>,
    /// SS2.
    ending: BTreeMap<SessionId, Ending>,
}

/// How certain the end of a session is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Ending {
    /// It is looked at once more.
    Marked,
    /// It ends, as soon as what it was granted has lapsed.
    Certain,
    Proposed,
}

impl BeginsAnew for Sessions {
    fn enter_term(&self, term: u64, since: Instant) {
        self.heard.enter_term(term, since);
    }

    fn begin_anew(&self, now: Instant) {
        let mut soft = self.heard.lock();
        soft.since = now;
        soft.known.renewed.clear(); // and keeps SS2
    }
}

impl Sessions {
    pub(crate) fn new(expiry: Duration, now: Instant) -> Sessions {
        Sessions { expiry, heard: Soft::new(now) }
    }

    /// For the gate.
    pub(crate) fn soft(&self) -> &dyn BeginsAnew {
        self
    }

    /// False: it is ending (SS2).
    pub(crate) fn renewed(&self, session: SessionId, now: Instant) -> bool {
        let mut soft = self.heard.lock();
        let lives = !soft.known.ending.contains_key(&session);
        if lives {
            soft.known.renewed.insert(session, now);
        }
        lives
    }

    pub(crate) fn mark_ending(&self, session: SessionId) {
        self.ends(session, Ending::Marked);
    }

    /// It ends, however it is heard from now on: once it was silent for as long as what it holds counts (SS3).
    pub(crate) fn end_is_certain(&self, session: SessionId) {
        self.ends(session, Ending::Certain);
    }

    fn ends(&self, session: SessionId, ending: Ending) {
        let mut soft = self.heard.lock();
        let present = soft.known.ending.entry(session).or_insert(ending);
        *present = ending.max(*present);
    }

    /// Its end is proposed now: it may be applied, whatever becomes of the answer.
    pub(crate) fn end_is_proposed(&self, session: SessionId) {
        self.ends(session, Ending::Proposed);
    }

    /// It is not due any more. If its end was certain before, it stays marked.
    pub(crate) fn spare(&self, session: SessionId) {
        let mut soft = self.heard.lock();
        if soft.known.ending.get(&session) == Some(&Ending::Marked) {
            soft.known.ending.remove(&session);
        }
    }

    pub(crate) fn is_end_proposed(&self, session: SessionId) -> bool {
        self.heard.lock().known.ending.get(&session) == Some(&Ending::Proposed)
    }

    pub(crate) fn is_ending(&self, session: SessionId) -> bool {
        self.heard.lock().known.ending.contains_key(&session)
    }

    pub(crate) fn forget(&self, session: SessionId) {
        let mut soft = self.heard.lock();
        soft.known.renewed.remove(&session);
        soft.known.ending.remove(&session);
    }

    /// How long ago this leader heard of it; `None`: not yet.
    pub(crate) fn last_heard(&self, session: SessionId, now: Instant) -> Option<Duration> {
        let soft = self.heard.lock();
        soft.known.renewed.get(&session).map(|renewed| now.saturating_duration_since(*renewed))
    }

    /// For so long that it is ended.
    pub(crate) fn is_silent(&self, session: SessionId, now: Instant) -> bool {
        self.is_silent_for(self.expiry, session, now)
    }

    pub(crate) fn is_silent_for(&self, time: Duration, session: SessionId, now: Instant) -> bool {
        let soft = self.heard.lock();
        let since = soft.known.renewed.get(&session).copied().unwrap_or(soft.since);
        now.saturating_duration_since(since) >= time
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EXPIRY: Duration = Duration::from_secs(300);
    const SESSION: SessionId = SessionId(4);

    #[test]
    fn a_session_is_silent_five_minutes_after_its_last_renewal_or_the_election() {
        let start = Instant::now();
        let sessions = Sessions::new(EXPIRY, start);
        sessions.soft().enter_term(1, start);
        assert!(!sessions.is_silent(SESSION, start + EXPIRY / 2));
        assert!(sessions.is_silent(SESSION, start + EXPIRY));
        sessions.renewed(SESSION, start + EXPIRY / 2);
        assert!(!sessions.is_silent(SESSION, start + EXPIRY));
        sessions.soft().enter_term(2, start + EXPIRY);
        assert!(!sessions.is_silent(SESSION, start + EXPIRY + EXPIRY / 2));
    }

    #[test]
    fn a_session_that_is_ending_is_not_renewed_unless_it_is_spared_or_the_leader_changes() {
        let start = Instant::now();
        let sessions = Sessions::new(EXPIRY, start);
        sessions.mark_ending(SESSION);
        sessions.soft().begin_anew(start);
        assert!(!sessions.renewed(SESSION, start + EXPIRY / 2) && sessions.is_ending(SESSION));
        assert!(sessions.is_silent(SESSION, start + EXPIRY));
        sessions.spare(SESSION);
        assert!(sessions.renewed(SESSION, start + EXPIRY));
        sessions.mark_ending(SESSION);
        sessions.soft().enter_term(1, start);
        assert!(sessions.renewed(SESSION, start + EXPIRY), "a new leader knows nothing of it");
    }

    #[test]
    fn a_session_whose_end_is_certain_is_not_spared() {
        let start = Instant::now();
        let sessions = Sessions::new(EXPIRY, start);
        sessions.end_is_certain(SESSION);
        sessions.mark_ending(SESSION);
        sessions.spare(SESSION);
        assert!(sessions.is_ending(SESSION) && !sessions.is_end_proposed(SESSION));
        assert!(!sessions.renewed(SESSION, start));
        sessions.end_is_proposed(SESSION);
        sessions.end_is_certain(SESSION);
        assert!(sessions.is_end_proposed(SESSION));
    }

    #[test]
    fn a_while_in_which_nobody_could_be_heard_expires_nobody() {
        let start = Instant::now();
        let sessions = Sessions::new(EXPIRY, start);
        sessions.renewed(SESSION, start);
        sessions.soft().begin_anew(start + EXPIRY);
        assert!(!sessions.is_silent(SESSION, start + EXPIRY));
        assert!(!sessions.is_silent(SessionId(5), start + EXPIRY));
    }
}
