//! Bytes: written, read, cut, mapped, kept while nameless.

use std::fs::{self, File, OpenOptions};
use std::io::{Read as _, Seek as _, SeekFrom, Write as _};
use std::os::unix::fs::{FileExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::Path;

use dfs_tests::shell::sh;
use dfs_tests::{sys, tree};
use rand::rngs::SmallRng;
use rand::{Rng as _, SeedableRng as _};

use crate::{errno, scenario};

fn open_both(path: &Path) -> File {
    OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path).unwrap()
}

#[test]
fn a_gap_reads_as_zeros_and_takes_no_blocks() {
    let fs = scenario("sparse");
    let file = open_both(&fs.path("sparse"));
    file.write_at(b"head", 0).unwrap();
    file.write_at(b"tail", 3 << 30).unwrap();
    file.sync_all().unwrap();
    let meta = file.metadata().unwrap();
    assert_eq!(meta.len(), (3 << 30) + 4);
    assert!(meta.blocks() * 512 < 1 << 20, "{} blocks for 8 bytes", meta.blocks());
    let mut bytes = vec![1; 1 << 20];
    file.read_exact_at(&mut bytes, (1 << 30) + 7).unwrap();
    assert!(bytes.iter().all(|byte| *byte == 0));
    file.read_exact_at(&mut bytes[..8], (3 << 30) - 4).unwrap();
    assert_eq!(&bytes[..8], b"\0\0\0\0tail");
    drop(file);
    sh(&fs.dir("a"), "truncate -s 5G empty; [ $(stat -c '%s %b' empty | tr ' ' -) = 5368709120-0 ]");
    let full = fs.path("full");
    fs::write(&full, tree::bytes(1, 1 << 20)).unwrap();
    assert_eq!(fs::metadata(&full).unwrap().blocks(), 2048);
}

#[test]
fn truncate_cuts_and_what_grows_again_is_zeros() {
    let fs = scenario("truncate");
    let path = fs.path("file");
    let made = tree::bytes(2, 300_000);
    fs::write(&path, &made).unwrap();
    let file = open_both(&path);
    for (down, up) in [(100_001, 200_000), (4096, 4097), (0, 10), (5, 70_000)] {
        file.write_all_at(&made, 0).unwrap();
        file.set_len(down).unwrap();
        assert_eq!(fs::read(&path).unwrap(), made[..down as usize], "cut to {down}");
        file.set_len(up).unwrap();
        let mut expected = made[..down as usize].to_vec();
        expected.resize(up as usize, 0);
        assert_eq!(fs::read(&path).unwrap(), expected, "cut to {down}, grown to {up}");
    }
    drop(file);
    fs::write(&path, &made).unwrap();
    sh(&fs.dir("a"), "truncate -s 1000 file; truncate -s 2000 file");
    let mut expected = made[..1000].to_vec();
    expected.resize(2000, 0);
    assert_eq!(fs::read(&path).unwrap(), expected, "by name, closed in between");
    File::create(&path).unwrap();
    assert_eq!(fs::metadata(&path).unwrap().len(), 0, "O_TRUNC");
}

#[test]
fn random_writes_reads_and_cuts_of_one_file_match_a_byte_vector() {
    let fs = scenario("random_bytes");
    let seed = rand::random();
    eprintln!("seed {seed}");
    let mut rng = SmallRng::seed_from_u64(seed);
    let path = fs.path("file");
    let mut file = open_both(&path);
    let mut model: Vec<u8> = Vec::new();
    for step in 0..1500 {
        let at = rng.random_range(0..600_000_u64);
        match rng.random_range(0..100) {
            0..50 => {
                let len = if rng.random_bool(0.1) {
                    rng.random_range(0..200_000)
                } else {
                    rng.random_range(0..9000)
                };
                let bytes = tree::bytes(rng.random(), len);
                file.write_all_at(&bytes, at).unwrap();
                if !bytes.is_empty() {
                    model.resize(model.len().max(at as usize + bytes.len()), 0);
                    model[at as usize..][..bytes.len()].copy_from_slice(&bytes);
                }
            }
            50..90 => {
                let mut bytes = vec![0; rng.random_range(0..50_000)];
                let read = file.read_at(&mut bytes, at).unwrap();
                let expected = model.get(at as usize..).unwrap_or_default();
                let expected = &expected[..expected.len().min(bytes.len())];
                assert!(bytes[..read] == *expected, "seed {seed}, step {step}: read at {at}");
            }
            90..94 => {
                file.set_len(at).unwrap();
                model.resize(at as usize, 0);
            }
            94..97 => file.sync_all().unwrap(),
            _ => file = open_both(&path),
        }
        assert_eq!(file.metadata().unwrap().len(), model.len() as u64, "seed {seed}, step {step}");
    }
    drop(file);
    sys::drop_caches();
    assert!(fs::read(&path).unwrap() == model, "seed {seed}: the file at the end");
}

