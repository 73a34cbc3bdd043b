//! Reading, and copies that are bad, gone or silent.

use dfs_proto::ids::ServerId;
use dfs_proto::meta::{ReplicaProblem, SetAttr};
use dfs_proto::units::{ByteLen, MIB, Offset};
use tokio::time::{Duration, Instant};

use crate::error::ClientError;
use crate::fakes::{Cluster, USER, make, open, open_to_read, pattern, unlink, wait_for};
use crate::inode::GetAttr;

#[tokio::test(start_paused = true)]
async fn a_damaged_copy_is_passed_over_and_reported() {
    let cluster = Cluster::new();
    let writer = cluster.client().await;
    let file = make(&writer, "f").await;
    let data = pattern(1, MIB);
    file.write_at(&USER, Offset(0), &data).await.unwrap();
    file.sync().await.unwrap();
    let (chunk, at) = cluster.meta.first_extent(file.inode());
    let bad = cluster.meta.replicas(chunk)[0];
    cluster.chunks.damage(bad, chunk, at + 5000);
    // Either copy may be asked first; a client reports a little later.
    let mut readers = Vec::new();
    for _ in 0..20 {
        let reader = cluster.client().await;
        let opened = open(&reader, file.inode()).await.unwrap();
        assert!(opened.read_at(Offset(0), MIB).await.unwrap() == data);
        readers.push(reader);
    }
    wait_for("a report", || {
        let reports = cluster.meta.state().reports.clone();
        reports.iter().any(|r| r.chunk == chunk && r.server == bad && r.problem == ReplicaProblem::Damaged)
    })
    .await;
    assert!(cluster.meta.state().reports.iter().all(|r| r.server == bad));
}

#[tokio::test(start_paused = true)]
async fn damage_in_every_copy_fails_only_the_blocks_that_it_is_in() {
    let cluster = Cluster::new();
    let writer = cluster.client().await;
    let file = make(&writer, "f").await;
    let data = pattern(1, MIB);
    file.write_at(&USER, Offset(0), &data).await.unwrap();
    file.sync().await.unwrap();
    let (chunk, at) = cluster.meta.first_extent(file.inode());
    let copies = cluster.meta.replicas(chunk);
    // Different blocks: put together from both.
    cluster.chunks.damage(copies[0], chunk, at + 5000);
    cluster.chunks.damage(copies[1], chunk, at + 100_000);
    assert!(cluster.read_elsewhere(file.inode()).await == data);
    // The same block.
    cluster.chunks.damage(copies[1], chunk, at + 5001);
    let other = cluster.client().await;
    let reader = open(&other, file.inode()).await.unwrap();
    let started = Instant::now();
    let told = reader.read_at(Offset(0), MIB).await;
    assert!(matches!(told, Err(ClientError::DataLost { .. })), "{told:?}");
    assert!(started.elapsed() < Duration::from_secs(2), "promptly");
    assert!(reader.read_at(Offset(0), 4096).await.unwrap() == data[..4096]);
    assert!(reader.read_at(Offset(8192), MIB).await.unwrap() == data[8192..]);
    assert!(reader.read_at(Offset(4096), 4096).await.is_err());
}

/// A read of at most 4 KiB over two blocks, one bad in each copy, was an error though each block has a good copy.
#[tokio::test(start_paused = true)]
async fn a_read_of_any_length_is_put_together_from_copies_that_are_damaged_in_different_blocks() {
    const BLOCKS: u64 = 6;
    let cluster = Cluster::new();
    let writer = cluster.client().await;
    let file = make(&writer, "f").await;
    let data = pattern(3, BLOCKS * 4096);
    file.write_at(&USER, Offset(0), &data).await.unwrap();
    file.sync().await.unwrap();
    let (chunk, at) = cluster.meta.first_extent(file.inode());
    let copies = cluster.meta.replicas(chunk);
    for block in 0..BLOCKS {
        cluster.chunks.damage(copies[(block % 2) as usize], chunk, at + block * 4096 + 7);
    }
    let reader = cluster.client().await;
    let opened = open(&reader, file.inode()).await.unwrap();
    let end = BLOCKS * 4096;
    for from in (0..end).step_by(1500).chain([4095, 4096, 8191]) {
        for len in [1, 2, 100, 2048, 4095, 4096, 4097, 8192, 9000, 20_000, end] {
            let len = len.min(end - from);
            let seen = opened.read_at(Offset(from), len).await.unwrap();
            assert!(seen == data[from as usize..(from + len) as usize], "{len} bytes at {from}");
        }
    }
    // The block is bad in both copies: only reads of that block fail.
    cluster.chunks.damage(copies[1], chunk, at + 2 * 4096);
    let reader = cluster.client().await; // nothing is cached there
    let opened = open(&reader, file.inode()).await.unwrap();
    assert!(opened.read_at(Offset(3 * 4096 - 1), 2).await.is_err());
    assert!(opened.read_at(Offset(4096), 4096).await.unwrap() == data[4096..8192]);
    assert!(opened.read_at(Offset(3 * 4096), 8192).await.unwrap() == data[3 * 4096..5 * 4096]);
}

