//! Servers killed, stopped and emptied while programs work. Everything random prints its seed; `DFS_SEED` repeats it.
//!
//! The scenarios take turns: each has the machine for itself, so that stalls mean something.

#![allow(clippy::unwrap_used, reason = "in a test an unwrap is an assertion")]

use std::fs::{self, File};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard};
use std::time::Duration;

use dfs_tests::cluster::{Cluster, Shape};
use dfs_tests::load::{Copy, NamespaceLoop};
use dfs_tests::power::{ALL_CUTS, cut_after_a_snapshot, cuts, purged_segments, shape};
use dfs_tests::shell::{sh, try_sh_within};
use dfs_tests::{sys, tree, wait};
use rand::rngs::SmallRng;
use rand::{Rng as _, SeedableRng as _};

/// Of metaservers whose logs are cut, and their files used again, all the time.
const PURGES: &str = "snapshot_every_logs = 300\nlog_segment_kib = 64\n";
/// A copy goes on after a failure; a minute is far more than the stall that is promised.
const COPY_DEADLINE: Duration = Duration::from_secs(120);
/// Promise 5: at the worst, on a machine with two cores for all of it.
const STALL_MAX: Duration = Duration::from_secs(10);

fn turn() -> MutexGuard<'static, ()> {
    static TURN: Mutex<()> = Mutex::new(());
    TURN.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}

fn seed() -> u64 {
    let given = std::env::var("DFS_SEED").ok().and_then(|seed| seed.parse().ok());
    let seed = given.unwrap_or_else(rand::random);
    eprintln!("seed {seed} (DFS_SEED={seed} repeats it)");
    seed
}

/// What befalls a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    Killed,
    /// SIGSTOP: its connections stay open, and it says nothing.
    Stopped,
}

impl Fault {
    fn befall(self, cluster: &Cluster, server: &str) {
        match self {
            Fault::Killed => cluster.kill(server),
            Fault::Stopped => cluster.pause(server),
        }
    }

    fn end(self, cluster: &Cluster, server: &str) {
        match self {
            Fault::Killed => cluster.start_daemon(server),
            Fault::Stopped => cluster.resume(server),
        }
    }
}

/// Whom it befalls.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Victim {
    Leader,
    Chunkserver,
    Both,
}

/// One copy of `source`, which has `files` files, with a fault when it has reached the `at`-th.
fn copy_through_a_fault(
    cluster: &Cluster,
    source: &Path,
    files: usize,
    (victim, fault): (Victim, Fault),
    at: usize,
    rng: &mut SmallRng,
) {
    let dir = cluster.mountpoint("a");
    let target = dir.join("copy");
    let names = NamespaceLoop::start(dir.join("names"));
    let copy = Copy::start(source, &target);
    copy.wait_started(at, COPY_DEADLINE);
    let leader = cluster.leader();
    let chunkserver = format!("chunk{}", rng.random_range(1..=cluster.shape.chunkservers));
    let reached = copy.started();
    let lost: Vec<&String> = match victim {
        Victim::Leader => vec![&leader],
        Victim::Chunkserver => vec![&chunkserver],
        Victim::Both => vec![&leader, &chunkserver],
    };
    for name in &lost {
        fault.befall(cluster, name);
    }
    let rounds_before = names.rounds();
    if victim != Victim::Chunkserver {
        let others = || (1..=cluster.shape.metaservers).filter(|id| format!("meta{id}") != leader);
        let leads = |id| cluster.status_of(id).is_some_and(|status| status.is_leader);
        wait::until("another leader", COPY_DEADLINE, || others().any(leads).then_some(()));
    }
    let all = copy.finish(COPY_DEADLINE);
    let seen = names.finish();
    eprintln!("{victim:?} {lost:?} {fault:?} at {reached} of {all} files; beside it {seen:?}");
    assert!(reached > 0 && reached < files, "files were copied before ({reached}) and after the fault");
    assert_eq!(all, files);
    assert!(seen.rounds > rounds_before + 1, "the namespace loop went on after the fault");
    assert!(seen.longest_stall < STALL_MAX, "stalled for {:?}", seen.longest_stall);
    for name in &lost {
        fault.end(cluster, name);
    }
    cluster.wait_whole();
    sys::drop_caches();
    tree::assert_same(source, &target);
    sh(&dir, "rm -r copy names");
}

