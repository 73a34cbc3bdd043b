//! The kernel's edge: unpacks a request, calls `fs`, replies. Nothing is decided here but how long the kernel may
//! believe an answer (not at all, until there are leases: P5.2) and what it is offered at the start (P5.1).
//!
//! E1  Every request is answered within its deadline, whatever the servers do: fuser answers interrupts with ENOSYS, so
//!     a process that waits cannot even be killed (promise 7).
//! E2  No event-loop thread waits for the network: what is not ready at once goes on as a task.
//! E3  What is not implemented says ENOTSUP, and ENOSYS only where the kernel then does the right thing (P5.5).
//!
//! How many requests are in flight is bounded by the kernel: one per thread of an application, and `BACKGROUND_MAX`.

use std::ffi::OsStr;
use std::future::Future;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::panic::AssertUnwindSafe;
use std::path::Path;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use dfs_client::{FLUSH_SLICE_LEN, Looked, OpenMode};
use dfs_proto::attr::{AccessMask, FileKind, InodeAttr};
use dfs_proto::ids::InodeId;
use dfs_proto::meta::{NewInode, SetAttr, StatFs};
use dfs_proto::units::{APPEND_LEN_MAX, ByteLen, NAME_LEN_MAX, Offset};
use fuser::{
    AccessFlags, BsdFileFlags, CopyFileRangeFlags, Errno, FileHandle, Filesystem, FopenFlags, Generation,
    INodeNo, InitFlags, IoctlFlags, KernelConfig, LockOwner, OpenAccMode, RenameFlags, ReplyAttr, ReplyBmap,
    ReplyCreate, ReplyData, ReplyDirectory, ReplyDirectoryPlus, ReplyEmpty, ReplyEntry, ReplyIoctl,
    ReplyLock, ReplyLseek, ReplyOpen, ReplyStatfs, ReplyWrite, ReplyXattr, Request, TimeOrNow, WriteFlags,
};
use tokio::runtime::Handle as Runtime;

use crate::convert::{
    BLOCK_LEN_BYTES, MODE_BITS, directory_placeholder, file_attr, file_type, inode_id, new_node, requester,
    set_time,
};
use crate::errno::errno;
use crate::error::{FsError, FsResult};
use crate::fs::{self, Fs, Listed, Opened};
use crate::handles::Handle;
use crate::rest::Rest;

/// How long the kernel may believe the name of a file: not at all (P5.2). So whoever opens or cuts a path finds what has
/// that name now, also when it has just been listed: with the name believed, `> log` right after another mount's
/// `mv log log.1` would empty `log.1`.
const FILE_NAME_BELIEVED: Duration = Duration::ZERO;
/// The name of a directory: a path of four components costs one look-up instead of four. What is done in a directory that
/// is gone is refused, in one that has moved it is done where it is now: its inode is asked, not its name.
const DIRECTORY_NAME_BELIEVED: Duration = Duration::from_millis(50);
/// How long it may believe attributes that it got. It asks for those of a directory up to three times per component and
/// call; what can be old is only what needs no look-up: `fstat` and cached reads of a file that was open before (see
/// docs/measurements.md, "Metadata calls", and SEMANTICS.md).
const ATTR_BELIEVED: Duration = Duration::from_millis(50);
/// What stands for a volume whose cluster does not answer.
const UNANSWERED: Duration = Duration::ZERO;
/// Inode numbers are never reused, so their first generation is their only one.
const GENERATION: Generation = Generation(0);
/// The largest request: one append carries as much (twice as fast as the kernel's default of 128 KiB).
pub(crate) const REQUEST_LEN_MAX: u32 = APPEND_LEN_MAX as u32;
/// Requests that the kernel makes on its own (read-ahead, releases) and has in flight at once.
const BACKGROUND_MAX: u16 = 64;
/// The client's own deadlines come first, since they say what did not answer.
const DEADLINE_MARGIN: Duration = Duration::from_secs(1);
/// The kernel's mark on an open for execve(2); not in libc.
const FMODE_EXEC: i32 = 0x20;

