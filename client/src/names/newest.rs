//! Which of two answers about an inode is the newer one.

use dfs_proto::attr::InodeAttr;

/// `attr`, with the content of `base` where that is of a later version. Answers overtake each other on their way, and the
/// version of the content says which of them the cluster gave first.
pub(crate) fn newest(attr: &InodeAttr, base: &InodeAttr) -> InodeAttr {
    if attr.content_version >= base.content_version {
        return attr.clone();
    }
    InodeAttr {
        size: base.size,
        allocated: base.allocated,
        mtime: base.mtime,
        ctime: attr.ctime.latest(base.ctime),
        content_version: base.content_version,
        ..attr.clone()
    }
}
