//! One inode that this client has open: what all its open files share.
//!
//! N1  A write, its size and its mtime are visible to every reader on this client from when it was buffered.
//! N2  What a buffer loses by a commit, the extents gain under the same lock: a reader sees either, never neither.
//! N3  Content is ordered by its version: an older answer never replaces what a newer one showed.
//! N4  A failed flush drops what was buffered and raises `failures`; each open file reports it once (P6.4).
//! N5  What belongs to a session that has ended is dropped, and reported so, when the inode is next touched (P3.1).
//! N6  When a read has waited for its whole deadline in vain, those that follow it soon try only for a moment: one read(2)
//!     is several requests (read-ahead, the kernel's second try), and its caller hears of it once, promptly (promise 4).
//! N7  What was appended (O_APPEND) lies at the end until it is committed: when another client made the file longer or shorter
//!     meanwhile, it moves along before it is committed, and nothing of the other's is overwritten. So the cluster is asked
//!     before each such commit. A commit of ours that may have happened is never taken for another's.
//! Locks, in the order in which they are taken: `flushing`, `sending`, the table, `state` or the chores. The last three
//! are never held over an `await`.

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

/// See the module.
pub(crate) struct Node {
    pub(crate) inode: InodeId,
    memory: Arc<SessionMemory>,
    state: Mutex<NodeState>,
    /// Held by whoever commits, truncates or sets attributes: changes of one inode stay in order.
    pub(crate) flushing: tokio::sync::Mutex<()>,
    /// Held by whoever sends runs, so that none is sent twice.
    pub(crate) sending: tokio::sync::Mutex<()>,
}

pub(crate) struct NodeState {
    inode: InodeId,
    session: SessionId,
    /// The newest committed attributes that were heard of.
    base: Option<InodeAttr>,
    pub(crate) buffer: WriteBuffer,
    /// Of the last buffered write; `None` when times were set explicitly since (P2.3).
    mtime: Option<Timestamp>,
    /// A buffered write takes set-uid and set-gid away.
    kill_privileges: bool,
    places: BTreeMap<RunId, Place>,
    next_commit: Option<u64>,
    failures: u64,
    /// No open file has told anybody of the last failure yet.
    is_unheard: bool,
    last_failure: Option<ClientError>,
    cache: ExtentCache,
    dirty_since: Option<Instant>,
    /// From here on the buffer holds what was appended, and nothing else (N7).
    appended: Option<u64>,
    /// When the newest answer of the cluster that `base` takes in was asked for.
    heard_at: Option<Instant>,
    /// A commit that nobody knows the end of.
    uncertain: Option<Arc<Part>>,
    /// When a read last waited for its whole deadline in vain.
    unreachable_since: Option<Instant>,
}

/// A commit on its way, and what it commits.
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
            is_unheard: false,
            last_failure: None,
            cache: ExtentCache::default(),
            dirty_since: None,
            appended: None,
            heard_at: None,
            uncertain: None,
            unreachable_since: None,
        };
        let (flushing, sending) = (tokio::sync::Mutex::new(()), tokio::sync::Mutex::new(()));
        Node { inode, memory, state: Mutex::new(state), flushing, sending }
    }

    /// Looks at, or changes, the state under its lock, as of `session`; keeps the session's memory account.
    pub(crate) fn with<T>(&self, session: SessionId, look: impl FnOnce(&mut NodeState) -> T) -> T {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let (before, was_unheard) = (state.buffer.memory(), state.is_unheard);
        state.move_to(session);
        let seen = look(&mut state);
        self.memory.moved(before, state.buffer.memory());
        self.memory.unheard_moved(was_unheard, state.is_unheard);
        seen
    }

    /// The newest committed attributes that are known, whichever session they are of.
    pub(crate) fn base(&self) -> Option<InodeAttr> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).base.clone()
    }

    /// Whether something is buffered, and since when.
    pub(crate) fn dirty_since(&self) -> Option<Instant> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).dirty_since
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        let state = self.state.get_mut().unwrap_or_else(PoisonError::into_inner);
        self.memory.moved(state.buffer.memory(), 0);
        self.memory.unheard_moved(state.is_unheard, false);
    }
}

impl NodeState {
    /// Keeps N5. Session numbers grow: whoever still works for an older one changes nothing.
    fn move_to(&mut self, session: SessionId) {
        if session <= self.session {
            return;
        }
        self.session = session;
        self.next_commit = None;
        self.uncertain = None;
        self.fail(ClientError::SessionLost);
    }

