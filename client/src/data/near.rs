//! Where the bytes of small files are that this client has not opened yet. Files that were made together are often read together, and
//! have numbers that are near: so whoever has to ask for the extents of two of them asks for those of all (`Read::ExtentsNear`), in
//! the background. ext4 reads the inodes around one ahead for the same reason (its mount option `inode_readahead_blks`).
//!
//! NE1  What is known is of one version of a file's content, and is used only for a file whose attributes say that version: it need not be
//!      true any more when it is used (E2 of `extents`).
//! NE2  A block of numbers is asked for when extents of [`MISSES_MIN`] of its files had to be, and again after each [`MISSES_AGAIN`]
//!      more: then its files have changed, or have many extents.

use std::collections::BTreeMap;
use std::num::NonZeroUsize;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use dfs_proto::ids::{ChunkId, InodeId};
use dfs_proto::meta::{ChunkLocation, FewExtents};
use lru::LruCache;

use crate::data::extents::ExtentCache;

/// Files whose extents are known before they are opened; each takes some 300 bytes, and its chunk's place is shared.
const FILES_MAX: NonZeroUsize = NonZeroUsize::new(8192).expect("not zero");
const BLOCKS_MAX: NonZeroUsize = NonZeroUsize::new(256).expect("not zero");
/// NE2.
const MISSES_MIN: u32 = 2;
const MISSES_AGAIN: u32 = 64;
/// The bits of an inode's number that do not say which block it is in.
const BLOCK_BITS: u32 = 8;

/// The lock is held for one look, and with no other.
pub(crate) struct Near {
    state: Mutex<State>,
}

struct State {
    files: LruCache<InodeId, ExtentCache>,
    /// How many files more have to be missed before the block is asked for.
    blocks: LruCache<u64, u32>,
}

impl Near {
    pub(crate) fn new() -> Near {
        let state = State { files: LruCache::new(FILES_MAX), blocks: LruCache::new(BLOCKS_MAX) };
        Near { state: Mutex::new(state) }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The extents of this file had to be asked for. True if those of its block are to be asked for now (NE2).
    pub(crate) fn has_missed(&self, inode: InodeId) -> bool {
        let mut state = self.state();
        let left = state.blocks.get_or_insert_mut(inode.0 >> BLOCK_BITS, || MISSES_MIN);
        *left -= 1;
        let is_due = *left == 0;
        if is_due {
            *left = MISSES_AGAIN;
        }
        is_due
    }

    pub(crate) fn learn(&self, few: &FewExtents) {
        let shared = |location: &ChunkLocation| (location.chunk, Arc::new(location.clone()));
        let chunks: BTreeMap<ChunkId, Arc<ChunkLocation>> = few.chunks.iter().map(shared).collect();
        let mut state = self.state();
        for file in &few.files {
            state.files.put(file.inode, ExtentCache::whole(file, &chunks));
        }
    }

    /// What is known of a file that is being opened, at whatever version.
    pub(crate) fn take(&self, inode: InodeId) -> Option<ExtentCache> {
        self.state().files.pop(&inode)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_block_is_asked_for_when_a_second_file_of_it_was_missed_and_seldom_again() {
        let near = Near::new();
        let file = |number| InodeId(number);
        assert!(!near.has_missed(file(256)) && !near.has_missed(file(512)), "one file of each");
        assert!(near.has_missed(file(511)) && near.has_missed(file(512)));
        let again = (0..1000).filter(|number| near.has_missed(file(256 + number % 256))).count();
        assert_eq!(again, 1000 / MISSES_AGAIN as usize);
    }
}
