//! RocksDB as a [`Kv`]: one column family, no write-ahead log (the Raft log is the only one, P7.3).
//!
//!     home/CURRENT        the name of the current database; replaced by one rename
//!     home/<name>/        one RocksDB each
//!
//! K1 holds because a flush writes whole memtables, and a batch lies in one memtable. Memory is bounded by
//! [`RocksOptions`]: index and filter blocks count against the block cache.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use dfs_net::env::BoxFuture;
use dfs_proto::units::{ByteLen, MIB};
use rocksdb::checkpoint::Checkpoint;
use rocksdb::{
    BlockBasedIndexType, BlockBasedOptions, Cache, DB, DBCompressionType, IteratorMode, Options, ReadOptions,
    SnapshotWithThreadMode, WriteBatch, WriteOptions,
};

use dfs_state::kv::{Batch, Kv, KvError, KvHome, Pair, Snapshot};

/// How much memory all databases of one home take together, about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RocksOptions {
    /// Blocks, indexes and filters that were read.
    pub block_cache: ByteLen,
    /// What was written and is not yet in a file; when half of it is full, a flush starts.
    pub write_buffers: ByteLen,
    /// Table files open at once, per database.
    pub open_files: u32,
}

impl Default for RocksOptions {
    fn default() -> RocksOptions {
        let (block_cache, write_buffers) = (ByteLen(64 * MIB), ByteLen(64 * MIB));
        RocksOptions { block_cache, write_buffers, open_files: OPEN_FILES_MAX }
    }
}

impl RocksOptions {
    /// The share of two databases (a snapshot is taken in beside the current one) of two groups in a process that may have
    /// so many descriptors: half of them. What is left over is for logs and connections.
    pub fn open_files_of(descriptors: u64) -> u32 {
        (descriptors / 8).clamp(OPEN_FILES_MIN.into(), OPEN_FILES_MAX.into()) as u32
    }
}

/// Table files open at once, per database: with 64 MiB files this serves tens of gigabytes without reopening.
const OPEN_FILES_MAX: u32 = 512;
/// … and so many at least: RocksDB keeps some for itself.
const OPEN_FILES_MIN: u32 = 32;
/// RocksDB's own log, per file and number of files kept.
const LOG_LEN_MAX: usize = MIB as usize;
const LOG_FILES_MAX: usize = 2;
/// Of a piece of an index or filter.
const METADATA_BLOCK_LEN: usize = 4096;
/// Of a memtable's bytes, for a filter of its keys: ten bits for each of some 60 bytes.
const MEMTABLE_FILTER_RATIO: f64 = 0.02;
const CURRENT: &str = "CURRENT";
const CURRENT_NEW: &str = "CURRENT.new";

/// A directory with databases.
pub struct RocksHome {
    directory: PathBuf,
    options: Options,
}

impl RocksHome {
    /// The directory is made with the first database: until then it may be missing because it was lost.
    pub fn new(directory: &Path, limits: RocksOptions) -> RocksHome {
        RocksHome { directory: directory.to_owned(), options: options(limits) }
    }

    fn open_at(&self, path: PathBuf, options: &Options) -> Result<Arc<dyn Kv>, KvError> {
        let db = DB::open(options, &path).map_err(|e| db_error("open", &path, &e))?;
        Ok(Arc::new(RocksKv { db: Arc::new(db), home: self.directory.clone() }))
    }
}

impl KvHome for RocksHome {
    fn open(&self, name: &str) -> Result<Arc<dyn Kv>, KvError> {
        let path = self.directory.join(name);
        if !path.is_dir() {
            return Err(KvError::NoSuchDatabase { name: name.to_owned() });
        }
        self.open_at(path, &self.options)
    }

    fn open_read_only(&self, name: &str) -> Result<Arc<dyn Kv>, KvError> {
        let path = self.directory.join(name);
        if !path.is_dir() {
            return Err(KvError::NoSuchDatabase { name: name.to_owned() });
        }
        let db = DB::open_for_read_only(&self.options, &path, false);
        let db = db.map_err(|e| db_error("look at", &path, &e))?;
        Ok(Arc::new(RocksKv { db: Arc::new(db), home: self.directory.clone() }))
    }

