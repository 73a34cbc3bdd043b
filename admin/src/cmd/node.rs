//! `dfs node list`.

use std::process::ExitCode;

use dfs_proto::env::Env;
use serde::Serialize;

use super::{dash, led, number};
use crate::cli::Source;
use crate::overview::{Chunkserver, Member};
use crate::print::{self, Table};

#[derive(Serialize)]
struct Nodes {
    cluster: String,
    metaservers: Vec<Member>,
    chunkservers: Vec<Chunkserver>,
}

pub async fn list(env: &Env, source: &Source, json: bool) -> anyhow::Result<ExitCode> {
    let (overview, cluster, leader) = led(env, source).await?;
    let nodes =
        Nodes { cluster: cluster.name, metaservers: overview.members, chunkservers: leader.chunkservers };
    if json {
        print::json(&nodes)?;
        return Ok(ExitCode::SUCCESS);
    }
    let mut table = Table::new(["role", "id", "cluster", "address", "frames", "http", "zone", "state"]);
    for member in nodes.metaservers {
        table.row([
            "metaserver".to_owned(),
            number(member.id),
            nodes.cluster.clone(),
            member.address,
            "-".to_owned(),
            "-".to_owned(),
            "-".to_owned(),
            member.state.name().to_owned(),
        ]);
    }
    for server in nodes.chunkservers {
        table.row([
            "chunkserver".to_owned(),
            server.id.to_string(),
            nodes.cluster.clone(),
            server.grpc_address,
            server.frames_address,
            server.http_address,
            dash(server.zone),
            server.state.name().to_owned(),
        ]);
    }
    print!("{}", table.render());
    Ok(ExitCode::SUCCESS)
}
