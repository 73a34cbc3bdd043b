//! Write leases of files: several clients over one leader (`data/writes`).

use std::sync::Arc;
use std::time::Duration;

use dfs_net::env::Rng;
use dfs_proto::attr::Name;
use dfs_proto::ids::{InodeId, ServerId};
use dfs_proto::meta::{Rename, RenameMode, SetAttr};
use dfs_proto::units::{ByteLen, Offset};
use futures::future::join_all;
use tokio::time::{Instant, sleep, timeout};

use crate::config::{ClientConfig, Durability};
use crate::error::ClientError;
use crate::fakes::{Cluster, USER, lookup, make, open, size_of, unlink, wait_for};
use crate::inode::{Client, File, GetAttr};

async fn write(file: &File, offset: u64, bytes: &[u8]) {
    file.write_at(&USER, Offset(offset), bytes).await.unwrap();
}

async fn close(file: &File) {
    file.flush().await.unwrap();
    file.release().await.unwrap();
}

async fn size(client: &Client, inode: InodeId) -> u64 {
    size_of(&client.perform(&USER, GetAttr { inode }).await.unwrap())
}

async fn read(file: &File) -> Vec<u8> {
    file.read_at(Offset(0), u64::MAX).await.unwrap().to_vec()
}

fn holds(cluster: &Cluster, inode: InodeId) -> bool {
    cluster.meta.state().leader.writers.holder(inode).is_some()
}

/// Two clients that have one file open.
async fn two(cluster: &Cluster) -> [(Arc<Client>, Arc<File>); 2] {
    let (a, b) = (cluster.client().await, cluster.client().await);
    let file = make(&a, "f").await;
    let other = open(&b, file.inode()).await.unwrap();
    [(a, file), (b, other)]
}

#[tokio::test(start_paused = true)]
async fn what_is_written_and_not_closed_is_seen_by_the_reads_and_stats_of_another_client() {
    let cluster = Cluster::new();
    let [(a, file), (b, other)] = two(&cluster).await;
    for number in 0..10u8 {
        write(&file, 10 * u64::from(number), &[number; 10]).await;
        let expected = 10 * (u64::from(number) + 1);
        match number % 3 {
            0 => assert_eq!(size(&b, file.inode()).await, expected),
            1 => assert_eq!(size_of(&b.perform(&USER, lookup("f")).await.unwrap()), expected),
            _ => assert_eq!(read(&other).await.len() as u64, expected),
        }
        assert_eq!(size(&a, file.inode()).await, expected);
    }
    write(&other, 0, b"b").await;
    assert_eq!(read(&file).await[..2], [b'b', 0]);
    assert_eq!(cluster.meta.faults(), Vec::<String>::new());
}

#[tokio::test(start_paused = true)]
async fn who_creates_a_file_writes_it_without_a_question_and_nobody_else_is_asked() {
    let cluster = Cluster::new();
    let client = cluster.client().await;
    wait_for("an attachment", || !cluster.meta.state().leader.sessions().is_empty()).await;
    let file = make(&client, "f").await;
    write(&file, 0, b"new").await;
    close(&file).await;
    let state = cluster.meta.state();
    assert!(state.leader.writers.acquired.is_empty() && state.leader.writers.returned.is_empty());
    assert_eq!(state.commit_requests, 0, "a close commits nothing");
}

#[tokio::test(start_paused = true)]
async fn a_file_that_was_closed_is_committed_after_a_while_and_given_back() {
    let cluster = Cluster::new();
    let client = cluster.client().await;
    wait_for("an attachment", || !cluster.meta.state().leader.sessions().is_empty()).await;
    let file = make(&client, "f").await;
    write(&file, 0, b"bytes").await;
    close(&file).await;
    let closed = Instant::now();
    wait_for("a commit", || cluster.meta.attr(file.inode()).size == ByteLen(5)).await;
    assert!(closed.elapsed() < Duration::from_millis(1500), "{:?}", closed.elapsed());
    wait_for("the return", || !holds(&cluster, file.inode())).await;
    assert!(closed.elapsed() < Duration::from_millis(1700), "{:?}", closed.elapsed());
    assert_eq!(cluster.read_elsewhere(file.inode()).await, b"bytes");
}

