//! Three members in one process, over loopback, with real logs and mostly real state stores.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use dfs_net::env::{Env, Listener, Net as _, Rng, Tcp};
use dfs_net::rpc::admission::Admission;
use dfs_net::rpc::grpc::{self, SharedIdentity};
use dfs_net::rpc::{Identity, Role};
use dfs_proto::error::MetaError;
use dfs_proto::federation::ClusterEntry;
use dfs_proto::ids::{ClusterId, MemberId, SessionNonce};
use dfs_proto::wire;
use tokio::runtime::Runtime;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout};
use tonic::service::Routes;

use super::log::disk::{FileDisk, LogDisk, SimulatedDisk};
use super::{Consensus, ConsensusOptions, LogOptions, Purpose, StartError, applied_count};
use crate::rocks::{RocksHome, RocksOptions};
use dfs_state::command::{Command, Reply};
use dfs_state::federation::command as federation;
use dfs_state::kv::KvHome;
use dfs_state::kv::memory::MemoryHome;

/// The timeout of every wait, far longer than any takes.
const PATIENCE: Duration = Duration::from_secs(20);
/// About two hundred entries that open sessions; the other tests propose fewer.
const KEPT_LEN_MAX: usize = 32 << 10;

struct Running {
    consensus: Consensus,
    stop: oneshot::Sender<()>,
    server: JoinHandle<()>,
}

impl Running {
    async fn end(self) {
        self.consensus.shutdown().await;
        let _ = self.stop.send(());
        drop(self.consensus);
        timeout(PATIENCE, self.server).await.expect("its calls end").expect("the server ends");
    }
}

struct TestGroup {
    directory: tempfile::TempDir,
    addresses: BTreeMap<MemberId, String>,
    running: BTreeMap<MemberId, Running>,
    snapshot_entries: u64,
}

async fn listen(address: &str) -> Box<dyn Listener> {
    Tcp.bind(address).await.expect("bind")
}

impl TestGroup {
    async fn start(members: u64, snapshot_entries: u64) -> TestGroup {
        let mut group = TestGroup {
            directory: tempfile::tempdir().expect("temp dir"),
            addresses: BTreeMap::new(),
            running: BTreeMap::new(),
            snapshot_entries,
        };
        let mut listeners = Vec::new();
        for id in (1..=members).map(MemberId) {
            let listener = listen("127.0.0.1:0").await;
            group.addresses.insert(id, listener.local_address());
            listeners.push((id, listener));
        }
        for (id, listener) in listeners {
            group.start_member(id, listener).await.expect("start");
        }
        group
    }

    fn path(&self, id: MemberId) -> std::path::PathBuf {
        self.directory.path().join(id.0.to_string())
    }

    async fn start_member(&mut self, id: MemberId, listener: Box<dyn Listener>) -> Result<(), StartError> {
        let mut options = ConsensusOptions::new(id, listener.local_address(), self.addresses.clone());
        options.snapshot_entries = self.snapshot_entries;
        options.keep_entries = 5;
        options.log = LogOptions { segment_len: 64 << 10, kept_len_max: KEPT_LEN_MAX };
        let running = run(&self.path(id), options, listener).await?;
        self.running.insert(id, running);
        Ok(())
    }

    async fn restart(&mut self, id: MemberId) {
        let listener = listen(&self.addresses[&id]).await;
        self.start_member(id, listener).await.expect("start again");
    }

    async fn kill(&mut self, id: MemberId) {
        self.running.remove(&id).expect("it runs").end().await;
    }

    fn member(&self, id: MemberId) -> &Consensus {
        &self.running[&id].consensus
    }

    /// The member that leads and can serve reads.
    async fn leader(&self) -> MemberId {
        let deadline = Instant::now() + PATIENCE;
        loop {
            for (id, running) in &self.running {
                let leads = running.consensus.leadership().borrow().is_leader;
                if leads && running.consensus.read().await.is_ok() {
                    return *id;
                }
            }
            assert!(Instant::now() < deadline, "nobody leads");
            sleep(Duration::from_millis(10)).await;
        }
    }

