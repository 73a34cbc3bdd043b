//! Writing, flushing, failing.

use std::time::Duration;

use dfs_proto::attr::{Caller, Name, Timestamp};
use dfs_proto::ids::{InodeId, ServerId};
use dfs_proto::meta::{Rename, RenameMode, SetAttr, SetTime};
use dfs_proto::units::{ByteLen, MIB, Offset};
use futures::future::join_all;
use tokio::time::{Instant, advance};

use crate::fakes::{Cluster, USER, create, lookup, make, new_file, open, pattern, size_of, wait_for};
use crate::inode::{GetAttr, Link};
use crate::{ClientConfig, ClientError};

#[tokio::test(start_paused = true)]
async fn a_write_is_seen_here_and_elsewhere_at_once() {
    let cluster = Cluster::new();
    let client = cluster.client().await;
    let file = make(&client, "f").await;
    file.write_at(&USER, Offset(0), b"hello").await.unwrap();
    assert_eq!(&file.read_at(Offset(1), 100).await.unwrap()[..], b"ello");
    let attr = client.perform(&USER, GetAttr { inode: file.inode() }).await.unwrap();
    assert_eq!((size_of(&attr), attr.allocated), (5, ByteLen(5)));
    assert!(attr.mtime.seconds > 0);
    let by_name = client.perform(&USER, lookup("f")).await.unwrap();
    assert_eq!((by_name.size, by_name.mtime), (attr.size, attr.mtime));
    assert_eq!(cluster.meta.attr(file.inode()).size, ByteLen(0), "nobody has asked for it");
    assert_eq!(cluster.read_elsewhere(file.inode()).await, b"hello");
    assert_eq!(client.perform(&USER, GetAttr { inode: file.inode() }).await.unwrap().mtime, attr.mtime);
}

#[tokio::test(start_paused = true)]
async fn a_small_file_costs_a_create_and_a_commit_and_an_empty_one_only_the_create() {
    let cluster = Cluster::new();
    let client = cluster.client().await;
    make(&client, "first").await.sync().await.unwrap();
    assert_eq!(cluster.meta.state().changes, 1);
    let file = make(&client, "second").await;
    file.write_at(&USER, Offset(0), b"x").await.unwrap();
    file.sync().await.unwrap();
    file.release().await.unwrap();
    let before = cluster.meta.state().changes;
    let file = make(&client, "third").await;
    file.write_at(&USER, Offset(0), b"x").await.unwrap();
    file.sync().await.unwrap();
    file.release().await.unwrap();
    assert_eq!(cluster.meta.state().changes - before, 2, "the chunk was open");
    assert_eq!(cluster.meta.chunks_made(), 1, "small files share a chunk");
}

#[tokio::test(start_paused = true)]
async fn files_closed_at_the_same_time_share_commits() {
    let cluster = Cluster::new();
    let client = cluster.client().await;
    let files = join_all((0..100).map(|i| {
        let client = &client;
        async move { make(client, &format!("f{i}")).await }
    }))
    .await;
    join_all(files.iter().map(|file| async move {
        file.write_at(&USER, Offset(0), b"data").await.unwrap();
        file.sync().await.unwrap();
    }))
    .await;
    let requests = cluster.meta.state().commit_requests;
    assert!(requests <= 10, "{requests} requests for 100 files");
}

#[tokio::test(start_paused = true)]
async fn a_large_stream_uses_several_chunks_and_reads_back() {
    let cluster = Cluster::new();
    let client = cluster.client().await;
    let file = make(&client, "big").await;
    let data = pattern(3, 40 * MIB);
    for (index, part) in data.chunks(300_000).enumerate() {
        file.write_at(&USER, Offset(index as u64 * 300_000), part).await.unwrap();
    }
    file.sync().await.unwrap();
    assert!(cluster.meta.chunks_made() >= 4);
    assert!(cluster.read_elsewhere(file.inode()).await == data);
    assert!(file.read_at(Offset(0), 40 * MIB).await.unwrap() == data);
}

