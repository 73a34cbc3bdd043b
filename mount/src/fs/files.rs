//! Calls that open, read and close files.

use std::sync::Arc;

use bytes::Bytes;
use dfs_client::ClientError;
use dfs_client::inode::{CreateOpen, File, Open, OpenMode};
use dfs_proto::attr::{AccessMask, Caller, InodeAttr};
use dfs_proto::ids::InodeId;
use dfs_proto::meta::{Create, NewInode};
use dfs_proto::units::Offset;

use crate::fs::error::{FsError, FsResult};
use crate::fs::mounted::{Fs, OpenFile};
use crate::fs::names::entry_name;
use crate::groups::Requester;
use crate::handles::Handle;
use crate::lock_owners::KernelOwner;
use crate::page_reads::RequestNumber;

/// How a file is opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct OpenFlags {
    pub(crate) mode: OpenMode,
    /// The file is opened with O_DIRECT.
    pub(crate) direct: bool,
    /// The kernel opens the file to execute it.
    pub(crate) execute: bool,
}

/// What the kernel gets for an opened file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Opened {
    pub(crate) handle: Handle,
    /// Reads and writes go past the page cache, as O_DIRECT asks for. Appends do not: an append past the page cache
    /// makes the file longer while a page still has zeros behind the old end, and a reader at that moment gets them.
    /// In the cache the bytes are in the page before the file is longer. The kernel places them by the size that it
    /// has cached; this mount places them, and drops the pages that differ (F3).
    pub(crate) direct: bool,
    /// The kernel may keep its pages (V6).
    pub(crate) pages_hold: bool,
}

impl Fs {
    fn opened(&self, file: Arc<File>, inode: InodeId, flags: OpenFlags) -> Opened {
        let pages_hold = self.inodes.opened_at(&file.attr());
        let (mode, direct) = (flags.mode, flags.direct);
        let handle = self.files.insert(OpenFile { file, inode, mode, direct });
        Opened { handle, direct, pages_hold }
    }

    pub(crate) async fn open(&self, who: Requester, inode: InodeId, flags: OpenFlags) -> FsResult<Opened> {
        let file = match self.perform(who, Open { inode, mode: flags.mode }).await {
            Err(ClientError::PermissionDenied) if flags.execute => self.open_to_execute(who, inode).await?,
            answer => answer?,
        };
        Ok(self.opened(file, inode, flags))
    }

    /// Opens a program that may be executed but not read: the kernel reads it, its user does not. So the caller's
    /// right to execute is checked, and the file is opened with the rights of the mount.
    async fn open_to_execute(&self, who: Requester, inode: InodeId) -> FsResult<Arc<File>> {
        self.access(who, inode, AccessMask::EXECUTE).await?;
        let mode = OpenMode { read: true, ..OpenMode::default() };
        Ok(self.client.perform(&Caller::ROOT, Open { inode, mode }).await?)
    }

    /// Makes and opens a file (O_CREAT). With `is_new` (O_EXCL) an existing name is refused.
    pub(crate) async fn create(
        &self,
        who: Requester,
        (parent, name): (InodeId, &[u8]),
        mode: u32,
        is_new: bool,
        flags: OpenFlags,
    ) -> FsResult<(Opened, InodeAttr)> {
        let create = Create {
            parent,
            name: entry_name(name)?,
            mode,
            what: NewInode::File,
            or_existing: !is_new,
            opens: true,
        };
        let (file, attr) = self.perform(who, CreateOpen { create, mode: flags.mode }).await?;
        self.inodes.looked_up(attr.inode, attr.kind, (parent, name));
        Ok((self.opened(file, attr.inode, flags), self.shown(attr)))
    }

    /// Reads `len` bytes; fewer only at the end of the file. `fills`: the kernel gets pages by this request.
    pub(crate) async fn read(
        &self,
        (handle, fills): (Handle, Option<RequestNumber>),
        offset: Offset,
        len: u32,
    ) -> FsResult<Bytes> {
        let open = self.file(handle)?;
        let len = u64::from(len);
        if let Some(number) = fills {
            self.inodes.reads_pages(open.inode, number, offset.0..offset.0.saturating_add(len)); // keeps F6
        }
        let read = open.file.read_at(offset, len).await;
        read.map_err(|source| FsError::File { file: self.inodes.describe(open.inode), source })
    }

    /// At each `close`: what was written is committed when this returns, and the locks of the process that closes have ended. A
    /// file that was not open for writing, and has no locks, has nothing to wait for.
    pub(crate) async fn flush(&self, handle: Handle, owner: KernelOwner) -> FsResult<()> {
        let open = self.file(handle)?;
        if let Some(written) = self.end_locks_of(&open, handle, owner).await {
            return self.written(open.inode, written);
        }
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
        let unlocked = self.end_locks_through(&open, handle).await;
        if let Err(error) = self.written(inode, unlocked.and(open.file.release().await)) {
            tracing::error!("written after the last close, and lost: {error}");
        }
        Ok(())
    }
}
