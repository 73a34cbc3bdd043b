//! Fetching ahead of a reader that goes through a file from front to back.
//!
//! A1  A segment is used only if nothing is buffered over what is read, and the committed content still has the
//!     version that the segment shows; so read-ahead never shows older bytes than a read without it.
//! A2  The segments of all files together are bounded; without room there is no read-ahead.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::{Bytes, BytesMut};
use dfs_proto::units::MIB;
use futures::FutureExt;
use futures::future::{BoxFuture, Shared};
use tokio::sync::OwnedSemaphorePermit;

use crate::data::core::Core;
use crate::data::node::{Node, NodeState};
use crate::error::{ClientError, Result};

const SEGMENT_LEN: u64 = MIB;
/// How far ahead of the reader segments are fetched: one stripe of each replica set that a stream was written to.
const WINDOW_MAX: u64 = 16 * MIB;
/// A reader is taken for a stream after this many bytes without a jump. So small files are not read ahead.
const STREAM_LEN_MIN: u64 = 256 << 10;
/// The requests of one stream may arrive out of order by this many bytes, since the kernel sends several at a time.
const SLACK: u64 = 2 * MIB;
type Fetched = std::result::Result<(Bytes, u64), ClientError>;

struct Segment {
    fetched: Shared<BoxFuture<'static, Fetched>>,
    _room: OwnedSemaphorePermit,
}

#[derive(Default)]
struct Stream {
    /// The position at which the reader should go on, and how many bytes it read without a jump.
    next: u64,
    run: u64,
    /// The segments by their index: file offset / SEGMENT_LEN.
    segments: BTreeMap<u64, Segment>,
}

/// The read-ahead of one open file.
#[derive(Default)]
pub(crate) struct ReadAhead(Mutex<Stream>);

impl ReadAhead {
    fn stream(&self) -> MutexGuard<'_, Stream> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The range `[from, to)`, below `size`, if it was fetched ahead. Starts to fetch what follows.
    pub(crate) async fn read(
        &self,
        core: &Arc<Core>,
        node: &Arc<Node>,
        from: u64,
        to: u64,
        size: u64,
    ) -> Option<Bytes> {
        let session = core.meta.session_id();
        let version = node.with(session, |state| state.clean_version(from, to))?;
        let wanted = {
            let mut stream = self.stream();
            let ahead = stream.advance(from, to)?;
            stream.fetch_until(core, node, from, ahead.min(size), size);
            stream.covering(from, to)?
        };
        let mut parts = Vec::with_capacity(wanted.len());
        for (index, fetched) in wanted {
            let start = index * SEGMENT_LEN;
            match fetched.await {
                Ok((bytes, shown))
                    if shown == version && start + bytes.len() as u64 >= to.min(start + SEGMENT_LEN) =>
                {
                    let first = from.max(start) - start;
                    parts.push(bytes.slice(first as usize..(to - start).min(SEGMENT_LEN) as usize));
                }
                Ok(_) | Err(_) => {
                    self.stream().segments.remove(&index); // keeps A1
                    return None;
                }
            }
        }
        match &parts[..] {
            [part] => Some(part.clone()),
            parts => {
                let mut joined = BytesMut::with_capacity((to - from) as usize);
                parts.iter().for_each(|part| joined.extend_from_slice(part));
                Some(joined.freeze())
            }
        }
    }
}

impl Stream {
    /// Notes a read. Returns how far to fetch, if the read is one of a stream.
    fn advance(&mut self, from: u64, to: u64) -> Option<u64> {
        let is_next = from <= self.next + SLACK && to + SLACK >= self.next;
        if !is_next {
            *self = Stream { next: to, ..Stream::default() };
            return None;
        }
        self.run += to - from;
        self.next = self.next.max(to);
        let behind = from.saturating_sub(SLACK) / SEGMENT_LEN;
        self.segments = self.segments.split_off(&behind);
        (self.run >= STREAM_LEN_MIN).then(|| self.next + self.run.min(WINDOW_MAX))
    }

    fn fetch_until(&mut self, core: &Arc<Core>, node: &Arc<Node>, from: u64, until: u64, size: u64) {
        for index in from / SEGMENT_LEN..until.div_ceil(SEGMENT_LEN) {
            if self.segments.contains_key(&index) {
                continue;
            }
            let Some(room) = core.read_ahead.segment() else { return }; // keeps A2
            let (core, node) = (core.clone(), node.clone());
            let (start, end) = (index * SEGMENT_LEN, ((index + 1) * SEGMENT_LEN).min(size));
            let task =
                tokio::spawn(async move { core.read(&node, NodeState::committed_view, start, end).await });
            let fetched = async move {
                let ended = |error| ClientError::Internal { what: format!("read-ahead ended: {error}") };
                task.await.map_err(ended)?
            };
            self.segments.insert(index, Segment { fetched: fetched.boxed().shared(), _room: room });
        }
    }

    /// The segments that hold `[from, to)`, if all of them were fetched.
    fn covering(&self, from: u64, to: u64) -> Option<Vec<(u64, Shared<BoxFuture<'static, Fetched>>)>> {
        (from / SEGMENT_LEN..to.div_ceil(SEGMENT_LEN))
            .map(|index| Some((index, self.segments.get(&index)?.fetched.clone())))
            .collect()
    }
}

/// `Shared` hands out the failure, so it must be `Clone`.
const _: fn() = || {
    fn is_clone<T: Clone>() {}
    is_clone::<Result<(Bytes, u64)>>();
};
