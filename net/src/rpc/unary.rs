//! Unary gRPC calls in frames: the same services and generated clients, without HTTP/2's cost (a small call takes less
//! than half the CPU; figures in docs/measurements.md). Streaming calls and clients that are not dfs use gRPC itself, on the same port.
//!
//! U1  A frame is written whole or its connection is broken: the writing goes on when the caller gives up.
//! U2  Every call ends: with its answer, when its caller gives up, or when its connection breaks.
//! U3  Calls in flight on a connection are bounded on both sides; a server that is behind stops reading. A call is in
//!     flight until its answer is written: a peer that does not read holds no more answers than that.
//! U4  Silence is not slowness, as for chunks (`frames`, F4): a server says every 400 ms that it works on a call, from its
//!     first bytes on. A peer from which nothing arrives for 1.5 s, while a call waits, is given up with its connection.
//! U5  A peer that lets more than 64 MiB of answers wait is cut off, and the answers that wait for all peers together are
//!     bounded (`admission`, A3).
//!
//! Answers come in any order. Deadlines are the caller's.

use std::io;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use prost::Message as _;
use tokio::io::{ReadHalf, WriteHalf};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::task::JoinSet;
use tokio::time::timeout;
use tonic::body::Body;
use tonic::service::Routes;
use tonic::{Code, Status};
use tower::Service;

use super::SharedIdentity;
use super::admission::{Claim, Seat};
use super::connection::{
    self, Connection, Heard, Held, Incoming, Lost, Outgoing, Protocol, Served, Waited, broken, poll_once,
    with_signs_of_life,
};
use super::push::{PushHandler, PushSender};
use super::{Expected, Identity};
use crate::env::{BoxFuture, Env, Stream};
use dfs_proto::frame::{self, FrameKind};
use dfs_proto::wire::{UnaryAnswer, UnaryCall};

/// Calls in flight on one connection, on either side.
const CALLS_MAX: usize = 1024;
/// The reason that the log gives when U5 ends a connection.
const UNREAD: &str = "because it asks for answers and does not read them";

// --- the side that connects ---

/// One connection, for generated clients such as `MetaClient<UnaryChannel>`. It ends with its last clone.
#[derive(Clone)]
pub struct UnaryChannel(Arc<Connection>);

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

impl UnaryChannel {
    /// A connection whose peer has shaken hands.
    pub(super) fn over(
        reader: ReadHalf<Box<dyn Stream>>,
        writer: WriteHalf<Box<dyn Stream>>,
        handler: Option<Arc<dyn PushHandler>>,
    ) -> UnaryChannel {
        let halves = (reader, writer);
        UnaryChannel(Connection::over(halves, FrameKind::Answer, CALLS_MAX, Heard::default(), handler))
    }

    async fn call(self, path: String, message: Bytes) -> Result<UnaryAnswer, Status> {
        let lost = || Status::unavailable("connection lost");
        let encode = |id| (frame::encode(FrameKind::Call, id, &UnaryCall { path, message }, 0), Bytes::new());
        let mut sent = self.0.send(1, encode).await.map_err(|Lost| lost())?; // keeps U3
        match sent.answer().await {
            Waited::Answered(incoming) => UnaryAnswer::decode(incoming.body).map_err(|_| {
                sent.end_connection();
                lost()
            }),
            Waited::Lost => Err(lost()),
            Waited::Silent => Err(Status::unavailable("no sign of life")), // keeps U4
        }
    }

    /// False once it is broken: then a new one is to be made.
    pub fn is_alive(&self) -> bool {
        self.0.is_alive()
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
        let channel = self.clone();
        Box::pin(async move {
            let path = request.uri().path().to_owned();
            let message = request.into_body().collect().await?.to_bytes();
            let answer = channel.call(path, message).await?;
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
    admitted: (Box<dyn Stream>, Arc<Seat>),
    from: String,
    identity: SharedIdentity,
    routes: Routes,
    shutdown: watch::Receiver<bool>,
) {
    let calls =
        UnaryCalls { routes, in_flight: Arc::new(Semaphore::new(CALLS_MAX)), running: JoinSet::new() };
    connection::serve_connection(admitted, from, identity, calls, shutdown).await;
}

/// The unary calls of one connection.
struct UnaryCalls {
    routes: Routes,
    in_flight: Arc<Semaphore>,
    running: JoinSet<()>,
}

impl Protocol for UnaryCalls {
    const CALL: FrameKind = FrameKind::Call;

    async fn begin(&mut self, incoming: Incoming, _room: Option<Claim>, on: &Served) -> io::Result<()> {
        let Served { writer, seat, pushes } = on;
        let call = UnaryCall::decode(incoming.body).map_err(broken)?;
        let place = self.in_flight.clone().acquire_owned().await.map_err(broken)?; // keeps U3
        if writer.is_ended() {
            return Err(io::ErrorKind::ConnectionAborted.into()); // nobody would get the answer
        }
        if writer.has_too_much() {
            // The end of this task alone would leave what is queued until the write is given up.
            seat.end(UNREAD);
            return Err(broken("answers are asked for and not read")); // keeps U5
        }
        let answering = answer(self.routes.clone(), pushes.clone(), call, incoming.header.request);
        let mut answering = Box::pin(answering);
        // Most reads have their answer at once: no task for them.
        match poll_once(answering.as_mut()) {
            Poll::Ready(frame) => {
                let room = with_signs_of_life(room_for(&frame, seat), || writer.sign(0)).await;
                writer.send(answer_frame(frame, place, room));
            }
            Poll::Pending => {
                while self.running.try_join_next().is_some() {}
                let (writer, seat) = (writer.clone(), seat.clone());
                self.running.spawn(async move {
                    let frame = with_signs_of_life(answering, || writer.sign(0)).await;
                    if writer.has_too_much() {
                        return seat.end(UNREAD); // keeps U5
                    }
                    let room = with_signs_of_life(room_for(&frame, &seat), || writer.sign(0)).await;
                    writer.send_with_others(answer_frame(frame, place, room)).await;
                });
            }
        }
        Ok(())
    }

    async fn finish(mut self, _on: &Served) {
        while self.running.join_next().await.is_some() {}
        let _ = self.in_flight.acquire_many(CALLS_MAX as u32).await; // free when every answer is written
    }
}

/// It keeps its call's place until it is written (U3).
fn answer_frame(head: Bytes, place: OwnedSemaphorePermit, room: Option<Claim>) -> Outgoing {
    Outgoing::new(head, Bytes::new(), Some(Held { _permit: Some(place), _claim: room }))
}

/// Claims room for an answer that is long (U5). Short answers are bounded by U3.
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
