//! Encodes and decodes chunk files. Pure: it does no I/O, and no input makes it panic.
//!
//! All numbers little-endian; checksums are CRC-32C.
//!
//! ```text
//! chunk file    | chunk header | frame | frame | …
//!
//! chunk header  0 magic "DFSCHUNK" | 8 version u32 = 1 | 12 block length u32 = 4096 | 16 cluster 16 bytes
//! (80 bytes)    | 32 chunk u64 | 40 incarnation u64 | 48 set version u64 | 56 session u64 | 64 zeros
//!               | 76 checksum u32 of the bytes before it
//!
//! frame         | frame header | block checksums, 4 bytes each | payload |
//!
//! frame header  0 magic "DFSF" | 4 version u16 = 1 | 6 zeros | 8 chunk u64 | 16 incarnation u64
//! (56 bytes)    | 24 chunk offset u64 | 32 inode u64 | 40 file offset u64 | 48 payload length u32
//!               | 52 checksum u32 of the bytes before it and of the block checksums behind it
//! ```
//!
//! One append is one frame. A frame header names its chunk, incarnation and place, so that an old frame of a recycled
//! or restored file never passes for one of this chunk (P1.3). Each block checksum covers 4 KiB of the payload, counted
//! from its start, and the same three numbers: `dfs_proto::chunk::block_checksum`.

use dfs_proto::ids::{ChunkId, ClusterId, Incarnation, InodeId, SessionId, SetVersion};
use dfs_proto::units::{APPEND_LEN_MAX, BLOCK_LEN, CHUNK_LEN, ChunkOffset, Offset};

pub(crate) const CHUNK_HEADER_LEN: usize = 80;
pub(crate) const FRAME_HEADER_LEN: usize = 56;
/// The length of a frame header with the checksums of the largest append.
pub(crate) const FRAME_HEADER_LEN_MAX: usize = FRAME_HEADER_LEN + 4 * (APPEND_LEN_MAX / BLOCK_LEN) as usize;

const CHUNK_MAGIC: &[u8; 8] = b"DFSCHUNK";
pub(crate) const FRAME_MAGIC: &[u8; 4] = b"DFSF";
const VERSION: u32 = 1;

// Positions in a chunk file fit 32 bits even when every append is a single byte; the index relies on that.
const _: () = assert!(CHUNK_LEN * (FRAME_HEADER_LEN as u64 + 4 + 1) < u32::MAX as u64);

/// The header of a chunk file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ChunkHeader {
    pub(crate) cluster: ClusterId,
    pub(crate) chunk: ChunkId,
    pub(crate) incarnation: Incarnation,
    /// The set version when the chunk was opened; a hint.
    pub(crate) set_version: SetVersion,
    /// The session that wrote the chunk.
    pub(crate) session: SessionId,
}

/// The header of a frame, which holds one append. Inode and file offset are hints for compaction and fsck.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct FrameHeader {
    pub(crate) chunk: ChunkId,
    pub(crate) incarnation: Incarnation,
    pub(crate) offset: ChunkOffset,
    pub(crate) inode: InodeId,
    pub(crate) file_offset: Offset,
    pub(crate) payload_len: u32,
    pub(crate) block_checksums: Vec<u32>,
}

/// Why bytes cannot be decoded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Malformed {
    /// There are too few bytes; this many are needed.
    Short {
        needed: usize,
    },
    Magic,
    /// A later version of dfs has written them.
    Version {
        found: u32,
    },
    Field {
        what: &'static str,
    },
    Checksum,
}

impl std::fmt::Display for Malformed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Malformed::Short { needed } => write!(f, "shorter than {needed} bytes"),
            Malformed::Magic => write!(f, "no chunk data"),
            Malformed::Version { found } => {
                write!(f, "of format version {found}, this program knows {VERSION}")
            }
            Malformed::Field { what } => write!(f, "{what} out of range"),
            Malformed::Checksum => write!(f, "checksum does not match"),
        }
    }
}

/// The number of checksum blocks of a payload.
pub(crate) fn block_count(payload_len: u64) -> usize {
    payload_len.div_ceil(BLOCK_LEN) as usize
}

/// The length of a frame's header and block checksums.
pub(crate) fn frame_header_len(payload_len: u64) -> usize {
    FRAME_HEADER_LEN + 4 * block_count(payload_len)
}

fn checksum(parts: &[&[u8]]) -> u32 {
    let mut digest = crc_fast::Digest::new(crc_fast::CrcAlgorithm::Crc32Iscsi);
    for part in parts {
        digest.update(part);
    }
    digest.finalize() as u32
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    let mut number = [0; 4];
    number.copy_from_slice(&bytes[at..at + 4]);
    u32::from_le_bytes(number)
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    let mut number = [0; 8];
    number.copy_from_slice(&bytes[at..at + 8]);
    u64::from_le_bytes(number)
}

