//! Inodes.

use super::Table;
use super::stored::stored_struct;
use super::value::{FileKind, Timestamp};
use crate::inode;

/// The inodes. Version 1 since the first release.
pub(crate) struct Inodes;

impl Table for Inodes {
    const NAME: &'static str = "the inodes";
    const VERSION: u8 = 1;
    type Value = inode::InodeRecord;
    type Record = Inode;
}

stored_struct! {
    Inode = inode::InodeRecord {
        kind: FileKind,
        mode: u32,
        nlink: u32,
        uid: u32,
        gid: u32,
        size: u64,
        allocated: u64,
        rdev: u32,
        atime: Timestamp,
        mtime: Timestamp,
        ctime: Timestamp,
        content_version: u64,
        content_seq: u64,
        cuts: u32,
        parent: u64,
        target: Vec<u8>,
    }
}
