//! Registers this server at its cluster's leader and reports to it: load up, deletion orders down.
//!
//! H1  Cluster and server id are stamped on the data directory before anything is served under them (P11.1).
//! H2  Only chunks that the leader named are deleted, and each is confirmed after it is gone for good (P10.6).
//! H3  After a failure all metaservers are tried at once and again, so that a new leader hears us soon (P10.2).
//! Deleting never delays a heartbeat: it is a task beside it, one at a time.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use dfs_net::rpc::Identity;
use dfs_net::rpc::grpc::SharedIdentity;
use dfs_net::rpc::leader::LeaderChannel;
use dfs_net::services::cluster_client::ClusterClient;
use dfs_proto::convert;
use dfs_proto::error::MetaError;
use dfs_proto::ids::{ChunkId, ClusterId, Incarnation, Instance, ServerId};
use dfs_proto::meta::Replica;
use dfs_proto::wire;
use thiserror::Error;
use tokio::time::{Instant, MissedTickBehavior, interval_at, sleep};

use crate::machine::{Machine, MachineLoad};
use crate::metrics::Metrics;
use crate::neighbours::Neighbours;
use crate::service::Service;
use crate::store::stamp::{Directory, DirectoryError};
use crate::store::{ChunkStore, StoreLoad};
use crate::workers::Workers;

/// For finding a leader and its answer: long enough to pass over a member that hangs (a second and a half).
const CALL_DEADLINE: Duration = Duration::from_secs(6);
/// After the leader's refusal, which trying again will hardly change.
const REFUSED_PAUSE: Duration = Duration::from_secs(1);
/// Confirmations that one heartbeat carries; the leader orders no more deletions at a time.
const CONFIRMATIONS_MAX: usize = 1000;

/// Before a heartbeat that could not wait.
const ASKED_PAUSE: Duration = Duration::from_millis(20);

/// Damaged chunks that one heartbeat reports: the leader takes no more at a time, and what it took is not repeated.
const DAMAGE_REPORTS_MAX: usize = 100;

/// Why this server cannot be of its cluster: it stops.
#[derive(Debug, Error)]
pub enum RegisterError {
    #[error(transparent)]
    Directory(#[from] DirectoryError),
    #[error("the metaserver refuses this chunkserver: {0}")]
    Refused(MetaError),
    #[error("the metaserver's answer is malformed: {what}")]
    Malformed { what: &'static str },
}

/// Where others reach this server, and what it says about itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Advertised {
    pub grpc: String,
    pub frames: String,
    /// Empty: it serves none.
    pub http: String,
    pub zone: String,
}

/// How registration stands, for `/healthz`. Cloning gives another handle.
#[derive(Clone)]
pub(crate) struct Registration(Arc<Mutex<Option<String>>>);

impl Registration {
    pub(crate) fn new() -> Registration {
        Registration(Arc::new(Mutex::new(Some("not registered yet".to_owned()))))
    }

    /// `None`: the last heartbeat was answered.
    pub(crate) fn last_failure(&self) -> Option<String> {
        lock(&self.0).clone()
    }

