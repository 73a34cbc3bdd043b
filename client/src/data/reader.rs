//! A range of a file as bytes: the buffer over extents over holes.
//!
//! RD1  A reader gets one view: the buffer, the extents and the size were looked at together (N2 of `node`). A file
//!      that was cut meanwhile gives fewer bytes, never zeros in their place.
//! RD2  Every byte from a chunk matched its checksum. Bytes that no copy has whole are an error for the request that
//!      touches them, and for no other request: never zeros, never a short read.
//! RD3  If a copy is gone, or no copy answers, the extents are fetched again, until the data deadline.

use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use dfs_proto::attr::Caller;
use dfs_proto::chunk::ChunkKey;
use dfs_proto::ids::InodeId;
use dfs_proto::meta::{ChunkLocation, Read};
use dfs_proto::units::{MIB, Offset};
use futures::{StreamExt, TryStreamExt};

use crate::data::chunk::{ChunkRange, ReadFailure};
use crate::data::core::Core;
use crate::data::extents::{ExtentCache, Located};
use crate::data::node::reading::View;
use crate::data::node::{Node, NodeState};
use crate::error::{ClientError, Result};
use crate::session::replies;
use crate::session::retry::{Backoff, Deadline};

/// The most chunk reads of one request that run at the same time.
const PIECES_IN_FLIGHT_MAX: usize = 8;
/// The longest chunk read: longer ranges are read in parallel.
const PIECE_LEN_MAX: u64 = MIB;
/// Two pieces in a chunk with no more bytes than this between them are read in one request.
const GAP_LEN_MAX: u64 = 16 << 10;
/// Extents are fetched this many bytes ahead of what is read.
const FETCH_LEN: u64 = 64 * MIB;
const FETCH_EXTENTS_MAX: u32 = 1024;
const PAUSE_MIN: Duration = Duration::from_millis(50);
const PAUSE_MAX: Duration = Duration::from_secs(1);

/// One request to one chunk, for one or more extents.
#[derive(Clone, Debug)]
struct Span {
    location: Arc<ChunkLocation>,
    offset: u64,
    len: u64,
    /// The position of the first of them in the file, for the error.
    file_offset: u64,
}

/// A piece of the answer, in the order of the file.
#[derive(Clone, Debug)]
enum Piece {
    Buffered(Bytes),
    Hole {
        len: u64,
    },
    /// `len` bytes of what `span` brings, from `at` on.
    Stored {
        span: usize,
        at: u64,
        len: u64,
    },
}

#[derive(Debug, Default)]
struct Plan {
    spans: Vec<Span>,
    pieces: Vec<Piece>,
}

/// Decides what to fetch and how to put it together. Pure.
fn plan(view: View, from: u64, to: u64) -> Plan {
    let mut plan = Plan::default();
    let mut extents = view.extents.into_iter().peekable();
    let mut at = from;
    let mut fill = |plan: &mut Plan, at: &mut u64, until: u64| {
        while let Some(located) = extents.next_if(|l| l.extent.offset.0 < until) {
            plan.hole(at, located.extent.offset.0);
            *at = located.extent.end();
            plan.stored(located);
        }
        plan.hole(at, until);
    };
    for (offset, bytes) in view.overlay {
        fill(&mut plan, &mut at, offset);
        at = offset + bytes.len() as u64;
        plan.pieces.push(Piece::Buffered(bytes));
    }
    fill(&mut plan, &mut at, to);
    plan
}

impl Plan {
    fn hole(&mut self, at: &mut u64, until: u64) {
        if *at < until {
            self.pieces.push(Piece::Hole { len: until - *at });
            *at = until;
        }
    }

    fn stored(&mut self, located: Located) {
        let Located { mut extent, location } = located;
        while extent.len > 0 {
            let (span, at) = self.span_for(&location, extent.chunk_offset.0, extent.len, extent.offset.0);
            let len =
                (self.spans[span].offset + self.spans[span].len - extent.chunk_offset.0).min(extent.len);
            self.pieces.push(Piece::Stored { span, at, len });
            extent.offset.0 += len;
            extent.chunk_offset.0 += len;
            extent.len -= len;
        }
    }

