//! Opening a session and renewing it.

use super::attr::{cluster_from_wire, timestamp_from_wire, timestamp_to_wire};
use super::error::{error_to_wire, refusal};
use crate::convert::{invalid, required};
use crate::ids::{Attachment, Incarnation, InodeId, SessionId, SessionNonce};
use crate::meta::{MetaResult, OpenSession, RenewSession, SessionOpened, SessionRenewed};
use crate::wire;

pub fn open_session_to_wire(open: &OpenSession) -> wire::OpenSessionRequest {
    wire::OpenSessionRequest {
        cluster: open.cluster.to_wire().into(),
        nonce: open.nonce.to_wire().into(),
        client: open.client.clone(),
    }
}

/// Bytes of a client's description that are kept.
const CLIENT_NAME_LEN_MAX: usize = 256;

pub fn open_session_from_wire(open: wire::OpenSessionRequest) -> MetaResult<OpenSession> {
    let nonce = SessionNonce::from_wire(&open.nonce).filter(|n| n.is_known());
    if open.client.len() > CLIENT_NAME_LEN_MAX {
        return Err(invalid("client name longer than 256 bytes"));
    }
    Ok(OpenSession {
        cluster: cluster_from_wire(&open.cluster)?,
        nonce: required(nonce, "nonce of 16 bytes")?,
        client: open.client,
    })
}

pub fn session_opened_to_wire(result: MetaResult<SessionOpened>) -> wire::OpenSessionReply {
    match result {
        Ok(opened) => wire::OpenSessionReply {
            error: None,
            session: opened.session.0,
            cluster: opened.cluster.to_wire().into(),
            incarnation: opened.incarnation.0,
            root: opened.root.0,
            copies: opened.copies,
            heartbeat_interval_ms: opened.heartbeat_interval_ms,
            now: Some(timestamp_to_wire(opened.now)),
        },
        Err(error) => wire::OpenSessionReply { error: Some(error_to_wire(&error)), ..Default::default() },
    }
}

pub fn session_opened_from_wire(reply: wire::OpenSessionReply) -> MetaResult<SessionOpened> {
    refusal(reply.error)?;
    Ok(SessionOpened {
        session: SessionId(reply.session),
        cluster: cluster_from_wire(&reply.cluster)?,
        incarnation: Incarnation(reply.incarnation),
        root: InodeId(reply.root),
        copies: reply.copies,
        heartbeat_interval_ms: reply.heartbeat_interval_ms,
        now: timestamp_from_wire(required(reply.now, "now")?)?,
    })
}

pub fn renew_to_wire(renew: &RenewSession) -> wire::RenewSessionRequest {
    wire::RenewSessionRequest {
        cluster: renew.cluster.to_wire().into(),
        session: renew.session.0,
        attachment: renew.attachment.map_or(0, |attachment| attachment.0),
        closed: renew.closed.iter().map(|inode| inode.0).collect(),
    }
}

pub fn renew_from_wire(renew: wire::RenewSessionRequest) -> MetaResult<RenewSession> {
    Ok(RenewSession {
        cluster: cluster_from_wire(&renew.cluster)?,
        session: SessionId(renew.session),
        attachment: (renew.attachment != 0).then_some(Attachment(renew.attachment)),
        closed: renew.closed.into_iter().map(InodeId).collect(),
    })
}

pub(super) fn attachment_from_wire(attachment: u64) -> MetaResult<Attachment> {
    required((attachment != 0).then_some(Attachment(attachment)), "attachment")
}

pub fn renewed_to_wire(result: MetaResult<SessionRenewed>) -> wire::RenewSessionReply {
    match result {
        Ok(renewed) => wire::RenewSessionReply {
            error: None,
            now: Some(timestamp_to_wire(renewed.now)),
            metaservers: renewed.metaservers,
            attached: renewed.is_attached,
            recalls: renewed.recalls,
            room: renewed.has_room,
        },
        Err(error) => wire::RenewSessionReply { error: Some(error_to_wire(&error)), ..Default::default() },
    }
}

pub fn renewed_from_wire(reply: wire::RenewSessionReply) -> MetaResult<SessionRenewed> {
    refusal(reply.error)?;
    Ok(SessionRenewed {
        now: timestamp_from_wire(required(reply.now, "now")?)?,
        metaservers: reply.metaservers,
        is_attached: reply.attached,
        recalls: reply.recalls,
        has_room: reply.room,
    })
}
