//! Ends sessions that were silent for too long (P3.1), and far sooner those that hold what somebody waits for (P3.4, P3.6, P5.7): a lock,
//! or Write of a file.

use std::collections::BTreeSet;
use std::time::Duration;

use dfs_proto::ids::SessionId;
use dfs_proto::scope::Unleased;
use tokio::time::Instant;

use super::budget::{Budget, EXPIRE};
use super::work::{Learned, Work};
use crate::coherence::READ_ENDS;
use crate::metaserver::Metaserver;
use dfs_state::command::Command;
use dfs_state::kv::Snapshot;
use dfs_state::read;

pub(super) struct Expire;

impl Work for Expire {
    fn budget(&self) -> Budget {
        EXPIRE
    }

    fn records(&self) -> Unleased {
        Unleased::Sessions
    }

    fn plan(&self, state: &dyn Snapshot, learned: &Learned<'_>) -> Vec<Command> {
        let alive: Vec<SessionId> = read::sessions(state).into_iter().map(|(session, _)| session).collect();
        plan(&alive, learned).into_iter().map(|session| Command::ExpireSession { session }).collect()
    }

    /// Keeps SS2 of `sessions`.
    fn begin(&self, command: &Command, metaserver: &Metaserver) {
        let Some(session) = expired(command) else { return };
        metaserver.gate.sessions.mark_ending(session);
        if metaserver.gate.leases.writers_in_the_way(Instant::now()).1.contains(&session) {
            metaserver.gate.sessions.end_is_certain(session); // keeps SS3
        }
    }

    fn spare(&self, command: &Command, metaserver: &Metaserver) {
        if let Some(session) = expired(command) {
            metaserver.gate.sessions.spare(session);
        }
    }

    /// It may have been renewed while others were ended.
    fn is_still_due(&self, command: &Command, learned: &Learned<'_>) -> bool {
        expired(command).is_some_and(|session| {
            let is_silent = is_silent(session, learned);
            let is_proposed = learned.sessions.is_end_proposed(session); // it may end at any time
            is_silent || is_proposed || is_quiet(session, learned) || missing(learned).contains(&session)
        })
    }

    fn sent(&self, command: &Command, metaserver: &Metaserver) {
        if let Some(session) = expired(command) {
            metaserver.gate.sessions.end_is_proposed(session);
        }
    }

    fn done(&self, command: &Command, metaserver: &Metaserver) {
        if let Some(session) = expired(command) {
            tracing::warn!("{session} was silent for too long and was ended");
            metaserver.gate.session_ended(session);
            metaserver.metrics.expired_sessions.inc();
        }
    }
}

fn expired(command: &Command) -> Option<SessionId> {
    match command {
        Command::ExpireSession { session } => Some(*session),
        _ => None, // this work plans nothing else
    }
}

/// Which of the sessions that are alive have lost their life.
fn plan(alive: &[SessionId], learned: &Learned<'_>) -> Vec<SessionId> {
    let quiet: Vec<SessionId> = alive.iter().copied().filter(|session| is_quiet(*session, learned)).collect();
    let mut in_the_way = learned.attachments.in_the_way(&quiet);
    let (writing, late) = learned.leases.writers_in_the_way(learned.now);
    in_the_way.extend(quiet.into_iter().filter(|session| writing.contains(session)));
    in_the_way.extend(late);
    let missing = missing(learned);
    let is_due = |session: &SessionId| {
        let is_silent = is_silent(*session, learned);
        let is_ending = learned.sessions.is_ending(*session); // an earlier try has failed
        is_silent || is_ending || in_the_way.contains(session) || missing.contains(session)
    };
    alive.iter().copied().filter(is_due).collect()
}

fn is_silent(session: SessionId, learned: &Learned<'_>) -> bool {
    is_quiet(session, learned) && learned.sessions.is_silent(session, learned.now)
}

