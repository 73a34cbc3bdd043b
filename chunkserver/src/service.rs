//! Handles each request: checks that it is meant for this server, acts on the local store and at the other replicas, and
//! answers.
//!
//! V1  An append is acknowledged when every replica has it, a sync when every replica has it on stable storage; a
//!     failure names the replica (P1.2, P1.4).
//! V2  `call` queues a request in the store and in the lanes to the other replicas before it returns, so that appends
//!     keep the order in which they came.
//!
//! Not here: whether the writer's session is still alive. The commit decides that (P2.1); what a dead writer appends is
//! garbage.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use dfs_proto::chunk::{Append, ChunkKey, ChunkReply, ChunkRequest, ChunkService, SyncChunk};
use dfs_proto::env::BoxFuture;
use dfs_proto::error::{ChunkError, ReplicaFailure};
use dfs_proto::ids::Incarnation;
use dfs_proto::meta::Replica;
use dfs_proto::rpc::frames::ChunkTransport;
use dfs_proto::rpc::grpc::SharedIdentity;
use dfs_proto::units::{ByteLen, REPLICAS_MAX};
use futures::future::{try_join, try_join_all};

use crate::metrics::Metrics;
use crate::neighbours::Neighbours;
use crate::replicate::Replicator;
use crate::store::ChunkStore;

/// Requests that are handled at a time; further ones are answered `Busy`. Appends are also bounded by the credit of their
/// connections.
const REQUESTS_IN_FLIGHT_MAX: u64 = 8192;

/// The chunk service of this server. A clone is a handle to the same service.
#[derive(Clone)]
pub struct Service(Arc<Inner>);

struct Inner {
    store: ChunkStore,
    replicator: Replicator,
    identity: SharedIdentity,
    /// The cluster's incarnation as of the last registration; 0 before the first.
    incarnation: AtomicU64,
    in_flight: AtomicU64,
    /// How long another replica may take for an append, for which it writes to memory.
    append_deadline: Duration,
    /// How long another replica may take for a sync, for which it waits for its disk.
    sync_deadline: Duration,
    metrics: Metrics,
}

/// Counts a request as in flight until it is dropped.
struct InFlight(Service);

impl Service {
    /// `data_deadline` is how long a client waits for an answer. The other replicas get less time, so that the client hears
    /// which of them failed before it gives up.
    pub fn new(
        store: ChunkStore,
        transport: Arc<dyn ChunkTransport>,
        neighbours: Neighbours,
        identity: SharedIdentity,
        data_deadline: Duration,
        metrics: Metrics,
    ) -> Service {
        Service(Arc::new(Inner {
            store,
            replicator: Replicator::new(transport, neighbours),
            identity,
            incarnation: AtomicU64::new(0),
            in_flight: AtomicU64::new(0),
            append_deadline: data_deadline / 6,
            sync_deadline: data_deadline / 2,
            metrics,
        }))
    }

    /// Takes over the cluster's incarnation. Appends that name an older one are refused from now on.
    pub fn set_incarnation(&self, incarnation: Incarnation) {
        self.0.incarnation.fetch_max(incarnation.0, Ordering::SeqCst);
    }

    pub fn requests_in_flight(&self) -> u64 {
        self.0.in_flight.load(Ordering::Relaxed)
    }

    fn begin(&self) -> Result<InFlight, ChunkError> {
        self.0.metrics.requests.inc();
        self.0.metrics.requests_in_flight.inc();
        let guard = InFlight(self.clone());
        if self.0.in_flight.fetch_add(1, Ordering::Relaxed) >= REQUESTS_IN_FLIGHT_MAX {
            return Err(ChunkError::Busy);
        }
        Ok(guard)
    }

