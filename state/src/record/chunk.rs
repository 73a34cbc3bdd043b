//! Chunks.

use serde::{Deserialize, Serialize};

use super::stored::{Broken, Stored, stored_enum, stored_struct};
use super::value::StateTime;
use super::{Old, Table, read_as};
use crate::value::chunk;

/// The chunks. Version 2: the volume. Version 1: all of them are mixed.
pub(crate) struct Chunks;

impl Table for Chunks {
    const NAME: &'static str = "the chunks";
    const VERSION: u8 = 2;
    const OLD: &'static [Old<chunk::ChunkRecord>] = &[Old { version: 1, read: read_as::<Chunk1, _> }];
    type Value = chunk::ChunkRecord;
    type Record = Chunk;
}

stored_struct! {
    Chunk = chunk::ChunkRecord {
        state: ChunkState,
        set_version: u64,
        replicas: Vec<u64>,
        copies: u32,
        committed: u64,
        live: u64,
        damaged: Vec<u64>,
        volume: Option<u32>,
    }
}

/// Of version 1.
#[derive(Serialize, Deserialize)]
pub(super) struct Chunk1 {
    state: ChunkState,
    set_version: u64,
    replicas: Vec<u64>,
    copies: u32,
    committed: u64,
    live: u64,
    damaged: Vec<u64>,
}

impl Stored<chunk::ChunkRecord> for Chunk1 {
    fn store(live: &chunk::ChunkRecord) -> Chunk1 {
        let Chunk { state, set_version, replicas, copies, committed, live, damaged, volume: _ } =
            Chunk::store(live);
        Chunk1 { state, set_version, replicas, copies, committed, live, damaged }
    }

    fn live(self) -> Result<chunk::ChunkRecord, Broken> {
        let Chunk1 { state, set_version, replicas, copies, committed, live, damaged } = self;
        Chunk { state, set_version, replicas, copies, committed, live, damaged, volume: None }.live()
    }
}

stored_enum! {
    ChunkState = chunk::ChunkState {
        Open { session: u64 },
        Sealed,
        Dead { since: StateTime },
        Deleting { unconfirmed: Vec<u64> },
    }
}
