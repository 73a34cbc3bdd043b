//! Unary gRPC calls in frames: the same services and generated clients, without HTTP/2's cost (a small call takes less
//! than half the CPU; figures in ARCHITECTURE.md). Streaming calls and strangers' clients use gRPC itself, on the same port.
//!
//! U1  A frame is written whole or its connection is broken: the writing goes on when the caller gives up.
//! U2  Every call ends: with its answer, when its caller gives up, or when its connection breaks.
//! U3  Calls in flight on a connection are bounded on both sides; a server that is behind stops reading. A call is in
//!     flight until its answer is written: a peer that does not read holds no more answers than that.
//! U4  Silence is not slowness, as for chunks (`frames`, F4): a server says every 400 ms that it works on a call, from its
//!     first bytes on. A peer from which nothing arrives for 1.5 s, while a call waits, is given up with its connection.
//! U5  A peer that lets more than [`UNREAD_LEN_MAX`] of answers wait is cut off, and all peers together hold no more than
//!     the process can bear (`admission`, A3).
//! Answers come in any order. Deadlines are the caller's.

use std::collections::HashMap;
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use prost::Message as _;
use tokio::io::{BufReader, ReadHalf, WriteHalf};
use tokio::sync::{Semaphore, oneshot, watch};
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::{Instant, timeout};
use tonic::body::Body;
use tonic::service::Routes;
use tonic::{Code, Status};
use tower::Service;

use super::admission::{Claim, Seat};
use super::connection::{
    self, Heard, Listening, Owed, Waited, Writer, broken, lock, poll_once, read_claimed, read_frame,
    read_head, with_signs_of_life,
};
use super::grpc::SharedIdentity;
use super::push::{PushHandler, PushInbox, PushSender};
use super::{Expected, Identity};
use crate::env::{BoxFuture, Env, Stream};
use dfs_proto::frame::{self, FrameKind};
use dfs_proto::wire::{UnaryAnswer, UnaryCall};

/// Calls in flight on one connection, on either side.
const CALLS_MAX: usize = 1024;
/// U5, for the log.
const UNREAD: &str = "because it asks for answers and does not read them";
/// Several small frames are taken in by one system call.
const READ_BUFFER_BYTES: usize = 16 * 1024;

// --- the side that connects ---

/// One connection, for generated clients such as `MetaClient<UnaryChannel>`. It ends with its last clone.
#[derive(Clone)]
pub struct UnaryChannel(Arc<Connection>);

struct Connection {
    writer: Arc<Writer>,
    shared: Arc<Shared>,
    heard: Heard,
    in_flight: Arc<Semaphore>,
    reading: AbortHandle,
}

#[derive(Default)]
struct Shared {
    next_id: AtomicU64,
    waiting: Mutex<Waiting>,
}

#[derive(Default)]
struct Waiting {
    /// Nobody may wait any more.
    is_closed: bool,
    calls: HashMap<u64, oneshot::Sender<UnaryAnswer>>,
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.reading.abort();
    }
}

/// Connects and shakes hands. Errors say what did not fit, as one line without the address.
pub fn connect<'a>(
    env: &'a Env,
    address: &'a str,
    own: &'a Identity,
    expected: &'a Expected,
    deadline: Duration,
) -> BoxFuture<'a, Result<UnaryChannel, String>> {
    connect_with_pushes(env, address, own, expected, deadline, None)
}

/// The same, for a client that may handle what the server sends unasked.
pub fn connect_with_pushes<'a>(
    env: &'a Env,
    address: &'a str,
    own: &'a Identity,
    expected: &'a Expected,
    deadline: Duration,
    handler: Option<Arc<dyn PushHandler>>,
) -> BoxFuture<'a, Result<UnaryChannel, String>> {
    Box::pin(async move {
        let greeted = timeout(deadline, connection::greet(env, own, expected, address)).await;
        let greeted = greeted.map_err(|_| format!("no answer within {deadline:?}"))?;
        let (reader, writer, _reply) = greeted?;
        Ok(UnaryChannel::over(reader, writer, handler))
    })
}

async fn read_answers(
    reader: Listening<ReadHalf<Box<dyn Stream>>>,
    shared: Arc<Shared>,
    mut pushes: PushInbox,
) {
    let mut reader = BufReader::with_capacity(READ_BUFFER_BYTES, reader);
    while let Ok(incoming) = read_frame(&mut reader).await {
        match incoming.header.kind {
            FrameKind::Working => continue,
            FrameKind::Push => match pushes.put(incoming.body) {
                Ok(()) => continue,
                Err(error) => {
                    tracing::warn!(%error, "ended a frame connection");
                    break;
                }
            },
            _ => {}
        }
        let Ok(answer) = UnaryAnswer::decode(incoming.body) else { break };
        let caller = lock(&shared.waiting).calls.remove(&incoming.header.request);
        if let Some(caller) = caller {
            let _ = caller.send(answer); // it has given up
        }
    }
    shared.close();
}

