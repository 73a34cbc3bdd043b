//! Names, times, attributes, and the caller on whose behalf a request is made.

use bytes::Bytes;

use crate::attr::{BadName, Caller, FileKind, InodeAttr, Name, Timestamp};
use crate::convert::{invalid, required};
use crate::error::MetaError;
use crate::ids::{ClusterId, InodeId};
use crate::meta::MetaResult;
use crate::units::ByteLen;
use crate::wire;

pub fn cluster_from_wire(bytes: &[u8]) -> MetaResult<ClusterId> {
    ClusterId::from_wire(bytes).ok_or_else(|| invalid("cluster id is not 16 bytes"))
}

pub fn name_from_wire(bytes: Bytes) -> MetaResult<Name> {
    Name::new(bytes).map_err(|bad| match bad {
        BadName::TooLong => MetaError::NameTooLong,
        BadName::Invalid => invalid("name"),
    })
}

pub(super) fn bytes_of(name: &Name) -> Bytes {
    Bytes::copy_from_slice(name.as_bytes())
}

pub fn timestamp_to_wire(time: Timestamp) -> wire::Timestamp {
    wire::Timestamp { seconds: time.seconds, nanos: time.nanos }
}

pub fn timestamp_from_wire(time: wire::Timestamp) -> MetaResult<Timestamp> {
    if time.nanos >= 1_000_000_000 {
        return Err(invalid("nanoseconds"));
    }
    Ok(Timestamp { seconds: time.seconds, nanos: time.nanos })
}

pub(super) fn kind_to_wire(kind: FileKind) -> wire::FileKind {
    match kind {
        FileKind::File => wire::FileKind::File,
        FileKind::Directory => wire::FileKind::Directory,
        FileKind::Symlink => wire::FileKind::Symlink,
        FileKind::Fifo => wire::FileKind::Fifo,
        FileKind::Socket => wire::FileKind::Socket,
        FileKind::CharDevice => wire::FileKind::CharDevice,
        FileKind::BlockDevice => wire::FileKind::BlockDevice,
    }
}

pub(super) fn kind_from_wire(kind: i32) -> MetaResult<FileKind> {
    Ok(match wire::FileKind::try_from(kind) {
        Ok(wire::FileKind::File) => FileKind::File,
        Ok(wire::FileKind::Directory) => FileKind::Directory,
        Ok(wire::FileKind::Symlink) => FileKind::Symlink,
        Ok(wire::FileKind::Fifo) => FileKind::Fifo,
        Ok(wire::FileKind::Socket) => FileKind::Socket,
        Ok(wire::FileKind::CharDevice) => FileKind::CharDevice,
        Ok(wire::FileKind::BlockDevice) => FileKind::BlockDevice,
        Ok(wire::FileKind::Unspecified) | Err(_) => return Err(invalid("file kind")),
    })
}

pub fn attr_to_wire(attr: &InodeAttr) -> wire::Attr {
    wire::Attr {
        inode: attr.inode.0,
        kind: kind_to_wire(attr.kind) as i32,
        mode: attr.mode,
        nlink: attr.nlink,
        uid: attr.uid,
        gid: attr.gid,
        size: attr.size.0,
        allocated: attr.allocated.0,
        rdev: attr.rdev,
        atime: Some(timestamp_to_wire(attr.atime)),
        mtime: Some(timestamp_to_wire(attr.mtime)),
        ctime: Some(timestamp_to_wire(attr.ctime)),
        content_version: attr.content_version,
    }
}

pub fn attr_from_wire(attr: wire::Attr) -> MetaResult<InodeAttr> {
    Ok(InodeAttr {
        inode: InodeId(attr.inode),
        kind: kind_from_wire(attr.kind)?,
        mode: attr.mode & 0o7777,
        nlink: attr.nlink,
        uid: attr.uid,
        gid: attr.gid,
        size: ByteLen(attr.size),
        allocated: ByteLen(attr.allocated),
        rdev: attr.rdev,
        atime: timestamp_from_wire(required(attr.atime, "atime")?)?,
        mtime: timestamp_from_wire(required(attr.mtime, "mtime")?)?,
        ctime: timestamp_from_wire(required(attr.ctime, "ctime")?)?,
        content_version: attr.content_version,
    })
}

pub(super) fn caller_to_wire(caller: &Caller) -> wire::Caller {
    wire::Caller {
        uid: caller.uid,
        gid: caller.gid,
        groups_known: caller.groups.is_some(),
        groups: caller.groups.clone().unwrap_or_default(),
    }
}

/// As many as Linux allows a process (NGROUPS_MAX).
const GROUPS_MAX: usize = 65_536;

pub(super) fn caller_from_wire(caller: wire::Caller) -> MetaResult<Caller> {
    if caller.groups.len() > GROUPS_MAX {
        return Err(invalid("too many groups"));
    }
    Ok(Caller { uid: caller.uid, gid: caller.gid, groups: caller.groups_known.then_some(caller.groups) })
}