/// It was silent for a term, and so ends if it is in somebody's way.
fn is_quiet(session: SessionId, learned: &Learned<'_>) -> bool {
    learned.sessions.is_silent_for(term(learned), session, learned.now)
}

/// With the session its leases end, for whoever changes something: so they have to have lapsed (P3.3), however short the settings are.
fn term(learned: &Learned<'_>) -> Duration {
    learned.attachments.lease_term.max(READ_ENDS)
}

/// Somebody waits for them, and they have not told this leader for a term what they hold; or they were silent for a term, under this
/// leader and those before it.
fn missing(learned: &Learned<'_>) -> BTreeSet<SessionId> {
    let mut missing = learned.opens.missing(term(learned), learned.now);
    missing.extend(learned.opens.waited_for().into_iter().filter(|session| is_quiet(*session, learned)));
    missing
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::coherence::opens::Opens;
    use crate::coherence::{Attachments, Leases, RecallCounts};
    use crate::sessions::Sessions;
    use crate::view::View;
    use dfs_state::command::Silence;

    const SECOND: Duration = Duration::from_secs(1);
    const ONE: SessionId = SessionId(1);
    const TWO: SessionId = SessionId(2);

    /// Which of both sessions are ended so long after the election, if the second one was heard after 5 s, and somebody waits
    /// until these have attached.
    fn ended_after(time: Duration, awaited: &[SessionId]) -> Vec<SessionId> {
        let start = Instant::now();
        let view = View::new(SECOND * 3, start);
        let sessions = Sessions::new(SECOND * 300, start);
        let opens = Opens::new(start);
        let attachments = Attachments::new(SECOND * 10, start);
        sessions.renewed(0, TWO, start + SECOND * 5);
        opens.wait_for(awaited);
        let now = start + time;
        let leases = Leases::new(RecallCounts::default(), start);
        let (view, sessions, opens, attachments) = (&view, &sessions, &opens, &attachments);
        plan(&[ONE, TWO], &Learned { now, view, sessions, opens, attachments, leases: &leases })
    }

    #[test]
    fn only_the_silent_sessions_are_ended() {
        assert_eq!(ended_after(SECOND * 299, &[]), []);
        assert_eq!(ended_after(SECOND * 301, &[]), [ONE]);
        assert_eq!(ended_after(SECOND * 305, &[]), [ONE, TWO]);
    }

    #[test]
    fn a_session_that_somebody_waits_for_is_ended_when_it_was_silent_for_a_term_under_several_leaders() {
        let start = Instant::now();
        let ended = |time: Duration, awaited: &[SessionId]| {
            let view = View::new(SECOND * 3, start);
            let (sessions, opens) = (Sessions::new(SECOND * 300, start), Opens::new(start));
            let attachments = Attachments::new(SECOND * 10, start);
            let silences = [ONE, TWO].map(|session| Silence { session, silent_ms: 7000 });
            sessions.count_earlier(0, SECOND * 10, &silences);
            sessions.renewed(0, TWO, start + SECOND);
            opens.wait_for(awaited);
            let leases = Leases::new(RecallCounts::default(), start);
            let (view, sessions, opens, attachments) = (&view, &sessions, &opens, &attachments);
            let now = start + time;
            plan(&[ONE, TWO], &Learned { now, view, sessions, opens, attachments, leases: &leases })
        };
        assert_eq!(ended(SECOND * 3 - SECOND / 10, &[ONE, TWO]), []);
        assert_eq!(ended(SECOND * 3, &[ONE, TWO]), [ONE], "the second one was heard");
        assert_eq!(ended(SECOND * 9, &[]), [], "nobody waits");
    }

    #[test]
    fn a_session_that_somebody_waits_for_is_ended_when_it_has_not_attached_within_a_term() {
        assert_eq!(ended_after(SECOND * 9, &[ONE, TWO]), []);
        assert_eq!(ended_after(SECOND * 10, &[TWO]), [TWO]);
    }
}
