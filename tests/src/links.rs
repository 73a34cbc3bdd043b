//! Links that go down in the middle of writes: the machines fall silent, and no connection is reset.
//!
//! Each kind of daemon has machines of its own, so that what fell silent is known: 1 to 3 are metaservers, 4 to 6
//! chunkservers, 7 has the mount.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::ledger::{self, Ledger, Process, all_went_on};
use crate::load::{Copy, NamespaceLoop};
use crate::machines::Machines;
use crate::shell::sh;
use crate::{sys, tree, wait};

const METASERVERS: usize = 3;
const CHUNKSERVER: usize = 4;
const MACHINES: usize = 7;
const MOUNT: usize = 7;
const WORKERS: usize = 3;
/// Changes of each worker before a link goes down, so that it does in the middle of them.
const CHANGES_BEFORE: usize = 20;
/// For a load to get anywhere, and for a copy to end.
const DEADLINE: Duration = Duration::from_secs(120);
/// The mount's own link stays down until it was noticed everywhere.
const MOUNT_AWAY: Duration = Duration::from_secs(4);

/// Whose link goes down.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Silent {
    Leader,
    Chunkserver,
    /// The leader's and a chunkserver's.
    Both,
    /// It says nothing itself, and goes on when its link is up again.
    Mount,
}

impl Silent {
    fn machines(self, machines: &Machines) -> Vec<usize> {
        match self {
            Silent::Leader => vec![machines.leader(CHUNKSERVER)],
            Silent::Chunkserver => vec![CHUNKSERVER],
            Silent::Both => vec![machines.leader(CHUNKSERVER), CHUNKSERVER],
            Silent::Mount => vec![MOUNT],
        }
    }
}

pub const ALL: [Silent; 4] = [Silent::Leader, Silent::Chunkserver, Silent::Both, Silent::Mount];

/// What was seen of one.
#[derive(Clone, Copy, Debug)]
pub struct Seen {
    pub silent: Silent,
    /// From then (of the mount: from when its link was up again) until every worker had completed two changes.
    pub all_went_on: Duration,
    /// The longest operation of a loop in the namespace beside it, the time that the mount was away included.
    pub longest_change: Duration,
}

/// The machines, started; the mount's directory.
pub fn start() -> (Machines, PathBuf) {
    let mut machines = Machines::new(MACHINES);
    for machine in 1..MACHINES {
        let program = if machine <= METASERVERS { "dfs-metaserver" } else { "dfs-chunkserver" };
        machines.start_servers(machine, &[program], "");
    }
    machines.wait_healthy(1, MACHINES - 1 - METASERVERS);
    let dir = machines.mount(MOUNT);
    (machines, dir)
}

/// One machine's link, or two, goes down under workers that keep ledgers, a copy, and a loop in the namespace; no operation
/// fails, and everything is as it was acknowledged.
#[track_caller]
pub fn cut(machines: &Machines, dir: &Path, silent: Silent, seed: u64) -> Seen {
    let outside = tempfile::tempdir().expect("make a directory");
    let source = outside.path().join("made");
    tree::make(&source, seed, 300).expect("make a tree");
    tree::write_made(&source.join("large"), seed, 64 << 20).expect("make a large file");
    let own: Vec<PathBuf> = (0..WORKERS).map(|worker| dir.join(format!("worker{worker}"))).collect();
    own.iter().for_each(|dir| fs::create_dir(dir).expect("make a worker's directory"));
    let start = |(number, dir): (u64, &PathBuf)| {
        Process::start(Ledger::default(), dir, outside.path().join(number.to_string()), seed + number)
    };
    let workers: Vec<Process> = (0..).zip(&own).map(start).collect();
    let names = NamespaceLoop::start(dir.join("names"));
    let copy = Copy::start(&source, &dir.join("copy"));
    copy.wait_started(10, DEADLINE);
    wait::until("the load", DEADLINE, || all_went_on(&workers, &[0; WORKERS], CHANGES_BEFORE));

    let lost = silent.machines(machines);
    lost.iter().for_each(|machine| machines.set_link(*machine, false));
    let mut from = wait::now();
    if silent == Silent::Mount {
        wait::pause(MOUNT_AWAY); // what is waited for is time itself
        machines.set_link(MOUNT, true);
        from = wait::now();
    }
    let done: Vec<usize> = workers.iter().map(Process::done).collect();
    // Two changes each: one may have been answered before.
    wait::until("every worker to go on", DEADLINE, || all_went_on(&workers, &done, 2));
    let all_went_on = from.elapsed();
    copy.finish(DEADLINE);
    let longest_change = names.finish().longest_stall;
    lost.iter().for_each(|machine| machines.set_link(*machine, true));
    machines.wait_all_alive(1);
    for (worker, own) in workers.into_iter().zip(&own) {
        let (mut ledger, ended) = worker.finish(DEADLINE);
        ended.unwrap_or_else(|error| panic!("{silent:?}, seed {seed}: a change failed: {error}"));
        sys::drop_caches();
        ledger
            .compare(own, ledger::Mount::Lived)
            .unwrap_or_else(|lost| panic!("{silent:?}, seed {seed}: {lost}"));
    }
    tree::assert_same(&source, &dir.join("copy"));
    sh(dir, "rm -r worker* copy names");
    Seen { silent, all_went_on, longest_change }
}

/// One run of `bench/tools/fsfailover` with links that go down after a third of it, and are up again at its end; how long the
/// job that waited longest did. Nothing fails, and every block is right.
#[track_caller]
pub fn fsfailover(machines: &Machines, dir: &Path, silent: Silent, mode: &str) -> Duration {
    const SECS: u32 = 12;
    let tool = Path::new(env!("CARGO_MANIFEST_DIR")).join("../bench/tools/fsfailover");
    let lost = silent.machines(machines);
    let down: Vec<String> = lost.iter().map(|machine| machines.link_command(*machine, false)).collect();
    let (tool, at, down) = (tool.display(), SECS / 3, down.join("; "));
    let said = sh(dir, &format!("{tool} . --mode {mode} --secs {SECS} --at {at} --event '{down}'"));
    assert!(lost.iter().all(|machine| !machines.is_link_up(*machine)), "{silent:?}: no link went down");
    lost.iter().for_each(|machine| machines.set_link(*machine, true));
    machines.wait_all_alive(1);
    let jobs = said.matches(" errors ").count();
    assert!(jobs > 0 && said.matches(", 0 errors ").count() == jobs, "{silent:?}, {mode}: {said}");
    assert!(!said.contains("wrong data"), "{silent:?}, {mode}: {said}");
    assert!(mode != "write" || said.contains(", 0 wrong"), "{silent:?}, {mode}: {said}");
    let worst = said.split_once("worst job ").and_then(|(_, rest)| rest.split_once(" s"));
    let seconds = worst.and_then(|(seconds, _)| seconds.parse().ok());
    Duration::from_secs_f64(seconds.unwrap_or_else(|| panic!("no stall in: {said}")))
}
