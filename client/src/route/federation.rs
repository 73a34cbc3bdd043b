//! The federation map, kept up to date, and a session at each cluster that was needed.
//!
//! R1  A cluster at which no session could be opened is away: operations on its volumes fail at once, until the probe
//!     in the background, which never stops, has opened one. (A cluster with a session is known to be away by M3 of
//!     `session::meta`.)
//! R2  Metaservers that were configured without a federation are one cluster with one volume, to which every
//!     operation goes.
//! R3  What is buffered for the files of one cluster does not take the room of another's: each cluster has its share.
//! R4  What can be answered without a cluster that is silent is answered without it ([`SilentClusters`], V8).

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use dfs_net::env::Env;
use dfs_net::rpc::Role;
use dfs_net::rpc::leader::LeaderChannel;
use dfs_net::services::federation_client::FederationClient;
use dfs_proto::convert;
use dfs_proto::error::MetaError;
use dfs_proto::federation::FederationMap;
use dfs_proto::ids::{ClusterId, InodeId};
use dfs_proto::meta::MetaResult;
use dfs_proto::wire;
use futures::StreamExt as _;
use futures::stream::FuturesUnordered;
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;

use crate::cluster::client::ClusterClient;
use crate::config::ClientConfig;
use crate::error::{ClientError, Result};
use crate::names::OuterCache;
use crate::names::interim::silent::SilentClusters;
use crate::session::retry::Deadline;

/// How long one metaserver may hold a request for a newer map before the next metaserver is asked.
const HELD: Duration = Duration::from_secs(5);
/// How much longer than that an answer may take.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(3);
const AGAIN: Duration = Duration::from_millis(500);
const PROBE_INTERVAL: Duration = Duration::from_secs(1);
/// The longest search for a volume that the map does not have, because it was made a moment ago.
const REFRESH_TIMEOUT: Duration = Duration::from_secs(3);

/// What is known of the federation.
pub(crate) struct Federation {
    config: ClientConfig,
    env: Env,
    outer: Arc<dyn OuterCache>,
    /// `None` without a federation (R2).
    map: Option<watch::Sender<Arc<FederationMap>>>,
    /// To any metaserver that is known.
    channel: LeaderChannel,
    connections: Mutex<BTreeMap<ClusterId, Connection>>,
    /// Which clusters do not answer now (R4).
    silent: Arc<SilentClusters>,
    ended: CancellationToken,
}

/// The way to one cluster.
#[derive(Clone)]
enum Connection {
    Open(Arc<ClusterClient>),
    /// The session is being opened. Callers that need it wait for the end of that.
    Opening(watch::Receiver<()>),
    /// No session could be opened; the probe goes on (R1).
    Away,
}

/// The key of the only cluster, without a federation (R2).
const ONLY: ClusterId = ClusterId::UNKNOWN;

impl Federation {
    pub(crate) async fn connect(
        config: ClientConfig,
        env: Env,
        outer: Arc<dyn OuterCache>,
    ) -> Result<Arc<Federation>> {
        let seats = config.metaservers.clone();
        let channel = LeaderChannel::anonymous(env.clone(), Role::Client, seats, config.connect_timeout);
        let map = first_map(&channel, config.metadata_timeout).await?;
        let federation = Arc::new(Federation {
            config,
            env,
            outer,
            map: map.map(|map| watch::Sender::new(Arc::new(map))),
            channel,
            connections: Mutex::default(),
            silent: Arc::default(),
            ended: CancellationToken::new(),
        });
        if federation.map.is_some() {
            let (follower, ended) = (federation.clone(), federation.ended.clone());
            tokio::spawn(async move { ended.run_until_cancelled(follower.follow()).await });
        } else {
            federation.session(ONLY).await?;
        }
        Ok(federation)
    }

    /// A federation of one cluster, in which a test has a client already (R2).
    #[cfg(test)]
    pub(crate) fn of_one(config: ClientConfig, env: Env, cluster: Arc<ClusterClient>) -> Arc<Federation> {
        let channel = LeaderChannel::anonymous(env.clone(), Role::Client, Vec::new(), config.connect_timeout);
        Arc::new(Federation {
            config,
            env,
            outer: Arc::new(crate::names::NoOuterCache),
            map: None,
            channel,
            connections: Mutex::new(BTreeMap::from([(ONLY, Connection::Open(cluster))])),
            silent: Arc::default(),
            ended: CancellationToken::new(),
        })
    }

    fn connections(&self) -> MutexGuard<'_, BTreeMap<ClusterId, Connection>> {
        self.connections.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The newest map that is known. `None` without a federation (R2).
    pub(crate) fn map(&self) -> Option<Arc<FederationMap>> {
        self.map.as_ref().map(|map| map.borrow().clone())
    }

