//! The store over disks in memory: what is kept, what is refused, what survives a crash.

use std::sync::Arc;

use bytes::Bytes;
use dfs_net::env::Rng;
use dfs_proto::chunk::{Append, ChunkKey, ReadChunk, block_checksums};
use dfs_proto::error::ChunkError;
use dfs_proto::ids::{ChunkId, ClusterId, Incarnation, InodeId, SessionId, SetVersion};
use dfs_proto::units::{ByteLen, CHUNK_APPENDS_MAX, ChunkOffset, Offset};
use futures::FutureExt;
use futures::future::join_all;

use super::format::CHUNK_HEADER_LEN;
use super::*;
use crate::disk::memory::Call;
use crate::disk::{MemoryDisk, RealDisk};

const DATA: &str = "/data";
const GIB: u64 = 1 << 30;

fn key(chunk: ChunkId) -> ChunkKey {
    ChunkKey { cluster: ClusterId(7), incarnation: Incarnation(1), chunk, set_version: SetVersion(1) }
}

fn append_of(chunk: ChunkId, offset: u64, data: &[u8]) -> Append {
    let (key, offset) = (key(chunk), ChunkOffset(offset));
    Append {
        key,
        offset,
        session: SessionId(4),
        inode: InodeId(9),
        file_offset: Offset(77),
        block_checksums: block_checksums(&key, offset, data),
        forward: Vec::new(),
        data: Bytes::copy_from_slice(data),
    }
}

fn options(workers: Workers) -> StoreOptions {
    let full = FullBelow { bytes: 1000, percent: 0 };
    StoreOptions { full, io: workers.clone(), syncs: workers, descriptors: 20_000 }
}

fn open(disk: &MemoryDisk) -> ChunkStore {
    disk.create_directory(Path::new(DATA)).unwrap();
    disk.sync_directory(Path::new(DATA).parent().unwrap()).unwrap();
    let options = options(Workers::inline());
    ChunkStore::open(Arc::new(disk.clone()), Path::new(DATA), options, Metrics::new()).unwrap()
}

/// The result of a call to a store whose workers are inline: it is there at once.
fn now<T>(future: impl Future<Output = T>) -> T {
    future.now_or_never().expect("a store with inline workers never waits")
}

fn append(store: &ChunkStore, chunk: u64, offset: u64, data: &[u8]) -> Result<ByteLen, ChunkError> {
    now(store.append(&append_of(ChunkId(chunk), offset, data)))
}

fn sync(store: &ChunkStore, chunk: u64, up_to: u64) -> Result<ByteLen, ChunkError> {
    now(store.sync(ChunkId(chunk), ByteLen(up_to)))
}

/// Reads as a client does: checks the blocks again and cuts the range out.
fn read(store: &ChunkStore, chunk: u64, offset: u64, len: u64) -> Result<Bytes, ChunkError> {
    let key = key(ChunkId(chunk));
    now(store.read(ReadChunk { key, offset: ChunkOffset(offset), len }))?.verify(
        &key,
        ChunkOffset(offset),
        len,
    )
}

fn noise(rng: &Rng, len: u64) -> Vec<u8> {
    (0..len).map(|_| rng.u64() as u8).collect()
}

#[test]
fn any_range_of_what_was_appended_reads_as_it_was_written_while_open_and_after_a_restart() {
    let rng = Rng::seeded(11);
    let disk = MemoryDisk::new(GIB);
    let store = open(&disk);
    let mut written = Vec::new();
    for len in [1, 4096, 4095, 10_000, 4097, 3, 70_000] {
        let data = noise(&rng, len);
        append(&store, 5, written.len() as u64, &data).unwrap();
        written.extend(data);
    }
    sync(&store, 5, written.len() as u64).unwrap();
    for store in [store, open(&disk)] {
        for _ in 0..300 {
            let offset = rng.below(written.len() as u64);
            let len = 1 + rng.below(written.len() as u64 - offset);
            let seen = read(&store, 5, offset, len).unwrap();
            assert_eq!(seen, written[offset as usize..(offset + len) as usize], "{len} bytes at {offset}");
        }
    }
}

