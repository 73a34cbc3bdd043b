//! [`Consensus`]: a member of a group, as the rest of the server uses it.

use std::sync::Arc;
use std::time::Duration;

use dfs_net::services::raft_server::{Raft as RaftService, RaftServer};
use dfs_proto::attr::Timestamp;
use dfs_proto::error::MetaError;
use dfs_proto::ids::{ClusterId, DirectoryId, MemberId};
use openraft::LinearizerOption;
use openraft::async_runtime::watch::WatchReceiver as _;
use openraft::errors::{LinearizableReadError, RaftError};
use tokio::sync::{Semaphore, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::error::StartError;
use super::leadership::Leadership;
use super::log::store::LogMonitor;
use super::machine::clock::StateClock;
use super::machine::replicated::ReplicatedCommand;
use super::machine::state_machine::Raft;
use super::machine::store::{ReadView, StateStore};
use super::member::group::{Failure, Group};
use super::member::membership;
use super::member::server::{self, Heard, Served};
use super::member::stamp::StampFile;
use super::options::Timing;
use super::proposer::{Proposer, not_leader};
use super::read_lease::ReadLease;
use super::types::TypeConfig;
use dfs_state::command::{Member, Proposed};

/// What `dfs status` shows of a group.
#[derive(Clone, Debug)]
pub struct GroupStatus {
    pub own: MemberId,
    pub term: u64,
    pub leader: Option<MemberId>,
    /// Log indexes; 0 when there is no entry.
    pub last_log: u64,
    pub last_applied: u64,
    pub members: Vec<MemberStatus>,
}

#[derive(Clone, Debug)]
pub struct MemberStatus {
    pub id: MemberId,
    pub address: String,
    pub directory: DirectoryId,
    pub is_leader: bool,
    /// How many entries it is behind the leader. Only the leader knows it, and only of followers that have answered.
    pub log_lag: Option<u64>,
    /// How far its clock is ahead of the other members' clocks; `None` if it was not heard lately.
    pub clock_off_ms: Option<i64>,
}

/// This process's member of a group. Clones are handles of the same member; [`Consensus::shutdown`] ends it.
#[derive(Clone)]
pub struct Consensus {
    pub(super) inner: Arc<Inner>,
}

pub(super) struct Inner {
    pub(super) raft: Raft,
    pub(super) group: Arc<Group>,
    pub(super) store: Arc<StateStore>,
    pub(super) log: LogMonitor,
    pub(super) proposer: Proposer,
    pub(super) leadership: watch::Receiver<Leadership>,
    pub(super) votes_from: Instant,
    pub(super) heard: Heard,
    pub(super) receiving: Arc<Semaphore>,
    pub(super) time: Arc<StateClock>,
    pub(super) lease: ReadLease,
    pub(super) timing: Timing,
    pub(super) deadline: Duration,
    pub(super) stamp: Arc<StampFile>,
    pub(super) stop: CancellationToken,
    pub(super) tasks: TaskTracker,
}

impl Consensus {
    fn served(&self) -> Served {
        let inner = &self.inner;
        Served {
            raft: inner.raft.clone(),
            group: inner.group.clone(),
            store: inner.store.clone(),
            votes_from: inner.votes_from,
            heard: inner.heard.clone(),
            receiving: inner.receiving.clone(),
        }
    }

    /// Has the group apply a command, and returns the reply. After `Unavailable` or `NotLeader` the command may have been applied,
    /// or may still be; request ids make it safe to try again (P8.1).
    pub(crate) async fn propose<C: ReplicatedCommand>(&self, command: C) -> Result<C::Reply, MetaError> {
        self.inner.proposer.propose(&command, None).await
    }

    /// [`Consensus::propose`], for a command that was made for this term: in another one it is refused and never proposed.
    pub(crate) async fn propose_in<C: ReplicatedCommand>(
        &self,
        term: u64,
        command: C,
    ) -> Result<C::Reply, MetaError> {
        self.inner.proposer.propose(&command, Some(term)).await
    }

    /// A view that holds everything that was acknowledged before the call. Only the leader can give one.
    ///
    /// Whoever is to hold a lease on what is read must be registered before this is called (P3.5, P7.5).
    pub async fn read(&self) -> Result<ReadView, MetaError> {
        let inner = &self.inner;
        let age_max = inner.lease.age_max();
        let option = LinearizerOption::new(Some(age_max), true).with_wait_timeout(inner.timing.election_max);
        let linearizer =
            inner.raft.get_read_linearizer(option).await.map_err(|error| self.read_error(error))?;
        let ready = linearizer.try_await_ready(&inner.raft, Some(inner.deadline)).await;
        match ready {
            Ok(Ok(_)) => Ok(ReadView::new(inner.store.kv())),
            Ok(Err(_)) => Err(unavailable("the state is not applied far enough yet")),
            Err(stopped) => Err(unavailable(stopped.to_string())),
        }
    }

    /// The times that an entry gets which is proposed here now.
    pub fn now(&self) -> Proposed {
        Proposed::At { wall: self.wall(), state: self.inner.time.now() }
    }

    /// The wall clock from which a leader takes the times of its entries (P7.1).
    pub fn wall(&self) -> Timestamp {
        self.inner.group.clocks.wall()
    }

    fn read_error(&self, error: RaftError<TypeConfig, LinearizableReadError<TypeConfig>>) -> MetaError {
        match error {
            RaftError::APIError(LinearizableReadError::ForwardToLeader(forward)) => {
                not_leader(&self.inner.group, &forward)
            }
            RaftError::APIError(LinearizableReadError::QuorumNotEnough(_)) => {
                unavailable("no quorum answers")
            }
            RaftError::Fatal(stopped) => unavailable(stopped.to_string()),
        }
    }

    /// This member's state as it is. It may be behind the leader's, so nothing that a client acts on may come from it.
    pub fn stale_view(&self) -> ReadView {
        ReadView::new(self.inner.store.kv())
    }

    /// The index of the last entry that this member has applied; 0 if there is none.
    pub fn applied(&self) -> u64 {
        self.inner.raft.metrics().borrow_watched().last_applied.map_or(0, |id| id.index)
    }

    /// Waits until this member has applied an entry above `index`, and returns the index of the last one.
    pub async fn applied_beyond(&self, index: u64) -> u64 {
        let mut changes = self.inner.raft.metrics();
        loop {
            let applied = changes.borrow_watched().last_applied.map_or(0, |id| id.index);
            if applied > index {
                return applied;
            }
            if changes.changed().await.is_err() {
                std::future::pending::<()>().await; // raft has stopped, and with it the process
            }
        }
    }

    /// Who leads; changes when this member begins or ceases to lead.
    pub fn leadership(&self) -> watch::Receiver<Leadership> {
        self.inner.leadership.clone()
    }

    /// The cluster's id, or the federation's; unknown until it is made.
    pub fn cluster(&self) -> watch::Receiver<ClusterId> {
        self.inner.group.watch_cluster()
    }

    pub fn directory(&self) -> DirectoryId {
        self.inner.group.directory
    }

    /// Records in this member's stamp which data directory the federation group's member in this process has. From then on a
    /// start without that directory is refused.
    pub async fn note_seat(&self, seat: DirectoryId) -> Result<(), StartError> {
        if self.inner.stamp.get().await.seat == Some(seat) {
            return Ok(());
        }
        self.inner.stamp.change(|stamp| stamp.seat = Some(seat)).await.map_err(StartError::Io)
    }

    /// The refusal of a member that does not lead, with the leader's address if it is known.
    pub fn not_leader(&self) -> MetaError {
        let leadership = self.inner.leadership.borrow();
        MetaError::NotLeader { leader: leadership.leader_address.clone().filter(|_| !leadership.is_leader) }
    }

    /// Completes when this member cannot go on. The process should then report why and exit.
    pub async fn failed(&self) -> Failure {
        let mut failure = self.inner.group.watch_failure();
        match failure.wait_for(Option::is_some).await.map(|failure| failure.clone()) {
            Ok(Some(failure)) => failure,
            // The sender lives in `group`, which this holds.
            Ok(None) | Err(_) => Failure("the group is gone".to_owned()),
        }
    }

    /// The members that the membership records, with their present addresses. Empty until the group is made.
    pub fn members(&self) -> Vec<Member> {
        membership::members(&self.inner.raft, &self.inner.group)
    }

    pub fn status(&self) -> GroupStatus {
        let metrics = self.inner.raft.metrics();
        let metrics = metrics.borrow_watched().clone();
        let leader = metrics.current_leader.map(MemberId);
        let last_log = metrics.last_log_index.unwrap_or(0);
        let lag = |member: MemberId| {
            let replication = metrics.replication.as_ref()?;
            if leader == Some(member) {
                return Some(0);
            }
            let matched = replication.get(&member.0)?.as_ref().map_or(0, |id| id.index);
            Some(last_log.saturating_sub(matched))
        };
        let off = self.inner.group.clocks.off_ms();
        let status = |member: Member| MemberStatus {
            clock_off_ms: off.get(&member.id).copied(),
            is_leader: leader == Some(member.id),
            log_lag: lag(member.id),
            id: member.id,
            address: member.address,
            directory: member.directory,
        };
        GroupStatus {
            own: self.inner.group.own,
            term: metrics.current_term,
            leader,
            last_log,
            last_applied: metrics.last_applied.map_or(0, |id| id.index),
            members: self.members().into_iter().map(status).collect(),
        }
    }

    /// Asks `to` to take over the lead. Returns when it was asked, which may be before it leads.
    pub async fn transfer_leader(&self, to: MemberId) -> Result<(), MetaError> {
        if !self.inner.leadership.borrow().is_leader {
            return Err(self.not_leader());
        }
        self.inner
            .raft
            .trigger()
            .transfer_leader(to.0)
            .await
            .map_err(|stopped| unavailable(stopped.to_string()))
    }

    /// Asks the member that is least behind, of those whose clock is right, to take over the lead. Returns false if there is none.
    pub async fn hand_over(&self) -> bool {
        let status = self.status();
        let others = status.members.iter().filter(|member| member.id != status.own);
        let others = others.filter(|member| self.inner.group.clocks.may_lead(member.id));
        let nearest = others.filter_map(|member| Some((member.log_lag?, member.id))).min();
        match nearest {
            Some((_, heir)) => self.transfer_leader(heir).await.is_ok(),
            None => false,
        }
    }

    /// Stops this member. When this returns, nothing is written any more, and the state is flushed, so that the next start has
    /// little to apply again.
    pub async fn shutdown(&self) {
        self.inner.stop.cancel();
        if let Err(error) = self.inner.raft.shutdown().await {
            tracing::warn!("raft did not end well: {error}");
        }
        self.inner.tasks.close();
        self.inner.tasks.wait().await;
        self.inner.log.closed().await;
        if let Err(error) = self.inner.store.kv().flush().await {
            tracing::warn!("flush the state: {error}");
        }
    }

    pub(crate) fn group(&self) -> &Group {
        &self.inner.group
    }

    #[cfg(test)]
    pub(crate) fn log(&self) -> &LogMonitor {
        &self.inner.log
    }
}

/// The gRPC service that the other members call. `members` are those of this process, at most one of each group.
pub fn service(members: &[Consensus]) -> RaftServer<impl RaftService + use<>> {
    server::service(members.iter().map(Consensus::served).collect())
}

fn unavailable(what: impl Into<String>) -> MetaError {
    MetaError::Unavailable { what: what.into() }
}
