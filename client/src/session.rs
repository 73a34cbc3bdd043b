//! One session at a time: its numbers, its window of requests, and what comes after it when the cluster ends it.
//!
//! S1  At most [`REQUEST_WINDOW`] request ids lie between the oldest request without an answer and the newest, so that
//!     the server remembers the result of each that may be sent again (P8.1).
//! S2  A request id is given up (counted as answered) only when nobody will send it again.
//! S3  A session that has ended is never used again. Whatever belonged to it (unflushed bytes, open chunks, commit
//!     numbers) carries its number and is dropped when next touched (P3.1).

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use dfs_proto::ids::{RequestId, SessionId};
use dfs_proto::meta::SessionOpened;
use dfs_proto::units::REQUEST_WINDOW;
use tokio::sync::Notify;

/// The ids in use: pure arithmetic of S1.
#[derive(Debug)]
struct Window {
    next: u64,
    unanswered: BTreeSet<u64>,
}

impl Window {
    fn new() -> Window {
        Window { next: 1, unanswered: BTreeSet::new() }
    }

    /// `None` while the oldest request without an answer is a whole window behind.
    fn begin(&mut self) -> Option<RequestId> {
        if self.next >= self.answered_below().0 + REQUEST_WINDOW {
            return None; // keeps S1
        }
        let id = self.next;
        self.next += 1;
        self.unanswered.insert(id);
        Some(RequestId(id))
    }

    fn answered_below(&self) -> RequestId {
        RequestId(self.unanswered.first().copied().unwrap_or(self.next))
    }

    fn end(&mut self, id: RequestId) {
        self.unanswered.remove(&id.0);
    }
}

/// What the cluster gave, and the requests made under it.
pub(crate) struct Session {
    pub(crate) opened: SessionOpened,
    window: Mutex<Window>,
    moved: Notify,
}

/// A request id in use, until it is dropped: with the answer, or when the request is given up (S2).
pub(crate) struct Ticket {
    session: Arc<Session>,
    pub(crate) id: RequestId,
}

impl Session {
    pub(crate) fn new(opened: SessionOpened) -> Arc<Session> {
        Arc::new(Session { opened, window: Mutex::new(Window::new()), moved: Notify::new() })
    }

    pub(crate) fn id(&self) -> SessionId {
        self.opened.session
    }

    fn window(&self) -> MutexGuard<'_, Window> {
        self.window.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits while the window is full.
    pub(crate) async fn begin(self: &Arc<Session>) -> Ticket {
        loop {
            let moved = self.moved.notified();
            if let Some(id) = self.window().begin() {
                return Ticket { session: self.clone(), id };
            }
            moved.await;
        }
    }

    pub(crate) fn answered_below(&self) -> RequestId {
        self.window().answered_below()
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        self.session.window().end(self.id);
        self.session.moved.notify_waiters();
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_request_without_an_answer_holds_the_window_back() {
        let mut window = Window::new();
        let first = window.begin().unwrap();
        for _ in 1..REQUEST_WINDOW {
            let id = window.begin().unwrap();
            window.end(id);
        }
        assert_eq!(window.begin(), None);
        assert_eq!(window.answered_below(), first);
        window.end(first);
        assert_eq!(window.begin(), Some(RequestId(REQUEST_WINDOW + 1)));
    }

    proptest! {
        #[test]
        fn ids_are_never_reused_and_never_leave_the_window(
            steps in prop::collection::vec((any::<bool>(), 0usize..300), 1..2000)
        ) {
            let mut window = Window::new();
            let mut open: Vec<RequestId> = Vec::new();
            let mut highest = 0;
            for (begins, index) in steps {
                if begins {
                    if let Some(id) = window.begin() {
                        prop_assert!(id.0 > highest);
                        highest = id.0;
                        open.push(id);
                    }
                } else if !open.is_empty() {
                    let id = open.swap_remove(index % open.len());
                    window.end(id);
                }
                let oldest = open.iter().map(|id| id.0).min().unwrap_or(highest + 1);
                prop_assert_eq!(window.answered_below().0, oldest);
                prop_assert!(highest < oldest + REQUEST_WINDOW);
            }
        }
    }
}
