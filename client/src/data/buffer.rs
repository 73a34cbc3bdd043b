//! The bytes of one inode that were written and are not committed yet.
//!
//!     pieces   what a reader sees, by file offset, disjoint:  | open | frozen, of run 3 | frozen, of run 5 |
//!     runs     what is sent, by number; a later run lies over an earlier one where they overlap
//!
//! B1  The bytes of a run never change (P1.2): an open piece takes more bytes, and is frozen when it becomes a run.
//! B2  Each frozen piece is a part of exactly one run.
//! B3  All runs, laid over each other in the order of their numbers, show the frozen pieces.
//! This file is pure. Where runs were sent to is in `node`, how much memory all buffers may take together in `memory`.

use std::collections::BTreeMap;

use bytes::{Bytes, BytesMut};
use dfs_proto::units::APPEND_LEN_MAX;

/// The most bytes of a run: as many as one append carries.
pub(crate) const RUN_LEN_MAX: u64 = APPEND_LEN_MAX;
/// What a piece or a run costs beside its bytes, roughly: many tiny writes are not free.
const RECORD_COST_BYTES: u64 = 160;

/// The number of a run of one buffer. Runs are numbered from 0 in the order in which they were frozen; no number is
/// used again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct RunId(pub(crate) u64);

/// Bytes on their way to a chunk.
#[derive(Clone, Debug)]
pub(crate) struct Run {
    /// The position in the file.
    pub(crate) offset: u64,
    pub(crate) data: Bytes,
}

impl Run {
    pub(crate) fn end(&self) -> u64 {
        self.offset + self.data.len() as u64
    }
}

#[derive(Debug)]
enum Piece {
    Open(BytesMut),
    Frozen { run: RunId, bytes: Bytes },
}

impl Piece {
    fn len(&self) -> u64 {
        match self {
            Piece::Open(bytes) => bytes.len() as u64,
            Piece::Frozen { bytes, .. } => bytes.len() as u64,
        }
    }

    /// The part `[from, to)` of the piece, counted from its start, as a piece of its own.
    fn part(&self, from: u64, to: u64) -> Piece {
        let range = from as usize..to as usize;
        match self {
            Piece::Open(bytes) => Piece::Open(BytesMut::from(&bytes[range])),
            Piece::Frozen { run, bytes } => Piece::Frozen { run: *run, bytes: bytes.slice(range) },
        }
    }

    fn bytes(&self, from: u64, to: u64) -> Bytes {
        let range = from as usize..to as usize;
        match self {
            Piece::Open(bytes) => Bytes::copy_from_slice(&bytes[range]),
            Piece::Frozen { bytes, .. } => bytes.slice(range),
        }
    }
}

/// The buffer of one inode.
#[derive(Debug, Default)]
pub(crate) struct WriteBuffer {
    pieces: BTreeMap<u64, Piece>,
    runs: BTreeMap<RunId, Run>,
    next_run: u64,
    /// The bytes of all pieces, of the open pieces, and of all runs.
    piece_bytes: u64,
    open_bytes: u64,
    run_bytes: u64,
}

impl WriteBuffer {
    pub(crate) fn is_empty(&self) -> bool {
        self.pieces.is_empty() && self.runs.is_empty()
    }

    /// The position behind the last byte written; `None` when nothing is buffered.
    pub(crate) fn end(&self) -> Option<u64> {
        self.pieces.last_key_value().map(|(start, piece)| start + piece.len())
    }

    /// How many bytes of the file are buffered.
    pub(crate) fn dirty_bytes(&self) -> u64 {
        self.piece_bytes
    }

    /// How much memory the buffer takes.
    pub(crate) fn memory(&self) -> u64 {
        let records = (self.pieces.len() + self.runs.len()) as u64;
        self.open_bytes + self.run_bytes + records * RECORD_COST_BYTES
    }

