//! Starts a member: opens its directory, wires its parts, and spawns the tasks that run until it is shut down.

use std::sync::Arc;
use std::time::Duration;

use dfs_net::env::Env;
use openraft::async_runtime::watch::WatchReceiver as _;
use openraft::{Config, SnapshotPolicy};
use tokio::sync::watch;
use tokio::time::{Instant, sleep, sleep_until};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::consensus::{Consensus, Inner};
use super::error::StartError;
use super::leader_work;
use super::leadership::{current_leadership, watch_leadership};
use super::log::disk::LogDisk;
use super::log::store::LogMonitor;
use super::machine::clock::StateClock;
use super::machine::state_machine::{Raft, StateMachine};
use super::member::bootstrap::{Greeter, stamp_cluster};
use super::member::examine::{Examined, Opened};
use super::member::group::Group;
use super::member::network::Network;
use super::member::server::{self, Heard};
use super::options::ConsensusOptions;
use super::proposer::Proposer;
use super::read_lease::ReadLease;
use super::ticks;
use dfs_state::kv::KvHome;

/// How often a member checks whether its clock lets it lead. The times of entries do not wait for that check (`clocks`, MC3).
const CLOCK_LOOK_INTERVAL: Duration = Duration::from_secs(1);
/// The pause between two cuts of a log that is too long, because the effect of a cut shows only after a while.
const CUT_INTERVAL: Duration = Duration::from_millis(250);
/// Entries in one request to a follower. Their bytes are bounded by the log's reader.
const PAYLOAD_ENTRIES_MAX: u64 = 512;
/// Proposals, reads and requests of other members that wait for openraft's one task.
const API_QUEUE_MAX: u64 = 4096;

impl Consensus {
    /// Opens the directory and starts the member. [`service`](super::service) of it must be served at `options.address`.
    pub async fn start(
        options: ConsensusOptions,
        env: Env,
        disk: Arc<dyn LogDisk>,
        home: Arc<dyn KvHome>,
    ) -> Result<Consensus, StartError> {
        let examined = Examined::of(&options, &*disk, &*home, None).await?;
        Consensus::take_part(options, env, disk, home, examined).await
    }

    /// Starts the member in a directory whose files were found to agree.
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
        // keeps P7.5: a fresh member has granted no lease and so may vote at once
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
        let machine = StateMachine::new(group.kind, store.clone(), applied, time.clone());
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
            // A quarter is the margin for clocks that drift and for the time that the read itself takes.
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
        consensus.spawn(stamp_cluster(raft.clone(), group, store, stamp));
        consensus.spawn(leader_work::lead(consensus.clone(), options.purpose));
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
        // A follower that is behind the first entry of the log needs a snapshot anyway.
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

/// Lets a member that was restarted stand for election only after one lease (P7.5). While its clock is wrong, a member does not
/// stand, and hands over the lead if it has it (P7.1).
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

/// Bounds the memory of the log when entries are large, because openraft counts entries and not bytes.
async fn bound_log(raft: Raft, log: LogMonitor) {
    loop {
        log.too_long().await;
        let snapshot = raft.metrics().borrow_watched().snapshot.map(|id| id.index);
        // The entries that the last snapshot covers can be cut at once. If none are left, a new snapshot is needed.
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
