//! The sending half of a connection.

use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};

use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncWriteExt as _, WriteHalf};
use tokio::sync::OwnedSemaphorePermit;

use super::lock;
use crate::env::Stream;
use crate::rpc::admission::Claim;
use dfs_proto::frame::{self, FrameKind};

/// U5. A peer that reads takes much less at a time.
pub(in crate::rpc) const UNREAD_LEN_MAX: usize = 64 << 20;

/// Frames on their way out. Whoever finds nobody writing writes: no task, and so no wake-up, for a small frame.
pub(in crate::rpc) struct Writer {
    queue: Mutex<Vec<Queued>>,
    half: tokio::sync::Mutex<WriteHalf<Box<dyn Stream>>>,
    is_broken: AtomicBool,
    /// Bytes of frames that are queued or being written.
    unwritten: AtomicUsize,
}

/// A frame, and on the side that listens what it holds until it is written.
type Queued = (Bytes, Option<Owed>);

/// The place of its call (U3) or the share of its push (`push`, N4), and room for a long answer (U5).
pub(in crate::rpc) struct Owed {
    pub(in crate::rpc) _place: OwnedSemaphorePermit,
    pub(in crate::rpc) _room: Option<Claim>,
}

impl Writer {
    pub(in crate::rpc) fn new(half: WriteHalf<Box<dyn Stream>>) -> Arc<Writer> {
        let half = tokio::sync::Mutex::new(half);
        let (is_broken, unwritten) = (AtomicBool::new(false), AtomicUsize::new(0));
        Arc::new(Writer { queue: Mutex::default(), half, is_broken, unwritten })
    }

    fn queue(&self, frame: Bytes, owed: Option<Owed>) {
        self.unwritten.fetch_add(frame.len(), Ordering::Relaxed);
        lock(&self.queue).push((frame, owed));
    }

    /// Keeps U5.
    pub(in crate::rpc) fn has_too_much(&self) -> bool {
        self.unwritten.load(Ordering::Relaxed) > UNREAD_LEN_MAX
    }

    pub(in crate::rpc) fn is_broken(&self) -> bool {
        self.is_broken.load(Ordering::Relaxed)
    }

    /// Does not wait: what the socket does not take now, a task writes. What may queue up is bounded by U3.
    pub(in crate::rpc) fn send(self: &Arc<Self>, frame: Bytes, owed: Option<Owed>) {
        self.queue(frame, owed);
        let mut writing = Box::pin(self.clone().write_queue());
        if poll_once(writing.as_mut()).is_pending() {
            tokio::spawn(writing); // keeps U1
        }
    }

    /// For an answer that was waited for: others wait for the same (one log entry answers many changes), and all of them
    /// leave in one system call, after one wake-up on the other side.
    pub(in crate::rpc) async fn send_with_others(self: Arc<Self>, frame: Bytes, owed: Owed) {
        self.queue(frame, Some(owed));
        tokio::task::yield_now().await;
        self.write_queue().await;
    }

    /// Keeps U4. What waits to be written is a sign by itself.
    pub(in crate::rpc) fn sign(self: &Arc<Self>) {
        if lock(&self.queue).is_empty() {
            self.send(frame::encode(FrameKind::Working, 0, &(), 0), None);
        }
    }

    async fn write_queue(self: Arc<Self>) {
        // Looked at again after unlocking: a frame queued while this held the lock was left to it.
        while !lock(&self.queue).is_empty() {
            let Ok(mut half) = self.half.try_lock() else { return };
            loop {
                let queued = std::mem::take(&mut *lock(&self.queue));
                if queued.is_empty() {
                    break;
                }
                if half.write_all(&joined(&queued)).await.is_err() {
                    self.is_broken.store(true, Ordering::Relaxed); // the reading side ends too
                }
                let written: usize = queued.iter().map(|(frame, _)| frame.len()).sum();
                self.unwritten.fetch_sub(written, Ordering::Relaxed);
                drop(queued); // keeps U3
            }
        }
    }
}

fn joined(queued: &[Queued]) -> Bytes {
    if let [(frame, _)] = queued {
        return frame.clone();
    }
    let mut all = BytesMut::with_capacity(queued.iter().map(|(frame, _)| frame.len()).sum());
    queued.iter().for_each(|(frame, _)| all.extend_from_slice(frame));
    all.freeze()
}

/// Whoever is still pending must be polled again by a task.
pub(in crate::rpc) fn poll_once<F: Future + ?Sized>(future: Pin<&mut F>) -> Poll<F::Output> {
    future.poll(&mut Context::from_waker(Waker::noop()))
}