    /// Lays `data` over what is there, and freezes pieces that became as long as a run. True if there was one.
    pub(crate) fn write(&mut self, offset: u64, data: &[u8]) -> bool {
        let (mut at, mut rest, mut froze) = (offset, data, false);
        while !rest.is_empty() {
            let taken = match self.extend_left(at, rest) {
                0 => self.start_piece(at, rest),
                taken => taken,
            };
            froze |= self.freeze_if_full(at);
            at += taken;
            rest = &rest[taken as usize..];
        }
        froze
    }

    /// Writes into, or behind, the open piece that contains or ends at `offset`. Returns how many bytes it took.
    fn extend_left(&mut self, offset: u64, data: &[u8]) -> u64 {
        let Some((&start, Piece::Open(bytes))) = self.pieces.range_mut(..=offset).next_back() else {
            return 0;
        };
        let inside = offset - start;
        if inside > bytes.len() as u64 || inside >= RUN_LEN_MAX {
            return 0;
        }
        let taken = (data.len() as u64).min(RUN_LEN_MAX - inside);
        let data = &data[..taken as usize];
        let within = (bytes.len() as u64 - inside).min(taken);
        bytes[inside as usize..(inside + within) as usize].copy_from_slice(&data[..within as usize]);
        if within < taken {
            let piece = self.remove(start).unwrap_or(Piece::Open(BytesMut::new()));
            self.cut(offset + within, offset + taken);
            if let Piece::Open(mut bytes) = piece {
                grow(&mut bytes, (taken - within) as usize);
                bytes.extend_from_slice(&data[within as usize..]);
                self.insert(start, Piece::Open(bytes));
            }
        }
        taken
    }

    fn start_piece(&mut self, offset: u64, data: &[u8]) -> u64 {
        let taken = (data.len() as u64).min(RUN_LEN_MAX);
        self.cut(offset, offset + taken);
        self.insert(offset, Piece::Open(BytesMut::from(&data[..taken as usize])));
        taken
    }

    fn freeze_if_full(&mut self, offset: u64) -> bool {
        let last = self.pieces.range(..=offset).next_back();
        match last {
            Some((&start, Piece::Open(bytes))) if bytes.len() as u64 >= RUN_LEN_MAX => {
                self.freeze(start);
                true
            }
            Some(_) | None => false,
        }
    }

    /// Makes the open piece at `start` a run.
    fn freeze(&mut self, start: u64) {
        match self.remove(start) {
            Some(Piece::Open(bytes)) => {
                let (run, bytes) = (RunId(self.next_run), bytes.freeze());
                self.next_run += 1;
                self.run_bytes += bytes.len() as u64;
                self.runs.insert(run, Run { offset: start, data: bytes.clone() });
                self.insert(start, Piece::Frozen { run, bytes }); // keeps B1, B2
            }
            Some(piece) => self.insert(start, piece),
            None => {}
        }
    }

    /// Freezes every open piece. The runs below the returned number hold all that was written until now.
    pub(crate) fn freeze_all(&mut self) -> RunId {
        let open: Vec<u64> = self
            .pieces
            .iter()
            .filter_map(|(start, piece)| matches!(piece, Piece::Open(_)).then_some(*start))
            .collect();
        for start in open {
            self.freeze(start);
        }
        RunId(self.next_run)
    }

