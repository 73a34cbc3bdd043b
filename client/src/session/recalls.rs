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
    pub(super) fn add(&self, mut handled: Handled, mut open: BTreeSet<InodeId>) -> bool {
        let mut last = self.last();
        let before = last.as_ref().map(|before| before.handled.attachment);
        if before.is_some_and(|before| before > handled.attachment) {
            return true; // the leader waits for it no longer
        }
        if let Some(before) = last.take().filter(|_| before == Some(handled.attachment)) {
            open.extend(before.open);
            handled.number = handled.number.max(before.handled.number); // those before it are handled as well
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

#[cfg(test)]
mod tests {
    use dfs_proto::ids::Attachment;

    use super::*;

    #[tokio::test]
    async fn answers_of_one_attachment_are_told_together_and_never_in_place_of_a_later_attachments() {
        let recalls = HandledRecalls::new();
        let add = |attachment, number, inode| {
            let handled = Handled { attachment: Attachment(attachment), number };
            assert!(recalls.add(handled, BTreeSet::from([InodeId(inode)])));
        };
        add(1, 5, 10);
        add(2, 1, 11);
        add(2, 2, 12);
        add(1, 6, 13); // it was held up
        let told = recalls.next().await;
        assert_eq!((told.handled.attachment, told.handled.number), (Attachment(2), 2));
        assert_eq!(told.open, BTreeSet::from([InodeId(11), InodeId(12)]));
    }
}
