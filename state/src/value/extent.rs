//! Extents and cuts. What they keep, E1 to E3, is in `table::extent`.

use dfs_proto::extent::Extent;
use dfs_proto::ids::{ChunkId, ContentSeq};
use dfs_proto::units::ChunkOffset;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ExtentRecord {
    pub len: u64,
    pub chunk: ChunkId,
    pub chunk_offset: ChunkOffset,
    pub seq: ContentSeq,
    pub birth: Birth,
}

/// Where the bytes of an extent were first written: the first of them there, the others behind it (P1.8). Compaction, once there is any,
/// moves bytes and leaves this.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Birth {
    pub chunk: ChunkId,
    pub offset: ChunkOffset,
}

/// An extent as it stands in its file, with the number of the commit that laid it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Laid {
    pub extent: Extent,
    pub seq: ContentSeq,
    pub birth: Birth,
}

impl Laid {
    /// Bytes that are where they were first written.
    pub(crate) fn new(extent: Extent, seq: ContentSeq) -> Laid {
        Laid { extent, seq, birth: Birth { chunk: extent.chunk, offset: extent.chunk_offset } }
    }

    /// The part inside `[from, to)`, born where its own first byte was.
    pub(crate) fn clip(&self, from: u64, to: u64) -> Option<Laid> {
        let extent = self.extent.clip(from, to)?;
        let front = extent.offset.0 - self.extent.offset.0;
        let birth = Birth { offset: ChunkOffset(self.birth.offset.0 + front), ..self.birth };
        Some(Laid { extent, seq: self.seq, birth })
    }

    /// `next` goes on where this one ends: in the file, in the chunk, and where they were born.
    pub(crate) fn is_followed_by(&self, next: &Laid) -> bool {
        self.extent.is_followed_by(&next.extent)
            && self.birth.chunk == next.birth.chunk
            && self.birth.offset.0 + self.extent.len == next.birth.offset.0
    }

    /// True when a cut has removed it (E2).
    pub(crate) fn is_hidden_by(&self, cuts: &[Cut]) -> bool {
        cuts.iter().any(|cut| self.seq < cut.seq && self.extent.offset.0 >= cut.from)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct CutRecord {
    pub from: u64,
    /// Nothing that ends at or before this is left for the reaper to look at.
    pub reaped_to: u64,
}

/// See E2.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Cut {
    pub seq: ContentSeq,
    pub from: u64,
    pub reaped_to: u64,
}
