//! The leaders of other clusters and of the federation group, as this process reaches them.
//!
//! FP1  A cluster that did not answer in time, and gave no sign that it works on the call, counts as away. Calls to it fail at
//!      once until it has answered a probe. A probe is the first call after [`PROBE_AFTER`], or a report; other calls do not
//!      wait for it.

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use dfs_net::env::Env;
use dfs_net::rpc::Role;
use dfs_net::rpc::leader::LeaderChannel;
use dfs_net::rpc::unary::UnaryChannel;
use dfs_net::services::federation_client::FederationClient;
use dfs_proto::convert;
use dfs_proto::error::MetaError;
use dfs_proto::federation::{AddedVolume, Federate, FederationMap, VolumeAnswer, VolumeRequest};
use dfs_proto::ids::ClusterId;
use dfs_proto::meta::MetaResult;
use tokio::time::Instant;
use tonic::Status;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);
/// For one call to find a leader: an election elsewhere may pass. Longer means that no quorum is there.
const CALL_TIMEOUT: Duration = Duration::from_secs(4);
/// For a leader that works on it: its disks may be slow. Below what a change in the root directory may take (`volumes`).
const WORK_TIMEOUT: Duration = Duration::from_secs(15);
const PROBE_AFTER: Duration = Duration::from_secs(1);

pub(super) struct Peers {
    env: Env,
    group: Peer,
    clusters: Mutex<BTreeMap<ClusterId, Arc<Peer>>>,
}

/// The leader of one Raft group.
struct Peer {
    /// For people.
    name: String,
    channel: LeaderChannel,
    /// FP1: until when calls fail at once.
    away_until: Mutex<Option<Instant>>,
}

impl Peers {
    /// `seats`: members of the federation group.
    pub(super) fn new(env: Env, seats: Vec<String>) -> Peers {
        let group = Peer::new(&env, "the federation group".to_owned(), seats);
        Peers { env, group, clusters: Mutex::new(BTreeMap::new()) }
    }

    fn clusters(&self) -> MutexGuard<'_, BTreeMap<ClusterId, Arc<Peer>>> {
        self.clusters.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Where the clusters are.
    pub(super) fn learn(&self, map: &FederationMap) {
        let mut clusters = self.clusters();
        clusters.retain(|id, _| map.cluster(*id).is_some());
        for (id, entry) in &map.clusters {
            let name = || format!("cluster {}", entry.name);
            let peer = clusters
                .entry(*id)
                .or_insert_with(|| Arc::new(Peer::new(&self.env, name(), entry.metaservers.clone())));
            peer.channel.learn(&entry.metaservers);
        }
    }

    pub(super) async fn federate(&self, call: Federate) -> MetaResult<Option<AddedVolume>> {
        let request = convert::federate_to_wire(&call);
        // A report has a second for itself, and says best whether the group answers.
        let is_probe = matches!(call, Federate::Report { .. });
        self.group
            .call(is_probe, |channel| {
                let request = request.clone();
                async move {
                    let reply = FederationClient::new(channel).federate(request).await?;
                    Ok(convert::federated_from_wire(reply.into_inner()))
                }
            })
            .await
    }

    pub(super) async fn volume(&self, request: VolumeRequest) -> MetaResult<VolumeAnswer> {
        let peer = self.clusters().get(&request.cluster).cloned();
        let Some(peer) = peer else {
            return Err(MetaError::Away { what: format!("cluster {} is not in the map", request.cluster) });
        };
        let wire = convert::volume_request_to_wire(&request);
        peer.call(false, |channel| {
            let wire = wire.clone();
            async move {
                let reply = FederationClient::new(channel).volume(wire).await?;
                Ok(convert::volume_answer_from_wire(request.step, reply.into_inner()))
            }
        })
        .await
    }
}

impl Peer {
    fn new(env: &Env, name: String, addresses: Vec<String>) -> Peer {
        let channel = LeaderChannel::anonymous(env.clone(), Role::Metaserver, addresses, CONNECT_TIMEOUT);
        Peer { name, channel, away_until: Mutex::new(None) }
    }

    fn away_until(&self) -> MutexGuard<'_, Option<Instant>> {
        self.away_until.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Keeps FP1: true for the caller that is to find out.
    fn may_try(&self) -> bool {
        let now = Instant::now();
        let mut away_until = self.away_until();
        match *away_until {
            None => true,
            Some(until) if now < until => false,
            Some(_) => {
                *away_until = Some(now + CALL_TIMEOUT + PROBE_AFTER);
                true
            }
        }
    }

    async fn call<T, F>(&self, is_probe: bool, call: impl Fn(UnaryChannel) -> F) -> MetaResult<T>
    where
        F: Future<Output = Result<MetaResult<T>, Status>>,
    {
        let away = |what: String| MetaError::Away { what: format!("{}: {what}", self.name) };
        if !is_probe && !self.may_try() {
            return Err(away("it did not answer lately".to_owned()));
        }
        let answer = self.channel.call_while_working(CALL_TIMEOUT, WORK_TIMEOUT, call).await;
        match answer {
            Err(MetaError::Unavailable { what }) => {
                *self.away_until() = Some(Instant::now() + PROBE_AFTER);
                Err(away(what))
            }
            answer => {
                *self.away_until() = None;
                answer
            }
        }
    }
}