impl Shared {
    /// Keeps U2: whoever waits is told.
    fn close(&self) {
        let calls = {
            let mut waiting = lock(&self.waiting);
            waiting.is_closed = true;
            std::mem::take(&mut waiting.calls)
        };
        drop(calls); // not under the lock, which who is woken may take
    }
}

/// Removes a call's place when its caller gives up.
struct Place<'a> {
    shared: &'a Shared,
    id: u64,
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        lock(&self.shared.waiting).calls.remove(&self.id);
    }
}

impl Connection {
    async fn call(&self, path: String, message: Bytes) -> Result<UnaryAnswer, Status> {
        let _permit = self.in_flight.acquire().await.map_err(|_| Status::unavailable("connection closed"))?;
        let id = self.shared.next_id.fetch_add(1, Ordering::Relaxed);
        let (answer, mut reply) = oneshot::channel();
        {
            let mut waiting = lock(&self.shared.waiting);
            if waiting.is_closed || self.writer.is_broken() {
                return Err(Status::unavailable("connection lost"));
            }
            waiting.calls.insert(id, answer);
        }
        let _place = Place { shared: &self.shared, id };
        let at = Instant::now();
        self.writer.send(frame::encode(FrameKind::Call, id, &UnaryCall { path, message }, 0), None);
        match self.heard.answer(&mut reply, at).await {
            Waited::Answered(answer) => Ok(answer),
            Waited::Lost => Err(Status::unavailable("connection lost")),
            Waited::Silent => {
                self.shared.close(); // keeps U4
                Err(Status::unavailable("no sign of life"))
            }
        }
    }
}

impl UnaryChannel {
    /// A connection whose peer has shaken hands.
    pub(super) fn over(
        reader: ReadHalf<Box<dyn Stream>>,
        writer: WriteHalf<Box<dyn Stream>>,
        handler: Option<Arc<dyn PushHandler>>,
    ) -> UnaryChannel {
        let shared = Arc::new(Shared::default());
        let heard = Heard::default();
        let listening = heard.clone().listening(reader);
        let reading = read_answers(listening, shared.clone(), PushInbox::new(handler));
        let reading = tokio::spawn(reading).abort_handle();
        let (writer, in_flight) = (Writer::new(writer), Arc::new(Semaphore::new(CALLS_MAX)));
        UnaryChannel(Arc::new(Connection { writer, shared, heard, in_flight, reading }))
    }

    /// False once it is broken: then a new one is to be made.
    pub fn is_alive(&self) -> bool {
        !lock(&self.0.shared.waiting).is_closed && !self.0.writer.is_broken()
    }
}

impl Service<http::Request<Body>> for UnaryChannel {
    type Response = http::Response<Body>;
    type Error = Status;
    type Future = BoxFuture<'static, Result<http::Response<Body>, Status>>;

    fn poll_ready(&mut self, _cx: &mut Context<'_>) -> Poll<Result<(), Status>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let connection = self.0.clone();
        Box::pin(async move {
            let path = request.uri().path().to_owned();
            let message = request.into_body().collect().await?.to_bytes();
            let answer = connection.call(path, message).await?;
            if answer.code != 0 {
                return Ok(Status::new(Code::from(answer.code as i32), answer.text).into_http());
            }
            let mut trailers = http::HeaderMap::new();
            trailers.insert(Status::GRPC_STATUS, http::HeaderValue::from_static("0"));
            let body = Full::new(answer.message).with_trailers(std::future::ready(Some(Ok(trailers))));
            let mut response = http::Response::new(Body::new(body));
            response.headers_mut().insert(http::header::CONTENT_TYPE, tonic::metadata::GRPC_CONTENT_TYPE);
            Ok(response)
        })
    }
}

// --- the side that listens ---

/// Serves one connection's calls until it ends or `shutdown` turns true; then calls that run are answered.
pub(super) async fn serve_connection(
    stream: Box<dyn Stream>,
    seat: Arc<Seat>,
    from: String,
    identity: SharedIdentity,
    routes: Routes,
    mut shutdown: watch::Receiver<bool>,
) {
    let (reader, mut writer) = tokio::io::split(stream);
    let mut reader = BufReader::with_capacity(READ_BUFFER_BYTES, reader);
    let greeted = connection::accept_greeting(&mut reader, &mut writer, &identity);
    let takes_pushes = match timeout(connection::GREETING_DEADLINE, greeted).await {
        Ok(Ok(greeted)) => {
            seat.greeted(greeted.is_server);
            greeted.takes_pushes
        }
        Ok(Err(error)) => return tracing::warn!(%from, %error, "refused a frame connection"),
        Err(_) => return tracing::debug!(%from, "a frame connection did not greet in time"),
    };
    let writer = Writer::new(writer);
    let pushes = takes_pushes.then(|| PushSender::new(&writer, &seat));
    let caller = Caller { routes, writer, seat, in_flight: Arc::new(Semaphore::new(CALLS_MAX)), pushes };
    let mut running = JoinSet::new();
    tokio::select! {
        result = serve_calls(&mut reader, &caller, &mut running) => {
            if let Err(error) = result && error.kind() == io::ErrorKind::InvalidData {
                tracing::warn!(%from, %error, "ended a frame connection");
            }
        }
        () = connection::stopped(&mut shutdown) => {}
    }
    let finish = async { while running.join_next().await.is_some() {} };
    let _ = timeout(connection::GREETING_DEADLINE, finish).await; // what still runs has no one to answer to
}

