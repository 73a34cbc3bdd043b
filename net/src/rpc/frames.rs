//! Chunk bytes over framed TCP: requests multiplexed by id over a few connections per peer.
//!
//! F1  Requests submitted to one peer for one chunk (appends, syncs) travel on one connection, in the order in which
//!     `submit` returned (keeps P1.2).
//! F2  Every request ends: with its answer, at its deadline, or when its connection breaks.
//! F3  What is in flight to one side of a connection is bounded by the credit that this side gave in its greeting; a
//!     server that is behind stops reading, a client waits in `submit`. An answer is in flight until it is written.
//!     What all connections of a server hold together is bounded too (`admission`, A3).
//! F4  Silence is not slowness. A server says every 400 ms that it works on a request, from its first bytes
//!     on; a peer from which not one byte arrives for [`SILENCE_MAX`], while something waits, is given up: it was switched
//!     off or stopped, or its link is down. A server that is slow has the whole deadline.
//! F5  A frame that has begun to arrive is complete within two minutes, or its connection ends. A greeting that is longer than
//!     4 KiB ends its connection before it is read.
//!
//! A connection on which no frame arrived while a request waited until its deadline is closed, so that the next request makes a
//! new one.

use std::collections::HashMap;
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use prost::Message as _;
use tokio::sync::{Semaphore, watch};
use tokio::time::{Instant, timeout, timeout_at};

use super::SharedIdentity;
use super::admission::{Admission, Claim, Seat};
pub use super::connection::SILENCE_MAX;
use super::connection::{
    ACCEPT_PAUSE, Connection, Heard, Held, Incoming, Lost, NotSent, Outgoing, Protocol, Sent, Served, Waited,
    broken, greet, lock, serve_connection, stopped, with_signs_of_life,
};
use super::{CREDIT_BYTES, Expected, Role};
use crate::env::{BoxFuture, Env, Listener};
use dfs_proto::chunk::{ChunkKey, ChunkReply, ChunkRequest, ChunkService};
use dfs_proto::convert;
use dfs_proto::error::ChunkError;
use dfs_proto::frame::{self, FrameKind};
use dfs_proto::ids::ServerId;
use dfs_proto::meta::Replica;
use dfs_proto::wire;

/// Connections to one peer: one large transfer does not hold up the others, and two cores can work.
const CONNECTIONS_PER_PEER: usize = 3;
/// Counted against the credit for a request beside its payload.
const REQUEST_COST_BYTES: u64 = 4096;
/// The most that one request waits for at the client: the smallest credit that a peer may give.
const SHARE_MAX_BYTES: u64 = 1 << 20;

// --- the side that listens ---

/// Serves chunk requests on `listener` until `shutdown` turns true, then lets connections end.
pub fn serve(
    listener: Box<dyn Listener>,
    identity: SharedIdentity,
    service: Arc<dyn ChunkService>,
    admission: Admission,
    shutdown: watch::Receiver<bool>,
) -> BoxFuture<'static, ()> {
    Box::pin(serve_until(shutdown, listener, identity, service, admission))
}

