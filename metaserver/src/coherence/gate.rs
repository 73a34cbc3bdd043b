//! The only way to consensus. Every change passes [`Gate::change`], every read [`Gate::read`] with what its answer shows (P4.4):
//! these are the places where holders of leases are registered ([`Gate::read_for`]), and leases recalled (`changes`, `writes`).
//!
//! G1  Nothing else in this crate calls `propose` or `read` of [`Consensus`], but `landing`; `tests/tests/tidy/main.rs` searches for it.
//!     [`Gate::local`] is for answers that may be old, on which no client acts: status pages, times that the state has
//!     certainly reached (`worker::delete`), and guesses that `apply` compares (`changes`).
//! G2  What is being changed is noted, then the leader's lease is checked, then the state is read, then a holder is registered of what
//!     has not been changed since (P4.3, P7.5).
//! G3  The soft state (`view`, `sessions`, `opens`, `attachments`, `leases`) has entered the leader's term before anyone looks at it.
//! G4  When no read was confirmed for [`UNHEARD_MAX`], there was no quorum or this process did not run, and nobody could be
//!     heard either. Then the soft state begins anew, as after an election (P10.2, P3.1). A leader reads every 250 ms on its
//!     own (`worker::seal`).

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use dfs_proto::error::MetaError;
use dfs_proto::ids::ClusterId;
use dfs_proto::meta::{Change, Dropped, MetaResult};
use dfs_proto::planted::{self, Bug};
use dfs_proto::scope::{Scope, Unleased};
use tokio::time::Instant;

use super::attachments::Attachments;
use super::executed::Executed;
use super::landing::{Kept, Landing, Landings};
use super::leases::{Leases, RecallCounts, led_by_another};
use super::opens::Opens;
use super::soft::BeginsAnew;
use crate::raft::Consensus;
use crate::sessions::Sessions;
use crate::view::View;
use dfs_state::command::{Command, Reply};
use dfs_state::kv::{Snapshot, Txn};

/// G4. Below the time after which a silent chunkserver counts as away.
const UNHEARD_MAX: Duration = Duration::from_secs(1);

pub(crate) struct Gate {
    consensus: Consensus,
    /// The term and time of the newest read that a quorum confirmed.
    last_read: Mutex<(u64, Instant)>,
    pub(crate) leases: Arc<Leases>,
    landings: Arc<Landings>,
    pub(super) looks_who_is_awaited: tokio::sync::Mutex<()>,
    /// Held while silences are noted, until their outcome is known or given up: what takes a note back is behind it in the log (SS4
    /// of `sessions`).
    pub(crate) notes_silences: tokio::sync::Mutex<()>,
    pub(crate) opens: Arc<Opens>,
    pub(crate) view: View,
    pub(crate) sessions: Sessions,
    pub(crate) attachments: Attachments,
}

impl Gate {
    pub(crate) fn new(
        consensus: Consensus,
        view: View,
        sessions: Sessions,
        attachments: Attachments,
        recalls: RecallCounts,
    ) -> Gate {
        let now = Instant::now();
        let (opens, leases) = (Arc::new(Opens::new(now)), Arc::new(Leases::new(recalls, now)));
        let (last_read, landings) = (Mutex::new((0, now)), Arc::default());
        let (looks_who_is_awaited, notes_silences) = Default::default();
        Gate {
            consensus,
            last_read,
            leases,
            landings,
            looks_who_is_awaited,
            notes_silences,
            opens,
            view,
            sessions,
            attachments,
        }
    }

    /// Executes a command. What it touches, and who asks, it says itself.
    ///
    /// Errors: a refusal; `NotLeader` or `Unavailable`, after which it may still happen.
    pub(crate) async fn change(&self, command: Command) -> MetaResult<Reply> {
        self.change_after(None, command).await.map(|executed| executed.reply)
    }

    /// [`Gate::change`] for what was decided in this term, and alters no inode: in another term it is refused.
    pub(crate) async fn change_in(&self, term: u64, command: Command) -> MetaResult<Reply> {
        debug_assert!(command.scope().inodes.is_empty(), "what alters inodes recalls leases");
        match self.send(term, command).await? {
            Reply::Refused(refused) => Err(refused),
            reply => Ok(reply),
        }
    }

    /// [`Gate::change`] for a session that has dropped by itself what the command may alter, and may want Write of what it makes.
    pub(crate) async fn change_after(
        &self,
        dropped: Option<Dropped>,
        command: Command,
    ) -> MetaResult<Executed> {
        let term = self.enter_term()?;
        let scope = command.scope();
        let executed = match scope.inodes.is_empty() {
            true => Executed::from(self.send(term, command).await?),
            false => self.change_inodes(term, &scope, dropped, command).await?,
        };
        match executed.reply {
            Reply::Refused(refused) => Err(refused),
            _ => Ok(executed),
        }
    }

    /// [`Gate::send`], and what is kept of the change outlives whoever waits for it.
    pub(super) async fn send_keeping(&self, term: u64, kept: Kept, command: Command) -> MetaResult<Executed> {
        let landing = Landing::new(self.consensus.clone(), self.landings.clone(), term, kept);
        landing.answered_by(self.send(term, command)).await
    }

