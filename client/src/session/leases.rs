//! What a session and the floor above tell each other: of leases on what was shown, and of what was dropped for a change.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use dfs_proto::ids::{Attachment, SessionId, WriteGrant};
use dfs_proto::meta::{Dropped, HeldWrite, Recall, WriteRecall};
use tokio::time::Instant;

/// To what a request for a lock (H2 of `held`), or for Write of a file, is bound.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Bound {
    pub(crate) session: SessionId,
    pub(crate) attachment: Attachment,
}

/// Whoever keeps the leases of a session, on the floors above.
#[derive(Clone)]
pub(crate) struct Leases {
    pub(crate) reads: Arc<dyn ReadLeases>,
    pub(crate) writes: Arc<dyn WriteLeases>,
}

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
    /// Until then caches outside of this library may use something that was recalled, or shown under an attachment that has ended. So before that
    /// no recall is answered, and neither an attachment nor the end of the session is sent.
    fn used_until(&self) -> Option<Instant>;
    /// Takes back what the leader recalls.
    fn recalled(&self, recall: &Recall) -> Taken;
}

/// Whoever keeps the Write leases of files (`data/writes`). No call waits for anything.
pub(crate) trait WriteLeases: Send + Sync + 'static {
    /// An attachment begins: grants that were asked for under an earlier one do not count (P3.5). Returns what it tells: all that
    /// is held.
    fn attaching(&self, bound: Bound) -> Vec<HeldWrite>;
    /// The leader has taken the attachment, which was sent at `sent` by CLOCK_BOOTTIME. Leases last for `term` from then on.
    /// `None`: the leader gives none.
    fn attached(&self, attachment: Attachment, sent: Duration, term: Option<Duration>);
    /// The leader has answered a heartbeat that was sent at `sent`.
    fn renewed(&self, attachment: Attachment, sent: Duration);
    /// The servers have room for what is buffered here, or may not have it.
    fn has_room(&self, has_room: bool);
    /// Notes what the leader wants back.
    fn recalled(&self, recall: &WriteRecall);
    /// The session has ended, and all that it held.
    fn session_ended(&self);
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

    /// The session wants Write of the file that the change makes, if it asks under an attachment.
    pub(crate) fn want(&mut self, write: Option<WriteGrant>) {
        if let Some(dropped) = &mut self.dropped {
            dropped.wants_write = write;
        }
    }

    /// What a commit names was written under these leases, which the leader knows under this attachment.
    pub(crate) fn write_under(&mut self, attachment: Attachment, writes: Vec<HeldWrite>) {
        let (behind, wants_write, wants_read) = (Vec::new(), None, false);
        let dropped = self.dropped.get_or_insert(Dropped {
            attachment,
            behind,
            wants_write,
            wants_read,
            writes: Vec::new(),
        });
        dropped.writes = writes;
    }

    pub(super) fn sent(&self) {
        self.was_sent.store(true, Ordering::Relaxed);
    }

    /// It may have reached a leader.
    pub(crate) fn was_sent(&self) -> bool {
        self.was_sent.load(Ordering::Relaxed)
    }
}
