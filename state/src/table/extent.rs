//! What files are made of. Extents are keyed by the position behind their last byte, so that one forward seek finds the
//! first one that ends behind an offset.
//!
//! E1  The records of one inode are disjoint, also those behind a cut.
//! E2  A *cut* is a truncation that had more to delete than one command may: every record that begins at or behind it
//!     and is older (by `ContentSeq`) is gone for every reader, and deleted later by the reaper. No older record
//!     reaches over it.
//! E3  A chunk's live bytes are the sum of the records that name it, those behind a cut too: their bytes may go only
//!     when nothing names them.
//!
//! An overlay deletes every record that it covers, at once. That is work in proportion to what is covered, but each
//! record is deleted once and was paid for by the commit that made it; one commit covers at most what it appended.

use std::collections::BTreeMap;

use dfs_proto::extent::Extent;
use dfs_proto::ids::{ChunkId, ContentSeq, InodeId};
use dfs_proto::units::Offset;

use super::chunk;
use super::space;
use crate::keys;
use crate::kv::{Snapshot, Txn, prefix_end, scan_prefix};
use crate::record::extent::{Cuts, Extents};
use crate::record::{decode, encode};
use crate::time::StateTime;
use crate::value::extent::{Cut, CutRecord, ExtentRecord, Laid};
use crate::value::inode::InodeRecord;
use crate::value::space::SpaceRecord;

/// Extents that a truncation deletes at once; more are left to the reaper (P7.2).
const TRUNCATE_INLINE_MAX: usize = 256;
/// Cuts of one inode that may wait for the reaper. A truncation that would be one more deletes all it must by itself.
const CUTS_MAX: usize = 16;

/// The cuts of an inode that has `count` of them: most have none, and cost nothing.
pub(crate) fn cuts(view: &dyn Snapshot, inode: InodeId, count: u32) -> Vec<Cut> {
    if count == 0 {
        return Vec::new();
    }
    scan_prefix(view, &keys::cuts_of(inode)).map(|(key, value)| parse_cut(&key, &value).1).collect()
}

fn parse_cut(key: &[u8], value: &[u8]) -> (InodeId, Cut) {
    let record = decode::<Cuts>(value);
    let cut = Cut { seq: ContentSeq(keys::number(key, 1)), from: record.from, reaped_to: record.reaped_to };
    (InodeId(keys::number(key, 0)), cut)
}

fn put_cut(txn: &mut Txn<'_>, inode: InodeId, cut: Cut) {
    let record = CutRecord { from: cut.from, reaped_to: cut.reaped_to };
    txn.put(keys::cut(inode, cut.seq), encode::<Cuts>(&record));
}

/// Any cut that waits for the reaper.
pub(crate) fn first_cut(view: &dyn Snapshot) -> Option<(InodeId, Cut)> {
    scan_prefix(view, &keys::table(keys::CUT)).next().map(|(key, value)| parse_cut(&key, &value))
}

/// Those that end behind `offset`, in file order; hidden ones too.
pub(crate) fn ending_after(
    view: &dyn Snapshot,
    inode: InodeId,
    offset: u64,
) -> impl Iterator<Item = Laid> + '_ {
    let from = keys::extent(inode, offset.saturating_add(1));
    let end = prefix_end(&keys::extents_of(inode));
    view.scan(&from, &end).map(|(key, value)| parse(&key, &value).1)
}

/// Of a key and value of the table.
pub(crate) fn parse(key: &[u8], value: &[u8]) -> (InodeId, Laid) {
    let record = decode::<Extents>(value);
    let end = keys::number(key, 1);
    let Some(offset) = end.checked_sub(record.len) else {
        panic!("the state store is corrupt: an extent of {} bytes ends at {end}", record.len);
    };
    let extent = Extent {
        offset: Offset(offset),
        len: record.len,
        chunk: record.chunk,
        chunk_offset: record.chunk_offset,
    };
    (InodeId(keys::number(key, 0)), Laid { extent, seq: record.seq, birth: record.birth })
}

fn put(txn: &mut Txn<'_>, inode: InodeId, laid: &Laid) {
    let Extent { len, chunk, chunk_offset, .. } = laid.extent;
    let record = ExtentRecord { len, chunk, chunk_offset, seq: laid.seq, birth: laid.birth };
    txn.put(keys::extent(inode, laid.extent.end()), encode::<Extents>(&record));
}

/// Changes of chunks' live bytes, gathered so that each chunk is written once a command (E3).
#[derive(Default)]
pub(crate) struct LiveBytes {
    changes: BTreeMap<ChunkId, i64>,
}

impl LiveBytes {
    fn add(&mut self, extent: &Extent) {
        *self.changes.entry(extent.chunk).or_default() += extent.len.cast_signed();
    }

    fn remove(&mut self, extent: &Extent) {
        *self.changes.entry(extent.chunk).or_default() -= extent.len.cast_signed();
    }

