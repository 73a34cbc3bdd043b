//! Removes what nothing needs any more: records of released orphans, behind cuts, of ended sessions (P7.2).

use std::time::Duration;

use tokio::time::sleep;

use super::execute::execute;
use crate::leases::Touched;
use crate::service::Metaserver;
use dfs_state::command::{Command, REAP_LIMIT_MAX};
use dfs_state::command::{Command, REAP_LIMIT_MAX};
use dfs_state::kv::Snapshot;
use dfs_state::kv::Snapshot;
use dfs_state::read;

/// Nobody waits for it: only space does.
const INTERVAL: Duration = Duration::from_millis(500);

pub(super) async fn run(metaserver: &Metaserver) {
    let mut more = false;
    loop {
        if !more {
            sleep(INTERVAL).await;
        }
        let look = |state: &dyn Snapshot| Ok(plan(read::has_work_for_reaper(state)));
        more = match metaserver.gate.read(&Touched::nothing(), None, look).await {
            Ok(planned) => execute(metaserver, planned).await,
            Err(_) => false,
        };
    }
}

/// Nothing to do costs no Raft entry.
fn plan(has_work: bool) -> Vec<Command> {
    has_work.then_some(Command::Reap { limit: REAP_LIMIT_MAX }).into_iter().collect()
}
