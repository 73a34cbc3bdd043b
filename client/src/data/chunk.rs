//! Reading chunks, and what is known about the servers that hold them.
//!
//! CH1  Bytes are returned only after they matched the checksums that were made where they were written.
//! CH2  A copy that does not answer soon is not waited for alone: the next copy is asked beside it.
//! CH3  A copy that is damaged, or missing although fresh metadata names it, is reported (P10.4).
//! Appending is in `stream`.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use dfs_net::env::Rng;
use dfs_net::rpc::frames::{self, ChunkTransport};
use dfs_proto::chunk::{ChunkKey, ChunkReply, ChunkRequest, ReadChunk};
use dfs_proto::error::ChunkError;
use dfs_proto::ids::ServerId;
use dfs_proto::meta::{Replica, ReplicaProblem};
use dfs_proto::units::ChunkOffset;
use futures::StreamExt;
use futures::future::join_all;
use futures::stream::FuturesUnordered;
use tokio::time::{Instant, sleep};

use crate::data::chores::Chores;
use crate::session::retry::Deadline;

/// The longest wait for one copy.
const READ_TIMEOUT: Duration = Duration::from_millis(2500);
/// After this time without an answer, the next copy is asked, too. A healthy server under load nearly always answers
/// sooner.
const HEDGE_AFTER: Duration = Duration::from_millis(500);
/// The time-out of the question whether a server answers at all. It is asked after a time-out, to find out which of
/// several servers failed.
const PROBE_TIMEOUT: Duration = Duration::from_millis(750);
/// For this long, a server that failed is asked last and gets no new chunks.
const SUSPECT_FOR: Duration = Duration::from_secs(10);

/// A range of one chunk, and the servers that have it.
#[derive(Clone, Copy)]
pub(crate) struct ChunkRange<'a> {
    pub(crate) key: ChunkKey,
    pub(crate) replicas: &'a [Replica],
    pub(crate) offset: u64,
    pub(crate) len: u64,
    /// The replicas come from metadata that was fetched because of an earlier failure.
    pub(crate) is_fresh: bool,
}

/// Why no copy gave the bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum ReadFailure {
    /// The metadata is outdated, or these copies are bad: fetch the metadata and try again.
    Gone,
    /// Some copy did not answer. It may answer later.
    Unreachable { what: String },
    /// Every copy is damaged or missing somewhere in the range. The best copy has what lies before this offset of the
    /// chunk.
    Lost { at: u64, what: String },
}

#[derive(Default)]
struct Health {
    in_flight: u32,
    slow_until: Option<Instant>,
    avoided_until: Option<Instant>,
}

/// The chunkservers of one cluster, for readers, and what is known of their health.
pub(crate) struct ChunkClient {
    pub(crate) transport: Arc<dyn ChunkTransport>,
    pub(crate) chores: Arc<Chores>,
    rng: Rng,
    health: Mutex<BTreeMap<ServerId, Health>>,
}

/// Counts a request at its server until this is dropped.
struct InFlight<'a> {
    client: &'a ChunkClient,
    server: ServerId,
}

impl ChunkClient {
    pub(crate) fn new(transport: Arc<dyn ChunkTransport>, chores: Arc<Chores>, rng: Rng) -> ChunkClient {
        ChunkClient { transport, chores, rng, health: Mutex::default() }
    }

    fn health(&self) -> MutexGuard<'_, BTreeMap<ServerId, Health>> {
        self.health.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A server did not answer: it is read from last, and gets no new chunks.
    pub(crate) fn suspect(&self, server: ServerId) {
        let mut health = self.health();
        let health = health.entry(server).or_default();
        health.slow_until = Some(Instant::now() + SUSPECT_FOR);
        health.avoided_until = health.slow_until;
    }

    /// A server takes no bytes now, but may serve what it has: it gets no new chunks.
    pub(crate) fn avoid(&self, server: ServerId) {
        self.health().entry(server).or_default().avoided_until = Some(Instant::now() + SUSPECT_FOR);
    }

