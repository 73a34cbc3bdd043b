//! A volume: in its own cluster, and where volume 0 is.
//!
//!     in the volume's cluster   - ──make──► active ──start removal──► removing ──drop──► dropped
//!                                             ▲────undo removal───────────┘
//!     in volume 0's cluster     - ──create in the root──► named ──rmdir──► -
//!                               - ──forbid──► forbidden

use dfs_proto::attr::Name;

/// A volume that this cluster has, or had.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct VolumeRecord {
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
    pub(crate) fn first(name: &Name) -> VolumeEntry {
        VolumeEntry::Named { name: name.clone(), version: 1 }
    }
}
