//! A cluster's leader asks what became of removals that were started here and not ended: volume 0's cluster may have lost
//! its leader in between (P9.2).

use std::collections::BTreeMap;
use std::time::Duration;

use dfs_proto::error::MetaError;
use dfs_proto::federation::{VolumeAnswer, VolumeCall};
use dfs_proto::ids::{InodeId, VolumeId};
use dfs_proto::meta::MetaResult;
use dfs_proto::scope::Unleased;
use tokio::time::{Instant, sleep};

use super::Federation;
use crate::metaserver::Metaserver;
use dfs_state::command::Command;
use dfs_state::kv::Snapshot;
use dfs_state::read;
use dfs_state::value::volume::VolumeState;

const INTERVAL: Duration = Duration::from_secs(1);
/// A removal takes a fraction of a second, or an election.
const DOUBTFUL_AFTER: Duration = Duration::from_secs(5);

/// Runs while this member leads its cluster.
pub(crate) async fn undo(metaserver: &Metaserver, federation: &Federation) {
    // Since when this leader has seen each removal; soft: a new leader waits once more.
    let mut since: BTreeMap<VolumeId, Instant> = BTreeMap::new();
    loop {
        sleep(INTERVAL).await;
        let look = |state: &dyn Snapshot| Ok(read::volumes(state));
        let Ok(volumes) = metaserver.gate.read_unleased(Unleased::Volumes, look).await else { continue };
        let now = Instant::now();
        for volume in doubtful(&volumes, &mut since, now) {
            if let Err(error) = ask(metaserver, federation, volume).await {
                tracing::debug!(%volume, %error, "ask what became of its removal");
            }
        }
    }
}

fn doubtful(
    volumes: &[(VolumeId, VolumeState)],
    since: &mut BTreeMap<VolumeId, Instant>,
    now: Instant,
) -> Vec<VolumeId> {
    let is_removing = |(_, state): &&(VolumeId, VolumeState)| matches!(state, VolumeState::Removing { .. });
    let removing: Vec<VolumeId> = volumes.iter().filter(is_removing).map(|(volume, _)| *volume).collect();
    since.retain(|volume, _| removing.contains(volume));
    let is_old = |volume: &VolumeId| {
        let seen = *since.entry(*volume).or_insert(now);
        now.saturating_duration_since(seen) >= DOUBTFUL_AFTER
    };
    removing.iter().copied().filter(is_old).collect()
}

/// Either the removal fails from here on, and is taken back; or it is done, and the volume will be dropped.
async fn ask(metaserver: &Metaserver, federation: &Federation, volume: VolumeId) -> MetaResult<()> {
    let Some(root) = federation.map().cluster_of(InodeId::ROOT) else { return Ok(()) };
    let version = match federation.at(root, volume, VolumeCall::Fence).await {
        Ok(VolumeAnswer::Fenced { removed_at }) => removed_at,
        Ok(_) | Err(MetaError::NotFound) => return Ok(()),
        Err(error) => return Err(error),
    };
    let undo = Command::UndoRemoval { volume, version };
    metaserver.gate.change(undo).await.map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_removal_is_asked_about_once_it_has_lasted_and_not_after_it_ended() {
        let (start, mut since) = (Instant::now(), BTreeMap::new());
        let removing =
            [(VolumeId(1), VolumeState::Removing { version: 1 }), (VolumeId(2), VolumeState::Active)];
        assert_eq!(doubtful(&removing, &mut since, start), []);
        assert_eq!(doubtful(&removing, &mut since, start + DOUBTFUL_AFTER), [VolumeId(1)]);
        let active = [(VolumeId(1), VolumeState::Active)];
        assert_eq!(doubtful(&active, &mut since, start + DOUBTFUL_AFTER), []);
        assert_eq!(doubtful(&removing, &mut since, start + DOUBTFUL_AFTER), [], "a new one has its time");
    }
}
