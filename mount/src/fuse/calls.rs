//! One method for each request of the kernel.

use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use dfs_client::ClientError;
use dfs_proto::attr::AccessMask;
use dfs_proto::ids::InodeId;
use dfs_proto::meta::{NewInode, SetAttr};
use dfs_proto::units::{ByteLen, Offset};
use fuser::{
    AccessFlags, BsdFileFlags, CopyFileRangeFlags, Errno, FileHandle, Filesystem, FopenFlags, INodeNo,
    InitFlags, IoctlFlags, KernelConfig, LockOwner, RenameFlags, ReplyAttr, ReplyBmap, ReplyCreate,
    ReplyData, ReplyDirectory, ReplyDirectoryPlus, ReplyEmpty, ReplyEntry, ReplyIoctl, ReplyLock, ReplyLseek,
    ReplyOpen, ReplyStatfs, ReplyWrite, ReplyXattr, Request, TimeOrNow, WriteFlags,
};

use crate::convert::{
    LockWish, MODE_BITS, directory_placeholder, file_attr, file_type, inode_id, lock_range, lock_type,
    lock_wish, new_node, request_number, requester, set_time,
};
use crate::fs::{self, Attributes, FsError, LookedUp};
use crate::fuse::edge::{Edge, REQUEST_LEN_MAX};
use crate::fuse::replies::{
    GENERATION, NO_TIMEOUT, fill, handle, number, open_flags, opened_flags, owned, reply_attr, reply_empty,
    reply_entry, reply_getattr, reply_statfs,
};
use crate::lock_owners::KernelOwner;

/// The most requests that the kernel makes on its own (read-ahead, releases) and has in flight at the same time.
const BACKGROUND_MAX: u16 = 64;

impl Filesystem for Edge {
    fn init(&mut self, _: &Request, config: &mut KernelConfig) -> io::Result<()> {
        // Absent on purpose (P5.1, P5.2): WRITEBACK_CACHE, ATOMIC_O_TRUNC, EXPLICIT_INVAL_DATA, DONT_MASK.
        let wanted = [
            InitFlags::FUSE_AUTO_INVAL_DATA,
            InitFlags::FUSE_ASYNC_READ,
            InitFlags::FUSE_PARALLEL_DIROPS,
            InitFlags::FUSE_HANDLE_KILLPRIV_V2,
            InitFlags::FUSE_DO_READDIRPLUS,
            InitFlags::FUSE_READDIRPLUS_AUTO,
            InitFlags::FUSE_DIRECT_IO_ALLOW_MMAP,
            InitFlags::FUSE_POSIX_LOCKS,
            InitFlags::FUSE_FLOCK_LOCKS,
        ];
        for capability in wanted {
            // An older kernel that lacks one of the others is slower, or has no mmap of O_DIRECT files, but is not
            // wrong.
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
        self.metadata(call, move |found| match found {
            Ok(LookedUp::Found(Attributes { attr, timeout }, for_name)) => {
                reply.entry_with_ttls(&timeout, &for_name, &file_attr(&attr), GENERATION);
            }
            Ok(LookedUp::Absent(Duration::ZERO)) => {
                reply.error(number("look up a name", &FsError::from(ClientError::NotFound)));
            }
            // An entry without an inode says so with a time-out.
            Ok(LookedUp::Absent(for_name)) => {
                reply.entry_with_ttls(&NO_TIMEOUT, &for_name, &directory_placeholder(InodeId(0)), GENERATION);
            }
            Ok(LookedUp::Unanswered(inode)) => {
                reply.entry_with_ttls(&NO_TIMEOUT, &NO_TIMEOUT, &directory_placeholder(inode), GENERATION);
            }
            Err(error) => reply.error(number("look up a name", &error)),
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
        self.metadata(call, reply_getattr(reply));
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
                reply.created(&NO_TIMEOUT, &file_attr(&attr), GENERATION, number, opened_flags(opened));
            }
            Err(error) => reply.error(number("create", &error)),
        });
    }

