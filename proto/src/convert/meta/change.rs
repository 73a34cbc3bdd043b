//! Requests that change something.

use bytes::Bytes;

use super::attr::{
    bytes_of, caller_from_wire, caller_to_wire, cluster_from_wire, kind_from_wire, name_from_wire,
    timestamp_from_wire, timestamp_to_wire,
};
use super::commit::{commit_from_wire, commit_to_wire};
use super::write::{held_write_from_wire, held_write_to_wire, write_grant_from_wire, write_grant_to_wire};
use crate::attr::FileKind;
use crate::convert::federation::volume_from_wire;
use crate::convert::{invalid, required};
use crate::error::MetaError;
use crate::ids::{Attachment, ChunkId, ClusterId, InodeId, RequestId, ServerId, SessionId};
use crate::meta::{
    Change, ChangeRequest, Create, Dropped, MetaResult, NewInode, OpenChunk, Rename, RenameMode, SetAttr,
    SetTime,
};
use crate::units::{ByteLen, FILE_LEN_MAX, SYMLINK_LEN_MAX};
use crate::wire;

pub fn change_request_to_wire(request: &ChangeRequest, dropped: Option<&Dropped>) -> wire::ChangeRequest {
    wire::ChangeRequest {
        cluster: request.cluster.to_wire().into(),
        session: request.session.0,
        request: request.request.0,
        answered_below: request.answered_below.0,
        caller: Some(caller_to_wire(&request.caller)),
        attachment: dropped.map_or(0, |dropped| dropped.attachment.0),
        dropped: dropped
            .map_or_else(Vec::new, |dropped| dropped.behind.iter().map(|inode| inode.0).collect()),
        write_grant: write_grant_to_wire(dropped.and_then(|dropped| dropped.wants_write)),
        wants_read: dropped.is_some_and(|dropped| dropped.wants_read),
        writes: dropped
            .map_or_else(Vec::new, |dropped| dropped.writes.iter().map(held_write_to_wire).collect()),
        change: Some(change_to_wire(&request.change)),
    }
}

pub fn change_request_from_wire(request: wire::ChangeRequest) -> MetaResult<ChangeRequest> {
    Ok(ChangeRequest {
        cluster: cluster_from_wire(&request.cluster)?,
        session: SessionId(request.session),
        request: RequestId(request.request),
        answered_below: RequestId(request.answered_below),
        caller: caller_from_wire(required(request.caller, "caller")?)?,
        change: change_from_wire(required(request.change, "change")?)?,
    })
}

/// What a session has dropped before it asked for the change.
pub fn dropped_from_wire(request: &wire::ChangeRequest) -> Option<Dropped> {
    let behind = request.dropped.iter().copied().map(InodeId).collect();
    let (wants_write, wants_read) = (write_grant_from_wire(request.write_grant), request.wants_read);
    // One that cannot be read is not held.
    let writes = request.writes.iter().filter_map(|held| held_write_from_wire(*held).ok()).collect();
    let attachment = Attachment(request.attachment);
    (request.attachment != 0).then_some(Dropped { attachment, behind, wants_write, wants_read, writes })
}

fn change_to_wire(change: &Change) -> wire::change_request::Change {
    use wire::change_request::Change as Wire;
    match change {
        Change::Create(create) => Wire::Create(create_to_wire(create)),
        Change::Link { inode, parent, name } => {
            Wire::Link(wire::Link { inode: inode.0, parent: parent.0, name: bytes_of(name) })
        }
        Change::Unlink { parent, name } => {
            Wire::Unlink(wire::RemoveName { parent: parent.0, name: bytes_of(name) })
        }
        Change::Rmdir { parent, name } => {
            Wire::Rmdir(wire::RemoveName { parent: parent.0, name: bytes_of(name) })
        }
        Change::Rename(rename) => Wire::Rename(wire::Rename {
            parent: rename.parent.0,
            name: bytes_of(&rename.name),
            new_parent: rename.new_parent.0,
            new_name: bytes_of(&rename.new_name),
            mode: rename_mode_to_wire(rename.mode) as i32,
        }),
        Change::SetAttr(set) => Wire::SetAttr(wire::SetAttr {
            inode: set.inode.0,
            mode: set.mode,
            uid: set.uid,
            gid: set.gid,
            size: set.size.map(|s| s.0),
            atime: set.atime.map(set_time_to_wire),
            mtime: set.mtime.map(set_time_to_wire),
            by_handle: set.by_handle,
            kill_privileges: set.kill_privileges,
        }),
        Change::OpenChunk(open) => Wire::OpenChunk(wire::OpenChunk {
            avoid: open.avoid.iter().map(|s| s.0).collect(),
            copies: open.copies,
            beside: open.beside.iter().map(|s| s.0).collect(),
            volume: open.volume.map(|v| v.0),
        }),
        Change::SealChunk { chunk } => Wire::SealChunk(wire::SealChunk { chunk: chunk.0 }),
        Change::CommitExtents(commit) => Wire::CommitExtents(commit_to_wire(commit)),
        Change::ReleaseOrphans { inodes } => {
            Wire::ReleaseOrphans(wire::ReleaseOrphans { inodes: inodes.iter().map(|i| i.0).collect() })
        }
    }
}

