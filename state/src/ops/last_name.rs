//! Which file a change takes the last name of: the leader has to find out first who has it open (P6.5). When the change is
//! applied, `context::drop_name` decides.

use dfs_proto::attr::Name;
use dfs_proto::ids::InodeId;
use dfs_proto::meta::{Change, RenameMode};

use crate::kv::Snapshot;
use crate::table::{dirent, inode};

/// The file that would lose its last name by `change` now, if nothing else forbids the change.
pub(crate) fn taken_by(view: &dyn Snapshot, change: &Change) -> Option<InodeId> {
    match change {
        Change::Unlink { parent, name } => only_name(view, *parent, name),
        Change::Rename(rename) => match rename.mode {
            RenameMode::Replace => only_name(view, rename.new_parent, &rename.new_name),
            RenameMode::NoReplace | RenameMode::Exchange => None,
        },
        Change::Create(_)
        | Change::Link { .. }
        | Change::Rmdir { .. }
        | Change::SetAttr(_)
        | Change::OpenChunk(_)
        | Change::SealChunk { .. }
        | Change::CommitExtents(_)
        | Change::ReleaseOrphans { .. } => None,
    }
}

/// The file that has this name and no other.
fn only_name(view: &dyn Snapshot, parent: InodeId, name: &Name) -> Option<InodeId> {
    let found = dirent::find(view, parent, name)?.record.inode;
    let record = inode::get(view, found)?; // another volume's root has none here
    (!record.is_directory() && record.nlink == 1).then_some(found)
}
