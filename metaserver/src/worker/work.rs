//! What each kind of background work says of itself.

use dfs_proto::scope::Unleased;
use tokio::time::Instant;

use super::budget::Budget;
use crate::coherence::opens::Opens;
use crate::coherence::{Attachments, Leases};
use crate::metaserver::Metaserver;
use crate::sessions::Sessions;
use crate::view::View;
use dfs_state::command::Command;
use dfs_state::kv::Snapshot;

/// One kind of background work.
pub(super) trait Work: Sync {
    fn budget(&self) -> Budget;

    /// The records that decide.
    fn records(&self) -> Unleased;

    /// What is to be done now; nothing costs no entry of the log.
    fn plan(&self, state: &dyn Snapshot, learned: &Learned<'_>) -> Vec<Command>;

    /// The command is about to be executed, if it is still due.
    fn begin(&self, _command: &Command, _metaserver: &Metaserver) {}

    /// The command is proposed now.
    fn sent(&self, _command: &Command, _metaserver: &Metaserver) {}

    /// It was no longer due.
    fn spare(&self, _command: &Command, _metaserver: &Metaserver) {}

    /// Asked right before a planned command is executed, which may be a while after it was planned.
    fn is_still_due(&self, _command: &Command, _learned: &Learned<'_>) -> bool {
        true
    }

    /// The command was executed.
    fn done(&self, _command: &Command, _metaserver: &Metaserver) {}
}

/// What a plan goes by beside the replicated state.
pub(super) struct Learned<'m> {
    pub(super) now: Instant,
    pub(super) view: &'m View,
    pub(super) sessions: &'m Sessions,
    pub(super) opens: &'m Opens,
    pub(super) attachments: &'m Attachments,
    pub(super) leases: &'m Leases,
}

impl Learned<'_> {
    pub(super) fn now(metaserver: &Metaserver) -> Learned<'_> {
        let gate = &metaserver.gate;
        Learned {
            now: Instant::now(),
            view: &gate.view,
            sessions: &gate.sessions,
            opens: &gate.opens,
            attachments: &gate.attachments,
            leases: &gate.leases,
        }
    }
}
