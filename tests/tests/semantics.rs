//! One test per promise of SEMANTICS.md that takes more than one mount, or servers that fail while nobody writes.
//! What one mount promises is in `posix`, what holds while servers fail in the middle of work in `faults`.

#![allow(clippy::unwrap_used, reason = "in a test an unwrap is an assertion")]

use std::fs::{self, File, OpenOptions};
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::{FileExt as _, MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use dfs_tests::cluster::{Cluster, Shape};
use dfs_tests::shared::{Scenario, Shared};
use dfs_tests::{sys, tree, wait};
use rand::rngs::SmallRng;
use rand::{Rng as _, SeedableRng as _};

static SHARED: Shared = Shared::new(Shape::default, &["a", "b"]);

fn scenario(name: &str) -> Scenario {
    SHARED.scenario(name)
}

#[test]
fn what_one_mount_closed_the_other_opens_and_reads_a_thousand_times() {
    let fs = scenario("close_to_open");
    let mut rng = SmallRng::seed_from_u64(41);
    for round in 0..1000_u64 {
        let (writer, reader) = if round % 2 == 0 { ("a", "b") } else { ("b", "a") };
        // Longer and shorter than before, in place and anew.
        let len = rng.random_range(0..40_000);
        let bytes = tree::bytes(round, len);
        let path = fs.dir(writer).join("file");
        if round % 3 == 0 {
            fs::write(&path, &bytes).unwrap();
        } else {
            let mut file = OpenOptions::new().write(true).create(true).truncate(false).open(&path).unwrap();
            file.write_all(&bytes).unwrap();
            file.set_len(len as u64).unwrap();
        }
        let path = fs.dir(reader).join("file");
        assert_eq!(fs::metadata(&path).unwrap().len(), len as u64, "round {round}: size");
        assert!(fs::read(&path).unwrap() == bytes, "round {round}: content");
    }
}

#[test]
fn names_that_one_mount_made_or_removed_the_other_sees_at_once() {
    let fs = scenario("names_at_once");
    let (a, b) = (fs.dir("a"), fs.dir("b"));
    for round in 0..200 {
        let name = format!("n{round}");
        fs::create_dir(a.join(&name)).unwrap();
        assert!(fs::metadata(b.join(&name)).unwrap().is_dir());
        fs::write(b.join(&name).join("file"), "x").unwrap();
        assert_eq!(fs::read_dir(b.join(&name)).unwrap().count(), 1);
        fs::rename(a.join(&name).join("file"), a.join("moved")).unwrap();
        // Also right after it was listed: what is cut is what has the name now.
        assert!(!b.join(&name).join("file").exists());
        fs::write(b.join(&name).join("file"), "").unwrap();
        fs::remove_file(a.join(&name).join("file")).unwrap();
        assert_eq!(fs::read(b.join("moved")).unwrap(), b"x");
        fs::remove_file(b.join("moved")).unwrap();
        assert!(!a.join("moved").exists());
        assert_eq!(fs::read_dir(a.join(&name)).unwrap().count(), 0);
        fs::rename(a.join(&name), a.join("elsewhere")).unwrap();
        assert!(File::create(b.join(&name).join("late")).is_err());
        fs::rename(a.join("elsewhere"), a.join(&name)).unwrap();
        fs::remove_dir(a.join(&name)).unwrap();
        assert!(File::create(b.join(&name).join("file")).is_err());
        assert!(!b.join(&name).exists());
    }
}

/// What the leader has counted, as its metrics page shows it.
fn counted(cluster: &Cluster, metric: &str) -> u64 {
    let page = cluster.http_get(&cluster.leader(), "/metrics").unwrap();
    let start = format!("dfs_metaserver_{metric} ");
    let value = page.lines().find_map(|line| line.strip_prefix(&start)).unwrap_or_else(|| panic!("{page}"));
    value.trim().parse().unwrap()
}

/// A directory with the file `file`, at one mount; and the same directory at another one, open.
fn a_file_of_two_mounts(cluster: &Cluster) -> (PathBuf, File) {
    let (a, b) = (cluster.mount("a").join("d"), cluster.mount("b").join("d"));
    fs::create_dir(&a).unwrap();
    fs::write(a.join("file"), "x").unwrap();
    (a, File::open(&b).unwrap())
}

/// A directory of a mount, by a path that leads there without a look-up of its own name.
fn without_its_name(directory: &File) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}", directory.as_raw_fd()))
}

