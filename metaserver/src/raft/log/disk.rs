//! The disk below the Raft log: a directory with a few large files, and some small ones that are written as a whole.
//!
//! D1  When [`LogDisk::write`], [`LogDisk::sync`], [`LogDisk::create`] or [`LogDisk::write_whole`] returns `Ok`, what it wrote is
//!     on stable storage. After an error, or a crash before it returned, any part of it may be there, but nothing that was
//!     written before is lost.
//!
//! [`FileDisk`] is the machine's disk. [`SimulatedDisk`] needs neither files nor threads. At a crash, it loses any sectors of the
//! writes that were not synced (P7.4). When a sync fails, readers see the written bytes until the crash, but no later sync brings
//! them to the disk. Linux behaves like that.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use dfs_net::env::{BoxFuture, Rng};
use dfs_proto::planted::{self, Bug};
use dfs_proto::units::ByteLen;

use super::format::torn_segment_after;

/// The number of a file of the log, which the log's writer chooses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct FileId(pub u64);

impl FileId {
    /// The file's name in the directory.
    pub(crate) fn name(self) -> String {
        format!("{:08}{SEGMENT_SUFFIX}", self.0)
    }
}

pub trait LogDisk: Send + Sync + 'static {
    /// The files of the log, sorted.
    fn list(&self) -> BoxFuture<'static, io::Result<Vec<FileId>>>;
    fn read(&self, file: FileId) -> BoxFuture<'static, io::Result<Vec<u8>>>;
    /// Makes a file of `len` zeros, so that later writes change neither its length nor its blocks on the disk.
    fn create(&self, file: FileId, len: u64) -> BoxFuture<'static, io::Result<()>>;
    /// Writes and syncs, and returns the buffer so that it can be used again.
    fn write(&self, file: FileId, offset: u64, bytes: Vec<u8>) -> BoxFuture<'static, io::Result<Vec<u8>>>;
    /// Syncs the bytes, length and name of a file that an earlier process made and perhaps did not sync. It cannot help if a sync
    /// of that process has failed.
    fn sync(&self, file: FileId) -> BoxFuture<'static, io::Result<()>>;
    fn remove(&self, file: FileId) -> BoxFuture<'static, io::Result<()>>;
    /// How much may still be written to the filesystem.
    fn free(&self) -> BoxFuture<'static, io::Result<ByteLen>>;
    /// Reads a small file; `None` if it was never written.
    fn read_whole(&self, file: WholeFile) -> BoxFuture<'static, io::Result<Option<Vec<u8>>>>;
    /// Replaces a small file. After a crash, the old or the new one is there as a whole.
    fn write_whole(&self, file: WholeFile, bytes: Vec<u8>) -> BoxFuture<'static, io::Result<()>>;
}

/// The small files beside the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum WholeFile {
    /// Whose directory it is.
    Stamp,
    /// The last federation map that was seen.
    Map,
}

impl WholeFile {
    pub(crate) fn name(self) -> &'static str {
        match self {
            WholeFile::Stamp => "MEMBER",
            WholeFile::Map => "FEDERATION",
        }
    }

    /// The file's name until it is written completely.
    fn new_name(self) -> &'static str {
        match self {
            WholeFile::Stamp => "MEMBER.new",
            WholeFile::Map => "FEDERATION.new",
        }
    }
}

const LOCK: &str = "LOCK";
const SEGMENT_SUFFIX: &str = ".raftlog";
/// Zeros are written in pieces of this length.
const ZEROS_LEN: usize = 1 << 20;

/// A directory on the machine's disk, locked for this process.
#[derive(Clone)]
pub struct FileDisk {
    inner: Arc<FileDiskInner>,
}

struct FileDiskInner {
    directory: PathBuf,
    /// The open files, a handful, with O_DSYNC.
    open: Mutex<BTreeMap<FileId, Arc<File>>>,
    /// The lock is held as long as this file is open.
    _lock: File,
}

