//! Locks between mounts (P5.7): flock(2), fcntl(2) of processes and of open files. Those of one mount are in `posix` too.
//!
//! `DFS_LOCK_ROUNDS` is how often each process counts: 100, if it is not set.

#![allow(clippy::unwrap_used, reason = "in a test an unwrap is an assertion")]

use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use dfs_tests::cluster::{Cluster, Shape};
use dfs_tests::daemon::binary;
use dfs_tests::shared::{Scenario, Shared};
use dfs_tests::shell::{sh, try_sh_within};
use dfs_tests::{sys, wait};

const PROGRAM: &str = include_str!("locks.py");
/// All that take ranges; flock is the third kind.
const RANGED: [&str; 2] = ["fcntl", "ofd"];
const KINDS: [&str; 3] = ["fcntl", "ofd", "flock"];
/// Longer than any lock is waited for here that is free, and a term that has passed besides.
const PATIENCE: Duration = Duration::from_secs(30);
const TERM: &str = "lease_term_ms = 3000\n";

static SHARED: Shared = Shared::new(shape, &["a", "b"]);

fn shape() -> Shape {
    Shape { metaserver_extra: TERM.to_owned(), ..Shape::default() }
}

fn scenario(name: &str) -> Scenario {
    SHARED.scenario(name)
}

/// A process that locks one file as it is told. Not this process: its locks, and the mount's, would be one.
struct Locker {
    process: Child,
    calls: ChildStdin,
    answers: Receiver<String>,
}

impl Locker {
    fn start(file: &Path) -> Locker {
        let mut python = Command::new("python3");
        python.args(["-c", PROGRAM]).arg(file).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut process = python.spawn().unwrap();
        let (calls, says) = (process.stdin.take().unwrap(), process.stdout.take().unwrap());
        let (sender, answers) = channel();
        std::thread::spawn(move || {
            for line in BufReader::new(says).lines().map_while(Result::ok) {
                let _ = sender.send(line);
            }
        });
        Locker { process, calls, answers }
    }

    /// Makes a call whose answer may take long.
    fn call(&mut self, call: &str) {
        writeln!(self.calls, "{call}").unwrap();
    }

    #[track_caller]
    fn answer(&self) -> String {
        self.answers.recv_timeout(PATIENCE).unwrap()
    }

    fn has_answered(&self) -> Option<String> {
        self.answers.try_recv().ok()
    }

    #[track_caller]
    fn tell(&mut self, call: &str) -> String {
        self.call(call);
        self.answer()
    }

    #[track_caller]
    fn does(&mut self, call: &str) {
        assert_eq!(self.tell(call), "ok", "{call}");
    }

    /// Makes a call that waits. When this returns it is in the kernel.
    fn waits(&mut self, call: &str) {
        self.call(call);
        let path = format!("/proc/{}/syscall", self.process.id());
        let waiting = [libc::SYS_fcntl, libc::SYS_flock].map(|call| format!("{call} "));
        wait::until("the process to wait for its lock", PATIENCE, || {
            let call = fs::read_to_string(&path).unwrap();
            waiting.iter().any(|waiting| call.starts_with(waiting)).then_some(())
        });
    }

    fn kill(&mut self) {
        self.process.kill().unwrap();
        wait::until("a killed process to be gone", PATIENCE, || self.process.try_wait().unwrap());
    }
}

