//! Requests that only read, and their replies.

use bytes::Bytes;

use super::attr::{
    attr_from_wire, attr_to_wire, bytes_of, caller_from_wire, caller_to_wire, cluster_from_wire,
    kind_from_wire, kind_to_wire, name_from_wire,
};
use super::commit::{extent_from_wire, extent_to_wire};
use super::error::{error_from_wire, error_to_wire};
use super::replica::{location_from_wire, location_to_wire};
use crate::attr::{AccessMask, InodeAttr};
use crate::convert::{invalid, required};
use crate::ids::{Attachment, InodeId, SessionId};
use crate::meta::{
    DirEntry, ExtentsAt, FewExtents, FileExtents, MetaResult, Read, ReadReply, ReadRequest, Shown, StatFs,
};
use crate::units::{ByteLen, Offset};
use crate::wire;

pub fn read_request_to_wire(request: &ReadRequest) -> wire::ReadRequest {
    use wire::read_request::Read as Wire;
    let access = |inode: InodeId, mask: AccessMask| wire::Access { inode: inode.0, mask: u32::from(mask.0) };
    let read = match &request.read {
        Read::Lookup { parent, name } => {
            Wire::Lookup(wire::Lookup { parent: parent.0, name: Bytes::copy_from_slice(name) })
        }
        Read::GetAttr { inode } => Wire::GetAttr(inode.0),
        Read::Access { inode, mask } => Wire::Access(access(*inode, *mask)),
        Read::Open { inode, mask } => Wire::Open(access(*inode, *mask)),
        Read::ReadLink { inode } => Wire::ReadLink(inode.0),
        Read::ReadDir { inode, cookie, limit, plus } => {
            Wire::ReadDir(wire::ReadDir { inode: inode.0, cookie: *cookie, limit: *limit, plus: *plus })
        }
        Read::ReadAhead { inode, cookie, limit } => {
            Wire::ReadAhead(wire::ReadAhead { inode: inode.0, cookie: *cookie, limit: *limit })
        }
        Read::Extents { inode, offset, len, limit } => {
            Wire::Extents(wire::ExtentsOf { inode: inode.0, offset: offset.0, len: *len, limit: *limit })
        }
        Read::ExtentsNear { inode } => Wire::ExtentsNear(inode.0),
        Read::StatFs { inode } => Wire::StatFs(inode.0),
    };
    wire::ReadRequest {
        cluster: request.cluster.to_wire().into(),
        session: request.session.0,
        caller: Some(caller_to_wire(&request.caller)),
        attachment: request.leases.map_or(0, |attachment| attachment.0),
        read: Some(read),
    }
}

fn mask_from_wire(mask: u32) -> MetaResult<AccessMask> {
    if mask > 7 {
        return Err(invalid("access mask"));
    }
    Ok(AccessMask(mask as u8))
}

pub fn read_request_from_wire(request: wire::ReadRequest) -> MetaResult<ReadRequest> {
    use wire::read_request::Read as Wire;
    let read = match required(request.read, "read")? {
        Wire::Lookup(lookup) => Read::Lookup { parent: InodeId(lookup.parent), name: lookup.name.to_vec() },
        Wire::GetAttr(inode) => Read::GetAttr { inode: InodeId(inode) },
        Wire::Access(access) => {
            Read::Access { inode: InodeId(access.inode), mask: mask_from_wire(access.mask)? }
        }
        Wire::Open(access) => Read::Open { inode: InodeId(access.inode), mask: mask_from_wire(access.mask)? },
        Wire::ReadLink(inode) => Read::ReadLink { inode: InodeId(inode) },
        Wire::ReadDir(dir) => {
            Read::ReadDir { inode: InodeId(dir.inode), cookie: dir.cookie, limit: dir.limit, plus: dir.plus }
        }
        Wire::ReadAhead(of) => {
            Read::ReadAhead { inode: InodeId(of.inode), cookie: of.cookie, limit: of.limit }
        }
        Wire::Extents(of) => Read::Extents {
            inode: InodeId(of.inode),
            offset: Offset(of.offset),
            len: of.len,
            limit: of.limit,
        },
        Wire::ExtentsNear(inode) => Read::ExtentsNear { inode: InodeId(inode) },
        Wire::StatFs(inode) => Read::StatFs { inode: InodeId(inode) },
    };
    Ok(ReadRequest {
        cluster: cluster_from_wire(&request.cluster)?,
        session: SessionId(request.session),
        caller: caller_from_wire(required(request.caller, "caller")?)?,
        leases: (request.attachment != 0).then_some(Attachment(request.attachment)),
        read,
    })
}

