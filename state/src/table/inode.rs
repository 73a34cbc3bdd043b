//! The inode table.

use dfs_proto::attr::InodeAttr;
use dfs_proto::error::MetaError;
use dfs_proto::ids::InodeId;
use dfs_proto::meta::MetaResult;

use super::space;
use super::volume;
use crate::keys;
use crate::kv::{Snapshot, Txn};
use crate::record::inode::Inodes;
use crate::record::{decode, encode};
use crate::value::inode::InodeRecord;
use crate::value::space::SpaceRecord;

pub(crate) fn get(view: &dyn Snapshot, inode: InodeId) -> Option<InodeRecord> {
    view.get(&keys::inode(inode)).map(|bytes| decode::<Inodes>(&bytes))
}

/// P9.3: a volume that is not here is never "no such file".
pub(crate) fn require(view: &dyn Snapshot, inode: InodeId) -> MetaResult<InodeRecord> {
    match get(view, inode) {
        Some(record) => Ok(record),
        None if volume::get(view, inode.volume()).is_none() => {
            Err(MetaError::WrongCluster { map_version: 0 })
        }
        None => Err(MetaError::Stale),
    }
}

pub(crate) fn require_directory(view: &dyn Snapshot, inode: InodeId) -> MetaResult<InodeRecord> {
    let record = require(view, inode)?;
    if record.is_directory() { Ok(record) } else { Err(MetaError::NotDirectory) }
}

/// What `stat` shows.
pub(crate) fn attr(view: &dyn Snapshot, inode: InodeId, record: &InodeRecord) -> InodeAttr {
    record.attr_with(inode, space::of(view, inode, record).allocated)
}

/// Of an inode that is there.
pub(crate) fn space(view: &dyn Snapshot, inode: InodeId) -> SpaceRecord {
    match space::stored(view, inode) {
        Some(space) => space,
        None => get(view, inode).and_then(|record| record.space_within).unwrap_or_default(),
    }
}

/// Keeps what a record of version 1 says of its space, which the new one has no room for.
pub(crate) fn put(txn: &mut Txn<'_>, inode: InodeId, record: &InodeRecord) {
    if let Some(space) = record.space_within {
        space::put_if_absent(txn, inode, space);
    }
    txn.put(keys::inode(inode), encode::<Inodes>(record));
}

pub(crate) fn delete(txn: &mut Txn<'_>, inode: InodeId) {
    txn.delete(keys::inode(inode));
    space::delete(txn, inode);
}
