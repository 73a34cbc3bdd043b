//! One file for each operation, its tests below it.

use dfs_proto::meta::{Change, Changed, MetaResult};

use context::Context;
pub(super) use create::plan_directory;

pub(super) mod behind;
pub(super) mod cluster;
mod commit_extents;
pub(super) mod context;
mod create;
pub(super) mod delete;
mod link;
mod open_chunk;
pub(super) mod reap;
pub(super) mod release_orphans;
mod rename;
mod rmdir;
pub(super) mod seal_chunk;
pub(super) mod server;
pub(super) mod session;
mod setattr;
mod unlink;
pub(super) mod volume;

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