    fn read(
        &self,
        request: &Request,
        _: INodeNo,
        fh: FileHandle,
        offset: u64,
        size: u32,
        _flags: fuser::OpenFlags,
        owner: Option<LockOwner>,
        reply: ReplyData,
    ) {
        // A process is named by direct reads only. Those that fill pages are of whoever looks at the pages, also of a file that is open for
        // direct I/O: it may be mapped.
        let fills = owner.is_none().then(|| request_number(request));
        let fs = self.fs.clone();
        let call = async move { fs.read((handle(fh), fills), Offset(offset), size).await };
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
            number: request_number(request),
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

    fn flush(&self, _: &Request, _: INodeNo, fh: FileHandle, owner: LockOwner, reply: ReplyEmpty) {
        let fs = self.fs.clone();
        let call = async move { fs.flush(handle(fh), KernelOwner(owner.0)).await };
        self.storing(call, reply_empty("close", reply));
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
        _: Option<LockOwner>, // of flock only; the locks of OFDs end, too (P5.7)
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
                    let is_full = reply.add(inode, entry.cookie, name, &NO_TIMEOUT, &attr, GENERATION);
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

    // ---- locks (P5.7) ----------------------------------------------------------------------------------------

    fn getlk(
        &self,
        _: &Request,
        _: INodeNo,
        fh: FileHandle,
        lock_owner: LockOwner,
        start: u64,
        end: u64,
        typ: i32,
        pid: u32,
        reply: ReplyLock,
    ) {
        let (Some(LockWish::Lock(kind)), Some(range)) = (lock_wish(typ), lock_range(start, end)) else {
            return reply.error(number("test a lock", &FsError::BadLock));
        };
        let asked = fs::LockAsked { owner: KernelOwner(lock_owner.0), range, kind, process: pid };
        let fs = self.fs.clone();
        let call = async move { fs.test_lock(handle(fh), asked).await };
        self.metadata(call, move |answer| match answer {
            Ok(Some(held)) => {
                reply.locked(held.range.start, held.range.end, lock_type(held.kind), held.process);
            }
            Ok(None) => reply.locked(start, end, libc::F_UNLCK, 0),
            Err(error) => reply.error(number("test a lock", &error)),
        });
    }

    fn setlk(
        &self,
        request: &Request,
        _: INodeNo,
        fh: FileHandle,
        lock_owner: LockOwner,
        start: u64,
        end: u64,
        typ: i32,
        pid: u32,
        sleep: bool,
        reply: ReplyEmpty,
    ) {
        let (Some(wish), Some(range)) = (lock_wish(typ), lock_range(start, end)) else {
            return reply.error(number("lock", &FsError::BadLock));
        };
        let (fs, owner) = (self.fs.clone(), KernelOwner(lock_owner.0));
        // What was written under a lock is committed before the lock ends or is weakened.
        match wish {
            LockWish::Unlock => {
                let call = async move { fs.unlock(handle(fh), owner, range).await };
                self.storing(call, reply_empty("unlock", reply));
            }
            LockWish::Lock(kind) => {
                let asked = fs::LockAsked { owner, range, kind, process: pid };
                let waiter = fs::Waiter { thread: request.pid(), unseen_max: self.unseen_max() };
                if sleep {
                    let call = async move { fs.wait_for_lock(handle(fh), asked, waiter).await };
                    self.waiting(call, reply_empty("wait for a lock", reply));
                } else {
                    let call = async move { fs.try_lock(handle(fh), asked).await };
                    self.storing(call, reply_empty("lock", reply));
                }
            }
        }
    }

    // ---- not implemented (E3) --------------------------------------------------------------------------------

    // For extended attributes, fallocate and the next two, the kernel answers EOPNOTSUPP to the application (or
    // copies and seeks by itself) after ENOSYS, and does not ask again: `ls -l` and `cp` save a request per file.

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
