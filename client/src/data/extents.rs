//! The extents of one inode that this client knows.
//!
//! E1  The map shows the file at `version` of its content, wherever it is covered. What is not covered is unknown.
//! E2  Versions only grow: an answer of an older version is ignored. A newer version drops what was known, unless it
//!     is exactly the commit that this client made itself.
//! So this client uses another client's version as soon as an answer shows it, at the latest at the next open (P6.1).
//! This file is pure. The bytes of chunks never change and need no such care.

use std::collections::BTreeMap;
use std::sync::Arc;

use dfs_proto::extent::{Extent, ExtentMap};
use dfs_proto::ids::ChunkId;
use dfs_proto::meta::{ChunkLocation, ExtentsAt, FileExtents};

/// The most extents that are remembered of one inode. Beyond it, all are dropped and fetched again.
const EXTENTS_MAX: usize = 16_384;

/// A piece of a file, and where its chunk is.
#[derive(Clone, Debug)]
pub(crate) struct Located {
    pub(crate) extent: Extent,
    pub(crate) location: Arc<ChunkLocation>,
}

/// What is known of the extents of one inode.
#[derive(Clone, Debug, Default)]
pub(crate) struct ExtentCache {
    version: u64,
    map: ExtentMap,
    /// The disjoint ranges of the file that the map covers: start → end.
    covered: BTreeMap<u64, u64>,
    locations: BTreeMap<ChunkId, Arc<ChunkLocation>>,
}

impl ExtentCache {
    pub(crate) fn version(&self) -> u64 {
        self.version
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.covered.is_empty()
    }

    /// Something is known, in at most so many extents.
    pub(crate) fn is_worth_keeping(&self, most: usize) -> bool {
        !self.is_empty() && self.map.as_slice().len() <= most && self.locations.len() <= most
    }

    /// Drops everything; the file is at `version`.
    pub(crate) fn reset(&mut self, version: u64) {
        *self = ExtentCache { version, ..ExtentCache::default() };
    }

    /// This client has just made the file: all of it is known to be a hole.
    pub(crate) fn start_empty(&mut self, version: u64) {
        self.reset(version);
        self.cover(0, u64::MAX);
    }

    /// All of a file at one version.
    pub(crate) fn whole(file: &ExtentsAt, locations: &BTreeMap<ChunkId, Arc<ChunkLocation>>) -> ExtentCache {
        let mut cache = ExtentCache { version: file.content_version, ..ExtentCache::default() };
        for extent in &file.extents {
            cache.map.overlay(*extent);
            let location = locations.get(&extent.chunk).map(|location| (extent.chunk, location.clone()));
            cache.locations.extend(location);
        }
        cache.cover(0, u64::MAX);
        cache
    }

    /// As [`ExtentCache::take_in`], but drops what was known when that is too much.
    pub(crate) fn install(&mut self, from: u64, found: &FileExtents) {
        if self.map.as_slice().len() > EXTENTS_MAX {
            self.reset(self.version);
        }
        self.take_in(from, found);
    }

    /// Takes in an answer about `[from, found.up_to)`.
    pub(crate) fn take_in(&mut self, from: u64, found: &FileExtents) {
        let version = found.attr.content_version;
        if version < self.version {
            return; // keeps E2
        }
        if version > self.version {
            self.reset(version);
        }
        let to = found.up_to.0;
        for location in &found.chunks {
            self.locations.insert(location.chunk, Arc::new(location.clone()));
        }
        self.map.cut(from, to);
        for extent in &found.extents {
            if let Some(part) = extent.clip(from, to) {
                self.map.overlay(part);
            }
        }
        self.cover(from, to);
    }

    /// This client's own commit made `version`: `extents` lie over what was there before.
    pub(crate) fn committed(&mut self, version: u64, extents: &[Extent], locations: &[Arc<ChunkLocation>]) {
        if version <= self.version {
            return;
        }
        if version != self.version + 1 || self.map.as_slice().len() > EXTENTS_MAX {
            return self.reset(version); // others changed it too: keeps E2
        }
        self.version = version;
        for location in locations {
            self.locations.insert(location.chunk, location.clone());
        }
        for extent in extents {
            self.map.overlay(*extent);
            self.cover(extent.offset.0, extent.end());
        }
    }

    /// The pieces of `[from, to)`, or the first position that is not known.
    pub(crate) fn range(&self, from: u64, to: u64) -> Result<Vec<Located>, u64> {
        let known = self.covered.range(..=from).next_back().map(|(_, end)| *end);
        match known {
            Some(end) if end >= to => {}
            Some(end) if end > from => return Err(end),
            Some(_) | None => return Err(from),
        }
        let located = |extent: Extent| {
            let location = self.locations.get(&extent.chunk)?.clone();
            Some(Located { extent, location })
        };
        self.map.range(from, to).map(|e| located(e).ok_or(e.offset.0)).collect()
    }