    fn create(&self, name: &str) -> Result<Arc<dyn Kv>, KvError> {
        let path = self.directory.join(name);
        if path.exists() {
            return Err(KvError::DatabaseExists { name: name.to_owned() });
        }
        if !self.directory.exists() {
            fs::create_dir_all(&self.directory).map_err(|e| io_error("create", &self.directory, e))?;
            self.directory.parent().filter(|parent| parent.is_dir()).map_or(Ok(()), sync_directory)?;
        }
        let mut options = self.options.clone();
        options.create_if_missing(true);
        options.set_error_if_exists(true);
        let kv = self.open_at(path, &options)?;
        sync_directory(&self.directory)?;
        Ok(kv)
    }

    fn current(&self) -> Result<Option<String>, KvError> {
        let path = self.directory.join(CURRENT);
        match fs::read_to_string(&path) {
            // Of a disk that lost what was synced: it would name the home itself.
            Ok(name) if name.trim_end().is_empty() => {
                let what = "it is empty, and named a database once";
                Err(io_error("read", &path, io::Error::new(io::ErrorKind::InvalidData, what)))
            }
            Ok(name) if !is_name(name.trim_end()) => {
                let what = "it names no database";
                Err(io_error("read", &path, io::Error::new(io::ErrorKind::InvalidData, what)))
            }
            Ok(name) => Ok(Some(name.trim_end().to_owned())),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(io_error("read", &path, e)),
        }
    }

    fn make_current(&self, name: &str) -> Result<(), KvError> {
        if !self.directory.join(name).is_dir() {
            return Err(KvError::NoSuchDatabase { name: name.to_owned() });
        }
        let (new, current) = (self.directory.join(CURRENT_NEW), self.directory.join(CURRENT));
        let write = || {
            let mut file = File::create(&new)?;
            writeln!(file, "{name}")?;
            file.sync_all()
        };
        write().map_err(|e| io_error("write", &new, e))?;
        fs::rename(&new, &current).map_err(|e| io_error("rename to", &current, e))?;
        sync_directory(&self.directory)
    }

    fn remove(&self, name: &str) -> Result<(), KvError> {
        let path = self.directory.join(name);
        match fs::remove_dir_all(&path) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => Err(io_error("remove", &path, e)),
            Ok(()) | Err(_) => Ok(()),
        }
    }

    fn list(&self) -> Result<Vec<String>, KvError> {
        let mut names = Vec::new();
        let entries = match fs::read_dir(&self.directory) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(names),
            entries => entries.map_err(|e| io_error("list", &self.directory, e))?,
        };
        for entry in entries {
            let entry = entry.map_err(|e| io_error("list", &self.directory, e))?;
            if entry.path().is_dir() {
                names.push(entry.file_name().to_string_lossy().into_owned());
            }
        }
        names.sort();
        Ok(names)
    }
}

/// One path component, as we make them.
fn is_name(name: &str) -> bool {
    name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
}

fn options(limits: RocksOptions) -> Options {
    let mut blocks = BlockBasedOptions::default();
    blocks.set_block_cache(&Cache::new_lru_cache(limits.block_cache.0 as usize));
    blocks.set_cache_index_and_filter_blocks(true);
    blocks.set_pin_l0_filter_and_index_blocks_in_cache(true);
    blocks.set_bloom_filter(10.0, false);
    // In pieces: a whole filter of a file is as large as the part of the cache that it may take, so that each look-up
    // read and checked it anew, and cost what the file is long.
    blocks.set_index_type(BlockBasedIndexType::TwoLevelIndexSearch);
    blocks.set_partition_filters(true);
    blocks.set_metadata_block_size(METADATA_BLOCK_LEN);
    blocks.set_pin_top_level_index_and_filter(true);
    let mut options = Options::default();
    options.set_block_based_table_factory(&blocks);
    options.set_write_buffer_size(limits.write_buffers.0 as usize / 2);
    options.set_max_write_buffer_number(2);
    // Most point reads are for what is not in the memtable: a new name, a constant that was written long ago.
    options.set_memtable_prefix_bloom_ratio(MEMTABLE_FILTER_RATIO);
    options.set_memtable_whole_key_filtering(true);
    options.set_compression_type(DBCompressionType::Lz4);
    options.set_level_compaction_dynamic_level_bytes(true);
    options.set_max_background_jobs(2);
    options.set_max_open_files(limits.open_files as i32);
    options.set_keep_log_file_num(LOG_FILES_MAX);
    options.set_max_log_file_size(LOG_LEN_MAX);
    options.set_bytes_per_sync(MIB);
    // Nothing is compacted for the traces of deletions alone: forgotten results of sessions leave so many in every file
    // that each flush had the whole database written again.
    options
}

/// One open database.
struct RocksKv {
    db: Arc<DB>,
    home: PathBuf,
}

