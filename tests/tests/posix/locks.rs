//! Locks between the processes of one mount (P5.7). Those between mounts are in `locks`.

use std::fs::{self, File};

use dfs_tests::shell::sh;
use dfs_tests::sys;

use crate::{errno, scenario};

#[test]
fn flock_excludes_other_open_files_and_processes() {
    let fs = scenario("flock");
    fs::write(fs.path("lock"), "").unwrap();
    let first = File::open(fs.path("lock")).unwrap();
    let second = File::open(fs.path("lock")).unwrap();
    sys::flock(&first, libc::LOCK_EX).unwrap();
    assert_eq!(errno(sys::flock(&second, libc::LOCK_SH | libc::LOCK_NB)), libc::EWOULDBLOCK);
    sh(&fs.dir("a"), "flock -n lock true && exit 1 || true");
    sys::flock(&first, libc::LOCK_SH).unwrap();
    sys::flock(&second, libc::LOCK_SH | libc::LOCK_NB).unwrap();
    drop((first, second));
    sh(&fs.dir("a"), "flock -n lock true");
}

#[test]
fn a_counter_under_flock_counts_every_process() {
    let fs = scenario("counter");
    sh(
        &fs.dir("a"),
        "echo 0 > counter
         for worker in 1 2 3 4; do
            (for round in $(seq 60); do flock lock sh -c 'echo $(($(cat counter) + 1)) > counter'; done) &
         done; wait
         [ $(cat counter) = 240 ]",
    );
}

#[test]
fn fcntl_locks_exclude_other_processes_by_range() {
    let fs = scenario("fcntl");
    let script = r#"
import fcntl, os, sys
f = open('lock', 'w+b')
f.write(b'x' * 100); f.flush()
fcntl.lockf(f, fcntl.LOCK_EX, 50, 0)
def tried(start, length):
    pid = os.fork()
    if pid == 0:
        g = open('lock', 'r+b')
        try:
            fcntl.lockf(g, fcntl.LOCK_EX | fcntl.LOCK_NB, length, start)
        except OSError:
            os._exit(1)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
assert tried(50, 50) == 0, 'the free half'
assert tried(49, 1) == 1, 'the locked half'
fcntl.lockf(f, fcntl.LOCK_UN, 50, 0)
assert tried(49, 1) == 0, 'after the unlock'
"#;
    fs::write(fs.path("check.py"), script).unwrap();
    sh(&fs.dir("a"), "python3 check.py");
}
