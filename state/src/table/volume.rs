//! Volumes: those that this cluster has, and, where volume 0 is, the entries of the root directory that lead to them (P9.2).
//!
//! VO1  Every step names the volume, and says the same when it is repeated.
//! VO2  A number is used once: what is left of a volume that was dropped or forbidden is a record that says so.
//! VO3  An entry has a version, raised by every change of it. A removal is of one version: raising it fences those that
//!     are on their way.

use dfs_proto::attr::Name;
use dfs_proto::error::MetaError;
use dfs_proto::ids::{InodeId, VolumeId};

use crate::keys;
use crate::kv::{Snapshot, Txn, scan_prefix};
use crate::record::volume::{VolumeEntries, Volumes};
use crate::record::{decode, encode};
use crate::value::volume::{VolumeEntry, VolumeRecord, VolumeState};

/// The root directory of a volume.
pub(crate) fn root_of(volume: VolumeId) -> Option<InodeId> {
    InodeId::new(volume, InodeId::ROOT.number())
}

/// It is the root directory of some volume.
pub(crate) fn is_root(inode: InodeId) -> bool {
    inode.number() == InodeId::ROOT.number()
}

pub(crate) fn get(view: &dyn Snapshot, volume: VolumeId) -> Option<VolumeRecord> {
    view.get(&keys::volume(volume)).map(|bytes| decode::<Volumes>(&bytes))
}

pub(crate) fn put(txn: &mut Txn<'_>, volume: VolumeId, record: VolumeRecord) {
    txn.put(keys::volume(volume), encode::<Volumes>(&record));
}

pub(crate) fn all(view: &dyn Snapshot) -> impl Iterator<Item = (VolumeId, VolumeRecord)> + '_ {
    scan_prefix(view, &keys::table(keys::VOLUME))
        .map(|(key, value)| (keys::volume_in(&key), decode::<Volumes>(&value)))
}

/// It is in this cluster, or files of it are left that are open somewhere.
pub(crate) fn is_here(view: &dyn Snapshot, volume: VolumeId) -> bool {
    match get(view, volume).map(|record| record.state) {
        Some(VolumeState::Active | VolumeState::Removing { .. }) => true,
        Some(VolumeState::Dropped) => has_inodes(view, volume),
        None => false,
    }
}

/// Is anything left of it: its root, or files that are open somewhere?
pub(crate) fn has_inodes(view: &dyn Snapshot, volume: VolumeId) -> bool {
    scan_prefix(view, &keys::inodes_of(volume)).next().is_some()
}

pub(crate) fn entry(view: &dyn Snapshot, volume: VolumeId) -> Option<VolumeEntry> {
    view.get(&keys::volume_entry(volume)).map(|bytes| decode::<VolumeEntries>(&bytes))
}

pub(crate) fn put_entry(txn: &mut Txn<'_>, volume: VolumeId, entry: &VolumeEntry) {
    txn.put(keys::volume_entry(volume), encode::<VolumeEntries>(entry));
}

/// Keeps VO3.
pub(crate) fn rename_entry(txn: &mut Txn<'_>, volume: VolumeId, name: &Name) {
    let Some(VolumeEntry::Named { version, .. }) = entry(txn, volume) else {
        panic!("broken invariant S10: {volume} has a name and no entry");
    };
    put_entry(txn, volume, &VolumeEntry::Named { name: name.clone(), version: version + 1 });
}

pub(crate) fn delete_entry(txn: &mut Txn<'_>, volume: VolumeId) {
    txn.delete(keys::volume_entry(volume));
}

pub(crate) fn entries(view: &dyn Snapshot) -> impl Iterator<Item = (VolumeId, VolumeEntry)> + '_ {
    scan_prefix(view, &keys::table(keys::VOLUME_ENTRY))
        .map(|(key, value)| (keys::volume_in(&key), decode::<VolumeEntries>(&value)))
}

/// A new inode number in the volume of `parent`; never given before and never again (P7.1).
pub(crate) fn next_inode(txn: &mut Txn<'_>, parent: InodeId) -> Result<InodeId, MetaError> {
    let id = parent.volume();
    let Some(mut record) = get(txn, id) else {
        return Err(MetaError::WrongCluster { map_version: 0 });
    };
    record.number += 1;
    let Some(inode) = InodeId::new(id, record.number) else {
        return Err(MetaError::NoSpace { what: format!("{id} has used all inode numbers") });
    };
    put(txn, id, record);
    Ok(inode)
}