#[tokio::test(start_paused = true)]
async fn a_server_that_falls_silent_in_mid_stream_costs_time_and_no_byte() {
    for victim in 1..=3 {
        let cluster = Cluster::new();
        let client = cluster.client().await;
        let file = make(&client, "big").await;
        let data = pattern(victim, 24 * MIB);
        for (index, part) in data.chunks(MIB as usize).enumerate() {
            if index == 9 {
                cluster.chunks.silence(ServerId(victim), true);
            }
            file.write_at(&USER, Offset(index as u64 * MIB), part).await.unwrap();
        }
        let fell_silent = Instant::now();
        file.sync().await.unwrap();
        let stall = fell_silent.elapsed();
        assert!(stall < Duration::from_millis(2500), "{stall:?}: half of what promise 5 leaves");
        assert!(cluster.read_elsewhere(file.inode()).await == data);
        let avoided = cluster.meta.state().avoided.last().cloned();
        assert_eq!(avoided, Some(vec![ServerId(victim)]), "the others are not suspected");
        wait_for("a report", || {
            let reports = &cluster.meta.state().reports;
            reports.iter().any(|r| r.server == ServerId(victim))
        })
        .await;
    }
}

#[tokio::test(start_paused = true)]
async fn an_append_whose_answer_was_lost_is_repeated_as_it_was() {
    let cluster = Cluster::new();
    let client = cluster.client().await;
    let file = make(&client, "f").await;
    cluster.chunks.lose_answers(1);
    let data = pattern(5, 3 * MIB);
    file.write_at(&USER, Offset(0), &data).await.unwrap();
    file.sync().await.unwrap();
    assert!(cluster.read_elsewhere(file.inode()).await == data);
    assert!(cluster.meta.state().reports.is_empty());
    assert_eq!(cluster.meta.open_chunks(), cluster.meta.chunks_made(), "none was given up");
}

#[tokio::test(start_paused = true)]
async fn a_restarted_server_takes_nothing_more_and_the_bytes_go_elsewhere() {
    let cluster = Cluster::new();
    let client = cluster.client().await;
    let file = make(&client, "f").await;
    file.write_at(&USER, Offset(0), &pattern(1, 2 * MIB)).await.unwrap();
    file.sync().await.unwrap();
    file.write_at(&USER, Offset(2 * MIB), &pattern(2, 2 * MIB)).await.unwrap();
    (1..=3).for_each(|id| cluster.chunks.restart(ServerId(id)));
    file.sync().await.unwrap();
    let expected = [pattern(1, 2 * MIB), pattern(2, 2 * MIB)].concat();
    assert!(cluster.read_elsewhere(file.inode()).await == expected);
}

