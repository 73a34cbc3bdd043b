//! The whole system under a simulated clock, network and disks: three metaservers, three chunkservers, several clients
//! that walk at random, and faults. One seed is one run; the same seed is the same run. One seed in four has two clusters
//! under one root directory instead, and a client that makes, renames and removes volumes.
//!
//! Fault model, drawn from the seed:
//! * crash: a server's tasks vanish between two ticks; its log disk, chunk disk and Kv keep what was synced or flushed, and
//!   of the rest what chance leaves; it starts again within seconds. At most one metaserver and one chunkserver at a time,
//!   or all of them at once: a power failure. Each run ends with one, right after the last close.
//! * such a crash of a metaserver in the first write of a segment of its Raft log, which is torn; some crashes leave one torn
//!   whenever they fall. Segments are short and
//!   snapshots frequent, so that logs are purged and their files recycled.
//! * a file of a metaserver's directory, its stamp or the name of its state, is missing when it starts: it refuses, and is
//!   started again with the file.
//! * a link between two hosts (clients too) is cut both ways or one way, or hangs: what is sent arrives much later. One
//!   way means that requests are executed and their replies lost.
//! * a metaserver, mostly the leader, is cut off from the others and not from clients.
//! * the log disks of all metaservers are slow for a while, 1.6 s a sync, in one seed of eight. Nothing else is broken then, and
//!   clients have less patience than it lasts.
//! * a cut link loses segments, and TCP here does not send them again: such a connection hangs, also afterwards.
//! * a client's process dies (not one that walks: what that saw is the measure), and another takes its place. Its session
//!   expires.
//! * the wall clock of a metaserver, mostly the leader, or of a client, or of all metaservers at once (as of one machine), is
//!   stepped by seconds to years, and back some seconds later.
//!
//! Clocks run at one rate, and no machine sleeps. What is checked: every answer equals the model's (waiting is allowed, errors
//! are not); another client sees what was closed or synced, and at the end, after the power failure, a fresh one sees every
//! byte; times of files are right again when the clocks are (`clocks`); no task panics; and what `judge` says about the disks.
//! Of changes of volumes an error is allowed, because they need several quorums (P9.4): they are repeated, and must have
//! happened once.

mod clocks;
mod faults;
mod judge;
mod missing;
mod mortal;
mod net;
mod volumes;

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, SystemTime};

use dfs_chunkserver::disk::MemoryDisk;
use dfs_chunkserver::machine::{FixedMachine, MachineLoad};
use dfs_chunkserver::workers::Workers;
use dfs_client::inode::{Client, Lookup};
use dfs_client::{ClientConfig, ClientError};
use dfs_metaserver::config::{BootstrapMember, Settings};
use dfs_metaserver::raft::Consensus;
use dfs_metaserver::raft::log::disk::SimulatedDisk;
use dfs_metaserver::{GroupStorage, Storage};
use dfs_net::env::{Env, Rng};
use dfs_proto::attr::{Caller, Name};
use dfs_proto::ids::InodeId;
use dfs_proto::meta::{Create, NewInode};
use dfs_state::kv::memory::MemoryHome;
use serde::{Deserialize, Serialize};

use crate::walk::Walker;
use clocks::WallClocks;
use faults::Faults;
use judge::{Found, Judge};
use mortal::Promise;
use net::SimNet;

/// Of each cluster.
const METASERVERS: usize = 3;
/// The host of the client that dies.
const MORTAL: &str = "x1";
/// The host of the client that makes volumes.
const VOLUMES: &str = "v1";
const GRPC_PORT: u16 = 7000;
const LOG_SEGMENT_KIB: u64 = 4;
/// One crash of a metaserver in so many leaves the first write of a segment torn.
const TORN_ONE_IN: u64 = 4;
/// One start of a metaserver in so many is tried without a file of its directory first.
const MISSING_ONE_IN: u64 = 4;
const FRAMES_PORT: u16 = 7101;
/// Of a log disk.
const SYNC_TIME: Duration = Duration::from_millis(1);
/// Between two looks at the metaservers' states while clients walk: each costs a pass over all of them.
const LOOK_INTERVAL: Duration = Duration::from_secs(2);
/// How long the last power failure lasts, and how soon all metaservers must agree after it.
const LAST_BLACKOUT: Duration = Duration::from_secs(1);
const AGREEMENT_DEADLINE: Duration = Duration::from_secs(60);
/// Between two looks of a client whether the last power failure is over, and between two tries of a change of volumes.
const OVER_INTERVAL: Duration = Duration::from_millis(50);

