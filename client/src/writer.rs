//! Where this session's bytes go: a few lanes, each with one open chunk at a time.
//!
//! W1  Small things share one lane, so that many small files share a chunk and its syncs; long runs of a stream take
//!     turns over the others, so that one stream uses several replica sets at once.
//! W2  A chunk that failed, is full, or belongs to an ended session is left behind; the next bytes open another, not on
//!     servers that have just failed. What was in it and is not committed is `flush`'s to put elsewhere.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use dfs_proto::chunk::block_checksums;
use dfs_proto::error::{ChunkError, MetaError};
use dfs_proto::ids::{InodeId, ServerId, SessionId};
use dfs_proto::meta::{MetaResult, OpenChunk};
use dfs_proto::units::{CHUNK_LEN, ChunkOffset, MIB};
use tokio::sync::Mutex;
use tokio::time::timeout_at;

use crate::buffer::RUN_LEN_MAX;
use crate::chunk::ChunkClient;
use crate::meta::MetaClient;
use crate::retry::Deadline;
use crate::stream::{ChunkStream, Frame, Patience, is_full};

/// Replica sets that one big stream uses at once.
const STREAM_LANES: u64 = 4;
/// Chunks open at the same time.
pub(crate) const LANES: usize = 1 + STREAM_LANES as usize;
/// A stream stays this long on one lane: longer makes longer extents, shorter spreads sooner.
const STRIPE_LEN: u64 = 4 * MIB;
/// Chunks in a row that found no space before an application is told. The metaserver may know of full disks a heartbeat
/// later than we do.
const FULL_CHUNKS_MAX: u32 = 4;
const APPEND_TIMEOUT: Duration = Duration::from_secs(3);
const SYNC_TIMEOUT: Duration = Duration::from_secs(5);
/// Time-outs double this often at most.
const PATIENCE_MAX: u32 = 2;

/// Where bytes were sent to. Keeps the chunk from being sealed.
#[derive(Clone)]
pub(crate) struct Place {
    pub(crate) stream: Arc<ChunkStream>,
    pub(crate) offset: u64,
}

/// Bytes of one file for one append. `data` may hold several runs; `file_offset` is the first one's.
pub(crate) struct Parcel {
    pub(crate) session: SessionId,
    pub(crate) inode: InodeId,
    pub(crate) file_offset: u64,
    pub(crate) data: Bytes,
}

#[derive(Default)]
struct Lane {
    stream: Option<Arc<ChunkStream>>,
    len: u64,
}

/// See the module.
pub(crate) struct ChunkWriter {
    meta: Arc<MetaClient>,
    chunks: Arc<ChunkClient>,
    copies: u32,
    /// The first for small things. A lane's lock is held while its chunk is opened and while its queue is full.
    lanes: Vec<Mutex<Lane>>,
    /// The servers of each lane's chunk.
    servers: std::sync::Mutex<[Vec<ServerId>; LANES]>,
    full_chunks: AtomicU32,
    slow_chunks: AtomicU32,
}

impl ChunkWriter {
    pub(crate) fn new(meta: Arc<MetaClient>, chunks: Arc<ChunkClient>, copies: u32) -> ChunkWriter {
        let lanes = (0..LANES).map(|_| Mutex::default()).collect();
        let (full_chunks, slow_chunks) = (AtomicU32::new(0), AtomicU32::new(0));
        ChunkWriter { meta, chunks, copies, lanes, servers: Default::default(), full_chunks, slow_chunks }
    }

    /// Keeps W1.
    fn lane(parcel: &Parcel) -> usize {
        let is_stream = parcel.data.len() as u64 >= RUN_LEN_MAX && parcel.file_offset >= RUN_LEN_MAX;
        let turn = (parcel.inode.0.wrapping_add(parcel.file_offset / STRIPE_LEN)) % STREAM_LANES;
        if is_stream { 1 + turn as usize } else { 0 }
    }

    /// The servers of the chunks that streams are spread over beside this lane's; none for small things.
    fn beside(&self, lane: usize) -> Vec<ServerId> {
        let servers = self.servers.lock().unwrap_or_else(PoisonError::into_inner);
        let others = servers.iter().enumerate().filter(|(other, _)| lane > 0 && *other > 0 && *other != lane);
        others.flat_map(|(_, servers)| servers.iter().copied()).collect()
    }

