//! Write leases of files.

use prost::Message as _;

use super::attr::{attr_from_wire, attr_to_wire, cluster_from_wire};
use super::error::{error_from_wire, error_to_wire};
use super::session::attachment_from_wire;
use crate::convert::{invalid, required};
use crate::ids::{InodeId, SessionId, WriteGrant};
use crate::meta::{Acquire, Acquired, HeldWrite, MetaResult, ReturnWrites, WriteRecall};
use crate::wire;

/// The path of the push that asks for Write leases back.
pub const RECALL_WRITE: &str = "recall write";

pub(super) fn held_write_to_wire(held: &HeldWrite) -> wire::HeldWrite {
    wire::HeldWrite { inode: held.inode.0, grant: held.grant.0 }
}

pub(super) fn held_write_from_wire(held: wire::HeldWrite) -> MetaResult<HeldWrite> {
    let grant = required(write_grant_from_wire(held.grant), "number of a grant")?;
    Ok(HeldWrite { inode: InodeId(held.inode), grant })
}

pub(super) fn write_grant_to_wire(grant: Option<WriteGrant>) -> u64 {
    grant.map_or(0, |grant| grant.0)
}

pub(super) fn write_grant_from_wire(grant: u64) -> Option<WriteGrant> {
    (grant != 0).then_some(WriteGrant(grant))
}

pub fn acquire_to_wire(acquire: &Acquire) -> wire::AcquireRequest {
    wire::AcquireRequest {
        cluster: acquire.cluster.to_wire().into(),
        session: acquire.session.0,
        attachment: acquire.attachment.0,
        write: Some(held_write_to_wire(&acquire.write)),
    }
}

pub fn acquire_from_wire(acquire: wire::AcquireRequest) -> MetaResult<Acquire> {
    Ok(Acquire {
        cluster: cluster_from_wire(&acquire.cluster)?,
        session: SessionId(acquire.session),
        attachment: attachment_from_wire(acquire.attachment)?,
        write: held_write_from_wire(required(acquire.write, "write")?)?,
    })
}

pub fn acquired_to_wire(result: MetaResult<Acquired>) -> wire::AcquireReply {
    use wire::acquire_reply::Result as Wire;
    let result = match result {
        Ok(Acquired::Granted { attr, next_commit }) => {
            Wire::Granted(wire::Opened { attr: Some(attr_to_wire(&attr)), next_commit, extents: None })
        }
        Ok(Acquired::NotAttached) => Wire::NotAttached(wire::Done {}),
        Err(error) => Wire::Error(error_to_wire(&error)),
    };
    wire::AcquireReply { result: Some(result) }
}

pub fn acquired_from_wire(reply: wire::AcquireReply) -> MetaResult<Acquired> {
    use wire::acquire_reply::Result as Wire;
    Ok(match required(reply.result, "result")? {
        Wire::Error(error) => return Err(error_from_wire(error)),
        Wire::Granted(granted) => Acquired::Granted {
            attr: attr_from_wire(required(granted.attr, "attr")?)?,
            next_commit: granted.next_commit,
        },
        Wire::NotAttached(wire::Done {}) => Acquired::NotAttached,
    })
}

pub fn write_recall_to_push(recall: &WriteRecall) -> wire::Push {
    let writes = recall.writes.iter().map(held_write_to_wire).collect();
    let recall = wire::RecallWrites { attachment: recall.attachment.0, writes };
    wire::Push { path: RECALL_WRITE.to_owned(), message: recall.encode_to_vec().into() }
}

/// `None`: a push of another kind.
pub fn write_recall_from_push(push: &wire::Push) -> MetaResult<Option<WriteRecall>> {
    if push.path != RECALL_WRITE {
        return Ok(None);
    }
    let recall =
        wire::RecallWrites::decode(push.message.as_ref()).map_err(|_| invalid("a recall of Write"))?;
    let writes = recall.writes.into_iter().map(held_write_from_wire).collect::<MetaResult<_>>()?;
    Ok(Some(WriteRecall { attachment: attachment_from_wire(recall.attachment)?, writes }))
}

pub fn return_writes_to_wire(returned: &ReturnWrites) -> wire::ReturnWritesRequest {
    wire::ReturnWritesRequest {
        cluster: returned.cluster.to_wire().into(),
        session: returned.session.0,
        writes: returned.writes.iter().map(held_write_to_wire).collect(),
    }
}

pub fn return_writes_from_wire(returned: wire::ReturnWritesRequest) -> MetaResult<ReturnWrites> {
    Ok(ReturnWrites {
        cluster: cluster_from_wire(&returned.cluster)?,
        session: SessionId(returned.session),
        writes: returned.writes.into_iter().map(held_write_from_wire).collect::<MetaResult<_>>()?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::Attachment;

    const HELD: HeldWrite = HeldWrite { inode: InodeId(7), grant: WriteGrant(3) };

    #[test]
    fn a_recall_of_write_survives_the_wire() {
        let recall = WriteRecall { attachment: Attachment(2), writes: vec![HELD] };
        assert_eq!(write_recall_from_push(&write_recall_to_push(&recall)), Ok(Some(recall)));
    }

    #[test]
    fn a_push_of_another_kind_is_no_recall_of_write() {
        let push = wire::Push { path: "recall".to_owned(), message: Vec::new().into() };
        assert_eq!(write_recall_from_push(&push), Ok(None));
    }

    #[test]
    fn a_lease_without_a_number_is_refused() {
        let unnumbered = wire::HeldWrite { inode: 7, grant: 0 };
        assert!(held_write_from_wire(unnumbered).is_err());
        assert_eq!(held_write_from_wire(held_write_to_wire(&HELD)), Ok(HELD));
    }
}