/// Which servers there are: `m1`, `m2`, … and `c1`, `c2`, …, counted over all clusters. Metaservers are named by their index
/// from 0, Raft groups by the index of their cluster, or the number of clusters for the federation group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Layout {
    pub clusters: usize,
    /// Of each cluster.
    pub chunkservers: usize,
}

impl Layout {
    const ALONE: Layout = Layout { clusters: 1, chunkservers: 3 };
    const FEDERATION: Layout = Layout { clusters: 2, chunkservers: 2 };

    fn has_federation(self) -> bool {
        self.clusters > 1
    }

    fn metaservers(self) -> usize {
        self.clusters * METASERVERS
    }

    fn all_chunkservers(self) -> usize {
        self.clusters * self.chunkservers
    }

    /// The members of the federation group, spread over the clusters.
    fn seats(self) -> Vec<usize> {
        let rounds = (0..METASERVERS).flat_map(|id| (0..self.clusters).map(move |of| of * METASERVERS + id));
        if self.has_federation() { rounds.take(3).collect() } else { Vec::new() }
    }

    fn groups(self) -> usize {
        self.clusters + usize::from(self.has_federation())
    }

    fn members(self, group: usize) -> Vec<usize> {
        if group == self.clusters { self.seats() } else { members_of(group).collect() }
    }
}

fn members_of(cluster: usize) -> Range<usize> {
    cluster * METASERVERS..(cluster + 1) * METASERVERS
}

/// What one run is made of.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    pub seed: u64,
    pub walkers: usize,
    pub operations_each: u64,
    pub layout: Layout,
    /// Longest pause of a walker between two operations: spreads them over the faults.
    pub pause_max: Duration,
    /// Once, for a while.
    pub has_slow_logs: bool,
}

impl Plan {
    /// One seed in eight takes its time, so that chunks that died are deleted (P10.4) while clients walk.
    pub fn of_seed(seed: u64) -> Plan {
        let pause_max = Duration::from_millis(if seed.is_multiple_of(8) { 3000 } else { 400 });
        let layout = if seed % 4 == 3 { Layout::FEDERATION } else { Layout::ALONE };
        let has_slow_logs = seed % 8 == 5;
        Plan { seed, walkers: 3, operations_each: 110, layout, pause_max, has_slow_logs }
    }

    /// Of clients, for one answer: long enough for any fault of the model, then an error is a bug.
    fn patience(self) -> Duration {
        Duration::from_secs(if self.has_slow_logs { 30 } else { 60 })
    }
}

/// What one run saw. `trace` covers every operation and fault with its time: equal traces mean equal runs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Totals {
    pub operations: u64,
    pub bytes_written: u64,
    /// Made, renamed and removed.
    pub volume_changes: u64,
    /// A power failure is one, and its crashes are not.
    pub faults: u64,
    pub crashes: u64,
    /// Crashes of a metaserver in the first write of a segment of its Raft log.
    pub torn_segments: u64,
    /// Starts of a metaserver without a file of its directory.
    pub starts_refused: u64,
    /// Segments that began in a file which a purge had left.
    pub recycled_segments: u64,
    /// Crashes of everything at once, whose crashes are counted too.
    pub blackouts: u64,
    /// Both ways.
    pub partitions: u64,
    /// A metaserver, mostly the leader, from both others.
    pub isolations: u64,
    /// Replies are lost after execution.
    pub one_way_cuts: u64,
    pub hung_links: u64,
    pub slow_logs: u64,
    pub client_crashes: u64,
    /// Wall clocks, there and back.
    pub clock_steps: u64,
    pub leader_changes: u64,
    /// As seen: at least so many.
    pub snapshots_installed: u64,
    /// Crashes of a chunkserver: copies that lost what was not synced.
    pub replica_losses: u64,
    /// Copies of chunks that were read whole at the end, each on its server.
    pub copies_read: u64,
    pub chunks_deleted: u64,
    pub longest_stall_ms: u64,
    pub simulated_ms: u64,
    pub trace: u64,
}

