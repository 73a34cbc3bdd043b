//! The leader's lease: how old the last acknowledgement of a quorum may be for this leader to answer a read by itself (P7.5).
//!
//! openraft measures the lease by CLOCK_MONOTONIC, which stands still while the machine is suspended. A leader that wakes up after
//! hours would still trust its lease, although another member has led since. CLOCK_BOOTTIME does not stand still, so this module
//! compares the two clocks. After a suspension, only acknowledgements that come after it count.
//!
//! A virtual machine that its host pauses stops both clocks, and so does not notice the pause.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use dfs_net::env::Clock;
use tokio::time::Instant;

/// A shorter suspension is covered by the margin that the lease has for clocks that drift. If this were lower, a delay between
/// reading one clock and the other would be taken for a suspension, which costs a round trip to the quorum.
const SLEEP_MIN: Duration = Duration::from_millis(50);

pub(crate) struct ReadLease {
    clock: Arc<dyn Clock>,
    /// The answer of [`ReadLease::age_max`] while there was no suspension.
    age_max: Duration,
    began: Instant,
    seen: Mutex<Seen>,
}

struct Seen {
    /// How far CLOCK_BOOTTIME is ahead of CLOCK_MONOTONIC, counted from `began`: the least that was seen since the last suspension.
    /// It is at most a little too large.
    lead: Duration,
    /// When the last suspension was noticed.
    woke: Option<Instant>,
}

impl ReadLease {
    pub(crate) fn new(clock: Arc<dyn Clock>, age_max: Duration) -> ReadLease {
        let began = Instant::now();
        let seen = Mutex::new(Seen { lead: clock.boottime(), woke: None });
        ReadLease { clock, age_max, began, seen }
    }

    /// How old the acknowledgement may be for a read that begins now.
    pub(crate) fn age_max(&self) -> Duration {
        // The clocks are read in this order so that a delay between them can look like a suspension, but never hide one.
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
