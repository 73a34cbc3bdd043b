//! What an operation works with, and what several of them do.

use dfs_proto::attr::{AccessMask, Caller, Timestamp};
use dfs_proto::error::MetaError;
use dfs_proto::ids::{InodeId, ServerId, SessionId};
use dfs_proto::meta::MetaResult;

use crate::command::{NamedInode, VolumeRoot};
use crate::kv::{Snapshot, Txn};
use crate::permission;
use crate::table::{inode, orphan, session};
use crate::time::StateTime;
use crate::value::inode::InodeRecord;

/// What an operation of a client's request works with.
pub(crate) struct Context<'c, 't> {
    pub txn: &'c mut Txn<'t>,
    /// For the times of inodes: the leader's wall clock.
    pub now: Timestamp,
    /// For what orders (P7.1).
    pub state_time: StateTime,
    /// The entry is of an earlier release, and is applied as that one did.
    pub is_of_one_clock: bool,
    /// Of the inodes that are made.
    pub born: Option<Timestamp>,
    /// The entry is of a release whose chunks could be of no volume (P1.8).
    pub may_open_mixed: bool,
    pub session: SessionId,
    pub caller: &'c Caller,
    /// Chosen by the leader, for `OpenChunk`.
    pub placement: &'c [ServerId],
    /// Other volumes' roots that the change is about.
    pub volumes: &'c [VolumeRoot],
    /// What the leader has found behind the names; `None`: it did not look, and the session alone holds what loses its last name.
    pub named: Option<&'c [NamedInode]>,
}

/// The directory, if names may be looked up in it. One that was removed has none and gets none.
pub(super) fn searchable(context: &Context<'_, '_>, directory: InodeId) -> MetaResult<InodeRecord> {
    searchable_by(context.txn, context.caller, directory)
}

pub(super) fn searchable_by(
    view: &dyn Snapshot,
    caller: &Caller,
    directory: InodeId,
) -> MetaResult<InodeRecord> {
    let record = inode::require_directory(view, directory)?;
    permission::require(&record, caller, AccessMask::EXECUTE)?;
    if record.nlink == 0 { Err(MetaError::NotFound) } else { Ok(record) }
}

pub(super) fn require_writable(context: &Context<'_, '_>, record: &InodeRecord) -> MetaResult<()> {
    permission::require(record, context.caller, AccessMask::WRITE)
}

/// The inode that a directory entry leads to; another volume's root as its cluster has shown it.
pub(super) fn named(context: &Context<'_, '_>, inode: InodeId) -> InodeRecord {
    if let Some(root) = context.volumes.iter().find(|root| root.attr.inode == inode) {
        return InodeRecord::of_volume_root(&root.attr);
    }
    match inode::get(context.txn, inode) {
        Some(record) => record,
        None => panic!("broken invariant S1: {inode} has a name and no record"),
    }
}

/// A directory of the root that is a volume of its own: what it holds is its cluster's affair.
pub(super) fn is_volume_root(parent: InodeId, inode: InodeId) -> bool {
    parent.volume() != inode.volume()
}

/// `directory` has gained an entry; the caller writes it.
pub(super) fn entry_added(directory: &mut InodeRecord, is_directory: bool, now: Timestamp) {
    directory.size.0 += 1;
    directory.nlink += u32::from(is_directory);
    directory.mtime = now;
    directory.ctime = now;
}

/// `directory` has lost an entry; the caller writes it.
pub(super) fn entry_removed(directory: &mut InodeRecord, is_directory: bool, now: Timestamp) {
    directory.size.0 -= 1;
    directory.nlink -= u32::from(is_directory);
    directory.mtime = now;
    directory.ctime = now;
}

/// Before an inode is altered that was found behind a name: nobody else may hold a lease on it (P4.1).
///
/// `Undecided`: the leader has found another one there. It is answered to nobody; the leader looks again.
pub(super) fn require_named(context: &Context<'_, '_>, inode: InodeId) -> MetaResult<()> {
    let is_named = |named: &[NamedInode]| named.iter().any(|named| named.inode == inode);
    match context.named {
        Some(named) if !is_named(named) => {
            Err(MetaError::Undecided { what: format!("a name leads to {inode}") })
        }
        Some(_) | None => Ok(()),
    }
}

/// A name of `inode` is gone; with the last one it becomes an orphan of the session and of those that have it open. Returns
/// it then.
///
/// `Undecided`: as of [`require_named`], or the leader has not told who has this one open.
pub(super) fn drop_name(
    context: &mut Context<'_, '_>,
    inode: InodeId,
    mut record: InodeRecord,
) -> MetaResult<Option<InodeId>> {
    require_named(context, inode)?;
    let is_directory = record.is_directory();
    record.nlink = if is_directory { 0 } else { record.nlink - 1 };
    record.ctime = context.now;
    inode::put(context.txn, inode, &record);
    if record.nlink > 0 {
        return Ok(None);
    }
    let openers = match context.named {
        Some(_) if is_directory => &[],
        Some(named) => match named.iter().find(|named| named.inode == inode).map(|named| &named.openers) {
            Some(Some(openers)) => openers.as_slice(),
            Some(None) | None => return Err(MetaError::Undecided { what: format!("who has {inode} open") }),
        },
        None => &[],
    };
    let alive = |opener: &SessionId| session::is_alive(context.txn, *opener);
    let mut holders: Vec<SessionId> = openers.iter().copied().filter(alive).collect();
    holders.push(context.session);
    orphan::hold(context.txn, inode, holders.into_iter());
    Ok(Some(inode))
}

/// For `?` on conditions.
pub(super) fn ensure(holds: bool, otherwise: MetaError) -> MetaResult<()> {
    if holds { Ok(()) } else { Err(otherwise) }
}

pub(super) fn invalid(what: impl Into<String>) -> MetaError {
    MetaError::InvalidArgument { what: what.into() }
}