    /// The runs below `end`, oldest first.
    pub(crate) fn runs_below(&self, end: RunId) -> impl Iterator<Item = (RunId, &Run)> + '_ {
        self.runs.range(..end).map(|(id, run)| (*id, run))
    }

    /// The oldest runs below `end` that have `len` bytes together, or all of them, are below the returned number.
    pub(crate) fn slice_end(&self, len: u64, end: RunId) -> RunId {
        let mut bytes = 0;
        let is_enough = |(_, run): &(RunId, &Run)| {
            bytes += run.data.len() as u64;
            bytes >= len
        };
        let last = self.runs_below(end).find(is_enough);
        last.map_or(end, |(id, _)| RunId(id.0 + 1))
    }

    /// Every run is below the returned number.
    pub(crate) fn frozen_end(&self) -> RunId {
        RunId(self.next_run)
    }

    pub(crate) fn has_run(&self, id: RunId) -> bool {
        self.runs.contains_key(&id)
    }

    /// Drops a run and its pieces: they are committed.
    pub(crate) fn forget(&mut self, id: RunId) {
        let Some(run) = self.runs.remove(&id) else { return };
        self.run_bytes -= run.data.len() as u64;
        let starts: Vec<u64> = self
            .pieces
            .range(run.offset..run.end())
            .filter_map(|(start, piece)| match piece {
                Piece::Frozen { run, .. } if *run == id => Some(*start),
                Piece::Frozen { .. } | Piece::Open(_) => None,
            })
            .collect();
        for start in starts {
            self.remove(start);
        }
    }

    /// Drops everything (P6.4). The numbers of runs go on.
    pub(crate) fn clear(&mut self) {
        *self = WriteBuffer { next_run: self.next_run, ..WriteBuffer::default() };
    }

    /// The buffered bytes of `[from, to)`, each piece with its offset in the file, in order and disjoint.
    pub(crate) fn overlay(&self, from: u64, to: u64) -> Vec<(u64, Bytes)> {
        let before = self.pieces.range(..from).next_back();
        before
            .into_iter()
            .chain(self.pieces.range(from..to))
            .filter_map(|(&start, piece)| {
                let (first, last) = (start.max(from), (start + piece.len()).min(to));
                (first < last).then(|| (first, piece.bytes(first - start, last - start)))
            })
            .collect()
    }

    /// True when nothing is buffered over `[from, to)`.
    pub(crate) fn overlay_is_empty(&self, from: u64, to: u64) -> bool {
        self.pieces.range(..to).next_back().is_none_or(|(start, piece)| start + piece.len() <= from)
    }

    /// Cuts `[from, to)` out of all pieces.
    fn cut(&mut self, from: u64, to: u64) {
        let before = self.pieces.range(..from).next_back().map(|(start, _)| *start);
        let touched: Vec<u64> =
            before.into_iter().chain(self.pieces.range(from..to).map(|(start, _)| *start)).collect();
        for start in touched {
            let Some(piece) = self.pieces.get(&start) else { continue };
            let end = start + piece.len();
            if end <= from {
                continue;
            }
            let head = (start < from).then(|| piece.part(0, from - start));
            let tail = (to < end).then(|| piece.part(to - start, end - start));
            self.remove(start);
            if let Some(head) = head {
                self.insert(start, head);
            }
            if let Some(tail) = tail {
                self.insert(to, tail);
            }
        }
    }

    fn insert(&mut self, start: u64, piece: Piece) {
        self.piece_bytes += piece.len();
        if let Piece::Open(bytes) = &piece {
            self.open_bytes += bytes.len() as u64;
        }
        self.pieces.insert(start, piece);
    }

    fn remove(&mut self, start: u64) -> Option<Piece> {
        let piece = self.pieces.remove(&start)?;
        self.piece_bytes -= piece.len();
        if let Piece::Open(bytes) = &piece {
            self.open_bytes -= bytes.len() as u64;
        }
        Some(piece)
    }
}