    /// The servers that get no new chunks.
    pub(crate) fn avoided(&self) -> Vec<ServerId> {
        let now = Instant::now();
        let is_avoided = |health: &Health| health.avoided_until.is_some_and(|until| until > now);
        self.health().iter().filter(|(_, health)| is_avoided(health)).map(|(server, _)| *server).collect()
    }

    /// The best replica first: one that is not suspect, then the one with the fewest requests under way, then by
    /// chance.
    fn order(&self, replicas: &[Replica]) -> Vec<Replica> {
        let now = Instant::now();
        let health = self.health();
        let score = |replica: &Replica| {
            let known = health.get(&replica.server);
            let is_slow = known.is_some_and(|h| h.slow_until.is_some_and(|until| until > now));
            (is_slow || replica.address.is_empty(), known.map_or(0, |h| h.in_flight))
        };
        let mut ordered: Vec<_> = replicas.iter().map(|r| (score(r), self.rng.u64(), r)).collect();
        ordered.sort_by_key(|(score, chance, _)| (*score, *chance));
        ordered.into_iter().map(|(_, _, replica)| replica.clone()).collect()
    }

    /// The servers among these that do not answer at all.
    pub(crate) async fn probe(&self, key: ChunkKey, replicas: &[Replica]) -> Vec<ServerId> {
        let probes = replicas.iter().map(|replica| async move {
            let asked =
                frames::call(self.transport.as_ref(), replica, ChunkRequest::Stat { key }, PROBE_TIMEOUT)
                    .await;
            matches!(asked, Err(ChunkError::Unreachable { .. })).then_some(replica.server)
        });
        join_all(probes).await.into_iter().flatten().collect()
    }

    /// Reads from a copy that has the bytes whole (CH1). If every copy has some damage, but not in the same block, the
    /// range is put together from several copies, whatever its length: each says where its damage begins, so the copy
    /// that gets furthest gives what lies before, and the next range begins there. So damage fails only the blocks
    /// that it is in.
    pub(crate) async fn read(&self, range: ChunkRange<'_>, deadline: Deadline) -> Result<Bytes, ReadFailure> {
        let end = range.offset + range.len;
        let mut joined = BytesMut::new();
        // The start of the next part, and the ends of all parts. Each part begins at a damaged block, so there are
        // not many.
        let (mut at, mut ends) = (range.offset, vec![end]);
        while let Some(until) = ends.pop() {
            let part = ChunkRange { offset: at, len: until - at, ..range };
            match self.read_whole(part, deadline).await {
                Ok(bytes) if part.len == range.len => return Ok(bytes),
                Ok(bytes) => {
                    joined.extend_from_slice(&bytes);
                    at = until;
                }
                Err(ReadFailure::Lost { at: bad, .. }) if at < bad && bad < until => {
                    ends.extend([until, bad]);
                }
                Err(failure) => return Err(failure),
            }
        }
        Ok(joined.freeze())
    }

    async fn read_whole(&self, range: ChunkRange<'_>, deadline: Deadline) -> Result<Bytes, ReadFailure> {
        let mut order = self.order(range.replicas).into_iter();
        let mut running = FuturesUnordered::new();
        let mut failures = Vec::new();
        loop {
            if running.is_empty() {
                let Some(replica) = order.next() else { break };
                running.push(self.attempt(replica, range, deadline));
            }
            tokio::select! {
                biased;
                Some((replica, result)) = running.next() => match result {
                    Ok(bytes) => return Ok(bytes),
                    Err(error) => {
                        self.note(&range, replica.server, &error);
                        failures.push(error);
                    }
                },
                () = sleep(HEDGE_AFTER), if order.len() > 0 => { // keeps CH2
                    if let Some(replica) = order.next() {
                        running.push(self.attempt(replica, range, deadline));
                    }
                }
            }
        }
        Err(summary(&range, &failures))
    }

