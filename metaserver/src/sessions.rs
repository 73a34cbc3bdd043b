//! When each session was last renewed, as this leader knows it. Soft: who is a session at all stands in the replicated
//! state, and only `ExpireSession` ends one (P3.1).
//!
//! SS1  A session's silence counts from this leader's election at the earliest, so that no change of leader and no
//!     missing report expires anybody.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard};
use std::time::Duration;

use dfs_proto::ids::SessionId;
use tokio::time::Instant;

pub(crate) struct Sessions {
    expiry: Duration,
    soft: Mutex<Soft>,
}

struct Soft {
    term: u64,
    elected: Instant,
    /// As many as there are sessions: whoever ends one forgets it here.
    renewed: BTreeMap<SessionId, Instant>,
}

impl Sessions {
    pub(crate) fn new(expiry: Duration, now: Instant) -> Sessions {
        Sessions { expiry, soft: Mutex::new(Soft { term: 0, elected: now, renewed: BTreeMap::new() }) }
    }

    fn soft(&self) -> MutexGuard<'_, Soft> {
        self.soft.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// Called by the gate before anything else is done as leader of `term`.
    pub(crate) fn enter_term(&self, term: u64, now: Instant) {
        let mut soft = self.soft();
        if soft.term != term {
            *soft = Soft { term, elected: now, renewed: BTreeMap::new() }; // keeps SS1
        }
    }

    /// For a while nobody could be heard: nobody's silence before counts.
    pub(crate) fn begin_anew(&self, now: Instant) {
        let mut soft = self.soft();
        *soft = Soft { term: soft.term, elected: now, renewed: BTreeMap::new() };
    }

    pub(crate) fn renewed(&self, session: SessionId, now: Instant) {
        self.soft().renewed.insert(session, now);
    }

    pub(crate) fn forget(&self, session: SessionId) {
        self.soft().renewed.remove(&session);
    }

    pub(crate) fn is_silent(&self, session: SessionId, now: Instant) -> bool {
        let soft = self.soft();
        let since = soft.renewed.get(&session).copied().unwrap_or(soft.elected);
        now.saturating_duration_since(since) >= self.expiry
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
        sessions.enter_term(1, start);
        assert!(!sessions.is_silent(SESSION, start + EXPIRY / 2));
        assert!(sessions.is_silent(SESSION, start + EXPIRY));
        sessions.renewed(SESSION, start + EXPIRY / 2);
        assert!(!sessions.is_silent(SESSION, start + EXPIRY));
        sessions.enter_term(2, start + EXPIRY);
        assert!(!sessions.is_silent(SESSION, start + EXPIRY + EXPIRY / 2));
    }

    #[test]
    fn a_while_in_which_nobody_could_be_heard_expires_nobody() {
        let start = Instant::now();
        let sessions = Sessions::new(EXPIRY, start);
        sessions.renewed(SESSION, start);
        sessions.begin_anew(start + EXPIRY);
        assert!(!sessions.is_silent(SESSION, start + EXPIRY));
        assert!(!sessions.is_silent(SessionId(5), start + EXPIRY));
    }
}
