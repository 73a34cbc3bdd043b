//! [`Consensus`]: this member of the group, as the rest of the server sees it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use dfs_net::env::Env;
use dfs_net::services::raft_server::{Raft as RaftService, RaftServer};
use dfs_proto::attr::Timestamp;
use dfs_proto::error::MetaError;
use dfs_proto::ids::{ClusterId, DirectoryId, MemberId};
use dfs_proto::meta::Change;
use dfs_proto::planted::{self, Bug};
use openraft::async_runtime::watch::WatchReceiver as _;
use openraft::errors::{LinearizableReadError, RaftError};
use openraft::{Config, LinearizerOption, ServerState, SnapshotPolicy};
use thiserror::Error;
use tokio::sync::{Semaphore, watch};
use tokio::time::{Instant, sleep, sleep_until};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::log::disk::LogDisk;
use super::log::store::{LogMonitor, LogOptions};
use super::machine::clock::StateClock;
use super::machine::state_machine::StateMachine;
use super::machine::store::{ReadView, StateStore};
use super::member::bootstrap::{self, Greeter};
use super::member::examine::{Contradiction, Examined, Opened};
use super::member::group::{Failure, Group, GroupKind};
use super::member::network::Network;
use super::member::server::{self, Raft, Served};
use super::member::stamp::{StampError, StampFile};
use super::proposer::{Proposer, not_leader};
use super::read_lease::ReadLease;
use super::ticks::{self, Heard};
use super::types::TypeConfig;
use dfs_state::command::{Command, Member, Proposed, Reply, RootAttr};
use dfs_state::kv::{KvHome, Txn};

/// How a leader is noticed and replaced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timing {
    pub heartbeat: Duration,
    /// A follower that has heard nothing for one lease and this long stands for election.
    pub election_min: Duration,
    /// Also the leader's lease: for so long after a heartbeat no follower helps to elect another one.
    pub election_max: Duration,
}

impl Timing {
    pub fn new(heartbeat: Duration, election_timeout: Duration) -> Timing {
        Timing { heartbeat, election_min: election_timeout, election_max: election_timeout * 7 / 4 }
    }
}

impl Default for Timing {
    /// A killed leader is replaced after 1 to 1.6 s.
    fn default() -> Timing {
        Timing::new(Duration::from_millis(300), Duration::from_millis(450))
    }
}

/// What the first leader makes the cluster with.
#[derive(Clone, Debug)]
pub struct ClusterOptions {
    pub name: String,
    pub copies: u32,
    pub copies_min: u32,
    pub root: RootAttr,
}

impl Default for ClusterOptions {
    fn default() -> ClusterOptions {
        ClusterOptions {
            name: "dfs".to_owned(),
            copies: 2,
            copies_min: 1,
            root: RootAttr { mode: 0o755, uid: 0, gid: 0 },
        }
    }
}

/// What a group is there for, and what its first leader makes it with.
#[derive(Clone, Debug)]
pub enum Purpose {
    Cluster(ClusterOptions),
    Federation,
}

impl Purpose {
    pub(crate) fn kind(&self) -> GroupKind {
        match self {
            Purpose::Cluster(_) => GroupKind::Cluster,
            Purpose::Federation => GroupKind::Federation,
        }
    }
}

#[derive(Clone, Debug)]
pub struct ConsensusOptions {
    pub member: MemberId,
    /// Where the other members and clients reach this one: `host:port` of its gRPC port.
    pub address: String,
    /// Every member of the group with its address; equal on all.
    pub bootstrap: BTreeMap<MemberId, String>,
    pub purpose: Purpose,
    pub timing: Timing,
    /// A snapshot is made after this many entries; it lets the log be cut.
    pub snapshot_entries: u64,
    /// Entries kept behind a snapshot for followers that are a little behind.
    pub keep_entries: u64,
    /// When the entries are too long for it, a snapshot is also made, and the log cut.
    pub log: LogOptions,
    /// A read that the state is not applied far enough for within this time is given up.
    pub deadline: Duration,
}

