//! What outlives the caller of a change: it ends when the command is applied, or cannot be applied any more.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use dfs_proto::attr::InodeAttr;
use dfs_proto::error::MetaError;
use dfs_proto::ids::{Attachment, InodeId, SessionId};
use dfs_proto::meta::{Changed, MetaResult};
use tokio::runtime::Handle;
use tokio::time::sleep;

use super::executed::Executed;
use super::leases::{Frozen, ShownByChange};
use super::opens::Removing;
use crate::raft::Consensus;
use dfs_state::command::{Answered, Command, Reply};

/// Between two looks at commands whose outcome is not known.
const LAND_EVERY: Duration = Duration::from_millis(200);

/// What is kept of a change: that it takes last names (OP3), and that nothing is granted on what it touches (P4.1).
#[derive(Default)]
pub(super) struct Kept {
    pub(super) removing: Vec<Removing>,
    /// Dropping it thaws.
    pub(super) frozen: Option<Frozen>,
    /// Who is granted what the answer shows.
    pub(super) asker: Option<(SessionId, Attachment)>,
}

impl Kept {
    /// The change was applied, and this was answered.
    fn grant(&self, reply: &Reply) -> Vec<InodeId> {
        match (&self.frozen, self.asker, reply) {
            (Some(frozen), Some(asker), Reply::Changed(Ok(answered))) => frozen.grant(asker, shown(answered)),
            _ => Vec::new(),
        }
    }
}

/// What may be leased of it: not what has no name (`dfs_state::leasable`).
fn shown(answered: &Answered) -> ShownByChange {
    let may_be_leased = |attr: &&InodeAttr| attr.nlink > 0;
    let made = match &answered.changed {
        Changed::Inode { attr, existed: false, .. } => Some(attr),
        _ => None,
    };
    ShownByChange {
        directories: answered.directories.iter().filter(may_be_leased).map(|attr| attr.inode).collect(),
        made: made.filter(may_be_leased).map(|attr| attr.inode),
    }
}

/// Keeps it until the command of a change is applied, or cannot be applied any more: also when its caller gives up, or is told that
/// it may still happen.
pub(super) struct Landing {
    consensus: Consensus,
    landings: Arc<Landings>,
    term: u64,
    kept: Option<Kept>,
}

/// What is kept of changes whose outcome nobody knows, and of which terms: one task looks after all of it.
#[derive(Default)]
pub(super) struct Landings(Mutex<Unknown>);

#[derive(Default)]
struct Unknown {
    kept: Vec<(u64, Kept)>,
    has_task: bool,
}

impl Landing {
    /// Of a change that is about to be sent in this term.
    pub(super) fn new(consensus: Consensus, landings: Arc<Landings>, term: u64, kept: Kept) -> Landing {
        Landing { consensus, landings, term, kept: Some(kept) }
    }

    /// `sent`: the answer to its command.
    pub(super) async fn answered_by(
        mut self,
        sent: impl Future<Output = MetaResult<Reply>>,
    ) -> MetaResult<Executed> {
        let result = sent.await;
        let mut leased = Vec::new();
        if matches!(result, Ok(_) | Err(MetaError::InvalidArgument { .. })) {
            let kept = self.kept.take(); // applied, or never proposed
            if let (Some(kept), Ok(reply)) = (&kept, &result) {
                leased = kept.grant(reply);
            }
        }
        result.map(|reply| Executed { reply, writes: false, leased })
    }
}

impl Drop for Landing {
    fn drop(&mut self) {
        let Some(kept) = self.kept.take() else { return };
        let Ok(runtime) = Handle::try_current() else { return };
        let mut unknown = self.landings.unknown();
        unknown.kept.push((self.term, kept));
        if !std::mem::replace(&mut unknown.has_task, true) {
            runtime.spawn(self.landings.clone().land(self.consensus.clone()));
        }
    }
}

impl Landings {
    fn unknown(&self) -> MutexGuard<'_, Unknown> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn land(self: Arc<Landings>, consensus: Consensus) {
        loop {
            let kept = {
                let mut unknown = self.unknown();
                unknown.has_task = !unknown.kept.is_empty();
                std::mem::take(&mut unknown.kept)
            };
            // In earlier terms than the last one this member leads no longer.
            let Some(term) = kept.iter().map(|(term, _)| *term).max() else { return };
            has_landed(&consensus, term).await;
            drop(kept);
        }
    }
}

/// Returns when a command that was proposed in `term` before this call is applied, or this member leads in it no longer: what it
/// reads in a later one contains all that earlier ones have left. Commands are applied in the order of their proposals.
async fn has_landed(consensus: &Consensus, term: u64) {
    let nothing = Command::ReleaseFor { session: SessionId(0), inodes: Vec::new() };
    loop {
        let leads = {
            let leadership = consensus.leadership();
            let leadership = leadership.borrow();
            leadership.is_leader && leadership.term == term
        };
        if !leads || consensus.propose_in(term, nothing.clone()).await.is_ok() {
            return;
        }
        sleep(LAND_EVERY).await;
    }
}
