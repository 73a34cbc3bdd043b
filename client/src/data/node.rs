//! One inode that this client has open: what all its open files share.
//!
//! N1  A write, its size and its mtime are visible to every reader on this client as soon as the write is buffered.
//! N2  What a commit takes out of the buffer is added to the extents under the same lock: a reader sees the bytes in
//!     one of the two.
//! N3  Content is ordered by its version: an older answer never replaces what a newer one showed.
//! N4  A failed flush drops what was buffered and raises `failures`; each open file reports it once (P6.4).
//! N5  What belongs to a session that has ended is dropped, and reported so, when the inode is next used (P3.1).
//! N6  When a read has waited for its whole deadline in vain, the reads that follow soon have a short one: one
//!     read(2) is several requests (read-ahead, the kernel's second try), and its caller gets one error, promptly
//!     (promise 4).
//! N7  What was appended (O_APPEND) lies at the end until it is committed: if another client made the file longer or
//!     shorter meanwhile, it is moved before it is committed, and nothing of the other client's is overwritten. So
//!     the cluster is asked for the size before each such commit. A commit of this client that may have happened is
//!     never taken for another client's.
//! Locks, in the order in which they are taken: `flushing`, `sending`, the table (`nodes`), `state` or the chores.
//! The last three are never held over an `await`.

pub(crate) mod reading;
mod sending;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use dfs_proto::attr::{InodeAttr, Timestamp};
use dfs_proto::ids::{InodeId, SessionId};
use dfs_proto::meta::ChunkLocation;
use dfs_proto::units::ByteLen;
use tokio::time::Instant;

use crate::data::buffer::{RunId, WriteBuffer};
use crate::data::commit::FilePart;
use crate::data::extents::ExtentCache;
use crate::data::memory::SessionMemory;
use crate::data::writer::Place;
use crate::error::ClientError;
use crate::names::newest::newest;

/// What this client knows and has buffered of one inode.
pub(crate) struct Node {
    pub(crate) inode: InodeId,
    memory: Arc<SessionMemory>,
    state: Mutex<NodeState>,
    /// Held during a commit, a truncation or a change of attributes, so that the changes of one inode stay in order.
    pub(crate) flushing: tokio::sync::Mutex<()>,
    /// Held while runs are sent, so that none is sent twice.
    pub(crate) sending: tokio::sync::Mutex<()>,
}

pub(crate) struct NodeState {
    inode: InodeId,
    session: SessionId,
    /// The newest committed attributes that are known.
    base: Option<InodeAttr>,
    pub(crate) buffer: WriteBuffer,
    /// The time of the last buffered write; `None` if times were set explicitly since (P2.3).
    mtime: Option<Timestamp>,
    /// A buffered write clears set-uid and set-gid.
    kill_privileges: bool,
    places: BTreeMap<RunId, Place>,
    next_commit: Option<u64>,
    failures: u64,
    /// No open file has reported the last failure yet.
    is_unreported: bool,
    last_failure: Option<ClientError>,
    cache: ExtentCache,
    dirty_since: Option<Instant>,
    /// Behind this position the buffer holds what was appended, and nothing else (N7).
    appended: Option<u64>,
    /// `base` is as new as an answer to a question that was asked at this time.
    asked_at: Option<Instant>,
    /// A commit that has no answer: it may have happened.
    uncertain: Option<Arc<Part>>,
    /// When a read last waited for its whole deadline in vain (N6).
    unreachable_since: Option<Instant>,
}

/// A commit that was sent, and what it commits.
pub(crate) struct Part {
    pub(crate) commit: FilePart,
    runs: Vec<RunId>,
    locations: Vec<Arc<ChunkLocation>>,
}

impl Node {
    pub(crate) fn new(inode: InodeId, memory: Arc<SessionMemory>, session: SessionId) -> Node {
        let state = NodeState {
            inode,
            session,
            base: None,
            buffer: WriteBuffer::default(),
            mtime: None,
            kill_privileges: false,
            places: BTreeMap::new(),
            next_commit: None,
            failures: 0,
            is_unreported: false,
            last_failure: None,
            cache: ExtentCache::default(),
            dirty_since: None,
            appended: None,
            asked_at: None,
            uncertain: None,
            unreachable_since: None,
        };
        let (flushing, sending) = (tokio::sync::Mutex::new(()), tokio::sync::Mutex::new(()));
        Node { inode, memory, state: Mutex::new(state), flushing, sending }
    }