#[test]
fn a_read_moves_whole_blocks_of_the_range_and_no_more() {
    let store = open(&MemoryDisk::new(GIB));
    append(&store, 5, 0, &[1; 10_000]).unwrap();
    let read = ReadChunk { key: key(ChunkId(5)), offset: ChunkOffset(5000), len: 10 };
    let blocks = now(store.read(read)).unwrap();
    assert_eq!(
        (blocks.offset, blocks.lens.as_slice(), blocks.data.len()),
        (ChunkOffset(4096), &[4096][..], 4096)
    );
}

#[test]
fn a_crash_loses_only_what_was_not_synced_and_leaves_no_wrong_byte() {
    for seed in 0..300 {
        let rng = Rng::seeded(seed);
        let disk = MemoryDisk::new(GIB);
        let store = open(&disk);
        let mut written = Vec::new();
        let mut synced = 0;
        for _ in 0..1 + rng.below(8) {
            let data = noise(&rng, 1 + rng.below(9000));
            append(&store, 3, written.len() as u64, &data).unwrap();
            written.extend(data);
            if rng.below(3) == 0 {
                synced = sync(&store, 3, written.len() as u64).unwrap().0;
            }
        }
        drop(store);
        disk.crash(&rng);
        let store = open(&disk);
        if synced > 0 {
            assert_eq!(read(&store, 3, 0, synced).unwrap(), written[..synced as usize], "seed {seed}");
        }
        for at in (0..written.len() as u64).step_by(1000) {
            let len = 1000.min(written.len() as u64 - at);
            match read(&store, 3, at, len) {
                Ok(seen) => assert_eq!(seen, written[at as usize..(at + len) as usize], "seed {seed}"),
                Err(_) => assert!(at + len > synced, "seed {seed}: {at} was synced"),
            }
        }
    }
}

#[test]
fn after_a_restart_no_chunk_is_open() {
    let disk = MemoryDisk::new(GIB);
    let store = open(&disk);
    append(&store, 3, 0, b"before").unwrap();
    let not_open = ChunkError::NotOpen { chunk: ChunkId(3) };
    let store = open(&disk);
    assert_eq!(append(&store, 3, 6, b"after"), Err(not_open.clone()));
    assert_eq!(append(&store, 3, 0, b"before"), Err(not_open.clone()), "not even a repeat of the first");
    assert_eq!(sync(&store, 3, 6), Err(not_open));
    assert_eq!(read(&store, 3, 0, 6).unwrap(), "before");
}

#[test]
fn an_exact_repeat_is_acknowledged_again_and_anything_else_in_its_place_refused() {
    let store = open(&MemoryDisk::new(GIB));
    append(&store, 3, 0, b"first").unwrap();
    append(&store, 3, 5, b"second").unwrap();
    assert_eq!(append(&store, 3, 0, b"first"), Ok(ByteLen(5)));
    assert_eq!(append(&store, 3, 5, b"second"), Ok(ByteLen(11)));
    let refused = |named| Err(ChunkError::AppendOutOfPlace { chunk: ChunkId(3), held: 11, named });
    assert_eq!(append(&store, 3, 5, b"secure"), refused(5));
    assert_eq!(append(&store, 3, 5, b"seconds"), refused(5));
    assert_eq!(append(&store, 3, 12, b"gap"), refused(12));
    assert_eq!(append(&store, 3, 11, b"third"), Ok(ByteLen(16)));
    assert_eq!(read(&store, 3, 0, 16).unwrap(), "firstsecondthird");
}

