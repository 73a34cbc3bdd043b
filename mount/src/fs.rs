//! What each call of the kernel means here. No fuser types: `fuse.rs` unpacks and replies, this decides.
//!
//! F1  Every call names its caller; rights to a file's data are checked when it is opened and then belong to the open
//!     file (P2.4), whoever uses it.
//! F2  Attributes and names are never kept here: until there are leases each call asks (P5.2).
//! F3  When bytes could not be written, the kernel's pages of that file are dropped too, so that nobody reads what was
//!     never committed (P6.4).
//!     Likewise when the bytes of an append lie elsewhere than where the kernel put them in its pages.
//! F4  Once the mount is closing, nothing more is accepted that would have to be written.
//!
//! F5  A write that asks to be durable (O_SYNC, O_DSYNC, RWF_SYNC, RWF_DSYNC) is, when it is answered. Where the page cache is
//!     used the kernel sends FSYNC behind it; where it is not, the write's flags are all that says so (P5.2).
//!
//! F6  A write past the page cache makes the file longer for the kernel only when the page in which the file ended is gone (I4
//!     of `inodes`). The kernel drops that page before it sends the write, and whoever reads meanwhile brings it back. Until
//!     then nobody is shown the new size.
//!
//! Not here: retries, buffers, caches (the client library), and the words that errors become (`errno`).

use std::future::Future;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bytes::Bytes;
use dfs_client::{Client, ClientError, File, Looked, OpenMode};
use dfs_proto::attr::{AccessMask, BadName, Caller, FileKind, InodeAttr, Name};
use dfs_proto::ids::InodeId;
use dfs_proto::meta::{Create, DirEntry, NewInode, Rename, SetAttr, StatFs};
use dfs_proto::units::{ByteLen, FILE_LEN_MAX, Offset};
use tokio::sync::oneshot;
use tokio::time::timeout;

use crate::error::{FsError, FsResult};
use crate::groups::{Groups, Requester};
use crate::handles::{Handle, Handles};
use crate::inodes::Inodes;
use crate::last_known::LastKnown;

/// Drops the kernel's pages of a file, from the one with this byte in it on, and its attributes. Must not wait: it is called
/// while the kernel waits for an answer. What it gives is ready when that is done, or cannot be.
pub(crate) type DropPages = Box<dyn Fn(InodeId, Offset) -> oneshot::Receiver<()> + Send + Sync>;

/// So long the answer to a write waits for pages to be dropped. The last one may be locked by that write: it is not used then
/// before the answer, nor believed after it.
const DROP_MAX: Duration = Duration::from_millis(5);
/// The same for a write past the page cache, which locks no page. One that is being read is locked.
const DROP_LAST_MAX: Duration = Duration::from_millis(100);
/// A read that meets the end of a file while that moves looks so often whether it has moved.
const READS_MAX: u32 = 8;
/// Of the kernel. A smaller unit than its real one would be wrong, a larger one is only slower.
const PAGE_LEN: u64 = 4096;

struct OpenFile {
    file: Arc<File>,
    inode: InodeId,
    mode: OpenMode,
    /// As the kernel was told ([`Opened::direct`]).
    direct: bool,
}

/// The right to list it was asked for when it was opened (P2.4).
struct OpenDirectory {
    inode: InodeId,
    /// Entries that one answer held lately, so that about as many are fetched as will fit.
    page_len: AtomicU32,
}

/// The first page of a listing, and bounds for the later ones.
const PAGE_LEN_FIRST: u32 = 32;
const PAGE_LEN_MAX: u32 = 2048;

/// Where `.` and `..` end in a listing. Cookies of names start above: the server's hash of a name never is so small.
const COOKIE_AFTER_DOT: u64 = 1;
const COOKIE_AFTER_DOT_DOT: u64 = 2;

/// One entry of a listing; `cookie` goes on behind it.
pub(crate) struct Listed {
    pub(crate) name: Vec<u8>,
    pub(crate) inode: InodeId,
    pub(crate) kind: FileKind,
    pub(crate) cookie: u64,
    /// With READDIRPLUS, but for `.` and `..`, and for volumes whose cluster does not answer.
    pub(crate) attr: Option<InodeAttr>,
}

