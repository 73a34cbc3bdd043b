//! The leader of volume 0's cluster makes everything else agree with the root directory (P9.2, P9.5): the map's names, and
//! the volumes whose making or removal nobody ended.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use dfs_proto::attr::Name;
use dfs_proto::error::MetaError;
use dfs_proto::federation::{Federate, FederationMap, RootCopy, VolumeAnswer, VolumeCall, VolumePhase};
use dfs_proto::ids::{ClusterId, InodeId, VolumeId};
use dfs_proto::meta::MetaResult;
use dfs_proto::scope::Scope;
use tokio::time::{Instant, timeout};

use super::Federation;
use crate::metaserver::Metaserver;
use dfs_state::command::Command;
use dfs_state::kv::Snapshot;
use dfs_state::read;
use dfs_state::value::volume::VolumeEntry;

/// Looked at again this often, also when nothing seems to have changed.
const INTERVAL: Duration = Duration::from_secs(5);

/// A number without a name is given up after this time: making a volume takes a fraction of a second, or an election.
const FORBID_AFTER: Duration = Duration::from_secs(5);

/// One thing that does not agree.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Task {
    CopyRoot(RootCopy),
    /// The map has no name for it, or an older one.
    Settle {
        volume: VolumeId,
        name: Name,
        version: u64,
    },
    /// It has a number and no name, and nobody here has been making it for a while: nobody may any more.
    Forbid {
        volume: VolumeId,
    },
    /// It has lost its name: the map says so.
    Retire {
        volume: VolumeId,
    },
    /// The map says so: its cluster forgets it.
    Drop {
        volume: VolumeId,
        cluster: ClusterId,
    },
}

/// What volume 0 says.
struct Root {
    attr: RootCopy,
    named: BTreeMap<VolumeId, (Name, u64)>,
    forbidden: BTreeSet<VolumeId>,
}

/// Runs while this member leads its cluster.
pub(crate) async fn settle(metaserver: &Metaserver, federation: &Federation) {
    // Since when this leader has seen each volume without a name; soft: a new leader waits once more.
    let mut since = BTreeMap::new();
    loop {
        // keeps FE2
        let map = federation.map();
        let making = may_be_made(&map, &mut since, federation.being_made(), Instant::now());
        if has_root(&map, metaserver.gate.cluster())
            && let Ok(root) = look(metaserver).await
        {
            for task in plan(&map, &making, &root) {
                if let Err(error) = carry_out(metaserver, federation, &task).await {
                    tracing::debug!(?task, %error, "make the federation agree with the root directory");
                }
            }
        }
        drop(timeout(INTERVAL, federation.to_settle(map.version)).await); // either is a reason to look again
    }
}

fn has_root(map: &FederationMap, own: ClusterId) -> bool {
    map.cluster_of(InodeId::ROOT) == Some(own)
}

/// Those that are being made here, and those that were not yet seen for long: their number may have come a moment ago.
fn may_be_made(
    map: &FederationMap,
    since: &mut BTreeMap<VolumeId, Instant>,
    mut making: BTreeSet<VolumeId>,
    now: Instant,
) -> BTreeSet<VolumeId> {
    let creating = map.volumes.iter().filter(|(_, entry)| entry.phase == VolumePhase::Creating);
    let creating: BTreeSet<VolumeId> = creating.map(|(volume, _)| *volume).collect();
    since.retain(|volume, _| creating.contains(volume) && !making.contains(volume));
    for volume in creating {
        let seen = *since.entry(volume).or_insert(now);
        if now.saturating_duration_since(seen) < FORBID_AFTER {
            making.insert(volume);
        }
    }
    making
}

async fn look(metaserver: &Metaserver) -> MetaResult<Root> {
    let look = |state: &dyn Snapshot| {
        let attr = read::getattr(state, InodeId::ROOT)?;
        let (mut named, mut forbidden) = (BTreeMap::new(), BTreeSet::new());
        for (volume, entry) in read::volume_entries(state) {
            match entry {
                VolumeEntry::Named { name, version } => drop(named.insert(volume, (name, version))),
                VolumeEntry::Forbidden => drop(forbidden.insert(volume)),
            }
        }
        let attr = RootCopy { mode: attr.mode, uid: attr.uid, gid: attr.gid };
        Ok(Root { attr, named, forbidden })
    };
    metaserver.gate.read(&Scope::of_inode(InodeId::ROOT), look).await
}

