//! Files that grow while others read them. What is read is a prefix of what was written, never zeros behind an old end.

use std::fs::{self, File, OpenOptions};
use std::io::Write as _;
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use dfs_tests::{sys, wait};

use crate::scenario;

/// How long each way of growing is tried, with all ways of reading at once.
const TRIED_FOR: Duration = Duration::from_millis(1500);
/// The readers are to meet the end, not to read a long file.
const LEN_MAX: usize = 3_000_000;
/// On a busy machine it takes longer to get so far; less would try nothing.
const LEN_MIN: usize = 6000;
/// Behind what was read before, so that the page in which the file ended is read again.
const BEFORE_END: u64 = 6000;

fn byte(at: u64) -> u8 {
    b'a' + ((at * 7 + at / 251) % 26) as u8
}

fn bytes(from: u64, len: usize) -> Vec<u8> {
    (from..).take(len).map(byte).collect()
}

fn is_right(found: &[u8], from: u64) -> bool {
    (from..).zip(found).all(|(at, found)| *found == byte(at))
}

#[track_caller]
fn check(found: &[u8], from: u64, how: &str) {
    for (at, found) in (from..).zip(found) {
        assert_eq!(*found, byte(at), "{how}: at {at}");
    }
}

/// Appends pieces of many lengths with `append`, which is given the place, until there is enough; then sets `done`.
fn grow(done: &AtomicBool, mut append: impl FnMut(&[u8], u64)) {
    let before = wait::now();
    let mut len = 100;
    while len < LEN_MIN || (before.elapsed() < TRIED_FOR && len < LEN_MAX) {
        let piece = bytes(len as u64, 1 + len * 37 % 300);
        append(&piece, len as u64);
        len += piece.len();
    }
    done.store(true, Ordering::Relaxed);
}

/// Reads that may find other bytes for a moment. A reader that has the last page in its hands while a direct write makes the file longer
/// takes its zeros for the file's: the kernel looks at the page first and at the size afterwards (on ext4, too: there 29 of 47 runs
/// of such a writer found them, up to 63 times each). And a process that was told another size puts zeros behind that size into the page in
/// the cache, before it drops that page: if it is not scheduled in between, the file is longer by then. (Traced: no read that the mount
/// answered had these zeros.) Both end with the process that was not scheduled.
#[derive(Clone, Copy)]
struct Spared<'t>(Option<&'t AtomicUsize>);

/// Such a process is not scheduled for that long at most.
const SPARED_FOR: Duration = Duration::from_secs(2);
/// In all cases of direct writes together. Without dropping the page it was one read of 70.
const SPARED_MAX: usize = 10;

impl Spared<'_> {
    #[track_caller]
    fn check(self, found: &[u8], from: u64, how: &str, mut again: impl FnMut() -> Vec<u8>) {
        match self.0 {
            Some(spared) if !is_right(found, from) => {
                spared.fetch_add(1, Ordering::Relaxed);
                let is_right = || is_right(&again(), from).then_some(());
                wait::until(&format!("{how} to find no zeros from {from} on"), SPARED_FOR, is_right);
            }
            _ => check(found, from, how),
        }
    }
}

fn by_open(path: &Path, done: &AtomicBool, spared: Spared<'_>) {
    while !done.load(Ordering::Relaxed) {
        spared.check(&fs::read(path).unwrap(), 0, "read", || fs::read(path).unwrap());
    }
}

fn by_pread(path: &Path, done: &AtomicBool, spared: Spared<'_>) {
    let (file, mut found, mut seen) = (File::open(path).unwrap(), vec![0; 64 << 10], 0_u64);
    while !done.load(Ordering::Relaxed) {
        let from = seen.saturating_sub(BEFORE_END);
        let len = file.read_at(&mut found, from).unwrap();
        spared.check(&found[..len], from, "pread", || {
            let mut again = vec![0; len];
            file.read_exact_at(&mut again, from).unwrap();
            again
        });
        seen = from + len as u64;
    }
}

fn by_mmap(path: &Path, done: &AtomicBool, spared: Spared<'_>) {
    let (file, mut last) = (OpenOptions::new().read(true).write(true).open(path).unwrap(), [0]);
    while !done.load(Ordering::Relaxed) {
        // Only as far as read(2) gets: stat(2) may be ahead of what the kernel lets a mapping use.
        let mut len = file.metadata().unwrap().len();
        while len > 0 && file.read_at(&mut last, len - 1).unwrap() == 0 {
            len -= 1;
        }
        let mut map = sys::Mapping::new(&file, len as usize).unwrap();
        let from = len.saturating_sub(BEFORE_END);
        let found = map.bytes()[from as usize..].to_vec();
        spared.check(&found, from, "mmap", || map.bytes()[from as usize..].to_vec());
    }
}

