//! From the buffer to the commit: send the bytes, sync them on every replica, commit their extents.
//!
//! F1  An inode has one commit under way at a time, in the order of its writes (`Node::flushing`).
//! F2  Bytes are dropped from the buffer when the commit that names them was answered, not before (P1.6). If a chunk
//!     fails meanwhile, they are sent again.
//! F3  If the commit is not possible by the deadline, or is refused for good, the buffered bytes are dropped and the
//!     failure is reported (P6.4). Nothing that was acknowledged is half committed. A flush drops only what was
//!     written under the session that it began under.
//! F4  A flush that makes progress is not given up: many bytes are flushed in slices, each with its own deadline, and
//!     the time in which bytes find a place does not count.
//! F5  A flush that began goes on when its caller stops waiting, since a commit under way must not meet another one
//!     of its inode.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use dfs_proto::attr::{AccessMask, Caller};
use dfs_proto::error::MetaError;
use dfs_proto::ids::SessionId;
use dfs_proto::meta::{MetaResult, Read};
use dfs_proto::units::MIB;
use futures::future::try_join_all;
use tokio::time::{Instant, timeout_at};

use crate::data::buffer::{RUN_LEN_MAX, Run, RunId};
use crate::data::core::Core;
use crate::data::node::{Node, NodeState};
use crate::data::writer::Parcel;
use crate::error::ClientError;
use crate::session::replies::{self, OpenedFile};
use crate::session::retry::{Backoff, Deadline};

/// So many commits may be refused for their number before the flush fails: an earlier commit whose answer was lost
/// may still arrive.
const REFUSALS_MAX: u32 = 5;
/// The length of a slice (F4). A commit for each slice costs little beside its sync. A path of less than about 3
/// MiB/s is given up in any case: the bytes in flight to four chunks must be answered within the time-out of an
/// append (`writer`).
pub const FLUSH_SLICE_LEN: u64 = 16 * MIB;
const PAUSE_MIN: Duration = Duration::from_millis(20);
const PAUSE_MAX: Duration = Duration::from_secs(1);

impl Core {
    /// Makes everything that was written to the inode until now durable and visible to all.
    pub(crate) async fn flush(self: &Arc<Core>, node: &Arc<Node>) -> Result<(), ClientError> {
        if node.dirty_since().is_none() {
            // What another flush is committing just now counts as clean only when it is committed.
            return Ok(());
        }
        let (core, node) = (self.clone(), node.clone());
        let flushing = tokio::spawn(async move {
            let flushing = node.flushing.lock().await;
            let flushed = core.flush_locked(&node).await;
            drop(flushing);
            core.nodes.forget_if_closed(node.inode); // its last open file may be gone by now
            flushed
        });
        let ended = |error| ClientError::Internal { what: format!("the flush ended: {error}") };
        flushing.await.map_err(ended)?
    }

    /// The same as `flush`, for a caller that holds `Node::flushing`.
    pub(crate) async fn flush_locked(&self, node: &Arc<Node>) -> Result<(), ClientError> {
        let session = self.meta.session_id();
        let end = node.with(session, |state| state.buffer.freeze_all());
        loop {
            let slice_end = node.with(session, |state| state.buffer.slice_end(FLUSH_SLICE_LEN, end));
            let deadline = Deadline::after(self.config.data_timeout); // keeps F4
            let committed = self.commit_below(node, session, slice_end, deadline).await;
            committed.map_err(|error| self.fail(node, session, error.into()))?;
            if slice_end == end {
                return Ok(());
            }
        }
    }

    /// Drops what was written under `session` and notes the failure (F3). If another session has taken its place, the
    /// bytes were dropped already (N5).
    fn fail(&self, node: &Node, session: SessionId, error: ClientError) -> ClientError {
        let is_gone = matches!(error, ClientError::NotFound | ClientError::Stale);
        if is_gone && self.nodes.is_unlinked(node.inode) {
            node.with(self.meta.session_id(), NodeState::drop_buffered);
            return error; // nobody can read it, and nobody is told
        }
        tracing::warn!(inode = %node.inode, %error, "what was written cannot be committed and is dropped");
        node.with(self.meta.session_id(), |state| state.fail_of(session, error.clone()));
        self.names.content_lost(node.inode);
        error
    }

    /// Sends what can be sent while the writer goes on. The writer gets the failure.
    pub(crate) async fn send(&self, node: &Arc<Node>) -> Result<(), ClientError> {
        let session = self.meta.session_id();
        let end = node.with(session, |state| state.buffer.frozen_end());
        let deadline = Deadline::after(self.config.data_timeout);
        let result = self.place_below(node, session, end, deadline).await;
        result.map(drop).map_err(|error| self.fail(node, session, error.into()))
    }

