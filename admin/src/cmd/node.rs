//! `dfs node list`: prints every server of the federation.

use std::process::ExitCode;

use dfs_proto::env::Env;
use serde::Serialize;

use super::{dash, federation_status, number};
use crate::cli::Source;
use crate::print::{self, Table};
use crate::status::{ChunkserverStatus, ClusterStatus, MemberStatus};

#[derive(Serialize)]
struct Nodes {
    cluster: String,
    metaservers: Vec<MemberStatus>,
    /// Empty for a cluster without a leader: only a leader knows them.
    chunkservers: Vec<ChunkserverStatus>,
}

fn nodes(status: ClusterStatus) -> Nodes {
    Nodes {
        cluster: status.name().to_owned(),
        metaservers: status.members,
        chunkservers: status.leader.map(|leader| leader.chunkservers).unwrap_or_default(),
    }
}

pub async fn list(env: &Env, source: &Source, json: bool) -> anyhow::Result<ExitCode> {
    let clusters: Vec<Nodes> =
        federation_status(env, source).await?.clusters.into_iter().map(nodes).collect();
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
