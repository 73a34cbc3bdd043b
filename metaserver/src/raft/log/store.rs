//! The Raft log as openraft uses it. All entries that were not purged are in memory and in the segment files (`format`).
//!
//! LS1  One task owns the files (`writer`). It takes the waiting operations, writes and syncs them as one batch, and only then
//!      acknowledges them.
//! LS2  Writes reach the disk in the order in which openraft asked for them.
//! LS3  After a write or sync has failed, nothing more is written, and every operation fails with that error, because nobody knows
//!      what a failed sync has left on the disk.
//! LS4  The log is cut only up to the last entry whose effects are durable in the state (P7.3), which [`PurgeGate`] tells.
//! LS5  Memory is bounded: when the entries take too much memory, a snapshot is made and the log is cut (`bound_log`); and when
//!      [`BACKLOG_LEN_MAX`] bytes wait for the disk, `append` waits.

use std::collections::VecDeque;
use std::fmt::Debug;
use std::io;
use std::ops::{Bound, RangeBounds};
use std::sync::{Arc, Mutex, MutexGuard};

use dfs_net::env::BoxFuture;
#[cfg(test)]
use dfs_proto::ids::DirectoryId;
use openraft::storage::{IOFlushed, LogState, RaftLogStorage};
use openraft::{OptionalSend, RaftLogReader};
use tokio::sync::{Notify, mpsc, oneshot, watch};
use tokio::task::JoinHandle;

use super::disk::LogDisk;
use super::format::{put_entry, put_truncated};
use super::recover::Recovered;
#[cfg(test)]
use super::recover::recover;
use super::writer::{Op, Writer};
use crate::raft::member::stamp::StampFile;
use crate::raft::types::{LogEntry, LogId, Proposal, TypeConfig, Vote, next_index};

/// Operations that may wait for the writer, and their bytes. Above that, `append` waits. Two followers are a quorum, so without
/// this bound the leader's own log could fall behind without limit.
const OPS_MAX: usize = 1024;
pub(crate) const BACKLOG_LEN_MAX: usize = 16 << 20;
/// Bytes of entries that one read for a follower returns; but at least one entry.
const READ_LEN_MAX: usize = 2 << 20;
/// Bytes of memory that an entry takes besides its commands.
const ENTRY_OVERHEAD: usize = 128;

/// The sizes of the log. Tests use smaller ones.
#[derive(Clone, Copy, Debug)]
pub struct LogOptions {
    /// Bytes of a segment file. A batch that is longer gets a longer file.
    pub segment_len: u64,
    /// When the entries in memory have more bytes than this, the log is to be cut.
    pub kept_len_max: usize,
}

impl Default for LogOptions {
    fn default() -> LogOptions {
        LogOptions { segment_len: 4 << 20, kept_len_max: 32 << 20 }
    }
}

/// Tells how far the log may be cut (LS4).
pub(crate) trait PurgeGate: Send + Sync + 'static {
    /// One more than the last index whose effects are durable in the state. The state is flushed if that is below `wanted`.
    fn durable_next(&self, wanted: u64) -> BoxFuture<'static, io::Result<u64>>;
}

/// The log as openraft uses it. There is only one; when it is dropped, the writer ends.
pub(crate) struct LogStore {
    shared: Arc<Shared>,
    ops: mpsc::Sender<Op>,
    gate: Arc<dyn PurgeGate>,
}

/// Reads the entries in memory.
#[derive(Clone)]
pub(crate) struct LogReader {
    shared: Arc<Shared>,
}

/// How full the log is, and whether the disk keeps up.
#[derive(Clone)]
pub(crate) struct LogMonitor {
    shared: Arc<Shared>,
    writer: Arc<Mutex<Option<JoinHandle<()>>>>,
}

struct Shared {
    /// Locked for a few instructions only, and never together with another lock.
    tail: Mutex<Tail>,
    /// Bytes that wait for the writer.
    backlog: watch::Sender<usize>,
    /// Notified at each append after which there are more bytes than `kept_len_max`.
    too_long: Notify,
    kept_len_max: usize,
}

#[derive(Default)]
struct Tail {
    vote: Option<Vote>,
    purged: Option<LogId>,
    entries: VecDeque<LogEntry>,
    len_bytes: usize,
}

impl Shared {
    fn tail(&self) -> MutexGuard<'_, Tail> {
        self.tail.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

fn memory_len(entry: &LogEntry) -> usize {
    ENTRY_OVERHEAD
        + match &entry.payload {
            openraft::EntryPayload::Normal(proposal) => Proposal::len(proposal),
            openraft::EntryPayload::Blank | openraft::EntryPayload::Membership(_) => 0,
        }
}

impl Tail {
    fn first_index(&self) -> Option<u64> {
        self.entries.front().map(|entry| entry.log_id.index)
    }

    fn last(&self) -> Option<LogId> {
        self.entries.back().map(|entry| entry.log_id).or(self.purged)
    }

