//! Locks, and what a session holds.

use prost::Message as _;

use super::attr::cluster_from_wire;
use super::error::{error_to_wire, refusal};
use super::session::attachment_from_wire;
use super::write::{held_write_from_wire, held_write_to_wire};
use crate::convert::{invalid, required};
use crate::ids::{Attachment, InodeId, LockOwner, SessionId, WaitId};
use crate::lock::{HeldLock, LOCK_END_MAX, LockAsk, LockKind, LockRange, LockReply, LockRequest};
use crate::meta::{Attach, Attached, MetaResult};
use crate::wire;

/// The path of the push that says that a wait has ended with a lock.
pub const LOCK_GRANTED: &str = "lock granted";

pub fn attach_to_wire(attach: &Attach) -> wire::AttachRequest {
    wire::AttachRequest {
        cluster: attach.cluster.to_wire().into(),
        session: attach.session.0,
        attachment: attach.attachment.0,
        part: attach.part,
        more: attach.more,
        locks: attach.locks.iter().map(held_lock_to_wire).collect(),
        open: attach.open.iter().map(|inode| inode.0).collect(),
        writes: attach.writes.iter().map(held_write_to_wire).collect(),
    }
}

pub fn attach_from_wire(attach: wire::AttachRequest) -> MetaResult<Attach> {
    Ok(Attach {
        cluster: cluster_from_wire(&attach.cluster)?,
        session: SessionId(attach.session),
        attachment: attachment_from_wire(attach.attachment)?,
        part: attach.part,
        more: attach.more,
        locks: attach.locks.into_iter().map(held_lock_from_wire).collect::<MetaResult<_>>()?,
        open: attach.open.into_iter().map(InodeId).collect(),
        writes: attach.writes.into_iter().map(held_write_from_wire).collect::<MetaResult<_>>()?,
    })
}

pub fn attached_to_wire(result: MetaResult<Attached>) -> wire::AttachReply {
    match result {
        Ok(attached) => wire::AttachReply {
            error: None,
            lost: attached.lost.iter().map(held_lock_to_wire).collect(),
            term_ms: attached.term_ms,
            read_term_ms: attached.read_term_ms,
            gives_writes: attached.gives_writes,
            covers_opens: attached.covers_opens,
        },
        Err(error) => wire::AttachReply { error: Some(error_to_wire(&error)), ..Default::default() },
    }
}

pub fn attached_from_wire(reply: wire::AttachReply) -> MetaResult<Attached> {
    refusal(reply.error)?;
    let lost = reply.lost.into_iter().map(held_lock_from_wire).collect::<MetaResult<_>>()?;
    let wire::AttachReply { term_ms, read_term_ms, gives_writes, covers_opens, .. } = reply;
    Ok(Attached { lost, term_ms, read_term_ms, gives_writes, covers_opens })
}

fn held_lock_to_wire(lock: &HeldLock) -> wire::HeldLock {
    wire::HeldLock {
        inode: lock.inode.0,
        owner: lock.owner.0,
        start: lock.range.start,
        end: lock.range.end,
        exclusive: lock.kind == LockKind::Exclusive,
        process: lock.process,
    }
}

fn held_lock_from_wire(lock: wire::HeldLock) -> MetaResult<HeldLock> {
    Ok(HeldLock {
        inode: InodeId(lock.inode),
        owner: LockOwner(lock.owner),
        range: range_from_wire(lock.start, lock.end)?,
        kind: if lock.exclusive { LockKind::Exclusive } else { LockKind::Shared },
        process: lock.process,
    })
}

fn range_from_wire(start: u64, end: u64) -> MetaResult<LockRange> {
    match start <= end && end <= LOCK_END_MAX {
        true => Ok(LockRange { start, end }),
        false => Err(invalid("a lock ends before it starts, or behind the largest offset")),
    }
}

pub fn lock_granted_to_push(attachment: Attachment, wait: WaitId) -> wire::Push {
    let granted = wire::LockGranted { attachment: attachment.0, wait: wait.0 };
    wire::Push { path: LOCK_GRANTED.to_owned(), message: granted.encode_to_vec().into() }
}

/// `None`: a push of another kind.
pub fn lock_granted_from_push(push: &wire::Push) -> MetaResult<Option<(Attachment, WaitId)>> {
    if push.path != LOCK_GRANTED {
        return Ok(None);
    }
    let granted = wire::LockGranted::decode(push.message.as_ref()).map_err(|_| invalid("a grant"))?;
    Ok(Some((attachment_from_wire(granted.attachment)?, WaitId(granted.wait))))
}

pub fn lock_request_to_wire(request: &LockRequest) -> wire::LockRequest {
    use wire::lock_request::Ask;
    let ask = match request.ask {
        LockAsk::Set { lock, wait } => Ask::Set(wire::SetLock {
            lock: Some(held_lock_to_wire(&lock)),
            wait: wait.map_or(0, |wait| wait.0),
        }),
        LockAsk::Test { lock } => Ask::Test(held_lock_to_wire(&lock)),
        LockAsk::Unlock { inode, owner, range } => {
            Ask::Unlock(wire::Unlock { inode: inode.0, owner: owner.0, start: range.start, end: range.end })
        }
        LockAsk::Cancel { wait } => Ask::Cancel(wait.0),
    };
    wire::LockRequest {
        cluster: request.cluster.to_wire().into(),
        session: request.session.0,
        attachment: request.attachment.0,
        ask: Some(ask),
    }
}