#[test]
fn what_a_mount_has_looked_at_it_answers_itself_until_another_mount_changes_it() {
    let cluster = Cluster::start(Shape { metaservers: 1, chunkservers: 1, copies: 1, ..Shape::default() });
    let (a, directory) = a_file_of_two_mounts(&cluster);
    let b = without_its_name(&directory);
    let look = || {
        assert_eq!(fs::symlink_metadata(b.join("file")).unwrap().len(), 1);
        assert!(fs::symlink_metadata(b.join("absent")).is_err());
    };
    let asks = || {
        let before = counted(&cluster, "reads_total");
        look();
        counted(&cluster, "reads_total") - before
    };
    wait::until("looking twice to ask nobody", Duration::from_secs(10), || (asks() == 0).then_some(()));
    let before = counted(&cluster, "reads_total");
    (0..1000).for_each(|_| look());
    let asked = counted(&cluster, "reads_total") - before;
    assert!(asked <= 20, "{asked} questions for 1000 looks at what was known");
    for round in 0..100 {
        fs::write(a.join("absent"), "").unwrap();
        assert!(fs::symlink_metadata(b.join("absent")).is_ok(), "round {round}: made");
        fs::rename(a.join("absent"), a.join("moved")).unwrap();
        assert!(fs::symlink_metadata(b.join("absent")).is_err(), "round {round}: moved away");
        assert!(fs::symlink_metadata(b.join("moved")).is_ok(), "round {round}: moved here");
        fs::remove_file(a.join("moved")).unwrap();
        assert!(fs::symlink_metadata(b.join("moved")).is_err(), "round {round}: removed");
    }
}

#[test]
fn a_file_that_a_mount_has_looked_at_it_opens_reads_and_closes_without_asking_anybody() {
    let cluster = Cluster::start(Shape { metaservers: 1, chunkservers: 1, copies: 1, ..Shape::default() });
    let (a, directory) = a_file_of_two_mounts(&cluster);
    let theirs = without_its_name(&directory).join("file");
    let read = |flags, expected: &[u8]| {
        let mut file = OpenOptions::new().read(true).custom_flags(flags).open(&theirs).unwrap();
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes).unwrap();
        assert!(bytes == expected);
    };
    for (flags, bytes) in [(0, b"first".as_slice()), (libc::O_DIRECT, b"second")] {
        fs::write(a.join("file"), bytes).unwrap();
        let asks = |times: u32| {
            let before = counted(&cluster, "reads_total");
            (0..times).for_each(|_| read(flags, bytes));
            counted(&cluster, "reads_total") - before
        };
        wait::until("an open that asks nobody", Duration::from_secs(10), || (asks(1) == 0).then_some(()));
        let asked = asks(1000);
        assert!(asked <= 20, "{asked} questions for 1000 times open, read and close of what was known");
    }
}

/// The names that a directory shows, in order, with what `ls -l` asks of each.
fn listed(directory: &Path) -> Vec<(String, u32)> {
    let entry = |entry: std::io::Result<fs::DirEntry>| {
        let entry = entry.unwrap();
        (entry.file_name().into_string().unwrap(), entry.metadata().unwrap().mode())
    };
    let mut entries: Vec<_> = fs::read_dir(directory).unwrap().map(entry).collect();
    entries.sort();
    entries
}

#[test]
fn a_directory_that_was_listed_is_listed_again_without_a_question_until_another_mount_changes_it() {
    let cluster = Cluster::start(Shape { metaservers: 1, chunkservers: 1, copies: 1, ..Shape::default() });
    let (a, directory) = a_file_of_two_mounts(&cluster);
    let b = without_its_name(&directory);
    let asked_by = |list: &dyn Fn() -> usize, count: usize| {
        let before = counted(&cluster, "reads_total");
        assert_eq!(list(), count + 1);
        counted(&cluster, "reads_total") - before
    };
    let list = || listed(&b).len();
    for count in [10, 3000] {
        std::thread::scope(|scope| {
            for part in 0..8 {
                let a = &a;
                let names = (part..count).step_by(8).map(|number| a.join(format!("name {number}")));
                scope.spawn(move || names.for_each(|name| drop(File::create(name).unwrap())));
            }
        });
        let first = asked_by(&|| fs::read_dir(&b).unwrap().count(), count);
        assert!(first <= 20, "{first} questions for the names of {count} files");
        let is_known = || (asked_by(&list, count) == 0).then_some(());
        wait::until("a listing with attributes that asks nobody", Duration::from_secs(20), is_known);
        let again: u64 = (0..20).map(|_| asked_by(&list, count)).sum();
        assert!(again <= 2, "{again} questions for 20 listings of {count} names");
    }
}

#[test]
fn what_a_mount_makes_renames_and_removes_is_in_the_next_listing_of_one_that_has_listed_before() {
    let fs = scenario("listed");
    let (ours, theirs) = (fs.dir("a"), fs.dir("b"));
    (0..10).for_each(|number| fs::write(ours.join(format!("{number}")), "").unwrap());
    let directories = [File::open(&ours).unwrap(), File::open(&theirs).unwrap()];
    let directories = [without_its_name(&directories[0]), without_its_name(&directories[1])];
    let see = |round: u32, more: &[&str], mode: u32| {
        for directory in &directories {
            for _ in 0..2 {
                let seen = listed(directory);
                let names: Vec<&str> = seen.iter().map(|(name, _)| name.as_str()).collect();
                let all = [&["0", "1", "2", "3", "4", "5", "6", "7", "8", "9"], more].concat();
                assert_eq!(names, all, "round {round}");
                assert_eq!(seen[9].1 & 0o777, mode, "round {round}");
            }
        }
    };
    for round in 0..200_u32 {
        let changer = if round % 5 == 0 { &theirs } else { &ours };
        let mode = 0o600 | (round % 0o100);
        fs::set_permissions(changer.join("9"), fs::Permissions::from_mode(mode)).unwrap();
        see(round, &[], mode);
        fs::write(changer.join("made"), "").unwrap();
        see(round, &["made"], mode);
        fs::rename(changer.join("made"), changer.join("renamed")).unwrap();
        see(round, &["renamed"], mode);
        fs::remove_file(changer.join("renamed")).unwrap();
        see(round, &[], mode);
    }
}

