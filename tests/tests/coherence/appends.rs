//! Processes of two mounts append to one file at once.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{Read as _, Write as _};
use std::path::Path;
use std::process::{Child, Command};
use std::sync::atomic::{AtomicBool, Ordering};

use super::{number, scenario};

const PROCESSES: u64 = 4;

/// Appends `count` lines that say who wrote them and which they are.
fn appending(path: &Path, who: u64, count: u64) -> Child {
    let script = "import os, sys
file = os.open(sys.argv[1], os.O_WRONLY | os.O_APPEND)
for n in range(int(sys.argv[3])):
    line = f'{sys.argv[2]} {n} {\"x\" * (n % 50)}\\n'.encode()
    assert os.write(file, line) == len(line)
os.close(file)
";
    let mut python = Command::new("python3");
    python.args(["-c", script]).arg(path).args([who.to_string(), count.to_string()]);
    python.spawn().unwrap()
}

#[test]
fn processes_of_two_mounts_that_append_to_one_file_lose_nothing_and_mix_nothing() {
    let fs = scenario("appends");
    let count = number("DFS_APPENDS", 150);
    fs::write(fs.path("log"), "").unwrap();
    let start =
        |who: u64| appending(&fs.dir(if who.is_multiple_of(2) { "a" } else { "b" }).join("log"), who, count);
    let mut processes: Vec<Child> = (0..PROCESSES).map(start).collect();
    for process in &mut processes {
        assert!(process.wait().unwrap().success());
    }
    for mount in ["a", "b"] {
        let text = fs::read_to_string(fs.dir(mount).join("log")).unwrap();
        let mut next: BTreeMap<u64, u64> = (0..PROCESSES).map(|who| (who, 0)).collect();
        for line in text.lines() {
            let mut parts = line.split(' ');
            let mut part = || parts.next().unwrap_or_else(|| panic!("a broken line: {line:?}"));
            let (who, n): (u64, u64) = (part().parse().unwrap(), part().parse().unwrap());
            assert_eq!(part().len() as u64, n % 50, "{line:?}");
            assert_eq!(next.insert(who, n + 1), Some(n), "the lines of each are in order: {line:?}");
        }
        assert!(next.values().all(|next| *next == count), "at mount {mount}: {next:?}");
    }
}

/// `tail -f` on the other mount: what a reader sees is always a beginning of what was written so far, and all of what was written
/// before it looked.
#[test]
fn who_follows_a_log_of_another_mount_sees_each_line_when_it_was_written() {
    let fs = scenario("follow");
    let mut log = OpenOptions::new().append(true).create(true).open(fs.dir("a").join("log")).unwrap();
    let mut followed = File::open(fs.dir("b").join("log")).unwrap();
    let mut seen = String::new();
    let mut written = String::new();
    for n in 0..number("DFS_FOLLOWED_LINES", 200) {
        let line = format!("line {n} {}\n", "y".repeat((n % 70) as usize));
        log.write_all(line.as_bytes()).unwrap();
        written += &line;
        followed.read_to_string(&mut seen).unwrap();
        assert!(seen == written, "line {n}: {} of {} bytes", seen.len(), written.len());
    }
}

/// Reads on behind what it has read, until `is_over` and nothing is left.
fn follow(log: &Path, is_over: &AtomicBool) -> Vec<u8> {
    let (mut log, mut seen) = (File::open(log).unwrap(), Vec::new());
    loop {
        let was_over = is_over.load(Ordering::Relaxed);
        if log.read_to_end(&mut seen).unwrap() == 0 && was_over {
            return seen;
        }
    }
}

/// The kernel of each mount puts its own appends where it takes the end to be, which the other mount has moved.
#[test]
fn who_follows_a_log_on_a_mount_that_appends_to_it_as_another_one_does_reads_what_is_in_it() {
    let fs = scenario("follow_both");
    let log = |mount| fs.dir(mount).join("log");
    fs::write(log("a"), "").unwrap();
    let is_over = AtomicBool::new(false);
    let followed = std::thread::scope(|scope| {
        let followers = ["a", "b"].map(|mount| scope.spawn(|| follow(&log(mount), &is_over)));
        let count = number("DFS_FOLLOWED_APPENDS", 2000);
        let mut processes: Vec<Child> =
            (0..2).zip(["a", "b"]).map(|(who, mount)| appending(&log(mount), who, count)).collect();
        let ended: Vec<bool> =
            processes.iter_mut().map(|process| process.wait().unwrap().success()).collect();
        is_over.store(true, Ordering::Relaxed);
        assert_eq!(ended, [true; 2]);
        followers.map(|follower| follower.join().unwrap())
    });
    let whole = fs::read(log("a")).unwrap();
    for (mount, seen) in ["a", "b"].into_iter().zip(followed) {
        let wrong = seen.iter().zip(&whole).position(|(seen, is)| seen != is);
        assert_eq!(wrong, None, "of {} bytes: on mount {mount}", whole.len());
        assert_eq!(seen.len(), whole.len(), "on mount {mount}");
    }
}