impl ConsensusOptions {
    pub fn new(member: MemberId, address: String, bootstrap: BTreeMap<MemberId, String>) -> ConsensusOptions {
        ConsensusOptions {
            member,
            address,
            bootstrap,
            purpose: Purpose::Cluster(ClusterOptions::default()),
            timing: Timing::default(),
            snapshot_entries: 10_000,
            keep_entries: 2_000,
            log: LogOptions::default(),
            deadline: Duration::from_secs(4),
        }
    }
}

/// Why a member cannot start. One line each.
#[derive(Debug, Error)]
pub enum StartError {
    #[error(transparent)]
    Stamp(#[from] StampError),
    #[error(
        "{0}; nothing in the directory was changed: the way out is to replace this member or to restore its directory, and \
         this version can do neither"
    )]
    Contradiction(#[from] Contradiction),
    #[error("write the data directory's MEMBER file: {0}")]
    Io(std::io::Error),
    #[error("open the state store: {0}")]
    State(std::io::Error),
    #[error("open the Raft log: {0}")]
    Log(std::io::Error),
    #[error("{member} is not in the bootstrap list")]
    NotListed { member: MemberId },
    #[error("raft settings: {0}")]
    Config(#[from] openraft::ConfigError),
    #[error("start raft: {0}")]
    Raft(String),
}

/// Who leads, as this member knows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Leadership {
    pub term: u64,
    pub leader: Option<MemberId>,
    pub leader_address: Option<String>,
    pub is_leader: bool,
    /// When this member learned of this term and leader.
    pub since: Instant,
}

/// For `dfs status`.
#[derive(Clone, Debug)]
pub struct GroupStatus {
    pub own: MemberId,
    pub term: u64,
    pub leader: Option<MemberId>,
    /// Indexes; 0 when there is none.
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
    /// Entries behind the leader; known to the leader only, and for followers that answered.
    pub log_lag: Option<u64>,
    /// How far its clock is ahead of the others', as this member knows; `None`: it was not heard lately.
    pub clock_off_ms: Option<i64>,
}

/// Between two looks at this member's clock. An entry takes its time from the others' if need be, without waiting for them.
const CLOCK_LOOK_INTERVAL: Duration = Duration::from_secs(1);
/// Between two cuts of a log that is too long: the last one takes time to show.
const CUT_INTERVAL: Duration = Duration::from_millis(250);
/// Entries for one follower in one request, at most; their bytes are bounded by the log's reader.
const PAYLOAD_ENTRIES_MAX: u64 = 512;
/// Proposals, reads and requests of others that wait for openraft's one task.
const API_QUEUE_MAX: u64 = 4096;

/// This member. Clones are handles of the same one; [`Consensus::shutdown`] ends it.
#[derive(Clone)]
pub struct Consensus {
    inner: Arc<Inner>,
}

struct Inner {
    raft: Raft,
    group: Arc<Group>,
    store: Arc<StateStore>,
    log: LogMonitor,
    proposer: Proposer,
    leadership: watch::Receiver<Leadership>,
    votes_from: Instant,
    heard: Heard,
    receiving: Arc<Semaphore>,
    time: Arc<StateClock>,
    lease: ReadLease,
    timing: Timing,
    deadline: Duration,
    stamp: Arc<StampFile>,
    stop: CancellationToken,
    tasks: TaskTracker,
}

impl Consensus {
    /// Opens the directory and takes part. [`service`] of it must be served at `options.address`.
    pub async fn start(
        options: ConsensusOptions,
        env: Env,
        disk: Arc<dyn LogDisk>,
        home: Arc<dyn KvHome>,
    ) -> Result<Consensus, StartError> {
        let examined = Examined::of(&options, &*disk, &*home, None).await?;
        Consensus::take_part(options, env, disk, home, examined).await
    }

