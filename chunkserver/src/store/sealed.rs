//! Chunks that take no more appends: their descriptors and frame indexes, the least recently read forgotten first.
//!
//! A chunk is looked at when it is first read, not at start: walking its frame headers costs a read per frame, the
//! start of a server nothing (P1.4). What follows the first header that does not belong is not looked at: a torn frame
//! of a crash, which no commit names.

use std::io::{self, IoSliceMut};
use std::num::NonZeroUsize;
use std::path::Path;
use std::sync::Arc;

use dfs_proto::error::ChunkError;
use dfs_proto::ids::ChunkId;
use lru::LruCache;

use super::format::{CHUNK_HEADER_LEN, ChunkHeader, Malformed, decode_chunk_header, decode_frame_header};
use super::index::FrameIndex;
use crate::disk::{Disk, DiskFile};

/// Descriptors kept for reading (P11.3: far below the limit of a process).
const DESCRIPTORS_MAX: NonZeroUsize = NonZeroUsize::new(1024).expect("not zero");
/// Memory of all frame indexes kept: full chunks of 1 MiB appends cost 65 KiB each.
const INDEX_BYTES_MAX: usize = 128 << 20;
/// What the walk reads at a time: one header of the largest append, or many of small ones.
const WALK_WINDOW_LEN: usize = 16 << 10;

pub(super) struct SealedChunk {
    pub(super) file: Arc<dyn DiskFile>,
    pub(super) header: ChunkHeader,
    pub(super) index: FrameIndex,
}

impl SealedChunk {
    /// Opens the file and walks its frame headers. Blocking.
    pub(super) fn load(disk: &dyn Disk, path: &Path, chunk: ChunkId) -> Result<SealedChunk, ChunkError> {
        let failed = |what: &str, error: &dyn std::fmt::Display| ChunkError::Disk {
            what: format!("{what} {chunk}: {error}"),
        };
        let file = disk.open(path).map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => ChunkError::Gone { chunk },
            _ => failed("open", &error),
        })?;
        let mut bytes = [0; CHUNK_HEADER_LEN];
        let read = file.read_at(&mut [IoSliceMut::new(&mut bytes)], 0).map_err(|e| failed("read", &e))?;
        let header = decode_chunk_header(&bytes[..read]).map_err(|e| failed("read header of", &e))?;
        if header.chunk != chunk {
            return Err(failed("read header of", &format!("it is that of {}", header.chunk)));
        }
        let index = walk(file.as_ref(), &header).map_err(|e| failed("walk", &e))?;
        Ok(SealedChunk { file, header, index })
    }
}

/// The index of all frames from the start up to the first that does not belong.
fn walk(file: &dyn DiskFile, header: &ChunkHeader) -> io::Result<FrameIndex> {
    let file_len = file.file_len()?;
    let mut index = FrameIndex::default();
    let mut window = Window { file, bytes: vec![0; WALK_WINDOW_LEN], start: 0, len: 0 };
    let mut position = CHUNK_HEADER_LEN as u64;
    while let Some(frame) = window.frame_at(position)? {
        let belongs = frame.chunk == header.chunk
            && frame.incarnation == header.incarnation
            && frame.offset.0 == index.len();
        let frame_len = super::format::frame_header_len(u64::from(frame.payload_len)) as u64;
        let end = position + frame_len + u64::from(frame.payload_len);
        if !belongs || end > file_len || index.is_full() {
            break;
        }
        index.push(&frame, position);
        position = end;
    }
    Ok(index)
}

/// The part of the file that was read last.
struct Window<'a> {
    file: &'a dyn DiskFile,
    bytes: Vec<u8>,
    start: u64,
    len: usize,
}

impl Window<'_> {
    /// The frame whose header stands at `position`, or `None` if there is no whole and right one.
    fn frame_at(&mut self, position: u64) -> io::Result<Option<super::format::FrameHeader>> {
        let skip = position.saturating_sub(self.start).min(self.len as u64) as usize;
        match decode_frame_header(&self.bytes[skip..self.len]) {
            Ok(frame) if position >= self.start => return Ok(Some(frame)),
            Ok(_) | Err(Malformed::Short { .. }) => {}
            Err(_) => return Ok(None),
        }
        self.start = position;
        self.len = self.file.read_at(&mut [IoSliceMut::new(&mut self.bytes)], position)?;
        Ok(decode_frame_header(&self.bytes[..self.len]).ok())
    }
}

/// What is kept of them: bounded by descriptors and by the memory of the indexes.
pub(super) struct SealedChunks {
    kept: LruCache<ChunkId, Arc<SealedChunk>>,
    index_bytes: usize,
}

impl SealedChunks {
    pub(super) fn new() -> SealedChunks {
        SealedChunks { kept: LruCache::new(DESCRIPTORS_MAX), index_bytes: 0 }
    }

    pub(super) fn get(&mut self, chunk: ChunkId) -> Option<Arc<SealedChunk>> {
        self.kept.get(&chunk).cloned()
    }

    pub(super) fn keep(&mut self, chunk: ChunkId, sealed: Arc<SealedChunk>) {
        self.index_bytes += sealed.index.memory_bytes();
        if let Some((_, dropped)) = self.kept.push(chunk, sealed) {
            self.index_bytes -= dropped.index.memory_bytes();
        }
        // The one just read stays, however large it is.
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