/// Inodes that one release may name.
const RELEASE_MAX: usize = 1000;
/// Servers that one opening may name, to avoid or beside it.
const SERVERS_MAX: usize = 1024;

fn change_from_wire(change: wire::change_request::Change) -> MetaResult<Change> {
    use wire::change_request::Change as Wire;
    Ok(match change {
        Wire::Create(create) => Change::Create(create_from_wire(create)?),
        Wire::Link(link) => Change::Link {
            inode: InodeId(link.inode),
            parent: InodeId(link.parent),
            name: name_from_wire(link.name)?,
        },
        Wire::Unlink(remove) => {
            Change::Unlink { parent: InodeId(remove.parent), name: name_from_wire(remove.name)? }
        }
        Wire::Rmdir(remove) => {
            Change::Rmdir { parent: InodeId(remove.parent), name: name_from_wire(remove.name)? }
        }
        Wire::Rename(rename) => Change::Rename(Rename {
            parent: InodeId(rename.parent),
            name: name_from_wire(rename.name)?,
            new_parent: InodeId(rename.new_parent),
            new_name: name_from_wire(rename.new_name)?,
            mode: rename_mode_from_wire(rename.mode)?,
        }),
        Wire::SetAttr(set) => Change::SetAttr(set_attr_from_wire(set)?),
        Wire::OpenChunk(open) => {
            if open.avoid.len().max(open.beside.len()) > SERVERS_MAX {
                return Err(invalid("too many servers to avoid, or beside it"));
            }
            Change::OpenChunk(OpenChunk {
                avoid: open.avoid.into_iter().map(ServerId).collect(),
                copies: open.copies,
                beside: open.beside.into_iter().map(ServerId).collect(),
                volume: open.volume.map(volume_from_wire).transpose()?,
            })
        }
        Wire::SealChunk(seal) => Change::SealChunk { chunk: ChunkId(seal.chunk) },
        Wire::CommitExtents(commit) => Change::CommitExtents(commit_from_wire(commit)?),
        Wire::ReleaseOrphans(release) => {
            if release.inodes.len() > RELEASE_MAX {
                return Err(invalid("more than 1000 inodes in one release"));
            }
            Change::ReleaseOrphans { inodes: release.inodes.into_iter().map(InodeId).collect() }
        }
    })
}

fn create_to_wire(create: &Create) -> wire::Create {
    let cluster;
    let (kind, target, rdev) = match &create.what {
        NewInode::File => (wire::FileKind::File, &[][..], 0),
        NewInode::Directory => (wire::FileKind::Directory, &[][..], 0),
        NewInode::Volume { cluster: of } => {
            cluster = of.0.to_be_bytes();
            (wire::FileKind::Directory, &cluster[..], 0)
        }
        NewInode::Symlink { target } => (wire::FileKind::Symlink, target.as_slice(), 0),
        NewInode::Fifo => (wire::FileKind::Fifo, &[][..], 0),
        NewInode::Socket => (wire::FileKind::Socket, &[][..], 0),
        NewInode::CharDevice { rdev } => (wire::FileKind::CharDevice, &[][..], *rdev),
        NewInode::BlockDevice { rdev } => (wire::FileKind::BlockDevice, &[][..], *rdev),
    };
    wire::Create {
        parent: create.parent.0,
        name: bytes_of(&create.name),
        mode: create.mode,
        kind: kind as i32,
        target: Bytes::copy_from_slice(target),
        rdev,
        or_existing: create.or_existing,
        opens: create.opens,
    }
}

