//! Serves `/metrics` for Prometheus, and `/healthz` for a supervisor that restarts this server.

use axum::Router;
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::response::IntoResponse;
use axum::routing::get;
use dfs_proto::env::{Listener, Stream};
use dfs_proto::rpc::admission::Admission;
use tokio::time::{Duration, sleep};

use crate::heartbeat::Registration;
use crate::metrics::Metrics;

const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
/// The pause after a failed accept, such as for want of descriptors: trying again at once would only burn a core.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Serves until `shutdown` is ready.
pub(crate) async fn serve(
    listener: Box<dyn Listener>,
    metrics: Metrics,
    registration: Registration,
    admission: Admission,
    shutdown: impl Future<Output = ()> + Send + 'static,
) {
    let health = move || async move {
        match registration.last_failure() {
            None => (StatusCode::OK, "ok\n".to_owned()),
            Some(failure) => (StatusCode::SERVICE_UNAVAILABLE, format!("{failure}\n")),
        }
    };
    let numbers = move || async move { ([(CONTENT_TYPE, OPEN_METRICS)], metrics.encode()).into_response() };
    let router = Router::new().route("/metrics", get(numbers)).route("/healthz", get(health));
    let served = axum::serve(Accepting(listener, admission), router).with_graceful_shutdown(shutdown).await;
    if let Err(error) = served {
        tracing::warn!("http: {error}");
    }
}

struct Accepting(Box<dyn Listener>, Admission);

impl axum::serve::Listener for Accepting {
    type Io = Box<dyn Stream>;
    type Addr = String;

    async fn accept(&mut self) -> (Self::Io, Self::Addr) {
        loop {
            match self.0.accept().await {
                Ok((stream, from)) => return (self.1.admit(stream, &from).0, from),
                Err(error) => {
                    tracing::warn!("http: accept: {error}");
                    sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }

    fn local_addr(&self) -> std::io::Result<String> {
        Ok(self.0.local_address())
    }
}