    fn cover(&mut self, from: u64, to: u64) {
        if from >= to {
            return;
        }
        let (mut start, mut end) = (from, to);
        if let Some((&first, &last)) = self.covered.range(..=from).next_back()
            && last >= from
        {
            (start, end) = (first, end.max(last));
        }
        while let Some((&first, &last)) = self.covered.range(start..=end).next() {
            self.covered.remove(&first);
            end = end.max(last);
        }
        self.covered.insert(start, end);
    }
}

#[cfg(test)]
mod tests {
    use dfs_proto::attr::{FileKind, InodeAttr, Timestamp};
    use dfs_proto::ids::{InodeId, SetVersion};
    use dfs_proto::units::{ByteLen, ChunkOffset, Offset};
    use proptest::prelude::*;

    use super::*;

    fn extent(offset: u64, len: u64, chunk: u64) -> Extent {
        Extent { offset: Offset(offset), len, chunk: ChunkId(chunk), chunk_offset: ChunkOffset(0) }
    }

    fn location(chunk: u64) -> ChunkLocation {
        ChunkLocation {
            chunk: ChunkId(chunk),
            set_version: SetVersion(1),
            committed: ByteLen(0),
            sealed: true,
            replicas: Vec::new(),
        }
    }

    fn found(version: u64, extents: Vec<Extent>, up_to: u64) -> FileExtents {
        let time = Timestamp::default();
        let attr = InodeAttr {
            inode: InodeId(5),
            kind: FileKind::File,
            mode: 0o644,
            nlink: 1,
            uid: 0,
            gid: 0,
            size: ByteLen(1000),
            allocated: ByteLen(0),
            rdev: 0,
            atime: time,
            mtime: time,
            ctime: time,
            content_version: version,
        };
        let chunks = extents.iter().map(|e| location(e.chunk.0)).collect();
        FileExtents { attr, extents, up_to: Offset(up_to), chunks }
    }

    fn chunks(cache: &ExtentCache, from: u64, to: u64) -> Result<Vec<(u64, u64, u64)>, u64> {
        let pieces = cache.range(from, to)?;
        Ok(pieces.iter().map(|l| (l.extent.offset.0, l.extent.len, l.extent.chunk.0)).collect())
    }

    #[test]
    fn what_was_never_asked_for_is_unknown_not_a_hole() {
        let mut cache = ExtentCache::default();
        assert_eq!(chunks(&cache, 0, 10), Err(0));
        cache.install(0, &found(3, vec![extent(0, 50, 1)], 100));
        assert_eq!(chunks(&cache, 40, 100), Ok(vec![(40, 10, 1)]));
        assert_eq!(chunks(&cache, 40, 101), Err(100));
    }

    #[test]
    fn an_own_commit_lies_over_what_is_known_and_anothers_throws_it_away() {
        let mut cache = ExtentCache::default();
        cache.install(0, &found(3, vec![extent(0, 50, 1)], 100));
        cache.committed(4, &[extent(10, 5, 2)], &[Arc::new(location(2))]);
        assert_eq!(chunks(&cache, 0, 100), Ok(vec![(0, 10, 1), (10, 5, 2), (15, 35, 1)]));
        cache.committed(6, &[extent(10, 5, 3)], &[Arc::new(location(3))]);
        assert_eq!(chunks(&cache, 0, 100), Err(0));
    }

    #[test]
    fn an_answer_from_before_the_own_commit_is_not_taken_in() {
        let mut cache = ExtentCache::default();
        cache.install(0, &found(3, Vec::new(), 100));
        cache.committed(4, &[extent(0, 5, 2)], &[Arc::new(location(2))]);
        cache.install(0, &found(3, Vec::new(), 100));
        assert_eq!(chunks(&cache, 0, 10), Ok(vec![(0, 5, 2)]));
    }

    proptest! {
        #[test]
        fn covered_ranges_are_those_that_were_covered(
            ranges in prop::collection::vec((0u64..200, 1u64..40), 1..30)
        ) {
            let mut cache = ExtentCache::default();
            let mut model = vec![false; 260];
            for (from, len) in ranges {
                cache.cover(from, from + len);
                model[from as usize..(from + len) as usize].fill(true);
                for at in 0..250u64 {
                    prop_assert_eq!(cache.range(at, at + 1).is_ok(), model[at as usize]);
                }
            }
        }
    }
}
