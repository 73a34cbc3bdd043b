//! The inodes that the kernel knows: how often it looked each up, and under which name last.
//!
//! I1  An inode is in this table exactly while the kernel has look-ups of it that it has not taken back (`forget`); the root directory from
//!     the beginning, because the kernel knows it without one. So the kernel bounds the table, by its own inode cache.
//! I2  Pages of an inode are in the kernel's cache only while the inode is in this table. How long it may keep them is
//!     decided by [`KeptPages`] (V6).
//! I3  A directory that this mount removed is kept, without a name, while the kernel knows it: a process may stand in
//!     it, or have it open. (An open file keeps itself; a removed file that is not open may be known to the kernel
//!     for long.)
//! I4  Reads that fill pages are noted, so that writes find those that may have missed them (`page_reads`).
//! I5  Names are for messages only (which file could not be written). They may be outdated, and nothing is decided by
//!     them.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::{Mutex, PoisonError};

use dfs_client::inode::Orphan;
use dfs_client::interim::KeptPages;
use dfs_proto::attr::{FileKind, InodeAttr};
use dfs_proto::ids::{InodeId, VolumeId};
use dfs_proto::units::ByteLen;
use tokio::time::Instant;

use crate::page_reads::{PageReads, RequestNumber};
use crate::taken::Taken;

/// How many parents are followed for a path. Deeper ones are shown as `…`.
const PATH_DEPTH_MAX: usize = 64;

struct Known {
    lookups: u64,
    kind: FileKind,
    parent: InodeId,
    name: Box<[u8]>,
    /// Which content the kernel's pages show (I2).
    pages: KeptPages,
    /// Which attributes it has for certain.
    taken: Taken,
    /// Keeps a removed directory (I3).
    orphan: Option<Orphan>,
    /// Which of them were filled (I4).
    reads: PageReads,
    /// The size when a write past the page cache began, until that write is answered.
    growing_from: Option<u64>,
}

impl Known {
    fn new(kind: FileKind, (parent, name): (InodeId, &[u8])) -> Known {
        Known {
            lookups: 0,
            kind,
            parent,
            name: name.into(),
            pages: KeptPages::default(),
            taken: Taken::default(),
            orphan: None,
            reads: PageReads::default(),
            growing_from: None,
        }
    }
}

/// A write past the page cache. When this is dropped, the kernel gets the new size.
pub(crate) struct Growing<'i> {
    inodes: &'i Inodes,
    inode: InodeId,
}

impl Drop for Growing<'_> {
    fn drop(&mut self) {
        self.inodes.with(|known| {
            if let Some(entry) = known.get_mut(&self.inode) {
                entry.growing_from = None;
            }
        });
    }
}

/// The table. Its lock is held for one look-up or one path and never with another.
pub(crate) struct Inodes(Mutex<HashMap<InodeId, Known>>);

impl Inodes {
    pub(crate) fn new() -> Inodes {
        let root = Known { lookups: 1, ..Known::new(FileKind::Directory, (InodeId::ROOT, b"")) };
        Inodes(Mutex::new(HashMap::from([(InodeId::ROOT, root)])))
    }

