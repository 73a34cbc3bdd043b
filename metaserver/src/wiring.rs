//! Wires the parts of a metaserver, serves, and shuts down in order.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use dfs_net::env::{BoxFuture, Env, Listener};
use dfs_net::rpc::admission::Admission;
use dfs_net::rpc::grpc::SharedIdentity;
use dfs_net::rpc::{Identity, Role, grpc};
use dfs_proto::ids::{ClusterId, MemberId};
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;
use tonic::service::Routes;

use crate::coherence::{Attachments, Gate};
use crate::config::Config;
use crate::error::ServeError;
use crate::federation::{self, Federation};
use crate::metaserver::Metaserver;
use crate::metrics::Metrics;
use crate::raft::log::disk::LogDisk;
use crate::raft::{self, ClusterOptions, Consensus, ConsensusOptions, Examined, LogOptions, Purpose, Timing};
use crate::room::Room;
use crate::server_list::ServerList;
use crate::service;
use crate::sessions::Sessions;
use crate::storage::{FEDERATION, GroupStorage, Storage};
use crate::view::View;
use crate::{http, worker};

/// Running calls get this long to end at a shutdown.
const SHUTDOWN_GRACE: Duration = Duration::from_secs(2);
/// For another member to take over the lead before this one goes.
const HAND_OVER_DEADLINE: Duration = Duration::from_millis(500);

/// A metaserver that takes part.
pub struct Running {
    address: String,
    http_address: Option<String>,
    consensus: Consensus,
    /// This process's member of the federation group, if it is one.
    federation: Option<Consensus>,
    stop: CancellationToken,
    tasks: Tasks,
}

/// Serves until `shutdown` is ready, then shuts down in order.
pub async fn run(
    config: Config,
    env: Env,
    storage: Storage,
    shutdown: BoxFuture<'static, ()>,
) -> Result<(), ServeError> {
    start(config, env, storage).await?.run_until(shutdown).await
}

/// Binds, opens the storage and takes part. Dropping the result without [`Running::run_until`] is a crash.
///
/// Boxed, so that it is compiled here: an `async fn` with all that it awaits is compiled by every crate that awaits it.
pub fn start(config: Config, env: Env, storage: Storage) -> BoxFuture<'static, Result<Running, ServeError>> {
    Box::pin(take_part(config, env, storage))
}

async fn take_part(config: Config, env: Env, storage: Storage) -> Result<Running, ServeError> {
    let ports = Ports::bind(&config, &env).await?;
    let (address, http_address) = (ports.address.clone(), ports.http_address());
    let disk = storage.cluster.log.clone();
    let room = Room::new(disk.clone(), config.disk_reserve);
    room.look().await.map_err(|why| ServeError::TooFull { data: config.data.clone(), why })?;
    let groups = join_groups(&config, &env, storage, &address).await?;
    let metaserver = assemble(&config, env, room, &*disk, &groups, address.clone()).await;
    let Groups { cluster, federation } = groups;
    let members: Vec<Consensus> = [cluster.clone()].into_iter().chain(federation.clone()).collect();
    let stop = CancellationToken::new();
    let mut tasks = JoinSet::new();
    let identity = Identity { role: Role::Metaserver, id: config.id.0, cluster: ClusterId::UNKNOWN };
    let identity = SharedIdentity::new(identity);
    serve_calls(&mut tasks, &stop, ports, &members, &metaserver, identity.clone());
    work_along(&mut tasks, &stop, config.data, disk, &metaserver, identity);
    tracing::info!(
        "{} serves gRPC at {address}, HTTP at {}",
        config.id,
        http_address.as_deref().unwrap_or("none")
    );
    Ok(Running { address, http_address, consensus: cluster, federation, stop, tasks })
}

/// Where calls come in.
struct Ports {
    grpc: Box<dyn Listener>,
    http: Option<Box<dyn Listener>>,
    /// Where others reach the gRPC port.
    address: String,
}

