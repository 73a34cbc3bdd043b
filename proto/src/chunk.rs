//! The operations on chunks, as everyone in Rust speaks them. The wire form is `proto/chunk.proto`.

use bytes::Bytes;

use crate::BoxFuture;
use crate::error::ChunkError;
use crate::ids::{ChunkId, ClusterId, Incarnation, InodeId, SessionId, SetVersion};
use crate::meta::Replica;
use crate::units::{BLOCK_LEN, ByteLen, ChunkOffset, Offset};

/// Which chunk of which cluster: on every request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ChunkKey {
    pub cluster: ClusterId,
    pub incarnation: Incarnation,
    pub chunk: ChunkId,
    pub set_version: SetVersion,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ChunkRequest {
    Append(Append),
    Sync(SyncChunk),
    Read(ReadChunk),
    Stat { key: ChunkKey },
}

impl ChunkRequest {
    pub fn key(&self) -> &ChunkKey {
        match self {
            ChunkRequest::Append(append) => &append.key,
            ChunkRequest::Sync(sync) => &sync.key,
            ChunkRequest::Read(read) => &read.key,
            ChunkRequest::Stat { key } => key,
        }
    }
}

/// Bytes for the end of a chunk, at most `APPEND_LEN_MAX`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Append {
    pub key: ChunkKey,
    /// The chunk's length before; an exact repeat is acknowledged again (P1.2).
    pub offset: ChunkOffset,
    pub session: SessionId,
    /// Where the bytes belong: hints for compaction and fsck.
    pub inode: InodeId,
    pub file_offset: Offset,
    /// One for each `BLOCK_LEN` bytes from the start of `data`, the last block may be short: see [`block_checksum`].
    pub block_checksums: Vec<u32>,
    /// Whom the receiver passes it on to; empty at a secondary.
    pub forward: Vec<Replica>,
    pub data: Bytes,
}

/// Everything up to `up_to` on stable storage, here and at `forward`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SyncChunk {
    pub key: ChunkKey,
    pub up_to: ByteLen,
    pub forward: Vec<Replica>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReadChunk {
    pub key: ChunkKey,
    pub offset: ChunkOffset,
    /// At most `READ_LEN_MAX`.
    pub len: u64,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ChunkReply {
    /// The chunk's length afterwards.
    Appended {
        len: ByteLen,
    },
    /// Durable on every replica.
    Synced {
        len: ByteLen,
    },
    Read(Blocks),
    Stat {
        len: ByteLen,
        open: bool,
    },
}

/// Whole checksum blocks that cover the range asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Blocks {
    /// Of the first block's first byte.
    pub offset: ChunkOffset,
    pub lens: Vec<u32>,
    pub checksums: Vec<u32>,
    pub data: Bytes,
}

impl Blocks {
    /// Checks every block and returns `[offset, offset + len)` of the chunk.
    ///
    /// Errors: `Damaged` at the first block that does not match, `TooShort` when the range is not covered.
    pub fn verify(&self, key: &ChunkKey, offset: ChunkOffset, len: u64) -> Result<Bytes, ChunkError> {
        let chunk = key.chunk;
        let mut at = 0usize;
        for (block_len, checksum) in self.lens.iter().zip(&self.checksums) {
            let position = ChunkOffset(self.offset.0 + at as u64);
            let end = at + *block_len as usize;
            let block = self.data.get(at..end).ok_or(ChunkError::TooShort {
                chunk,
                held: self.data.len() as u64,
                wanted: end as u64,
            })?;
            if block_checksum(key.incarnation, chunk, position, block) != *checksum {
                return Err(ChunkError::Damaged { chunk, at: position.0 });
            }
            at = end;
        }
        let held = self.offset.0 + at as u64;
        if offset.0 < self.offset.0 || offset.0 + len > held {
            return Err(ChunkError::TooShort { chunk, held, wanted: offset.0 + len });
        }
        let start = (offset.0 - self.offset.0) as usize;
        Ok(self.data.slice(start..start + len as usize))
    }
}

/// CRC-32C over incarnation, chunk, chunk offset (each 8 bytes, little-endian) and the block's bytes (P1.3).
pub fn block_checksum(incarnation: Incarnation, chunk: ChunkId, offset: ChunkOffset, block: &[u8]) -> u32 {
    let mut place = [0u8; 24];
    place[..8].copy_from_slice(&incarnation.0.to_le_bytes());
    place[8..16].copy_from_slice(&chunk.0.to_le_bytes());
    place[16..].copy_from_slice(&offset.0.to_le_bytes());
    let mut digest = crc_fast::Digest::new(crc_fast::CrcAlgorithm::Crc32Iscsi);
    digest.update(&place);
    digest.update(block);
    digest.finalize() as u32
}

/// The checksums that an append of `data` at `offset` carries.
pub fn block_checksums(key: &ChunkKey, offset: ChunkOffset, data: &[u8]) -> Vec<u32> {
    let mut at = offset.0;
    data.chunks(BLOCK_LEN as usize)
        .map(|block| {
            let checksum = block_checksum(key.incarnation, key.chunk, ChunkOffset(at), block);
            at += block.len() as u64;
            checksum
        })
        .collect()
}

/// What a chunkserver does for whoever asks: the seam between its logic and the transports.
pub trait ChunkService: Send + Sync + 'static {
    /// Called in arrival order for the requests of one connection; the future may be polled on any task, so what must
    /// stay in order (appends to one chunk) has to be queued before the first `await`.
    fn call(&self, request: ChunkRequest) -> BoxFuture<'static, Result<ChunkReply, ChunkError>>;
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key() -> ChunkKey {
        ChunkKey {
            cluster: ClusterId(1),
            incarnation: Incarnation(1),
            chunk: ChunkId(9),
            set_version: SetVersion(1),
        }
    }

    #[test]
    fn a_block_at_another_place_or_of_another_incarnation_does_not_verify() {
        let block = block_checksum(Incarnation(1), ChunkId(9), ChunkOffset(0), b"bytes");
        assert_ne!(block, block_checksum(Incarnation(2), ChunkId(9), ChunkOffset(0), b"bytes"));
        assert_ne!(block, block_checksum(Incarnation(1), ChunkId(8), ChunkOffset(0), b"bytes"));
        assert_ne!(block, block_checksum(Incarnation(1), ChunkId(9), ChunkOffset(4096), b"bytes"));
    }

    #[test]
    fn a_flipped_byte_is_reported_with_its_block() {
        let mut data = vec![7u8; 10_000];
        let checksums = block_checksums(&key(), ChunkOffset(100), &data);
        data[5000] ^= 1;
        let blocks =
            Blocks { offset: ChunkOffset(100), lens: vec![4096, 4096, 1808], checksums, data: data.into() };
        let seen = blocks.verify(&key(), ChunkOffset(100), 10_000);
        assert_eq!(seen, Err(ChunkError::Damaged { chunk: ChunkId(9), at: 4196 }));
    }
}