/// What the hosts share with the driver outside.
struct Shared {
    seed: u64,
    clocks: WallClocks,
    /// All clusters have joined, and whoever walks may begin.
    is_whole: AtomicBool,
    walking: AtomicUsize,
    /// The last power failure is over: what is left is everything.
    is_over: AtomicBool,
    totals: Mutex<Totals>,
    /// Who led in each group and term, by index.
    leaders: Mutex<BTreeMap<(usize, u64), usize>>,
    promises: Mutex<Vec<Promise>>,
}

/// FNV-1a over times and events: enough to tell two runs apart.
fn mix(trace: u64, words: &[u64]) -> u64 {
    words.iter().fold(trace, |trace, word| (trace ^ word).wrapping_mul(0x0000_0100_0000_01b3))
}

impl Shared {
    fn note(&self, walker: u64, operation: u64) {
        let at = turmoil::sim_elapsed().unwrap_or_default().as_nanos() as u64;
        let mut totals = self.totals();
        totals.trace = mix(totals.trace, &[walker, operation, at]);
    }

    /// The caller counts it by its kind.
    fn note_fault(&self, sim: &turmoil::Sim<'_>, kind: u64) -> MutexGuard<'_, Totals> {
        let mut totals = self.totals();
        totals.trace = mix(totals.trace, &[1000 + kind, sim.elapsed().as_nanos() as u64]);
        totals.faults += 1;
        totals
    }

    fn leaders(&self) -> MutexGuard<'_, BTreeMap<(usize, u64), usize>> {
        self.leaders.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    fn promises(&self) -> MutexGuard<'_, Vec<Promise>> {
        self.promises.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// The metaserver that led the group last, as far as anybody knows.
    fn leader(&self, group: usize) -> Option<usize> {
        self.leaders().range((group, 0)..=(group, u64::MAX)).next_back().map(|(_, index)| *index)
    }

    async fn wait_whole(&self) {
        while !self.is_whole.load(Ordering::SeqCst) {
            tokio::time::sleep(OVER_INTERVAL).await;
        }
    }

    fn totals(&self) -> MutexGuard<'_, Totals> {
        self.totals.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

/// Each start of each host draws from a stream of its own.
fn env(shared: &Shared, host: u64, start: u64) -> Env {
    let rng = Rng::seeded(shared.seed ^ host.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ (start << 32));
    Env { clock: shared.clocks.of_host(host), rng, net: Arc::new(SimNet) }
}

/// Numbers of hosts, for what each has of its own.
const METASERVER_HOSTS: u64 = 100;
const CHUNKSERVER_HOSTS: u64 = 200;
const WALKER_HOSTS: u64 = 300;
const MORTAL_HOST: u64 = 400;
const VOLUMES_HOST: u64 = 500;

fn metaserver_name(index: usize) -> String {
    format!("m{}", index + 1)
}

fn metaserver_addresses(indexes: impl IntoIterator<Item = usize>) -> Vec<String> {
    indexes.into_iter().map(|index| format!("{}:{GRPC_PORT}", metaserver_name(index))).collect()
}

/// What a member of a group keeps.
#[derive(Clone)]
struct GroupDisks {
    log: SimulatedDisk,
    state: MemoryHome,
}

impl GroupDisks {
    fn new() -> GroupDisks {
        GroupDisks { log: SimulatedDisk::new(SYNC_TIME), state: MemoryHome::default() }
    }

    fn storage(&self) -> GroupStorage {
        GroupStorage { log: Arc::new(self.log.clone()), state: Arc::new(self.state.clone()) }
    }

    fn crash(&self, rng: &Rng) {
        self.log.crash(rng);
        if rng.below(TORN_ONE_IN) == 0 {
            self.log.tear_next_segment();
        }
        self.state.crash();
    }
}

/// The disks that outlive their hosts.
pub(crate) struct Disks {
    layout: Layout,
    clusters: Vec<GroupDisks>,
    /// Of the federation group's members.
    seats: BTreeMap<usize, GroupDisks>,
    chunks: Vec<MemoryDisk>,
}

impl Disks {
    fn new(layout: Layout) -> Disks {
        Disks {
            layout,
            clusters: (0..layout.metaservers()).map(|_| GroupDisks::new()).collect(),
            seats: layout.seats().into_iter().map(|index| (index, GroupDisks::new())).collect(),
            chunks: (0..layout.all_chunkservers()).map(|_| MemoryDisk::new(8 << 30)).collect(),
        }
    }

    /// The members of a group and what they keep.
    fn of_group(&self, group: usize) -> Vec<(usize, &GroupDisks)> {
        let part = |index| match group == self.layout.clusters {
            true => &self.seats[&index],
            false => &self.clusters[index],
        };
        self.layout.members(group).into_iter().map(|index| (index, part(index))).collect()
    }

    /// Of the log disks of all metaservers, from now on.
    fn set_sync_time(&self, sync_time: Duration) {
        self.clusters.iter().chain(self.seats.values()).for_each(|disks| disks.log.set_sync_time(sync_time));
    }

    fn groups_of(&self, index: usize) -> impl Iterator<Item = &GroupDisks> {
        [Some(&self.clusters[index]), self.seats.get(&index)].into_iter().flatten()
    }

    fn is_beginning_segment(&self, index: usize) -> bool {
        self.groups_of(index).any(|group| group.log.is_beginning_segment())
    }

    fn recycled_segments(&self) -> u64 {
        self.clusters.iter().chain(self.seats.values()).map(|group| group.log.recycled()).sum()
    }

    fn crash_metaserver(&self, index: usize, rng: &Rng) {
        self.groups_of(index).for_each(|group| group.crash(rng));
    }
}

/// Counts panics of any task: tokio keeps those of spawned tasks from reaching anybody.
fn count_panics() -> Arc<AtomicUsize> {
    let panics = Arc::new(AtomicUsize::new(0));
    let (counted, before) = (panics.clone(), std::panic::take_hook());
    std::panic::set_hook(Box::new(move |info| {
        counted.fetch_add(1, Ordering::SeqCst);
        before(info);
    }));
    panics
}

/// Runs one seed to its end; panics where the system breaks a promise. In a process of its own.
pub fn run(plan: Plan) -> Totals {
    let panics = count_panics();
    let disks = Disks::new(plan.layout);
    let totals = simulate(plan, &disks);
    // The last servers are gone now: nothing that was promised may hang on what was not synced.
    let rng = Rng::seeded(plan.seed.wrapping_add(2));
    for disk in &disks.chunks {
        disk.crash(&rng);
    }
    let Found { copies_read, chunks_deleted } = judge::verdict(&disks);
    assert_eq!(panics.load(Ordering::SeqCst), 0, "tasks have panicked, see above");
    Totals { copies_read, chunks_deleted, ..totals }
}

fn simulate(plan: Plan, disks: &Disks) -> Totals {
    let mut sim = turmoil::Builder::new()
        .rng_seed(plan.seed)
        .epoch(SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000))
        .simulation_duration(Duration::from_secs(1200))
        .tick_duration(Duration::from_millis(2))
        .min_message_latency(Duration::from_micros(100))
        .max_message_latency(Duration::from_millis(3))
        .tcp_capacity(1 << 16)
        .build();
    let shared = Arc::new(Shared {
        seed: plan.seed,
        clocks: WallClocks::default(),
        is_whole: AtomicBool::new(!plan.layout.has_federation()),
        walking: AtomicUsize::new(plan.walkers),
        is_over: AtomicBool::new(false),
        totals: Mutex::default(),
        leaders: Mutex::default(),
        promises: Mutex::default(),
    });
    for index in 0..plan.layout.metaservers() {
        add_metaserver(&mut sim, &shared, disks, index);
    }
    for index in 0..plan.layout.all_chunkservers() {
        add_chunkserver(&mut sim, &shared, disks, index);
    }
    if plan.layout.has_federation() {
        add_volumes(&mut sim, &shared, plan);
    }
    for index in 0..plan.walkers {
        add_walker(&mut sim, &shared, plan, index);
    }
    add_mortal(&mut sim, &shared, plan);
    let snapshots_installed = drive(&mut sim, plan, disks, &shared);
    let simulated_ms = sim.elapsed().as_millis() as u64;
    let leader_changes = (shared.leaders().len() as u64).saturating_sub(plan.layout.groups() as u64);
    let recycled_segments = disks.recycled_segments();
    Totals { simulated_ms, leader_changes, snapshots_installed, recycled_segments, ..*shared.totals() }
}

/// Faults while clients walk; a power failure; everything is read again; the metaservers agree. Answers how many snapshots
/// were installed.
fn drive(sim: &mut turmoil::Sim<'_>, plan: Plan, disks: &Disks, shared: &Shared) -> u64 {
    let mut judge = Judge::default();
    let step = |sim: &mut turmoil::Sim<'_>| match sim.step() {
        Ok(is_done) => is_done,
        Err(error) => panic!("seed {}: {error}", plan.seed),
    };
    let mut faults = Faults::new(Rng::seeded(plan.seed.wrapping_add(1)), plan);
    let mut next_look = LOOK_INTERVAL;
    while shared.walking.load(Ordering::SeqCst) > 0 {
        if shared.is_whole.load(Ordering::SeqCst) {
            faults.tick(sim, disks, shared);
        }
        step(sim);
        if sim.elapsed() >= next_look {
            judge.look(disks, sim.elapsed());
            next_look += LOOK_INTERVAL;
        }
    }
    faults.last_blackout(sim, disks, shared);
    let until = sim.elapsed() + LAST_BLACKOUT;
    while sim.elapsed() < until {
        step(sim);
    }
    faults.end_blackout(sim, disks, shared);
    shared.is_over.store(true, Ordering::SeqCst);
    while !step(sim) {}
    let until = sim.elapsed() + AGREEMENT_DEADLINE;
    while let Err(what) = judge.agreement(disks, sim.elapsed()) {
        assert!(sim.elapsed() < until, "{what}");
        for _ in 0..50 {
            step(sim);
        }
    }
    judge.snapshots_installed
}

