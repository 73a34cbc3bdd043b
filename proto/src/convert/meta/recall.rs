//! Recalls of leases.

use prost::Message as _;

use super::attr::cluster_from_wire;
use super::session::attachment_from_wire;
use crate::convert::invalid;
use crate::ids::{InodeId, SessionId};
use crate::meta::{MetaResult, Recall, Recalled, RecallsDone};
use crate::wire;

/// The path of the push that takes leases back.
pub const RECALL: &str = "recall";

pub fn recall_to_push(recall: &Recall) -> wire::Push {
    let inodes = match &recall.what {
        Recalled::Everything => Vec::new(),
        Recalled::Inodes(inodes) => inodes.iter().map(recalled_inode_to_wire).collect(),
    };
    let recall = wire::Recall {
        attachment: recall.attachment.0,
        number: recall.number,
        inodes,
        everything: recall.what == Recalled::Everything,
    };
    wire::Push { path: RECALL.to_owned(), message: recall.encode_to_vec().into() }
}

fn recalled_inode_to_wire((inode, names): &(InodeId, Vec<Vec<u8>>)) -> wire::RecalledInode {
    wire::RecalledInode { inode: inode.0, names: names.iter().cloned().map(Into::into).collect() }
}

/// `None`: a push of another kind.
pub fn recall_from_push(push: &wire::Push) -> MetaResult<Option<Recall>> {
    if push.path != RECALL {
        return Ok(None);
    }
    let recall = wire::Recall::decode(push.message.as_ref()).map_err(|_| invalid("a recall"))?;
    let of_inode = |recalled: wire::RecalledInode| {
        (InodeId(recalled.inode), recalled.names.iter().map(|name| name.to_vec()).collect())
    };
    let what = match recall.everything {
        true => Recalled::Everything,
        false => Recalled::Inodes(recall.inodes.into_iter().map(of_inode).collect()),
    };
    Ok(Some(Recall { attachment: attachment_from_wire(recall.attachment)?, number: recall.number, what }))
}

pub fn recalls_done_to_wire(done: &RecallsDone) -> wire::RecalledRequest {
    wire::RecalledRequest {
        cluster: done.cluster.to_wire().into(),
        session: done.session.0,
        attachment: done.attachment.0,
        number: done.number,
        open: done.open.iter().map(|inode| inode.0).collect(),
    }
}

pub fn recalls_done_from_wire(done: wire::RecalledRequest) -> MetaResult<RecallsDone> {
    Ok(RecallsDone {
        cluster: cluster_from_wire(&done.cluster)?,
        session: SessionId(done.session),
        attachment: attachment_from_wire(done.attachment)?,
        number: done.number,
        open: done.open.into_iter().map(InodeId).collect(),
    })
}
