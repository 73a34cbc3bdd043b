//! Power cuts on real filesystems: a load that keeps a ledger of what was acknowledged, cuts at random moments, and the
//! ledger checked byte for byte after each. And a cut at a moment of its own, right after a snapshot was installed.
//!
//! The metaservers' logs are short and cut often, so that the cuts meet purges and files that are used again. What a cut in the
//! first write of a segment leaves, which is too rare to wait for, is put there ([`tear_next_segment`]).

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use dfs_metaserver::raft::torn_segment_after;
use rand::rngs::SmallRng;
use rand::seq::IndexedRandom as _;
use rand::{Rng as _, SeedableRng as _};

use crate::cluster::{Cluster, Shape};
use crate::ledger::{Ledger, Mount, Process};
use crate::wait;

/// Of the mounts: a cut must be over by then, on the busiest machine.
const MOUNT_DEADLINE: Duration = Duration::from_secs(120);
const WORKERS: usize = 4;
/// Of each server's filesystem: above what a chunkserver keeps free.
const DISK_MIB: u64 = 1024;
/// For changes to go on after a cut: an election, restarts, new chunks.
const GO_ON_DEADLINE: Duration = Duration::from_secs(60);

/// Who loses power.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cut {
    /// Servers and mounts.
    Everything,
    /// All servers; the mounts stay and must go on.
    Servers,
    /// A metaserver and a chunkserver; the mounts must go on.
    Minority,
    /// One server; the mounts must go on.
    One,
}

pub const ALL_CUTS: [Cut; 4] = [Cut::Everything, Cut::Servers, Cut::Minority, Cut::One];

/// What happened in a run of cuts.
#[derive(Clone, Copy, Debug, Default)]
pub struct Totals {
    pub cuts: usize,
    /// Changes that returned, over all workers.
    pub acknowledged: u64,
    /// Changes that a cut interrupted.
    pub interrupted: usize,
    /// Segments of the metaservers' logs whose files were removed or used again.
    pub purged_segments: u64,
    /// First writes of segments that were torn.
    pub torn_segments: u64,
    /// From a cut with living mounts until all servers were heard and every worker had completed something again.
    pub longest_stall: Duration,
}

/// Entries between snapshots, few, so that a log of this kind is cut all the time and goes through many files; and a member that
/// was away soon needs a snapshot.
const SNAPSHOT_EVERY: usize = 100;
const SEGMENT_KIB: u64 = 16;

pub fn shape() -> Shape {
    let deadline_ms = MOUNT_DEADLINE.as_millis() as u64;
    let metaserver_extra =
        format!("snapshot_every_logs = {SNAPSHOT_EVERY}\nlog_segment_kib = {SEGMENT_KIB}\n");
    Shape { ext4_mib: Some(DISK_MIB), deadline_ms, metaserver_extra, ..Shape::default() }
}

/// So many cuts of the given kinds in turn.
///
/// Errors: what was promised and is not there after a cut, or a change that failed although its mount lived.
pub fn cuts(shape: Shape, kinds: &[Cut], count: usize, seed: u64) -> Result<Totals, String> {
    let cluster = Cluster::start(shape);
    let mut rng = SmallRng::seed_from_u64(seed);
    let (writer, reader) = (cluster.mount("a"), cluster.mount("b"));
    let names: Vec<String> = (0..WORKERS).map(|worker| format!("worker{worker}")).collect();
    for name in &names {
        fs::create_dir(writer.join(name)).map_err(|error| format!("make {name}: {error}"))?;
    }
    let mut ledgers: Vec<Ledger> = names.iter().map(|_| Ledger::default()).collect();
    let mut totals = Totals::default();
    for (number, kind) in kinds.iter().cycle().take(count).enumerate() {
        let failed = |what: String| {
            cluster.print_logs();
            format!("seed {seed}, cut {number} ({kind:?}): {what}")
        };
        let start = |(ledger, name): (Ledger, &String)| {
            Process::start(ledger, &writer.join(name), cluster.dir().join(name), rng.random())
        };
        let workers: Vec<Process> = ledgers.drain(..).zip(&names).map(start).collect();
        let moment = rng.random_range(20..300);
        wait::until("the load to reach the moment of the cut", GO_ON_DEADLINE, || {
            let done = workers.iter().map(Process::done).sum::<usize>();
            (done >= moment || workers.iter().any(Process::has_ended)).then_some(())
        });
        let victims = victims(&cluster, *kind, &mut rng);
        cluster.cut_power(&victims);
        let cut_at = wait::now();
        let done: Vec<usize> = workers.iter().map(Process::done).collect();
        for name in victims.iter().filter(|name| is_server(name)) {
            if name.starts_with("meta") && rng.random_bool(0.5) {
                tear_next_segment(&cluster.data_dir(name)).map_err(|error| failed(error.to_string()))?;
                totals.torn_segments += 1;
            }
            cluster.start_daemon(name);
        }
        cluster.wait_whole();
        let goes_on = *kind != Cut::Everything;
        if goes_on {
            let goes_on =
                |(worker, before): (&Process, &usize)| worker.done() > *before || worker.has_ended();
            let all_go_on = || workers.iter().zip(&done).all(goes_on).then_some(());
            wait::until("every worker to go on", GO_ON_DEADLINE, all_go_on);
            totals.longest_stall = totals.longest_stall.max(cut_at.elapsed());
        } else {
            ["a", "b"].iter().for_each(|mount| drop(cluster.mount(mount)));
        }
        for worker in workers {
            let (ledger, ended) = worker.finish(GO_ON_DEADLINE);
            match ended {
                Err(error) if goes_on => return Err(failed(format!("a change failed: {error}"))),
                Err(_) => totals.interrupted += 1,
                Ok(()) => {}
            }
            ledgers.push(ledger);
        }
        let mount = if goes_on { Mount::Lived } else { Mount::Died };
        for (ledger, name) in ledgers.iter_mut().zip(&names) {
            ledger.compare(&reader.join(name), mount).map_err(failed)?;
        }
        totals.cuts += 1;
    }
    let members = cluster.metaserver_names();
    totals.purged_segments = members.iter().map(|name| purged_segments(&cluster.data_dir(name))).sum();
    totals.acknowledged = ledgers.iter().map(|ledger| ledger.acknowledged).sum();
    Ok(totals)
}

