//! V6: the kernel keeps its pages of a file as long as the content is of the version that they show.
//!
//! Pages enter the kernel's cache only through an open file, and versions of the content only grow. So if two opens in a row see the
//! same version, and no other was shown between them, every page shows that version; else the kernel drops its pages at the open.
//!
//! What was written through the kernel's own pages is in them. So when it is committed, and nobody else has changed the content since the
//! version that they show, they show the version of the commit.
//!
//! Between opens the kernel drops all pages when it is shown another size or mtime than it knows. `rsync --times` and others set both
//! back to what they were. Then, and only then, the kernel has to be told: it does not take an answer that is under way when it is
//! told, so where the size has changed, that would leave it with the old one.

use dfs_proto::attr::{InodeAttr, Timestamp};

/// The kernel knows what it was shown last, unless so many answers in a row came too late for it.
const SHOWN_MAX: usize = 8;

/// What is known of the kernel's pages of one inode.
#[derive(Clone, Debug, Default)]
pub struct KeptPages {
    /// What the kernel was shown since the last open. There is nothing before the first one.
    shown: Vec<Shown>,
    /// The pages may show bytes that are not the file's.
    differ: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Shown {
    content_version: u64,
    size: u64,
    mtime: Timestamp,
}

impl Shown {
    fn of(attr: &InodeAttr) -> Shown {
        Shown { content_version: attr.content_version, size: attr.size.0, mtime: attr.mtime }
    }
}

impl KeptPages {
    /// An open has found these attributes. True if the kernel may keep its pages.
    pub fn opened_at(&mut self, attr: &InodeAttr) -> bool {
        let may_keep = !self.shown.is_empty() && !self.are_older_than(attr);
        self.dropped_at(attr);
        may_keep
    }

    /// The pages may show older content than these attributes are of.
    pub fn are_older_than(&self, attr: &InodeAttr) -> bool {
        self.differ || self.shown.iter().any(|shown| shown.content_version < attr.content_version)
    }

    /// They may, and the kernel will not notice when it is shown these attributes.
    pub fn are_older_unnoticed(&self, attr: &InodeAttr) -> bool {
        let now = Shown::of(attr);
        let is_like = |shown: &Shown| (shown.size, shown.mtime) == (now.size, now.mtime);
        self.shown.iter().any(|shown| shown.content_version < now.content_version && is_like(shown))
    }

    /// The kernel gets these attributes.
    pub fn show(&mut self, attr: &InodeAttr) {
        let now = Shown::of(attr);
        if self.shown.last().is_none_or(|last| *last == now) {
            return;
        }
        if self.shown.len() >= SHOWN_MAX {
            self.shown.remove(0);
        }
        self.shown.push(now);
    }

    /// The kernel's own writes have made the content of version `from` that of `to`.
    pub fn moved(&mut self, from: u64, to: u64) {
        for shown in self.shown.iter_mut().filter(|shown| shown.content_version == from) {
            shown.content_version = to;
        }
    }

    /// All pages that are older than these attributes were dropped, after those had been seen.
    pub fn dropped_at(&mut self, attr: &InodeAttr) {
        self.shown.clear();
        self.shown.push(Shown::of(attr));
        self.differ = false;
    }

    /// The pages show bytes that are not the file's: the next open does not keep them.
    pub fn differ(&mut self) {
        self.differ = true;
    }
}

#[cfg(test)]
mod tests {
    use dfs_proto::attr::FileKind;
    use dfs_proto::ids::InodeId;
    use dfs_proto::units::ByteLen;

    use super::*;

    fn attr(content_version: u64, size: u64, mtime: i64) -> InodeAttr {
        let time = Timestamp { seconds: mtime, nanos: 0 };
        InodeAttr {
            inode: InodeId(7),
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
    fn pages_are_kept_only_over_opens_that_find_the_same_content() {
        let mut pages = KeptPages::default();
        assert!(!pages.opened_at(&attr(1, 10, 5)), "the first open");
        assert!(pages.opened_at(&attr(1, 10, 5)));
        assert!(pages.opened_at(&attr(1, 10, 6)), "times are no content");
        assert!(!pages.opened_at(&attr(2, 10, 6)), "the content has changed");
        pages.differ();
        assert!(!pages.opened_at(&attr(2, 10, 6)));
        assert!(pages.opened_at(&attr(2, 10, 6)));
        pages.show(&attr(3, 11, 7));
        assert!(!pages.opened_at(&attr(3, 11, 7)), "nobody knows whether the kernel has taken the answer");
    }

    #[test]
    fn the_kernel_does_not_notice_new_content_with_a_size_and_a_time_that_it_was_shown_before() {
        let mut pages = KeptPages::default();
        assert!(!pages.are_older_unnoticed(&attr(1, 10, 5)), "nobody has opened it");
        pages.opened_at(&attr(1, 10, 5));
        let unnoticed = |pages: &KeptPages| {
            [(1, 10, 5), (2, 10, 5), (2, 11, 5), (2, 10, 6)]
                .map(|(version, size, mtime)| pages.are_older_unnoticed(&attr(version, size, mtime)))
        };
        assert_eq!(unnoticed(&pages), [false, true, false, false]);
        pages.show(&attr(1, 10, 6));
        assert_eq!(unnoticed(&pages), [false, true, false, true]);
        pages.dropped_at(&attr(2, 10, 5));
        assert_eq!(unnoticed(&pages), [false; 4]);
    }

    #[test]
    fn pages_that_the_kernel_wrote_itself_show_the_content_that_they_were_committed_as() {
        let mut pages = KeptPages::default();
        pages.opened_at(&attr(1, 10, 5));
        pages.show(&attr(1, 20, 6));
        pages.moved(1, 2);
        assert!(!pages.are_older_unnoticed(&attr(2, 20, 6)));
        assert!(pages.opened_at(&attr(2, 20, 6)));
        pages.moved(3, 4);
        assert!(!pages.opened_at(&attr(4, 20, 6)), "somebody else had made 3 of 2");
        pages.differ();
        pages.moved(4, 5);
        assert!(!pages.opened_at(&attr(5, 20, 6)), "not what was written");
    }

    #[test]
    fn only_what_was_shown_last_is_remembered() {
        let mut pages = KeptPages::default();
        pages.opened_at(&attr(0, 0, 0));
        (1..=SHOWN_MAX as u64).for_each(|number| pages.show(&attr(number, number, 0)));
        assert!(!pages.are_older_unnoticed(&attr(99, 0, 0)));
        assert!(pages.are_older_unnoticed(&attr(99, 1, 0)));
    }
}
