//! How old the acknowledgement of a quorum may be that lets this leader answer a read (P7.5).
//!
//! openraft reckons a leader's lease by CLOCK_MONOTONIC, which stands still while the machine sleeps. So a leader that was
//! suspended and resumed would take its lease for good, though another member has led for hours. CLOCK_BOOTTIME tells: it
//! goes on meanwhile. After a sleep only what a quorum acknowledges from then on counts.
//!
//! A machine whose clocks both stop (a virtual machine that is paused by its host) cannot tell.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use dfs_net::env::Clock;
use tokio::time::Instant;

/// A shorter sleep is within what the lease leaves for clocks that run apart; and a pause between the two looks at the clocks
/// may look like one, which costs a round to the quorum.
const SLEEP_MIN: Duration = Duration::from_millis(50);

pub(crate) struct ReadLease {
    clock: Arc<dyn Clock>,
    /// While the machine is awake.
    age_max: Duration,
    began: Instant,
    seen: Mutex<Seen>,
}

struct Seen {
    /// The least that CLOCK_BOOTTIME was seen ahead of `began` plus what has passed awake: the true figure, or a little more.
    lead: Duration,
    /// When it was first seen that the machine has slept, the last time that it did.
    woke: Option<Instant>,
}

impl ReadLease {
    pub(crate) fn new(clock: Arc<dyn Clock>, age_max: Duration) -> ReadLease {
        let began = Instant::now();
        let seen = Mutex::new(Seen { lead: clock.boottime(), woke: None });
        ReadLease { clock, age_max, began, seen }
    }

    /// For a read that begins now.
    pub(crate) fn age_max(&self) -> Duration {
        // In this order: what comes between the two looks like a sleep, and hides none.
        let now = Instant::now();
        let lead = self.clock.boottime().saturating_sub(now.saturating_duration_since(self.began));
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        if lead > seen.lead + SLEEP_MIN {
            tracing::warn!(
                "this machine has slept for {:?}: the quorum is asked before a read",
                lead - seen.lead
            );
            *seen = Seen { lead, woke: Some(now) };
        }
        seen.lead = seen.lead.min(lead);
        let awake = |woke: Instant| self.age_max.min(now.saturating_duration_since(woke));
        seen.woke.map_or(self.age_max, awake)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory_net::SetClock;

    const LEASE: Duration = Duration::from_millis(600);

    #[tokio::test(start_paused = true)]
    async fn after_a_sleep_only_what_was_acknowledged_since_counts() {
        let set = Arc::new(SetClock::default());
        let lease = ReadLease::new(set.clone(), LEASE);
        let pass = async |time: Duration| {
            set.pass(time);
            tokio::time::advance(time).await;
        };
        pass(Duration::from_secs(100)).await;
        assert_eq!(lease.age_max(), LEASE);
        set.pass(Duration::from_millis(49)); // asleep: tokio's clock stands still
        assert_eq!(lease.age_max(), LEASE, "the lease's margin is for that");
        set.pass(Duration::from_millis(2));
        assert_eq!(lease.age_max(), Duration::ZERO, "short sleeps add up");
        pass(Duration::from_millis(200)).await;
        assert_eq!(lease.age_max(), Duration::from_millis(200));
        pass(LEASE).await;
        assert_eq!(lease.age_max(), LEASE);
        set.pass(Duration::from_secs(3600));
        assert_eq!(lease.age_max(), Duration::ZERO);
        set.step_wall(-3600);
        pass(LEASE).await;
        assert_eq!(lease.age_max(), LEASE, "the wall clock is nothing to it");
    }
}
