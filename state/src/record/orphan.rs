//! Inodes without a name.

use dfs_proto::ids::{InodeId, SessionId};

use super::Table;

/// Who holds an orphan. Version 1 since the first release.
pub(crate) struct Orphans;

impl Table for Orphans {
    const NAME: &'static str = "the orphans";
    const VERSION: u8 = 1;
    type Value = SessionId;
    type Record = u64;
}

/// The queue of released inodes. Version 1 since the first release.
pub(crate) struct Released;

impl Table for Released {
    const NAME: &'static str = "the released inodes";
    const VERSION: u8 = 1;
    type Value = InodeId;
    type Record = u64;
}
