//! A chunkserver stores chunks in one data directory, forwards appends to the other replicas of a chunk, and reports to its
//! cluster's metaservers.
//!
//! An append goes this way: `service` checks that it is meant for this server, `store` writes it (`open.rs`) while
//! `replicate` forwards it, and the answer goes out when all replicas have it. A byte becomes durable in `store/open.rs`,
//! `sync_file`; a stale append is refused there too, in `queue` and `check`. `heartbeat` registers this server, carries its
//! load up and the leader's orders down; `orders` carries these out. Blocking work runs in `workers`. The disk is behind
//! `disk`, and the machine's figures are behind `machine`.
//!
//! [`start`] wires the parts; [`Server::run`] serves until it is told to stop, and ends them in order.

use std::io;
use std::sync::{Arc, Mutex};

use dfs_proto::env::{BoxFuture, Env, Listener};
use dfs_proto::ids::ClusterId;
use dfs_proto::rpc::admission::Admission;
use dfs_proto::rpc::frames::FrameTransport;
use dfs_proto::rpc::grpc::SharedIdentity;
use dfs_proto::rpc::leader::LeaderChannel;
use dfs_proto::rpc::{Identity, Role, frames};
use thiserror::Error;
use tokio::sync::watch;

pub mod config;
pub mod disk;
mod grpc;
pub mod heartbeat;
mod http;
pub mod machine;
pub mod metrics;
pub mod neighbours;
mod orders;
mod replicate;
pub mod service;
pub mod store;
pub mod workers;

use config::{Config, ConfigError};
use disk::{Disk, RealDisk};
use heartbeat::{Advertised, Heartbeat, RegisterError, Registration};
use machine::{Machine, RealMachine};
use metrics::Metrics;
use neighbours::Neighbours;
use orders::Orders;
use service::Service;
use store::stamp::{Directory, DirectoryError};
use store::{ChunkStore, StoreOptions};
use workers::Workers;

/// What a chunkserver gets from the machine it runs on, beside [`Env`]. The simulation passes doubles.
pub struct Seams {
    pub disk: Arc<dyn Disk>,
    pub machine: Arc<Mutex<dyn Machine>>,
    /// Run reads and writes.
    pub io: Workers,
    /// Run syncs and deletions.
    pub syncs: Workers,
    /// How many descriptors the process may have open.
    pub descriptors: u64,
}

impl Seams {
    /// The seams of a real machine. Must be called within a tokio runtime, whose blocking threads the workers use.
    pub fn real(config: &Config) -> Seams {
        Seams {
            disk: Arc::new(RealDisk),
            machine: Arc::new(Mutex::new(RealMachine::new())),
            io: Workers::threads(config.chunkserver.io_threads),
            syncs: Workers::threads(config.chunkserver.sync_threads),
            descriptors: dfs_proto::descriptors::obtained(),
        }
    }
}

