//! Seals the open chunks of chunkservers that are away (P1.7).

use std::time::Duration;

use dfs_proto::ids::ServerId;
use tokio::time::{Instant, sleep};

use super::execute::execute;
use crate::leases::Touched;
use crate::service::Metaserver;
use crate::view::{Registered, View};
use dfs_state::command::{Command, REAP_LIMIT_MAX};
use dfs_state::command::{Command, REAP_LIMIT_MAX};
use dfs_state::kv::Snapshot;
use dfs_state::kv::Snapshot;
use dfs_state::read;

/// Short against `server_away`, so that a dead server's chunks are sealed soon after it counts as away.
const INTERVAL: Duration = Duration::from_millis(250);

pub(super) async fn run(metaserver: &Metaserver) {
    loop {
        sleep(INTERVAL).await; // short enough for G4 of the gate, which counts on these reads
        let view = &metaserver.gate.view;
        let look = |state: &dyn Snapshot| {
            let has_open = |server| read::has_open_chunks(state, server);
            Ok(plan(&read::servers(state), view, Instant::now(), has_open))
        };
        let Ok(planned) = metaserver.gate.read(&Touched::nothing(), None, look).await else { continue };
        // What one command leaves, the next round plans.
        execute(metaserver, planned).await;
    }
}

fn plan(
    registered: &[Registered],
    view: &View,
    now: Instant,
    has_open_chunks: impl Fn(ServerId) -> bool,
) -> Vec<Command> {
    let away = view.away(registered, now).into_iter();
    let affected = away.filter(|server| has_open_chunks(*server));
    affected.map(|server| Command::SealChunksOf { server, limit: REAP_LIMIT_MAX }).collect()
}

#[cfg(test)]
mod tests {
    use dfs_proto::ids::{DirectoryId, Instance};

    use super::*;
    use crate::view::Load;
    use dfs_state::command::ServerAddresses;
    use dfs_state::server::ServerRecord;

    #[test]
    fn open_chunks_are_sealed_only_on_servers_that_are_away() {
        let record = |id: u64| {
            let directory = DirectoryId(u128::from(id));
            let (addresses, zone) = (ServerAddresses::default(), String::new());
            (ServerId(id), ServerRecord { directory, addresses, zone, instance: Instance(1) })
        };
        let registered: Vec<Registered> = (1..=3).map(record).collect();
        let start = Instant::now();
        let view = View::new(Duration::from_secs(3), start);
        view.heard(ServerId(1), Instance(1), Load::default(), start + Duration::from_secs(4));
        let now = start + Duration::from_secs(5);
        let planned = plan(&registered, &view, now, |server| server != ServerId(3));
        assert_eq!(planned, [Command::SealChunksOf { server: ServerId(2), limit: REAP_LIMIT_MAX }]);
    }
}