fn add_metaserver(sim: &mut turmoil::Sim<'_>, shared: &Arc<Shared>, disks: &Disks, index: usize) {
    let (own, seat, shared) =
        (disks.clusters[index].clone(), disks.seats.get(&index).cloned(), shared.clone());
    let (layout, cluster) = (disks.layout, index / METASERVERS);
    let starts = Arc::new(AtomicUsize::new(0));
    sim.host(metaserver_name(index).as_str(), move || {
        let (own, seat) = (own.clone(), seat.clone());
        let cluster_disks = own.clone();
        let storage = move || Storage {
            cluster: cluster_disks.storage(),
            federation: seat.as_ref().map(GroupDisks::storage),
        };
        let start = starts.fetch_add(1, Ordering::SeqCst) as u64;
        let env = env(&shared, METASERVER_HOSTS + index as u64, start);
        let members = |indexes: Vec<usize>| -> Vec<BootstrapMember> {
            let numbered = metaserver_addresses(indexes).into_iter().zip(1..);
            numbered.map(|(address, id)| BootstrapMember { id, address }).collect()
        };
        let seats = layout.seats();
        let settings = Settings {
            id: Some((index % METASERVERS) as u64 + 1),
            cluster: Some(format!("cluster{}", cluster + 1)),
            data: Some("simulated".into()),
            listen: Some(format!("0.0.0.0:{GRPC_PORT}")),
            advertise: Some(metaserver_addresses([index]).concat()),
            http: Some(String::new()),
            bootstrap: Some(members(members_of(cluster).collect())),
            federation_members: layout.has_federation().then(|| members(seats.clone())),
            federation_id: seats.iter().position(|seat| *seat == index).map(|at| at as u64 + 1),
            // Small, so that snapshots are taken, sent and installed within a run.
            snapshot_every_logs: Some(100),
            // A few entries each, so that purges leave files and new segments begin in them.
            log_segment_kib: Some(LOG_SEGMENT_KIB),
            // Longer than any fault keeps a client from its leader: those that walk lose no session.
            session_expiry_ms: Some(45_000),
            ..Settings::default()
        };
        let shared = shared.clone();
        async move {
            let config = dfs_metaserver::config::Config::validate(settings)?;
            let is_tried = start > 0 && env.rng.below(MISSING_ONE_IN) == 0;
            if is_tried && missing::is_refused(config.clone(), env.clone(), storage(), &own).await {
                shared.totals().starts_refused += 1;
            }
            let running = dfs_metaserver::start(config, env, storage()).await?;
            watch_leaders(running.consensus(), &shared, cluster, layout.members(cluster));
            if let Some(member) = running.federation() {
                watch_leaders(member, &shared, layout.clusters, seats);
            }
            running.run_until(Box::pin(std::future::pending())).await?;
            Ok(())
        }
    });
}

