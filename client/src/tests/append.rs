//! Appends of several clients to one file, and reads that bypass the kernel's cache.

use std::sync::Arc;
use std::time::Duration;

use dfs_proto::env::Rng;
use dfs_proto::meta::SetAttr;
use dfs_proto::units::{ByteLen, Offset};

use crate::config::ClientConfig;
use crate::fakes::{Cluster, USER, make, open};
use crate::inode::{Client, File, GetAttr};

/// As long as SEMANTICS.md lets an open descriptor be behind.
const BEHIND_MAX: Duration = Duration::from_millis(60);

async fn append(file: &File, line: &str) {
    file.append(&USER, line.as_bytes()).await.unwrap();
}

async fn append_and_close(client: &Arc<Client>, file: &File, line: &str) {
    let opened = open(client, file.inode()).await.unwrap();
    append(&opened, line).await;
    opened.flush().await.unwrap();
    opened.release().await.unwrap();
}

async fn shown(client: &Client, file: &File) -> String {
    let size = client.perform(&USER, GetAttr { inode: file.inode() }).await.unwrap().size;
    let bytes = file.read_at(Offset(0), u64::MAX).await.unwrap();
    assert_eq!(bytes.len() as u64, size.0);
    String::from_utf8(bytes.to_vec()).unwrap()
}

/// The append lay at the end that this client had last known: the other client's line was gone.
#[tokio::test(start_paused = true)]
async fn an_append_lies_behind_what_another_client_closed_before() {
    let cluster = Cluster::new();
    let (a, b) = (cluster.client().await, cluster.client().await);
    let file = make(&a, "log").await;
    append(&file, "a1 ").await;
    file.sync().await.unwrap();
    append_and_close(&b, &file, "b1 ").await;
    append(&file, "a2 ").await;
    file.sync().await.unwrap();
    append_and_close(&b, &file, "b2 ").await;
    tokio::time::sleep(BEHIND_MAX).await;
    assert_eq!(file.append(&USER, b"a3 ").await, Ok(Offset(12)), "where it stays");
    file.flush().await.unwrap();
    assert_eq!(cluster.read_elsewhere(file.inode()).await, b"a1 b1 a2 b2 a3 ");
}

/// What is not committed yet was committed over it.
#[tokio::test(start_paused = true)]
async fn what_was_appended_and_is_not_committed_goes_behind_what_another_client_closes() {
    let cluster = Cluster::new();
    let (a, b) = (cluster.client().await, cluster.client().await);
    let file = make(&a, "log").await;
    append(&file, "a1 ").await;
    append_and_close(&b, &file, "b1, which is longer ").await;
    append(&file, "a2 ").await;
    assert_eq!(shown(&a, &file).await, "b1, which is longer a1 a2 ", "from when this client hears of it");
    append(&file, "a3 ").await;
    append_and_close(&b, &file, "b2 ").await;
    append(&file, "a4 ").await;
    file.flush().await.unwrap();
    let all = "b1, which is longer a1 a2 b2 a3 a4 ";
    assert_eq!(cluster.read_elsewhere(file.inode()).await, all.as_bytes());
    assert_eq!(shown(&a, &file).await, all);
}

#[tokio::test(start_paused = true)]
async fn what_was_appended_and_is_not_committed_follows_an_end_that_another_client_moved_down() {
    let cluster = Cluster::new();
    let (a, b) = (cluster.client().await, cluster.client().await);
    let file = make(&a, "log").await;
    append(&file, "rotated away ").await;
    file.sync().await.unwrap();
    append(&file, "a1 ").await;
    let size = Some(ByteLen(0));
    b.perform(&USER, SetAttr { inode: file.inode(), size, ..SetAttr::default() }).await.unwrap();
    append(&file, "a2 ").await;
    file.flush().await.unwrap();
    assert_eq!(cluster.read_elsewhere(file.inode()).await, b"a1 a2 ");
}

#[tokio::test(start_paused = true)]
async fn what_was_written_by_its_place_stays_there_and_appends_lie_behind_it() {
    let cluster = Cluster::new();
    let (a, b) = (cluster.client().await, cluster.client().await);
    let file = make(&a, "f").await;
    file.write_at(&USER, Offset(2), b"by place ").await.unwrap();
    append(&file, "a1 ").await;
    append_and_close(&b, &file, "b1, which is much longer ").await;
    file.flush().await.unwrap();
    let expected = b"b1by place s much longer a1 ";
    assert_eq!(cluster.read_elsewhere(file.inode()).await, expected);
    append(&file, "a2 ").await;
    file.write_at(&USER, Offset(28), b"A").await.unwrap();
    append(&file, "a3 ").await;
    file.flush().await.unwrap();
    assert_eq!(cluster.read_elsewhere(file.inode()).await, b"b1by place s much longer a1 A2 a3 ");
}

