//! Removes what nothing needs any more: records of released orphans, behind cuts, of ended sessions (P7.2).

use dfs_proto::scope::Unleased;

use super::budget::{Budget, REAP};
use super::work::{Learned, Work};
use dfs_state::command::Command;
use dfs_state::kv::Snapshot;
use dfs_state::read;

pub(super) struct Reap;

impl Work for Reap {
    fn budget(&self) -> Budget {
        REAP
    }

    fn records(&self) -> Unleased {
        Unleased::Garbage
    }

    fn plan(&self, state: &dyn Snapshot, _learned: &Learned<'_>) -> Vec<Command> {
        let limit = REAP.records_max;
        read::has_work_for_reaper(state).then_some(Command::Reap { limit }).into_iter().collect()
    }
}
