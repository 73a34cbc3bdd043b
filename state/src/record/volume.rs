//! Volumes.

use super::Table;
use super::stored::{stored_enum, stored_struct};
use crate::value::volume;

/// Volumes that this cluster has or had. Version 1 since the first release.
pub(crate) struct Volumes;

impl Table for Volumes {
    const NAME: &'static str = "the volumes";
    const VERSION: u8 = 1;
    type Value = volume::VolumeRecord;
    type Record = VolumeRecord;
}

stored_struct! {
    VolumeRecord = volume::VolumeRecord { number: u64, state: VolumeState }
}

stored_enum! {
    VolumeState = volume::VolumeState { Active, Removing { version: u64 }, Dropped }
}

/// Names of volumes in the root directory. Version 1 since the first release.
pub(crate) struct VolumeEntries;

impl Table for VolumeEntries {
    const NAME: &'static str = "the volumes' entries";
    const VERSION: u8 = 1;
    type Value = volume::VolumeEntry;
    type Record = VolumeEntry;
}

stored_enum! {
    VolumeEntry = volume::VolumeEntry { Named { name: Vec<u8>, version: u64 }, Forbidden }
}
