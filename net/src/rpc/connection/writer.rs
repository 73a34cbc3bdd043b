//! The sending half of a connection, which all tasks of the connection share.
//!
//! There is no task that only writes. A task that queues a frame, and finds that no other one is writing, writes all frames that
//! are queued. So a small frame costs no wake-up of another task, and frames that are queued meanwhile leave in one system call.
//!
//! Nothing is written behind a frame that was torn or left out: a write that fails, or is dropped in the middle, takes the half
//! with it, and once the writer has ended, what is still queued is dropped.

use std::collections::VecDeque;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};

use bytes::{Buf as _, Bytes, BytesMut};
use tokio::io::{AsyncWriteExt as _, WriteHalf};
use tokio::sync::OwnedSemaphorePermit;
use tokio_util::sync::CancellationToken;

use super::lock;
use crate::env::Stream;
use crate::rpc::admission::Claim;
use dfs_proto::frame::{self, FrameKind};

/// The bytes of answers that may wait for a peer (`unary`, U5). A peer that reads its answers leaves much less waiting.
pub(in crate::rpc) const UNREAD_LEN_MAX: usize = 64 << 20;
/// A frame up to this length is copied, so that it leaves in one system call with the other frames that are queued.
const COPIED_LEN_MAX: usize = 16 << 10;
/// The bytes of frames that are taken from the queue and written at a time. What they held is given back then.
const ROUND_LEN_MAX: usize = 256 << 10;
/// With more than this to write, a task of its own does it: the caller may be a thread that serves others.
const INLINE_LEN_MAX: usize = 64 << 10;

/// A frame on its way out.
pub(in crate::rpc) struct Outgoing {
    head: Bytes,
    payload: Bytes,
    _held: Option<Held>,
}

/// What a frame takes of the bounds of its connection and its process. It is given back when the frame is written.
pub(in crate::rpc) struct Held {
    pub(in crate::rpc) _permit: Option<OwnedSemaphorePermit>,
    pub(in crate::rpc) _claim: Option<Claim>,
}

impl Outgoing {
    /// `head` is the header and the body.
    pub(in crate::rpc) fn new(head: Bytes, payload: Bytes, held: Option<Held>) -> Outgoing {
        Outgoing { head, payload, _held: held }
    }

    fn len(&self) -> usize {
        self.head.len() + self.payload.len()
    }
}

pub(in crate::rpc) struct Writer {
    queue: Mutex<VecDeque<Outgoing>>,
    /// None once the connection has ended, and while a task writes.
    half: tokio::sync::Mutex<Option<WriteHalf<Box<dyn Stream>>>>,
    is_ended: AtomicBool,
    /// The same, for those who wait for it.
    end: CancellationToken,
    /// Bytes of frames that are queued or being written.
    unwritten: AtomicUsize,
}

impl Writer {
    pub(super) fn new(half: WriteHalf<Box<dyn Stream>>) -> Arc<Writer> {
        let half = tokio::sync::Mutex::new(Some(half));
        let (is_ended, unwritten) = (AtomicBool::new(false), AtomicUsize::new(0));
        Arc::new(Writer { queue: Mutex::default(), half, is_ended, end: CancellationToken::new(), unwritten })
    }

    /// True after a write has failed, or after [`Writer::end`]. Then nothing that is queued is written.
    pub(in crate::rpc) fn is_ended(&self) -> bool {
        self.is_ended.load(Ordering::Relaxed)
    }

    pub(super) async fn ended(&self) {
        self.end.cancelled().await;
    }

    /// Closes the sending half. A write that is under way stops.
    pub(super) fn end(&self) {
        self.is_ended.store(true, Ordering::Relaxed);
        self.end.cancel();
        if let Ok(mut half) = self.half.try_lock() {
            *half = None; // otherwise the task that writes does it
        }
        // Last: a frame whose sender found the half locked just now was left to this task.
        let queued = std::mem::take(&mut *lock(&self.queue));
        drop(queued); // not under the lock: what wakes up may come back here
    }

