//! Attributes: times, owners, modes, sizes of the whole.

use std::fs::{self, File};
use std::io::Write as _;
use std::os::unix::fs::{FileExt as _, MetadataExt as _, PermissionsExt as _, chown};
use std::path::Path;
use std::time::Duration;

use dfs_tests::shell::sh;
use dfs_tests::{sys, tree, wait};

use crate::{errno, scenario};

fn mtime(path: &Path) -> sys::Time {
    let meta = fs::symlink_metadata(path).unwrap();
    (meta.mtime(), meta.mtime_nsec())
}

fn atime(path: &Path) -> sys::Time {
    let meta = fs::symlink_metadata(path).unwrap();
    (meta.atime(), meta.atime_nsec())
}

fn ctime(path: &Path) -> sys::Time {
    let meta = fs::symlink_metadata(path).unwrap();
    (meta.ctime(), meta.ctime_nsec())
}

#[test]
fn times_are_kept_to_the_nanosecond_also_before_1970_and_of_symlinks() {
    let fs = scenario("utimens");
    let path = fs.path("file");
    fs::write(&path, "x").unwrap();
    sys::utimens(&path, (1_000_000_001, 123_456_789), (-5, 999_999_999)).unwrap();
    assert_eq!((atime(&path), mtime(&path)), ((1_000_000_001, 123_456_789), (-5, 999_999_999)));
    sys::utimens(&path, (0, libc::UTIME_OMIT), (7, 8)).unwrap();
    assert_eq!((atime(&path), mtime(&path)), ((1_000_000_001, 123_456_789), (7, 8)));
    sys::utimens(&path, (0, libc::UTIME_NOW), (0, libc::UTIME_OMIT)).unwrap();
    assert_eq!(mtime(&path), (7, 8));
    assert!(atime(&path).0 > 1_600_000_000);
    std::os::unix::fs::symlink("file", fs.path("link")).unwrap();
    sys::utimens(&fs.path("link"), (1, 2), (3, 4)).unwrap();
    assert_eq!((mtime(&fs.path("link")), mtime(&path)), ((3, 4), (7, 8)));
}

#[test]
fn a_time_set_after_a_write_survives_the_close() {
    let fs = scenario("mtime_after_write");
    let path = fs.path("file");
    let mut file = File::create(&path).unwrap();
    file.write_all(&tree::bytes(1, 200_000)).unwrap();
    sys::utimens(&path, (11, 12), (13, 14)).unwrap();
    drop(file);
    assert_eq!(mtime(&path), (13, 14));
    let file = File::options().write(true).open(&path).unwrap();
    file.write_all_at(b"later", 0).unwrap();
    assert!(file.metadata().unwrap().mtime() > 1_600_000_000, "a later write moves it, before the close too");
    drop(file);
    assert!(mtime(&path).0 > 1_600_000_000);
}

#[test]
fn changes_move_the_times_that_posix_says() {
    let fs = scenario("times_move");
    let (dir, path) = (fs.path("d"), fs.path("d/file"));
    fs::create_dir(&dir).unwrap();
    fs::write(&path, "x").unwrap();
    // Each step waits until the clock of the cluster has moved on, and what the mount takes it for, which is some milliseconds off if
    // answers take long: until a directory that is made, and a file that is written, are newer.
    let tick = || {
        let before = ctime(&path).max(ctime(&dir));
        wait::until("a later time", Duration::from_secs(10), || {
            fs::write(fs.path("clock"), "x").unwrap();
            fs::create_dir(fs.path("made")).unwrap();
            let times = (mtime(&fs.path("clock")), ctime(&fs.path("made")));
            fs::remove_dir(fs.path("made")).unwrap();
            (times.0 > before && times.1 > before).then_some(())
        });
    };
    tick();
    let (m, c) = (mtime(&path), ctime(&path));
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
    assert!(mtime(&path) == m && ctime(&path) > c, "chmod moves ctime only");
    tick();
    let c = ctime(&path);
    fs::write(&path, "y").unwrap();
    assert!(mtime(&path) > m && ctime(&path) > c, "a write moves both");
    tick();
    let (m, c) = (mtime(&dir), ctime(&path));
    fs::hard_link(&path, fs.path("d/link")).unwrap();
    assert!(mtime(&dir) > m && ctime(&path) > c, "link: the directory's mtime, the file's ctime");
    tick();
    let (m, c) = (mtime(&dir), ctime(&path));
    fs::remove_file(fs.path("d/link")).unwrap();
    assert!(mtime(&dir) > m && ctime(&path) > c, "unlink: the same");
}

