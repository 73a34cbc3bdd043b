//! The few things we ask of a disk. The store above knows no other door to it.
//!
//! [`real::RealDisk`] is the machine's; [`memory::MemoryDisk`] is the simulation's: it forgets what was not synced when
//! told to crash, tears what was in flight, fails on demand, and needs neither threads nor files.
//!
//! Every call blocks. Who must not block goes through [`crate::workers::Workers`].

use std::ffi::OsString;
use std::io::{self, IoSlice, IoSliceMut};
use std::path::Path;
use std::sync::Arc;

pub mod memory;
pub mod real;

pub use memory::MemoryDisk;
pub use real::RealDisk;

/// The buffers of one [`DiskFile::read_at`] or [`DiskFile::write_at`], at most: what the kernel takes (IOV_MAX).
pub const PARTS_MAX: usize = 1024;

/// Does this failure say that the medium, or what stands on it, is bad? Everything else — out of descriptors or memory,
/// interrupted, not permitted — says nothing about the bytes: later, or on another server, the same may succeed.
pub fn is_damage(error: &io::Error) -> bool {
    match error.raw_os_error() {
        // Of the device; then what filesystems and the block layer answer when their own checks fail.
        Some(number) => {
            [libc::EIO, libc::EREMOTEIO, libc::EUCLEAN, libc::EBADMSG, libc::EILSEQ, libc::ENODATA]
                .contains(&number)
        }
        None => error.kind() == io::ErrorKind::InvalidData,
    }
}

/// A filesystem's room.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Space {
    pub total_bytes: u64,
    /// What a process without privileges could still write.
    pub free_bytes: u64,
    /// Equal for two directories on one filesystem, and only then.
    pub filesystem: Vec<u8>,
}

/// Holds a lock until it is dropped.
pub trait DiskLock: Send + Sync {}

pub trait Disk: Send + Sync + 'static {
    /// A new, empty file for reading and writing; `AlreadyExists` if the name is taken.
    fn create(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>>;
    /// An existing file, for reading.
    fn open(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>>;
    fn remove(&self, path: &Path) -> io::Result<()>;
    /// Replaces `to`, atomically.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;
    /// With its parents; one that exists is fine.
    fn create_directory(&self, path: &Path) -> io::Result<()>;
    /// The names in a directory, sorted.
    fn list(&self, path: &Path) -> io::Result<Vec<OsString>>;
    /// The directory's entries are on stable storage when this returns.
    fn sync_directory(&self, path: &Path) -> io::Result<()>;
    fn space(&self, path: &Path) -> io::Result<Space>;
    /// Makes the file at `path` if need be and locks it against other processes; `WouldBlock` if it is locked.
    fn lock(&self, path: &Path) -> io::Result<Box<dyn DiskLock>>;
}

pub trait DiskFile: Send + Sync {
    fn file_len(&self) -> io::Result<u64>;
    /// Writes all of `parts`, one behind the other, from `position` on. At most [`PARTS_MAX`].
    fn write_at(&self, parts: &mut [IoSlice<'_>], position: u64) -> io::Result<()>;
    /// Fills `parts` from `position` on; fewer bytes only at the end of the file. At most [`PARTS_MAX`].
    fn read_at(&self, parts: &mut [IoSliceMut<'_>], position: u64) -> io::Result<usize>;
    /// Asks for the range to be written soon; promises nothing.
    fn start_writeback(&self, position: u64, len: u64);
    /// Bytes and length are on stable storage when this returns. After an error nobody knows which are, and a second
    /// try may lie (P1.4).
    fn sync(&self) -> io::Result<()>;
}
