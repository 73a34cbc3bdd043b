//! The state's own time, as this member reckons it (P7.1): the last time that it has applied, plus what has passed since on its
//! CLOCK_BOOTTIME. So the time goes on while nobody leads, and no change of a wall clock moves it.
//!
//! C1  It is ahead of the last applied time at most by what has passed on this member since, because only applied times are
//!     trusted.
//! C2  It never goes backwards. When an applied time is ahead of it, it jumps to that time.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use dfs_net::env::Clock;

use dfs_state::time::StateTime;

pub(crate) struct StateClock {
    clock: Arc<dyn Clock>,
    anchor: Mutex<Anchor>,
}

/// A time that was applied, and this member's CLOCK_BOOTTIME when it was.
#[derive(Clone, Copy)]
struct Anchor {
    time: StateTime,
    at: Duration,
}

impl Anchor {
    fn time_at(self, now: Duration) -> StateTime {
        self.time.after(now.saturating_sub(self.at))
    }
}

impl StateClock {
    /// `time` is the last one that the state has applied.
    pub(crate) fn new(clock: Arc<dyn Clock>, time: StateTime) -> StateClock {
        let anchor = Mutex::new(Anchor { time, at: clock.boottime() });
        StateClock { clock, anchor }
    }

    pub(crate) fn now(&self) -> StateTime {
        let now = self.clock.boottime();
        self.anchor.lock().unwrap_or_else(PoisonError::into_inner).time_at(now)
    }

    /// The state has applied `time`.
    pub(crate) fn applied(&self, time: StateTime) {
        let at = self.clock.boottime();
        let mut anchor = self.anchor.lock().unwrap_or_else(PoisonError::into_inner);
        if time > anchor.time_at(at) {
            *anchor = Anchor { time, at }; // keeps C1, C2
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory_net::SetClock;

    #[test]
    fn the_time_goes_on_from_what_was_applied_by_what_has_passed_here_and_by_no_wall_clock() {
        let set = Arc::new(SetClock::default());
        let seconds = |seconds| StateTime { seconds, nanos: 0 };
        let state = StateClock::new(set.clone(), seconds(100));
        set.pass(Duration::from_secs(5));
        set.step_wall(1_000_000_000);
        assert_eq!(state.now(), seconds(105));
        state.applied(seconds(103));
        assert_eq!(state.now(), seconds(105), "what is applied was proposed a while ago");
        state.applied(seconds(110));
        set.pass(Duration::from_secs(1));
        assert_eq!(state.now(), seconds(111));
    }
}
