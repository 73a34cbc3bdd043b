//! The orderly end of a client at one cluster.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use dfs_proto::error::MetaError;
use dfs_proto::units::COMMIT_FILES_MAX;
use futures::StreamExt;
use tokio::time::timeout;

use crate::cluster::client::ClusterClient;
use crate::data::node::Node;
use crate::session::retry::Deadline;

/// Inodes that are flushed at the same time.
const FLUSHES_MAX: usize = COMMIT_FILES_MAX;
/// The part of the time that is kept for closing the session.
const CLOSE_TIMEOUT_MAX: Duration = Duration::from_secs(2);

impl ClusterClient {
    /// Commits everything, ends the session and the background tasks. The answer names what could not be written, and why.
    ///
    /// The commits may take longer than `stalled_max` while they get further.
    pub(crate) async fn shutdown(&self, stalled_max: Duration) -> Vec<String> {
        let close_timeout = (stalled_max / 4).min(CLOSE_TIMEOUT_MAX);
        let lost = self.flush_everything(stalled_max.saturating_sub(close_timeout)).await;
        let deadline = Deadline::after(close_timeout);
        self.core.ended.cancel();
        let close = async {
            self.core.writer.close().await;
            self.core.meta.close(deadline.left()).await
        };
        match timeout(deadline.left(), close).await {
            Ok(Ok(())) | Ok(Err(MetaError::SessionExpired { .. })) => {}
            Ok(Err(error)) => tracing::warn!(%error, "close the session; it will expire"),
            Err(_) => tracing::warn!("the session could not be closed in time; it will expire"),
        }
        self.core.tasks.close();
        // The tasks were cancelled; waiting only makes sure that none outlives the client.
        let _ = timeout(deadline.left(), self.core.tasks.wait()).await;
        lost
    }

    /// The answer names what could not be written. It is given up when nothing got further for so long.
    async fn flush_everything(&self, stalled_max: Duration) -> Vec<String> {
        let session = self.core.meta.session_id();
        let mut dirty: Vec<Arc<Node>> = self.core.dirty().into_iter().map(|(_, node)| node).collect();
        dirty.retain(|node| !self.core.nodes.is_unread_orphan(node.inode));
        let mut flushes = Vec::new();
        for node in dirty.iter().cloned() {
            let core = self.core.clone();
            flushes.push(async move {
                let bytes = node.with(session, |state| state.buffer.dirty_bytes());
                let error = core.flush(&node).await.err()?;
                Some(format!("{}: {bytes} bytes: {error}", node.inode))
            });
        }
        let mut flushes = std::pin::pin!(futures::stream::iter(flushes).buffer_unordered(FLUSHES_MAX));
        let steps = || self.core.flush_steps.load(Ordering::Relaxed);
        let (mut failed, mut seen) = (Vec::new(), steps());
        loop {
            match timeout(stalled_max, flushes.next()).await {
                Ok(Some(flushed)) => failed.extend(flushed),
                Ok(None) => return failed,
                Err(_) if steps() > seen => {}
                Err(_) => break,
            }
            seen = steps();
        }
        for node in dirty.iter().filter(|node| node.dirty_since().is_some()) {
            let bytes = node.with(session, |state| state.buffer.dirty_bytes());
            failed.push(format!("{}: {bytes} bytes: not committed in time", node.inode));
        }
        failed
    }
}
