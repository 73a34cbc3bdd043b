//! Chunk bytes over framed TCP: requests multiplexed by id over a few connections per peer.
//!
//! F1  Requests submitted to one peer for one chunk (appends, syncs) travel on one connection, in the order in which
//!     `submit` returned (keeps P1.2).
//! F2  Every request ends: with its answer, at its deadline, or when its connection breaks.
//! F3  What is in flight to one side of a connection is bounded by the credit that this side gave in its greeting; a
//!     server that is behind stops reading, a client waits in `submit`. An answer is in flight until it is written.
//!     What all connections of a server hold together is bounded too (`admission`, A3).
//! F4  Silence is not slowness. A server says every [`SIGN_OF_LIFE_EVERY`] that it works on a request, from its first bytes
//!     on; a peer from which not one byte arrives for [`SILENCE_MAX`], while something waits, is given up: it was switched
//!     off or stopped, or its link is down. Who is slow has the whole deadline.
//! F5  A frame that has begun to arrive is here within [`ARRIVAL_DEADLINE`], or its connection ends; a greeting is short.
//! One reader and one writer task each. A connection whose peer was silent while a request waited is closed, so that the next
//! request makes a new one.

use std::collections::HashMap;
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::{Buf, Bytes};
use prost::Message;
use tokio::io::{AsyncWriteExt as _, ReadHalf, WriteHalf};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot, watch};
use tokio::time::{Instant, timeout, timeout_at};

use super::admission::{Admission, Claim, Seat};
pub use super::connection::SILENCE_MAX;
use super::connection::{
    ACCEPT_PAUSE, GREETING_DEADLINE, Heard, NotSent, Waited, accept_greeting, broken, greet, lock,
    read_claimed, read_frame, read_head, stopped, with_signs_of_life,
};
use super::grpc::SharedIdentity;
use super::push::PushInbox;
use super::{CREDIT_BYTES, Expected, Role};
use crate::env::{BoxFuture, Env, Listener, Stream};
use dfs_proto::chunk::{ChunkKey, ChunkReply, ChunkRequest, ChunkService};
use dfs_proto::convert;
use dfs_proto::error::ChunkError;
use dfs_proto::frame::{self, FrameKind};
use dfs_proto::ids::ServerId;
use dfs_proto::meta::Replica;
use dfs_proto::wire;

/// Connections to one peer: one large transfer does not hold up the others, and two cores can work.
const CONNECTIONS_PER_PEER: usize = 3;
/// Frames waiting for one connection's writer; more would add delay, not throughput.
const WRITE_QUEUE_MAX: usize = 64;
/// Counted against the credit for a request beside its payload.
const REQUEST_COST_BYTES: u64 = 4096;

struct Outgoing {
    head: Bytes,
    payload: Bytes,
    /// Given back when it is written.
    held: Option<Held>,
}

/// What a request takes until its answer is written: of the connection's credit, and of the process's memory (F3).
struct Held {
    _credit: Option<OwnedSemaphorePermit>,
    _claim: Claim,
}

/// Writes what is queued, in order, until the queue or the connection ends.
async fn write_frames(mut writer: WriteHalf<Box<dyn Stream>>, mut queue: mpsc::Receiver<Outgoing>) {
    while let Some(outgoing) = queue.recv().await {
        let Outgoing { head, payload, held } = outgoing;
        let mut bytes = head.chain(payload);
        if writer.write_all_buf(&mut bytes).await.is_err() {
            return;
        }
        drop(held); // keeps F3
    }
    let _ = writer.shutdown().await; // the peer sees the end either way
}

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
                connections.spawn(serve_connection(admitted, from, identity, service, shutdown.clone()));
            }
            Err(error) => {
                tracing::warn!(%error, "accept a frame connection");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
    while connections.join_next().await.is_some() {}
}

async fn serve_connection(
    (stream, seat): (Box<dyn Stream>, Arc<Seat>),
    from: String,
    identity: SharedIdentity,
    service: Arc<dyn ChunkService>,
    mut shutdown: watch::Receiver<bool>,
) {
    let (mut reader, mut writer) = tokio::io::split(stream);
    match timeout(GREETING_DEADLINE, accept_greeting(&mut reader, &mut writer, &identity)).await {
        Ok(Ok(greeted)) => seat.greeted(greeted.is_server),
        Ok(Err(error)) => return tracing::warn!(%from, %error, "refused a frame connection"),
        Err(_) => return tracing::debug!(%from, "a frame connection did not greet in time"),
    }
    let (replies, queue) = mpsc::channel(WRITE_QUEUE_MAX);
    let writing = tokio::spawn(write_frames(writer, queue));
    let credit = Arc::new(Semaphore::new(CREDIT_BYTES as usize));
    tokio::select! {
        result = serve_requests(&mut reader, &service, &replies, &credit, &seat) => {
            if let Err(error) = result && error.kind() == io::ErrorKind::InvalidData {
                tracing::warn!(%from, %error, "ended a frame connection");
            }
        }
        () = stopped(&mut shutdown) => {}
        () = replies.closed() => {}
    }
    drop(replies);
    // Replies still being made are written before the connection ends; a peer that does not read them is cut off.
    let _ = timeout(GREETING_DEADLINE, writing).await;
}

