//! A change of what may be leased (P4.1):
//!
//!     resolve its names → freeze → recall what others hold → propose with what was found behind the names → applied → thaw
//!
//! CH1  Nobody else uses what the change alters from before it is proposed until it is applied: nothing is granted on it meanwhile, and
//!      what was granted is recalled first.
//! CH2  The freeze outlives the caller (`landing`). A change is proposed in the term in which it was frozen, or not at all.
//! CH3  `apply` refuses, without a trace, a change that would alter another inode behind a name than was found. It is frozen and
//!      recalled anew then.
//! CH4  A new leader executes no such change before all that earlier leaders granted has ended (P3.6; `awaited`).

use dfs_proto::attr::FileKind;
use dfs_proto::error::MetaError;
use dfs_proto::ids::{InodeId, SessionId};
use dfs_proto::meta::MetaResult;
use dfs_proto::planted::{self, Bug};
use dfs_proto::scope::{self, Scope};

use super::gate::Gate;
use super::landing::{Kept, Landing};
use super::leases::{Frozen, Touched};
use super::opens;
use dfs_state::command::{Command, Reply};
use dfs_state::kv::Snapshot;
use dfs_state::read::{self, Behind};

/// A name that changes at each look is used by many at once: their clients ask again.
const LOOKS_MAX: usize = 4;

impl Gate {
    /// A part of [`Gate::change`]: for a command that touches inodes.
    pub(super) async fn change_inodes(
        &self,
        term: u64,
        scope: &Scope,
        command: Command,
    ) -> MetaResult<Reply> {
        self.earlier_leases_have_ended(term).await?; // keeps CH4
        let by = command.asked_by();
        let reply = match scope.behind.values().all(|behind| *behind == scope::Behind::Shown) {
            true => self.change_known_inodes(term, scope, command).await?,
            false => self.change_names(term, scope, command).await?,
        };
        if planted::has(Bug::RecallsAfterApply) {
            let late = self.leases.freeze(term, scope.inodes.iter().copied().collect())?;
            self.recall(&late, scope, by).await;
        }
        Ok(reply)
    }

    /// None of them is found through a name.
    async fn change_known_inodes(&self, term: u64, scope: &Scope, command: Command) -> MetaResult<Reply> {
        let frozen = self.freeze(term, scope, &[], command.asked_by()).await?;
        match &command {
            Command::Change { request, .. } if opens::opens_new(&request.change) => {
                self.create_open(term, frozen, command).await
            }
            _ => self.send_frozen(term, frozen, command).await,
        }
    }

    pub(super) async fn send_frozen(&self, term: u64, frozen: Frozen, command: Command) -> MetaResult<Reply> {
        let kept = Kept { frozen: Some(frozen), removing: Vec::new() };
        Landing::of(self, term, kept).of_command(self, command).await // keeps CH2
    }

    async fn change_names(&self, term: u64, scope: &Scope, command: Command) -> MetaResult<Reply> {
        let Command::Change { request, placement, volumes, .. } = command else {
            return Err(MetaError::Internal {
                what: "only a request alters what is behind a name".to_owned(),
            });
        };
        let look = || self.local(|state| read::behind(state, &request.change));
        let with = |named| {
            let (request, placement, volumes) = (request.clone(), placement.clone(), volumes.clone());
            Command::Change { request, placement, volumes, named: Some(named) }
        };
        let mut behind = look();
        for _ in 0..LOOKS_MAX {
            let frozen = self.freeze(term, scope, &behind, Some(request.session)).await?;
            let reply = self.take_names(term, frozen, &behind, with).await?;
            if !matches!(reply, Reply::Refused(MetaError::Undecided { .. })) {
                return Ok(reply);
            }
            let before = std::mem::replace(&mut behind, look()); // keeps CH3
            if behind == before {
                return Ok(reply); // for another reason
            }
        }
        Err(MetaError::Undecided { what: "the name leads to another inode at each look".to_owned() })
    }

    /// Keeps CH1.
    async fn freeze(
        &self,
        term: u64,
        scope: &Scope,
        behind: &[Behind],
        by: Option<SessionId>,
    ) -> MetaResult<Frozen> {
        let inodes = scope.inodes.iter().copied().chain(behind.iter().map(|behind| behind.inode));
        let frozen = self.leases.freeze(term, inodes.collect())?;
        if !planted::has(Bug::RecallsAfterApply) {
            self.recall(&frozen, scope, by).await;
        }
        Ok(frozen)
    }

    async fn recall(&self, frozen: &Frozen, scope: &Scope, by: Option<SessionId>) {
        let held = frozen.held_by_others(by);
        if !held.is_empty() {
            // Who was granted it has been shown it: this member has applied what made it, and the kind of an inode stays.
            let touched =
                self.local(|state| held.iter().map(|inode| touched(state, scope, *inode)).collect());
            frozen.recall(touched, by).await;
        }
    }
}

/// What the change alters of this inode: names, if it is a directory.
fn touched(state: &dyn Snapshot, scope: &Scope, inode: InodeId) -> Touched {
    let is_directory = read::getattr(state, inode).is_ok_and(|attr| attr.kind == FileKind::Directory);
    let names = scope.names.range((inode, Vec::new())..).take_while(|(directory, _)| *directory == inode);
    let mut names: Vec<Vec<u8>> = names.map(|(_, name)| name.clone()).collect();
    if is_directory && !scope.inodes.contains(&inode) {
        names.push(b"..".to_vec()); // it may be moved
    }
    Touched { inode, is_directory, names }
}
