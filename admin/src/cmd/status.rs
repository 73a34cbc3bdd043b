//! `dfs status`: everything on one page, one line of verdict, and an exit code for scripts.

use std::process::ExitCode;

use dfs_proto::env::Env;
use serde::Serialize;

use super::{dash, number};
use crate::cli::Source;
use crate::finder;
use crate::overview::{self, Leader, Overview};
use crate::print::{self, Table, age, bytes};
use crate::verdict::{self, Verdict};

#[derive(Serialize)]
struct Status<'a> {
    verdict: &'a Verdict,
    #[serde(flatten)]
    overview: &'a Overview,
}

pub async fn run(env: &Env, source: &Source, json: bool) -> anyhow::Result<ExitCode> {
    let found = finder::find(source)?;
    let overview = overview::collect(env, &found.metaservers, &found.origin).await;
    let verdict = verdict::judge(&overview);
    if json {
        print::json(&Status { verdict: &verdict, overview: &overview })?;
    } else {
        print!("{}", page(&overview));
        println!("{}", verdict.line());
    }
    Ok(ExitCode::from(verdict.exit_code()))
}

fn page(overview: &Overview) -> String {
    let mut text = String::new();
    if let Some(cluster) = &overview.cluster {
        let led = overview.leader.as_ref().map_or_else(
            || "no leader".to_owned(),
            |leader| format!("leader metaserver {}, term {}", leader.member, leader.term),
        );
        let copies =
            if cluster.copies == 1 { "1 copy".to_owned() } else { format!("{} copies", cluster.copies) };
        text += &format!("cluster {} ({}): {led}, {copies}\n\n", cluster.name, cluster.id);
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
        let names: Vec<&str> = leader.volumes.iter().map(|volume| volume.name.as_str()).collect();
        text += &format!("volumes   {} ({})\n", names.len(), names.join(", "));
        text += &format!("inodes    {}\nsessions  {}\n\n", leader.inodes, leader.sessions);
    } else {
        text.push('\n');
    }
    text
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
            member.problem.clone().unwrap_or_default(),
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
