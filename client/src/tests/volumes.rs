//! One session that writes to several volumes of a cluster.

use std::collections::BTreeSet;
use std::sync::Arc;

use dfs_proto::ids::{InodeId, VolumeId};
use dfs_proto::meta::Create;
use dfs_proto::units::{MIB, Offset};

use crate::data::slots::SLOTS_MAX;
use crate::fakes::{Cluster, USER, create, new_file, pattern, wait_for};
use crate::inode::{Client, File};

async fn make_in(client: &Client, parent: InodeId, name: &str) -> Arc<File> {
    create(client, Create { parent, ..new_file(name) }).await.unwrap().0
}

#[tokio::test(start_paused = true)]
async fn bytes_of_two_volumes_never_share_a_chunk() {
    let cluster = Cluster::new();
    let client = cluster.client().await;
    let roots = [InodeId::ROOT, cluster.meta.make_volume(VolumeId(5)), cluster.meta.make_volume(VolumeId(6))];
    let mut files = Vec::new();
    for root in roots {
        files.push(make_in(&client, root, "small").await);
        files.push(make_in(&client, root, "big").await);
    }
    for part in 0..24 {
        for (index, file) in files.iter().enumerate() {
            let len = if index % 2 == 0 { 100 } else { MIB };
            file.write_at(&USER, Offset(part * len), &pattern(index as u64 + part, len)).await.unwrap();
        }
    }
    for file in &files {
        file.sync().await.unwrap();
    }

    let chunks: Vec<_> = files.iter().map(|file| cluster.meta.chunks_of(file.inode())).collect();
    for (file, chunks) in files.iter().zip(&chunks) {
        for chunk in chunks {
            assert_eq!(cluster.meta.volume_of(*chunk), Some(file.inode().volume()));
        }
    }
    let of_volumes: Vec<BTreeSet<_>> = chunks.chunks(2).map(|both| &both[0] | &both[1]).collect();
    let all: BTreeSet<_> = of_volumes.iter().flatten().collect();
    assert_eq!(all.len(), of_volumes.iter().map(BTreeSet::len).sum::<usize>(), "no chunk is of two");
    assert!(chunks[1].len() >= 4, "a big stream is spread within its volume");
    assert_eq!(cluster.meta.faults(), Vec::<String>::new());
    for (index, file) in files.iter().enumerate() {
        let len = if index % 2 == 0 { 100 } else { MIB };
        let expected: Vec<u8> = (0..24).flat_map(|part| pattern(index as u64 + part, len)).collect();
        assert!(cluster.read_elsewhere(file.inode()).await == expected, "file {index}");
    }
}

#[tokio::test(start_paused = true)]
async fn however_many_volumes_are_written_to_a_bounded_number_of_chunks_is_open() {
    let cluster = Cluster::new();
    let client = cluster.client().await;
    let mut files = Vec::new();
    for volume in 1..=SLOTS_MAX as u32 + 30 {
        let root = cluster.meta.make_volume(VolumeId(volume));
        files.push(make_in(&client, root, "f").await);
    }
    for round in 0..3 {
        for (index, file) in files.iter().enumerate() {
            file.write_at(&USER, Offset(round * 100), &pattern(index as u64 + round, 100)).await.unwrap();
            file.sync().await.unwrap();
        }
        wait_for("chunks that were left to be sealed", || cluster.meta.open_chunks() <= SLOTS_MAX).await;
    }
    let made = cluster.meta.chunks_made();
    for file in &files[files.len() - SLOTS_MAX..] {
        file.write_at(&USER, Offset(300), b"more").await.unwrap();
        file.sync().await.unwrap();
    }
    assert_eq!(cluster.meta.chunks_made(), made, "the volumes written to last have their chunks open");
    assert_eq!(cluster.meta.faults(), Vec::<String>::new());
    for (index, file) in files.iter().enumerate() {
        let mut expected: Vec<u8> = (0..3).flat_map(|round| pattern(index as u64 + round, 100)).collect();
        if index >= files.len() - SLOTS_MAX {
            expected.extend(b"more");
        }
        assert_eq!(cluster.read_elsewhere(file.inode()).await, expected, "file {index}");
    }
}
