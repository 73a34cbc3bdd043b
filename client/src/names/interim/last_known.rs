//! V9: the root directory's attributes and the space are answered as they were last known while no metaserver of that cluster
//! answers.
//!
//! `umount` asks for both before it unmounts. So a mount whose servers are all dead could otherwise not be ended before the
//! metadata deadline (promise 7). Only these two are answered so; a caller that asks for anything else waits.

use std::future::Future;
use std::pin::pin;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::{Instant, timeout};

use crate::error::{ClientError, Result};

/// How long a caller waits for a fresh answer: longer than an election usually takes, short enough for `umount`.
const ANSWER_MAX: Duration = Duration::from_secs(3);
/// How long a caller waits when one before it has waited for [`ANSWER_MAX`] in vain.
const ANSWER_MAX_WHILE_AWAY: Duration = Duration::from_millis(50);
/// In each of these intervals one caller waits for [`ANSWER_MAX`] again. So what is answered is never much older, also where
/// every answer takes longer than [`ANSWER_MAX_WHILE_AWAY`].
const RETRY_INTERVAL: Duration = Duration::from_secs(1);

/// A value as it was last answered. The lock is held for one copy and never with another.
pub struct LastKnown<T> {
    value: Mutex<Option<T>>,
    /// When a caller last waited for [`ANSWER_MAX`] in vain, or began to. `None` since a fresh answer came.
    away_since: Mutex<Option<Instant>>,
}

impl<T> Default for LastKnown<T> {
    fn default() -> LastKnown<T> {
        LastKnown { value: Mutex::new(None), away_since: Mutex::new(None) }
    }
}

impl<T: Clone> LastKnown<T> {
    /// The fresh answer if it comes in time or if no value is known, else the value that is known.
    pub async fn or(&self, fresh: impl Future<Output = Result<T>>) -> Result<T> {
        let mut fresh = pin!(fresh);
        let answer_max = self.answer_max(Instant::now());
        let answer = match timeout(answer_max, &mut fresh).await {
            Ok(answer) => answer,
            Err(_) => {
                if answer_max == ANSWER_MAX {
                    *lock(&self.away_since) = Some(Instant::now());
                }
                match self.get() {
                    Some(known) => return Ok(known),
                    None => fresh.await,
                }
            }
        };
        match answer {
            Ok(value) => {
                *lock(&self.away_since) = None;
                *lock(&self.value) = Some(value.clone());
                Ok(value)
            }
            Err(error @ ClientError::Unavailable { .. }) => self.get().ok_or(error),
            Err(error) => Err(error),
        }
    }

    fn answer_max(&self, now: Instant) -> Duration {
        let mut away_since = lock(&self.away_since);
        match *away_since {
            Some(since) if now.duration_since(since) < RETRY_INTERVAL => ANSWER_MAX_WHILE_AWAY,
            Some(_) => {
                *away_since = Some(now); // callers that come meanwhile wait only for the shorter time
                ANSWER_MAX
            }
            None => ANSWER_MAX,
        }
    }

    fn get(&self) -> Option<T> {
        lock(&self.value).clone()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::future::{pending, ready};

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn what_is_known_is_answered_only_when_nothing_fresh_comes() {
        let known = LastKnown::default();
        assert_eq!(known.or(ready(Ok(1))).await.unwrap(), 1);
        assert_eq!(known.or(ready(Ok(2))).await.unwrap(), 2);
        let start = Instant::now();
        assert_eq!(known.or(pending()).await.unwrap(), 2);
        assert!(start.elapsed() >= ANSWER_MAX);
    }

    #[tokio::test(start_paused = true)]
    async fn the_second_in_an_outage_does_not_wait_as_long_and_a_fresh_answer_ends_it() {
        let known = LastKnown::default();
        assert_eq!(known.or(ready(Ok(1))).await.unwrap(), 1);
        known.or(pending()).await.unwrap();
        let start = Instant::now();
        known.or(pending()).await.unwrap();
        assert!(start.elapsed() < ANSWER_MAX);
        assert_eq!(known.or(ready(Ok(2))).await.unwrap(), 2);
        let start = Instant::now();
        assert_eq!(known.or(pending()).await.unwrap(), 2);
        assert!(start.elapsed() >= ANSWER_MAX);
    }

    #[tokio::test(start_paused = true)]
    async fn where_every_answer_is_slow_a_fresh_one_is_waited_for_again_after_a_second() {
        let known = LastKnown::default();
        let slow = |value| async move {
            tokio::time::sleep(2 * ANSWER_MAX_WHILE_AWAY).await;
            Ok(value)
        };
        assert_eq!(known.or(ready(Ok(1))).await.unwrap(), 1);
        known.or(pending()).await.unwrap();
        assert_eq!(known.or(slow(2)).await.unwrap(), 1, "the one before has just been waited for in vain");
        tokio::time::sleep(RETRY_INTERVAL).await;
        assert_eq!(known.or(slow(3)).await.unwrap(), 3);
    }

    #[tokio::test(start_paused = true)]
    async fn a_refusal_and_an_answer_without_anything_known_are_passed_on() {
        let known = LastKnown::default();
        let late = async {
            tokio::time::sleep(2 * ANSWER_MAX).await;
            Ok(7)
        };
        assert_eq!(known.or(late).await.unwrap(), 7);
        let away = ClientError::Unavailable { what: "the cluster is away".to_owned() };
        assert_eq!(known.or(ready(Err(away))).await.unwrap(), 7);
        assert_eq!(known.or(ready(Err(ClientError::Stale))).await, Err(ClientError::Stale));
    }
}
