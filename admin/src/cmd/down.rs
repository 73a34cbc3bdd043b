//! `dfs down`: unmounts, then stops the servers. Nothing is stopped while a process uses the mount.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context as _;
use serde::Serialize;
use tokio::time::Instant;

use super::up::{MOUNT, user_config};
use super::{EXIT_FAILED, is_confirmed};
use crate::cli::Down;
use crate::local::Dir;
use crate::local::config_files::{self, Owner};
use crate::local::federation::Federation;
use crate::local::mounted::{self, Holder, Probe, Unmounted};
use crate::local::process::Processes;
use crate::print::{self, Table};

/// How long the mount's process may take to end: it sends what it still holds, for which its metadata and data deadlines give
/// it 30 s.
const MOUNT_END_DEADLINE: Duration = Duration::from_secs(40);
const PROBE_DEADLINE: Duration = Duration::from_secs(1);

#[derive(Default, Serialize)]
struct Report {
    dir: PathBuf,
    stopped: Vec<String>,
    /// The processes that did not end on SIGTERM.
    killed: Vec<String>,
    purged: bool,
    /// The processes that keep the mount busy. If there are any, nothing was stopped.
    holders: Vec<Holder>,
}

pub async fn run(arguments: Down, json: bool) -> anyhow::Result<ExitCode> {
    let dir = Dir::new(&arguments.dir)?;
    let mut report = Report { dir: dir.path().to_owned(), ..Report::default() };
    let Some(federation) = Federation::load(&dir)? else {
        eprintln!("no federation in {}", dir.path().display());
        if json {
            print::json(&report)?;
        }
        return Ok(ExitCode::SUCCESS);
    };
    let _turn = dir.lock()?;
    let purged =
        || format!("This stops the federation and deletes {} with all its data.", dir.path().display());
    if arguments.purge && !arguments.yes && !is_confirmed(&purged())? {
        anyhow::bail!("not confirmed: nothing was stopped or deleted");
    }
    let mut processes = Processes::load(&dir)?;
    if let Some(point) = &federation.mount {
        report.holders = stop_mount(point, arguments.lazy, &processes, &mut report).await?;
        if !report.holders.is_empty() {
            return busy(point, &report, json);
        }
    }
    stop_servers(&federation, &processes, &mut report).await?;
    processes.0.clear();
    processes.save(&dir)?;
    if arguments.purge {
        purge(&dir, &federation)?;
        report.purged = true;
    }
    finish(&report, json)
}

fn finish(report: &Report, json: bool) -> anyhow::Result<ExitCode> {
    if json {
        print::json(report)?;
        return Ok(ExitCode::SUCCESS);
    }
    match report.stopped.is_empty() {
        true => println!("nothing was running from {}", report.dir.display()),
        false => println!("stopped: {}", report.stopped.join(" ")),
    }
    if !report.killed.is_empty() {
        println!("did not end by themselves and were killed: {}", report.killed.join(" "));
    }
    match report.purged {
        true => println!("deleted: {}", report.dir.display()),
        false => println!("the data stays in {}; `dfs up` starts it again", report.dir.display()),
    }
    Ok(ExitCode::SUCCESS)
}

fn busy(point: &Path, report: &Report, json: bool) -> anyhow::Result<ExitCode> {
    if json {
        print::json(report)?;
        return Ok(ExitCode::from(EXIT_FAILED));
    }
    eprintln!("dfs: {} is busy, nothing was stopped. Who holds it:", point.display());
    let mut table = Table::new(["pid", "command", "by", "path"]);
    for holder in &report.holders {
        let path = holder.path.display().to_string();
        table.row([holder.pid.to_string(), holder.command.clone(), holder.how.clone(), path]);
    }
    eprint!("{}", table.render());
    let at = super::dir_flag(&report.dir);
    eprintln!("End them (or leave the directory), or take the mount away under them: dfs down{at} --lazy");
    Ok(ExitCode::from(EXIT_FAILED))
}

