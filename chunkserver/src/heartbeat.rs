//! Registers this server with the leader of its cluster, then sends it a heartbeat at each interval: the server's load and
//! what it has done go up, the leader's orders come down.
//!
//! H1  Cluster and server id are stamped on the data directory before anything is served under them (P11.1).
//! H2  After a failed heartbeat the next one follows at once, to whichever metaserver answers, so that a new leader hears
//!     from this server soon (P10.2).
//! Not here: how orders are carried out (`orders`).

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use dfs_proto::convert;
use dfs_proto::error::MetaError;
use dfs_proto::ids::{ChunkId, ClusterId, Incarnation, Instance, ServerId};
use dfs_proto::meta::Replica;
use dfs_proto::rpc::Identity;
use dfs_proto::rpc::grpc::SharedIdentity;
use dfs_proto::rpc::leader::LeaderChannel;
use dfs_proto::wire;
use dfs_proto::wire::cluster_client::ClusterClient;
use thiserror::Error;
use tokio::time::{Instant, MissedTickBehavior, interval_at, sleep};

use crate::machine::{Machine, MachineLoad};
use crate::metrics::Metrics;
use crate::neighbours::Neighbours;
use crate::orders::{Done, Ordered, Orders};
use crate::service::Service;
use crate::store::stamp::{Directory, DirectoryError};
use crate::store::{ChunkStore, StoreLoad};
use crate::workers::Workers;

/// The time to find a leader and get its answer: long enough to pass over a member that hangs (a second and a half).
const CALL_DEADLINE: Duration = Duration::from_secs(6);
/// The pause after a refused registration, which another attempt at once will hardly change.
const REFUSED_PAUSE: Duration = Duration::from_secs(1);
/// The pause before a heartbeat that is sent before it is due. So many requests for one become a single heartbeat.
const REFRESH_PAUSE: Duration = Duration::from_millis(20);
/// Damaged chunks that one heartbeat reports. The leader takes no more at a time, and those that it took are not reported
/// again.
const DAMAGE_REPORTS_MAX: usize = 100;

/// Why this server cannot belong to its cluster. It stops then.
#[derive(Debug, Error)]
pub enum RegisterError {
    #[error(transparent)]
    Directory(#[from] DirectoryError),
    #[error("the metaserver refuses this chunkserver: {0}")]
    Refused(MetaError),
    #[error("the metaserver's answer is malformed: {what}")]
    Malformed { what: &'static str },
}

/// What this server tells others about itself: its addresses and its zone.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Advertised {
    pub grpc: String,
    pub frames: String,
    /// Empty if it serves no HTTP.
    pub http: String,
    pub zone: String,
}

/// Whether the last heartbeat was answered, for `/healthz`. A clone shares the state.
#[derive(Clone)]
pub(crate) struct Registration(Arc<Mutex<Option<String>>>);

impl Registration {
    pub(crate) fn new() -> Registration {
        Registration(Arc::new(Mutex::new(Some("not registered yet".to_owned()))))
    }

    /// Why the last heartbeat or registration failed; `None` if it was answered.
    pub(crate) fn last_failure(&self) -> Option<String> {
        lock(&self.0).clone()
    }

    /// Remembers the outcome and logs it if it is new, so that a cluster that is away for an hour leaves two lines.
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

/// The task that registers and sends heartbeats, with everything that a heartbeat tells about.
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
    pub(crate) orders: Orders,
}

/// Who this server is to the leader. It is valid until the leader asks for another registration.
#[derive(Clone, Copy)]
struct Registered {
    cluster: ClusterId,
    server: ServerId,
    instance: Instance,
}

/// Why a registration failed.
enum NotRegistered {
    /// A later attempt may succeed.
    Retry(String),
    /// No attempt will.
    Fatal(RegisterError),
}

impl Heartbeat {
    /// Runs until the future is dropped, or returns why this server does not belong to the cluster.
    pub(crate) async fn run(self) -> RegisterError {
        loop {
            let registered = match self.register().await {
                Ok(registered) => registered,
                Err(NotRegistered::Retry(what)) => {
                    self.registration.report(Some(what));
                    sleep(REFUSED_PAUSE.min(self.interval)).await;
                    continue;
                }
                Err(NotRegistered::Fatal(fatal)) => return fatal,
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
            MetaError::Unavailable { what } => NotRegistered::Retry(what),
            MetaError::NotLeader { .. } | MetaError::Undecided { .. } | MetaError::Internal { .. } => {
                NotRegistered::Retry(error.to_string())
            }
            error => NotRegistered::Fatal(RegisterError::Refused(error)),
        })?;
        let malformed = |what| NotRegistered::Fatal(RegisterError::Malformed { what });
        let cluster = ClusterId::from_wire(&reply.cluster).filter(|cluster| cluster.is_known());
        let cluster = cluster.ok_or_else(|| malformed("no cluster id"))?;
        if reply.server == 0 || reply.instance == 0 {
            return Err(malformed("no server id or instance"));
        }
        let server = ServerId(reply.server);
        let directory = Arc::clone(&self.directory);
        let stamped = self.workers.run(move || lock(&directory).register(cluster, server)).await;
        stamped.unwrap_or(Ok(())).map_err(|error| NotRegistered::Fatal(error.into()))?; // keeps H1
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

    /// Sends heartbeats; returns when the leader asks for another registration.
    async fn report_while_registered(&self, registered: Registered) {
        let mut ticks = interval_at(Instant::now(), self.interval);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                _ = ticks.tick() => {}
                // The pause bounds how often clients can cause a heartbeat.
                () = self.neighbours.refresh_wanted() => sleep(REFRESH_PAUSE).await,
            }
            match self.beat(registered).await {
                Ok(reply) => {
                    self.registration.report(None);
                    if reply.re_register {
                        tracing::info!("asked to register again");
                        return;
                    }
                    self.orders.carry_out(ordered(&reply));
                }
                Err(error) => {
                    self.metrics.heartbeat_failures.inc();
                    self.registration.report(Some(error.to_string()));
                    ticks.reset_immediately(); // keeps H2: the time between beats has passed in trying
                    sleep(Duration::from_millis(50)).await;
                }
            }
        }
    }

    async fn beat(&self, registered: Registered) -> Result<wire::HeartbeatReply, MetaError> {
        let done = self.orders.to_confirm();
        let Done { deletions } = &done;
        let damaged: Vec<ChunkId> = self.store.damaged().into_iter().take(DAMAGE_REPORTS_MAX).collect();
        let request = wire::HeartbeatRequest {
            cluster: registered.cluster.to_wire().into(),
            server: registered.server.0,
            instance: registered.instance.0,
            load: Some(self.load().await),
            deleted: deletions.iter().map(|chunk| chunk.0).collect(),
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
            self.orders.confirmed(&done);
            self.store.damage_reported(&damaged);
            let replica = |known: &wire::ServerAddress| Replica {
                server: ServerId(known.server),
                address: known.frames_address.clone(),
            };
            self.neighbours.update(reply.servers_version, reply.servers.iter().map(replica));
        }
        Ok(reply)
    }

    async fn load(&self) -> wire::Load {
        let machine = Arc::clone(&self.machine);
        let measured = self.workers.run(move || lock(&machine).measure()).await;
        let MachineLoad { cpu_percent, memory_total_bytes, memory_available_bytes } =
            measured.unwrap_or_default();
        // A disk whose free space cannot even be measured takes no appends.
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

/// The orders in an answer of the leader.
fn ordered(reply: &wire::HeartbeatReply) -> Ordered {
    Ordered { deletions: reply.delete.iter().copied().map(ChunkId).collect() }
}
