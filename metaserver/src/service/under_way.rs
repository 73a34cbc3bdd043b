//! Changes that are being executed. When a client sends a request again, because its connection broke, the second try waits for
//! the first one instead of running beside it: a log entry without effect costs a slow disk as much as the first one, and for a
//! new volume it costs a number.
//!
//! U1  All tries that wait for the same execution get the same answer. After that this module forgets the request: only `apply`
//!     remembers answers (P8.1).
//! U2  An execution goes on while at least one try waits for it. So there are at most as many as calls in flight.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use dfs_net::env::BoxFuture;
use dfs_proto::ids::{ClusterId, RequestId, SessionId};
use dfs_proto::meta::MetaResult;
use dfs_proto::planted::{self, Bug};
use futures::FutureExt as _;
use futures::future::Shared;

use super::namespace::ChangeAnswer;

/// Which request; the session is one of that cluster.
pub(super) type Key = (ClusterId, SessionId, RequestId);
type Change = BoxFuture<'static, MetaResult<ChangeAnswer>>;

/// See the module.
#[derive(Default)]
pub(super) struct UnderWay(Mutex<HashMap<Key, Entry>>);

struct Entry {
    change: Shared<Change>,
    waiting: usize,
}

impl UnderWay {
    fn entries(&self) -> MutexGuard<'_, HashMap<Key, Entry>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The answer to the request: of the try that is under way, or of the one that begins.
    pub(super) async fn join(&self, key: Key, begin: impl FnOnce() -> Change) -> MetaResult<ChangeAnswer> {
        if planted::has(Bug::SlownessTakenForSilence) {
            return begin().await;
        }
        let change = {
            let mut entries = self.entries();
            let entry = entries.entry(key).or_insert_with(|| Entry { change: begin().shared(), waiting: 0 });
            entry.waiting += 1;
            entry.change.clone()
        };
        let _waits = Waits { under_way: self, key };
        change.await
    }
}

struct Waits<'a> {
    under_way: &'a UnderWay,
    key: Key,
}

impl Drop for Waits<'_> {
    fn drop(&mut self) {
        let mut entries = self.under_way.entries();
        let is_last = entries.get_mut(&self.key).is_some_and(|entry| {
            entry.waiting -= 1;
            entry.waiting == 0
        });
        let last = if is_last { entries.remove(&self.key) } else { None };
        drop(entries);
        drop(last); // keeps U2; not under the lock
    }
}

#[cfg(test)]
mod tests {
    use dfs_proto::meta::Changed;
    use dfs_state::command::Answered;
    use tokio::sync::oneshot;

    use super::*;

    const KEY: Key = (ClusterId(7), SessionId(1), RequestId(9));

    fn done() -> MetaResult<ChangeAnswer> {
        let answered = Answered { changed: Changed::Done, directories: Vec::new() };
        Ok(ChangeAnswer { answered, writes: false, leased: Vec::new() })
    }

    fn never() -> Change {
        panic!("it is under way")
    }

    #[tokio::test]
    async fn a_request_that_is_sent_again_joins_the_one_under_way_and_outlives_it() {
        let under_way = UnderWay::default();
        let (answer, answered) = oneshot::channel();
        let first = under_way.join(KEY, || Box::pin(async { answered.await.expect("it is answered") }));
        let mut first = Box::pin(first);
        assert!(futures::poll!(&mut first).is_pending());
        let mut again = Box::pin(under_way.join(KEY, never));
        assert!(futures::poll!(&mut again).is_pending());
        drop(first); // its connection broke
        let mut third = Box::pin(under_way.join(KEY, never));
        assert!(futures::poll!(&mut third).is_pending());
        let other = (KEY.0, KEY.1, RequestId(10));
        assert_eq!(under_way.join(other, || Box::pin(async { done() })).await, done());
        answer.send(done()).expect("somebody waits");
        assert_eq!((again.await, third.await), (done(), done()));
        assert!(under_way.entries().is_empty());
    }

    #[tokio::test]
    async fn what_nobody_waits_for_any_more_is_dropped() {
        let under_way = UnderWay::default();
        let (answer, answered) = oneshot::channel::<MetaResult<ChangeAnswer>>();
        let mut only = Box::pin(under_way.join(KEY, || Box::pin(async { answered.await.expect("never") })));
        assert!(futures::poll!(&mut only).is_pending());
        drop(only);
        assert!(answer.is_closed() && under_way.entries().is_empty());
    }
}
