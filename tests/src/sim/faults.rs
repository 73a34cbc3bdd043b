//! Draws faults from the seed, makes them, and mends them again.

use std::time::Duration;

use dfs_proto::env::Rng;

use super::{CHUNKSERVERS, Disks, METASERVERS, Shared};

/// Servers need this long to form a cluster before anything is broken.
const CALM_FIRST: Duration = Duration::from_secs(5);
const GAP_MAX: Duration = Duration::from_secs(6);
const FAULT_MIN: Duration = Duration::from_millis(200);
const FAULT_MAX: Duration = Duration::from_secs(6);

/// A fault that is there now.
enum Fault {
    MetaserverDown(usize),
    ChunkserverDown(usize),
    Cut { from: String, to: String, one_way: bool },
}

pub(crate) struct Faults {
    rng: Rng,
    walkers: usize,
    next: Duration,
    current: Vec<(Duration, Fault)>,
}

impl Faults {
    pub(crate) fn new(rng: Rng, walkers: usize) -> Faults {
        Faults { rng, walkers, next: CALM_FIRST, current: Vec::new() }
    }

    /// Mends what is due and breaks something new when it is time; `is_over` mends all and breaks nothing more.
    pub(crate) fn tick(&mut self, sim: &mut turmoil::Sim<'_>, disks: &Disks, shared: &Shared, is_over: bool) {
        let now = sim.elapsed();
        let (due, rest) =
            std::mem::take(&mut self.current).into_iter().partition(|(until, _)| is_over || *until <= now);
        self.current = rest;
        for (_, fault) in due {
            mend(sim, fault);
        }
        if is_over || now < self.next {
            return;
        }
        self.next = now + self.between(Duration::from_millis(500), GAP_MAX);
        let until = now + self.between(FAULT_MIN, FAULT_MAX);
        if let Some(fault) = self.break_something(sim, disks, shared) {
            self.current.push((until, fault));
        }
    }

    fn between(&self, least: Duration, most: Duration) -> Duration {
        least + Duration::from_micros(self.rng.below((most - least).as_micros() as u64))
    }

    fn break_something(
        &mut self,
        sim: &mut turmoil::Sim<'_>,
        disks: &Disks,
        shared: &Shared,
    ) -> Option<Fault> {
        let kind = self.rng.below(10);
        // Two chunkservers apart from anybody would be more than `copies - 1`; the same for a metaserver's majority.
        let has = |meta: bool| {
            self.current.iter().any(|(_, fault)| match fault {
                Fault::MetaserverDown(_) => meta,
                Fault::ChunkserverDown(_) => !meta,
                Fault::Cut { .. } => true,
            })
        };
        match kind {
            0..=2 if !has(true) => {
                let index = self.rng.below(METASERVERS as u64) as usize;
                sim.crash(format!("m{}", index + 1).as_str());
                disks.logs[index].crash(&self.rng);
                disks.states[index].crash();
                shared.totals().crashes += 1;
                Some(Fault::MetaserverDown(index))
            }
            3..=5 if !has(false) => {
                let index = self.rng.below(CHUNKSERVERS as u64) as usize;
                sim.crash(format!("c{}", index + 1).as_str());
                disks.chunks[index].crash(&self.rng);
                let mut totals = shared.totals();
                totals.crashes += 1;
                totals.replica_losses += 1;
                Some(Fault::ChunkserverDown(index))
            }
            6..=9 if !has(true) && !has(false) => {
                let (from, to) = self.two_hosts();
                let one_way = kind >= 8;
                if one_way {
                    sim.partition_oneway(from.as_str(), to.as_str());
                } else {
                    sim.partition(from.as_str(), to.as_str());
                }
                shared.totals().partitions += 1;
                Some(Fault::Cut { from, to, one_way })
            }
            _ => None,
        }
    }

    fn two_hosts(&self) -> (String, String) {
        let hosts: Vec<String> = (1..=METASERVERS)
            .map(|n| format!("m{n}"))
            .chain((1..=CHUNKSERVERS).map(|n| format!("c{n}")))
            .chain((1..=self.walkers).map(|n| format!("w{n}")))
            .collect();
        let first = self.rng.below(hosts.len() as u64) as usize;
        let second = (first + 1 + self.rng.below(hosts.len() as u64 - 1) as usize) % hosts.len();
        (hosts[first].clone(), hosts[second].clone())
    }
}

fn mend(sim: &mut turmoil::Sim<'_>, fault: Fault) {
    match fault {
        Fault::MetaserverDown(index) => sim.bounce(format!("m{}", index + 1).as_str()),
        Fault::ChunkserverDown(index) => sim.bounce(format!("c{}", index + 1).as_str()),
        Fault::Cut { from, to, one_way: true } => sim.repair_oneway(from.as_str(), to.as_str()),
        Fault::Cut { from, to, one_way: false } => sim.repair(from.as_str(), to.as_str()),
    }
}
