//! Calls that write, and what becomes of the kernel's pages.

use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use dfs_client::{ClientError, OuterCache as _};
use dfs_proto::attr::{Caller, InodeAttr};
use dfs_proto::ids::InodeId;
use dfs_proto::units::{FILE_LEN_MAX, Offset};
use tokio::time::timeout;

use crate::fs::error::{FsError, FsResult};
use crate::fs::mounted::{Fs, OpenFile, PAGE_LEN};
use crate::groups::Requester;
use crate::handles::Handle;

/// The longest time for which the answer to a write past the page cache waits until a page is dropped, which may be locked because it is
/// being read.
const DROP_LAST_MAX: Duration = Duration::from_millis(100);

/// A write as the kernel sends it.
pub(crate) struct Write {
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
    /// The kernel sends a write through the page cache in two requests when it begins in a page that it does not have whole: the first
    /// one ends with that page.
    fn may_go_on(&self, is_direct: bool) -> bool {
        let end = self.offset.0 + self.data.len() as u64;
        !is_direct && !self.direct && end.is_multiple_of(PAGE_LEN)
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
            let written = self.place(&open, &caller, &write).await;
            self.inodes.kernel_moved_end(open.inode, write.offset.0 + u64::from(len), false);
            written
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
        let _growing = self.inodes.grow_past_cache(open.inode, open.file.size());
        self.place(open, caller, write).await?;
        if write.durable {
            open.file.sync().await?;
        }
        let size = open.file.size().max(write.offset.0 + write.data.len() as u64);
        if let (Some(page), Some(drop_pages)) =
            (self.inodes.last_page_below(open.inode, size), self.drop_pages.get())
        {
            match timeout(DROP_LAST_MAX, drop_pages(open.inode, Offset(page.end))).await {
                Ok(Ok(())) => self.inodes.last_page_dropped(open.inode, page),
                _ => tracing::warn!(
                    "{}: the page in which the file ended is still in the kernel's cache: readers may find zeros there",
                    open.inode
                ),
            }
        }
        Ok(())
    }

    async fn place(&self, open: &OpenFile, caller: &Caller, write: &Write) -> Result<(), ClientError> {
        match write.append && !write.from_page_cache {
            true => self.append(open, caller, write).await,
            false => open.file.write_at(caller, write.offset, &write.data).await,
        }
    }

    /// The kernel has put the bytes at the end by the size that it has cached. If that is not the end, because another mount wrote, its
    /// pages from there on are not the file's, and nor is its size (F3). If it were told so, it would not take the answer to a question
    /// for attributes that is asked at that moment; so it is told before this answers, or not at all.
    async fn append(&self, open: &OpenFile, caller: &Caller, write: &Write) -> Result<(), ClientError> {
        let at = match write.may_go_on(open.direct) {
            true => open.file.append_part(caller, &write.data).await?,
            false => open.file.append(caller, &write.data).await?,
        };
        if at != write.offset {
            self.inodes.pages_differ(open.inode);
            self.kernel_attrs.drop_attrs(&[open.inode]);
        }
        Ok(())
    }

    /// Drops all pages of the kernel that are older than these attributes. It waits for those that are being read or written, so only a
    /// question for attributes or a lock may wait for it (P5.4). False: they could not be dropped.
    pub(super) async fn drop_pages_before(&self, attr: &InodeAttr) -> bool {
        let Some(drop_pages) = self.drop_pages.get() else { return true };
        let are_dropped = drop_pages(attr.inode, Offset(0)).await.is_ok();
        if are_dropped {
            self.inodes.pages_dropped_at(attr);
        }
        are_dropped
    }

    /// If bytes could not be written, drops the kernel's pages of the file (F3).
    pub(super) fn written(&self, inode: InodeId, answer: Result<(), ClientError>) -> FsResult<()> {
        answer.map_err(|source| {
            self.inodes.pages_differ(inode);
            if let Some(drop_pages) = self.drop_pages.get() {
                drop(drop_pages(inode, Offset(0)));
            }
            FsError::File { file: self.inodes.describe(inode), source }
        })
    }
}