async fn serve_requests(
    reader: &mut ReadHalf<Box<dyn Stream>>,
    service: &Arc<dyn ChunkService>,
    replies: &mpsc::Sender<Outgoing>,
    credit: &Arc<Semaphore>,
    seat: &Arc<Seat>,
) -> io::Result<()> {
    loop {
        let head = read_head(reader).await?;
        let arriving = read_claimed(reader, head, seat);
        let (incoming, arrived) = with_signs_of_life(arriving, || sign(0, replies)).await?;
        if incoming.header.kind != FrameKind::Request {
            return Err(broken("expected a request"));
        }
        let id = incoming.header.request;
        let message = wire::ChunkRequest::decode(incoming.body).map_err(broken)?;
        let request = convert::request_from_wire(message, incoming.payload);
        drop(arrived); // what it takes from here on is claimed with the answer
        let cost = request.as_ref().map_or(REQUEST_COST_BYTES, cost);
        let holding = async { Held { _credit: acquire(credit, cost).await, _claim: seat.claim(cost).await } };
        let held = with_signs_of_life(holding, || sign(id, replies)).await;
        // The call is made here, in arrival order; only its completion moves to a task of its own (F1).
        let answer = request.map(|request| service.call(request));
        let replies = replies.clone();
        tokio::spawn(async move {
            let result = match answer {
                Ok(answer) => with_signs_of_life(answer, || sign(id, &replies)).await,
                Err(error) => Err(error),
            };
            let (message, payload) = convert::reply_to_wire(result);
            let head = frame::encode(FrameKind::Reply, id, &message, payload.len());
            // Where the connection is gone, nobody waits.
            let _ = replies.send(Outgoing { head, payload, held: Some(held) }).await;
        });
    }
}

/// 0: of a request that is still arriving. Signs go before the answer in the queue of the connection, so they cost no order.
fn sign(id: u64, replies: &mpsc::Sender<Outgoing>) {
    let head = frame::encode(FrameKind::Working, id, &(), 0);
    // A full queue is a sign by itself; a closed one has nobody to tell.
    let _ = replies.try_send(Outgoing { head, payload: Bytes::new(), held: None });
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

async fn acquire(credit: &Arc<Semaphore>, cost: u64) -> Option<OwnedSemaphorePermit> {
    let cost = cost.min(CREDIT_BYTES) as u32;
    credit.clone().acquire_many_owned(cost).await.ok()
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

struct Connection {
    requests: mpsc::Sender<Outgoing>,
    shared: Arc<Shared>,
    credit: Arc<Semaphore>,
}

/// What the reader task and the waiting requests share.
struct Shared {
    pending: Mutex<Pending>,
    next_id: AtomicU64,
    stop: watch::Sender<bool>,
    /// The peer's.
    heard: Heard,
}

struct Pending {
    /// `None` once the connection is broken: nothing may wait on it any more.
    waiting: Option<HashMap<u64, Waiter>>,
    last_arrival: Instant,
}

/// Its credit is free again when the answer arrived, whether or not somebody reads it.
struct Waiter {
    answer: oneshot::Sender<(wire::ChunkReply, Bytes)>,
    _credit: Option<OwnedSemaphorePermit>,
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
            let server = to.server;
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
                        slot.insert(Arc::new(made)).clone()
                    }
                };
                connection.send(request).await.map_err(NotSent::from)
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
            Ok(Box::pin(sent.answer(server, until)) as PendingReply)
        })
    }
}

async fn open(
    env: &Env,
    own: &super::Identity,
    expected: &Expected,
    address: &str,
    heard: Heard,
) -> Result<Connection, NotSent> {
    let (reader, writer, reply) = greet(env, own, expected, address).await?;
    let credit_bytes = reply.greeting.map_or(CREDIT_BYTES, |g| g.credit_bytes).clamp(1 << 20, CREDIT_BYTES);

    let (requests, queue) = mpsc::channel(WRITE_QUEUE_MAX);
    let (stop, stop_seen) = watch::channel(false);
    let pending = Pending { waiting: Some(HashMap::new()), last_arrival: Instant::now() };
    let shared = Arc::new(Shared { pending: Mutex::new(pending), next_id: AtomicU64::new(1), stop, heard });
    tokio::spawn(run_connection(reader, writer, queue, shared.clone(), stop_seen));
    Ok(Connection { requests, shared, credit: Arc::new(Semaphore::new(credit_bytes as usize)) })
}