#[test]
fn bytes_that_do_not_match_their_checksum_on_arrival_are_refused_and_change_nothing() {
    let store = open(&MemoryDisk::new(GIB));
    let mut spoiled = append_of(ChunkId(3), 0, &[1; 9000]);
    spoiled.data = Bytes::from(vec![2; 9000]);
    assert_eq!(now(store.append(&spoiled)), Err(ChunkError::Damaged { chunk: ChunkId(3), at: 0 }));
    assert_eq!(append(&store, 3, 0, &[1; 9000]), Ok(ByteLen(9000)));
}

#[test]
fn a_chunk_has_one_writer_and_one_incarnation() {
    let store = open(&MemoryDisk::new(GIB));
    append(&store, 3, 0, b"mine").unwrap();
    let other = Append { session: SessionId(5), ..append_of(ChunkId(3), 4, b"theirs") };
    assert_eq!(now(store.append(&other)), Err(ChunkError::NotOpen { chunk: ChunkId(3) }));
    let mut older = append_of(ChunkId(3), 4, b"");
    older.key.incarnation = Incarnation(9);
    older.data = Bytes::from_static(b"late");
    older.block_checksums = block_checksums(&older.key, older.offset, &older.data);
    assert!(matches!(now(store.append(&older)), Err(ChunkError::Outdated { .. })));
}

#[test]
fn a_damaged_block_is_refused_alone_and_remembered_for_the_next_report() {
    let disk = MemoryDisk::new(GIB);
    let store = open(&disk);
    append(&store, 3, 0, &[1; 20_000]).unwrap();
    let store_after = open(&disk);
    let path = disk.files().into_iter().find(|path| path.ends_with("0000000000000003")).unwrap();
    // In the second block of the payload.
    disk.flip(&path, 80 + format::frame_header_len(20_000) + 5000);
    for store in [store, store_after] {
        assert_eq!(read(&store, 3, 0, 4096).unwrap(), vec![1; 4096]);
        assert_eq!(read(&store, 3, 8192, 11_808).unwrap(), vec![1; 11_808]);
        assert_eq!(read(&store, 3, 5000, 10), Err(ChunkError::Damaged { chunk: ChunkId(3), at: 4096 }));
        assert_eq!(store.damaged(), [ChunkId(3)]);
        store.damage_reported(&[ChunkId(3)]);
        assert!(store.damaged().is_empty());
    }
}

#[test]
fn a_chunk_file_of_noise_hinders_neither_the_start_nor_other_chunks() {
    let disk = MemoryDisk::new(GIB);
    let store = open(&disk);
    append(&store, 3, 0, b"good").unwrap();
    let file = disk.create(Path::new("/data/chunks/04/0000000000000004")).unwrap();
    file.write_at(&mut [io::IoSlice::new(&[0xaa; 5000])], 0).unwrap();
    let store = open(&disk);
    assert_eq!(read(&store, 4, 0, 1), Err(ChunkError::Damaged { chunk: ChunkId(4), at: 0 }));
    assert_eq!(read(&store, 3, 0, 4).unwrap(), "good");
}

#[test]
fn reading_what_is_not_there_says_what_is() {
    let store = open(&MemoryDisk::new(GIB));
    assert_eq!(read(&store, 3, 0, 1), Err(ChunkError::Gone { chunk: ChunkId(3) }));
    append(&store, 3, 0, b"four").unwrap();
    assert_eq!(read(&store, 3, 2, 5), Err(ChunkError::TooShort { chunk: ChunkId(3), held: 4, wanted: 7 }));
    assert_eq!(
        read(&store, 3, u64::MAX, 1),
        Err(ChunkError::TooShort { chunk: ChunkId(3), held: 4, wanted: u64::MAX })
    );
    assert!(matches!(read(&store, 3, 0, 0), Err(ChunkError::Invalid { .. })));
}