/// A question of the kernel would wait until the mount goes on.
#[test]
fn what_the_kernel_was_told_under_a_lease_it_answers_for_a_while_without_the_mount() {
    let cluster = Cluster::start(Shape { metaservers: 1, chunkservers: 1, copies: 1, ..Shape::default() });
    let (_, directory) = a_file_of_two_mounts(&cluster);
    let file = File::open(without_its_name(&directory).join("file")).unwrap();
    let look =
        || assert_eq!((file.metadata().unwrap().len(), directory.metadata().unwrap().is_dir()), (1, true));
    wait::until("a thousand looks that ask nobody", Duration::from_secs(20), || {
        look(); // by now the answer may have come with a lease
        cluster.pause("b");
        let (done, is_done) = std::sync::mpsc::channel();
        std::thread::scope(|scope| {
            scope.spawn(|| {
                (0..1000).for_each(|_| look());
                done.send(()).unwrap();
            });
            let asked_nobody = is_done.recv_timeout(Duration::from_millis(700));
            cluster.resume("b");
            asked_nobody.ok()
        })
    });
}

/// What `stat` shows.
fn seen(meta: &fs::Metadata) -> (u32, u64, (i64, i64), (i64, i64)) {
    (meta.mode(), meta.len(), (meta.mtime(), meta.mtime_nsec()), (meta.ctime(), meta.ctime_nsec()))
}

#[test]
fn attributes_that_one_mount_changed_another_that_had_looked_at_them_sees_at_once() {
    let fs = scenario("attributes_at_once");
    let (ours, theirs) = (fs.dir("a").join("file"), fs.dir("b").join("file"));
    fs::write(&ours, "x").unwrap();
    let open = File::open(&theirs).unwrap();
    let directory = File::open(fs.dir("b")).unwrap();
    for round in 0..300_u32 {
        for _ in 0..2 {
            assert_eq!(
                seen(&open.metadata().unwrap()),
                seen(&fs::metadata(&theirs).unwrap()),
                "round {round}"
            );
            directory.metadata().unwrap();
        }
        match round % 5 {
            0 => fs::set_permissions(&ours, fs::Permissions::from_mode(0o600 + round % 64)).unwrap(),
            1 => OpenOptions::new().write(true).open(&ours).unwrap().set_len(round.into()).unwrap(),
            2 => fs::write(&ours, vec![b'y'; round as usize]).unwrap(),
            3 => sys::utimens(&ours, (5, 6), (round.into(), 8)).unwrap(),
            _ => fs::set_permissions(fs.dir("a"), fs::Permissions::from_mode(0o700 + round % 64)).unwrap(),
        }
        let changed = seen(&fs::metadata(&ours).unwrap());
        assert_eq!(seen(&open.metadata().unwrap()), changed, "round {round}: by a descriptor");
        assert_eq!(seen(&fs::metadata(&theirs).unwrap()), changed, "round {round}: by its name");
        let changed = seen(&fs::metadata(fs.dir("a")).unwrap());
        assert_eq!(seen(&directory.metadata().unwrap()), changed, "round {round}: of the directory");
    }
}

/// Its questions are under way when the recall arrives, and their answers when the kernel is told to forget.
#[test]
fn attributes_that_other_processes_of_a_mount_ask_for_all_the_time_it_sees_changed_at_once() {
    let fs = scenario("attributes_asked_for");
    let (ours, theirs) = (fs.dir("a").join("file"), fs.dir("b").join("file"));
    fs::write(&ours, "x").unwrap();
    let (open, has_ended) = (File::open(&theirs).unwrap(), AtomicBool::new(false));
    std::thread::scope(|scope| {
        for by_name in [true, false] {
            let (open, theirs, has_ended) = (&open, &theirs, &has_ended);
            scope.spawn(move || {
                while !has_ended.load(Ordering::Relaxed) {
                    let _ = if by_name { fs::metadata(theirs) } else { open.metadata() };
                }
            });
        }
        let stale = (0..500_u32).filter(|round| {
            let mode = 0o600 + round % 64;
            fs::set_permissions(&ours, fs::Permissions::from_mode(mode)).unwrap();
            open.metadata().unwrap().mode() & 0o777 != mode
        });
        let stale = stale.count();
        has_ended.store(true, Ordering::Relaxed);
        assert_eq!(stale, 0, "of 500 changes");
    });
}