pub fn lock_request_from_wire(request: wire::LockRequest) -> MetaResult<LockRequest> {
    use wire::lock_request::Ask;
    let ask = match required(request.ask, "what is asked of a lock")? {
        Ask::Set(set) => LockAsk::Set {
            lock: held_lock_from_wire(required(set.lock, "lock")?)?,
            wait: (set.wait != 0).then_some(WaitId(set.wait)),
        },
        Ask::Test(lock) => LockAsk::Test { lock: held_lock_from_wire(lock)? },
        Ask::Unlock(unlock) => LockAsk::Unlock {
            inode: InodeId(unlock.inode),
            owner: LockOwner(unlock.owner),
            range: range_from_wire(unlock.start, unlock.end)?,
        },
        Ask::Cancel(wait) => LockAsk::Cancel { wait: WaitId(wait) },
    };
    Ok(LockRequest {
        cluster: cluster_from_wire(&request.cluster)?,
        session: SessionId(request.session),
        attachment: attachment_from_wire(request.attachment)?,
        ask,
    })
}

pub fn lock_reply_to_wire(result: MetaResult<LockReply>) -> wire::LockReply {
    use wire::lock_reply::Result as Wire;
    let done = wire::Done {};
    let result = match result {
        Ok(LockReply::Granted) => Wire::Granted(done),
        Ok(LockReply::Waiting) => Wire::Waiting(done),
        Ok(LockReply::Conflict(lock)) => Wire::Conflict(held_lock_to_wire(&lock)),
        Ok(LockReply::Deadlock) => Wire::Deadlock(done),
        Ok(LockReply::TooMany) => Wire::TooMany(done),
        Ok(LockReply::NotAttached) => Wire::NotAttached(done),
        Ok(LockReply::NotYet) => Wire::NotYet(done),
        Err(error) => Wire::Error(error_to_wire(&error)),
    };
    wire::LockReply { result: Some(result) }
}

pub fn lock_reply_from_wire(reply: wire::LockReply) -> MetaResult<LockReply> {
    use wire::lock_reply::Result as Wire;
    Ok(match required(reply.result, "result")? {
        Wire::Granted(_) => LockReply::Granted,
        Wire::Waiting(_) => LockReply::Waiting,
        Wire::Conflict(lock) => LockReply::Conflict(held_lock_from_wire(lock)?),
        Wire::Deadlock(_) => LockReply::Deadlock,
        Wire::TooMany(_) => LockReply::TooMany,
        Wire::NotAttached(_) => LockReply::NotAttached,
        Wire::NotYet(_) => LockReply::NotYet,
        Wire::Error(error) => {
            refusal(Some(error))?;
            return Err(invalid("an error that is none"));
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::MetaError;
    use crate::ids::ClusterId;

    fn lock(start: u64, end: u64, kind: LockKind) -> HeldLock {
        let (inode, owner, process) = (InodeId(5), LockOwner(9), 70);
        HeldLock { inode, owner, range: LockRange { start, end }, kind, process }
    }

    fn request(ask: LockAsk) -> LockRequest {
        LockRequest { cluster: ClusterId(7), session: SessionId(3), attachment: Attachment(2), ask }
    }

    #[test]
    fn requests_and_replies_about_locks_come_back_as_they_were() {
        let shared = lock(0, LOCK_END_MAX, LockKind::Shared);
        let exclusive = lock(3, 3, LockKind::Exclusive);
        let (inode, owner, range) = (shared.inode, shared.owner, exclusive.range);
        for ask in [
            LockAsk::Set { lock: shared, wait: None },
            LockAsk::Set { lock: exclusive, wait: Some(WaitId(4)) },
            LockAsk::Test { lock: exclusive },
            LockAsk::Unlock { inode, owner, range },
            LockAsk::Cancel { wait: WaitId(4) },
        ] {
            assert_eq!(lock_request_from_wire(lock_request_to_wire(&request(ask))), Ok(request(ask)));
        }
        for reply in [
            LockReply::Granted,
            LockReply::Waiting,
            LockReply::Conflict(exclusive),
            LockReply::Deadlock,
            LockReply::TooMany,
            LockReply::NotAttached,
            LockReply::NotYet,
        ] {
            assert_eq!(lock_reply_from_wire(lock_reply_to_wire(Ok(reply))), Ok(reply));
        }
        let refused = Err(MetaError::Stale);
        assert_eq!(lock_reply_from_wire(lock_reply_to_wire(refused.clone())), refused);
    }

    #[test]
    fn a_lock_that_ends_before_it_starts_or_too_far_and_an_attachment_without_a_number_are_refused() {
        let is_refused = |request: wire::LockRequest| {
            matches!(lock_request_from_wire(request), Err(MetaError::InvalidArgument { .. }))
        };
        for (start, end) in [(4, 3), (0, LOCK_END_MAX + 1)] {
            let ask = LockAsk::Test { lock: lock(start, end, LockKind::Shared) };
            assert!(is_refused(lock_request_to_wire(&request(ask))), "{start} to {end}");
        }
        let ask = LockAsk::Cancel { wait: WaitId(4) };
        assert!(is_refused(lock_request_to_wire(&LockRequest { attachment: Attachment(0), ..request(ask) })));
        assert!(is_refused(wire::LockRequest { ask: None, ..lock_request_to_wire(&request(ask)) }));
    }
}