    /// Keeps N4. Nothing to report when nothing was buffered.
    pub(crate) fn fail(&mut self, error: ClientError) {
        if self.buffer.is_empty() {
            return;
        }
        self.drop_buffered();
        self.failures += 1;
        self.is_unheard = true;
        self.last_failure = Some(error);
    }

    /// What was written here is lost, and nobody has been told (N4).
    pub(crate) fn unheard_failure(&self) -> Option<ClientError> {
        self.last_failure.clone().filter(|_| self.is_unheard)
    }

    /// An open file tells of the last failure.
    pub(crate) fn failure_is_told(&mut self) {
        self.is_unheard = false;
    }

    /// The same for a flush that began under `session`: what was written under one that came later is not its to drop.
    pub(crate) fn fail_of(&mut self, session: SessionId, error: ClientError) {
        if session == self.session {
            self.fail(error);
        }
    }

    /// The number of the next commit, as it was told to `session`, unless it is known.
    pub(crate) fn learn_next_commit(&mut self, session: SessionId, next: u64) {
        if session == self.session {
            self.next_commit.get_or_insert(next);
        }
    }

    /// It has to be asked for: a commit of `session` was refused, or nobody knows what became of it.
    pub(crate) fn doubt_next_commit(&mut self, session: SessionId) {
        if session == self.session {
            self.next_commit = None;
        }
    }

    pub(crate) fn knows_next_commit(&self) -> bool {
        self.next_commit.is_some()
    }

    /// Forgets what is buffered: nobody can read it any more.
    pub(crate) fn drop_buffered(&mut self) {
        self.buffer.clear();
        self.places.clear();
        self.uncertain = None;
        self.settle();
    }

    /// The number of failures so far, and the last one.
    pub(crate) fn failure(&self) -> (u64, Option<ClientError>) {
        (self.failures, self.last_failure.clone())
    }

    /// Takes in attributes that the cluster answered (N3).
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

    /// `base` is as new as an answer to a question of that time.
    pub(crate) fn heard(&mut self, asked_at: Instant) {
        self.heard_at = self.heard_at.max(Some(asked_at));
    }

    /// The cluster was not asked for so long.
    pub(crate) fn is_old(&self, age: Duration) -> bool {
        self.heard_at.is_none_or(|at| at.elapsed() > age)
    }

    /// What `stat` shows now (N1). `None` before anything was heard of the inode.
    pub(crate) fn shown(&self) -> Option<InodeAttr> {
        let mut attr = self.base.clone()?;
        if let Some(end) = self.buffer.end() {
            attr.size = attr.size.max(ByteLen(end));
            // What lies over older extents is counted twice until it is committed; a hole is never counted.
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

    /// Buffers a write. True when there is something that can be sent.
    pub(crate) fn write(&mut self, offset: u64, data: &[u8], mtime: Timestamp, kills: bool) -> bool {
        if self.appended.is_some_and(|from| from < offset + data.len() as u64) {
            self.appended = None; // it was written to by its place, so it stays there
        }
        self.lay(offset, data, mtime, kills)
    }

    /// Buffers an append behind everything (N7). True as with `write`.
    pub(crate) fn append(&mut self, data: &[u8], mtime: Timestamp, kills: bool) -> bool {
        let end = self.append_end();
        if self.appended.is_none() {
            self.buffer.freeze_all(); // no piece lies across
            self.appended = Some(end);
        }
        self.lay(end, data, mtime, kills)
    }

    /// Where the next append would lie.
    pub(crate) fn append_end(&self) -> u64 {
        let appended = self.appended.and_then(|_| self.buffer.end());
        appended.unwrap_or_else(|| self.size())
    }

    pub(crate) fn has_appended(&self) -> bool {
        self.appended.is_some()
    }

    /// The file is longer than it was when the appended bytes were given their place.
    pub(crate) fn is_outgrown(&self) -> bool {
        let committed = self.base.as_ref().map_or(0, |base| base.size.0);
        self.appended.is_some_and(|from| from < committed)
    }

    /// Keeps N7. Only while no commit is under way, whose effect on the size `base` may show already.
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

    /// Times were set explicitly: a later commit of earlier writes leaves them (P2.3).
    pub(crate) fn times_were_set(&mut self) {
        self.mtime = None;
    }

    /// The mode was set: a later commit of earlier writes leaves its set-uid and set-gid.
    pub(crate) fn mode_was_set(&mut self) {
        self.kill_privileges = false;
    }

    /// A file that this client has just made has no bytes anywhere.
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
