//! Where each frame of one chunk lies in its file: enough to find, and to verify, any block without reading a header.
//!
//! It is built as frames are appended, or by walking the frame headers when a chunk is first read (`walk.rs`). It takes 12
//! bytes for each frame and 4 bytes for each block: 65 KiB for a full chunk of 1 MiB appends, 1 MiB for one of the smallest.

use dfs_proto::units::{BLOCK_LEN, CHUNK_APPENDS_MAX, CHUNK_LEN, ChunkOffset};

use super::format::FrameHeader;

/// The frames of one chunk.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct FrameIndex {
    /// In the order of the chunk: each begins where the one before it ends. A part that damage has made unreadable is an
    /// entry whose place is [`GAP`].
    frames: Vec<FramePlace>,
    checksums: Vec<u32>,
    len: u32,
}

/// Stands for the place in the file of frames that cannot be found any more. It is the place of no frame: `format` asserts
/// that.
const GAP: u32 = u32::MAX;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct FramePlace {
    /// The place of its first byte in the chunk.
    offset: u32,
    /// The place of its payload in the file. It fits 32 bits: `format` asserts that.
    payload: u32,
    first_checksum: u32,
}

/// Some whole blocks of one frame, which are one run of bytes in the file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Piece<'a> {
    pub(crate) offset: ChunkOffset,
    pub(crate) file_position: u64,
    pub(crate) len: usize,
    pub(crate) checksums: &'a [u32],
}

impl FrameIndex {
    /// The length of the chunk that the frames make up.
    pub(crate) fn len(&self) -> u64 {
        u64::from(self.len)
    }

    /// Whether the chunk has as many frames as it may have, however few bytes they hold. That bounds the memory of the index
    /// and the size of answers.
    pub(crate) fn is_full(&self) -> bool {
        self.frames.len() as u64 >= CHUNK_APPENDS_MAX
    }

    /// About how much memory the index takes.
    pub(crate) fn memory_bytes(&self) -> usize {
        self.frames.len() * size_of::<FramePlace>() + self.checksums.len() * 4
    }

    /// Adds the frame whose payload begins at `payload_position` of the file. The frame must begin where the last one ends.
    pub(crate) fn push(&mut self, frame: &FrameHeader, payload_position: u64) {
        debug_assert_eq!(frame.offset.0, self.len());
        debug_assert!(self.len() + u64::from(frame.payload_len) <= CHUNK_LEN);
        self.push_place(payload_position as u32);
        self.checksums.extend_from_slice(&frame.block_checksums);
        self.len += frame.payload_len;
    }

    /// Notes that the part from the end of the last frame to `to` is lost.
    pub(crate) fn push_gap(&mut self, to: ChunkOffset) {
        debug_assert!(to.0 > self.len() && to.0 <= CHUNK_LEN);
        self.push_place(GAP);
        self.len = to.0 as u32;
    }

    fn push_place(&mut self, payload: u32) {
        let first_checksum = self.checksums.len() as u32;
        self.frames.push(FramePlace { offset: self.len, payload, first_checksum });
    }

    fn frame_end(&self, frame: usize) -> u32 {
        self.frames.get(frame + 1).map_or(self.len, |next| next.offset)
    }

    fn frame_checksums(&self, frame: usize) -> &[u32] {
        let first = self.frames[frame].first_checksum as usize;
        let end =
            self.frames.get(frame + 1).map_or(self.checksums.len(), |next| next.first_checksum as usize);
        &self.checksums[first..end]
    }

    /// Whether there is exactly this frame: the same place, length and bytes. The checksums cover the chunk and the place
    /// too.
    pub(crate) fn has_frame(&self, offset: ChunkOffset, len: u64, checksums: &[u32]) -> bool {
        let found = self.frames.binary_search_by_key(&offset.0, |frame| u64::from(frame.offset));
        found.is_ok_and(|frame| {
            u64::from(self.frame_end(frame)) == offset.0 + len && self.frame_checksums(frame) == checksums
        })
    }

