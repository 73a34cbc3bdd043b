//! Machines whose links are cut or narrow: `make test-long`.

#![allow(clippy::unwrap_used, reason = "in a test an unwrap is an assertion")]

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use dfs_tests::ledger::{Ledger, Worker, all_went_on};
use dfs_tests::machines::Machines;
use dfs_tests::shell::sh;
use dfs_tests::{sys, wait};

/// For changes to go on when a machine has fallen silent.
const GO_ON_DEADLINE: Duration = Duration::from_secs(30);
const BOTH: [&str; 2] = ["dfs-metaserver", "dfs-chunkserver"];

#[test]
fn machines_that_fall_silent_cost_time_and_nothing_that_was_acknowledged() {
    let mut machines = Machines::new(4);
    for machine in 1..=3 {
        machines.start_servers(machine, &BOTH, "");
    }
    machines.wait_healthy(1, 3);
    let dir = machines.mount(4);
    let own: Vec<PathBuf> = (0..3).map(|worker| dir.join(format!("worker{worker}"))).collect();
    own.iter().for_each(|dir| fs::create_dir(dir).unwrap());
    let start =
        |(number, dir): (usize, &PathBuf)| Worker::start(Ledger::default(), dir.clone(), 90 + number as u64);
    let workers: Vec<Worker> = own.iter().enumerate().map(start).collect();
    // First the one that leads, then one that does not.
    let leader = machines.leader(4);
    for silent in [leader, leader % 3 + 1] {
        let done: Vec<usize> = workers.iter().map(Worker::done).collect();
        wait::until("the load", GO_ON_DEADLINE, || all_went_on(&workers, &done, 20));
        machines.set_link(silent, false);
        let (pulled_at, done) = (wait::now(), workers.iter().map(Worker::done).collect::<Vec<_>>());
        // Two changes each: one may have been answered before.
        wait::until("every worker to go on", GO_ON_DEADLINE, || all_went_on(&workers, &done, 2));
        println!("machine {silent} silent: all went on after {:?}", pulled_at.elapsed());
        machines.set_link(silent, true);
        machines.wait_all_alive(silent);
    }
    for (worker, dir) in workers.into_iter().zip(&own) {
        let (mut ledger, ended) = worker.finish();
        ended.unwrap();
        sys::drop_caches();
        ledger.compare(dir).unwrap();
    }
    machines.end();
}

/// Four chunkservers of 50 MiB/s each: one stream uses several of them.
#[test]
fn one_stream_is_faster_than_one_chunkservers_link() {
    let megabytes = |dir: &Path, script: &str| {
        let before = wait::now();
        sh(dir, script);
        512.0 / before.elapsed().as_secs_f64()
    };
    for (copies, write_floor, read_floor) in [(1, 100.0, 100.0), (2, 60.0, 0.0)] {
        let mut machines = Machines::new(5);
        for machine in 1..=3 {
            machines.start_servers(machine, &BOTH, &format!("copies = {copies}"));
        }
        machines.start_servers(4, &["dfs-chunkserver"], "");
        machines.wait_healthy(1, 4);
        let dir = machines.mount(5);
        (1..=4).for_each(|machine| machines.limit(machine, 50));
        let written = megabytes(&dir, "dd if=/dev/zero of=stream bs=1M count=512 conv=fsync status=none");
        sys::drop_caches();
        let read = megabytes(&dir, "cat stream > /dev/null");
        eprintln!("{copies} copies: written at {written:.0} MiB/s, read at {read:.0} MiB/s");
        assert!(written >= write_floor && read >= read_floor, "{written:.0} and {read:.0} MiB/s");
        machines.end();
    }
}