impl Ports {
    async fn bind(config: &Config, env: &Env) -> Result<Ports, ServeError> {
        let grpc = bind(env, "listen", &config.listen).await?;
        let http = match &config.http {
            Some(address) => Some(bind(env, "http", address).await?),
            None => None,
        };
        let address = advertised(config, &*grpc)?;
        Ok(Ports { grpc, http, address })
    }

    fn http_address(&self) -> Option<String> {
        self.http.as_ref().map(|http| http.local_address())
    }
}

/// This process's members of Raft groups.
struct Groups {
    cluster: Consensus,
    federation: Option<Consensus>,
}

/// The storage of both groups is looked at before either is changed.
async fn join_groups(
    config: &Config,
    env: &Env,
    storage: Storage,
    address: &str,
) -> Result<Groups, ServeError> {
    let Storage { cluster, federation } = storage;
    let refuse = |why| ServeError::Start { data: config.data.clone(), why };
    let refuse_seat = |why| ServeError::Start { data: config.data.join(FEDERATION), why };
    let options = consensus_options(config, address.to_owned());
    let examined = Examined::of(&options, &*cluster.log, &*cluster.state, None).await.map_err(refuse)?;
    let seat = match (federation_options(config, address.to_owned()), federation) {
        (Some(options), Some(storage)) => {
            let seat = Examined::of(&options, &*storage.log, &*storage.state, examined.seat()).await;
            Some((options, storage, seat.map_err(refuse_seat)?))
        }
        _ => None,
    };
    let joined = Consensus::take_part(options, env.clone(), cluster.log, cluster.state, examined).await;
    let cluster = joined.map_err(refuse)?;
    let federation = match seat {
        Some((options, GroupStorage { log, state }, examined)) => {
            let member = Consensus::take_part(options, env.clone(), log, state, examined).await;
            let member = member.map_err(refuse_seat)?;
            cluster.note_seat(member.directory()).await.map_err(refuse)?;
            Some(member)
        }
        None => None,
    };
    Ok(Groups { cluster, federation })
}

async fn assemble(
    config: &Config,
    env: Env,
    room: Room,
    disk: &dyn LogDisk,
    groups: &Groups,
    address: String,
) -> Arc<Metaserver> {
    let federation = match &config.federation {
        Some(federation) => {
            let by_number: BTreeMap<_, _> =
                federation.members.iter().map(|seat| (seat.id, seat.address.clone())).collect();
            let seats = by_number.into_values().collect();
            let known = federation::kept(disk, groups.cluster.directory()).await;
            Some(Arc::new(Federation::new(env.clone(), groups.federation.clone(), seats, known)))
        }
        None => None,
    };
    let now = Instant::now();
    let view = View::new(config.server_away, now);
    let sessions = Sessions::new(config.session_expiry, now);
    let attachments = Attachments::new(config.lease_term, now);
    let metrics = Metrics::new();
    Arc::new(Metaserver {
        id: config.id,
        address,
        gate: Gate::new(groups.cluster.clone(), view, sessions, attachments, metrics.recalls.clone()),
        servers: ServerList::default(),
        federation,
        env,
        metrics,
        room,
    })
}