    /// Opens a session at the leader, and tries again until that has succeeded.
    async fn open_session(&self, nonce: u128) {
        let command = open_command(nonce);
        let deadline = Instant::now() + PATIENCE;
        loop {
            let leader = self.leader().await;
            match self.member(leader).propose(command.clone()).await {
                Ok(Reply::SessionOpened(_)) => return,
                Ok(Reply::Refused(MetaError::Unavailable { .. })) | Err(_) => {} // no cluster yet, or no leader now
                Ok(other) => panic!("OpenSession answered {other:?}"),
            }
            assert!(Instant::now() < deadline, "not proposed in time");
            sleep(Duration::from_millis(10)).await;
        }
    }

    async fn open_sessions(&self, nonces: std::ops::Range<u128>) {
        for nonce in nonces {
            self.open_session(nonce).await;
        }
    }

    /// Waits until this member's state has applied as much as the leader's. It compares the states, because openraft's metrics are
    /// a little behind them.
    async fn caught_up(&self, id: MemberId) {
        let target = self.applied(self.leader().await);
        eventually(|| self.applied(id) >= target, "the member catches up").await;
    }

    fn applied(&self, id: MemberId) -> u64 {
        let view = self.member(id).stale_view();
        applied_count(&*view.snapshot()).expect("its own record")
    }

    fn sessions(&self, id: MemberId) -> usize {
        let view = self.member(id).stale_view();
        dfs_state::read::sessions(&*view.snapshot()).len()
    }
}

async fn run(
    path: &Path,
    options: ConsensusOptions,
    listener: Box<dyn Listener>,
) -> Result<Running, StartError> {
    let disk = FileDisk::open(&path.join("log")).expect("open the directory");
    let home = RocksHome::new(&path.join("state"), RocksOptions::default());
    serve(options, Arc::new(disk), Arc::new(home), listener).await
}

async fn serve(
    options: ConsensusOptions,
    disk: Arc<dyn LogDisk>,
    home: Arc<dyn KvHome>,
    listener: Box<dyn Listener>,
) -> Result<Running, StartError> {
    let identity = Identity { role: Role::Metaserver, id: options.member.0, cluster: ClusterId::UNKNOWN };
    let consensus = Consensus::start(options, Env::real(), disk, home).await?;
    let routes = Routes::new(super::service(std::slice::from_ref(&consensus)));
    let (stop, stopped) = oneshot::channel::<()>();
    let server = tokio::spawn(async move {
        grpc::serve(
            listener,
            routes,
            SharedIdentity::new(identity),
            Admission::default(),
            Box::pin(async move { drop(stopped.await) }),
        )
        .await
        .expect("serve");
    });
    Ok(Running { consensus, stop, server })
}