fn count_files(root: &Path) -> usize {
    sh(root, "find . | wc -l").parse().unwrap()
}

#[test]
fn a_copy_of_many_files_and_a_large_one_survives_kills_at_eight_moments() {
    let _turn = turn();
    let mut rng = SmallRng::seed_from_u64(seed());
    let outside = tempfile::tempdir().unwrap();
    let source = outside.path().join("made");
    tree::make(&source, 5, 3000).unwrap();
    tree::write_made(&source.join("large"), 6, 256 << 20).unwrap();
    let files = count_files(&source);
    let cluster = Cluster::start(Shape { metaserver_extra: PURGES.to_owned(), ..Shape::default() });
    cluster.mount("a");
    let victims = [Victim::Leader, Victim::Chunkserver, Victim::Both];
    for moment in 0..8 {
        let at = rng.random_range(files / 50..files * 9 / 10);
        copy_through_a_fault(&cluster, &source, files, (victims[moment % 3], Fault::Killed), at, &mut rng);
    }
    let members = cluster.metaserver_names();
    let purged: u64 = members.iter().map(|name| purged_segments(&cluster.data_dir(name))).sum();
    assert!(purged >= 10, "the logs were not cut: {purged} segments are gone");
}

#[test]
fn a_copy_survives_a_leader_and_a_chunkserver_that_stop_and_say_nothing() {
    let _turn = turn();
    let mut rng = SmallRng::seed_from_u64(seed());
    let outside = tempfile::tempdir().unwrap();
    let source = outside.path().join("made");
    tree::make(&source, 7, 2000).unwrap();
    tree::write_made(&source.join("large"), 8, 128 << 20).unwrap();
    let files = count_files(&source);
    let cluster = Cluster::start(Shape::default());
    cluster.mount("a");
    for victim in [Victim::Leader, Victim::Chunkserver, Victim::Both] {
        let at = rng.random_range(files / 50..files * 9 / 10);
        copy_through_a_fault(&cluster, &source, files, (victim, Fault::Stopped), at, &mut rng);
    }
}

#[test]
fn a_copy_of_the_compiler_survives_kills_at_two_moments() {
    let _turn = turn();
    let mut rng = SmallRng::seed_from_u64(seed());
    let sysroot = sh(Path::new("/"), "rustc --print sysroot");
    let source = PathBuf::from(sysroot).join("lib");
    let files = count_files(&source);
    let cluster = Cluster::start(Shape::default());
    cluster.mount("a");
    for victim in [Victim::Both, Victim::Leader] {
        let at = rng.random_range(files / 10..files * 8 / 10);
        copy_through_a_fault(&cluster, &source, files, (victim, Fault::Killed), at, &mut rng);
    }
}

#[test]
fn with_the_chunkservers_stopped_one_after_the_other_every_file_reads() {
    let _turn = turn();
    let cluster = Cluster::start(Shape::default());
    let dir = cluster.mount("a");
    let outside = tempfile::tempdir().unwrap();
    let source = outside.path().join("made");
    tree::make(&source, 8, 600).unwrap();
    tree::write_made(&source.join("large"), 9, 100 << 20).unwrap();
    sh(&dir, &format!("cp -a {} copy", source.display()));
    for name in cluster.chunkserver_names() {
        cluster.kill(&name);
        let dir = cluster.remount_cold("a");
        tree::assert_same(&source, &dir.join("copy"));
        cluster.start_daemon(&name);
        cluster.wait_whole();
    }
}

#[test]
fn leader_changes_under_load_leave_no_degraded_chunk() {
    let _turn = turn();
    let cluster = Cluster::start(Shape::default());
    let dir = cluster.mount("a");
    let names = NamespaceLoop::start(dir.join("names"));
    let mut last = cluster.leader();
    for change in 0..50 {
        // Each change opens a chunk or two: a file, and now and then a new session.
        fs::write(dir.join(format!("f{change}")), tree::bytes(change, 200_000)).unwrap();
        // SIGTERM hands the lead over; the member is back before the next change.
        cluster.terminate(&last);
        let next = cluster.leader();
        assert_ne!(next, last);
        fs::write(dir.join(format!("g{change}")), tree::bytes(change, 200_000)).unwrap();
        cluster.start_daemon(&last);
        cluster.wait_whole();
        last = next;
    }
    let seen = names.finish();
    eprintln!("{seen:?}");
    assert!(seen.longest_stall < STALL_MAX, "stalled for {:?}", seen.longest_stall);
    let status = cluster.wait_status("a status", Duration::from_secs(10), |_| true);
    assert_eq!((status.chunks_degraded, status.chunks_damaged), (0, 0), "{status:#?}");
    for change in 0..50 {
        for name in ["f", "g"] {
            let read = fs::read(dir.join(format!("{name}{change}"))).unwrap();
            assert!(read == tree::bytes(change, 200_000), "{name}{change}");
        }
    }
}