impl FileDisk {
    /// Locks the directory, and makes it if it is not there. Fails if another process uses it.
    pub fn open(directory: &Path) -> io::Result<FileDisk> {
        let is_new = !directory.exists();
        fs::create_dir_all(directory)?;
        if let Some(parent) = directory.parent().filter(|parent| is_new && parent.is_dir()) {
            File::open(parent)?.sync_all()?; // else all of it could be gone after a power cut
        }
        let lock = File::create(directory.join(LOCK))?;
        lock.try_lock().map_err(|error| match error {
            fs::TryLockError::WouldBlock => {
                io::Error::new(io::ErrorKind::ResourceBusy, "another process uses this directory")
            }
            fs::TryLockError::Error(error) => error,
        })?;
        let inner =
            FileDiskInner { directory: directory.to_owned(), open: Mutex::new(BTreeMap::new()), _lock: lock };
        Ok(FileDisk { inner: Arc::new(inner) })
    }

    fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&FileDiskInner) -> io::Result<T> + Send + 'static,
    ) -> BoxFuture<'static, io::Result<T>> {
        let inner = self.inner.clone();
        Box::pin(
            async move { tokio::task::spawn_blocking(move || work(&inner)).await.map_err(io::Error::other)? },
        )
    }
}

impl FileDiskInner {
    fn path(&self, file: FileId) -> PathBuf {
        self.directory.join(file.name())
    }

    fn files(&self) -> MutexGuard<'_, BTreeMap<FileId, Arc<File>>> {
        self.open.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    fn file(&self, file: FileId) -> io::Result<Arc<File>> {
        if let Some(open) = self.files().get(&file) {
            return Ok(open.clone());
        }
        // With O_DSYNC, a write returns when it is on stable storage. It needs two thirds of the CPU of a write and an fdatasync.
        let opened =
            OpenOptions::new().read(true).write(true).custom_flags(libc::O_DSYNC).open(self.path(file))?;
        let opened = Arc::new(opened);
        self.files().insert(file, opened.clone());
        Ok(opened)
    }

    fn sync_directory(&self) -> io::Result<()> {
        File::open(&self.directory)?.sync_all()
    }

    fn list(&self) -> io::Result<Vec<FileId>> {
        let mut found = Vec::new();
        for entry in fs::read_dir(&self.directory)? {
            let name = entry?.file_name();
            let number = name.to_str().and_then(|name| name.strip_suffix(SEGMENT_SUFFIX));
            let file = number.and_then(|number| number.parse().ok()).map(FileId);
            // A file with another form of the number, such as 1.raftlog, is not ours.
            found.extend(file.filter(|file| *file.name() == *name));
        }
        found.sort();
        Ok(found)
    }

    fn create(&self, file: FileId, len: u64) -> io::Result<()> {
        let path = self.path(file);
        let new = OpenOptions::new().read(true).write(true).create(true).truncate(true).open(path)?;
        let zeros = vec![0; ZEROS_LEN];
        let mut offset = 0;
        while offset < len {
            let piece = (len - offset).min(ZEROS_LEN as u64);
            new.write_all_at(&zeros[..piece as usize], offset)?;
            offset += piece;
        }
        new.sync_all()?;
        self.sync_directory()
    }

    fn free(&self) -> io::Result<ByteLen> {
        let found = rustix::fs::statvfs(&self.directory)?;
        Ok(ByteLen(found.f_bavail.saturating_mul(found.f_frsize)))
    }

    fn write_whole(&self, whole: WholeFile, bytes: &[u8]) -> io::Result<()> {
        let new = self.directory.join(whole.new_name());
        let mut file = File::create(&new)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        fs::rename(&new, self.directory.join(whole.name()))?;
        self.sync_directory()
    }
}

