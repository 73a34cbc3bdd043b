//! Seals the open chunks of chunkservers that are away (P1.7).

use dfs_proto::ids::ServerId;
use dfs_proto::scope::Unleased;
use tokio::time::Instant;

use super::budget::{Budget, SEAL};
use super::work::{Learned, Work};
use crate::view::{Registered, View};
use dfs_state::command::Command;
use dfs_state::kv::Snapshot;
use dfs_state::read;

pub(super) struct Seal;

impl Work for Seal {
    fn budget(&self) -> Budget {
        SEAL
    }

    fn records(&self) -> Unleased {
        Unleased::Chunks
    }

    fn plan(&self, state: &dyn Snapshot, learned: &Learned<'_>) -> Vec<Command> {
        let has_open = |server| read::has_open_chunks(state, server);
        plan(&read::servers(state), learned.view, learned.now, has_open)
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
    affected.map(|server| Command::SealChunksOf { server, limit: SEAL.records_max }).collect()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use dfs_proto::ids::{DirectoryId, Instance};

    use super::*;
    use crate::view::Load;
    use dfs_state::command::ServerAddresses;
    use dfs_state::value::server::ServerRecord;

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
        assert_eq!(planned, [Command::SealChunksOf { server: ServerId(2), limit: SEAL.records_max }]);
    }
}
