//! Calls that write, and what becomes of the kernel's pages.

use std::ops::Range;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use dfs_client::ClientError;
use dfs_proto::attr::{Caller, InodeAttr};
use dfs_proto::ids::InodeId;
use dfs_proto::units::{FILE_LEN_MAX, Offset};
use tokio::time::timeout;

use crate::fs::error::{FsError, FsResult};
use crate::fs::mounted::{Dropped, Fs, OpenFile};
use crate::groups::Requester;
use crate::handles::Handle;
use crate::page_reads::{PAGE_LEN, RequestNumber};

/// The longest time for which the answer to a write waits until pages are dropped, which may be locked because they are being read.
const DROP_MAX: Duration = Duration::from_millis(100);
/// The same where a page may be locked until this very write is answered. Such a page is read anew afterwards, and whoever drops the
/// others is done with them by then.
const DROP_OWN_MAX: Duration = Duration::from_millis(10);

/// A write as the kernel sends it.
pub(crate) struct Write {
    pub(crate) number: RequestNumber,
    pub(crate) offset: Offset,
    pub(crate) data: Bytes,
    /// The file description has O_APPEND now. (`fcntl` may have changed it since the open.)
    pub(crate) append: bool,
    /// The kernel writes pages back. Then its handle, caller and append mode are guesses, and only the offset counts.
    pub(crate) from_page_cache: bool,
    /// The file description has O_DIRECT now: the write goes past the page cache.
    pub(crate) direct: bool,
    /// The write must be durable when it is answered (F5).
    pub(crate) durable: bool,
    /// The kernel wants set-uid and set-gid cleared (FUSE_HANDLE_KILLPRIV_V2).
    pub(crate) kill_privileges: bool,
}

impl Write {
    /// Where the kernel has put the bytes in its pages.
    fn bytes(&self) -> Range<u64> {
        self.offset.0..self.offset.0 + self.data.len() as u64
    }

    /// The kernel sends a write through the page cache in two requests when it begins in a page that it does not have whole: the first
    /// one ends with that page.
    fn may_go_on(&self, is_direct: bool) -> bool {
        !is_direct && !self.direct && self.bytes().end.is_multiple_of(PAGE_LEN)
    }
}

impl Fs {
    pub(crate) async fn write(&self, who: Requester, handle: Handle, write: Write) -> FsResult<u32> {
        if self.is_closing.load(Ordering::Relaxed) {
            return Err(FsError::Closing); // keeps F4
        }
        let open = self.file(handle)?;
        let len = write.data.len() as u32;
        if write.offset.0.saturating_add(len.into()) > FILE_LEN_MAX {
            return Err(FsError::TooLarge);
        }
        // The caller matters only for set-uid and set-gid, and about those the kernel has decided.
        let groups = None;
        let caller =
            if write.kill_privileges { Caller { uid: who.uid, gid: who.gid, groups } } else { Caller::ROOT };
        let stored = if (open.direct || write.direct) && !write.from_page_cache {
            self.write_past_cache(&open, &caller, &write).await
        } else {
            self.write_through_cache(&open, &caller, &write).await
        };
        self.written(open.inode, stored)?;
        Ok(len)
    }

    /// Writes past the page cache; keeps F5 and F6.
    async fn write_past_cache(
        &self,
        open: &OpenFile,
        caller: &Caller,
        write: &Write,
    ) -> Result<(), ClientError> {
        let size = open.file.size();
        let _growing = self.inodes.grow_past_cache(open.inode, size);
        let at = self.place(open, caller, write).await?;
        if write.durable {
            open.file.sync().await?;
        }
        let bytes = write.offset.0.min(at.0)..at.0 + write.data.len() as u64;
        if let Some(read) = self.inodes.take_reads(open.inode, &bytes) {
            self.drop_wrong(open.inode, read, DROP_MAX).await; // keeps PR3
        }
        Ok(())
    }