    fn position(&self, index: u64) -> Option<usize> {
        let position = index.checked_sub(self.first_index()?)? as usize;
        (position < self.entries.len()).then_some(position)
    }

    fn push(&mut self, entry: LogEntry) -> io::Result<()> {
        let expected = self.entries.back().map(|last| last.log_id.index + 1);
        let expected = expected.or(self.purged.map(|purged| purged.index + 1));
        if expected.is_some_and(|expected| expected != entry.log_id.index) {
            let what = format!("entry {} does not follow {:?} in the log", entry.log_id, self.last());
            return Err(io::Error::other(what));
        }
        self.len_bytes += memory_len(&entry);
        self.entries.push_back(entry);
        Ok(())
    }

    fn truncate_after(&mut self, after: Option<u64>) {
        let keep = match (after, self.first_index()) {
            (Some(after), Some(first)) => (after + 1).saturating_sub(first) as usize,
            _ => 0,
        };
        for dropped in self.entries.drain(keep.min(self.entries.len())..) {
            self.len_bytes -= memory_len(&dropped);
        }
    }

    fn purge(&mut self, upto: LogId) {
        while self.entries.front().is_some_and(|entry| entry.log_id.index <= upto.index) {
            self.len_bytes -= self.entries.pop_front().map_or(0, |entry| memory_len(&entry));
        }
        self.purged = self.purged.max(Some(upto));
    }

    fn range(&self, range: &impl RangeBounds<u64>) -> (usize, usize) {
        let Some(first) = self.first_index() else { return (0, 0) };
        let start = match range.start_bound() {
            Bound::Included(start) => *start,
            Bound::Excluded(start) => start.saturating_add(1),
            Bound::Unbounded => 0,
        };
        let end = match range.end_bound() {
            Bound::Included(end) => end.saturating_add(1),
            Bound::Excluded(end) => *end,
            Bound::Unbounded => u64::MAX,
        };
        let len = self.entries.len();
        let end = (end.saturating_sub(first) as usize).min(len);
        ((start.saturating_sub(first) as usize).min(end), end)
    }
}

impl LogStore {
    /// A log on its own.
    #[cfg(test)]
    pub(crate) async fn open(
        disk: Arc<dyn LogDisk>,
        options: LogOptions,
        gate: Arc<dyn PurgeGate>,
    ) -> io::Result<(LogStore, LogMonitor)> {
        let recovered = recover(&*disk, options.segment_len, DirectoryId::UNKNOWN).await?;
        LogStore::begin(disk, options, gate, recovered, None).await
    }

    /// Goes on with what was found on the disk, and starts the writer.
    pub(crate) async fn begin(
        disk: Arc<dyn LogDisk>,
        options: LogOptions,
        gate: Arc<dyn PurgeGate>,
        recovered: Recovered,
        stamp: Option<Arc<StampFile>>,
    ) -> io::Result<(LogStore, LogMonitor)> {
        let Recovered { state, entries, files, last_write, leftovers, reached: _ } = recovered;
        let mut tail = Tail { vote: state.vote, purged: state.purged, ..Tail::default() };
        for entry in entries {
            tail.push(entry)?;
        }
        let shared = Arc::new(Shared {
            tail: Mutex::new(tail),
            backlog: watch::Sender::new(0),
            too_long: Notify::new(),
            kept_len_max: options.kept_len_max,
        });
        let (ops, waiting) = mpsc::channel(OPS_MAX);
        let backlog = shared.clone();
        let mut writer = Writer::new(disk, options.segment_len, state, files, move |written| {
            backlog.backlog.send_modify(|waiting| *waiting -= written);
        });
        if let Some(stamp) = stamp {
            writer = writer.of(stamp).await;
        }
        writer.begin(last_write, leftovers).await?;
        let task = tokio::spawn(writer.run(waiting));
        let monitor = LogMonitor { shared: shared.clone(), writer: Arc::new(Mutex::new(Some(task))) };
        Ok((LogStore { shared, ops, gate }, monitor))
    }

    async fn send(&self, op: Op) -> io::Result<()> {
        self.ops.send(op).await.map_err(|_| io::Error::other("the log's writer has stopped"))
    }

    async fn send_and_wait(&self, op: impl FnOnce(oneshot::Sender<io::Result<()>>) -> Op) -> io::Result<()> {
        let (done, ended) = oneshot::channel();
        self.send(op(done)).await?;
        ended.await.map_err(|_| io::Error::other("the log's writer has stopped"))?
    }
}

impl RaftLogReader<TypeConfig> for LogReader {
    async fn try_get_log_entries<RB: RangeBounds<u64> + Clone + Debug + OptionalSend>(
        &mut self,
        range: RB,
    ) -> Result<Vec<LogEntry>, io::Error> {
        let tail = self.shared.tail();
        let (start, end) = tail.range(&range);
        Ok(tail.entries.range(start..end).cloned().collect())
    }

