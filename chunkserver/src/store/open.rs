//! A chunk that takes appends: its queue, the job that writes it, and the job that syncs it.
//!
//! ```text
//!   append ──► queue ──► one writer job (several frames, one write) ──► written ──► one sync job ──► synced
//!      │                      │ an error                                                │ an error
//!      └─ refused at once     └──────────────► failed: takes nothing any more ◄─────────┘
//!         if out of place
//! ```
//!
//! An append gets its place when it is queued. So a gap or a difference is refused at once, and appends are written in the
//! order in which they came (P1.2).

use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use bytes::Bytes;
use dfs_proto::chunk::Append;
use dfs_proto::error::ChunkError;
use dfs_proto::ids::ChunkId;
use dfs_proto::planted::{self, Bug};
use dfs_proto::units::MIB;
use tokio::sync::watch;

use super::Context;
use super::format::{
    CHUNK_HEADER_LEN, ChunkHeader, FrameHeader, encode_chunk_header, encode_frame_header, frame_header_len,
};
use super::index::FrameIndex;
use super::plan::Plan;
use crate::disk::{DiskFile, is_damage};

/// The most bytes in one write, so that the first append of a long queue is acknowledged soon.
const WRITE_LEN_MAX: usize = 4 * MIB as usize;
/// The most frames in one write: two buffers for each and the chunk header fit one system call.
const WRITE_FRAMES_MAX: usize = 256;
const _: () = assert!(2 * WRITE_FRAMES_MAX < crate::disk::PARTS_MAX);
/// The system is asked to write each whole run of this length to the medium as soon as it is there (P11.3).
const WRITEBACK_LEN: u64 = MIB;

/// An open chunk, shared by the requests and the jobs that work on it.
pub(super) struct OpenChunk {
    header: ChunkHeader,
    path: PathBuf,
    /// The directory that `path` is in.
    shard: PathBuf,
    context: Arc<Context>,
    /// Set once this process has made the file.
    file: OnceLock<Arc<dyn DiskFile>>,
    /// Locked before `progress` is changed, never the other way round.
    state: Mutex<State>,
    progress: watch::Sender<Progress>,
}

struct State {
    /// The index of everything that is written or queued.
    index: FrameIndex,
    /// Where the next frame goes in the file.
    file_end: u64,
    queue: VecDeque<Queued>,
    is_writing: bool,
    is_syncing: bool,
    /// The largest length that a sync was asked for.
    sync_wanted: u64,
    writeback_end: u64,
}

struct Queued {
    header: FrameHeader,
    payload: Bytes,
    /// Its place in the file.
    position: u64,
}

/// How much of the chunk's data is written and how much is durable. `synced` ≤ `written`.
#[derive(Clone, Debug, Default)]
struct Progress {
    written: u64,
    synced: u64,
    failure: Option<ChunkError>,
}

impl OpenChunk {
    pub(super) fn new(
        header: ChunkHeader,
        path: PathBuf,
        shard: PathBuf,
        context: Arc<Context>,
    ) -> OpenChunk {
        OpenChunk {
            header,
            path,
            shard,
            context,
            file: OnceLock::new(),
            state: Mutex::new(State {
                index: FrameIndex::default(),
                file_end: CHUNK_HEADER_LEN as u64,
                queue: VecDeque::new(),
                is_writing: false,
                is_syncing: false,
                sync_wanted: 0,
                writeback_end: 0,
            }),
            progress: watch::Sender::new(Progress::default()),
        }
    }