    /// The span that brings the bytes at `offset`, and where in it they are. It is the last span, made longer, or a
    /// new one.
    fn span_for(
        &mut self,
        location: &Arc<ChunkLocation>,
        offset: u64,
        len: u64,
        file_offset: u64,
    ) -> (usize, u64) {
        let index = self.spans.len();
        if let Some(last) = self.spans.last_mut() {
            let end = last.offset + last.len;
            let is_near = offset >= last.offset && offset <= end + GAP_LEN_MAX;
            let room = (last.offset + PIECE_LEN_MAX).saturating_sub(offset);
            if last.location.chunk == location.chunk && is_near && room > 0 && (room >= len || offset <= end)
            {
                last.len = last.len.max(offset + len.min(room) - last.offset);
                return (index - 1, offset - last.offset);
            }
        }
        let len = len.min(PIECE_LEN_MAX);
        self.spans.push(Span { location: location.clone(), offset, len, file_offset });
        (index, 0)
    }

    fn join(self, stored: &[Bytes]) -> Bytes {
        let slice = |piece: &Piece| match piece {
            Piece::Buffered(bytes) => Some(bytes.clone()),
            Piece::Stored { span, at, len } => Some(stored[*span].slice(*at as usize..(*at + *len) as usize)),
            Piece::Hole { .. } => None,
        };
        if let [piece] = &self.pieces[..]
            && let Some(bytes) = slice(piece)
        {
            return bytes;
        }
        let mut joined = BytesMut::new();
        for piece in &self.pieces {
            match (slice(piece), piece) {
                (Some(bytes), _) => joined.extend_from_slice(&bytes),
                (None, Piece::Hole { len }) => joined.resize(joined.len() + *len as usize, 0),
                (None, _) => {}
            }
        }
        joined.freeze()
    }
}

/// How a reader looks at an inode: with what is buffered, or only at what is committed.
pub(crate) type Look = fn(&NodeState, &ExtentCache, u64, u64) -> std::result::Result<View, u64>;

impl Core {
    /// The bytes of `[from, to)` below the size, and the version of the committed content in them.
    pub(crate) async fn read(&self, node: &Node, look: Look, from: u64, to: u64) -> Result<(Bytes, u64)> {
        let patience = node.with(self.meta.session_id(), |state| {
            state.read_timeout(self.config.data_timeout, self.config.connect_timeout)
        });
        let read = self.read_by(node, look, from, to, Deadline::after(patience)).await;
        let was_in_vain = matches!(read, Err(ClientError::Unavailable { .. }));
        node.with(self.meta.session_id(), |state| state.note_read(was_in_vain));
        read
    }

    async fn read_by(
        &self,
        node: &Node,
        look: Look,
        from: u64,
        to: u64,
        deadline: Deadline,
    ) -> Result<(Bytes, u64)> {
        let mut backoff = Backoff::new(PAUSE_MIN, PAUSE_MAX, self.env.rng.clone());
        let mut is_fresh = false;
        loop {
            let view = self.view(node, look, from, to, deadline).await?;
            let (version, to) = (view.version, to.min(view.size)); // keeps RD1
            if from >= to {
                return Ok((Bytes::new(), version));
            }
            let plan = plan(view, from, to);
            let failure = match self.fetch(node, &plan, is_fresh, deadline).await {
                Ok(stored) => return Ok((plan.join(&stored).slice(..(to - from) as usize), version)),
                Err(failure) => failure,
            };
            let session = self.meta.session_id();
            match failure {
                // The extents are fetched again: then the copy is elsewhere, or it is certainly bad (RD3).
                Failure::Gone if !is_fresh => {}
                Failure::Gone => {
                    backoff.pause(deadline).await;
                }
                Failure::Lost(error) => return Err(error),
                Failure::Unreachable { what } => {
                    tracing::debug!(inode = %node.inode, %what, "read again");
                    if !backoff.pause(deadline).await {
                        return Err(ClientError::Unavailable { what });
                    }
                }
            }
            if deadline.is_over() {
                return Err(ClientError::Unavailable { what: "chunks are gone".to_owned() });
            }
            is_fresh = true;
            node.with(session, NodeState::forget_extents);
        }
    }

