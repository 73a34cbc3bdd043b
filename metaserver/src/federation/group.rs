//! The federation group's leader: changes of the map, and where new volumes go.
//!
//! FG1  Reports about how busy clusters are count only in the term in which they came ([`Soft`]). A volume is placed once every
//!      cluster of the map has reported living chunkservers in this term, or [`COMPLETE_AFTER`] has passed since the election (as
//!      P10.2). (A cluster that has just elected a leader reports no chunkservers at first.)

use std::collections::BTreeMap;
use std::time::Duration;

use dfs_proto::attr::Name;
use dfs_proto::error::MetaError;
use dfs_proto::federation::{AddedVolume, ClusterEntry, ClusterLoad, Federate, FederationMap};
use dfs_proto::ids::ClusterId;
use dfs_proto::meta::MetaResult;
use tokio::time::Instant;

use super::Federation;
use super::placement::{Candidate, choose};
use super::report::REPORT_INTERVAL;
use crate::coherence::soft::{BeginsAnew as _, Soft};
use crate::raft::Consensus;
use dfs_state::command::{Command, FederationCommand, Reply};

/// One and a half intervals of reports. A call waits longer than this, so with a cluster away the first call already succeeds.
const COMPLETE_AFTER: Duration = REPORT_INTERVAL.saturating_mul(3).checked_div(2).expect("not by zero");
/// A cluster that was silent for this long gets no volumes.
const SILENT_AFTER: Duration = Duration::from_secs(3 * REPORT_INTERVAL.as_secs() + 1);

/// Clusters that are not in the map and whose load is kept. Whoever makes up more fills no memory.
const STRANGERS_MAX: usize = 64;

/// What this process has heard as the group's leader.
pub(crate) struct Group {
    heard: Soft<BTreeMap<ClusterId, Heard>>,
}

struct Heard {
    load: ClusterLoad,
    at: Instant,
    placed_since: u32,
}

impl Federation {
    /// Answers as the group's leader.
    pub(crate) async fn change_map(&self, call: Federate) -> MetaResult<Option<AddedVolume>> {
        let Some(member) = &self.member else { return Err(MetaError::NotLeader { leader: None }) };
        let leadership = member.leadership().borrow().clone();
        if !leadership.is_leader {
            return Err(MetaError::NotLeader { leader: leadership.leader_address });
        }
        self.group.heard.enter_term(leadership.term, leadership.since); // keeps FG1
        let view = member.read().await?;
        let map = dfs_state::federation::map(&*view.snapshot());
        let map = map.ok_or(MetaError::Unavailable { what: "the federation is not made yet".to_owned() })?;
        let command = match call {
            Federate::AddVolume { name, cluster, except } => {
                if cluster.is_known() {
                    return self.add_volume(member, name, cluster).await.map(Some);
                }
                let chosen = self.group.choose(&map, &except, Instant::now())?;
                return match self.add_volume(member, name, chosen).await {
                    // It has left meanwhile: the next try chooses anew.
                    Err(MetaError::InvalidArgument { what }) => Err(MetaError::Unavailable { what }),
                    added => added.map(Some),
                };
            }
            Federate::Report { cluster, entry, load } => match self.reported(&map, cluster, entry, load)? {
                None => return Ok(None),
                Some(command) => command,
            },
            Federate::SettleVolume { volume, name, version } => {
                FederationCommand::SettleVolume { volume, name, version }
            }
            Federate::RetireVolume { volume } => FederationCommand::RetireVolume { volume },
            Federate::ForgetVolume { volume } => FederationCommand::ForgetVolume { volume },
            Federate::CopyRoot { root } => FederationCommand::CopyRoot { root },
            Federate::Join { entry, .. } if map.clusters.is_empty() && !self.is_first(&entry) => {
                let what = "the first cluster, which gets the root directory, has not joined yet".to_owned();
                return Err(MetaError::Unavailable { what });
            }
            Federate::Join { cluster, entry } => FederationCommand::JoinCluster { cluster, entry },
            Federate::Leave { cluster } => FederationCommand::LeaveCluster { cluster },
        };
        propose(member, command).await.map(|_| None)
    }

    /// A cluster says where it is and how busy; `None`: the map needs no change.
    fn reported(
        &self,
        map: &FederationMap,
        cluster: ClusterId,
        entry: ClusterEntry,
        load: ClusterLoad,
    ) -> MetaResult<Option<FederationCommand>> {
        // Also of one that is refused: it may be about to join, and get the next volume.
        self.group.heard(map, cluster, load, Instant::now());
        let command = match map.cluster(cluster) {
            Some(known) if *known == entry => None,
            Some(_) => Some(FederationCommand::MoveCluster { cluster, entry }),
            None => Some(self.first_join(map, cluster, entry)?),
        };
        Ok(command)
    }

    /// P9.2, step 1.
    async fn add_volume(
        &self,
        member: &Consensus,
        name: Name,
        cluster: ClusterId,
    ) -> MetaResult<AddedVolume> {
        match propose(member, FederationCommand::AddVolume { cluster, name }).await? {
            Reply::VolumeAdded { volume } => {
                self.group.placed(cluster);
                Ok(AddedVolume { volume, cluster })
            }
            other => Err(MetaError::Internal { what: format!("unexpected reply {other:?}") }),
        }
    }