/// The kernel does not know the inode yet when it is told to forget its attributes, and gets the answer to its look-up afterwards.
#[test]
fn attributes_of_a_file_that_is_opened_while_another_mount_changes_it_are_never_those_of_before() {
    let fs = scenario("opened_while_changed");
    for round in 0..200 {
        let (ours, theirs) = ["a", "b"].map(|mount| fs.dir(mount).join(format!("f{round}"))).into();
        fs::write(&ours, "x").unwrap();
        let mode = 0o600 + round % 64;
        let open = std::thread::scope(|scope| {
            let opening = scope.spawn(|| File::open(&theirs).unwrap());
            fs::set_permissions(&ours, fs::Permissions::from_mode(mode)).unwrap();
            opening.join().unwrap()
        });
        assert_eq!(open.metadata().unwrap().mode() & 0o777, mode, "round {round}");
    }
}

/// After the unmount the kernel was told to forget each inode again and again, and knew none: it took minutes.
#[test]
fn regression_a_mount_that_has_shown_many_files_ends_in_time() {
    let cluster = Cluster::start(Shape { metaservers: 1, chunkservers: 1, copies: 1, ..Shape::default() });
    let directory = cluster.mount("a").join("d");
    fs::create_dir(&directory).unwrap();
    let paths: Vec<PathBuf> = (0..300).map(|number| directory.join(format!("f{number}"))).collect();
    paths.iter().for_each(|path| fs::write(path, "x").unwrap());
    paths.iter().for_each(|path| assert_eq!(fs::metadata(path).unwrap().len(), 1));
    let began = wait::now();
    cluster.unmount("a");
    assert!(began.elapsed() < Duration::from_secs(10), "it took {:?}", began.elapsed());
}

/// As `rsync --times` writes. The kernel compares sizes and times only.
#[test]
fn bytes_that_another_mount_wrote_with_the_size_and_time_of_before_are_read_through_a_descriptor_that_was_open()
 {
    let fs = scenario("times_set_back");
    let (ours, theirs) = (fs.dir("a").join("file"), fs.dir("b").join("file"));
    let write = |byte: u8| {
        let mut file = OpenOptions::new().write(true).create(true).truncate(false).open(&ours).unwrap();
        file.write_all(&[byte; 10_000]).unwrap();
        drop(file);
        sys::utimens(&ours, (5, 6), (7, 8)).unwrap();
    };
    write(0);
    let (open, mut bytes) = (File::open(&theirs).unwrap(), vec![0; 10_000]);
    for round in 1..=50 {
        open.read_exact_at(&mut bytes, 0).unwrap();
        write(round);
        open.read_exact_at(&mut bytes, 0).unwrap();
        assert!(bytes == [round; 10_000], "round {round}");
        assert_eq!(fs::read(&theirs).unwrap(), bytes, "round {round}: opened anew");
        assert_eq!(open.metadata().unwrap().mtime(), 7);
    }
}

/// The pages of a file that are in the kernel's cache. They are mapped, so that other tests that drop the machine's caches leave them.
struct CachedPages {
    at: *mut libc::c_void,
    len: usize,
}

impl CachedPages {
    fn of(file: &File) -> CachedPages {
        let len = file.metadata().unwrap().len() as usize;
        let flags = libc::MAP_SHARED | libc::MAP_POPULATE;
        // SAFETY: a new mapping, which is not read.
        let at =
            unsafe { libc::mmap(std::ptr::null_mut(), len, libc::PROT_READ, flags, file.as_raw_fd(), 0) };
        assert_ne!(at, libc::MAP_FAILED);
        CachedPages { at, len }
    }

    fn count(&self) -> usize {
        const PAGE: usize = 4096;
        let mut pages = vec![0_u8; self.len.div_ceil(PAGE)];
        // SAFETY: the mapping is there until this is dropped, and the vector has a byte for each page.
        assert_eq!(unsafe { libc::mincore(self.at, self.len, pages.as_mut_ptr()) }, 0);
        pages.iter().filter(|page| *page & 1 == 1).count()
    }
}

impl Drop for CachedPages {
    fn drop(&mut self) {
        // SAFETY: nobody else knows the mapping.
        unsafe { libc::munmap(self.at, self.len) };
    }
}

#[test]
fn a_thousand_recalls_leave_working_directories_bind_mounts_and_pages_as_they_are() {
    let fs = scenario("recalls");
    let (a, b) = (fs.dir("a"), fs.dir("b"));
    fs::create_dir_all(a.join("below/on")).unwrap();
    fs::write(a.join("kept"), tree::bytes(5, 100_000)).unwrap();
    let kept = File::open(b.join("kept")).unwrap();
    assert_eq!(fs::read(b.join("kept")).unwrap().len(), 100_000);
    let mut standing = Command::new("sh");
    standing.args(["-c", "read line; /bin/pwd -P"]).current_dir(b.join("below"));
    let mut standing = standing.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let bound = fs.cluster.dir().join("bound");
    fs::create_dir(&bound).unwrap();
    fs::write(bound.join("here"), "").unwrap();
    let mount = Command::new("mount").arg("--bind").arg(&bound).arg(b.join("below/on")).status().unwrap();
    assert!(mount.success());
    let pages = CachedPages::of(&kept);
    let cached = pages.count();
    assert!(cached >= 100_000 / 4096, "{cached} pages in the cache");
    for round in 0..500_u32 {
        let mode = fs::Permissions::from_mode(0o700 + round % 64);
        for path in ["below", "kept"] {
            fs::metadata(b.join(path)).unwrap();
            fs::set_permissions(a.join(path), mode.clone()).unwrap();
        }
        assert_eq!(fs::metadata(b.join("below")).unwrap().mode() & 0o777, 0o700 + round % 64);
    }
    assert_eq!(pages.count(), cached);
    drop(pages);
    assert!(b.join("below/on/here").exists());
    assert!(Command::new("umount").arg(b.join("below/on")).status().unwrap().success());
    drop(standing.stdin.take());
    let mut told = String::new();
    standing.stdout.take().unwrap().read_to_string(&mut told).unwrap();
    assert_eq!(PathBuf::from(told.trim_end()), fs::canonicalize(b.join("below")).unwrap());
    assert!(standing.wait().unwrap().success());
}