#[test]
fn a_failed_sync_fails_the_chunk_for_ever_and_no_other() {
    let disk = MemoryDisk::new(GIB);
    let store = open(&disk);
    append(&store, 3, 0, b"lost").unwrap();
    append(&store, 4, 0, b"kept").unwrap();
    disk.fail_syncs(true);
    assert!(matches!(sync(&store, 3, 4), Err(ChunkError::Disk { .. })));
    disk.fail_syncs(false);
    assert!(matches!(sync(&store, 3, 4), Err(ChunkError::Disk { .. })), "not tried again");
    assert!(matches!(append(&store, 3, 4, b"more"), Err(ChunkError::Disk { .. })));
    assert_eq!(sync(&store, 4, 4), Ok(ByteLen(4)));
}

#[test]
fn a_sync_answers_what_is_durable_and_costs_nothing_when_all_is() {
    let disk = MemoryDisk::new(GIB);
    let store = open(&disk);
    append(&store, 3, 0, b"abc").unwrap();
    let before = disk.syncs();
    assert_eq!(sync(&store, 3, 3), Ok(ByteLen(3)));
    assert_eq!(sync(&store, 3, 2), Ok(ByteLen(3)));
    assert_eq!(sync(&store, 3, 99), Ok(ByteLen(3)), "less than asked for: the caller has to notice");
    assert_eq!(disk.syncs() - before, 1);
}

#[test]
fn a_deleted_chunk_is_gone_and_stays_gone_over_a_crash() {
    for seed in 0..20 {
        let disk = MemoryDisk::new(GIB);
        let store = open(&disk);
        for chunk in [3, 4] {
            append(&store, chunk, 0, b"data").unwrap();
            sync(&store, chunk, 4).unwrap();
        }
        let gone = now(store.delete(vec![ChunkId(3), ChunkId(1000)]));
        assert_eq!(gone, [ChunkId(3), ChunkId(1000)], "one that is not here is gone too");
        assert_eq!(append(&store, 3, 4, b"late"), Err(ChunkError::NotOpen { chunk: ChunkId(3) }));
        drop(store);
        disk.crash(&Rng::seeded(seed));
        let store = open(&disk);
        assert_eq!(read(&store, 3, 0, 4), Err(ChunkError::Gone { chunk: ChunkId(3) }));
        assert_eq!(read(&store, 4, 0, 4).unwrap(), "data");
    }
}

#[test]
fn a_deletion_that_is_not_durable_is_not_confirmed() {
    let disk = MemoryDisk::new(GIB);
    let store = open(&disk);
    append(&store, 3, 0, b"data").unwrap();
    disk.fail_syncs(true);
    assert_eq!(now(store.delete(vec![ChunkId(3)])), []);
    disk.fail_syncs(false);
    assert_eq!(now(store.delete(vec![ChunkId(3)])), [ChunkId(3)]);
}

#[test]
fn a_full_disk_takes_no_appends_but_reads_and_deletes_until_it_has_room_again() {
    let disk = MemoryDisk::new(20_000);
    let store = open(&disk);
    append(&store, 3, 0, &[1; 19_000]).unwrap();
    now(store.load()).unwrap();
    assert_eq!(append(&store, 4, 0, b"more"), Err(ChunkError::NoSpace));
    assert_eq!(read(&store, 3, 0, 100).unwrap(), vec![1; 100]);
    assert_eq!(now(store.delete(vec![ChunkId(3)])), [ChunkId(3)]);
    assert!(!now(store.load()).unwrap().is_full);
    assert_eq!(append(&store, 4, 0, b"more"), Ok(ByteLen(4)));
}

#[test]
fn a_disk_that_turns_out_full_at_the_write_says_so() {
    let disk = MemoryDisk::new(20_000);
    let store = open(&disk);
    append(&store, 3, 0, b"fits").unwrap();
    disk.set_capacity(200);
    assert_eq!(append(&store, 3, 4, &[1; 9000]), Err(ChunkError::NoSpace));
    assert_eq!(read(&store, 3, 0, 4).unwrap(), "fits");
}

