//! What takes too long for every change: `make test-long`.

#![allow(clippy::unwrap_used, reason = "in a test an unwrap is an assertion")]

use std::fs::{self, File};
use std::io::Write as _;
use std::os::unix::fs::FileExt as _;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard};
use std::time::Duration;

use dfs_tests::cluster::{Cluster, Shape};
use dfs_tests::load::Copy;
use dfs_tests::power::{ALL_CUTS, Cut, Totals, cut_after_a_snapshot, cuts, shape};
use dfs_tests::shell::{sh, try_sh_within};
use dfs_tests::{daemon, sys, tree, wait};

/// For more than 1 GB in 50,000 files on a busy machine.
const COPY_DEADLINE: Duration = Duration::from_secs(1800);

fn turn() -> MutexGuard<'static, ()> {
    static TURN: Mutex<()> = Mutex::new(());
    TURN.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}

fn toolchain() -> PathBuf {
    PathBuf::from(sh(Path::new("/"), "rustc --print sysroot"))
}

#[track_caller]
fn long_sh(dir: &Path, script: &str) -> Duration {
    let before = wait::now();
    let ran = try_sh_within(dir, script, COPY_DEADLINE);
    assert!(ran.ok, "{script}: {ran:?}");
    before.elapsed()
}

#[test]
fn the_whole_toolchain_is_copied_compared_and_survives_a_restart_of_everything() {
    let _turn = turn();
    let cluster = Cluster::start(Shape::default());
    let dir = cluster.mount("a");
    let from = toolchain();
    let copied = long_sh(&dir, &format!("cp -a {} toolchain", from.display()));
    sys::drop_caches();
    let compare = format!("diff -r --no-dereference {} toolchain", from.display());
    let compared = long_sh(&dir, &compare);
    eprintln!("copied in {copied:?}, compared in {compared:?}");
    cluster.unmount("a");
    let servers: Vec<String> =
        cluster.metaserver_names().into_iter().chain(cluster.chunkserver_names()).collect();
    for name in &servers {
        cluster.terminate(name);
    }
    for name in &servers {
        cluster.start_daemon(name);
    }
    cluster.wait_whole();
    let dir = cluster.mount("a");
    long_sh(&dir, &compare);
    let removed = long_sh(&dir, "rm -r toolchain");
    eprintln!("removed in {removed:?}");
}

#[test]
fn a_copy_of_the_whole_toolchain_survives_the_death_of_the_leader_and_a_chunkserver() {
    let _turn = turn();
    let cluster = Cluster::start(Shape::default());
    let dir = cluster.mount("a");
    let from = toolchain();
    let files: usize = sh(&from, "find . | wc -l").parse().unwrap();
    let copy = Copy::start(&from, &dir.join("toolchain"));
    copy.wait_started(files / 2, COPY_DEADLINE);
    let leader = cluster.leader();
    cluster.kill(&leader);
    cluster.kill("chunk1");
    assert_ne!(cluster.leader(), leader);
    let reached = copy.started();
    assert_eq!(copy.finish(COPY_DEADLINE), files);
    assert!(reached < files, "files were copied after the kill");
    cluster.start_daemon(&leader);
    cluster.start_daemon("chunk1");
    cluster.wait_whole();
    sys::drop_caches();
    long_sh(&dir, &format!("diff -r --no-dereference {} toolchain", from.display()));
}

#[test]
fn a_metaserver_that_was_away_during_200000_operations_catches_up_through_a_snapshot() {
    let _turn = turn();
    let cluster = Cluster::start(Shape::default());
    let dir = cluster.mount("a");
    let leader = cluster.leader();
    let away = cluster.metaserver_names().into_iter().find(|name| *name != leader).unwrap();
    cluster.kill(&away);
    long_sh(
        &dir,
        "for w in $(seq 20); do (mkdir w$w; cd w$w; seq 10000 | xargs -n 200 mkdir) & done
         for job in $(jobs -p); do wait $job; done",
    );
    cluster.start_daemon(&away);
    let before = wait::now();
    cluster.wait_whole();
    eprintln!("caught up in {:?}", before.elapsed());
    assert!(cluster.log(&away).contains("snapshot"), "{}", cluster.log(&away));
    cluster.kill(&leader);
    cluster.wait_status("a new leader", Duration::from_secs(30), |_| true);
    let dir = cluster.remount_cold("a");
    assert_eq!(sh(&dir, "ls | wc -l"), "20");
    assert_eq!(sh(&dir, "ls w7 | wc -l"), "10000");
}

