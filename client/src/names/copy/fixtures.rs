//! For the tests of the copy.

use dfs_proto::attr::{FileKind, InodeAttr, Name, Timestamp};
use dfs_proto::ids::InodeId;
use dfs_proto::meta::DirEntry;
use dfs_proto::units::ByteLen;

use crate::names::copy::listings::Room;

pub(super) const DIRECTORY: InodeId = InodeId(500);
/// For listings.
pub(super) const ROOM: Room = Room { in_all: 5000, of_one: 2000 };

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

/// An entry of a listing, without attributes.
pub(super) fn entry(cookie: u64) -> DirEntry {
    let name = Name::new(format!("name {cookie}")).unwrap();
    DirEntry { name, inode: InodeId(1000 + cookie), kind: FileKind::File, cookie, attr: None }
}
