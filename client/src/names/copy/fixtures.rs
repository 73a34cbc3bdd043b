//! For the tests of the copy.

use dfs_proto::attr::{FileKind, InodeAttr, Timestamp};
use dfs_proto::ids::InodeId;
use dfs_proto::units::ByteLen;

pub(super) const DIRECTORY: InodeId = InodeId(500);

/// Everybody may do everything with it.
pub(super) fn attr(inode: InodeId, kind: FileKind, content_version: u64) -> InodeAttr {
    let time = Timestamp::default();
    InodeAttr {
        inode,
        kind,
        mode: 0o777,
        nlink: 1,
        uid: 0,
        gid: 0,
        size: ByteLen(0),
        allocated: ByteLen(0),
        rdev: 0,
        atime: time,
        mtime: time,
        ctime: time,
        content_version,
    }
}
