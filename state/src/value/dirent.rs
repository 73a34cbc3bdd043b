//! Where a directory entry leads.

use dfs_proto::attr::{FileKind, Name};
use dfs_proto::ids::InodeId;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct DirentRecord {
    pub inode: InodeId,
    pub kind: FileKind,
}

/// An entry as it stands in its directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Dirent {
    pub cookie: u64,
    pub name: Name,
    pub record: DirentRecord,
}