#[tokio::test(start_paused = true)]
async fn a_file_that_is_open_and_not_written_for_a_while_is_given_back() {
    let cluster = Cluster::new();
    let [(_a, file), _] = two(&cluster).await;
    for number in 0..10 {
        write(&file, number, b"x").await;
        sleep(Duration::from_secs(3)).await;
        assert!(holds(&cluster, file.inode()), "it is used");
    }
    sleep(Duration::from_secs(4)).await;
    assert!(!holds(&cluster, file.inode()));
    write(&file, 20, b"y").await;
    assert_eq!(cluster.read_elsewhere(file.inode()).await.len(), 21);
}

#[tokio::test(start_paused = true)]
async fn the_close_of_many_small_files_costs_few_commits() {
    let cluster = Cluster::new();
    let client = cluster.client().await;
    let made = (0..200).map(|number| {
        let client = client.clone();
        async move {
            let file = make(&client, &format!("f{number}")).await;
            write(&file, 0, b"data").await;
            close(&file).await;
            file.inode()
        }
    });
    let inodes = join_all(made).await;
    assert_eq!(cluster.meta.state().commit_requests, 0);
    wait_for("all commits", || inodes.iter().all(|inode| cluster.meta.attr(*inode).size == ByteLen(4))).await;
    let requests = cluster.meta.state().commit_requests;
    assert!(requests <= 8, "{requests} commits");
    wait_for("all returns", || inodes.iter().all(|inode| !holds(&cluster, *inode))).await;
}

#[tokio::test(start_paused = true)]
async fn with_durability_for_each_operation_a_close_commits() {
    let cluster = Cluster::new();
    let durability = Durability::Operation;
    let client = cluster.client_with(ClientConfig { durability, ..ClientConfig::default() }).await;
    let file = make(&client, "f").await;
    write(&file, 0, b"bytes").await;
    close(&file).await;
    assert_eq!(cluster.meta.attr(file.inode()).size, ByteLen(5));
}

#[tokio::test(start_paused = true)]
async fn a_recall_during_many_writes_shows_what_had_returned() {
    let cluster = Cluster::new();
    let [(_a, file), (_b, other)] = two(&cluster).await;
    let writer = file.clone();
    let writing = tokio::spawn(async move {
        for number in 0..300u64 {
            write(&writer, 8 * number, &number.to_le_bytes()).await;
            tokio::task::yield_now().await;
        }
    });
    let mut last = 0;
    while !writing.is_finished() {
        sleep(Duration::from_millis(1)).await; // for the writer
        let known = size_of(&file.attr());
        let bytes = read(&other).await;
        assert!(bytes.len() as u64 >= known.max(last), "what had returned");
        for (number, word) in bytes.chunks(8).enumerate() {
            assert_eq!(word, (number as u64).to_le_bytes());
        }
        last = bytes.len() as u64;
    }
    writing.await.unwrap();
    assert_eq!(read(&other).await.len(), 2400);
}

#[tokio::test(start_paused = true)]
async fn a_recall_that_overtakes_the_answer_to_its_question_is_answered_after_the_writes_that_wait() {
    let cluster = Cluster::new();
    let [(_a, file), (b, other)] = two(&cluster).await;
    let inode = file.inode();
    write(&file, 0, b"first").await;
    cluster.meta.state().leader.writers.acquired.clear();
    cluster.meta.state().leader.acquire_answer_delay = Duration::from_millis(50);
    let writers = (0..3u64).map(|number| {
        let other = other.clone();
        tokio::spawn(async move { write(&other, 10 + number, b"x").await })
    });
    let writers: Vec<_> = writers.collect();
    wait_for("the grant", || cluster.meta.state().leader.writers.acquired.len() == 1).await;
    let third = cluster.client().await;
    assert_eq!(size(&third, inode).await, 13, "all three were written");
    for writer in writers {
        writer.await.unwrap();
    }
    assert_eq!(cluster.meta.state().leader.writers.acquired.len(), 1);
    assert_eq!(size(&b, inode).await, 13);
}

