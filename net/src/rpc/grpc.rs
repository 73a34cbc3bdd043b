//! gRPC over `env.net`: windows tuned in one place, the handshake as a call of its own right after connecting.
//!
//! What connects and serves is boxed, here and in the modules beside: an `async fn`, with all that it awaits, is compiled by
//! every crate that awaits it, and HTTP/2 is compiled once (figures in docs/measurements.md, "Build").

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, ReadBuf};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::timeout;
use tonic::service::Routes;
use tonic::transport::server::Connected;
use tonic::transport::{Channel, Endpoint, Server, Uri};
use tonic::{Request, Response, Status};

pub use super::SharedIdentity;
use super::admission::{Admission, Seat};
use super::{Expected, Identity, answer_greeting, check_answer, connection, greeting, unary};
use crate::env::{BoxFuture, Env, Listener, Net, Stream};
use crate::services::hello_client::HelloClient;
use crate::services::hello_server::{Hello, HelloServer};
use dfs_proto::frame::MAGIC_BYTES;
pub use dfs_proto::units::MESSAGE_LEN_MAX;
use dfs_proto::wire;

/// Measured on loopback with 1 MiB payloads: the default windows cost twice the CPU.
const STREAM_WINDOW_BYTES: u32 = 8 << 20;
const CONNECTION_WINDOW_BYTES: u32 = 32 << 20;
/// Calls of one connection that are served at once; more wait at the peer.
const CALLS_MAX: u32 = 1024;
/// Accepted connections that the HTTP/2 server has not taken over yet.
const ACCEPTED_MAX: usize = 64;

/// Connects and shakes hands. Errors say what did not fit, as one line without the address.
pub fn connect<'a>(
    env: &'a Env,
    address: &'a str,
    own: &'a Identity,
    expected: &'a Expected,
    deadline: Duration,
) -> BoxFuture<'a, Result<Channel, String>> {
    Box::pin(async move {
        let attempt = async {
            let channel =
                endpoint(deadline).connect_with_connector(connector(env.net.clone(), address)).await;
            let channel = channel.map_err(|error| describe(&error))?;
            let mut hello = HelloClient::new(channel.clone());
            let reply = hello.greet(greeting(own, expected)).await.map_err(|s| s.message().to_owned())?;
            check_answer(expected, reply.get_ref())?;
            Ok(channel)
        };
        timeout(deadline, attempt).await.unwrap_or_else(|_| Err(format!("no answer within {deadline:?}")))
    })
}

fn endpoint(connect_deadline: Duration) -> Endpoint {
    // The host in the URI is a formality: the connector knows where to go.
    Endpoint::from_static("http://dfs")
        .connect_timeout(connect_deadline)
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .http2_keep_alive_interval(Duration::from_secs(5))
        .keep_alive_timeout(Duration::from_secs(5))
}

/// The innermost cause: tonic's own text is only "transport error".
fn describe(error: &dyn std::error::Error) -> String {
    let mut cause = error;
    while let Some(next) = cause.source() {
        cause = next;
    }
    cause.to_string()
}

type Connecting = Pin<Box<dyn Future<Output = io::Result<TokioIo<Box<dyn Stream>>>> + Send>>;

fn connector(
    net: Arc<dyn Net>,
    address: &str,
) -> impl tower::Service<Uri, Response = TokioIo<Box<dyn Stream>>, Error = io::Error, Future = Connecting>
+ Send
+ 'static {
    let address = address.to_owned();
    tower::service_fn(move |_: Uri| {
        let connecting = net.connect(&address);
        Box::pin(async move { connecting.await.map(TokioIo::new) }) as Connecting
    })
}

/// Serves `routes` until `shutdown` is ready, then lets running calls end. One port speaks both: HTTP/2 for every gRPC
/// client, and frames for our own unary calls ([`unary`]); a connection's first four bytes tell which.
pub fn serve(
    listener: Box<dyn Listener>,
    routes: Routes,
    identity: SharedIdentity,
    admission: Admission,
    shutdown: BoxFuture<'static, ()>,
) -> BoxFuture<'static, Result<(), tonic::transport::Error>> {
    Box::pin(serve_until(shutdown, listener, routes, identity, admission))
}

