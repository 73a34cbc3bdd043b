//! `/metrics` for Prometheus and `/healthz` for whoever restarts daemons.

use std::future::Future;
use std::io;
use std::sync::Arc;

use axum::Router;
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::get;
use dfs_net::env::{Listener, Stream};
use dfs_net::rpc::admission::Admission;

/// What the two pages show.
pub(crate) trait Pages: Send + Sync + 'static {
    /// All metrics, in the OpenMetrics text format.
    fn metrics(&self) -> String;
    /// Ok, or why this server cannot do its work now; a line each.
    fn health(&self) -> Result<String, String>;
}

const OPENMETRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Serves until `shutdown` is ready.
pub(crate) async fn serve(
    listener: Box<dyn Listener>,
    pages: Arc<dyn Pages>,
    admission: Admission,
    shutdown: impl Future<Output = ()> + Send + 'static,
) -> io::Result<()> {
    let health = pages.clone();
    let router = Router::new()
        .route(
            "/metrics",
            get(move || async move { ([(header::CONTENT_TYPE, OPENMETRICS)], pages.metrics()) }),
        )
        .route(
            "/healthz",
            get(move || async move {
                match health.health() {
                    Ok(line) => (StatusCode::OK, line + "\n").into_response(),
                    Err(line) => (StatusCode::SERVICE_UNAVAILABLE, line + "\n").into_response(),
                }
            }),
        );
    axum::serve(Accepting(listener, admission), router).with_graceful_shutdown(shutdown).await
}

/// A listener as axum wants it.
struct Accepting(Box<dyn Listener>, Admission);

impl axum::serve::Listener for Accepting {
    type Io = Box<dyn Stream>;
    type Addr = String;

    async fn accept(&mut self) -> (Self::Io, Self::Addr) {
        loop {
            match self.0.accept().await {
                Ok((stream, from)) => return (self.1.admit(stream, &from).0, from),
                // Most often out of descriptors: others close theirs meanwhile.
                Err(error) => {
                    tracing::warn!("accept an HTTP connection: {error}");
                    tokio::time::sleep(std::time::Duration::from_millis(100)).await;
                }
            }
        }
    }

    fn local_addr(&self) -> io::Result<Self::Addr> {
        Ok(self.0.local_address())
    }
}