    /// Takes part in a directory that was found to be whole.
    pub async fn take_part(
        options: ConsensusOptions,
        env: Env,
        disk: Arc<dyn LogDisk>,
        home: Arc<dyn KvHome>,
        examined: Examined,
    ) -> Result<Consensus, StartError> {
        if !options.bootstrap.contains_key(&options.member) {
            return Err(StartError::NotListed { member: options.member });
        }
        let Opened { stamp, store, applied, log_store, log } =
            examined.open(&options, disk, home, &env.rng).await?;
        let stamped = stamp.get().await;
        // keeps P7.5: a fresh member has promised nothing to anybody
        let is_fresh = log.is_fresh();
        let votes_from = if is_fresh { Instant::now() } else { Instant::now() + options.timing.election_max };
        let group = Arc::new(Group::new(
            options.purpose.kind(),
            env,
            (stamped.member, stamped.directory),
            options.address.clone(),
            options.bootstrap.clone(),
            stamped.cluster,
        ));
        let config = Arc::new(raft_config(&options, is_fresh).validate()?);
        let clock = group.env.clock.clone();
        let last_time = dfs_state::read::last_time(&*store.kv().snapshot());
        let time = Arc::new(StateClock::new(clock.clone(), last_time));
        let machine = StateMachine::new(store.clone(), applied, time.clone());
        let network = Network::new(group.clone());
        let raft = Raft::new(options.member.0, config, network, log_store, machine)
            .await
            .map_err(|error| StartError::Raft(error.to_string()))?;
        let (proposer, proposing) =
            Proposer::new(raft.clone(), log.clone(), group.clone(), time.clone(), options.timing.heartbeat);
        let (leadership_sender, leadership) = watch::channel(current_leadership(&raft, &group, None));
        let (stop, tasks) = (CancellationToken::new(), TaskTracker::new());
        let inner = Inner {
            raft: raft.clone(),
            group: group.clone(),
            store: store.clone(),
            log: log.clone(),
            proposer,
            leadership,
            votes_from,
            heard: Heard::new(None),
            receiving: server::receiving(),
            time,
            // Three quarters: clocks may run apart a little, and the read itself takes a moment.
            lease: ReadLease::new(clock, options.timing.election_max * 3 / 4),
            timing: options.timing,
            deadline: options.deadline,
            stamp: stamp.clone(),
            stop,
            tasks,
        };
        let pace =
            ticks::pace(raft.clone(), options.timing, inner.heard.subscribe(), inner.leadership.clone());
        let consensus = Consensus { inner: Arc::new(inner) };
        consensus.spawn(pace);
        consensus.spawn(proposing.run());
        consensus.spawn(watch_leadership(raft.clone(), group.clone(), leadership_sender));
        consensus.spawn(Greeter::new(raft.clone(), group.clone()).run());
        consensus.spawn(bootstrap::stamp_cluster(raft.clone(), group, store, stamp));
        consensus.spawn(bootstrap::lead(consensus.clone(), options.purpose));
        consensus.spawn(stand(consensus.clone(), votes_from));
        consensus.spawn(bound_log(raft, log));
        Ok(consensus)
    }

    fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        let stopped = self.inner.stop.clone().cancelled_owned();
        self.inner.tasks.spawn(async move {
            tokio::select! {
                biased;
                () = stopped => (),
                () = task => (),
            }
        });
    }

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

    /// Has a command applied, and returns what `apply` answered. After `Unavailable` or `NotLeader` it may have happened
    /// or may still happen: the caller's request ids make trying again safe (P8.1).
    pub async fn propose(&self, command: Command) -> Result<Reply, MetaError> {
        if planted::has(Bug::ReplyBeforeCommit)
            && let Some(reply) = self.reply_too_early(&command)
        {
            return Ok(reply);
        }
        self.inner.proposer.propose(&command).await
    }

    /// The planted bug: the answer as of what is applied here, while the proposal is on its way. Only to some, and only
    /// where `apply` makes no id: else the bug would show at once.
    fn reply_too_early(&self, command: &Command) -> Option<Reply> {
        let Command::Change { request, .. } = command else { return None };
        let makes_id = matches!(request.change, Change::Create(_) | Change::OpenChunk(_));
        let is_one_of_some = request.request.0 % 8 == 0;
        if makes_id || !is_one_of_some || !self.inner.leadership.borrow().is_leader {
            return None;
        }
        let kv = self.inner.store.kv();
        let base = kv.snapshot();
        let reply = dfs_state::apply(command, self.now(), &mut Txn::new(&*base));
        let (proposer, command) = (self.inner.proposer.clone(), command.clone());
        tokio::spawn(async move { proposer.propose(&command).await });
        Some(reply)
    }

    /// A view that holds everything that was acknowledged before the call. Only the leader has one.
    ///
    /// Whoever takes a lease for what is read registers before calling this (P3.5, P7.5).
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

    /// What an entry that is proposed here now would have.
    pub fn now(&self) -> Proposed {
        Proposed::At { wall: self.wall(), state: self.inner.time.now() }
    }

    /// The wall clock that a leader's times are of (P7.1).
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

    /// This member's state as it is, perhaps behind: for status only, never for clients.
    pub fn stale_view(&self) -> ReadView {
        ReadView::new(self.inner.store.kv())
    }

    /// The index of the last entry that this member has applied; 0: none.
    pub fn applied(&self) -> u64 {
        self.inner.raft.metrics().borrow_watched().last_applied.map_or(0, |id| id.index)
    }

    /// Waits until it is above `index`; returns it.
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

    /// Follow it to know when this member begins or ceases to lead.
    pub fn leadership(&self) -> watch::Receiver<Leadership> {
        self.inner.leadership.clone()
    }

    /// Unknown until the cluster is made.
    pub fn cluster(&self) -> watch::Receiver<ClusterId> {
        self.inner.group.watch_cluster()
    }

    pub fn directory(&self) -> DirectoryId {
        self.inner.group.directory
    }

    /// Notes that the federation group's member in this process has its directory beside this one's: it must be there from now
    /// on.
    pub async fn note_seat(&self, seat: DirectoryId) -> Result<(), StartError> {
        if self.inner.stamp.get().await.seat == Some(seat) {
            return Ok(());
        }
        self.inner.stamp.change(|stamp| stamp.seat = Some(seat)).await.map_err(StartError::Io)
    }

    /// The error to answer with when this member does not lead.
    pub fn not_leader(&self) -> MetaError {
        let leadership = self.inner.leadership.borrow();
        MetaError::NotLeader { leader: leadership.leader_address.clone().filter(|_| !leadership.is_leader) }
    }

    /// Ready when this member cannot go on: the process should say why and end.
    pub async fn failed(&self) -> Failure {
        let mut failure = self.inner.group.watch_failure();
        match failure.wait_for(Option::is_some).await.map(|failure| failure.clone()) {
            Ok(Some(failure)) => failure,
            // The sender lives in `group`, which this holds.
            Ok(None) | Err(_) => Failure("the group is gone".to_owned()),
        }
    }

    /// The members as recorded, where they are now. Empty until the group is made.
    pub fn members(&self) -> Vec<Member> {
        bootstrap::members(&self.inner.raft, &self.inner.group)
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

    /// Asks `to` to lead; returns when it was asked, not when it does.
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

    /// Asks the member that is least behind to lead, of those whose clock is right; answers whether there is one.
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

    /// Ends this member's part: nothing is written any more when it returns, and a start finds little to apply again.
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

/// What the other members call; for the gRPC port of the process that is these members, one of each group at most.
pub fn service(members: &[Consensus]) -> RaftServer<impl RaftService + use<>> {
    server::service(members.iter().map(Consensus::served).collect())
}

fn unavailable(what: impl Into<String>) -> MetaError {
    MetaError::Unavailable { what: what.into() }
}

fn raft_config(options: &ConsensusOptions, is_fresh: bool) -> Config {
    let millis = |duration: Duration| duration.as_millis() as u64;
    Config {
        cluster_name: "dfs".to_owned(),
        heartbeat_interval: millis(options.timing.heartbeat),
        election_timeout_min: millis(options.timing.election_min),
        election_timeout_max: millis(options.timing.election_max),
        max_payload_entries: PAYLOAD_ENTRIES_MAX,
        api_channel_size: Some(API_QUEUE_MAX),
        snapshot_policy: SnapshotPolicy::LogsSinceLast(options.snapshot_entries),
        max_in_snapshot_log_to_keep: options.keep_entries,
        // A follower further behind than the log reaches needs a snapshot anyway.
        replication_lag_threshold: options.snapshot_entries.saturating_mul(2).max(options.keep_entries + 1),
        backoff: "50ms 100ms ...500ms".to_owned(),
        // keeps P7.5
        enable_pre_vote: Some(true),
        enable_leader_restore: Some(false),
        allow_log_reversion: Some(false),
        enable_elect: is_fresh,
        ..Config::default()
    }
}

/// Lets a member that was restarted stand for election after one lease (P7.5), and one whose clock is wrong not, nor go on
/// leading (P7.1).
async fn stand(consensus: Consensus, votes_from: Instant) {
    sleep_until(votes_from).await;
    let (group, mut could_lead) = (consensus.group(), true);
    loop {
        let may_lead = group.clocks.may_lead(group.own);
        if may_lead != could_lead {
            let off = Duration::from_millis(
                group.clocks.off_ms().get(&group.own).map_or(0, |ms| ms.unsigned_abs()),
            );
            match may_lead {
                true => tracing::info!("this member's clock is right again: it may lead"),
                false => tracing::warn!("this member's clock is off by {off:?}: it does not lead; set it"),
            }
            could_lead = may_lead;
        }
        consensus.inner.raft.runtime_config().elect(may_lead);
        if !may_lead && consensus.inner.leadership.borrow().is_leader {
            consensus.hand_over().await;
        }
        sleep(CLOCK_LOOK_INTERVAL).await;
    }
}

fn current_leadership(raft: &Raft, group: &Group, before: Option<&Leadership>) -> Leadership {
    let metrics = raft.metrics();
    let metrics = metrics.borrow_watched();
    let leader = metrics.current_leader.map(MemberId);
    let is_leader = metrics.state == ServerState::Leader && leader == Some(group.own);
    let known = leader.and_then(|leader| group.address_of(leader));
    let recorded = || {
        let node = metrics.membership_config.membership().get_node(&leader?.0)?;
        Some(node.address.clone())
    };
    let term = metrics.current_term;
    let since = before
        .filter(|before| (before.term, before.leader, before.is_leader) == (term, leader, is_leader))
        .map_or_else(Instant::now, |before| before.since);
    Leadership { term, leader, leader_address: known.or_else(recorded), is_leader, since }
}

async fn watch_leadership(raft: Raft, group: Arc<Group>, leadership: watch::Sender<Leadership>) {
    let mut changes = raft.metrics();
    loop {
        let stopped = changes.borrow_watched().running_state.clone().err();
        let now = current_leadership(&raft, &group, Some(&leadership.borrow()));
        leadership.send_if_modified(|before| {
            let has_changed = *before != now;
            if has_changed {
                tracing::info!("term {}: leader {:?}", now.term, now.leader);
                *before = now;
            }
            has_changed
        });
        if let Some(stopped) = stopped {
            group.fail(format!("raft has stopped: {stopped}"));
            return;
        }
        if changes.changed().await.is_err() {
            return;
        }
    }
}

/// Keeps the log's memory bounded when entries are large: openraft counts entries, not bytes.
async fn bound_log(raft: Raft, log: LogMonitor) {
    loop {
        log.too_long().await;
        let snapshot = raft.metrics().borrow_watched().snapshot.map(|id| id.index);
        // What the last snapshot covers goes at once; when it was little, a new one is due.
        let done = match snapshot.filter(|upto| *upto >= log.purged_next()) {
            Some(upto) => raft.trigger().purge_log(upto).await,
            None => raft.trigger().snapshot().await,
        };
        if done.is_err() {
            return; // raft has stopped
        }
        sleep(CUT_INTERVAL).await;
    }
}