    /// Fetches extents until the whole range is known, and returns one view of it (RD1).
    async fn view(&self, node: &Node, look: Look, from: u64, to: u64, deadline: Deadline) -> Result<View> {
        let mut fetched = ExtentCache::default();
        loop {
            let session = self.meta.session_id();
            let unknown = match node.with(session, |state| look(state, &fetched, from, to)) {
                Ok(view) => return Ok(view),
                Err(unknown) => unknown,
            };
            if deadline.is_over() {
                let what = format!("the extents of {} change faster than they are read", node.inode);
                return Err(ClientError::Unavailable { what });
            }
            if unknown == 0 && self.near.has_missed(node.inode) {
                self.ask_for_near(node.inode);
            }
            let len = FETCH_LEN.max(to - unknown);
            let (inode, offset, limit) = (node.inode, Offset(unknown), FETCH_EXTENTS_MAX);
            // The right to read was checked at the open and belongs to the open file (P2.4).
            let reply = self.names.read(&Caller::ROOT, Read::Extents { inode, offset, len, limit }).await?;
            let found = replies::extents(reply)?;
            if found.up_to.0 <= unknown {
                let what = format!("extents of {} from {unknown} end at {}", node.inode, found.up_to);
                return Err(ClientError::Internal { what });
            }
            fetched.take_in(unknown, &found);
            node.with(session, |state| state.install_extents(unknown, &found));
        }
    }

    /// In the background: what this reader needs it asks for itself. If there is no answer, the next readers do too.
    fn ask_for_near(&self, inode: InodeId) {
        let (names, near, ended) = (self.names.clone(), self.near.clone(), self.ended.clone());
        let asking = async move {
            let reply = names.read(&Caller::ROOT, Read::ExtentsNear { inode }).await;
            match reply.and_then(replies::few_extents) {
                Ok(few) => near.learn(&few),
                Err(error) => tracing::debug!(%inode, %error, "the extents of files near it are not known"),
            }
        };
        self.tasks.spawn(async move { ended.run_until_cancelled_owned(asking).await });
    }

    async fn fetch(
        &self,
        node: &Node,
        plan: &Plan,
        is_fresh: bool,
        deadline: Deadline,
    ) -> std::result::Result<Vec<Bytes>, Failure> {
        let reads = (0..plan.spans.len()).map(|index| self.fetch_span(node, plan, index, is_fresh, deadline));
        futures::stream::iter(reads).buffered(PIECES_IN_FLIGHT_MAX).try_collect().await
    }

    async fn fetch_span(
        &self,
        node: &Node,
        plan: &Plan,
        index: usize,
        is_fresh: bool,
        deadline: Deadline,
    ) -> std::result::Result<Bytes, Failure> {
        let span = &plan.spans[index];
        let session = self.meta.session();
        let key = ChunkKey {
            cluster: session.opened.cluster,
            incarnation: session.opened.incarnation,
            chunk: span.location.chunk,
            set_version: span.location.set_version,
        };
        let replicas = &span.location.replicas;
        let range = ChunkRange { key, replicas, offset: span.offset, len: span.len, is_fresh };
        let read = match self.chunks.read(range, deadline).await {
            Err(ReadFailure::Lost { .. }) => self.fetch_parts(plan, index, range, deadline).await,
            result => result,
        };
        read.map_err(|failure| failed(node, span, failure))
    }

    /// A span is damaged somewhere: reads only what the request needs of it. What lies between stays zero and is not
    /// used.
    async fn fetch_parts(
        &self,
        plan: &Plan,
        index: usize,
        range: ChunkRange<'_>,
        deadline: Deadline,
    ) -> std::result::Result<Bytes, ReadFailure> {
        let mut whole = BytesMut::zeroed(range.len as usize);
        for piece in &plan.pieces {
            if let Piece::Stored { span, at, len } = piece
                && *span == index
            {
                let part = ChunkRange { offset: range.offset + at, len: *len, ..range };
                let bytes = self.chunks.read(part, deadline).await?;
                whole[*at as usize..(at + len) as usize].copy_from_slice(&bytes);
            }
        }
        Ok(whole.freeze())
    }
}

enum Failure {
    Gone,
    Unreachable { what: String },
    Lost(ClientError),
}

