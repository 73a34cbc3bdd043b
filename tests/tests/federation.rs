//! Two clusters under one root, as a user of the mount and of `dfs` sees them.

#![allow(clippy::unwrap_used, reason = "in a test an unwrap is an assertion")]

use std::fs;
use std::sync::{Mutex, MutexGuard};
use std::time::Duration;

use dfs_tests::cluster::{Cluster, Shape};
use dfs_tests::federation::{Federation, rounds};
use dfs_tests::load::{COPIED_LEN, Copying};
use dfs_tests::shell::{sh, try_sh};
use dfs_tests::{tree, wait};

/// Deadline of the mounts, so that what waits for a lost cluster is measured in seconds.
const DEADLINE_MS: u64 = 5_000;
const BACK_DEADLINE: Duration = Duration::from_secs(60);
/// What does not concern a lost cluster must not wait for it.
const STALL_MAX: Duration = Duration::from_secs(1);

fn turn() -> MutexGuard<'static, ()> {
    static TURN: Mutex<()> = Mutex::new(());
    TURN.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}

fn start() -> Federation {
    Federation::start(Shape { metaservers: 3, chunkservers: 2, deadline_ms: DEADLINE_MS, ..Shape::default() })
}

fn volumes(federation: &Federation) -> serde_json::Value {
    serde_json::from_str(&federation.dfs("volume list --json").unwrap()).unwrap()
}

fn volumes_of(federation: &Federation, cluster: &str) -> usize {
    volumes(federation).as_array().unwrap().iter().filter(|volume| volume["cluster"] == cluster).count()
}

#[test]
fn directories_of_the_root_are_placed_on_both_clusters_and_used_like_any_other() {
    let _turn = turn();
    let federation = start();
    let dir = federation.alpha.mount("a");
    for number in 0..8 {
        let volume = dir.join(format!("d{number}"));
        fs::create_dir(&volume).unwrap();
        tree::make(&volume.join("tree"), number, 20).unwrap();
    }
    // Alpha has the root directory's besides. Who is busier gets fewer.
    let (alpha, beta) = (volumes_of(&federation, "alpha"), volumes_of(&federation, "beta"));
    assert!(alpha + beta == 9 && alpha.abs_diff(beta) <= 3, "{alpha} and {beta}");
    fs::write(dir.join("plain"), "a file of the root directory").unwrap();
    let other = federation.alpha.mount("b");
    assert_eq!(fs::read_to_string(other.join("plain")).unwrap(), "a file of the root directory");
    for number in 0..8 {
        let (one, two) = (dir.join(format!("d{number}")), other.join(format!("d{number}")));
        tree::assert_same(&one, &two);
    }
    let listed = sh(&dir, "ls -l | grep -c ^d");
    assert_eq!(listed, "8");
}

#[test]
fn a_volume_is_renamed_in_the_root_copied_elsewhere_and_removed_when_it_is_empty() {
    let _turn = turn();
    let federation = start();
    let dir = federation.alpha.mount("a");
    federation.make_volume("here", &federation.alpha);
    federation.make_volume("there", &federation.beta);
    fs::write(dir.join("there/file"), "bytes").unwrap();
    fs::rename(dir.join("there"), dir.join("elsewhere")).unwrap();
    assert_eq!(fs::read_to_string(dir.join("elsewhere/file")).unwrap(), "bytes");
    let across = fs::rename(dir.join("elsewhere/file"), dir.join("here/file")).unwrap_err();
    assert_eq!(across.raw_os_error(), Some(libc::EXDEV));
    sh(&dir, "mv elsewhere/file here/file && cat here/file && rmdir elsewhere");
    assert!(!dir.join("elsewhere").exists());
    assert!(!try_sh(&dir, "rmdir here").ok, "it is not empty");
    wait::until("the volume to go", BACK_DEADLINE, || (volumes_of(&federation, "beta") == 0).then_some(()));
}

/// How every server of a cluster is lost at once. Links that go down: `machines`.
#[derive(Clone, Copy, Debug)]
enum Loss {
    Killed,
    /// SIGSTOP: connections stay open, and nobody answers.
    Stopped,
}

impl Loss {
    fn befall(self, cluster: &Cluster) {
        cluster.server_names().iter().for_each(|server| match self {
            Loss::Killed => cluster.kill(server),
            Loss::Stopped => cluster.pause(server),
        });
    }

    fn end(self, cluster: &Cluster) {
        cluster.server_names().iter().for_each(|server| match self {
            Loss::Killed => cluster.start_daemon(server),
            Loss::Stopped => cluster.resume(server),
        });
    }
}

