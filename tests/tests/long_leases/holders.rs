//! Whoever holds a lease is killed or stopped, with the leader or without.

use std::fs::{self, File, OpenOptions};
use std::io::{Read as _, Write as _};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use dfs_tests::cluster::{Cluster, Shape};
use dfs_tests::figures::{Figures, median};
use dfs_tests::{sys, wait};

use crate::{TERM, milliseconds, turn};

/// The mount commits nothing by itself.
const NEVER: &str = "commit_interval_ms = 60000\n";
/// The leader looks four times a second who was silent for a term, and commits that.
const LOOKS: Duration = Duration::from_millis(500);
/// Until there is a new leader, besides.
const ELECTION: Duration = Duration::from_secs(2);
const COMMITTED: &[u8] = b"committed";
const WRITTEN: &[u8] = b"WRITTEN";

/// Opens a file that is committed, and writes over its start without an fsync.
fn write_unsynced(path: &Path) -> File {
    fs::write(path, COMMITTED).unwrap();
    let mut file = OpenOptions::new().read(true).write(true).open(path).unwrap();
    file.sync_all().unwrap();
    file.write_all(WRITTEN).unwrap();
    file
}

fn timed<T>(act: impl FnOnce() -> T) -> (T, Duration) {
    let before = wait::now();
    let done = act();
    (done, before.elapsed())
}

/// Two mounts, `a` and the holder `h`, which has files of these names with unsynced bytes, and the first one locked.
fn held(cluster: &Cluster, names: &[&str]) -> Vec<File> {
    let [a, h] = ["a", "h"].map(|mount| {
        cluster.add_mount(mount);
        cluster.configure_mount(mount, NEVER);
        cluster.mount(mount)
    });
    fs::create_dir(a.join("d")).unwrap();
    let files: Vec<File> = names.iter().map(|name| write_unsynced(&h.join("d").join(name))).collect();
    sys::flock(&files[0], libc::LOCK_EX).unwrap();
    files
}

/// How long the other mount waits for the attributes and bytes of a file, and for its lock; it is shown the committed bytes.
fn wait_for_holder(cluster: &Cluster, name: &str) -> Duration {
    let path = cluster.mountpoint("a").join("d").join(name);
    let (file, took) = timed(|| {
        let mut file = OpenOptions::new().read(true).write(true).open(&path).unwrap();
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes).unwrap();
        assert_eq!(bytes, COMMITTED);
        sys::flock(&file, libc::LOCK_EX).unwrap();
        file
    });
    drop(file);
    took
}

#[test]
fn a_holder_that_is_killed_costs_the_others_one_term_with_the_leader_too() {
    let _turn = turn();
    let mut figures = Figures::new(
        "killed_holder",
        "A mount with unsynced bytes and a lock is killed; how long another one waits for the file and the lock.",
    );
    for is_leader_killed in [false, true] {
        let cluster = Cluster::start(Shape::default());
        let files = held(&cluster, &["file"]);
        let leader = cluster.leader();
        cluster.kill("h");
        if is_leader_killed {
            cluster.kill(&leader);
        }
        let took = wait_for_holder(&cluster, "file");
        let (what, limit) = match is_leader_killed {
            true => ("killed together with the leader", TERM + ELECTION),
            false => ("killed", TERM + LOOKS),
        };
        figures.at_most(what, milliseconds(took), milliseconds(limit), "ms");
        files.into_iter().for_each(|file| drop(sys::close(file)));
        sys::unmount_lazily(&cluster.mountpoint("h")).unwrap();
    }
    figures.end();
}

/// How many of these calls fail with EIO; none fails otherwise.
fn errors(results: impl IntoIterator<Item = std::io::Result<()>>) -> u64 {
    let failed = results.into_iter().filter_map(Result::err);
    failed.inspect(|error| assert_eq!(error.raw_os_error(), Some(libc::EIO), "{error}")).count() as u64
}