    /// Calls `look` with the state, under its lock and as of `session`, and counts what it changes of the session's
    /// memory.
    pub(crate) fn with<T>(&self, session: SessionId, look: impl FnOnce(&mut NodeState) -> T) -> T {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let (before, was_unreported) = (state.buffer.memory(), state.is_unreported);
        state.move_to(session);
        let seen = look(&mut state);
        self.memory.moved(before, state.buffer.memory());
        self.memory.unreported_moved(was_unreported, state.is_unreported);
        seen
    }

    /// The newest committed attributes that are known, whichever session they are of.
    pub(crate) fn base(&self) -> Option<InodeAttr> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).base.clone()
    }

    /// Since when something is buffered; `None` if nothing is.
    pub(crate) fn dirty_since(&self) -> Option<Instant> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).dirty_since
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        let state = self.state.get_mut().unwrap_or_else(PoisonError::into_inner);
        self.memory.moved(state.buffer.memory(), 0);
        self.memory.unreported_moved(state.is_unreported, false);
    }
}

impl NodeState {
    /// Drops what belongs to an older session (N5). The numbers of sessions grow, so a caller that still works for an
    /// older one changes nothing.
    fn move_to(&mut self, session: SessionId) {
        if session <= self.session {
            return;
        }
        self.session = session;
        self.next_commit = None;
        self.uncertain = None;
        self.fail(ClientError::SessionLost);
    }

    /// Drops what is buffered and notes the failure (N4). If nothing was buffered, there is nothing to report.
    pub(crate) fn fail(&mut self, error: ClientError) {
        if self.buffer.is_empty() {
            return;
        }
        self.drop_buffered();
        self.failures += 1;
        self.is_unreported = true;
        self.last_failure = Some(error);
    }

    /// The failure that no open file has reported yet (N4).
    pub(crate) fn unreported_failure(&self) -> Option<ClientError> {
        self.last_failure.clone().filter(|_| self.is_unreported)
    }

    /// An open file reports the last failure.
    pub(crate) fn failure_was_reported(&mut self) {
        self.is_unreported = false;
    }

    /// The same for a flush that began under `session`. It does not drop what was written under a later session.
    pub(crate) fn fail_of(&mut self, session: SessionId, error: ClientError) {
        if session == self.session {
            self.fail(error);
        }
    }

    /// Takes the number of the next commit from an answer to `session`, unless the number is known.
    pub(crate) fn learn_next_commit(&mut self, session: SessionId, next: u64) {
        if session == self.session {
            self.next_commit.get_or_insert(next);
        }
    }

    /// The number of the next commit has to be asked for: a commit of `session` was refused, or got no answer.
    pub(crate) fn doubt_next_commit(&mut self, session: SessionId) {
        if session == self.session {
            self.next_commit = None;
        }
    }

    /// What is buffered is of this session.
    pub(crate) fn is_of(&self, session: SessionId) -> bool {
        self.session == session
    }

    pub(crate) fn knows_next_commit(&self) -> bool {
        self.next_commit.is_some()
    }

    /// Drops what is buffered: nobody can read it any more.
    pub(crate) fn drop_buffered(&mut self) {
        self.buffer.clear();
        self.places.clear();
        self.uncertain = None;
        self.settle();
    }

    /// The number of failures so far, and the last failure.
    pub(crate) fn failure(&self) -> (u64, Option<ClientError>) {
        (self.failures, self.last_failure.clone())
    }

    /// Takes in attributes from an answer of the cluster (N3).
    pub(crate) fn observe(&mut self, attr: &InodeAttr) {
        let merged = match self.base.take() {
            Some(base) => newest(attr, &base),
            None => attr.clone(),
        };
        if merged.content_version > self.cache.version() {
            self.cache.reset(merged.content_version);
        }
        self.base = Some(merged);
    }

    /// The node has taken in the answer to a question that was asked at this time.
    pub(crate) fn answered(&mut self, asked_at: Instant) {
        self.asked_at = self.asked_at.max(Some(asked_at));
    }

