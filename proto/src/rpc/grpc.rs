//! gRPC over `env.net`: windows tuned in one place, the handshake as a call of its own right after connecting.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::Duration;

use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::timeout;
use tonic::transport::server::Connected;
use tonic::transport::{Channel, Endpoint, Server, Uri};
use tonic::{Request, Response, Status};

use super::{Expected, Identity, answer_greeting, check_answer, greeting};
use crate::env::{Env, Listener, Net, Stream};
use crate::wire;
use crate::wire::hello_client::HelloClient;
use crate::wire::hello_server::{Hello, HelloServer};

/// Measured on loopback with 1 MiB payloads: the default windows cost twice the CPU (DESIGN.md, section 4).
const STREAM_WINDOW_BYTES: u32 = 8 << 20;
const CONNECTION_WINDOW_BYTES: u32 = 32 << 20;
/// Decoding limit of one message.
pub const MESSAGE_LEN_MAX: usize = 16 << 20;

/// Connects and shakes hands. Errors say what did not fit, as one line without the address.
pub async fn connect(
    env: &Env,
    address: &str,
    own: &Identity,
    expected: &Expected,
    deadline: Duration,
) -> Result<Channel, String> {
    let attempt = async {
        let channel = endpoint(deadline).connect_with_connector(connector(env.net.clone(), address)).await;
        let channel = channel.map_err(|error| describe(&error))?;
        let mut hello = HelloClient::new(channel.clone());
        let reply = hello.greet(greeting(own, expected)).await.map_err(|s| s.message().to_owned())?;
        check_answer(expected, reply.get_ref())?;
        Ok(channel)
    };
    timeout(deadline, attempt).await.unwrap_or_else(|_| Err(format!("no answer within {deadline:?}")))
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

/// A server with our windows; add services and give it to [`serve`].
pub fn server() -> Server {
    Server::builder()
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .http2_keepalive_interval(Some(Duration::from_secs(5)))
        .http2_keepalive_timeout(Some(Duration::from_secs(10)))
}

/// Serves until `shutdown` is ready, then lets running calls end.
pub async fn serve(
    listener: Box<dyn Listener>,
    router: tonic::transport::server::Router,
    shutdown: impl Future<Output = ()> + Send,
) -> Result<(), tonic::transport::Error> {
    let incoming = futures::stream::unfold(listener, |mut listener| async move {
        let accepted = listener.accept().await.map(|(stream, _)| Incoming(stream));
        Some((accepted, listener))
    });
    router.serve_with_incoming_shutdown(incoming, shutdown).await
}

/// A connection as tonic wants it.
struct Incoming(Box<dyn Stream>);

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
        Pin::new(&mut self.0).poll_read(cx, buf)
    }
}

impl AsyncWrite for Incoming {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.0.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}

/// A daemon's identity, filled in as it becomes known (a fresh chunkserver has no id before it registered).
#[derive(Clone)]
pub struct SharedIdentity(Arc<Mutex<Identity>>);

impl SharedIdentity {
    pub fn new(identity: Identity) -> SharedIdentity {
        SharedIdentity(Arc::new(Mutex::new(identity)))
    }

    pub fn get(&self) -> Identity {
        *self.0.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    pub fn set(&self, identity: Identity) {
        *self.0.lock().unwrap_or_else(|poisoned| poisoned.into_inner()) = identity;
    }
}

struct HelloService(SharedIdentity);

/// The handshake, for every gRPC port.
pub fn hello(identity: SharedIdentity) -> HelloServer<impl Hello> {
    HelloServer::new(HelloService(identity))
}

#[tonic::async_trait]
impl Hello for HelloService {
    async fn greet(&self, request: Request<wire::Greeting>) -> Result<Response<wire::GreetingReply>, Status> {
        Ok(Response::new(answer_greeting(&self.0.get(), request.get_ref())))
    }
}