    async fn read_vote(&mut self) -> Result<Option<Vote>, io::Error> {
        Ok(self.shared.tail().vote)
    }

    async fn limited_get_log_entries(&mut self, start: u64, end: u64) -> Result<Vec<LogEntry>, io::Error> {
        let tail = self.shared.tail();
        let (start, end) = tail.range(&(start..end));
        let mut len = 0;
        let fits = |entry: &&LogEntry| {
            let is_first = len == 0;
            len += memory_len(entry);
            is_first || len <= READ_LEN_MAX
        };
        Ok(tail.entries.range(start..end).take_while(fits).cloned().collect())
    }
}

impl RaftLogStorage<TypeConfig> for LogStore {
    type LogReader = LogReader;

    async fn get_log_state(&mut self) -> Result<LogState<TypeConfig>, io::Error> {
        let tail = self.shared.tail();
        Ok(LogState { last_purged_log_id: tail.purged, last_log_id: tail.last() })
    }

    async fn get_log_reader(&mut self) -> LogReader {
        LogReader { shared: self.shared.clone() }
    }

    async fn save_vote(&mut self, vote: &Vote) -> Result<(), io::Error> {
        let vote = *vote;
        // keeps LS1: the vote is synced before it counts
        self.send_and_wait(|done| Op::Vote { vote, done }).await?;
        self.shared.tail().vote = Some(vote);
        Ok(())
    }

    async fn append<I>(&mut self, entries: I, callback: IOFlushed<TypeConfig>) -> Result<(), io::Error>
    where
        I: IntoIterator<Item = LogEntry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let mut records = Vec::new();
        let mut last_index = None;
        {
            let mut tail = self.shared.tail();
            for entry in entries {
                put_entry(&mut records, &entry).map_err(io::Error::other)?;
                last_index = Some(entry.log_id.index);
                tail.push(entry)?;
            }
            if tail.len_bytes > self.shared.kept_len_max {
                self.shared.too_long.notify_one();
            }
        }
        let len = records.len();
        let mut backlog = self.shared.backlog.subscribe();
        // keeps LS5; there is no deadlock, because the writer never waits for this task
        let room = backlog.wait_for(|waiting| *waiting == 0 || *waiting + len <= BACKLOG_LEN_MAX).await;
        drop(room.map_err(io::Error::other)?);
        self.shared.backlog.send_modify(|waiting| *waiting += len);
        self.send(Op::Append { records, last_index, callback }).await
    }

    async fn truncate_after(&mut self, last_log_id: Option<LogId>) -> Result<(), io::Error> {
        self.shared.tail().truncate_after(last_log_id.map(|id| id.index));
        let mut record = Vec::new();
        put_truncated(&mut record, &last_log_id).map_err(io::Error::other)?;
        self.send_and_wait(|done| Op::Truncate { record, done }).await
    }

    async fn purge(&mut self, log_id: LogId) -> Result<(), io::Error> {
        let durable_next = self.gate.durable_next(log_id.index + 1).await?;
        // keeps P7.3: no entry is cut whose effects the state could still lose
        let upto = if log_id.index < durable_next {
            Some(log_id)
        } else {
            let tail = self.shared.tail();
            let last_durable = durable_next.checked_sub(1).and_then(|index| tail.position(index));
            last_durable.map(|position| tail.entries[position].log_id)
        };
        let Some(upto) = upto else { return Ok(()) };
        self.shared.tail().purge(upto);
        self.send(Op::Purge { upto }).await
    }
}

impl LogMonitor {
    /// Completes when the entries have more than [`LogOptions::kept_len_max`] bytes.
    pub(crate) async fn too_long(&self) {
        while self.shared.tail().len_bytes <= self.shared.kept_len_max {
            self.shared.too_long.notified().await;
        }
    }

    /// The index of the first entry; the next purge begins with it.
    #[cfg(test)]
    pub(crate) fn first_index(&self) -> u64 {
        let tail = self.shared.tail();
        tail.first_index().unwrap_or(next_index(tail.purged.as_ref()))
    }

    pub(crate) fn purged_next(&self) -> u64 {
        next_index(self.shared.tail().purged.as_ref())
    }

    /// Whether this member has never voted and has no entries. Then it has granted no lease either, which it could break.
    pub(crate) fn is_fresh(&self) -> bool {
        let tail = self.shared.tail();
        tail.vote.is_none() && tail.last().is_none()
    }

    /// Completes when so little waits for the disk that more may be proposed (LS5).
    pub(crate) async fn has_room(&self) {
        let mut backlog = self.shared.backlog.subscribe();
        // It cannot fail: `shared` holds the sender.
        drop(backlog.wait_for(|waiting| *waiting < BACKLOG_LEN_MAX / 2).await);
    }

    /// Completes when the writer has ended, so that nothing is written any more.
    pub(crate) async fn closed(&self) {
        let task = self.writer.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).take();
        if let Some(task) = task {
            drop(task.await);
        }
    }
}