    /// It has the group's first member.
    fn is_first(&self, entry: &ClusterEntry) -> bool {
        self.seats.first().is_some_and(|seat| entry.metaservers.contains(seat))
    }

    /// The cluster of the group's first member joins by itself, and has the root directory; others when an administrator
    /// says so.
    fn first_join(
        &self,
        map: &FederationMap,
        cluster: ClusterId,
        entry: ClusterEntry,
    ) -> MetaResult<FederationCommand> {
        if map.clusters.is_empty() && self.is_first(&entry) {
            return Ok(FederationCommand::JoinCluster { cluster, entry });
        }
        let what = format!("cluster {} is not in the federation: `dfs cluster join` lets it in", entry.name);
        Err(MetaError::InvalidArgument { what })
    }
}

fn has_servers(heard: &Heard) -> bool {
    heard.load.chunkservers > 0
}

async fn propose(member: &Consensus, command: FederationCommand) -> MetaResult<Reply> {
    match member.propose(Command::Federation(command)).await? {
        Reply::Refused(refused) => Err(refused),
        reply => Ok(reply),
    }
}

impl Group {
    pub(super) fn new(now: Instant) -> Group {
        Group { heard: Soft::new(now) }
    }

    fn heard(&self, map: &FederationMap, cluster: ClusterId, load: ClusterLoad, now: Instant) {
        let mut soft = self.heard.lock();
        let is_stranger = |id: &ClusterId| map.cluster(*id).is_none();
        if is_stranger(&cluster) && !soft.known.contains_key(&cluster) {
            let strangers = soft.known.keys().filter(|id| is_stranger(id)).count();
            if strangers >= STRANGERS_MAX {
                return;
            }
        }
        soft.known.insert(cluster, Heard { load, at: now, placed_since: 0 });
    }

    fn placed(&self, cluster: ClusterId) {
        if let Some(heard) = self.heard.lock().known.get_mut(&cluster) {
            heard.placed_since += 1;
        }
    }

    fn choose(&self, map: &FederationMap, except: &[ClusterId], now: Instant) -> MetaResult<ClusterId> {
        let soft = self.heard.lock();
        let is_complete = now.saturating_duration_since(soft.since) >= COMPLETE_AFTER
            || map.clusters.iter().all(|(id, _)| soft.known.get(id).is_some_and(has_servers));
        if !is_complete {
            let what = "waiting for the clusters to report how busy they are".to_owned();
            return Err(MetaError::Unavailable { what }); // keeps FG1
        }
        let candidate = |(id, entry): &(ClusterId, ClusterEntry)| {
            let heard = soft.known.get(id)?;
            let is_there = now.saturating_duration_since(heard.at) < SILENT_AFTER && !except.contains(id);
            is_there.then(|| Candidate {
                cluster: *id,
                name: entry.name.clone(),
                load: heard.load,
                volumes: map.volumes.iter().filter(|(_, volume)| volume.cluster == *id).count(),
                placed_since: heard.placed_since,
            })
        };
        let candidates: Vec<Candidate> = map.clusters.iter().filter_map(candidate).collect();
        // It may have some by its next report.
        choose(&candidates).ok_or_else(|| match except {
            [] => MetaError::Unavailable {
                what: "no cluster with a living chunkserver has reported".to_owned(),
            },
            _ => {
                MetaError::Away { what: "no other cluster with a living chunkserver has reported".to_owned() }
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use dfs_net::env::{Env, Rng};

    use super::*;
    use crate::memory_net::{MemoryNet, TokioClock};

    #[tokio::test]
    async fn of_clusters_that_are_not_in_the_map_little_is_kept_and_of_those_in_it_everything() {
        let clock = Arc::new(TokioClock(Instant::now()));
        let env = Env { clock, rng: Rng::seeded(1), net: Arc::new(MemoryNet::default()) };
        let federation = Federation::new(env, None, vec!["alpha:1".to_owned()], FederationMap::default());
        let entry =
            |name: &str| ClusterEntry { name: name.to_owned(), metaservers: vec![format!("{name}:1")] };
        let (mut map, load) = (FederationMap::default(), ClusterLoad::default());
        let (alpha, join) = (ClusterId(1), federation.reported(&map, ClusterId(1), entry("alpha"), load));
        assert_eq!(join, Ok(Some(FederationCommand::JoinCluster { cluster: alpha, entry: entry("alpha") })));
        map.clusters.push((alpha, entry("alpha")));
        for stranger in 2..1000 {
            assert!(federation.reported(&map, ClusterId(stranger), entry("beta"), load).is_err());
        }
        assert_eq!(federation.reported(&map, alpha, entry("alpha"), load), Ok(None));
        let heard: Vec<ClusterId> = federation.group.heard.lock().known.keys().copied().collect();
        assert!(heard.contains(&alpha) && heard.len() <= STRANGERS_MAX + 1, "{} are kept", heard.len());
    }
}
