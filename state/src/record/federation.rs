//! The federation group's state.

use dfs_proto::federation::{self as live, VolumePhase as LivePhase};

use super::Table;
use super::stored::{stored_enum, stored_struct};
use super::value::{ClusterEntry, RootCopy};
use crate::value::federation;

/// The federation. Version 1 since the first release.
pub(crate) struct Federation;

impl Table for Federation {
    const NAME: &'static str = "the federation";
    const VERSION: u8 = 1;
    type Value = federation::FederationRecord;
    type Record = FederationRecord;
}

stored_struct! {
    FederationRecord = federation::FederationRecord {
        federation: u128,
        version: u64,
        last_volume: u32,
        root: RootCopy,
    }
}

/// The clusters of the map. Version 1 since the first release.
pub(crate) struct MapClusters;

impl Table for MapClusters {
    const NAME: &'static str = "the clusters of the map";
    const VERSION: u8 = 1;
    type Value = live::ClusterEntry;
    type Record = ClusterEntry;
}

/// The volumes of the map. Version 1 since the first release.
pub(crate) struct MapVolumes;

impl Table for MapVolumes {
    const NAME: &'static str = "the volumes of the map";
    const VERSION: u8 = 1;
    type Value = live::MapVolume;
    type Record = MapVolume;
}

stored_struct! {
    MapVolume = live::MapVolume {
        cluster: u128,
        name: Option<Vec<u8>>,
        version: u64,
        phase: VolumePhase,
    }
}

stored_enum! {
    VolumePhase = LivePhase { Creating, Active, Removing }
}