    fn note_servers(&self, lane: usize, servers: Vec<ServerId>) {
        self.servers.lock().unwrap_or_else(PoisonError::into_inner)[lane] = servers;
    }

    /// Queues the parcel for a chunk. It is somewhere for sure only after [`ChunkStream::sync`] of its place.
    pub(crate) async fn append(&self, parcel: Parcel, deadline: Deadline) -> MetaResult<Place> {
        let late = |_| MetaError::Unavailable { what: "no chunk could be opened in time".to_owned() };
        timeout_at(deadline.instant(), self.append_in_lane(parcel)).await.map_err(late)?
    }

    async fn append_in_lane(&self, parcel: Parcel) -> MetaResult<Place> {
        let len = parcel.data.len() as u64;
        let index = Self::lane(&parcel);
        let mut lane = self.lanes[index].lock().await;
        loop {
            let stream = self.stream_with_room(index, &mut lane, parcel.session, len).await?;
            let Some(room) = stream.room().await else { continue };
            // From here on nothing waits: a place that is taken is filled.
            let offset = lane.len;
            lane.len += len;
            room.send(Frame {
                offset,
                inode: parcel.inode,
                file_offset: parcel.file_offset,
                checksums: block_checksums(&stream.key, ChunkOffset(offset), &parcel.data),
                data: parcel.data,
            });
            return Ok(Place { stream, offset });
        }
    }

    /// Keeps W2.
    async fn stream_with_room(
        &self,
        index: usize,
        lane: &mut Lane,
        session: SessionId,
        len: u64,
    ) -> MetaResult<Arc<ChunkStream>> {
        if self.meta.session_id() != session {
            return Err(MetaError::SessionExpired { session }); // the lane is another session's now
        }
        if let Some(stream) = lane.stream.as_ref() {
            let failure = stream.failure();
            if failure.is_none() && stream.session == session && lane.len + len <= CHUNK_LEN {
                return Ok(stream.clone());
            }
            self.learn_from(stream, failure.as_ref());
        }
        lane.stream = None;
        if self.full_chunks.load(Ordering::Relaxed) >= FULL_CHUNKS_MAX {
            self.full_chunks.store(0, Ordering::Relaxed);
            return Err(MetaError::NoSpace { what: "the chunkservers' disks are full".to_owned() });
        }
        let avoid = self.chunks.avoided();
        let open = OpenChunk { avoid, copies: self.copies, beside: self.beside(index), volume: None };
        let opened = self.meta.open_chunk(session, open).await?;
        self.note_servers(index, opened.replicas.iter().map(|replica| replica.server).collect());
        let current = self.meta.session();
        if current.id() != session {
            return Err(MetaError::SessionExpired { session });
        }
        let stream = ChunkStream::start(&current, opened, self.chunks.clone(), self.patience());
        lane.stream = Some(stream.clone());
        lane.len = 0;
        Ok(stream)
    }

    fn learn_from(&self, stream: &ChunkStream, failure: Option<&ChunkError>) {
        let progress = stream.progress();
        let had_success = progress.acked > 0;
        if failure.is_some_and(is_full) {
            self.full_chunks.fetch_add(1, Ordering::Relaxed);
        } else if progress.was_slow {
            self.slow_chunks.fetch_add(1, Ordering::Relaxed); // a refusal says nothing about patience
        }
        if had_success && failure.is_none() {
            self.full_chunks.store(0, Ordering::Relaxed);
            self.slow_chunks.store(0, Ordering::Relaxed);
        }
    }

    /// Something was committed: there is space, and the servers answer in time.
    pub(crate) fn succeeded(&self) {
        self.full_chunks.store(0, Ordering::Relaxed);
        self.slow_chunks.store(0, Ordering::Relaxed);
    }

    fn patience(&self) -> Patience {
        let factor = 1 << self.slow_chunks.load(Ordering::Relaxed).min(PATIENCE_MAX);
        Patience { append: APPEND_TIMEOUT * factor, sync: SYNC_TIMEOUT * factor }
    }

    /// Leaves every chunk behind.
    pub(crate) async fn close(&self) {
        for (index, lane) in self.lanes.iter().enumerate() {
            lane.lock().await.stream = None;
            self.note_servers(index, Vec::new());
        }
    }
}