async fn eventually(mut holds: impl FnMut() -> bool, what: &str) {
    let deadline = Instant::now() + PATIENCE;
    while !holds() {
        assert!(Instant::now() < deadline, "waited in vain until {what}");
        sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_group_elects_replicates_survives_its_leader_and_takes_it_back_by_snapshot() {
    let mut group = TestGroup::start(3, 30).await;
    group.open_sessions(1..21).await;
    let first = group.leader().await;
    let term = group.member(first).status().term;
    group.kill(first).await;
    let killed = Instant::now();
    group.open_session(21).await;
    let stall = killed.elapsed();
    assert!(stall < Duration::from_secs(8), "the failover took {stall:?}");
    let second = group.leader().await;
    assert!(group.member(second).status().term > term);
    // More than the log keeps: the one that was away can only come back by a snapshot.
    group.open_sessions(22..141).await;
    eventually(|| group.member(second).log().first_index() > 30, "the log is cut").await;
    group.restart(first).await;
    group.caught_up(first).await;
    assert_eq!(group.sessions(first), 140);
    // And it is a full member again: with another one away it makes the quorum.
    let other = *group.addresses.keys().find(|id| ![first, second].contains(id)).expect("three members");
    group.kill(other).await;
    group.open_session(141).await;
    group.caught_up(first).await;
    assert_eq!(group.sessions(first), 141);
    for id in [first, second] {
        group.kill(id).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_log_is_cut_for_its_bytes_before_its_entries_are_many() {
    let group = TestGroup::start(1, 1_000_000).await;
    group.open_sessions(1..401).await;
    eventually(|| group.member(MemberId(1)).log().first_index() > 200, "the log is cut").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_whole_group_that_stops_starts_again_with_everything_acknowledged() {
    let mut group = TestGroup::start(3, 1000).await;
    group.open_sessions(1..31).await;
    let cluster = *group.member(MemberId(1)).cluster().wait_for(|cluster| cluster.is_known()).await.unwrap();
    let all: Vec<MemberId> = group.addresses.keys().copied().collect();
    for id in &all {
        group.kill(*id).await;
    }
    for id in &all {
        group.restart(*id).await;
    }
    group.open_session(31).await;
    for id in &all {
        group.caught_up(*id).await;
        assert_eq!(group.sessions(*id), 31);
        assert_eq!(*group.member(*id).cluster().borrow(), cluster);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_emptied_member_stops_with_one_line_and_never_votes() {
    let mut group = TestGroup::start(3, 1000).await;
    group.open_sessions(1..6).await;
    let leader = group.leader().await;
    let others: Vec<MemberId> = group.addresses.keys().copied().filter(|id| *id != leader).collect();
    let (emptied, lagging) = (others[0], others[1]);
    // B is emptied while C lags; with the leader away, the two must not elect anybody.
    group.kill(lagging).await;
    group.open_sessions(6..11).await;
    group.kill(emptied).await;
    group.kill(leader).await;
    std::fs::remove_dir_all(group.path(emptied)).expect("empty it");
    group.restart(lagging).await;
    group.restart(emptied).await;
    let failure = timeout(PATIENCE, group.member(emptied).failed()).await.expect("it stops").0;
    assert!(failure.contains("emptied") && !failure.contains('\n'), "{failure}");
    // Two election timeouts and a lease: nobody was elected.
    let elected = async {
        let mut leadership = group.member(lagging).leadership();
        drop(leadership.wait_for(|now| now.is_leader).await);
    };
    assert!(
        timeout(Duration::from_secs(3), elected).await.is_err(),
        "a lagging member leads with an emptied one's vote"
    );
    group.restart(leader).await;
    group.caught_up(lagging).await;
    assert_eq!(group.sessions(lagging), 10);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_may_come_back_at_another_address() {
    let mut group = TestGroup::start(3, 1000).await;
    group.open_sessions(1..6).await;
    let leader = group.leader().await;
    let moved = *group.addresses.keys().find(|id| **id != leader).expect("three members");
    group.kill(moved).await;
    group.open_session(6).await;
    let listener = listen("127.0.0.1:0").await;
    let address = listener.local_address();
    group.start_member(moved, listener).await.expect("start elsewhere");
    group.caught_up(moved).await;
    assert_eq!(group.sessions(moved), 6);
    let recorded = || {
        let view = group.member(moved).stale_view();
        let members = dfs_state::read::members(&*view.snapshot());
        members.iter().any(|member| member.id == moved && member.address == address)
    };
    eventually(recorded, "the state has the new address").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn leadership_moves_when_asked_and_reads_are_refused_elsewhere() {
    let group = TestGroup::start(3, 1000).await;
    group.open_session(1).await;
    let leader = group.leader().await;
    let to = *group.addresses.keys().find(|id| **id != leader).expect("three members");
    group.caught_up(to).await;
    match group.member(to).read().await {
        Err(MetaError::NotLeader { leader: Some(address) }) => assert_eq!(address, group.addresses[&leader]),
        other => panic!("a follower answered a read with {:?}", other.map(drop)),
    }
    group.member(leader).transfer_leader(to).await.expect("it leads");
    let mut leadership = group.member(to).leadership();
    timeout(PATIENCE, leadership.wait_for(|now| now.is_leader)).await.expect("in time").expect("it runs");
    group.open_session(2).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_single_member_is_a_group_and_a_directory_has_one_owner() {
    let mut group = TestGroup::start(1, 1000).await;
    let id = MemberId(1);
    group.open_session(1).await;
    let mut nonces = BTreeSet::new();
    let together = (2..66u128).map(|nonce| {
        nonces.insert(nonce);
        group.open_session(nonce)
    });
    futures::future::join_all(together).await;
    assert_eq!(group.sessions(id), 1 + nonces.len());
    assert!(FileDisk::open(&group.path(id).join("log")).is_err(), "two processes in one directory");
    group.kill(id).await;
    let log = group.path(id).join("log");
    std::fs::rename(&log, group.path(id).join("aside")).expect("take the log away");
    let listener = listen(&group.addresses[&id]).await;
    let error = group.start_member(id, listener).await.unwrap_err().to_string();
    assert!(error.contains("MEMBER is missing, but state/CURRENT is there"), "{error}");
    std::fs::remove_dir_all(&log).expect("what was made instead");
    std::fs::rename(group.path(id).join("aside"), &log).expect("bring it back");
    let listener = listen("127.0.0.1:0").await;
    let mut options = ConsensusOptions::new(MemberId(2), listener.local_address(), group.addresses.clone());
    options.bootstrap.insert(MemberId(2), listener.local_address());
    let error = run(&group.path(id), options, listener).await.map(drop).unwrap_err().to_string();
    assert!(error.contains("belongs to metaserver 1"), "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_that_has_just_started_grants_no_vote_for_one_lease() {
    use dfs_net::services::raft_client::RaftClient;
    let mut group = TestGroup::start(3, 1000).await;
    group.open_session(1).await;
    let leader = group.leader().await;
    let id = *group.addresses.keys().find(|id| **id != leader).expect("three members");
    let directory = group.member(id).directory();
    group.kill(id).await;
    group.restart(id).await;
    let own = Identity { role: Role::Metaserver, id: leader.0, cluster: ClusterId::UNKNOWN };
    let expected = Identity { id: id.0, ..own };
    let channel =
        grpc::connect(&Env::real(), &group.addresses[&id], &own, &expected, PATIENCE).await.expect("connect");
    let last_log_id = Some(openraft::testing::log_id::<super::types::TypeConfig>(99, 1, 9999));
    let vote = openraft::raft::VoteRequest::<super::types::TypeConfig>::new(
        super::types::Vote::new(99, leader.0),
        last_log_id,
    );
    let request = wire::RaftRequest {
        header: Some(group.member(leader).group().header(id, directory)),
        body: postcard::to_allocvec(&vote).expect("encode").into(),
        is_heartbeat: false,
    };
    let refusal = RaftClient::new(channel.clone()).vote(request.clone()).await.unwrap_err();
    assert!(refusal.message().contains("just started"), "{refusal}");
    // And nothing that is meant for another directory is answered at all.
    let mut foreign = request;
    if let Some(header) = &mut foreign.header {
        header.to_directory = vec![7; 16].into();
    }
    let refusal = RaftClient::new(channel).append_entries(foreign).await.unwrap_err();
    assert!(refusal.message().contains("data directory"), "{refusal}");
}

/// Once a member stored a vote of the last term that there is, whoever had sent it, and the cluster never had a leader again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_vote_of_a_stranger_or_of_an_impossible_term_is_refused_and_the_group_goes_on_electing() {
    use dfs_net::services::raft_client::RaftClient;
    use openraft::raft::{AppendEntriesRequest, VoteRequest};

    use super::types::{TypeConfig, Vote};
    let mut group = TestGroup::start(3, 1000).await;
    group.open_session(1).await;
    let leader = group.leader().await;
    let others: Vec<MemberId> = group.addresses.keys().copied().filter(|id| *id != leader).collect();
    for id in others {
        group.caught_up(id).await;
        let own = Identity { role: Role::Metaserver, id: leader.0, cluster: ClusterId::UNKNOWN };
        let expected = Identity { id: id.0, ..own };
        let channel = grpc::connect(&Env::real(), &group.addresses[&id], &own, &expected, PATIENCE).await;
        let mut client = RaftClient::new(channel.expect("connect"));
        let honest = group.member(leader).group().header(id, group.member(id).directory());
        let last_log_id = Some(openraft::testing::log_id::<TypeConfig>(99, leader.0, 9999));
        let mut vote = VoteRequest::<TypeConfig>::new(Vote::new(u64::MAX, leader.0), last_log_id);
        vote.leadership_transfer = true; // no lease stands against it
        let packed = |header: &wire::RaftHeader, vote: &VoteRequest<TypeConfig>| wire::RaftRequest {
            header: Some(header.clone()),
            body: postcard::to_allocvec(vote).expect("encode").into(),
            is_heartbeat: false,
        };
        let refusal = client.vote(packed(&honest, &vote)).await.unwrap_err();
        assert!(refusal.message().contains("too far above"), "{refusal}");
        vote.vote = Vote::new(99, 9);
        let stranger = wire::RaftHeader { from_member: 9, ..honest.clone() };
        let refusal = client.vote(packed(&stranger, &vote)).await.unwrap_err();
        assert!(refusal.message().contains("no member"), "{refusal}");
        vote.vote = Vote::new(99, leader.0);
        let elsewhere = wire::RaftHeader { from_directory: vec![7; 16].into(), ..honest.clone() };
        let refusal = client.vote(packed(&elsewhere, &vote)).await.unwrap_err();
        assert!(refusal.message().contains("data directory"), "{refusal}");
        let append = AppendEntriesRequest::<TypeConfig> {
            vote: Vote::new_committed(u64::MAX - 1, leader.0),
            prev_log_id: None,
            entries: Vec::new(),
            leader_commit: None,
        };
        let body = postcard::to_allocvec(&append).expect("encode").into();
        let request = wire::RaftRequest { header: Some(honest), body, is_heartbeat: false };
        let refusal = client.append_entries(request).await.unwrap_err();
        assert!(refusal.message().contains("too far above"), "{refusal}");
    }
    group.kill(leader).await;
    let next = group.leader().await;
    group.open_session(2).await;
    let term = group.member(next).leadership().borrow().term;
    assert!(term < 99, "the term is {term}");
}

/// An upgrade stops all members, because a member of another version would get entries that it cannot read or applies differently.
#[tokio::test(flavor = "multi_thread")]
async fn members_of_different_versions_refuse_each_other_with_a_line() {
    use dfs_net::services::raft_client::RaftClient;
    use openraft::raft::VoteRequest;

    use super::types::{FORMAT, TypeConfig, Vote};
    let group = TestGroup::start(3, 1000).await;
    let leader = group.leader().await;
    let id = group.addresses.keys().copied().find(|id| *id != leader).expect("there are three");
    let own = Identity { role: Role::Metaserver, id: leader.0, cluster: ClusterId::UNKNOWN };
    let expected = Identity { id: id.0, ..own };
    let channel = grpc::connect(&Env::real(), &group.addresses[&id], &own, &expected, PATIENCE).await;
    let mut client = RaftClient::new(channel.expect("connect"));
    let honest = group.member(leader).group().header(id, group.member(id).directory());
    for format in [u32::from(FORMAT) - 1, u32::from(FORMAT) + 1] {
        let line = format!("raft format {format} there, {FORMAT} here: update the older one");
        let greeting = wire::MemberGreeting { format, ..wire::MemberGreeting::default() };
        let refusal = client.introduce(greeting).await.unwrap_err();
        assert_eq!(refusal.message(), line);
        let vote = VoteRequest::<TypeConfig>::new(Vote::new(99, leader.0), None);
        let body = postcard::to_allocvec(&vote).expect("encode").into();
        let header = Some(wire::RaftHeader { format, ..honest.clone() });
        let request = wire::RaftRequest { header, body, is_heartbeat: false };
        let refusal = client.vote(request).await.unwrap_err();
        assert_eq!(refusal.message(), line);
    }
}

/// A member on a simulated disk, with a runtime of its own that can be switched off.
struct Machine {
    disk: SimulatedDisk,
    home: MemoryHome,
    power: Option<(Runtime, Consensus)>,
}

impl Machine {
    fn switch_on(&mut self, mut options: ConsensusOptions, listener: Box<dyn Listener>) {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
        let runtime = runtime.expect("a runtime");
        options.snapshot_entries = 40;
        options.keep_entries = 5;
        options.log = LogOptions { segment_len: 16 << 10, ..LogOptions::default() };
        let (disk, home) = (self.disk.clone(), self.home.clone());
        let started = runtime.spawn(serve(options, Arc::new(disk), Arc::new(home), listener));
        let running = futures::executor::block_on(started).expect("no panic").expect("start");
        std::mem::forget(running.stop); // it is never stopped gently
        self.power = Some((runtime, running.consensus));
    }

    /// A power failure: nothing runs any more, and what was not synced or flushed may be lost.
    fn switch_off(&mut self, rng: &Rng) {
        if let Some((runtime, _)) = self.power.take() {
            runtime.shutdown_timeout(PATIENCE);
        }
        self.disk.crash(rng);
        self.home.crash();
    }
}

#[test]
fn what_was_acknowledged_survives_the_power_failure_of_all_members_at_once() {
    let rng = Rng::seeded(11);
    let machine = || Machine {
        disk: SimulatedDisk::new(Duration::from_micros(100)),
        home: MemoryHome::default(),
        power: None,
    };
    let mut machines: BTreeMap<MemberId, Machine> = (1..=3).map(|id| (MemberId(id), machine())).collect();
    let outside = Runtime::new().expect("a runtime");
    let mut acknowledged = BTreeSet::new();
    let mut nonce = 0u128;
    for _ in 0..4 {
        let members = switch_on_all(&mut machines, &outside);
        let goal = acknowledged.len() + 60;
        let deadline = Instant::now() + PATIENCE;
        while acknowledged.len() < goal {
            assert!(Instant::now() < deadline, "{} of {goal} sessions in time", acknowledged.len());
            let opened = outside.block_on(open_some(&members, &mut nonce));
            acknowledged.extend(opened);
        }
        drop(members);
        // Some are on their way when the power fails.
        for machine in machines.values() {
            if let Some((runtime, consensus)) = &machine.power {
                for _ in 0..3 {
                    nonce += 1;
                    let (consensus, command) = (consensus.clone(), open_command(nonce));
                    runtime.spawn(async move { drop(consensus.propose(command).await) });
                }
            }
        }
        for machine in machines.values_mut() {
            machine.switch_off(&rng);
        }
    }
    let members = switch_on_all(&mut machines, &outside);
    let found = outside.block_on(async {
        loop {
            for member in &members {
                if let Ok(view) = member.read().await {
                    let sessions = dfs_state::read::sessions(&*view.snapshot());
                    return sessions
                        .into_iter()
                        .map(|(_, session)| session.nonce.0)
                        .collect::<BTreeSet<u128>>();
                }
            }
            sleep(Duration::from_millis(10)).await;
        }
    });
    let lost: Vec<&u128> = acknowledged.difference(&found).collect();
    assert!(lost.is_empty(), "acknowledged and lost: {lost:?}");
    for machine in machines.values_mut() {
        machine.switch_off(&rng);
    }
}

/// Starts all members, each time at other addresses.
fn switch_on_all(machines: &mut BTreeMap<MemberId, Machine>, outside: &Runtime) -> Vec<Consensus> {
    let listeners: Vec<Box<dyn Listener>> =
        machines.keys().map(|_| outside.block_on(listen("127.0.0.1:0"))).collect();
    let addresses: BTreeMap<MemberId, String> =
        machines.keys().copied().zip(listeners.iter().map(|listener| listener.local_address())).collect();
    for ((id, machine), listener) in machines.iter_mut().zip(listeners) {
        machine.switch_on(ConsensusOptions::new(*id, addresses[id].clone(), addresses.clone()), listener);
    }
    machines.values().filter_map(|machine| Some(machine.power.as_ref()?.1.clone())).collect()
}

fn open_command(nonce: u128) -> Command {
    Command::OpenSession { nonce: SessionNonce(nonce), client: "test".to_owned() }
}

/// Opens eight sessions at the same time at the leader. Returns the nonces of those that were acknowledged.
async fn open_some(members: &[Consensus], nonce: &mut u128) -> Vec<u128> {
    let Some(leader) = members.iter().find(|member| member.leadership().borrow().is_leader) else {
        sleep(Duration::from_millis(10)).await;
        return Vec::new();
    };
    let nonces: Vec<u128> = (1..=8).map(|n| *nonce + n).collect();
    *nonce += 8;
    let opening = nonces.iter().map(|nonce| leader.propose(open_command(*nonce)));
    let replies = futures::future::join_all(opening).await;
    let opened = nonces.into_iter().zip(replies);
    opened.filter(|(_, reply)| matches!(reply, Ok(Reply::SessionOpened(_)))).map(|(nonce, _)| nonce).collect()
}

/// A process that is the only metaserver of its cluster, and a member of the federation group.
struct Both {
    cluster: Consensus,
    federation: Consensus,
    stop: oneshot::Sender<()>,
    server: JoinHandle<()>,
}

async fn start_both(
    member: MemberId,
    addresses: BTreeMap<MemberId, String>,
    listener: Box<dyn Listener>,
) -> Both {
    let address = listener.local_address();
    let start = |options| {
        let disk = Arc::new(SimulatedDisk::new(Duration::from_micros(100)));
        Consensus::start(options, Env::real(), disk, Arc::new(MemoryHome::default()))
    };
    let alone = BTreeMap::from([(MemberId(1), address.clone())]);
    let cluster = start(ConsensusOptions::new(MemberId(1), address.clone(), alone)).await.expect("start");
    let mut options = ConsensusOptions::new(member, address, addresses);
    options.purpose = Purpose::Federation;
    let federation = start(options).await.expect("start");
    let routes = Routes::new(super::service(&[cluster.clone(), federation.clone()]));
    let identity =
        SharedIdentity::new(Identity { role: Role::Metaserver, id: 1, cluster: ClusterId::UNKNOWN });
    let named = identity.clone();
    let (stop, stopped) = oneshot::channel::<()>();
    let server = tokio::spawn(async move {
        let stopped = Box::pin(async move { drop(stopped.await) });
        grpc::serve(listener, routes, named, Admission::default(), stopped).await.expect("serve");
    });
    // As a running metaserver does: from here on it shows every caller whose it is.
    let made = cluster.cluster().wait_for(|cluster| cluster.is_known()).await.map(|cluster| *cluster);
    identity.set(Identity { cluster: made.expect("it runs"), ..identity.get() });
    Both { cluster, federation, stop, server }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_clusters_share_a_federation_group_over_the_ports_of_their_own() {
    let mut listeners = BTreeMap::new();
    for id in (1..=3).map(MemberId) {
        listeners.insert(id, listen("127.0.0.1:0").await);
    }
    let addresses: BTreeMap<MemberId, String> =
        listeners.iter().map(|(id, listener)| (*id, listener.local_address())).collect();
    let starting = listeners.into_iter().map(|(id, listener)| start_both(id, addresses.clone(), listener));
    let all: Vec<Both> = futures::future::join_all(starting).await;
    let clusters: BTreeSet<ClusterId> = all.iter().map(|both| *both.cluster.cluster().borrow()).collect();
    assert_eq!(clusters.len(), 3);
    let join = |both: &Both| {
        let entry = ClusterEntry { name: both.federation.status().own.to_string(), metaservers: Vec::new() };
        let cluster = *both.cluster.cluster().borrow();
        federation::Command::JoinCluster { cluster, entry }
    };
    for both in &all {
        let deadline = Instant::now() + PATIENCE;
        let mut joined = false;
        while !joined {
            for member in &all {
                joined |= matches!(member.federation.propose(join(both)).await, Ok(federation::Reply::Done));
            }
            assert!(Instant::now() < deadline, "a cluster did not join in time");
        }
    }
    let map_of = |both: &Both| dfs_state::federation::map(&*both.federation.stale_view().snapshot());
    let has_all = |both: &Both| map_of(both).is_some_and(|map| map.clusters.len() == 3);
    eventually(|| all.iter().all(has_all), "every member has the whole map").await;
    for both in &all {
        let own = both.cluster.stale_view();
        assert_eq!(dfs_state::federation::id(&*own.snapshot()), None, "a cluster's state holds none of it");
        assert_eq!(both.cluster.members().len(), 1);
        assert_eq!(both.federation.members().len(), 3);
    }
    for both in all {
        both.federation.shutdown().await;
        both.cluster.shutdown().await;
        let _ = both.stop.send(());
        drop((both.cluster, both.federation));
        timeout(PATIENCE, both.server).await.expect("its calls end").expect("the server ends");
    }
}
