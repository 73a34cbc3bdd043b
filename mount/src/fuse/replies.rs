//! Answers and flags, in the kernel's words.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::time::Duration;

use bytes::Bytes;
use dfs_client::inode::OpenMode;
use dfs_proto::attr::InodeAttr;
use dfs_proto::ids::InodeId;
use dfs_proto::meta::StatFs;
use dfs_proto::units::NAME_LEN_MAX;
use fuser::{
    Errno, FileHandle, FopenFlags, Generation, OpenAccMode, ReplyAttr, ReplyEmpty, ReplyEntry, ReplyStatfs,
};

use crate::convert::{BLOCK_LEN_BYTES, file_attr};
use crate::errno::errno;
use crate::fs::{self, Attributes, FsError, FsResult, Listed, Opened};
use crate::handles::Handle;

/// Inode numbers are never reused, so their first generation is their only one.
pub(super) const GENERATION: Generation = Generation(0);
/// What the kernel gets with it, it asks for at each use.
pub(super) const NO_TIMEOUT: Duration = Duration::ZERO;
/// The kernel's mark on an open for execve(2). It is not in libc.
const FMODE_EXEC: i32 = 0x20;

/// The error number for the kernel. I/O errors are logged here, where they are consumed: the application sees only
/// `EIO`.
pub(super) fn number(what: &'static str, error: &FsError) -> Errno {
    let number = errno(error).0;
    if number == libc::EIO {
        tracing::warn!("{what}: {error}");
    } else {
        tracing::debug!("{what}: {error}");
    }
    Errno::from_i32(number)
}

pub(super) fn reply_empty(
    what: &'static str,
    reply: ReplyEmpty,
) -> impl FnOnce(FsResult<()>) + Send + 'static {
    move |answer| match answer {
        Ok(()) => reply.ok(),
        Err(error) => reply.error(number(what, &error)),
    }
}

pub(super) fn reply_entry(
    what: &'static str,
    reply: ReplyEntry,
) -> impl FnOnce(FsResult<InodeAttr>) + Send + 'static {
    move |answer| match answer {
        Ok(attr) => reply.entry_with_ttls(&NO_TIMEOUT, &NO_TIMEOUT, &file_attr(&attr), GENERATION),
        Err(error) => reply.error(number(what, &error)),
    }
}

pub(super) fn reply_attr(
    what: &'static str,
    reply: ReplyAttr,
) -> impl FnOnce(FsResult<InodeAttr>) + Send + 'static {
    move |answer| match answer {
        Ok(attr) => reply.attr(&NO_TIMEOUT, &file_attr(&attr)),
        Err(error) => reply.error(number(what, &error)),
    }
}

/// Only this answer and that of a look-up have a time-out for attributes (KA1 of `kernel_attrs`).
pub(super) fn reply_getattr(reply: ReplyAttr) -> impl FnOnce(FsResult<Attributes>) + Send + 'static {
    move |answer| match answer {
        Ok(Attributes { attr, timeout }) => reply.attr(&timeout, &file_attr(&attr)),
        Err(error) => reply.error(number("get attributes", &error)),
    }
}

pub(super) fn reply_statfs(reply: ReplyStatfs) -> impl FnOnce(FsResult<StatFs>) + Send + 'static {
    move |answer| match answer {
        Ok(space) => {
            let block = u64::from(BLOCK_LEN_BYTES);
            let free = space.free.0.min(space.total.0) / block;
            let inodes_free = InodeId::NUMBER_MAX.saturating_sub(space.inodes);
            let inodes = space.inodes.saturating_add(inodes_free);
            let name_len = NAME_LEN_MAX as u32;
            reply.statfs(
                space.total.0 / block,
                free,
                free,
                inodes,
                inodes_free,
                BLOCK_LEN_BYTES,
                name_len,
                BLOCK_LEN_BYTES,
            );
        }
        Err(error) => reply.error(number("statfs", &error)),
    }
}

pub(super) fn handle(number: FileHandle) -> Handle {
    Handle(number.0)
}

pub(super) fn owned(name: &OsStr) -> Bytes {
    Bytes::copy_from_slice(name.as_bytes())
}

/// The flags of an open. O_TRUNC comes with CREATE only (`is_create`); at OPEN the kernel truncates by SETATTR, since
/// ATOMIC_O_TRUNC is not asked for.
pub(super) fn open_flags(flags: i32, is_create: bool) -> fs::OpenFlags {
    let access = fuser::OpenFlags(flags).acc_mode();
    let write = access != OpenAccMode::O_RDONLY;
    fs::OpenFlags {
        mode: OpenMode {
            read: access != OpenAccMode::O_WRONLY,
            write,
            truncate: is_create && write && flags & libc::O_TRUNC != 0,
        },
        direct: flags & libc::O_DIRECT != 0,
        execute: flags & FMODE_EXEC != 0,
    }
}

pub(super) fn opened_flags(opened: Opened) -> FopenFlags {
    match (opened.direct, opened.pages_hold) {
        (true, _) => FopenFlags::FOPEN_DIRECT_IO,
        (false, true) => FopenFlags::FOPEN_KEEP_CACHE,
        (false, false) => FopenFlags::empty(),
    }
}

/// Puts the entries into an answer with `add`, which returns true when the answer is full. Returns how many fitted.
pub(super) fn fill(entries: &[Listed], add: impl FnMut(&Listed) -> bool) -> usize {
    entries.iter().position(add).unwrap_or(entries.len())
}

#[cfg(test)]
mod tests {
    use dfs_proto::attr::FileKind;

    use super::*;

    #[test]
    fn an_open_for_direct_io_goes_past_the_page_cache_and_one_for_appending_does_not() {
        let append = open_flags(libc::O_WRONLY | libc::O_APPEND, false);
        assert!(append.mode.write && !append.mode.read && !append.direct);
        assert!(open_flags(libc::O_RDWR | libc::O_DIRECT, false).direct);
        let opened = |direct, pages_hold| opened_flags(Opened { handle: Handle(1), direct, pages_hold });
        assert_eq!(opened(true, true), FopenFlags::FOPEN_DIRECT_IO);
        assert_eq!(opened(false, false), FopenFlags::empty());
        assert_eq!(opened(false, true), FopenFlags::FOPEN_KEEP_CACHE);
    }

    #[test]
    fn truncation_comes_with_create_only_and_never_to_readers() {
        assert!(open_flags(libc::O_WRONLY | libc::O_TRUNC, true).mode.truncate);
        assert!(!open_flags(libc::O_WRONLY | libc::O_TRUNC, false).mode.truncate);
        assert!(!open_flags(libc::O_RDONLY | libc::O_TRUNC, true).mode.truncate);
    }

    #[test]
    fn an_answer_takes_entries_until_it_is_full() {
        let entry = |cookie| Listed {
            name: vec![b'x'],
            inode: InodeId(cookie),
            kind: FileKind::File,
            cookie,
            attr: None,
        };
        let entries = [entry(3), entry(4), entry(5)];
        assert_eq!(fill(&entries, |entry| entry.cookie == 5), 2);
        assert_eq!(fill(&entries, |_| false), 3);
    }
}
