//! The disk of the machine, by system calls.

use std::ffi::OsString;
use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, IoSlice, IoSliceMut};
use std::os::fd::AsRawFd;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::{Arc, OnceLock};

use super::{Disk, DiskFile, DiskLock, PARTS_MAX, Space};

/// The file that names this boot of this machine. Together with the device number it identifies a filesystem among all
/// machines.
const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";

/// Reads the boot id once. Without descriptors a later read would fail, and the filesystem would seem to be another.
fn boot_id() -> io::Result<&'static str> {
    static KNOWN: OnceLock<String> = OnceLock::new();
    if let Some(known) = KNOWN.get() {
        return Ok(known);
    }
    let read = match std::fs::read_to_string(BOOT_ID) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => String::new(),
        read => read?,
    };
    Ok(KNOWN.get_or_init(|| read))
}

/// The files, directories and locks of the machine.
pub struct RealDisk;

struct RealFile(File);

/// The descriptor holds the lock; closing it releases the lock.
struct RealLock(#[allow(dead_code, reason = "held for its drop")] File);

impl DiskLock for RealLock {}

impl Disk for RealDisk {
    fn create(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        let file = OpenOptions::new().read(true).write(true).create_new(true).open(path)?;
        Ok(Arc::new(RealFile(file)))
    }

    fn open(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        Ok(Arc::new(RealFile(File::open(path)?)))
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        std::fs::remove_file(path)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        std::fs::rename(from, to)
    }

    fn create_directory(&self, path: &Path) -> io::Result<()> {
        std::fs::create_dir_all(path)
    }

    fn list(&self, path: &Path) -> io::Result<Vec<OsString>> {
        let mut names =
            std::fs::read_dir(path)?.map(|entry| Ok(entry?.file_name())).collect::<io::Result<Vec<_>>>()?;
        names.sort();
        Ok(names)
    }

    fn sync_directory(&self, path: &Path) -> io::Result<()> {
        File::open(path)?.sync_all()
    }

    fn space(&self, path: &Path) -> io::Result<Space> {
        let device = std::fs::metadata(path)?.dev();
        let boot = boot_id()?;
        let found = rustix::fs::statvfs(path)?;
        let unit = found.f_frsize;
        Ok(Space {
            total_bytes: found.f_blocks.saturating_mul(unit),
            free_bytes: found.f_bavail.saturating_mul(unit),
            filesystem: format!("{}/{device:x}", boot.trim()).into_bytes(),
        })
    }

    fn lock(&self, path: &Path) -> io::Result<Box<dyn DiskLock>> {
        let file = OpenOptions::new().write(true).create(true).truncate(false).open(path)?;
        match file.try_lock() {
            Ok(()) => Ok(Box::new(RealLock(file))),
            Err(TryLockError::WouldBlock) => Err(io::ErrorKind::WouldBlock.into()),
            Err(TryLockError::Error(error)) => Err(error),
        }
    }
}

impl DiskFile for RealFile {
    fn file_len(&self) -> io::Result<u64> {
        Ok(self.0.metadata()?.len())
    }

    fn write_at(&self, mut parts: &mut [IoSlice<'_>], mut position: u64) -> io::Result<()> {
        while !parts.is_empty() {
            let count = parts.len().min(PARTS_MAX);
            // SAFETY: IoSlice has the layout of iovec by its documentation, `count` of them are readable, and each
            // names memory that is borrowed for the call.
            let written = unsafe {
                libc::pwritev(
                    self.0.as_raw_fd(),
                    parts.as_ptr().cast::<libc::iovec>(),
                    count as libc::c_int,
                    position as libc::off_t,
                )
            };
            match result(written)? {
                Some(0) => return Err(io::ErrorKind::WriteZero.into()),
                Some(written) => {
                    position += written as u64;
                    IoSlice::advance_slices(&mut parts, written);
                }
                None => {}
            }
        }
        Ok(())
    }

    fn read_at(&self, mut parts: &mut [IoSliceMut<'_>], position: u64) -> io::Result<usize> {
        let mut filled = 0usize;
        while !parts.is_empty() {
            let count = parts.len().min(PARTS_MAX);
            // SAFETY: IoSliceMut has the layout of iovec by its documentation, `count` of them are valid, and each
            // names memory that is borrowed mutably for the call.
            let read = unsafe {
                libc::preadv(
                    self.0.as_raw_fd(),
                    parts.as_ptr().cast::<libc::iovec>(),
                    count as libc::c_int,
                    (position + filled as u64) as libc::off_t,
                )
            };
            match result(read)? {
                Some(0) => break,
                Some(read) => {
                    filled += read;
                    IoSliceMut::advance_slices(&mut parts, read);
                }
                None => {}
            }
        }
        Ok(filled)
    }

    fn start_writeback(&self, position: u64, len: u64) {
        // An error is ignored here: the sync that has to succeed reports it.
        // SAFETY: a system call on a descriptor that we own; it touches no memory of ours.
        unsafe {
            libc::sync_file_range(
                self.0.as_raw_fd(),
                position as libc::off64_t,
                len as libc::off64_t,
                libc::SYNC_FILE_RANGE_WRITE,
            );
        }
    }

    fn sync(&self) -> io::Result<()> {
        self.0.sync_data()
    }
}

/// The result of a read or write; `None` if a signal interrupted the call, which then has to be made again.
fn result(returned: libc::ssize_t) -> io::Result<Option<usize>> {
    match usize::try_from(returned) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(_) => match io::Error::last_os_error() {
            error if error.kind() == io::ErrorKind::Interrupted => Ok(None),
            error => Err(error),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_written_one_behind_the_other_and_read_back_in_other_parts() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("file");
        let file = RealDisk.create(&path).unwrap();
        file.write_at(&mut [IoSlice::new(b"abc"), IoSlice::new(b""), IoSlice::new(b"defgh")], 2).unwrap();
        file.sync().unwrap();
        let (mut first, mut second) = ([0u8; 4], [0u8; 10]);
        let file = RealDisk.open(&path).unwrap();
        let read = file.read_at(&mut [IoSliceMut::new(&mut first), IoSliceMut::new(&mut second)], 1).unwrap();
        assert_eq!((read, &first, &second[..5]), (9, b"\0abc", b"defgh".as_slice()));
        assert_eq!(file.file_len().unwrap(), 10);
    }

    #[test]
    fn a_lock_is_held_until_it_is_dropped() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("lock");
        let lock = RealDisk.lock(&path).unwrap();
        assert_eq!(RealDisk.lock(&path).err().map(|e| e.kind()), Some(io::ErrorKind::WouldBlock));
        drop(lock);
        assert!(RealDisk.lock(&path).is_ok());
    }

    #[test]
    fn two_directories_of_one_filesystem_have_the_same_space() {
        let directory = tempfile::tempdir().unwrap();
        let inner = directory.path().join("inner");
        RealDisk.create_directory(&inner).unwrap();
        let (a, b) = (RealDisk.space(directory.path()).unwrap(), RealDisk.space(&inner).unwrap());
        assert_eq!((a.total_bytes, a.filesystem), (b.total_bytes, b.filesystem));
        assert!(a.free_bytes > 0 && a.free_bytes <= a.total_bytes);
    }
}
