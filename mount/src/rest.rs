//! Requests of the kernel that cannot be answered at once. Handing one to the runtime as soon as it waits would wake a thread
//! only for it to wait, twice for each new file; instead it becomes a task when what it waits for has come, by whoever
//! brings that.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Wake;

use dfs_net::env::BoxFuture;
use tokio::runtime::Handle;

/// What is left of a request after its first poll, and the waker of that poll. Whoever keeps it keeps the request: it must be
/// woken in the end, by a deadline if by nothing else.
pub(crate) struct Rest {
    runtime: Handle,
    /// Held for one move, and never while the request runs or is dropped.
    state: Mutex<State>,
}

enum State {
    /// By the thread that took it from the kernel, for the first time.
    Polled,
    Waiting(BoxFuture<'static, ()>),
    Woken,
}

impl Rest {
    /// Of a request that is about to be polled.
    pub(crate) fn of(runtime: Handle) -> Arc<Rest> {
        Arc::new(Rest { runtime, state: Mutex::new(State::Polled) })
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

impl Wake for Rest {
    fn wake(self: Arc<Self>) {
        let before = std::mem::replace(&mut *self.state(), State::Woken);
        // The task polls it again at once and so takes the place of this waker.
        if let State::Waiting(call) = before {
            self.runtime.spawn(call);
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::sync::oneshot;

    use super::*;

    /// A request, and how one sees that it was finished.
    fn rest() -> (Arc<Rest>, BoxFuture<'static, ()>, oneshot::Receiver<()>) {
        let (done, finished) = oneshot::channel();
        (
            Rest::of(Handle::current()),
            Box::pin(async move { done.send(()).expect("the test waits for it") }),
            finished,
        )
    }

    #[tokio::test]
    async fn a_request_that_waits_becomes_a_task_when_it_is_woken_and_not_before() {
        let (rest, call, mut finished) = rest();
        rest.wait(call);
        tokio::task::yield_now().await;
        assert!(finished.try_recv().is_err());
        rest.clone().wake();
        finished.await.expect("it has ended");
        rest.wake(); // of a waker that is left over
    }

    #[tokio::test]
    async fn a_request_that_was_woken_during_its_first_poll_is_not_forgotten() {
        let (rest, call, finished) = rest();
        rest.clone().wake();
        rest.wait(call);
        finished.await.expect("it has ended");
    }
}