impl Listed {
    /// The kernel counts no look-up of these.
    pub(crate) fn is_dot(&self) -> bool {
        matches!(self.cookie, COOKIE_AFTER_DOT | COOKIE_AFTER_DOT_DOT)
    }

    fn directory(name: &[u8], inode: InodeId, cookie: u64) -> Listed {
        Listed { name: name.to_vec(), inode, kind: FileKind::Directory, cookie, attr: None }
    }
}

impl From<DirEntry> for Listed {
    fn from(entry: DirEntry) -> Listed {
        Listed {
            name: entry.name.as_bytes().to_vec(),
            inode: entry.inode,
            kind: entry.kind,
            cookie: entry.cookie,
            attr: entry.attr,
        }
    }
}

/// How a file is opened, beside its mode.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct OpenFlags {
    pub(crate) mode: OpenMode,
    /// O_DIRECT.
    pub(crate) direct: bool,
    /// The kernel opens it to execute it.
    pub(crate) execute: bool,
}

/// What the kernel is told of an opened file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Opened {
    pub(crate) handle: Handle,
    /// Reads and writes go past the page cache: O_DIRECT asks for it. Appends do not: an append that goes past the pages makes
    /// the file longer while a page still has zeros behind the old end, and who reads at that moment gets them. In the
    /// cache the bytes are in the page before the file is longer. The kernel places them by the size that it has cached; we
    /// place them, and what differs is dropped ([`Fs::append`]).
    pub(crate) direct: bool,
    /// The content is the same as at the open before: the pages that the kernel has since then are right.
    pub(crate) pages_hold: bool,
}

/// What `setattr` is asked, with the handle that the size is set through.
pub(crate) struct Change {
    pub(crate) set: SetAttr,
    pub(crate) handle: Option<Handle>,
}

/// A write as the kernel sends it.
pub(crate) struct Write {
    pub(crate) offset: Offset,
    pub(crate) data: Bytes,
    /// The file description has O_APPEND now (`fcntl` may have changed it since the open).
    pub(crate) append: bool,
    /// Pages written back: handle, caller and append mode are guesses then; only the offset counts.
    pub(crate) from_page_cache: bool,
    /// The file description has O_DIRECT now: it goes past the page cache.
    pub(crate) direct: bool,
    /// It is to be durable when it is answered.
    pub(crate) durable: bool,
    /// The kernel wants set-uid and set-gid cleared (FUSE_HANDLE_KILLPRIV_V2).
    pub(crate) kill_privileges: bool,
}

pub(crate) struct Fs {
    client: Arc<Client>,
    files: Handles<OpenFile>,
    directories: Handles<OpenDirectory>,
    inodes: Inodes,
    groups: Groups,
    root: LastKnown<InodeAttr>,
    space: LastKnown<StatFs>,
    drop_pages: OnceLock<DropPages>,
    is_closing: AtomicBool,
}

impl Fs {
    pub(crate) fn new(client: Arc<Client>) -> Fs {
        Fs {
            client,
            files: Handles::new(),
            directories: Handles::new(),
            inodes: Inodes::new(),
            groups: Groups::new(),
            root: LastKnown::new(),
            space: LastKnown::new(),
            drop_pages: OnceLock::new(),
            is_closing: AtomicBool::new(false),
        }
    }

    /// Known only once the kernel is connected. Later calls change nothing.
    pub(crate) fn set_drop_pages(&self, drop_pages: DropPages) {
        let _ = self.drop_pages.set(drop_pages);
    }

    /// Keeps F4 from now on.
    pub(crate) fn close(&self) {
        self.is_closing.store(true, Ordering::Relaxed);
    }

    pub(crate) fn inodes(&self) -> &Inodes {
        &self.inodes
    }