/// One connection, as the side that listens has it.
struct Caller {
    routes: Routes,
    writer: Arc<Writer>,
    seat: Arc<Seat>,
    in_flight: Arc<Semaphore>,
    /// None: the peer does not understand pushes (`push`, N1).
    pushes: Option<PushSender>,
}

async fn serve_calls(
    reader: &mut BufReader<ReadHalf<Box<dyn Stream>>>,
    caller: &Caller,
    running: &mut JoinSet<()>,
) -> io::Result<()> {
    let Caller { routes, writer, seat, in_flight, pushes } = caller;
    loop {
        let head = read_head(reader).await?;
        let arriving = read_claimed(reader, head, seat);
        let (incoming, _arrived) = with_signs_of_life(arriving, || writer.sign()).await?;
        if incoming.header.kind != FrameKind::Call {
            return Err(broken("expected a call"));
        }
        let call = UnaryCall::decode(incoming.body).map_err(broken)?;
        let place = in_flight.clone().acquire_owned().await.map_err(broken)?; // keeps U3
        if writer.is_broken() {
            return Err(io::ErrorKind::ConnectionAborted.into()); // nobody would get the answer
        }
        if writer.has_too_much() {
            // Its end alone would leave what is queued until the write is given up.
            seat.end(UNREAD);
            return Err(broken("answers are asked for and not read")); // keeps U5
        }
        let mut answering = Box::pin(answer(routes.clone(), pushes.clone(), call, incoming.header.request));
        // Most reads have their answer at once: no task for them.
        match poll_once(answering.as_mut()) {
            Poll::Ready(frame) => {
                let room = with_signs_of_life(room_for(&frame, seat), || writer.sign()).await;
                writer.send(frame, Some(Owed { _place: place, _room: room })); // keeps U3
            }
            Poll::Pending => {
                while running.try_join_next().is_some() {}
                let (writer, seat) = (writer.clone(), seat.clone());
                running.spawn(async move {
                    let frame = with_signs_of_life(answering, || writer.sign()).await;
                    if writer.has_too_much() {
                        return seat.end(UNREAD); // keeps U5
                    }
                    let room = with_signs_of_life(room_for(&frame, &seat), || writer.sign()).await;
                    writer.send_with_others(frame, Owed { _place: place, _room: room }).await; // keeps U3
                });
            }
        }
    }
}

/// For an answer that is long: short ones are bounded by U3.
async fn room_for(frame: &Bytes, seat: &Arc<Seat>) -> Option<Claim> {
    match frame.len() >= connection::CLAIMED_LEN_MIN {
        true => Some(seat.claim(frame.len() as u64).await),
        false => None,
    }
}

async fn answer(mut routes: Routes, pushes: Option<PushSender>, call: UnaryCall, id: u64) -> Bytes {
    let answer = match perform(&mut routes, pushes, call).await {
        Ok(message) => UnaryAnswer { code: 0, text: String::new(), message },
        Err(status) => UnaryAnswer {
            code: status.code() as u32,
            text: status.message().to_owned(),
            message: Bytes::new(),
        },
    };
    frame::encode(FrameKind::Answer, id, &answer, 0)
}

async fn perform(routes: &mut Routes, pushes: Option<PushSender>, call: UnaryCall) -> Result<Bytes, Status> {
    let mut request = http::Request::post(call.path)
        .header(http::header::CONTENT_TYPE, tonic::metadata::GRPC_CONTENT_TYPE)
        .header("te", "trailers")
        .version(http::Version::HTTP_2)
        .body(Body::new(Full::new(call.message)))
        .map_err(|error| Status::invalid_argument(error.to_string()))?;
    if let Some(pushes) = pushes {
        request.extensions_mut().insert(pushes);
    }
    let response = match Service::call(routes, request).await {
        Ok(response) => response,
        Err(never) => match never {},
    };
    let (head, body) = response.into_parts();
    if let Some(status) = Status::from_header_map(&head.headers)
        && status.code() != Code::Ok
    {
        return Err(status);
    }
    let collected = body.collect().await?;
    if let Some(status) = collected.trailers().and_then(Status::from_header_map)
        && status.code() != Code::Ok
    {
        return Err(status);
    }
    Ok(collected.to_bytes())
}

#[cfg(test)]
#[path = "unary_tests.rs"]
mod tests;