pub(crate) fn encode_chunk_header(header: &ChunkHeader) -> [u8; CHUNK_HEADER_LEN] {
    let mut bytes = [0; CHUNK_HEADER_LEN];
    bytes[..8].copy_from_slice(CHUNK_MAGIC);
    bytes[8..12].copy_from_slice(&VERSION.to_le_bytes());
    bytes[12..16].copy_from_slice(&(BLOCK_LEN as u32).to_le_bytes());
    bytes[16..32].copy_from_slice(&header.cluster.0.to_le_bytes());
    bytes[32..40].copy_from_slice(&header.chunk.0.to_le_bytes());
    bytes[40..48].copy_from_slice(&header.incarnation.0.to_le_bytes());
    bytes[48..56].copy_from_slice(&header.set_version.0.to_le_bytes());
    bytes[56..64].copy_from_slice(&header.session.0.to_le_bytes());
    let sum = checksum(&[&bytes[..76]]);
    bytes[76..].copy_from_slice(&sum.to_le_bytes());
    bytes
}

pub(crate) fn decode_chunk_header(bytes: &[u8]) -> Result<ChunkHeader, Malformed> {
    let bytes = bytes.get(..CHUNK_HEADER_LEN).ok_or(Malformed::Short { needed: CHUNK_HEADER_LEN })?;
    if &bytes[..8] != CHUNK_MAGIC {
        return Err(Malformed::Magic);
    }
    let found = u32_at(bytes, 8);
    if found != VERSION {
        return Err(Malformed::Version { found });
    }
    if u32_at(bytes, 76) != checksum(&[&bytes[..76]]) {
        return Err(Malformed::Checksum);
    }
    if u32_at(bytes, 12) != BLOCK_LEN as u32 {
        return Err(Malformed::Field { what: "block length" });
    }
    let mut cluster = [0; 16];
    cluster.copy_from_slice(&bytes[16..32]);
    Ok(ChunkHeader {
        cluster: ClusterId(u128::from_le_bytes(cluster)),
        chunk: ChunkId(u64_at(bytes, 32)),
        incarnation: Incarnation(u64_at(bytes, 40)),
        set_version: SetVersion(u64_at(bytes, 48)),
        session: SessionId(u64_at(bytes, 56)),
    })
}

/// The header and the block checksums of a frame: everything but its payload.
pub(crate) fn encode_frame_header(frame: &FrameHeader) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(frame_header_len(u64::from(frame.payload_len)));
    bytes.extend_from_slice(FRAME_MAGIC);
    bytes.extend_from_slice(&(VERSION as u16).to_le_bytes());
    bytes.extend_from_slice(&[0; 2]);
    bytes.extend_from_slice(&frame.chunk.0.to_le_bytes());
    bytes.extend_from_slice(&frame.incarnation.0.to_le_bytes());
    bytes.extend_from_slice(&frame.offset.0.to_le_bytes());
    bytes.extend_from_slice(&frame.inode.0.to_le_bytes());
    bytes.extend_from_slice(&frame.file_offset.0.to_le_bytes());
    bytes.extend_from_slice(&frame.payload_len.to_le_bytes());
    bytes.extend_from_slice(&[0; 4]);
    for block in &frame.block_checksums {
        bytes.extend_from_slice(&block.to_le_bytes());
    }
    let sum = checksum(&[&bytes[..52], &bytes[FRAME_HEADER_LEN..]]);
    bytes[52..56].copy_from_slice(&sum.to_le_bytes());
    bytes
}

/// Decodes the frame header at the start of `bytes`. What follows the header is not looked at.
pub(crate) fn decode_frame_header(bytes: &[u8]) -> Result<FrameHeader, Malformed> {
    let fixed = bytes.get(..FRAME_HEADER_LEN).ok_or(Malformed::Short { needed: FRAME_HEADER_LEN })?;
    if &fixed[..4] != FRAME_MAGIC {
        return Err(Malformed::Magic);
    }
    let found = u32_at(fixed, 4);
    if found != VERSION {
        return Err(Malformed::Version { found });
    }
    let payload_len = u32_at(fixed, 48);
    if payload_len == 0 || u64::from(payload_len) > APPEND_LEN_MAX {
        return Err(Malformed::Field { what: "payload length" });
    }
    let needed = frame_header_len(u64::from(payload_len));
    let sums = bytes.get(FRAME_HEADER_LEN..needed).ok_or(Malformed::Short { needed })?;
    if u32_at(fixed, 52) != checksum(&[&fixed[..52], sums]) {
        return Err(Malformed::Checksum);
    }
    let offset = u64_at(fixed, 24);
    if offset > CHUNK_LEN - u64::from(payload_len) {
        return Err(Malformed::Field { what: "chunk offset" });
    }
    Ok(FrameHeader {
        chunk: ChunkId(u64_at(fixed, 8)),
        incarnation: Incarnation(u64_at(fixed, 16)),
        offset: ChunkOffset(offset),
        inode: InodeId(u64_at(fixed, 32)),
        file_offset: Offset(u64_at(fixed, 40)),
        payload_len,
        block_checksums: stored_checksums(sums),
    })
}

