//! The whole system under a simulated clock, network and disks: three metaservers, three chunkservers, several clients
//! that walk at random, and faults. One seed is one run; the same seed is the same run.
//!
//! Fault model, drawn from the seed:
//! * crash: a server's tasks vanish between two ticks; its log disk, chunk disk and Kv keep what was synced or flushed, and
//!   of the rest what chance leaves; it starts again within seconds. At most one metaserver and one chunkserver at a time,
//!   or all of them at once: a power failure. Each run ends with one, right after the last close.
//! * a link between two hosts (clients too) is cut both ways or one way, or hangs: what is sent arrives much later. One
//!   way means that requests are executed and their replies lost.
//! * a metaserver, mostly the leader, is cut off from the others and not from clients.
//! * a cut link loses segments, and TCP here does not send them again: such a connection hangs, also afterwards.
//!
//! * a client's process dies (not one that walks: what that saw is the measure), and another takes its place. Its session
//!   expires.
//!
//! Clocks run at one rate. What is checked: every answer equals the model's (waiting is allowed, errors are not); another
//! client sees what was closed or synced, and at the end, after the power failure, a fresh one sees every byte; no task
//! panics; and what `judge` says about the disks.

mod faults;
mod judge;
mod mortal;
mod net;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, SystemTime};

use dfs_chunkserver::disk::MemoryDisk;
use dfs_chunkserver::machine::{FixedMachine, MachineLoad};
use dfs_chunkserver::workers::Workers;
use dfs_client::{Client, ClientConfig};
use dfs_metaserver::config::{BootstrapMember, Settings};
use dfs_metaserver::kv::memory::MemoryHome;
use dfs_metaserver::raft::log_disk::SimulatedDisk;
use dfs_metaserver::{GroupStorage, Storage};
use dfs_proto::attr::Timestamp;
use dfs_proto::env::{Clock, Env, Rng};
use serde::{Deserialize, Serialize};

use crate::walk::Walker;
use faults::Faults;
use judge::{Found, Judge};
use mortal::Promise;
use net::SimNet;

const METASERVERS: usize = 3;
const CHUNKSERVERS: usize = 3;
/// The host of the client that dies.
const MORTAL: &str = "x1";
const GRPC_PORT: u16 = 7000;
const FRAMES_PORT: u16 = 7101;
/// Between two looks at the metaservers' states while clients walk: each costs a pass over all of them.
const LOOK_INTERVAL: Duration = Duration::from_secs(2);
/// How long the last power failure lasts, and how soon all metaservers must agree after it.
const LAST_BLACKOUT: Duration = Duration::from_secs(1);
const AGREEMENT_DEADLINE: Duration = Duration::from_secs(60);
/// Between two looks of a client whether the last power failure is over.
const OVER_INTERVAL: Duration = Duration::from_millis(50);

/// What one run is made of.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    pub seed: u64,
    pub walkers: usize,
    pub operations_each: u64,
    /// Longest pause of a walker between two operations: spreads them over the faults.
    pub pause_max: Duration,
}

impl Plan {
    /// One seed in eight takes its time, so that chunks that died are deleted (P10.4) while clients walk.
    pub fn of_seed(seed: u64) -> Plan {
        let pause_max = Duration::from_millis(if seed.is_multiple_of(8) { 3000 } else { 400 });
        Plan { seed, walkers: 3, operations_each: 110, pause_max }
    }
}

/// What one run saw. `trace` covers every operation and fault with its time: equal traces mean equal runs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Totals {
    pub operations: u64,
    pub bytes_written: u64,
    /// A power failure is one, and its crashes are not.
    pub faults: u64,
    pub crashes: u64,
    /// Crashes of everything at once, whose crashes are counted too.
    pub blackouts: u64,
    /// Both ways.
    pub partitions: u64,
    /// A metaserver, mostly the leader, from both others.
    pub isolations: u64,
    /// Replies are lost after execution.
    pub one_way_cuts: u64,
    pub hung_links: u64,
    pub client_crashes: u64,
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
    walking: AtomicUsize,
    /// The last power failure is over: what is left is everything.
    is_over: AtomicBool,
    totals: Mutex<Totals>,
    /// Who led in each term, by index.
    leaders: Mutex<BTreeMap<u64, usize>>,
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

    fn leaders(&self) -> MutexGuard<'_, BTreeMap<u64, usize>> {
        self.leaders.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    fn promises(&self) -> MutexGuard<'_, Vec<Promise>> {
        self.promises.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// The metaserver that led last, as far as anybody knows.
    fn leader(&self) -> Option<usize> {
        self.leaders().last_key_value().map(|(_, index)| *index)
    }

    fn totals(&self) -> MutexGuard<'_, Totals> {
        self.totals.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

