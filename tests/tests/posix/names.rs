//! Names: made, found, moved, linked, removed and listed.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::Read as _;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, symlink};
use std::os::unix::net::UnixListener;

use dfs_tests::shell::sh;
use dfs_tests::sys;

use crate::{errno, scenario};

#[test]
fn what_was_copied_in_is_listed_and_reads_back() {
    let fs = scenario("copied_in");
    sh(
        &fs.dir("a"),
        "cp /etc/passwd one; mkdir -p x/y; cp one x/y/two; cat x/y/two > three
         cmp one /etc/passwd; cmp three /etc/passwd
         [ \"$(ls)\" = $'one\\nthree\\nx' ]; [ \"$(ls x/y)\" = two ]; [ \"$(find . | wc -l)\" = 6 ]",
    );
}

#[test]
fn a_missing_name_and_a_file_on_the_way_are_told_apart() {
    let fs = scenario("missing_name");
    fs::write(fs.path("file"), "x").unwrap();
    assert_eq!(errno(fs::metadata(fs.path("none"))), libc::ENOENT);
    assert_eq!(errno(fs::metadata(fs.path("none/deeper"))), libc::ENOENT);
    assert_eq!(errno(fs::metadata(fs.path("file/deeper"))), libc::ENOTDIR);
    assert_eq!(errno(fs::create_dir(fs.path("file"))), libc::EEXIST);
    assert_eq!(errno(File::create_new(fs.path("file"))), libc::EEXIST);
    assert_eq!(errno(fs::remove_dir(fs.path("file"))), libc::ENOTDIR);
}

#[test]
fn directories_are_removed_only_when_empty_and_count_their_links() {
    let fs = scenario("remove_directories");
    fs::create_dir_all(fs.path("d/e")).unwrap();
    assert_eq!(fs::metadata(fs.path("d")).unwrap().nlink(), 3);
    assert_eq!(errno(fs::remove_dir(fs.path("d"))), libc::ENOTEMPTY);
    assert_eq!(errno(fs::remove_file(fs.path("d"))), libc::EISDIR);
    fs::remove_dir(fs.path("d/e")).unwrap();
    assert_eq!(fs::metadata(fs.path("d")).unwrap().nlink(), 2);
    fs::remove_dir(fs.path("d")).unwrap();
    assert_eq!(errno(fs::metadata(fs.path("d"))), libc::ENOENT);
}

#[test]
fn rename_replaces_what_it_may_and_refuses_the_rest() {
    let fs = scenario("rename_replaces");
    let p = |name: &str| fs.path(name);
    fs::write(p("a"), "a").unwrap();
    fs::write(p("b"), "b").unwrap();
    fs::rename(p("a"), p("b")).unwrap();
    assert_eq!(fs::read(p("b")).unwrap(), b"a");
    assert_eq!(errno(fs::metadata(p("a"))), libc::ENOENT);
    for dir in ["empty", "full", "moved"] {
        fs::create_dir(p(dir)).unwrap();
    }
    fs::write(p("full/x"), "x").unwrap();
    assert_eq!(errno(fs::rename(p("moved"), p("full"))), libc::ENOTEMPTY);
    assert_eq!(errno(fs::rename(p("moved"), p("b"))), libc::ENOTDIR);
    assert_eq!(errno(fs::rename(p("b"), p("empty"))), libc::EISDIR);
    assert_eq!(errno(fs::rename(p("none"), p("b"))), libc::ENOENT);
    fs::rename(p("full"), p("empty")).unwrap();
    assert_eq!(fs::read(p("empty/x")).unwrap(), b"x");
    fs::rename(p("empty"), p("empty")).unwrap();
}

#[test]
fn a_directory_never_moves_below_itself() {
    let fs = scenario("below_itself");
    fs::create_dir_all(fs.path("d/e/f")).unwrap();
    assert_eq!(errno(fs::rename(fs.path("d"), fs.path("d/e/f/d"))), libc::EINVAL);
    // The kernel answers this one: the target is an ancestor of the source.
    assert_eq!(errno(fs::rename(fs.path("d/e/f"), fs.path("d"))), libc::ENOTEMPTY);
    fs::rename(fs.path("d/e/f"), fs.path("f")).unwrap();
    fs::rename(fs.path("d"), fs.path("f/d")).unwrap();
    assert!(fs::metadata(fs.path("f/d/e")).unwrap().is_dir());
    assert_eq!(sh(&fs.path("f/d"), "cd ..; stat -c %i ."), sh(&fs.dir("a"), "stat -c %i f"));
}

#[test]
fn rename_noreplace_refuses_an_existing_name_and_moves_to_a_free_one() {
    let fs = scenario("noreplace");
    fs::write(fs.path("a"), "a").unwrap();
    fs::write(fs.path("b"), "b").unwrap();
    let refused = sys::renameat2(&fs.path("a"), &fs.path("b"), libc::RENAME_NOREPLACE);
    assert_eq!(errno(refused), libc::EEXIST);
    sys::renameat2(&fs.path("a"), &fs.path("c"), libc::RENAME_NOREPLACE).unwrap();
    assert_eq!(fs::read(fs.path("c")).unwrap(), b"a");
    sh(&fs.dir("a"), "mv -n c b; mv b d; [ \"$(cat d)\" = b ]");
}

#[test]
fn other_rename_flags_are_refused_and_never_ignored() {
    let fs = scenario("rename_flags");
    fs::write(fs.path("a"), "a").unwrap();
    fs::write(fs.path("b"), "b").unwrap();
    for flags in [libc::RENAME_WHITEOUT, libc::RENAME_EXCHANGE | libc::RENAME_NOREPLACE] {
        assert_eq!(errno(sys::renameat2(&fs.path("a"), &fs.path("b"), flags)), libc::EINVAL);
    }
    assert_eq!(
        (fs::read(fs.path("a")).unwrap(), fs::read(fs.path("b")).unwrap()),
        (b"a".to_vec(), b"b".to_vec())
    );
}

#[test]
fn rename_exchange_swaps_two_names_whatever_they_lead_to() {
    let fs = scenario("exchange");
    let p = |name: &str| fs.path(name);
    let exchange = |from: &str, to: &str| sys::renameat2(&p(from), &p(to), libc::RENAME_EXCHANGE);
    fs::create_dir_all(p("d/e")).unwrap();
    fs::write(p("d/in it"), "in it").unwrap();
    fs::create_dir(p("other")).unwrap();
    fs::write(p("a"), "a").unwrap();
    fs::write(p("other/b"), "b").unwrap();
    let inode = |name: &str| fs::metadata(p(name)).unwrap().ino();
    let (a, d) = (inode("a"), inode("d"));
    let mut open = File::open(p("a")).unwrap();

    exchange("a", "other/b").unwrap();
    assert_eq!((fs::read(p("a")).unwrap(), fs::read(p("other/b")).unwrap()), (b"b".into(), b"a".into()));
    // A directory that is not empty, and a file, in two directories.
    exchange("d", "other/b").unwrap();
    assert_eq!((inode("d"), inode("other/b")), (a, d));
    assert_eq!(fs::read(p("other/b/in it")).unwrap(), b"in it");
    assert_eq!(fs::metadata(p("other")).unwrap().nlink(), 3);
    sys::drop_caches();
    assert_eq!((inode("d"), inode("other/b")), (a, d));
    assert_eq!(fs::metadata(fs.dir("a")).unwrap().nlink(), 3);
    assert_eq!(sh(&p("other/b"), "stat -c %i .."), inode("other").to_string());
    let mut text = String::new();
    open.read_to_string(&mut text).unwrap();
    assert_eq!(text, "a", "an open file is the same file");

    for (from, to, wanted) in [
        ("none", "d", libc::ENOENT),
        ("d", "none", libc::ENOENT),
        ("other", "other/b/e", libc::EINVAL),
        ("other/b/e", "other", libc::EINVAL),
    ] {
        assert_eq!(errno(exchange(from, to)), wanted, "{from} and {to}");
    }
    exchange("d", "d").unwrap();
    assert_eq!((inode("d"), inode("other/b")), (a, d), "nothing that was refused has happened");
}

/// As some programs save: the new content and the old one change places, and the old one is kept or removed.
#[test]
fn a_file_that_is_written_and_exchanged_is_read_under_its_new_name_at_once() {
    let fs = scenario("exchange_save");
    fs::write(fs.path("file"), "old").unwrap();
    for round in 0..20 {
        let content = format!("content {round}");
        fs::write(fs.path("new"), &content).unwrap();
        let before = fs::read(fs.path("file")).unwrap();
        sys::renameat2(&fs.path("new"), &fs.path("file"), libc::RENAME_EXCHANGE).unwrap();
        assert_eq!(fs::read_to_string(fs.path("file")).unwrap(), content);
        assert_eq!(fs::read(fs.path("new")).unwrap(), before);
        fs::remove_file(fs.path("new")).unwrap();
    }
}

#[test]
fn hard_links_share_one_file_until_the_last_is_removed() {
    let fs = scenario("hard_links");
    fs::write(fs.path("a"), "one").unwrap();
    fs::create_dir(fs.path("d")).unwrap();
    fs::hard_link(fs.path("a"), fs.path("d/b")).unwrap();
    fs::write(fs.path("d/b"), "other").unwrap();
    assert_eq!(fs::read(fs.path("a")).unwrap(), b"other");
    let (a, b) = (fs::metadata(fs.path("a")).unwrap(), fs::metadata(fs.path("d/b")).unwrap());
    assert_eq!((a.ino(), a.nlink()), (b.ino(), 2));
    assert_eq!(errno(fs::hard_link(fs.path("a"), fs.path("d/b"))), libc::EEXIST);
    assert_eq!(errno(fs::hard_link(fs.path("d"), fs.path("e"))), libc::EPERM);
    // Two names of one file: POSIX says that nothing happens.
    fs::rename(fs.path("a"), fs.path("d/b")).unwrap();
    assert!(fs.path("a").exists());
    fs::remove_file(fs.path("a")).unwrap();
    assert_eq!(fs::metadata(fs.path("d/b")).unwrap().nlink(), 1);
    assert_eq!(fs::read(fs.path("d/b")).unwrap(), b"other");
}

#[test]
fn symlinks_keep_their_target_and_loops_end() {
    let fs = scenario("symlinks");
    fs::write(fs.path("file"), "text").unwrap();
    symlink("file", fs.path("link")).unwrap();
    symlink("nowhere/at all", fs.path("dangling")).unwrap();
    symlink("x".repeat(4000), fs.path("long")).unwrap();
    symlink("loop2", fs.path("loop1")).unwrap();
    symlink("loop1", fs.path("loop2")).unwrap();
    assert_eq!(fs::read(fs.path("link")).unwrap(), b"text");
    assert_eq!(fs::read_link(fs.path("dangling")).unwrap().as_os_str(), "nowhere/at all");
    assert_eq!(fs::read_link(fs.path("long")).unwrap().as_os_str().len(), 4000);
    let meta = fs::symlink_metadata(fs.path("link")).unwrap();
    assert_eq!((meta.len(), meta.mode() & 0o7777), (4, 0o777));
    assert_eq!(errno(fs::metadata(fs.path("dangling"))), libc::ENOENT);
    assert_eq!(errno(fs::read(fs.path("loop1"))), libc::ELOOP);
    assert_eq!(errno(fs::read_link(fs.path("file"))), libc::EINVAL);
}

#[test]
fn fifos_sockets_and_devices_are_made_and_work() {
    let fs = scenario("nodes");
    sys::mknod(&fs.path("fifo"), libc::S_IFIFO | 0o600, 0).unwrap();
    sys::mknod(&fs.path("null"), libc::S_IFCHR | 0o666, libc::makedev(1, 3)).unwrap();
    sys::mknod(&fs.path("disk"), libc::S_IFBLK | 0o600, libc::makedev(7, 200)).unwrap();
    sys::mknod(&fs.path("plain"), libc::S_IFREG | 0o640, 0).unwrap();
    let kind = |name: &str| fs::symlink_metadata(fs.path(name)).unwrap();
    assert!(kind("fifo").file_type().is_fifo());
    assert!(kind("null").file_type().is_char_device());
    assert_eq!(kind("null").rdev(), libc::makedev(1, 3));
    assert!(kind("disk").file_type().is_block_device());
    assert_eq!(kind("disk").rdev(), libc::makedev(7, 200));
    assert!(kind("plain").is_file());
    let listener = UnixListener::bind(fs.path("socket")).unwrap();
    assert!(kind("socket").file_type().is_socket());
    drop(listener);
    assert_eq!(sh(&fs.dir("a"), "echo through > fifo & cat fifo; wait"), "through");
}

#[test]
fn names_may_have_255_bytes_of_anything_but_slash_and_nul() {
    let fs = scenario("long_names");
    let longest = "n".repeat(255);
    fs::write(fs.path(&longest), "x").unwrap();
    assert_eq!(errno(fs::write(fs.path("n".repeat(256)), "x")), libc::ENAMETOOLONG);
    assert_eq!(errno(fs::metadata(fs.path("n".repeat(256)))), libc::ENAMETOOLONG);
    let strange = OsStr::from_bytes(b"\xff\xfe \n*'\"\\");
    fs::write(fs.path(strange), "y").unwrap();
    let names: BTreeSet<_> =
        fs::read_dir(fs.dir("a")).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(names, BTreeSet::from([longest.into(), strange.to_owned()]));
    // A deep path, beyond PATH_MAX in all: only relative steps get there.
    sh(
        &fs.dir("a"),
        "for i in $(seq 40); do d=$(printf 'deep%0150d' $i); mkdir $d; cd $d; done; echo end > file; cat file",
    );
    sh(&fs.dir("a"), "rm -r deep*");
}

#[test]
fn a_directory_of_20000_entries_is_listed_whole_while_it_changes() {
    let fs = scenario("large_directory");
    sh(&fs.dir("a"), "seq -f 'stay%05g' 20000 | xargs -n 500 touch");
    let changing = std::thread::scope(|scope| {
        let changer = scope.spawn(|| {
            for number in 0..600 {
                fs::write(fs.path(format!("comes{number}")), "").unwrap();
                if number % 2 == 0 {
                    fs::remove_file(fs.path(format!("comes{number}"))).unwrap();
                } else {
                    fs::rename(fs.path(format!("comes{number}")), fs.path(format!("moved{number}"))).unwrap();
                }
            }
        });
        let mut listings = 0;
        loop {
            let last = changer.is_finished();
            let mut seen = BTreeSet::new();
            for entry in fs::read_dir(fs.dir("a")).unwrap() {
                let name = entry.unwrap().file_name().into_string().unwrap();
                assert!(seen.insert(name.clone()), "{name} was listed twice");
            }
            let stayed = seen.iter().filter(|name| name.starts_with("stay")).count();
            assert_eq!(stayed, 20_000, "entries that nobody touched are listed once each");
            listings += 1;
            if last {
                let moved = seen.iter().filter(|name| name.starts_with("moved")).count();
                assert_eq!((moved, seen.len()), (300, 20_300));
                break listings;
            }
        }
    });
    eprintln!("{changing} listings while the directory changed");
    sh(
        &fs.dir("a"),
        "[ \"$(ls -l | wc -l)\" = 20301 ]; find . -name 'stay*' -delete; [ \"$(ls | wc -l)\" = 300 ]",
    );
}

#[test]
fn a_directory_stream_can_be_rewound_and_dot_names_are_right() {
    let fs = scenario("rewind");
    fs::create_dir(fs.path("sub")).unwrap();
    let script = "import os\n\
        d = os.scandir('sub'); assert list(d) == []\n\
        open('sub/x', 'w').close()\n\
        assert os.listdir('sub') == ['x']\n\
        fd = os.open('sub', os.O_RDONLY)\n\
        assert os.listdir(fd) == ['x']\n\
        open('sub/y', 'w').close()\n\
        assert sorted(os.listdir(fd)) == ['x', 'y'], 'rewinddir reads anew'\n\
        assert os.stat('sub/..').st_ino == os.stat('.').st_ino\n";
    fs::write(fs.path("check.py"), script).unwrap();
    sh(
        &fs.dir("a"),
        "python3 check.py; ls -ai sub | awk '$2 == \".\" {print $1}' | grep -qx $(stat -c %i sub)",
    );
    sh(&fs.dir("a"), "ls -ai sub | awk '$2 == \"..\" {print $1}' | grep -qx $(stat -c %i .)");
}

#[test]
fn extended_attributes_are_refused_as_not_supported() {
    let fs = scenario("xattr");
    fs::write(fs.path("file"), "x").unwrap();
    assert_eq!(errno(sys::set_xattr(&fs.path("file"), "user.color", b"blue")), libc::ENOTSUP);
    assert_eq!(errno(sys::set_xattr(&fs.path("file"), "trusted.x", b"y")), libc::ENOTSUP);
}
