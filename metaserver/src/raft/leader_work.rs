//! What the leader of a group keeps true: the cluster or the federation has been made, and the cluster's state has the present
//! members with their addresses. Every step is idempotent, so that a new leader can go on where the last one stopped.

use std::time::Duration;

use dfs_proto::error::MetaError;
use dfs_proto::ids::{ClusterId, FederationId};
use tokio::time::timeout;

use super::consensus::Consensus;
use super::options::{ClusterOptions, Purpose};
use dfs_state::command::{Command, InitCluster};
use dfs_state::federation;

/// How long the leader waits after a try that failed, and between two checks.
const TRY_AGAIN: Duration = Duration::from_millis(200);
const CHECK_AGAIN: Duration = Duration::from_secs(5);

/// Does the leader's work whenever this member leads.
pub(crate) async fn lead(consensus: Consensus, purpose: Purpose) {
    let mut leadership = consensus.leadership();
    loop {
        let is_leader = leadership.borrow_and_update().is_leader;
        let pause = match is_leader.then_some(()) {
            None => {
                if leadership.changed().await.is_err() {
                    return;
                }
                continue;
            }
            Some(()) => match make(&consensus, &purpose).await {
                Ok(()) => CHECK_AGAIN,
                Err(error) => {
                    tracing::debug!("make what the group is for: {error}");
                    TRY_AGAIN
                }
            },
        };
        // Whichever comes first, the loop looks again; it notices above if this member leads no more.
        drop(timeout(pause, leadership.changed()).await);
    }
}

async fn make(consensus: &Consensus, purpose: &Purpose) -> Result<(), MetaError> {
    match purpose {
        Purpose::Cluster(options) => make_cluster(consensus, options).await,
        Purpose::Federation => make_federation(consensus).await,
    }
}

async fn make_federation(consensus: &Consensus) -> Result<(), MetaError> {
    let is_made = federation::id(&*consensus.read().await?.snapshot()).is_some();
    if !is_made {
        let federation = FederationId(consensus.group().env.rng.u128());
        consensus.propose(federation::command::Command::Init { federation }).await?;
    }
    Ok(())
}

async fn make_cluster(consensus: &Consensus, options: &ClusterOptions) -> Result<(), MetaError> {
    let (record, members) = {
        let view = consensus.read().await?;
        let snapshot = view.snapshot();
        (dfs_state::read::cluster(&*snapshot), dfs_state::read::members(&*snapshot))
    };
    if record.is_none() {
        let rng = &consensus.group().env.rng;
        let init = InitCluster {
            cluster: ClusterId(rng.u128()),
            name: options.name.clone(),
            copies: options.copies,
            copies_min: options.copies_min,
            hash_key: rng.u128(),
            root: options.root,
        };
        consensus.propose(Command::InitCluster(init)).await?;
    }
    let wanted = consensus.members();
    if !wanted.is_empty() && members != wanted {
        consensus.propose(Command::RecordMembers { members: wanted }).await?;
    }
    Ok(())
}
