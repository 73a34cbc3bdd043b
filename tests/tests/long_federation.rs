//! Two clusters under one root, for as long as it takes: `make test-long`.

#![allow(clippy::unwrap_used, reason = "in a test an unwrap is an assertion")]

use std::fs;
use std::time::Duration;

use dfs_tests::cluster::Shape;
use dfs_tests::federation::{Federation, rounds};
use dfs_tests::shell::sh;
use dfs_tests::{daemon, sys, wait};

const VOLUMES: usize = 1_000;
const ROUNDS: usize = 200;

#[test]
fn a_thousand_volumes_are_listed_within_a_second_and_cost_a_client_little() {
    let federation = Federation::start(Shape { metaservers: 3, chunkservers: 2, ..Shape::default() });
    let dir = federation.alpha.mount("a");
    let before = wait::now();
    for number in 0..VOLUMES {
        fs::create_dir(dir.join(format!("a-volume-with-a-name-of-usual-length-{number}"))).unwrap();
    }
    let made = before.elapsed();
    let dir = federation.alpha.remount_cold("a");
    let before = wait::now();
    let listed = sh(&dir, "ls -l");
    let took = before.elapsed();
    assert_eq!(listed.lines().filter(|line| line.starts_with('d')).count(), VOLUMES);
    sys::drop_caches();
    let map = federation.map_len();
    println!("{VOLUMES} volumes: made in {made:?}, ls -l cold {took:?}, the map {map} bytes as it is sent");
    assert!(took < Duration::from_secs(1), "ls -l took {took:?}");
    assert!(map < 1 << 20, "{map} bytes");
}

#[test]
fn two_hundred_rounds_with_leaders_killed_lose_no_volume_and_leave_none_in_the_middle() {
    let federation = Federation::start(Shape {
        metaservers: 3,
        chunkservers: 1,
        copies: 1,
        deadline_ms: 5_000,
        ..Shape::default()
    });
    println!("{:?}", rounds(&federation, ROUNDS, 4));
}

/// 512 MiB into each of two volumes, one after the other and at the same time, by turns.
#[test]
fn two_clusters_that_write_at_once_cost_what_they_cost_one_after_the_other() {
    let federation = Federation::start(Shape { metaservers: 3, chunkservers: 2, ..Shape::default() });
    let dir = federation.alpha.mount("a");
    for cluster in federation.clusters() {
        federation.make_volume(cluster.shape.name, cluster);
    }
    let pids: Vec<u32> = federation
        .clusters()
        .iter()
        .flat_map(|cluster| cluster.server_names().into_iter().map(|name| cluster.pid(&name).unwrap()))
        .chain(federation.alpha.pid("a"))
        .collect();
    let cpu = |script: &str| {
        let ticks = || pids.iter().map(|pid| daemon::cpu_ticks(*pid)).sum::<u64>();
        let before = ticks();
        sh(&dir, script);
        let took = (ticks() - before) as f64 / 100.0;
        sh(&dir, "rm alpha/* beta/*");
        took
    };
    let write = |name: &str| format!("dd if=/dev/zero of={name}/file bs=1M count=512 conv=fsync status=none");
    let (alpha, beta) = (write("alpha"), write("beta"));
    cpu(&format!("{alpha}; {beta}")); // the first writes warm everything up
    let (mut apart, mut together) = (Vec::new(), Vec::new());
    for _ in 0..5 {
        apart.push(cpu(&format!("{alpha}; {beta}")));
        together.push(cpu(&format!("{alpha} & {beta}; wait")));
    }
    println!("CPU-seconds per GiB, one after the other {apart:?}, at once {together:?}");
    apart.sort_by(f64::total_cmp);
    together.sort_by(f64::total_cmp);
    let ratio = together[2] / apart[2];
    assert!(ratio < 1.15, "{ratio:.2} times as much at once");
}