#[test]
fn a_large_file_reads_back_with_caches_dropped() {
    let fs = scenario("large_file");
    let len = 150 << 20;
    tree::write_made(&fs.path("large"), 3, len).unwrap();
    let here = std::env::temp_dir().join(format!("dfs-large-{}", std::process::id()));
    tree::write_made(&here, 3, len).unwrap();
    sys::drop_caches();
    let same = sh(&fs.dir("a"), &format!("cmp large {} && echo same || true", here.display()));
    fs::remove_file(&here).unwrap();
    assert_eq!(same, "same");
    // Parts from several places at once, beyond what one chunk holds.
    let whole = File::open(fs.path("large")).unwrap();
    std::thread::scope(|scope| {
        for part in 0..4 {
            let whole = &whole;
            scope.spawn(move || {
                let mut bytes = vec![0; 1 << 20];
                whole.read_exact_at(&mut bytes, part * (37 << 20) + 11).unwrap();
            });
        }
    });
}

#[test]
fn what_one_open_file_writes_every_other_sees_at_once() {
    let fs = scenario("one_buffer");
    let mut writer = File::create(fs.path("log")).unwrap();
    let mut reader = File::open(fs.path("log")).unwrap();
    for round in 0..300_u32 {
        let line = format!("line {round}\n");
        writer.write_all(line.as_bytes()).unwrap();
        let mut seen = String::new();
        reader.read_to_string(&mut seen).unwrap();
        assert_eq!(seen, line);
        let size = writer.stream_position().unwrap();
        assert_eq!(fs::metadata(fs.path("log")).unwrap().len(), size);
        assert_eq!(reader.metadata().unwrap().len(), size);
    }
}

#[test]
fn an_unlinked_file_stays_readable_and_writable_while_open() {
    let fs = scenario("unlinked_open");
    let file = open_both(&fs.path("file"));
    file.write_all_at(&tree::bytes(4, 100_000), 0).unwrap();
    fs::remove_file(fs.path("file")).unwrap();
    assert_eq!(errno(fs::metadata(fs.path("file"))), libc::ENOENT);
    assert_eq!(file.metadata().unwrap().nlink(), 0);
    file.write_all_at(b"still", 50_000).unwrap();
    file.sync_all().unwrap();
    sys::drop_caches();
    let mut expected = tree::bytes(4, 100_000);
    expected[50_000..50_005].copy_from_slice(b"still");
    let mut found = vec![0; 100_000];
    file.read_exact_at(&mut found, 0).unwrap();
    assert!(found == expected);
    // The name may be used again, by another file.
    fs::write(fs.path("file"), "new").unwrap();
    file.set_len(3).unwrap();
    assert_eq!(fs::read(fs.path("file")).unwrap(), b"new");
}

#[test]
fn rename_over_an_open_file_keeps_its_data_readable() {
    let fs = scenario("renamed_over_open");
    fs::write(fs.path("old"), "the old one").unwrap();
    fs::write(fs.path("new"), "the new one!").unwrap();
    let mut old = open_both(&fs.path("old"));
    fs::rename(fs.path("new"), fs.path("old")).unwrap();
    let mut text = String::new();
    old.read_to_string(&mut text).unwrap();
    assert_eq!(text, "the old one");
    old.write_all(b", and more").unwrap();
    old.seek(SeekFrom::Start(0)).unwrap();
    text.clear();
    old.read_to_string(&mut text).unwrap();
    assert_eq!(text, "the old one, and more");
    assert_eq!(fs::read(fs.path("old")).unwrap(), b"the new one!");
}

#[test]
fn appends_of_several_processes_of_one_mount_lose_nothing() {
    let fs = scenario("appends");
    sh(
        &fs.dir("a"),
        "for writer in 1 2 3 4; do
            (for line in $(seq 400); do echo \"writer $writer line $line\" >> log; done) &
         done; wait",
    );
    let log = fs::read_to_string(fs.path("log")).unwrap();
    assert_eq!(log.lines().count(), 1600);
    for writer in 1..=4 {
        let start = format!("writer {writer} line ");
        let lines: Vec<usize> =
            log.lines().filter_map(|line| line.strip_prefix(&start)).map(|n| n.parse().unwrap()).collect();
        assert_eq!(lines, (1..=400).collect::<Vec<_>>(), "writer {writer}'s lines, in its order");
    }
    // Kept open, with larger pieces, seek position elsewhere.
    let mut file = OpenOptions::new().read(true).append(true).open(fs.path("log")).unwrap();
    file.seek(SeekFrom::Start(0)).unwrap();
    file.write_all(&[b'x'; 10_000]).unwrap();
    assert_eq!(fs::metadata(fs.path("log")).unwrap().len(), log.len() as u64 + 10_000);
}

#[test]
fn mapped_writes_are_in_the_file_after_unmap_and_close() {
    let fs = scenario("mmap");
    let len = 1_000_000;
    let made = tree::bytes(5, len);
    let file = open_both(&fs.path("mapped"));
    file.set_len(len as u64).unwrap();
    let mut map = sys::Mapping::new(&file, len).unwrap();
    map.bytes().copy_from_slice(&made);
    drop(map);
    drop(file);
    assert!(fs::read(fs.path("mapped")).unwrap() == made);
    sys::drop_caches();
    assert!(fs::read(fs.path("mapped")).unwrap() == made, "and after the kernel forgot the pages");

    let file = open_both(&fs.path("mapped"));
    let mut map = sys::Mapping::new(&file, len).unwrap();
    map.bytes()[777_777] ^= 1;
    map.sync().unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, 777_777).unwrap();
    assert_eq!(byte[0], made[777_777] ^ 1, "msync, then read");
    // The descriptor goes first, the mapping is written back by its end.
    drop(file);
    map.bytes()[5] ^= 1;
    drop(map);
    sys::drop_caches();
    assert_eq!(fs::read(fs.path("mapped")).unwrap()[5], made[5] ^ 1);
}

