//! The chunks of one data directory.
//!
//! ```text
//! DATA/dfs-chunkserver        whose directory this is (stamp.rs)
//! DATA/lock                   held while a server runs on it
//! DATA/chunks/owner           whose chunks they are (stamp.rs)
//! DATA/chunks/00 … ff/        by the chunk id's lowest byte
//! DATA/chunks/2a/000000000000012a   one chunk, named by its id: a header and frames (format.rs)
//! ```
//!
//! C1  A byte that was acknowledged is never written again: files only grow (P11.2).
//! C2  `sync` answers a length only after every frame below it, and the file's name, is on stable storage (P1.4).
//! C3  A block is handed out only if it matches its checksum, and taken in only if it does (P1.3).
//! C4  An append is exactly at the end of its chunk, or repeats what is there. Appends are written in the order in which
//!     the client sent them (P1.2).
//! C5  A chunk takes appends from the first one until this process ends or an I/O fails, never again after that.
//! C6  A failed sync fails the chunk; it is not tried again (P1.4).
//! C7  A chunk is damaged only if a checksum or the medium says so ([`is_damage`]). A request that fails for want of
//!     descriptors or memory is answered `Busy`: the replica is not recorded as damaged, and the reader asks another
//!     replica, or again.
//!
//! After a crash a file may end anywhere, even in noise. Nothing is repaired and nothing is scanned at the start: no chunk is
//! open then (C5), and what a commit names was synced, so it is there (C2). What follows the last frame that belongs to the
//! chunk is garbage and is never read (`walk.rs`).
//!
//! We assume that the disk may lose, reorder or tear any write that is not yet synced, and may rot later (C3), but does not
//! damage the synced bytes of a sector when others are appended to the same sector.
//!
//! Not here: the other replicas of a chunk (`replicate`), and what may be deleted (`orders`).

use std::collections::BTreeSet;
use std::io;
use std::num::NonZeroUsize;
use std::path::Path;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};

use dfs_net::env::BoxFuture;
use dfs_proto::chunk::{Append, Blocks, ChunkKey, ReadChunk, block_checksum};
use dfs_proto::error::ChunkError;
use dfs_proto::ids::ChunkId;
use dfs_proto::units::{APPEND_LEN_MAX, BLOCK_LEN, ByteLen, CHUNK_LEN, ChunkOffset};
use lru::LruCache;

use crate::disk::{Disk, Space};
use crate::metrics::Metrics;
use crate::workers::Workers;

mod context;
#[cfg(test)]
mod directory_tests;
mod format;
mod index;
mod open;
mod plan;
mod sealed;
pub mod stamp;
#[cfg(test)]
mod tests;
mod walk;

use context::{Context, lock, shard_of};
use format::{ChunkHeader, block_count};
use open::OpenChunk;
use sealed::{SealedChunk, SealedChunks};

/// How many chunks take appends at a time, if the process may have enough descriptors: each holds one. Beyond that, the
/// least recently used idle chunk is closed: its writer is answered `NotOpen` and goes on in another chunk.
const OPEN_CHUNKS_MAX: u64 = 2048;
/// How many descriptors are kept open for reading, if the process may have enough (P11.3: far below its limit).
const SEALED_CHUNKS_MAX: u64 = 1024;
/// How many damaged chunks are remembered until they are reported to the metaserver.
const DAMAGED_MAX: usize = 1000;

/// When the disk counts as full, where blocking work runs, and how many descriptors there are.
#[derive(Clone)]
pub struct StoreOptions {
    pub full: FullBelow,
    /// Run reads and writes.
    pub io: Workers,
    /// Run syncs and deletions, which take long and must not delay reads.
    pub syncs: Workers,
    /// How many descriptors this process may have. The store keeps at most half of them open, for chunks that are written and
    /// read.
    pub descriptors: u64,
}

/// A disk takes no more appends when it has less free than the larger of the two.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FullBelow {
    pub bytes: u64,
    /// A share of the whole filesystem.
    pub percent: u64,
}

/// What a heartbeat reports about the store.
#[derive(Clone, Debug, Default)]
pub struct StoreLoad {
    pub space: Space,
    pub is_full: bool,
    /// The number of chunk files. They are counted in the background after a start, so that it may be low for a moment.
    pub chunks: u64,
}

/// The store of one data directory. A clone is a handle to the same store.
#[derive(Clone)]
pub struct ChunkStore(Arc<Inner>);

struct Inner {
    context: Arc<Context>,
    full: FullBelow,
    /// The chunks that take appends. Locked before `sealed` and before a chunk's own lock.
    open: Mutex<LruCache<ChunkId, Arc<OpenChunk>>>,
    sealed: Mutex<SealedChunks>,
    space: Mutex<Space>,
    damaged: Mutex<BTreeSet<ChunkId>>,
}