/// The payload length that a frame header names, which may be damaged.
pub(crate) fn named_payload_len(header: &[u8; FRAME_HEADER_LEN]) -> u32 {
    u32_at(header, 48)
}

/// Decodes the block checksums behind a frame header.
pub(crate) fn stored_checksums(bytes: &[u8]) -> Vec<u32> {
    (0..bytes.len() / 4).map(|block| u32_at(bytes, 4 * block)).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn frame(payload_len: u32, offset: u64, seed: u64) -> FrameHeader {
        FrameHeader {
            chunk: ChunkId(seed),
            incarnation: Incarnation(seed ^ 1),
            offset: ChunkOffset(offset),
            inode: InodeId(seed ^ 2),
            file_offset: Offset(seed ^ 3),
            payload_len,
            block_checksums: (0..block_count(u64::from(payload_len)) as u32)
                .map(|b| b ^ seed as u32)
                .collect(),
        }
    }

    #[test]
    fn a_newer_format_is_named_as_such() {
        let mut bytes = encode_chunk_header(&ChunkHeader {
            cluster: ClusterId(1),
            chunk: ChunkId(2),
            incarnation: Incarnation(3),
            set_version: SetVersion(4),
            session: SessionId(5),
        });
        bytes[8] = 2;
        assert_eq!(decode_chunk_header(&bytes), Err(Malformed::Version { found: 2 }));
        let mut bytes = encode_frame_header(&frame(10, 0, 7));
        bytes[4] = 9;
        assert_eq!(decode_frame_header(&bytes), Err(Malformed::Version { found: 9 }));
    }

    #[test]
    fn the_format_of_version_1_is_what_it_was() {
        let bytes = encode_frame_header(&FrameHeader {
            chunk: ChunkId(0x0807_0605_0403_0201),
            incarnation: Incarnation(1),
            offset: ChunkOffset(0x1000),
            inode: InodeId(2),
            file_offset: Offset(3),
            payload_len: 5000,
            block_checksums: vec![0xaabb_ccdd, 0x1122_3344],
        });
        let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(
            &hex[..104],
            concat!(
                "44465346",
                "0100",
                "0000",
                "0102030405060708",
                "0100000000000000",
                "0010000000000000",
                "0200000000000000",
                "0300000000000000",
                "88130000"
            )
        );
        assert_eq!(&hex[112..], "ddccbbaa44332211");
    }

    proptest! {
        #[test]
        fn a_chunk_header_survives_a_round_trip(cluster: u128, chunk: u64, rest: [u64; 3]) {
            let header = ChunkHeader {
                cluster: ClusterId(cluster),
                chunk: ChunkId(chunk),
                incarnation: Incarnation(rest[0]),
                set_version: SetVersion(rest[1]),
                session: SessionId(rest[2]),
            };
            prop_assert_eq!(decode_chunk_header(&encode_chunk_header(&header)), Ok(header));
        }

        #[test]
        fn a_frame_header_survives_a_round_trip(
            payload_len in 1u32..=APPEND_LEN_MAX as u32, offset in 0..=CHUNK_LEN - APPEND_LEN_MAX, seed: u64
        ) {
            let header = frame(payload_len, offset, seed);
            let mut bytes = encode_frame_header(&header);
            prop_assert_eq!(bytes.len(), frame_header_len(u64::from(payload_len)));
            bytes.extend_from_slice(b"payload");
            prop_assert_eq!(decode_frame_header(&bytes), Ok(header));
        }

        #[test]
        fn a_header_with_a_flipped_bit_or_cut_short_is_refused(
            payload_len in 1u32..100_000, seed: u64, bit: prop::sample::Index, cut: prop::sample::Index
        ) {
            let mut bytes = encode_frame_header(&frame(payload_len, 0, seed));
            prop_assert!(decode_frame_header(&bytes[..cut.index(bytes.len())]).is_err());
            let bit = bit.index(bytes.len() * 8);
            bytes[bit / 8] ^= 1 << (bit % 8);
            prop_assert!(decode_frame_header(&bytes).is_err());
        }

        #[test]
        fn arbitrary_bytes_never_panic(mut bytes in prop::collection::vec(any::<u8>(), 0..200), magic: bool) {
            if magic && bytes.len() >= 12 {
                bytes[..4].copy_from_slice(FRAME_MAGIC);
                bytes[4..8].copy_from_slice(&VERSION.to_le_bytes());
            }
            let _ = decode_frame_header(&bytes);
            let _ = decode_chunk_header(&bytes);
        }
    }
}