#[test]
fn beyond_the_limit_of_open_chunks_the_least_used_takes_no_more_appends() {
    let store = open(&MemoryDisk::new(GIB));
    for chunk in 0..=OPEN_CHUNKS_MAX {
        append(&store, chunk, 0, b"x").unwrap();
    }
    assert_eq!(append(&store, 0, 1, b"y"), Err(ChunkError::NotOpen { chunk: ChunkId(0) }));
    assert_eq!(append(&store, 1, 1, b"y"), Ok(ByteLen(2)));
    assert_eq!(read(&store, 0, 0, 1).unwrap(), "x");
}

#[test]
fn a_chunk_takes_a_bounded_number_of_appends_and_all_of_them_read_back_at_once() {
    let disk = MemoryDisk::new(GIB);
    let store = open(&disk);
    for offset in 0..CHUNK_APPENDS_MAX {
        append(&store, 3, offset, &[offset as u8]).unwrap();
    }
    let behind = append(&store, 3, CHUNK_APPENDS_MAX, b"x");
    assert_eq!(behind, Err(ChunkError::NotOpen { chunk: ChunkId(3) }));
    let expected: Vec<u8> = (0..CHUNK_APPENDS_MAX).map(|offset| offset as u8).collect();
    for store in [store, open(&disk)] {
        assert_eq!(read(&store, 3, 0, CHUNK_APPENDS_MAX).unwrap(), expected);
    }
}

#[test]
fn a_stray_append_to_a_chunk_from_before_the_restart_does_not_disturb_its_readers() {
    let disk = MemoryDisk::new(GIB);
    append(&open(&disk), 3, 0, b"before").unwrap();
    let store = open(&disk);
    assert_eq!(append(&store, 3, 0, b"stray"), Err(ChunkError::NotOpen { chunk: ChunkId(3) }));
    for _ in 0..2 {
        assert_eq!(read(&store, 3, 0, 6).unwrap(), "before");
    }
    assert_eq!(now(store.stat(key(ChunkId(3)))), Ok((ByteLen(6), false)));
}

#[test]
fn chunks_are_listed_by_the_last_byte_of_their_id_and_counted() {
    let disk = MemoryDisk::new(GIB);
    let store = open(&disk);
    for chunk in [0x12a, 0x2a, 0x2b] {
        append(&store, chunk, 0, b"x").unwrap();
    }
    assert_eq!(now(store.list(0x2a)).unwrap(), [ChunkId(0x2a), ChunkId(0x12a)]);
    assert_eq!(now(open(&disk).load()).unwrap().chunks, 3);
}

#[tokio::test]
async fn appends_queued_in_order_are_written_in_order_whatever_order_they_are_awaited_in() {
    let directory = tempfile::tempdir().unwrap();
    let options = options(Workers::threads(4));
    let store = ChunkStore::open(Arc::new(RealDisk), directory.path(), options, Metrics::new()).unwrap();
    let chunks = 8u64;
    let rounds = 40u64;
    let data: Vec<u8> = (0..30_000u64).map(|at| (at % 251) as u8).collect();
    let mut answers = Vec::new();
    for round in 0..rounds {
        for chunk in 0..chunks {
            answers.push(store.append(&append_of(ChunkId(chunk), round * 30_000, &data)));
        }
    }
    answers.reverse();
    assert!(join_all(answers).await.into_iter().all(|answer| answer.is_ok()));
    let syncs = (0..chunks).flat_map(|chunk| (0..20).map(move |_| chunk));
    let syncs = join_all(syncs.map(|chunk| store.sync(ChunkId(chunk), ByteLen(rounds * 30_000)))).await;
    assert!(syncs.into_iter().all(|synced| synced == Ok(ByteLen(rounds * 30_000))));
    for chunk in 0..chunks {
        let key = key(ChunkId(chunk));
        let whole = ReadChunk { key, offset: ChunkOffset(0), len: rounds * 30_000 };
        let blocks = store.read(whole).await.unwrap();
        assert_eq!(blocks.verify(&key, ChunkOffset(0), whole.len).unwrap(), data.repeat(rounds as usize));
    }
}

