//! Inodes without a name.

use dfs_proto::ids::{InodeId, SessionId};

use super::stored::Broken;
use super::{Old, Table, read_as};

/// How many sessions hold an orphan; table 15 says which. Version 1: there was one, and the record said which.
pub(crate) struct Orphans;

impl Table for Orphans {
    const NAME: &'static str = "the orphans";
    const VERSION: u8 = 2;
    const OLD: &'static [Old<u32>] = &[Old { version: 1, read: one_holder }];
    type Value = u32;
    type Record = u32;
}

fn one_holder(record: &[u8]) -> Result<u32, Broken> {
    read_as::<u64, SessionId>(record).map(|_| 1)
}

/// The queue of released inodes. Version 1 since the first release.
pub(crate) struct Released;

impl Table for Released {
    const NAME: &'static str = "the released inodes";
    const VERSION: u8 = 1;
    type Value = InodeId;
    type Record = u64;
}