/// Each with its name, and why it ended.
type Tasks = JoinSet<(&'static str, Result<(), String>)>;

fn serve_calls(
    tasks: &mut Tasks,
    stop: &CancellationToken,
    ports: Ports,
    members: &[Consensus],
    metaserver: &Arc<Metaserver>,
    identity: SharedIdentity,
) {
    let routes = Routes::new(raft::service(members))
        .add_service(service::meta(metaserver.clone()))
        .add_service(service::federation(metaserver.clone()))
        .add_service(service::cluster(metaserver.clone()))
        .add_service(service::admin(metaserver.clone()));
    let stopped = Box::pin(stop.clone().cancelled_owned());
    let admission = Admission::default();
    let for_grpc = admission.clone();
    tasks.spawn(async move {
        let served = grpc::serve(ports.grpc, routes, identity, for_grpc, stopped).await;
        ("gRPC", served.map_err(|error| error.to_string()))
    });
    if let Some(http_listener) = ports.http {
        let (pages, stopped) = (metaserver.clone(), stop.clone().cancelled_owned());
        tasks.spawn(async move {
            let served = http::serve(http_listener, pages, admission, stopped).await;
            ("HTTP", served.map_err(|error| error.to_string()))
        });
    }
}

/// Everything that nobody has called for.
fn work_along(
    tasks: &mut Tasks,
    stop: &CancellationToken,
    data: PathBuf,
    disk: Arc<dyn LogDisk>,
    metaserver: &Arc<Metaserver>,
    identity: SharedIdentity,
) {
    let (watched, stopped) = (metaserver.clone(), stop.clone().cancelled_owned());
    tasks.spawn(async move {
        let ended = tokio::select! {
            () = stopped => Ok(()),
            too_full = watched.room.watch() => Err(format!("data directory {}: {too_full}", data.display())),
        };
        ("the metaserver", ended)
    });
    let consensus = metaserver.gate.consensus();
    if let Some(federation) = metaserver.federation.clone() {
        let (stopped, directory) = (stop.clone().cancelled_owned(), consensus.directory());
        tasks.spawn(async move {
            tokio::select! {
                () = stopped => {}
                () = federation::follow(&federation, &*disk, directory) => {}
            }
            ("the federation map", Ok(()))
        });
    }
    let (metaserver, stopped) = (metaserver.clone(), stop.clone().cancelled_owned());
    let named = name_cluster(consensus.clone(), identity);
    tasks.spawn(async move {
        tokio::select! {
            () = stopped => {}
            // The first never ends before the second.
            ((), ()) = async { tokio::join!(worker::run(metaserver), named) } => {}
        }
        ("background work", Ok(()))
    });
}

impl Running {
    /// `host:port` where others reach its gRPC port.
    pub fn address(&self) -> &str {
        &self.address
    }

    /// `host:port` of `/metrics` and `/healthz`, if they are served.
    pub fn http_address(&self) -> Option<&str> {
        self.http_address.as_deref()
    }

    /// This member of the group: to look at, and to hand over the lead.
    pub fn consensus(&self) -> &Consensus {
        &self.consensus
    }

    /// This process's member of the federation group, if it is one.
    pub fn federation(&self) -> Option<&Consensus> {
        self.federation.as_ref()
    }

    /// Serves until `shutdown` is ready or this member cannot go on; then ends calls, then Raft, then closes the storage.
    /// Boxed as [`start`] is.
    pub fn run_until(self, shutdown: BoxFuture<'static, ()>) -> BoxFuture<'static, Result<(), ServeError>> {
        Box::pin(self.serve(shutdown))
    }

    async fn serve(mut self, shutdown: BoxFuture<'static, ()>) -> Result<(), ServeError> {
        let ended = tokio::select! {
            () = shutdown => Ok(()),
            failure = self.consensus.failed() => Err(ServeError::Failed(failure.0)),
            failure = failed(self.federation.as_ref()) => {
                Err(ServeError::Failed(format!("federation group: {}", failure.0)))
            }
            Some(ended) = self.tasks.join_next() => {
                let (what, why) = ended.unwrap_or_else(|panic| ("a task", Err(panic.to_string())));
                Err(ServeError::Stopped { what, why: why.err().unwrap_or_else(|| "for no reason".to_owned()) })
            }
        };
        if ended.is_ok() {
            tracing::info!("shutting down");
            hand_over(&self.consensus).await;
            if let Some(federation) = &self.federation {
                hand_over(federation).await;
            }
        }
        self.stop.cancel();
        let all_ended = async { while self.tasks.join_next().await.is_some() {} };
        if timeout(SHUTDOWN_GRACE, all_ended).await.is_err() {
            self.tasks.shutdown().await;
        }
        self.consensus.shutdown().await;
        if let Some(federation) = &self.federation {
            federation.shutdown().await;
        }
        ended
    }
}

/// Lets another member lead before this one goes, so that nobody waits for an election.
async fn hand_over(consensus: &Consensus) {
    let mut leadership = consensus.leadership();
    if consensus.hand_over().await {
        let handed_over = leadership.wait_for(|l| !l.is_leader);
        // If not, the others elect one when they no longer hear this one.
        let _ = timeout(HAND_OVER_DEADLINE, handed_over).await;
    }
}

/// Never of a group that this process is no member of.
async fn failed(consensus: Option<&Consensus>) -> raft::Failure {
    match consensus {
        Some(consensus) => consensus.failed().await,
        None => std::future::pending().await,
    }
}

async fn bind(env: &Env, key: &'static str, address: &str) -> Result<Box<dyn Listener>, ServeError> {
    let bound = env.net.bind(address).await;
    let listener = bound.map_err(|why| ServeError::Bind { key, address: address.to_owned(), why })?;
    if !is_loopback(address) {
        let at = listener.local_address();
        tracing::warn!(
            "`{key}` = {at}: whoever reaches it can read and change everything, there is no authentication yet"
        );
    }
    Ok(listener)
}

fn host(address: &str) -> &str {
    let host = address.rsplit_once(':').map_or(address, |(host, _)| host);
    host.trim_start_matches('[').trim_end_matches(']')
}

fn is_loopback(address: &str) -> bool {
    let host = host(address);
    host == "localhost" || host.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

/// Where others reach this member.
fn advertised(config: &Config, listener: &dyn Listener) -> Result<String, ServeError> {
    if let Some(address) = &config.advertise {
        return Ok(address.clone());
    }
    let is_anywhere = host(&config.listen).parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_unspecified());
    if is_anywhere {
        return Err(ServeError::NoAddress { listen: config.listen.clone() });
    }
    Ok(listener.local_address())
}

fn consensus_options(config: &Config, address: String) -> ConsensusOptions {
    let mut bootstrap: BTreeMap<MemberId, String> =
        config.bootstrap.iter().map(|member| (MemberId(member.id), member.address.clone())).collect();
    bootstrap.insert(config.id, address.clone());
    let mut options = ConsensusOptions::new(config.id, address, bootstrap);
    options.purpose = Purpose::Cluster(ClusterOptions {
        name: config.cluster.clone(),
        copies: config.copies,
        copies_min: config.copies_min,
        ..ClusterOptions::default()
    });
    options.timing = Timing::new(config.raft_heartbeat, config.election_timeout);
    options.snapshot_entries = config.snapshot_every_logs;
    options.keep_entries = config.snapshot_every_logs / 5;
    options.log = LogOptions { segment_len: config.log_segment.0, ..LogOptions::default() };
    options
}

/// `None`: this process is no member of the federation group.
fn federation_options(config: &Config, address: String) -> Option<ConsensusOptions> {
    let federation = config.federation.as_ref()?;
    let member = federation.own?;
    let seats = federation.members.iter().map(|seat| (MemberId(seat.id), seat.address.clone())).collect();
    let mut options = ConsensusOptions::new(member, address, seats);
    options.purpose = Purpose::Federation;
    options.timing = Timing::new(config.raft_heartbeat, config.election_timeout);
    options.snapshot_entries = config.snapshot_every_logs;
    options.keep_entries = config.snapshot_every_logs / 5;
    options.log = LogOptions { segment_len: config.log_segment.0, ..LogOptions::default() };
    Some(options)
}

/// Names the cluster in handshakes from the moment it is made.
async fn name_cluster(consensus: Consensus, identity: SharedIdentity) {
    let mut cluster = consensus.cluster();
    if let Ok(cluster) = cluster.wait_for(|cluster| cluster.is_known()).await.map(|cluster| *cluster) {
        identity.set(Identity { cluster, ..identity.get() });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loopback_addresses_are_recognised() {
        for (address, expected) in [
            ("127.0.0.1:7000", true),
            ("[::1]:7000", true),
            ("localhost:1", true),
            ("0.0.0.0:1", false),
            ("host:1", false),
        ] {
            assert_eq!(is_loopback(address), expected, "{address}");
        }
    }
}