/// Unmounts, and waits until the mount's process has ended. Returns the processes that keep the mount busy, if there are any.
async fn stop_mount(
    point: &Path,
    lazy: bool,
    processes: &Processes,
    report: &mut Report,
) -> anyhow::Result<Vec<Holder>> {
    let process = processes.alive(MOUNT);
    let is_mounted = mounted::at(point)?.is_some();
    // A mount that answers although our process is gone belongs to somebody else.
    let is_ours = process.is_some() || mounted::probe(point, PROBE_DEADLINE).await == Probe::Dead;
    if is_mounted && is_ours && mounted::unmount(point, lazy).await? == Unmounted::Busy {
        let holders = mounted::holders(point);
        anyhow::ensure!(
            !holders.is_empty(),
            "{} is busy, held from another mount namespace or by a mount below it; nothing was stopped. \
             Take it away all the same: dfs down --lazy",
            point.display()
        );
        return Ok(holders);
    }
    if let Some(process) = process {
        // A mount that was taken away lazily goes on while it is used: its process has to be ended.
        let ends = is_mounted && !lazy && process.wait_end(Instant::now() + MOUNT_END_DEADLINE).await;
        let outcome = if ends { true } else { process.end().await };
        note(MOUNT, outcome, report);
    }
    Ok(Vec::new())
}

/// Stops the servers: chunkservers first, so that the metaservers see them go.
async fn stop_servers(
    federation: &Federation,
    processes: &Processes,
    report: &mut Report,
) -> anyhow::Result<()> {
    let chunkservers: Vec<&str> = federation.chunkservers().map(|server| server.name.as_str()).collect();
    let metaservers = federation.metaservers().map(|server| server.name.as_str()).collect();
    for names in [chunkservers, metaservers] {
        let group = names.iter().filter_map(|name| Some((*name, processes.alive(name)?)));
        let ends = group.map(|(name, process)| async move { (name, process.end().await) });
        for (name, ended) in futures::future::join_all(ends).await {
            note(name, ended, report);
        }
    }
    let left: Vec<&str> =
        processes.0.iter().filter(|(_, p)| p.is_alive()).map(|(name, _)| name.as_str()).collect();
    anyhow::ensure!(left.is_empty(), "still running after SIGKILL: {}", left.join(" "));
    Ok(())
}

fn note(name: &str, ended: bool, report: &mut Report) {
    report.stopped.push(name.to_owned());
    if !ended {
        report.killed.push(name.to_owned());
    }
}

/// Deletes what `dfs up` made in the directory, and the directory itself if nothing else is in it.
fn purge(dir: &Dir, federation: &Federation) -> anyhow::Result<()> {
    let servers = federation.metaservers().map(|m| &m.name);
    let servers = servers.chain(federation.chunkservers().map(|c| &c.name));
    for folder in servers.map(|name| dir.data(name)).chain([dir.path().join("config"), dir.logs()]) {
        ignore_missing(std::fs::remove_dir_all(&folder))
            .with_context(|| format!("delete {}", folder.display()))?;
    }
    // federation.json last: while it is there, the purge can be repeated.
    let files = [dir.processes(), dir.client_config(), dir.path().join("lock"), dir.federation()];
    for file in files {
        ignore_missing(std::fs::remove_file(&file)).with_context(|| format!("delete {}", file.display()))?;
    }
    match std::fs::remove_dir(dir.path()) {
        Err(error) if error.kind() == std::io::ErrorKind::DirectoryNotEmpty => {
            eprintln!("{} holds something that `dfs up` did not make: it stays", dir.path().display());
        }
        result => ignore_missing(result).with_context(|| format!("delete {}", dir.path().display()))?,
    }
    if let Some(path) = user_config()
        && config_files::owner(&path)? == Owner::Up(dir.path().to_owned())
    {
        ignore_missing(std::fs::remove_file(&path)).with_context(|| format!("delete {}", path.display()))?;
    }
    Ok(())
}

fn ignore_missing(result: std::io::Result<()>) -> std::io::Result<()> {
    match result {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::local::federation::Shape;

    #[test]
    fn a_purge_deletes_what_up_made_and_nothing_else() {
        let temp = tempfile::tempdir().unwrap();
        let dir = Dir::new(&temp.path().join("federation")).unwrap();
        dir.create().unwrap();
        let federation = Federation::plan(None, &Shape::default(), &dir).unwrap();
        federation.save(&dir).unwrap();
        config_files::write(&dir, &federation).unwrap();
        std::fs::create_dir(dir.data("meta1")).unwrap();
        std::fs::write(dir.path().join("mine"), "kept").unwrap();
        purge(&dir, &federation).unwrap();
        let left: Vec<_> = std::fs::read_dir(dir.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
        assert_eq!(left, ["mine"]);
        std::fs::remove_file(dir.path().join("mine")).unwrap();
        federation.save(&dir).unwrap();
        purge(&dir, &federation).unwrap();
        assert!(!dir.path().exists());
    }
}
