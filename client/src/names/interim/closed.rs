//! V5: the newest attributes of inodes that this client has closed.
//!
//! While an inode is open, its node knows the newest version of its content, and an older answer that arrives later does not
//! replace it. This table goes on with that after the close, for answers that were still on their way: without it, `stat` right
//! after a `close` could show the size from before it.

use std::num::NonZeroUsize;

use dfs_proto::attr::InodeAttr;
use dfs_proto::ids::InodeId;
use lru::LruCache;

use crate::names::newest::newest;

/// Inodes that are remembered. Answers are seconds on their way at most; a client closes fewer files than this in that time.
const CLOSED_MAX: NonZeroUsize = NonZeroUsize::new(4096).expect("not zero");

/// Attributes of inodes that are not open.
pub(crate) struct ClosedAttrs(LruCache<InodeId, InodeAttr>);

impl ClosedAttrs {
    pub(crate) fn new() -> ClosedAttrs {
        ClosedAttrs(LruCache::new(CLOSED_MAX))
    }

    /// The inode was closed, and these were its newest attributes.
    pub(crate) fn closed(&mut self, attr: InodeAttr) {
        self.0.put(attr.inode, attr);
    }

    /// The inode is opened again: from now on its node knows this.
    pub(crate) fn reopened(&mut self, inode: InodeId) -> Option<InodeAttr> {
        self.0.pop(&inode)
    }

    /// `attr`, unless newer content of it is known.
    pub(crate) fn newest(&self, attr: InodeAttr) -> InodeAttr {
        match self.0.peek(&attr.inode) {
            Some(known) => newest(&attr, known),
            None => attr,
        }
    }
}