    fn with<T>(&self, act: impl FnOnce(&mut HashMap<InodeId, Known>) -> T) -> T {
        act(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// The kernel gets an answer with `inode`: one look-up more. True if it did not know the inode before.
    pub(crate) fn looked_up(&self, inode: InodeId, kind: FileKind, (parent, name): (InodeId, &[u8])) -> bool {
        self.with(|known| {
            let is_new = !known.contains_key(&inode);
            let entry = known.entry(inode).or_insert_with(|| Known::new(kind, (parent, name)));
            entry.lookups += 1;
            if entry.parent != parent || *entry.name != *name {
                entry.parent = parent;
                entry.name = name.into();
            }
            is_new
        })
    }

    /// The kernel knows the inode by an answer with these attributes.
    pub(crate) fn began(&self, attr: &InodeAttr) {
        self.with(|known| {
            if let Some(entry) = known.get_mut(&attr.inode) {
                entry.taken = Taken::began(attr, Instant::now());
            }
        });
    }

    /// The kernel has look-ups of it that it has not taken back.
    pub(crate) fn is_known(&self, inode: InodeId) -> bool {
        self.with(|known| known.contains_key(&inode))
    }

    /// An open has found these attributes. True if the kernel may keep its pages (I2).
    pub(crate) fn opened_at(&self, attr: &InodeAttr) -> bool {
        self.with(|known| known.get_mut(&attr.inode).is_some_and(|entry| entry.pages.opened_at(attr)))
    }

    /// Looks at what is known of the kernel's pages (I2). False if the kernel does not know the inode.
    pub(crate) fn pages_are(&self, inode: InodeId, are: impl FnOnce(&KeptPages) -> bool) -> bool {
        self.with(|known| known.get(&inode).is_some_and(|entry| are(&entry.pages)))
    }

    /// What the kernel wrote was committed: [`KeptPages::moved`].
    pub(crate) fn content_moved(&self, inode: InodeId, from: u64, to: u64) {
        self.with(|known| {
            if let Some(entry) = known.get_mut(&inode) {
                entry.pages.moved(from, to);
            }
        });
    }

    /// All pages that are older than these attributes were dropped, after those had been seen.
    pub(crate) fn pages_dropped_at(&self, attr: &InodeAttr) {
        self.with(|known| {
            if let Some(entry) = known.get_mut(&attr.inode) {
                entry.pages.dropped_at(attr);
            }
        });
    }

    /// The kernel's pages show bytes that are not the file's: the next open does not keep them.
    pub(crate) fn pages_differ(&self, inode: InodeId) {
        self.with(|known| {
            if let Some(entry) = known.get_mut(&inode) {
                entry.pages.differ();
            }
        });
    }

    /// The kernel gets pages with these bytes. To be called before the file is looked at (PR1 of `page_reads`).
    pub(crate) fn reads_pages(&self, inode: InodeId, number: RequestNumber, bytes: Range<u64>) {
        self.with(|known| {
            if let Some(entry) = known.get_mut(&inode) {
                entry.reads.begin(number, bytes);
            }
        });
    }

    /// Pages of these bytes that may have been filled by a request that was sent after `write` (PR2 of `page_reads`).
    pub(crate) fn overtaken(
        &self,
        inode: InodeId,
        write: RequestNumber,
        bytes: &Range<u64>,
    ) -> Option<Range<u64>> {
        self.with(|known| known.get(&inode)?.reads.overtook(write, bytes))
    }

    /// Pages of these bytes that the kernel may have filled. Whoever asks drops them.
    pub(crate) fn take_reads(&self, inode: InodeId, bytes: &Range<u64>) -> Option<Range<u64>> {
        self.with(|known| known.get_mut(&inode)?.reads.take(bytes))
    }

    /// A write past the page cache begins; the file has `size` now. The kernel sends one such write of each inode at
    /// a time.
    pub(crate) fn grow_past_cache(&self, inode: InodeId, size: u64) -> Growing<'_> {
        self.with(|known| {
            if let Some(entry) = known.get_mut(&inode) {
                entry.growing_from = Some(size);
            }
        });
        Growing { inodes: self, inode }
    }

    /// The kernel gets attributes: these, but perhaps with another size. `asked`: when its question for them arrived.
    pub(crate) fn show(&self, mut attr: InodeAttr, asked: Option<Instant>) -> InodeAttr {
        self.with(|known| {
            if let Some(entry) = known.get_mut(&attr.inode) {
                attr.size = entry.growing_from.map_or(attr.size, |from| attr.size.min(ByteLen(from)));
                entry.pages.show(&attr);
                entry.taken.answered(&attr, asked, Instant::now());
            }
            attr
        })
    }

    /// The kernel has the size and the mtime of these attributes.
    pub(crate) fn has_taken(&self, attr: &InodeAttr) -> bool {
        self.with(|known| known.get(&attr.inode).is_some_and(|entry| entry.taken.are(attr, Instant::now())))
    }

    /// The kernel is told to forget the attributes.
    pub(crate) fn invalidated(&self, inode: InodeId) {
        self.with(|known| {
            if let Some(entry) = known.get_mut(&inode) {
                entry.taken.invalidated(Instant::now());
            }
        });
    }

    /// An inode was removed or replaced. To be called before the kernel gets the answer.
    pub(crate) fn orphaned(&self, orphan: Option<Orphan>) {
        let Some(orphan) = orphan else { return };
        let not_kept = self.with(|known| match known.get_mut(&orphan.inode()) {
            Some(entry) if entry.kind == FileKind::Directory => entry.orphan.replace(orphan), // keeps I3
            _ => Some(orphan),
        });
        drop(not_kept); // not under the lock
    }

    /// The kernel takes `count` look-ups back.
    pub(crate) fn forget(&self, inode: InodeId, count: u64) {
        let forgotten = self.with(|known| {
            let entry = known.get_mut(&inode)?;
            entry.lookups = entry.lookups.saturating_sub(count);
            if entry.lookups == 0 { known.remove(&inode) } else { None } // keeps I1
        });
        drop(forgotten); // not under the lock
    }

    /// The name of `inode` in messages: its path from the root of the mount as far as it is known, else its number.
    pub(crate) fn describe(&self, inode: InodeId) -> String {
        let names = self.with(|known| {
            let mut names = Vec::new();
            let mut at = inode;
            let goes_on = |at, len| at != InodeId::ROOT && len < PATH_DEPTH_MAX;
            while let (true, Some(entry)) = (goes_on(at, names.len()), known.get(&at)) {
                names.push(entry.name.escape_ascii().to_string());
                at = entry.parent;
            }
            if at != InodeId::ROOT && !names.is_empty() {
                names.push("…".to_owned());
            }
            names
        });
        if names.is_empty() {
            return inode.to_string();
        }
        let path: Vec<String> = names.into_iter().rev().collect();
        format!("{} ({inode})", path.join("/"))
    }

    /// A message of the client library, which starts with an inode's number, with the path instead.
    pub(crate) fn with_path(&self, message: &str) -> String {
        let parts = message.strip_prefix("inode ").and_then(|rest| {
            let (volume, rest) = rest.split_once(':')?;
            let (number, why) = rest.split_once(':')?;
            Some((InodeId::new(VolumeId(volume.parse().ok()?), number.parse().ok()?)?, why))
        });
        match parts {
            Some((inode, why)) => format!("{}:{why}", self.describe(inode)),
            None => message.to_owned(),
        }
    }

    /// Beside the root directory.
    #[cfg(test)]
    fn count(&self) -> usize {
        self.with(|known| known.len() - 1)
    }
}

#[cfg(test)]
mod tests {
    use dfs_proto::attr::Timestamp;