async fn serve_until(
    mut shutdown: watch::Receiver<bool>,
    mut listener: Box<dyn Listener>,
    identity: SharedIdentity,
    service: Arc<dyn ChunkService>,
    admission: Admission,
) {
    let mut connections = tokio::task::JoinSet::new();
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = stopped(&mut shutdown) => break,
            Some(_) = connections.join_next() => continue,
        };
        match accepted {
            Ok((stream, from)) => {
                let (identity, service) = (identity.clone(), service.clone());
                let admitted = admission.admit(stream, &from);
                let calls = ChunkCalls::new(service);
                connections.spawn(serve_connection(admitted, from, identity, calls, shutdown.clone()));
            }
            Err(error) => {
                tracing::warn!(%error, "accept a frame connection");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
    while connections.join_next().await.is_some() {}
}

/// The chunk requests of one connection.
struct ChunkCalls {
    service: Arc<dyn ChunkService>,
    /// Of which a request holds its cost until its answer is written (F3).
    credit: Arc<Semaphore>,
}

impl ChunkCalls {
    fn new(service: Arc<dyn ChunkService>) -> ChunkCalls {
        ChunkCalls { service, credit: Arc::new(Semaphore::new(CREDIT_BYTES as usize)) }
    }

    async fn hold(&self, cost: u64, seat: &Arc<Seat>) -> Held {
        let credit = self.credit.clone().acquire_many_owned(cost.min(CREDIT_BYTES) as u32).await;
        Held { _permit: credit.ok(), _claim: Some(seat.claim(cost).await) }
    }
}

impl Protocol for ChunkCalls {
    const CALL: FrameKind = FrameKind::Request;

    async fn begin(&mut self, incoming: Incoming, room: Option<Claim>, on: &Served) -> io::Result<()> {
        let id = incoming.header.request;
        let message = wire::ChunkRequest::decode(incoming.body).map_err(broken)?;
        let request = convert::request_from_wire(message, incoming.payload);
        drop(room); // what the request takes from here on is claimed together with its answer
        let cost = request.as_ref().map_or(REQUEST_COST_BYTES, cost);
        let held = with_signs_of_life(self.hold(cost, &on.seat), || on.writer.sign(id)).await;
        // The call is made here, in the order of arrival; only its completion moves to a task of its own (F1).
        let answer = request.map(|request| self.service.call(request));
        let writer = on.writer.clone();
        tokio::spawn(async move {
            let result = match answer {
                Ok(answer) => with_signs_of_life(answer, || writer.sign(id)).await,
                Err(error) => Err(error),
            };
            let (message, payload) = convert::reply_to_wire(result);
            let head = frame::encode(FrameKind::Reply, id, &message, payload.len());
            writer.send_with_others(Outgoing::new(head, payload, Some(held))).await;
        });
        Ok(())
    }

    async fn finish(self, on: &Served) {
        if !on.writer.is_ended() {
            // All of it is free when every answer is written. What still runs after the deadline goes on without a connection.
            let _ = self.credit.acquire_many(CREDIT_BYTES as u32).await; // never closed
        }
    }
}

/// Bytes that a request holds while it is in flight.
fn cost(request: &ChunkRequest) -> u64 {
    REQUEST_COST_BYTES
        + match request {
            ChunkRequest::Append(append) => append.data.len() as u64,
            ChunkRequest::Read(read) => read.len,
            ChunkRequest::Sync(_) | ChunkRequest::Stat { .. } => 0,
        }
}

// --- the side that connects ---

/// Carries chunk requests to chunkservers: the seam that the frame transport and test doubles fill.
pub trait ChunkTransport: Send + Sync + 'static {
    /// Queues the request; what is submitted in order for one chunk arrives in order (F1). The inner future is the
    /// answer. Errors of the outer one mean that the request was certainly not sent.
    fn submit(
        &self,
        to: &Replica,
        request: ChunkRequest,
        deadline: Duration,
    ) -> BoxFuture<'static, Result<PendingReply, ChunkError>>;
}

/// An answer that is on its way.
pub type PendingReply = BoxFuture<'static, Result<ChunkReply, ChunkError>>;

/// Submit and wait, within one deadline.
pub async fn call(
    transport: &dyn ChunkTransport,
    to: &Replica,
    request: ChunkRequest,
    deadline: Duration,
) -> Result<ChunkReply, ChunkError> {
    transport.submit(to, request, deadline).await?.await
}

/// Connections to every peer that was ever asked, made when first needed.
pub struct FrameTransport {
    env: Env,
    own: SharedIdentity,
    connect_deadline: Duration,
    peers: Mutex<HashMap<(ServerId, String), Arc<Peer>>>,
}

#[derive(Default)]
struct Peer {
    connections: [tokio::sync::Mutex<Option<Arc<Connection>>>; CONNECTIONS_PER_PEER],
    next: AtomicU64,
    heard: Heard,
}

impl FrameTransport {
    pub fn new(env: Env, own: SharedIdentity, connect_deadline: Duration) -> FrameTransport {
        FrameTransport { env, own, connect_deadline, peers: Mutex::new(HashMap::new()) }
    }

