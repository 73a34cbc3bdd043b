//! Who may do what: as root, as another user, with supplementary groups.

use std::fs;
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown};
use std::path::Path;

use dfs_tests::shell::{Ran, sh, try_sh};

use crate::scenario;

/// Runs `script` in `dir` as user and group 65534, in the supplementary groups `groups` (comma separated).
fn as_other(dir: &Path, groups: &str, script: &str) -> Ran {
    let groups = if groups.is_empty() { "--clear-groups".to_owned() } else { format!("--groups {groups}") };
    let quoted = script.replace('\'', "'\\''");
    try_sh(dir, &format!("LC_ALL=C setpriv --reuid 65534 --regid 65534 {groups} bash -euc '{quoted}'"))
}

#[track_caller]
fn refused(ran: &Ran, with: &str) {
    assert!(!ran.ok && ran.stderr.contains(with), "expected {with:?}: {ran:?}");
}

#[track_caller]
fn allowed(ran: &Ran) {
    assert!(ran.ok, "{ran:?}");
}

fn chmod(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

#[test]
fn another_user_gets_what_the_mode_gives_to_others() {
    let fs = scenario("other_user");
    let dir = fs.dir("a");
    chmod(&dir, 0o755);
    fs::write(fs.path("open"), "text").unwrap();
    fs::write(fs.path("closed"), "secret").unwrap();
    chmod(&fs.path("open"), 0o644);
    chmod(&fs.path("closed"), 0o600);
    allowed(&as_other(&dir, "", "cat open; ls -l"));
    refused(&as_other(&dir, "", "cat closed"), "Permission denied");
    refused(&as_other(&dir, "", "echo x >> open"), "Permission denied");
    refused(&as_other(&dir, "", "touch new"), "Permission denied");
    refused(&as_other(&dir, "", "rm -f open"), "Permission denied");
    refused(&as_other(&dir, "", "mv open moved"), "Permission denied");
    refused(&as_other(&dir, "", "chmod 666 open"), "not permitted");
    refused(&as_other(&dir, "", "chown 65534 open"), "not permitted");
    refused(&as_other(&dir, "", "touch -d 2001-01-01 open"), "Permission denied");
    fs::create_dir(fs.path("shut")).unwrap();
    fs::write(fs.path("shut/in"), "x").unwrap();
    chmod(&fs.path("shut"), 0o711);
    allowed(&as_other(&dir, "", "cat shut/in"));
    refused(&as_other(&dir, "", "ls shut"), "Permission denied");
    chmod(&fs.path("shut"), 0o744);
    refused(&as_other(&dir, "", "cat shut/in"), "Permission denied");
}

/// As whoever reads a directory to which the way is shut behind him.
#[test]
fn a_directory_that_was_open_before_a_chmod_is_listed_to_its_end() {
    let fs = scenario("open_directory");
    let dir = fs.dir("a");
    chmod(&dir, 0o755);
    for n in 0..300 {
        fs::write(fs.path(format!("{n}")), "").unwrap();
    }
    // The way to the mount is not everybody's.
    let held = fs::File::open(&dir).unwrap();
    let way = format!("/proc/self/fd/{}", held.as_raw_fd());
    // SAFETY: these change the calling thread alone, by its own numbers. They cannot fail in a way that memory knows of.
    let become_user = |id: u32| unsafe { (libc::setfsgid(id), libc::setfsuid(id)) };
    become_user(65534);
    let mut open = [&way, &way].map(|way| fs::read_dir(way).unwrap());
    let first = open[0].next().unwrap().unwrap();
    become_user(0);
    chmod(&dir, 0o700);
    become_user(65534);
    let refused = fs::read_dir(&way).map(drop);
    let left = open.map(|listing| listing.filter(|entry| entry.is_ok()).count());
    become_user(0);
    assert_eq!(refused.unwrap_err().kind(), std::io::ErrorKind::PermissionDenied);
    assert_eq!(left, [299, 300], "after {:?}", first.file_name());
}

#[test]
fn the_owner_may_change_what_is_hers_and_give_nothing_away() {
    let fs = scenario("owner");
    let dir = fs.dir("a");
    chmod(&dir, 0o777);
    allowed(&as_other(
        &dir,
        "",
        "umask 022; echo x > mine; mkdir dir; chmod 640 mine; touch -d 2001-01-01 mine; ln mine link",
    ));
    let meta = fs::metadata(fs.path("mine")).unwrap();
    assert_eq!((meta.uid(), meta.gid(), meta.mode() & 0o7777, meta.nlink()), (65534, 65534, 0o640, 2));
    refused(&as_other(&dir, "", "chown 0 mine"), "not permitted");
    refused(&as_other(&dir, "", "chgrp 4711 mine"), "not permitted");
    allowed(&as_other(&dir, "4711", "chgrp 4711 mine"));
    // Write permission is asked at open and belongs to the open file: git makes files of mode 0444 and writes to them.
    allowed(&as_other(&dir, "", "umask 0777; echo text > unreadable; [ $(stat -c %s unreadable) = 5 ]"));
    refused(&as_other(&dir, "", "cat unreadable"), "Permission denied");
    refused(&as_other(&dir, "", "mknod device c 1 3"), "not permitted");
    allowed(&as_other(&dir, "", "mkfifo fifo"));
}

#[test]
fn supplementary_groups_count() {
    let fs = scenario("groups");
    let dir = fs.dir("a");
    chmod(&dir, 0o755);
    for (name, mode) in [("file", 0o660), ("unread", 0o620)] {
        fs::write(fs.path(name), "for the group\n").unwrap();
        chown(fs.path(name), Some(0), Some(4711)).unwrap();
        chmod(&fs.path(name), mode);
    }
    fs::create_dir(fs.path("team")).unwrap();
    chown(fs.path("team"), Some(0), Some(4712)).unwrap();
    chmod(&fs.path("team"), 0o770);
    refused(&as_other(&dir, "", "cat file"), "Permission denied");
    refused(&as_other(&dir, "4712", "cat file"), "Permission denied");
    allowed(&as_other(&dir, "4712,4711", "cat file; echo more >> file"));
    assert_eq!(fs::read_to_string(fs.path("file")).unwrap(), "for the group\nmore\n");
    refused(&as_other(&dir, "4711", "cat unread"), "Permission denied");
    refused(&as_other(&dir, "4711", "touch team/x"), "Permission denied");
    allowed(&as_other(
        &dir,
        "4711,4712",
        "touch team/x; mv team/x team/y; mkdir team/d; rmdir team/d; rm team/y",
    ));
}

#[test]
fn a_sticky_directory_protects_the_files_of_others() {
    let fs = scenario("sticky");
    let dir = fs.dir("a");
    chmod(&dir, 0o1777);
    fs::write(fs.path("roots"), "x").unwrap();
    allowed(&as_other(&dir, "", "touch own; mv own own2; rm own2; touch keep"));
    refused(&as_other(&dir, "", "rm -f roots"), "not permitted");
    refused(&as_other(&dir, "", "mv roots elsewhere"), "not permitted");
    refused(&as_other(&dir, "", "touch t; mv -f t roots"), "not permitted");
    sh(&dir, "rm keep");
}

#[test]
fn a_write_or_chown_by_another_clears_set_user_id() {
    let fs = scenario("set_user_id");
    let dir = fs.dir("a");
    chmod(&dir, 0o755);
    let path = fs.path("program");
    let mode = || fs::metadata(&path).unwrap().mode() & 0o7777;
    fs::write(&path, "x").unwrap();
    chmod(&path, 0o6777);
    allowed(&as_other(&dir, "", "echo more >> program"));
    assert_eq!(mode(), 0o777, "after a write");
    chmod(&path, 0o6777);
    allowed(&as_other(&dir, "", "truncate -s 1 program"));
    assert_eq!(mode(), 0o777, "after a truncation");
    chmod(&path, 0o6755);
    chown(&path, Some(1), Some(1)).unwrap();
    assert_eq!(mode(), 0o755, "after chown");
    chmod(&path, 0o6755);
    fs::write(&path, "by root").unwrap();
    assert_eq!(mode(), 0o6755, "root's write keeps it");
}

#[test]
fn access_answers_for_the_caller() {
    let fs = scenario("access");
    let dir = fs.dir("a");
    chmod(&dir, 0o755);
    fs::write(fs.path("file"), "x").unwrap();
    chmod(&fs.path("file"), 0o644);
    allowed(&as_other(&dir, "", "[ -r file ] && [ ! -w file ] && [ ! -x file ] && [ ! -w . ]"));
    sh(&dir, "[ -r file ] && [ -w file ] && [ ! -x file ] && [ -w . ]");
}