/// The file was found by its name before its creator had heard that it holds it.
#[tokio::test(start_paused = true)]
async fn a_recall_that_overtakes_the_answer_to_a_create_leaves_one_writer() {
    let cluster = Cluster::new();
    let (a, b) = (cluster.client().await, cluster.client().await);
    wait_for("both", || cluster.meta.state().leader.sessions().len() == 2).await;
    cluster.meta.state().leader.create_answer_delay = Duration::from_millis(50);
    let maker = a.clone();
    let making = tokio::spawn(async move { make(&maker, "f").await });
    let mut found = b.perform(&USER, lookup("f")).await;
    while found.is_err() {
        sleep(Duration::from_millis(1)).await;
        found = b.perform(&USER, lookup("f")).await;
    }
    let other = open(&b, found.unwrap().inode).await.unwrap();
    assert_eq!(other.append(&USER, b"b1 ").await, Ok(Offset(0)));
    assert!(!making.is_finished());
    let file = making.await.unwrap();
    assert_eq!(file.append(&USER, b"a1 ").await, Ok(Offset(3)));
    assert_eq!(other.append(&USER, b"b2 ").await, Ok(Offset(6)));
    assert_eq!(cluster.read_elsewhere(file.inode()).await, b"b1 a1 b2 ");
}

#[tokio::test(start_paused = true)]
async fn who_has_lapsed_waits_and_goes_on_as_if_nothing_had_been() {
    let cluster = Cluster::new();
    let [(a, file), _] = two(&cluster).await;
    write(&file, 0, b"before").await;
    cluster.meta.state().leader.is_away = true;
    sleep(Duration::from_secs(4)).await;
    write(&file, 6, b" st").await;
    sleep(Duration::from_secs(4)).await;
    write(&file, 9, b"ill").await;
    sleep(Duration::from_secs(3)).await;
    let writer = file.clone();
    let writing = tokio::spawn(async move { write(&writer, 12, b" after").await });
    let reader = file.clone();
    let reading = tokio::spawn(async move { read(&reader).await });
    sleep(Duration::from_secs(1)).await;
    assert!(!writing.is_finished() && !reading.is_finished(), "another one may be the writer by now");
    cluster.meta.state().leader.is_away = false;
    writing.await.unwrap();
    reading.await.unwrap();
    file.sync().await.unwrap();
    assert_eq!(cluster.read_elsewhere(file.inode()).await, b"before still after");
    assert_eq!(size(&a, file.inode()).await, 18);
}

#[tokio::test(start_paused = true)]
async fn a_new_leader_is_told_what_is_held_and_shows_nothing_before() {
    let cluster = Cluster::new();
    let [(_a, file), (b, _)] = two(&cluster).await;
    write(&file, 0, b"bytes").await;
    cluster.meta.state().leader.replace();
    assert_eq!(size(&b, file.inode()).await, 5);
    file.sync().await.unwrap();
    for number in 0..5 {
        write(&file, 5 + number, b"x").await;
        cluster.meta.state().leader.replace();
        write(&file, 0, b"y").await;
        assert_eq!(size(&b, file.inode()).await, 6 + number);
    }
}

#[tokio::test(start_paused = true)]
async fn who_was_expired_fails_what_was_buffered_once_for_each_open_file() {
    let cluster = Cluster::new();
    let [(a, file), (b, other)] = two(&cluster).await;
    let second = open(&a, file.inode()).await.unwrap();
    write(&file, 0, b"lost").await;
    cluster.meta.expire_all();
    write(&other, 0, b"kept").await;
    assert_eq!(size(&b, file.inode()).await, 4);
    sleep(Duration::from_secs(2)).await; // a heartbeat finds out
    for file in [&file, &second] {
        assert_eq!(file.sync().await, Err(ClientError::SessionLost));
        assert_eq!(file.sync().await, Ok(()));
    }
    assert_eq!(read(&file).await, b"kept");
    write(&file, 4, b" on").await;
    assert_eq!(read(&other).await, b"kept on");
}

