//! `dfs up`: starts a federation on this machine, as separate processes on loopback, and mounts it.
//!
//! It may be called again at any time: it starts the processes that have ended and leaves the others alone. What was chosen
//! at the first call (ports, copies, metaservers) stays. It returns when everything is healthy and mounted, or with an
//! error that says what is not.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Child, ExitCode};
use std::time::Duration;

use anyhow::{Context as _, bail};
use dfs_proto::env::Env;
use dfs_proto::federation::{ClusterEntry, Federate};
use dfs_proto::ids::ClusterId;
use serde::Serialize;
use tokio::time::{Instant, sleep};

use crate::cli::{DEFAULT_MOUNT, Up};
use crate::local::Dir;
use crate::local::config_files::{self, Owner};
use crate::local::federation::{Cluster, Federation, Shape};
use crate::local::mounted::{self, Probe};
use crate::local::process::{self, Processes};
use crate::print;
use crate::status::{ClusterStatus, MemberState, gather, judge};

/// The name of the mount's process, in `processes.json` and of its log.
pub const MOUNT: &str = "mount";
/// The time between two looks at the processes that are starting.
const POLL: Duration = Duration::from_millis(100);
/// How long to wait for the answer of a mount that should be healthy.
const PROBE_DEADLINE: Duration = Duration::from_secs(3);

/// A process that this run has started. It is watched, so that one that ends at once is noticed.
struct Started {
    name: String,
    child: Child,
    log: PathBuf,
    log_from: u64,
}

#[derive(Serialize)]
struct Report {
    dir: PathBuf,
    logs: PathBuf,
    config: PathBuf,
    mount: Option<PathBuf>,
    clusters: Vec<String>,
    metaservers: Vec<String>,
    chunkservers: usize,
    copies: u32,
    started: Vec<String>,
    /// Whether `dfs` finds this federation without flags.
    is_default: bool,
}

pub async fn run(env: &Env, arguments: Up, json: bool) -> anyhow::Result<ExitCode> {
    let dir = Dir::new(&arguments.dir)?;
    dir.create()?;
    let _turn = dir.lock()?;
    let deadline = Instant::now() + Duration::from_secs(arguments.timeout);
    let mut processes = Processes::load(&dir)?;
    let federation = plan(&arguments, &dir, &processes).await?;
    federation.save(&dir)?;
    config_files::write(&dir, &federation)?;

    let mut started = start_servers(&dir, &federation, &mut processes)?;
    for cluster in &federation.clusters {
        let id = wait_healthy(env, &dir, cluster, &mut started, deadline).await?;
        if !federation.seats.is_empty() {
            join(env, &federation, cluster, id, deadline).await?;
        }
    }
    let mount = federation.mount.clone().filter(|_| !arguments.no_mount);
    if let Some(point) = &mount {
        started.extend(start_mount(&dir, point, &mut processes, deadline).await?);
    }
    let recorded = if arguments.no_config { Recorded::Not } else { record(&dir, &federation)? };
    let report = Report {
        dir: dir.path().to_owned(),
        logs: dir.logs(),
        config: dir.client_config(),
        mount,
        clusters: federation.clusters.iter().map(|cluster| cluster.name.clone()).collect(),
        metaservers: federation.metaserver_addresses(),
        chunkservers: federation.chunkservers().count(),
        copies: federation.clusters.first().map_or(0, |cluster| cluster.copies),
        started: started.into_iter().map(|s| s.name).collect(),
        is_default: matches!(recorded, Recorded::Written),
    };
    if json {
        print::json(&report)?;
    } else {
        print!("{}", page(&report, &recorded)?);
    }
    Ok(ExitCode::SUCCESS)
}

