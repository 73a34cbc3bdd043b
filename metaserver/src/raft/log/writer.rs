//! The task that writes the log. It is the only one that does (`store`, LS1 to LS3).

use std::io;
use std::sync::Arc;

use dfs_proto::ids::DirectoryId;
use openraft::storage::IOFlushed;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;

use super::disk::{FileId, LogDisk};
use super::format::{
    BATCH_ALIGN, SEGMENT_HEADER_LEN, SegmentHeader, State, batch_len, put_batch, put_state, segment_header,
};
use super::recover::{Files, LastWrite, Live, Reached};
use crate::raft::member::stamp::StampFile;
use crate::raft::types::{LogId, TypeConfig, Vote};

/// A batch takes in more operations until it has this many bytes.
const BATCH_LEN_MAX: usize = 4 << 20;
/// Operations that are taken from the queue at the same time.
const OPS_AT_ONCE: usize = 256;
/// Files that are kept for later segments. Further ones are removed.
const SPARES_MAX: usize = 2;

/// What the store asks the writer to do.
pub(crate) enum Op {
    Append { records: Vec<u8>, last_index: Option<u64>, callback: IOFlushed<TypeConfig> },
    Truncate { record: Vec<u8>, done: oneshot::Sender<io::Result<()>> },
    Vote { vote: Vote, done: oneshot::Sender<io::Result<()>> },
    Purge { upto: LogId },
}

/// Who waits for the batch to be synced.
enum Waiter {
    Entries(IOFlushed<TypeConfig>),
    One(oneshot::Sender<io::Result<()>>),
}

#[derive(Default)]
struct Batch {
    body: Vec<u8>,
    waiters: Vec<Waiter>,
    /// Bytes of the entries in it.
    entries_len: usize,
    last_index: Option<u64>,
}

pub(crate) struct Writer<F> {
    disk: Arc<dyn LogDisk>,
    segment_len: u64,
    state: State,
    files: Files,
    /// A file that is being made for the next segment.
    preparing: Option<JoinHandle<io::Result<(FileId, u64)>>>,
    buffer: Vec<u8>,
    failed: Option<(io::ErrorKind, String)>,
    /// Is called with the bytes of entries that do not wait any more.
    written: F,
    /// The stamp that is told how far the log has come (L5). Tests of the log alone have none.
    stamp: Option<Arc<StampFile>>,
    directory: DirectoryId,
}

