//! Chunks.

use super::Table;
use super::stored::{stored_enum, stored_struct};
use super::value::StateTime;
use crate::chunk;

/// The chunks. Version 1 since the first release.
pub(crate) struct Chunks;

impl Table for Chunks {
    const NAME: &'static str = "the chunks";
    const VERSION: u8 = 1;
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