    async fn attempt(
        &self,
        replica: Replica,
        range: ChunkRange<'_>,
        deadline: Deadline,
    ) -> (Replica, Result<Bytes, ChunkError>) {
        let server = replica.server;
        if replica.address.is_empty() {
            return (
                replica,
                Err(ChunkError::Unreachable { server, what: "its address is not known".into() }),
            );
        }
        self.health().entry(server).or_default().in_flight += 1;
        let _in_flight = InFlight { client: self, server };
        let (offset, len) = (ChunkOffset(range.offset), range.len);
        let request = ChunkRequest::Read(ReadChunk { key: range.key, offset, len });
        let timeout = deadline.at_most(READ_TIMEOUT);
        let result = match frames::call(self.transport.as_ref(), &replica, request, timeout).await {
            Ok(ChunkReply::Read(blocks)) => blocks.verify(&range.key, offset, len), // keeps CH1
            Ok(_) => Err(ChunkError::Invalid { what: "the answer is not one to a read".to_owned() }),
            Err(error) => Err(error),
        };
        (replica, result)
    }

    fn note(&self, range: &ChunkRange<'_>, server: ServerId, error: &ChunkError) {
        let chunk = range.key.chunk;
        tracing::debug!(%chunk, %server, %error, "read a copy");
        match verdict(error, range.is_fresh) {
            Verdict::Bad => {
                tracing::warn!(%chunk, %server, %error, "a copy is bad");
                self.chores.report(chunk, server, ReplicaProblem::Damaged); // keeps CH3
            }
            Verdict::Silent => {
                self.suspect(server);
                self.chores.report(chunk, server, ReplicaProblem::Unreachable);
            }
            Verdict::Outdated | Verdict::Later => {}
        }
    }
}

/// What an error says about the copy from which it came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    Bad,
    Silent,
    Outdated,
    Later,
}

fn verdict(error: &ChunkError, is_fresh: bool) -> Verdict {
    match error {
        ChunkError::Damaged { .. } | ChunkError::TooShort { .. } | ChunkError::Disk { .. } => Verdict::Bad,
        ChunkError::Gone { .. } if is_fresh => Verdict::Bad,
        ChunkError::Gone { .. } | ChunkError::Outdated { .. } => Verdict::Outdated,
        ChunkError::Unreachable { .. } => Verdict::Silent,
        ChunkError::AppendOutOfPlace { .. }
        | ChunkError::NotOpen { .. }
        | ChunkError::ReplicaFailed { .. }
        | ChunkError::NoSpace
        | ChunkError::Invalid { .. }
        | ChunkError::Busy => Verdict::Later,
    }
}

fn summary(range: &ChunkRange<'_>, failures: &[ChunkError]) -> ReadFailure {
    let has = |wanted: Verdict| failures.iter().any(|e| verdict(e, range.is_fresh) == wanted);
    let what = failures.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ");
    if has(Verdict::Outdated) {
        ReadFailure::Gone
    } else if has(Verdict::Silent) || has(Verdict::Later) {
        ReadFailure::Unreachable { what }
    } else {
        let at = failures.iter().map(|error| whole_until(range, error)).max().unwrap_or(range.offset);
        ReadFailure::Lost { at, what }
    }
}

/// The offset up to which the copy with this damage has the range whole.
fn whole_until(range: &ChunkRange<'_>, error: &ChunkError) -> u64 {
    let until = match error {
        ChunkError::Damaged { at, .. } => *at,
        ChunkError::TooShort { held, .. } => *held,
        _ => range.offset,
    };
    until.clamp(range.offset, range.offset + range.len)
}

impl Drop for InFlight<'_> {
    fn drop(&mut self) {
        if let Some(health) = self.client.health().get_mut(&self.server) {
            health.in_flight = health.in_flight.saturating_sub(1);
        }
    }
}