/// Simulated wall-clock time: all hosts agree.
struct SimClock;

impl Clock for SimClock {
    fn now(&self) -> Timestamp {
        let since = turmoil::since_epoch().unwrap_or_default();
        Timestamp { seconds: since.as_secs() as i64, nanos: since.subsec_nanos() }
    }
}

/// Each start of each host draws from a stream of its own.
fn env(seed: u64, host: u64, start: u64) -> Env {
    let rng = Rng::seeded(seed ^ host.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ (start << 32));
    Env { clock: Arc::new(SimClock), rng, net: Arc::new(SimNet) }
}

fn metaserver_names() -> Vec<String> {
    (1..=METASERVERS).map(|n| format!("m{n}")).collect()
}

fn metaserver_addresses() -> Vec<String> {
    metaserver_names().iter().map(|name| format!("{name}:{GRPC_PORT}")).collect()
}

/// The disks that outlive their hosts.
pub(crate) struct Disks {
    logs: Vec<SimulatedDisk>,
    states: Vec<MemoryHome>,
    chunks: Vec<MemoryDisk>,
}

impl Disks {
    fn new() -> Disks {
        Disks {
            logs: (0..METASERVERS).map(|_| SimulatedDisk::new(Duration::from_millis(1))).collect(),
            states: (0..METASERVERS).map(|_| MemoryHome::default()).collect(),
            chunks: (0..CHUNKSERVERS).map(|_| MemoryDisk::new(8 << 30)).collect(),
        }
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
    let disks = Disks::new();
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
        walking: AtomicUsize::new(plan.walkers),
        is_over: AtomicBool::new(false),
        totals: Mutex::default(),
        leaders: Mutex::default(),
        promises: Mutex::default(),
    });
    for index in 0..METASERVERS {
        add_metaserver(&mut sim, &shared, disks, index);
    }
    for index in 0..CHUNKSERVERS {
        add_chunkserver(&mut sim, &shared, disks, index);
    }
    for index in 0..plan.walkers {
        add_walker(&mut sim, &shared, plan, index);
    }
    add_mortal(&mut sim, &shared, plan);
    let snapshots_installed = drive(&mut sim, plan, disks, &shared);
    let simulated_ms = sim.elapsed().as_millis() as u64;
    let leader_changes = (shared.leaders().len() as u64).saturating_sub(1);
    Totals { simulated_ms, leader_changes, snapshots_installed, ..*shared.totals() }
}

/// Faults while clients walk; a power failure; everything is read again; the metaservers agree. Answers how many snapshots
/// were installed.
fn drive(sim: &mut turmoil::Sim<'_>, plan: Plan, disks: &Disks, shared: &Shared) -> u64 {
    let mut judge = Judge::default();
    let step = |sim: &mut turmoil::Sim<'_>| match sim.step() {
        Ok(is_done) => is_done,
        Err(error) => panic!("seed {}: {error}", plan.seed),
    };
    let mut faults = Faults::new(Rng::seeded(plan.seed.wrapping_add(1)), plan.walkers);
    let mut next_look = LOOK_INTERVAL;
    while shared.walking.load(Ordering::SeqCst) > 0 {
        faults.tick(sim, disks, shared);
        step(sim);
        if sim.elapsed() >= next_look {
            judge.look(disks);
            next_look += LOOK_INTERVAL;
        }
    }
    faults.last_blackout(sim, disks, shared);
    let until = sim.elapsed() + LAST_BLACKOUT;
    while sim.elapsed() < until {
        step(sim);
    }
    faults.end_blackout(sim);
    shared.is_over.store(true, Ordering::SeqCst);
    while !step(sim) {}
    let until = sim.elapsed() + AGREEMENT_DEADLINE;
    while !judge.look(disks) {
        assert!(sim.elapsed() < until, "the metaservers' states do not become the same");
        for _ in 0..50 {
            step(sim);
        }
    }
    judge.snapshots_installed
}