impl ChunkStore {
    /// Opens the store below `data`, which [`stamp::Directory`] has claimed. Blocks, but does not look at any chunk.
    pub fn open(
        disk: Arc<dyn Disk>,
        data: &Path,
        options: StoreOptions,
        metrics: Metrics,
    ) -> io::Result<ChunkStore> {
        let chunks = data.join("chunks");
        let context = Context::new(disk, chunks, options.io, options.syncs, metrics);
        let disk = &context.disk;
        stamp::make_shards(disk.as_ref(), data)?;
        let space = disk.space(data)?;
        let at_most = |max: u64| {
            let count = (options.descriptors / 4).clamp(1, max) as usize;
            NonZeroUsize::new(count).unwrap_or(NonZeroUsize::MIN)
        };
        let store = ChunkStore(Arc::new(Inner {
            context: Arc::new(context),
            full: options.full,
            open: Mutex::new(LruCache::new(at_most(OPEN_CHUNKS_MAX))),
            sealed: Mutex::new(SealedChunks::new(at_most(SEALED_CHUNKS_MAX))),
            space: Mutex::new(space),
            damaged: Mutex::default(),
        }));
        store.count_chunks();
        Ok(store)
    }

    fn count_chunks(&self) {
        let context = Arc::clone(&self.0.context);
        self.0.context.syncs.submit(move || {
            for shard in 0..=u8::MAX {
                let names = context.disk.list(&context.shard_path(shard)).unwrap_or_default();
                context.chunk_count.fetch_add(names.len() as u64, Ordering::Relaxed);
            }
        });
    }

