//! What is fixed before a run: all that its seed decides at once, and how patient clients are.

use std::time::Duration;

use super::layout::Layout;

/// Between two looks of a client whether the last power failure is over, and between two tries of a change of volumes.
pub(super) const OVER_INTERVAL: Duration = Duration::from_millis(50);

/// Longer than a walker is ever kept from the leader, by a fault and until it has found the new one: it loses no session because
/// somebody else waits for a lock, or for what it has written. (With 8 s one did, in seed 24.)
pub(super) const LEASE_TERM: Duration = Duration::from_secs(10);

/// What one run is made of.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    pub seed: u64,
    pub walkers: usize,
    pub operations_each: u64,
    pub layout: Layout,
    /// Longest pause of a walker between two operations: spreads them over the faults.
    pub pause_max: Duration,
    /// Once, for a while.
    pub has_slow_logs: bool,
}

impl Plan {
    /// One seed in eight takes its time, so that chunks that died are deleted (P10.4) while clients walk.
    pub fn of_seed(seed: u64) -> Plan {
        let pause_max = Duration::from_millis(if seed.is_multiple_of(8) { 3000 } else { 400 });
        let layout = if seed % 4 == 3 { Layout::FEDERATION } else { Layout::ALONE };
        let has_slow_logs = seed % 8 == 5;
        Plan { seed, walkers: 3, operations_each: 110, layout, pause_max, has_slow_logs }
    }

    /// Of clients, for one answer: long enough for any fault of the model, then an error is a bug. A client that is silent and may have
    /// written holds others up for a term after each election, and elections can follow each other faster than that for a minute.
    pub(super) fn patience(self) -> Duration {
        Duration::from_secs(if self.has_slow_logs { 45 } else { 60 })
    }
}
