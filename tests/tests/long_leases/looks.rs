//! What a mount has looked at, it looks at again without a server.

use std::fs;
use std::path::Path;
use std::time::Duration;

use dfs_tests::cluster::{Cluster, Shape};
use dfs_tests::figures::{Figures, median};
use dfs_tests::wait;

use crate::{metric, turn};

const LOOKS: usize = 1000;
const NAMES: usize = 10;

/// One way to look at something in this directory.
type Look = fn(&Path);

/// Each with the longest that its second time may take at the median, in microseconds.
const WAYS: [(&str, Look, f64); 4] = [
    ("stat", |dir| assert!(fs::symlink_metadata(dir.join("file0")).unwrap().is_file()), 30.0),
    (
        "stat of a name that is not there",
        |dir| assert!(fs::symlink_metadata(dir.join("none")).is_err()),
        30.0,
    ),
    ("open, read, close", |dir| assert_eq!(fs::read(dir.join("file0")).unwrap().len(), 100), 200.0),
    ("listing of ten names", |dir| assert_eq!(fs::read_dir(dir).unwrap().count(), NAMES), 200.0),
];

/// What the servers have been asked: reads and changes of metaservers, and bytes of chunkservers.
fn asked(cluster: &Cluster) -> f64 {
    let of_metaservers = ["dfs_metaserver_reads_total", "dfs_metaserver_changes_total"];
    let counters = |servers: Vec<String>, names: &[&str]| -> f64 {
        let pairs = servers.iter().flat_map(|server| names.iter().map(move |name| (server, name)));
        pairs.map(|(server, name)| metric(cluster, server, name)).sum()
    };
    counters(cluster.metaserver_names(), &of_metaservers)
        + counters(cluster.chunkserver_names(), &["dfs_chunkserver_read_bytes_total"])
}

fn timed(look: Look, dir: &Path) -> Duration {
    let before = wait::now();
    look(dir);
    before.elapsed()
}

#[test]
fn what_a_mount_has_looked_at_it_looks_at_again_quickly_and_without_a_server() {
    let _turn = turn();
    let cluster = Cluster::start(Shape::default());
    let [a, b] = ["a", "b"].map(|mount| cluster.mount(mount).join("d"));
    fs::create_dir(&a).unwrap();
    for number in 0..NAMES {
        fs::write(a.join(format!("file{number}")), [7; 100]).unwrap();
    }
    let mut figures =
        Figures::new("looks", "What a mount has looked at, it looks at again: medians of 1,000, warm.");
    for (what, look, limit) in WAYS {
        look(&b);
        look(&b);
        let before = asked(&cluster);
        let times: Vec<Duration> = (0..LOOKS).map(|_| timed(look, &b)).collect();
        let requests = asked(&cluster) - before;
        figures.at_most(what, median(times).as_secs_f64() * 1e6, limit, "µs");
        figures.at_most(&format!("{what}: requests and bytes of all servers"), requests, 0.0, "");
    }
    // The other mount changes something before each first look.
    for (what, look, limit) in WAYS {
        let second = (0..LOOKS / 10).map(|round| {
            fs::write(a.join(format!("file{}", round % NAMES)), [8; 100]).unwrap();
            look(&b);
            timed(look, &b)
        });
        let times: Vec<Duration> = second.collect();
        figures.at_most(
            &format!("{what}: second look after a change"),
            median(times).as_secs_f64() * 1e6,
            limit,
            "µs",
        );
    }
    figures.end();
}
