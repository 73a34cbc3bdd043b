//! Everything about a file but its names, its extents and what they take.

use dfs_proto::attr::{FileKind, InodeAttr, Timestamp};
use dfs_proto::ids::{ContentSeq, InodeId};
use dfs_proto::units::ByteLen;

use super::space::SpaceRecord;
use crate::command::RootAttr;

pub(crate) const SET_UID: u32 = 0o4000;
pub(crate) const SET_GID: u32 = 0o2000;
pub(crate) const STICKY: u32 = 0o1000;
pub(crate) const MODE_BITS: u32 = 0o7777;
const GROUP_EXECUTE: u32 = 0o0010;

/// Everything about a file but its names and extents.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct InodeRecord {
    pub kind: FileKind,
    pub mode: u32,
    /// 0: an orphan.
    pub nlink: u32,
    pub uid: u32,
    pub gid: u32,
    /// Of a directory: its entries.
    pub size: ByteLen,
    pub rdev: u32,
    pub atime: Timestamp,
    pub mtime: Timestamp,
    pub ctime: Timestamp,
    pub content_version: u64,
    /// The last one given to a commit or truncation of this inode.
    pub content_seq: ContentSeq,
    /// Of a directory: where `..` leads. The root's is itself.
    pub parent: InodeId,
    /// Of a symbolic link.
    pub target: Vec<u8>,
    /// When it was made; `None`: by a release that did not record it.
    pub born: Option<Timestamp>,
    pub flags: InodeFlags,
    pub has: Attached,
    /// What a record of version 1 says of its space. It counts until there is a `SpaceRecord`; see [`put`].
    pub space_within: Option<SpaceRecord>,
}

/// What `chattr` sets. Nobody can set any yet.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct InodeFlags {
    pub immutable: bool,
    pub append_only: bool,
}

/// What an inode has in other tables, so that who finds that it has none need not look there. There are no such tables yet.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Attached {
    pub attributes: bool,
    pub lists: bool,
    pub capabilities: bool,
}

impl InodeRecord {
    pub(crate) fn empty_directory(
        root: RootAttr,
        parent: InodeId,
        now: Timestamp,
        born: Option<Timestamp>,
    ) -> InodeRecord {
        InodeRecord {
            kind: FileKind::Directory,
            mode: root.mode & MODE_BITS,
            nlink: 2,
            uid: root.uid,
            gid: root.gid,
            size: ByteLen(0),
            rdev: 0,
            atime: now,
            mtime: now,
            ctime: now,
            content_version: 0,
            content_seq: ContentSeq(0),
            parent,
            target: Vec::new(),
            born,
            flags: InodeFlags::default(),
            has: Attached::default(),
            space_within: None,
        }
    }

    /// As another cluster has shown it.
    pub(crate) fn of_volume_root(attr: &InodeAttr) -> InodeRecord {
        let root = RootAttr { mode: attr.mode, uid: attr.uid, gid: attr.gid };
        InodeRecord {
            kind: attr.kind,
            nlink: attr.nlink,
            size: attr.size,
            ..InodeRecord::empty_directory(root, InodeId::ROOT, attr.ctime, None)
        }
    }

    /// Of an inode with that much space.
    pub(crate) fn attr_with(&self, inode: InodeId, allocated: ByteLen) -> InodeAttr {
        InodeAttr {
            inode,
            kind: self.kind,
            mode: self.mode,
            nlink: self.nlink,
            uid: self.uid,
            gid: self.gid,
            size: self.size,
            allocated,
            rdev: self.rdev,
            atime: self.atime,
            mtime: self.mtime,
            ctime: self.ctime,
            content_version: self.content_version,
        }
    }

    pub(crate) fn is_directory(&self) -> bool {
        self.kind == FileKind::Directory
    }

    /// Clears what must not survive a change of content or owner. Set-gid without group execute is not a privilege.
    pub(crate) fn kill_privileges(&mut self) {
        if self.is_directory() {
            return;
        }
        self.mode &= !SET_UID;
        if self.mode & GROUP_EXECUTE != 0 {
            self.mode &= !SET_GID;
        }
    }

    /// A new number for a commit or truncation; later ones win.
    pub(crate) fn next_content(&mut self) -> ContentSeq {
        self.content_seq.0 += 1;
        self.content_version += 1;
        self.content_seq
    }
}
