//! openraft's conformance suite for our log and state machine, and tests of what a crash may do to the log.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use dfs_net::env::{BoxFuture, Rng, SystemClock};
use dfs_proto::attr::Timestamp;
use dfs_proto::ids::DirectoryId;
use dfs_proto::units::ByteLen;
use futures::{Stream, StreamExt as _};
use openraft::entry::RaftEntry as _;
use openraft::storage::{
    EntryResponder, IOFlushed, RaftLogStorage, RaftLogStorageExt as _, RaftStateMachine,
};
use openraft::testing::log::{StoreBuilder, Suite};
use openraft::testing::log_id;
use openraft::{OptionalSend, RaftLogReader, StorageError};

use super::log::disk::{FileDisk, FileId, LogDisk, SimulatedDisk, WholeFile};
use super::log::format::{
    SegmentHeader, State, put_batch, put_state, read_segment, read_segment_header, segment_header,
};
use super::log::store::{LogMonitor, LogOptions, LogStore, PurgeGate};
use super::machine::clock::StateClock;
use super::machine::snapshot::{SnapshotBuilder, SnapshotData};
use super::machine::state_machine::StateMachine;
use super::machine::store::{APPLIED_KEY, StateStore, encode_applied, read_applied};
use super::member::group::GroupKind;
use super::types::{
    APPLIED_VERSION_BEFORE, Applied, LogEntry, LogId, Membership, Proposal, SnapshotMeta, TypeConfig, Vote,
};
use crate::rocks::{RocksHome, RocksOptions};
use dfs_state::kv::memory::MemoryHome;
use dfs_state::kv::{KvHome, Txn};
use dfs_state::time::StateTime;

/// The files are small, so that the tests use many.
const OPTIONS: LogOptions = LogOptions { segment_len: 4096, kept_len_max: usize::MAX };

/// Says that everything is durable, because the suite purges without a state machine.
struct OpenGate;

impl PurgeGate for OpenGate {
    fn durable_next(&self, wanted: u64) -> BoxFuture<'static, io::Result<u64>> {
        Box::pin(async move { Ok(wanted) })
    }
}

/// The suite applies entries with gaps between them, which A2 refuses. This fills the gaps with blank entries.
struct GapFilling {
    inner: StateMachine,
    next: u64,
}

impl RaftStateMachine<TypeConfig> for GapFilling {
    type SnapshotData = SnapshotData;
    type SnapshotBuilder = SnapshotBuilder;

    async fn applied_state(&mut self) -> Result<(Option<LogId>, Membership), io::Error> {
        self.inner.applied_state().await
    }

    async fn apply<Strm>(&mut self, mut entries: Strm) -> Result<(), io::Error>
    where
        Strm: Stream<Item = Result<EntryResponder<TypeConfig>, io::Error>> + Unpin + OptionalSend,
    {
        let mut filled = Vec::new();
        while let Some(entry) = entries.next().await {
            let (entry, responder) = entry?;
            for index in self.next..entry.log_id.index {
                filled.push(Ok((LogEntry::new_blank(LogId::new(entry.log_id.leader_id, index)), None)));
            }
            self.next = entry.log_id.index + 1;
            filled.push(Ok((entry, responder)));
        }
        self.inner.apply(futures::stream::iter(filled)).await
    }

    async fn get_snapshot_builder(&mut self) -> SnapshotBuilder {
        self.inner.get_snapshot_builder().await
    }

    async fn install_snapshot(&mut self, meta: &SnapshotMeta, data: SnapshotData) -> Result<(), io::Error> {
        self.inner.install_snapshot(meta, data).await
    }

    async fn get_current_snapshot(
        &mut self,
    ) -> Result<Option<openraft::alias::SnapshotOf<TypeConfig, SnapshotData>>, io::Error> {
        self.inner.get_current_snapshot().await
    }
}

async fn build(disk: Arc<dyn LogDisk>, home: Arc<dyn KvHome>) -> io::Result<(LogStore, GapFilling)> {
    let (log, _) = LogStore::open(disk, OPTIONS, Arc::new(OpenGate)).await?;
    let (store, applied) = StateStore::open(home)?;
    let time = Arc::new(StateClock::new(Arc::new(SystemClock), StateTime::default()));
    Ok((log, GapFilling { inner: StateMachine::new(GroupKind::Cluster, store, applied, time), next: 0 }))
}

struct Simulated;

