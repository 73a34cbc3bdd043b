//! When each session was last renewed, as this leader has heard it. Which sessions there are is part of the replicated state,
//! and only `ExpireSession` ends one (P3.1).
//!
//! SS1  The silence of a session counts from the election of this leader at the earliest ([`Soft`]). So a change of leader
//!      expires no session.

use std::collections::BTreeMap;
use std::time::Duration;

use dfs_proto::ids::SessionId;
use tokio::time::Instant;

use crate::coherence::soft::{BeginsAnew, Soft};

pub(crate) struct Sessions {
    expiry: Duration,
    /// It has at most as many entries as there are sessions: whoever ends a session removes its entry.
    renewed: Soft<BTreeMap<SessionId, Instant>>,
}

impl Sessions {
    pub(crate) fn new(expiry: Duration, now: Instant) -> Sessions {
        Sessions { expiry, renewed: Soft::new(now) }
    }

    /// For the gate.
    pub(crate) fn soft(&self) -> &dyn BeginsAnew {
        &self.renewed
    }

    pub(crate) fn renewed(&self, session: SessionId, now: Instant) {
        self.renewed.lock().known.insert(session, now);
    }

    pub(crate) fn forget(&self, session: SessionId) {
        self.renewed.lock().known.remove(&session);
    }

    /// For so long that it is ended.
    pub(crate) fn is_silent(&self, session: SessionId, now: Instant) -> bool {
        self.is_silent_for(self.expiry, session, now)
    }

    pub(crate) fn is_silent_for(&self, time: Duration, session: SessionId, now: Instant) -> bool {
        let soft = self.renewed.lock();
        let since = soft.known.get(&session).copied().unwrap_or(soft.since);
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
    fn a_while_in_which_nobody_could_be_heard_expires_nobody() {
        let start = Instant::now();
        let sessions = Sessions::new(EXPIRY, start);
        sessions.renewed(SESSION, start);
        sessions.soft().begin_anew(start + EXPIRY);
        assert!(!sessions.is_silent(SESSION, start + EXPIRY));
        assert!(!sessions.is_silent(SessionId(5), start + EXPIRY));
    }
}