#[test]
fn owners_and_modes_are_kept() {
    let fs = scenario("owners");
    let path = fs.path("file");
    fs::write(&path, "x").unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o4751)).unwrap();
    assert_eq!(fs::metadata(&path).unwrap().mode() & 0o7777, 0o4751);
    chown(&path, Some(1234), Some(5678)).unwrap();
    let meta = fs::metadata(&path).unwrap();
    assert_eq!((meta.uid(), meta.gid()), (1234, 5678));
    chown(&path, None, Some(99)).unwrap();
    let meta = fs::metadata(&path).unwrap();
    assert_eq!((meta.uid(), meta.gid()), (1234, 99));
    sh(&fs.dir("a"), "umask 027; touch made; mkdir dir; [ \"$(stat -c %a made dir | xargs)\" = '640 750' ]");
    sh(
        &fs.dir("a"),
        "mkdir shared; chgrp 4242 shared; chmod g+s shared; touch shared/f; mkdir shared/d
        [ \"$(stat -c '%g %a' shared/d)\" = '4242 2755' ]; [ \"$(stat -c %g shared/f)\" = 4242 ]",
    );
}

#[test]
fn archives_keep_everything_and_a_second_rsync_sends_nothing() {
    let fs = scenario("archives");
    let source = fs.path("source");
    tree::make(&source, 9, 300).unwrap();
    sh(
        &source,
        "mkfifo pipe; touch -d '1999-12-31 23:59:59.123456789' d0/f0; chown 12:34 d0/f1; chmod 4711 d0/f1; chmod 1777 d50",
    );
    sh(&source, "truncate -s 1M d0/sparse; mkdir -p empty/empty");
    let list = "find . -printf '%P %y %m %U:%G %n %s %T@ %l\\n' | grep -v '^ ' | sort | sed -E 's/^(\\S+ d \\S+ \\S+) [0-9]+ [0-9]+/\\1/'";
    let expected = sh(&source, list);
    sh(
        &fs.dir("a"),
        "cp -a source by_cp; mkdir by_tar; tar -C source --format=posix -cf - . | tar -C by_tar -xpf -",
    );
    sh(&fs.dir("a"), "rsync -aH --numeric-ids source/ by_rsync");
    for copy in ["by_cp", "by_tar", "by_rsync"] {
        similar(&sh(&fs.path(copy), list), &expected, copy);
        tree_without_pipe_is_same(&fs.path(copy), &source);
    }
    let sent = sh(&fs.dir("a"), "rsync -aHi --numeric-ids source/ by_rsync");
    assert_eq!(sent, "", "a second rsync has nothing to send");
    let sent = sh(&fs.dir("a"), "rsync -aHic --numeric-ids source/ by_rsync");
    assert_eq!(sent, "", "and the checksums are the same");
}

#[track_caller]
fn similar(found: &str, expected: &str, copy: &str) {
    let differs: Vec<_> = found.lines().zip(expected.lines()).filter(|(a, b)| a != b).take(5).collect();
    assert!(found == expected, "{copy} differs from its source: {differs:#?}");
}

#[track_caller]
fn tree_without_pipe_is_same(left: &Path, right: &Path) {
    let script = format!("diff -r --no-dereference -x pipe {} {}", left.display(), right.display());
    sh(Path::new("/"), &script);
}

#[test]
fn statfs_tells_numbers_of_the_disks_below() {
    let fs = scenario("statfs");
    let here = sys::statfs(&fs.dir("a")).unwrap();
    let disk = sys::statfs(fs.cluster.dir()).unwrap();
    let bytes = |of: &libc::statfs| {
        let unit = u64::try_from(of.f_frsize).expect("a length");
        (of.f_blocks * unit, of.f_bavail * unit)
    };
    let ((total, free), (disk_total, disk_free)) = (bytes(&here), bytes(&disk));
    // Both chunkservers lie on one disk, which counts once and holds two copies of each byte (P12.1).
    assert!(free <= total && free > 0, "{free} of {total}");
    assert!(total.abs_diff(disk_total / 2) < disk_total / 10, "total {total}, of a disk of {disk_total}");
    assert!(free.abs_diff(disk_free / 2) < disk_total / 10, "free {free}, of a disk with {disk_free}");
    assert_eq!(here.f_namelen, 255);
    sh(&fs.dir("a"), "df -h . && df -i .");
}

#[test]
fn a_file_that_may_not_be_this_long_is_refused() {
    let fs = scenario("too_long");
    let file = File::create(fs.path("file")).unwrap();
    let refused = errno(file.write_at(b"x", u64::MAX >> 1));
    assert!([libc::EFBIG, libc::EINVAL].contains(&refused), "errno {refused}");
    file.write_at(b"x", 1 << 50).unwrap();
    assert_eq!(file.metadata().unwrap().len(), (1 << 50) + 1);
}