pub fn shown_to_wire(shown: Shown) -> wire::ReadReply {
    use wire::read_reply::Result as Wire;
    let result = match shown.answered {
        Err(error) => Wire::Error(error_to_wire(&error)),
        Ok(ReadReply::Attr(attr)) => Wire::Attr(attr_to_wire(&attr)),
        Ok(ReadReply::Elsewhere(inode)) => Wire::Elsewhere(inode.0),
        Ok(ReadReply::Opened { attr, next_commit, extents }) => {
            let without_attr = |extents| wire::FileExtents { attr: None, ..extents_to_wire(extents) };
            let extents = extents.as_ref().map(without_attr);
            Wire::Opened(wire::Opened { attr: Some(attr_to_wire(&attr)), next_commit, extents })
        }
        Ok(ReadReply::Granted) => Wire::Granted(wire::Done {}),
        Ok(ReadReply::Target(target)) => Wire::Target(target.into()),
        Ok(ReadReply::Entries { entries, end, parent }) => Wire::Entries(wire::Entries {
            entries: entries.iter().map(entry_to_wire).collect(),
            end,
            parent: parent.0,
        }),
        Ok(ReadReply::Extents(extents)) => Wire::Extents(extents_to_wire(&extents)),
        Ok(ReadReply::FewExtents(few)) => Wire::FewExtents(few_extents_to_wire(&few)),
        Ok(ReadReply::StatFs(stat)) => {
            Wire::StatFs(wire::StatFs { total: stat.total.0, free: stat.free.0, inodes: stat.inodes })
        }
    };
    let leased = shown.leased.iter().map(|inode| inode.0).collect();
    wire::ReadReply { result: Some(result), leased }
}

fn extents_to_wire(extents: &FileExtents) -> wire::FileExtents {
    wire::FileExtents {
        attr: Some(attr_to_wire(&extents.attr)),
        extents: extents.extents.iter().map(extent_to_wire).collect(),
        up_to: extents.up_to.0,
        chunks: extents.chunks.iter().map(location_to_wire).collect(),
    }
}

fn extents_from_wire(extents: wire::FileExtents, attr: InodeAttr) -> MetaResult<FileExtents> {
    Ok(FileExtents {
        attr,
        extents: extents.extents.into_iter().map(extent_from_wire).collect::<MetaResult<_>>()?,
        up_to: Offset(extents.up_to),
        chunks: extents.chunks.into_iter().map(location_from_wire).collect(),
    })
}

fn few_extents_to_wire(few: &FewExtents) -> wire::FewExtents {
    let file = |of: &ExtentsAt| wire::ExtentsAt {
        inode: of.inode.0,
        content_version: of.content_version,
        extents: of.extents.iter().map(extent_to_wire).collect(),
    };
    wire::FewExtents {
        files: few.files.iter().map(file).collect(),
        chunks: few.chunks.iter().map(location_to_wire).collect(),
    }
}

fn few_extents_from_wire(few: wire::FewExtents) -> MetaResult<FewExtents> {
    let file = |of: wire::ExtentsAt| {
        let extents = of.extents.into_iter().map(extent_from_wire).collect::<MetaResult<_>>()?;
        Ok(ExtentsAt { inode: InodeId(of.inode), content_version: of.content_version, extents })
    };
    Ok(FewExtents {
        files: few.files.into_iter().map(file).collect::<MetaResult<_>>()?,
        chunks: few.chunks.into_iter().map(location_from_wire).collect(),
    })
}

fn entry_to_wire(entry: &DirEntry) -> wire::Entry {
    wire::Entry {
        name: bytes_of(&entry.name),
        inode: entry.inode.0,
        kind: kind_to_wire(entry.kind) as i32,
        cookie: entry.cookie,
        attr: entry.attr.as_ref().map(attr_to_wire),
    }
}

fn entry_from_wire(entry: wire::Entry) -> MetaResult<DirEntry> {
    Ok(DirEntry {
        name: name_from_wire(entry.name)?,
        inode: InodeId(entry.inode),
        kind: kind_from_wire(entry.kind)?,
        cookie: entry.cookie,
        attr: entry.attr.map(attr_from_wire).transpose()?,
    })
}

pub fn shown_from_wire(reply: wire::ReadReply) -> Shown {
    let leased = reply.leased.iter().copied().map(InodeId).collect();
    Shown { answered: read_reply_from_wire(reply), leased }
}

fn read_reply_from_wire(reply: wire::ReadReply) -> MetaResult<ReadReply> {
    use wire::read_reply::Result as Wire;
    Ok(match required(reply.result, "result")? {
        Wire::Error(error) => return Err(error_from_wire(error)),
        Wire::Attr(attr) => ReadReply::Attr(attr_from_wire(attr)?),
        Wire::Elsewhere(inode) => ReadReply::Elsewhere(InodeId(inode)),
        Wire::Opened(wire::Opened { attr, next_commit, extents }) => {
            let attr = attr_from_wire(required(attr, "attr")?)?;
            let extents = extents.map(|extents| extents_from_wire(extents, attr.clone())).transpose()?;
            ReadReply::Opened { attr, next_commit, extents }
        }
        Wire::Granted(wire::Done {}) => ReadReply::Granted,
        Wire::Target(target) => ReadReply::Target(target.to_vec()),
        Wire::Entries(entries) => ReadReply::Entries {
            entries: entries.entries.into_iter().map(entry_from_wire).collect::<MetaResult<_>>()?,
            end: entries.end,
            parent: InodeId(entries.parent),
        },
        Wire::Extents(mut extents) => {
            let attr = attr_from_wire(required(extents.attr.take(), "attr")?)?;
            ReadReply::Extents(extents_from_wire(extents, attr)?)
        }
        Wire::FewExtents(few) => ReadReply::FewExtents(few_extents_from_wire(few)?),
        Wire::StatFs(stat) => ReadReply::StatFs(StatFs {
            total: ByteLen(stat.total),
            free: ByteLen(stat.free),
            inodes: stat.inodes,
        }),
    })
}