    /// Calls as `who`; again, with supplementary groups, when the server says that they decide (P5.6). The second try
    /// is a request of its own: the first was refused before it left a trace.
    async fn as_caller<T, F, Fut>(&self, who: Requester, call: F) -> FsResult<T>
    where
        F: Fn(Caller) -> Fut,
        Fut: Future<Output = Result<T, ClientError>>,
    {
        match call(self.groups.caller(who)).await {
            Err(ClientError::GroupsNeeded) => Ok(call(self.groups.caller_with_groups(who)).await?),
            answer => Ok(answer?),
        }
    }

    // ---- names -----------------------------------------------------------------------------------------------

    pub(crate) async fn lookup(&self, who: Requester, parent: InodeId, name: &[u8]) -> FsResult<Looked> {
        let checked = entry_name(name)?;
        let looked = self
            .as_caller(who, |caller| {
                let name = &checked;
                async move { self.client.look_up(&caller, parent, name.as_bytes()).await }
            })
            .await?;
        let (inode, kind) = match &looked {
            Looked::Attr(attr) => (attr.inode, attr.kind),
            Looked::Unanswered(volume) => (*volume, FileKind::Directory),
        };
        self.inodes.looked_up(inode, kind, (parent, name));
        Ok(match looked {
            Looked::Attr(attr) => Looked::Attr(self.shown(attr)),
            unanswered => unanswered,
        })
    }

    pub(crate) fn forget(&self, inode: InodeId, count: u64) {
        self.inodes.forget(inode, count);
    }

    /// Makes a directory, symbolic link, node or closed file.
    pub(crate) async fn make(
        &self,
        who: Requester,
        parent: InodeId,
        name: &[u8],
        mode: u32,
        what: NewInode,
    ) -> FsResult<InodeAttr> {
        let create = Create { parent, name: entry_name(name)?, mode, what, or_existing: false };
        let created = self
            .as_caller(who, |caller| {
                let create = create.clone();
                async move { self.client.create(&caller, create).await }
            })
            .await?;
        self.inodes.looked_up(created.attr.inode, created.attr.kind, (parent, name));
        Ok(created.attr)
    }

    pub(crate) async fn link(
        &self,
        who: Requester,
        inode: InodeId,
        parent: InodeId,
        name: &[u8],
    ) -> FsResult<InodeAttr> {
        let checked = entry_name(name)?;
        let attr = self
            .as_caller(who, |caller| {
                let name = &checked;
                async move { self.client.link(&caller, inode, parent, name).await }
            })
            .await?;
        self.inodes.looked_up(attr.inode, attr.kind, (parent, name));
        Ok(self.shown(attr))
    }

    pub(crate) async fn unlink(&self, who: Requester, parent: InodeId, name: &[u8]) -> FsResult<()> {
        let name = entry_name(name)?;
        self.as_caller(who, |caller| {
            let name = &name;
            async move { self.client.unlink(&caller, parent, name).await }
        })
        .await
    }

    pub(crate) async fn rmdir(&self, who: Requester, parent: InodeId, name: &[u8]) -> FsResult<()> {
        let name = entry_name(name)?;
        let orphan = self
            .as_caller(who, |caller| {
                let name = &name;
                async move { self.client.rmdir(&caller, parent, name).await }
            })
            .await?;
        self.inodes.orphaned(orphan);
        Ok(())
    }

    /// `flags` as of `renameat2`: RENAME_NOREPLACE works, any other is refused, never ignored.
    pub(crate) async fn rename(
        &self,
        who: Requester,
        (parent, name): (InodeId, &[u8]),
        (new_parent, new_name): (InodeId, &[u8]),
        flags: u32,
    ) -> FsResult<()> {
        if flags & !libc::RENAME_NOREPLACE != 0 {
            return Err(FsError::RenameFlags { flags });
        }
        let rename = Rename {
            parent,
            name: entry_name(name)?,
            new_parent,
            new_name: entry_name(new_name)?,
            no_replace: flags & libc::RENAME_NOREPLACE != 0,
        };
        let orphan = self
            .as_caller(who, |caller| {
                let rename = rename.clone();
                async move { self.client.rename(&caller, rename).await }
            })
            .await?;
        self.inodes.orphaned(orphan);
        Ok(())
    }