    use super::*;

    #[test]
    fn an_inode_is_known_until_every_lookup_is_taken_back() {
        let inodes = Inodes::new();
        for _ in 0..3 {
            inodes.looked_up(InodeId(5), FileKind::File, (InodeId::ROOT, b"five"));
        }
        inodes.forget(InodeId(5), 2);
        assert_eq!(inodes.count(), 1);
        inodes.forget(InodeId(5), 1);
        assert_eq!(inodes.count(), 0);
        inodes.forget(InodeId(5), 1);
        assert_eq!(inodes.count(), 0);
    }

    fn attr(size: u64, content_version: u64) -> InodeAttr {
        let time = Timestamp::default();
        InodeAttr {
            inode: InodeId(5),
            kind: FileKind::File,
            mode: 0,
            nlink: 1,
            uid: 0,
            gid: 0,
            size: ByteLen(size),
            allocated: ByteLen(0),
            rdev: 0,
            atime: time,
            mtime: time,
            ctime: time,
            content_version,
        }
    }

    #[test]
    fn pages_hold_while_the_kernel_knows_the_inode_and_the_content_is_the_same() {
        let inodes = Inodes::new();
        assert!(!inodes.opened_at(&attr(0, 1)), "unknown to the kernel");
        inodes.looked_up(InodeId(5), FileKind::File, (InodeId::ROOT, b"five"));
        assert!(!inodes.opened_at(&attr(0, 1)), "the first open");
        assert!(inodes.opened_at(&attr(0, 1)));
        assert!(!inodes.opened_at(&attr(0, 2)), "changed");
        let are_older =
            |version| inodes.pages_are(InodeId(5), |pages| pages.are_older_unnoticed(&attr(0, version)));
        assert_eq!([2, 3].map(are_older), [false, true]);
        inodes.pages_dropped_at(&attr(0, 3));
        assert!(!are_older(3));
        inodes.forget(InodeId(5), 1);
        inodes.looked_up(InodeId(5), FileKind::File, (InodeId::ROOT, b"five"));
        assert!(!inodes.opened_at(&attr(0, 3)), "the kernel had dropped it");
    }