    /// Writes them into the chunks' records. To be called once, after the last change.
    pub(crate) fn settle(self, txn: &mut Txn<'_>, now: StateTime) {
        for (id, change) in self.changes {
            if change != 0 {
                chunk::change_live(txn, id, change, now);
            }
        }
    }
}

/// Changes the extents of one inode, under one `ContentSeq`. The caller writes `inode` and settles `live`; `finish` writes the space.
pub(crate) struct Edit<'e, 't> {
    pub txn: &'e mut Txn<'t>,
    pub id: InodeId,
    space: SpaceRecord,
    space_before: SpaceRecord,
    pub live: &'e mut LiveBytes,
    pub cuts: Vec<Cut>,
    pub seq: ContentSeq,
}

impl<'e, 't> Edit<'e, 't> {
    pub(crate) fn begin(
        txn: &'e mut Txn<'t>,
        id: InodeId,
        inode: &mut InodeRecord,
        live: &'e mut LiveBytes,
    ) -> Edit<'e, 't> {
        let space = space::of(txn, id, inode);
        let cuts = cuts(txn, id, space.cuts);
        let seq = inode.next_content();
        Edit { txn, id, space, space_before: space, live, cuts, seq }
    }

    /// After the last change.
    pub(crate) fn finish(self) {
        if self.space != self.space_before {
            space::put(self.txn, self.id, &self.space);
        }
    }

    fn erase(&mut self, laid: &Laid) {
        self.txn.delete(keys::extent(self.id, laid.extent.end()));
        self.live.remove(&laid.extent);
        let Some(rest) = self.space.allocated.0.checked_sub(laid.extent.len) else {
            panic!("broken invariant E1: {} has more extents than bytes allocated", self.id);
        };
        self.space.allocated.0 = rest;
    }

    fn lay(&mut self, laid: Laid) {
        put(self.txn, self.id, &laid);
        self.live.add(&laid.extent);
        self.space.allocated.0 += laid.extent.len;
    }

    /// Lays `new` over what is there. `old_size`: of the file before this commit; behind it there is nothing to cover.
    pub(crate) fn overlay(&mut self, new: Extent, old_size: u64) {
        if new.offset.0 < old_size || !self.cuts.is_empty() {
            let covered: Vec<Laid> = ending_after(self.txn, self.id, new.offset.0)
                .take_while(|laid| laid.extent.offset.0 < new.end())
                .collect();
            for old in covered {
                self.erase(&old);
                if old.is_hidden_by(&self.cuts) {
                    continue;
                }
                let (left, right) = (old.clip(0, new.offset.0), old.clip(new.end(), u64::MAX));
                for piece in left.into_iter().chain(right) {
                    self.lay(piece);
                }
            }
        }
        // A log that grows by small appends stays one extent for as long as it stays in one chunk.
        let mut new = Laid::new(new, self.seq);
        if let Some(before) = self.ending_at(new.extent.offset.0)
            && before.is_followed_by(&new)
            && !before.is_hidden_by(&self.cuts)
        {
            self.erase(&before);
            let extent = Extent { len: before.extent.len + new.extent.len, ..before.extent };
            new = Laid { extent, seq: self.seq, birth: before.birth };
        }
        self.lay(new);
    }

    fn ending_at(&self, end: u64) -> Option<Laid> {
        let key = keys::extent(self.id, end);
        self.txn.get(&key).map(|value| parse(&key, &value).1)
    }

    /// Removes everything behind `from`: at once if it is little, else by a cut (E2).
    pub(crate) fn truncate(&mut self, from: u64) {
        let found: Vec<Laid> = ending_after(self.txn, self.id, from).take(TRUNCATE_INLINE_MAX + 1).collect();
        let (now, later) = found.split_at(found.len().min(TRUNCATE_INLINE_MAX));
        self.erase_behind(from, now);
        if later.is_empty() {
            return;
        }
        // An older cut at or behind this one is contained in it.
        for cut in std::mem::take(&mut self.cuts) {
            if cut.from >= from {
                self.txn.delete(keys::cut(self.id, cut.seq));
            } else {
                self.cuts.push(cut);
            }
        }
        if self.cuts.len() < CUTS_MAX {
            let cut = Cut { seq: self.seq, from, reaped_to: from };
            put_cut(self.txn, self.id, cut);
            self.cuts.push(cut);
        } else {
            let rest: Vec<Laid> = ending_after(self.txn, self.id, from).collect();
            self.erase_behind(from, &rest);
        }
        self.space.cuts = self.cuts.len() as u32;
    }

    fn erase_behind(&mut self, from: u64, found: &[Laid]) {
        for old in found {
            self.erase(old);
            if let Some(kept) = old.clip(0, from)
                && !old.is_hidden_by(&self.cuts)
            {
                self.lay(kept);
            }
        }
    }
}