async fn serve_until(
    mut shutdown: BoxFuture<'static, ()>,
    mut listener: Box<dyn Listener>,
    routes: Routes,
    identity: SharedIdentity,
    admission: Admission,
) -> Result<(), tonic::transport::Error> {
    let routes = routes.add_service(hello(identity.clone()));
    let (stop, stopped) = watch::channel(false);
    let (http2, mut accepted) = mpsc::channel::<Incoming>(ACCEPTED_MAX);
    let incoming =
        futures::stream::poll_fn(move |cx| accepted.poll_recv(cx).map(|next| next.map(io::Result::Ok)));
    let mut http2_stopped = stopped.clone();
    let until_stopped = async move { connection::stopped(&mut http2_stopped).await };
    let serving = server().add_routes(routes.clone()).serve_with_incoming_shutdown(incoming, until_stopped);
    let accepting = async {
        let mut connections = JoinSet::new();
        loop {
            let accepted = tokio::select! {
                accepted = listener.accept() => accepted,
                () = &mut shutdown => break,
                Some(_) = connections.join_next() => continue,
            };
            match accepted {
                Ok((stream, from)) => {
                    let (http2, routes, identity) = (http2.clone(), routes.clone(), identity.clone());
                    let admitted = admission.admit(stream, &from);
                    connections.spawn(serve_stream(admitted, from, http2, routes, identity, stopped.clone()));
                }
                Err(error) => {
                    tracing::warn!(%error, "accept a connection");
                    tokio::time::sleep(connection::ACCEPT_PAUSE).await;
                }
            }
        }
        let _ = stop.send(true); // the HTTP/2 server may have ended
        while connections.join_next().await.is_some() {}
    };
    let (served, ()) = tokio::join!(serving, accepting);
    served
}

fn server() -> Server {
    Server::builder()
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .max_concurrent_streams(CALLS_MAX)
        .http2_keepalive_interval(Some(Duration::from_secs(5)))
        .http2_keepalive_timeout(Some(Duration::from_secs(10)))
}

async fn serve_stream(
    (mut stream, seat): (Box<dyn Stream>, Arc<Seat>),
    from: String,
    http2: mpsc::Sender<Incoming>,
    routes: Routes,
    identity: SharedIdentity,
    stopped: watch::Receiver<bool>,
) {
    let mut start = [0; MAGIC_BYTES.len()];
    match timeout(connection::GREETING_DEADLINE, stream.read_exact(&mut start)).await {
        Ok(Ok(_)) => {}
        Ok(Err(_)) | Err(_) => return tracing::debug!(%from, "a connection said nothing"),
    }
    let stream = Incoming { start, replayed: 0, stream };
    if start == MAGIC_BYTES {
        unary::serve_connection((Box::new(stream), seat), from, identity, routes, stopped).await;
    } else {
        let _ = http2.send(stream).await; // the server has ended
    }
}

/// A connection whose first bytes were looked at.
struct Incoming {
    start: [u8; MAGIC_BYTES.len()],
    replayed: usize,
    stream: Box<dyn Stream>,
}

impl Connected for Incoming {
    type ConnectInfo = ();
    fn connect_info(&self) {}
}

impl AsyncRead for Incoming {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.replayed < self.start.len() {
            let len = buf.remaining().min(self.start.len() - self.replayed);
            buf.put_slice(&self.start[self.replayed..self.replayed + len]);
            self.replayed += len;
            return Poll::Ready(Ok(()));
        }
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for Incoming {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

struct HelloService(SharedIdentity);

/// The handshake, for every gRPC port.
fn hello(identity: SharedIdentity) -> HelloServer<impl Hello> {
    HelloServer::new(HelloService(identity))
}

#[tonic::async_trait]
impl Hello for HelloService {
    async fn greet(&self, request: Request<wire::Greeting>) -> Result<Response<wire::GreetingReply>, Status> {
        Ok(Response::new(answer_greeting(&self.0.get(), request.get_ref())))
    }
}
