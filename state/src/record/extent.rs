//! Extents and cuts.

use serde::{Deserialize, Serialize};

use super::stored::{Broken, Stored, stored_struct};
use super::{Old, Table, read_as};
use crate::value::extent::{self, Birth, ExtentRecord};

/// The extents. Version 2: where their bytes were born. Version 1: where they are, is where they were born.
pub(crate) struct Extents;

impl Table for Extents {
    const NAME: &'static str = "the extents";
    const VERSION: u8 = 2;
    const OLD: &'static [Old<ExtentRecord>] = &[Old { version: 1, read: read_as::<Extent1, _> }];
    type Value = ExtentRecord;
    type Record = Extent;
}

#[derive(Serialize, Deserialize)]
pub(crate) struct Extent {
    len: u64,
    chunk: u64,
    chunk_offset: u64,
    seq: u64,
    /// Chunk and offset; `None`: where they are.
    birth: Option<(u64, u64)>,
}

impl Stored<ExtentRecord> for Extent {
    fn store(live: &ExtentRecord) -> Extent {
        let is_at_birth = live.birth == Birth { chunk: live.chunk, offset: live.chunk_offset };
        Extent {
            len: live.len,
            chunk: live.chunk.0,
            chunk_offset: live.chunk_offset.0,
            seq: live.seq.0,
            birth: (!is_at_birth).then_some((live.birth.chunk.0, live.birth.offset.0)),
        }
    }

    fn live(self) -> Result<ExtentRecord, Broken> {
        let (chunk, offset) = self.birth.unwrap_or((self.chunk, self.chunk_offset));
        Ok(ExtentRecord {
            len: self.len,
            chunk: self.chunk.live()?,
            chunk_offset: self.chunk_offset.live()?,
            seq: self.seq.live()?,
            birth: Birth { chunk: chunk.live()?, offset: offset.live()? },
        })
    }
}

/// Of version 1.
#[derive(Serialize, Deserialize)]
pub(super) struct Extent1 {
    len: u64,
    chunk: u64,
    chunk_offset: u64,
    seq: u64,
}

impl Stored<ExtentRecord> for Extent1 {
    fn store(live: &ExtentRecord) -> Extent1 {
        let ExtentRecord { len, chunk, chunk_offset, seq, .. } = *live;
        Extent1 { len, chunk: chunk.0, chunk_offset: chunk_offset.0, seq: seq.0 }
    }

    fn live(self) -> Result<ExtentRecord, Broken> {
        let Extent1 { len, chunk, chunk_offset, seq } = self;
        Extent { len, chunk, chunk_offset, seq, birth: None }.live()
    }
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