/// With `lost` lost whole: a copy into the other one does not notice, also from a new mount; what is lost says so at once
/// after the first deadline; and all of it is there again without touching the mount.
fn one_cluster_is_lost(federation: &Federation, lost: &Cluster, living: &Cluster, loss: Loss) {
    let dir = federation.alpha.mount("a");
    federation.make_volume("in-alpha", &federation.alpha);
    federation.make_volume("in-beta", &federation.beta);
    let name = |cluster: &Cluster| format!("in-{}", cluster.shape.name);
    let (gone, there) = (dir.join(name(lost)), dir.join(name(living)));
    fs::write(gone.join("file"), "kept").unwrap();
    fs::write(there.join("file"), "kept").unwrap();
    let copy = Copying::start(&there);
    copy.wait_for(20);
    loss.befall(lost);
    let deadline = Duration::from_millis(DEADLINE_MS);
    let has_root = living.shape.name == "alpha";
    // The listing of the root is its cluster's (P9.1); names in it are known to everybody.
    let find = || {
        let before = wait::now();
        let ran = try_sh(&dir, "find . in-alpha in-beta -name file");
        (ran, before.elapsed())
    };
    let (first, took) = find();
    assert!(!first.ok && first.stderr.contains("Input/output error"), "{first:?}");
    assert!(took < deadline * 2, "find took {took:?}");
    let found: &[String] = &[format!("./{}/file", name(living)), format!("{}/file", name(living))];
    let found = if has_root { found } else { &found[1..] };
    assert_eq!(first.stdout.lines().collect::<Vec<_>>(), found, "{first:?}");
    let (again, took) = find();
    assert!(!again.ok && took < STALL_MAX, "{again:?} after {took:?}");
    let listed = try_sh(&dir, "ls");
    assert_eq!(
        (listed.ok, listed.stdout.lines().count()),
        if has_root { (true, 2) } else { (false, 0) },
        "{listed:?}"
    );
    let (copied, stalled) = copy.finish();
    eprintln!("{} {loss:?}: worst stall of {copied} files: {stalled:?}", name(lost));
    assert!(stalled < STALL_MAX, "a file of the living cluster took {stalled:?}");
    let before = wait::now();
    for (command, works) in [
        ("mkdir new", has_root),
        ("mv in-alpha moved", has_root),
        ("mv moved in-alpha", has_root),
        ("rmdir in-beta", false),
    ] {
        let ran = try_sh(&dir, command);
        assert!(ran.ok == works, "{command}: {ran:?}");
        assert!(works || ran.stderr.contains("Input/output error"), "{command}: {ran:?}");
    }
    assert!(before.elapsed() < deadline * 2, "changes of the root took {:?}", before.elapsed());
    // A refused change of a name in the root made this mount distrust the map for that name: the living volume was EIO.
    assert_eq!(fs::read_to_string(there.join("file")).unwrap(), "kept");
    let fresh = federation.alpha.mount("fresh");
    assert_eq!(fs::read(fresh.join(name(living)).join("f19")).unwrap().len(), COPIED_LEN);
    loss.end(lost);
    lost.wait_whole();
    wait::until("the lost volume to be back", BACK_DEADLINE, || fs::read_to_string(gone.join("file")).ok());
    let (whole, _) = find();
    assert_eq!((whole.ok, whole.stdout.lines().count()), (true, 4), "{whole:?}");
}

#[test]
fn with_the_second_cluster_lost_everything_in_the_first_works_and_it_comes_back() {
    let _turn = turn();
    for loss in [Loss::Killed, Loss::Stopped] {
        let federation = start();
        one_cluster_is_lost(&federation, &federation.beta, &federation.alpha, loss);
    }
}

#[test]
fn with_the_cluster_of_the_root_lost_everything_in_the_other_works_and_it_comes_back() {
    let _turn = turn();
    for loss in [Loss::Killed, Loss::Stopped] {
        let federation = start();
        one_cluster_is_lost(&federation, &federation.alpha, &federation.beta, loss);
    }
}

#[test]
fn volumes_made_renamed_and_removed_while_leaders_are_killed_are_there_once_or_not_at_all() {
    let _turn = turn();
    let shape =
        Shape { metaservers: 3, chunkservers: 1, copies: 1, deadline_ms: DEADLINE_MS, ..Shape::default() };
    println!("{:?}", rounds(&Federation::start(shape), 8, 4));
}

#[test]
fn a_cluster_leaves_when_it_has_no_volume() {
    let _turn = turn();
    let federation = start();
    federation.make_volume("v", &federation.beta);
    let refused = federation.dfs("cluster leave beta").unwrap_err();
    assert!(refused.contains("has volumes"), "{refused}");
    let dir = federation.alpha.mount("a");
    fs::remove_dir(dir.join("v")).unwrap();
    wait::until("beta to leave", BACK_DEADLINE, || federation.dfs("cluster leave beta").ok());
    assert_eq!(federation.dfs("cluster list").unwrap().lines().count(), 2, "a head and one cluster");
}