impl LogDisk for FileDisk {
    fn list(&self) -> BoxFuture<'static, io::Result<Vec<FileId>>> {
        self.blocking(|disk| disk.list())
    }

    fn read(&self, file: FileId) -> BoxFuture<'static, io::Result<Vec<u8>>> {
        self.blocking(move |disk| fs::read(disk.path(file)))
    }

    fn create(&self, file: FileId, len: u64) -> BoxFuture<'static, io::Result<()>> {
        self.blocking(move |disk| disk.create(file, len))
    }

    fn write(&self, file: FileId, offset: u64, bytes: Vec<u8>) -> BoxFuture<'static, io::Result<Vec<u8>>> {
        self.blocking(move |disk| {
            let open = disk.file(file)?;
            open.write_all_at(&bytes, offset)?; // and synced: keeps D1
            Ok(bytes)
        })
    }

    fn sync(&self, file: FileId) -> BoxFuture<'static, io::Result<()>> {
        self.blocking(move |disk| {
            disk.file(file)?.sync_all()?;
            disk.sync_directory()
        })
    }

    fn remove(&self, file: FileId) -> BoxFuture<'static, io::Result<()>> {
        self.blocking(move |disk| {
            disk.files().remove(&file);
            fs::remove_file(disk.path(file))?;
            disk.sync_directory()
        })
    }

    fn free(&self) -> BoxFuture<'static, io::Result<ByteLen>> {
        self.blocking(|disk| disk.free())
    }

    fn read_whole(&self, file: WholeFile) -> BoxFuture<'static, io::Result<Option<Vec<u8>>>> {
        self.blocking(move |disk| match fs::read(disk.directory.join(file.name())) {
            Ok(bytes) => Ok(Some(bytes)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        })
    }

    fn write_whole(&self, file: WholeFile, bytes: Vec<u8>) -> BoxFuture<'static, io::Result<()>> {
        self.blocking(move |disk| disk.write_whole(file, &bytes))
    }
}

/// A crash tears a write at multiples of this. It is less than a real sector, so that the short writes of tests are torn too.
const SECTOR: usize = 64;
/// The first write of a segment takes at least so long, several steps of the simulation, so that crashes fall into it.
const FIRST_SYNC_MIN: Duration = Duration::from_millis(4);

/// A disk in memory. Clones are handles of the same disk, so that it outlives a process that the simulation kills.
#[derive(Clone, Default)]
pub struct SimulatedDisk {
    inner: Arc<Mutex<Simulated>>,
}

#[derive(Default)]
struct Simulated {
    whole: BTreeMap<WholeFile, Vec<u8>>,
    files: BTreeMap<FileId, Vec<u8>>,
    /// Writes that were not synced yet: file, offset, bytes.
    unsynced: Vec<(FileId, u64, Vec<u8>)>,
    /// Writes whose sync has failed. Readers see them until the crash; they are never stored.
    lost: Vec<(FileId, u64, Vec<u8>)>,
    syncs_fail: bool,
    /// Raised at each crash, so that a write that began before the crash is not stored after it.
    crashes: u64,
    /// `None`: there is no limit.
    free: Option<ByteLen>,
    /// How long a sync takes. A crash can fall into it.
    sync_time: Duration,
    /// How many segments have begun in a file that had been used before.
    recycled: u64,
}

impl SimulatedDisk {
    pub fn new(sync_time: Duration) -> SimulatedDisk {
        let disk = SimulatedDisk::default();
        disk.set_sync_time(sync_time);
        disk
    }

    /// Sets how long a sync takes, for those that begin from now on.
    pub fn set_sync_time(&self, sync_time: Duration) {
        self.lock().sync_time = sync_time;
    }

    /// A power failure: of each write that was not synced, each sector is stored or lost by chance.
    pub fn crash(&self, rng: &Rng) {
        self.crash_keeping(|_| rng.below(2) == 0);
    }

    /// A power failure: of each write that was not synced, those sectors are stored for whose number in the write `keeps` is true.
    pub fn crash_keeping(&self, mut keeps: impl FnMut(usize) -> bool) {
        let mut disk = self.lock();
        disk.crashes += 1;
        disk.lost.clear();
        for (file, offset, bytes) in std::mem::take(&mut disk.unsynced) {
            for (n, sector) in bytes.chunks(SECTOR).enumerate() {
                if keeps(n) {
                    disk.store(file, offset as usize + n * SECTOR, sector);
                }
            }
        }
    }

