//! Random operations on one file, under faults, against an array of bytes.

use dfs_proto::env::Rng;
use dfs_proto::ids::ServerId;
use dfs_proto::meta::SetAttr;
use dfs_proto::units::{ByteLen, Offset};

use crate::fakes::{Cluster, USER, make, open, size_of};
use crate::inode::GetAttr;

const FILE_LEN_MAX: u64 = 3 << 20;

/// One server at a time is silent, restarted, or loses answers; chunks are sealed behind the client's back.
fn disturb(cluster: &Cluster, rng: &Rng) {
    (1..=3).for_each(|id| cluster.chunks.silence(ServerId(id), false));
    cluster.chunks.lose_answers(0);
    let victim = ServerId(1 + rng.below(3));
    match rng.below(6) {
        0 => cluster.chunks.silence(victim, true),
        1 => cluster.chunks.restart(victim),
        2 => cluster.chunks.lose_answers(1),
        3 => cluster.meta.seal_all(),
        _ => {}
    }
}

async fn walk(seed: u64) {
    let (cluster, rng) = (Cluster::new(), Rng::seeded(seed));
    let client = cluster.client().await;
    let mut file = make(&client, "f").await;
    let inode = file.inode();
    let mut model: Vec<u8> = Vec::new();
    for step in 0..120u64 {
        match rng.below(10) {
            0..=3 => {
                let small = rng.below(4) > 0;
                let len = 1 + rng.below(if small { 20_000 } else { FILE_LEN_MAX / 2 });
                let offset = rng.below(FILE_LEN_MAX / 2);
                let data: Vec<u8> = (0..len).map(|at| (at ^ step) as u8).collect();
                file.write_at(&USER, Offset(offset), &data).await.unwrap();
                model.resize(model.len().max((offset + len) as usize), 0);
                model[offset as usize..(offset + len) as usize].copy_from_slice(&data);
            }
            4 => {
                let size = rng.below(FILE_LEN_MAX);
                let set = SetAttr { inode, size: Some(ByteLen(size)), by_handle: true, ..SetAttr::default() };
                client.perform(&USER, set).await.unwrap();
                model.resize(size as usize, 0);
            }
            5 => file.sync().await.unwrap(),
            6 => {
                file.flush().await.unwrap();
                file.release().await.unwrap();
                file = open(&client, inode).await.unwrap();
            }
            7 => disturb(&cluster, &rng),
            _ => {
                let offset = rng.below(FILE_LEN_MAX);
                let len = 1 + rng.below(FILE_LEN_MAX / 4);
                let bytes = file.read_at(Offset(offset), len).await.unwrap();
                let from = model.len().min(offset as usize);
                let to = model.len().min((offset + len) as usize);
                assert!(bytes == model[from..to], "seed {seed}, step {step}: read {len} at {offset}");
            }
        }
        let attr = client.perform(&USER, GetAttr { inode }).await.unwrap();
        assert_eq!(size_of(&attr), model.len() as u64, "seed {seed}, step {step}");
    }
    file.flush().await.unwrap();
    (1..=3).for_each(|id| cluster.chunks.silence(ServerId(id), false));
    assert!(cluster.read_elsewhere(inode).await == model, "seed {seed}: in the end");
}

#[tokio::test(start_paused = true)]
async fn a_file_reads_like_an_array_whatever_the_servers_do() {
    for seed in 0..40 {
        walk(seed).await;
    }
}