    /// Queues the request as far as its order matters (V2); the future does the rest.
    fn start(
        &self,
        request: ChunkRequest,
    ) -> Result<BoxFuture<'static, Result<ChunkReply, ChunkError>>, ChunkError> {
        self.check_key(request.key())?;
        self.check_forward(&request)?;
        match request {
            ChunkRequest::Append(append) => self.append(append),
            ChunkRequest::Sync(sync) => Ok(self.sync(sync)),
            ChunkRequest::Read(read) => {
                let blocks = self.0.store.read(read);
                Ok(Box::pin(async move { Ok(ChunkReply::Read(blocks.await?)) }))
            }
            ChunkRequest::Stat { key } => {
                let stat = self.0.store.stat(key);
                Ok(Box::pin(async move {
                    let (len, open) = stat.await?;
                    Ok(ChunkReply::Stat { len, open })
                }))
            }
        }
    }

    fn check_key(&self, key: &ChunkKey) -> Result<(), ChunkError> {
        let cluster = self.0.identity.get().cluster;
        if !cluster.is_known() {
            return Err(ChunkError::Busy); // not registered yet
        }
        if key.cluster != cluster {
            let what = format!("{} is of cluster {}, this server of {cluster}", key.chunk, key.cluster);
            return Err(ChunkError::Invalid { what });
        }
        Ok(())
    }

    /// Refuses a list of replicas to forward to that has too many entries, one entry twice, or this server itself: no client
    /// is to fill queues here, or to make this server talk to itself.
    fn check_forward(&self, request: &ChunkRequest) -> Result<(), ChunkError> {
        let forward = match request {
            ChunkRequest::Append(append) => &append.forward,
            ChunkRequest::Sync(sync) => &sync.forward,
            ChunkRequest::Read(_) | ChunkRequest::Stat { .. } => return Ok(()),
        };
        let own = self.0.identity.get().id;
        let is_twice =
            |index: usize| forward[..index].iter().any(|other| other.server == forward[index].server);
        let is_ours = forward.iter().any(|replica| replica.server.0 == own);
        if forward.len() >= REPLICAS_MAX || is_ours || (0..forward.len()).any(is_twice) {
            let what = format!("{}: no replica set is passed on to like this", request.key().chunk);
            return Err(ChunkError::Invalid { what });
        }
        Ok(())
    }

    fn append(
        &self,
        append: Append,
    ) -> Result<BoxFuture<'static, Result<ChunkReply, ChunkError>>, ChunkError> {
        let known = Incarnation(self.0.incarnation.load(Ordering::SeqCst));
        if append.key.incarnation < known {
            let what = format!("append in {}, the cluster is in {known}", append.key.incarnation);
            return Err(ChunkError::Outdated { what });
        }
        let local = self.0.store.append(&append);
        let forward = append.forward.clone();
        let forwarded = ChunkRequest::Append(Append { forward: Vec::new(), ..append });
        let remote = self.forward(&forward, &forwarded, self.0.append_deadline);
        Ok(Box::pin(async move {
            let (len, _) = try_join(local, remote).await?; // keeps V1
            Ok(ChunkReply::Appended { len })
        }))
    }

    fn sync(&self, sync: SyncChunk) -> BoxFuture<'static, Result<ChunkReply, ChunkError>> {
        let SyncChunk { key, up_to, forward } = sync;
        let local = self.0.store.sync(key.chunk, up_to);
        let forwarded = ChunkRequest::Sync(SyncChunk { key, up_to, forward: Vec::new() });
        let remote = self.forward(&forward, &forwarded, self.0.sync_deadline);
        Box::pin(async move {
            let local = async {
                let durable = local.await?;
                if durable < up_to {
                    let (chunk, held, wanted) = (key.chunk, durable.0, up_to.0);
                    return Err(ChunkError::TooShort { chunk, held, wanted }); // keeps P1.4
                }
                Ok(durable)
            };
            let (here, there) = try_join(local, remote).await?; // keeps V1
            Ok(ChunkReply::Synced { len: there.into_iter().fold(here, ByteLen::min) })
        })
    }

    /// Queues the request for each of the replicas; the future answers the lengths of all, or the first failure.
    fn forward(
        &self,
        forward: &[Replica],
        request: &ChunkRequest,
        deadline: Duration,
    ) -> BoxFuture<'static, Result<Vec<ByteLen>, ChunkError>> {
        let chunk = request.key().chunk;
        let answers: Vec<_> = forward
            .iter()
            .map(|replica| {
                let server = replica.server;
                let answer = self.0.replicator.forward(replica, request.clone(), deadline);
                async move {
                    match answer.await? {
                        ChunkReply::Appended { len } | ChunkReply::Synced { len } => Ok(len),
                        ChunkReply::Read(_) | ChunkReply::Stat { .. } => {
                            let what = "answered something else than was asked".to_owned();
                            let cause = ReplicaFailure::Invalid;
                            Err(ChunkError::ReplicaFailed { chunk, server, cause, what })
                        }
                    }
                }
            })
            .collect();
        let failures = self.0.metrics.forward_failures.clone();
        Box::pin(async move {
            let result = try_join_all(answers).await;
            if let Err(error) = &result {
                failures.inc();
                tracing::debug!("{chunk}: {error}");
            }
            result
        })
    }
}

impl ChunkService for Service {
    fn call(&self, request: ChunkRequest) -> BoxFuture<'static, Result<ChunkReply, ChunkError>> {
        let started = self.begin().and_then(|guard| Ok((guard, self.start(request)?))); // keeps V2
        let refused = self.0.metrics.refused_requests.clone();
        Box::pin(async move {
            let result = match started {
                Ok((_guard, answer)) => answer.await,
                Err(error) => Err(error),
            };
            if result.is_err() {
                refused.inc();
            }
            result
        })
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        let service = &self.0.0;
        service.in_flight.fetch_sub(1, Ordering::Relaxed);
        service.metrics.requests_in_flight.dec();
    }
}
