//! Calls that list directories.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use dfs_client::ClientError;
use dfs_client::inode::{Lookup, ReadDir};
use dfs_proto::attr::{AccessMask, Caller, FileKind, InodeAttr};
use dfs_proto::ids::InodeId;
use dfs_proto::meta::DirEntry;

use crate::fs::error::{FsError, FsResult};
use crate::fs::mounted::{Fs, OpenDirectory};
use crate::groups::Requester;
use crate::handles::Handle;

/// The length of the first page of a listing, and the bound of the later ones.
const PAGE_LEN_FIRST: u32 = 32;
const PAGE_LEN_MAX: u32 = 2048;

/// The cookies of `.` and `..`. The cookies of names are larger: the server's hash of a name is never so small.
const COOKIE_AFTER_DOT: u64 = 1;
const COOKIE_AFTER_DOT_DOT: u64 = 2;

/// One entry of a listing. A listing from `cookie` goes on behind it.
pub(crate) struct Listed {
    pub(crate) name: Vec<u8>,
    pub(crate) inode: InodeId,
    pub(crate) kind: FileKind,
    pub(crate) cookie: u64,
    /// There with READDIRPLUS, except for `.` and `..` and for volumes whose cluster does not answer.
    pub(crate) attr: Option<InodeAttr>,
}

impl Listed {
    /// This is `.` or `..`, of which the kernel counts no look-up.
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

impl Fs {
    /// The right to list belongs to the open directory from here on, whatever its mode becomes (P2.4). So it is checked
    /// now, by the server or, where the mode clearly grants it, by the client's copy; and pages are asked for with the
    /// rights of the mount itself. For root it is not checked: root may list everything.
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

    /// There is nothing to wait for: every change of names was durable when it was answered.
    pub(crate) fn fsyncdir(&self, handle: Handle) -> FsResult<()> {
        self.directory(handle).map(drop)
    }

    /// The entries behind `cookie` (0: from the start), about as many as one answer holds. There are none at the end.
    pub(crate) async fn list(&self, handle: Handle, cookie: u64, plus: bool) -> FsResult<Vec<Listed>> {
        let open = self.directory(handle)?;
        let inode = open.inode;
        let limit = open.page_len.load(Ordering::Relaxed);
        let mut behind = if cookie <= COOKIE_AFTER_DOT_DOT { 0 } else { cookie };
        let mut listed = Vec::new();
        loop {
            let read = ReadDir { inode, cookie: behind, limit, plus };
            let page = self.client.perform(&Caller::ROOT, read).await?;
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
            // An empty answer means the end to the kernel. So it is not given for a page whose entries have all been
            // removed meanwhile.
            if page.end || !listed.is_empty() {
                return Ok(listed);
            }
        }
    }

    /// An entry whose attributes are not in the page, with its attributes. `None` if it is gone by now. The right to
    /// list was checked.
    async fn listed_by_name(&self, directory: InodeId, entry: DirEntry) -> FsResult<Option<Listed>> {
        let lookup = Lookup { parent: directory, name: entry.name.as_bytes().to_vec() };
        match self.client.perform(&Caller::ROOT, lookup).await {
            Ok(attr) => Ok(Some(Listed { attr: Some(self.shown(attr)), ..Listed::from(entry) })),
            Err(ClientError::NotFound) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// `sent` of the `len` entries of a page fitted into the answer. The next page is about as long.
    pub(crate) fn listed(&self, handle: Handle, sent: usize, len: usize) {
        let Some(open) = self.directories.get(handle) else { return };
        let was = open.page_len.load(Ordering::Relaxed);
        open.page_len.store(next_page_len(was, sent, len), Ordering::Relaxed);
    }

    /// The kernel counts an entry of READDIRPLUS as a look-up.
    pub(crate) fn entry_looked_up(&self, directory: Handle, entry: &Listed) {
        if let Some(open) = self.directories.get(directory) {
            let is_new = self.inodes.looked_up(entry.inode, entry.kind, (open.inode, &entry.name));
            if let Some(attr) = entry.attr.as_ref().filter(|_| is_new) {
                self.inodes.began(attr);
            }
        }
    }
}

/// The length of the next page: twice as long if all of this one fitted, else as long as what fitted.
fn next_page_len(was: u32, sent: usize, len: usize) -> u32 {
    let next = if sent == len { was.saturating_mul(2) } else { sent as u32 };
    next.clamp(PAGE_LEN_FIRST / 2, PAGE_LEN_MAX)
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
}