#[test]
fn a_stopped_leader_is_replaced_and_does_no_harm_when_it_goes_on() {
    let _turn = turn();
    let cluster = Cluster::start(Shape::default());
    let dir = cluster.mount("a");
    let names = NamespaceLoop::start(dir.join("names"));
    for round in 0..3 {
        let leader = cluster.leader();
        cluster.pause(&leader);
        wait::until("another leader", Duration::from_secs(20), || {
            (1..=3)
                .filter(|id| format!("meta{id}") != leader)
                .find_map(|id| cluster.status_of(id).filter(|s| s.is_leader))
        });
        fs::write(dir.join("file"), format!("round {round}")).unwrap();
        cluster.resume(&leader);
        cluster.wait_whole();
        assert_eq!(fs::read_to_string(dir.join("file")).unwrap(), format!("round {round}"));
    }
    let seen = names.finish();
    eprintln!("{seen:?}");
    assert!(seen.longest_stall < STALL_MAX, "stalled for {:?}", seen.longest_stall);
}

#[test]
fn an_emptied_metaserver_stops_and_with_another_killed_nothing_acknowledged_is_lost() {
    let _turn = turn();
    let cluster = Cluster::start(Shape::default());
    let dir = cluster.mount("a");
    let leader = cluster.leader();
    let mut others = cluster.metaserver_names();
    others.retain(|name| *name != leader);
    let (emptied, lagging) = (others[0].clone(), others[1].clone());
    fs::create_dir(dir.join("kept")).unwrap();
    for number in 0..50_u64 {
        if number == 10 {
            // What follows is acknowledged by the leader and the one that will be emptied.
            cluster.pause(&lagging);
        }
        fs::write(dir.join(format!("kept/{number}")), tree::bytes(number, 2000)).unwrap();
    }
    cluster.kill(&leader);
    cluster.empty(&emptied);
    cluster.resume(&lagging);
    cluster.expect_error("director"); // it says whose directory it misses
    cluster.start_daemon(&emptied);
    let status = cluster.wait_exit(&emptied, Duration::from_secs(30));
    assert!(!status.success(), "an emptied member must not serve: {status}");
    let log = cluster.log(&emptied);
    assert_eq!(
        log.lines().filter(|line| line.starts_with("dfs-metaserver: ")).count(),
        1,
        "one line says why: {log}"
    );
    assert!(cluster.status().is_none(), "the lagging member alone leads nobody");
    cluster.start_daemon(&leader);
    cluster.wait_status("a leader", Duration::from_secs(30), |_| true);
    let dir = cluster.remount_cold("a");
    for number in 0..50_u64 {
        let read = fs::read(dir.join(format!("kept/{number}"))).unwrap();
        assert!(read == tree::bytes(number, 2000), "file {number}");
    }
}

#[test]
fn with_every_server_stopped_ls_ends_by_the_deadline() {
    let _turn = turn();
    let cluster = Cluster::start(Shape { deadline_ms: 4000, ..Shape::default() });
    let dir = cluster.mount("a");
    fs::write(dir.join("file"), "x").unwrap();
    let servers: Vec<String> =
        cluster.metaserver_names().into_iter().chain(cluster.chunkserver_names()).collect();
    for name in &servers {
        cluster.pause(name);
    }
    let before = wait::now();
    let ran = try_sh_within(Path::new("/"), &format!("ls -l {}", dir.display()), Duration::from_secs(60));
    assert!(!ran.ok, "{ran:?}");
    assert!(before.elapsed() < Duration::from_secs(10), "it took {:?}", before.elapsed());
    for name in &servers {
        cluster.resume(name);
    }
    wait::until("the mount to work again", Duration::from_secs(30), || fs::read(dir.join("file")).ok());
}

