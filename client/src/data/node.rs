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
//! Locks, in the order in which they are taken: `flushing`, `sending`, the table (`nodes`), `state` or the chores.
//! The last three are never held over an `await`.

pub(crate) mod reading;
mod sending;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use dfs_proto::attr::{InodeAttr, Timestamp};
use dfs_proto::ids::{InodeId, SessionId};
use dfs_proto::meta::{ChunkLocation, HeldWrite};
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
    /// Held during a flush, so that the commits of one inode stay in order.
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
    /// The lease under which what is buffered was written. All of it is committed before the lease is given back.
    written_under: Option<HeldWrite>,
    failures: u64,
    /// No open file has reported the last failure yet.
    is_unreported: bool,
    last_failure: Option<ClientError>,
    cache: ExtentCache,
    dirty_since: Option<Instant>,
    /// The file was cut to nothing, and nothing was committed since.
    was_cut: bool,
    /// When a commit was answered last.
    committed_at: Option<Instant>,
    /// A commit that has no answer: it may have happened.
    uncertain: Option<Arc<Part>>,
    /// When a read last waited for its whole deadline in vain (N6).
    unreachable_since: Option<Instant>,
    /// [`Node::was_acquired_without_name`].
    was_acquired_without_name: bool,
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
            written_under: None,
            failures: 0,
            is_unreported: false,
            last_failure: None,
            cache: ExtentCache::default(),
            dirty_since: None,
            was_cut: false,
            committed_at: None,
            uncertain: None,
            unreachable_since: None,
            was_acquired_without_name: false,
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

    /// What is known of the extents, unless that is nothing, or more than so many.
    pub(crate) fn extents_to_keep(&self, most: usize) -> Option<ExtentCache> {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.cache.is_worth_keeping(most).then(|| state.cache.clone())
    }

    /// No open file has reported the last failure yet.
    pub(crate) fn has_unreported_failure(&self) -> bool {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).is_unreported
    }

    /// Write of it was asked for when it had no name any more. Who removes the last name of a file that others have open loses its Write
    /// by that: so others may have it open.
    pub(crate) fn was_acquired_without_name(&self) -> bool {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).was_acquired_without_name
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

    /// How many failures somebody has reported.
    pub(crate) fn reported_failures(&self) -> u64 {
        self.failures - u64::from(self.is_unreported)
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

    /// It is opened again, after it was closed with these attributes and extents.
    pub(crate) fn reopened(&mut self, attr: &InodeAttr, kept: Option<ExtentCache>) {
        self.observe(attr);
        if let Some(kept) = kept.filter(|kept| kept.version() == attr.content_version) {
            self.cache = kept;
        }
    }

    /// Write of it was granted, with these attributes.
    pub(crate) fn acquired(&mut self, attr: &InodeAttr) {
        self.observe(attr);
        self.was_acquired_without_name |= attr.nlink == 0;
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
        let has_full = self.buffer.write(offset, data);
        self.mtime = Some(mtime);
        self.kill_privileges |= kills;
        self.dirty_since.get_or_insert_with(Instant::now);
        has_full
    }

    /// Times, or the mode, are being set explicitly: a later commit of earlier writes does not change them (P2.3), and does not clear
    /// set-uid and set-gid. Returns what it would have done.
    pub(crate) fn are_being_set(&mut self, times: bool, mode: bool) -> (Option<Timestamp>, bool) {
        let mtime = if times { self.mtime.take() } else { None };
        let kills = mode && std::mem::take(&mut self.kill_privileges);
        (mtime, kills)
    }

    /// They were not set.
    pub(crate) fn were_not_set(&mut self, (mtime, kills): (Option<Timestamp>, bool)) {
        if !self.buffer.is_empty() {
            self.mtime = self.mtime.or(mtime);
            self.kill_privileges |= kills;
        }
    }

    /// This client has cut the file to nothing.
    pub(crate) fn was_cut(&mut self) {
        self.was_cut = true;
    }

    /// What is buffered is all that there is of the file, and it had other bytes before.
    pub(crate) fn replaces_cut_bytes(&self) -> bool {
        self.was_cut && !self.buffer.is_empty()
    }

    /// When a commit was answered last.
    pub(crate) fn committed_at(&self) -> Option<Instant> {
        self.committed_at
    }

    /// This client has just made the file: it has no bytes anywhere.
    pub(crate) fn was_created(&mut self, attr: &InodeAttr) {
        if self.base.is_none() {
            self.base = Some(attr.clone());
            self.cache.start_empty(attr.content_version);
        }
    }

    /// Bytes are laid under this lease.
    pub(crate) fn lies_under(&mut self, write: Option<HeldWrite>) {
        self.written_under = write;
    }

    fn settle(&mut self) {
        if self.buffer.is_empty() {
            self.written_under = None;
            self.mtime = None;
            self.kill_privileges = false;
            self.dirty_since = None;
        } else if self.dirty_since.is_some() {
            self.dirty_since = Some(Instant::now());
        }
    }
}