    pub(crate) async fn readlink(&self, who: Requester, inode: InodeId) -> FsResult<Vec<u8>> {
        self.as_caller(who, |caller| async move { self.client.readlink(&caller, inode).await }).await
    }

    // ---- attributes ------------------------------------------------------------------------------------------

    pub(crate) async fn getattr(&self, who: Requester, inode: InodeId) -> FsResult<InodeAttr> {
        let asked = |caller| async move { self.client.getattr_lately(&caller, inode).await };
        let fresh = self.as_caller(who, asked);
        let attr = if inode == InodeId::ROOT { self.root.or(fresh).await } else { fresh.await };
        attr.map(|attr| self.shown(attr))
    }

    /// Attributes as the kernel may see them now (F6).
    fn shown(&self, attr: InodeAttr) -> InodeAttr {
        let size = self.inodes.shown_size(attr.inode, attr.size.0);
        InodeAttr { size: ByteLen(size), ..attr }
    }

    pub(crate) async fn setattr(&self, who: Requester, change: Change) -> FsResult<InodeAttr> {
        let mut set = change.set;
        if set.size.is_some_and(|size| size.0 > FILE_LEN_MAX) {
            return Err(FsError::TooLarge);
        }
        // ftruncate: the right to do so came with the open (keeps F1).
        set.by_handle = match change.handle.filter(|_| set.size.is_some()) {
            Some(handle) => self.file(handle)?.mode.write,
            None => false,
        };
        // A truncation by an unprivileged caller clears set-uid and set-gid; the kernel says so in a flag that fuser
        // does not pass on, so what the flag is made of (CAP_FSETID) is taken from the uid.
        set.kill_privileges = set.size.is_some() && who.uid != 0;
        let attr = self
            .as_caller(who, |caller| {
                let set = set.clone();
                async move { self.client.setattr(&caller, set).await }
            })
            .await?;
        if let Some(size) = set.size {
            self.inodes.kernel_moved_end(attr.inode, size.0, true);
        }
        Ok(self.shown(attr))
    }

    pub(crate) async fn access(&self, who: Requester, inode: InodeId, mask: AccessMask) -> FsResult<()> {
        self.as_caller(who, |caller| async move { self.client.access(&caller, inode, mask).await }).await
    }

    pub(crate) async fn statfs(&self, inode: InodeId) -> FsResult<StatFs> {
        let fresh = async { Ok(self.client.statfs(inode).await?) };
        if inode != InodeId::ROOT {
            return fresh.await;
        }
        match self.space.or(fresh).await {
            // Other clusters are there: the mount begins and ends without the root's.
            Err(error) if error.is_unanswered() && self.client.is_of_federation() => Ok(StatFs::default()),
            space => space,
        }
    }

    // ---- files -----------------------------------------------------------------------------------------------

    fn file(&self, handle: Handle) -> FsResult<Arc<OpenFile>> {
        self.files.get(handle).ok_or(FsError::BadHandle(handle))
    }

    fn opened(&self, file: Arc<File>, inode: InodeId, flags: OpenFlags) -> Opened {
        let pages_hold = self.inodes.opened_at(inode, file.attr().content_version);
        let (mode, direct) = (flags.mode, flags.direct);
        let handle = self.files.insert(OpenFile { file, inode, mode, direct });
        Opened { handle, direct, pages_hold }
    }

    pub(crate) async fn open(&self, who: Requester, inode: InodeId, flags: OpenFlags) -> FsResult<Opened> {
        let file = self
            .as_caller(who, |caller| async move { self.client.open(&caller, inode, flags.mode).await })
            .await;
        let file = match file {
            Err(FsError::Client(ClientError::PermissionDenied)) if flags.execute => {
                self.open_to_execute(who, inode).await?
            }
            answer => answer?,
        };
        Ok(self.opened(file, inode, flags))
    }

    /// A program that may be executed but not read: the kernel reads it, its user never does. The caller's right to
    /// execute is what is asked; the file is then opened for the kernel.
    async fn open_to_execute(&self, who: Requester, inode: InodeId) -> FsResult<Arc<File>> {
        self.access(who, inode, AccessMask::EXECUTE).await?;
        let mode = OpenMode { read: true, ..OpenMode::default() };
        Ok(self.client.open(&Caller::ROOT, inode, mode).await?)
    }

