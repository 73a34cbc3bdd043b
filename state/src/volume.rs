//! Volumes: those that this cluster has, and, where volume 0 is, the entries of the root directory that lead to them (P9.2).
//!
//!     in the volume's cluster   - ──make──► active ──start removal──► removing ──drop──► dropped
//!                                             ▲────undo removal───────────┘
//!     in volume 0's cluster     - ──create in the root──► named ──rmdir──► -
//!                               - ──forbid──► forbidden
//!
//! VO1  Every step names the volume, and says the same when it is repeated.
//! VO2  A number is used once: what is left of a volume that was dropped or forbidden is a record that says so.
//! VO3  An entry has a version, raised by every change of it. A removal is of one version: raising it fences those that
//!     are on their way.

use dfs_proto::attr::Name;
use dfs_proto::error::MetaError;
use dfs_proto::ids::{InodeId, VolumeId};

use super::keys;
use super::record::volume::{VolumeEntries, Volumes};
use super::record::{decode, encode};
use crate::kv::{Snapshot, Txn, scan_prefix};

/// A volume that this cluster has, or had.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct VolumeRecord {
    /// The last inode number given.
    pub number: u64,
    pub state: VolumeState,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum VolumeState {
    Active,
    /// Its root is empty and gets no names. `version`: of the entry that is to go.
    Removing {
        version: u64,
    },
    /// Its root is gone. Files that are still open may be left.
    Dropped,
}

/// What volume 0 knows of another volume.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum VolumeEntry {
    /// Its name in the root directory.
    Named { name: Name, version: u64 },
    /// It gets no name: its making was given up.
    Forbidden,
}

impl VolumeEntry {
    pub(super) fn first(name: &Name) -> VolumeEntry {
        VolumeEntry::Named { name: name.clone(), version: 1 }
    }
}

/// The root directory of a volume.
pub(super) fn root_of(volume: VolumeId) -> Option<InodeId> {
    InodeId::new(volume, InodeId::ROOT.number())
}

/// It is the root directory of some volume.
pub(super) fn is_root(inode: InodeId) -> bool {
    inode.number() == InodeId::ROOT.number()
}

pub(super) fn get(view: &dyn Snapshot, volume: VolumeId) -> Option<VolumeRecord> {
    view.get(&keys::volume(volume)).map(|bytes| decode::<Volumes>(&bytes))
}

pub(super) fn put(txn: &mut Txn<'_>, volume: VolumeId, record: VolumeRecord) {
    txn.put(keys::volume(volume), encode::<Volumes>(&record));
}

pub(super) fn all(view: &dyn Snapshot) -> impl Iterator<Item = (VolumeId, VolumeRecord)> + '_ {
    scan_prefix(view, &keys::table(keys::VOLUME))
        .map(|(key, value)| (keys::volume_in(&key), decode::<Volumes>(&value)))
}

/// It is in this cluster, or files of it are left that are open somewhere.
pub(super) fn is_here(view: &dyn Snapshot, volume: VolumeId) -> bool {
    match get(view, volume).map(|record| record.state) {
        Some(VolumeState::Active | VolumeState::Removing { .. }) => true,
        Some(VolumeState::Dropped) => has_inodes(view, volume),
        None => false,
    }
}

/// Is anything left of it: its root, or files that are open somewhere?
pub(super) fn has_inodes(view: &dyn Snapshot, volume: VolumeId) -> bool {
    scan_prefix(view, &keys::inodes_of(volume)).next().is_some()
}

pub(super) fn entry(view: &dyn Snapshot, volume: VolumeId) -> Option<VolumeEntry> {
    view.get(&keys::volume_entry(volume)).map(|bytes| decode::<VolumeEntries>(&bytes))
}

pub(super) fn put_entry(txn: &mut Txn<'_>, volume: VolumeId, entry: &VolumeEntry) {
    txn.put(keys::volume_entry(volume), encode::<VolumeEntries>(entry));
}

/// Keeps VO3.
pub(super) fn rename_entry(txn: &mut Txn<'_>, volume: VolumeId, name: &Name) {
    let Some(VolumeEntry::Named { version, .. }) = entry(txn, volume) else {
        panic!("broken invariant S10: {volume} has a name and no entry");
    };
    put_entry(txn, volume, &VolumeEntry::Named { name: name.clone(), version: version + 1 });
}

pub(super) fn delete_entry(txn: &mut Txn<'_>, volume: VolumeId) {
    txn.delete(keys::volume_entry(volume));
}

pub(super) fn entries(view: &dyn Snapshot) -> impl Iterator<Item = (VolumeId, VolumeEntry)> + '_ {
    scan_prefix(view, &keys::table(keys::VOLUME_ENTRY))
        .map(|(key, value)| (keys::volume_in(&key), decode::<VolumeEntries>(&value)))
}

/// A new inode number in the volume of `parent`; never given before and never again (P7.1).
pub(super) fn next_inode(txn: &mut Txn<'_>, parent: InodeId) -> Result<InodeId, MetaError> {
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
