//! What a session and the floor above tell each other: of leases on what was shown, and of what was dropped for a change.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use dfs_proto::ids::Attachment;
use dfs_proto::meta::{Dropped, Recall};

/// Whoever keeps what was shown under leases (`names/copy`). No call waits for anything. Those that name another attachment than
/// the last one that was begun do nothing.
pub(crate) trait ReadLeases: Send + Sync + 'static {
    /// An attachment begins: the leases of all before it are void (P3.5).
    fn attaching(&self, attachment: Attachment);
    /// The leader has taken the attachment, which was sent at `sent` by CLOCK_BOOTTIME. Leases last for `term` from then on; zero:
    /// the leader gives none.
    fn attached(&self, attachment: Attachment, sent: Duration, term: Duration);
    /// The attachment has ended.
    fn detached(&self, attachment: Attachment);
    /// The leader has answered a heartbeat that was sent at `sent`, and had recalled so many times by then.
    fn renewed(&self, attachment: Attachment, sent: Duration, recalls: u64);
    /// Takes back what the leader recalls.
    fn recalled(&self, recall: &Recall) -> Taken;
}

/// What has become of a recall.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Taken {
    /// It is of another attachment, or was handled before.
    Old,
    Handled(Handled),
    /// One before it is missing.
    Gap,
}

/// This recall was handled, and all before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Handled {
    pub(crate) attachment: Attachment,
    pub(crate) number: u64,
}

/// How a change is sent.
#[derive(Debug, Default)]
pub(crate) struct Sending {
    /// What was dropped before. `None`: under no attachment.
    pub(crate) dropped: Option<Dropped>,
    was_sent: AtomicBool,
}

impl Sending {
    pub(crate) fn after(dropped: Option<Dropped>) -> Sending {
        Sending { dropped, was_sent: AtomicBool::new(false) }
    }

    pub(super) fn sent(&self) {
        self.was_sent.store(true, Ordering::Relaxed);
    }

    /// It may have reached a leader.
    pub(crate) fn was_sent(&self) -> bool {
        self.was_sent.load(Ordering::Relaxed)
    }
}