    /// Leaves what a power failure leaves in the first write of the next segment if only its first sector is stored. A crash at
    /// random hardly ever falls into that moment. Returns false if the log has no segment yet.
    pub fn tear_next_segment(&self) -> bool {
        let mut disk = self.lock();
        let torn = disk.files.values().filter_map(|bytes| torn_segment_after(bytes));
        let Some((_, torn)) = torn.max_by_key(|(sequence, _)| *sequence) else { return false };
        let next = disk.files.keys().last().map_or(0, |last| last.0 + 1);
        disk.files.insert(FileId(next), torn);
        true
    }

    /// Whether every write and sync of the log fails from now on.
    pub fn fail_syncs(&self, fail: bool) {
        self.lock().syncs_fail = fail;
    }

    /// Damages one stored byte.
    pub fn rot(&self, file: FileId, offset: usize) {
        if let Some(byte) = self.lock().files.get_mut(&file).and_then(|bytes| bytes.get_mut(offset)) {
            *byte ^= 0x55;
        }
    }

    pub fn set_free(&self, free: ByteLen) {
        self.lock().free = Some(free);
    }

    /// Replaces a small file, or removes it if `with` is `None`. Returns what was there.
    pub fn swap_whole(&self, file: WholeFile, with: Option<Vec<u8>>) -> Option<Vec<u8>> {
        let whole = &mut self.lock().whole;
        match with {
            Some(bytes) => whole.insert(file, bytes),
            None => whole.remove(&file),
        }
    }

    /// Every file with its stored bytes, without writes that were not synced.
    pub fn contents(&self) -> Vec<(String, Vec<u8>)> {
        let disk = self.lock();
        let whole = disk.whole.iter().map(|(file, bytes)| (file.name().to_owned(), bytes.clone()));
        whole.chain(disk.files.iter().map(|(file, bytes)| (file.0.to_string(), bytes.clone()))).collect()
    }

    /// The first write of a segment is under way, so that a crash now tears it.
    pub fn is_beginning_segment(&self) -> bool {
        self.lock().unsynced.iter().any(|(_, offset, _)| *offset == 0)
    }

    /// How many segments have begun in files that a purge had freed.
    pub fn recycled(&self) -> u64 {
        self.lock().recycled
    }

    fn lock(&self) -> MutexGuard<'_, Simulated> {
        self.inner.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    fn now<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Simulated) -> io::Result<T> + Send + 'static,
    ) -> BoxFuture<'static, io::Result<T>> {
        let disk = self.clone();
        Box::pin(async move { work(&mut disk.lock()) })
    }
}

impl Simulated {
    fn write(&mut self, file: FileId, offset: u64, bytes: &[u8]) {
        // Bytes that are written again are not lost any more.
        let end = offset + bytes.len() as u64;
        for (name, start, lost) in std::mem::take(&mut self.lost) {
            let lost_end = start + lost.len() as u64;
            if name != file || lost_end <= offset || end <= start {
                self.lost.push((name, start, lost));
                continue;
            }
            if start < offset {
                self.lost.push((name, start, lost[..(offset - start) as usize].to_vec()));
            }
            if end < lost_end {
                self.lost.push((name, end, lost[(end - start) as usize..].to_vec()));
            }
        }
        self.unsynced.push((file, offset, bytes.to_vec()));
    }

    fn sync(&mut self, file: FileId) -> io::Result<()> {
        let of_file = |(name, ..): &mut (FileId, u64, Vec<u8>)| *name == file;
        let written: Vec<_> = self.unsynced.extract_if(.., of_file).collect();
        if self.syncs_fail {
            self.lost.extend(written);
            return Err(io::Error::other("this disk's syncs fail"));
        }
        for (name, offset, bytes) in written {
            self.store(name, offset as usize, &bytes);
        }
        Ok(())
    }

