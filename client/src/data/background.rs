//! The tasks of a client at one cluster that run beside its callers: the control loop of its session, the waits for locks that
//! were given up, the chores, and the commit of bytes that were buffered long ago.

use std::sync::Arc;
use std::time::Duration;

use dfs_proto::units::{COMMIT_FILES_MAX, MIB};
use futures::StreamExt;
use tokio::sync::Semaphore;
use tokio::time::{Instant, sleep};

use crate::data::core::Core;
use crate::data::node::Node;
use crate::data::seen_through::SeenThrough;
use crate::error::{ClientError, Result};

/// How often what is old is looked for, in the time after which it is old.
const LOOKS: u32 = 4;
const LOOK_EVERY_MIN: Duration = Duration::from_millis(10);
const LOOK_EVERY_MAX: Duration = Duration::from_secs(1);
/// Inodes that are flushed at the same time in the background: small files share appends, syncs, and a commit.
const FLUSHES_MAX: usize = COMMIT_FILES_MAX;
/// While the memory is half full, the oldest files are flushed until this much of it is on its way.
const FLUSH_LEN_MAX: u64 = 32 * MIB;
/// A file of which more is buffered is flushed, and its writer waits while it is twice as much: whoever asks for the file waits until
/// all of it is committed.
const FILE_BUFFERED_MANY: u64 = 32 * MIB;

impl Core {
    pub(crate) fn start_tasks(self: &Arc<Core>) {
        self.start(|core| async move { core.meta.run_control().await });
        self.start(|core| async move { core.meta.run_cancels().await });
        self.start(|core| async move { core.meta.run_recalls().await });
        self.start(|core| async move { core.run_recalled_writes().await });
        self.start(|core| async move { core.run_returned_writes().await });
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

    /// Commits the oldest buffers while the memory is half full (P1.6), and those that are older than `commit_interval`.
    async fn run_flusher(self: Arc<Core>) {
        let look_every = (self.config.commit_interval / LOOKS).clamp(LOOK_EVERY_MIN, LOOK_EVERY_MAX);
        let places = Arc::new(Semaphore::new(FLUSHES_MAX));
        loop {
            tokio::select! {
                () = self.memory.half_full() => {}
                () = sleep(look_every) => {}
            }
            while self.memory.is_half_full() {
                let oldest = self.oldest();
                if oldest.is_empty() {
                    break;
                }
                self.flush_all(oldest).await;
            }
            self.return_idle_writes();
            self.flush_old(&places);
        }
    }

    /// Those that have been dirty for longest, as many as are worth a flush.
    fn oldest(&self) -> Vec<Arc<Node>> {
        let (session, mut len) = (self.meta.session_id(), 0);
        let is_enough = |(_, node): &(Instant, Arc<Node>)| {
            let is_enough = len >= FLUSH_LEN_MAX;
            len += node.with(session, |state| state.buffer.dirty_bytes());
            !is_enough
        };
        let oldest = self.dirty().into_iter().take(FLUSHES_MAX).take_while(is_enough);
        oldest.map(|(_, node)| node).collect()
    }

    /// Begins to flush what is old. One that takes long holds back no other.
    fn flush_old(self: &Arc<Core>, places: &Arc<Semaphore>) {
        let is_old = |(since, _): &(Instant, Arc<Node>)| since.elapsed() >= self.config.commit_interval;
        for (_, node) in self.dirty().into_iter().take_while(is_old) {
            if node.flushing.try_lock().is_err() {
                continue; // it is being flushed
            }
            let Ok(place) = places.clone().try_acquire_owned() else { return };
            let (core, ended) = (self.clone(), self.ended.clone());
            let flushing = async move {
                core.flush_one(&node).await;
                drop(place);
            };
            self.tasks.spawn(async move { ended.run_until_cancelled_owned(flushing).await });
        }
    }

    /// To be called before a write, under no lock and with no hold.
    pub(crate) async fn bound_buffered(self: &Arc<Core>, node: &Arc<Node>) {
        let buffered = node.with(self.meta.session_id(), |state| state.buffer.dirty_bytes());
        if buffered < FILE_BUFFERED_MANY {
            return;
        }
        if node.flushing.try_lock().is_ok() {
            let (core, node, ended) = (self.clone(), node.clone(), self.ended.clone());
            let flushing = async move { core.flush_one(&node).await };
            self.tasks.spawn(async move { ended.run_until_cancelled_owned(flushing).await });
        }
        if buffered >= 2 * FILE_BUFFERED_MANY {
            drop(node.flushing.lock().await); // the flush that is under way has ended: each slice of it in time
        }
    }

    /// [`Core::send`], for a writer who does not wait for it: whoever writes or flushes next gets the failure.
    pub(crate) fn send_later(self: &Arc<Core>, node: &Arc<Node>) {
        let (core, node, ended) = (self.clone(), node.clone(), self.ended.clone());
        let sending = async move {
            let _ = core.send(&node).await;
        };
        self.tasks.spawn(async move { ended.run_until_cancelled_owned(sending).await });
    }

    /// The inodes with buffered bytes, the one first that has been dirty longest.
    pub(crate) fn dirty(&self) -> Vec<(Instant, Arc<Node>)> {
        let all = self.nodes.all().into_iter();
        let mut dirty: Vec<_> = all.filter_map(|node| Some((node.dirty_since()?, node))).collect();
        dirty.sort_by_key(|(since, node)| (*since, node.inode));
        dirty
    }

    async fn flush_all(self: &Arc<Core>, nodes: Vec<Arc<Node>>) {
        let flushes = nodes.into_iter().map(|node| async move { self.flush_one(&node).await });
        futures::stream::iter(flushes).buffer_unordered(FLUSHES_MAX).collect::<()>().await;
    }

    /// A failure stays with its inode, and the open files report it, or the next one that is opened.
    async fn flush_one(self: &Arc<Core>, node: &Arc<Node>) {
        if !self.nodes.is_unread_orphan(node.inode) || self.memory.is_half_full() {
            let _ = self.flush(node).await;
        }
        self.nodes.forget_if_closed(node.inode);
        self.return_unused_write(node.inode);
    }
}
