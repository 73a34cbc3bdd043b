//! Forwards appends and syncs to the other replicas of a chunk.
//!
//! R1  Requests to one server for one chunk are sent in the order of the calls (P1.2). Each pair of the two has a lane, a
//!     queue with one task that sends, so that a slow connection attempt delays only the requests behind it.
//! R2  A failure names the server that failed and why, so that the client writes elsewhere.
//! R3  When a request cannot be sent, the requests queued behind it fail too: they would leave gaps.
//! Not here: the addresses of the servers. The metaserver names them (`neighbours`).

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use dfs_proto::chunk::{ChunkReply, ChunkRequest};
use dfs_proto::env::BoxFuture;
use dfs_proto::error::{ChunkError, ReplicaFailure};
use dfs_proto::ids::{ChunkId, ServerId};
use dfs_proto::meta::Replica;
use dfs_proto::rpc::frames::{ChunkTransport, PendingReply};
use tokio::sync::oneshot;
use tokio::time::Instant;

use crate::neighbours::Neighbours;

/// Requests that wait in one lane. The credit of a connection lets far fewer come from one writer.
const LANE_QUEUE_MAX: usize = 8192;

/// The lanes to all other replicas. A clone is a handle to the same lanes.
#[derive(Clone)]
pub(crate) struct Replicator(Arc<Inner>);

struct Inner {
    transport: Arc<dyn ChunkTransport>,
    neighbours: Neighbours,
    /// The lanes whose task runs, each with the requests that wait in it.
    lanes: Mutex<BTreeMap<LaneKey, VecDeque<Forward>>>,
}

type LaneKey = (ChunkId, ServerId);

struct Forward {
    to: Replica,
    request: ChunkRequest,
    until: Instant,
    sent: oneshot::Sender<Result<PendingReply, ChunkError>>,
}

impl Replicator {
    pub(crate) fn new(transport: Arc<dyn ChunkTransport>, neighbours: Neighbours) -> Replicator {
        Replicator(Arc::new(Inner { transport, neighbours, lanes: Mutex::default() }))
    }