fn by_sendfile(path: &Path, done: &AtomicBool, spared: Spared<'_>) {
    let file = File::open(path).unwrap();
    let mut seen = 0;
    while !done.load(Ordering::Relaxed) {
        let from = u64::saturating_sub(seen, BEFORE_END);
        let found = sys::sendfile(&file, from, 64 << 10).unwrap();
        spared.check(&found, from, "sendfile", || sys::sendfile(&file, from, found.len()).unwrap());
        seen = from + found.len() as u64;
    }
}

/// Everybody looks at `seen`, which is `written` through the same mount or another one.
fn look_while(seen: &Path, done: &AtomicBool, spared: Spared<'_>, grow: impl FnOnce() + Send) {
    std::thread::scope(|scope| {
        scope.spawn(grow);
        for reader in [by_open, by_open, by_pread, by_mmap, by_sendfile] {
            scope.spawn(move || {
                let read = std::panic::catch_unwind(|| reader(seen, done, spared));
                done.store(true, Ordering::Relaxed);
                assert!(read.is_ok(), "a reader of {} found other bytes", seen.display());
            });
        }
    });
}

/// An append went past the page cache: while the kernel took the file for longer, the page in which it had ended still showed
/// zeros behind that, and sendfile went on finding them there.
#[test]
fn readers_of_a_file_that_another_process_makes_longer_see_no_zeros() {
    let (fs, found_wrong) = (scenario("grow"), AtomicUsize::new(0));
    for (name, flags, reopens) in [
        ("append", libc::O_APPEND, false),
        ("append_and_close", libc::O_APPEND, true),
        ("direct", libc::O_DIRECT, false),
        ("direct_append", libc::O_DIRECT | libc::O_APPEND, false),
        ("write_behind", 0, false),
    ] {
        let path = fs.path(name);
        fs::write(&path, bytes(0, 100)).unwrap();
        let open = || OpenOptions::new().write(true).custom_flags(flags).open(&path).unwrap();
        let (done, mut file) = (AtomicBool::new(false), open());
        let spared = Spared((flags & libc::O_DIRECT != 0).then_some(&found_wrong));
        look_while(&path, &done, spared, || {
            grow(&done, |piece, at| {
                if reopens {
                    file = open();
                }
                if flags & libc::O_APPEND == 0 {
                    file.write_all_at(piece, at).unwrap();
                } else {
                    file.write_all(piece).unwrap();
                }
            });
        });
        let found = fs::read(&path).unwrap();
        assert!(found.len() >= LEN_MIN, "{name}: only {} bytes were written", found.len());
        check(&found, 0, name);
    }
    let found_wrong = found_wrong.into_inner();
    assert!(found_wrong <= SPARED_MAX, "{found_wrong} reads found zeros");
}

#[test]
fn a_file_cut_and_made_longer_again_shows_zeros_only_where_nothing_was_written() {
    let fs = scenario("grow_after_cut");
    let (path, len) = (fs.path("file"), 9000);
    let file = OpenOptions::new().read(true).write(true).create(true).truncate(true).open(&path).unwrap();
    for flags in [libc::O_APPEND, libc::O_DIRECT, 0] {
        for cut in [100, 4096, 5000] {
            file.write_all_at(&bytes(0, len), 0).unwrap();
            check(&fs::read(&path).unwrap(), 0, "whole");
            file.set_len(cut).unwrap();
            let other = OpenOptions::new().write(true).custom_flags(flags).open(&path).unwrap();
            let (at, piece) = if flags == libc::O_APPEND { (cut, 50) } else { (cut + 20, 50) };
            match flags {
                libc::O_APPEND => (&other).write_all(&bytes(at, piece)).unwrap(),
                _ => other.write_all_at(&bytes(at, piece), at).unwrap(),
            }
            let mut expected = bytes(0, cut as usize);
            expected.resize(at as usize, 0);
            expected.extend(bytes(at, piece));
            assert!(sys::sendfile(&file, 0, len).unwrap() == expected, "{flags:#o}, cut to {cut}: sendfile");
            assert!(fs::read(&path).unwrap() == expected, "{flags:#o}, cut to {cut}: read");
            drop(other);
            file.set_len(0).unwrap();
        }
    }
}
