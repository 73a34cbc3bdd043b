//! A disk in memory, for the simulation and for tests of what a crash leaves.
//!
//! The fault model: at [`MemoryDisk::crash`] each file keeps what was synced and a random part of what was written
//! behind that, the last piece of which may be noise. A name that was made, replaced or removed since its directory was synced
//! is there or not, by chance, and nothing is below a directory that is not there. After [`MemoryDisk::fail_syncs`] every sync
//! fails and makes nothing durable. [`MemoryDisk::fail_next`] makes the next calls fail as they do for want of descriptors or
//! memory, or on a bad medium.
//! [`MemoryDisk::lose_sector`] makes a part of a file unreadable for good.
//! Files grow only at their end, because the store never overwrites (P11.2): a write at any other place panics.

use std::collections::{BTreeMap, VecDeque};
use std::ffi::OsString;
use std::io::{self, IoSlice, IoSliceMut};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use dfs_net::env::Rng;

use super::{Disk, DiskFile, DiskLock, Space};

/// A clone is a handle to the same disk, so that the disk survives the server that used it.
#[derive(Clone)]
pub struct MemoryDisk(Arc<Mutex<Contents>>);

struct Contents {
    capacity_bytes: u64,
    names: BTreeMap<PathBuf, Node>,
    /// The names that a crash certainly leaves: those of the last sync of each directory.
    durable_names: BTreeMap<PathBuf, Node>,
    locked: Vec<PathBuf>,
    syncs_fail: bool,
    syncs: u64,
    /// The error numbers with which the next calls fail.
    failing_opens: VecDeque<i32>,
    failing_transfers: VecDeque<i32>,
}

#[derive(Clone)]
enum Node {
    Directory,
    File(Arc<Mutex<Content>>),
}

impl Node {
    fn is_same(&self, other: &Node) -> bool {
        match (self, other) {
            (Node::Directory, Node::Directory) => true,
            (Node::File(own), Node::File(other)) => Arc::ptr_eq(own, other),
            (Node::Directory, Node::File(_)) | (Node::File(_), Node::Directory) => false,
        }
    }
}

#[derive(Default)]
struct Content {
    bytes: Vec<u8>,
    synced_len: usize,
    lost: Vec<Range<usize>>,
}

struct MemoryFile {
    disk: MemoryDisk,
    content: Arc<Mutex<Content>>,
}

struct MemoryLock {
    disk: MemoryDisk,
    path: PathBuf,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The kind of call that [`MemoryDisk::fail_next`] makes fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Call {
    Open,
    Transfer,
}

impl MemoryDisk {
    pub fn new(capacity_bytes: u64) -> MemoryDisk {
        MemoryDisk(Arc::new(Mutex::new(Contents {
            capacity_bytes,
            names: BTreeMap::new(),
            durable_names: BTreeMap::new(),
            locked: Vec::new(),
            syncs_fail: false,
            syncs: 0,
            failing_opens: VecDeque::new(),
            failing_transfers: VecDeque::new(),
        })))
    }

    /// The power fails: see the fault model above. The store that used the disk must be gone by then.
    pub fn crash(&self, rng: &Rng) {
        let mut contents = lock(&self.0);
        contents.locked.clear();
        let mut left = contents.durable_names.clone();
        for (path, node) in &contents.names {
            let is_durable = left.get(path).is_some_and(|durable| durable.is_same(node));
            if !is_durable && rng.below(2) == 0 {
                left.insert(path.clone(), node.clone());
            }
        }
        let removed: Vec<_> =
            left.keys().filter(|path| !contents.names.contains_key(*path)).cloned().collect();
        for path in removed {
            if rng.below(2) == 0 {
                left.remove(&path);
            }
        }
        let mut reached = BTreeMap::new();
        for (path, node) in left {
            if path.parent().is_none_or(|parent| reached.contains_key(parent)) {
                reached.insert(path, node);
            }
        }
        let left = reached;
        for node in left.values() {
            if let Node::File(content) = node {
                lock(content).crash(rng);
            }
        }
        contents.names = left.clone();
        contents.durable_names = left;
    }

    /// Makes every sync fail from now on, or none.
    pub fn fail_syncs(&self, fail: bool) {
        lock(&self.0).syncs_fail = fail;
    }

    /// Makes the next call of this kind fail with this error number; 0 lets one succeed. Calls of this function are served in
    /// their order.
    pub fn fail_next(&self, call: Call, error: i32) {
        let mut contents = lock(&self.0);
        match call {
            Call::Open => contents.failing_opens.push_back(error),
            Call::Transfer => contents.failing_transfers.push_back(error),
        }
    }

