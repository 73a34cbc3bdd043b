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
//! * a client that only shares files with others is silent for up to two terms: cut off, suspended, or slow to handle what it is sent
//!   unasked (`silences`). It looks at everything again and again meanwhile, and sometimes the leader fails when its silence begins.
//! * the wall clock of a metaserver, mostly the leader, or of a client, or of all metaservers at once (as of one machine), is
//!   stepped by seconds to years, and back some seconds later.
//!
//! The CLOCK_BOOTTIME of clients runs up to 3 % faster or slower than the servers' clocks. What is checked: every answer equals the model's (waiting is allowed, errors
//! are not); another client sees what was closed or synced, and at the end, after the power failure, a fresh one sees every
//! byte; clients that share files and names see of each other what they must (`sharing`); times of files are right again when the clocks are (`clocks`); no task panics; and what `judge` says about the disks.
//! Of changes of volumes an error is allowed, because they need several quorums (P9.4): they are repeated, and must have
//! happened once.

mod clocks;
mod directory;
mod disks;
mod faults;
mod hosts;
mod judge;
mod late_pushes;
mod layout;
mod missing;
mod mortal;
mod net;
mod plan;
mod shared;
mod sharing;
mod silences;
mod volumes;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, SystemTime};

use dfs_net::env::Rng;

use disks::Disks;
use faults::Faults;
use judge::{Found, Judge};
pub use layout::Layout;
pub use plan::Plan;
use shared::Shared;
pub use shared::Totals;
use silences::Silences;

/// Between two looks at the metaservers' states while clients walk: each costs a pass over all of them.
const LOOK_INTERVAL: Duration = Duration::from_secs(2);
/// How long the last power failure lasts, and how soon all metaservers must agree after it.
const LAST_BLACKOUT: Duration = Duration::from_secs(1);
const AGREEMENT_DEADLINE: Duration = Duration::from_secs(60);

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
    let shared = Arc::new(Shared::new(plan));
    for index in 0..plan.layout.metaservers() {
        hosts::add_metaserver(&mut sim, &shared, disks, index);
    }
    for index in 0..plan.layout.all_chunkservers() {
        hosts::add_chunkserver(&mut sim, &shared, disks, index);
    }
    if plan.layout.has_federation() {
        hosts::add_volumes(&mut sim, &shared, plan);
    }
    for index in 0..plan.walkers {
        hosts::add_walker(&mut sim, &shared, plan, index);
    }
    for index in 0..layout::SHARERS.len() {
        hosts::add_sharer(&mut sim, &shared, plan, index);
    }
    hosts::add_mortal(&mut sim, &shared, plan);
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
    let mut silences = Silences::new(Rng::seeded(plan.seed.wrapping_add(3)), plan);
    let mut next_look = LOOK_INTERVAL;
    while shared.walking.load(Ordering::SeqCst) > 0 {
        if shared.is_whole.load(Ordering::SeqCst) {
            faults.tick(sim, disks, shared);
            silences.tick(sim, shared);
        }
        step(sim);
        if sim.elapsed() >= next_look {
            judge.look(disks, sim.elapsed());
            next_look += LOOK_INTERVAL;
        }
    }
    silences.end(sim, shared);
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