/// `making`: what this process was making when the map was read.
fn plan(map: &FederationMap, making: &BTreeSet<VolumeId>, root: &Root) -> Vec<Task> {
    let (mut tasks, mut names, mut drops) = (Vec::new(), Vec::new(), Vec::new());
    if map.root != root.attr {
        tasks.push(Task::CopyRoot(root.attr));
    }
    for (volume, entry) in map.volumes.iter().filter(|(volume, _)| *volume != VolumeId(0)) {
        let (volume, cluster) = (*volume, entry.cluster);
        match (root.named.get(&volume), entry.phase) {
            (Some((name, version)), _) if entry.version < *version => {
                names.push(Task::Settle { volume, name: name.clone(), version: *version });
            }
            (Some(_), _) => {}
            (None, VolumePhase::Creating) if root.forbidden.contains(&volume) => {
                tasks.push(Task::Retire { volume });
            }
            (None, VolumePhase::Creating) if making.contains(&volume) => {}
            (None, VolumePhase::Creating) => tasks.push(Task::Forbid { volume }),
            (None, VolumePhase::Active) => tasks.push(Task::Retire { volume }),
            (None, VolumePhase::Removing) => drops.push(Task::Drop { volume, cluster }),
        }
    }
    tasks.extend(names); // the one that lost a name first: no name is in the map twice
    tasks.extend(drops); // last, since the cluster may be away
    tasks
}

async fn carry_out(metaserver: &Metaserver, federation: &Federation, task: &Task) -> MetaResult<()> {
    match task {
        Task::CopyRoot(root) => federation.federate(Federate::CopyRoot { root: *root }).await.map(drop),
        Task::Settle { volume, name, version } => {
            let settle = Federate::SettleVolume { volume: *volume, name: name.clone(), version: *version };
            federation.federate(settle).await.map(drop)
        }
        Task::Forbid { volume } => {
            let forbid = Command::ForbidVolume { volume: *volume };
            match metaserver.gate.change(forbid).await {
                // It got its name after all.
                Err(MetaError::Exists) => Ok(()),
                Err(error) => Err(error),
                Ok(_) => retire(federation, *volume).await,
            }
        }
        Task::Retire { volume } => retire(federation, *volume).await,
        Task::Drop { volume, cluster } => match federation.at(*cluster, *volume, VolumeCall::Drop).await? {
            VolumeAnswer::Dropped { more: false } => {
                federation.federate(Federate::ForgetVolume { volume: *volume }).await.map(drop)
            }
            _ => Ok(()), // files of it are open
        },
    }
}

/// It has no name and gets none. The map changes, and so its cluster hears of it next.
async fn retire(federation: &Federation, volume: VolumeId) -> MetaResult<()> {
    federation.federate(Federate::RetireVolume { volume }).await.map(drop)
}

#[cfg(test)]
mod tests {
    use dfs_proto::federation::MapVolume;

    use super::*;

    const CLUSTER: ClusterId = ClusterId(1);

    fn name(text: &str) -> Name {
        Name::new(text).expect("valid")
    }

    fn map(volumes: &[(u32, VolumePhase, u64)]) -> FederationMap {
        let volume = |(id, phase, version): &(u32, VolumePhase, u64)| {
            let entry =
                MapVolume { cluster: CLUSTER, name: Some(name("v")), version: *version, phase: *phase };
            (VolumeId(*id), entry)
        };
        FederationMap { volumes: volumes.iter().map(volume).collect(), ..FederationMap::default() }
    }

