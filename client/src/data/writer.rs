//! Where this session's bytes go: a few slots for each volume (`slots`), each with one open chunk at a time.
//!
//! W1  Small writes of a volume share one slot, so that many small files share a chunk and its syncs. The long runs of a
//!     stream take turns over the volume's other slots, so that one stream uses several replica sets at once.
//! W2  A chunk that failed, is full, or belongs to an ended session is left; the next bytes open another one, not on
//!     servers that have just failed. What was in it and is not committed is put elsewhere by `flush`.
//! W3  A chunk gets bytes of one volume only (P1.8).

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use bytes::Bytes;
use dfs_proto::chunk::block_checksums;
use dfs_proto::error::{ChunkError, MetaError};
use dfs_proto::ids::{InodeId, SessionId};
use dfs_proto::meta::{Change, MetaResult, OpenChunk};
use dfs_proto::units::{CHUNK_LEN, ChunkOffset};
use tokio::time::timeout_at;

use crate::data::chunk::ChunkClient;
use crate::data::slots::{OpenSlot, OpenSlots, SharedSlot, SlotKey};
use crate::data::stream::{ChunkStream, Frame, Timeouts, is_full};
use crate::names::cluster_names::ClusterNames;
use crate::session::replies;
use crate::session::retry::Deadline;

/// An application gets an error after this many chunks in a row that found no space. The metaserver may learn of full
/// disks one heartbeat later than this client.
const FULL_CHUNKS_MAX: u32 = 4;
const APPEND_TIMEOUT: Duration = Duration::from_secs(3);
const SYNC_TIMEOUT: Duration = Duration::from_secs(5);
/// How often time-outs double at most.
const DOUBLINGS_MAX: u32 = 2;

/// The place to which bytes were sent. While it is kept, the chunk is not sealed.
#[derive(Clone)]
pub(crate) struct Place {
    pub(crate) stream: Arc<ChunkStream>,
    pub(crate) offset: u64,
}

/// The bytes of one file for one append. `data` may hold several runs; `file_offset` is that of the first.
pub(crate) struct Parcel {
    pub(crate) session: SessionId,
    pub(crate) inode: InodeId,
    pub(crate) file_offset: u64,
    pub(crate) data: Bytes,
}

/// Puts the bytes of one session into chunks.
pub(crate) struct ChunkWriter {
    names: Arc<ClusterNames>,
    chunks: Arc<ChunkClient>,
    copies: u32,
    slots: OpenSlots,
    full_chunks: AtomicU32,
    slow_chunks: AtomicU32,
}

impl ChunkWriter {
    pub(crate) fn new(names: Arc<ClusterNames>, chunks: Arc<ChunkClient>, copies: u32) -> ChunkWriter {
        let (full_chunks, slow_chunks) = (AtomicU32::new(0), AtomicU32::new(0));
        ChunkWriter { names, chunks, copies, slots: OpenSlots::default(), full_chunks, slow_chunks }
    }

    /// Queues the parcel for a chunk. It is certainly stored only after [`ChunkStream::sync`] of its place.
    pub(crate) async fn append(&self, parcel: Parcel, deadline: Deadline) -> MetaResult<Place> {
        let late = |_| MetaError::Unavailable { what: "no chunk could be opened in time".to_owned() };
        timeout_at(deadline.instant(), self.append_in_slot(parcel)).await.map_err(late)?
    }

    async fn append_in_slot(&self, parcel: Parcel) -> MetaResult<Place> {
        let len = parcel.data.len() as u64;
        let key = SlotKey::of(parcel.inode, parcel.file_offset, len);
        let shared = self.slots.get(key);
        let mut slot = shared.lock().await;
        loop {
            let stream = self.stream_with_room((key, &shared), &mut slot, parcel.session, len).await?;
            let Some(room) = stream.room().await else { continue };
            // From here on nothing waits, so a place that is taken is filled.
            let offset = slot.len;
            slot.len += len;
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

    /// The stream of a slot's chunk, which has room for `len` bytes (W2).
    async fn stream_with_room(
        &self,
        (key, shared): (SlotKey, &SharedSlot),
        slot: &mut OpenSlot,
        session: SessionId,
        len: u64,
    ) -> MetaResult<Arc<ChunkStream>> {
        if self.names.meta.session_id() != session {
            return Err(MetaError::SessionExpired { session }); // the slot belongs to another session now
        }
        if let Some(stream) = slot.stream.as_ref() {
            let failure = stream.failure();
            if failure.is_none() && stream.session == session && slot.len + len <= CHUNK_LEN {
                return Ok(stream.clone());
            }
            self.learn_from(stream, failure.as_ref());
        }
        slot.stream = None;
        if self.full_chunks.load(Ordering::Relaxed) >= FULL_CHUNKS_MAX {
            self.full_chunks.store(0, Ordering::Relaxed);
            return Err(MetaError::NoSpace { what: "the chunkservers' disks are full".to_owned() });
        }
        let open = OpenChunk {
            avoid: self.chunks.avoided(),
            copies: self.copies,
            beside: self.slots.servers_beside(key),
            volume: Some(key.volume()), // keeps W3
        };
        let opened = replies::chunk(self.names.change_of(session, Change::OpenChunk(open)).await?)?;
        let servers = opened.replicas.iter().map(|replica| replica.server).collect();
        self.slots.note_servers(key, shared, servers);
        let current = self.names.meta.session();
        if current.id() != session {
            return Err(MetaError::SessionExpired { session });
        }
        let stream = ChunkStream::start(&current, opened, self.chunks.clone(), self.timeouts());
        slot.stream = Some(stream.clone());
        slot.len = 0;
        Ok(stream)
    }

    fn learn_from(&self, stream: &ChunkStream, failure: Option<&ChunkError>) {
        let progress = stream.progress();
        let had_success = progress.acked > 0;
        if failure.is_some_and(is_full) {
            self.full_chunks.fetch_add(1, Ordering::Relaxed);
        } else if progress.was_slow {
            self.slow_chunks.fetch_add(1, Ordering::Relaxed); // a refusal says nothing about timeouts
        }
        if had_success && failure.is_none() {
            self.full_chunks.store(0, Ordering::Relaxed);
            self.slow_chunks.store(0, Ordering::Relaxed);
        }
    }

    /// A commit succeeded: there is space, and the servers answer in time.
    pub(crate) fn succeeded(&self) {
        self.full_chunks.store(0, Ordering::Relaxed);
        self.slow_chunks.store(0, Ordering::Relaxed);
    }

    fn timeouts(&self) -> Timeouts {
        let factor = 1 << self.slow_chunks.load(Ordering::Relaxed).min(DOUBLINGS_MAX);
        Timeouts { append: APPEND_TIMEOUT * factor, sync: SYNC_TIMEOUT * factor }
    }

    /// Leaves every chunk, once nothing is appended to it any more.
    pub(crate) async fn close(&self) {
        for slot in self.slots.leave_all() {
            slot.lock().await.stream = None;
        }
    }
}
