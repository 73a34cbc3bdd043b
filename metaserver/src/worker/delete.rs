//! Orders the deletion of chunks that have been dead for long enough (P10.4). The orders go out with heartbeat replies.

use std::collections::VecDeque;
use std::time::Duration;

use dfs_proto::attr::Timestamp;
use tokio::time::{Instant, sleep};

use super::execute;
use crate::command::{Command, REAP_LIMIT_MAX};
use crate::kv::Snapshot;
use crate::leases::Touched;
use crate::service::Metaserver;
use crate::state::read;

const INTERVAL: Duration = Duration::from_secs(1);
/// P10.4: so long a reader with an older map still finds the bytes.
const READABLE_AFTER_DEATH: Duration = Duration::from_secs(60);

pub(super) async fn run(metaserver: &Metaserver) {
    let (mut more, mut seen) = (false, SeenTimes::default());
    loop {
        if !more {
            sleep(INTERVAL).await;
        }
        let look = |state: &dyn Snapshot| Ok((read::last_time(state), read::first_dead_since(state)));
        more = match metaserver.gate.read(&Touched::nothing(), None, look).await {
            Ok((time, first_dead)) => {
                let before = seen.note(Instant::now(), time);
                execute(metaserver, plan(first_dead, before)).await
            }
            Err(_) => false,
        };
    }
}

/// Which times of the state are a minute ago, by the leader's own elapsed time: the clock of an earlier leader, by which
/// the state's time may run ahead, says nothing about that. A new leader waits for a minute before its first order.
#[derive(Default)]
struct SeenTimes(VecDeque<(Instant, Timestamp)>);

impl SeenTimes {
    /// The state's time is `time` now. Answers the last one that was seen long enough ago.
    fn note(&mut self, now: Instant, time: Timestamp) -> Option<Timestamp> {
        let is_news = |(at, last): &(Instant, Timestamp)| now.duration_since(*at) >= INTERVAL && *last < time;
        if self.0.back().is_none_or(is_news) {
            self.0.push_back((now, time));
        }
        let is_old = |(at, _): &(Instant, Timestamp)| now.duration_since(*at) >= READABLE_AFTER_DEATH;
        while self.0.get(1).is_some_and(is_old) {
            self.0.pop_front();
        }
        self.0.front().filter(|seen| is_old(seen)).map(|(_, time)| *time)
    }
}

/// `first_dead`: since when the chunk is dead that died first. `before`: what died until then is dead for long enough.
fn plan(first_dead: Option<Timestamp>, before: Option<Timestamp>) -> Vec<Command> {
    let due = before.filter(|before| first_dead.is_some_and(|since| since <= *before));
    due.map(|before| Command::StartDeleting { before, limit: REAP_LIMIT_MAX }).into_iter().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: i64) -> Timestamp {
        Timestamp { seconds, nanos: 0 }
    }

    #[test]
    fn a_dead_chunk_stays_readable_for_a_minute_whatever_the_states_clock_does() {
        let (start, mut seen) = (Instant::now(), SeenTimes::default());
        let mut after = |seconds, time| seen.note(start + Duration::from_secs(seconds), at(time));
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
        let wanted = Command::StartDeleting { before: at(940), limit: REAP_LIMIT_MAX };
        assert_eq!(plan(Some(at(940)), Some(at(940))), [wanted]);
    }
}