#[test]
fn with_every_copy_away_a_read_ends_with_an_error_at_the_deadline_and_never_with_zeros() {
    let _turn = turn();
    let cluster =
        Cluster::start(Shape { metaservers: 1, chunkservers: 2, deadline_ms: 4000, ..Shape::default() });
    let dir = cluster.mount("a");
    fs::write(dir.join("file"), tree::bytes(1, 1 << 20)).unwrap();
    let dir = cluster.remount_cold("a");
    cluster.kill("chunk1");
    cluster.kill("chunk2");
    let before = wait::now();
    let error = fs::read(dir.join("file")).unwrap_err();
    assert_eq!(error.raw_os_error(), Some(libc::EIO));
    assert!(before.elapsed() < Duration::from_secs(12), "it took {:?}", before.elapsed());
    assert_eq!(fs::metadata(dir.join("file")).unwrap().len(), 1 << 20, "metadata work on");
    cluster.start_daemon("chunk1");
    cluster.start_daemon("chunk2");
    cluster.wait_whole();
    assert!(fs::read(dir.join("file")).unwrap() == tree::bytes(1, 1 << 20));
}

#[test]
fn writes_go_on_with_one_chunkserver_less_and_are_shown_as_degraded() {
    let _turn = turn();
    let cluster = Cluster::start(Shape { metaservers: 1, chunkservers: 2, ..Shape::default() });
    let dir = cluster.mount("a");
    let mut open = File::create(dir.join("open")).unwrap();
    open.write_all(&tree::bytes(1, 500_000)).unwrap();
    cluster.kill("chunk2");
    let before = wait::now();
    open.write_all(&tree::bytes(2, 500_000)).unwrap();
    open.sync_all().unwrap();
    assert!(before.elapsed() < STALL_MAX, "the sync took {:?}", before.elapsed());
    drop(open);
    let mut expected = tree::bytes(1, 500_000);
    expected.extend(tree::bytes(2, 500_000));
    let dir = cluster.remount_cold("a");
    assert!(fs::read(dir.join("open")).unwrap() == expected);
    cluster
        .wait_status("the chunk to be shown as degraded", Duration::from_secs(15), |s| s.chunks_degraded > 0);
    cluster.start_daemon("chunk2");
    cluster.wait_whole();
}

#[test]
fn a_metaserver_that_was_away_catches_up_through_a_snapshot() {
    let _turn = turn();
    let cluster = Cluster::start(Shape {
        metaserver_extra: "snapshot_every_logs = 200\nlog_segment_kib = 64\n".to_owned(),
        ..Shape::default()
    });
    let dir = cluster.mount("a");
    let leader = cluster.leader();
    let away = cluster.metaserver_names().into_iter().find(|name| *name != leader).unwrap();
    cluster.kill(&away);
    let logged = |status: &dfs_proto::wire::StatusReply| status.last_log;
    let before = logged(&cluster.status().unwrap());
    let mut batch = 0;
    while logged(&cluster.wait_status("a status", Duration::from_secs(20), |_| true)) < before + 3000 {
        sh(&dir, &format!("mkdir b{batch}; cd b{batch}; seq 200 | xargs -n 1 mkdir; rmdir 1 2 3"));
        batch += 1;
    }
    cluster.start_daemon(&away);
    cluster.wait_whole();
    let log = cluster.log(&away);
    assert!(log.contains("snapshot"), "it was given a snapshot: {log}");
    // Now it is needed: a majority is it and one other.
    cluster.kill(&leader);
    cluster.wait_status("a new leader", Duration::from_secs(20), |_| true);
    let dir = cluster.remount_cold("a");
    assert_eq!(sh(&dir, "ls | wc -l"), batch.to_string());
    assert_eq!(sh(&dir, "ls b0 | wc -l"), "197");
    cluster.start_daemon(&leader);
    cluster.wait_whole();
}

#[test]
fn a_metaserver_that_loses_power_right_after_it_installed_a_snapshot_knows_everything() {
    let _turn = turn();
    cut_after_a_snapshot(shape()).unwrap_or_else(|lost| panic!("{lost}"));
}

#[test]
fn twenty_power_cuts_lose_nothing_that_was_acknowledged() {
    let _turn = turn();
    let totals = cuts(shape(), &ALL_CUTS, 20, 11).unwrap_or_else(|lost| panic!("{lost}"));
    println!("{totals:?}");
    assert!(totals.acknowledged >= 1000, "too little was under way: {totals:?}");
    assert!(totals.purged_segments >= 30 && totals.torn_segments >= 5, "the logs were not cut: {totals:?}");
}
