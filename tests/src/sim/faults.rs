//! Draws faults from the seed, makes them, and mends them again.

use std::time::Duration;

use dfs_net::env::Rng;

use super::disks::{Disks, SYNC_TIME};
use super::layout::{Layout, METASERVER_HOSTS, MORTAL, VOLUMES, WALKER_HOSTS, metaserver_name};
use super::plan::Plan;
use super::shared::{Failing, Shared};

/// Servers need this long to form a cluster before anything is broken.
const CALM_FIRST: Duration = Duration::from_secs(3);
const GAP_MIN: Duration = Duration::from_millis(300);
const GAP_MAX: Duration = Duration::from_secs(4);
const FAULT_MIN: Duration = Duration::from_millis(200);
const FAULT_MAX: Duration = Duration::from_secs(6);
/// A metaserver may be away for longer, so that it needs a snapshot.
const METASERVER_DOWN_MAX: Duration = Duration::from_secs(20);

/// Log disks under a stream of somebody else's, and for how long: longer than a client waits for an answer then.
const SLOW_SYNC: Duration = Duration::from_millis(1600);
const SLOW_LOGS_FOR: Duration = Duration::from_secs(45);

/// A fault that is there now.
#[derive(Debug)]
enum Fault {
    Down {
        metaserver: bool,
        index: usize,
    },
    ClientDown,
    /// A metaserver is cut off from the others, not from clients.
    Isolated {
        index: usize,
    },
    /// No power anywhere.
    Blackout,
    /// Nothing else is broken meanwhile.
    SlowLogs,
    Link {
        from: String,
        to: String,
        how: Broken,
    },
    /// Their wall clocks are wrong.
    Stepped {
        hosts: Vec<u64>,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Broken {
    Cut,
    CutOneWay,
    Hung,
}

pub(crate) struct Faults {
    rng: Rng,
    layout: Layout,
    walkers: usize,
    next: Duration,
    current: Vec<(Duration, Fault)>,
    /// Still to come.
    has_slow_logs: bool,
    /// The next metaserver whose log begins a segment crashes in that write.
    tears_segment: bool,
}

impl Faults {
    pub(crate) fn new(rng: Rng, plan: Plan) -> Faults {
        let Plan { layout, walkers, has_slow_logs, .. } = plan;
        let (next, current) = (CALM_FIRST, Vec::new());
        Faults { rng, layout, walkers, next, current, has_slow_logs, tears_segment: false }
    }

    /// Mends what is due and breaks something new when it is time.
    pub(crate) fn tick(&mut self, sim: &mut turmoil::Sim<'_>, disks: &Disks, shared: &Shared) {
        let now = sim.elapsed();
        let (due, rest) = std::mem::take(&mut self.current).into_iter().partition(|(until, _)| *until <= now);
        self.current = rest;
        for (_, fault) in due {
            tracing::info!("{now:?}: mended: {fault:?}");
            self.mend(sim, disks, shared, fault);
        }
        let at_once = self.tear_segment(sim, disks, shared).or_else(|| self.fail_leader(sim, disks, shared));
        if at_once.is_none() && now < self.next {
            return;
        }
        if at_once.is_none() {
            self.next = now + self.between(GAP_MIN, GAP_MAX);
            if self.has_slow_logs && self.current.is_empty() {
                self.slow_down(sim, disks, shared);
                return;
            }
        }
        if let Some(fault) = at_once.or_else(|| self.break_something(sim, disks, shared)) {
            let is_long = matches!(fault, Fault::Down { metaserver: true, .. }) && self.rng.below(3) == 0;
            let most = if is_long { METASERVER_DOWN_MAX } else { FAULT_MAX };
            let until = now + self.between(FAULT_MIN, most);
            tracing::info!("{now:?}: until {until:?}: {fault:?}");
            self.current.push((until, fault));
        }
    }

    fn tear_segment(&mut self, sim: &mut turmoil::Sim<'_>, disks: &Disks, shared: &Shared) -> Option<Fault> {
        let has_slow_logs = self.current.iter().any(|(_, fault)| matches!(fault, Fault::SlowLogs));
        if !self.tears_segment || has_slow_logs || self.is_down(true) {
            return None;
        }
        let index = (0..self.layout.metaservers()).find(|index| disks.is_beginning_segment(*index))?;
        self.tears_segment = false;
        shared.note_fault(sim, 10).torn_segments += 1;
        self.crash(sim, disks, shared, true, index);
        Some(Fault::Down { metaserver: true, index })
    }

    /// While somebody is silent (`silences`). What is broken between hosts is mended before.
    fn fail_leader(&mut self, sim: &mut turmoil::Sim<'_>, disks: &Disks, shared: &Shared) -> Option<Fault> {
        let failing = shared.silence.take_failing()?;
        let has_slow_logs = self.current.iter().any(|(_, fault)| matches!(fault, Fault::SlowLogs));
        if self.is_down(true) || has_slow_logs {
            return None;
        }
        let is_link =
            |(_, fault): &mut (_, Fault)| matches!(fault, Fault::Link { .. } | Fault::Isolated { .. });
        let links: Vec<_> = self.current.extract_if(.., is_link).collect();
        links.into_iter().for_each(|(_, fault)| self.mend(sim, disks, shared, fault));
        Some(match failing {
            Failing::Crash(index) => {
                drop(shared.note_fault(sim, 12));
                self.crash(sim, disks, shared, true, index);
                Fault::Down { metaserver: true, index }
            }
            Failing::Isolation(index) => self.isolate(sim, shared, index),
        })
    }

    fn is_broken(&self) -> bool {
        let is_broken = |(_, fault): &(_, Fault)| {
            matches!(fault, Fault::Link { .. } | Fault::Isolated { .. } | Fault::Blackout)
        };
        self.current.iter().any(is_broken)
    }

    fn is_down(&self, wanted: bool) -> bool {
        self.current.iter().any(|(_, fault)| match fault {
            Fault::Down { metaserver, .. } => *metaserver == wanted,
            Fault::Blackout => true,
            Fault::Link { .. }
            | Fault::Isolated { .. }
            | Fault::ClientDown
            | Fault::SlowLogs
            | Fault::Stepped { .. } => false,
        })
    }

    /// The last fault: mends everything else, and the power fails everywhere at once. [`Faults::end_blackout`] ends it.
    pub(crate) fn last_blackout(&mut self, sim: &mut turmoil::Sim<'_>, disks: &Disks, shared: &Shared) {
        for (_, fault) in std::mem::take(&mut self.current) {
            self.mend(sim, disks, shared, fault);
        }
        self.blackout(sim, disks, shared);
    }

    pub(crate) fn end_blackout(&self, sim: &mut turmoil::Sim<'_>, disks: &Disks, shared: &Shared) {
        self.mend(sim, disks, shared, Fault::Blackout);
    }

    /// Of all metaservers: a quorum hides what is slow in a minority.
    fn slow_down(&mut self, sim: &turmoil::Sim<'_>, disks: &Disks, shared: &Shared) {
        let until = sim.elapsed() + SLOW_LOGS_FOR;
        tracing::info!("{:?}: until {until:?}: slow log disks", sim.elapsed());
        shared.note_fault(sim, 11).slow_logs += 1;
        disks.set_sync_time(SLOW_SYNC);
        self.has_slow_logs = false;
        self.current.push((until, Fault::SlowLogs));
        self.next = until;
    }

    /// Of some group.
    fn some_leader(&self, shared: &Shared) -> Option<usize> {
        let groups = self.layout.groups() as u64;
        shared.leader(if groups > 1 { self.rng.below(groups) as usize } else { 0 })
    }

    fn some_metaserver(&self) -> usize {
        self.rng.below(self.layout.metaservers() as u64) as usize
    }

    fn between(&self, least: Duration, most: Duration) -> Duration {
        least + Duration::from_micros(self.rng.below((most - least).as_micros() as u64))
    }

    /// At most one metaserver, one chunkserver and one link at a time, or everything; and the client that dies.
    fn break_something(
        &mut self,
        sim: &mut turmoil::Sim<'_>,
        disks: &Disks,
        shared: &Shared,
    ) -> Option<Fault> {
        let is_broken = self.is_broken();
        let is_dead = self.current.iter().any(|(_, fault)| matches!(fault, Fault::ClientDown));
        let is_stepped = self.current.iter().any(|(_, fault)| matches!(fault, Fault::Stepped { .. }));
        match self.rng.below(23) {
            0..=2 if !self.is_down(true) => {
                let leader = self.some_leader(shared).filter(|_| self.rng.below(2) == 0);
                let index = leader.unwrap_or_else(|| self.some_metaserver());
                drop(shared.note_fault(sim, 1));
                self.crash(sim, disks, shared, true, index);
                Some(Fault::Down { metaserver: true, index })
            }
            3..=5 if !self.is_down(false) => {
                let index = self.rng.below(self.layout.all_chunkservers() as u64) as usize;
                drop(shared.note_fault(sim, 2));
                self.crash(sim, disks, shared, false, index);
                Some(Fault::Down { metaserver: false, index })
            }
            6..=12 if !is_broken => Some(self.break_link(sim, shared)),
            13 if self.current.is_empty() => {
                self.blackout(sim, disks, shared);
                Some(Fault::Blackout)
            }
            14..=15 if !is_dead => {
                shared.note_fault(sim, 7).client_crashes += 1;
                sim.crash(MORTAL);
                Some(Fault::ClientDown)
            }
            16..=17 if !is_broken => Some(self.isolate_some(sim, shared)),
            18..=19 => {
                self.tears_segment = true;
                None
            }
            20..=22 if !is_stepped => Some(self.step_clocks(sim, shared)),
            _ => None,
        }
    }

    fn crash(
        &self,
        sim: &mut turmoil::Sim<'_>,
        disks: &Disks,
        shared: &Shared,
        metaserver: bool,
        index: usize,
    ) {
        if metaserver {
            sim.crash(metaserver_name(index).as_str());
            disks.crash_metaserver(index, &self.rng);
        } else {
            sim.crash(format!("c{}", index + 1).as_str());
            disks.chunks[index].crash(&self.rng);
        }
        let mut totals = shared.totals();
        totals.crashes += 1;
        totals.replica_losses += u64::from(!metaserver);
    }

    fn blackout(&self, sim: &mut turmoil::Sim<'_>, disks: &Disks, shared: &Shared) {
        shared.note_fault(sim, 3).blackouts += 1;
        for index in 0..self.layout.metaservers() {
            self.crash(sim, disks, shared, true, index);
        }
        for index in 0..self.layout.all_chunkservers() {
            self.crash(sim, disks, shared, false, index);
        }
    }

    fn break_link(&self, sim: &mut turmoil::Sim<'_>, shared: &Shared) -> Fault {
        let (from, to) = self.two_hosts(shared);
        let how = match self.rng.below(7) {
            0..=1 => Broken::Cut,
            2..=4 => Broken::CutOneWay,
            _ => Broken::Hung,
        };
        match how {
            Broken::Cut => sim.partition(from.as_str(), to.as_str()),
            Broken::CutOneWay => sim.partition_oneway(from.as_str(), to.as_str()),
            Broken::Hung => sim.hold(from.as_str(), to.as_str()),
        }
        let mut totals = shared.note_fault(sim, 4 + how as u64);
        match how {
            Broken::Cut => totals.partitions += 1,
            Broken::CutOneWay => totals.one_way_cuts += 1,
            Broken::Hung => totals.hung_links += 1,
        }
        Fault::Link { from, to, how }
    }

    /// Mostly the leader: it must not go on answering.
    fn isolate_some(&self, sim: &mut turmoil::Sim<'_>, shared: &Shared) -> Fault {
        let leader = self.some_leader(shared).filter(|_| self.rng.below(4) > 0);
        self.isolate(sim, shared, leader.unwrap_or_else(|| self.some_metaserver()))
    }

    fn isolate(&self, sim: &mut turmoil::Sim<'_>, shared: &Shared, index: usize) -> Fault {
        for other in self.others(index) {
            sim.partition(metaserver_name(index), other);
        }
        shared.note_fault(sim, 8).isolations += 1;
        Fault::Isolated { index }
    }

    /// By 2 seconds to 17 years, ahead or back: of all metaservers at once, of one that mostly leads, or of a client.
    fn step_clocks(&self, sim: &turmoil::Sim<'_>, shared: &Shared) -> Fault {
        let metaserver = |index: usize| METASERVER_HOSTS + index as u64;
        let hosts = match self.rng.below(3) {
            0 => (0..self.layout.metaservers()).map(metaserver).collect(),
            1 => vec![metaserver(self.some_leader(shared).unwrap_or_else(|| self.some_metaserver()))],
            _ => vec![WALKER_HOSTS + self.rng.below(self.walkers as u64)],
        };
        let by = 2i64 << self.rng.below(29);
        let by = if self.rng.below(2) == 0 { by } else { -by };
        shared.clocks.step(&hosts, by);
        shared.note_fault(sim, 9).clock_steps += 1;
        tracing::info!("the wall clocks of {hosts:?} are stepped by {by} s");
        Fault::Stepped { hosts }
    }

    /// One time in three from the leader to a client: cut one way, that loses the replies to what was executed.
    fn two_hosts(&self, shared: &Shared) -> (String, String) {
        if let Some(leader) = self.some_leader(shared).filter(|_| self.rng.below(3) == 0) {
            return (metaserver_name(leader), format!("w{}", 1 + self.rng.below(self.walkers as u64)));
        }
        let hosts: Vec<String> = self
            .servers()
            .chain((1..=self.walkers).map(|n| format!("w{n}")))
            .chain([MORTAL.to_owned()])
            .chain(self.layout.has_federation().then(|| VOLUMES.to_owned()))
            .collect();
        let first = self.rng.below(hosts.len() as u64) as usize;
        let second = (first + 1 + self.rng.below(hosts.len() as u64 - 1) as usize) % hosts.len();
        (hosts[first].clone(), hosts[second].clone())
    }

    fn servers(&self) -> impl Iterator<Item = String> + use<> {
        let metaservers = (0..self.layout.metaservers()).map(metaserver_name);
        metaservers.chain((1..=self.layout.all_chunkservers()).map(|n| format!("c{n}")))
    }

    fn others(&self, index: usize) -> impl Iterator<Item = String> + use<> {
        (0..self.layout.metaservers()).filter(move |other| *other != index).map(metaserver_name)
    }

    fn mend(&self, sim: &mut turmoil::Sim<'_>, disks: &Disks, shared: &Shared, fault: Fault) {
        match fault {
            Fault::SlowLogs => disks.set_sync_time(SYNC_TIME),
            Fault::Down { metaserver: true, index } => sim.bounce(metaserver_name(index).as_str()),
            Fault::Down { metaserver: false, index } => sim.bounce(format!("c{}", index + 1).as_str()),
            Fault::ClientDown => sim.bounce(MORTAL),
            Fault::Isolated { index } => {
                self.others(index).for_each(|other| sim.repair(metaserver_name(index), other));
            }
            Fault::Blackout => self.servers().for_each(|host| sim.bounce(host.as_str())),
            Fault::Stepped { hosts } => shared.clocks.set_right(&hosts),
            Fault::Link { from, to, how: Broken::Cut } => sim.repair(from.as_str(), to.as_str()),
            Fault::Link { from, to, how: Broken::CutOneWay } => sim.repair_oneway(from.as_str(), to.as_str()),
            Fault::Link { from, to, how: Broken::Hung } => sim.release(from.as_str(), to.as_str()),
        }
    }
}