    /// Checks the append and gives it its place before this returns. The future waits until it is written, though not yet
    /// durable, and answers the chunk's length behind it.
    pub fn append(&self, append: &Append) -> BoxFuture<'static, Result<ByteLen, ChunkError>> {
        match self.queue(append) {
            Ok(written) => {
                let metrics = self.0.context.metrics.clone();
                let len = append.data.len() as u64;
                Box::pin(async move {
                    let end = written.wait().await?;
                    metrics.appended_bytes.inc_by(len);
                    Ok(ByteLen(end))
                })
            }
            Err(error) => Box::pin(std::future::ready(Err(error))),
        }
    }

    fn queue(&self, append: &Append) -> Result<open::Written, ChunkError> {
        check_append(append)?;
        if self.is_full() {
            return Err(ChunkError::NoSpace);
        }
        let chunk = self.open_for(append)?;
        let written = chunk.queue(append)?;
        // An estimate until the next heartbeat asks the disk again.
        let mut space = lock(&self.0.space);
        space.free_bytes = space.free_bytes.saturating_sub(append.data.len() as u64);
        Ok(written)
    }

    /// The open chunk that the append is for. The first append of a chunk opens it.
    fn open_for(&self, append: &Append) -> Result<Arc<OpenChunk>, ChunkError> {
        let chunk = append.key.chunk;
        let mut open = lock(&self.0.open);
        if let Some(found) = open.get(&chunk) {
            return Ok(Arc::clone(found));
        }
        if append.offset.0 != 0 {
            return Err(ChunkError::NotOpen { chunk }); // keeps C5: it was opened before this process started
        }
        if open.len() >= open.cap().get() {
            let idle = open.iter().rev().find(|(_, chunk)| chunk.is_idle()).map(|(id, _)| *id);
            let forgotten = idle.and_then(|id| open.pop_entry(&id)).ok_or(ChunkError::Busy)?;
            forgotten.1.fail(ChunkError::NotOpen { chunk: forgotten.0 });
        }
        let header = ChunkHeader {
            cluster: append.key.cluster,
            chunk,
            incarnation: append.key.incarnation,
            set_version: append.key.set_version,
            session: append.session,
        };
        let context = Arc::clone(&self.0.context);
        let (path, shard) = (context.path(chunk), context.shard_path(shard_of(chunk)));
        let opened = Arc::new(OpenChunk::new(header, path, shard, context));
        open.put(chunk, Arc::clone(&opened));
        Ok(opened)
    }

    /// Puts everything up to `up_to` that was appended before this call on stable storage; answers the length that is
    /// durable.
    pub fn sync(&self, chunk: ChunkId, up_to: ByteLen) -> BoxFuture<'static, Result<ByteLen, ChunkError>> {
        let found = lock(&self.0.open).get(&chunk).cloned();
        Box::pin(async move {
            let open = found.ok_or(ChunkError::NotOpen { chunk })?;
            Ok(ByteLen(open.sync(up_to.0).await?))
        })
    }

    /// Reads the whole blocks that cover the range, each verified.
    pub fn read(&self, read: ReadChunk) -> BoxFuture<'static, Result<Blocks, ChunkError>> {
        let store = self.clone();
        Box::pin(async move {
            let workers = store.0.context.io.clone();
            workers.run(move || store.read_now(&read)).await.unwrap_or_else(|| Err(stopped()))
        })
    }

    fn read_now(&self, read: &ReadChunk) -> Result<Blocks, ChunkError> {
        let result = self.read_blocks(read);
        match &result {
            Ok(blocks) => {
                self.0.context.metrics.read_bytes.inc_by(blocks.data.len() as u64);
            }
            Err(ChunkError::Damaged { .. } | ChunkError::Disk { .. }) => self.remember_damage(read.key.chunk),
            Err(_) => {}
        }
        result
    }

    fn read_blocks(&self, read: &ReadChunk) -> Result<Blocks, ChunkError> {
        let (chunk, offset) = (read.key.chunk, read.offset.0);
        if let Some(open) = self.open_chunk(chunk) {
            let (file, plan) = open.plan(offset, read.len)?;
            return plan.read(&self.0.context, file.as_ref());
        }
        let sealed = self.sealed(chunk)?;
        let (index, incarnation) = (&sealed.index, sealed.incarnation);
        let plan = plan::Plan::new(index, chunk, incarnation, index.len(), offset, read.len)?;
        plan.read(&self.0.context, sealed.file.as_ref())
    }

    /// The chunk, if this process has made it and still has it open.
    fn open_chunk(&self, chunk: ChunkId) -> Option<Arc<OpenChunk>> {
        lock(&self.0.open).peek(&chunk).filter(|open| open.exists()).cloned()
    }

    /// The chunk, if it takes no more appends. Blocks, because a chunk that is not in the cache is loaded.
    fn sealed(&self, chunk: ChunkId) -> Result<Arc<SealedChunk>, ChunkError> {
        if let Some(found) = lock(&self.0.sealed).get(chunk) {
            return Ok(found);
        }
        let context = &self.0.context;
        let loaded = Arc::new(SealedChunk::load(context, &context.path(chunk), chunk)?);
        let open = lock(&self.0.open);
        // Not while the chunk may grow: the cache would keep an index that is too short.
        let may_grow = open.peek(&chunk).is_some_and(|open| open.takes_appends());
        if !may_grow {
            lock(&self.0.sealed).keep(chunk, Arc::clone(&loaded));
        }
        Ok(loaded)
    }

    fn remember_damage(&self, chunk: ChunkId) {
        self.0.context.metrics.damaged_reads.inc();
        let mut damaged = lock(&self.0.damaged);
        if damaged.len() < DAMAGED_MAX {
            damaged.insert(chunk);
        }
    }

    /// The chunks in which a damaged block was found and that are not reported yet.
    pub fn damaged(&self) -> Vec<ChunkId> {
        lock(&self.0.damaged).iter().copied().collect()
    }

    /// Forgets the damage of these chunks: the metaserver knows of it.
    pub fn damage_reported(&self, chunks: &[ChunkId]) {
        let mut damaged = lock(&self.0.damaged);
        for chunk in chunks {
            damaged.remove(chunk);
        }
    }

    /// The length of the chunk, and whether it takes appends.
    pub fn stat(&self, key: ChunkKey) -> BoxFuture<'static, Result<(ByteLen, bool), ChunkError>> {
        let store = self.clone();
        Box::pin(async move {
            if let Some(open) = store.open_chunk(key.chunk) {
                return Ok((ByteLen(open.written()), open.takes_appends()));
            }
            let workers = store.0.context.io.clone();
            let sealed =
                workers.run(move || store.sealed(key.chunk)).await.unwrap_or_else(|| Err(stopped()))?;
            Ok((ByteLen(sealed.index.len()), false))
        })
    }

    /// Deletes the chunks; answers those that are gone for good, whether they were here or not. For the others it may be
    /// called again.
    pub async fn delete(&self, chunks: Vec<ChunkId>) -> Vec<ChunkId> {
        let store = self.clone();
        self.0.context.syncs.run(move || store.delete_now(&chunks)).await.unwrap_or_default()
    }

    fn delete_now(&self, chunks: &[ChunkId]) -> Vec<ChunkId> {
        let context = &self.0.context;
        let mut gone = Vec::new();
        let mut failed_shards = BTreeSet::new();
        for &chunk in chunks {
            let open = lock(&self.0.open).pop(&chunk);
            if let Some(open) = open {
                open.fail(ChunkError::Gone { chunk });
            }
            let removed = context.disk.remove(&context.path(chunk));
            lock(&self.0.sealed).forget(chunk);
            lock(&self.0.damaged).remove(&chunk);
            match removed {
                Ok(()) => {
                    context.metrics.deleted_chunks.inc();
                    // Only an estimate while the count after the start is still running.
                    let less = |count: u64| Some(count.saturating_sub(1));
                    let _ = context.chunk_count.fetch_update(Ordering::Relaxed, Ordering::Relaxed, less);
                    gone.push(chunk);
                }
                Err(error) if error.kind() == io::ErrorKind::NotFound => gone.push(chunk),
                Err(error) => tracing::warn!("delete {chunk}: {error}"),
            }
        }
        // Once a deletion is confirmed, the cluster forgets the chunk, so no crash may bring the file back.
        let shards: BTreeSet<u8> = gone.iter().map(|chunk| shard_of(*chunk)).collect();
        for shard in shards {
            if let Err(error) = context.disk.sync_directory(&context.shard_path(shard)) {
                tracing::warn!("sync directory {shard:02x} after deleting: {error}");
                failed_shards.insert(shard);
            }
        }
        gone.retain(|chunk| !failed_shards.contains(&shard_of(*chunk)));
        gone
    }

    /// The chunks whose ids have this lowest byte, sorted. The 256 lists together have all chunks.
    pub async fn list(&self, shard: u8) -> io::Result<Vec<ChunkId>> {
        let context = Arc::clone(&self.0.context);
        let listed = move || -> io::Result<Vec<ChunkId>> {
            let names = context.disk.list(&context.shard_path(shard))?;
            let id = |name: std::ffi::OsString| u64::from_str_radix(name.to_str()?, 16).ok().map(ChunkId);
            Ok(names.into_iter().filter_map(id).collect())
        };
        self.0.context.io.run(listed).await.unwrap_or_else(|| Err(io::ErrorKind::Other.into()))
    }

    /// Whether the disk was too full for appends when it was last measured.
    pub fn is_full(&self) -> bool {
        let space = lock(&self.0.space);
        space.free_bytes < self.0.full.bytes.max(space.total_bytes / 100 * self.0.full.percent)
    }

    /// Measures the disk, and answers what a heartbeat reports.
    pub async fn load(&self) -> io::Result<StoreLoad> {
        let context = Arc::clone(&self.0.context);
        let measured = self.0.context.io.run(move || context.disk.space(&context.chunks)).await;
        let space = measured.unwrap_or_else(|| Err(io::ErrorKind::Other.into()))?;
        *lock(&self.0.space) = space.clone();
        let chunks = self.0.context.chunk_count.load(Ordering::Relaxed);
        Ok(StoreLoad { space, is_full: self.is_full(), chunks })
    }

    /// Puts everything that was appended on stable storage as far as possible, for an orderly end.
    pub async fn flush(&self) {
        let open: Vec<_> = lock(&self.0.open).iter().map(|(_, chunk)| Arc::clone(chunk)).collect();
        for chunk in open {
            if chunk.exists() && chunk.takes_appends() {
                // A failure marks the chunk; nobody waits for an answer here.
                let _ = chunk.sync(u64::MAX).await;
            }
        }
    }
}

