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

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use dfs_proto::attr::{InodeAttr, Timestamp};
use dfs_proto::extent::{Extent, ExtentMap};
use dfs_proto::ids::{ChunkId, InodeId, SessionId};
use dfs_proto::meta::{ChunkCommit, ChunkLocation, FileCommit};
use dfs_proto::units::{ByteLen, COMMIT_EXTENTS_MAX, ChunkOffset, Offset};
use tokio::time::Instant;

use crate::data::buffer::{Run, RunId, WriteBuffer};
use crate::data::commit::FilePart;
use crate::data::extents::{ExtentCache, Located};
use crate::data::memory::SessionMemory;
use crate::data::stream::ChunkStream;
use crate::data::writer::Place;
use crate::error::ClientError;
use crate::names::interim::closed::ClosedAttrs;
use crate::names::newest::newest;

/// N6: for so long after it.
const IMPATIENT_FOR: Duration = Duration::from_secs(5);

/// See the module.
pub(crate) struct Node {
    pub(crate) inode: InodeId,
    memory: Arc<SessionMemory>,
    state: Mutex<State>,
    /// Held by whoever commits, truncates or sets attributes: changes of one inode stay in order.
    pub(crate) flushing: tokio::sync::Mutex<()>,
    /// Held by whoever sends runs, so that none is sent twice.
    pub(crate) sending: tokio::sync::Mutex<()>,
}

