//! A file's content as extents: which bytes of which chunk stand where. A gap is a hole and reads as zeros.

use serde::{Deserialize, Serialize};

use crate::ids::ChunkId;
use crate::units::{ChunkOffset, Offset};

/// `len` bytes at `offset` of a file are the bytes at `chunk_offset` of `chunk`. `len` is at least 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Extent {
    pub offset: Offset,
    pub len: u64,
    pub chunk: ChunkId,
    pub chunk_offset: ChunkOffset,
}

impl Extent {
    /// The position behind its last byte.
    pub fn end(&self) -> u64 {
        self.offset.0 + self.len
    }

    /// The part inside `[from, to)`, or `None` when they do not touch.
    pub fn clip(&self, from: u64, to: u64) -> Option<Extent> {
        let start = self.offset.0.max(from);
        let end = self.end().min(to);
        (start < end).then(|| Extent {
            offset: Offset(start),
            len: end - start,
            chunk: self.chunk,
            chunk_offset: ChunkOffset(self.chunk_offset.0 + (start - self.offset.0)),
        })
    }

    /// True when `next` goes on where this one ends, in the file and in the chunk.
    pub fn is_followed_by(&self, next: &Extent) -> bool {
        self.end() == next.offset.0
            && self.chunk == next.chunk
            && self.chunk_offset.0 + self.len == next.chunk_offset.0
    }
}

/// Extents of one file, sorted, without overlap; neighbours that continue each other are one.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ExtentMap {
    extents: Vec<Extent>,
}

impl ExtentMap {
    /// From extents as a server lists them (sorted, disjoint); anything else is laid over in order.
    pub fn from_extents(extents: impl IntoIterator<Item = Extent>) -> ExtentMap {
        let mut map = ExtentMap::default();
        for extent in extents {
            map.overlay(extent);
        }
        map
    }

    pub fn as_slice(&self) -> &[Extent] {
        &self.extents
    }

    /// Lays `new` over what is there: older bytes in its range vanish, at its edges they are cut.
    pub fn overlay(&mut self, new: Extent) {
        if new.len == 0 {
            return;
        }
        match self.extents.last_mut() {
            Some(last) if last.is_followed_by(&new) => last.len += new.len,
            Some(last) if last.end() > new.offset.0 => {
                self.cut(new.offset.0, new.end());
                let at = self.extents.partition_point(|e| e.offset.0 < new.offset.0);
                self.extents.insert(at, new);
            }
            Some(_) | None => self.extents.push(new),
        }
    }

    /// Makes `[from, to)` a hole.
    pub fn cut(&mut self, from: u64, to: u64) {
        let first = self.extents.partition_point(|e| e.end() <= from);
        let last = self.extents.partition_point(|e| e.offset.0 < to);
        if first >= last {
            return;
        }
        let head = self.extents[first].clip(0, from);
        let tail = self.extents[last - 1].clip(to, u64::MAX);
        self.extents.splice(first..last, head.into_iter().chain(tail));
    }

    /// The pieces of `[from, to)` in order; what lies between them is a hole.
    pub fn range(&self, from: u64, to: u64) -> impl Iterator<Item = Extent> + '_ {
        let first = self.extents.partition_point(|e| e.end() <= from);
        self.extents[first..]
            .iter()
            .take_while(move |e| e.offset.0 < to)
            .filter_map(move |e| e.clip(from, to))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn extent(offset: u64, len: u64, chunk: u64) -> Extent {
        Extent { offset: Offset(offset), len, chunk: ChunkId(chunk), chunk_offset: ChunkOffset(1000 * chunk) }
    }

    #[test]
    fn a_write_into_the_middle_splits_the_older_extent() {
        let map = ExtentMap::from_extents([extent(0, 100, 1), extent(40, 20, 2)]);
        let pieces: Vec<_> = map.as_slice().iter().map(|e| (e.offset.0, e.len, e.chunk.0)).collect();
        assert_eq!(pieces, [(0, 40, 1), (40, 20, 2), (60, 40, 1)]);
        assert_eq!(map.as_slice()[2].chunk_offset, ChunkOffset(1060));
    }

    proptest! {
        #[test]
        fn a_map_reads_like_an_array_that_was_overwritten(
            writes in prop::collection::vec((0u64..200, 1u64..60, any::<bool>()), 1..40)
        ) {
            let mut map = ExtentMap::default();
            let mut bytes = vec![None; 300];
            for (index, (offset, len, is_cut)) in writes.into_iter().enumerate() {
                let new = extent(offset, len, index as u64);
                if is_cut { map.cut(offset, offset + len) } else { map.overlay(new) }
                for at in offset..offset + len {
                    bytes[at as usize] = (!is_cut).then(|| (new.chunk.0, new.chunk_offset.0 + at - offset));
                }
            }
            let mut seen = vec![None; 300];
            let mut end = 0;
            for e in map.range(0, 300) {
                prop_assert!(e.offset.0 >= end, "sorted and disjoint");
                end = e.end();
                for at in e.offset.0..e.end() {
                    seen[at as usize] = Some((e.chunk.0, e.chunk_offset.0 + at - e.offset.0));
                }
            }
            prop_assert_eq!(seen, bytes);
        }
    }
}