    /// O_CREAT. With `is_new` (O_EXCL) an existing name is refused.
    pub(crate) async fn create(
        &self,
        who: Requester,
        (parent, name): (InodeId, &[u8]),
        mode: u32,
        is_new: bool,
        flags: OpenFlags,
    ) -> FsResult<(Opened, InodeAttr)> {
        let create =
            Create { parent, name: entry_name(name)?, mode, what: NewInode::File, or_existing: !is_new };
        let (file, attr) = self
            .as_caller(who, |caller| {
                let create = create.clone();
                async move { self.client.create_open(&caller, create, flags.mode).await }
            })
            .await?;
        self.inodes.looked_up(attr.inode, attr.kind, (parent, name));
        Ok((self.opened(file, attr.inode, flags), self.shown(attr)))
    }

    /// Shorter than `len` at the end of the file only.
    pub(crate) async fn read(&self, handle: Handle, offset: Offset, len: u32) -> FsResult<Bytes> {
        let open = self.file(handle)?;
        let read = self.read_open(&open, offset, len.into()).await;
        read.map_err(|source| FsError::File { file: self.inodes.describe(open.inode), source })
    }

    /// Keeps F6: whoever makes the file longer finds the page that this fills known, or this finds the file longer.
    async fn read_open(&self, open: &OpenFile, offset: Offset, len: u64) -> Result<Bytes, ClientError> {
        let mut tries = 1;
        loop {
            let bytes = match open.direct {
                true => open.file.read_direct(offset, len).await?,
                false => open.file.read_at(offset, len).await?, // the kernel has asked for attributes
            };
            let end = offset.0 + bytes.len() as u64;
            // Whole pages, also of a file that is open for direct I/O: it may be mapped.
            let fills_last_page =
                end < offset.0 + len && offset.0.is_multiple_of(PAGE_LEN) && len.is_multiple_of(PAGE_LEN);
            if !fills_last_page {
                return Ok(bytes);
            }
            self.inodes.reads_last_page(open.inode, end.min(open.file.size()));
            if open.file.size() <= end || tries == READS_MAX {
                return Ok(bytes);
            }
            tries += 1;
        }
    }

    pub(crate) async fn write(&self, who: Requester, handle: Handle, write: Write) -> FsResult<u32> {
        if self.is_closing.load(Ordering::Relaxed) {
            return Err(FsError::Closing); // keeps F4
        }
        let open = self.file(handle)?;
        let len = write.data.len() as u32;
        if write.offset.0.saturating_add(len.into()) > FILE_LEN_MAX {
            return Err(FsError::TooLarge);
        }
        // Whose write it is matters for set-uid and set-gid only, and about those the kernel has decided.
        let groups = None;
        let caller =
            if write.kill_privileges { Caller { uid: who.uid, gid: who.gid, groups } } else { Caller::ROOT };
        let stored = if (open.direct || write.direct) && !write.from_page_cache {
            self.write_past_cache(&open, &caller, &write).await
        } else {
            let written = self.place(&open, &caller, &write).await;
            self.inodes.kernel_moved_end(open.inode, write.offset.0 + u64::from(len), false);
            written
        };
        self.written(open.inode, stored)?;
        Ok(len)
    }

    /// Keeps F5 and F6.
    async fn write_past_cache(
        &self,
        open: &OpenFile,
        caller: &Caller,
        write: &Write,
    ) -> Result<(), ClientError> {
        let _growing = self.inodes.grow_past_cache(open.inode, open.file.size());
        self.place(open, caller, write).await?;
        if write.durable {
            open.file.sync().await?;
        }
        let size = open.file.size().max(write.offset.0 + write.data.len() as u64);
        if let (Some(page), Some(drop_pages)) =
            (self.inodes.last_page_below(open.inode, size), self.drop_pages.get())
            && let Ok(Ok(())) = timeout(DROP_LAST_MAX, drop_pages(open.inode, Offset(page.end))).await
        {
            self.inodes.last_page_dropped(open.inode, page);
        }
        Ok(())
    }