    fn chunk(&self) -> ChunkId {
        self.header.chunk
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether this process has made the file. Until then a file of this name is from before.
    pub(super) fn exists(&self) -> bool {
        self.file.get().is_some()
    }

    /// Whether nothing is queued or running, so that the chunk may be closed.
    pub(super) fn is_idle(&self) -> bool {
        let state = self.lock();
        !state.is_writing && !state.is_syncing && state.queue.is_empty()
    }

    pub(super) fn written(&self) -> u64 {
        self.progress.borrow().written
    }

    pub(super) fn takes_appends(&self) -> bool {
        self.progress.borrow().failure.is_none()
    }

    /// Closes the chunk: no append or sync succeeds after this. Bytes that were synced stay readable.
    pub(super) fn fail(&self, failure: ChunkError) {
        self.fail_locked(&mut self.lock(), failure);
    }

    fn fail_locked(&self, state: &mut State, failure: ChunkError) {
        state.queue.clear();
        self.progress.send_modify(|progress| {
            progress.failure.get_or_insert(failure);
        });
    }

    /// Gives the append its place and queues it. The result can be waited on until it is written.
    pub(super) fn queue(self: &Arc<Self>, append: &Append) -> Result<Written, ChunkError> {
        let len = append.data.len() as u64;
        let end = append.offset.0 + len;
        let mut state = self.lock();
        self.check(append)?;
        let held = state.index.len();
        if append.offset.0 < held && state.index.has_frame(append.offset, len, &append.block_checksums) {
            return Ok(Written { chunk: Arc::clone(self), up_to: end }); // keeps P1.2: a repeat is acknowledged again
        }
        if append.offset.0 != held {
            return Err(ChunkError::AppendOutOfPlace { chunk: self.chunk(), held, named: append.offset.0 });
        }
        if state.index.is_full() {
            return Err(ChunkError::NotOpen { chunk: self.chunk() });
        }
        let header = FrameHeader {
            chunk: self.chunk(),
            incarnation: self.header.incarnation,
            offset: append.offset,
            inode: append.inode,
            file_offset: append.file_offset,
            payload_len: len as u32,
            block_checksums: append.block_checksums.clone(),
        };
        let position = state.file_end;
        state.index.push(&header, position + frame_header_len(len) as u64);
        state.file_end += frame_header_len(len) as u64 + len;
        state.queue.push_back(Queued { header, payload: append.data.clone(), position });
        let start = !std::mem::replace(&mut state.is_writing, true);
        drop(state);
        if start {
            let chunk = Arc::clone(self);
            self.context.io.submit(move || chunk.write_queue());
        }
        Ok(Written { chunk: Arc::clone(self), up_to: end })
    }

    fn check(&self, append: &Append) -> Result<(), ChunkError> {
        if let Some(failure) = &self.progress.borrow().failure {
            return Err(failure.clone());
        }
        if append.key.incarnation != self.header.incarnation {
            let what = format!("{} named, opened in {}", append.key.incarnation, self.header.incarnation);
            return Err(ChunkError::Outdated { what });
        }
        if append.session != self.header.session {
            return Err(ChunkError::NotOpen { chunk: self.chunk() }); // keeps P1.1: one writer
        }
        Ok(())
    }

    /// The job that writes, of which there is one at a time. It writes one batch and leaves what was queued meanwhile to
    /// another job, so that a stream that is faster than the disk does not keep reads and heartbeats from the threads.
    fn write_queue(self: &Arc<Self>) {
        let mut state = self.lock();
        let batch = take_batch(&mut state.queue);
        let (Some(last), true) = (batch.last(), self.takes_appends()) else {
            state.is_writing = false;
            return;
        };
        let up_to = last.header.offset.0 + u64::from(last.header.payload_len);
        drop(state);
        let written = self.write(&batch);
        let mut state = self.lock();
        match written {
            Ok(end) => {
                self.progress.send_modify(|progress| progress.written = up_to);
                let writeback_end = end / WRITEBACK_LEN * WRITEBACK_LEN;
                let from = std::mem::replace(&mut state.writeback_end, writeback_end);
                state.is_writing = !state.queue.is_empty();
                let goes_on = state.is_writing;
                drop(state);
                if let (true, Some(file)) = (writeback_end > from, self.file.get()) {
                    file.start_writeback(from, writeback_end - from);
                }
                if goes_on {
                    let chunk = Arc::clone(self);
                    self.context.io.submit(move || chunk.write_queue());
                }
            }
            Err(error) => {
                state.is_writing = false;
                self.fail_locked(&mut state, self.write_failure(&error));
            }
        }
    }

    fn write_failure(&self, error: &io::Error) -> ChunkError {
        match error.kind() {
            // A file of this name is from before a restart, or another writer's: the chunk is not open (P1.1).
            io::ErrorKind::AlreadyExists => ChunkError::NotOpen { chunk: self.chunk() },
            _ => self.failure("write", error),
        }
    }

    /// The failure that closes the chunk after an I/O error. Its writer goes on elsewhere and need not know whether the disk
    /// is to blame; the log says so (C7).
    fn failure(&self, verb: &str, error: &io::Error) -> ChunkError {
        if let io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded = error.kind() {
            return ChunkError::NoSpace;
        }
        let what = format!("{verb} {}: {error}", self.chunk());
        if is_damage(error) {
            return ChunkError::Disk { what };
        }
        self.context.busy(&what);
        ChunkError::NotOpen { chunk: self.chunk() }
    }

    /// Appends the frames with one write; returns the position behind them in the file.
    fn write(&self, batch: &[Queued]) -> io::Result<u64> {
        let chunk_header = encode_chunk_header(&self.header);
        let headers: Vec<_> = batch.iter().map(|queued| encode_frame_header(&queued.header)).collect();
        let mut parts = Vec::with_capacity(2 * batch.len() + 1);
        let mut position = batch.first().map_or(0, |queued| queued.position);
        let file = match self.file.get() {
            Some(file) => file,
            None => {
                let file = self.context.disk.create(&self.path)?;
                self.context.chunk_created();
                parts.push(IoSlice::new(&chunk_header));
                position = 0;
                self.file.get_or_init(|| file)
            }
        };
        for (header, queued) in headers.iter().zip(batch) {
            parts.push(IoSlice::new(header));
            parts.push(IoSlice::new(&queued.payload));
        }
        let len: usize = parts.iter().map(|part| part.len()).sum();
        file.write_at(&mut parts, position)?;
        Ok(position + len as u64)
    }

    /// Waits until `up_to`, or all that was appended before this call if that is less, is on stable storage; answers the
    /// length that is durable.
    pub(super) async fn sync(self: Arc<Self>, up_to: u64) -> Result<u64, ChunkError> {
        let target = up_to.min(self.lock().index.len());
        self.reached(|progress| progress.written >= target).await?;
        self.start_sync(target);
        let progress = self.reached(|progress| progress.synced >= target).await?;
        Ok(progress.synced)
    }

    async fn reached(&self, goal: impl Fn(&Progress) -> bool) -> Result<Progress, ChunkError> {
        let mut progress = self.progress.subscribe();
        let seen = match progress.wait_for(|progress| goal(progress) || progress.failure.is_some()).await {
            Ok(seen) => seen.clone(),
            // The sender lives in `self`.
            Err(_) => return Err(ChunkError::NotOpen { chunk: self.chunk() }),
        };
        match seen.failure {
            Some(failure) if !goal(&seen) => Err(failure),
            Some(_) | None => Ok(seen),
        }
    }

    fn start_sync(self: &Arc<Self>, target: u64) {
        let mut state = self.lock();
        state.sync_wanted = state.sync_wanted.max(target);
        let is_needed = self.progress.borrow().synced < target;
        if is_needed && !std::mem::replace(&mut state.is_syncing, true) {
            drop(state);
            let chunk = Arc::clone(self);
            self.context.syncs.submit(move || chunk.sync_written());
        }
    }

    /// The job that syncs. One sync serves all requests that wait; it syncs again while a request wants more than that
    /// covered.
    fn sync_written(&self) {
        loop {
            let mut state = self.lock();
            let Progress { written, synced, failure } = self.progress.borrow().clone();
            if failure.is_some() || synced >= state.sync_wanted.min(written) {
                state.is_syncing = false;
                return;
            }
            drop(state);
            let result = self.sync_file(synced == 0);
            let mut state = self.lock();
            match result {
                Ok(()) => self.progress.send_modify(|progress| progress.synced = written),
                Err(error) => {
                    state.is_syncing = false;
                    // Never tried again: nobody knows which bytes are lost, and a second sync might report success (P1.4).
                    self.progress.send_modify(|progress| progress.written = progress.synced);
                    self.fail_locked(&mut state, self.failure("sync", &error));
                    return;
                }
            }
        }
    }

    fn sync_file(&self, is_first: bool) -> io::Result<()> {
        let Some(file) = self.file.get() else { return Ok(()) };
        if planted::has(Bug::SkippedSync) && !is_first {
            return Ok(());
        }
        file.sync()?;
        if is_first {
            self.context.disk.sync_directory(&self.shard)?; // keeps P1.4: the name of a new file too
        }
        Ok(())
    }

    /// The file, and which parts of it hold `[offset, offset + len)` of the chunk.
    pub(super) fn plan(&self, offset: u64, len: u64) -> Result<(Arc<dyn DiskFile>, Plan), ChunkError> {
        let held = self.written();
        let file = self.file.get().ok_or(ChunkError::Gone { chunk: self.chunk() })?;
        let ChunkHeader { chunk, incarnation, .. } = self.header;
        let plan = Plan::new(&self.lock().index, chunk, incarnation, held, offset, len)?;
        Ok((Arc::clone(file), plan))
    }
}

/// An append that is queued and will be written.
pub(super) struct Written {
    chunk: Arc<OpenChunk>,
    up_to: u64,
}

impl Written {
    /// Waits until the append is written; answers the chunk's length behind it.
    pub(super) async fn wait(self) -> Result<u64, ChunkError> {
        self.chunk.reached(|progress| progress.written >= self.up_to).await?;
        Ok(self.up_to)
    }
}

fn take_batch(queue: &mut VecDeque<Queued>) -> Vec<Queued> {
    let mut len = 0;
    let mut count = 0;
    for queued in queue.iter().take(WRITE_FRAMES_MAX) {
        len += queued.payload.len();
        if count > 0 && len > WRITE_LEN_MAX {
            break;
        }
        count += 1;
    }
    queue.drain(..count).collect()
}