#[tokio::test(start_paused = true)]
async fn a_chunk_sealed_by_the_leader_before_the_commit_is_written_again_elsewhere() {
    let cluster = Cluster::new();
    let client = cluster.client().await;
    let file = make(&client, "f").await;
    file.write_at(&USER, Offset(0), b"before").await.unwrap();
    file.sync().await.unwrap();
    cluster.meta.seal_all();
    file.write_at(&USER, Offset(6), b" after").await.unwrap();
    file.sync().await.unwrap();
    assert_eq!(cluster.read_elsewhere(file.inode()).await, b"before after");
    assert_eq!(cluster.meta.chunks_made(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_flush_that_fails_is_reported_once_by_each_open_file_and_drops_its_bytes() {
    let cluster = Cluster::new();
    let client = cluster.client().await;
    let first = make(&client, "f").await;
    first.write_at(&USER, Offset(0), b"kept").await.unwrap();
    first.sync().await.unwrap();
    let second = open(&client, first.inode()).await.unwrap();
    (1..=3).for_each(|id| cluster.chunks.silence(ServerId(id), true));
    first.write_at(&USER, Offset(0), b"lost and lost").await.unwrap();
    assert!(matches!(first.sync().await, Err(ClientError::Unavailable { .. })));
    (1..=3).for_each(|id| cluster.chunks.silence(ServerId(id), false));
    assert_eq!(first.sync().await, Ok(()), "reported once");
    assert!(matches!(second.sync().await, Err(ClientError::Unavailable { .. })), "and once here");
    assert_eq!(second.sync().await, Ok(()));
    let third = open(&client, first.inode()).await.unwrap();
    assert_eq!(third.sync().await, Ok(()), "opened later");
    assert_eq!(&first.read_at(Offset(0), 100).await.unwrap()[..], b"kept");
    first.write_at(&USER, Offset(4), b" and new").await.unwrap();
    first.sync().await.unwrap();
    assert_eq!(cluster.read_elsewhere(first.inode()).await, b"kept and new");
}

fn rename(name: &str, new_name: &str) -> Rename {
    let [name, new_name] = [name, new_name].map(|name| Name::new(name).unwrap());
    Rename { parent: InodeId::ROOT, name, new_parent: InodeId::ROOT, new_name, mode: RenameMode::Replace }
}

/// A mount that died between the rename and the close left an empty file, and took the old content with it.
#[tokio::test(start_paused = true)]
async fn what_was_written_before_a_rename_is_committed_by_it() {
    let cluster = Cluster::new();
    let client = cluster.client().await;
    let old = make(&client, "real").await;
    old.write_at(&USER, Offset(0), b"old").await.unwrap();
    old.sync().await.unwrap();
    for (target, content) in [("real", "new"), ("fresh", "newer")] {
        let tmp = make(&client, "tmp").await;
        tmp.write_at(&USER, Offset(0), content.as_bytes()).await.unwrap();
        client.perform(&USER, rename("tmp", target)).await.unwrap();
        let attr = cluster.client().await.perform(&USER, lookup(target)).await.unwrap();
        assert_eq!(attr.inode, tmp.inode());
        assert_eq!(cluster.read_elsewhere(attr.inode).await, content.as_bytes(), "{target}");
    }
    let before = cluster.meta.state().lookups;
    client.perform(&USER, rename("fresh", "real")).await.unwrap();
    assert_eq!(cluster.meta.state().lookups, before, "nothing was buffered");
}

/// Whichever of the two names it had.
#[tokio::test(start_paused = true)]
async fn what_was_written_to_two_files_is_committed_before_their_names_are_exchanged() {
    let cluster = Cluster::new();
    let client = cluster.client().await;
    let exchange = || Rename { mode: RenameMode::Exchange, ..rename("tmp", "real") };
    let (tmp, real) = (make(&client, "tmp").await, make(&client, "real").await);
    tmp.write_at(&USER, Offset(0), b"new").await.unwrap();
    real.write_at(&USER, Offset(0), b"old").await.unwrap();
    client.perform(&USER, exchange()).await.unwrap();
    for (name, file, content) in [("tmp", &real, b"old"), ("real", &tmp, b"new")] {
        let found = cluster.client().await.perform(&USER, lookup(name)).await.unwrap();
        assert_eq!(found.inode, file.inode(), "{name}");
        assert_eq!(cluster.read_elsewhere(found.inode).await, content, "{name}");
    }
    for file in [&tmp, &real] {
        file.write_at(&USER, Offset(0), b"lost").await.unwrap();
        (1..=3).for_each(|id| cluster.chunks.silence(ServerId(id), true));
        let told = client.perform(&USER, exchange()).await.map(drop);
        assert!(matches!(told, Err(ClientError::Unavailable { .. })), "{told:?}");
        (1..=3).for_each(|id| cluster.chunks.silence(ServerId(id), false));
        assert!(file.sync().await.is_err(), "its open file is told too");
        assert_eq!(client.perform(&USER, lookup("real")).await.unwrap().inode, tmp.inode());
    }
}

#[tokio::test(start_paused = true)]
async fn a_file_that_cannot_be_committed_is_not_renamed() {
    let cluster = Cluster::new();
    let client = cluster.client().await;
    let (old, tmp) = (make(&client, "real").await, make(&client, "tmp").await);
    tmp.write_at(&USER, Offset(0), b"lost").await.unwrap();
    (1..=3).for_each(|id| cluster.chunks.silence(ServerId(id), true));
    let told = client.perform(&USER, rename("tmp", "real")).await.map(drop);
    assert!(matches!(told, Err(ClientError::Unavailable { .. })), "{told:?}");
    for (name, file) in [("real", &old), ("tmp", &tmp)] {
        let found = client.perform(&USER, lookup(name)).await.unwrap();
        assert_eq!(found.inode, file.inode(), "{name}");
    }
    (1..=3).for_each(|id| cluster.chunks.silence(ServerId(id), false));
    assert!(tmp.sync().await.is_err(), "its open file is told too");
    client.perform(&USER, rename("tmp", "real")).await.unwrap();
}

/// A flush that had failed before, beside the rename or earlier, left nothing to commit: the rename went through and both
/// contents were gone.
#[tokio::test(start_paused = true)]
async fn regression_a_file_whose_bytes_were_lost_unheard_is_not_renamed_or_linked() {
    let cluster = Cluster::new();
    let client = cluster.client().await;
    let (old, tmp) = (make(&client, "real").await, make(&client, "tmp").await);
    let other = open(&client, tmp.inode()).await.unwrap();
    tmp.write_at(&USER, Offset(0), b"lost").await.unwrap();
    (1..=3).for_each(|id| cluster.chunks.silence(ServerId(id), true));
    // Both flush: the second finds nothing any more.
    let name = Name::new("link").unwrap();
    let link = client.perform(&USER, Link { inode: tmp.inode(), parent: InodeId::ROOT, name });
    let (linked, renamed) = tokio::join!(link, client.perform(&USER, rename("tmp", "real")));
    assert!(matches!(linked, Err(ClientError::Unavailable { .. })), "{linked:?}");
    assert!(matches!(renamed.map(drop), Err(ClientError::Unavailable { .. })));
    (1..=3).for_each(|id| cluster.chunks.silence(ServerId(id), false));
    let later = client.perform(&USER, rename("tmp", "real")).await.map(drop);
    assert!(matches!(later, Err(ClientError::Unavailable { .. })), "{later:?}");
    let found = client.perform(&USER, lookup("real")).await.unwrap();
    assert_eq!(found.inode, old.inode());
    assert!(other.sync().await.is_err(), "somebody is told");
    client.perform(&USER, rename("tmp", "real")).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn full_disks_are_enospc_and_cost_nothing_that_was_acknowledged() {
    let cluster = Cluster::new();
    let client = cluster.client().await;
    let file = make(&client, "f").await;
    file.write_at(&USER, Offset(0), b"acknowledged").await.unwrap();
    file.sync().await.unwrap();
    // The chunkservers know it first, the metaserver later.
    for metaserver_knows in [false, true] {
        cluster.chunks.fill(true);
        cluster.meta.state().is_full = metaserver_knows;
        file.write_at(&USER, Offset(100), b"too much").await.unwrap();
        let told = file.sync().await;
        assert!(matches!(told, Err(ClientError::NoSpace { .. })), "{told:?}");
        assert_eq!(size_of(&file.attr()), 12);
        cluster.chunks.fill(false);
        cluster.meta.state().is_full = false;
    }
    assert_eq!(cluster.read_elsewhere(file.inode()).await, b"acknowledged");
    file.write_at(&USER, Offset(12), b"!").await.unwrap();
    file.sync().await.unwrap();
    assert_eq!(cluster.read_elsewhere(file.inode()).await, b"acknowledged!");
}

/// The first chunk is at server 2, its primary, and at server 3, whose failures the primary reports.
#[tokio::test(start_paused = true)]
async fn a_full_primary_or_secondary_is_avoided_and_not_reported_as_lost() {
    for full in [2, 3].map(ServerId) {
        let cluster = Cluster::new();
        let client = cluster.client().await;
        let file = make(&client, "f").await;
        cluster.chunks.fill_one(full);
        file.write_at(&USER, Offset(0), b"elsewhere").await.unwrap();
        file.sync().await.unwrap();
        assert_eq!(cluster.read_elsewhere(file.inode()).await, b"elsewhere");
        assert_eq!(cluster.meta.state().avoided, [vec![], vec![full]]);
        assert!(cluster.meta.state().reports.is_empty(), "what it has can be read");
    }
}

#[tokio::test(start_paused = true)]
async fn a_commit_whose_answer_never_came_is_an_error_and_the_next_one_finds_its_number() {
    let cluster = Cluster::new();
    let client = cluster.client().await;
    let file = make(&client, "f").await;
    file.write_at(&USER, Offset(0), b"uncertain").await.unwrap();
    cluster.meta.state().lost_commit_answers = 1;
    assert!(file.sync().await.is_err());
    file.write_at(&USER, Offset(0), b"certainly").await.unwrap();
    file.sync().await.unwrap();
    assert_eq!(cluster.read_elsewhere(file.inode()).await, b"certainly");
}

#[tokio::test(start_paused = true)]
async fn times_set_after_a_write_survive_its_commit() {
    let cluster = Cluster::new();
    let client = cluster.client().await;
    let file = make(&client, "f").await;
    file.write_at(&USER, Offset(0), b"archive").await.unwrap();
    let then = Timestamp { seconds: 12345, nanos: 678 };
    let mtime = Some(SetTime::At(then));
    let set = SetAttr { inode: file.inode(), mtime, ..SetAttr::default() };
    let attr = client.perform(&USER, set).await.unwrap();
    assert_eq!((size_of(&attr), attr.mtime), (7, then));
    assert_eq!(client.perform(&USER, GetAttr { inode: file.inode() }).await.unwrap().mtime, then);
    file.sync().await.unwrap();
    assert_eq!(cluster.meta.attr(file.inode()).mtime, then);
    file.write_at(&USER, Offset(0), b"again").await.unwrap();
    file.sync().await.unwrap();
    assert_ne!(cluster.meta.attr(file.inode()).mtime, then, "a write after it counts");
}

#[tokio::test(start_paused = true)]
async fn outer_caches_are_told_by_each_commit_which_content_it_was_laid_over() {
    let cluster = Cluster::new();
    let client = cluster.client().await;
    let file = make(&client, "f").await;
    let inode = file.inode();
    let commit = async || {
        file.write_at(&USER, Offset(0), b"some").await.unwrap();
        file.sync().await.unwrap();
        (cluster.meta.attr(inode).content_version, cluster.moved.take())
    };
    let (first, moved) = commit().await;
    assert_eq!(moved, [(inode, first - 1, first)]);
    let (second, moved) = commit().await;
    assert_eq!(moved, [(inode, first, second)]);
    let other = cluster.client().await;
    let other = open(&other, inode).await.unwrap();
    other.write_at(&USER, Offset(0), b"other").await.unwrap();
    other.sync().await.unwrap();
    other.release().await.unwrap();
    cluster.moved.take();
    let (third, moved) = commit().await;
    assert_eq!(
        (third, moved),
        (second + 2, vec![(inode, second + 1, third)]),
        "not from what was shown before"
    );
}

/// The client's own clock shows 2038, the cluster's something else; the first heartbeat is a second away.
#[tokio::test(start_paused = true)]
async fn a_write_has_the_time_of_the_clusters_clock_whatever_this_machines_shows() {
    let cluster = Cluster::new();
    let client = cluster.client().await;
    let file = make(&client, "f").await;
    let before = cluster.meta.state().now();
    file.write_at(&USER, Offset(0), b"first").await.unwrap();
    let (shown, written) = (file.attr().mtime, Instant::now());
    assert!((before.seconds - shown.seconds).abs() < 10, "{shown:?}, when it was {before:?}");
    file.sync().await.unwrap();
    assert_eq!(cluster.meta.attr(file.inode()).mtime, shown);
    advance(Duration::from_millis(500)).await;
    file.write_at(&USER, Offset(0), b"later").await.unwrap();
    assert_eq!(file.attr().mtime, shown.after(written.elapsed()), "it goes on between answers");
}

#[tokio::test(start_paused = true)]
async fn a_mode_set_after_a_write_keeps_its_set_uid() {
    let cluster = Cluster::new();
    let client = cluster.client().await;
    let file = make(&client, "f").await;
    file.write_at(&USER, Offset(0), b"binary").await.unwrap();
    let set = SetAttr { inode: file.inode(), mode: Some(0o4755), ..SetAttr::default() };
    client.perform(&Caller::ROOT, set).await.unwrap();
    file.sync().await.unwrap();
    assert_eq!(cluster.meta.attr(file.inode()).mode, 0o4755);
    file.write_at(&USER, Offset(0), b"changed").await.unwrap();
    assert_eq!(file.attr().mode, 0o755, "seen at once");
}

#[tokio::test(start_paused = true)]
async fn a_truncation_is_ordered_with_the_writes_around_it() {
    let cluster = Cluster::new();
    let client = cluster.client().await;
    let file = make(&client, "f").await;
    file.write_at(&USER, Offset(0), b"0123456789").await.unwrap();
    let truncate = |len| SetAttr {
        inode: file.inode(),
        size: Some(ByteLen(len)),
        by_handle: true,
        ..SetAttr::default()
    };
    assert_eq!(size_of(&client.perform(&USER, truncate(4)).await.unwrap()), 4);
    client.perform(&USER, truncate(8)).await.unwrap();
    assert_eq!(&file.read_at(Offset(0), 100).await.unwrap()[..], b"0123\0\0\0\0");
    file.write_at(&USER, Offset(6), b"xyz").await.unwrap();
    assert_eq!(&file.read_at(Offset(0), 100).await.unwrap()[..], b"0123\0\0xyz");
    file.sync().await.unwrap();
    assert_eq!(cluster.read_elsewhere(file.inode()).await, b"0123\0\0xyz");
}

#[tokio::test(start_paused = true)]
async fn appends_of_several_writers_do_not_lie_over_each_other() {
    let cluster = Cluster::new();
    let client = cluster.client().await;
    let file = make(&client, "log").await;
    join_all((0..8u8).map(|writer| {
        let file = &file;
        async move {
            for _ in 0..50 {
                file.append(&USER, &[b'a' + writer; 10]).await.unwrap();
                tokio::task::yield_now().await;
            }
        }
    }))
    .await;
    file.sync().await.unwrap();
    let bytes = cluster.read_elsewhere(file.inode()).await;
    assert_eq!(bytes.len(), 4000);
    assert!(bytes.chunks(10).all(|line| line.iter().all(|b| *b == line[0])));
}

#[tokio::test(start_paused = true)]
async fn a_file_written_at_random_places_is_committed_in_several_requests_of_bounded_size() {
    let cluster = Cluster::new();
    let client = cluster.client().await;
    let file = make(&client, "random").await;
    let mut expected = vec![0u8; 2000 * 200];
    for index in (0..2000u64).rev() {
        file.write_at(&USER, Offset(index * 200), &[index as u8 | 1; 100]).await.unwrap();
        expected[index as usize * 200..index as usize * 200 + 100].fill(index as u8 | 1);
    }
    expected.truncate(1999 * 200 + 100);
    file.sync().await.unwrap();
    assert!(cluster.meta.state().commits_extents.len() >= 4);
    assert!(cluster.chunks.appends() <= 4, "small runs are packed");
    assert!(cluster.read_elsewhere(file.inode()).await == expected);
}

#[tokio::test(start_paused = true)]
async fn writers_wait_for_memory_and_everything_arrives() {
    let cluster = Cluster::new();
    let config = ClientConfig { session_memory_bytes: 4 * MIB, ..ClientConfig::default() };
    let client = cluster.client_with(config).await;
    let file = make(&client, "big").await;
    let data = pattern(9, 40 * MIB);
    for (index, part) in data.chunks(128 << 10).enumerate() {
        file.write_at(&USER, Offset(index as u64 * (128 << 10)), part).await.unwrap();
    }
    file.sync().await.unwrap();
    assert!(cluster.read_elsewhere(file.inode()).await == data);
}

#[tokio::test(start_paused = true)]
async fn a_flush_that_takes_longer_than_the_deadline_but_progresses_is_not_given_up() {
    let cluster = Cluster::new();
    let data_timeout = Duration::from_secs(10);
    let client = cluster.client_with(ClientConfig { data_timeout, ..ClientConfig::default() }).await;
    let file = make(&client, "scattered").await;
    let (len, step) = (MIB / 2, MIB);
    for index in 0..100u64 {
        file.write_at(&USER, Offset(index * step), &pattern(index, len)).await.unwrap();
    }
    cluster.chunks.slow_down(Duration::from_millis(2500));
    let started = Instant::now();
    assert_eq!(file.sync().await, Ok(()));
    assert!(started.elapsed() > 2 * data_timeout, "{:?}", started.elapsed());
    cluster.chunks.slow_down(Duration::ZERO);
    let bytes = cluster.read_elsewhere(file.inode()).await;
    for index in 0..100u64 {
        let at = (index * step) as usize;
        assert!(bytes[at..at + len as usize] == pattern(index, len), "piece {index}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_shutdown_commits_what_is_left_or_names_it() {
    let cluster = Cluster::new();
    let client = cluster.client().await;
    let file = make(&client, "f").await;
    file.write_at(&USER, Offset(0), b"left").await.unwrap();
    assert_eq!(client.shutdown(Duration::from_secs(10)).await, Vec::<String>::new());
    assert_eq!(cluster.read_elsewhere(file.inode()).await, b"left");

    let client = cluster.client().await;
    let file = make(&client, "g").await;
    file.write_at(&USER, Offset(0), b"left").await.unwrap();
    (1..=3).for_each(|id| cluster.chunks.silence(ServerId(id), true));
    let lost = client.shutdown(Duration::from_secs(10)).await;
    assert_eq!(lost.len(), 1);
    assert!(lost[0].starts_with(&file.inode().to_string()), "{lost:?}");
}

#[tokio::test(start_paused = true)]
async fn a_file_that_is_open_twice_has_one_buffer() {
    let cluster = Cluster::new();
    let client = cluster.client().await;
    let writer = make(&client, "f").await;
    let (reader, attr) = {
        let existing_too = dfs_proto::meta::Create { or_existing: true, ..new_file("f") };
        create(&client, existing_too).await.unwrap()
    };
    assert_eq!(size_of(&attr), 0);
    writer.write_at(&USER, Offset(3), b"abc").await.unwrap();
    assert_eq!(&reader.read_at(Offset(0), 10).await.unwrap()[..], b"\0\0\0abc");
    assert_eq!(size_of(&reader.attr()), 6);
}

#[tokio::test(start_paused = true)]
async fn what_stays_open_is_committed_after_a_while_and_chunks_left_behind_are_sealed() {
    let cluster = Cluster::new();
    let client = cluster.client().await;
    let file = make(&client, "log").await;
    file.write_at(&USER, Offset(0), b"line\n").await.unwrap();
    wait_for("a commit", || cluster.meta.attr(file.inode()).size == ByteLen(5)).await;
    for index in 0..70u64 {
        file.write_at(&USER, Offset(index * MIB), &pattern(index, MIB)).await.unwrap();
    }
    file.sync().await.unwrap();
    for index in 0..300u64 {
        file.write_at(&USER, Offset(index * MIB), &pattern(index, MIB)).await.unwrap();
    }
    file.sync().await.unwrap();
    let open = crate::data::slots::SLOTS_OF_VOLUME;
    wait_for("full chunks to be sealed", || cluster.meta.open_chunks() <= open).await;
}

/// Lost connections once counted as slowness, and the wait for the next silent server was four times as long.
#[tokio::test(start_paused = true)]
async fn regression_lost_connections_do_not_lengthen_the_wait_for_a_silent_server() {
    let second = Duration::from_secs(1);
    let cluster = Cluster::new();
    let client = cluster.client().await;
    let file = make(&client, "f").await;
    file.write_at(&USER, Offset(0), b"bytes").await.unwrap();
    let started = Instant::now();
    let faults = async {
        cluster.chunks.lose_answers(u32::MAX);
        tokio::time::sleep(2 * second).await;
        cluster.chunks.lose_answers(0);
        (1..=3).for_each(|id| cluster.chunks.silence(ServerId(id), true));
        tokio::time::sleep(2 * second).await;
        (1..=3).for_each(|id| cluster.chunks.silence(ServerId(id), false));
    };
    let (synced, ()) = tokio::join!(file.sync(), faults);
    assert_eq!(synced, Ok(()));
    assert!(started.elapsed() < 9 * second, "{:?}", started.elapsed());
    assert_eq!(cluster.read_elsewhere(file.inode()).await, b"bytes");
}