impl StoreBuilder<TypeConfig, LogStore, GapFilling> for Simulated {
    async fn build(&self) -> Result<((), LogStore, GapFilling), StorageError<TypeConfig>> {
        let disk = SimulatedDisk::new(Duration::ZERO);
        let (log, machine) = build(Arc::new(disk), Arc::new(MemoryHome::default())).await.unwrap();
        Ok(((), log, machine))
    }
}

/// A directory in memory, if there is one: the suite makes hundreds of syncs, and they are not what it tests.
fn quick_directory() -> tempfile::TempDir {
    tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap()
}

struct Real;

impl StoreBuilder<TypeConfig, LogStore, GapFilling, tempfile::TempDir> for Real {
    async fn build(&self) -> Result<(tempfile::TempDir, LogStore, GapFilling), StorageError<TypeConfig>> {
        let directory = quick_directory();
        let disk = FileDisk::open(&directory.path().join("log")).unwrap();
        let home = RocksHome::new(&directory.path().join("state"), RocksOptions::default());
        let (log, machine) = build(Arc::new(disk), Arc::new(home)).await.unwrap();
        Ok((directory, log, machine))
    }
}

#[tokio::test]
async fn the_simulated_stores_conform() {
    Suite::test_all(Simulated).await.unwrap();
}

#[tokio::test]
async fn the_real_stores_conform() {
    Suite::test_all(Real).await.unwrap();
}

fn entry(term: u64, index: u64) -> LogEntry {
    LogEntry::new_blank(log_id::<TypeConfig>(term, 0, index))
}

fn vote(term: u64) -> Vote {
    Vote::new(term, 1)
}

async fn open(disk: &SimulatedDisk) -> io::Result<(LogStore, LogMonitor)> {
    LogStore::open(Arc::new(disk.clone()), OPTIONS, Arc::new(OpenGate)).await
}

async fn indexes(log: &mut LogStore) -> Vec<u64> {
    let entries = log.get_log_reader().await.try_get_log_entries(..).await.unwrap();
    entries.iter().map(|entry| entry.log_id.index).collect()
}

#[tokio::test]
async fn what_was_reported_as_durable_survives_a_crash_and_what_follows_is_whole_or_gone() {
    for seed in 0..200 {
        let rng = Rng::seeded(seed);
        let disk = SimulatedDisk::new(Duration::ZERO);
        let mut reported = Vec::new();
        for life in 0..4 {
            let (mut log, monitor) = open(&disk).await.unwrap();
            let found = indexes(&mut log).await;
            assert!(
                found.starts_with(&reported),
                "seed {seed}: {reported:?} was reported, {found:?} is there"
            );
            let mut next = found.last().map_or(0, |last| last + 1);
            log.save_vote(&vote(life + 1)).await.unwrap();
            for _ in 0..rng.below(40) {
                let entries: Vec<LogEntry> =
                    (0..1 + rng.below(5)).map(|n| entry(life + 1, next + n)).collect();
                next += entries.len() as u64;
                log.blocking_append(entries).await.unwrap();
            }
            reported = indexes(&mut log).await;
            // These are on their way when the power fails, or not written at all.
            for _ in 0..rng.below(3) {
                let entries: Vec<LogEntry> =
                    (0..1 + rng.below(90)).map(|n| entry(life + 1, next + n)).collect();
                next += entries.len() as u64;
                log.append(entries, IOFlushed::noop()).await.unwrap();
                for _ in 0..rng.below(4) {
                    tokio::task::yield_now().await;
                }
            }
            disk.crash(&rng);
            drop(log);
            monitor.closed().await;
            let read = open(&disk).await.unwrap().0.get_log_reader().await.read_vote().await.unwrap();
            assert_eq!(read, Some(vote(life + 1)), "seed {seed}");
        }
    }
}

/// An entry of about `len` bytes, so that its batch has several sectors.
fn long_entry(term: u64, index: u64, len: u64) -> LogEntry {
    let proposal =
        Proposal::join(Timestamp::default(), StateTime::default(), &[vec![index as u8; len as usize]]);
    LogEntry { payload: openraft::EntryPayload::Normal(proposal), ..entry(term, index) }
}

