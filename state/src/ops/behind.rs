//! Which inodes a change alters that it knows only by a name: the leader has to find them out first, to recall what others hold of
//! them (P4.1) and to learn who has a file open that loses its last name (P6.5). When the change is applied, `context::require_named`
//! and `context::drop_name` decide.

use dfs_proto::attr::Name;
use dfs_proto::ids::InodeId;
use dfs_proto::meta::{Change, RenameMode};

use crate::kv::Snapshot;
use crate::table::{dirent, inode};

/// An inode behind a name of a change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Behind {
    pub inode: InodeId,
    /// It is a file, and would lose its last name by the change now, if nothing else forbids the change.
    pub loses_last_name: bool,
}

/// Those of this change now. The root of another volume is not among them: it is not altered here.
pub(crate) fn of(view: &dyn Snapshot, change: &Change) -> Vec<Behind> {
    match change {
        Change::Unlink { parent, name } => find(view, *parent, name, true).into_iter().collect(),
        Change::Rmdir { parent, name } => find(view, *parent, name, false).into_iter().collect(),
        Change::Rename(rename) => {
            let replaces = rename.mode == RenameMode::Replace;
            let source = find(view, rename.parent, &rename.name, false);
            let target = find(view, rename.new_parent, &rename.new_name, replaces);
            // Two names of one inode: nothing happens.
            let source = source.filter(|source| target.is_none_or(|target| target.inode != source.inode));
            source.into_iter().chain(target).collect()
        }
        Change::Create(_)
        | Change::Link { .. }
        | Change::SetAttr(_)
        | Change::OpenChunk(_)
        | Change::SealChunk { .. }
        | Change::CommitExtents(_)
        | Change::ReleaseOrphans { .. } => Vec::new(),
    }
}

fn find(view: &dyn Snapshot, parent: InodeId, name: &Name, may_be_last: bool) -> Option<Behind> {
    let found = dirent::find(view, parent, name)?.record.inode;
    if found.volume() != parent.volume() {
        return None;
    }
    let is_last =
        || inode::get(view, found).is_some_and(|record| !record.is_directory() && record.nlink == 1);
    Some(Behind { inode: found, loses_last_name: may_be_last && is_last() })
}