const _: () = assert!(APPEND_LEN_MAX <= u32::MAX as u64);

/// How long an answer may take (E1).
#[derive(Clone, Copy, Debug)]
pub(crate) struct Deadlines {
    metadata: Duration,
    data: Duration,
    storing: Duration,
}

impl Deadlines {
    /// Moving bytes takes calls of both kinds. Storing what is buffered may take long while it progresses: the client ends
    /// it when nothing does, and this is only the net below, for as many slices as `buffer_len` has.
    pub(crate) fn new(metadata_timeout: Duration, data_timeout: Duration, buffer_len: u64) -> Deadlines {
        let slices = u32::try_from(buffer_len.div_ceil(FLUSH_SLICE_LEN)).unwrap_or(u32::MAX);
        Deadlines {
            metadata: metadata_timeout + DEADLINE_MARGIN,
            data: metadata_timeout + data_timeout + DEADLINE_MARGIN,
            storing: metadata_timeout + data_timeout.saturating_mul(slices) + DEADLINE_MARGIN,
        }
    }
}

pub(crate) struct Edge {
    fs: Arc<Fs>,
    runtime: Runtime,
    deadlines: Deadlines,
}

impl Edge {
    pub(crate) fn new(fs: Arc<Fs>, runtime: Runtime, deadlines: Deadlines) -> Edge {
        Edge { fs, runtime, deadlines }
    }

