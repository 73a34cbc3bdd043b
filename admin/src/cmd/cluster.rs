//! `dfs cluster list`.

use std::process::ExitCode;

use dfs_proto::env::Env;
use serde::Serialize;

use super::led;
use crate::cli::Source;
use crate::overview::MemberState;
use crate::print::{self, Table};

#[derive(Serialize)]
struct Row {
    name: String,
    id: String,
    leader: u64,
    term: u64,
    metaservers: usize,
    metaservers_reached: usize,
    chunkservers: usize,
    chunkservers_here: usize,
    copies: u32,
    inodes: u64,
}

pub async fn list(env: &Env, source: &Source, json: bool) -> anyhow::Result<ExitCode> {
    let (overview, cluster, leader) = led(env, source).await?;
    let row = Row {
        name: cluster.name,
        id: cluster.id,
        leader: leader.member,
        term: leader.term,
        metaservers: overview.members.len(),
        metaservers_reached: overview.members.iter().filter(|m| m.state != MemberState::Unreachable).count(),
        chunkservers: leader.chunkservers.len(),
        chunkservers_here: leader.chunkservers.iter().filter(|s| s.state.is_here()).count(),
        copies: cluster.copies,
        inodes: leader.inodes,
    };
    if json {
        print::json(&[row])?;
        return Ok(ExitCode::SUCCESS);
    }
    let mut table =
        Table::new(["cluster", "id", "leader", "term", "metaservers", "chunkservers", "copies", "inodes"]);
    table.row([
        row.name,
        row.id,
        format!("metaserver {}", row.leader),
        row.term.to_string(),
        format!("{} of {}", row.metaservers_reached, row.metaservers),
        format!("{} of {}", row.chunkservers_here, row.chunkservers),
        row.copies.to_string(),
        row.inodes.to_string(),
    ]);
    print!("{}", table.render());
    Ok(ExitCode::SUCCESS)
}