/// Plans the federation, with a mountpoint that is free or is ours.
async fn plan(arguments: &Up, dir: &Dir, processes: &Processes) -> anyhow::Result<Federation> {
    let shape = Shape {
        clusters: arguments.clusters,
        metaservers: arguments.metaservers,
        chunkservers: arguments.chunkservers,
        copies: arguments.copies,
        zones: arguments.zones.clone(),
    };
    let mut federation = Federation::plan(Federation::load(dir)?, &shape, dir)?;
    if arguments.no_mount {
        return Ok(federation);
    }
    let had = federation.mount.take();
    let wanted = arguments.mount.as_deref().or(had.as_deref()).unwrap_or(Path::new(DEFAULT_MOUNT));
    let point = mounted::resolve(wanted)?;
    if processes.alive(MOUNT).is_some() {
        if let Some(had) = had.filter(|had| *had != point) {
            bail!("it is mounted at {}: `dfs down` before mounting it elsewhere", had.display());
        }
    } else {
        free_mountpoint(&point).await?;
    }
    federation.mount = Some(point);
    Ok(federation)
}

/// Takes away a mount whose daemon has died; fails if the daemon of the mount lives.
async fn free_mountpoint(point: &Path) -> anyhow::Result<()> {
    while let Some(mount) = mounted::at(point)? {
        match mounted::probe(point, PROBE_DEADLINE).await {
            Probe::Dead => {
                eprintln!("{}: its daemon died, taking the mount away", point.display());
                mounted::unmount(point, true).await?;
            }
            Probe::Answers | Probe::Silent => {
                bail!(
                    "{} is a mount already ({} from {}): give another --mount",
                    point.display(),
                    mount.kind,
                    mount.source
                )
            }
        }
    }
    Ok(())
}

fn start_servers(
    dir: &Dir,
    federation: &Federation,
    processes: &mut Processes,
) -> anyhow::Result<Vec<Started>> {
    let metaservers = federation.metaservers().map(|m| ("dfs-metaserver", &m.name));
    let chunkservers = federation.chunkservers().map(|c| ("dfs-chunkserver", &c.name));
    let mut started = Vec::new();
    for (program, name) in metaservers.chain(chunkservers) {
        if processes.alive(name).is_some() {
            continue;
        }
        let config = dir.config(name);
        let arguments = [OsStr::new("--config"), config.as_os_str()];
        started.push(start(dir, program, name, &arguments, processes)?);
    }
    Ok(started)
}

/// Starts one daemon and records it in `processes.json` before anything else happens.
fn start(
    dir: &Dir,
    program: &str,
    name: &str,
    arguments: &[&OsStr],
    processes: &mut Processes,
) -> anyhow::Result<Started> {
    let program = process::find_program(program)?;
    let log = dir.log(name);
    let log_from = process::log_length(&log);
    let (child, process) = process::start(&program, arguments, &log)?;
    processes.0.insert(name.to_owned(), process);
    processes.save(dir)?;
    Ok(Started { name: name.to_owned(), child, log, log_from })
}

/// Fails if one of the started processes has ended, with the last line of its log.
fn check_started(started: &mut [Started]) -> anyhow::Result<()> {
    for one in started {
        if let Some(status) = one.child.try_wait().with_context(|| format!("look at {}", one.name))? {
            let said =
                process::last_line(&one.log, one.log_from).unwrap_or_else(|| "it said nothing".to_owned());
            bail!("{} ended with {status}: {said} (log: {})", one.name, one.log.display());
        }
    }
    Ok(())
}

/// Waits until the cluster has a leader and every server of it is there; returns the id of the cluster.
async fn wait_healthy(
    env: &Env,
    dir: &Dir,
    cluster: &Cluster,
    started: &mut [Started],
    deadline: Instant,
) -> anyhow::Result<ClusterId> {
    let addresses = cluster.metaserver_addresses();
    let mut announced = false;
    loop {
        check_started(started)?;
        let status = gather::cluster(env, &addresses).await;
        if let Some(id) = complete(&status, cluster) {
            return id.parse().with_context(|| format!("read the id of cluster {}", cluster.name));
        }
        if Instant::now() >= deadline {
            bail!(
                "cluster {} is not healthy in time: {}; logs are in {}; `dfs up` again goes on waiting, `dfs down` stops",
                cluster.name,
                judge::cluster(&status),
                dir.logs().display()
            );
        }
        if !std::mem::replace(&mut announced, true) {
            eprintln!("cluster {}: waiting for a leader and for every chunkserver …", cluster.name);
        }
        sleep(POLL).await;
    }
}