fn failed(node: &Node, span: &Span, failure: ReadFailure) -> Failure {
    match failure {
        ReadFailure::Gone => Failure::Gone,
        ReadFailure::Unreachable { what } => Failure::Unreachable { what },
        ReadFailure::Lost { at, what } => {
            let offset = Offset(span.file_offset + at.saturating_sub(span.offset));
            tracing::error!(inode = %node.inode, %offset, %what, "no whole copy is left");
            Failure::Lost(ClientError::DataLost { inode: node.inode, offset, what })
        }
    }
}

#[cfg(test)]
mod tests {
    use dfs_proto::extent::{Extent, ExtentMap};
    use dfs_proto::ids::{ChunkId, SetVersion};
    use dfs_proto::units::{ByteLen, ChunkOffset};
    use proptest::prelude::*;

    use super::*;

    fn located(extent: Extent) -> Located {
        let location = Arc::new(ChunkLocation {
            chunk: extent.chunk,
            set_version: SetVersion(1),
            committed: ByteLen(0),
            sealed: true,
            replicas: Vec::new(),
        });
        Located { extent, location }
    }

    fn extent(offset: u64, len: u64, chunk: u64, chunk_offset: u64) -> Extent {
        let chunk_offset = ChunkOffset(chunk_offset);
        Extent { offset: Offset(offset), len, chunk: ChunkId(chunk), chunk_offset }
    }

    /// The byte at this position of this chunk, in these tests.
    fn byte(chunk: u64, at: u64) -> u8 {
        (chunk.wrapping_mul(101) ^ at.wrapping_mul(7) ^ (at >> 8)) as u8 | 1
    }

    fn brought(plan: &Plan) -> Vec<Bytes> {
        let bytes =
            |span: &Span| (0..span.len).map(|at| byte(span.location.chunk.0, span.offset + at)).collect();
        plan.spans.iter().map(bytes).collect()
    }

    #[test]
    fn small_pieces_that_lie_together_in_a_chunk_are_read_at_once() {
        let extents = (0..100).map(|i| located(extent(i * 8192, 4096, 7, i * 5000))).collect();
        let plan = plan(View { version: 1, size: u64::MAX, overlay: Vec::new(), extents }, 0, 100 * 8192);
        assert_eq!(plan.spans.len(), 1);
    }

    #[test]
    fn a_long_extent_is_read_in_pieces() {
        let extents = vec![located(extent(0, 5 * MIB, 7, 300))];
        let plan = plan(View { version: 1, size: u64::MAX, overlay: Vec::new(), extents }, 0, 5 * MIB);
        let spans: Vec<_> = plan.spans.iter().map(|s| (s.offset, s.len)).collect();
        assert_eq!(spans.len(), 5);
        assert_eq!(spans[1], (300 + MIB, MIB));
    }

    proptest! {
        #[test]
        fn a_plan_reads_the_buffer_over_extents_over_holes(
            extents in prop::collection::vec((0u64..3000, 1u64..900, 1u64..3, 0u64..100_000), 0..12),
            writes in prop::collection::vec((0u64..3000, 1usize..500), 0..6),
            from in 0u64..2000, len in 1u64..2000,
        ) {
            let (mut map, mut model) = (ExtentMap::default(), vec![0u8; 6000]);
            for (offset, len, chunk, chunk_offset) in extents {
                map.overlay(extent(offset, len, chunk, chunk_offset));
                for at in 0..len {
                    model[(offset + at) as usize] = byte(chunk, chunk_offset + at);
                }
            }
            let mut buffer = crate::data::buffer::WriteBuffer::default();
            for (index, (offset, len)) in writes.into_iter().enumerate() {
                let data = vec![200 + index as u8; len];
                buffer.write(offset, &data);
                model[offset as usize..offset as usize + len].copy_from_slice(&data);
            }
            let to = from + len;
            // Extents only where nothing is buffered, as in `NodeState::view`.
            let overlay = buffer.overlay(from, to);
            let (mut gaps, mut at) = (Vec::new(), from);
            for (offset, bytes) in &overlay {
                gaps.extend(map.range(at, *offset));
                at = offset + bytes.len() as u64;
            }
            gaps.extend(map.range(at, to));
            let view = View { version: 1, size: u64::MAX, overlay, extents: gaps.into_iter().map(located).collect() };
            let plan = plan(view, from, to);
            let stored = brought(&plan);
            prop_assert_eq!(&plan.join(&stored)[..], &model[from as usize..to as usize]);
        }
    }
}