/// Looks at up to `limit` records behind a cut and deletes those that it hides. The cut goes with the last one.
/// Returns how many records it looked at, at least 1.
pub(crate) fn reap_cut(
    txn: &mut Txn<'_>,
    (id, cut): (InodeId, Cut),
    space: &mut SpaceRecord,
    live: &mut LiveBytes,
    limit: usize,
) -> usize {
    let found: Vec<Laid> = ending_after(txn, id, cut.reaped_to).take(limit).collect();
    for laid in &found {
        if laid.is_hidden_by(std::slice::from_ref(&cut)) {
            txn.delete(keys::extent(id, laid.extent.end()));
            live.remove(&laid.extent);
            space.allocated.0 -= laid.extent.len;
        }
    }
    match found.last() {
        Some(last) if found.len() == limit => put_cut(txn, id, Cut { reaped_to: last.extent.end(), ..cut }),
        Some(_) | None => {
            txn.delete(keys::cut(id, cut.seq));
            space.cuts -= 1;
        }
    }
    found.len().max(1)
}

/// Deletes up to `limit` extents of an inode that is gone, then its cuts. Returns how many records that were; less than
/// `limit`: nothing is left.
pub(crate) fn reap_all(txn: &mut Txn<'_>, id: InodeId, live: &mut LiveBytes, limit: usize) -> usize {
    let found: Vec<Laid> = ending_after(txn, id, 0).take(limit).collect();
    for laid in &found {
        txn.delete(keys::extent(id, laid.extent.end()));
        live.remove(&laid.extent);
    }
    if found.len() < limit {
        for cut in cuts(txn, id, 1) {
            txn.delete(keys::cut(id, cut.seq));
        }
    }
    found.len()
}

#[cfg(test)]
mod tests {
    use dfs_proto::units::ChunkOffset;

    use super::*;
    use crate::kv::{Batch, Kv as _};
    use crate::tests::Harness;

    const BORN_IN: ChunkId = ChunkId(1);

    /// Offset, length, chunk, and where in the chunk of its birth it was born.
    fn births(harness: &Harness, file: InodeId) -> Vec<(u64, u64, ChunkId, ChunkId, u64)> {
        let piece = |laid: Laid| {
            let (extent, birth) = (laid.extent, laid.birth);
            (extent.offset.0, extent.len, extent.chunk, birth.chunk, birth.offset.0)
        };
        harness.view(|view| ending_after(view, file, 0).map(piece).collect())
    }

    /// Moves the only extent of a file to another chunk, as compaction will.
    fn move_to(harness: &Harness, file: InodeId, chunk: ChunkId, chunk_offset: u64) {
        let Some(laid) = harness.view(|view| ending_after(view, file, 0).next()) else { panic!("no extent") };
        let extent = Extent { chunk, chunk_offset: ChunkOffset(chunk_offset), ..laid.extent };
        let mut batch = Batch::default();
        let record = ExtentRecord {
            len: extent.len,
            chunk,
            chunk_offset: extent.chunk_offset,
            seq: laid.seq,
            birth: laid.birth,
        };
        batch.put(keys::extent(file, extent.end()), encode::<Extents>(&record));
        harness.kv.write(batch).expect("memory");
    }

    fn file_of_moved_bytes() -> (Harness, InodeId, ChunkId) {
        let mut harness = Harness::new();
        harness.servers(2);
        let (first, second) = (harness.open_chunk(), harness.open_chunk());
        assert_eq!(first, BORN_IN);
        let (file, other) = (harness.file(InodeId::ROOT, "f"), harness.file(InodeId::ROOT, "other"));
        harness.write(other, 0, 500, first).expect("commits");
        harness.write(file, 0, 1000, first).expect("commits");
        assert_eq!(births(&harness, file), [(0, 1000, first, first, 500)], "born where it is");
        harness.write(other, 0, 1000, second).expect("commits");
        move_to(&harness, file, second, 0);
        // So that the counts of live bytes are right again.
        for (chunk, change) in [(first, -1000), (second, 1000)] {
            let batch = {
                let base = harness.kv.snapshot();
                let mut txn = Txn::new(&*base);
                chunk::change_live(&mut txn, chunk, change, StateTime::default());
                txn.into_batch()
            };
            harness.kv.write(batch).expect("memory");
        }
        (harness, file, second)
    }

    #[test]
    fn what_is_left_of_an_overwritten_extent_was_born_where_its_own_bytes_were() {
        let (mut harness, file, second) = file_of_moved_bytes();
        harness.write(file, 300, 100, second).expect("commits");
        let new = (300, 100, second, second, 1000);
        let left = (0, 300, second, BORN_IN, 500);
        let right = (400, 600, second, BORN_IN, 900);
        assert_eq!(births(&harness, file), [left, new, right]);
        harness.truncate(file, 450);
        assert_eq!(births(&harness, file), [left, new, (400, 50, second, BORN_IN, 900)]);
        harness.check();
    }

    #[test]
    fn extents_that_continue_each_other_and_were_born_apart_stay_two() {
        let (mut harness, file, second) = file_of_moved_bytes();
        harness.write(file, 1000, 10, second).expect("commits");
        harness.write(file, 1010, 10, second).expect("commits");
        let moved = (0, 1000, second, BORN_IN, 500);
        assert_eq!(births(&harness, file), [moved, (1000, 20, second, second, 1000)]);
        harness.check();
    }
}