impl Drop for Locker {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn lockers(fs: &Scenario, mounts: &[&str]) -> Vec<Locker> {
    mounts.iter().map(|mount| Locker::start(&fs.dir(mount).join("file"))).collect()
}

/// Of two that wait for each other, the one whose call reached the leader last.
fn who_is_told_of_the_deadlock(pair: &[Locker]) -> usize {
    wait::until("one of the two to be told", PATIENCE, || {
        pair.iter()
            .position(|locker| locker.has_answered().inspect(|told| assert_eq!(told, "EDEADLK")).is_some())
    })
}

fn rounds() -> u64 {
    std::env::var("DFS_LOCK_ROUNDS").ok().and_then(|rounds| rounds.parse().ok()).unwrap_or(100)
}

#[test]
fn processes_on_two_mounts_count_together_under_every_kind_of_lock() {
    let fs = scenario("count");
    let rounds = rounds();
    for kind in KINDS {
        let file = format!("counter_{kind}");
        fs::write(fs.path(&file), "").unwrap();
        let mut counting: Vec<Child> = (0..8)
            .map(|process| fs.dir(if process % 2 == 0 { "a" } else { "b" }).join(&file))
            .map(|path| {
                let mut python = Command::new("python3");
                python.args(["-c", PROGRAM]).arg(path).args(["count", kind, &rounds.to_string()]);
                python.spawn().unwrap()
            })
            .collect();
        for process in &mut counting {
            assert!(process.wait().unwrap().success(), "{kind}");
        }
        for mount in ["a", "b"] {
            let counted = fs::read_to_string(fs.dir(mount).join(&file)).unwrap();
            assert_eq!(counted.parse::<u64>().unwrap(), 8 * rounds, "{kind}, by {mount}");
        }
    }
}

#[test]
fn what_was_written_under_a_lock_is_read_under_the_next_one_without_close() {
    let fs = scenario("coherent");
    let mut pair = lockers(&fs, &["a", "b"]);
    for round in 0..100 {
        let (writer, reader) = (round % 2, 1 - round % 2);
        for kind in KINDS {
            pair[writer].does(&format!("lock {kind} exclusive"));
            pair[writer].does(&format!("write {kind}{round}."));
            // A weaker lock lets the reader in as well as none.
            pair[writer].does(&format!("lock {kind} {}", if round % 3 == 0 { "shared" } else { "unlock" }));
            pair[reader].does(&format!("lock {kind} shared"));
            let seen = pair[reader].tell("read");
            assert!(seen.starts_with(&format!("{kind}{round}.")), "round {round}: {seen}");
            pair[reader].does(&format!("lock {kind} unlock"));
            pair[writer].does(&format!("lock {kind} unlock"));
        }
    }
}

/// The kernel tells the mount of the end of an open file when it likes, and gives its number to the next one at once.
#[test]
fn a_lock_is_free_as_soon_as_another_process_of_the_mount_has_closed_the_file() {
    let fs = scenario("in_turn");
    let mut pair = lockers(&fs, &["a", "a"]);
    pair.iter_mut().for_each(|locker| locker.does("close"));
    for round in 0..1000 {
        let locker = &mut pair[round % 2];
        locker.does("open");
        locker.does(&format!("lock {} exclusive", KINDS[round % 3]));
        locker.does("close");
    }
    sh(&fs.dir("a"), "for round in $(seq 200); do flock -n lock true; done");
}

#[test]
fn the_next_open_file_keeps_the_lock_that_it_takes_while_the_one_before_ends() {
    let fs = scenario("reused");
    let mut pair = lockers(&fs, &["a", "b"]);
    for round in 0..300 {
        let kind = KINDS[1 + round % 2];
        pair[0].does(&format!("lock {kind} exclusive"));
        pair[0].does("close");
        pair[0].does("open");
        pair[0].does(&format!("wait {kind} exclusive"));
        let look = wait::at_most(Duration::from_millis(40), || {
            (pair[1].tell(&format!("lock {kind} shared")) == "ok").then_some(())
        });
        assert!(look.is_none(), "round {round}: the late end of the file before took it away");
    }
}

#[test]
fn who_closes_the_circle_of_those_who_wait_for_each_other_is_told() {
    let fs = scenario("deadlock");
    for kind in RANGED {
        let mut pair = lockers(&fs, &["a", "b"]);
        for at in [0, 1] {
            pair[at].does(&format!("lock {kind} exclusive {at} 1"));
        }
        for at in [0, 1] {
            pair[at].call(&format!("wait {kind} exclusive {} 1", 1 - at));
        }
        let told = who_is_told_of_the_deadlock(&pair);
        pair[told].does(&format!("lock {kind} unlock"));
        assert_eq!(pair[1 - told].answer(), "ok");
    }
}

#[test]
fn a_process_that_waits_for_a_lock_can_be_killed_and_its_handlers_run() {
    let fs = scenario("killed");
    for kind in KINDS {
        let mut all = lockers(&fs, &["a", "b", "b", "b"]);
        all[0].does(&format!("lock {kind} exclusive"));
        for at in [1, 2] {
            all[at].waits(&format!("wait {kind} exclusive"));
        }
        let began = wait::now();
        all[1].kill();
        assert!(began.elapsed() < Duration::from_secs(5), "{kind}: killed after {:?}", began.elapsed());
        all[3].does("alarm 0.5");
        assert_eq!(all[3].tell(&format!("wait {kind} exclusive")), "EINTR");
        all[0].does(&format!("lock {kind} unlock"));
        assert_eq!(all[2].answer(), "ok", "{kind}: who still waits gets it");
        all[2].does(&format!("lock {kind} unlock"));
        all[0].does(&format!("lock {kind} exclusive"));
    }
}

#[test]
fn locks_end_with_their_process() {
    let fs = scenario("process_ends");
    for kind in KINDS {
        let mut pair = lockers(&fs, &["a", "b"]);
        pair[0].does(&format!("lock {kind} exclusive"));
        pair[1].waits(&format!("wait {kind} exclusive"));
        assert_eq!(pair[1].has_answered(), None);
        pair[0].kill();
        assert_eq!(pair[1].answer(), "ok", "{kind}");
    }
}

#[test]
fn a_process_loses_its_locks_with_any_descriptor_and_an_open_file_with_its_last() {
    let fs = scenario("descriptors");
    let mut pair = lockers(&fs, &["a", "b"]);
    pair[0].does("lock fcntl exclusive 10 5");
    assert_eq!(pair[1].tell("lock fcntl shared 14 1"), "EAGAIN");
    pair[1].does("lock fcntl shared 15 1");
    pair[0].does("fork");
    assert_eq!(pair[1].tell("lock fcntl shared 14 1"), "EAGAIN", "a child has none, and ends none");
    pair[0].does("touch");
    pair[1].does("lock fcntl exclusive 10 5");
    pair[1].does("lock fcntl unlock");
    for kind in ["ofd", "flock"] {
        pair[0].does(&format!("lock {kind} exclusive"));
        pair[0].does("touch");
        pair[0].does("fork");
        assert_eq!(pair[1].tell(&format!("lock {kind} shared")), "EAGAIN", "{kind}");
        pair[0].does("close");
        pair[1].does(&format!("wait {kind} exclusive"));
        pair[1].does(&format!("lock {kind} unlock"));
        pair[0].does("open");
    }
}

#[test]
fn locks_are_upgraded_and_downgraded_in_place() {
    let fs = scenario("upgrade");
    for kind in KINDS {
        let mut pair = lockers(&fs, &["a", "b"]);
        pair.iter_mut().for_each(|locker| locker.does(&format!("lock {kind} shared")));
        assert_eq!(pair[0].tell(&format!("lock {kind} exclusive")), "EAGAIN");
        pair.iter_mut().for_each(|locker| locker.call(&format!("wait {kind} exclusive")));
        let told = who_is_told_of_the_deadlock(&pair);
        let got = 1 - told;
        pair[told].does(&format!("lock {kind} unlock"));
        assert_eq!(pair[got].answer(), "ok", "{kind}");
        assert_eq!(pair[told].tell(&format!("lock {kind} shared")), "EAGAIN");
        pair[got].does(&format!("lock {kind} shared"));
        pair[told].does(&format!("lock {kind} shared"));
    }
}

#[test]
fn ranges_are_split_and_joined() {
    let fs = scenario("ranges");
    for kind in RANGED {
        let mut pair = lockers(&fs, &["a", "b"]);
        pair[0].does(&format!("lock {kind} exclusive 0 100"));
        pair[0].does(&format!("lock {kind} unlock 40 20"));
        pair[0].does(&format!("lock {kind} shared 80 20"));
        for (range, expected) in
            [("39 1", "EAGAIN"), ("40 20", "ok"), ("60 1", "EAGAIN"), ("80 20", "EAGAIN"), ("100 0", "ok")]
        {
            assert_eq!(pair[1].tell(&format!("lock {kind} exclusive {range}")), expected, "{kind} {range}");
        }
        pair[1].does(&format!("lock {kind} shared 80 20"));
    }
}

#[test]
fn flock_and_fcntl_are_one_kind_of_lock() {
    let fs = scenario("one_kind");
    let mut pair = lockers(&fs, &["a", "b"]);
    pair[0].does("lock flock shared");
    assert_eq!(pair[1].tell("lock fcntl exclusive 7 1"), "EAGAIN");
    pair[1].does("lock ofd shared 7 1");
    assert_eq!(pair[0].tell("lock flock exclusive"), "EAGAIN");
}

#[test]
fn the_holder_of_a_lock_is_named_on_its_own_mount_only() {
    let fs = scenario("holder");
    let mut all = lockers(&fs, &["a", "a", "b"]);
    let holder = all[0].process.id();
    assert_eq!(all[1].tell("get fcntl exclusive"), "free");
    all[0].does("lock fcntl shared 5 10");
    assert_eq!(all[1].tell("get fcntl exclusive"), format!("shared 5 10 {holder}"));
    assert_eq!(all[2].tell("get fcntl exclusive"), "shared 5 10 0");
    assert_eq!(all[2].tell("get fcntl shared"), "free");
    assert_eq!(all[2].tell("get fcntl exclusive 15 1"), "free");
    assert_eq!(all[0].tell("get fcntl exclusive"), "free", "its own");
}

#[test]
fn sqlite_keeps_the_transactions_of_two_mounts() {
    let fs = scenario("sqlite");
    let script = r#"
import sqlite3, sys
base = sqlite3.connect("db", timeout=120, isolation_level=None)
for round in range(20):
    base.execute("begin immediate")
    before = base.execute("select count(*) from t").fetchone()[0]
    base.execute("insert into t values(?, ?, ?, hex(randomblob(500)))", (before, sys.argv[1], round))
    base.execute("commit")
"#;
    fs::write(fs.path("insert.py"), script).unwrap();
    let make = "create table t(number primary key, worker, round, text); create index i on t(worker)";
    sh(&fs.dir("a"), &format!("sqlite3 db 'pragma journal_mode=delete; {make}'"));
    let run = |mount: &str| {
        let mut bash = Command::new("bash");
        let script = format!(
            "for n in 1 2 3 4; do python3 insert.py {mount}$n & done; wait -n; wait -n; wait -n; wait -n"
        );
        bash.args(["-euc", &script]).current_dir(fs.dir(mount)).spawn().unwrap()
    };
    for mut workers in [run("a"), run("b")] {
        assert!(workers.wait().unwrap().success());
    }
    for mount in ["a", "b"] {
        let check = "[ $(sqlite3 db 'select count(*) from t') = 160 ]; [ $(sqlite3 db 'pragma integrity_check') = ok ]";
        sh(&fs.dir(mount), check);
    }
}

#[test]
fn the_locks_of_a_mount_that_was_killed_end_within_a_term() {
    let fs = scenario("mount_killed");
    fs.cluster.mount("c");
    let file: PathBuf = fs.dir("c").join("file");
    let mut holder = Locker::start(&file);
    holder.does("lock ofd exclusive");
    let mut waiting = Locker::start(&fs.dir("b").join("file"));
    assert_eq!(waiting.tell("lock ofd exclusive"), "EAGAIN");
    waiting.waits("wait ofd exclusive");
    fs.cluster.kill("c");
    assert_eq!(waiting.answer(), "ok");
    holder.kill();
    sys::unmount_lazily(&fs.cluster.mountpoint("c")).unwrap();
}

/// What `dfs` says with these arguments, as JSON.
#[track_caller]
fn dfs(cluster: &Cluster, arguments: &str) -> serde_json::Value {
    let federation = cluster.federation().join(",");
    let command = format!("{} --federation {federation} --json {arguments}", binary("dfs").display());
    serde_json::from_str(&sh(cluster.dir(), &command)).unwrap()
}

/// The session of a mount, as `dfs session list` shows it.
fn session_of(cluster: &Cluster, mount: &str) -> Option<serde_json::Value> {
    let end = format!(":{}", cluster.mountpoint(mount).display());
    let list = dfs(cluster, "session list");
    let sessions = list[0]["sessions"].as_array().unwrap();
    let is_its = |session: &&serde_json::Value| session["client"].as_str().unwrap().ends_with(&end);
    sessions.iter().find(is_its).cloned()
}

#[test]
fn a_session_that_an_administrator_ends_frees_its_lock_at_once_and_its_mount_works_on() {
    let fs = scenario("expired_by_hand");
    fs.cluster.mount("e");
    let mut holder = Locker::start(&fs.dir("e").join("file"));
    let mut waiting = Locker::start(&fs.dir("b").join("file"));
    holder.does("lock ofd exclusive");
    waiting.waits("wait ofd exclusive");
    let session = wait::until("the list to show who is waited for", PATIENCE, || {
        session_of(fs.cluster, "e").filter(|session| session["waited_for"] == true)
    });
    let id = session["id"].as_u64().unwrap();
    assert_eq!((&session["attached"], &session["locks"]), (&true.into(), &1.into()), "{session}");
    assert!(session["open_files"].as_u64() >= Some(1), "{session}");
    let held = dfs(fs.cluster, "status")["clusters"][0]["leader"]["held"].clone();
    assert!(held["waited_for"].as_array().unwrap().contains(&id.into()), "{held}");

    let ended = dfs(fs.cluster, &format!("session expire --yes {id}"));
    assert_eq!((&ended["session"]["id"], &ended["session"]["locks"]), (&id.into(), &1.into()), "{ended}");
    assert_eq!(waiting.answer(), "ok", "its holder is alive, and would have kept it");

    let next = wait::until("a new session", PATIENCE, || session_of(fs.cluster, "e"));
    assert!(next["id"].as_u64() > Some(id), "{next}");
    wait::until("the holder to be told", PATIENCE, || (holder.tell("write lost") == "EIO").then_some(()));
    holder.does("close");
    waiting.does("lock ofd unlock");
    holder.does("open");
    holder.does("lock ofd exclusive");
    holder.does("write kept");
    holder.does("lock ofd unlock");
    waiting.does("lock ofd shared");
    assert_eq!(waiting.tell("read"), "kept");
    let again = format!(
        "{} --federation {} session expire --yes {id}",
        binary("dfs").display(),
        fs.cluster.federation().join(",")
    );
    let ran = try_sh_within(fs.cluster.dir(), &again, PATIENCE);
    assert_eq!(ran.code, Some(3), "{ran:?}");
    assert!(ran.stderr.contains(&format!("has no session {id}")), "{ran:?}");
    fs.cluster.unmount("e");
}

#[test]
fn locks_that_are_held_and_waited_for_survive_the_death_of_the_leader() {
    let cluster = Cluster::start(shape());
    let (a, b) = (cluster.mount("a").join("file"), cluster.mount("b").join("file"));
    let (mut holder, mut waiting, mut other) = (Locker::start(&a), Locker::start(&b), Locker::start(&b));
    for kind in RANGED {
        holder.does(&format!("lock {kind} exclusive 0 10"));
        holder.does(&format!("write {kind}"));
        waiting.waits(&format!("wait {kind} exclusive 5 10"));
        let leader = cluster.leader();
        cluster.kill(&leader);
        // At first a new leader does not know who holds what.
        assert_eq!(other.tell(&format!("lock {kind} shared 0 1")), "EAGAIN");
        assert_eq!(waiting.has_answered(), None);
        holder.does(&format!("lock {kind} unlock 0 10"));
        assert_eq!(waiting.answer(), "ok");
        assert!(waiting.tell("read").starts_with(kind));
        waiting.does(&format!("lock {kind} unlock"));
        cluster.start_daemon(&leader);
        cluster.wait_whole();
    }
    let errors = cluster.unexpected_errors();
    assert!(errors.is_empty(), "{errors:?}");
}

#[test]
fn a_mount_with_waiting_processes_ends_in_time() {
    let fs = scenario("mount_ends");
    fs.cluster.mount("d");
    let mut holder = Locker::start(&fs.dir("a").join("file"));
    holder.does("lock flock exclusive");
    let mut waiting = Locker::start(&fs.dir("d").join("file"));
    waiting.waits("wait flock exclusive");
    let began = wait::now();
    fs.cluster.unmount("d");
    assert!(began.elapsed() < Duration::from_secs(15), "it took {:?}", began.elapsed());
    assert_ne!(waiting.answer(), "ok");
    let ran = try_sh_within(&fs.dir("b"), "flock -n file true", Duration::from_secs(10));
    assert!(!ran.ok, "the other mount's lock is still held");
}
