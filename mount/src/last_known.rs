//! The root's attributes and the space, as they were last known: answered while no metaserver of its cluster answers.
//!
//! `umount` asks for both before it unmounts, so a mount whose servers are all dead could otherwise not be ended before
//! the metadata deadline (promise 7). Only these two are treated so; whoever asks for anything else waits.

use std::future::Future;
use std::pin::pin;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::{Instant, timeout};

use crate::error::FsResult;

/// So long a fresh answer is waited for: longer than an election usually takes, short enough for `umount`.
const PATIENCE: Duration = Duration::from_secs(3);
/// And so long when one before was waited for in vain,
const PATIENCE_WHILE_AWAY: Duration = Duration::from_millis(50);
/// but for one in each of these: so what is shown is never much older where every answer takes more than those 50 ms.
const TRY_AGAIN_AFTER: Duration = Duration::from_secs(1);

/// The lock is held for one copy and never with another.
pub(crate) struct LastKnown<T> {
    value: Mutex<Option<T>>,
    /// When somebody last waited with all patience in vain, or began to; `None` since a fresh answer came.
    away_since: Mutex<Option<Instant>>,
}

impl<T: Clone> LastKnown<T> {
    pub(crate) fn new() -> LastKnown<T> {
        LastKnown { value: Mutex::new(None), away_since: Mutex::new(None) }
    }

    /// The fresh answer if it comes soon or nothing is known, else what is known.
    pub(crate) async fn or(&self, fresh: impl Future<Output = FsResult<T>>) -> FsResult<T> {
        let mut fresh = pin!(fresh);
        let patience = self.patience(Instant::now());
        let answer = match timeout(patience, &mut fresh).await {
            Ok(answer) => answer,
            Err(_) => {
                if patience == PATIENCE {
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
            Err(error) if error.is_unanswered() => self.get().ok_or(error),
            Err(error) => Err(error),
        }
    }

    fn patience(&self, now: Instant) -> Duration {
        let mut away_since = lock(&self.away_since);
        match *away_since {
            Some(since) if now.duration_since(since) < TRY_AGAIN_AFTER => PATIENCE_WHILE_AWAY,
            Some(_) => {
                *away_since = Some(now); // those beside this one do not wait as long
                PATIENCE
            }
            None => PATIENCE,
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

    use dfs_client::ClientError;

    use super::*;
    use crate::error::FsError;

    #[tokio::test(start_paused = true)]
    async fn what_is_known_is_answered_only_when_nothing_fresh_comes() {
        let known = LastKnown::new();
        assert_eq!(known.or(ready(Ok(1))).await.unwrap(), 1);
        assert_eq!(known.or(ready(Ok(2))).await.unwrap(), 2);
        let start = Instant::now();
        assert_eq!(known.or(pending()).await.unwrap(), 2);
        assert!(start.elapsed() >= PATIENCE);
    }

    #[tokio::test(start_paused = true)]
    async fn the_second_in_an_outage_does_not_wait_as_long_and_a_fresh_answer_ends_it() {
        let known = LastKnown::new();
        assert_eq!(known.or(ready(Ok(1))).await.unwrap(), 1);
        known.or(pending()).await.unwrap();
        let start = Instant::now();
        known.or(pending()).await.unwrap();
        assert!(start.elapsed() < PATIENCE);
        assert_eq!(known.or(ready(Ok(2))).await.unwrap(), 2);
        let start = Instant::now();
        assert_eq!(known.or(pending()).await.unwrap(), 2);
        assert!(start.elapsed() >= PATIENCE);
    }

    #[tokio::test(start_paused = true)]
    async fn where_every_answer_is_slow_a_fresh_one_is_waited_for_again_after_a_second() {
        let known = LastKnown::new();
        let slow = |value| async move {
            tokio::time::sleep(2 * PATIENCE_WHILE_AWAY).await;
            Ok(value)
        };
        assert_eq!(known.or(ready(Ok(1))).await.unwrap(), 1);
        known.or(pending()).await.unwrap();
        assert_eq!(known.or(slow(2)).await.unwrap(), 1, "the one before has just been waited for in vain");
        tokio::time::sleep(TRY_AGAIN_AFTER).await;
        assert_eq!(known.or(slow(3)).await.unwrap(), 3);
    }

    #[tokio::test(start_paused = true)]
    async fn a_refusal_and_an_answer_without_anything_known_are_passed_on() {
        let known = LastKnown::new();
        let late = async {
            tokio::time::sleep(2 * PATIENCE).await;
            Ok(7)
        };
        assert_eq!(known.or(late).await.unwrap(), 7);
        let away = FsError::Client(ClientError::Unavailable { what: "the cluster is away".to_owned() });
        assert_eq!(known.or(ready(Err(away))).await.unwrap(), 7);
        assert!(matches!(known.or(ready(Err(FsError::BadName))).await, Err(FsError::BadName)));
    }
}