/// Why a chunkserver does not start, or ends by itself. Each is one line for the person who started it.
#[derive(Debug, Error)]
pub enum RunError {
    #[error(transparent)]
    Config(#[from] ConfigError),
    #[error(transparent)]
    Directory(#[from] DirectoryError),
    #[error("data directory {}: {source}", path.display())]
    Store { path: std::path::PathBuf, source: io::Error },
    #[error("listen on {address} ({key}): {source}")]
    Bind { key: &'static str, address: String, source: io::Error },
    #[error(transparent)]
    Register(#[from] RegisterError),
}

/// A chunkserver whose ports are open and whose data directory is claimed. It serves once [`Server::run`] is called.
pub struct Server {
    grpc: Box<dyn Listener>,
    frames: Box<dyn Listener>,
    http: Option<Box<dyn Listener>>,
    identity: SharedIdentity,
    heartbeat: Heartbeat,
}

/// Checks the settings, claims the data directory and opens the ports.
///
/// The future is boxed so that it is compiled in this crate: an `async fn`, with all that it awaits, is compiled by every
/// crate that awaits it.
pub fn start(config: Config, env: Env, seams: Seams) -> BoxFuture<'static, Result<Server, RunError>> {
    Box::pin(claim_and_bind(config, env, seams))
}

async fn claim_and_bind(config: Config, env: Env, seams: Seams) -> Result<Server, RunError> {
    config.validate()?;
    let section = config.chunkserver.clone();
    let metrics = Metrics::new();
    let (directory, store) = open_store(&config, &env, &seams, &metrics).await?;
    let stamp = directory.stamp();
    let identity = Identity { role: Role::Chunkserver, id: stamp.server.0, cluster: stamp.cluster };
    let identity = SharedIdentity::new(identity);

    let grpc = bind(&env, "listen", &section.listen).await?;
    let frames = bind(&env, "frames_listen", &section.frames_listen).await?;
    let http = match section.http.is_empty() {
        true => None,
        false => Some(bind(&env, "http", &section.http).await?),
    };
    let advertised = Advertised {
        grpc: given_or(&section.advertise, grpc.local_address()),
        frames: given_or(&section.frames_advertise, frames.local_address()),
        http: http.as_ref().map(|listener| listener.local_address()).unwrap_or_default(),
        zone: section.zone.clone(),
    };
    let transport = FrameTransport::new(env.clone(), identity.clone(), section.connect_deadline());
    let neighbours = Neighbours::default();
    let service = Service::new(
        store.clone(),
        Arc::new(transport),
        neighbours.clone(),
        identity.clone(),
        section.data_deadline(),
        metrics.clone(),
    );
    // The handshake names no cluster: a leader of another cluster is to refuse the registration, which ends this server,
    // and not the connection, which would be tried for ever.
    let metaservers = config.federation.metaservers.clone();
    let leader = LeaderChannel::anonymous(env, Role::Chunkserver, metaservers, section.connect_deadline());
    let orders = Orders::new(store.clone());
    let heartbeat = Heartbeat {
        leader,
        directory: Arc::new(Mutex::new(directory)),
        identity: identity.clone(),
        advertised,
        store,
        service,
        neighbours,
        machine: seams.machine,
        workers: seams.io,
        interval: section.heartbeat_interval(),
        registration: Registration::new(),
        metrics,
        orders,
    };
    Ok(Server { grpc, frames, http, identity, heartbeat })
}

async fn open_store(
    config: &Config,
    env: &Env,
    seams: &Seams,
    metrics: &Metrics,
) -> Result<(Directory, ChunkStore), RunError> {
    let section = config.chunkserver.clone();
    let (disk, rng, metrics) = (Arc::clone(&seams.disk), env.rng.clone(), metrics.clone());
    let options = StoreOptions {
        full: section.full_below(),
        io: seams.io.clone(),
        syncs: seams.syncs.clone(),
        descriptors: seams.descriptors,
    };
    let open = move || {
        let directory = Directory::claim(Arc::clone(&disk), &section.data, &rng)?;
        let store = ChunkStore::open(disk, &section.data, options, metrics);
        let store = store.map_err(|source| RunError::Store { path: section.data.clone(), source })?;
        Ok((directory, store))
    };
    let stopped =
        || RunError::Store { path: config.chunkserver.data.clone(), source: io::Error::other("stopped") };
    seams.io.run(open).await.unwrap_or_else(|| Err(stopped()))
}

async fn bind(env: &Env, key: &'static str, address: &str) -> Result<Box<dyn Listener>, RunError> {
    let bound = env.net.bind(address).await;
    bound.map_err(|source| RunError::Bind { key, address: address.to_owned(), source })
}

fn given_or(given: &str, otherwise: String) -> String {
    if given.is_empty() { otherwise } else { given.to_owned() }
}

impl Server {
    /// The addresses under which others reach this server.
    pub fn advertised(&self) -> &Advertised {
        &self.heartbeat.advertised
    }

    /// The cluster that is stamped on the data directory; unknown before the first registration.
    pub fn cluster(&self) -> ClusterId {
        self.identity.get().cluster
    }

    /// A warning of one line for each port that other machines can reach.
    pub fn warnings(&self) -> Vec<String> {
        let ports = [Some(&self.grpc), Some(&self.frames), self.http.as_ref()];
        let addresses = ports.into_iter().flatten().map(|listener| listener.local_address());
        addresses
            .filter(|address| !config::is_loopback(address))
            .map(|address| {
                format!("listening on {address}: there is no authentication yet, whoever reaches this port may use it")
            })
            .collect()
    }

    /// Serves until `shutdown` turns true. Then it takes no more requests, puts what it has on stable storage, and returns.
    ///
    /// Returns an error when this server turns out not to belong to the cluster. The future is boxed, as that of [`start`].
    pub fn run(self, shutdown: watch::Receiver<bool>) -> BoxFuture<'static, Result<(), RunError>> {
        Box::pin(self.serve(shutdown))
    }

    async fn serve(self, mut shutdown: watch::Receiver<bool>) -> Result<(), RunError> {
        let Server { grpc, frames, http, identity, heartbeat } = self;
        let (stop, stopped) = watch::channel(false);
        let service = Arc::new(heartbeat.service.clone());
        let store = heartbeat.store.clone();
        let routes = tonic::service::Routes::new(grpc::chunk_service(service.clone()));
        let mut tasks = tokio::task::JoinSet::new();
        let (grpc_stopped, named) = (Box::pin(until(stopped.clone())), identity.clone());
        let admission = Admission::default();
        let for_grpc = admission.clone();
        tasks.spawn(async move {
            if let Err(error) = dfs_proto::rpc::grpc::serve(grpc, routes, named, for_grpc, grpc_stopped).await
            {
                tracing::warn!("gRPC port: {error}");
            }
        });
        tasks.spawn(frames::serve(frames, identity, service, admission.clone(), stopped.clone()));
        if let Some(listener) = http {
            let (metrics, registration) = (heartbeat.metrics.clone(), heartbeat.registration.clone());
            tasks.spawn(http::serve(listener, metrics, registration, admission, until(stopped)));
        }
        let ended = tokio::select! {
            error = heartbeat.run() => Err(error.into()),
            _ = shutdown.wait_for(|stop| *stop) => Ok(()),
        };
        let _ = stop.send(true); // the tasks may have ended already
        // A peer that keeps its connection open must not delay the end: its requests have been answered by then.
        let served = async { while tasks.join_next().await.is_some() {} };
        let _ = tokio::time::timeout(STOP_DEADLINE, served).await;
        store.flush().await;
        ended
    }
}

/// How long requests that are under way may take after a stop.
const STOP_DEADLINE: std::time::Duration = std::time::Duration::from_secs(3);

async fn until(mut stopped: watch::Receiver<bool>) {
    // A sender that is gone means the same.
    let _ = stopped.wait_for(|stop| *stop).await;
}