/// The id of the cluster, if every member answers, one of them leads, and every chunkserver has reported to it.
fn complete<'o>(status: &'o ClusterStatus, cluster: &Cluster) -> Option<&'o str> {
    let leader = status.leader.as_ref()?;
    let here = leader.chunkservers.iter().filter(|server| server.state.is_reachable()).count();
    let is_complete = here >= cluster.chunkservers.len()
        && status.members.iter().all(|member| member.state != MemberState::Unreachable);
    status.cluster.as_ref().filter(|_| is_complete).map(|cluster| cluster.id.as_str())
}

/// Has the cluster join the federation, if it has not yet. Clusters join in the order of the file, so that the first one has
/// the root directory.
async fn join(
    env: &Env,
    federation: &Federation,
    cluster: &Cluster,
    id: ClusterId,
    deadline: Instant,
) -> anyhow::Result<()> {
    let seats: Vec<String> = federation.seated().iter().map(|(_, server)| server.address()).collect();
    loop {
        let map = crate::federation::newest_map(env, &seats).await;
        if map.is_some_and(|map| map.cluster(id).is_some()) {
            return Ok(());
        }
        let entry = ClusterEntry { name: cluster.name.clone(), metaservers: cluster.metaserver_addresses() };
        let change = Federate::Join { cluster: id, entry };
        match crate::federation::change(env, seats.clone(), change).await {
            Ok(()) => return Ok(()),
            Err(error) if Instant::now() >= deadline => {
                return Err(error.context(format!("have cluster {} join the federation", cluster.name)));
            }
            Err(_) => sleep(POLL).await, // the group may be choosing its leader
        }
    }
}

async fn start_mount(
    dir: &Dir,
    point: &Path,
    processes: &mut Processes,
    deadline: Instant,
) -> anyhow::Result<Option<Started>> {
    if processes.alive(MOUNT).is_some() && mounted::at(point)?.is_some() {
        return match mounted::probe(point, PROBE_DEADLINE).await {
            Probe::Answers => Ok(None),
            Probe::Dead | Probe::Silent => {
                bail!("the mount at {} does not answer; `dfs down` first", point.display())
            }
        };
    }
    if let Some(process) = processes.alive(MOUNT) {
        // Somebody else has unmounted it, and the process still sends what it holds.
        process.end().await;
    }
    std::fs::create_dir_all(point).with_context(|| format!("make mountpoint {}", point.display()))?;
    let config = dir.client_config();
    let arguments = [OsStr::new("-f"), OsStr::new("--config"), config.as_os_str(), point.as_os_str()];
    let mut started = start(dir, "dfs-mount", MOUNT, &arguments, processes)?;
    loop {
        check_started(std::slice::from_mut(&mut started))?;
        if mounted::at(point)?.is_some() && mounted::probe(point, PROBE_DEADLINE).await == Probe::Answers {
            return Ok(Some(started));
        }
        if Instant::now() >= deadline {
            bail!("{} is not mounted in time; log: {}", point.display(), started.log.display());
        }
        sleep(POLL).await;
    }
}

/// What was done to the user's configuration file.
enum Recorded {
    /// It names this federation now.
    Written,
    /// It was not to be touched.
    Not,
    /// It stays as it was, for this reason.
    Kept(String),
}

