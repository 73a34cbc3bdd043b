//! Deadlines, and the pauses between tries.

use std::time::Duration;

use dfs_net::env::Rng;
use tokio::time::{Instant, sleep};

/// The moment by which something must have an answer.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Deadline(Instant);

impl Deadline {
    pub(crate) fn after(span: Duration) -> Deadline {
        Deadline(Instant::now() + span)
    }

    pub(crate) fn later_by(self, span: Duration) -> Deadline {
        Deadline(self.0 + span)
    }

    pub(crate) fn or_later(self, instant: Instant) -> Deadline {
        Deadline(self.0.max(instant))
    }

    pub(crate) fn left(self) -> Duration {
        self.0.saturating_duration_since(Instant::now())
    }

    pub(crate) fn is_over(self) -> bool {
        self.left().is_zero()
    }

    /// `span`, or what is left if that is less.
    pub(crate) fn at_most(self, span: Duration) -> Duration {
        self.left().min(span)
    }

    pub(crate) fn instant(self) -> Instant {
        self.0
    }
}

/// Pauses that double up to a maximum, each shortened by chance so that clients do not come back together.
pub(crate) struct Backoff {
    next: Duration,
    max: Duration,
    rng: Rng,
}

impl Backoff {
    pub(crate) fn new(first: Duration, max: Duration, rng: Rng) -> Backoff {
        Backoff { next: first, max, rng }
    }

    /// Waits before the next try, not beyond `deadline`; false once that has passed.
    pub(crate) async fn pause(&mut self, deadline: Deadline) -> bool {
        let whole = self.next.as_micros() as u64;
        let span = Duration::from_micros(whole / 2 + self.rng.below(whole / 2 + 1));
        self.next = (self.next * 2).min(self.max);
        sleep(deadline.at_most(span)).await;
        !deadline.is_over()
    }
}