impl Kv for RocksKv {
    fn snapshot(&self) -> Box<dyn Snapshot + '_> {
        let snapshot = self.db.snapshot();
        let mut how = ReadOptions::default();
        how.set_snapshot(&snapshot);
        Box::new(RocksSnapshot { how, snapshot, db: &self.db })
    }

    fn write(&self, batch: Batch) -> Result<(), KvError> {
        let mut writes = WriteBatch::default();
        for (key, value) in batch.iter() {
            match value {
                Some(value) => writes.put(key, value),
                None => writes.delete(key),
            }
        }
        let mut how = WriteOptions::default();
        how.disable_wal(true);
        self.db.write_opt(writes, &how).map_err(|e| db_error("write to", self.db.path(), &e))
    }

    fn flush(&self) -> BoxFuture<'static, Result<(), KvError>> {
        let db = self.db.clone();
        on_a_blocking_thread("flush", move || db.flush().map_err(|e| db_error("flush", db.path(), &e)))
    }

    fn checkpoint(&self, name: &str) -> BoxFuture<'static, Result<(), KvError>> {
        let (db, home, name) = (self.db.clone(), self.home.clone(), name.to_owned());
        on_a_blocking_thread("make a checkpoint", move || {
            let path = home.join(&name);
            if path.exists() {
                return Err(KvError::DatabaseExists { name });
            }
            // It flushes the memtables itself: there is no log that could be copied instead.
            Checkpoint::new(&db)
                .and_then(|checkpoint| checkpoint.create_checkpoint(&path))
                .map_err(|e| db_error("make a checkpoint at", &path, &e))?;
            sync_directory(&path)?;
            sync_directory(&home)
        })
    }
}

fn on_a_blocking_thread(
    doing: &'static str,
    work: impl FnOnce() -> Result<(), KvError> + Send + 'static,
) -> BoxFuture<'static, Result<(), KvError>> {
    Box::pin(async move {
        let stopped =
            |e: tokio::task::JoinError| KvError::Database { doing: doing.to_owned(), what: e.to_string() };
        tokio::task::spawn_blocking(work).await.map_err(stopped)?
    })
}

struct RocksSnapshot<'a> {
    /// Of `snapshot`, for point reads: made once, not for each of them. Declared, and so dropped, before it.
    how: ReadOptions,
    snapshot: SnapshotWithThreadMode<'a, DB>,
    db: &'a DB,
}

impl Snapshot for RocksSnapshot<'_> {
    fn get(&self, key: &[u8]) -> Option<Vec<u8>> {
        match self.db.get_opt(key, &self.how) {
            Ok(value) => value,
            Err(error) => panic!("the state store cannot be read: {error}"),
        }
    }

    fn scan<'a>(&'a self, from: &[u8], end: &[u8]) -> Box<dyn Iterator<Item = Pair> + 'a> {
        if !end.is_empty() && from >= end {
            return Box::new(std::iter::empty());
        }
        let mut how = ReadOptions::default();
        if !end.is_empty() {
            how.set_iterate_upper_bound(end);
        }
        let mode = IteratorMode::From(from, rocksdb::Direction::Forward);
        Box::new(self.snapshot.iterator_opt(mode, how).map(|pair| match pair {
            Ok((key, value)) => (key.into_vec(), value.into_vec()),
            Err(error) => panic!("the state store cannot be read: {error}"),
        }))
    }
}

fn sync_directory(path: &Path) -> Result<(), KvError> {
    File::open(path).and_then(|directory| directory.sync_all()).map_err(|e| io_error("sync", path, e))
}

fn io_error(verb: &str, path: &Path, source: io::Error) -> KvError {
    KvError::Io { doing: format!("{verb} {}", path.display()), source }
}