/// Has the user's configuration file name this federation, unless another one would be lost from it.
fn record(dir: &Dir, federation: &Federation) -> anyhow::Result<Recorded> {
    let named = std::env::var_os("DFS_CONFIG").is_some_and(|path| !path.is_empty());
    let Some(path) = user_config().filter(|_| !named) else { return Ok(Recorded::Not) };
    match config_files::owner(&path)? {
        Owner::User => {
            return Ok(Recorded::Kept(format!("{} was written by hand and stays", path.display())));
        }
        Owner::Up(other) if other != dir.path() && Processes::load(&Dir::new(&other)?)?.any_alive() => {
            let (path, other) = (path.display(), other.display());
            return Ok(Recorded::Kept(format!("{path} names {other}, which is running, and stays")));
        }
        Owner::Nobody | Owner::Up(_) => {}
    }
    config_files::write_user_config(&path, dir, federation)?;
    Ok(Recorded::Written)
}

/// The path `~/.config/dfs/dfs.toml`; `None` if there is no home directory.
pub fn user_config() -> Option<PathBuf> {
    let home = std::env::var_os("HOME").filter(|home| !home.is_empty())?;
    Some(Path::new(&home).join(".config/dfs/dfs.toml"))
}

fn page(report: &Report, recorded: &Recorded) -> anyhow::Result<String> {
    let own = std::env::current_exe().context("find this program's own path")?;
    let folder = own.parent().unwrap_or(Path::new("/")).to_owned();
    let path = std::env::var_os("PATH").unwrap_or_default();
    let in_path = std::env::split_paths(&path).any(|entry| entry == folder);
    let find =
        if report.is_default { String::new() } else { format!(" --config {}", report.config.display()) };
    let at = super::dir_flag(&report.dir);

    let started = if report.started.is_empty() {
        "everything ran already".to_owned()
    } else {
        report.started.join(" ")
    };
    let mut text = format!(
        "\nA dfs federation is running: {}{} metaservers, {} chunkservers, {} copies of each chunk.\nStarted now: {started}\n",
        clusters(&report.clusters),
        report.metaservers.len(),
        report.chunkservers,
        report.copies
    );
    if let Some(mount) = &report.mount {
        let mount = mount.display();
        text += &format!("Mounted at:  {mount}\n\nTry next:\n");
        text += &format!("  echo hello > {mount}/hello && cat {mount}/hello\n");
        text += &format!("  dfs{find} file show {mount}/hello\n");
    } else {
        text += "\nTry next:\n";
        text += &format!("  dfs-mount --federation {} MOUNTPOINT\n", report.metaservers.join(","));
    }
    text += &format!("  dfs{find} status\n\n");
    if !in_path {
        text += &format!("PATH:  export PATH={}:$PATH\n", folder.display());
    }
    text +=
        &format!("Data:  {}\nLogs:  {}\nStop:  dfs down{at}\n", report.dir.display(), report.logs.display());
    if let Recorded::Kept(why) = recorded {
        text += &format!("Note:  {why}: name this federation with --config {}\n", report.config.display());
    }
    Ok(text)
}

/// Names the clusters for the message, if there are several.
fn clusters(names: &[String]) -> String {
    match names {
        [_] => String::new(),
        names => format!("{} clusters ({}), ", names.len(), names.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_living_mount_is_never_taken_away() {
        let error = free_mountpoint(Path::new("/proc")).await.unwrap_err().to_string();
        assert!(error.contains("/proc is a mount already"), "{error}");
        assert!(mounted::at(Path::new("/proc")).unwrap().is_some());
    }

    #[test]
    fn a_daemon_that_ends_at_once_is_reported_with_its_last_words() {
        let temp = tempfile::tempdir().unwrap();
        let log = temp.path().join("meta1.log");
        let arguments =
            ["-c", "echo first; echo 'dfs-metaserver: listen on h:1: address in use' >&2; exit 7"];
        let (mut child, _) = process::start(Path::new("/bin/sh"), &arguments.map(OsStr::new), &log).unwrap();
        child.wait().unwrap();
        let mut started = [Started { name: "meta1".to_owned(), child, log, log_from: 0 }];
        let error = check_started(&mut started).unwrap_err().to_string();
        assert!(error.contains("meta1 ended with exit status: 7: dfs-metaserver: listen on h:1"), "{error}");
    }
}