    /// A part of [`Gate::change`]. In another term the command is refused.
    pub(super) async fn send(&self, term: u64, command: Command) -> MetaResult<Reply> {
        match self.reply_too_early(&command) {
            Some(reply) => Ok(reply),
            None => self.consensus.propose_in(term, command).await,
        }
    }

    /// A planted bug: answers from the state that is applied here, before the command is committed. It does so only for some
    /// commands, and for none that makes an id, so that the bug does not show at once.
    fn reply_too_early(&self, command: &Command) -> Option<Reply> {
        let Command::Change { request, .. } = command else { return None };
        let makes_id = matches!(request.change, Change::Create(_) | Change::OpenChunk(_));
        let is_one_of_some = request.request.0 % 8 == 0;
        if !planted::has(Bug::ReplyBeforeCommit) || makes_id || !is_one_of_some || !self.is_leading() {
            return None;
        }
        let view = self.consensus.stale_view();
        let base = view.snapshot();
        let reply = dfs_state::apply(command, self.consensus.now(), &mut Txn::new(&*base));
        let (consensus, command) = (self.consensus.clone(), command.clone());
        tokio::spawn(async move { consensus.propose(command).await });
        Some(reply)
    }

    /// Calls `look` with a state that contains every change which was answered before. `_shown` is what the answer will show: of that
    /// nobody holds a lease by this.
    pub(crate) async fn read<T>(
        &self,
        _shown: &Scope,
        look: impl FnOnce(&dyn Snapshot) -> MetaResult<T>,
    ) -> MetaResult<T> {
        let state = self.consensus.read().await?;
        let term = self.enter_term()?;
        self.note_read(term, Instant::now());
        look(&*state.snapshot())
    }

    /// [`Gate::read`] for this leader's own work, which looks only at records that no lease covers.
    pub(crate) async fn read_unleased<T>(
        &self,
        records: Unleased,
        look: impl FnOnce(&dyn Snapshot) -> MetaResult<T>,
    ) -> MetaResult<T> {
        self.read(&Scope::unleased(records), look).await
    }

    /// What this member knows, leader or not.
    pub(crate) fn local<T>(&self, look: impl FnOnce(&dyn Snapshot) -> T) -> T {
        look(&*self.consensus.stale_view().snapshot())
    }

    pub(crate) fn consensus(&self) -> &Consensus {
        &self.consensus
    }

    /// All that this leader has learned of others.
    fn soft(&self) -> [&dyn BeginsAnew; 5] {
        [self.view.soft(), self.sessions.soft(), self.opens.soft(), &self.attachments, &*self.leases]
    }

    /// Keeps G4.
    fn note_read(&self, term: u64, now: Instant) {
        let mut last_read = self.last_read.lock().unwrap_or_else(PoisonError::into_inner);
        let (last_term, last) = std::mem::replace(&mut *last_read, (term, now));
        let gap = now.saturating_duration_since(last);
        if last_term == term && gap >= UNHEARD_MAX {
            tracing::warn!(
                "nobody could be heard for {gap:?}: no quorum answered, or this process did not run"
            );
            self.soft().into_iter().for_each(|soft| soft.begin_anew(now));
        }
    }

    /// This member leads in this term still.
    pub(crate) fn require_term(&self, term: u64) -> MetaResult<()> {
        match self.enter_term()? == term {
            true => Ok(()),
            false => Err(led_by_another()),
        }
    }

    /// Keeps G3: for whoever looks at the soft state before a read. The term.
    pub(crate) fn enter_term(&self) -> MetaResult<u64> {
        let leadership = self.consensus.leadership();
        let leadership = leadership.borrow();
        if !leadership.is_leader {
            return Err(MetaError::NotLeader { leader: leadership.leader_address.clone() });
        }
        self.soft().into_iter().for_each(|soft| soft.enter_term(leadership.term, leadership.since));
        Ok(leadership.term)
    }

    /// As this member knows it.
    pub(crate) fn term(&self) -> u64 {
        self.consensus.leadership().borrow().term
    }

    pub(crate) fn is_leading(&self) -> bool {
        self.consensus.leadership().borrow().is_leader
    }

    /// Unknown until the cluster was made.
    pub(crate) fn cluster(&self) -> ClusterId {
        *self.consensus.cluster().borrow()
    }

    /// Refuses a request that is meant for another cluster.
    pub(crate) fn check_cluster(&self, named: ClusterId) -> MetaResult<()> {
        let own = self.cluster();
        if !named.is_known() {
            return Err(MetaError::InvalidArgument { what: "the request names no cluster".to_owned() });
        }
        if !own.is_known() {
            return Err(MetaError::Unavailable { what: "the cluster is not made yet".to_owned() });
        }
        if named != own {
            let what = format!("this is cluster {own}, the request names cluster {named}");
            return Err(MetaError::InvalidArgument { what });
        }
        Ok(())
    }
}