    fn peer(&self, to: &Replica) -> Arc<Peer> {
        let mut peers = lock(&self.peers);
        peers.entry((to.server, to.address.clone())).or_default().clone()
    }
}

impl ChunkTransport for FrameTransport {
    fn submit(
        &self,
        to: &Replica,
        request: ChunkRequest,
        deadline: Duration,
    ) -> BoxFuture<'static, Result<PendingReply, ChunkError>> {
        let (env, own, connect_deadline) = (self.env.clone(), self.own.get(), self.connect_deadline);
        let (peer, to) = (self.peer(to), to.clone());
        Box::pin(async move {
            let until = Instant::now() + deadline;
            let (server, key) = (to.server, *request.key());
            let unreachable = |what: String| ChunkError::Unreachable { server, what };
            let index = match &request {
                ChunkRequest::Append(_) | ChunkRequest::Sync(_) => request.key().chunk.0,
                ChunkRequest::Read(_) | ChunkRequest::Stat { .. } => {
                    peer.next.fetch_add(1, Ordering::Relaxed)
                }
            } as usize
                % CONNECTIONS_PER_PEER;
            let sending = async {
                // Held until the request is queued: that is what keeps the order (F1).
                let mut slot = peer.connections[index].lock().await;
                let connection = match slot.as_ref().filter(|c| c.is_alive()) {
                    Some(connection) => connection.clone(),
                    None => {
                        let expected =
                            Expected { role: Role::Chunkserver, id: server.0, cluster: own.cluster };
                        let opening = open(&env, &own, &expected, &to.address, peer.heard.clone());
                        let made = timeout(connect_deadline, opening);
                        let made = made.await.map_err(|_| "no connection in time".to_owned())??;
                        slot.insert(made).clone()
                    }
                };
                send(connection, request).await.map_err(NotSent::from)
            };
            let sent = timeout_at(until, sending).await;
            let sent =
                sent.map_err(|_| unreachable("not sent in time".into()))?.map_err(|why| match why {
                    NotSent::Lacking(what) => {
                        tracing::warn!("{what}");
                        ChunkError::Busy
                    }
                    NotSent::Refused(what) => unreachable(what),
                })?;
            Ok(Box::pin(answer(sent, key, server, until)) as PendingReply)
        })
    }
}

async fn open(
    env: &Env,
    own: &super::Identity,
    expected: &Expected,
    address: &str,
    heard: Heard,
) -> Result<Arc<Connection>, NotSent> {
    let (reader, writer, reply) = greet(env, own, expected, address).await?;
    let credit = reply.greeting.map_or(CREDIT_BYTES, |g| g.credit_bytes).clamp(SHARE_MAX_BYTES, CREDIT_BYTES);
    Ok(Connection::over((reader, writer), FrameKind::Reply, credit as usize, heard, None))
}

async fn send(connection: Arc<Connection>, request: ChunkRequest) -> Result<Sent, String> {
    let share = cost(&request).min(SHARE_MAX_BYTES) as u32;
    let encode = |id| {
        let (message, payload) = convert::request_to_wire(&request);
        (frame::encode(FrameKind::Request, id, &message, payload.len()), payload)
    };
    connection.send(share, encode).await.map_err(|Lost| "connection lost".to_owned())
}

async fn answer(
    mut sent: Sent,
    key: ChunkKey,
    server: ServerId,
    until: Instant,
) -> Result<ChunkReply, ChunkError> {
    let unreachable = |what: &str| Err(ChunkError::Unreachable { server, what: what.to_owned() });
    match timeout_at(until, sent.answer()).await {
        Ok(Waited::Answered(incoming)) => match wire::ChunkReply::decode(incoming.body) {
            Ok(reply) => convert::reply_from_wire(&key, reply, incoming.payload),
            Err(_) => {
                sent.end_connection();
                unreachable("connection lost")
            }
        },
        Ok(Waited::Lost) => unreachable("connection lost"),
        Ok(Waited::Silent) => unreachable("no sign of life"),
        Err(_) => {
            sent.end_if_idle();
            unreachable("no answer in time")
        }
    }
}

#[cfg(test)]
#[path = "frames_tests.rs"]
mod tests;
