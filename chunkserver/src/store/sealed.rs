//! The cache of chunks that take no more appends: their descriptors and frame indexes. The entries least recently used are
//! evicted first.
//!
//! A chunk is loaded when it is first read and not when the server starts: walking its frame headers (`walk.rs`) costs a
//! read for each frame, and the start must cost nothing (P1.4).

use std::io::{self, IoSliceMut};
use std::num::NonZeroUsize;
use std::path::Path;
use std::sync::Arc;

use dfs_proto::error::ChunkError;
use dfs_proto::ids::{ChunkId, Incarnation};
use lru::LruCache;

use super::format::{CHUNK_HEADER_LEN, Malformed, decode_chunk_header};
use super::index::FrameIndex;
use super::walk::{incarnation_of, walk};
use super::{Context, read_failure};
use crate::disk::{DiskFile, is_damage};

/// The most memory of all frame indexes in the cache. The index of a full chunk of 1 MiB appends takes 65 KiB.
const INDEX_BYTES_MAX: usize = 128 << 20;

/// A chunk that takes no more appends.
pub(super) struct SealedChunk {
    pub(super) file: Arc<dyn DiskFile>,
    pub(super) incarnation: Incarnation,
    pub(super) index: FrameIndex,
}

impl SealedChunk {
    /// Opens the file and finds its frames. Blocks.
    pub(super) fn load(context: &Context, path: &Path, chunk: ChunkId) -> Result<SealedChunk, ChunkError> {
        let file = context.disk.open(path).map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => ChunkError::Gone { chunk },
            _ => read_failure(context, &format!("open {chunk}"), &error),
        })?;
        let failed =
            |error: io::Error| read_failure(context, &format!("read the headers of {chunk}"), &error);
        let incarnation = incarnation(file.as_ref(), chunk).map_err(failed)?;
        let incarnation = incarnation.map_err(|error| match error {
            Unusable::Damaged => ChunkError::Damaged { chunk, at: 0 },
            // Nothing is wrong with the file. The server of another replica may be able to read its own.
            Unusable::Newer => context.busy(&format!("{chunk} was written by a later version of dfs")),
        })?;
        let (index, damaged_headers) = walk(file.as_ref(), chunk, incarnation).map_err(failed)?;
        if damaged_headers > 0 {
            context.metrics.damaged_headers.inc_by(damaged_headers as u64);
            tracing::warn!("{chunk}: {damaged_headers} damaged frame headers; what could be found was found");
        }
        Ok(SealedChunk { file, incarnation, index })
    }
}

/// Why nothing can be read from a file.
enum Unusable {
    Damaged,
    Newer,
}

/// The incarnation that the chunk header names or, if that is damaged, the first frame.
fn incarnation(file: &dyn DiskFile, chunk: ChunkId) -> io::Result<Result<Incarnation, Unusable>> {
    let mut bytes = [0; CHUNK_HEADER_LEN];
    let read = match file.read_at(&mut [IoSliceMut::new(&mut bytes)], 0) {
        Err(error) if is_damage(&error) => 0,
        read => read?,
    };
    let decoded = decode_chunk_header(&bytes[..read]);
    match &decoded {
        Ok(header) if header.chunk == chunk => return Ok(Ok(header.incarnation)),
        Ok(header) => tracing::warn!("the file of {chunk} has the header of {}", header.chunk),
        Err(error) => tracing::warn!("header of {chunk}: {error}"),
    }
    Ok(match (incarnation_of(file, chunk)?, decoded) {
        (Some(incarnation), _) => Ok(incarnation),
        (None, Err(Malformed::Version { .. })) => Err(Unusable::Newer),
        (None, _) => Err(Unusable::Damaged),
    })
}

/// The cache, bounded by the number of descriptors and by the memory of the indexes.
pub(super) struct SealedChunks {
    kept: LruCache<ChunkId, Arc<SealedChunk>>,
    index_bytes: usize,
}

impl SealedChunks {
    /// A cache of at most this many chunks, each of which has one descriptor.
    pub(super) fn new(descriptors_max: NonZeroUsize) -> SealedChunks {
        SealedChunks { kept: LruCache::new(descriptors_max), index_bytes: 0 }
    }

    pub(super) fn get(&mut self, chunk: ChunkId) -> Option<Arc<SealedChunk>> {
        self.kept.get(&chunk).cloned()
    }

    #[cfg(test)]
    pub(super) fn count(&self) -> usize {
        self.kept.len()
    }

    pub(super) fn keep(&mut self, chunk: ChunkId, sealed: Arc<SealedChunk>) {
        self.index_bytes += sealed.index.memory_bytes();
        if let Some((_, dropped)) = self.kept.push(chunk, sealed) {
            self.index_bytes -= dropped.index.memory_bytes();
        }
        // The entry just added stays, however large it is.
        while self.index_bytes > INDEX_BYTES_MAX && self.kept.len() > 1 {
            if let Some((_, dropped)) = self.kept.pop_lru() {
                self.index_bytes -= dropped.index.memory_bytes();
            }
        }
    }

    pub(super) fn forget(&mut self, chunk: ChunkId) {
        if let Some(dropped) = self.kept.pop(&chunk) {
            self.index_bytes -= dropped.index.memory_bytes();
        }
    }
}
