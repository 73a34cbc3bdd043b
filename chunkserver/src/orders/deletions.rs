//! Deletes the chunks that the leader names, one batch at a time.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use dfs_proto::ids::ChunkId;

use super::ledger::Ledger;
use crate::store::ChunkStore;

/// The deletions that were ordered. A clone shares their state.
#[derive(Clone)]
pub(super) struct Deletions {
    store: ChunkStore,
    ledger: Arc<Mutex<Ledger>>,
}

impl Deletions {
    pub(super) fn new(store: ChunkStore) -> Deletions {
        Deletions { store, ledger: Arc::default() }
    }

    fn ledger(&self) -> MutexGuard<'_, Ledger> {
        self.ledger.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Starts deleting, on a task of its own.
    pub(super) fn carry_out(&self, ordered: &[ChunkId]) {
        let batch = self.ledger().begin(ordered);
        if batch.is_empty() {
            return;
        }
        let deletions = self.clone();
        tokio::spawn(async move {
            let gone = deletions.store.delete(batch).await;
            deletions.ledger().finish(gone); // keeps O1
        });
    }

    pub(super) fn to_confirm(&self) -> Vec<ChunkId> {
        self.ledger().to_confirm()
    }

    pub(super) fn confirmed(&self, chunks: &[ChunkId]) {
        self.ledger().confirmed(chunks);
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::disk::{Disk, MemoryDisk};
    use crate::metrics::Metrics;
    use crate::store::{FullBelow, StoreOptions};
    use crate::workers::Workers;

    fn deletions(disk: &MemoryDisk) -> Deletions {
        let data = Path::new("/data");
        disk.create_directory(data).unwrap();
        let (io, syncs) = (Workers::inline(), Workers::inline());
        let options =
            StoreOptions { full: FullBelow { bytes: 0, percent: 0 }, io, syncs, descriptors: 20_000 };
        let store = ChunkStore::open(Arc::new(disk.clone()), data, options, Metrics::new()).unwrap();
        Deletions::new(store)
    }

    /// The workers are inline: a batch is over when its task has been polled once.
    async fn carried_out(deletions: &Deletions, ordered: &[ChunkId]) -> Vec<ChunkId> {
        deletions.carry_out(ordered);
        tokio::task::yield_now().await;
        deletions.to_confirm()
    }

    #[tokio::test]
    async fn a_deletion_that_a_crash_could_undo_is_not_confirmed_and_done_again_when_it_is_repeated() {
        let disk = MemoryDisk::new(1 << 20);
        let deletions = deletions(&disk);
        let ordered = [ChunkId(3)];
        disk.fail_syncs(true);
        assert_eq!(carried_out(&deletions, &ordered).await, []);
        disk.fail_syncs(false);
        assert_eq!(carried_out(&deletions, &ordered).await, ordered);
        deletions.confirmed(&ordered);
        assert_eq!(deletions.to_confirm(), []);
    }
}