    /// Makes every read that touches this range of the file fail from now on.
    pub fn lose_sector(&self, path: &Path, range: Range<usize>) {
        match lock(&self.0).names.get(path) {
            Some(Node::File(content)) => lock(content).lost.push(range),
            Some(Node::Directory) | None => panic!("no file {} to lose a part of", path.display()),
        }
    }

    fn may_open(&self) -> io::Result<()> {
        let failing = lock(&self.0).failing_opens.pop_front().filter(|error| *error != 0);
        failing.map_or(Ok(()), |error| Err(io::Error::from_raw_os_error(error)))
    }

    fn may_transfer(&self) -> io::Result<()> {
        let failing = lock(&self.0).failing_transfers.pop_front().filter(|error| *error != 0);
        failing.map_or(Ok(()), |error| Err(io::Error::from_raw_os_error(error)))
    }

    /// How many syncs of files have succeeded so far.
    pub fn syncs(&self) -> u64 {
        lock(&self.0).syncs
    }

    pub fn set_capacity(&self, bytes: u64) {
        lock(&self.0).capacity_bytes = bytes;
    }

    /// Flips the lowest bit of the byte at `position`, as a failing medium does.
    pub fn flip(&self, path: &Path, position: usize) {
        self.flip_bit(path, 8 * position);
    }

    /// Flips one bit; bits are counted from the lowest of the file's first byte.
    pub fn flip_bit(&self, path: &Path, bit: usize) {
        let contents = lock(&self.0);
        match contents.names.get(path) {
            Some(Node::File(content)) => lock(content).bytes[bit / 8] ^= 1 << (bit % 8),
            Some(Node::Directory) | None => panic!("no file {} to flip a bit of", path.display()),
        }
    }

    /// Cuts the file at `len` and turns some of the bytes before that into noise, as a crash does.
    pub fn cut(&self, path: &Path, len: usize, rng: &Rng) {
        match lock(&self.0).names.get(path) {
            Some(Node::File(content)) => {
                let bytes = &mut lock(content).bytes;
                let kept = len.min(bytes.len());
                bytes.truncate(kept);
                let noise = rng.below(64).min(kept as u64) as usize;
                bytes[kept - noise..].fill(rng.u64() as u8);
            }
            Some(Node::Directory) | None => panic!("no file {} to cut", path.display()),
        }
    }

    /// A copy of the file's bytes.
    pub fn content(&self, path: &Path) -> Vec<u8> {
        match lock(&self.0).names.get(path) {
            Some(Node::File(content)) => lock(content).bytes.clone(),
            Some(Node::Directory) | None => panic!("no file {} to copy", path.display()),
        }
    }

    /// The paths of all files, sorted.
    pub fn files(&self) -> Vec<PathBuf> {
        let contents = lock(&self.0);
        let is_file = |node: &Node| matches!(node, Node::File(_));
        contents.names.iter().filter(|(_, node)| is_file(node)).map(|(path, _)| path.clone()).collect()
    }
}

impl Content {
    fn crash(&mut self, rng: &Rng) {
        let unsynced = (self.bytes.len() - self.synced_len) as u64;
        let kept = self.synced_len + rng.below(unsynced + 1) as usize;
        self.bytes.truncate(kept);
        if kept > self.synced_len && rng.below(2) == 0 {
            let noise_from = self.synced_len + rng.below((kept - self.synced_len) as u64) as usize;
            self.bytes[noise_from..].fill(rng.u64() as u8);
        }
        self.synced_len = kept;
    }
}

impl Contents {
    fn used_bytes(&self) -> u64 {
        let len = |node: &Node| match node {
            Node::File(content) => lock(content).bytes.len() as u64,
            Node::Directory => 0,
        };
        self.names.values().map(len).sum()
    }

    fn insert(&mut self, path: &Path, node: Node) -> io::Result<()> {
        let parent = path.parent().unwrap_or(Path::new(""));
        match self.names.get(parent) {
            Some(Node::Directory) => {
                self.names.insert(path.to_owned(), node);
                Ok(())
            }
            Some(Node::File(_)) | None => Err(io::ErrorKind::NotFound.into()),
        }
    }
}

impl Disk for MemoryDisk {
    fn create(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        self.may_open()?;
        let mut contents = lock(&self.0);
        if contents.names.contains_key(path) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        let content = Arc::new(Mutex::new(Content::default()));
        contents.insert(path, Node::File(Arc::clone(&content)))?;
        Ok(Arc::new(MemoryFile { disk: self.clone(), content }))
    }

