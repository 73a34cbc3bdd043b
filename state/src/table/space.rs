//! The space table: what a file's extents take. Apart from the inode, because background work (the reaper, later compaction) rewrites
//! it, which says nothing to whoever caches attributes.
//!
//! A release before this table had the same in the inode's record, of version 1. The first write of either moves it here:
//!
//!     inode version 1, no space record ──space is written──► inode version 1, space record (what the inode says is outdated)
//!              │                                                        │
//!        inode is written                                         inode is written
//!              ▼                                                        ▼
//!     inode version 2, space record                           inode version 2, space record (as it was)
//!
//! Z1  A space record, where there is one, is right, whatever the inode's record says. It stays until the inode goes, at zero too: else an
//!     old inode's outdated figures would count again.
//! Z2  An inode of version 2 without one has no extent and no cut.

use dfs_proto::ids::InodeId;

use crate::keys;
use crate::kv::{Snapshot, Txn};
use crate::record::space::Spaces;
use crate::record::{decode, encode};
use crate::value::inode::InodeRecord;
use crate::value::space::SpaceRecord;

/// Of an inode that has this record.
pub(crate) fn of(view: &dyn Snapshot, id: InodeId, inode: &InodeRecord) -> SpaceRecord {
    // Nothing was ever committed or cut.
    if inode.content_version == 0 {
        return SpaceRecord::default();
    }
    // keeps Z1
    stored(view, id).or(inode.space_within).unwrap_or_default()
}

/// As it stands in the table.
pub(crate) fn stored(view: &dyn Snapshot, id: InodeId) -> Option<SpaceRecord> {
    view.get(&keys::space(id)).map(|bytes| decode::<Spaces>(&bytes))
}

pub(crate) fn put(txn: &mut Txn<'_>, id: InodeId, space: &SpaceRecord) {
    txn.put(keys::space(id), encode::<Spaces>(space));
}

/// Keeps Z1.
pub(crate) fn put_if_absent(txn: &mut Txn<'_>, id: InodeId, space: SpaceRecord) {
    if space != SpaceRecord::default() && stored(txn, id).is_none() {
        put(txn, id, &space);
    }
}

pub(crate) fn delete(txn: &mut Txn<'_>, id: InodeId) {
    txn.delete(keys::space(id));
}
