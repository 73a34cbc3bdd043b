//! What is sent to chunks and committed of one inode, and what an answer means for its buffer.

use std::collections::BTreeMap;
use std::sync::Arc;

use dfs_proto::attr::InodeAttr;
use dfs_proto::extent::{Extent, ExtentMap};
use dfs_proto::ids::{ChunkId, SessionId};
use dfs_proto::meta::{ChunkCommit, FileCommit};
use dfs_proto::units::{ByteLen, COMMIT_EXTENTS_MAX, ChunkOffset, Offset};
use tokio::time::Instant;

use crate::data::buffer::{Run, RunId};
use crate::data::commit::FilePart;
use crate::data::node::{NodeState, Part};
use crate::data::stream::ChunkStream;
use crate::data::writer::Place;

impl NodeState {
    /// The runs below `end` that are in no chunk, or in one from which they cannot be committed.
    pub(crate) fn unplaced(&self, end: RunId) -> Vec<(RunId, Run)> {
        let is_placed = |id: &RunId, run: &Run| {
            self.places.get(id).is_some_and(|place| place.stream.session == self.session && holds(place, run))
        };
        self.buffer
            .runs_below(end)
            .filter(|(id, run)| !is_placed(id, run))
            .map(|(id, run)| (id, run.clone()))
            .collect()
    }

    /// These runs were sent, one behind the other, to `place`.
    pub(crate) fn placed(&mut self, runs: &[(RunId, Run)], place: &Place) {
        let mut offset = place.offset;
        for (id, run) in runs {
            if self.buffer.has_run(*id) {
                self.places.insert(*id, Place { stream: place.stream.clone(), offset });
            }
            offset += run.data.len() as u64;
        }
    }

    /// The chunks to which runs below `end` were sent, and up to where.
    pub(crate) fn streams_below(&self, end: RunId) -> Vec<(Arc<ChunkStream>, u64)> {
        let mut streams: BTreeMap<ChunkId, (Arc<ChunkStream>, u64)> = BTreeMap::new();
        for (id, run) in self.buffer.runs_below(end) {
            let Some(place) = self.places.get(&id) else { continue };
            let place_end = place.offset + run.data.len() as u64;
            let entry = streams.entry(place.stream.key.chunk);
            let (_, up_to) = entry.or_insert_with(|| (place.stream.clone(), 0));
            *up_to = place_end.max(*up_to);
        }
        streams.into_values().collect()
    }

    /// The next commit of runs below `end`, the oldest first, with as many as one commit may name. `None` when all
    /// are committed. All of them must be in chunks, and `next_commit` must be known.
    pub(crate) fn part(&mut self, end: RunId) -> Option<Arc<Part>> {
        let mut map = ExtentMap::default();
        let mut streams: BTreeMap<ChunkId, Arc<ChunkStream>> = BTreeMap::new();
        let (mut runs, mut size) = (Vec::new(), 0);
        for (id, run) in self.buffer.runs_below(end) {
            // Laying one extent over others makes at most two more.
            if map.as_slice().len() + 2 > COMMIT_EXTENTS_MAX {
                break;
            }
            let place = self.places.get(&id)?;
            map.overlay(Extent {
                offset: Offset(run.offset),
                len: run.data.len() as u64,
                chunk: place.stream.key.chunk,
                chunk_offset: ChunkOffset(place.offset),
            });
            streams.insert(place.stream.key.chunk, place.stream.clone());
            size = run.end().max(size);
            runs.push(id);
        }
        if runs.is_empty() {
            return None;
        }
        let file = FileCommit {
            inode: self.inode,
            number: self.next_commit?,
            extents: map.as_slice().to_vec(),
            size_at_least: ByteLen(size),
            mtime: self.mtime,
            kill_privileges: self.kill_privileges,
        };
        let chunks = streams.values().map(|stream| named(stream)).collect();
        let locations = streams.values().map(|stream| stream.location.clone()).collect();
        Some(Arc::new(Part {
            commit: FilePart { session: self.session, file, chunks, written_under: self.written_under },
            runs,
            locations,
        }))
    }

    /// The cluster has answered which commit is the next. If that is a later one than the commit without an answer,
    /// that one has happened.
    pub(crate) fn learn_of_commits(&mut self, session: SessionId, attr: &InodeAttr, next: u64) {
        self.observe(attr);
        if session != self.session {
            return;
        }
        self.next_commit.get_or_insert(next);
        if let Some(part) = self.uncertain.clone()
            && part.commit.file.number < next
        {
            self.committed(&part, attr);
            self.next_commit = Some(next);
        }
    }

    /// A commit is being sent, or its answer was lost: it may have happened.
    pub(crate) fn not_answered(&mut self, part: &Arc<Part>) {
        if part.commit.session == self.session {
            self.next_commit = None;
            self.uncertain = Some(part.clone());
        }
    }

    /// A commit was refused, so it did not happen.
    pub(crate) fn was_refused(&mut self, part: &Arc<Part>) {
        self.uncertain = self.uncertain.take().filter(|uncertain| !Arc::ptr_eq(uncertain, part));
    }

    /// A commit was answered: its bytes move from the buffer to the extents (N2). Returns the version of the content before and after, if
    /// nothing else has changed it in between.
    pub(crate) fn committed(&mut self, part: &Part, attr: &InodeAttr) -> Option<(u64, u64)> {
        if part.commit.session != self.session {
            return None;
        }
        let before = self.base().map(|base| base.content_version);
        self.next_commit = Some(part.commit.file.number + 1);
        self.cache.committed(attr.content_version, &part.commit.file.extents, &part.locations);
        self.observe(attr);
        for run in &part.runs {
            self.buffer.forget(*run);
            self.places.remove(run);
        }
        self.uncertain = None;
        (self.was_cut, self.committed_at) = (false, Some(Instant::now()));
        self.settle();
        before.map(|before| (before, attr.content_version)).filter(|(before, after)| before + 1 == *after)
    }
}

/// The run can be committed from this place: the chunk goes on, or had the bytes on stable storage before it failed.
fn holds(place: &Place, run: &Run) -> bool {
    let progress = place.stream.progress();
    progress.failure.is_none() || progress.synced >= place.offset + run.data.len() as u64
}

fn named(stream: &ChunkStream) -> ChunkCommit {
    ChunkCommit {
        chunk: stream.key.chunk,
        set_version: stream.key.set_version,
        up_to: ByteLen(stream.progress().synced),
    }
}