/// The sequences of the segments without a whole batch, and of those with one.
async fn segments(disk: &SimulatedDisk) -> (Vec<u64>, Vec<u64>) {
    let (mut torn, mut whole) = (Vec::new(), Vec::new());
    for file in disk.list().await.unwrap() {
        let bytes = disk.read(file).await.unwrap();
        let Some(SegmentHeader { sequence, .. }) = read_segment_header(&bytes).unwrap() else { continue };
        match read_segment(&bytes, sequence).map(|segment| segment.numbers) {
            Ok(Some(_)) => whole.push(sequence),
            Ok(None) => torn.push(sequence),
            Err(_) => {} // a spare file, which was torn when it was to be used again
        }
    }
    (torn, whole)
}

/// What a log that lives through crashes must hold.
#[derive(Default)]
struct Promised {
    /// The entries from this index on were not purged.
    first: u64,
    /// The entries below this index were acknowledged as durable.
    next: u64,
    term: u64,
}

impl Promised {
    async fn check(&self, log: &mut LogStore, seed: u64) {
        let found = indexes(log).await;
        let (first, last) = (found.first().copied().unwrap_or(0), found.last().copied());
        assert!(
            first <= self.first,
            "seed {seed}: entry {} was not purged, {first} is the first",
            self.first
        );
        assert!(
            last.map_or(0, |last| last + 1) >= self.next,
            "seed {seed}: {} were reported, {last:?}",
            self.next
        );
        assert!(found.iter().copied().eq(first..first + found.len() as u64), "seed {seed}: {found:?}");
        let vote = log.get_log_reader().await.read_vote().await.unwrap();
        assert!(self.term == 0 || vote >= Some(self::vote(self.term)), "seed {seed}: {vote:?}");
    }

    async fn append(&mut self, log: &mut LogStore, rng: &Rng) {
        let len = rng.below(1500);
        log.blocking_append([long_entry(self.term, self.next, len)]).await.unwrap();
        self.next += 1;
    }

    /// A log that has just been opened acknowledges everything that it holds.
    async fn takes_what_is_there(&mut self, log: &mut LogStore) {
        if let Some(last) = indexes(log).await.last() {
            self.next = last + 1;
        }
    }
}

/// Two bugs that earlier tests did not find, because they had no purges and so no files that are used again. A torn first write,
/// a restart, a further segment and another restart left a log that was refused; and what a failed sync had left in the page
/// cache counted after a restart.
#[tokio::test]
async fn a_log_that_is_purged_and_loses_power_at_any_moment_opens_with_everything_that_was_reported() {
    let (mut torn_last, mut torn_before, mut failed) = (0, 0, 0);
    for seed in 0..300 {
        let rng = Rng::seeded(seed);
        let disk = SimulatedDisk::new(Duration::ZERO);
        let mut promised = Promised::default();
        for _ in 0..12 {
            let opened = open(&disk).await;
            let (mut log, mut monitor) = opened.unwrap_or_else(|error| panic!("seed {seed}: {error}"));
            promised.check(&mut log, seed).await;
            promised.takes_what_is_there(&mut log).await;
            promised.term += 1;
            log.save_vote(&vote(promised.term)).await.unwrap();
            for _ in 0..rng.below(12) {
                promised.append(&mut log, &rng).await;
                if rng.below(4) == 0 && promised.next > promised.first + 1 {
                    promised.first += 1 + rng.below(promised.next - promised.first - 1);
                    log.purge(entry(promised.term, promised.first - 1).log_id).await.unwrap();
                }
            }
            if rng.below(3) == 0 {
                // The disk fails, the process ends, the machine goes on: the pages are still there.
                failed += 1;
                disk.fail_syncs(true);
                let entry = long_entry(promised.term, promised.next, rng.below(1500));
                assert!(log.blocking_append([entry]).await.is_err(), "seed {seed}");
                drop(log);
                monitor.closed().await;
                disk.fail_syncs(false);
                (log, monitor) = open(&disk).await.unwrap();
                promised.check(&mut log, seed).await;
                promised.takes_what_is_there(&mut log).await;
                if rng.below(2) == 0 {
                    promised.append(&mut log, &rng).await;
                }
            }
            if rng.below(3) > 0 {
                // On its way when the power fails.
                let entry = long_entry(promised.term, promised.next, 600 + rng.below(3000));
                log.append([entry], IOFlushed::noop()).await.unwrap();
                for _ in 0..rng.below(4) {
                    tokio::task::yield_now().await;
                }
            }
            disk.crash(&rng);
            drop(log);
            monitor.closed().await;
            if rng.below(4) == 0 {
                disk.tear_next_segment();
            }
            let (torn, whole) = segments(&disk).await;
            let newest = whole.iter().max().copied().unwrap_or(0);
            torn_last += torn.iter().filter(|sequence| **sequence > newest).count();
            torn_before += torn.iter().filter(|sequence| **sequence < newest).count();
        }
    }
    println!("torn first writes: {torn_last}, with a later segment: {torn_before}; failed syncs: {failed}");
    assert!(torn_last > 500 && torn_before > 100 && failed > 500, "{torn_last} {torn_before} {failed}");
}