    /// The kernel has the bytes in its pages already, where it took them to lie; keeps F3 and F6.
    async fn write_through_cache(
        &self,
        open: &OpenFile,
        caller: &Caller,
        write: &Write,
    ) -> Result<(), ClientError> {
        let at = self.place(open, caller, write).await?;
        if at != write.offset {
            self.drop_misplaced(open.inode, at, write.bytes()).await;
        } else if !write.from_page_cache
            && let Some(read) = self.inodes.overtaken(open.inode, write.number, &write.bytes())
        {
            self.drop_wrong(open.inode, read, DROP_MAX).await; // keeps PR2
        }
        Ok(())
    }

    /// Where the bytes lie.
    async fn place(&self, open: &OpenFile, caller: &Caller, write: &Write) -> Result<Offset, ClientError> {
        if !write.append || write.from_page_cache {
            open.file.write_at(caller, write.offset, &write.data).await?;
            return Ok(write.offset);
        }
        let at = match write.may_go_on(open.direct) {
            true => open.file.append_part(caller, &write.data).await?,
            false => open.file.append(caller, &write.data).await?,
        };
        if at != write.offset {
            self.inodes.pages_differ(open.inode);
            self.kernel.attrs.drop_attrs(&[open.inode]);
        }
        Ok(at)
    }

    /// The kernel has put the bytes of an append at the end by the size that it has cached, and they lie at `at`, because another mount has made
    /// the file longer or shorter: its pages are not the file's, and nor is that size (F3). It is told before this write is answered:
    /// later, it would not take the answer to a question for attributes that it asks meanwhile.
    async fn drop_misplaced(&self, inode: InodeId, at: Offset, put: Range<u64>) {
        let last_page = (put.end - 1) / PAGE_LEN * PAGE_LEN;
        let has_whole_last_page = put.start <= last_page && put.end.is_multiple_of(PAGE_LEN);
        // Else the kernel keeps the last one locked until this is answered, unless a read has filled it before.
        let was_filled = self.inodes.take_reads(inode, &(last_page..put.end)).is_some();
        let end = if has_whole_last_page || was_filled { put.end } else { last_page };
        let wrong = put.start.min(at.0)..end;
        if !wrong.is_empty() {
            self.drop_wrong(inode, wrong, DROP_OWN_MAX).await;
        }
    }

    /// Drops pages of the kernel that do not show what is written there. If it takes too long, it goes on behind the answer.
    async fn drop_wrong(&self, inode: InodeId, bytes: Range<u64>, within: Duration) {
        let Some(drop_pages) = self.drop_pages.get() else { return };
        let dropped = timeout(within, drop_pages(inode, Dropped::With(bytes.clone()))).await;
        if !matches!(dropped, Ok(Ok(()))) {
            self.inodes.pages_differ(inode);
            tracing::debug!("{inode}: pages of bytes {bytes:?} are still in the kernel's cache");
        }
    }

    /// Drops all pages of the kernel that are older than these attributes. It waits for those that are being read or written, so only a
    /// question for attributes or a lock may wait for it (P5.4). False: they could not be dropped.
    pub(super) async fn drop_pages_before(&self, attr: &InodeAttr) -> bool {
        let Some(drop_pages) = self.drop_pages.get() else { return true };
        let are_dropped = drop_pages(attr.inode, Dropped::All).await.is_ok();
        if are_dropped {
            self.inodes.pages_dropped_at(attr);
        }
        are_dropped
    }

    /// Bytes of the file could not be written, so the kernel's pages are dropped (F3).
    pub(crate) fn lost(&self, inode: InodeId) {
        self.inodes.pages_differ(inode);
        if let Some(drop_pages) = self.drop_pages.get() {
            drop(drop_pages(inode, Dropped::All));
        }
    }

    /// If bytes could not be written, drops the kernel's pages of the file (F3).
    pub(super) fn written(&self, inode: InodeId, answer: Result<(), ClientError>) -> FsResult<()> {
        answer.map_err(|source| {
            self.lost(inode);
            FsError::File { file: self.inodes.describe(inode), source }
        })
    }
}
