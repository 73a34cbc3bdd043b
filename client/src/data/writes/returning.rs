//! The tasks that flush what is recalled, and give it back.

use std::sync::Arc;
use std::time::Duration;

use dfs_proto::error::MetaError;
use dfs_proto::ids::{InodeId, SessionId};
use dfs_proto::meta::HeldWrite;
use dfs_proto::planted::{self, Bug};
use tokio::time::sleep;

use crate::data::core::Core;
use crate::data::writes::Writes;

/// A lease that nobody has used for so long is given back once everything is committed.
const IDLE_MAX: Duration = Duration::from_secs(5);
/// Between two tries to give leases back.
const PAUSE: Duration = Duration::from_millis(100);

impl Core {
    /// Flushes each file whose Write is recalled, for ever: one beside the other, since each waits for its own chunkservers. There
    /// are no more of them than leases.
    pub(crate) async fn run_recalled_writes(self: &Arc<Core>) {
        loop {
            for write in self.writes.next_to_flush().await {
                let (core, ended) = (self.clone(), self.ended.clone());
                let flushing = async move { core.flush_recalled(write).await };
                self.tasks.spawn(async move { ended.run_until_cancelled_owned(flushing).await });
            }
        }
    }

    async fn flush_recalled(self: &Arc<Core>, write: HeldWrite) {
        if planted::has(Bug::ReturnsBeforeCommit) {
            self.writes.change(|state| state.flushed(write));
        }
        if let Some(node) = self.nodes.get(write.inode) {
            // A failure has dropped the bytes, and the open files report it (P6.4): then nothing is left to wait for.
            if let Err(error) = self.flush(&node).await {
                tracing::debug!(inode = %write.inode, %error, "flush a file that others ask for");
            }
        }
        self.writes.change(|state| state.flushed(write));
    }

    /// Gives back what is held no longer, for ever.
    pub(crate) async fn run_returned_writes(&self) {
        loop {
            let (session, writes) = self.writes.next_returned().await;
            match self.meta.return_writes(writes.clone()).await {
                Ok(()) | Err(MetaError::SessionExpired { .. }) => {} // a heartbeat finds that
                Err(error) => {
                    tracing::debug!(%error, files = writes.len(), "give files back");
                    sleep(PAUSE).await;
                    self.writes.change(|state| state.not_told(session, writes));
                }
            }
        }
    }

    /// Gives a file back that nobody has open here any more, and of which everything is committed.
    pub(crate) fn return_unused_write(&self, inode: InodeId) {
        if self.nodes.get(inode).is_none() && self.writes.has(inode) {
            self.writes.change(|state| state.return_unused(inode));
        }
    }

    /// Gives back what was not used for a while.
    pub(crate) fn return_idle_writes(&self) {
        let is_clean = |inode| self.nodes.get(inode).is_none_or(|node| node.dirty_since().is_none());
        let now = self.env.clock.boottime();
        self.writes.change(|state| state.return_idle(now, IDLE_MAX, is_clean));
    }
}

impl Writes {
    async fn next_to_flush(&self) -> Vec<HeldWrite> {
        loop {
            let writes = self.state().take_to_flush();
            if !writes.is_empty() {
                return writes;
            }
            self.to_flush.notified().await;
        }
    }

    async fn next_returned(&self) -> (SessionId, Vec<HeldWrite>) {
        loop {
            {
                let mut state = self.state();
                let writes = state.take_returned();
                if !writes.is_empty() {
                    return (state.session(), writes);
                }
            }
            self.returned.notified().await;
        }
    }
}