/// A's changes wait for B, which does not give its file back; C asks for a file of A.
#[tokio::test(start_paused = true)]
async fn a_flush_for_a_recall_waits_for_no_change_of_this_client() {
    let cluster = Cluster::new();
    let [(a, file), (b, _)] = two(&cluster).await;
    let stuck = make(&b, "stuck").await;
    write(&stuck, 0, b"x").await;
    write(&file, 0, b"bytes").await;
    let inode = stuck.inode();
    cluster.meta.state().leader.writers.kept_back.insert(inode);
    let changes: Vec<_> = (0..600u32)
        .map(|mode| {
            let a = a.clone();
            tokio::spawn(async move {
                let set = SetAttr { inode, mode: Some(mode % 0o777), ..SetAttr::default() };
                a.perform(&dfs_proto::attr::Caller::ROOT, set).await.map(drop)
            })
        })
        .collect();
    sleep(Duration::from_millis(100)).await;
    let asked = Instant::now();
    let third = cluster.client().await;
    assert_eq!(size(&third, file.inode()).await, 5);
    assert!(asked.elapsed() < Duration::from_secs(1), "{:?}", asked.elapsed());
    assert!(changes.iter().all(|change| !change.is_finished()));
    cluster.meta.state().leader.writers.kept_back.clear();
    for change in changes {
        change.await.unwrap().unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn a_change_of_attributes_that_waits_for_another_client_holds_up_no_commit() {
    let cluster = Cluster::new();
    let [(a, file), (b, _)] = two(&cluster).await;
    write(&file, 0, b"bytes").await;
    cluster.meta.state().leader.change_answer_delay = Duration::from_secs(5);
    let (client, inode) = (a.clone(), file.inode());
    let changing = tokio::spawn(async move {
        let set = SetAttr { inode, mode: Some(0o600), ..SetAttr::default() };
        client.perform(&USER, set).await.map(drop)
    });
    sleep(Duration::from_millis(20)).await;
    cluster.meta.state().leader.change_answer_delay = Duration::ZERO;
    assert_eq!(size(&b, inode).await, 5);
    assert!(!changing.is_finished());
    changing.await.unwrap().unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_return_whose_call_was_lost_is_sent_again() {
    let cluster = Cluster::new();
    let [(_a, file), (b, _)] = two(&cluster).await;
    write(&file, 0, b"bytes").await;
    cluster.meta.state().leader.lost_returns = 3;
    assert_eq!(size(&b, file.inode()).await, 5);
}

#[tokio::test(start_paused = true)]
async fn a_file_that_cannot_be_committed_for_a_recall_is_given_back_and_its_writer_is_told() {
    let cluster = Cluster::new();
    let data_timeout = Duration::from_secs(5);
    let a = cluster.client_with(ClientConfig { data_timeout, ..ClientConfig::default() }).await;
    let b = cluster.client().await;
    let file = make(&a, "f").await;
    write(&file, 0, b"lost").await;
    (1..=3).for_each(|id| cluster.chunks.silence(ServerId(id), true));
    assert_eq!(size(&b, file.inode()).await, 0);
    (1..=3).for_each(|id| cluster.chunks.silence(ServerId(id), false));
    assert!(file.sync().await.is_err());
    write(&file, 0, b"kept").await;
    assert_eq!(size(&b, file.inode()).await, 4);
}

/// Linux's errseq: a program may sync what another one has written and closed.
#[tokio::test(start_paused = true)]
async fn a_failure_after_the_last_close_is_reported_by_the_next_open_file_once() {
    let cluster = Cluster::new();
    let client = cluster.client().await;
    let file = make(&client, "f").await;
    write(&file, 0, b"lost").await;
    close(&file).await;
    (1..=3).for_each(|id| cluster.chunks.silence(ServerId(id), true));
    sleep(Duration::from_secs(60)).await;
    (1..=3).for_each(|id| cluster.chunks.silence(ServerId(id), false));
    let next = open(&client, file.inode()).await.unwrap();
    assert!(matches!(next.sync().await, Err(ClientError::Unavailable { .. })));
    assert_eq!(next.sync().await, Ok(()));
    let later = open(&client, file.inode()).await.unwrap();
    assert_eq!(later.sync().await, Ok(()));
}

fn rename(from: &str, to: &str) -> Rename {
    let parent = InodeId::ROOT;
    let (name, new_name) = (Name::new(from).unwrap(), Name::new(to).unwrap());
    Rename { parent, name, new_parent: parent, new_name, mode: RenameMode::Replace }
}

#[tokio::test(start_paused = true)]
async fn a_closed_file_is_committed_before_it_is_renamed_and_an_unlinked_one_never() {
    let cluster = Cluster::new();
    let client = cluster.client().await;
    let file = make(&client, "tmp").await;
    write(&file, 0, b"bytes").await;
    close(&file).await;
    client.perform(&USER, rename("tmp", "real")).await.unwrap();
    assert_eq!(cluster.meta.attr(file.inode()).size, ByteLen(5));
    let commits = cluster.meta.state().commit_requests;
    let file = make(&client, "tmp").await;
    write(&file, 0, b"temporary").await;
    close(&file).await;
    let appends = cluster.chunks.appends();
    client.perform(&USER, unlink("tmp")).await.unwrap();
    sleep(Duration::from_secs(10)).await;
    assert_eq!((cluster.chunks.appends(), cluster.meta.state().commit_requests), (appends, commits));
    client.perform(&USER, rename("real", "tmp")).await.unwrap();
    assert_eq!(client.shutdown(Duration::from_secs(10)).await, Vec::<String>::new());
}

#[tokio::test(start_paused = true)]
async fn with_a_leader_that_gives_no_write_a_close_commits() {
    let cluster = Cluster::new();
    cluster.meta.state().leader.writers.gives = false;
    let [(_a, file), (_b, other)] = two(&cluster).await;
    write(&file, 0, b"bytes").await;
    close(&file).await;
    assert_eq!(read(&other).await, b"bytes");
    assert!(cluster.meta.state().leader.writers.acquired.is_empty());
}

/// Whether the kernel sends more of the same write(2) is a guess, and such an append holds the file for the rest.
#[tokio::test(start_paused = true)]
async fn appends_of_whole_pages_without_a_pause_leave_the_file_to_others_within_a_moment() {
    let cluster = Cluster::new();
    let [(_a, file), (b, _other)] = two(&cluster).await;
    let writer = file.clone();
    let writing = tokio::spawn(async move {
        for _ in 0..1000 {
            writer.append_part(&USER, &[7; 4096]).await.unwrap();
            sleep(Duration::from_millis(1)).await;
        }
    });
    for _ in 0..5 {
        sleep(Duration::from_millis(20)).await; // for the writer
        let seen = timeout(Duration::from_millis(200), size(&b, file.inode())).await;
        assert_eq!(seen.expect("the file is given back") % 4096, 0);
    }
    writing.await.unwrap();
    assert_eq!(size(&b, file.inode()).await, 1000 * 4096);
}

#[tokio::test(start_paused = true)]
async fn what_replaces_the_bytes_of_a_file_that_was_cut_is_committed_by_its_close() {
    let cluster = Cluster::new();
    let client = cluster.client().await;
    let file = make(&client, "config").await;
    let inode = file.inode();
    write(&file, 0, b"the old bytes").await;
    file.sync().await.unwrap();
    let cut = SetAttr { inode, size: Some(ByteLen(0)), by_handle: true, ..SetAttr::default() };
    client.perform(&USER, cut.clone()).await.unwrap();
    write(&file, 0, b"new").await;
    file.flush().await.unwrap();
    assert_eq!(cluster.meta.attr(inode).size, ByteLen(3));
    write(&file, 3, b"er").await;
    file.flush().await.unwrap();
    assert_eq!(cluster.meta.attr(inode).size, ByteLen(3), "nothing was cut since");
}

#[tokio::test(start_paused = true)]
async fn a_close_commits_what_would_take_others_long() {
    let cluster = Cluster::new();
    let client = cluster.client().await;
    let file = make(&client, "large").await;
    write(&file, 0, &vec![1; 17 << 20]).await;
    file.flush().await.unwrap();
    assert_eq!(cluster.meta.attr(file.inode()).size, ByteLen(17 << 20));
}

#[tokio::test(start_paused = true)]
async fn a_shutdown_goes_on_as_long_as_it_gets_further() {
    let cluster = Cluster::new();
    let client = cluster.client().await;
    let files = join_all((0..3).map(async |number| make(&client, &format!("f{number}")).await)).await;
    for (file, piece) in files.iter().flat_map(|file| (0..60).map(move |piece| (file, piece))) {
        write(file, piece << 20, &vec![1; 1 << 19]).await;
    }
    cluster.chunks.slow_down(Duration::from_millis(2500));
    let began = Instant::now();
    let stalled_max = Duration::from_secs(8);
    assert_eq!(client.shutdown(stalled_max).await, Vec::<String>::new());
    assert!(began.elapsed() > stalled_max, "{:?}", began.elapsed());
    cluster.chunks.slow_down(Duration::ZERO);
    for file in &files {
        assert_eq!(cluster.meta.attr(file.inode()).size, ByteLen((59 << 20) + (1 << 19)));
    }
}

/// What makes it harder to find out who holds what.
fn disturb(cluster: &Cluster, rng: &Rng) {
    let state = &mut cluster.meta.state();
    let delay = |rng: &Rng| Duration::from_millis(rng.below(30));
    match rng.below(6) {
        0 => state.leader.replace(),
        1 => state.leader.lost_returns = 1,
        2 => state.leader.lost_heartbeats = 1,
        3 => state.leader.acquire_answer_delay = delay(rng),
        4 => state.leader.read_answer_delay = delay(rng),
        _ => state.leader.change_answer_delay = delay(rng),
    }
}

/// Three clients write, cut and read one file, one operation after the other: it is always what all of them together have made it.
async fn walk(seed: u64) {
    let (cluster, rng) = (Cluster::new(), Rng::seeded(seed));
    let mut clients = Vec::new();
    for _ in 0..3 {
        clients.push(cluster.client().await);
    }
    let inode = make(&clients[0], "f").await.inode();
    let mut files = Vec::new();
    for client in &clients {
        files.push(open(client, inode).await.unwrap());
    }
    let mut model: Vec<u8> = Vec::new();
    for step in 0..100u64 {
        let who = rng.below(3) as usize;
        let (client, file) = (&clients[who], &files[who]);
        match rng.below(10) {
            0..=2 => {
                let (offset, len) = (rng.below(5000) as usize, 1 + rng.below(3000) as usize);
                write(file, offset as u64, &vec![step as u8; len]).await;
                model.resize(model.len().max(offset + len), 0);
                model[offset..offset + len].fill(step as u8);
            }
            3 => {
                let at = file.append(&USER, &[step as u8; 100]).await.unwrap();
                assert_eq!(at.0, model.len() as u64, "seed {seed}, step {step}");
                model.resize(model.len() + 100, step as u8);
            }
            4 => {
                let len = rng.below(6000);
                let set = SetAttr { inode, size: Some(ByteLen(len)), by_handle: true, ..SetAttr::default() };
                client.perform(&USER, set).await.unwrap();
                model.resize(len as usize, 0);
            }
            5 => file.sync().await.unwrap(),
            6 => disturb(&cluster, &rng),
            7 => {
                close(file).await;
                files[who] = open(client, inode).await.unwrap();
            }
            8 => assert_eq!(size(client, inode).await, model.len() as u64, "seed {seed}, step {step}"),
            _ => assert!(read(file).await == model, "seed {seed}, step {step}: client {who}"),
        }
    }
    assert!(cluster.read_elsewhere(inode).await == model, "seed {seed}: in the end");
}

#[tokio::test(start_paused = true)]
async fn one_file_of_several_clients_reads_like_an_array() {
    for seed in 0..40 {
        walk(seed).await;
    }
}
