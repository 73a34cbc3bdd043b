//! `dfs status`: prints the status of the federation on one page, how healthy it is on one line, and ends with an exit code
//! for scripts.

use std::process::ExitCode;

use dfs_net::env::Env;

use super::{dash, metaservers, number};
use crate::cli::Source;
use crate::print::{self, Table, age, bytes};
use crate::status::judge::Health;
use crate::status::{self, ClusterStatus, LeaderReport, VolumeStatus};

/// The volumes of one cluster whose names are printed.
const NAMES_SHOWN_MAX: usize = 8;

pub async fn run(env: &Env, source: &Source, json: bool) -> anyhow::Result<ExitCode> {
    let status = status::of(env, &metaservers(source)?).await;
    if json {
        print::json(&status)?;
    } else {
        for cluster in &status.federation.clusters {
            print!("{}", page(cluster, &status.federation.volumes));
        }
        println!("{}", status.health);
    }
    Ok(exit_code(status.health.health))
}

/// The exit codes that the help of `dfs status` promises.
fn exit_code(health: Health) -> ExitCode {
    ExitCode::from(match health {
        Health::Healthy => 0,
        Health::Degraded => 1,
        Health::Unavailable => 2,
    })
}

/// The page about one cluster.
fn page(status: &ClusterStatus, volumes: &[VolumeStatus]) -> String {
    let mut text = String::new();
    if let Some(cluster) = &status.cluster {
        let led = status.leader.as_ref().map_or_else(
            || "no leader".to_owned(),
            |leader| format!("leader metaserver {}, term {}", leader.member, leader.term),
        );
        let copies = match cluster.copies {
            0 => String::new(),
            1 => ", 1 copy".to_owned(),
            copies => format!(", {copies} copies"),
        };
        text += &format!("cluster {} ({}): {led}{copies}\n\n", cluster.name, cluster.id);
    }
    text += &members(status);
    if let Some(leader) = &status.leader {
        text.push('\n');
        text += &chunkservers(leader);
        let chunks = leader.chunks;
        text += &format!(
            "\nchunks    {} sealed, {} open; {} degraded, {} damaged, {} dead\n",
            chunks.sealed, chunks.open, chunks.degraded, chunks.damaged, chunks.dead
        );
        let own = volumes.iter().filter(|volume| volume.cluster == status.name());
        let names: Vec<&str> = own.map(|volume| volume.name.as_str()).collect();
        text += &format!("volumes   {}\n", some_of(&names));
        text += &format!("inodes    {}\nsessions  {}\n\n", leader.inodes, leader.sessions);
    } else {
        text.push('\n');
    }
    text
}

/// How many names there are, and the first of them.
fn some_of(names: &[&str]) -> String {
    let shown = names.get(..NAMES_SHOWN_MAX).unwrap_or(names);
    let more = if shown.len() < names.len() { ", …" } else { "" };
    match names.len() {
        0 => "0".to_owned(),
        count => format!("{count} ({}{more})", shown.join(", ")),
    }
}

fn members(status: &ClusterStatus) -> String {
    let mut table = Table::new(["metaserver", "address", "state", "log", "lag", ""]);
    for member in &status.members {
        table.row([
            number(member.id),
            member.address.clone(),
            member.state.name().to_owned(),
            number(member.last_log),
            number(member.log_lag),
            member.problem.clone().or_else(|| member.clock_problem()).unwrap_or_default(),
        ]);
    }
    table.render()
}

fn chunkservers(leader: &LeaderReport) -> String {
    let mut table = Table::new([
        "chunkserver",
        "address",
        "zone",
        "state",
        "report",
        "free",
        "of",
        "chunks",
        "cpu",
        "memory free",
        "in flight",
    ]);
    for server in &leader.chunkservers {
        table.row([
            server.id.to_string(),
            server.frames_address.clone(),
            dash(server.zone.as_str()),
            server.state.name().to_owned(),
            age(server.report_age_ms),
            bytes(server.disk_free),
            bytes(server.disk_total),
            server.chunks.to_string(),
            format!("{} %", server.cpu_percent),
            bytes(server.memory_available),
            server.requests_in_flight.to_string(),
        ]);
    }
    table.render()
}
