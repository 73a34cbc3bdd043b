//! Commits of many files in one request.
//!
//! G1  A file has one commit under way at a time (`flush` holds its lock), so the commits of one inode stay in order.
//! G2  Few requests run at a time; the commits that come meanwhile go into the next request together.
//!     Those of files that were written under a lease and of others go in different requests, as the metaserver wants it.
//! G3  The metaserver refuses a request as a whole (P2.1). Then each file gets its own answer: the files that named
//!     the refused chunk get the refusal, the others are sent again.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use dfs_proto::attr::InodeAttr;
use dfs_proto::error::MetaError;
use dfs_proto::ids::{ChunkId, SessionId};
use dfs_proto::meta::{Change, ChunkCommit, CommitExtents, FileCommit, HeldWrite, MetaResult};
use dfs_proto::units::COMMIT_FILES_MAX;
use tokio::sync::oneshot;

use crate::names::cluster_names::ClusterNames;
use crate::session::replies;

/// Commit requests that run at the same time. A further commit waits only for the first of them to end.
const REQUESTS_MAX: usize = 3;
/// The most extents in one request, so that its Raft entry stays far below 1 MiB.
const REQUEST_EXTENTS_MAX: usize = 8192;

/// The commit of one file.
#[derive(Clone, Debug)]
pub(crate) struct FilePart {
    pub(crate) session: SessionId,
    pub(crate) file: FileCommit,
    pub(crate) chunks: Vec<ChunkCommit>,
    /// The lease under which it was written: a commit that arrives behind its return is refused.
    pub(crate) written_under: Option<HeldWrite>,
}

struct Waiting {
    part: FilePart,
    answer: oneshot::Sender<MetaResult<InodeAttr>>,
}

#[derive(Default)]
struct Queue {
    /// Its length is bounded by the number of files that are being flushed, since each waits for its answer.
    waiting: VecDeque<Waiting>,
    running: usize,
}

/// The commits of one session.
pub(crate) struct Committer {
    names: Arc<ClusterNames>,
    queue: Mutex<Queue>,
}

impl Committer {
    pub(crate) fn new(names: Arc<ClusterNames>) -> Arc<Committer> {
        Arc::new(Committer { names, queue: Mutex::default() })
    }

    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns the answer. Dropping the future does not stop the commit.
    pub(crate) async fn commit(self: &Arc<Committer>, part: FilePart) -> MetaResult<InodeAttr> {
        let (answer, answered) = oneshot::channel();
        let starts = {
            let mut queue = self.queue();
            queue.waiting.push_back(Waiting { part, answer });
            let starts = queue.running < REQUESTS_MAX;
            queue.running += usize::from(starts);
            starts
        };
        if starts {
            tokio::spawn(self.clone().run());
        }
        let ended = |_| MetaError::Internal { what: "the commit's task ended".to_owned() };
        answered.await.map_err(ended)?
    }

    async fn run(self: Arc<Committer>) {
        loop {
            let batch = {
                let mut queue = self.queue();
                let batch = take_batch(&mut queue.waiting);
                if batch.is_empty() {
                    queue.running -= 1;
                    return;
                }
                batch
            };
            self.send(batch).await;
        }
    }

    async fn send(&self, mut batch: Vec<Waiting>) {
        while let Some(first) = batch.first() {
            let result = self.request(first.part.session, &batch).await;
            let error = match result {
                Ok(attrs) => {
                    for (waiting, attr) in batch.drain(..).zip(attrs) {
                        let _ = waiting.answer.send(Ok(attr)); // the caller may have gone
                    }
                    return;
                }
                Err(error) => error,
            };
            let is_alone = batch.len() == 1;
            // keeps G3
            let (answered, again): (Vec<_>, Vec<_>) =
                batch.into_iter().partition(|waiting| is_alone || concerns(&error, &waiting.part));
            if answered.is_empty() {
                return self.send_each(again).await;
            }
            for waiting in answered {
                let _ = waiting.answer.send(Err(error.clone()));
            }
            batch = again;
        }
    }

    /// Here bytes become durable and visible: the answer says that a majority of the metaservers has the commit on
    /// disk.
    async fn request(&self, owner: SessionId, batch: &[Waiting]) -> MetaResult<Vec<InodeAttr>> {
        let writes = batch.iter().filter_map(|waiting| waiting.part.written_under).collect();
        let commit = Change::CommitExtents(request_of(batch));
        replies::committed(self.names.commit_of(owner, commit, writes).await?, batch.len())
    }

    async fn send_each(&self, batch: Vec<Waiting>) {
        for waiting in batch {
            let alone = std::slice::from_ref(&waiting);
            let result = self.request(waiting.part.session, alone).await;
            let first = result.map(|attrs| attrs.into_iter().next());
            let none = || MetaError::Internal { what: "a commit without an answer".to_owned() };
            let _ = waiting.answer.send(first.and_then(|attr| attr.ok_or_else(none)));
        }
    }
}

/// Whether this refusal of a whole request is the answer for this file.
fn concerns(error: &MetaError, part: &FilePart) -> bool {
    match error {
        MetaError::ChunkNotOpen { chunk } | MetaError::WrongSetVersion { chunk, .. } => {
            part.chunks.iter().any(|named| named.chunk == *chunk)
        }
        MetaError::SessionExpired { .. }
        | MetaError::Unavailable { .. }
        | MetaError::Undecided { .. }
        | MetaError::NotLeader { .. } => true,
        _ => false,
    }
}

/// Takes the next commits of one session, within the bounds of a request.
fn take_batch(waiting: &mut VecDeque<Waiting>) -> Vec<Waiting> {
    let mut batch: Vec<Waiting> = Vec::new();
    let mut extents = 0;
    while let Some(next) = waiting.front() {
        extents += next.part.file.extents.len();
        let fits = batch.first().is_none_or(|first| {
            let is_same = first.part.session == next.part.session;
            let is_alike = first.part.written_under.is_some() == next.part.written_under.is_some();
            is_same && is_alike && batch.len() < COMMIT_FILES_MAX && extents <= REQUEST_EXTENTS_MAX
        });
        if !fits {
            break;
        }
        batch.extend(waiting.pop_front());
    }
    batch
}

fn request_of(batch: &[Waiting]) -> CommitExtents {
    let mut chunks: BTreeMap<ChunkId, ChunkCommit> = BTreeMap::new();
    for named in batch.iter().flat_map(|waiting| &waiting.part.chunks) {
        let chunk = chunks.entry(named.chunk).or_insert_with(|| named.clone());
        chunk.up_to = chunk.up_to.max(named.up_to);
    }
    let files = batch.iter().map(|waiting| waiting.part.file.clone()).collect();
    CommitExtents { chunks: chunks.into_values().collect(), files }
}
