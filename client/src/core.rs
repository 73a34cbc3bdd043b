//! What all parts of one client share, and the tasks that run beside the callers.

use std::sync::Arc;
use std::time::Duration;

use dfs_net::env::Env;
use futures::StreamExt;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::ClientConfig;
use crate::chores::Chores;
use crate::chunk::ChunkClient;
use crate::commit::Committer;
use crate::memory::SessionMemory;
use crate::meta::MetaClient;
use crate::node::{Node, Nodes};
use crate::readahead::ReadAheadBudget;
use crate::writer::ChunkWriter;

/// What was written is committed after this long, even if nobody asks: a client that dies loses no more.
const DIRTY_FOR_MAX: Duration = Duration::from_secs(10);
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// Inodes flushed at the same time in the background.
const FLUSHES_MAX: usize = 4;

/// See the module.
pub(crate) struct Core {
    pub(crate) config: ClientConfig,
    pub(crate) env: Env,
    pub(crate) meta: Arc<MetaClient>,
    pub(crate) chunks: Arc<ChunkClient>,
    pub(crate) writer: ChunkWriter,
    pub(crate) committer: Arc<Committer>,
    pub(crate) nodes: Arc<Nodes>,
    pub(crate) memory: Arc<SessionMemory>,
    pub(crate) chores: Arc<Chores>,
    pub(crate) read_ahead: ReadAheadBudget,
    /// Cancelled when the client is shut down or dropped.
    pub(crate) ended: CancellationToken,
    pub(crate) tasks: TaskTracker,
}

impl Core {
    pub(crate) fn start_tasks(self: &Arc<Core>) {
        self.start(|core| async move { core.run_heartbeat().await });
        self.start(|core| async move { core.chores.run(&core.meta).await });
        self.start(|core| async move { core.run_flusher().await });
    }

    fn start<F: Future<Output = ()> + Send + 'static>(self: &Arc<Core>, task: impl FnOnce(Arc<Core>) -> F) {
        let ended = self.ended.clone();
        let task = task(self.clone());
        self.tasks.spawn(async move { ended.run_until_cancelled_owned(task).await });
    }

    async fn run_heartbeat(&self) {
        loop {
            if let Err(error) = self.meta.renew().await {
                tracing::warn!(%error, "renew the session");
            }
            sleep(self.meta.heartbeat_interval()).await;
        }
    }

    /// Commits the oldest buffers while memory is half full (P1.6), and what has waited long.
    async fn run_flusher(self: Arc<Core>) {
        loop {
            tokio::select! {
                () = self.memory.half_full() => {}
                () = sleep(LOOK_EVERY) => {}
            }
            while self.memory.is_half_full() {
                let mut dirty = self.dirty();
                dirty.truncate(FLUSHES_MAX);
                if dirty.is_empty() {
                    break;
                }
                self.flush_all(dirty).await;
            }
            let old = self.dirty().into_iter();
            let is_old = |(since, _): &(Instant, Arc<Node>)| since.elapsed() >= DIRTY_FOR_MAX;
            self.flush_all(old.take_while(is_old).collect()).await;
        }
    }

    /// Inodes with buffered bytes, the longest dirty one first.
    pub(crate) fn dirty(&self) -> Vec<(Instant, Arc<Node>)> {
        let all = self.nodes.all().into_iter();
        let mut dirty: Vec<_> = all.filter_map(|node| Some((node.dirty_since()?, node))).collect();
        dirty.sort_by_key(|(since, node)| (*since, node.inode));
        dirty
    }

    /// Failures stay with the inodes, for their open files to report.
    async fn flush_all(self: &Arc<Core>, dirty: Vec<(Instant, Arc<Node>)>) {
        let flushes = dirty.into_iter().map(|(_, node)| async move {
            if !self.nodes.is_orphan(node.inode) || self.memory.is_half_full() {
                let _ = self.flush(&node).await;
            }
            self.nodes.forget_if_closed(node.inode);
        });
        futures::stream::iter(flushes).buffer_unordered(FLUSHES_MAX).collect::<()>().await;
    }
}
