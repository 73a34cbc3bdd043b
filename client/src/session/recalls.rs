//! The last recall that was handled, and what the leader is to be told with it (`control`).

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use dfs_proto::ids::InodeId;
use tokio::sync::Notify;

use crate::session::leases::Handled;
use crate::session::opens::NAMED_MAX;

/// What was handled and not told yet.
#[derive(Default)]
pub(super) struct HandledRecalls {
    last: Mutex<Option<Answering>>,
    more: Notify,
}

/// The answer to a recall, and to all before it.
pub(super) struct Answering {
    pub(super) handled: Handled,
    /// Those of the recalled files that are open.
    pub(super) open: BTreeSet<InodeId>,
}

impl HandledRecalls {
    pub(super) fn new() -> Arc<HandledRecalls> {
        Arc::default()
    }

    fn last(&self) -> MutexGuard<'_, Option<Answering>> {
        self.last.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// False: with those before it that is too much to tell.
    pub(super) fn add(&self, handled: Handled, mut open: BTreeSet<InodeId>) -> bool {
        let mut last = self.last();
        if let Some(before) = last.take().filter(|before| before.handled.attachment == handled.attachment) {
            open.extend(before.open);
        }
        let fits = open.len() <= NAMED_MAX;
        if fits {
            *last = Some(Answering { handled, open });
            self.more.notify_one();
        }
        fits
    }

    pub(super) async fn next(&self) -> Answering {
        loop {
            if let Some(answering) = self.last().take() {
                return answering;
            }
            self.more.notified().await;
        }
    }
}