    fn open(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        self.may_open()?;
        match lock(&self.0).names.get(path) {
            Some(Node::File(content)) => {
                Ok(Arc::new(MemoryFile { disk: self.clone(), content: Arc::clone(content) }))
            }
            Some(Node::Directory) | None => Err(io::ErrorKind::NotFound.into()),
        }
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        lock(&self.0).names.remove(path).map(drop).ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut contents = lock(&self.0);
        let node = contents.names.remove(from).ok_or(io::ErrorKind::NotFound)?;
        contents.insert(to, node)
    }

    fn create_directory(&self, path: &Path) -> io::Result<()> {
        let mut contents = lock(&self.0);
        for ancestor in path.ancestors() {
            contents.names.entry(ancestor.to_owned()).or_insert(Node::Directory);
            if ancestor.parent().is_none() {
                contents.durable_names.entry(ancestor.to_owned()).or_insert(Node::Directory);
            }
        }
        Ok(())
    }

    fn list(&self, path: &Path) -> io::Result<Vec<OsString>> {
        self.may_open()?;
        let contents = lock(&self.0);
        if !matches!(contents.names.get(path), Some(Node::Directory)) {
            return Err(io::ErrorKind::NotFound.into());
        }
        let below = contents.names.range(path.to_owned()..).map(|(name, _)| name);
        let children =
            below.take_while(|name| name.starts_with(path)).filter(|name| name.parent() == Some(path));
        Ok(children.filter_map(|name| name.file_name()).map(ToOwned::to_owned).collect())
    }

    fn sync_directory(&self, path: &Path) -> io::Result<()> {
        self.may_open()?;
        let mut contents = lock(&self.0);
        if contents.syncs_fail {
            return Err(io::Error::from_raw_os_error(libc::EIO));
        }
        contents.durable_names.retain(|name, _| name.parent() != Some(path));
        let children: Vec<_> = contents
            .names
            .iter()
            .filter(|(name, _)| name.parent() == Some(path))
            .map(|(name, node)| (name.clone(), node.clone()))
            .collect();
        contents.durable_names.extend(children);
        Ok(())
    }

    fn space(&self, _path: &Path) -> io::Result<Space> {
        let contents = lock(&self.0);
        Ok(Space {
            total_bytes: contents.capacity_bytes,
            free_bytes: contents.capacity_bytes.saturating_sub(contents.used_bytes()),
            filesystem: Vec::new(),
        })
    }

    fn lock(&self, path: &Path) -> io::Result<Box<dyn DiskLock>> {
        let mut contents = lock(&self.0);
        if contents.locked.iter().any(|locked| locked == path) {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        contents.locked.push(path.to_owned());
        Ok(Box::new(MemoryLock { disk: self.clone(), path: path.to_owned() }))
    }
}

impl DiskLock for MemoryLock {}

impl Drop for MemoryLock {
    fn drop(&mut self) {
        lock(&self.disk.0).locked.retain(|locked| *locked != self.path);
    }
}

impl DiskFile for MemoryFile {
    fn file_len(&self) -> io::Result<u64> {
        Ok(lock(&self.content).bytes.len() as u64)
    }

    fn write_at(&self, parts: &mut [IoSlice<'_>], position: u64) -> io::Result<()> {
        self.disk.may_transfer()?;
        let len: usize = parts.iter().map(|part| part.len()).sum();
        {
            let contents = lock(&self.disk.0);
            if contents.used_bytes() + len as u64 > contents.capacity_bytes {
                return Err(io::ErrorKind::StorageFull.into());
            }
        }
        let mut content = lock(&self.content);
        assert_eq!(position, content.bytes.len() as u64, "a file is only written at its end");
        for part in parts {
            content.bytes.extend_from_slice(part);
        }
        Ok(())
    }

    fn read_at(&self, parts: &mut [IoSliceMut<'_>], position: u64) -> io::Result<usize> {
        self.disk.may_transfer()?;
        let content = lock(&self.content);
        let end = position as usize + parts.iter().map(|part| part.len()).sum::<usize>();
        if content.lost.iter().any(|lost| lost.start < end && lost.end > position as usize) {
            return Err(io::Error::from_raw_os_error(libc::EIO));
        }
        let mut left = content.bytes.get(position as usize..).unwrap_or_default();
        let mut filled = 0;
        for part in parts {
            let len = part.len().min(left.len());
            part[..len].copy_from_slice(&left[..len]);
            left = &left[len..];
            filled += len;
        }
        Ok(filled)
    }

    fn start_writeback(&self, _position: u64, _len: u64) {}

    fn sync(&self) -> io::Result<()> {
        let mut contents = lock(&self.disk.0);
        if contents.syncs_fail {
            return Err(io::Error::from_raw_os_error(libc::EIO));
        }
        contents.syncs += 1;
        let mut content = lock(&self.content);
        content.synced_len = content.bytes.len();
        Ok(())
    }
}