/// The answer when a job did not run to its end, because the process stops. It is no error of the disk: a reader would report
/// that as damage.
fn stopped() -> ChunkError {
    ChunkError::Busy
}

/// Checks an append as far as that is possible without the chunk: its size, and that its bytes arrived as they were sent.
fn check_append(append: &Append) -> Result<(), ChunkError> {
    let (chunk, len) = (append.key.chunk, append.data.len() as u64);
    let invalid = |what: String| Err(ChunkError::Invalid { what });
    if len == 0 || len > APPEND_LEN_MAX {
        return invalid(format!("{chunk}: append of {len} bytes, 1 to {APPEND_LEN_MAX} are allowed"));
    }
    if append.offset.0 > CHUNK_LEN - len {
        return invalid(format!("{chunk}: append of {len} bytes at {} exceeds {CHUNK_LEN}", append.offset));
    }
    if append.block_checksums.len() != block_count(len) {
        let (given, needed) = (append.block_checksums.len(), block_count(len));
        return invalid(format!("{chunk}: {given} checksums for {len} bytes, {needed} are needed"));
    }
    let blocks = append.data.chunks(BLOCK_LEN as usize).zip(&append.block_checksums);
    for (number, (block, checksum)) in blocks.enumerate() {
        let at = append.offset.0 + number as u64 * BLOCK_LEN;
        if block_checksum(append.key.incarnation, chunk, ChunkOffset(at), block) != *checksum {
            return Err(ChunkError::Damaged { chunk, at }); // keeps C3
        }
    }
    Ok(())
}
