//! Machines whose links are cut or narrow: `make test-long`.

#![allow(clippy::unwrap_used, reason = "in a test an unwrap is an assertion")]

use std::path::Path;
use std::time::Duration;

use dfs_tests::links::{self, Seen, Silent};
use dfs_tests::machines::Machines;
use dfs_tests::shell::sh;
use dfs_tests::{sys, wait};

/// Promise 5.
const MEDIAN_MAX: Duration = Duration::from_secs(2);
const STALL_MAX: Duration = Duration::from_secs(5);
const BOTH: [&str; 2] = ["dfs-metaserver", "dfs-chunkserver"];

/// Promise 5, for machines that fall silent as for servers that are killed.
#[test]
fn machines_that_fall_silent_cost_less_than_five_seconds() {
    const ROUNDS: usize = 7;
    let (machines, dir) = links::start();
    let mut seeds = (1000..).step_by(10);
    for silent in links::ALL {
        let mut seen: Vec<Seen> = seeds
            .by_ref()
            .take(ROUNDS)
            .map(|seed| {
                let seen = links::cut(&machines, &dir, silent, seed);
                eprintln!("{seen:?}");
                seen
            })
            .collect();
        seen.sort_by_key(|seen| seen.all_went_on);
        let (median, worst) = (seen[ROUNDS / 2].all_went_on, seen[ROUNDS - 1].all_went_on);
        eprintln!("{silent:?}: all went on after {median:?} at the median, {worst:?} at the worst");
        assert!(median < MEDIAN_MAX && worst < STALL_MAX, "{seen:?}");
    }
    machines.end();
}

/// What applications see of it, with the tool that measures kills and stops too (`bench/failover.md`).
#[test]
fn fsfailover_sees_no_error_when_links_go_down() {
    const RUNS: usize = 3;
    let (machines, dir) = links::start();
    for silent in [Silent::Leader, Silent::Chunkserver, Silent::Both] {
        for mode in ["write", "read", "meta"] {
            let run = |_| links::fsfailover(&machines, &dir, silent, mode);
            let mut stalls: Vec<Duration> = (0..RUNS).map(run).collect();
            stalls.sort();
            eprintln!(
                "fsfailover, {silent:?}, {mode}: {:?} at the median, {:?} at the worst",
                stalls[RUNS / 2],
                stalls[RUNS - 1]
            );
            assert!(stalls[RUNS - 1] < STALL_MAX, "{silent:?}, {mode}: {stalls:?}");
        }
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
