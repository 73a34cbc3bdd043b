//! How much memory the files of one session take together.
//!
//! A writer reserves memory before it buffers (P1.6), and waits while there is none. When more than half is used, the
//! oldest dirty inodes are committed (`background`). Read-ahead has a bound of its own, and without room there is
//! none.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;

use crate::error::ClientError;
use crate::session::retry::Deadline;

/// The most segments of read-ahead of all open files.
const SEGMENTS_MAX: usize = 128;

/// The memory for read-ahead.
pub(crate) struct ReadAheadBudget(Arc<Semaphore>);

impl ReadAheadBudget {
    pub(crate) fn new() -> ReadAheadBudget {
        ReadAheadBudget(Arc::new(Semaphore::new(SEGMENTS_MAX)))
    }

    /// Room for one segment, until it is dropped; `None` when there is none.
    pub(crate) fn segment(&self) -> Option<OwnedSemaphorePermit> {
        self.0.clone().try_acquire_owned().ok()
    }
}

/// The memory of all write buffers of the session.
pub(crate) struct SessionMemory {
    capacity: u64,
    used: Mutex<u64>,
    /// How many inodes have lost bytes that no open file has reported yet.
    unreported: AtomicUsize,
    freed: Notify,
    half_full: Notify,
}

/// Memory for a write that is about to be buffered. It is given back when this is dropped: what the buffer really
/// took is counted by [`SessionMemory::moved`].
pub(crate) struct Reservation {
    memory: Arc<SessionMemory>,
    bytes: u64,
}

impl SessionMemory {
    pub(crate) fn new(capacity: u64) -> Arc<SessionMemory> {
        let (freed, half_full) = (Notify::new(), Notify::new());
        let (used, unreported) = (Mutex::new(0), AtomicUsize::new(0));
        Arc::new(SessionMemory { capacity: capacity.max(1), used, unreported, freed, half_full })
    }

    fn used(&self) -> MutexGuard<'_, u64> {
        self.used.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Nothing is buffered or about to be, and no open file has a loss to report.
    pub(crate) fn is_unused(&self) -> bool {
        *self.used() == 0 && self.unreported.load(Ordering::Relaxed) == 0
    }

    /// How many inodes have lost bytes that no open file has reported.
    pub(crate) fn unreported(&self) -> usize {
        self.unreported.load(Ordering::Relaxed)
    }

    /// Whether an inode had, and has now, lost bytes that no open file has reported.
    pub(crate) fn unreported_moved(&self, before: bool, after: bool) {
        match (before, after) {
            (false, true) => self.unreported.fetch_add(1, Ordering::Relaxed),
            (true, false) => self.unreported.fetch_sub(1, Ordering::Relaxed),
            (true, true) | (false, false) => return,
        };
    }

    /// Waits until `bytes` fit. A write that is larger than the capacity waits for all of it.
    pub(crate) async fn reserve(
        self: &Arc<SessionMemory>,
        bytes: u64,
        deadline: Deadline,
    ) -> Result<Reservation, ClientError> {
        let bytes = bytes.min(self.capacity);
        loop {
            let freed = self.freed.notified();
            if self.try_take(bytes) {
                return Ok(Reservation { memory: self.clone(), bytes });
            }
            if timeout(deadline.left(), freed).await.is_err() {
                let what = "the write buffer is full and cannot be committed".to_owned();
                return Err(ClientError::Unavailable { what });
            }
        }
    }

    /// The same, if there is room now.
    pub(crate) fn reserve_now(self: &Arc<SessionMemory>, bytes: u64) -> Option<Reservation> {
        let bytes = bytes.min(self.capacity);
        self.try_take(bytes).then(|| Reservation { memory: self.clone(), bytes })
    }

    fn try_take(&self, bytes: u64) -> bool {
        let mut used = self.used();
        let fits = *used + bytes <= self.capacity;
        if fits {
            *used += bytes;
        }
        if *used > self.capacity / 2 || !fits {
            self.half_full.notify_one();
        }
        fits
    }

    /// A buffer took `before` bytes and takes `after` now.
    pub(crate) fn moved(&self, before: u64, after: u64) {
        if before == after {
            return;
        }
        let mut used = self.used();
        *used = (*used + after).saturating_sub(before);
        if after < before {
            self.freed.notify_waiters();
        } else if *used > self.capacity / 2 {
            self.half_full.notify_one();
        }
    }

    pub(crate) fn is_half_full(&self) -> bool {
        *self.used() > self.capacity / 2
    }

    /// Returns when the memory may be more than half full.
    pub(crate) async fn half_full(&self) {
        self.half_full.notified().await;
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        self.memory.moved(self.bytes, 0);
    }
}