#[test]
fn a_holder_that_is_stopped_for_a_minute_is_told_of_what_it_lost_once_and_only_if_somebody_waited() {
    const STOPPED: Duration = Duration::from_secs(60);
    let _turn = turn();
    let mut figures = Figures::new(
        "stopped_holder",
        "A mount with unsynced bytes and a lock is stopped for 60 s, and goes on.",
    );
    for is_waited_for in [true, false] {
        let cluster = Cluster::start(Shape::default());
        let mut files = held(&cluster, &["one", "two"]);
        let before = wait::now();
        cluster.pause("h");
        if is_waited_for {
            let took = wait_for_holder(&cluster, "one");
            figures.at_most("somebody waited", milliseconds(took), milliseconds(TERM + LOOKS), "ms");
            cluster.expect_error("lost");
        }
        wait::until("the minute to pass", 2 * STOPPED, || (before.elapsed() >= STOPPED).then_some(()));
        cluster.resume("h");
        let first = errors(files.iter().map(File::sync_all));
        let again = errors(files.iter().map(File::sync_all));
        let what = if is_waited_for { "somebody waited" } else { "nobody waited" };
        figures.is(
            &format!("{what}: open files told of lost bytes"),
            first,
            if is_waited_for { 2 } else { 0 },
        );
        figures.is(&format!("{what}: told again"), again, 0);
        files.drain(..).for_each(|file| drop(sys::close(file)));
        let meant =
            if is_waited_for { COMMITTED.to_vec() } else { [WRITTEN, &COMMITTED[WRITTEN.len()..]].concat() };
        let wrong = ["a", "h"].iter().flat_map(|mount| ["one", "two"].map(|name| (*mount, name))).filter(
            |(mount, name)| fs::read(cluster.mountpoint(mount).join("d").join(name)).unwrap() != meant,
        );
        figures.is(
            &format!("{what}: files that a mount shows otherwise than it should"),
            wrong.count() as u64,
            0,
        );
        fs::write(cluster.mountpoint("h").join("d/after"), "it goes on").unwrap();
        assert_eq!(fs::read(cluster.mountpoint("a").join("d/after")).unwrap(), b"it goes on");
    }
    figures.end();
}

/// What a worker has done until it is told to end.
#[derive(Default)]
struct Worker {
    rounds: AtomicU64,
}

/// Each round is a change, and a look at what the other mount has changed.
fn work(own: &Path, other: &Path, who: &str, worker: &Worker, is_over: &AtomicBool) -> Duration {
    let mut longest = Duration::ZERO;
    while !is_over.load(Ordering::Relaxed) {
        let round = worker.rounds.load(Ordering::Relaxed);
        let ((), took) = timed(|| {
            let shared = own.join(format!("shared-{who}"));
            fs::write(&shared, round.to_string()).unwrap();
            assert_eq!(fs::read_to_string(other.join(format!("shared-{who}"))).unwrap(), round.to_string());
            fs::rename(&shared, own.join(format!("renamed-{who}"))).unwrap();
            assert!(!other.join(format!("shared-{who}")).exists());
            fs::write(own.join(format!("own-{who}")), [round as u8; 1000]).unwrap();
        });
        longest = longest.max(took);
        worker.rounds.fetch_add(1, Ordering::Relaxed);
    }
    longest
}

/// What befalls a leader, and what ends it.
type Fault = (&'static str, fn(&Cluster, &str), fn(&Cluster, &str));

#[test]
fn a_leader_that_is_killed_or_stopped_costs_two_mounts_with_shared_files_no_error() {
    const ROUNDS: usize = 3;
    const PATIENCE: Duration = Duration::from_secs(60);
    const FAULTS: [Fault; 2] =
        [("killed", Cluster::kill, Cluster::start_daemon), ("stopped", Cluster::pause, Cluster::resume)];
    let _turn = turn();
    let mut figures = Figures::new(
        "leader",
        "The leader is killed or stopped while two mounts work on shared files and on their own: the longest round.",
    );
    let cluster = Cluster::start(Shape::default());
    let [a, b] = ["a", "b"].map(|mount| cluster.mount(mount).join("d"));
    fs::create_dir(&a).unwrap();
    for (what, befall, end) in FAULTS {
        let stalls = (0..ROUNDS).map(|_| {
            let (is_over, workers) = (AtomicBool::new(false), [Worker::default(), Worker::default()]);
            let stall = std::thread::scope(|scope| {
                let (is_over, [one, two]) = (&is_over, &workers);
                let threads = [
                    scope.spawn(|| work(&a, &b, "a", one, is_over)),
                    scope.spawn(|| work(&b, &a, "b", two, is_over)),
                ];
                let goes_on = |count: u64| {
                    let before = [one, two].map(|worker| worker.rounds.load(Ordering::Relaxed));
                    let goes_on = wait::at_most(PATIENCE, || {
                        let now = [one, two].map(|worker| worker.rounds.load(Ordering::Relaxed));
                        (now[0] >= before[0] + count && now[1] >= before[1] + count).then_some(())
                    });
                    goes_on.is_some()
                };
                let has_begun = goes_on(20);
                let leader = cluster.leader();
                befall(&cluster, &leader);
                let has_gone_on = goes_on(20);
                end(&cluster, &leader);
                is_over.store(true, Ordering::Relaxed); // in any case, or the workers would never end
                assert!(has_begun && has_gone_on, "{what}: {has_begun}, {has_gone_on}");
                threads.map(|thread| thread.join().unwrap()).into_iter().max().unwrap()
            });
            cluster.wait_whole();
            milliseconds(stall)
        });
        let stalls: Vec<f64> = stalls.collect();
        figures.at_most(&format!("{what}, median of {ROUNDS}"), median(stalls.clone()), 3000.0, "ms");
        figures.at_most(&format!("{what}, worst"), stalls.iter().copied().fold(0.0, f64::max), 6000.0, "ms");
    }
    figures.end();
}
