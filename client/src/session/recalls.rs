//! The leader is told which recalls were handled: one call at a time, with the highest number.
//!
//! A call that fails is not repeated: the leader waits no longer than the leases last, and the next recall tells of this one, too.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use dfs_proto::meta::RecallsDone;
use tokio::sync::Notify;

use crate::session::leases::Handled;
use crate::session::meta::MetaClient;

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

    async fn next(&self) -> Handled {
        loop {
            if let Some(handled) = self.last().take() {
                return handled;
            }
            self.more.notified().await;
        }
    }
}

impl MetaClient {
    /// Tells the leader of recalls that were handled, for ever.
    pub(crate) async fn run_recalls(&self) {
        loop {
            let Handled { attachment, number } = self.recalls.next().await;
            let session = self.session();
            let (cluster, session) = (session.opened.cluster, session.id());
            let done = RecallsDone { cluster, session, attachment, number };
            if let Err(error) = self.calls.recalled(done, self.control_timeout()).await {
                tracing::debug!(%error, number, "tell the leader that recalls were handled");
            }
        }
    }
}