/// The leader waits for the answer to its recall until the stopped mount's leases have ended, and that mount does not believe
/// them either when it goes on.
#[test]
fn a_mount_that_is_stopped_holds_others_up_for_two_seconds_and_shows_nothing_old_afterwards() {
    let cluster = Cluster::start(Shape { metaservers: 1, chunkservers: 1, copies: 1, ..Shape::default() });
    let (a, directory) = a_file_of_two_mounts(&cluster);
    let b = without_its_name(&directory);
    wait::until("the leader to lease what was looked at", Duration::from_secs(10), || {
        fs::symlink_metadata(b.join("file")).unwrap();
        (counted(&cluster, "leases") >= 2).then_some(())
    });
    cluster.pause("b");
    let began = wait::now();
    fs::remove_file(a.join("file")).unwrap();
    assert!(began.elapsed() < Duration::from_secs(5), "held up for {:?}", began.elapsed());
    let began = wait::now();
    fs::write(a.join("other"), "x").unwrap();
    assert!(began.elapsed() < Duration::from_secs(2), "held up once more: {:?}", began.elapsed());
    cluster.resume("b");
    assert!(fs::symlink_metadata(b.join("file")).is_err(), "it was removed meanwhile");
    assert!(fs::symlink_metadata(b.join("other")).is_ok(), "it was made meanwhile");
}

fn number_of_inodes(fs: &Scenario) -> u64 {
    fs.cluster.status().expect("the leader answers").inodes
}

/// Two names gone on one mount while the other mount has the files open: one unlinked, one renamed over.
#[test]
fn a_file_that_loses_its_name_on_one_mount_stays_readable_and_writable_on_another_that_has_it_open() {
    let fs = scenario("orphan_elsewhere");
    let (a, b) = (fs.dir("a"), fs.dir("b"));
    let bytes = tree::bytes(7, 300_000);
    fs::write(a.join("new"), "new").unwrap();
    let before = number_of_inodes(&fs);
    let mut open = OpenOptions::new();
    open.read(true).write(true).create(true).truncate(true);
    let held = ["unlinked", "replaced"].map(|name| {
        let file = open.open(b.join(name)).unwrap();
        file.write_all_at(&bytes, 0).unwrap();
        file.sync_all().unwrap();
        file
    });
    fs::remove_file(a.join("unlinked")).unwrap();
    fs::rename(a.join("new"), a.join("replaced")).unwrap();
    for file in &held {
        let mut read = vec![0; bytes.len()];
        file.read_exact_at(&mut read, 0).unwrap();
        assert!(read == bytes, "what was there before");
        file.write_all_at(b"after", 200_000).unwrap();
        file.set_len(200_005).unwrap();
        file.sync_all().unwrap();
        let mut again = File::open(format!("/proc/self/fd/{}", file.as_raw_fd())).unwrap();
        let mut read = Vec::new();
        again.read_to_end(&mut read).unwrap();
        assert!(read[..200_000] == bytes[..200_000] && &read[200_000..] == b"after");
        wait::until("stat to show no link", Duration::from_secs(5), || {
            (file.metadata().unwrap().nlink() == 0).then_some(())
        });
    }
    assert!(!b.join("unlinked").exists());
    assert_eq!(fs::read(b.join("replaced")).unwrap(), b"new");
    drop(held);
    wait::until("the space to come back", Duration::from_secs(10), || {
        (number_of_inodes(&fs) == before).then_some(())
    });
}

/// A process that appends to a file that it keeps open, when told to. Not this process (see [`Buffering`]).
struct Appending {
    process: Child,
    says: BufReader<ChildStdout>,
}

impl Appending {
    fn start(path: &Path) -> Appending {
        let script = "import os, sys
file = os.open(sys.argv[1], os.O_CREAT | os.O_WRONLY | os.O_APPEND)
for line in sys.stdin:
    if line == 'fsync\\n':
        os.fsync(file)
    else:
        os.write(file, line.encode())
    print('done', flush=True)
";
        let mut python = Command::new("python3");
        python.args(["-c", script]).arg(path).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut process = python.spawn().unwrap();
        let says = BufReader::new(process.stdout.take().unwrap());
        Appending { process, says }
    }