    fn learn(&self, newer: FederationMap) {
        let Some(map) = &self.map else { return };
        map.send_if_modified(|known| {
            let is_newer = newer.version > known.version;
            if is_newer {
                *known = Arc::new(newer);
            }
            is_newer
        });
        let map = map.borrow().clone();
        let mut left = Vec::new();
        self.connections().retain(|cluster, connection| match (map.cluster(*cluster), &*connection) {
            (Some(entry), Connection::Open(client)) => {
                client.learn(&entry.metaservers);
                true
            }
            (None, Connection::Open(client)) => {
                left.push(client.clone());
                false
            }
            (_, Connection::Opening(_) | Connection::Away) => true,
        });
        let within = self.config.metadata_timeout;
        for client in left {
            tokio::spawn(async move { client.shutdown(within).await }); // it had no volumes any more
        }
    }

    /// The client at the cluster of an inode's volume.
    pub(crate) async fn at(self: &Arc<Federation>, inode: InodeId) -> Result<Arc<ClusterClient>> {
        match self.cluster_of(inode).await? {
            Some(cluster) => self.session(cluster).await,
            None => self.session(ONLY).await,
        }
    }

    /// The same if a session is open there: this waits for nothing.
    pub(crate) fn opened_at(&self, inode: InodeId) -> Option<Arc<ClusterClient>> {
        let cluster = match self.map() {
            Some(map) => map.cluster_of(inode)?,
            None => ONLY,
        };
        match self.connections().get(&cluster)? {
            Connection::Open(client) => Some(client.clone()),
            Connection::Opening(_) | Connection::Away => None,
        }
    }

    /// Where an inode's volume lives. `None` without a federation (R2).
    async fn cluster_of(&self, inode: InodeId) -> Result<Option<ClusterId>> {
        let Some(map) = self.map() else { return Ok(None) };
        if let Some(cluster) = map.cluster_of(inode) {
            return Ok(Some(cluster));
        }
        let mut searches: FuturesUnordered<_> =
            self.addresses().into_iter().map(|address| self.search(address, inode)).collect();
        match timeout(REFRESH_TIMEOUT, searches.next()).await {
            Ok(Some(Some(cluster))) => Ok(Some(cluster)),
            Ok(Some(None)) => Err(ClientError::Stale),
            Ok(None) | Err(_) => {
                let what = format!("nobody knows yet where {} is", inode.volume());
                Err(ClientError::Unavailable { what })
            }
        }
    }

    /// The addresses of every metaserver that is known.
    fn addresses(&self) -> Vec<String> {
        let mut addresses = self.channel.addresses();
        let map = self.map().unwrap_or_default();
        addresses.extend(map.clusters.iter().flat_map(|(_, entry)| entry.metaservers.clone()));
        addresses.sort();
        addresses.dedup();
        addresses
    }

    /// Learns newer maps from one metaserver until a map shows where `inode` is. The metaserver may get the newest
    /// maps no sooner than this client. `None`: the volume was removed, since the numbers of volumes are not used
    /// twice.
    async fn search(&self, address: String, inode: InodeId) -> Option<ClusterId> {
        loop {
            let map = self.map().unwrap_or_default();
            let found = map.cluster_of(inode);
            if found.is_some() || inode.volume() <= map.last_volume {
                return found;
            }
            match ask(&self.channel, &address, map.version, REFRESH_TIMEOUT).await {
                Ok(Some(newer)) => self.learn(newer),
                Ok(None) => {}
                Err(_) => sleep(AGAIN).await,
            }
        }
    }