    /// Runs `call` and gives its answer to `reply`: at once if it does not have to wait, else as a task (E2).
    fn run<T, C>(&self, within: Duration, call: C, reply: impl FnOnce(FsResult<T>) + Send + 'static)
    where
        T: Send + 'static,
        C: Future<Output = FsResult<T>> + Send + 'static,
    {
        let _context = self.runtime.enter();
        let mut call = Box::pin(tokio::time::timeout(within, call)); // keeps E1
        let rest = Rest::of(self.runtime.clone());
        let waker = Waker::from(rest.clone());
        // A panic ends this one request (its reply is dropped, which answers EIO), not the event loop.
        let first = std::panic::catch_unwind(AssertUnwindSafe(|| {
            call.as_mut().poll(&mut Context::from_waker(&waker))
        }));
        let in_time = |answer: Result<FsResult<T>, _>| answer.unwrap_or(Err(FsError::TimedOut));
        match first {
            Ok(Poll::Ready(answer)) => reply(in_time(answer)),
            Ok(Poll::Pending) => rest.wait(Box::pin(async move { reply(in_time(call.await)) })),
            Err(_) => tracing::error!("a request ended in a panic and is answered with an I/O error"),
        }
    }

    fn metadata<T, C>(&self, call: C, reply: impl FnOnce(FsResult<T>) + Send + 'static)
    where
        T: Send + 'static,
        C: Future<Output = FsResult<T>> + Send + 'static,
    {
        self.run(self.deadlines.metadata, call, reply);
    }

    fn data<T, C>(&self, call: C, reply: impl FnOnce(FsResult<T>) + Send + 'static)
    where
        T: Send + 'static,
        C: Future<Output = FsResult<T>> + Send + 'static,
    {
        self.run(self.deadlines.data, call, reply);
    }

    fn storing<T, C>(&self, call: C, reply: impl FnOnce(FsResult<T>) + Send + 'static)
    where
        T: Send + 'static,
        C: Future<Output = FsResult<T>> + Send + 'static,
    {
        self.run(self.deadlines.storing, call, reply);
    }
}

/// The number for the kernel. I/O errors are logged here, where they are consumed: the application sees only `EIO`.
fn number(what: &'static str, error: &FsError) -> Errno {
    let number = errno(error).0;
    if number == libc::EIO {
        tracing::warn!("{what}: {error}");
    } else {
        tracing::debug!("{what}: {error}");
    }
    Errno::from_i32(number)
}

fn name_believed(kind: FileKind) -> &'static Duration {
    if kind == FileKind::Directory { &DIRECTORY_NAME_BELIEVED } else { &FILE_NAME_BELIEVED }
}

fn reply_empty(what: &'static str, reply: ReplyEmpty) -> impl FnOnce(FsResult<()>) + Send + 'static {
    move |answer| match answer {
        Ok(()) => reply.ok(),
        Err(error) => reply.error(number(what, &error)),
    }
}

fn reply_entry(what: &'static str, reply: ReplyEntry) -> impl FnOnce(FsResult<InodeAttr>) + Send + 'static {
    move |answer| match answer {
        Ok(attr) => {
            reply.entry_with_ttls(&ATTR_BELIEVED, name_believed(attr.kind), &file_attr(&attr), GENERATION)
        }
        Err(error) => reply.error(number(what, &error)),
    }
}

fn reply_attr(what: &'static str, reply: ReplyAttr) -> impl FnOnce(FsResult<InodeAttr>) + Send + 'static {
    move |answer| match answer {
        Ok(attr) => reply.attr(&ATTR_BELIEVED, &file_attr(&attr)),
        Err(error) => reply.error(number(what, &error)),
    }
}

fn reply_statfs(reply: ReplyStatfs) -> impl FnOnce(FsResult<StatFs>) + Send + 'static {
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

fn handle(number: FileHandle) -> Handle {
    Handle(number.0)
}

fn owned(name: &OsStr) -> Bytes {
    Bytes::copy_from_slice(name.as_bytes())
}

/// `is_create`: O_TRUNC reaches us with CREATE only; at OPEN the kernel truncates by SETATTR (no ATOMIC_O_TRUNC).
fn open_flags(flags: i32, is_create: bool) -> fs::OpenFlags {
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

fn opened_flags(opened: Opened) -> FopenFlags {
    match (opened.direct, opened.pages_hold) {
        (true, _) => FopenFlags::FOPEN_DIRECT_IO,
        (false, true) => FopenFlags::FOPEN_KEEP_CACHE,
        (false, false) => FopenFlags::empty(),
    }
}

/// Puts the entries into an answer with `add`, which says when it is full; tells how many fitted.
fn fill(entries: &[Listed], add: impl FnMut(&Listed) -> bool) -> usize {
    entries.iter().position(add).unwrap_or(entries.len())
}

impl Filesystem for Edge {
    fn init(&mut self, _: &Request, config: &mut KernelConfig) -> io::Result<()> {
        // Absent on purpose (P5.1, P5.2, P5.7): WRITEBACK_CACHE, ATOMIC_O_TRUNC, EXPLICIT_INVAL_DATA, DONT_MASK,
        // FLOCK_LOCKS and POSIX_LOCKS (the kernel then locks within this mount).
        let wanted = [
            InitFlags::FUSE_AUTO_INVAL_DATA,
            InitFlags::FUSE_ASYNC_READ,
            InitFlags::FUSE_PARALLEL_DIROPS,
            InitFlags::FUSE_HANDLE_KILLPRIV_V2,
            InitFlags::FUSE_DO_READDIRPLUS,
            InitFlags::FUSE_READDIRPLUS_AUTO,
            InitFlags::FUSE_DIRECT_IO_ALLOW_MMAP,
        ];
        for capability in wanted {
            // An older kernel without one of the others is slower, or has no mmap of O_DIRECT files, but is not wrong.
            if config.add_capabilities(capability).is_err() && capability == InitFlags::FUSE_AUTO_INVAL_DATA {
                let what =
                    "this kernel's FUSE cannot check cached pages (AUTO_INVAL_DATA); Linux 5.11 or newer can";
                return Err(io::Error::new(io::ErrorKind::Unsupported, what));
            }
        }
        let at_most = |result: Result<u32, u32>| result.err();
        if let Some(nearest) = at_most(config.set_max_write(REQUEST_LEN_MAX)) {
            let _ = config.set_max_write(nearest);
        }
        if let Some(nearest) = at_most(config.set_max_readahead(REQUEST_LEN_MAX)) {
            let _ = config.set_max_readahead(nearest);
        }
        let _ = config.set_max_background(BACKGROUND_MAX);
        Ok(())
    }

    // ---- names -----------------------------------------------------------------------------------------------

    fn lookup(&self, request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let (fs, who, name) = (self.fs.clone(), requester(request), owned(name));
        let call = async move { fs.lookup(who, inode_id(parent), &name).await };
        self.metadata(call, move |looked| match looked {
            Ok(Looked::Attr(attr)) => reply_entry("look up a name", reply)(Ok(attr)),
            Ok(Looked::Unanswered(inode)) => {
                reply.entry_with_ttls(&UNANSWERED, &UNANSWERED, &directory_placeholder(inode), GENERATION);
            }
            Err(error) => reply_entry("look up a name", reply)(Err(error)),
        });
    }

    fn forget(&self, _: &Request, ino: INodeNo, nlookup: u64) {
        self.fs.forget(inode_id(ino), nlookup);
    }

    fn mknod(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        _umask: u32,
        rdev: u32,
        reply: ReplyEntry,
    ) {
        let Some(what) = new_node(mode, rdev) else {
            return reply.error(number("make a node", &FsError::NodeKind { mode }));
        };
        self.make(request, parent, name, mode, what, reply);
    }

    fn mkdir(&self, request: &Request, parent: INodeNo, name: &OsStr, mode: u32, _: u32, reply: ReplyEntry) {
        self.make(request, parent, name, mode, NewInode::Directory, reply);
    }

    fn symlink(&self, request: &Request, parent: INodeNo, name: &OsStr, target: &Path, reply: ReplyEntry) {
        let target = target.as_os_str().as_bytes().to_vec();
        self.make(request, parent, name, MODE_BITS & 0o777, NewInode::Symlink { target }, reply);
    }

    fn link(&self, request: &Request, ino: INodeNo, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let (fs, who, name) = (self.fs.clone(), requester(request), owned(name));
        let call = async move { fs.link(who, inode_id(ino), inode_id(parent), &name).await };
        // What is buffered of the file is committed first.
        self.storing(call, reply_entry("link", reply));
    }

    fn unlink(&self, request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let (fs, who, name) = (self.fs.clone(), requester(request), owned(name));
        let call = async move { fs.unlink(who, inode_id(parent), &name).await };
        self.metadata(call, reply_empty("unlink", reply));
    }

    fn rmdir(&self, request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let (fs, who, name) = (self.fs.clone(), requester(request), owned(name));
        let call = async move { fs.rmdir(who, inode_id(parent), &name).await };
        self.metadata(call, reply_empty("remove a directory", reply));
    }

    fn rename(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        newparent: INodeNo,
        newname: &OsStr,
        flags: RenameFlags,
        reply: ReplyEmpty,
    ) {
        let (fs, who, name, new_name) = (self.fs.clone(), requester(request), owned(name), owned(newname));
        let (parent, new_parent) = (inode_id(parent), inode_id(newparent));
        let call =
            async move { fs.rename(who, (parent, &name), (new_parent, &new_name), flags.bits()).await };
        // What is buffered of the file is committed first.
        self.storing(call, reply_empty("rename", reply));
    }

    fn readlink(&self, request: &Request, ino: INodeNo, reply: ReplyData) {
        let (fs, who) = (self.fs.clone(), requester(request));
        let call = async move { fs.readlink(who, inode_id(ino)).await };
        self.metadata(call, |answer| match answer {
            Ok(target) => reply.data(&target),
            Err(error) => reply.error(number("read a link", &error)),
        });
    }

    // ---- attributes ------------------------------------------------------------------------------------------

    fn getattr(&self, request: &Request, ino: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        let (fs, who) = (self.fs.clone(), requester(request));
        let call = async move { fs.getattr(who, inode_id(ino)).await };
        self.metadata(call, reply_attr("get attributes", reply));
    }

    fn setattr(
        &self,
        request: &Request,
        ino: INodeNo,
        mode: Option<u32>,
        uid: Option<u32>,
        gid: Option<u32>,
        size: Option<u64>,
        atime: Option<TimeOrNow>,
        mtime: Option<TimeOrNow>,
        _ctime: Option<SystemTime>, // the cluster's clock decides
        fh: Option<FileHandle>,
        _crtime: Option<SystemTime>,
        _chgtime: Option<SystemTime>,
        _bkuptime: Option<SystemTime>,
        _flags: Option<BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        let set = SetAttr {
            inode: inode_id(ino),
            mode: mode.map(|mode| mode & MODE_BITS),
            uid,
            gid,
            size: size.map(ByteLen),
            atime: atime.map(set_time),
            mtime: mtime.map(set_time),
            by_handle: false,
            kill_privileges: false,
        };
        let change = fs::Change { set, handle: fh.map(handle) };
        let (fs, who) = (self.fs.clone(), requester(request));
        let call = async move { fs.setattr(who, change).await };
        // A truncation commits the file's buffer first, so it moves bytes too.
        self.storing(call, reply_attr("set attributes", reply));
    }

    fn access(&self, request: &Request, ino: INodeNo, mask: AccessFlags, reply: ReplyEmpty) {
        let (fs, who) = (self.fs.clone(), requester(request));
        let mask = AccessMask((mask.bits() & 0o7) as u8);
        let call = async move { fs.access(who, inode_id(ino), mask).await };
        self.metadata(call, reply_empty("check access", reply));
    }

    fn statfs(&self, _: &Request, ino: INodeNo, reply: ReplyStatfs) {
        let fs = self.fs.clone();
        self.metadata(async move { fs.statfs(inode_id(ino)).await }, reply_statfs(reply));
    }

    // ---- files -----------------------------------------------------------------------------------------------

    fn open(&self, request: &Request, ino: INodeNo, flags: fuser::OpenFlags, reply: ReplyOpen) {
        let (fs, who, flags) = (self.fs.clone(), requester(request), open_flags(flags.0, false));
        let call = async move { fs.open(who, inode_id(ino), flags).await };
        self.metadata(call, |answer| match answer {
            Ok(opened) => reply.opened(FileHandle(opened.handle.0), opened_flags(opened)),
            Err(error) => reply.error(number("open", &error)),
        });
    }

    fn create(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        _umask: u32, // applied by the kernel, since DONT_MASK is not asked for
        flags: i32,
        reply: ReplyCreate,
    ) {
        let (fs, who, name) = (self.fs.clone(), requester(request), owned(name));
        let is_new = flags & libc::O_EXCL != 0;
        let flags = open_flags(flags, true);
        let call =
            async move { fs.create(who, (inode_id(parent), &name), mode & MODE_BITS, is_new, flags).await };
        self.metadata(call, |answer| match answer {
            Ok((opened, attr)) => {
                let number = FileHandle(opened.handle.0);
                reply.created(
                    &FILE_NAME_BELIEVED,
                    &file_attr(&attr),
                    GENERATION,
                    number,
                    opened_flags(opened),
                );
            }
            Err(error) => reply.error(number("create", &error)),
        });
    }

    fn read(
        &self,
        _: &Request,
        _: INodeNo,
        fh: FileHandle,
        offset: u64,
        size: u32,
        _flags: fuser::OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyData,
    ) {
        let fs = self.fs.clone();
        let call = async move { fs.read(handle(fh), Offset(offset), size).await };
        self.data(call, |answer| match answer {
            Ok(bytes) => reply.data(&bytes),
            Err(error) => reply.error(number("read", &error)),
        });
    }

    fn write(
        &self,
        request: &Request,
        _: INodeNo,
        fh: FileHandle,
        offset: u64,
        data: &[u8],
        write_flags: WriteFlags,
        flags: fuser::OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        let write = fs::Write {
            offset: Offset(offset),
            data: Bytes::copy_from_slice(data),
            append: flags.0 & libc::O_APPEND != 0,
            direct: flags.0 & libc::O_DIRECT != 0,
            durable: flags.0 & libc::O_DSYNC != 0, // a bit of O_SYNC too
            from_page_cache: write_flags.contains(WriteFlags::FUSE_WRITE_CACHE),
            kill_privileges: write_flags.contains(WriteFlags::FUSE_WRITE_KILL_SUIDGID),
        };
        let (fs, who) = (self.fs.clone(), requester(request));
        let call = async move { fs.write(who, handle(fh), write).await };
        self.storing(call, |answer| match answer {
            Ok(written) => reply.written(written),
            Err(error) => reply.error(number("write", &error)),
        });
    }

    fn flush(&self, _: &Request, _: INodeNo, fh: FileHandle, _: LockOwner, reply: ReplyEmpty) {
        let fs = self.fs.clone();
        self.storing(async move { fs.flush(handle(fh)).await }, reply_empty("close", reply));
    }

    fn fsync(&self, _: &Request, _: INodeNo, fh: FileHandle, _datasync: bool, reply: ReplyEmpty) {
        let fs = self.fs.clone();
        self.storing(async move { fs.fsync(handle(fh)).await }, reply_empty("fsync", reply));
    }

    fn release(
        &self,
        _: &Request,
        _: INodeNo,
        fh: FileHandle,
        _flags: fuser::OpenFlags,
        _: Option<LockOwner>,
        _flush: bool,
        reply: ReplyEmpty,
    ) {
        let fs = self.fs.clone();
        self.storing(async move { fs.release(handle(fh)).await }, reply_empty("release", reply));
    }

    // ---- directories -----------------------------------------------------------------------------------------

    fn opendir(&self, request: &Request, ino: INodeNo, _flags: fuser::OpenFlags, reply: ReplyOpen) {
        let (fs, who) = (self.fs.clone(), requester(request));
        let call = async move { fs.opendir(who, inode_id(ino)).await };
        self.metadata(call, |answer| match answer {
            Ok(opened) => reply.opened(FileHandle(opened.0), FopenFlags::empty()), // no CACHE_DIR (P5.1)
            Err(error) => reply.error(number("open a directory", &error)),
        });
    }

    fn readdir(&self, _: &Request, _: INodeNo, fh: FileHandle, offset: u64, mut reply: ReplyDirectory) {
        let (fs, directory) = (self.fs.clone(), handle(fh));
        let listing = self.fs.clone();
        let call = async move { listing.list(directory, offset, false).await };
        self.metadata(call, move |answer| match answer {
            Ok(entries) => {
                let sent = fill(&entries, |entry| {
                    let name = OsStr::from_bytes(&entry.name);
                    reply.add(INodeNo(entry.inode.0), entry.cookie, file_type(entry.kind), name)
                });
                fs.listed(directory, sent, entries.len());
                reply.ok();
            }
            Err(error) => reply.error(number("read a directory", &error)),
        });
    }

    fn readdirplus(
        &self,
        _: &Request,
        _: INodeNo,
        fh: FileHandle,
        offset: u64,
        mut reply: ReplyDirectoryPlus,
    ) {
        let (fs, directory) = (self.fs.clone(), handle(fh));
        let listing = self.fs.clone();
        let call = async move { listing.list(directory, offset, true).await };
        self.metadata(call, move |answer| match answer {
            Ok(entries) => {
                let sent = fill(&entries, |entry| {
                    let name = OsStr::from_bytes(&entry.name);
                    let attr =
                        entry.attr.as_ref().map_or_else(|| directory_placeholder(entry.inode), file_attr);
                    let inode = INodeNo(entry.inode.0);
                    let believed = entry.attr.as_ref().map_or(&UNANSWERED, |_| name_believed(entry.kind));
                    let is_full = reply.add(inode, entry.cookie, name, believed, &attr, GENERATION);
                    if !is_full && !entry.is_dot() {
                        fs.entry_looked_up(directory, entry);
                    }
                    is_full
                });
                fs.listed(directory, sent, entries.len());
                reply.ok();
            }
            Err(error) => reply.error(number("read a directory", &error)),
        });
    }

    fn releasedir(&self, _: &Request, _: INodeNo, fh: FileHandle, _: fuser::OpenFlags, reply: ReplyEmpty) {
        reply_empty("release a directory", reply)(self.fs.releasedir(handle(fh)));
    }

    fn fsyncdir(&self, _: &Request, _: INodeNo, fh: FileHandle, _datasync: bool, reply: ReplyEmpty) {
        reply_empty("fsync a directory", reply)(self.fs.fsyncdir(handle(fh)));
    }

    // ---- not implemented (E3) --------------------------------------------------------------------------------

    // For extended attributes, fallocate and the next two, the kernel gives the application EOPNOTSUPP (or copies and
    // seeks by itself) when it hears ENOSYS, and does not ask again: `ls -l` and `cp` save a request per file.

    fn setxattr(&self, _: &Request, _: INodeNo, _: &OsStr, _: &[u8], _: i32, _: u32, reply: ReplyEmpty) {
        reply.error(Errno::ENOSYS);
    }

    fn getxattr(&self, _: &Request, _: INodeNo, _: &OsStr, _: u32, reply: ReplyXattr) {
        reply.error(Errno::ENOSYS);
    }

    fn listxattr(&self, _: &Request, _: INodeNo, _: u32, reply: ReplyXattr) {
        reply.error(Errno::ENOSYS);
    }

    fn removexattr(&self, _: &Request, _: INodeNo, _: &OsStr, reply: ReplyEmpty) {
        reply.error(Errno::ENOSYS);
    }

    fn fallocate(&self, _: &Request, _: INodeNo, _: FileHandle, _: u64, _: u64, _: i32, reply: ReplyEmpty) {
        reply.error(Errno::ENOSYS);
    }

    fn lseek(&self, _: &Request, _: INodeNo, _: FileHandle, _: i64, _: i32, reply: ReplyLseek) {
        reply.error(Errno::ENOSYS); // the kernel takes the whole file for data
    }

    fn copy_file_range(
        &self,
        _: &Request,
        _: INodeNo,
        _: FileHandle,
        _: u64,
        _: INodeNo,
        _: FileHandle,
        _: u64,
        _: u64,
        _: CopyFileRangeFlags,
        reply: ReplyWrite,
    ) {
        reply.error(Errno::ENOSYS); // the kernel reads and writes
    }

    // Locks stay in the kernel (P5.7), so these two are never asked; ENOSYS would mean success.

    fn getlk(
        &self,
        _: &Request,
        _: INodeNo,
        _: FileHandle,
        _: LockOwner,
        _: u64,
        _: u64,
        _: i32,
        _: u32,
        reply: ReplyLock,
    ) {
        reply.error(Errno::ENOTSUP);
    }

    fn setlk(
        &self,
        _: &Request,
        _: INodeNo,
        _: FileHandle,
        _: LockOwner,
        _: u64,
        _: u64,
        _: i32,
        _: u32,
        _: bool,
        reply: ReplyEmpty,
    ) {
        reply.error(Errno::ENOTSUP);
    }

    fn bmap(&self, _: &Request, _: INodeNo, _: u32, _: u64, reply: ReplyBmap) {
        reply.error(Errno::ENOTSUP);
    }

    fn ioctl(
        &self,
        _: &Request,
        _: INodeNo,
        _: FileHandle,
        _: IoctlFlags,
        _: u32,
        _: &[u8],
        _: u32,
        reply: ReplyIoctl,
    ) {
        reply.error(Errno::ENOTTY);
    }
}

impl Edge {
    /// What mknod, mkdir and symlink have in common.
    fn make(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        what: NewInode,
        reply: ReplyEntry,
    ) {
        let (fs, who, name) = (self.fs.clone(), requester(request), owned(name));
        let call = async move { fs.make(who, inode_id(parent), &name, mode & MODE_BITS, what).await };
        self.metadata(call, reply_entry("make an entry", reply));
    }
}

#[cfg(test)]
mod tests {
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
