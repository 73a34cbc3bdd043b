//! Ends sessions that were silent for too long (P3.1).

use std::time::Duration;

use dfs_proto::ids::SessionId;
use dfs_proto::meta::MetaResult;
use tokio::time::{Instant, sleep};

use super::execute::execute;
use crate::leases::Touched;
use crate::service::Metaserver;
use crate::sessions::Sessions;
use dfs_state::command::Command;
use dfs_state::command::Command;
use dfs_state::kv::Snapshot;
use dfs_state::kv::Snapshot;
use dfs_state::read;

const INTERVAL: Duration = Duration::from_secs(1);

pub(super) async fn run(metaserver: &Metaserver) {
    loop {
        sleep(INTERVAL).await;
        let look = |state: &dyn Snapshot| -> MetaResult<Vec<SessionId>> {
            Ok(read::sessions(state).into_iter().map(|(session, _)| session).collect())
        };
        let Ok(alive) = metaserver.gate.read(&Touched::nothing(), None, look).await else { continue };
        let silent = plan(&alive, &metaserver.gate.sessions, Instant::now());
        for session in silent {
            if !metaserver.gate.sessions.is_silent(session, Instant::now()) {
                continue; // it was renewed while others were ended
            }
            tracing::warn!("{session} was silent for too long and is ended");
            execute(metaserver, vec![Command::ExpireSession { session }]).await;
            metaserver.gate.sessions.forget(session);
            metaserver.metrics.expired_sessions.inc();
        }
    }
}

/// Which of the sessions that are alive have lost their life.
fn plan(alive: &[SessionId], sessions: &Sessions, now: Instant) -> Vec<SessionId> {
    alive.iter().copied().filter(|session| sessions.is_silent(*session, now)).collect()
}

#[cfg(test)]
mod tests {
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
