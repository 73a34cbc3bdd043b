//! Finds the frames of a chunk file, even if some of their headers are damaged.
//!
//! Frames stand one behind the other, so each header tells where the next one is. A damaged header must not make the frames
//! behind it unreadable:
//!
//! W1  The length of its frame is found by what follows: where a frame of that length would end, the next header (or the
//!     end of the file) must fit. The length that the damaged header names is tried first, then those that one flipped bit
//!     makes of it, then every place of the file where a header of this chunk stands and the sums fit exactly.
//! W2  Of a frame whose length was found in that way, only the blocks whose own checksums are damaged are lost. Each block
//!     checksum covers chunk, incarnation and place, so that no block is ever taken for another (P1.3).
//! W3  If no length is found, the part up to the next header of this chunk is a gap, and the walk goes on there.
//! W4  A header that is whole, but whose frame ends behind the end of the file, is a torn write. Nothing is looked for behind
//!     it.
//!
//! After a crash the end of a file may be noise. Then the search finds nothing, once each time the chunk is loaded, and the
//! index ends at the last frame that belongs to the chunk. What a commit names was synced and lies before that.

use std::io::{self, IoSliceMut};

use dfs_proto::chunk::block_checksum;
use dfs_proto::ids::{ChunkId, Incarnation};
use dfs_proto::units::{APPEND_LEN_MAX, BLOCK_LEN, CHUNK_LEN, ChunkOffset, MIB};

use super::format::{
    CHUNK_HEADER_LEN, FRAME_HEADER_LEN, FRAME_HEADER_LEN_MAX, FRAME_MAGIC, FrameHeader, Malformed,
    block_count, decode_frame_header, frame_header_len, named_payload_len, stored_checksums,
};
use super::index::FrameIndex;
use crate::disk::{DiskFile, is_damage};

/// How much the walk reads at a time: the header of one of the largest appends, or the headers of many small ones.
const WINDOW_LEN: usize = 16 << 10;
/// How much the search for the next header reads at a time.
const SEARCH_LEN: usize = MIB as usize;
/// Where the medium fails, the bytes around that place are read in pieces of this size.
const SECTOR_LEN: usize = 4096;

/// The state of a walk over the file of one chunk.
pub(super) struct Walk<'a> {
    file: &'a dyn DiskFile,
    file_len: u64,
    chunk: ChunkId,
    incarnation: Incarnation,
    window: Window,
}

/// The part of the file that was read last.
struct Window {
    bytes: Vec<u8>,
    start: u64,
    len: usize,
}

/// What a damaged header turned out to be.
enum Next {
    /// The header of a frame of this length.
    Frame { payload_len: u32 },
    /// The begin of a lost part that ends at this offset of the chunk, whose frame stands at this position of the file.
    Gap { offset: u64, position: u64 },
}

/// The index of all frames that can be found, and how many damaged headers had frames behind them.
pub(super) fn walk(
    file: &dyn DiskFile,
    chunk: ChunkId,
    incarnation: Incarnation,
) -> io::Result<(FrameIndex, usize)> {
    let window = Window { bytes: vec![0; WINDOW_LEN], start: 0, len: 0 };
    let mut walk = Walk { file, file_len: file.file_len()?, chunk, incarnation, window };
    let mut index = FrameIndex::default();
    let mut position = CHUNK_HEADER_LEN as u64;
    let mut damaged = 0;
    while position < walk.file_len && !index.is_full() {
        let (at, found) = (index.len(), walk.frame_at(position)?);
        if let Some(frame) = found.filter(|frame| walk.belongs(frame, at)) {
            position = frame_end(position, frame.payload_len);
            if position > walk.file_len {
                break; // keeps W4
            }
            index.push(&frame, position - u64::from(frame.payload_len));
            continue;
        }
        match walk.resume(position, at)? {
            None => break,
            Some(Next::Gap { offset, position: behind }) => {
                index.push_gap(ChunkOffset(offset));
                position = behind;
            }
            Some(Next::Frame { payload_len }) => {
                let frame = walk.salvaged(position, at, payload_len)?;
                position = frame_end(position, payload_len);
                index.push(&frame, position - u64::from(payload_len));
            }
        }
        damaged += 1;
    }
    Ok((index, damaged))
}