    fn root(named: &[(u32, u64)], forbidden: &[u32]) -> Root {
        Root {
            attr: RootCopy::default(),
            named: named.iter().map(|(id, version)| (VolumeId(*id), (name("v"), *version))).collect(),
            forbidden: forbidden.iter().copied().map(VolumeId).collect(),
        }
    }

    fn planned(map: &FederationMap, making: &[u32], root: &Root) -> Vec<Task> {
        plan(map, &making.iter().copied().map(VolumeId).collect(), root)
    }

    #[test]
    fn what_agrees_needs_nothing() {
        let map = map(&[(0, VolumePhase::Active, 0), (1, VolumePhase::Active, 3)]);
        assert_eq!(planned(&map, &[], &root(&[(1, 3)], &[9])), []);
    }

    #[test]
    fn a_newer_name_goes_into_the_map() {
        let settle = Task::Settle { volume: VolumeId(1), name: name("v"), version: 4 };
        assert_eq!(planned(&map(&[(1, VolumePhase::Active, 3)]), &[], &root(&[(1, 4)], &[])), [settle]);
        let settle = Task::Settle { volume: VolumeId(1), name: name("v"), version: 1 };
        assert_eq!(planned(&map(&[(1, VolumePhase::Creating, 0)]), &[1], &root(&[(1, 1)], &[])), [settle]);
    }

    #[test]
    fn a_volume_that_nobody_makes_any_more_is_forbidden_before_it_is_removed() {
        let map = map(&[(1, VolumePhase::Creating, 0)]);
        assert_eq!(planned(&map, &[1], &root(&[], &[])), []);
        let volume = VolumeId(1);
        assert_eq!(planned(&map, &[], &root(&[], &[])), [Task::Forbid { volume }]);
        assert_eq!(planned(&map, &[], &root(&[], &[1])), [Task::Retire { volume }]);
    }

    #[test]
    fn a_number_that_was_given_a_moment_ago_may_still_get_its_name() {
        let map = map(&[(1, VolumePhase::Creating, 0), (2, VolumePhase::Active, 1)]);
        let (start, mut since) = (Instant::now(), BTreeMap::new());
        let one = BTreeSet::from([VolumeId(1)]);
        assert_eq!(may_be_made(&map, &mut since, BTreeSet::new(), start), one);
        let later = start + FORBID_AFTER;
        assert_eq!(may_be_made(&map, &mut since, one.clone(), later), one, "it is being made");
        assert_eq!(may_be_made(&map, &mut since, BTreeSet::new(), later), one, "nobody does any more");
        assert_eq!(may_be_made(&map, &mut since, BTreeSet::new(), later + FORBID_AFTER), BTreeSet::new());
    }

    #[test]
    fn a_volume_that_lost_its_name_is_retired_and_then_dropped_by_its_cluster() {
        let (volume, cluster) = (VolumeId(1), CLUSTER);
        let active = map(&[(1, VolumePhase::Active, 3)]);
        assert_eq!(planned(&active, &[], &root(&[], &[])), [Task::Retire { volume }]);
        let removing = map(&[(1, VolumePhase::Removing, 3)]);
        assert_eq!(planned(&removing, &[], &root(&[], &[])), [Task::Drop { volume, cluster }]);
    }

    #[test]
    fn a_lost_name_goes_first_then_the_new_one_and_a_cluster_that_may_be_away_is_asked_last() {
        let map =
            map(&[(1, VolumePhase::Removing, 3), (2, VolumePhase::Active, 3), (3, VolumePhase::Active, 3)]);
        let retire = Task::Retire { volume: VolumeId(3) };
        let settle = Task::Settle { volume: VolumeId(2), name: name("v"), version: 4 };
        let drop = Task::Drop { volume: VolumeId(1), cluster: CLUSTER };
        assert_eq!(planned(&map, &[], &root(&[(2, 4)], &[])), [retire, settle, drop]);
    }

    #[test]
    fn the_roots_attributes_are_copied_when_they_differ() {
        let mut root = root(&[], &[]);
        root.attr.mode = 0o1777;
        assert_eq!(planned(&map(&[]), &[], &root), [Task::CopyRoot(root.attr)]);
    }
}