    async fn place(&self, open: &OpenFile, caller: &Caller, write: &Write) -> Result<(), ClientError> {
        match write.append && !write.from_page_cache {
            true => self.append(open, caller, write).await,
            false => open.file.write_at(caller, write.offset, &write.data).await,
        }
    }

    /// The kernel has put the bytes where it takes the end to be. If that is not the end (another mount wrote), its pages from
    /// there on are not the file's. They go before the answer, which makes the file longer for the kernel.
    async fn append(&self, open: &OpenFile, caller: &Caller, write: &Write) -> Result<(), ClientError> {
        let at = open.file.append(caller, &write.data).await?;
        if at != write.offset {
            self.inodes.pages_differ(open.inode);
            if let Some(drop_pages) = self.drop_pages.get() {
                let dropped = drop_pages(open.inode, at.min(write.offset)); // keeps F3
                // The page in which the write ends is locked until the answer: it is not waited for.
                let end = write.offset.0 + write.data.len() as u64;
                if write.offset.0 / PAGE_LEN != end / PAGE_LEN {
                    let _ = timeout(DROP_MAX, dropped).await;
                }
            }
        }
        Ok(())
    }

    /// At each `close`: what was written is committed when this returns. Who only read has nothing to wait for.
    pub(crate) async fn flush(&self, handle: Handle) -> FsResult<()> {
        let open = self.file(handle)?;
        if !open.mode.write {
            return Ok(());
        }
        self.written(open.inode, open.file.flush().await)
    }

    pub(crate) async fn fsync(&self, handle: Handle) -> FsResult<()> {
        let open = self.file(handle)?;
        self.written(open.inode, open.file.sync().await)
    }

    /// The last close. Pages that mmap dirtied were written back after the last flush; they are committed here (P6).
    pub(crate) async fn release(&self, handle: Handle) -> FsResult<()> {
        let open = self.files.remove(handle).ok_or(FsError::BadHandle(handle))?;
        let inode = open.inode;
        if let Err(error) = self.written(inode, open.file.release().await) {
            tracing::error!("written after the last close, and lost: {error}");
        }
        Ok(())
    }

    /// Keeps F3.
    fn written(&self, inode: InodeId, answer: Result<(), ClientError>) -> FsResult<()> {
        answer.map_err(|source| {
            self.inodes.pages_differ(inode);
            if let Some(drop_pages) = self.drop_pages.get() {
                drop(drop_pages(inode, Offset(0)));
            }
            FsError::File { file: self.inodes.describe(inode), source }
        })
    }

    // ---- directories -----------------------------------------------------------------------------------------

    /// The right to list belongs to the open directory from here on, whatever its mode becomes (P2.4): so the server is asked
    /// now, and pages are asked for as by the mount itself. Of root it is not asked: who may everything may list.
    pub(crate) async fn opendir(&self, who: Requester, inode: InodeId) -> FsResult<Handle> {
        if who.uid != 0 {
            self.access(who, inode, AccessMask::READ).await?;
        }
        Ok(self.directories.insert(OpenDirectory { inode, page_len: AtomicU32::new(PAGE_LEN_FIRST) }))
    }

    pub(crate) fn releasedir(&self, handle: Handle) -> FsResult<()> {
        self.directories.remove(handle).map(drop).ok_or(FsError::BadHandle(handle))
    }

    fn directory(&self, handle: Handle) -> FsResult<Arc<OpenDirectory>> {
        self.directories.get(handle).ok_or(FsError::BadHandle(handle))
    }

    /// Every change of names was durable when it was answered: there is nothing to wait for.
    pub(crate) fn fsyncdir(&self, handle: Handle) -> FsResult<()> {
        self.directory(handle).map(drop)
    }