pub(crate) struct State {
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

/// What a reader sees of a range at one moment (N2).
pub(crate) struct View {
    /// Of the committed content below.
    pub(crate) version: u64,
    /// What lies behind it is not the file's.
    pub(crate) size: u64,
    pub(crate) overlay: Vec<(u64, Bytes)>,
    pub(crate) extents: Vec<Located>,
}

impl Node {
    fn new(inode: InodeId, memory: Arc<SessionMemory>, session: SessionId) -> Node {
        let state = State {
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
    pub(crate) fn with<T>(&self, session: SessionId, look: impl FnOnce(&mut State) -> T) -> T {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let (before, was_unheard) = (state.buffer.memory(), state.is_unheard);
        state.move_to(session);
        let seen = look(&mut state);
        self.memory.moved(before, state.buffer.memory());
        self.memory.unheard_moved(was_unheard, state.is_unheard);
        seen
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

impl State {
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

    // --- sending and committing ---

    /// Runs below `end` that are nowhere, or where they cannot stay.
    pub(crate) fn unplaced(&self, end: RunId) -> Vec<(RunId, Run)> {
        let is_placed = |id: &RunId, run: &Run| {
            self.places.get(id).is_some_and(|place| place.stream.session == self.session && holds(place, run))
        };
        self.buffer
            .runs_below(end)
            .filter(|(id, run)| !is_placed(id, run))
            .map(|(id, run)| (id, run.clone()))
            .collect()
    }

    /// Runs were sent, one behind the other, to `place`.
    pub(crate) fn placed(&mut self, runs: &[(RunId, Run)], place: &Place) {
        let mut offset = place.offset;
        for (id, run) in runs {
            if self.buffer.has_run(*id) {
                self.places.insert(*id, Place { stream: place.stream.clone(), offset });
            }
            offset += run.data.len() as u64;
        }
    }

    /// Each chunk that runs below `end` were sent to, and how far.
    pub(crate) fn streams_below(&self, end: RunId) -> Vec<(Arc<ChunkStream>, u64)> {
        let mut streams: BTreeMap<ChunkId, (Arc<ChunkStream>, u64)> = BTreeMap::new();
        for (id, run) in self.buffer.runs_below(end) {
            let Some(place) = self.places.get(&id) else { continue };
            let place_end = place.offset + run.data.len() as u64;
            let entry = streams.entry(place.stream.key.chunk);
            let (_, up_to) = entry.or_insert_with(|| (place.stream.clone(), 0));
            *up_to = place_end.max(*up_to);
        }
        streams.into_values().collect()
    }

    /// The next commit of runs below `end`: as many as one may name, oldest first. `None` when all are committed.
    /// All of them must be placed, and `next_commit` known.
    pub(crate) fn part(&mut self, end: RunId) -> Option<Arc<Part>> {
        self.move_appended();
        let mut map = ExtentMap::default();
        let mut streams: BTreeMap<ChunkId, Arc<ChunkStream>> = BTreeMap::new();
        let (mut runs, mut size) = (Vec::new(), 0);
        for (id, run) in self.buffer.runs_below(end) {
            // Laying one extent over others makes at most two more.
            if map.as_slice().len() + 2 > COMMIT_EXTENTS_MAX {
                break;
            }
            let place = self.places.get(&id)?;
            map.overlay(Extent {
                offset: Offset(run.offset),
                len: run.data.len() as u64,
                chunk: place.stream.key.chunk,
                chunk_offset: ChunkOffset(place.offset),
            });
            streams.insert(place.stream.key.chunk, place.stream.clone());
            size = run.end().max(size);
            runs.push(id);
        }
        if runs.is_empty() {
            return None;
        }
        let file = FileCommit {
            inode: self.inode,
            number: self.next_commit?,
            extents: map.as_slice().to_vec(),
            size_at_least: ByteLen(size),
            mtime: self.mtime,
            kill_privileges: self.kill_privileges,
        };
        let chunks = streams.values().map(|stream| named(stream)).collect();
        let locations = streams.values().map(|stream| stream.location.clone()).collect();
        Some(Arc::new(Part { commit: FilePart { session: self.session, file, chunks }, runs, locations }))
    }

    /// The cluster answered what the next commit is. One whose end was unknown has happened if that is a later one.
    pub(crate) fn learn_of_commits(&mut self, session: SessionId, attr: &InodeAttr, next: u64) {
        self.observe(attr);
        if session != self.session {
            return;
        }
        self.next_commit.get_or_insert(next);
        if let Some(part) = self.uncertain.clone()
            && part.commit.file.number < next
        {
            self.committed(&part, attr);
            self.next_commit = Some(next);
        }
    }

    /// A commit is sent, or will not be answered any more: nobody knows what becomes of it.
    pub(crate) fn not_answered(&mut self, part: &Arc<Part>) {
        if part.commit.session == self.session {
            self.next_commit = None;
            self.uncertain = Some(part.clone());
        }
    }

    /// A commit was refused: it did not happen.
    pub(crate) fn was_refused(&mut self, part: &Arc<Part>) {
        self.uncertain = self.uncertain.take().filter(|uncertain| !Arc::ptr_eq(uncertain, part));
    }

    /// Keeps N2.
    pub(crate) fn committed(&mut self, part: &Part, attr: &InodeAttr) {
        if part.commit.session != self.session {
            return;
        }
        self.next_commit = Some(part.commit.file.number + 1);
        self.cache.committed(attr.content_version, &part.commit.file.extents, &part.locations);
        self.observe(attr);
        for run in &part.runs {
            self.buffer.forget(*run);
            self.places.remove(run);
        }
        self.uncertain = None;
        self.appended = self.appended.and_then(|from| self.buffer.start_from(from));
        self.settle();
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

    // --- reading ---

    /// N6.
    pub(crate) fn read_patience(&self, whole: Duration, short: Duration) -> Duration {
        let has_just_failed = self.unreachable_since.is_some_and(|since| since.elapsed() < IMPATIENT_FOR);
        if has_just_failed { short.min(whole) } else { whole }
    }

    /// A read ended: whether its deadline came first.
    pub(crate) fn note_read(&mut self, was_in_vain: bool) {
        self.unreachable_since = was_in_vain.then(Instant::now);
    }

    /// `[from, to)` as it is now, or the first position whose extents have to be fetched. `fetched` is what the caller
    /// has fetched for it: the cache forgets when it is full.
    pub(crate) fn view(&self, fetched: &ExtentCache, from: u64, to: u64) -> Result<View, u64> {
        let overlay = self.buffer.overlay(from, to);
        let mut extents = Vec::new();
        let mut at = from;
        for (offset, bytes) in &overlay {
            if at < *offset {
                extents.extend(self.extents(fetched, at, *offset)?);
            }
            at = offset + bytes.len() as u64;
        }
        if at < to {
            extents.extend(self.extents(fetched, at, to)?);
        }
        Ok(View { version: self.cache.version(), size: self.size(), overlay, extents })
    }

    /// The committed content only.
    pub(crate) fn committed_view(&self, fetched: &ExtentCache, from: u64, to: u64) -> Result<View, u64> {
        let extents = self.extents(fetched, from, to)?;
        let size = self.base.as_ref().map_or(0, |base| base.size.0);
        Ok(View { version: self.cache.version(), size, overlay: Vec::new(), extents })
    }

    fn extents(&self, fetched: &ExtentCache, from: u64, to: u64) -> Result<Vec<Located>, u64> {
        self.cache.range(from, to).or_else(|unknown| {
            if fetched.version() != self.cache.version() {
                return Err(unknown);
            }
            fetched.range(from, to).map_err(|also_unknown| unknown.max(also_unknown))
        })
    }

    /// The version of the committed content, if nothing is buffered over `[from, to)`.
    pub(crate) fn clean_version(&self, from: u64, to: u64) -> Option<u64> {
        self.buffer.overlay_is_empty(from, to).then(|| self.cache.version())
    }

    pub(crate) fn install_extents(&mut self, from: u64, found: &dfs_proto::meta::FileExtents) {
        let known = self.base.as_ref().map_or(0, |base| base.content_version);
        if found.attr.content_version >= known {
            self.observe(&found.attr);
            self.cache.install(from, found);
        }
    }

    /// Copies may have moved: the next reader asks where they are.
    pub(crate) fn forget_extents(&mut self) {
        let version = self.cache.version();
        self.cache.reset(version);
    }
}

/// Bytes can be committed from where they are: the chunk goes on, or had them durable before it ended.
fn holds(place: &Place, run: &Run) -> bool {
    let progress = place.stream.progress();
    progress.failure.is_none() || progress.synced >= place.offset + run.data.len() as u64
}

fn named(stream: &ChunkStream) -> ChunkCommit {
    ChunkCommit {
        chunk: stream.key.chunk,
        set_version: stream.key.set_version,
        up_to: ByteLen(stream.progress().synced),
    }
}

// --- the table of open inodes ---

struct Entry {
    node: Arc<Node>,
    /// Open files, opens under way, and a removed directory that is kept.
    pins: u32,
    /// It has no name left; its space may go with the last pin.
    is_orphan: bool,
}

/// Every inode that is open or kept, or has something buffered.
pub(crate) struct Nodes {
    table: Mutex<Table>,
    memory: Arc<SessionMemory>,
    /// Called under the table's lock, so that whoever pins the inode later finds it where it waits for its release.
    on_orphan: Box<dyn Fn(InodeId) + Send + Sync>,
}

struct Table {
    open: BTreeMap<InodeId, Entry>,
    /// N3, for answers that arrive after the close.
    closed: ClosedAttrs,
}

/// Keeps an inode in the table.
pub(crate) struct Pin {
    pub(crate) node: Arc<Node>,
    nodes: Arc<Nodes>,
}

impl Nodes {
    /// `on_orphan` is told when an inode without a name has no pin left.
    pub(crate) fn new(
        memory: Arc<SessionMemory>,
        on_orphan: impl Fn(InodeId) + Send + Sync + 'static,
    ) -> Arc<Nodes> {
        let table = Table { open: BTreeMap::new(), closed: ClosedAttrs::new() };
        Arc::new(Nodes { table: Mutex::new(table), memory, on_orphan: Box::new(on_orphan) })
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// To be called before the request that opens, so that what it answers about commits is not outdated by others.
    pub(crate) fn pin(self: &Arc<Nodes>, inode: InodeId, session: SessionId) -> Pin {
        let mut table = self.table();
        let Table { open, closed } = &mut *table;
        let entry = open.entry(inode).or_insert_with(|| {
            let node = Arc::new(Node::new(inode, self.memory.clone(), session));
            if let Some(attr) = closed.reopened(inode) {
                node.with(session, |state| state.observe(&attr));
            }
            Entry { node, pins: 0, is_orphan: false }
        });
        entry.pins += 1;
        Pin { node: entry.node.clone(), nodes: self.clone() }
    }

    pub(crate) fn pin_open(self: &Arc<Nodes>, inode: InodeId) -> Option<Pin> {
        let mut table = self.table();
        let entry = table.open.get_mut(&inode)?;
        entry.pins += 1;
        Some(Pin { node: entry.node.clone(), nodes: self.clone() })
    }

    pub(crate) fn all(&self) -> Vec<Arc<Node>> {
        self.table().open.values().map(|entry| entry.node.clone()).collect()
    }

    /// Attributes as this client sees them: what is buffered, and newer content that was heard of, included.
    pub(crate) fn show(&self, attr: InodeAttr, session: SessionId) -> InodeAttr {
        let table = self.table();
        if let Some(entry) = table.open.get(&attr.inode) {
            let node = entry.node.clone();
            drop(table);
            return node.with(session, |state| {
                state.observe(&attr);
                state.shown().unwrap_or(attr)
            });
        }
        table.closed.newest(attr)
    }

    /// The inode lost its last name: it is released, once it is not open here any more.
    pub(crate) fn orphaned(&self, inode: InodeId) {
        let mut table = self.table();
        match table.open.get_mut(&inode) {
            Some(entry) if entry.pins > 0 => entry.is_orphan = true,
            Some(_) | None => (self.on_orphan)(inode),
        }
    }

    /// The same for one that is being opened: its last unpin releases it.
    pub(crate) fn reopened_orphan(&self, inode: InodeId) {
        if let Some(entry) = self.table().open.get_mut(&inode) {
            entry.is_orphan = true;
        }
    }

    pub(crate) fn is_orphan(&self, inode: InodeId) -> bool {
        self.table().open.get(&inode).is_some_and(|entry| entry.is_orphan)
    }

    /// Whether one pin is all that keeps it.
    pub(crate) fn is_last(&self, inode: InodeId) -> bool {
        self.table().open.get(&inode).is_none_or(|entry| entry.pins <= 1)
    }

    /// Drops an inode that nobody has open and that has nothing buffered.
    pub(crate) fn forget_if_closed(&self, inode: InodeId) {
        let mut table = self.table();
        let Some(entry) = table.open.get(&inode) else { return };
        let is_dirty = entry.node.dirty_since().is_some();
        if entry.pins > 0 || (is_dirty && !entry.is_orphan) {
            return;
        }
        let Some(entry) = table.open.remove(&inode) else { return };
        let base = entry.node.state.lock().unwrap_or_else(PoisonError::into_inner).base.clone();
        if let Some(attr) = base.filter(|_| !entry.is_orphan) {
            table.closed.closed(attr);
        }
        if entry.is_orphan {
            (self.on_orphan)(inode);
        }
    }

    fn unpin(&self, inode: InodeId) {
        if let Some(entry) = self.table().open.get_mut(&inode) {
            entry.pins = entry.pins.saturating_sub(1);
        }
        self.forget_if_closed(inode);
    }
}

impl Drop for Pin {
    fn drop(&mut self) {
        self.nodes.unpin(self.node.inode);
    }
}