/// The incarnation that the first frame of this chunk names, for a file whose own header is damaged.
pub(super) fn incarnation_of(file: &dyn DiskFile, chunk: ChunkId) -> io::Result<Option<Incarnation>> {
    let mut found = None;
    search(file, CHUNK_HEADER_LEN as u64, file.file_len()?, |_, bytes| {
        let frame = decode_frame_header(bytes).ok().filter(|frame| frame.chunk == chunk);
        found = frame.map(|frame| frame.incarnation);
        found.is_some()
    })?;
    Ok(found)
}

fn frame_end(position: u64, payload_len: u32) -> u64 {
    let payload_len = u64::from(payload_len);
    position + frame_header_len(payload_len) as u64 + payload_len
}

impl Walk<'_> {
    fn belongs(&self, frame: &FrameHeader, at: u64) -> bool {
        self.is_ours(frame) && frame.offset.0 == at
    }

    fn is_ours(&self, frame: &FrameHeader) -> bool {
        frame.chunk == self.chunk && frame.incarnation == self.incarnation
    }

    /// The frame whose header stands at `position`, or `None` if the header there is not valid.
    fn frame_at(&mut self, position: u64) -> io::Result<Option<FrameHeader>> {
        let Window { bytes, start, len } = &mut self.window;
        let skip = position.saturating_sub(*start).min(*len as u64) as usize;
        match decode_frame_header(&bytes[skip..*len]) {
            Ok(frame) if position >= *start => return Ok(Some(frame)),
            Err(error) if position >= *start && !matches!(error, Malformed::Short { .. }) => return Ok(None),
            Ok(_) | Err(_) => {}
        }
        *start = position;
        *len = read(self.file, bytes, position)?;
        Ok(decode_frame_header(&bytes[..*len]).ok())
    }

    /// Finds out how the walk goes on: the header at `position`, of the frame at `at` in the chunk, is damaged.
    fn resume(&mut self, position: u64, at: u64) -> io::Result<Option<Next>> {
        let mut head = [0; FRAME_HEADER_LEN];
        if read(self.file, &mut head, position)? < FRAME_HEADER_LEN {
            return Ok(None);
        }
        let named = named_payload_len(&head);
        for payload_len in [named].into_iter().chain((0..u32::BITS).map(|bit| named ^ (1 << bit))) {
            if self.ends_well(position, at, payload_len)? {
                return Ok(Some(Next::Frame { payload_len })); // keeps W1
            }
        }
        let next = self.find_next(position, at)?;
        if !matches!(next, Some(Next::Frame { .. })) && self.has_a_good_block(position, at, named)? {
            return Ok(Some(Next::Frame { payload_len: named }));
        }
        Ok(next)
    }

    fn is_possible(&self, position: u64, at: u64, payload_len: u32) -> bool {
        (1..=APPEND_LEN_MAX).contains(&u64::from(payload_len))
            && at + u64::from(payload_len) <= CHUNK_LEN
            && frame_end(position, payload_len) <= self.file_len
    }

    /// Whether the next frame begins, or the file ends, where a frame of this length would end.
    fn ends_well(&mut self, position: u64, at: u64, payload_len: u32) -> io::Result<bool> {
        if !self.is_possible(position, at, payload_len) {
            return Ok(false);
        }
        let end = frame_end(position, payload_len);
        if end == self.file_len {
            return self.has_a_good_block(position, at, payload_len);
        }
        let next = self.frame_at(end)?;
        Ok(next.is_some_and(|frame| self.belongs(&frame, at + u64::from(payload_len))))
    }

    fn has_a_good_block(&self, position: u64, at: u64, payload_len: u32) -> io::Result<bool> {
        if !self.is_possible(position, at, payload_len) {
            return Ok(false);
        }
        let frame = self.salvaged(position, at, payload_len)?;
        let mut payload = vec![0; payload_len as usize];
        read(self.file, &mut payload, frame_end(position, payload_len) - u64::from(payload_len))?;
        let mut blocks = payload.chunks(BLOCK_LEN as usize).zip(&frame.block_checksums).enumerate();
        let is_good = |(number, (block, checksum)): (usize, (&[u8], &u32))| {
            let place = ChunkOffset(at + number as u64 * BLOCK_LEN);
            block_checksum(self.incarnation, self.chunk, place, block) == *checksum
        };
        Ok(blocks.any(is_good))
    }

    /// The frame of this length whose header is damaged, with the block checksums as they stand in the file (W2).
    fn salvaged(&self, position: u64, at: u64, payload_len: u32) -> io::Result<FrameHeader> {
        let mut bytes = vec![0; 4 * block_count(u64::from(payload_len))];
        read(self.file, &mut bytes, position + FRAME_HEADER_LEN as u64)?;
        Ok(FrameHeader {
            chunk: self.chunk,
            incarnation: self.incarnation,
            offset: ChunkOffset(at),
            inode: dfs_proto::ids::InodeId(0),
            file_offset: dfs_proto::units::Offset(0),
            payload_len,
            block_checksums: stored_checksums(&bytes),
        })
    }

    /// The next header of this chunk behind the one at `position`: the one that exactly one frame fits before or, if there is
    /// none, the first that several frames fit before (W3).
    fn find_next(&self, position: u64, at: u64) -> io::Result<Option<Next>> {
        let from = position + FRAME_HEADER_LEN as u64;
        let near = (position + FRAME_HEADER_LEN_MAX as u64 + APPEND_LEN_MAX + 1).min(self.file_len);
        let mut next = None;
        search(self.file, from, near, |found_at, bytes| {
            let found = self.next_by(position, at, found_at, bytes);
            let is_certain = matches!(found, Some(Next::Frame { .. }));
            if is_certain || next.is_none() {
                next = found;
            }
            is_certain
        })?;
        if next.is_none() {
            search(self.file, near, self.file_len, |found_at, bytes| {
                next = self.next_by(position, at, found_at, bytes);
                next.is_some()
            })?;
        }
        Ok(next)
    }

    /// What a header at `found_at` tells about the damaged one at `position`.
    fn next_by(&self, position: u64, at: u64, found_at: u64, bytes: &[u8]) -> Option<Next> {
        let frame = decode_frame_header(bytes).ok()?;
        if !self.is_ours(&frame) || frame.offset.0 <= at {
            return None;
        }
        let len = frame.offset.0 - at;
        let headers = (found_at - position).checked_sub(len)?;
        if len <= APPEND_LEN_MAX && headers == frame_header_len(len) as u64 {
            return Some(Next::Frame { payload_len: len as u32 });
        }
        let gap = Next::Gap { offset: frame.offset.0, position: found_at };
        may_be_headers(headers, len).then_some(gap)
    }
}

