//! Conversions between the kernel's types, as fuser has them, and dfs's. Pure.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use dfs_proto::attr::{FileKind, InodeAttr, Timestamp};
use dfs_proto::ids::InodeId;
use dfs_proto::lock::{LOCK_END_MAX, LockKind, LockRange};
use dfs_proto::meta::{NewInode, SetTime};
use fuser::{FileAttr, FileType, INodeNo, Request, TimeOrNow};

use crate::groups::Requester;
use crate::page_reads::RequestNumber;

/// The preferred size of I/O in `stat`, and the unit of `statfs`.
pub(crate) const BLOCK_LEN_BYTES: u32 = 4096;
/// The unit of `st_blocks`, on every Linux filesystem.
const STAT_BLOCK_LEN_BYTES: u64 = 512;
/// The mode bits that `chmod` knows.
pub(crate) const MODE_BITS: u32 = 0o7777;

pub(crate) fn inode_id(number: INodeNo) -> InodeId {
    InodeId(number.0)
}

pub(crate) fn requester(request: &Request) -> Requester {
    Requester { uid: request.uid(), gid: request.gid(), pid: request.pid() }
}

pub(crate) fn request_number(request: &Request) -> RequestNumber {
    RequestNumber(request.unique().0)
}

pub(crate) fn file_type(kind: FileKind) -> FileType {
    match kind {
        FileKind::File => FileType::RegularFile,
        FileKind::Directory => FileType::Directory,
        FileKind::Symlink => FileType::Symlink,
        FileKind::Fifo => FileType::NamedPipe,
        FileKind::Socket => FileType::Socket,
        FileKind::CharDevice => FileType::CharDevice,
        FileKind::BlockDevice => FileType::BlockDevice,
    }
}

pub(crate) fn file_attr(attr: &InodeAttr) -> FileAttr {
    FileAttr {
        ino: INodeNo(attr.inode.0),
        size: attr.size.0,
        blocks: attr.allocated.0.div_ceil(STAT_BLOCK_LEN_BYTES),
        atime: system_time(attr.atime),
        mtime: system_time(attr.mtime),
        ctime: system_time(attr.ctime),
        crtime: UNIX_EPOCH,
        kind: file_type(attr.kind),
        perm: (attr.mode & MODE_BITS) as u16,
        nlink: attr.nlink,
        uid: attr.uid,
        gid: attr.gid,
        rdev: attr.rdev,
        blksize: BLOCK_LEN_BYTES,
        flags: 0,
    }
}

/// A placeholder for `.` and `..` in READDIRPLUS, of which the kernel reads nothing but number and kind, and for
/// volumes whose cluster does not answer: the kernel asks for their attributes when it needs them.
pub(crate) fn directory_placeholder(inode: InodeId) -> FileAttr {
    FileAttr {
        ino: INodeNo(inode.0),
        size: 0,
        blocks: 0,
        atime: UNIX_EPOCH,
        mtime: UNIX_EPOCH,
        ctime: UNIX_EPOCH,
        crtime: UNIX_EPOCH,
        kind: FileType::Directory,
        perm: 0o755,
        nlink: 2,
        uid: 0,
        gid: 0,
        rdev: 0,
        blksize: BLOCK_LEN_BYTES,
        flags: 0,
    }
}

/// The time for the kernel. It saturates where `SystemTime` ends, which no timestamp of a real file reaches.
fn system_time(time: Timestamp) -> SystemTime {
    let whole = Duration::from_secs(time.seconds.unsigned_abs());
    let base = if time.seconds < 0 { UNIX_EPOCH.checked_sub(whole) } else { UNIX_EPOCH.checked_add(whole) };
    base.and_then(|base| base.checked_add(Duration::from_nanos(time.nanos.into()))).unwrap_or(UNIX_EPOCH)
}

/// The kernel sends (seconds, nanoseconds) with nanoseconds counted forward; fuser 0.18 turns a time before 1970 into
/// `1970 − (|seconds| + nanoseconds)`, so the two parts are taken apart the same way again.
fn timestamp(time: SystemTime) -> Timestamp {
    match time.duration_since(UNIX_EPOCH) {
        Ok(since) => Timestamp {
            seconds: i64::try_from(since.as_secs()).unwrap_or(i64::MAX),
            nanos: since.subsec_nanos(),
        },
        Err(before) => {
            let before = before.duration();
            let seconds = i64::try_from(before.as_secs()).map_or(i64::MIN, |seconds| -seconds);
            Timestamp { seconds, nanos: before.subsec_nanos() }
        }
    }
}

pub(crate) fn set_time(time: TimeOrNow) -> SetTime {
    match time {
        TimeOrNow::Now => SetTime::Now,
        TimeOrNow::SpecificTime(time) => SetTime::At(timestamp(time)),
    }
}

/// The inode that `mknod` makes; `None` for a kind that it cannot make.
pub(crate) fn new_node(mode: u32, rdev: u32) -> Option<NewInode> {
    match mode & libc::S_IFMT {
        0 | libc::S_IFREG => Some(NewInode::File),
        libc::S_IFIFO => Some(NewInode::Fifo),
        libc::S_IFSOCK => Some(NewInode::Socket),
        libc::S_IFCHR => Some(NewInode::CharDevice { rdev }),
        libc::S_IFBLK => Some(NewInode::BlockDevice { rdev }),
        _ => None,
    }
}