#[test]
fn no_append_makes_the_store_panic() {
    let store = open(&MemoryDisk::new(GIB));
    let good = append_of(ChunkId(3), 0, b"bytes");
    let empty = Append { data: Bytes::new(), block_checksums: Vec::new(), ..good.clone() };
    let far = Append { offset: ChunkOffset(u64::MAX), ..good.clone() };
    let bare = Append { block_checksums: Vec::new(), ..good.clone() };
    let large = append_of(ChunkId(3), 0, &vec![0; APPEND_LEN_MAX as usize + 1]);
    let last = append_of(ChunkId(3), CHUNK_LEN - 4, b"bytes");
    for bad in [empty, far, bare, large, last] {
        assert!(matches!(now(store.append(&bad)), Err(ChunkError::Invalid { .. })));
    }
    assert_eq!(now(store.append(&good)), Ok(ByteLen(5)));
}

/// The errors that the kernel answers for want of descriptors, of memory, or of permission, or when it was interrupted.
const LACKS: [i32; 6] = [libc::EMFILE, libc::ENFILE, libc::ENOMEM, libc::EAGAIN, libc::EINTR, libc::EACCES];

/// A server that was out of descriptors for a moment answered "disk error", and the metaserver wrote its copies down as
/// damaged, for good.
#[test]
fn out_of_descriptors_or_memory_is_no_damage_and_reads_again_when_there_are_some() {
    for lack in LACKS {
        let disk = MemoryDisk::new(GIB);
        append(&open(&disk), 3, 0, &[1; 9000]).unwrap();
        // At the opening; at each of the reads: chunk header, frame headers, payload.
        for (call, before) in [(Call::Open, 0), (Call::Transfer, 0), (Call::Transfer, 1), (Call::Transfer, 2)]
        {
            let store = open(&disk);
            (0..before).for_each(|_| disk.fail_next(call, 0));
            disk.fail_next(call, lack);
            assert_eq!(read(&store, 3, 0, 9000), Err(ChunkError::Busy), "{lack} at {call:?} {before}");
            assert_eq!(store.damaged(), []);
            assert_eq!(read(&store, 3, 0, 9000).unwrap(), vec![1; 9000]);
        }
        let store = open(&disk);
        disk.fail_next(Call::Open, lack);
        assert_eq!(now(store.stat(key(ChunkId(3)))), Err(ChunkError::Busy));
    }
}

#[test]
fn an_error_of_the_medium_is_damage_of_the_block_that_it_hides_and_of_no_other() {
    let disk = MemoryDisk::new(GIB);
    append(&open(&disk), 3, 0, &[1; 20_000]).unwrap();
    let payload = CHUNK_HEADER_LEN + format::frame_header_len(20_000);
    disk.lose_sector(&disk.files()[0], payload + 4096 + 10..payload + 4096 + 20);
    let store = open(&disk);
    assert_eq!(read(&store, 3, 0, 20_000), Err(ChunkError::Damaged { chunk: ChunkId(3), at: 4096 }));
    assert_eq!(store.damaged(), [ChunkId(3)]);
    assert_eq!(read(&store, 3, 0, 4096).unwrap(), vec![1; 4096]);
    assert_eq!(read(&store, 3, 8192, 11_808).unwrap(), vec![1; 11_808]);
}

#[test]
fn an_append_that_finds_no_descriptor_sends_its_writer_elsewhere_and_the_chunk_keeps_what_it_has() {
    for lack in LACKS {
        let disk = MemoryDisk::new(GIB);
        let store = open(&disk);
        disk.fail_next(Call::Open, lack);
        assert_eq!(append(&store, 3, 0, b"first"), Err(ChunkError::NotOpen { chunk: ChunkId(3) }));
        append(&store, 4, 0, b"first").unwrap();
        sync(&store, 4, 5).unwrap();
        disk.fail_next(Call::Transfer, lack);
        assert_eq!(append(&store, 4, 5, b"more"), Err(ChunkError::NotOpen { chunk: ChunkId(4) }));
        assert_eq!(read(&store, 4, 0, 5).unwrap(), "first");
        append(&store, 5, 0, b"x").unwrap();
        disk.fail_next(Call::Open, lack); // of the directory, to sync the name
        assert_eq!(sync(&store, 5, 1), Err(ChunkError::NotOpen { chunk: ChunkId(5) }));
        assert_eq!(store.damaged(), []);
    }
}

