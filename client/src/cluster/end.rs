//! The orderly end of a client at one cluster.

use std::time::Duration;

use dfs_proto::error::MetaError;
use dfs_proto::units::COMMIT_FILES_MAX;
use futures::StreamExt;
use tokio::time::timeout;

use crate::cluster::client::ClusterClient;
use crate::session::retry::Deadline;

/// Inodes that are flushed at the same time.
const FLUSHES_MAX: usize = COMMIT_FILES_MAX;
/// The part of the deadline that is kept for closing the session.
const CLOSE_TIMEOUT_MAX: Duration = Duration::from_secs(2);

impl ClusterClient {
    /// Commits everything, ends the session and the background tasks. The answer names what could not be written, and why.
    pub(crate) async fn shutdown(&self, deadline: Duration) -> Vec<String> {
        let close_timeout = (deadline / 4).min(CLOSE_TIMEOUT_MAX);
        let deadline = Deadline::after(deadline);
        let flush_timeout = deadline.left().saturating_sub(close_timeout);
        let flushes = self.core.dirty().into_iter().map(|(_, node)| async move {
            let bytes = node.with(self.core.meta.session_id(), |state| state.buffer.dirty_bytes());
            let lost = |why: String| format!("{}: {bytes} bytes: {why}", node.inode);
            if self.core.nodes.is_unread_orphan(node.inode) {
                return None;
            }
            match timeout(flush_timeout, self.core.flush(&node)).await {
                Ok(Ok(())) => None,
                Ok(Err(error)) => Some(lost(error.to_string())),
                Err(_) => Some(lost("not committed in time".to_owned())),
            }
        });
        let lost: Vec<Option<String>> = futures::stream::iter(flushes).buffered(FLUSHES_MAX).collect().await;
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
        lost.into_iter().flatten().collect()
    }
}
