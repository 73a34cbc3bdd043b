//! `dfs status`: everything on one page, one line of verdict, and an exit code for scripts.

use std::process::ExitCode;

use dfs_net::env::Env;
use serde::Serialize;

use super::{dash, number};
use crate::cli::Source;
use crate::finder;
use crate::overview::{self, Federation, Leader, Overview, Volume};
use crate::print::{self, Table, age, bytes};
use crate::verdict::{self, Verdict};

/// Of a cluster's volumes.
const NAMES_SHOWN_MAX: usize = 8;

#[derive(Serialize)]
struct Status<'a> {
    verdict: &'a Verdict,
    #[serde(flatten)]
    federation: &'a Federation,
}

pub async fn run(env: &Env, source: &Source, json: bool) -> anyhow::Result<ExitCode> {
    let found = finder::find(source)?;
    let federation = overview::collect(env, &found.metaservers, &found.origin).await;
    let verdict = verdict::judge_all(&federation);
    if json {
        print::json(&Status { verdict: &verdict, federation: &federation })?;
    } else {
        for cluster in &federation.clusters {
            print!("{}", page(cluster, &federation.volumes));
        }
        println!("{}", verdict.line());
    }
    Ok(ExitCode::from(verdict.exit_code()))
}

/// One cluster.
fn page(overview: &Overview, volumes: &[Volume]) -> String {
    let mut text = String::new();
    if let Some(cluster) = &overview.cluster {
        let led = overview.leader.as_ref().map_or_else(
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
    text += &members(overview);
    if let Some(leader) = &overview.leader {
        text.push('\n');
        text += &chunkservers(leader);
        let chunks = leader.chunks;
        text += &format!(
            "\nchunks    {} sealed, {} open; {} degraded, {} damaged, {} dead\n",
            chunks.sealed, chunks.open, chunks.degraded, chunks.damaged, chunks.dead
        );
        let own = volumes.iter().filter(|volume| volume.cluster == overview.name());
        let names: Vec<&str> = own.map(|volume| volume.name.as_str()).collect();
        text += &format!("volumes   {}\n", some_of(&names));
        text += &format!("inodes    {}\nsessions  {}\n\n", leader.inodes, leader.sessions);
    } else {
        text.push('\n');
    }
    text
}

/// Their number, and the first of them.
fn some_of(names: &[&str]) -> String {
    let shown = names.get(..NAMES_SHOWN_MAX).unwrap_or(names);
    let more = if shown.len() < names.len() { ", …" } else { "" };
    match names.len() {
        0 => "0".to_owned(),
        count => format!("{count} ({}{more})", shown.join(", ")),
    }
}

fn members(overview: &Overview) -> String {
    let mut table = Table::new(["metaserver", "address", "state", "log", "lag", ""]);
    for member in &overview.members {
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

fn chunkservers(leader: &Leader) -> String {
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
