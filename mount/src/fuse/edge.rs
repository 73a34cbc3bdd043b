//! Runs each request of the kernel to its answer, within its deadline.

use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use dfs_client::inode::FLUSH_SLICE_LEN;
use dfs_proto::units::APPEND_LEN_MAX;
use tokio::runtime::Handle as Runtime;

use crate::deferred::Deferred;
use crate::fs::{Fs, FsError, FsResult};

/// The largest request: one append carries as much (twice as fast as the kernel's default of 128 KiB).
pub(crate) const REQUEST_LEN_MAX: u32 = APPEND_LEN_MAX as u32;
/// A request of the kernel has this much more time than the client's own deadlines, which say what did not answer.
const DEADLINE_MARGIN: Duration = Duration::from_secs(1);

const _: () = assert!(APPEND_LEN_MAX <= u32::MAX as u64);

/// The deadlines of the kinds of requests (E1).
#[derive(Clone, Copy, Debug)]
pub(crate) struct Deadlines {
    metadata: Duration,
    data: Duration,
    storing: Duration,
}

impl Deadlines {
    /// A request that moves bytes needs calls of both kinds. A request that stores what is buffered may take long
    /// while it progresses. The client gives it up when it does not progress; the deadline here is only for the case
    /// that the client does not, and allows for as many slices as `buffer_len` has.
    pub(crate) fn new(metadata_timeout: Duration, data_timeout: Duration, buffer_len: u64) -> Deadlines {
        let slices = u32::try_from(buffer_len.div_ceil(FLUSH_SLICE_LEN)).unwrap_or(u32::MAX);
        Deadlines {
            metadata: metadata_timeout + DEADLINE_MARGIN,
            data: metadata_timeout + data_timeout + DEADLINE_MARGIN,
            storing: metadata_timeout + data_timeout.saturating_mul(slices) + DEADLINE_MARGIN,
        }
    }
}

pub(crate) struct Edge {
    pub(super) fs: Arc<Fs>,
    runtime: Runtime,
    deadlines: Deadlines,
}

impl Edge {
    pub(crate) fn new(fs: Arc<Fs>, runtime: Runtime, deadlines: Deadlines) -> Edge {
        Edge { fs, runtime, deadlines }
    }

    /// Runs `call` and gives its answer to `reply`: at once if the call does not have to wait, else as a task (E2).
    fn run<T, C>(&self, within: Duration, call: C, reply: impl FnOnce(FsResult<T>) + Send + 'static)
    where
        T: Send + 'static,
        C: Future<Output = FsResult<T>> + Send + 'static,
    {
        let _context = self.runtime.enter();
        let mut call = Box::pin(tokio::time::timeout(within, call)); // keeps E1
        let deferred = Deferred::of(self.runtime.clone());
        let waker = Waker::from(deferred.clone());
        // A panic ends only this request (its reply is dropped, which answers EIO), not the event loop.
        let first = std::panic::catch_unwind(AssertUnwindSafe(|| {
            call.as_mut().poll(&mut Context::from_waker(&waker))
        }));
        let in_time = |answer: Result<FsResult<T>, _>| answer.unwrap_or(Err(FsError::TimedOut));
        match first {
            Ok(Poll::Ready(answer)) => reply(in_time(answer)),
            Ok(Poll::Pending) => deferred.wait(Box::pin(async move { reply(in_time(call.await)) })),
            Err(_) => tracing::error!("a request ended in a panic and is answered with an I/O error"),
        }
    }

    pub(super) fn metadata<T, C>(&self, call: C, reply: impl FnOnce(FsResult<T>) + Send + 'static)
    where
        T: Send + 'static,
        C: Future<Output = FsResult<T>> + Send + 'static,
    {
        self.run(self.deadlines.metadata, call, reply);
    }

    pub(super) fn data<T, C>(&self, call: C, reply: impl FnOnce(FsResult<T>) + Send + 'static)
    where
        T: Send + 'static,
        C: Future<Output = FsResult<T>> + Send + 'static,
    {
        self.run(self.deadlines.data, call, reply);
    }

    /// For a call that may wait for ever, and looks itself whether its caller still wants it (E1).
    pub(super) fn waiting<T, C>(&self, call: C, reply: impl FnOnce(FsResult<T>) + Send + 'static)
    where
        T: Send + 'static,
        C: Future<Output = FsResult<T>> + Send + 'static,
    {
        self.run(Duration::MAX, call, reply);
    }

    /// How long such a call may wait if it cannot see its caller.
    pub(super) fn unseen_max(&self) -> Duration {
        self.deadlines.metadata
    }

    pub(super) fn storing<T, C>(&self, call: C, reply: impl FnOnce(FsResult<T>) + Send + 'static)
    where
        T: Send + 'static,
        C: Future<Output = FsResult<T>> + Send + 'static,
    {
        self.run(self.deadlines.storing, call, reply);
    }
}