#[test]
fn two_hundred_power_cuts_lose_nothing_that_was_acknowledged() {
    let _turn = turn();
    // In five: what the load overwrites stays on the disks until there is compaction, and fills them after some eighty cuts.
    for seed in 12..17 {
        let totals = cuts(shape(), &ALL_CUTS, 40, seed).unwrap_or_else(|lost| panic!("{lost}"));
        println!("{totals:?}");
        assert!(
            totals.purged_segments >= 60 && totals.torn_segments >= 10,
            "the logs were not cut: {totals:?}"
        );
    }
}

/// Runs a scenario with daemons whose syncs of some files do nothing; somebody must notice, and nobody when there are no such
/// files: it is the syncs that count, not how they are left out.
fn left_out_syncs_are_found<T: std::fmt::Debug>(
    daemons: &str,
    files: &str,
    scenario: impl Fn(Shape) -> Result<T, String>,
) {
    let _turn = turn();
    let built = tempfile::tempdir().unwrap();
    let library = built.path().join("skip_sync.so").display().to_string();
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("shim/skip_sync.c");
    sh(Path::new("/"), &format!("clang -Wall -Werror -O1 -shared -fPIC -o {library} {}", source.display()));
    let set = |variable: &str, value: &str| (daemons.to_owned(), variable.to_owned(), value.to_owned());
    let run = |files: &str| {
        let environment = vec![set("LD_PRELOAD", &library), set("SKIP_SYNC_OF", files)];
        scenario(Shape { environment, ..shape() })
    };
    run("no such file").unwrap_or_else(|lost| panic!("with all syncs: {lost}"));
    match catch_unwind(AssertUnwindSafe(|| run(files))) {
        Ok(Ok(seen)) => panic!("nobody noticed: {seen:?}"),
        Ok(Err(lost)) => println!("noticed: {lost}"),
        Err(_) => println!("noticed: see the panic above"),
    }
}

fn ten_cuts_of_everything(shape: Shape) -> Result<Totals, String> {
    cuts(shape, &[Cut::Everything], 10, 11)
}

#[test]
fn chunkservers_that_leave_out_their_syncs_are_found() {
    left_out_syncs_are_found("chunk", "/", ten_cuts_of_everything);
}

#[test]
fn metaservers_that_leave_out_the_syncs_of_their_log_are_found() {
    left_out_syncs_are_found("meta", ".raftlog", ten_cuts_of_everything);
}

#[test]
fn metaservers_that_leave_out_the_sync_before_a_snapshots_rename_are_found() {
    left_out_syncs_are_found("meta", "CURRENT.new", cut_after_a_snapshot);
}

#[test]
fn deleted_files_give_their_space_back() {
    let _turn = turn();
    let cluster = Cluster::start(Shape { metaservers: 1, chunkservers: 2, ..Shape::default() });
    let dir = cluster.mount("a");
    let used = || {
        let data = cluster
            .chunkserver_names()
            .iter()
            .map(|name| cluster.data_dir(name).display().to_string())
            .collect::<Vec<_>>();
        let sum = sh(Path::new("/"), &format!("du -cm {} | tail -n 1 | cut -f 1", data.join(" ")));
        sum.parse::<u64>().unwrap()
    };
    let empty = used();
    tree::write_made(&dir.join("large"), 1, 300 << 20).unwrap();
    assert!(used() >= empty + 600);
    // Kept while it is open, given back afterwards.
    let open = File::open(dir.join("large")).unwrap();
    fs::remove_file(dir.join("large")).unwrap();
    drop(open);
    // What is still open is sealed when the session goes on or ends.
    cluster.unmount("a");
    wait::until("the disks to be empty again", Duration::from_secs(240), || {
        (used() < empty + 20).then_some(())
    });
}