/// Not answered, it looks like another client's when the size is asked for again.
#[tokio::test(start_paused = true)]
async fn an_append_whose_commit_was_not_answered_is_in_the_file_once() {
    for (lost_commits, lost_commit_answers) in [(0, 1), (1, 0), (1, 1)] {
        let cluster = Cluster::new();
        let timeouts = ClientConfig { metadata_timeout: Duration::from_secs(2), ..ClientConfig::default() };
        let client = cluster.client_with(timeouts).await;
        let file = make(&client, "log").await;
        append(&file, "a1 ").await;
        file.sync().await.unwrap();
        append(&file, "a2 ").await;
        cluster.meta.state().lost_commits = lost_commits;
        cluster.meta.state().lost_commit_answers = lost_commit_answers;
        file.sync().await.unwrap();
        append(&file, "a3 ").await;
        file.sync().await.unwrap();
        assert_eq!(cluster.read_elsewhere(file.inode()).await, b"a1 a2 a3 ");
    }
}

#[tokio::test(start_paused = true)]
async fn many_small_appends_do_not_ask_for_each() {
    let cluster = Cluster::new();
    let client = cluster.client().await;
    let file = make(&client, "log").await;
    let before = cluster.meta.state().reads;
    for _ in 0..1000 {
        append(&file, "line\n").await;
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    file.flush().await.unwrap();
    assert!(cluster.meta.state().reads - before <= 2, "{} questions", cluster.meta.state().reads - before);
}

#[tokio::test(start_paused = true)]
async fn a_direct_read_sees_what_another_client_closed_a_moment_before() {
    let cluster = Cluster::new();
    let (a, b) = (cluster.client().await, cluster.client().await);
    let file = make(&a, "f").await;
    file.write_at(&USER, Offset(0), b"old").await.unwrap();
    file.flush().await.unwrap();
    let reader = open(&b, file.inode()).await.unwrap();
    assert_eq!(&reader.read_direct(Offset(0), 100).await.unwrap()[..], b"old");
    file.write_at(&USER, Offset(0), b"newer").await.unwrap();
    file.flush().await.unwrap();
    tokio::time::sleep(BEHIND_MAX).await;
    assert_eq!(&reader.read_direct(Offset(0), 100).await.unwrap()[..], b"newer");
}

/// Clients that take turns: whatever one has closed is in the file once, and each client's lines in their order.
async fn take_turns(seed: u64) {
    let (cluster, rng) = (Cluster::new(), Rng::seeded(seed));
    let mut clients = Vec::new();
    for _ in 0..3 {
        clients.push(cluster.client().await);
    }
    let inode = make(&clients[0], "log").await.inode();
    let mut files: Vec<Arc<File>> = Vec::new();
    for client in &clients {
        files.push(open(client, inode).await.unwrap());
    }
    let mut expected = vec![String::new(); clients.len()];
    for step in 0..150 {
        let who = rng.below(clients.len() as u64) as usize;
        match rng.below(8) {
            0..=3 => {
                let line = format!("{who}:{step}{}\n", "x".repeat(rng.below(200) as usize));
                append(&files[who], &line).await;
                expected[who] += &line;
            }
            4..=5 => files[who].sync().await.unwrap(),
            6 => drop(clients[who].perform(&USER, GetAttr { inode }).await.unwrap()),
            _ => tokio::time::sleep(Duration::from_millis(rng.below(200))).await,
        }
    }
    for file in &files {
        file.flush().await.unwrap();
    }
    let all = String::from_utf8(cluster.read_elsewhere(inode).await).unwrap();
    for (who, expected) in expected.iter().enumerate() {
        let start = format!("{who}:");
        let lines: String = all.split_inclusive('\n').filter(|line| line.starts_with(&start)).collect();
        assert_eq!(&lines, expected, "seed {seed}: client {who}");
    }
    assert_eq!(all.len(), expected.iter().map(String::len).sum::<usize>(), "seed {seed}: and nothing else");
}

#[tokio::test(start_paused = true)]
async fn appends_of_clients_that_take_turns_are_all_there_once() {
    for seed in 0..60 {
        take_turns(seed).await;
    }
}