fn create_from_wire(create: wire::Create) -> MetaResult<Create> {
    let what = match kind_from_wire(create.kind)? {
        FileKind::File => NewInode::File,
        FileKind::Directory => match ClusterId::from_wire(&create.target) {
            Some(cluster) if cluster.is_known() => NewInode::Volume { cluster },
            Some(_) => NewInode::Directory,
            None => return Err(invalid("the cluster of a new volume is no id")),
        },
        FileKind::Symlink if create.target.is_empty() => return Err(MetaError::NotFound),
        FileKind::Symlink if create.target.len() > SYMLINK_LEN_MAX => return Err(MetaError::NameTooLong),
        FileKind::Symlink => NewInode::Symlink { target: create.target.to_vec() },
        FileKind::Fifo => NewInode::Fifo,
        FileKind::Socket => NewInode::Socket,
        FileKind::CharDevice => NewInode::CharDevice { rdev: create.rdev },
        FileKind::BlockDevice => NewInode::BlockDevice { rdev: create.rdev },
    };
    Ok(Create {
        parent: InodeId(create.parent),
        name: name_from_wire(create.name)?,
        mode: create.mode & 0o7777,
        what,
        or_existing: create.or_existing,
        opens: create.opens,
    })
}

fn rename_mode_to_wire(mode: RenameMode) -> wire::RenameMode {
    match mode {
        RenameMode::Replace => wire::RenameMode::Replace,
        RenameMode::NoReplace => wire::RenameMode::NoReplace,
        RenameMode::Exchange => wire::RenameMode::Exchange,
    }
}

fn rename_mode_from_wire(mode: i32) -> MetaResult<RenameMode> {
    Ok(match wire::RenameMode::try_from(mode) {
        Ok(wire::RenameMode::Replace) => RenameMode::Replace,
        Ok(wire::RenameMode::NoReplace) => RenameMode::NoReplace,
        Ok(wire::RenameMode::Exchange) => RenameMode::Exchange,
        Err(_) => return Err(invalid("mode of a rename")),
    })
}

fn set_time_to_wire(time: SetTime) -> wire::SetTime {
    match time {
        SetTime::Now => wire::SetTime { now: true, at: None },
        SetTime::At(at) => wire::SetTime { now: false, at: Some(timestamp_to_wire(at)) },
    }
}

fn set_time_from_wire(time: wire::SetTime) -> MetaResult<SetTime> {
    if time.now {
        return Ok(SetTime::Now);
    }
    Ok(SetTime::At(timestamp_from_wire(required(time.at, "time")?)?))
}

fn set_attr_from_wire(set: wire::SetAttr) -> MetaResult<SetAttr> {
    if set.size.is_some_and(|s| s > FILE_LEN_MAX) {
        return Err(MetaError::FileTooLarge);
    }
    Ok(SetAttr {
        inode: InodeId(set.inode),
        mode: set.mode.map(|m| m & 0o7777),
        uid: set.uid,
        gid: set.gid,
        size: set.size.map(ByteLen),
        atime: set.atime.map(set_time_from_wire).transpose()?,
        mtime: set.mtime.map(set_time_from_wire).transpose()?,
        by_handle: set.by_handle,
        kill_privileges: set.kill_privileges,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::attr::Name;

    fn rename(mode: RenameMode) -> Change {
        let [name, new_name] = ["a", "b"].map(|text| Name::new(text).unwrap());
        Change::Rename(Rename { parent: InodeId(5), name, new_parent: InodeId(7), new_name, mode })
    }

    /// The first two have the bytes of the bool that was there before them.
    #[test]
    fn a_rename_comes_back_in_its_mode_and_one_of_an_unknown_mode_is_refused() {
        for (mode, number) in
            [(RenameMode::Replace, 0), (RenameMode::NoReplace, 1), (RenameMode::Exchange, 2)]
        {
            let wire = change_to_wire(&rename(mode));
            let wire::change_request::Change::Rename(sent) = &wire else { panic!("{wire:?}") };
            assert_eq!(sent.mode, number);
            assert_eq!(change_from_wire(wire), Ok(rename(mode)));
        }
        let mut wire = change_to_wire(&rename(RenameMode::Replace));
        let wire::change_request::Change::Rename(sent) = &mut wire else { panic!("{wire:?}") };
        sent.mode = 99;
        assert_eq!(change_from_wire(wire), Err(invalid("mode of a rename")));
    }
}