#[test]
fn cost_per_operation_does_not_grow_with_the_directory_or_with_the_extents() {
    const ROUNDS: usize = 8;
    let _turn = turn();
    // Of one metaserver: the cost of replication, which does not grow, would hide a part of what does.
    let shape = Shape { metaservers: 1, default_caches: true, ..Shape::default() };
    let (small, large) = (Cluster::start(shape.clone()), Cluster::start(shape));
    fill(&small, 1_000);
    fill(&large, 1_000_000);
    // In turn: the machine is not equally fast all the time.
    let (mut of_small, mut of_large) = (Duration::MAX, Duration::MAX);
    for round in 0..ROUNDS {
        of_small = of_small.min(use_names(&small.mountpoint("a").join("filled"), round));
        of_large = of_large.min(use_names(&large.mountpoint("a").join("filled"), round));
    }
    eprintln!("1,000 entries: {of_small:?}, 1,000,000 entries: {of_large:?}");
    assert!(of_large < of_small.mul_f64(1.5), "{of_large:?} against {of_small:?}");
    drop(large);
    let dir = small.mountpoint("a");
    let (few, many) = (extents(&dir, 10), extents(&dir, 100_000));
    let (mut of_few, mut of_many) = (Duration::MAX, Duration::MAX);
    for _ in 0..ROUNDS {
        of_few = of_few.min(overwrite(&few, 10));
        of_many = of_many.min(overwrite(&many, 100_000));
    }
    eprintln!("10 extents: {of_few:?}, 100,000 extents: {of_many:?}");
    assert!(of_many < of_few.mul_f64(1.5), "{of_many:?} against {of_few:?}");
}

/// A directory of `count` files, made from four mounts: the kernel makes one name at a time in a directory of one mount.
fn fill(cluster: &Cluster, count: usize) {
    const THREADS: usize = 8;
    let mounts = ["a", "b", "c", "d"].map(|name| cluster.mount(name));
    fs::create_dir(mounts[0].join("filled")).unwrap();
    std::thread::scope(|scope| {
        for thread in 0..THREADS {
            let names = mounts[thread % mounts.len()].join("filled");
            scope.spawn(move || {
                for number in 0..count / THREADS {
                    File::create_new(names.join(format!("{thread}-{number}"))).unwrap();
                }
            });
        }
    });
}

/// How long it takes to make, look at and remove 300 files.
fn use_names(dir: &Path, round: usize) -> Duration {
    let before = wait::now();
    for number in 0..300 {
        let path = dir.join(format!("probe{round}-{number}"));
        File::create(&path).unwrap();
        fs::metadata(&path).unwrap();
        fs::remove_file(&path).unwrap();
    }
    before.elapsed()
}

/// A file of `count` extents: every other page, so that nothing merges.
fn extents(dir: &Path, count: u64) -> File {
    let file = File::create(dir.join(format!("extents{count}"))).unwrap();
    for number in 0..count {
        file.write_all_at(&[1; 4096], number * 8192).unwrap();
        if number % 500 == 499 {
            file.sync_all().unwrap();
        }
    }
    file.sync_all().unwrap();
    file
}

/// How long it takes to overwrite and sync 200 of its extents.
fn overwrite(file: &File, count: u64) -> Duration {
    let before = wait::now();
    for number in 0..200 {
        file.write_all_at(&[2; 4096], number * 7919 % count * 8192).unwrap();
        file.sync_all().unwrap();
    }
    before.elapsed()
}

#[test]
fn an_idle_mount_and_its_servers_take_little() {
    let _turn = turn();
    let cluster = Cluster::start(Shape::default());
    cluster.mount("a");
    let names: Vec<String> = cluster
        .metaserver_names()
        .into_iter()
        .chain(cluster.chunkserver_names())
        .chain(["a".to_owned()])
        .collect();
    let pids: Vec<u32> = names.iter().map(|name| cluster.pid(name).unwrap()).collect();
    let ticks = || -> u64 { pids.iter().map(|pid| daemon::cpu_ticks(*pid)).sum() };
    let (before, start) = (ticks(), wait::now());
    // The one wait of these tests that waits for time itself.
    wait::pause(Duration::from_secs(30));
    let per_second = (ticks() - before) as f64 / start.elapsed().as_secs_f64();
    let resident: u64 = pids.iter().map(|pid| resident_mib(*pid)).sum();
    eprintln!("idle: {per_second:.2} % of a core, {resident} MiB");
    assert!(per_second < 2.0, "{per_second} % of a core");
    assert!(resident < 500, "{resident} MiB");
    std::io::stderr().flush().unwrap();
}

fn resident_mib(pid: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").trim().parse::<u64>().unwrap() / 1024
}
