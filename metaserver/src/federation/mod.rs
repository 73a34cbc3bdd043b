//! This metaserver's part in the federation (P9): it follows the map and serves it, may be a member of the group that keeps it,
//! and while it leads its cluster reports how busy that is.
//!
//!     follow    the newest map, from the group; kept on disk, so that it is served when the group is away
//!     group     while this process leads the group: changes of the map, and which cluster gets a volume
//!               (`cluster_reports`, `placement`)
//!     volumes   changes in the root directory, led by volume 0's cluster: making, renaming and removing volumes (P9.2)
//!     settle    volume 0's leader makes the map, and the volumes' clusters, agree with the root directory
//!     undo      a cluster's leader asks what became of removals that were started and not ended
//!     report    a cluster's leader tells the group where it is and how busy
//!
//! FE1  The entries of volume 0 decide. The map is a copy that may be behind, and every step can be repeated.
//! FE2  The map is read before the entries that it is compared with. So an entry that is made in between is not taken for one
//!      that the map has lost.
//! FE3  After a cluster has not answered once, nobody waits for it again before it has answered a probe: [`Peers`].

mod cluster_reports;
mod follow;
mod group;
mod peers;
mod placement;
mod report;
mod settle;
#[cfg(test)]
mod tests;
mod undo;
mod volumes;

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use dfs_net::env::Env;
use dfs_net::rpc::Role;
use dfs_net::rpc::leader::LeaderChannel;
use dfs_proto::federation::{AddedVolume, Federate, FederationMap, VolumeAnswer, VolumeCall, VolumeRequest};
use dfs_proto::ids::{ClusterId, VolumeId};
use dfs_proto::meta::MetaResult;
use tokio::sync::{Notify, watch};
use tokio::time::Instant;

use crate::raft::Consensus;
use cluster_reports::ClusterReports;
use peers::Peers;

pub(crate) use follow::{follow, kept};
pub(crate) use report::report;
pub(crate) use settle::settle;
pub(crate) use undo::undo;

/// For a connection to a member of the group.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);

/// One process's view of the federation.
pub(crate) struct Federation {
    /// This process's member of the federation group, if it is one.
    pub(crate) member: Option<Consensus>,
    reports: ClusterReports,
    /// gRPC addresses of the group's members, by their numbers.
    seats: Vec<String>,
    /// To the group's members, each by its address.
    channel: LeaderChannel,
    map: watch::Sender<Arc<FederationMap>>,
    peers: Peers,
    /// Volumes that this process is making.
    making: Mutex<BTreeSet<VolumeId>>,
    /// The root directory has changed: the map is to follow.
    changed: Notify,
}

/// While it lives, a volume is being made here.
struct Making<'f> {
    federation: &'f Federation,
    volume: VolumeId,
}

impl Drop for Making<'_> {
    fn drop(&mut self) {
        self.federation.making_now().remove(&self.volume);
        self.federation.root_changed();
    }
}

impl Federation {
    /// `seats`: gRPC addresses of the group's members. `known`: the last map that was kept.
    pub(crate) fn new(
        env: Env,
        member: Option<Consensus>,
        seats: Vec<String>,
        known: FederationMap,
    ) -> Federation {
        let peers = Peers::new(env.clone(), seats.clone());
        peers.learn(&known);
        let channel = LeaderChannel::anonymous(env, Role::Metaserver, seats.clone(), CONNECT_TIMEOUT);
        Federation {
            peers,
            channel,
            member,
            reports: ClusterReports::new(Instant::now()),
            seats,
            map: watch::Sender::new(Arc::new(known)),
            making: Mutex::default(),
            changed: Notify::new(),
        }
    }

    /// gRPC addresses of the group's members.
    pub(crate) fn seats(&self) -> &[String] {
        &self.seats
    }

    /// The newest map known here; version 0: none yet.
    pub(crate) fn map(&self) -> Arc<FederationMap> {
        self.map.borrow().clone()
    }

    /// Waits until the map is newer than `version`.
    pub(crate) async fn newer_than(&self, version: u64) -> Arc<FederationMap> {
        let mut changes = self.map.subscribe();
        match changes.wait_for(|map| map.version > version).await.map(|map| map.clone()) {
            Ok(map) => map,
            Err(_) => self.map(), // the sender lives as long as this
        }
    }

    /// Takes over a map that is newer than the one known. Tells whether it was. One of another federation is none.
    fn learn(&self, map: FederationMap) -> bool {
        let is_newer = self.map.send_if_modified(|known| {
            let is_first = known.version == 0;
            if !is_first && known.federation != map.federation {
                let (ours, other) = (known.federation, map.federation);
                tracing::error!("the map of federation {other} is refused: this server is of {ours}");
                return false;
            }
            let is_newer = map.version > known.version;
            if is_newer {
                *known = Arc::new(map);
            }
            is_newer
        });
        if is_newer {
            self.peers.learn(&self.map());
        }
        is_newer
    }

    fn making_now(&self) -> MutexGuard<'_, BTreeSet<VolumeId>> {
        self.making.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn making(&self, volume: VolumeId) -> Making<'_> {
        self.making_now().insert(volume);
        Making { federation: self, volume }
    }

    fn being_made(&self) -> BTreeSet<VolumeId> {
        self.making_now().clone()
    }

    /// Whoever settles is to look again.
    fn root_changed(&self) {
        self.changed.notify_one();
    }

    /// Waits until the root directory has changed here, or the map is newer than `version`.
    async fn to_settle(&self, version: u64) {
        tokio::select! {
            () = self.changed.notified() => {}
            _ = self.newer_than(version) => {}
        }
    }

    /// Has the group's leader change the map.
    async fn federate(&self, call: Federate) -> MetaResult<Option<AddedVolume>> {
        self.peers.federate(call).await
    }

    /// Has the leader of `cluster` do a step for a volume.
    async fn at(&self, cluster: ClusterId, volume: VolumeId, step: VolumeCall) -> MetaResult<VolumeAnswer> {
        self.peers.volume(VolumeRequest { cluster, volume, step }).await
    }
}
