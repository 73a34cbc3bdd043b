//! Which clusters there are and which volume lives where: the federation map, kept up to date, and a session at each cluster
//! that was needed.
//!
//! R1  A cluster where no session could be opened is away: operations on its volumes fail at once, until the probe in the
//!     background, which never stops trying, has opened one. (One with a session says itself when it is away: `meta`, M3.)
//! R2  Metaservers that were configured without a federation are one cluster with one volume: everything goes there.
//! R3  What one cluster's files have buffered does not take the room of another's: each has its share.
//! R4  A cluster that leaves a question open for [`SOON`] is quiet until it answers that one, or the question's deadline has
//!     passed: meanwhile what can be answered without it is.

use std::collections::{BTreeMap, BTreeSet};
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

use crate::cluster::ClusterClient;
use crate::retry::Deadline;
use crate::{ClientConfig, ClientError, Result};

/// How long a metaserver holds a question for a newer map; then the next one is asked.
const HELD: Duration = Duration::from_secs(5);
/// What an answer may take beyond that.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(3);
const AGAIN: Duration = Duration::from_millis(500);
const PROBE_INTERVAL: Duration = Duration::from_secs(1);
/// R4: longer than an answer takes on a busy machine.
const SOON: Duration = Duration::from_millis(500);
/// For a volume that the map does not know: made a moment ago.
const REFRESH_TIMEOUT: Duration = Duration::from_secs(3);

pub(crate) struct Federation {
    config: ClientConfig,
    env: Env,
    /// `None`: R2.
    map: Option<watch::Sender<Arc<FederationMap>>>,
    /// Any metaservers.
    channel: LeaderChannel,
    sessions: Mutex<BTreeMap<ClusterId, Session>>,
    /// R4.
    quiet: Mutex<BTreeSet<ClusterId>>,
    ended: CancellationToken,
}

#[derive(Clone)]
enum Session {
    Open(Arc<ClusterClient>),
    /// Being opened; whoever needs it waits.
    Opening(watch::Receiver<()>),
    /// R1.
    Away,
}

/// Where R2's only cluster is kept.
const ONLY: ClusterId = ClusterId::UNKNOWN;

impl Federation {
    pub(crate) async fn connect(config: ClientConfig, env: Env) -> Result<Arc<Federation>> {
        let seats = config.metaservers.clone();
        let channel = LeaderChannel::anonymous(env.clone(), Role::Client, seats, config.connect_timeout);
        let map = first_map(&channel, config.metadata_timeout).await?;
        let federation = Arc::new(Federation {
            config,
            env,
            map: map.map(|map| watch::Sender::new(Arc::new(map))),
            channel,
            sessions: Mutex::default(),
            quiet: Mutex::default(),
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

    fn sessions(&self) -> MutexGuard<'_, BTreeMap<ClusterId, Session>> {
        self.sessions.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The newest map known; `None`: R2.
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
        self.sessions().retain(|cluster, session| match (map.cluster(*cluster), &*session) {
            (Some(entry), Session::Open(client)) => {
                client.learn(&entry.metaservers);
                true
            }
            (None, Session::Open(client)) => {
                left.push(client.clone());
                false
            }
            (_, Session::Opening(_) | Session::Away) => true,
        });
        let patience = self.config.metadata_timeout;
        for client in left {
            tokio::spawn(async move { client.shutdown(patience).await }); // it had no volumes any more
        }
    }

    /// The session at the cluster that an inode's volume lives in.
    pub(crate) async fn at(self: &Arc<Federation>, inode: InodeId) -> Result<Arc<ClusterClient>> {
        match self.cluster_of(inode).await? {
            Some(cluster) => self.session(cluster).await,
            None => self.session(ONLY).await,
        }
    }

    /// `None`: R2.
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

    /// Every metaserver that is known.
    fn addresses(&self) -> Vec<String> {
        let mut addresses = self.channel.addresses();
        let map = self.map().unwrap_or_default();
        addresses.extend(map.clusters.iter().flat_map(|(_, entry)| entry.metaservers.clone()));
        addresses.sort();
        addresses.dedup();
        addresses
    }

    /// Learns newer maps from one metaserver, which may hear of the newest volumes no sooner than this client, until one tells
    /// where `inode` is. `None`: its volume was removed; numbers are not used twice.
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

    /// The answer of the cluster that `inode`'s volume lives in; `None` when it does not come soon (R4), and then the
    /// question goes on by itself. Without a federation it is waited for.
    pub(crate) async fn soon<T: Send + 'static>(
        self: &Arc<Federation>,
        inode: InodeId,
        question: impl Future<Output = Result<T>> + Send + 'static,
    ) -> Result<Option<T>> {
        let Some(cluster) = self.cluster_of(inode).await? else { return question.await.map(Some) };
        if self.quiet().contains(&cluster) {
            return Ok(None);
        }
        let mut asked = tokio::spawn(question);
        match timeout(SOON, &mut asked).await {
            Ok(Ok(answer)) => answer.map(Some),
            Ok(Err(ended)) => Err(ClientError::Internal { what: format!("a question has ended: {ended}") }),
            Err(_) => {
                self.quiet().insert(cluster);
                let federation = self.clone();
                tokio::spawn(async move {
                    drop(asked.await);
                    federation.quiet().remove(&cluster);
                });
                Ok(None)
            }
        }
    }

    fn quiet(&self) -> MutexGuard<'_, BTreeSet<ClusterId>> {
        self.quiet.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sessions that are open.
    pub(crate) fn open_sessions(&self) -> Vec<Arc<ClusterClient>> {
        let open = |session: &Session| match session {
            Session::Open(client) => Some(client.clone()),
            Session::Opening(_) | Session::Away => None,
        };
        self.sessions().values().filter_map(open).collect()
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
                let mut sessions = self.sessions();
                match sessions.get(&cluster) {
                    Some(Session::Open(client)) => return Ok(client.clone()),
                    Some(Session::Away) => return Err(self.away(cluster)),
                    Some(Session::Opening(opened)) => Some(opened.clone()),
                    None => {
                        let (done, opened) = watch::channel(());
                        sessions.insert(cluster, Session::Opening(opened));
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
                let _ = opened.changed().await; // its end is what is waited for
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

    /// Opens a session, for as long as it takes. Whoever waits is told after the first deadline.
    async fn open(self: Arc<Federation>, cluster: ClusterId, done: watch::Sender<()>) {
        let mut done = Some(done);
        loop {
            if self.has_left(cluster) {
                self.sessions().remove(&cluster);
                return;
            }
            let (config, patience) = (self.config_of(cluster), self.config.metadata_timeout);
            let session = match ClusterClient::connect(config, self.env.clone(), cluster, patience).await {
                Ok(client) => Session::Open(client),
                Err(error) => {
                    tracing::warn!(%cluster, %error, "open a session");
                    Session::Away
                }
            };
            let is_open = matches!(session, Session::Open(_));
            self.sessions().insert(cluster, session);
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

    /// Asks one metaserver after the other for newer maps, each for as long as it has some.
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

    /// No more sessions are opened.
    pub(crate) fn end(&self) {
        self.ended.cancel();
    }
}

/// `None`: these metaservers are no part of a federation (R2).
async fn first_map(channel: &LeaderChannel, patience: Duration) -> Result<Option<FederationMap>> {
    let deadline = Deadline::after(patience);
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

/// A map above `known`, when there is one within `held`.
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