fn db_error(verb: &str, path: &Path, error: &rocksdb::Error) -> KvError {
    KvError::Database { doing: format!("{verb} {}", path.display()), what: error.to_string() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put(kv: &dyn Kv, key: &[u8], value: &[u8]) {
        let mut batch = Batch::default();
        batch.put(key, value);
        kv.write(batch).expect("write");
    }

    fn home(directory: &Path) -> RocksHome {
        RocksHome::new(directory, RocksOptions::default())
    }

    #[tokio::test]
    async fn what_was_flushed_is_there_after_opening_again() {
        let directory = tempfile::tempdir().expect("temp dir");
        let kv = home(directory.path()).create("first").expect("create");
        put(&*kv, b"k", b"1");
        kv.flush().await.expect("flush");
        drop(kv);
        let kv = home(directory.path()).open("first").expect("open");
        assert_eq!(kv.snapshot().get(b"k"), Some(b"1".to_vec()));
    }

    /// A copy of the files at one moment is what a power failure at that moment leaves (all files here are synced).
    #[tokio::test]
    async fn what_was_not_flushed_is_gone_after_a_crash() {
        let directory = tempfile::tempdir().expect("temp dir");
        let home = home(directory.path());
        let kv = home.create("first").expect("create");
        put(&*kv, b"kept", b"1");
        kv.flush().await.expect("flush");
        put(&*kv, b"lost", b"1");
        let after = directory.path().join("after");
        fs::create_dir(&after).expect("create");
        for entry in fs::read_dir(directory.path().join("first")).expect("list") {
            let entry = entry.expect("list");
            fs::copy(entry.path(), after.join(entry.file_name())).expect("copy");
        }
        let survived = home.open("after").expect("open");
        let all: Vec<Pair> = survived.snapshot().scan(b"", b"").collect();
        assert_eq!(all, [(b"kept".to_vec(), b"1".to_vec())]);
    }

    #[tokio::test]
    async fn a_checkpoint_holds_what_was_written_before_and_nothing_later() {
        let directory = tempfile::tempdir().expect("temp dir");
        let home = home(directory.path());
        let kv = home.create("first").expect("create");
        put(&*kv, b"a", b"1");
        put(&*kv, b"b", b"2");
        kv.checkpoint("copy").await.expect("checkpoint");
        put(&*kv, b"a", b"3");
        let copy = home.open("copy").expect("open");
        let all: Vec<Pair> = copy.snapshot().scan(b"", b"").collect();
        assert_eq!(all, [(b"a".to_vec(), b"1".to_vec()), (b"b".to_vec(), b"2".to_vec())]);
        assert_eq!(home.list().expect("list"), ["copy", "first"]);
        assert!(matches!(kv.checkpoint("copy").await, Err(KvError::DatabaseExists { .. })));
    }

    #[test]
    fn the_current_database_changes_with_one_name() {
        let directory = tempfile::tempdir().expect("temp dir");
        let home = home(directory.path());
        assert_eq!(home.current().expect("read"), None);
        assert!(matches!(home.make_current("none"), Err(KvError::NoSuchDatabase { .. })));
        drop(home.create("one").expect("create"));
        home.make_current("one").expect("make current");
        drop(home.create("two").expect("create"));
        home.make_current("two").expect("make current");
        home.remove("one").expect("remove");
        home.remove("one").expect("removing twice is no error");
        assert_eq!(home.current().expect("read").as_deref(), Some("two"));
        assert_eq!(home.list().expect("list"), ["two"]);
    }

    /// Another name of the old file shows that it was not written over, which a crash would leave half done.
    #[test]
    fn the_name_of_the_current_database_is_replaced_and_never_written_over() {
        let directory = tempfile::tempdir().expect("temp dir");
        let home = home(directory.path());
        let (current, before) = (directory.path().join(CURRENT), directory.path().join("before"));
        for name in ["one", "two"] {
            drop(home.create(name).expect("create"));
            home.make_current(name).expect("make current");
            if name == "one" {
                fs::hard_link(&current, &before).expect("give it another name");
            }
        }
        let read = |path: &Path| fs::read_to_string(path).expect("read");
        assert_eq!((read(&before).as_str(), read(&current).as_str()), ("one\n", "two\n"));
    }

    #[test]
    fn a_name_of_the_current_database_that_a_disk_lost_is_an_error_that_says_so() {
        let directory = tempfile::tempdir().expect("temp dir");
        let home = home(directory.path());
        drop(home.create("one").expect("create"));
        home.make_current("one").expect("make current");
        fs::write(directory.path().join(CURRENT), "").expect("lose it");
        let error = home.current().expect_err("not a database").to_string();
        assert!(error.contains(CURRENT) && error.contains("empty"), "{error}");
    }

    #[test]
    fn a_snapshot_does_not_see_later_writes_and_scans_within_its_bounds() {
        let directory = tempfile::tempdir().expect("temp dir");
        let kv = home(directory.path()).create("first").expect("create");
        for key in [b"a", b"b", b"c"] {
            put(&*kv, key, b"1");
        }
        let snapshot = kv.snapshot();
        put(&*kv, b"b", b"2");
        put(&*kv, b"bb", b"2");
        let part: Vec<Pair> = snapshot.scan(b"b", b"c").collect();
        assert_eq!(part, [(b"b".to_vec(), b"1".to_vec())]);
    }
}
