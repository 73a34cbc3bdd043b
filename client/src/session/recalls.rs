//! The last recall that was handled, until the leader is told (`control`).

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

use crate::session::leases::Handled;

/// What was handled and not told yet.
#[derive(Default)]
pub(super) struct HandledRecalls {
    last: Mutex<Option<Handled>>,
    more: Notify,
}

impl HandledRecalls {
    pub(super) fn new() -> Arc<HandledRecalls> {
        Arc::default()
    }

    fn last(&self) -> MutexGuard<'_, Option<Handled>> {
        self.last.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn add(&self, handled: Handled) {
        *self.last() = Some(handled);
        self.more.notify_one();
    }

    pub(super) async fn next(&self) -> Handled {
        loop {
            if let Some(handled) = self.last().take() {
                return handled;
            }
            self.more.notified().await;
        }
    }
}