    /// Remembers it, and logs what is new: a cluster that is away for an hour is two lines.
    fn report(&self, failure: Option<String>) {
        let mut last = lock(&self.0);
        match (&*last, &failure) {
            (Some(_), None) => tracing::info!("registered, heartbeats are answered"),
            (None, Some(what)) => tracing::warn!("no heartbeat is answered: {what}"),
            (Some(before), Some(what)) if before != what => tracing::debug!("still no answer: {what}"),
            (Some(_), Some(_)) | (None, None) => {}
        }
        *last = failure;
    }
}

fn lock<T: ?Sized>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Everything a heartbeat speaks about.
pub(crate) struct Heartbeat {
    pub(crate) leader: LeaderChannel,
    pub(crate) directory: Arc<Mutex<Directory>>,
    pub(crate) identity: SharedIdentity,
    pub(crate) advertised: Advertised,
    pub(crate) store: ChunkStore,
    pub(crate) service: Service,
    pub(crate) neighbours: Neighbours,
    pub(crate) machine: Arc<Mutex<dyn Machine>>,
    pub(crate) workers: Workers,
    pub(crate) interval: Duration,
    pub(crate) registration: Registration,
    pub(crate) metrics: Metrics,
    pub(crate) deletions: Deletions,
}

/// Who we are for the leader, until it says that somebody else is.
#[derive(Clone, Copy)]
struct Registered {
    cluster: ClusterId,
    server: ServerId,
    instance: Instance,
}

/// Why there is no registration: for now, or for good.
enum NotRegistered {
    Yet(String),
    Ever(RegisterError),
}

impl Heartbeat {
    /// Until the future is dropped, or this server turns out not to belong to the cluster.
    pub(crate) async fn run(self) -> RegisterError {
        loop {
            let registered = match self.register().await {
                Ok(registered) => registered,
                Err(NotRegistered::Yet(what)) => {
                    self.registration.report(Some(what));
                    sleep(REFUSED_PAUSE.min(self.interval)).await;
                    continue;
                }
                Err(NotRegistered::Ever(fatal)) => return fatal,
            };
            self.report_while_registered(registered).await;
        }
    }

    async fn register(&self) -> Result<Registered, NotRegistered> {
        let request = self.register_request();
        let call = |channel| {
            let request = request.clone();
            async move {
                let reply = ClusterClient::new(channel).register(request).await?.into_inner();
                Ok(convert::refusal(reply.error.clone()).map(|()| reply))
            }
        };
        let reply = self.leader.call(CALL_DEADLINE, call).await.map_err(|error| match error {
            MetaError::Unavailable { what } => NotRegistered::Yet(what),
            MetaError::NotLeader { .. } | MetaError::Undecided { .. } | MetaError::Internal { .. } => {
                NotRegistered::Yet(error.to_string())
            }
            error => NotRegistered::Ever(RegisterError::Refused(error)),
        })?;
        let malformed = |what| NotRegistered::Ever(RegisterError::Malformed { what });
        let cluster = ClusterId::from_wire(&reply.cluster).filter(|cluster| cluster.is_known());
        let cluster = cluster.ok_or_else(|| malformed("no cluster id"))?;
        if reply.server == 0 || reply.instance == 0 {
            return Err(malformed("no server id or instance"));
        }
        let server = ServerId(reply.server);
        let directory = Arc::clone(&self.directory);
        let stamped = self.workers.run(move || lock(&directory).register(cluster, server)).await;
        stamped.unwrap_or(Ok(())).map_err(|error| NotRegistered::Ever(error.into()))?; // keeps H1
        self.service.set_incarnation(Incarnation(reply.incarnation));
        self.identity.set(Identity { id: server.0, cluster, ..self.identity.get() });
        tracing::info!("registered as {server} of cluster {cluster}, instance {}", reply.instance);
        Ok(Registered { cluster, server, instance: Instance(reply.instance) })
    }

    fn register_request(&self) -> wire::RegisterRequest {
        let stamp = lock(&self.directory).stamp();
        let Advertised { grpc, frames, http, zone } = self.advertised.clone();
        wire::RegisterRequest {
            cluster: stamp.cluster.to_wire().into(),
            server: stamp.server.0,
            directory: stamp.directory.to_wire().into(),
            grpc_address: grpc,
            frames_address: frames,
            http_address: http,
            zone,
        }
    }