/// The log of the bug: file 1 has a whole batch, file 2 is spare, and file 3 has the header of segment 2 and garbage.
#[tokio::test]
async fn a_segment_whose_first_write_was_torn_is_no_damage_when_a_later_one_is_written() {
    let disk = SimulatedDisk::new(Duration::ZERO);
    let header = |sequence| {
        segment_header(&SegmentHeader { sequence, directory: DirectoryId(1), file_len: OPTIONS.segment_len })
    };
    let mut first = header(1).to_vec();
    let mut body = Vec::new();
    put_state(&mut body, &State { first_sequence: 1, ..State::default() }).unwrap();
    put_batch(&mut first, 1, 0, &body);
    first.resize(OPTIONS.segment_len as usize, 0);
    let torn = [&header(2)[..], &vec![0x55; OPTIONS.segment_len as usize - 64]].concat();
    for (id, bytes) in [(1, first), (2, vec![0; OPTIONS.segment_len as usize]), (3, torn)] {
        disk.create(FileId(id), OPTIONS.segment_len).await.unwrap();
        disk.write(FileId(id), 0, bytes).await.unwrap();
    }
    let (mut log, monitor) = open(&disk).await.unwrap();
    let mut index = 0;
    while !segments(&disk).await.1.contains(&3) {
        log.blocking_append([entry(1, index)]).await.unwrap();
        index += 1;
    }
    assert_eq!(segments(&disk).await.0, [2], "the torn one is still there");
    drop(log);
    monitor.closed().await;
    let (mut log, _) = open(&disk).await.unwrap();
    assert_eq!(indexes(&mut log).await, (0..index).collect::<Vec<_>>());
}

/// After a failed sync, the kernel still shows the bytes that are not on the disk, and the next sync succeeds.
#[tokio::test]
async fn what_a_failed_sync_left_in_memory_is_written_again_before_it_counts() {
    let disk = SimulatedDisk::new(Duration::ZERO);
    let (mut log, monitor) = open(&disk).await.unwrap();
    log.blocking_append([entry(1, 0)]).await.unwrap();
    disk.fail_syncs(true);
    assert!(log.blocking_append([entry(1, 1)]).await.is_err());
    drop(log);
    monitor.closed().await;
    disk.fail_syncs(false);
    let (mut log, monitor) = open(&disk).await.unwrap();
    assert_eq!(indexes(&mut log).await, [0, 1], "it is in memory, and from now on it counts");
    log.blocking_append([entry(1, 2)]).await.unwrap();
    disk.crash_keeping(|_| false);
    drop(log);
    monitor.closed().await;
    let (mut log, _) = open(&disk).await.unwrap();
    assert_eq!(indexes(&mut log).await, [0, 1, 2]);
}

#[tokio::test]
async fn truncation_and_purge_survive_and_old_files_are_used_again() {
    let disk = SimulatedDisk::new(Duration::ZERO);
    let (mut log, monitor) = open(&disk).await.unwrap();
    log.save_vote(&vote(1)).await.unwrap();
    for index in 0..600 {
        log.blocking_append([entry(1, index)]).await.unwrap();
        if index >= 50 {
            log.purge(entry(1, index - 50).log_id).await.unwrap();
        }
    }
    log.truncate_after(Some(entry(1, 580).log_id)).await.unwrap();
    log.blocking_append([entry(2, 581)]).await.unwrap();
    drop(log);
    monitor.closed().await;
    assert!(disk.list().await.unwrap().len() <= 6, "600 entries of 64 bytes went through files of 4 KiB");
    let (mut log, monitor) = open(&disk).await.unwrap();
    assert_eq!(indexes(&mut log).await, (550..582).collect::<Vec<_>>());
    assert_eq!(monitor.first_index(), 550);
    assert_eq!(log.get_log_reader().await.read_vote().await.unwrap(), Some(vote(1)));
}