    /// The entries behind `cookie` (0: from the start), about as many as one answer holds; none at the end.
    pub(crate) async fn list(&self, handle: Handle, cookie: u64, plus: bool) -> FsResult<Vec<Listed>> {
        let open = self.directory(handle)?;
        let inode = open.inode;
        let limit = open.page_len.load(Ordering::Relaxed);
        let mut behind = if cookie <= COOKIE_AFTER_DOT_DOT { 0 } else { cookie };
        let mut listed = Vec::new();
        loop {
            let page = self.client.read_dir(&Caller::ROOT, inode, behind, limit, plus).await?;
            if cookie < COOKIE_AFTER_DOT {
                listed.push(Listed::directory(b".", inode, COOKIE_AFTER_DOT));
            }
            if cookie < COOKIE_AFTER_DOT_DOT {
                listed.push(Listed::directory(b"..", page.parent, COOKIE_AFTER_DOT_DOT));
            }
            behind = page.entries.last().map_or(behind, |entry| entry.cookie);
            for mut entry in page.entries {
                entry.attr = entry.attr.map(|attr| self.shown(attr));
                let is_volume = entry.inode.volume() != inode.volume();
                if plus && entry.attr.is_none() && !is_volume {
                    listed.extend(self.listed_by_name(inode, entry).await?);
                } else {
                    listed.push(Listed::from(entry));
                }
            }
            // An empty answer says "the end" to the kernel, so a page whose entries all went meanwhile is not one.
            if page.end || !listed.is_empty() {
                return Ok(listed);
            }
        }
    }

    /// An entry whose attributes the page lacks; `None` if it is gone by now. The right to list was checked.
    async fn listed_by_name(&self, directory: InodeId, entry: DirEntry) -> FsResult<Option<Listed>> {
        match self.client.lookup(&Caller::ROOT, directory, entry.name.as_bytes()).await {
            Ok(attr) => Ok(Some(Listed { attr: Some(self.shown(attr)), ..Listed::from(entry) })),
            Err(ClientError::NotFound) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// What became of a page: `sent` of its `len` entries fitted into the answer. Keeps the next page about as long.
    pub(crate) fn listed(&self, handle: Handle, sent: usize, len: usize) {
        let Some(open) = self.directories.get(handle) else { return };
        let was = open.page_len.load(Ordering::Relaxed);
        open.page_len.store(next_page_len(was, sent, len), Ordering::Relaxed);
    }

    /// The kernel takes an entry of READDIRPLUS as a look-up of it.
    pub(crate) fn entry_looked_up(&self, directory: Handle, entry: &Listed) {
        if let Some(open) = self.directories.get(directory) {
            self.inodes.looked_up(entry.inode, entry.kind, (open.inode, &entry.name));
        }
    }
}

/// Twice as long when all of it fitted, else as long as what did.
fn next_page_len(was: u32, sent: usize, len: usize) -> u32 {
    let next = if sent == len { was.saturating_mul(2) } else { sent as u32 };
    next.clamp(PAGE_LEN_FIRST / 2, PAGE_LEN_MAX)
}

fn entry_name(bytes: &[u8]) -> FsResult<Name> {
    Name::new(bytes).map_err(|bad| match bad {
        BadName::TooLong => FsError::NameTooLong,
        BadName::Invalid => FsError::BadName,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_of_a_listing_grow_while_they_fit_and_shrink_to_what_does() {
        assert_eq!(next_page_len(PAGE_LEN_FIRST, 34, 34), 2 * PAGE_LEN_FIRST);
        assert_eq!(next_page_len(128, 100, 128), 100);
        assert_eq!(next_page_len(PAGE_LEN_MAX, 5000, 5000), PAGE_LEN_MAX);
        assert_eq!(next_page_len(64, 0, 64), PAGE_LEN_FIRST / 2);
    }

    #[test]
    fn bytes_that_are_no_name_of_an_entry_never_reach_the_server() {
        assert!(matches!(entry_name(&[b'x'; 256]), Err(FsError::NameTooLong)));
        for bad in [&b""[..], b".", b"..", b"a/b", b"a\0b"] {
            assert!(matches!(entry_name(bad), Err(FsError::BadName)), "{bad:?}");
        }
        assert!(entry_name(&[b'x'; 255]).is_ok());
    }
}