    /// Queues the request before it returns (R1). The future is the answer; its error is `ReplicaFailed` (R2) or `Busy`.
    pub(crate) fn forward(
        &self,
        to: &Replica,
        request: ChunkRequest,
        deadline: Duration,
    ) -> BoxFuture<'static, Result<ChunkReply, ChunkError>> {
        let (chunk, server) = (request.key().chunk, to.server);
        let (sent, pending) = oneshot::channel();
        let until = Instant::now() + deadline;
        let queued = self.queue(Forward { to: to.clone(), request, until, sent });
        Box::pin(async move {
            let answer = async {
                queued?;
                let lost = || ChunkError::Unreachable { server, what: "not sent".to_owned() };
                pending.await.map_err(|_| lost())??.await
            };
            answer.await.map_err(|error| replica_failure(chunk, server, error))
        })
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<LaneKey, VecDeque<Forward>>> {
        self.0.lanes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn queue(&self, forward: Forward) -> Result<(), ChunkError> {
        let key = (forward.request.key().chunk, forward.to.server);
        let mut lanes = self.lock();
        match lanes.get_mut(&key) {
            Some(lane) if lane.len() >= LANE_QUEUE_MAX => {
                return Err(ChunkError::Unreachable { server: key.1, what: "its queue is full".to_owned() });
            }
            Some(lane) => lane.push_back(forward),
            None => {
                lanes.insert(key, VecDeque::from([forward]));
                tokio::spawn(self.clone().work(key));
            }
        }
        Ok(())
    }

    /// The task of a lane: sends its requests until the queue is empty.
    async fn work(self, key: LaneKey) {
        while let Some(forward) = self.next(key) {
            let submitted = match self.0.neighbours.find(&forward.to).await {
                Ok(to) => {
                    let left = forward.until.saturating_duration_since(Instant::now());
                    self.0.transport.submit(&to, forward.request, left).await
                }
                Err(unknown) => Err(unknown),
            };
            let failure = submitted.as_ref().err().cloned();
            // The caller may have given up.
            let _ = forward.sent.send(submitted);
            if let Some(failure) = failure {
                let behind = self.lock().get_mut(&key).map(std::mem::take).unwrap_or_default(); // keeps R3
                for forward in behind {
                    let _ = forward.sent.send(Err(failure.clone()));
                }
            }
        }
    }

    /// Takes the next request of the lane, or removes the lane if there is none.
    fn next(&self, key: LaneKey) -> Option<Forward> {
        let mut lanes = self.lock();
        let forward = lanes.get_mut(&key).and_then(VecDeque::pop_front);
        if forward.is_none() {
            lanes.remove(&key);
        }
        forward
    }
}

/// `error`, which came from `server` or took the place of its answer, as this server reports it (R2).
fn replica_failure(chunk: ChunkId, server: ServerId, error: ChunkError) -> ChunkError {
    let cause = ReplicaFailure::of(&error);
    match error {
        ChunkError::Busy => ChunkError::Busy,
        // From a replica that forwarded the request itself, which none is asked to do today.
        ChunkError::ReplicaFailed { .. } => error,
        ChunkError::Unreachable { what, .. } => ChunkError::ReplicaFailed { chunk, server, cause, what },
        error => ChunkError::ReplicaFailed { chunk, server, cause, what: error.to_string() },
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use dfs_proto::chunk::{Append, ChunkKey};
    use dfs_proto::ids::{ClusterId, Incarnation, InodeId, SessionId, SetVersion};
    use dfs_proto::units::{ByteLen, ChunkOffset, Offset};
    use futures::future::join_all;
    use tokio::sync::Semaphore;

    use super::*;

    /// Lets one request through for each permit and notes their order. The one at offset 2 cannot be sent.
    struct SlowTransport {
        permits: Arc<Semaphore>,
        seen: Arc<Mutex<Vec<u64>>>,
    }

    impl ChunkTransport for SlowTransport {
        fn submit(
            &self,
            to: &Replica,
            request: ChunkRequest,
            _deadline: Duration,
        ) -> BoxFuture<'static, Result<PendingReply, ChunkError>> {
            let (permits, seen, server) = (Arc::clone(&self.permits), Arc::clone(&self.seen), to.server);
            Box::pin(async move {
                permits.acquire().await.unwrap().forget();
                let ChunkRequest::Append(append) = request else { panic!("only appends are sent here") };
                seen.lock().unwrap().push(append.offset.0);
                if append.offset.0 == 2 {
                    return Err(ChunkError::Unreachable { server, what: "no route".to_owned() });
                }
                let len = ByteLen(append.offset.0 + 1);
                Ok(Box::pin(async move { Ok(ChunkReply::Appended { len }) }) as PendingReply)
            })
        }
    }

    fn append(offset: u64) -> ChunkRequest {
        ChunkRequest::Append(Append {
            key: ChunkKey {
                cluster: ClusterId(1),
                incarnation: Incarnation(1),
                chunk: ChunkId(1),
                set_version: SetVersion(1),
            },
            offset: ChunkOffset(offset),
            session: SessionId(1),
            inode: InodeId(1),
            file_offset: Offset(0),
            block_checksums: Vec::new(),
            forward: Vec::new(),
            data: Bytes::new(),
        })
    }

    #[tokio::test]
    async fn a_lane_sends_in_order_and_what_cannot_be_sent_takes_the_rest_along() {
        let permits = Arc::new(Semaphore::new(0));
        let seen = Arc::new(Mutex::new(Vec::new()));
        let transport = SlowTransport { permits: Arc::clone(&permits), seen: Arc::clone(&seen) };
        let to = Replica { server: ServerId(9), address: "nowhere:1".to_owned() };
        let neighbours = Neighbours::fixed(std::slice::from_ref(&to));
        let replicator = Replicator::new(Arc::new(transport), neighbours);
        let answers: Vec<_> =
            (0..5).map(|offset| replicator.forward(&to, append(offset), Duration::from_secs(60))).collect();
        permits.add_permits(100);
        let answers = join_all(answers.into_iter().rev()).await;
        let named = Err(ChunkError::ReplicaFailed {
            chunk: ChunkId(1),
            server: ServerId(9),
            cause: ReplicaFailure::Unreachable,
            what: "no route".to_owned(),
        });
        let appended = |len| Ok(ChunkReply::Appended { len: ByteLen(len) });
        assert_eq!(answers, [named.clone(), named.clone(), named, appended(2), appended(1)]);
        assert_eq!(*seen.lock().unwrap(), [0, 1, 2], "3 and 4 would have been gaps");
    }
}
