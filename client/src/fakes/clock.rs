//! The clock of a test's machine.

use std::sync::Mutex;
use std::time::Duration;

use dfs_net::env::Clock;
use dfs_proto::attr::Timestamp;
use tokio::time::Instant;

/// Clocks that go with tokio's, but for what the machine sleeps. The wall clock is wrong.
pub(crate) struct TokioClock {
    began: Option<Instant>,
    asleep: Mutex<Duration>,
}

impl TokioClock {
    pub(crate) fn start() -> TokioClock {
        TokioClock { began: Some(Instant::now()), asleep: Mutex::default() }
    }

    pub(crate) fn stopped() -> TokioClock {
        TokioClock { began: None, asleep: Mutex::default() }
    }

    pub(crate) fn sleep_through(&self, time: Duration) {
        *self.asleep.lock().unwrap() += time;
    }
}

impl Clock for TokioClock {
    fn now(&self) -> Timestamp {
        Timestamp { seconds: 2_147_483_647, nanos: 0 }
    }

    fn boottime(&self) -> Duration {
        self.began.map_or(Duration::ZERO, |began| began.elapsed()) + *self.asleep.lock().unwrap()
    }
}