/// Both directions of a client's connection; when one ends, everything that waits is told.
async fn run_connection(
    reader: ReadHalf<Box<dyn Stream>>,
    writer: WriteHalf<Box<dyn Stream>>,
    queue: mpsc::Receiver<Outgoing>,
    shared: Arc<Shared>,
    mut stop: watch::Receiver<bool>,
) {
    let mut reader = shared.heard.clone().listening(reader);
    let mut pushes = PushInbox::new(None);
    let reading = async {
        while let Ok(incoming) = read_frame(&mut reader).await {
            lock(&shared.pending).last_arrival = Instant::now();
            match incoming.header.kind {
                FrameKind::Working => continue,
                FrameKind::Push => match pushes.put(incoming.body) {
                    Ok(()) => continue,
                    Err(_) => return,
                },
                _ => {}
            }
            let Ok(reply) = wire::ChunkReply::decode(incoming.body) else { return };
            let mut pending = lock(&shared.pending);
            let waiter = pending.waiting.as_mut().and_then(|w| w.remove(&incoming.header.request));
            drop(pending);
            if let Some(waiter) = waiter {
                let _ = waiter.answer.send((reply, incoming.payload)); // its deadline has passed
            }
        }
    };
    tokio::select! {
        () = reading => {}
        () = write_frames(writer, queue) => {}
        () = stopped(&mut stop) => {}
    }
    lock(&shared.pending).waiting = None; // drops every sender: F2
}

/// A request that was queued.
struct Sent {
    id: u64,
    key: ChunkKey,
    at: Instant,
    reply: oneshot::Receiver<(wire::ChunkReply, Bytes)>,
    shared: Arc<Shared>,
    _connection: Arc<Connection>,
}

impl Connection {
    fn is_alive(&self) -> bool {
        lock(&self.shared.pending).waiting.is_some()
    }

    async fn send(self: Arc<Self>, request: ChunkRequest) -> Result<Sent, String> {
        let permit = acquire(&self.credit, cost(&request).min(self.credit_bytes())).await;
        let lost = || "connection lost".to_owned();
        let place = self.requests.reserve().await.map_err(|_| lost())?;
        // From here on nothing waits: a request that is given up before leaves no waiter, and its credit, behind.
        let id = self.shared.next_id.fetch_add(1, Ordering::Relaxed);
        let (answer, reply) = oneshot::channel();
        let waiter = Waiter { answer, _credit: permit };
        lock(&self.shared.pending).waiting.as_mut().ok_or_else(lost)?.insert(id, waiter);
        let (message, payload) = convert::request_to_wire(&request);
        let head = frame::encode(FrameKind::Request, id, &message, payload.len());
        place.send(Outgoing { head, payload, held: None });
        let (key, at, shared) = (*request.key(), Instant::now(), self.shared.clone());
        Ok(Sent { id, key, at, reply, shared, _connection: self })
    }

    fn credit_bytes(&self) -> u64 {
        1 << 20 // one request never waits for more than the smallest credit that a peer may give
    }
}

impl Sent {
    async fn answer(mut self, server: ServerId, until: Instant) -> Result<ChunkReply, ChunkError> {
        let unreachable = |what: &str| Err(ChunkError::Unreachable { server, what: what.to_owned() });
        let heard = self.shared.heard.clone();
        match timeout_at(until, heard.answer(&mut self.reply, self.at)).await {
            Ok(Waited::Answered((reply, payload))) => convert::reply_from_wire(&self.key, reply, payload),
            Ok(Waited::Lost) => unreachable("connection lost"),
            Ok(Waited::Silent) => {
                self.end_connection();
                unreachable("no sign of life")
            }
            Err(_) => {
                if self.give_up() {
                    self.end_connection();
                }
                unreachable("no answer in time")
            }
        }
    }

    /// True when nothing at all arrived on this connection since the request was sent.
    fn give_up(&self) -> bool {
        let mut pending = lock(&self.shared.pending);
        if let Some(waiting) = pending.waiting.as_mut() {
            waiting.remove(&self.id);
        }
        pending.last_arrival < self.at
    }

    /// Nobody else is to use it, and who waits on it is told.
    fn end_connection(&self) {
        lock(&self.shared.pending).waiting = None;
        let _ = self.shared.stop.send(true); // it may have ended already
    }
}

#[cfg(test)]
#[path = "frames_tests.rs"]
mod tests;