#[tokio::test]
async fn damage_in_the_middle_of_the_log_refuses_to_start_and_says_where() {
    let disk = SimulatedDisk::new(Duration::ZERO);
    let (mut log, monitor) = open(&disk).await.unwrap();
    for index in 0..100 {
        log.blocking_append([entry(1, index)]).await.unwrap();
    }
    drop(log);
    monitor.closed().await;
    disk.rot(FileId(0), 1024 + 20);
    let error = open(&disk).await.map(drop).unwrap_err().to_string();
    assert!(error.contains("log file 00000000") && error.contains("damaged"), "{error}");
}

/// A gate that says that only the entries below `next` are durable.
struct ShutGate {
    next: u64,
}

impl PurgeGate for ShutGate {
    fn durable_next(&self, _wanted: u64) -> BoxFuture<'static, io::Result<u64>> {
        let next = self.next;
        Box::pin(async move { Ok(next) })
    }
}

#[tokio::test]
async fn the_log_is_not_cut_beyond_what_the_state_has_flushed() {
    let disk = SimulatedDisk::new(Duration::ZERO);
    let gate = Arc::new(ShutGate { next: 70 });
    let (mut log, monitor) = LogStore::open(Arc::new(disk), OPTIONS, gate).await.unwrap();
    for index in 0..100 {
        log.blocking_append([entry(1, index)]).await.unwrap();
    }
    log.purge(entry(1, 90).log_id).await.unwrap();
    assert_eq!(monitor.first_index(), 70);
}

/// Counts the writes, each of which takes a while, as on a real disk.
struct SlowDisk {
    inner: SimulatedDisk,
    writes: std::sync::atomic::AtomicU64,
}

impl LogDisk for SlowDisk {
    fn list(&self) -> BoxFuture<'static, io::Result<Vec<FileId>>> {
        self.inner.list()
    }
    fn read(&self, file: FileId) -> BoxFuture<'static, io::Result<Vec<u8>>> {
        self.inner.read(file)
    }
    fn create(&self, file: FileId, len: u64) -> BoxFuture<'static, io::Result<()>> {
        self.inner.create(file, len)
    }
    fn write(&self, file: FileId, offset: u64, bytes: Vec<u8>) -> BoxFuture<'static, io::Result<Vec<u8>>> {
        self.writes.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        self.inner.write(file, offset, bytes)
    }
    fn sync(&self, file: FileId) -> BoxFuture<'static, io::Result<()>> {
        self.inner.sync(file)
    }
    fn remove(&self, file: FileId) -> BoxFuture<'static, io::Result<()>> {
        self.inner.remove(file)
    }
    fn free(&self) -> BoxFuture<'static, io::Result<ByteLen>> {
        self.inner.free()
    }
    fn read_whole(&self, file: WholeFile) -> BoxFuture<'static, io::Result<Option<Vec<u8>>>> {
        self.inner.read_whole(file)
    }
    fn write_whole(&self, file: WholeFile, bytes: Vec<u8>) -> BoxFuture<'static, io::Result<()>> {
        self.inner.write_whole(file, bytes)
    }
}

#[tokio::test]
async fn appends_that_wait_at_the_same_time_share_one_sync() {
    let inner = SimulatedDisk::new(Duration::from_millis(2));
    let disk = Arc::new(SlowDisk { inner, writes: std::sync::atomic::AtomicU64::new(0) });
    let (mut log, monitor) = LogStore::open(disk.clone(), OPTIONS, Arc::new(OpenGate)).await.unwrap();
    for index in 0..64 {
        log.append([entry(1, index)], IOFlushed::noop()).await.unwrap();
    }
    drop(log);
    monitor.closed().await;
    let writes = disk.writes.load(std::sync::atomic::Ordering::Relaxed);
    assert!(writes <= 4, "64 appends took {writes} syncs");
}

#[test]
fn a_state_store_of_the_format_before_is_read() {
    let (store, fresh) = StateStore::open(Arc::new(MemoryHome::default())).unwrap();
    assert_eq!(fresh, Applied::default());
    let applied = Applied { last: Some(log_id::<TypeConfig>(1, 2, 3)), ..Applied::default() };
    let mut stored = encode_applied(&applied).unwrap();
    stored[0] = APPLIED_VERSION_BEFORE;
    let kv = store.kv();
    let base = kv.snapshot();
    let mut txn = Txn::new(&*base);
    txn.put(APPLIED_KEY, stored);
    let batch = txn.into_batch();
    drop(base);
    kv.write(batch).unwrap();
    assert_eq!(read_applied(&*kv.snapshot()).unwrap(), applied);
}
