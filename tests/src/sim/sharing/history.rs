//! What all clients that share have done and seen.

use super::lock_history::{LockHistory, Records};
use super::shown::Shown;

/// Files with locks.
pub(super) const LOCKED: usize = 2;

/// Of all clients.
#[derive(Debug)]
pub(in crate::sim) struct History {
    pub(super) locks: LockHistory,
    pub(super) records: [Records; LOCKED],
    pub(super) shown: Shown,
}

impl History {
    pub(in crate::sim) fn new() -> History {
        History { locks: LockHistory::default(), records: Default::default(), shown: Shown::new() }
    }

    pub(in crate::sim) fn looks(&self) -> u64 {
        self.shown.looks
    }

    pub(in crate::sim) fn fetches(&self) -> u64 {
        self.shown.fetches
    }
}