    /// Returns when the leader wants us to register again.
    async fn report_while_registered(&self, registered: Registered) {
        let mut ticks = interval_at(Instant::now(), self.interval);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                _ = ticks.tick() => {}
                // At most so often, whoever makes us ask.
                () = self.neighbours.asked() => sleep(ASKED_PAUSE).await,
            }
            match self.beat(registered).await {
                Ok(reply) => {
                    self.registration.report(None);
                    if reply.re_register {
                        tracing::info!("asked to register again");
                        return;
                    }
                    self.deletions.order(&self.store, reply.delete.into_iter().map(ChunkId).collect());
                }
                Err(error) => {
                    self.metrics.heartbeat_failures.inc();
                    self.registration.report(Some(error.to_string()));
                    ticks.reset_immediately(); // keeps H3: the time between beats has passed in trying
                    sleep(Duration::from_millis(50)).await;
                }
            }
        }
    }

    async fn beat(&self, registered: Registered) -> Result<wire::HeartbeatReply, MetaError> {
        let deleted = self.deletions.to_confirm();
        let damaged: Vec<ChunkId> = self.store.damaged().into_iter().take(DAMAGE_REPORTS_MAX).collect();
        let request = wire::HeartbeatRequest {
            cluster: registered.cluster.to_wire().into(),
            server: registered.server.0,
            instance: registered.instance.0,
            load: Some(self.load().await),
            deleted: deleted.iter().map(|chunk| chunk.0).collect(),
            damaged: damaged.iter().map(|chunk| chunk.0).collect(),
            servers_version: self.neighbours.version(),
        };
        let call = |channel| {
            let request = request.clone();
            async move {
                let reply = ClusterClient::new(channel).heartbeat(request).await?.into_inner();
                Ok(convert::refusal(reply.error.clone()).map(|()| reply))
            }
        };
        let reply = self.leader.call(CALL_DEADLINE, call).await?;
        if !reply.re_register {
            self.deletions.confirmed(&deleted);
            self.store.damage_reported(&damaged);
            let replica = |known: &wire::ServerAddress| Replica {
                server: ServerId(known.server),
                address: known.frames_address.clone(),
            };
            self.neighbours.told(reply.servers_version, reply.servers.iter().map(replica));
        }
        Ok(reply)
    }

    async fn load(&self) -> wire::Load {
        let machine = Arc::clone(&self.machine);
        let measured = self.workers.run(move || lock(&machine).measure()).await;
        let MachineLoad { cpu_percent, memory_total_bytes, memory_available_bytes } =
            measured.unwrap_or_default();
        // A disk that does not even tell its space takes no appends.
        let failing = |error| {
            tracing::warn!("measure the data directory's space: {error}");
            StoreLoad { is_full: true, ..StoreLoad::default() }
        };
        let StoreLoad { space, is_full, chunks } = self.store.load().await.unwrap_or_else(failing);
        self.metrics.disk_total_bytes.set(space.total_bytes);
        self.metrics.disk_free_bytes.set(space.free_bytes);
        self.metrics.chunks.set(chunks);
        wire::Load {
            cpu_percent,
            memory_total: memory_total_bytes,
            memory_available: memory_available_bytes,
            disk_total: space.total_bytes,
            disk_free: space.free_bytes,
            filesystem: space.filesystem.into(),
            requests_in_flight: self.service.requests_in_flight(),
            chunks,
            full: is_full,
        }
    }
}

/// Orders that are being carried out, and confirmations that wait for the next heartbeat.
#[derive(Clone, Default)]
pub(crate) struct Deletions(Arc<Mutex<DeletionState>>);

#[derive(Default)]
struct DeletionState {
    is_running: bool,
    done: BTreeSet<ChunkId>,
}

impl Deletions {
    /// Starts deleting, unless it is still at the last orders: the leader repeats them until they are confirmed.
    fn order(&self, store: &ChunkStore, chunks: Vec<ChunkId>) {
        {
            let mut state = lock(&self.0);
            let is_waiting = state.done.len() >= CONFIRMATIONS_MAX;
            if chunks.is_empty() || is_waiting || std::mem::replace(&mut state.is_running, true) {
                return;
            }
        }
        let (deletions, store) = (self.clone(), store.clone());
        tokio::spawn(async move {
            let gone = store.delete(chunks).await;
            let mut state = lock(&deletions.0);
            state.is_running = false;
            state.done.extend(gone); // keeps H2
        });
    }

    fn to_confirm(&self) -> Vec<ChunkId> {
        lock(&self.0).done.iter().take(CONFIRMATIONS_MAX).copied().collect()
    }

    fn confirmed(&self, chunks: &[ChunkId]) {
        let mut state = lock(&self.0);
        for chunk in chunks {
            state.done.remove(chunk);
        }
    }
}