#[test]
fn with_few_descriptors_few_chunks_are_kept_open_and_all_of_them_read() {
    let disk = MemoryDisk::new(GIB);
    let few = || StoreOptions { descriptors: 40, ..options(Workers::inline()) };
    disk.create_directory(Path::new(DATA)).unwrap();
    disk.sync_directory(Path::new(DATA).parent().unwrap()).unwrap();
    let store = ChunkStore::open(Arc::new(disk.clone()), Path::new(DATA), few(), Metrics::new()).unwrap();
    for chunk in 0..=10 {
        append(&store, chunk, 0, b"x").unwrap();
    }
    assert_eq!(append(&store, 0, 1, b"y"), Err(ChunkError::NotOpen { chunk: ChunkId(0) }));
    let store = ChunkStore::open(Arc::new(disk.clone()), Path::new(DATA), few(), Metrics::new()).unwrap();
    for chunk in 0..=10 {
        assert_eq!(read(&store, chunk, 0, 1).unwrap(), "x");
    }
    assert_eq!(lock(&store.0.sealed).count(), 10);
}

/// Which blocks of the chunk can be read. Reading any other is an error and never gives wrong bytes.
fn readable(store: &ChunkStore, chunk: u64, frames: &[Vec<u8>]) -> Vec<bool> {
    let mut at = 0;
    let mut seen = Vec::new();
    for frame in frames {
        for block in frame.chunks(BLOCK_LEN as usize) {
            match read(store, chunk, at, block.len() as u64) {
                Ok(bytes) => {
                    assert_eq!(bytes, block, "wrong bytes at {at}");
                    seen.push(true);
                }
                Err(ChunkError::Damaged { .. } | ChunkError::TooShort { .. }) => seen.push(false),
                Err(error) => panic!("{error}"),
            }
            at += block.len() as u64;
        }
    }
    seen
}

/// A chunk of frames with these contents on a disk of its own, and where each frame begins in the file.
fn written(frames: &[Vec<u8>]) -> (MemoryDisk, Vec<usize>) {
    let disk = MemoryDisk::new(GIB);
    let store = open(&disk);
    let (mut offset, mut position, mut positions) = (0, CHUNK_HEADER_LEN, Vec::new());
    for frame in frames {
        append(&store, 3, offset, frame).unwrap();
        positions.push(position);
        offset += frame.len() as u64;
        position += format::frame_header_len(frame.len() as u64) + frame.len();
    }
    (disk, positions)
}

/// One flipped bit in a frame header made everything behind it unreadable after a restart: up to 64 MiB.
#[test]
fn every_bit_of_every_header_may_flip_and_at_most_one_block_is_lost() {
    let rng = Rng::seeded(5);
    let frames: Vec<_> = [3, 4096, 5000, 1, 8192, 100].map(|len| noise(&rng, len)).into();
    let (disk, positions) = written(&frames);
    let path = disk.files()[0].clone();
    let mut headers = vec![(0..CHUNK_HEADER_LEN, None)];
    let mut first_block = 0;
    for (frame, &position) in frames.iter().zip(&positions) {
        let fixed = position + format::FRAME_HEADER_LEN;
        headers.push((position..fixed, None));
        for block in 0..block_count(frame.len() as u64) {
            headers.push((fixed + 4 * block..fixed + 4 * block + 4, Some(first_block)));
            first_block += 1;
        }
    }
    for (header, lost) in headers {
        for bit in 8 * header.start..8 * header.end {
            disk.flip_bit(&path, bit);
            let seen = readable(&open(&disk), 3, &frames);
            let expected: Vec<bool> = (0..first_block).map(|block| Some(block) != lost).collect();
            // Of the last frame nothing stands behind that would tell more than its own header.
            assert_eq!(seen, expected, "bit {bit}");
            disk.flip_bit(&path, bit);
        }
    }
}