#[tokio::test(start_paused = true)]
async fn a_silent_copy_costs_less_than_a_second() {
    let cluster = Cluster::new();
    let writer = cluster.client().await;
    let file = make(&writer, "f").await;
    let data = pattern(1, 100_000);
    file.write_at(&USER, Offset(0), &data).await.unwrap();
    file.sync().await.unwrap();
    for silent in 1..=3 {
        cluster.chunks.silence(ServerId(silent), true);
        let started = Instant::now();
        assert!(cluster.read_elsewhere(file.inode()).await == data);
        assert!(started.elapsed() < Duration::from_secs(1));
        cluster.chunks.silence(ServerId(silent), false);
    }
}

#[tokio::test(start_paused = true)]
async fn with_all_copies_silent_a_read_waits_for_them_until_its_deadline_and_the_next_ones_fail_soon() {
    let cluster = Cluster::new();
    let client = cluster.client().await;
    let file = make(&client, "f").await;
    file.write_at(&USER, Offset(0), b"data").await.unwrap();
    file.sync().await.unwrap();
    (1..=3).for_each(|id| cluster.chunks.silence(ServerId(id), true));
    let started = Instant::now();
    let told = file.read_at(Offset(0), 4).await;
    assert!(matches!(told, Err(ClientError::Unavailable { .. })), "{told:?}");
    let waited = started.elapsed();
    assert!(waited > Duration::from_secs(25) && waited < Duration::from_secs(33), "{waited:?}");
    let again = Instant::now();
    let told = file.read_at(Offset(0), 4).await;
    assert!(matches!(told, Err(ClientError::Unavailable { .. })), "{told:?}");
    assert!(again.elapsed() < Duration::from_secs(3), "{:?}", again.elapsed());

    tokio::time::sleep(Duration::from_secs(10)).await;
    let back = async {
        tokio::time::sleep(Duration::from_secs(10)).await;
        (1..=3).for_each(|id| cluster.chunks.silence(ServerId(id), false));
    };
    let (read, ()) = tokio::join!(file.read_at(Offset(0), 4), back);
    assert_eq!(&read.unwrap()[..], b"data");
}

#[tokio::test(start_paused = true)]
async fn a_chunk_that_moved_is_found_again_and_one_that_is_nowhere_is_lost() {
    let cluster = Cluster::new();
    let client = cluster.client().await;
    let file = make(&client, "f").await;
    file.write_at(&USER, Offset(0), b"data").await.unwrap();
    file.sync().await.unwrap();
    assert_eq!(&file.read_at(Offset(0), 4).await.unwrap()[..], b"data");
    let (chunk, _) = cluster.meta.first_extent(file.inode());
    let holders = cluster.chunks.holders(chunk);
    cluster.chunks.remove(holders[0], chunk);
    cluster.meta.move_replicas(chunk, vec![holders[1]]);
    for _ in 0..10 {
        assert_eq!(&file.read_at(Offset(0), 4).await.unwrap()[..], b"data");
    }
    assert!(cluster.meta.state().reports.is_empty(), "an old map is nobody's fault");
    cluster.chunks.remove(holders[1], chunk);
    assert!(matches!(file.read_at(Offset(0), 4).await, Err(ClientError::DataLost { .. })));
    wait_for("a report", || cluster.meta.state().reports.iter().any(|r| r.server == holders[1])).await;
}

