//! Processes of two mounts append to one file at once.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{Read as _, Write as _};
use std::path::Path;
use std::process::{Child, Command};

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