#[test]
fn headers_that_are_gone_altogether_cost_their_own_frames_and_what_stands_behind_is_found() {
    let rng = Rng::seeded(6);
    let frames: Vec<_> = (0..6).map(|_| noise(&rng, 5000)).collect();
    for gone in [vec![0], vec![2], vec![1, 2], vec![0, 3], vec![1, 2, 3, 4]] {
        let (disk, positions) = written(&frames);
        let path = disk.files()[0].clone();
        for &frame in &gone {
            let header = positions[frame]..positions[frame] + format::FRAME_HEADER_LEN;
            header.for_each(|at| (0..8).for_each(|bit| disk.flip_bit(&path, 8 * at + bit)));
        }
        let seen = readable(&open(&disk), 3, &frames);
        let is_alone =
            |frame: &usize| !gone.contains(&(frame + 1)) && !gone.contains(&(frame.wrapping_sub(1)));
        for (block, is_read) in seen.iter().enumerate() {
            let frame = block / 2;
            assert!(*is_read || gone.contains(&frame), "frame {frame} of which {gone:?} are gone");
            assert!(*is_read || !is_alone(&frame), "its blocks tell where it ends: {frame} of {gone:?}");
        }
    }
}

#[test]
fn a_sector_under_a_header_that_the_medium_does_not_give_any_more_costs_its_blocks_alone() {
    let rng = Rng::seeded(7);
    let frames: Vec<_> = (0..8).map(|_| noise(&rng, 6000)).collect();
    let (disk, positions) = written(&frames);
    disk.lose_sector(&disk.files()[0], positions[3]..positions[3] + 1);
    let seen = readable(&open(&disk), 3, &frames);
    assert!(seen[..4].iter().all(|read| *read), "what stands before: {seen:?}");
    assert!(seen[10..].iter().all(|read| *read), "what stands well behind: {seen:?}");
}

#[test]
fn behind_a_torn_end_nothing_is_found_and_what_was_synced_before_is_there() {
    for seed in 0..100 {
        let rng = Rng::seeded(seed);
        let frames: Vec<_> = (0..4).map(|_| noise(&rng, 1 + rng.below(9000))).collect();
        let (disk, positions) = written(&frames);
        let torn = disk.files()[0].clone();
        let cut = positions[3] + 64 + rng.below(9000) as usize;
        disk.cut(&torn, cut, &rng);
        let store = open(&disk);
        let before: u64 = frames[..3].iter().map(|frame| frame.len() as u64).sum();
        assert_eq!(read(&store, 3, 0, before).unwrap(), frames[..3].concat(), "seed {seed}");
        readable(&store, 3, &frames);
    }
}

/// A file in dfs may itself be a copy of a chunk file. The frames in it are no frames of the chunk that stores it.
#[test]
fn frames_inside_the_data_are_not_taken_for_frames_of_the_file() {
    let rng = Rng::seeded(8);
    let inner: Vec<_> = [4096, 300, 5000].map(|len| noise(&rng, len)).into();
    let (other, _) = written(&inner);
    let copy = other.content(&other.files()[0]);
    let frames = vec![copy, noise(&rng, 5000), noise(&rng, 300)];
    let (disk, positions) = written(&frames);
    let path = disk.files()[0].clone();
    for at in positions[0]..positions[0] + format::FRAME_HEADER_LEN {
        disk.flip_bit(&path, 8 * at + 3);
        readable(&open(&disk), 3, &frames);
    }
    assert!(readable(&open(&disk), 3, &frames).iter().all(|read| *read));
}