    fn tell(&mut self, line: &str) {
        writeln!(self.process.stdin.as_mut().unwrap(), "{line}").unwrap();
        let mut told = String::new();
        self.says.read_line(&mut told).unwrap();
        assert_eq!(told, "done\n");
    }

    fn close(mut self) {
        drop(self.process.stdin.take());
        assert!(self.process.wait().unwrap().success());
    }
}

/// A line that the other mount had closed a second before was overwritten: the kernel placed the bytes, or we, by a size that
/// was heard of earlier.
#[test]
fn an_append_lies_behind_what_another_mount_wrote_before() {
    let fs = scenario("append_behind");
    let (ours, theirs) = (fs.dir("a").join("log"), fs.dir("b").join("log"));
    fs::write(&ours, "").unwrap();
    let mut appending = Appending::start(&ours);
    let mut kept = File::open(&ours).unwrap();
    let mut all = String::new();
    for round in 0..30 {
        appending.tell(&format!("a{round}, which is buffered"));
        // Committed or not, it lies before what the other mount appends later.
        if round % 2 == 0 {
            appending.tell("fsync");
        }
        all += &format!("a{round}, which is buffered\n");
        let other = format!("b{round} {}\n", "x".repeat(round * 100));
        OpenOptions::new().append(true).open(&theirs).unwrap().write_all(other.as_bytes()).unwrap();
        all += &other;
        appending.tell(&format!("again a{round}"));
        all += &format!("again a{round}\n");
        if round % 3 == 0 {
            let mut seen = vec![0; 1 << 20];
            let len = wait::until("what was there before to be seen", Duration::from_secs(5), || {
                let len = kept.read_at(&mut seen, 0).unwrap();
                (len == all.len()).then_some(len)
            });
            assert_eq!(
                String::from_utf8_lossy(&seen[..len]),
                all,
                "round {round}: by a descriptor that was open"
            );
        }
        appending.tell("fsync");
        assert_eq!(fs::read_to_string(&theirs).unwrap(), all, "round {round}: there");
        assert_eq!(fs::read_to_string(&ours).unwrap(), all, "round {round}: here");
    }
    appending.close();
    let mut seen = String::new();
    kept.read_to_string(&mut seen).unwrap();
    assert_eq!(seen, all);
}

/// Nobody asked whether the file was still the same: `old` for ever.
#[test]
fn reads_through_descriptors_that_were_open_before_see_what_another_mount_closed() {
    let fs = scenario("open_before");
    let (ours, theirs) = (fs.dir("a").join("file"), fs.dir("b").join("file"));
    fs::write(&theirs, "old").unwrap();
    let open = |flags| OpenOptions::new().read(true).write(true).custom_flags(flags).open(&ours).unwrap();
    for flags in [0, libc::O_APPEND, libc::O_DIRECT, libc::O_APPEND | libc::O_DIRECT] {
        let (mut file, mut seen) = (open(flags), [0; 4096]);
        file.read_exact(&mut seen[..3]).unwrap();
        for round in 0..5 {
            let new = format!("new {flags} {}", "x".repeat(round * 100));
            fs::write(&theirs, &new).unwrap();
            let len = file.read_at(&mut seen, 0).unwrap();
            assert_eq!(String::from_utf8_lossy(&seen[..len]), new, "{flags:#o}");
        }
        drop(file);
    }
}

#[test]
fn what_the_mount_that_writes_shows_by_stat_other_mounts_see_after_close() {
    let fs = scenario("attributes");
    let file = File::create(fs.dir("a").join("file")).unwrap();
    (&file).write_all(&[1; 5000]).unwrap();
    sys::utimens(&fs.dir("a").join("file"), (5, 6), (7, 8)).unwrap();
    drop(file);
    let ours = fs::metadata(fs.dir("a").join("file")).unwrap();
    let theirs = fs::metadata(fs.dir("b").join("file")).unwrap();
    let seen = |meta: &fs::Metadata| (meta.ino(), meta.len(), meta.mtime(), meta.mtime_nsec(), meta.blocks());
    assert_eq!(seen(&ours), seen(&theirs));
    assert_eq!((theirs.mtime(), theirs.mtime_nsec()), (7, 8));
}

#[test]
fn what_fsync_returned_for_another_mount_reads_while_it_is_still_open() {
    let fs = scenario("fsync_visible");
    let mut file = File::create(fs.dir("a").join("file")).unwrap();
    for round in 1..=20 {
        file.write_all(&[round; 10_000]).unwrap();
        file.sync_all().unwrap();
        let read = fs::read(fs.dir("b").join("file")).unwrap();
        assert_eq!((read.len(), read.last().copied()), (10_000 * usize::from(round), Some(round)));
    }
}

