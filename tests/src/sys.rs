//! System calls that `std` does not have, each as a function that returns `io::Result`.

use std::ffi::CString;
use std::fs::File;
use std::io::{self, Read as _};
use std::os::fd::{AsRawFd as _, IntoRawFd as _};
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

fn c_path(path: &Path) -> CString {
    CString::new(path.as_os_str().as_bytes()).expect("paths of tests have no NUL")
}

fn check(result: libc::c_int) -> io::Result<()> {
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

pub fn renameat2(from: &Path, to: &Path, flags: libc::c_uint) -> io::Result<()> {
    let (from, to) = (c_path(from), c_path(to));
    // SAFETY: both strings live through the call.
    check(unsafe { libc::renameat2(libc::AT_FDCWD, from.as_ptr(), libc::AT_FDCWD, to.as_ptr(), flags) })
}

/// `mode` has the kind of node in it (`S_IFIFO`, `S_IFCHR`, …).
pub fn mknod(path: &Path, mode: libc::mode_t, device: libc::dev_t) -> io::Result<()> {
    let path = c_path(path);
    // SAFETY: the string lives through the call.
    check(unsafe { libc::mknod(path.as_ptr(), mode, device) })
}

/// A time for [`utimens`]: seconds and nanoseconds, the latter may be `UTIME_NOW` or `UTIME_OMIT`.
pub type Time = (i64, i64);

/// Does not follow symlinks.
pub fn utimens(path: &Path, atime: Time, mtime: Time) -> io::Result<()> {
    let path = c_path(path);
    let times = [atime, mtime].map(|(tv_sec, tv_nsec)| libc::timespec { tv_sec, tv_nsec });
    // SAFETY: string and times live through the call.
    check(unsafe {
        libc::utimensat(libc::AT_FDCWD, path.as_ptr(), times.as_ptr(), libc::AT_SYMLINK_NOFOLLOW)
    })
}

pub fn statfs(path: &Path) -> io::Result<libc::statfs> {
    let path = c_path(path);
    let mut found = std::mem::MaybeUninit::<libc::statfs>::uninit();
    // SAFETY: the string lives through the call, and `found` is large enough.
    check(unsafe { libc::statfs(path.as_ptr(), found.as_mut_ptr()) })?;
    // SAFETY: statfs succeeded, so it filled `found`.
    Ok(unsafe { found.assume_init() })
}

pub fn set_xattr(path: &Path, name: &str, value: &[u8]) -> io::Result<()> {
    let (path, name) = (c_path(path), CString::new(name).expect("no NUL"));
    // SAFETY: path, name and value live through the call.
    check(unsafe { libc::setxattr(path.as_ptr(), name.as_ptr(), value.as_ptr().cast(), value.len(), 0) })
}

pub fn fallocate(file: &File, mode: libc::c_int, offset: i64, len: i64) -> io::Result<()> {
    // SAFETY: the descriptor is open.
    check(unsafe { libc::fallocate(file.as_raw_fd(), mode, offset, len) })
}

/// What `sendfile(2)` gives of `file` from `offset` on, at most `len` bytes.
pub fn sendfile(file: &File, offset: u64, len: usize) -> io::Result<Vec<u8>> {
    let (mut reader, writer) = io::pipe()?;
    let (mut found, mut at) = (Vec::new(), offset as libc::off_t);
    while found.len() < len {
        // As much as a pipe holds for certain, so that this does not wait.
        let part = (len - found.len()).min(4096);
        // SAFETY: both descriptors are open, and the offset lives through the call.
        let sent = unsafe { libc::sendfile(writer.as_raw_fd(), file.as_raw_fd(), &mut at, part) };
        match usize::try_from(sent) {
            Err(_) => return Err(io::Error::last_os_error()),
            Ok(0) => break,
            Ok(sent) => {
                let before = found.len();
                found.resize(before + sent, 0);
                reader.read_exact(&mut found[before..])?;
            }
        }
    }
    Ok(found)
}

/// `flock(2)`; `operation` with `LOCK_NB` does not wait.
pub fn flock(file: &File, operation: libc::c_int) -> io::Result<()> {
    // SAFETY: the descriptor is open.
    check(unsafe { libc::flock(file.as_raw_fd(), operation) })
}

pub fn unmount_lazily(path: &Path) -> io::Result<()> {
    let path = c_path(path);
    // SAFETY: the string lives through the call.
    check(unsafe { libc::umount2(path.as_ptr(), libc::MNT_DETACH) })
}

/// `EXT4_IOC_SHUTDOWN` without flushing the journal: from now on nothing reaches the disk of this filesystem.
pub fn shut_down_ext4(mountpoint: &Path) -> io::Result<()> {
    const EXT4_IOC_SHUTDOWN: libc::c_ulong = 0x8004_587d; // _IOR('X', 125, __u32)
    const NO_LOG_FLUSH: u32 = 2;
    let directory = File::open(mountpoint)?;
    // SAFETY: the descriptor is open and the request reads one u32.
    check(unsafe { libc::ioctl(directory.as_raw_fd(), EXT4_IOC_SHUTDOWN, &NO_LOG_FLUSH) })
}

/// `close(2)` with what it answers.
pub fn close(file: File) -> io::Result<()> {
    // SAFETY: the descriptor is ours, and nobody has it afterwards.
    check(unsafe { libc::close(file.into_raw_fd()) })
}

/// Drops the kernel's clean pages and cached names, of every filesystem of this machine.
pub fn drop_caches() {
    std::fs::write("/proc/sys/vm/drop_caches", "3").expect("drop the kernel's caches, as root");
}

/// A whole file, mapped shared and writable.
pub struct Mapping {
    start: *mut u8,
    len: usize,
}

impl Mapping {
    pub fn new(file: &File, len: usize) -> io::Result<Mapping> {
        let protection = libc::PROT_READ | libc::PROT_WRITE;
        // SAFETY: a new mapping at a place that the kernel chooses touches no memory of ours.
        let start = unsafe {
            libc::mmap(std::ptr::null_mut(), len, protection, libc::MAP_SHARED, file.as_raw_fd(), 0)
        };
        if start == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        Ok(Mapping { start: start.cast(), len })
    }

    pub fn bytes(&mut self) -> &mut [u8] {
        // SAFETY: the mapping has `len` bytes, lives as long as `self`, and nobody shortens its file meanwhile.
        unsafe { std::slice::from_raw_parts_mut(self.start, self.len) }
    }

    /// How many of its pages are in the kernel's cache.
    pub fn resident_pages(&self) -> io::Result<usize> {
        const PAGE_LEN: usize = 4096;
        const IS_RESIDENT: u8 = 1;
        let mut pages = vec![0_u8; self.len.div_ceil(PAGE_LEN)];
        // SAFETY: the range is the mapping, and there is a byte for each of its pages.
        check(unsafe { libc::mincore(self.start.cast(), self.len, pages.as_mut_ptr()) })?;
        Ok(pages.iter().filter(|page| **page & IS_RESIDENT != 0).count())
    }

    pub fn sync(&self) -> io::Result<()> {
        // SAFETY: the range is the mapping.
        check(unsafe { libc::msync(self.start.cast(), self.len, libc::MS_SYNC) })
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: the range is the mapping, and nobody uses it afterwards.
        unsafe { libc::munmap(self.start.cast(), self.len) };
    }
}
