//! What a session tells the floor above of its leases on what it was shown, and of its changes.

use std::time::Duration;

use dfs_proto::ids::{Attachment, RequestId, SessionId};
use dfs_proto::meta::Recall;

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
    /// Takes back what the leader recalls. `None`: the recall is not of this attachment.
    fn recalled(&self, recall: &Recall) -> Option<Handled>;
    /// Nothing that was sent under sessions before this one happens any more.
    fn session_replaced(&self, session: SessionId);
}

/// This recall was handled, and all before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Handled {
    pub(crate) attachment: Attachment,
    pub(crate) number: u64,
}

/// How a change was sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SentAs {
    pub(crate) session: SessionId,
    pub(crate) request: RequestId,
    /// Once this change was executed, no earlier request of its lane happens any more (P8.1).
    pub(crate) answered_below: RequestId,
}
