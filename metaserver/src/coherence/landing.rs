//! What outlives the caller of a change: it ends when the command is applied, or cannot be applied any more.

use std::time::Duration;

use dfs_proto::error::MetaError;
use dfs_proto::ids::SessionId;
use dfs_proto::meta::MetaResult;
use tokio::runtime::Handle;
use tokio::time::sleep;

use super::gate::Gate;
use super::opens::Removing;
use crate::raft::Consensus;
use dfs_state::command::{Command, Reply};

/// Between two looks at a command whose outcome is not known.
const LAND_EVERY: Duration = Duration::from_millis(200);

/// Keeps what is noted of removals until their command is applied, or cannot be applied any more (OP3): also when its caller
/// gives up, or is told that it may still happen.
pub(super) struct Landing {
    consensus: Consensus,
    term: u64,
    removing: Vec<Removing>,
}

impl Landing {
    pub(super) fn of(gate: &Gate, removing: Vec<Removing>) -> Landing {
        Landing { consensus: gate.consensus().clone(), term: gate.term(), removing }
    }

    pub(super) async fn of_command(mut self, gate: &Gate, command: Command) -> MetaResult<Reply> {
        let result = gate.send(command).await;
        if matches!(result, Ok(_) | Err(MetaError::InvalidArgument { .. })) {
            self.removing.clear(); // applied, or never proposed
        }
        result
    }
}

impl Drop for Landing {
    fn drop(&mut self) {
        let removing = std::mem::take(&mut self.removing);
        if removing.is_empty() {
            return;
        }
        if let Ok(runtime) = Handle::try_current() {
            let (consensus, term) = (self.consensus.clone(), self.term);
            runtime.spawn(async move {
                has_landed(&consensus, term).await;
                drop(removing);
            });
        }
    }
}

/// Returns when a command that was proposed in `term` before this call is applied, or this member leads in it no longer: what it
/// reads in a later one contains all that earlier ones have left. Commands are applied in the order of their proposals.
async fn has_landed(consensus: &Consensus, term: u64) {
    let nothing = Command::ReleaseFor { session: SessionId(0), inodes: Vec::new() };
    loop {
        let leads = {
            let leadership = consensus.leadership();
            let leadership = leadership.borrow();
            leadership.is_leader && leadership.term == term
        };
        if !leads || consensus.propose(nothing.clone()).await.is_ok() {
            return;
        }
        sleep(LAND_EVERY).await;
    }
}