/// Where they were is known from before the close.
#[tokio::test(start_paused = true)]
async fn the_bytes_of_a_closed_file_are_found_when_it_is_opened_again_after_they_have_moved() {
    let cluster = Cluster::new();
    let (writer, reader) = (cluster.client().await, cluster.client().await);
    let file = make(&writer, "f").await;
    file.write_at(&USER, Offset(0), b"data").await.unwrap();
    file.sync().await.unwrap();
    let read = async || {
        let opened = open_to_read(&reader, file.inode()).await.unwrap();
        let bytes = opened.read_at(Offset(0), 4).await.unwrap();
        opened.release().await.unwrap();
        bytes
    };
    assert_eq!(&read().await[..], b"data");
    cluster.meta.state().is_of_earlier_release = true;
    let (chunk, _) = cluster.meta.first_extent(file.inode());
    let holders = cluster.chunks.holders(chunk);
    cluster.chunks.remove(holders[0], chunk);
    cluster.meta.move_replicas(chunk, vec![holders[1]]);
    for _ in 0..10 {
        assert_eq!(&read().await[..], b"data");
    }
    assert!(cluster.meta.state().reports.is_empty(), "an old map is nobody's fault");
}

#[tokio::test(start_paused = true)]
async fn what_another_client_closed_is_seen_by_the_next_open() {
    let cluster = Cluster::new();
    let (writer, reader) = (cluster.client().await, cluster.client().await);
    let file = make(&writer, "f").await;
    let inode = file.inode();
    let seen = open(&reader, inode).await.unwrap();
    for round in 0..50u64 {
        let data = pattern(round, 100 + round * 10);
        file.write_at(&USER, Offset(0), &data).await.unwrap();
        file.sync().await.unwrap();
        let again = open(&reader, inode).await.unwrap();
        assert!(again.read_at(Offset(0), MIB).await.unwrap() == data);
        assert!(seen.read_at(Offset(0), MIB).await.unwrap() == data, "the same inode, the same content");
        again.release().await.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn a_file_that_another_client_cuts_gives_fewer_bytes_and_never_zeros() {
    let cluster = Cluster::new();
    let (writer, reader) = (cluster.client().await, cluster.client().await);
    let file = make(&writer, "f").await;
    file.write_at(&USER, Offset(0), b"0123456789").await.unwrap();
    file.sync().await.unwrap();
    let seen = open(&reader, file.inode()).await.unwrap();
    let cut = SetAttr { inode: file.inode(), size: Some(ByteLen(4)), ..SetAttr::default() };
    writer.perform(&USER, cut).await.unwrap();
    // The other client still shows ten bytes, and has not fetched their extents.
    assert_eq!(seen.attr().size, ByteLen(10));
    assert_eq!(&seen.read_at(Offset(0), 10).await.unwrap()[..], b"0123");
    assert_eq!(&seen.read_at(Offset(6), 4).await.unwrap()[..], b"");
}

#[tokio::test(start_paused = true)]
async fn a_range_of_more_extents_than_are_remembered_is_read() {
    let cluster = Cluster::new();
    let client = cluster.client().await;
    let file = make(&client, "f").await;
    let mut data = vec![0; 40_000];
    for at in (0..40_000).step_by(2) {
        data[at] = at as u8 | 1;
        file.write_at(&USER, Offset(at as u64), &data[at..=at]).await.unwrap();
    }
    file.sync().await.unwrap();
    let read = cluster.read_elsewhere(file.inode()).await;
    assert!(read == data[..39_999]);
}

#[tokio::test(start_paused = true)]
async fn a_file_that_loses_its_name_while_it_is_being_opened_stays_until_it_is_closed() {
    let cluster = Cluster::new();
    let client = cluster.client().await;
    let file = make(&client, "f").await;
    file.write_at(&USER, Offset(0), b"data").await.unwrap();
    file.sync().await.unwrap();
    let inode = file.inode();
    file.release().await.unwrap();
    // The open was under way: it has looked the name up before.
    client.perform(&USER, unlink("f")).await.unwrap();
    let late = open(&client, inode).await.unwrap();
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert_eq!(client.perform(&USER, GetAttr { inode }).await.unwrap().size, ByteLen(4));
    assert_eq!(&late.read_at(Offset(0), 4).await.unwrap()[..], b"data");
    late.release().await.unwrap();
    wait_for("its release", || cluster.meta.state().released.contains(&inode)).await;
    let told = open(&client, inode).await;
    assert!(matches!(told, Err(ClientError::Stale)));
}

#[tokio::test(start_paused = true)]
async fn a_stream_is_read_ahead_and_shows_what_is_written_meanwhile() {
    let cluster = Cluster::new();
    let client = cluster.client().await;
    let file = make(&client, "f").await;
    let mut data = pattern(4, 10 * MIB);
    file.write_at(&USER, Offset(0), &data).await.unwrap();
    file.sync().await.unwrap();
    let reader = open(&client, file.inode()).await.unwrap();
    let step = 128u64 << 10;
    for at in (0..10 * MIB).step_by(step as usize) {
        if at == 2 * MIB {
            let new = pattern(77, 50_000);
            file.write_at(&USER, Offset(3 * MIB + 100), &new).await.unwrap();
            data[(3 * MIB + 100) as usize..][..50_000].copy_from_slice(&new);
        }
        if at == 4 * MIB {
            let new = pattern(78, 50_000);
            file.write_at(&USER, Offset(6 * MIB), &new).await.unwrap();
            data[(6 * MIB) as usize..][..50_000].copy_from_slice(&new);
            file.sync().await.unwrap();
        }
        let bytes = reader.read_at(Offset(at), step).await.unwrap();
        assert!(bytes == data[at as usize..(at + step) as usize], "at {at}");
    }
}

#[tokio::test(start_paused = true)]
async fn where_the_bytes_of_a_file_are_is_not_asked_for_again_while_its_content_is_the_same() {
    let cluster = Cluster::new();
    let (writer, reader) = (cluster.client().await, cluster.client().await);
    let file = make(&writer, "f").await;
    let write = async |text: &[u8]| {
        file.write_at(&USER, Offset(0), text).await.unwrap();
        file.sync().await.unwrap();
    };
    let read = async || {
        let before = cluster.meta.state().extents_asked_for;
        let opened = open_to_read(&reader, file.inode()).await.unwrap();
        let bytes = opened.read_at(Offset(0), 100).await.unwrap();
        opened.release().await.unwrap();
        (bytes, cluster.meta.state().extents_asked_for - before)
    };
    write(b"first").await;
    assert_eq!(read().await, (b"first".as_slice().into(), 0), "the open has brought them");
    cluster.meta.state().is_of_earlier_release = true;
    assert_eq!(read().await, (b"first".as_slice().into(), 0), "they were kept over the close");
    write(b"second").await;
    assert_eq!(read().await, (b"second".as_slice().into(), 1));
    assert_eq!(read().await, (b"second".as_slice().into(), 0));
}

#[tokio::test(start_paused = true)]
async fn where_the_bytes_of_small_files_are_is_asked_for_twice_and_not_for_each_of_them() {
    let cluster = Cluster::new();
    let writer = cluster.client().await;
    let mut files = Vec::new();
    for number in 0..20 {
        let file = make(&writer, &format!("f{number}")).await;
        file.write_at(&USER, Offset(0), &pattern(number, 3000)).await.unwrap();
        file.sync().await.unwrap();
        files.push(file.inode());
    }
    let reader = cluster.client().await;
    let read = async |inode| {
        let opened = open_to_read(&reader, inode).await.unwrap();
        opened.read_at(Offset(0), 3000).await.unwrap()
    };
    cluster.meta.state().is_of_earlier_release = true; // its answers to opens bring no extents
    let before = cluster.meta.state().extents_asked_for;
    for (number, inode) in files[..2].iter().enumerate() {
        assert!(read(*inode).await == pattern(number as u64, 3000));
    }
    wait_for("the extents of all files near", || cluster.meta.state().extents_near_asked_for == 1).await;
    tokio::time::sleep(Duration::from_millis(100)).await; // of the simulated clock: the answer has come
    // What has another version than was told is asked for.
    let changed = open(&writer, files[7]).await.unwrap();
    changed.write_at(&USER, Offset(0), &pattern(99, 3000)).await.unwrap();
    changed.sync().await.unwrap();
    for (number, inode) in files.iter().enumerate().skip(2) {
        let wanted = if number == 7 { 99 } else { number as u64 };
        assert!(read(*inode).await == pattern(wanted, 3000), "file {number}");
    }
    let asked = cluster.meta.state().extents_asked_for - before;
    assert_eq!((asked, cluster.meta.state().extents_near_asked_for), (3, 1));
}