/// Makes room in a piece. A piece that grows is probably a stream: room for a whole run saves copying it again and
/// again.
fn grow(bytes: &mut BytesMut, more: usize) {
    const STREAM_LEN: usize = 64 << 10;
    let run_len = RUN_LEN_MAX as usize;
    if bytes.capacity() < bytes.len() + more && bytes.len() + more >= STREAM_LEN {
        bytes.reserve(run_len.saturating_sub(bytes.len()).max(more));
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn shown(buffer: &WriteBuffer, len: usize) -> Vec<Option<u8>> {
        let mut seen = vec![None; len];
        let mut end = 0;
        for (offset, bytes) in buffer.overlay(0, len as u64) {
            assert!(offset >= end, "in order and disjoint");
            end = offset + bytes.len() as u64;
            for (at, byte) in bytes.iter().enumerate() {
                seen[offset as usize + at] = Some(*byte);
            }
        }
        seen
    }

    #[test]
    fn small_writes_that_continue_each_other_become_one_run() {
        let mut buffer = WriteBuffer::default();
        for index in 0..10u64 {
            assert!(!buffer.write(index * 100, &[index as u8; 100]));
        }
        let end = buffer.freeze_all();
        let runs: Vec<_> = buffer.runs_below(end).map(|(_, run)| (run.offset, run.data.len())).collect();
        assert_eq!(runs, [(0, 1000)]);
    }

    #[test]
    fn a_piece_as_long_as_a_run_is_frozen_at_once() {
        let mut buffer = WriteBuffer::default();
        let mib = vec![1u8; RUN_LEN_MAX as usize];
        assert!(!buffer.write(0, &mib[..1000]));
        assert!(buffer.write(1000, &mib));
        assert_eq!(buffer.runs_below(buffer.frozen_end()).count(), 1);
        assert_eq!(buffer.end(), Some(RUN_LEN_MAX + 1000));
    }

    #[test]
    fn bytes_of_a_run_do_not_change_when_they_are_overwritten() {
        let mut buffer = WriteBuffer::default();
        buffer.write(0, b"aaaa");
        let first = buffer.freeze_all();
        buffer.write(1, b"bb");
        let run = buffer.runs_below(first).next().map(|(_, run)| run.data.clone());
        assert_eq!(run.as_deref(), Some(&b"aaaa"[..]));
        assert_eq!(shown(&buffer, 4), [Some(b'a'), Some(b'b'), Some(b'b'), Some(b'a')]);
    }

    #[test]
    fn what_was_overwritten_after_it_was_frozen_stays_dirty_when_the_run_is_forgotten() {
        let mut buffer = WriteBuffer::default();
        buffer.write(0, b"aaaa");
        let end = buffer.freeze_all();
        buffer.write(1, b"bb");
        buffer.forget(RunId(end.0 - 1));
        assert_eq!(shown(&buffer, 4), [None, Some(b'b'), Some(b'b'), None]);
        assert_eq!(buffer.dirty_bytes(), 2);
    }

    proptest! {
        #[test]
        fn a_buffer_reads_like_an_array_and_its_runs_add_up_to_what_it_shows(
            steps in prop::collection::vec((0u64..400, 1usize..120, 0u8..8), 1..80)
        ) {
            let mut buffer = WriteBuffer::default();
            let mut model = vec![None; 600];
            let mut sent: Vec<Option<u8>> = vec![None; 600];
            for (index, (offset, len, action)) in steps.into_iter().enumerate() {
                let fill = index as u8;
                buffer.write(offset, &vec![fill; len]);
                for slot in &mut model[offset as usize..offset as usize + len] {
                    *slot = Some(fill);
                }
                if action == 0 {
                    let end = buffer.freeze_all();
                    let runs: Vec<(RunId, Run)> =
                        buffer.runs_below(end).map(|(id, run)| (id, run.clone())).collect();
                    for (id, run) in runs {
                        for (at, byte) in run.data.iter().enumerate() {
                            sent[run.offset as usize + at] = Some(*byte);
                        }
                        buffer.forget(id);
                    }
                    prop_assert!(buffer.is_empty());
                    prop_assert_eq!(buffer.memory(), 0);
                } else if action == 1 {
                    buffer.freeze_all();
                }
                let seen: Vec<Option<u8>> =
                    shown(&buffer, 600).into_iter().zip(&sent).map(|(new, old)| new.or(*old)).collect();
                prop_assert_eq!(&seen, &model);
                let dirty = shown(&buffer, 600).iter().flatten().count() as u64;
                prop_assert_eq!(dirty, buffer.dirty_bytes());
            }
        }
    }
}