#[test]
fn what_fsync_returned_for_and_close_where_it_is_asked_to_survives_the_death_of_every_process() {
    let cluster = Cluster::start(Shape::default());
    cluster.add_mount("a");
    cluster.configure_mount("a", "durability = \"operation\"\n");
    let dir = cluster.mount("a");
    fs::create_dir(dir.join("closed")).unwrap();
    for number in 0..100_u64 {
        fs::write(dir.join(format!("closed/{number}")), tree::bytes(number, 3000)).unwrap();
    }
    let mut synced = File::create(dir.join("synced")).unwrap();
    synced.write_all(&tree::bytes(7, 3_000_000)).unwrap();
    synced.sync_all().unwrap();
    let killed =
        ["a".to_owned()].into_iter().chain(cluster.metaserver_names()).chain(cluster.chunkserver_names());
    let killed: Vec<String> = killed.collect();
    for name in &killed {
        cluster.kill(name);
    }
    drop(synced);
    for name in killed.iter().filter(|name| *name != "a") {
        cluster.start_daemon(name);
    }
    cluster.wait_whole();
    cluster.mount("a");
    for number in 0..100 {
        let path = dir.join(format!("closed/{number}"));
        assert!(fs::read(path).unwrap() == tree::bytes(number, 3000), "closed file {number}");
    }
    assert!(fs::read(dir.join("synced")).unwrap() == tree::bytes(7, 3_000_000));
}

/// The chunkservers' files that hold `pattern`, with its place in them.
fn copies_of(cluster: &Cluster, pattern: &[u8]) -> Vec<(PathBuf, u64)> {
    let mut found = Vec::new();
    let mut waiting: Vec<PathBuf> =
        cluster.chunkserver_names().iter().map(|name| cluster.data_dir(name)).collect();
    while let Some(dir) = waiting.pop() {
        for entry in fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                waiting.push(path);
                continue;
            }
            let bytes = fs::read(&path).unwrap();
            if let Some(at) = bytes.windows(pattern.len()).position(|window| window == pattern) {
                found.push((path, at as u64));
            }
        }
    }
    found
}

fn flip_byte(path: &Path, at: u64) {
    let file = OpenOptions::new().read(true).write(true).open(path).unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, at).unwrap();
    file.write_all_at(&[byte[0] ^ 0x10], at).unwrap();
}

/// Pages of `path` that cannot be read, of `pages` in all; the others must be those of `expected`.
fn unreadable_pages(path: &Path, expected: &[u8]) -> Vec<usize> {
    const PAGE: usize = 4096;
    let file = File::open(path).unwrap();
    let mut unreadable = Vec::new();
    for (number, expected) in expected.chunks(PAGE).enumerate() {
        let mut page = vec![0; expected.len()];
        match file.read_exact_at(&mut page, (number * PAGE) as u64) {
            Ok(()) => assert!(page == expected, "page {number} has wrong bytes"),
            Err(error) => {
                assert_eq!(error.raw_os_error(), Some(libc::EIO), "page {number}: {error}");
                unreadable.push(number);
            }
        }
    }
    unreadable
}

#[test]
fn a_flipped_byte_in_one_copy_is_noticed_and_the_other_copy_is_read_and_in_both_only_its_block_is_an_error() {
    let cluster = Cluster::start(Shape { metaservers: 1, chunkservers: 2, ..Shape::default() });
    let dir = cluster.mount("a");
    let made = tree::bytes(99, 1 << 20);
    let flipped = 123 * 4096 + 77;
    tree::write_durably(&dir.join("file"), &made).unwrap();
    let copies = copies_of(&cluster, &made[flipped..flipped + 64]);
    assert_eq!(copies.len(), 2, "two copies on disk: {copies:?}");
    assert_eq!(cluster.status().unwrap().chunks_damaged, 0);

    flip_byte(&copies[0].0, copies[0].1);
    // A reader may take the good copy; it tries both sooner or later.
    wait::until("the damage to be noticed", Duration::from_secs(60), || {
        let dir = cluster.remount_cold("a");
        assert!(fs::read(dir.join("file")).unwrap() == made, "right bytes with one copy damaged");
        (cluster.status()?.chunks_damaged == 1).then_some(())
    });

    cluster.expect_error("no whole copy is left");
    flip_byte(&copies[1].0, copies[1].1);
    let dir = cluster.remount_cold("a");
    let before = wait::now();
    let unreadable = unreadable_pages(&dir.join("file"), &made);
    assert_eq!(unreadable, [flipped / 4096], "an error for the damaged block only");
    assert!(before.elapsed() < Duration::from_secs(10), "promptly, not after {:?}", before.elapsed());

    // Written again, it is whole again.
    fs::write(dir.join("file"), &made).unwrap();
    let dir = cluster.remount_cold("a");
    assert!(fs::read(dir.join("file")).unwrap() == made);
}

