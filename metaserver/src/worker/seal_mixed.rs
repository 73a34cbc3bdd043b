//! Seals the chunks of no volume that an earlier release left open (P1.8). Their writers go on in chunks of one volume, and what
//! was committed stays readable where it is.
//!
//! It is done once in a term: no entry of this release opens such a chunk, so when a leader has found none, there will be none.

use dfs_proto::ids::ChunkId;
use dfs_proto::scope::Unleased;

use super::budget::{Budget, SEAL_MIXED};
use super::work::{Learned, Work};
use dfs_state::command::{Command, SEAL_CHUNKS_MAX};
use dfs_state::kv::Snapshot;
use dfs_state::read;

const _: () = assert!(SEAL_MIXED.records_max as usize <= SEAL_CHUNKS_MAX);

pub(super) struct SealMixed;

impl Work for SealMixed {
    fn budget(&self) -> Budget {
        SEAL_MIXED
    }

    fn records(&self) -> Unleased {
        Unleased::Chunks
    }

    fn plan(&self, state: &dyn Snapshot, _learned: &Learned<'_>) -> Vec<Command> {
        plan(read::open_mixed_chunks(state, SEAL_MIXED.records_max as usize))
    }
}

fn plan(mixed: Vec<ChunkId>) -> Vec<Command> {
    if mixed.is_empty() { Vec::new() } else { vec![Command::SealChunks { chunks: mixed }] }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn open_chunks_of_no_volume_are_sealed_and_without_any_nothing_is_proposed() {
        assert_eq!(plan(Vec::new()), []);
        let chunks = vec![ChunkId(3), ChunkId(7)];
        assert_eq!(plan(chunks.clone()), [Command::SealChunks { chunks }]);
    }
}