/// Whether two or more frames that together hold `len` bytes can have `headers` bytes of headers.
fn may_be_headers(headers: u64, len: u64) -> bool {
    let fixed = FRAME_HEADER_LEN as u64;
    (2..=headers / fixed).any(|frames| {
        let checksums = (headers - frames * fixed) / 4;
        headers.is_multiple_of(4)
            && frames <= len
            && (len.div_ceil(BLOCK_LEN)..=len / BLOCK_LEN + frames).contains(&checksums)
    })
}

/// Calls `found` with every place in `[from, to)` where a frame header begins, until `found` returns true.
fn search(
    file: &dyn DiskFile,
    from: u64,
    to: u64,
    mut found: impl FnMut(u64, &[u8]) -> bool,
) -> io::Result<()> {
    let mut bytes = vec![0; SEARCH_LEN + FRAME_HEADER_LEN_MAX];
    let mut start = from;
    while start < to {
        let len = read(file, &mut bytes, start)?;
        let places = bytes[..len].windows(FRAME_MAGIC.len()).take(SEARCH_LEN).enumerate();
        for (place, _) in places.filter(|(_, window)| *window == FRAME_MAGIC) {
            if found(start + place as u64, &bytes[place..len]) {
                return Ok(());
            }
        }
        start += SEARCH_LEN as u64;
    }
    Ok(())
}

/// Fills `bytes` as far as the file goes, and returns how much that is. A part that the medium cannot read any more reads as
/// zeros, which the checksums reveal, as they reveal any other damage.
fn read(file: &dyn DiskFile, bytes: &mut [u8], position: u64) -> io::Result<usize> {
    match file.read_at(&mut [IoSliceMut::new(bytes)], position) {
        Err(error) if is_damage(&error) => {}
        result => return result,
    }
    let left = file.file_len()?.saturating_sub(position);
    let len = bytes.len().min(left as usize);
    for (number, sector) in bytes[..len].chunks_mut(SECTOR_LEN).enumerate() {
        let at = position + (number * SECTOR_LEN) as u64;
        match file.read_at(&mut [IoSliceMut::new(sector)], at) {
            Ok(_) => {}
            Err(error) if is_damage(&error) => sector.fill(0),
            Err(error) => return Err(error),
        }
    }
    Ok(len)
}
