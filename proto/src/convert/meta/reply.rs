//! Replies to changes.

use super::attr::{attr_from_wire, attr_to_wire};
use super::error::{error_from_wire, error_to_wire};
use super::replica::{replicas_from_wire, replicas_to_wire};
use crate::attr::InodeAttr;
use crate::convert::required;
use crate::ids::{ChunkId, InodeId, SetVersion};
use crate::meta::{Changed, MetaResult, OpenedChunk};
use crate::units::ByteLen;
use crate::wire;

pub fn changed_to_wire(result: MetaResult<Changed>) -> wire::ChangeReply {
    use wire::change_reply::Result as Wire;
    let result = match result {
        Err(error) => Wire::Error(error_to_wire(&error)),
        Ok(Changed::Done) => Wire::Done(wire::Done {}),
        Ok(Changed::Inode { attr, existed, next_commit }) => {
            Wire::Inode(wire::ChangedInode { attr: Some(attr_to_wire(&attr)), existed, next_commit })
        }
        Ok(Changed::Removed { orphan }) => {
            Wire::Removed(wire::Removed { orphan: orphan.map_or(0, |inode| inode.0) })
        }
        Ok(Changed::Chunk(opened)) => Wire::Chunk(wire::OpenedChunk {
            chunk: opened.chunk.0,
            set_version: opened.set_version.0,
            replicas: replicas_to_wire(&opened.replicas),
        }),
        Ok(Changed::Sealed { committed }) => Wire::Sealed(wire::Sealed { committed: committed.0 }),
        Ok(Changed::Committed { attrs }) => {
            Wire::Committed(wire::Committed { attrs: attrs.iter().map(attr_to_wire).collect() })
        }
    };
    wire::ChangeReply { result: Some(result), directories: Vec::new(), writes: false, leased: Vec::new() }
}

/// The directories that a change altered. What cannot be read is left out: nobody depends on it.
pub fn directories_from_wire(reply: &mut wire::ChangeReply) -> Vec<InodeAttr> {
    std::mem::take(&mut reply.directories).into_iter().filter_map(|attr| attr_from_wire(attr).ok()).collect()
}

pub fn changed_from_wire(reply: wire::ChangeReply) -> MetaResult<Changed> {
    use wire::change_reply::Result as Wire;
    Ok(match required(reply.result, "result")? {
        Wire::Error(error) => return Err(error_from_wire(error)),
        Wire::Done(wire::Done {}) => Changed::Done,
        Wire::Inode(inode) => Changed::Inode {
            attr: attr_from_wire(required(inode.attr, "attr")?)?,
            existed: inode.existed,
            next_commit: inode.next_commit,
        },
        Wire::Removed(removed) => {
            Changed::Removed { orphan: (removed.orphan != 0).then_some(InodeId(removed.orphan)) }
        }
        Wire::Chunk(opened) => Changed::Chunk(OpenedChunk {
            chunk: ChunkId(opened.chunk),
            set_version: SetVersion(opened.set_version),
            replicas: replicas_from_wire(opened.replicas),
        }),
        Wire::Sealed(sealed) => Changed::Sealed { committed: ByteLen(sealed.committed) },
        Wire::Committed(committed) => Changed::Committed {
            attrs: committed.attrs.into_iter().map(attr_from_wire).collect::<MetaResult<_>>()?,
        },
    })
}
