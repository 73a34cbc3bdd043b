//! Requests of the kernel that cannot be answered at once.
//!
//! If such a request became a task as soon as it had to wait, the runtime would wake a thread only for that task to
//! wait again, twice for each new file. So it becomes a task only when it is woken, by the thread that brings what it
//! waits for.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Wake;

use dfs_proto::env::BoxFuture;
use tokio::runtime::Handle;

/// A request after its first poll, and the waker of that poll. The waker keeps the request, so it must be woken in
/// the end, by a deadline if by nothing else.
pub(crate) struct Deferred {
    runtime: Handle,
    /// Held for one move, and never while the request runs or is dropped.
    state: Mutex<State>,
}

enum State {
    /// The thread that took the request from the kernel is polling it for the first time.
    Polled,
    /// The request waits for its waker.
    Waiting(BoxFuture<'static, ()>),
    /// The request was woken: it is a task, or becomes one at the end of its first poll.
    Woken,
}

impl Deferred {
    /// For a request that is about to be polled.
    pub(crate) fn of(runtime: Handle) -> Arc<Deferred> {
        Arc::new(Deferred { runtime, state: Mutex::new(State::Polled) })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// `call` was polled once and is not ready; it may have been woken since.
    pub(crate) fn wait(&self, call: BoxFuture<'static, ()>) {
        let mut state = self.state();
        if matches!(*state, State::Polled) {
            *state = State::Waiting(call);
        } else {
            drop(state);
            self.runtime.spawn(call);
        }
    }
}

impl Wake for Deferred {
    fn wake(self: Arc<Self>) {
        let before = std::mem::replace(&mut *self.state(), State::Woken);
        // The task polls the request again at once, with a waker of its own.
        if let State::Waiting(call) = before {
            self.runtime.spawn(call);
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::sync::oneshot;

    use super::*;

    /// A request, and a receiver that is ready when the request has ended.
    fn deferred() -> (Arc<Deferred>, BoxFuture<'static, ()>, oneshot::Receiver<()>) {
        let (done, finished) = oneshot::channel();
        (
            Deferred::of(Handle::current()),
            Box::pin(async move { done.send(()).expect("the test waits for it") }),
            finished,
        )
    }

    #[tokio::test]
    async fn a_request_that_waits_becomes_a_task_when_it_is_woken_and_not_before() {
        let (deferred, call, mut finished) = deferred();
        deferred.wait(call);
        tokio::task::yield_now().await;
        assert!(finished.try_recv().is_err());
        deferred.clone().wake();
        finished.await.expect("it has ended");
        deferred.wake(); // of a waker that is left over
    }

    #[tokio::test]
    async fn a_request_that_was_woken_during_its_first_poll_is_not_forgotten() {
        let (deferred, call, finished) = deferred();
        deferred.clone().wake();
        deferred.wait(call);
        finished.await.expect("it has ended");
    }
}
