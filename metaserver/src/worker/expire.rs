//! Ends sessions that were silent for too long (P3.1).

use dfs_proto::ids::SessionId;
use dfs_proto::scope::Unleased;
use tokio::time::Instant;

use super::budget::{Budget, EXPIRE};
use super::work::{Learned, Work};
use crate::metaserver::Metaserver;
use crate::sessions::Sessions;
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
        let silent = plan(&alive, learned.sessions, learned.now).into_iter();
        silent.map(|session| Command::ExpireSession { session }).collect()
    }

    /// It may have been renewed while others were ended.
    fn is_still_due(&self, command: &Command, learned: &Learned<'_>) -> bool {
        expired(command).is_some_and(|session| learned.sessions.is_silent(session, learned.now))
    }

    fn done(&self, command: &Command, metaserver: &Metaserver) {
        if let Some(session) = expired(command) {
            tracing::warn!("{session} was silent for too long and was ended");
            metaserver.gate.sessions.forget(session);
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
fn plan(alive: &[SessionId], sessions: &Sessions, now: Instant) -> Vec<SessionId> {
    alive.iter().copied().filter(|session| sessions.is_silent(*session, now)).collect()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn only_the_silent_sessions_are_ended() {
        let start = Instant::now();
        let sessions = Sessions::new(Duration::from_secs(300), start);
        sessions.renewed(SessionId(2), start + Duration::from_secs(100));
        let planned = plan(&[SessionId(1), SessionId(2)], &sessions, start + Duration::from_secs(301));
        assert_eq!(planned, [SessionId(1)]);
    }
}
