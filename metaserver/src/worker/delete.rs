//! Orders the deletion of chunks that have been dead for long enough (P10.4). The orders go out with heartbeat replies.

use std::time::Duration;

use dfs_proto::attr::Timestamp;
use tokio::time::sleep;

use super::execute;
use crate::command::{Command, REAP_LIMIT_MAX};
use crate::kv::Snapshot;
use crate::leases::Touched;
use crate::service::Metaserver;
use crate::state::read;

const INTERVAL: Duration = Duration::from_secs(1);
/// P10.4: so long a reader with an older map still finds the bytes.
const READABLE_AFTER_DEATH: Duration = Duration::from_secs(60);

pub(super) async fn run(metaserver: &Metaserver) {
    let mut more = false;
    loop {
        if !more {
            sleep(INTERVAL).await;
        }
        let now = metaserver.env.clock.now();
        let look = |state: &dyn Snapshot| Ok(plan(read::first_dead_since(state), now));
        more = match metaserver.gate.read(&Touched::nothing(), None, look).await {
            Ok(planned) => execute(metaserver, planned).await,
            Err(_) => false,
        };
    }
}

/// `first_dead`: since when the chunk is dead that died first.
fn plan(first_dead: Option<Timestamp>, now: Timestamp) -> Vec<Command> {
    let before = Timestamp::from_millis(now.millis() - READABLE_AFTER_DEATH.as_millis() as i64);
    let is_due = first_dead.is_some_and(|since| since <= before);
    is_due.then_some(Command::StartDeleting { before, limit: REAP_LIMIT_MAX }).into_iter().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dead_chunk_stays_readable_for_a_minute() {
        let at = |seconds| Timestamp { seconds, nanos: 0 };
        assert_eq!(plan(None, at(1000)), []);
        assert_eq!(plan(Some(at(941)), at(1000)), []);
        let wanted = Command::StartDeleting { before: at(940), limit: REAP_LIMIT_MAX };
        assert_eq!(plan(Some(at(940)), at(1000)), [wanted]);
    }
}