    #[test]
    fn a_size_is_shown_when_the_write_past_the_cache_has_ended() {
        let inodes = Inodes::new();
        inodes.looked_up(InodeId(5), FileKind::File, (InodeId::ROOT, b"five"));
        let growing = inodes.grow_past_cache(InodeId(5), 10);
        let shown = |size| inodes.show(attr(size, 1), None).size.0;
        assert_eq!([30, 7].map(shown), [10, 7]);
        assert_eq!(inodes.show(InodeAttr { inode: InodeId(6), ..attr(30, 1) }, None).size.0, 30);
        drop(growing);
        assert_eq!(shown(30), 30);
    }

    #[test]
    fn reads_of_pages_are_known_with_the_inode_until_they_are_taken() {
        let (inodes, inode, page) = (Inodes::new(), InodeId(5), 0..4096);
        let overtaken = || inodes.overtaken(inode, RequestNumber(6), &page);
        inodes.reads_pages(inode, RequestNumber(7), page.clone());
        assert_eq!(overtaken(), None, "the kernel does not know the inode");
        inodes.looked_up(inode, FileKind::File, (InodeId::ROOT, b"five"));
        inodes.reads_pages(inode, RequestNumber(7), page.clone());
        assert_eq!([overtaken(), overtaken()], [Some(page.clone()), Some(page.clone())]);
        assert_eq!([(); 2].map(|()| inodes.take_reads(inode, &page)), [Some(page.clone()), None]);
        assert_eq!(overtaken(), None);
    }

    #[test]
    fn a_message_names_the_path_as_far_as_it_is_known() {
        let inodes = Inodes::new();
        assert_eq!(inodes.describe(InodeId(9)), InodeId(9).to_string());
        inodes.looked_up(InodeId(8), FileKind::Directory, (InodeId::ROOT, b"directory"));
        inodes.looked_up(InodeId(9), FileKind::File, (InodeId(8), b"old name"));
        inodes.looked_up(InodeId(9), FileKind::File, (InodeId(8), b"file\n"));
        assert_eq!(inodes.describe(InodeId(9)), "directory/file\\n (inode 0:9)");
        inodes.forget(InodeId(8), 1);
        assert_eq!(inodes.describe(InodeId(9)), "…/file\\n (inode 0:9)");
    }

    #[test]
    fn a_message_of_the_client_gets_the_path() {
        let inodes = Inodes::new();
        inodes.looked_up(InodeId(9), FileKind::File, (InodeId::ROOT, b"file"));
        let message = format!("{}: 12 bytes: no answer", InodeId(9));
        assert_eq!(inodes.with_path(&message), "file (inode 0:9): 12 bytes: no answer");
        assert_eq!(inodes.with_path("everything: 0:9: x"), "everything: 0:9: x");
    }

    #[test]
    fn names_that_lead_in_a_circle_still_make_an_end() {
        let inodes = Inodes::new();
        inodes.looked_up(InodeId(8), FileKind::File, (InodeId(9), b"a"));
        inodes.looked_up(InodeId(9), FileKind::File, (InodeId(8), b"b"));
        assert!(inodes.describe(InodeId(8)).starts_with("…/"));
    }
}
