//! An attachment on its way: its parts, in order, over one connection.

use std::collections::BTreeSet;

use dfs_net::rpc::push::PushSender;
use dfs_proto::error::MetaError;
use dfs_proto::ids::{Attachment, InodeId};
use dfs_proto::lock::{HeldLock, TOLD_FILES_MAX, TOLD_LOCKS_MAX};
use dfs_proto::meta::{Attach, HeldWrite, MetaResult};

use crate::coherence::leases::WRITES_OF_SESSION_MAX;

pub(super) struct Parts {
    pub(super) attachment: Attachment,
    pub(super) pushes: PushSender,
    pub(super) locks: Vec<HeldLock>,
    pub(super) open: BTreeSet<InodeId>,
    pub(super) writes: Vec<HeldWrite>,
    pub(super) is_complete: bool,
    /// The number of the part that comes next.
    next: u32,
}

pub(super) fn invalid(what: &str) -> MetaError {
    MetaError::InvalidArgument { what: what.to_owned() }
}

impl Parts {
    /// What was told before, and this part. After an error the session begins again, with a larger number.
    pub(super) fn add(before: Option<Parts>, told: Attach, pushes: PushSender) -> MetaResult<Parts> {
        let mut parts = match before {
            Some(before) if before.attachment == told.attachment => before,
            _ => Parts::none(told.attachment, pushes.clone()),
        };
        if !parts.pushes.is_same(&pushes) {
            return Err(invalid("an attachment is told over one connection"));
        }
        if told.part < parts.next {
            return Ok(parts); // it comes once more
        }
        if told.part > parts.next {
            return Err(invalid("a part of the attachment is missing")); // it went to another leader, or was lost
        }
        parts.next += 1;
        parts.locks.extend(told.locks);
        parts.open.extend(told.open);
        parts.writes.extend(told.writes);
        parts.is_complete = !told.more;
        if parts.locks.len() > TOLD_LOCKS_MAX
            || parts.open.len() > TOLD_FILES_MAX
            || parts.writes.len() > WRITES_OF_SESSION_MAX
        {
            return Err(invalid("more locks, open files or Write leases than one session may have")); // keeps AT6
        }
        Ok(parts)
    }

    fn none(attachment: Attachment, pushes: PushSender) -> Parts {
        Parts {
            attachment,
            pushes,
            locks: Vec::new(),
            open: BTreeSet::new(),
            writes: Vec::new(),
            is_complete: false,
            next: 0,
        }
    }
}