#[test]
fn with_every_chunkserver_full_writers_get_enospc_and_nothing_acknowledged_is_lost() {
    const PIECE: usize = 4 << 20;
    let cluster = Cluster::start(Shape {
        metaservers: 1,
        chunkservers: 2,
        chunk_disk_mib: Some(160),
        chunkserver_extra: "full_below_bytes = 62914560\nfull_below_percent = 0\n".to_owned(),
        ..Shape::default()
    });
    let dir = cluster.mount("a");
    let mut written = 0;
    let refused = loop {
        let mut file = File::create(dir.join(format!("f{written}"))).unwrap();
        let bytes = tree::bytes(written, PIECE);
        if let Err(error) = file.write_all(&bytes).and_then(|()| file.sync_all()) {
            break error;
        }
        written += 1;
        assert!(written < 40, "160 MiB cannot hold {written} times 4 MiB and keep 60 free");
    };
    assert_eq!(refused.raw_os_error(), Some(libc::ENOSPC), "{refused}");
    assert!(written >= 10, "only {written} files fitted");
    let dir = cluster.remount_cold("a");
    for number in 0..written {
        assert!(fs::read(dir.join(format!("f{number}"))).unwrap() == tree::bytes(number, PIECE), "f{number}");
    }
    fs::create_dir(dir.join("names-need-no-space")).unwrap();
    for number in 0..written {
        fs::remove_file(dir.join(format!("f{number}"))).unwrap();
    }
    // Dead chunks stay readable for a minute, then their space comes back.
    wait::until("room for a file again", Duration::from_secs(120), || {
        let mut file = File::create(dir.join("again")).unwrap();
        let bytes = tree::bytes(0, PIECE);
        file.write_all(&bytes).and_then(|()| file.sync_all()).ok()
    });
}

/// A process with a file open that it wrote to. Not this process: each child that a test beside us starts inherits our
/// files, and its closing them flushes what is buffered.
struct Buffering {
    process: Child,
    says: BufReader<ChildStdout>,
}

impl Buffering {
    fn start(path: &Path) -> Buffering {
        let script = "import os, sys
file = os.open(sys.argv[1], os.O_CREAT | os.O_WRONLY)
os.write(file, b'in the buffer')
print('buffered', flush=True)
sys.stdin.readline()
try:
    os.fsync(file)
    print('kept')
except OSError as error:
    print(error.errno)
";
        let mut python = Command::new("python3");
        python.args(["-c", script]).arg(path).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut process = python.spawn().unwrap();
        let says = BufReader::new(process.stdout.take().unwrap());
        let mut buffering = Buffering { process, says };
        assert_eq!(buffering.line(), "buffered");
        buffering
    }

    fn line(&mut self) -> String {
        let mut line = String::new();
        self.says.read_line(&mut line).unwrap();
        line.trim_end().to_owned()
    }

    /// What its fsync answered: an error number, or "kept".
    fn sync(mut self) -> String {
        self.process.stdin.take().unwrap().write_all(b"sync\n").unwrap();
        let told = self.line();
        self.process.wait().unwrap();
        told
    }
}

#[test]
fn a_mount_that_was_stopped_until_its_session_expired_says_so_once_and_works_on() {
    let cluster = Cluster::start(Shape {
        metaservers: 1,
        chunkservers: 1,
        copies: 1,
        metaserver_extra: "session_expiry_ms = 6000\n".to_owned(),
        ..Shape::default()
    });
    let (a, b) = (cluster.mount("a"), cluster.mount("b"));
    tree::write_durably(&a.join("kept"), b"kept").unwrap();
    let unwritten = Buffering::start(&a.join("unwritten"));
    let mut idle = File::open(a.join("kept")).unwrap();
    let sessions = cluster.status().unwrap().sessions;
    cluster.pause("a");
    cluster.wait_status("the session to expire", Duration::from_secs(30), |s| s.sessions < sessions);
    assert_eq!(fs::read(b.join("kept")).unwrap(), b"kept");
    cluster.resume("a");
    wait::until("the mount to work again", Duration::from_secs(30), || fs::write(a.join("new"), "new").ok());
    assert_eq!(fs::read(b.join("new")).unwrap(), b"new");
    assert_eq!(unwritten.sync(), libc::EIO.to_string(), "what was buffered is lost, and the program is told");
    let mut text = String::new();
    idle.read_to_string(&mut text).unwrap();
    assert_eq!(text, "kept", "a file without buffered writes goes on");
    assert_eq!(fs::read(a.join("kept")).unwrap(), b"kept");
}

#[test]
fn a_chunkserver_that_is_started_later_joins_and_gets_new_chunks() {
    let cluster = Cluster::start(Shape { metaservers: 1, chunkservers: 1, copies: 1, ..Shape::default() });
    let dir = cluster.mount("a");
    cluster.add_chunkserver(2);
    cluster.start_daemon("chunk2");
    let alive = |status: &dfs_proto::wire::StatusReply| status.chunkservers.len() == 2;
    cluster.wait_status("the new chunkserver to join", Duration::from_secs(10), alive);
    let before = wait::now();
    wait::until("a chunk on the new chunkserver", Duration::from_secs(10), || {
        let number = before.elapsed().as_millis();
        fs::write(dir.join(format!("f{number}")), tree::bytes(1, 100_000)).unwrap();
        // A session goes on with the chunk that it has open: a new mount opens a new one.
        cluster.unmount("a");
        cluster.mount("a");
        let status = cluster.status()?;
        status.chunkservers.iter().all(|server| server.chunks > 0).then_some(())
    });
}