/// Notes who leads a group; `members` are its numbers' indexes. No term has two leaders.
fn watch_leaders(consensus: &Consensus, shared: &Arc<Shared>, group: usize, members: Vec<usize>) {
    let (mut leadership, shared) = (consensus.leadership(), shared.clone());
    tokio::spawn(async move {
        while leadership.changed().await.is_ok() {
            let now = leadership.borrow_and_update().clone();
            let Some(leader) = now.leader else { continue };
            let index = members[leader.0 as usize - 1];
            let before = shared.leaders().insert((group, now.term), index);
            let is_one = before.is_none_or(|before| before == index);
            assert!(is_one, "two leaders of group {group} in term {}", now.term);
        }
    });
}

fn add_chunkserver(sim: &mut turmoil::Sim<'_>, shared: &Arc<Shared>, disks: &Disks, index: usize) {
    let (disk, shared) = (disks.chunks[index].clone(), shared.clone());
    let starts = Arc::new(AtomicUsize::new(0));
    let cluster = index / disks.layout.chunkservers;
    let name = format!("c{}", index + 1);
    sim.host(name.as_str(), move || {
        let start = starts.fetch_add(1, Ordering::SeqCst) as u64;
        let env = env(&shared, CHUNKSERVER_HOSTS + index as u64, start);
        let mut config = dfs_chunkserver::config::Config::default();
        config.federation.metaservers = metaserver_addresses(members_of(cluster));
        config.chunkserver = dfs_chunkserver::config::Section {
            data: "/data".into(),
            listen: "0.0.0.0:7100".to_owned(),
            advertise: format!("c{}:7100", index + 1),
            frames_listen: format!("0.0.0.0:{FRAMES_PORT}"),
            frames_advertise: format!("c{}:{FRAMES_PORT}", index + 1),
            http: String::new(),
            ..config.chunkserver
        };
        let machine = FixedMachine(MachineLoad { cpu_percent: 10, ..MachineLoad::default() });
        let seams = dfs_chunkserver::Seams {
            disk: Arc::new(disk.clone()),
            machine: Arc::new(Mutex::new(machine)),
            io: Workers::inline(),
            syncs: Workers::inline(),
            descriptors: 20_000,
        };
        async move {
            let (_stop, stopped) = tokio::sync::watch::channel(false);
            dfs_chunkserver::start(config, env, seams).await?.run(stopped).await?;
            Ok(())
        }
    });
}