    async fn commit_below(
        &self,
        node: &Arc<Node>,
        session: SessionId,
        end: RunId,
        mut deadline: Deadline,
    ) -> MetaResult<()> {
        let mut backoff = Backoff::new(PAUSE_MIN, PAUSE_MAX, self.env.rng.clone());
        let mut refusals = 0;
        loop {
            deadline = self.place_below(node, session, end, deadline).await?;
            let streams = node.with(session, |state| state.streams_below(end));
            let syncs = streams.iter().map(|(stream, up_to)| stream.sync(*up_to));
            let synced = timeout_at(deadline.instant(), try_join_all(syncs)).await;
            let error = match synced {
                Err(_) => MetaError::Unavailable { what: "the chunkservers do not answer".to_owned() },
                Ok(Err(error)) => MetaError::Unavailable { what: error.to_string() },
                Ok(Ok(_)) => match self.commit_parts(node, session, end).await {
                    Ok(()) => return Ok(()),
                    Err(error) => error,
                },
            };
            match &error {
                MetaError::ChunkNotOpen { chunk } | MetaError::WrongSetVersion { chunk, .. } => {
                    for (stream, _) in streams.iter().filter(|(stream, _)| stream.key.chunk == *chunk) {
                        stream.end(); // keeps F2: its bytes go elsewhere
                    }
                }
                MetaError::CommitRefused { .. } if refusals < REFUSALS_MAX => {
                    refusals += 1;
                    node.with(session, |state| state.doubt_next_commit(session));
                }
                MetaError::Unavailable { .. } if !deadline.is_over() => {}
                _ => return Err(error),
            }
            tracing::debug!(inode = %node.inode, %error, "commit again");
            if !backoff.pause(deadline).await {
                return Err(error);
            }
        }
    }

    /// Sends the runs below `end` that are in no chunk, several small ones in one append. Returns the deadline, later
    /// by the time that this took (F4).
    async fn place_below(
        &self,
        node: &Arc<Node>,
        session: SessionId,
        end: RunId,
        deadline: Deadline,
    ) -> MetaResult<Deadline> {
        if self.meta.session_id() != session {
            return Err(MetaError::SessionExpired { session }); // what is buffered now was written under another session
        }
        let began = Instant::now();
        // The flush that holds the lock places runs of this inode, too.
        let _sending = node.sending.lock().await;
        let mut for_parcel = deadline.later_by(began.elapsed());
        let unplaced = node.with(session, |state| state.unplaced(end));
        for runs in parcels(&unplaced) {
            let parcel =
                Parcel { session, inode: node.inode, file_offset: runs[0].1.offset, data: joined(runs) };
            let place = self.writer.append(parcel, for_parcel).await?;
            node.with(session, |state| state.placed(runs, &place));
            self.flush_steps.fetch_add(1, Ordering::Relaxed);
            for_parcel = Deadline::after(self.config.data_timeout);
        }
        Ok(deadline.later_by(began.elapsed()))
    }

    /// Commits the runs below `end`, which are all durable, in as few commits as they need.
    async fn commit_parts(&self, node: &Arc<Node>, session: SessionId, end: RunId) -> MetaResult<()> {
        loop {
            if !node.with(session, |state| state.knows_next_commit()) {
                // For the cluster the question opens the file, which may be closed here already.
                let _opened = self.meta.held.opening_to_flush(node.inode).await;
                let open = Read::Open { inode: node.inode, mask: AccessMask::NONE };
                let OpenedFile { attr, next_commit, .. } =
                    replies::opened(self.names.read(&Caller::ROOT, open).await?)?;
                node.with(session, |state| state.learn_of_commits(session, &attr, next_commit));
            }
            let Some(part) = node.with(session, |state| state.part(end)) else {
                let is_done = node.with(session, |state| state.buffer.runs_below(end).next().is_none());
                let moved = || MetaError::Unavailable { what: "a chunk ended before the commit".to_owned() };
                return is_done.then_some(()).ok_or_else(moved);
            };
            // If the caller stops waiting here, this stays noted.
            node.with(session, |state| state.not_answered(&part));
            let attr = self.committer.commit(part.commit.clone()).await.inspect_err(|error| {
                node.with(session, |state| match error {
                    MetaError::Unavailable { .. } => state.not_answered(&part),
                    _ => state.was_refused(&part),
                });
            })?;
            if let Some((from, to)) = node.with(session, |state| state.committed(&part, &attr)) {
                self.names.content_moved(node.inode, from, to);
            }
            self.flush_steps.fetch_add(1, Ordering::Relaxed);
            self.writer.succeeded();
        }
    }
}

/// Takes neighbouring runs together that fit into one append.
fn parcels(runs: &[(RunId, Run)]) -> impl Iterator<Item = &[(RunId, Run)]> {
    let mut rest = runs;
    std::iter::from_fn(move || {
        let mut len = 0;
        let fits = |run: &Run, len: &mut u64| {
            *len += run.data.len() as u64;
            *len <= RUN_LEN_MAX
        };
        let count = rest.iter().take_while(|(_, run)| fits(run, &mut len)).count().max(1);
        let (parcel, behind) = rest.split_at_checked(count)?;
        rest = behind;
        Some(parcel)
    })
}

fn joined(runs: &[(RunId, Run)]) -> Bytes {
    if let [(_, run)] = runs {
        return run.data.clone();
    }
    let mut data = BytesMut::with_capacity(runs.iter().map(|(_, run)| run.data.len()).sum());
    for (_, run) in runs {
        data.extend_from_slice(&run.data);
    }
    data.freeze()
}