fn add_metaserver(sim: &mut turmoil::Sim<'_>, shared: &Arc<Shared>, disks: &Disks, index: usize) {
    let (log, state, shared) = (disks.logs[index].clone(), disks.states[index].clone(), shared.clone());
    let starts = Arc::new(AtomicUsize::new(0));
    sim.host(metaserver_names()[index].as_str(), move || {
        let cluster = GroupStorage { log: Arc::new(log.clone()), state: Arc::new(state.clone()) };
        let storage = Storage { cluster, federation: None };
        let start = starts.fetch_add(1, Ordering::SeqCst) as u64;
        let env = env(shared.seed, 100 + index as u64, start);
        let bootstrap = metaserver_addresses().into_iter().zip(1..);
        let settings = Settings {
            id: Some(index as u64 + 1),
            cluster: Some("simulated".to_owned()),
            data: Some("simulated".into()),
            listen: Some(format!("0.0.0.0:{GRPC_PORT}")),
            http: Some(String::new()),
            bootstrap: Some(bootstrap.map(|(address, id)| BootstrapMember { id, address }).collect()),
            // Small, so that snapshots are taken, sent and installed within a run.
            snapshot_every_logs: Some(100),
            // Longer than any fault keeps a client from its leader: those that walk lose no session.
            session_expiry_ms: Some(45_000),
            ..Settings::default()
        };
        let shared = shared.clone();
        async move {
            let config = dfs_metaserver::config::Config::validate(settings)?;
            let running = dfs_metaserver::start(config, env, storage).await?;
            let mut leadership = running.consensus().leadership();
            tokio::spawn(async move {
                while leadership.changed().await.is_ok() {
                    let now = leadership.borrow_and_update().clone();
                    if let Some(leader) = now.leader {
                        let index = leader.0 as usize - 1;
                        let before = shared.leaders().insert(now.term, index);
                        assert!(
                            before.is_none_or(|before| before == index),
                            "two leaders in term {}",
                            now.term
                        );
                    }
                }
            });
            running.run_until(std::future::pending()).await?;
            Ok(())
        }
    });
}

fn add_chunkserver(sim: &mut turmoil::Sim<'_>, shared: &Arc<Shared>, disks: &Disks, index: usize) {
    let (disk, shared) = (disks.chunks[index].clone(), shared.clone());
    let starts = Arc::new(AtomicUsize::new(0));
    let name = format!("c{}", index + 1);
    sim.host(name.as_str(), move || {
        let start = starts.fetch_add(1, Ordering::SeqCst) as u64;
        let env = env(shared.seed, 200 + index as u64, start);
        let mut config = dfs_chunkserver::config::Config::default();
        config.federation.metaservers = metaserver_addresses();
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
        };
        async move {
            let (_stop, stopped) = tokio::sync::watch::channel(false);
            dfs_chunkserver::run(config, env, seams, stopped).await?;
            Ok(())
        }
    });
}

fn client_config(name: &str) -> ClientConfig {
    ClientConfig {
        metaservers: metaserver_addresses(),
        name: name.to_owned(),
        // Long enough for any fault of the model: then an error is a bug.
        metadata_timeout: Duration::from_secs(60),
        data_timeout: Duration::from_secs(60),
        ..ClientConfig::default()
    }
}

fn add_walker(sim: &mut turmoil::Sim<'_>, shared: &Arc<Shared>, plan: Plan, index: usize) {
    let shared = shared.clone();
    let name = format!("w{}", index + 1);
    sim.client(name.clone().as_str(), async move {
        let env = env(plan.seed, 300 + index as u64, 0);
        let rng = env.rng.clone();
        let client = Client::connect(client_config(&name), env.clone()).await?;
        let peer = Client::connect(client_config("peer"), env.clone()).await?;
        let mut walker = Walker::start(client.clone(), peer.clone(), rng.clone(), &name).await;
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
        let reader = Client::connect(client_config("reader"), env).await?;
        walker.compare_as(&reader).await;
        if index == 0 {
            let promises = shared.promises().clone();
            mortal::check(&reader, &promises).await;
        }
        let lost = client.shutdown(Duration::from_secs(60)).await;
        assert!(lost.is_empty(), "{name}: not written at shutdown: {lost:?}");
        peer.shutdown(Duration::from_secs(60)).await;
        reader.shutdown(Duration::from_secs(60)).await;
        Ok(())
    });
}

fn add_mortal(sim: &mut turmoil::Sim<'_>, shared: &Arc<Shared>, plan: Plan) {
    let shared = shared.clone();
    let lives = Arc::new(AtomicUsize::new(0));
    sim.host(MORTAL, move || {
        let (shared, life) = (shared.clone(), lives.fetch_add(1, Ordering::SeqCst));
        let env = env(plan.seed, 400, life as u64);
        async move {
            let rng = env.rng.clone();
            let client = Client::connect(client_config(MORTAL), env).await?;
            let is_over = || shared.walking.load(Ordering::SeqCst) == 0;
            mortal::live(client, rng, life, is_over, |promise| shared.promises().push(promise)).await;
            std::future::pending().await
        }
    });
}