    /// The answer of the cluster of `inode`'s volume. `None` if that cluster is silent; the question then goes on by
    /// itself. Without a federation the answer is waited for.
    pub(crate) async fn soon<T: Send + 'static>(
        self: &Arc<Federation>,
        inode: InodeId,
        question: impl Future<Output = Result<T>> + Send + 'static,
    ) -> Result<Option<T>> {
        let Some(cluster) = self.cluster_of(inode).await? else { return question.await.map(Some) };
        self.silent.ask(cluster, question).await
    }

    /// The clusters at which a session is open.
    pub(crate) fn open_sessions(&self) -> Vec<Arc<ClusterClient>> {
        let open = |connection: &Connection| match connection {
            Connection::Open(client) => Some(client.clone()),
            Connection::Opening(_) | Connection::Away => None,
        };
        self.connections().values().filter_map(open).collect()
    }

    async fn session(self: &Arc<Federation>, cluster: ClusterId) -> Result<Arc<ClusterClient>> {
        loop {
            if self.ended.is_cancelled() {
                return Err(ClientError::Unavailable { what: "the client is shutting down".to_owned() });
            }
            if self.has_left(cluster) {
                return Err(ClientError::Unavailable {
                    what: "its cluster has left the federation".to_owned(),
                });
            }
            let opening = {
                let mut connections = self.connections();
                match connections.get(&cluster) {
                    Some(Connection::Open(client)) => return Ok(client.clone()),
                    Some(Connection::Away) => return Err(self.away(cluster)),
                    Some(Connection::Opening(opened)) => Some(opened.clone()),
                    None => {
                        let (done, opened) = watch::channel(());
                        connections.insert(cluster, Connection::Opening(opened));
                        let federation = self.clone();
                        // It goes on when the caller gives up.
                        tokio::spawn(async move {
                            let ended = federation.ended.clone();
                            let _ = ended.run_until_cancelled(federation.open(cluster, done)).await;
                        });
                        None
                    }
                }
            };
            if let Some(mut opened) = opening {
                let _ = opened.changed().await; // it ends when the session is open, or could not be opened
            }
        }
    }

    fn has_left(&self, cluster: ClusterId) -> bool {
        self.map().is_some_and(|map| map.cluster(cluster).is_none())
    }

    fn away(&self, cluster: ClusterId) -> ClientError {
        let map = self.map();
        let name = map.as_ref().and_then(|map| map.cluster(cluster)).map_or("", |entry| &entry.name);
        ClientError::Unavailable { what: format!("cluster {name} is away") }
    }

    /// Opens a session, however long that takes. Callers that wait get an error after the first deadline.
    async fn open(self: Arc<Federation>, cluster: ClusterId, done: watch::Sender<()>) {
        let mut done = Some(done);
        loop {
            if self.has_left(cluster) {
                self.connections().remove(&cluster);
                return;
            }
            let (config, within) = (self.config_of(cluster), self.config.metadata_timeout);
            let (env, outer) = (self.env.clone(), self.outer.clone());
            let connection = match ClusterClient::connect(config, env, (cluster, within), outer).await {
                Ok(client) => Connection::Open(client),
                Err(error) => {
                    tracing::warn!(%cluster, %error, "open a session");
                    Connection::Away
                }
            };
            let is_open = matches!(connection, Connection::Open(_));
            self.connections().insert(cluster, connection);
            drop(done.take());
            if is_open {
                return;
            }
            sleep(PROBE_INTERVAL).await;
        }
    }

    fn config_of(&self, cluster: ClusterId) -> ClientConfig {
        let mut config = self.config.clone();
        if let Some(map) = self.map() {
            if let Some(entry) = map.cluster(cluster) {
                config.metaservers = entry.metaservers.clone();
            }
            config.session_memory_bytes /= map.clusters.len().max(1) as u64; // keeps R3
        }
        config
    }

    /// Asks one metaserver after the other for newer maps, and each again for as long as it has one.
    async fn follow(self: Arc<Federation>) {
        loop {
            for address in self.addresses() {
                loop {
                    let known = self.map().unwrap_or_default().version;
                    match ask(&self.channel, &address, known, HELD).await {
                        Ok(Some(newer)) => self.learn(newer),
                        Ok(None) => break, // it may be cut off from the others
                        Err(_) => {
                            self.channel.drop_channel(&address);
                            sleep(AGAIN).await;
                            break;
                        }
                    }
                }
            }
        }
    }

    /// From now on no session is opened.
    pub(crate) fn end(&self) {
        self.ended.cancel();
    }
}

/// `None`: these metaservers are no part of a federation (R2).
async fn first_map(channel: &LeaderChannel, within: Duration) -> Result<Option<FederationMap>> {
    let deadline = Deadline::after(within);
    let mut last = "no metaserver is configured".to_owned();
    let first = async |address: String| (ask(channel, &address, 0, Duration::ZERO).await, address);
    loop {
        let mut answers: FuturesUnordered<_> = channel.addresses().into_iter().map(first).collect();
        while let Some((answer, address)) = answers.next().await {
            match answer {
                Ok(Some(map)) if map.cluster_of(InodeId::ROOT).is_some() => return Ok(Some(map)),
                Ok(_) => last = format!("{address}: it knows no federation map yet"),
                Err(MetaError::Unsupported { .. }) => return Ok(None),
                Err(error) => last = format!("{address}: {error}"),
            }
        }
        if deadline.is_over() {
            return Err(ClientError::Unavailable { what: last });
        }
        sleep(deadline.at_most(AGAIN)).await;
    }
}

/// A map of a later version than `known`, if the metaserver has one within `held`.
async fn ask(
    channel: &LeaderChannel,
    address: &str,
    known: u64,
    held: Duration,
) -> MetaResult<Option<FederationMap>> {
    let unreachable = |what: String| MetaError::Unavailable { what };
    let connection = channel.channel(address, Instant::now() + ANSWER_TIMEOUT).await.map_err(unreachable)?;
    let request = wire::GetMapRequest { known_version: known, wait_ms: held.as_millis() as u32 };
    let mut client =
        FederationClient::new(connection).max_decoding_message_size(dfs_net::rpc::grpc::MESSAGE_LEN_MAX);
    match timeout(held + ANSWER_TIMEOUT, client.get_map(request)).await {
        Ok(Ok(reply)) => convert::map_from_wire(reply.into_inner()),
        Ok(Err(status)) => Err(unreachable(status.message().to_owned())),
        Err(_) => Err(unreachable("no answer in time".to_owned())),
    }
}
