//! Appends of several clients to one file, and reads that bypass the kernel's cache.

use std::sync::Arc;
use std::time::Duration;

use dfs_net::env::Rng;
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

#[tokio::test(start_paused = true)]
async fn appends_of_two_clients_lie_in_the_order_of_the_calls_closed_or_not() {
    let cluster = Cluster::new();
    let (a, b) = (cluster.client().await, cluster.client().await);
    let file = make(&a, "log").await;
    let other = open(&b, file.inode()).await.unwrap();
    let mut expected = String::new();
    for number in 0..20 {
        for (who, file) in [("a", &file), ("b", &other)] {
            let line = format!("{who}{number} ");
            let at = file.append(&USER, line.as_bytes()).await.unwrap();
            assert_eq!(at, Offset(expected.len() as u64), "where it stays");
            expected += &line;
        }
        assert_eq!(shown(&a, &file).await, expected);
        assert_eq!(shown(&b, &other).await, expected);
    }
}

#[tokio::test(start_paused = true)]
async fn what_was_appended_before_another_client_cuts_the_file_is_cut() {
    let cluster = Cluster::new();
    let (a, b) = (cluster.client().await, cluster.client().await);
    let file = make(&a, "log").await;
    append(&file, "rotated away ").await;
    file.sync().await.unwrap();
    append(&file, "a1 ").await;
    let size = Some(ByteLen(0));
    b.perform(&USER, SetAttr { inode: file.inode(), size, ..SetAttr::default() }).await.unwrap();
    append(&file, "a2 ").await;
    assert_eq!(cluster.read_elsewhere(file.inode()).await, b"a2 ");
    assert_eq!(shown(&a, &file).await, "a2 ");
}

#[tokio::test(start_paused = true)]
async fn what_was_written_by_its_place_stays_there_and_appends_lie_behind_it() {
    let cluster = Cluster::new();
    let (a, b) = (cluster.client().await, cluster.client().await);
    let file = make(&a, "f").await;
    file.write_at(&USER, Offset(2), b"by place ").await.unwrap();
    append(&file, "a1 ").await;
    append_and_close(&b, &file, "b1 ").await;
    file.write_at(&USER, Offset(11), b"A").await.unwrap();
    append(&file, "a2 ").await;
    assert_eq!(cluster.read_elsewhere(file.inode()).await, b"\0\0by place A1 b1 a2 ");
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

/// Clients that take turns: the file is what they have appended, in the order of the calls, and each sees that at any time.
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
    let mut expected = String::new();
    for step in 0..150 {
        let who = rng.below(clients.len() as u64) as usize;
        match rng.below(8) {
            0..=3 => {
                let line = format!("{who}:{step}{}\n", "x".repeat(rng.below(200) as usize));
                append(&files[who], &line).await;
                expected += &line;
            }
            4 => files[who].sync().await.unwrap(),
            5 => assert_eq!(shown(&clients[who], &files[who]).await, expected, "seed {seed}, step {step}"),
            6 => {
                let size = clients[who].perform(&USER, GetAttr { inode }).await.unwrap().size;
                assert_eq!(size.0, expected.len() as u64, "seed {seed}, step {step}");
            }
            _ => tokio::time::sleep(Duration::from_millis(rng.below(200))).await,
        }
    }
    let all = String::from_utf8(cluster.read_elsewhere(inode).await).unwrap();
    assert_eq!(all, expected, "seed {seed}");
}

#[tokio::test(start_paused = true)]
async fn appends_of_clients_that_take_turns_are_all_there_once() {
    for seed in 0..60 {
        take_turns(seed).await;
    }
}
