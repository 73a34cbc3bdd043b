//! What all chunks of a store share: the disk, the threads that work on it, and the paths of their files.

use std::io;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use dfs_proto::error::ChunkError;
use dfs_proto::ids::ChunkId;
use tokio::time::Instant;

use super::stamp;
use crate::disk::{Disk, is_damage};
use crate::metrics::Metrics;
use crate::workers::Workers;

/// The time between two log lines about a lack of descriptors or memory.
const WARNING_INTERVAL: Duration = Duration::from_secs(10);

/// What the store shares with every chunk of it.
pub(super) struct Context {
    pub(super) disk: Arc<dyn Disk>,
    pub(super) chunks: PathBuf,
    pub(super) io: Workers,
    pub(super) syncs: Workers,
    pub(super) metrics: Metrics,
    pub(super) chunk_count: AtomicU64,
    last_warning: Mutex<Option<Instant>>,
}

impl Context {
    pub(super) fn new(
        disk: Arc<dyn Disk>,
        chunks: PathBuf,
        io: Workers,
        syncs: Workers,
        metrics: Metrics,
    ) -> Context {
        let (chunk_count, last_warning) = (AtomicU64::new(0), Mutex::default());
        Context { disk, chunks, io, syncs, metrics, chunk_count, last_warning }
    }

    /// The answer to a request that fails for a reason that is not the chunk's (C7). It is counted and logged.
    pub(super) fn busy(&self, what: &str) -> ChunkError {
        self.metrics.lacking.inc();
        let (now, mut last_warning) = (Instant::now(), lock(&self.last_warning));
        if last_warning.is_none_or(|at| now - at >= WARNING_INTERVAL) {
            *last_warning = Some(now);
            tracing::warn!("{what}: that is not damage, it is tried again");
        }
        ChunkError::Busy
    }

    pub(super) fn chunk_created(&self) {
        self.chunk_count.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn shard_path(&self, shard: u8) -> PathBuf {
        self.chunks.join(stamp::shard_name(shard))
    }

    pub(super) fn path(&self, chunk: ChunkId) -> PathBuf {
        self.shard_path(shard_of(chunk)).join(format!("{:016x}", chunk.0))
    }
}

/// What a reader is answered when a read fails: that the disk failed, or that it may ask again (keeps C7).
pub(super) fn read_failure(context: &Context, what: &str, error: &io::Error) -> ChunkError {
    let what = format!("{what}: {error}");
    if is_damage(error) { ChunkError::Disk { what } } else { context.busy(&what) }
}

pub(super) fn shard_of(chunk: ChunkId) -> u8 {
    chunk.0 as u8
}

pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
