//! The federation group's leader: changes of the map. New volumes go where `cluster_reports` says.

use dfs_proto::attr::Name;
use dfs_proto::error::MetaError;
use dfs_proto::federation::{AddedVolume, ClusterEntry, ClusterLoad, Federate, FederationMap};
use dfs_proto::ids::ClusterId;
use dfs_proto::meta::MetaResult;
use tokio::time::Instant;

use super::Federation;
use crate::coherence::soft::BeginsAnew as _;
use crate::raft::Consensus;
use dfs_state::federation::command::{Command, Reply};

impl Federation {
    /// Answers as the group's leader.
    pub(crate) async fn change_map(&self, call: Federate) -> MetaResult<Option<AddedVolume>> {
        let Some(member) = &self.member else { return Err(MetaError::NotLeader { leader: None }) };
        let leadership = member.leadership().borrow().clone();
        if !leadership.is_leader {
            return Err(MetaError::NotLeader { leader: leadership.leader_address });
        }
        self.reports.heard.enter_term(leadership.term, leadership.since); // keeps FG1
        let view = member.read().await?;
        let map = dfs_state::federation::map(&*view.snapshot());
        let map = map.ok_or(MetaError::Unavailable { what: "the federation is not made yet".to_owned() })?;
        let command = match call {
            Federate::AddVolume { name, cluster, except } => {
                if cluster.is_known() {
                    return self.add_volume(member, name, cluster).await.map(Some);
                }
                let chosen = self.reports.choose(&map, &except, Instant::now())?;
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
                Command::SettleVolume { volume, name, version }
            }
            Federate::RetireVolume { volume } => Command::RetireVolume { volume },
            Federate::ForgetVolume { volume } => Command::ForgetVolume { volume },
            Federate::CopyRoot { root } => Command::CopyRoot { root },
            Federate::Join { entry, .. } if map.clusters.is_empty() && !self.is_first(&entry) => {
                let what = "the first cluster, which gets the root directory, has not joined yet".to_owned();
                return Err(MetaError::Unavailable { what });
            }
            Federate::Join { cluster, entry } => Command::JoinCluster { cluster, entry },
            Federate::Leave { cluster } => Command::LeaveCluster { cluster },
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
    ) -> MetaResult<Option<Command>> {
        // Also of one that is refused: it may be about to join, and get the next volume.
        self.reports.heard(map, cluster, load, Instant::now());
        let command = match map.cluster(cluster) {
            Some(known) if *known == entry => None,
            Some(_) => Some(Command::MoveCluster { cluster, entry }),
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
        match propose(member, Command::AddVolume { cluster, name }).await? {
            Reply::VolumeAdded { volume } => {
                self.reports.placed(cluster);
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
    ) -> MetaResult<Command> {
        if map.clusters.is_empty() && self.is_first(&entry) {
            return Ok(Command::JoinCluster { cluster, entry });
        }
        let what = format!("cluster {} is not in the federation: `dfs cluster join` lets it in", entry.name);
        Err(MetaError::InvalidArgument { what })
    }
}

async fn propose(member: &Consensus, command: Command) -> MetaResult<Reply> {
    match member.propose(command).await? {
        Reply::Refused(refused) => Err(refused),
        reply => Ok(reply),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use dfs_net::env::{Env, Rng};

    use super::super::cluster_reports::STRANGERS_MAX;
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
        assert_eq!(join, Ok(Some(Command::JoinCluster { cluster: alpha, entry: entry("alpha") })));
        map.clusters.push((alpha, entry("alpha")));
        for stranger in 2..1000 {
            assert!(federation.reported(&map, ClusterId(stranger), entry("beta"), load).is_err());
        }
        assert_eq!(federation.reported(&map, alpha, entry("alpha"), load), Ok(None));
        let heard: Vec<ClusterId> = federation.reports.heard.lock().known.keys().copied().collect();
        assert!(heard.contains(&alpha) && heard.len() <= STRANGERS_MAX + 1, "{} are kept", heard.len());
    }
}