    /// The last question that was answered was asked longer than `age` ago.
    pub(crate) fn is_old(&self, age: Duration) -> bool {
        self.asked_at.is_none_or(|at| at.elapsed() > age)
    }

    /// What `stat` shows now (N1). `None` before any attributes are known.
    pub(crate) fn shown(&self) -> Option<InodeAttr> {
        let mut attr = self.base.clone()?;
        if let Some(end) = self.buffer.end() {
            attr.size = attr.size.max(ByteLen(end));
            // Bytes that lie over older extents are counted twice until they are committed; a hole is never counted.
            let allocated = attr.allocated.0 + self.buffer.dirty_bytes();
            attr.allocated = ByteLen(allocated.min(attr.size.0));
        }
        if let Some(mtime) = self.mtime {
            attr.mtime = mtime;
            attr.ctime = attr.ctime.latest(mtime);
        }
        Some(attr)
    }

    pub(crate) fn base(&self) -> Option<&InodeAttr> {
        self.base.as_ref()
    }

    pub(crate) fn size(&self) -> u64 {
        let committed = self.base.as_ref().map_or(0, |base| base.size.0);
        committed.max(self.buffer.end().unwrap_or(0))
    }

    /// Buffers a write. True if there is something that can be sent.
    pub(crate) fn write(&mut self, offset: u64, data: &[u8], mtime: Timestamp, kills: bool) -> bool {
        if self.appended.is_some_and(|from| from < offset + data.len() as u64) {
            self.appended = None; // bytes that were written by their position stay there
        }
        self.lay(offset, data, mtime, kills)
    }

    /// Buffers an append behind everything (N7). True if there is something that can be sent.
    pub(crate) fn append(&mut self, data: &[u8], mtime: Timestamp, kills: bool) -> bool {
        let end = self.append_end();
        if self.appended.is_none() {
            self.buffer.freeze_all(); // so no piece lies across the end
            self.appended = Some(end);
        }
        self.lay(end, data, mtime, kills)
    }

    /// The position of the next append.
    pub(crate) fn append_end(&self) -> u64 {
        let appended = self.appended.and_then(|_| self.buffer.end());
        appended.unwrap_or_else(|| self.size())
    }

    pub(crate) fn has_appended(&self) -> bool {
        self.appended.is_some()
    }

    /// The file has become longer since the appended bytes got their place.
    pub(crate) fn is_outgrown(&self) -> bool {
        let committed = self.base.as_ref().map_or(0, |base| base.size.0);
        self.appended.is_some_and(|from| from < committed)
    }

    /// Moves what was appended to the end of the file (N7). No commit may be under way: `base` may show its effect on
    /// the size already.
    fn move_appended(&mut self) {
        let Some(from) = self.appended else { return };
        let committed = self.base.as_ref().map_or(0, |base| base.size.0);
        let to = committed.max(self.buffer.end_before(from).unwrap_or(0));
        if from != to {
            self.buffer.shift(from, to);
            self.appended = Some(to);
        }
    }

    fn lay(&mut self, offset: u64, data: &[u8], mtime: Timestamp, kills: bool) -> bool {
        let has_full = self.buffer.write(offset, data);
        self.mtime = Some(mtime);
        self.kill_privileges |= kills;
        self.dirty_since.get_or_insert_with(Instant::now);
        has_full
    }

    /// Times were set explicitly: a later commit of earlier writes does not change them (P2.3).
    pub(crate) fn times_were_set(&mut self) {
        self.mtime = None;
    }

    /// The mode was set: a later commit of earlier writes does not clear its set-uid and set-gid.
    pub(crate) fn mode_was_set(&mut self) {
        self.kill_privileges = false;
    }

    /// This client has just made the file: it has no bytes anywhere.
    pub(crate) fn was_created(&mut self, attr: &InodeAttr) {
        if self.base.is_none() {
            self.base = Some(attr.clone());
            self.cache.start_empty(attr.content_version);
        }
    }

    fn settle(&mut self) {
        if self.buffer.is_empty() {
            self.mtime = None;
            self.kill_privileges = false;
            self.dirty_since = None;
            self.appended = None;
        } else if self.dirty_since.is_some() {
            self.dirty_since = Some(Instant::now());
        }
    }
}
