//! Machines of their own, in network namespaces: the README's section "Three machines" with the files that stand there, links
//! that go down, and two clusters of which one cannot be reached.

#![allow(clippy::unwrap_used, reason = "in a test an unwrap is an assertion")]

use std::fs;
use std::time::Duration;

use dfs_tests::links::{self, Silent};
use dfs_tests::load::Copying;
use dfs_tests::machines::Machines;
use dfs_tests::shell::{sh, try_sh};
use dfs_tests::{sys, tree, wait};

const BOTH: [&str; 2] = ["dfs-metaserver", "dfs-chunkserver"];

/// Of a mount of two clusters, so that what waits for a lost one is measured in seconds.
const DEADLINE: Duration = Duration::from_secs(5);
/// What does not concern a lost cluster must not wait for it.
const STALL_MAX: Duration = Duration::from_secs(1);
const BACK_DEADLINE: Duration = Duration::from_secs(60);
/// Beside other tests, on two cores; the promise itself is `make test-long`'s.
const GO_ON_MAX: Duration = Duration::from_secs(20);

#[test]
fn three_machines_set_up_by_the_readme_serve_a_fourth_and_lose_one() {
    let mut machines = Machines::new(4);
    for machine in 1..=3 {
        machines.start_servers(machine, &BOTH, "");
    }
    let status = machines.wait_healthy(1, 3);
    assert!(status.contains("healthy: 3 metaservers, 3 chunkservers"), "{status}");
    let dir = machines.mount(4);
    let outside = tempfile::tempdir().unwrap();
    let source = outside.path().join("made");
    tree::make(&source, 77, 200).unwrap();
    tree::write_made(&source.join("large"), 78, 32 << 20).unwrap();
    sh(&dir, &format!("cp -a {} copy", source.display()));
    sys::drop_caches();
    tree::assert_same(&source, &dir.join("copy"));
    for program in BOTH {
        machines.kill(2, program);
    }
    fs::write(dir.join("after"), "one machine less").unwrap();
    sys::drop_caches();
    tree::assert_same(&source, &dir.join("copy"));
    machines.end();
}

#[test]
fn a_link_that_goes_down_in_the_middle_of_writes_costs_time_and_nothing_that_was_acknowledged() {
    let (machines, dir) = links::start();
    // `make test-long` has the leader and the chunkserver by themselves too.
    for (seed, silent) in [(100, Silent::Both), (110, Silent::Mount)] {
        let seen = links::cut(&machines, &dir, silent, seed);
        eprintln!("{seen:?}");
        assert!(seen.all_went_on < GO_ON_MAX, "{seen:?}");
    }
    machines.end();
}

/// Each cluster on a machine of its own: the first link that goes down is the one of the root directory and of the whole
/// federation group.
#[test]
fn a_cluster_behind_a_link_that_is_down_delays_nobody_else_and_comes_back() {
    let mut machines = Machines::new(3);
    machines.start_two_clusters();
    let dir = machines.mount_two_clusters(3, DEADLINE);
    for name in ["alpha", "beta"] {
        let made = machines.admin(3, &format!("volume create /in-{name} --cluster {name}"));
        assert!(made.ok, "{made:?}");
        fs::write(dir.join(format!("in-{name}/file")), "kept").unwrap();
    }
    for (silent, lost, living) in [(1, "in-alpha", "in-beta"), (2, "in-beta", "in-alpha")] {
        let copy = Copying::start(&dir.join(living));
        copy.wait_for(20);
        machines.set_link(silent, false);
        let look = || {
            let before = wait::now();
            (try_sh(&dir, &format!("cat {lost}/file")), before.elapsed())
        };
        let (first, took) = look();
        assert!(
            first.stderr.contains("Input/output error") && took < 2 * DEADLINE,
            "{first:?} after {took:?}"
        );
        let (again, took) = look();
        assert!(!again.ok && took < STALL_MAX, "{again:?} after {took:?}");
        let (copied, stalled) = copy.finish();
        eprintln!("{lost} behind a link that is down: worst stall of {copied} files: {stalled:?}");
        assert!(stalled < STALL_MAX, "a file of the living cluster took {stalled:?}");
        machines.set_link(silent, true);
        wait::until("the lost volume to be back", BACK_DEADLINE, || {
            fs::read(dir.join(lost).join("file")).ok()
        });
        assert!(sh(&dir, "ls").lines().eq(["in-alpha", "in-beta"]));
        sh(&dir, &format!("rm {living}/f[0-9]*"));
    }
    machines.end();
}
