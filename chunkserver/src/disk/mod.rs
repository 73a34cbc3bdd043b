//! The few calls that the store makes to a disk. It uses no other way to the disk.
//!
//! [`real::RealDisk`] is the disk of the machine. [`memory::MemoryDisk`] is for the simulation and for tests: when it is
//! told to crash, it forgets what was not synced and tears what was being written; it fails on demand, and needs neither
//! threads nor files.
//!
//! Every call blocks. Code that must not block calls it through [`crate::workers::Workers`].

use std::ffi::OsString;
use std::io::{self, IoSlice, IoSliceMut};
use std::path::Path;
use std::sync::Arc;

pub mod memory;
pub mod real;

pub use memory::MemoryDisk;
pub use real::RealDisk;

/// The most buffers that one [`DiskFile::read_at`] or [`DiskFile::write_at`] takes, as the kernel does (IOV_MAX).
pub const PARTS_MAX: usize = 1024;

/// Whether a failure says that the medium, or what is stored on it, is bad. Every other failure (no descriptors, no memory,
/// interrupted, not permitted) says nothing about the bytes: later, or on another server, the same call may succeed.
pub fn is_damage(error: &io::Error) -> bool {
    match error.raw_os_error() {
        // Errors of the device; then those of filesystems and of the block layer when their own checks fail.
        Some(number) => {
            [libc::EIO, libc::EREMOTEIO, libc::EUCLEAN, libc::EBADMSG, libc::EILSEQ, libc::ENODATA]
                .contains(&number)
        }
        None => error.kind() == io::ErrorKind::InvalidData,
    }
}

/// The size of a filesystem and what is free on it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Space {
    pub total_bytes: u64,
    /// How much a process without privileges could still write.
    pub free_bytes: u64,
    /// An identifier that two directories share if and only if they are on one filesystem.
    pub filesystem: Vec<u8>,
}

/// A lock on a file, held until it is dropped.
pub trait DiskLock: Send + Sync {}

/// The seam to a disk: directories and files by path.
pub trait Disk: Send + Sync + 'static {
    /// Makes a new, empty file for reading and writing; fails with `AlreadyExists` if the name is taken.
    fn create(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>>;
    /// Opens an existing file for reading.
    fn open(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>>;
    fn remove(&self, path: &Path) -> io::Result<()>;
    /// Renames `from` to `to`, and replaces `to` atomically if it exists.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;
    /// Makes the directory and its parents, as far as they do not exist.
    fn create_directory(&self, path: &Path) -> io::Result<()>;
    /// The names in the directory, sorted.
    fn list(&self, path: &Path) -> io::Result<Vec<OsString>>;
    /// Returns when the directory's entries are on stable storage.
    fn sync_directory(&self, path: &Path) -> io::Result<()>;
    fn space(&self, path: &Path) -> io::Result<Space>;
    /// Makes the file if it does not exist, and locks it against other processes; fails with `WouldBlock` if it is locked.
    fn lock(&self, path: &Path) -> io::Result<Box<dyn DiskLock>>;
}

/// An open file.
pub trait DiskFile: Send + Sync {
    fn file_len(&self) -> io::Result<u64>;
    /// Writes all of `parts`, one behind the other, from `position` on. There may be [`PARTS_MAX`] of them.
    fn write_at(&self, parts: &mut [IoSlice<'_>], position: u64) -> io::Result<()>;
    /// Fills `parts` from `position` on, and returns how many bytes it read: fewer only at the end of the file. There may be
    /// [`PARTS_MAX`] of them.
    fn read_at(&self, parts: &mut [IoSliceMut<'_>], position: u64) -> io::Result<usize>;
    /// Asks the system to write the range to the medium soon. It promises nothing.
    fn start_writeback(&self, position: u64, len: u64);
    /// Returns when the bytes and the length are on stable storage. After an error nobody knows which bytes are, and a second
    /// call may report success falsely (P1.4).
    fn sync(&self) -> io::Result<()>;
}