fn client_config(name: &str, plan: Plan) -> ClientConfig {
    ClientConfig {
        metaservers: metaserver_addresses(0..plan.layout.metaservers()),
        name: name.to_owned(),
        metadata_timeout: plan.patience(),
        data_timeout: plan.patience(),
        ..ClientConfig::default()
    }
}

fn add_walker(sim: &mut turmoil::Sim<'_>, shared: &Arc<Shared>, plan: Plan, index: usize) {
    let shared = shared.clone();
    let name = format!("w{}", index + 1);
    sim.client(name.clone().as_str(), async move {
        let env = env(&shared, WALKER_HOSTS + index as u64, 0);
        let rng = env.rng.clone();
        shared.wait_whole().await;
        let client = Client::connect(client_config(&name, plan), env.clone()).await?;
        let peer = Client::connect(client_config("peer", plan), env.clone()).await?;
        let directory = directory(&client, plan.layout, &name).await;
        let mut walker = Walker::start(client.clone(), peer.clone(), rng.clone(), &name, directory);
        while walker.walked.operations < plan.operations_each {
            let operation = walker.step().await;
            shared.note(index as u64, operation);
            tokio::time::sleep(Duration::from_micros(rng.below(plan.pause_max.as_micros() as u64))).await;
        }
        walker.finish().await;
        {
            let mut totals = shared.totals();
            totals.operations += walker.walked.operations;
            totals.bytes_written += walker.walked.bytes_written;
            let stall = walker.walked.longest_stall.as_millis() as u64;
            totals.longest_stall_ms = totals.longest_stall_ms.max(stall);
        }
        shared.walking.fetch_sub(1, Ordering::SeqCst);
        while !shared.is_over.load(Ordering::SeqCst) {
            tokio::time::sleep(OVER_INTERVAL).await;
        }
        let reader = Client::connect(client_config("reader", plan), env).await?;
        walker.compare_as(&reader).await;
        clocks::check(&client, directory).await;
        if index == 0 {
            let promises = shared.promises().clone();
            mortal::check(&reader, plan.layout, &promises).await;
        }
        let lost = client.shutdown(Duration::from_secs(60)).await;
        assert!(lost.is_empty(), "{name}: not written at shutdown: {lost:?}");
        peer.shutdown(Duration::from_secs(60)).await;
        reader.shutdown(Duration::from_secs(60)).await;
        Ok(())
    });
}

