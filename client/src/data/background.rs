//! The tasks of a client at one cluster that run beside its callers: the control loop of its session, the waits for locks that
//! were given up, the chores, and the commit of bytes that were buffered long ago.

use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use tokio::time::{Instant, sleep};

use crate::data::core::Core;
use crate::data::node::Node;
use crate::data::seen_through::SeenThrough;
use crate::error::{ClientError, Result};

/// What was written is committed after this time, even if nobody asks for it: a client that dies loses no more than
/// that.
const DIRTY_FOR_MAX: Duration = Duration::from_secs(10);
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// Inodes that are flushed at the same time in the background.
const FLUSHES_MAX: usize = 4;

impl Core {
    pub(crate) fn start_tasks(self: &Arc<Core>) {
        self.start(|core| async move { core.meta.run_control().await });
        self.start(|core| async move { core.meta.run_cancels().await });
        self.start(|core| async move { core.meta.run_recalls().await });
        self.start(|core| async move { core.chores.run(&core.names).await });
        self.start(|core| async move { core.run_flusher().await });
    }

    fn start<F: Future<Output = ()> + Send + 'static>(self: &Arc<Core>, task: impl FnOnce(Arc<Core>) -> F) {
        let ended = self.ended.clone();
        let task = task(self.clone());
        self.tasks.spawn(async move { ended.run_until_cancelled_owned(task).await });
    }

    /// Does the work to its end, also when its caller gives up.
    pub(crate) async fn see_through<T: Send + 'static>(
        &self,
        work: impl Future<Output = Result<T>> + Send + 'static,
    ) -> Result<T> {
        let working = self.ended.clone().run_until_cancelled_owned(work);
        let ends = || Err(ClientError::Unavailable { what: "the client ends".to_owned() });
        SeenThrough::new(self.tasks.clone(), working).await.unwrap_or_else(ends)
    }

    /// Commits the oldest buffers while the memory is half full (P1.6), and those that are older than
    /// [`DIRTY_FOR_MAX`].
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

    /// The inodes with buffered bytes, the one first that has been dirty longest.
    pub(crate) fn dirty(&self) -> Vec<(Instant, Arc<Node>)> {
        let all = self.nodes.all().into_iter();
        let mut dirty: Vec<_> = all.filter_map(|node| Some((node.dirty_since()?, node))).collect();
        dirty.sort_by_key(|(since, node)| (*since, node.inode));
        dirty
    }

    /// Flushes these inodes. A failure stays with its inode, and the open files report it.
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
