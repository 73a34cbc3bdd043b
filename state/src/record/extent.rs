//! Extents and cuts.

use super::Table;
use super::stored::stored_struct;
use crate::extent;

/// The extents. Version 1 since the first release.
pub(crate) struct Extents;

impl Table for Extents {
    const NAME: &'static str = "the extents";
    const VERSION: u8 = 1;
    type Value = extent::ExtentRecord;
    type Record = Extent;
}

stored_struct! {
    Extent = extent::ExtentRecord { len: u64, chunk: u64, chunk_offset: u64, seq: u64 }
}

/// The cuts. Version 1 since the first release.
pub(crate) struct Cuts;

impl Table for Cuts {
    const NAME: &'static str = "the cuts";
    const VERSION: u8 = 1;
    type Value = extent::CutRecord;
    type Record = Cut;
}

stored_struct! {
    Cut = extent::CutRecord { from: u64, reaped_to: u64 }
}
