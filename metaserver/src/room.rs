//! Room on the disk of a member. Raft's log and RocksDB must never fill it: all members would stop in the middle of something at
//! about the same time, and none could start again for anybody to delete a file.
//!
//! RO1  When less than the reserve is free, the leader refuses changes that make metadata grow (ENOSPC). Deletions go on. A
//!      leader looks at its own disk only; `dfs status` names every member whose disk is full.
//! RO2  When less than half of the reserve is free, the member ends, and does not start again. One line says where to make room.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use dfs_proto::units::{ByteLen, MIB};
use thiserror::Error;
use tokio::time::sleep;

use crate::raft::log::disk::LogDisk;

const INTERVAL: Duration = Duration::from_secs(1);

/// RO2.
#[derive(Debug, Error)]
#[error(
    "its disk has {} MiB free, less than half of `disk_reserve_mib` = {}: make room there",
    free / MIB,
    reserve / MIB
)]
pub struct TooFull {
    free: u64,
    reserve: u64,
}

/// See the module.
pub(crate) struct Room {
    disk: Arc<dyn LogDisk>,
    reserve: u64,
    free: AtomicU64,
}

impl Room {
    /// Nothing is known of the disk before the first [`Room::look`].
    pub(crate) fn new(disk: Arc<dyn LogDisk>, reserve: ByteLen) -> Room {
        Room { disk, reserve: reserve.0, free: AtomicU64::new(u64::MAX) }
    }

    pub(crate) fn free(&self) -> ByteLen {
        ByteLen(self.free.load(Ordering::Relaxed))
    }

    pub(crate) fn is_full(&self) -> bool {
        self.free().0 < self.reserve
    }

    /// A disk that does not tell how much is free counts as unchanged: if it fails otherwise, Raft notices soon.
    pub(crate) async fn look(&self) -> Result<(), TooFull> {
        let was_full = self.is_full();
        match self.disk.free().await {
            Ok(free) => self.free.store(free.0, Ordering::Relaxed),
            Err(error) => tracing::warn!(%error, "look how much room the disk has"),
        }
        let (free, reserve) = (self.free().0, self.reserve);
        if free < reserve / 2 {
            return Err(TooFull { free, reserve });
        }
        if self.is_full() && !was_full {
            tracing::warn!(
                "{} MiB are free on the disk: nothing new is taken until there is room",
                free / MIB
            );
        }
        Ok(())
    }

    /// Looks every second; returns when the member must end.
    pub(crate) async fn watch(&self) -> TooFull {
        loop {
            sleep(INTERVAL).await;
            if let Err(too_full) = self.look().await {
                return too_full;
            }
        }
    }
}
