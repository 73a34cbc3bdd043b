//! Inodes.

use serde::{Deserialize, Serialize};

use super::stored::{Broken, Stored};
use super::value::{FileKind, Timestamp};
use super::{Old, Table, read_as};
use crate::value::inode::{Attached, InodeFlags, InodeRecord};
use crate::value::space::SpaceRecord;

/// The inodes. Version 2: a birth time, flags, and what else the inode has; its space is in a table of its own. Version 1 since
/// the first release.
pub(crate) struct Inodes;

impl Table for Inodes {
    const NAME: &'static str = "the inodes";
    const VERSION: u8 = 2;
    const OLD: &'static [Old<InodeRecord>] = &[Old { version: 1, read: read_as::<Inode1, _> }];
    type Value = InodeRecord;
    type Record = Inode;
}

const IMMUTABLE: u8 = 1;
const APPEND_ONLY: u8 = 2;

const ATTRIBUTES: u8 = 1;
const LISTS: u8 = 2;
const CAPABILITIES: u8 = 4;

#[derive(Serialize, Deserialize)]
pub(crate) struct Inode {
    kind: FileKind,
    mode: u32,
    nlink: u32,
    uid: u32,
    gid: u32,
    size: u64,
    rdev: u32,
    atime: Timestamp,
    mtime: Timestamp,
    ctime: Timestamp,
    born: Option<Timestamp>,
    content_version: u64,
    content_seq: u64,
    parent: u64,
    target: Vec<u8>,
    /// Bits: 1 immutable, 2 append-only.
    flags: u8,
    /// Bits: 1 extended attributes, 2 access control lists, 4 capabilities.
    has: u8,
}

impl Stored<InodeRecord> for Inode {
    fn store(live: &InodeRecord) -> Inode {
        let bit = |is_set: bool, bit: u8| if is_set { bit } else { 0 };
        let InodeFlags { immutable, append_only } = live.flags;
        let Attached { attributes, lists, capabilities } = live.has;
        Inode {
            kind: FileKind::store(&live.kind),
            mode: live.mode,
            nlink: live.nlink,
            uid: live.uid,
            gid: live.gid,
            size: live.size.0,
            rdev: live.rdev,
            atime: Timestamp::store(&live.atime),
            mtime: Timestamp::store(&live.mtime),
            ctime: Timestamp::store(&live.ctime),
            born: Option::store(&live.born),
            content_version: live.content_version,
            content_seq: live.content_seq.0,
            parent: live.parent.0,
            target: live.target.clone(),
            flags: bit(immutable, IMMUTABLE) | bit(append_only, APPEND_ONLY),
            has: bit(attributes, ATTRIBUTES) | bit(lists, LISTS) | bit(capabilities, CAPABILITIES),
        }
    }

    fn live(self) -> Result<InodeRecord, Broken> {
        let (flags, has) = (self.flags, self.has);
        if flags & !(IMMUTABLE | APPEND_ONLY) != 0 || has & !(ATTRIBUTES | LISTS | CAPABILITIES) != 0 {
            return Err(Broken(format!("unknown bits: flags {flags:#x}, has {has:#x}")));
        }
        Ok(InodeRecord {
            kind: self.kind.live()?,
            mode: self.mode,
            nlink: self.nlink,
            uid: self.uid,
            gid: self.gid,
            size: self.size.live()?,
            rdev: self.rdev,
            atime: self.atime.live()?,
            mtime: self.mtime.live()?,
            ctime: self.ctime.live()?,
            content_version: self.content_version,
            content_seq: self.content_seq.live()?,
            parent: self.parent.live()?,
            target: self.target,
            born: self.born.live()?,
            flags: InodeFlags { immutable: flags & IMMUTABLE != 0, append_only: flags & APPEND_ONLY != 0 },
            has: Attached {
                attributes: has & ATTRIBUTES != 0,
                lists: has & LISTS != 0,
                capabilities: has & CAPABILITIES != 0,
            },
            space_within: None,
        })
    }
}

/// Of version 1.
#[derive(Serialize, Deserialize)]
pub(super) struct Inode1 {
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

impl Stored<InodeRecord> for Inode1 {
    fn store(live: &InodeRecord) -> Inode1 {
        let space = live.space_within.unwrap_or_default();
        Inode1 {
            kind: FileKind::store(&live.kind),
            mode: live.mode,
            nlink: live.nlink,
            uid: live.uid,
            gid: live.gid,
            size: live.size.0,
            allocated: space.allocated.0,
            rdev: live.rdev,
            atime: Timestamp::store(&live.atime),
            mtime: Timestamp::store(&live.mtime),
            ctime: Timestamp::store(&live.ctime),
            content_version: live.content_version,
            content_seq: live.content_seq.0,
            cuts: space.cuts,
            parent: live.parent.0,
            target: live.target.clone(),
        }
    }

    fn live(self) -> Result<InodeRecord, Broken> {
        Ok(InodeRecord {
            kind: self.kind.live()?,
            mode: self.mode,
            nlink: self.nlink,
            uid: self.uid,
            gid: self.gid,
            size: self.size.live()?,
            rdev: self.rdev,
            atime: self.atime.live()?,
            mtime: self.mtime.live()?,
            ctime: self.ctime.live()?,
            content_version: self.content_version,
            content_seq: self.content_seq.live()?,
            parent: self.parent.live()?,
            target: self.target,
            born: None,
            flags: InodeFlags::default(),
            has: Attached::default(),
            space_within: Some(SpaceRecord { allocated: self.allocated.live()?, cuts: self.cuts }),
        })
    }
}