/// What the kernel wants of a range.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum LockWish {
    Lock(LockKind),
    Unlock,
}

/// `kind` is `l_type` of fcntl(2), also for flock(2).
pub(crate) fn lock_wish(kind: i32) -> Option<LockWish> {
    match kind {
        libc::F_RDLCK => Some(LockWish::Lock(LockKind::Shared)),
        libc::F_WRLCK => Some(LockWish::Lock(LockKind::Exclusive)),
        libc::F_UNLCK => Some(LockWish::Unlock),
        _ => None,
    }
}

pub(crate) fn lock_type(kind: LockKind) -> i32 {
    match kind {
        LockKind::Shared => libc::F_RDLCK,
        LockKind::Exclusive => libc::F_WRLCK,
    }
}

/// Both ends are included. The kernel's largest offset means the end of the file, wherever that is.
pub(crate) fn lock_range(start: u64, end: u64) -> Option<LockRange> {
    (start <= end && start <= LOCK_END_MAX).then_some(LockRange { start, end: end.min(LOCK_END_MAX) })
}

#[cfg(test)]
mod tests {
    use dfs_proto::units::ByteLen;
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_hole_costs_no_blocks_and_a_part_of_a_block_costs_a_whole_one() {
        let attr = |allocated| {
            let attr = InodeAttr {
                inode: InodeId(5),
                kind: FileKind::File,
                mode: 0o104_755,
                nlink: 1,
                uid: 1,
                gid: 2,
                size: ByteLen(1 << 40),
                allocated: ByteLen(allocated),
                rdev: 0,
                atime: Timestamp::default(),
                mtime: Timestamp::default(),
                ctime: Timestamp::default(),
                content_version: 0,
            };
            file_attr(&attr)
        };
        assert_eq!((attr(0).blocks, attr(1).blocks, attr(513).blocks), (0, 1, 2));
        assert_eq!((attr(0).perm, attr(0).size), (0o4755, 1 << 40));
    }

    #[test]
    fn a_node_is_made_of_every_kind_but_directories_and_links() {
        assert_eq!(new_node(0o644, 0), Some(NewInode::File));
        assert_eq!(new_node(libc::S_IFIFO | 0o644, 9), Some(NewInode::Fifo));
        assert_eq!(new_node(libc::S_IFBLK | 0o600, 9), Some(NewInode::BlockDevice { rdev: 9 }));
        assert_eq!(new_node(libc::S_IFDIR | 0o755, 0), None);
        assert_eq!(new_node(libc::S_IFLNK | 0o777, 0), None);
    }

    #[test]
    fn a_lock_has_the_kind_that_fcntl_calls_it() {
        for kind in [LockKind::Shared, LockKind::Exclusive] {
            assert_eq!(lock_wish(lock_type(kind)), Some(LockWish::Lock(kind)));
        }
        assert_eq!(lock_wish(libc::F_UNLCK), Some(LockWish::Unlock));
        assert_eq!((lock_wish(-1), lock_wish(3)), (None, None));
    }

    #[test]
    fn a_lock_to_the_end_of_the_file_ends_at_the_largest_offset() {
        assert_eq!(lock_range(0, i64::MAX as u64), Some(LockRange::WHOLE));
        assert_eq!(lock_range(0, u64::MAX), Some(LockRange::WHOLE));
        assert_eq!(lock_range(7, 7), Some(LockRange { start: 7, end: 7 }));
        assert_eq!((lock_range(8, 7), lock_range(u64::MAX, u64::MAX)), (None, None));
    }

    /// The time that fuser 0.18 makes of what the kernel sent.
    fn as_fuser_reads(seconds: i64, nanos: u32) -> SystemTime {
        if seconds >= 0 {
            UNIX_EPOCH + Duration::new(seconds as u64, nanos)
        } else {
            UNIX_EPOCH - Duration::new(seconds.unsigned_abs(), nanos)
        }
    }

    proptest! {
        #[test]
        fn a_time_that_the_kernel_sent_is_what_it_meant(
            seconds in -1_000_000_000_000i64..1_000_000_000_000,
            nanos in 0u32..1_000_000_000,
        ) {
            prop_assert_eq!(timestamp(as_fuser_reads(seconds, nanos)), Timestamp { seconds, nanos });
        }

        #[test]
        fn a_time_before_or_after_1970_is_shown_as_it_is(seconds in any::<i64>(), nanos in 0u32..1_000_000_000) {
            let shown = system_time(Timestamp { seconds, nanos });
            let expected = i128::from(seconds) * 1_000_000_000 + i128::from(nanos);
            let nanos_since = match shown.duration_since(UNIX_EPOCH) {
                Ok(since) => since.as_nanos() as i128,
                Err(before) => -(before.duration().as_nanos() as i128),
            };
            prop_assert_eq!(nanos_since, expected);
        }
    }
}