#[test]
fn direct_io_reads_and_writes_the_same_file() {
    let fs = scenario("direct");
    let path = fs.path("file");
    sh(&fs.dir("a"), "dd if=/dev/urandom of=source bs=64k count=16 status=none");
    sh(&fs.dir("a"), "dd if=source of=file bs=64k oflag=direct status=none; cmp source file");
    sh(&fs.dir("a"), "dd if=file of=again bs=64k iflag=direct status=none; cmp source again");
    let direct = OpenOptions::new().write(true).custom_flags(libc::O_DIRECT).open(&path).unwrap();
    let cached = File::open(&path).unwrap();
    let mut before = [0; 8];
    cached.read_exact_at(&mut before, 4096).unwrap();
    let page = aligned_page(0xab);
    direct.write_all_at(page.bytes(), 4096).unwrap();
    let mut after = [0; 8];
    cached.read_exact_at(&mut after, 4096).unwrap();
    assert_eq!(after, [0xab; 8], "a cached reader sees what was written around the cache");
}

#[repr(align(4096))]
struct Page([u8; 4096]);

impl Page {
    fn bytes(&self) -> &[u8] {
        &self.0
    }
}

fn aligned_page(byte: u8) -> Box<Page> {
    Box::new(Page([byte; 4096]))
}

#[test]
fn copies_within_the_mount_are_whole() {
    let fs = scenario("copy_within");
    tree::write_made(&fs.path("source"), 6, 5_000_001).unwrap();
    // cp asks for a clone, then for copy_file_range, then copies itself; sendfile and splice besides.
    sh(&fs.dir("a"), "cp source copy; cp --sparse=always source sparse; cat source | tee piped > /dev/null");
    sh(&fs.dir("a"), "cmp source copy; cmp source sparse; cmp source piped");
    let mut to = File::create(fs.path("by_std")).unwrap();
    std::io::copy(&mut File::open(fs.path("source")).unwrap(), &mut to).unwrap();
    sh(&fs.dir("a"), "cmp source by_std");
}

#[test]
fn preallocation_is_refused_as_not_supported_and_posix_fallocate_still_works() {
    let fs = scenario("fallocate");
    let file = open_both(&fs.path("file"));
    assert_eq!(errno(sys::fallocate(&file, 0, 0, 1 << 20)), libc::ENOTSUP);
    assert_eq!(
        errno(sys::fallocate(&file, libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE, 0, 9)),
        libc::ENOTSUP
    );
    sh(
        &fs.dir("a"),
        "python3 -c \"import os; f = os.open('file', os.O_RDWR); os.posix_fallocate(f, 0, 100000)\"",
    );
    assert_eq!(file.metadata().unwrap().len(), 100_000);
}

#[test]
fn pages_that_were_read_back_stay_in_the_page_cache_when_what_they_show_is_committed() {
    const PAGES: usize = 64;
    let fs = scenario("written_pages");
    let (path, made) = (fs.path("file"), tree::bytes(3, PAGES << 12));
    let file = File::create(&path).unwrap();
    // The first look at the path may have the file committed, the second one is of what is only buffered.
    for _ in 0..2 {
        file.write_all_at(&made, 0).unwrap();
        assert_eq!(fs::read(&path).unwrap(), made);
    }
    file.sync_all().unwrap();
    assert_eq!(fs::metadata(&path).unwrap().len(), made.len() as u64);
    let mapped = sys::Mapping::new(&open_both(&path), made.len()).unwrap();
    assert_eq!(mapped.resident_pages().unwrap(), PAGES);
}

#[test]
fn reads_end_at_the_end_of_the_file() {
    let fs = scenario("end_of_file");
    fs::write(fs.path("file"), "12345").unwrap();
    let file = open_both(&fs.path("file"));
    let mut bytes = [0; 10];
    assert_eq!(file.read_at(&mut bytes, 3).unwrap(), 2);
    assert_eq!(file.read_at(&mut bytes, 5).unwrap(), 0);
    assert_eq!(file.read_at(&mut bytes, 1 << 40).unwrap(), 0);
    assert_eq!(file.write_at(&[], 100).unwrap(), 0);
    assert_eq!(file.metadata().unwrap().len(), 5, "an empty write moves no end");
    assert_eq!(errno(File::open(fs.dir("a")).unwrap().read(&mut bytes)), libc::EISDIR);
    assert_eq!(errno(OpenOptions::new().write(true).open(fs.dir("a"))), libc::EISDIR);
}
