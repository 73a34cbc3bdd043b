//! Reads a range of a chunk: plans which runs of the file hold it, reads them with few system calls, and checks every block.

use std::io::{self, IoSliceMut};

use bytes::Bytes;
use dfs_proto::chunk::{Blocks, block_checksum};
use dfs_proto::error::ChunkError;
use dfs_proto::ids::{ChunkId, Incarnation};
use dfs_proto::units::{BLOCK_LEN, CHUNK_APPENDS_MAX, ChunkOffset, READ_LEN_MAX};

use super::format::FRAME_HEADER_LEN_MAX;
use super::index::FrameIndex;
use super::{Context, read_failure};
use crate::disk::{DiskFile, PARTS_MAX, is_damage};

/// How many pieces one system call reads. The frame header between two of them is read and thrown away.
const PIECES_PER_READ: usize = PARTS_MAX / 2;
/// The most blocks in an answer; their lengths and checksums have to fit the body of a frame.
const BLOCKS_MAX: u64 = CHUNK_APPENDS_MAX + READ_LEN_MAX / BLOCK_LEN + 1;
const _: () = assert!(BLOCKS_MAX * 7 < dfs_proto::frame::BODY_LEN_MAX as u64);

/// The whole blocks that cover a range, and where they are in the file. It borrows nothing, so that no lock is held while the
/// disk works.
#[derive(Debug)]
pub(super) struct Plan {
    chunk: ChunkId,
    incarnation: Incarnation,
    offset: ChunkOffset,
    pieces: Vec<Run>,
    lens: Vec<u32>,
    checksums: Vec<u32>,
    total_len: usize,
}

#[derive(Debug)]
struct Run {
    position: u64,
    len: usize,
}

impl Plan {
    /// Plans to read `len` bytes from `offset` on. Only the first `held` bytes of what the index has may be read.
    pub(super) fn new(
        index: &FrameIndex,
        chunk: ChunkId,
        incarnation: Incarnation,
        held: u64,
        offset: u64,
        len: u64,
    ) -> Result<Plan, ChunkError> {
        if len == 0 || len > READ_LEN_MAX {
            let what = format!("{chunk}: read of {len} bytes, 1 to {READ_LEN_MAX} are allowed");
            return Err(ChunkError::Invalid { what });
        }
        let wanted = offset.saturating_add(len);
        if wanted > held.min(index.len()) {
            return Err(ChunkError::TooShort { chunk, held: held.min(index.len()), wanted });
        }
        let mut plan = Plan {
            chunk,
            incarnation,
            offset: ChunkOffset(offset),
            pieces: Vec::new(),
            lens: Vec::new(),
            checksums: Vec::new(),
            total_len: 0,
        };
        let pieces = index.cover(offset, wanted);
        let pieces = pieces.map_err(|at| ChunkError::Damaged { chunk, at: at.0 })?;
        for (number, piece) in pieces.into_iter().enumerate() {
            if number == 0 {
                plan.offset = piece.offset;
            }
            let mut left = piece.len as u64;
            while left > 0 {
                plan.lens.push(left.min(BLOCK_LEN) as u32);
                left = left.saturating_sub(BLOCK_LEN);
            }
            plan.checksums.extend_from_slice(piece.checksums);
            plan.pieces.push(Run { position: piece.file_position, len: piece.len });
            plan.total_len += piece.len;
        }
        Ok(plan)
    }

    /// Reads and verifies the blocks. Blocks.
    pub(super) fn read(self, context: &Context, file: &dyn DiskFile) -> Result<Blocks, ChunkError> {
        let mut data = vec![0; self.total_len];
        let filled = match read_runs(file, &self.pieces, &mut data) {
            Err(error) if is_damage(&error) => self.read_up_to_damage(file, &mut data),
            read => read,
        };
        let failed = |error| read_failure(context, &format!("read {}", self.chunk), &error);
        self.verify(&data, filled.map_err(failed)?)?;
        Ok(Blocks {
            offset: self.offset,
            lens: self.lens,
            checksums: self.checksums,
            data: Bytes::from(data),
        })
    }

    /// The medium fails somewhere in the range. Reads what lies before that place and returns how much it is, so that the
    /// damaged block is named and those around it can be asked for.
    fn read_up_to_damage(&self, file: &dyn DiskFile, data: &mut [u8]) -> io::Result<usize> {
        let mut filled = 0;
        for run in &self.pieces {
            for at in (0..run.len).step_by(BLOCK_LEN as usize) {
                let len = (run.len - at).min(BLOCK_LEN as usize);
                let block = IoSliceMut::new(&mut data[filled..filled + len]);
                match file.read_at(&mut [block], run.position + at as u64) {
                    Ok(read) if read == len => filled += len,
                    Ok(read) => return Ok(filled + read),
                    Err(error) if is_damage(&error) => return Ok(filled),
                    Err(error) => return Err(error),
                }
            }
        }
        Ok(filled)
    }

    /// Fails at the first block that does not match its checksum or was not read whole.
    fn verify(&self, data: &[u8], filled: usize) -> Result<(), ChunkError> {
        let mut at = 0usize;
        for (len, checksum) in self.lens.iter().zip(&self.checksums) {
            let end = at + *len as usize;
            let place = ChunkOffset(self.offset.0 + at as u64);
            let is_whole = end <= filled;
            if !is_whole || block_checksum(self.incarnation, self.chunk, place, &data[at..end]) != *checksum {
                return Err(ChunkError::Damaged { chunk: self.chunk, at: place.0 }); // keeps C3
            }
            at = end;
        }
        Ok(())
    }
}

/// Fills `data` with the runs, one behind the other; returns how much of it was filled.
fn read_runs(file: &dyn DiskFile, runs: &[Run], data: &mut [u8]) -> io::Result<usize> {
    let mut headers = Vec::new();
    let mut rest = data;
    let mut filled = 0;
    for group in runs.chunks(PIECES_PER_READ) {
        headers.resize(FRAME_HEADER_LEN_MAX * (group.len() - 1), 0);
        let mut parts = Vec::with_capacity(2 * group.len());
        let mut skipped_rest = headers.as_mut_slice();
        let mut at = group[0].position;
        let mut skipped_len = 0;
        let mut wanted = 0;
        for run in group {
            let (skipped, after) = skipped_rest.split_at_mut((run.position - at) as usize);
            skipped_rest = after;
            skipped_len += skipped.len();
            if !skipped.is_empty() {
                parts.push(IoSliceMut::new(skipped));
            }
            let (part, after) = rest.split_at_mut(run.len);
            rest = after;
            wanted += run.len;
            parts.push(IoSliceMut::new(part));
            at = run.position + run.len as u64;
        }
        let read = file.read_at(&mut parts, group[0].position)?;
        if read < wanted + skipped_len {
            // The file ends here, and some of what was read are headers: only what lies before this group counts as filled.
            return Ok(if group.len() == 1 { filled + read } else { filled });
        }
        filled += wanted;
    }
    Ok(filled)
}
