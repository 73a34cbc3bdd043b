//! Orders the deletion of chunks that have been dead for long enough (P10.4). The orders go out with heartbeat replies.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use dfs_proto::scope::Unleased;
use tokio::time::{Instant, sleep};

use super::budget::{Budget, DELETE};
use super::work::{Learned, Work};
use crate::metaserver::Metaserver;
use dfs_state::command::Command;
use dfs_state::kv::Snapshot;
use dfs_state::read;
use dfs_state::time::StateTime;

/// P10.4. For this long a reader with an older map still finds the bytes.
const READABLE_AFTER_DEATH: Duration = Duration::from_secs(60);

/// Which times of the state are a minute ago, measured with this member's own clock. Differences between the state's times
/// cannot be relied on: an earlier release let them run ahead with a wall clock. For its first minute a member knows no time
/// that is old enough.
#[derive(Default)]
pub(super) struct SeenTimes(Mutex<VecDeque<(Instant, StateTime)>>);

impl SeenTimes {
    fn seen(&self) -> MutexGuard<'_, VecDeque<(Instant, StateTime)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The state's time is `time` now, or later.
    fn note(&self, now: Instant, time: StateTime) {
        let mut seen = self.seen();
        if seen.back().is_none_or(|(_, last)| *last < time) {
            seen.push_back((now, time));
        }
        while seen.get(1).is_some_and(|(at, _)| is_old(now, *at)) {
            seen.pop_front();
        }
    }

    /// The last time that was seen long enough ago.
    fn old(&self, now: Instant) -> Option<StateTime> {
        self.seen().iter().rev().find(|(at, _)| is_old(now, *at)).map(|(_, time)| *time)
    }
}

fn is_old(now: Instant, at: Instant) -> bool {
    now.duration_since(at) >= READABLE_AFTER_DEATH
}

/// On every member, leading or not. Never ends.
pub(super) async fn watch(metaserver: &Metaserver, times: &SeenTimes) {
    loop {
        sleep(DELETE.every).await;
        times.note(Instant::now(), metaserver.gate.local(read::last_time));
    }
}

/// See the module.
pub(super) struct Delete<'t> {
    pub(super) times: &'t SeenTimes,
}

impl Work for Delete<'_> {
    fn budget(&self) -> Budget {
        DELETE
    }

    fn records(&self) -> Unleased {
        Unleased::Chunks
    }

    fn plan(&self, state: &dyn Snapshot, learned: &Learned<'_>) -> Vec<Command> {
        plan(read::first_dead_since(state), self.times.old(learned.now))
    }
}

/// `first_dead`: since when the chunk is dead that died first. `before`: what died until then is dead for long enough.
fn plan(first_dead: Option<StateTime>, before: Option<StateTime>) -> Vec<Command> {
    let due = before.filter(|before| first_dead.is_some_and(|since| since <= *before));
    due.map(|before| Command::StartDeleting { before, limit: DELETE.records_max }).into_iter().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: i64) -> StateTime {
        StateTime { seconds, nanos: 0 }
    }

    #[test]
    fn a_dead_chunk_stays_readable_for_a_minute_whatever_the_states_clock_does() {
        let (start, seen) = (Instant::now(), SeenTimes::default());
        let after = |seconds, time| {
            let now = start + Duration::from_secs(seconds);
            seen.note(now, at(time));
            seen.old(now)
        };
        assert_eq!(after(0, 1000), None, "nothing is known of the time before");
        assert_eq!(after(30, 5000), None, "a clock that jumped");
        assert_eq!(after(59, 5000), None);
        assert_eq!(after(60, 5000), Some(at(1000)));
        assert_eq!(after(90, 5001), Some(at(5000)), "it stood still");
        assert_eq!(after(1000, 5002), Some(at(5001)));
    }

    #[test]
    fn only_what_died_long_enough_ago_is_deleted() {
        assert_eq!(plan(None, Some(at(940))), []);
        assert_eq!(plan(Some(at(941)), Some(at(940))), []);
        assert_eq!(plan(Some(at(940)), None), []);
        let wanted = Command::StartDeleting { before: at(940), limit: DELETE.records_max };
        assert_eq!(plan(Some(at(940)), Some(at(940))), [wanted]);
    }
}