/// The log files of a metaserver.
fn log_files(data: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let entries = fs::read_dir(data).expect("list a data directory");
    let paths = entries.map(|entry| entry.expect("list a data directory").path());
    let mut logs: Vec<PathBuf> =
        paths.filter(|path| path.extension().is_some_and(|e| e == "raftlog")).collect();
    logs.sort();
    logs.into_iter().map(|path| (path.clone(), fs::read(path).expect("read a log file"))).collect()
}

/// As a power cut in the first write of the next segment leaves it: in a file that was used before, its header and no whole batch.
fn tear_next_segment(data: &Path) -> io::Result<()> {
    let logs = log_files(data);
    let torn =
        logs.iter().filter_map(|(_, bytes)| torn_segment_after(bytes)).max_by_key(|(sequence, _)| *sequence);
    let (_, torn) = torn.ok_or_else(|| io::Error::other("the log has no segment"))?;
    let number = |path: &Path| path.file_stem()?.to_str()?.parse::<u64>().ok();
    let next = logs.iter().filter_map(|(path, _)| number(path)).max().unwrap_or(0) + 1;
    fs::write(data.join(format!("{next:08}.raftlog")), torn)
}

/// Each segment begins in a file of its own: of those that a metaserver began, so many have none any more.
pub fn purged_segments(data: &Path) -> u64 {
    let logs = log_files(data);
    let next =
        logs.iter().filter_map(|(_, bytes)| torn_segment_after(bytes)).map(|(sequence, _)| sequence).max();
    next.unwrap_or(0).saturating_sub(1 + logs.len() as u64)
}

/// A metaserver that was away is sent a snapshot and loses power right after it has made it its own. It starts again, and with
/// another member leads a quorum that knows everything that was acknowledged.
///
/// Errors: it did not start, or something is missing.
pub fn cut_after_a_snapshot(shape: Shape) -> Result<(), String> {
    let cluster = Cluster::start(shape);
    let dir = cluster.mount("a");
    let leader = cluster.leader();
    let away = cluster.metaserver_names().into_iter().find(|name| *name != leader).expect("there are three");
    cluster.kill(&away);
    let names: Vec<String> = (0..5 * SNAPSHOT_EVERY).map(|number| format!("d{number}")).collect();
    for name in &names {
        fs::create_dir(dir.join(name)).map_err(|error| format!("make {name}: {error}"))?;
    }
    let was_named = current_state(&cluster, &away);
    cluster.start_daemon(&away);
    wait::until("a snapshot to be installed", GO_ON_DEADLINE, || {
        (current_state(&cluster, &away) != was_named).then_some(())
    });
    cluster.wait_whole();
    cluster.cut_power(std::slice::from_ref(&away));
    cluster.start_daemon(&away);
    let is_back = wait::at_most(GO_ON_DEADLINE, || {
        let member: u64 = away.trim_start_matches("meta").parse().ok()?;
        (!cluster.is_running(&away) || cluster.status_of(member).is_some()).then_some(())
    });
    if is_back.is_none() || !cluster.is_running(&away) {
        return Err(format!("{away} did not start again:\n{}", cluster.log(&away)));
    }
    cluster.wait_whole();
    cluster.kill(&leader);
    cluster.wait_status("a new leader", GO_ON_DEADLINE, |_| true);
    let dir = cluster.remount_cold("a");
    let missing = names.iter().filter(|name| !dir.join(name).is_dir()).count();
    if missing > 0 { Err(format!("{missing} of {} directories are gone", names.len())) } else { Ok(()) }
}

/// The name of the database that a metaserver uses.
fn current_state(cluster: &Cluster, metaserver: &str) -> String {
    fs::read_to_string(cluster.data_dir(metaserver).join("state/CURRENT"))
        .expect("read which state is current")
}

fn is_server(name: &str) -> bool {
    name.starts_with("meta") || name.starts_with("chunk")
}

fn victims(cluster: &Cluster, kind: Cut, rng: &mut SmallRng) -> Vec<String> {
    let (members, servers) = (cluster.metaserver_names(), cluster.chunkserver_names());
    let mut any = |names: &[String]| names.choose(rng).cloned().into_iter().collect::<Vec<_>>();
    match kind {
        Cut::Everything => [members, servers, vec!["a".to_owned(), "b".to_owned()]].concat(),
        Cut::Servers => [members, servers].concat(),
        Cut::Minority => [any(&members), any(&servers)].concat(),
        Cut::One => any(&[members, servers].concat()),
    }
}