impl<F: Fn(usize) + Send + 'static> Writer<F> {
    pub(crate) fn new(
        disk: Arc<dyn LogDisk>,
        segment_len: u64,
        state: State,
        files: Files,
        written: F,
    ) -> Writer<F> {
        Writer {
            disk,
            segment_len,
            state,
            files,
            preparing: None,
            buffer: Vec::new(),
            failed: None,
            written,
            stamp: None,
            directory: DirectoryId::UNKNOWN,
        }
    }

    pub(crate) async fn of(mut self, stamp: Arc<StampFile>) -> Writer<F> {
        self.directory = stamp.get().await.directory;
        self.stamp = Some(stamp);
        self
    }

    pub(crate) async fn run(mut self, mut waiting: mpsc::Receiver<Op>) {
        let mut ops = Vec::new();
        while waiting.recv_many(&mut ops, OPS_AT_ONCE).await > 0 {
            let mut batch = Batch::default();
            for op in ops.drain(..) {
                if batch.body.len() >= BATCH_LEN_MAX {
                    self.write(std::mem::take(&mut batch)).await;
                }
                self.take(op, &mut batch);
            }
            self.write(batch).await;
        }
        if self.failed.is_none()
            && let Err(error) = self.note_reached().await
        {
            tracing::warn!("note how far the log has come: {error}");
        }
        // When this task has ended, another process may open the directory, so that nothing may be written any more.
        if let Some(preparing) = self.preparing.take() {
            drop(preparing.await);
        }
    }

    /// Makes everything durable that was found, before anything is acknowledged that builds on it, and overwrites a torn batch with
    /// one that holds the [`State`]. Leftovers are removed last.
    pub(crate) async fn begin(
        &mut self,
        last_write: Option<LastWrite>,
        leftovers: Vec<FileId>,
    ) -> io::Result<()> {
        if let Some(LastWrite { file, offset, bytes }) = last_write {
            self.disk.write(file, offset, bytes).await?; // keeps R2; if it is on the disk already, no byte changes
        }
        // The process that made them may have been killed before it had synced them.
        for (spare, _) in &self.files.spare {
            self.disk.sync(*spare).await?;
        }
        self.write_state().await?;
        self.note_reached().await?;
        for leftover in leftovers {
            self.disk.remove(leftover).await?;
        }
        Ok(())
    }

    /// Tells the stamp how far the log is synced. In a new segment this is done before anything in it is acknowledged, so that a
    /// start is refused if that segment is lost.
    async fn note_reached(&self) -> io::Result<()> {
        let Some((stamp, active)) = self.stamp.as_ref().zip(self.files.live.last()) else { return Ok(()) };
        let reached = Reached { sequence: active.sequence, batch: self.files.next_number.saturating_sub(1) };
        stamp.change(|stamp| stamp.reached = Some(reached)).await // keeps L5
    }

    async fn write_state(&mut self) -> io::Result<()> {
        let mut batch = Batch::default();
        put_state(&mut batch.body, &self.state).map_err(io::Error::other)?;
        self.try_write(&batch).await
    }

    fn take(&mut self, op: Op, batch: &mut Batch) {
        match op {
            Op::Append { records, last_index, callback } => {
                batch.entries_len += records.len();
                batch.body.extend_from_slice(&records);
                batch.last_index = last_index.max(batch.last_index);
                batch.waiters.push(Waiter::Entries(callback));
            }
            Op::Truncate { record, done } => {
                batch.body.extend_from_slice(&record);
                batch.waiters.push(Waiter::One(done));
            }
            Op::Vote { vote, done } => {
                self.state.vote = Some(vote);
                self.put_state(batch);
                batch.waiters.push(Waiter::One(done));
            }
            Op::Purge { upto } => {
                self.state.purged = self.state.purged.max(Some(upto));
                let needed = self.first_needed(upto.index);
                self.state.first_sequence = self.files.live[needed..].first().map_or(0, |live| live.sequence);
                self.put_state(batch);
            }
        }
    }

    fn put_state(&mut self, batch: &mut Batch) {
        if let Err(error) = put_state(&mut batch.body, &self.state) {
            self.fail(&io::Error::other(error));
        }
    }

    /// The first segment with an entry above `purged`. The last segment is always needed.
    fn first_needed(&self, purged: u64) -> usize {
        let last = self.files.live.len().saturating_sub(1);
        let needed =
            self.files.live.iter().position(|live| live.last_index.is_some_and(|last| last > purged));
        needed.unwrap_or(last).min(last)
    }

    fn fail(&mut self, error: &io::Error) {
        if self.failed.is_none() {
            tracing::error!("the Raft log cannot be written: {error}");
            self.failed = Some((error.kind(), error.to_string()));
        }
    }

    async fn write(&mut self, batch: Batch) {
        if self.failed.is_none()
            && let Err(error) = self.try_write(&batch).await
        {
            self.fail(&error); // keeps LS3
        }
        (self.written)(batch.entries_len);
        for waiter in batch.waiters {
            let result = match &self.failed {
                None => Ok(()),
                Some((kind, what)) => Err(io::Error::new(*kind, what.clone())),
            };
            match waiter {
                Waiter::Entries(callback) => callback.io_completed(result),
                // It fails only if openraft has been shut down and does not wait any more.
                Waiter::One(done) => drop(done.send(result)),
            }
        }
        if self.failed.is_none()
            && let Err(error) = self.tidy().await
        {
            self.fail(&error);
        }
    }

    async fn try_write(&mut self, batch: &Batch) -> io::Result<()> {
        let fits = self
            .files
            .live
            .last()
            .is_some_and(|active| self.files.end + batch_len(batch.body.len()) <= active.len as usize);
        self.buffer.clear();
        if fits {
            let active = self.files.live.last().map_or(0, |active| active.sequence);
            put_batch(&mut self.buffer, active, self.files.next_number, &batch.body);
        } else {
            self.begin_segment(&batch.body).await?;
        }
        let buffer = std::mem::take(&mut self.buffer);
        let len = buffer.len();
        let Some(active) = self.files.live.last_mut() else {
            return Err(io::Error::other("the log has no segment"));
        };
        active.last_index = active.last_index.max(batch.last_index);
        self.buffer = self.disk.write(active.file, self.files.end as u64, buffer).await?;
        self.files.end += len;
        self.files.next_number += 1;
        if fits { Ok(()) } else { self.note_reached().await }
    }

    /// Begins a segment. Afterwards the buffer has its header, and a batch of the state (L4) and `body`.
    async fn begin_segment(&mut self, body: &[u8]) -> io::Result<()> {
        let sequence = self.files.next_sequence;
        if self.files.live.is_empty() {
            self.state.first_sequence = sequence;
        }
        let mut whole = Vec::with_capacity(body.len() + BATCH_ALIGN);
        put_state(&mut whole, &self.state).map_err(io::Error::other)?;
        whole.extend_from_slice(body);
        let needed = (SEGMENT_HEADER_LEN + batch_len(whole.len())) as u64;
        let (file, len) = self.file_of(needed).await?;
        self.files.next_sequence += 1;
        let header = SegmentHeader { sequence, directory: self.directory, file_len: len };
        self.buffer.extend_from_slice(&segment_header(&header));
        put_batch(&mut self.buffer, sequence, self.files.next_number, &whole);
        self.files.live.push(Live { file, sequence, len, last_index: None });
        self.files.end = 0;
        Ok(())
    }

    /// A file for `needed` bytes: a spare one if one is long enough, else a new one.
    async fn file_of(&mut self, needed: u64) -> io::Result<(FileId, u64)> {
        if let Some(preparing) = self.preparing.take() {
            self.files.spare.push(preparing.await.map_err(io::Error::other)??);
        }
        if let Some(at) = self.files.spare.iter().position(|(_, len)| *len >= needed) {
            return Ok(self.files.spare.remove(at));
        }
        let (file, len) = (self.next_file(), needed.max(self.segment_len));
        self.disk.create(file, len).await?;
        Ok((file, len))
    }

    fn next_file(&mut self) -> FileId {
        let file = FileId(self.files.next_file);
        self.files.next_file += 1;
        file
    }

    /// Makes spare files of the segments that the synced state does not need any more, and sees to it that there is a spare file.
    async fn tidy(&mut self) -> io::Result<()> {
        while self.files.live.first().is_some_and(|oldest| oldest.sequence < self.state.first_sequence) {
            let oldest = self.files.live.remove(0);
            self.files.spare.push((oldest.file, oldest.len));
        }
        while self.files.spare.len() > SPARES_MAX {
            let (file, _) = self.files.spare.remove(0);
            self.disk.remove(file).await?;
        }
        if self.files.spare.is_empty() && self.preparing.is_none() {
            let (disk, file, len) = (self.disk.clone(), self.next_file(), self.segment_len);
            self.preparing = Some(tokio::spawn(async move {
                disk.create(file, len).await?;
                Ok((file, len))
            }));
        }
        Ok(())
    }
}
