//! Many clients hold leases of many files, and one changes them all.

use std::sync::Arc;
use std::time::Duration;

use dfs_client::ClientConfig;
use dfs_client::inode::{Client, ReadDir};
use dfs_net::env::Env;
use dfs_proto::attr::Caller;
use dfs_proto::ids::InodeId;
use dfs_tests::cluster::{Cluster, Shape};
use dfs_tests::figures::Figures;
use dfs_tests::shell::sh;
use dfs_tests::wait;
use std::fs;
use std::os::unix::fs::MetadataExt as _;

use crate::{metric, turn};

const CLIENTS: usize = 20;
const DIRECTORIES: usize = 50;
const FILES_OF_DIRECTORY: usize = 1000;
const FILES: usize = DIRECTORIES * FILES_OF_DIRECTORY;
/// Of these all files are changed.
const CHANGED: usize = 10_000;

async fn connect(cluster: &Cluster, number: usize) -> Arc<Client> {
    let config = ClientConfig {
        metaservers: cluster.federation(),
        name: format!("storm:{number}"),
        ..ClientConfig::default()
    };
    Client::connect(config, Env::real()).await.unwrap()
}

/// Lists them with attributes: what is shown is leased.
async fn list(client: &Client, directories: &[InodeId]) -> usize {
    let mut count = 0;
    for inode in directories {
        let mut cookie = 0;
        loop {
            let read = ReadDir { inode: *inode, cookie, limit: 1000, plus: true };
            let page = client.perform(&Caller::ROOT, read).await.unwrap();
            count += page.entries.len();
            cookie = page.entries.last().map_or(cookie, |entry| entry.cookie);
            if page.end {
                break;
            }
        }
    }
    count
}

fn resident_mib(pid: u32) -> f64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<f64>().unwrap() / 1024.0
}

#[test]
fn a_million_leases_take_little_memory_and_a_writer_who_recalls_them_gets_on() {
    let _turn = turn();
    let cluster = Cluster::start(Shape::default());
    let dir = cluster.mount("a").join("d");
    fs::create_dir(&dir).unwrap();
    let make = "for d in $(seq 0 DIRS); do mkdir $d; done; seq 0 LAST | xargs -P 8 -n 500 sh -c 'for f; do : > $((f / 1000))/$f; done' _";
    let make = make.replace("DIRS", &(DIRECTORIES - 1).to_string()).replace("LAST", &(FILES - 1).to_string());
    sh(&dir, &make);
    let inode = |number: usize| InodeId(fs::metadata(dir.join(number.to_string())).unwrap().ino());
    let directories: Vec<InodeId> = (0..DIRECTORIES).map(inode).collect();
    cluster.unmount("a");

    let runtime = tokio::runtime::Runtime::new().unwrap();
    let leader = cluster.leader();
    let pid = cluster.pid(&leader).unwrap();
    let memory = || (metric(&cluster, &leader, "dfs_metaserver_leases"), resident_mib(pid));
    let clients: Vec<Arc<Client>> = runtime.block_on(async {
        let mut clients = Vec::new();
        for number in 0..CLIENTS {
            clients.push(connect(&cluster, number).await);
        }
        clients
    });
    let all = |client: &Arc<Client>| assert_eq!(runtime.block_on(list(client, &directories)), FILES);
    all(&clients[0]); // the leader's caches are warm
    let before = memory();
    clients[1..].iter().for_each(all);
    let after = memory();
    let leases = after.0 - before.0;
    let mut figures = Figures::new(
        "storm",
        "20 clients list 50,000 files with attributes; then another mount changes 10,000.",
    );
    figures.at_least("leases that were added", leases, 900_000.0, "");
    figures.at_most("the leader's memory for a million", (after.1 - before.1) * 1e6 / leases, 80.0, "MiB");

    let dir = cluster.mount("a").join("d");
    let issued = || metric(&cluster, &leader, "dfs_metaserver_recalls_total");
    let (recalls, began) = (issued(), wait::now());
    let changed: Vec<String> = (0..CHANGED / FILES_OF_DIRECTORY).map(|number| number.to_string()).collect();
    sh(&dir, &format!("chmod -R 600 {}", changed.join(" ")));
    let took = began.elapsed();
    figures.shown("changed by one process", CHANGED as f64 / took.as_secs_f64(), "a second");
    figures.shown("recalls that were pushed", issued() - recalls, "");
    figures.at_most(
        "the leader's memory, more than with the leases",
        resident_mib(pid) - after.1,
        200.0,
        "MiB",
    );
    runtime.block_on(async {
        for client in &clients {
            client.shutdown(Duration::from_secs(5)).await;
        }
    });
    figures.end();
}