    /// The whole blocks that cover `[from, to)`, in order and without gaps, one piece for each frame. `to` is at most
    /// [`Self::len`]. If a part of the range is lost, the error is where that part begins.
    pub(crate) fn cover(&self, from: u64, to: u64) -> Result<Vec<Piece<'_>>, ChunkOffset> {
        let first = self.frames.partition_point(|frame| u64::from(frame.offset) <= from).saturating_sub(1);
        let mut pieces = Vec::new();
        for (index, frame) in self.frames.iter().enumerate().skip(first) {
            let (start, end) = (u64::from(frame.offset), u64::from(self.frame_end(index)));
            if start >= to || from >= to {
                break;
            }
            if frame.payload == GAP {
                return Err(ChunkOffset(start.max(from)));
            }
            let skipped = from.saturating_sub(start) / BLOCK_LEN;
            let blocks_end = (to.min(end) - start).div_ceil(BLOCK_LEN);
            let offset = start + skipped * BLOCK_LEN;
            pieces.push(Piece {
                offset: ChunkOffset(offset),
                file_position: u64::from(frame.payload) + skipped * BLOCK_LEN,
                len: ((start + blocks_end * BLOCK_LEN).min(end) - offset) as usize,
                checksums: &self.frame_checksums(index)[skipped as usize..blocks_end as usize],
            });
        }
        Ok(pieces)
    }
}

#[cfg(test)]
mod tests {
    use dfs_proto::ids::{ChunkId, Incarnation, InodeId};
    use dfs_proto::units::Offset;
    use proptest::prelude::*;

    use super::super::format::{block_count, frame_header_len};
    use super::*;

    fn index(lens: &[u32]) -> FrameIndex {
        let mut index = FrameIndex::default();
        let mut position = 80;
        for &payload_len in lens {
            let block_checksums =
                (0..block_count(u64::from(payload_len))).map(|_| index.checksums.len() as u32).collect();
            let frame = FrameHeader {
                chunk: ChunkId(1),
                incarnation: Incarnation(1),
                offset: ChunkOffset(index.len()),
                inode: InodeId(0),
                file_offset: Offset(0),
                payload_len,
                block_checksums,
            };
            position += frame_header_len(u64::from(payload_len)) as u64;
            index.push(&frame, position);
            position += u64::from(payload_len);
        }
        index
    }

    #[test]
    fn a_frame_is_recognised_only_with_its_place_length_and_checksums() {
        let index = index(&[5000, 100]);
        assert!(index.has_frame(ChunkOffset(0), 5000, &[0, 0]));
        assert!(index.has_frame(ChunkOffset(5000), 100, &[2]));
        assert!(!index.has_frame(ChunkOffset(0), 4999, &[0, 0]));
        assert!(!index.has_frame(ChunkOffset(0), 5000, &[0, 1]));
        assert!(!index.has_frame(ChunkOffset(1), 4999, &[0, 0]));
    }

    #[test]
    fn what_is_lost_is_named_and_what_lies_around_is_found() {
        let mut index = index(&[5000, 100]);
        let frame = |offset| FrameHeader {
            chunk: ChunkId(1),
            incarnation: Incarnation(1),
            offset: ChunkOffset(offset),
            inode: InodeId(0),
            file_offset: Offset(0),
            payload_len: 10,
            block_checksums: vec![7],
        };
        index.push_gap(ChunkOffset(9000));
        index.push(&frame(9000), 20_000);
        assert_eq!(index.cover(5099, 5100).unwrap()[0].offset, ChunkOffset(5000));
        assert_eq!(index.cover(0, 5101), Err(ChunkOffset(5100)));
        assert_eq!(index.cover(6000, 9001), Err(ChunkOffset(6000)));
        assert_eq!(index.cover(9000, 9010).unwrap()[0].file_position, 20_000);
    }

    proptest! {
        #[test]
        fn the_pieces_of_a_range_cover_it_with_whole_blocks_and_not_more(
            lens in prop::collection::vec(1u32..20_000, 1..20), from: prop::sample::Index, len: prop::sample::Index
        ) {
            let index = index(&lens);
            let from = from.index(index.len() as usize) as u64;
            let to = from + 1 + len.index((index.len() - from) as usize) as u64;
            let pieces = index.cover(from, to).unwrap();
            prop_assert!(pieces[0].offset.0 <= from && from < pieces[0].offset.0 + BLOCK_LEN);
            let mut at = pieces[0].offset.0;
            for piece in &pieces {
                prop_assert_eq!(piece.offset.0, at);
                prop_assert_eq!(piece.checksums.len(), block_count(piece.len as u64));
                at += piece.len as u64;
            }
            prop_assert!(to <= at && at < to + BLOCK_LEN);
        }
    }
}
