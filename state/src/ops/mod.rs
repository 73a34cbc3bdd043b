//! One file for each operation, its tests below it.

use dfs_proto::attr::{AccessMask, Caller, Timestamp};
use dfs_proto::error::MetaError;
use dfs_proto::ids::{InodeId, ServerId, SessionId};
use dfs_proto::meta::{Change, Changed, MetaResult};

use super::inode::{self, InodeRecord};
use super::time::StateTime;
use super::{orphan, permission};
use crate::command::VolumeRoot;
use crate::kv::{Snapshot, Txn};

pub(super) use create::plan_directory;

pub(super) mod cluster;
mod commit_extents;
mod create;
pub(super) mod delete;
mod link;
mod open_chunk;
pub(super) mod reap;
mod release_orphans;
mod rename;
mod rmdir;
pub(super) mod seal_chunk;
pub(super) mod server;
pub(super) mod session;
mod setattr;
mod unlink;
pub(super) mod volume;

/// What an operation of a client's request works with.
pub(super) struct Context<'c, 't> {
    pub txn: &'c mut Txn<'t>,
    /// For the times of inodes: the leader's wall clock.
    pub now: Timestamp,
    /// For what orders (P7.1).
    pub state_time: StateTime,
    /// The entry is of an earlier release, and is applied as that one did.
    pub is_of_one_clock: bool,
    /// Of the inodes that are made.
    pub born: Option<Timestamp>,
    pub session: SessionId,
    pub caller: &'c Caller,
    /// Chosen by the leader, for `OpenChunk`.
    pub placement: &'c [ServerId],
    /// Other volumes' roots that the change is about.
    pub volumes: &'c [VolumeRoot],
}

/// An error may leave writes behind: the caller takes them back.
pub(super) fn execute(context: &mut Context<'_, '_>, change: &Change) -> MetaResult<Changed> {
    match change {
        Change::Create(create) => create::apply(context, create),
        Change::Link { inode, parent, name } => link::apply(context, *inode, *parent, name),
        Change::Unlink { parent, name } => unlink::apply(context, *parent, name),
        Change::Rmdir { parent, name } => rmdir::apply(context, *parent, name),
        Change::Rename(rename) => rename::apply(context, rename),
        Change::SetAttr(set) => setattr::apply(context, set),
        Change::OpenChunk(open) => open_chunk::apply(context, open),
        Change::SealChunk { chunk } => seal_chunk::apply(context, *chunk),
        Change::CommitExtents(commit) => commit_extents::apply(context, commit),
        Change::ReleaseOrphans { inodes } => release_orphans::apply(context, inodes),
    }
}

/// The directory, if names may be looked up in it. One that was removed has none and gets none.
fn searchable(context: &Context<'_, '_>, directory: InodeId) -> MetaResult<InodeRecord> {
    searchable_by(context.txn, context.caller, directory)
}

fn searchable_by(view: &dyn Snapshot, caller: &Caller, directory: InodeId) -> MetaResult<InodeRecord> {
    let record = inode::require_directory(view, directory)?;
    permission::require(&record, caller, AccessMask::EXECUTE)?;
    if record.nlink == 0 { Err(MetaError::NotFound) } else { Ok(record) }
}

fn require_writable(context: &Context<'_, '_>, record: &InodeRecord) -> MetaResult<()> {
    permission::require(record, context.caller, AccessMask::WRITE)
}

/// The inode that a directory entry leads to; another volume's root as its cluster has shown it.
fn named(context: &Context<'_, '_>, inode: InodeId) -> InodeRecord {
    if let Some(root) = context.volumes.iter().find(|root| root.attr.inode == inode) {
        return InodeRecord::of_volume_root(&root.attr);
    }
    match inode::get(context.txn, inode) {
        Some(record) => record,
        None => panic!("broken invariant S1: {inode} has a name and no record"),
    }
}

/// A directory of the root that is a volume of its own: what it holds is its cluster's affair.
fn is_volume_root(parent: InodeId, inode: InodeId) -> bool {
    parent.volume() != inode.volume()
}

/// `directory` has gained an entry; the caller writes it.
fn entry_added(directory: &mut InodeRecord, is_directory: bool, now: Timestamp) {
    directory.size.0 += 1;
    directory.nlink += u32::from(is_directory);
    directory.mtime = now;
    directory.ctime = now;
}

/// `directory` has lost an entry; the caller writes it.
fn entry_removed(directory: &mut InodeRecord, is_directory: bool, now: Timestamp) {
    directory.size.0 -= 1;
    directory.nlink -= u32::from(is_directory);
    directory.mtime = now;
    directory.ctime = now;
}

/// A name of `inode` is gone; with the last one it becomes an orphan of the session. Returns it then.
fn drop_name(context: &mut Context<'_, '_>, inode: InodeId, mut record: InodeRecord) -> Option<InodeId> {
    record.nlink = if record.is_directory() { 0 } else { record.nlink - 1 };
    record.ctime = context.now;
    inode::put(context.txn, inode, &record);
    (record.nlink == 0).then(|| {
        orphan::hold(context.txn, inode, context.session);
        inode
    })
}

/// For `?` on conditions.
fn ensure(holds: bool, otherwise: MetaError) -> MetaResult<()> {
    if holds { Ok(()) } else { Err(otherwise) }
}

fn invalid(what: impl Into<String>) -> MetaError {
    MetaError::InvalidArgument { what: what.into() }
}