    fn queue(&self, frame: Outgoing) {
        self.unwritten.fetch_add(frame.len(), Ordering::Relaxed);
        lock(&self.queue).push_back(frame);
    }

    /// The frames to write next: the first one, and those behind it that fit.
    fn next_round(&self) -> Vec<Outgoing> {
        let mut queue = lock(&self.queue);
        let mut len = 0;
        let fitting = queue.iter().take_while(|frame| {
            len += frame.len();
            len <= ROUND_LEN_MAX
        });
        let count = fitting.count().max(1).min(queue.len());
        queue.drain(..count).collect()
    }

    /// Whether the peer leaves more unread than `unary`, U5, allows.
    pub(in crate::rpc) fn has_too_much(&self) -> bool {
        self.unwritten.load(Ordering::Relaxed) > UNREAD_LEN_MAX
    }

    /// Queues a frame without waiting. A task writes what the socket does not take now. The caller bounds what may queue up.
    pub(in crate::rpc) fn send(self: &Arc<Self>, frame: Outgoing) {
        let is_long = frame.len() > COPIED_LEN_MAX;
        self.queue(frame);
        let is_much = is_long || self.unwritten.load(Ordering::Relaxed) > INLINE_LEN_MAX;
        let mut writing = Box::pin(self.clone().write_queue());
        if is_much || poll_once(writing.as_mut()).is_pending() {
            tokio::spawn(writing);
        }
    }

    /// Sends an answer that was waited for. Other tasks wait for the same thing (one log entry answers many changes), so this
    /// lets them queue their answers too: all of them leave in one system call, after one wake-up on the other side.
    pub(in crate::rpc) async fn send_with_others(self: Arc<Self>, frame: Outgoing) {
        let is_long = frame.len() > COPIED_LEN_MAX;
        self.queue(frame);
        if !is_long {
            tokio::task::yield_now().await;
        }
        self.write_queue().await;
    }

    /// Says that call `id` is being worked on (0: a call that is still arriving). A frame that waits to be written says so too.
    pub(in crate::rpc) fn sign(self: &Arc<Self>, id: u64) {
        if lock(&self.queue).is_empty() {
            self.send(Outgoing::new(frame::encode(FrameKind::Working, id, &(), 0), Bytes::new(), None));
        }
    }

    async fn write_queue(self: Arc<Self>) {
        loop {
            // The task that holds it writes what this one has queued.
            let Ok(mut half) = self.half.try_lock() else { return };
            loop {
                let round = self.next_round();
                if round.is_empty() {
                    break;
                }
                // If this task is dropped in the middle, the half is dropped with it.
                let mut taken = half.take();
                match self.write(taken.as_mut(), &round).await {
                    Ok(()) => *half = taken,
                    Err(_) => {
                        self.is_ended.store(true, Ordering::Relaxed);
                        self.end.cancel();
                    }
                }
                let written: usize = round.iter().map(Outgoing::len).sum();
                self.unwritten.fetch_sub(written, Ordering::Relaxed);
                drop(round); // gives back what they held
            }
            let has_ended = self.is_ended();
            if has_ended {
                *half = None;
            }
            drop(half);
            // What happened while this task held the lock was left to it.
            let queue = lock(&self.queue);
            if queue.is_empty() && self.is_ended() == has_ended {
                return;
            }
        }
    }

    async fn write(
        &self,
        half: Option<&mut WriteHalf<Box<dyn Stream>>>,
        round: &[Outgoing],
    ) -> io::Result<()> {
        let ended = io::ErrorKind::ConnectionAborted;
        let half = half.ok_or(ended)?;
        if self.is_ended() {
            return Err(ended.into()); // what was queued before may have been dropped
        }
        tokio::select! {
            biased; // nobody looks at the end while the socket takes what is written
            written = write_frames(half, round) => written,
            () = self.end.cancelled() => Err(ended.into()),
        }
    }
}

