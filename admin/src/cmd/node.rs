//! `dfs node list`.

use std::process::ExitCode;

use dfs_net::env::Env;
use serde::Serialize;

use super::{dash, found, number};
use crate::cli::Source;
use crate::overview::{Chunkserver, Member, Overview};
use crate::print::{self, Table};

#[derive(Serialize)]
struct Nodes {
    cluster: String,
    metaservers: Vec<Member>,
    /// Of a cluster without a leader nobody knows them.
    chunkservers: Vec<Chunkserver>,
}

fn nodes(overview: Overview) -> Nodes {
    Nodes {
        cluster: overview.name().to_owned(),
        metaservers: overview.members,
        chunkservers: overview.leader.map(|leader| leader.chunkservers).unwrap_or_default(),
    }
}

pub async fn list(env: &Env, source: &Source, json: bool) -> anyhow::Result<ExitCode> {
    let clusters: Vec<Nodes> = found(env, source).await?.clusters.into_iter().map(nodes).collect();
    if json {
        print::json(&clusters)?;
        return Ok(ExitCode::SUCCESS);
    }
    let mut table = Table::new(["role", "id", "cluster", "address", "frames", "http", "zone", "state"]);
    for nodes in clusters {
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
    }
    print!("{}", table.render());
    Ok(ExitCode::SUCCESS)
}