/// The directory of that name in the root; made if it is not there. In a federation that may take several tries (P9.4).
async fn directory(client: &Client, layout: Layout, name: &str) -> InodeId {
    let wanted = Name::new(name).unwrap_or_else(|bad| panic!("{name}: {bad:?}"));
    loop {
        let lookup = Lookup { parent: InodeId::ROOT, name: name.into() };
        let found = match client.perform(&Caller::ROOT, lookup).await {
            Err(ClientError::NotFound) => {
                let create = Create {
                    parent: InodeId::ROOT,
                    name: wanted.clone(),
                    mode: 0o755,
                    what: NewInode::Directory,
                    or_existing: false,
                    opens: false,
                };
                client.perform(&Caller::ROOT, create).await.map(|made| made.attr)
            }
            found => found,
        };
        match found {
            Ok(attr) => return attr.inode,
            Err(ClientError::Exists) => {} // made by an earlier try
            Err(ClientError::Unavailable { .. }) if layout.has_federation() => {
                tokio::time::sleep(OVER_INTERVAL).await;
            }
            Err(error) => panic!("make {name}: {error}"),
        }
    }
}

fn add_volumes(sim: &mut turmoil::Sim<'_>, shared: &Arc<Shared>, plan: Plan) {
    let shared = shared.clone();
    sim.client(VOLUMES, async move {
        let env = env(&shared, VOLUMES_HOST, 0);
        volumes::join(&env, plan.layout).await;
        shared.is_whole.store(true, Ordering::SeqCst);
        let client = Client::connect(client_config(VOLUMES, plan), env.clone()).await?;
        let is_over = || shared.walking.load(Ordering::SeqCst) == 0;
        let made = volumes::live(&client, &env.rng, is_over).await;
        shared.totals().volume_changes = made.changes;
        while !shared.is_over.load(Ordering::SeqCst) {
            tokio::time::sleep(OVER_INTERVAL).await;
        }
        let reader = Client::connect(client_config("reader", plan), env).await?;
        made.check(reader.clone()).await;
        for client in [client, reader] {
            let lost = client.shutdown(Duration::from_secs(60)).await;
            assert!(lost.is_empty(), "{VOLUMES}: not written at shutdown: {lost:?}");
        }
        Ok(())
    });
}

fn add_mortal(sim: &mut turmoil::Sim<'_>, shared: &Arc<Shared>, plan: Plan) {
    let shared = shared.clone();
    let lives = Arc::new(AtomicUsize::new(0));
    sim.host(MORTAL, move || {
        let (shared, life) = (shared.clone(), lives.fetch_add(1, Ordering::SeqCst));
        let env = env(&shared, MORTAL_HOST, life as u64);
        async move {
            let rng = env.rng.clone();
            shared.wait_whole().await;
            let client = Client::connect(client_config(MORTAL, plan), env).await?;
            let is_over = || shared.walking.load(Ordering::SeqCst) == 0;
            let directory = mortal::directory(&client, plan.layout).await;
            let promise = |promise| shared.promises().push(promise);
            mortal::live(client, directory, rng, life, is_over, promise).await;
            std::future::pending().await
        }
    });
}
