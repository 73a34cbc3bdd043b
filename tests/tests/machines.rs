//! The README's section "Three machines", in network namespaces, with the files that stand there.

#![allow(clippy::unwrap_used, reason = "in a test an unwrap is an assertion")]

use std::fs;

use dfs_tests::machines::Machines;
use dfs_tests::shell::sh;
use dfs_tests::{sys, tree};

const BOTH: [&str; 2] = ["dfs-metaserver", "dfs-chunkserver"];

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