    fn store(&mut self, file: FileId, offset: usize, bytes: &[u8]) {
        if let Some(held) = self.files.get_mut(&file) {
            lay(held, offset, bytes);
        }
    }
}

fn lay(file: &mut Vec<u8>, offset: usize, bytes: &[u8]) {
    if file.len() < offset + bytes.len() {
        file.resize(offset + bytes.len(), 0);
    }
    file[offset..offset + bytes.len()].copy_from_slice(bytes);
}

fn no_such_file(file: FileId) -> io::Error {
    io::Error::new(io::ErrorKind::NotFound, format!("no simulated file {}", file.0))
}

impl LogDisk for SimulatedDisk {
    fn list(&self) -> BoxFuture<'static, io::Result<Vec<FileId>>> {
        self.now(|disk| Ok(disk.files.keys().copied().collect()))
    }

    fn read(&self, file: FileId) -> BoxFuture<'static, io::Result<Vec<u8>>> {
        self.now(move |disk| {
            let mut bytes = disk.files.get(&file).cloned().ok_or_else(|| no_such_file(file))?;
            // A process that was killed leaves its writes in the page cache, synced or not.
            let unsynced = disk.lost.iter().chain(&disk.unsynced);
            for (_, offset, written) in unsynced.filter(|(name, ..)| *name == file) {
                lay(&mut bytes, *offset as usize, written);
            }
            Ok(bytes)
        })
    }

    fn create(&self, file: FileId, len: u64) -> BoxFuture<'static, io::Result<()>> {
        self.now(move |disk| {
            disk.files.insert(file, vec![0; len as usize]);
            Ok(())
        })
    }

    fn write(&self, file: FileId, offset: u64, bytes: Vec<u8>) -> BoxFuture<'static, io::Result<Vec<u8>>> {
        let disk = self.clone();
        Box::pin(async move {
            let (crashes, sync_time) = {
                let mut inner = disk.lock();
                let held = inner.files.get(&file).ok_or_else(|| no_such_file(file))?;
                let is_recycled = offset == 0 && held.first().is_some_and(|byte| *byte != 0);
                inner.recycled += u64::from(is_recycled);
                inner.write(file, offset, &bytes);
                if planted::has(Bug::SkippedLogSync) && inner.unsynced.len() % 2 == 1 {
                    return Ok(bytes);
                }
                (inner.crashes, inner.sync_time)
            };
            // Between the write and the end of the sync, other tasks run and a crash may come.
            tokio::task::yield_now().await;
            if !sync_time.is_zero() {
                let least = if offset == 0 { FIRST_SYNC_MIN } else { sync_time };
                tokio::time::sleep(sync_time.max(least)).await;
            }
            let mut inner = disk.lock();
            if inner.crashes != crashes {
                return Err(io::Error::other("the machine lost power"));
            }
            inner.sync(file)?;
            Ok(bytes)
        })
    }

    fn sync(&self, file: FileId) -> BoxFuture<'static, io::Result<()>> {
        self.now(move |disk| disk.sync(file))
    }

    fn remove(&self, file: FileId) -> BoxFuture<'static, io::Result<()>> {
        self.now(move |disk| disk.files.remove(&file).map(drop).ok_or_else(|| no_such_file(file)))
    }

    fn free(&self) -> BoxFuture<'static, io::Result<ByteLen>> {
        self.now(|disk| Ok(disk.free.unwrap_or(ByteLen(u64::MAX))))
    }

    fn read_whole(&self, file: WholeFile) -> BoxFuture<'static, io::Result<Option<Vec<u8>>>> {
        self.now(move |disk| Ok(disk.whole.get(&file).cloned()))
    }

    fn write_whole(&self, file: WholeFile, bytes: Vec<u8>) -> BoxFuture<'static, io::Result<()>> {
        self.now(move |disk| {
            disk.whole.insert(file, bytes);
            Ok(())
        })
    }
}