async fn write_frames(half: &mut WriteHalf<Box<dyn Stream>>, round: &[Outgoing]) -> io::Result<()> {
    if let [Outgoing { head, payload, .. }] = round {
        return match payload.is_empty() {
            true => half.write_all(head).await,
            false => half.write_all_buf(&mut head.clone().chain(payload.clone())).await,
        };
    }
    let is_copied = |frame: &&Outgoing| frame.len() <= COPIED_LEN_MAX;
    let copied_len: usize = round.iter().filter(is_copied).map(Outgoing::len).sum();
    let mut joined = BytesMut::with_capacity(copied_len);
    for frame in round {
        if is_copied(&frame) {
            joined.extend_from_slice(&frame.head);
            joined.extend_from_slice(&frame.payload);
            continue;
        }
        let (head, payload) = (frame.head.clone(), frame.payload.clone());
        half.write_all_buf(&mut (&joined[..]).chain(head).chain(payload)).await?;
        joined.clear();
    }
    half.write_all(&joined).await
}

/// A future that is still pending must be polled again by a task.
pub(in crate::rpc) fn poll_once<F: Future + ?Sized>(future: Pin<&mut F>) -> Poll<F::Output> {
    future.poll(&mut Context::from_waker(Waker::noop()))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::io::{AsyncReadExt as _, DuplexStream, ReadHalf};
    use tokio::sync::Semaphore;
    use tokio::time::timeout;

    use super::*;

    /// A writer to a peer that has room for `room` bytes and reads nothing by itself.
    fn writer(room: usize) -> (Arc<Writer>, ReadHalf<Box<dyn Stream>>, DuplexStream) {
        let (near, far) = tokio::io::duplex(room);
        let (reader, half) = tokio::io::split(Box::new(near) as Box<dyn Stream>);
        (Writer::new(half), reader, far)
    }

    fn frame(byte: u8, len: usize) -> Outgoing {
        Outgoing::new(vec![byte; len].into(), Bytes::new(), None)
    }

    async fn all_of(reader: ReadHalf<Box<dyn Stream>>, mut far: DuplexStream) -> Vec<u8> {
        drop(reader); // the connection is closed when both halves are gone
        let mut read = Vec::new();
        far.read_to_end(&mut read).await.unwrap();
        read
    }

    #[tokio::test]
    async fn nothing_is_written_behind_a_frame_whose_write_was_dropped_in_the_middle() {
        let (writer, reader, far) = writer(16);
        writer.queue(frame(b'a', 64));
        let mut writing = Box::pin(writer.clone().write_queue());
        assert!(poll_once(writing.as_mut()).is_pending());
        drop(writing);
        writer.send(frame(b'b', 8));
        assert!(writer.is_ended());
        assert_eq!(all_of(reader, far).await, [b'a'; 16]);
    }

    #[tokio::test]
    async fn what_is_queued_when_a_connection_ends_is_not_written_and_gives_back_what_it_held() {
        let (writer, reader, far) = writer(16);
        let bound = Arc::new(Semaphore::new(1));
        let _permit = Some(bound.clone().try_acquire_owned().unwrap());
        writer.queue(Outgoing { _held: Some(Held { _permit, _claim: None }), ..frame(b'a', 8) });
        writer.end();
        assert_eq!(bound.available_permits(), 1);
        writer.send(frame(b'b', 8));
        assert_eq!(all_of(reader, far).await, []);
    }

    #[tokio::test]
    async fn what_a_long_frame_held_is_given_back_before_those_behind_it_are_written() {
        let (writer, _reader, mut far) = writer(4096);
        let bound = Arc::new(Semaphore::new(3));
        for _ in 0..3 {
            let _permit = Some(bound.clone().try_acquire_owned().unwrap());
            let held = Some(Held { _permit, _claim: None });
            writer.send(Outgoing { _held: held, ..frame(b'a', ROUND_LEN_MAX) });
        }
        for written in 1..=3 {
            far.read_exact(&mut vec![0; ROUND_LEN_MAX]).await.unwrap();
            let given_back = timeout(Duration::from_secs(10), bound.acquire_many(written)).await;
            drop(given_back.expect("those behind it are not read yet").unwrap());
            assert_eq!(bound.available_permits(), written as usize);
        }
    }
}
