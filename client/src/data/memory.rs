//! How much memory the files of one session take together.
//!
//! Write buffers (P1.6): writers reserve before they buffer, and wait while there is no room. Above half of the capacity the
//! oldest dirty inodes are committed (`background`). Read-ahead: without room there is none.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;

use crate::error::ClientError;
use crate::session::retry::Deadline;

/// Segments of read-ahead of all open files.
const SEGMENTS_MAX: usize = 128;

/// Room for read-ahead.
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

/// What all write buffers of the session take.
pub(crate) struct SessionMemory {
    capacity: u64,
    used: Mutex<u64>,
    /// Inodes whose bytes were lost without anybody having been told.
    unheard: AtomicUsize,
    freed: Notify,
    half_full: Notify,
}

/// Room for a write that is about to be buffered. Given back when dropped: what the buffer really took is counted by
/// [`SessionMemory::moved`].
pub(crate) struct Reservation {
    memory: Arc<SessionMemory>,
    bytes: u64,
}

impl SessionMemory {
    pub(crate) fn new(capacity: u64) -> Arc<SessionMemory> {
        let (freed, half_full) = (Notify::new(), Notify::new());
        let (used, unheard) = (Mutex::new(0), AtomicUsize::new(0));
        Arc::new(SessionMemory { capacity: capacity.max(1), used, unheard, freed, half_full })
    }

    fn used(&self) -> MutexGuard<'_, u64> {
        self.used.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Nothing is buffered, nor about to be, nor was anything lost that nobody has heard of.
    pub(crate) fn is_unused(&self) -> bool {
        *self.used() == 0 && self.unheard.load(Ordering::Relaxed) == 0
    }

    /// An inode had, and has now, lost bytes that nobody has heard of.
    pub(crate) fn unheard_moved(&self, before: bool, after: bool) {
        match (before, after) {
            (false, true) => self.unheard.fetch_add(1, Ordering::Relaxed),
            (true, false) => self.unheard.fetch_sub(1, Ordering::Relaxed),
            (true, true) | (false, false) => return,
        };
    }

    /// Waits until `bytes` fit. A write larger than everything waits for all of it.
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

    /// A buffer took `before` and takes `after` now.
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

    /// Ready when it may be more than half full.
    pub(crate) async fn half_full(&self) {
        self.half_full.notified().await;
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        self.memory.moved(self.bytes, 0);
    }
}
