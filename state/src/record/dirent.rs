//! Directory entries.

use dfs_proto::attr::Name;

use super::Table;
use super::stored::stored_struct;
use super::value::FileKind;
use crate::value::dirent::DirentRecord;

/// The directory entries: the name, then where it leads. Version 1 since the first release.
pub(crate) struct Dirents;

impl Table for Dirents {
    const NAME: &'static str = "the directory entries";
    const VERSION: u8 = 1;
    type Value = (Name, DirentRecord);
    type Record = (Vec<u8>, Dirent);
}

stored_struct! {
    Dirent = DirentRecord { inode: u64, kind: FileKind }
}

/// How many names of a directory do not stand at their hash. Version 1 since the first release.
pub(crate) struct Displaced;

impl Table for Displaced {
    const NAME: &'static str = "the displaced names";
    const VERSION: u8 = 1;
    type Value = u64;
    type Record = u64;
}
