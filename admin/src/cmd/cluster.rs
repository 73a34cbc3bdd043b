//! `dfs cluster`: `list` prints the clusters, `join` and `leave` change which ones belong to the federation.

use std::process::ExitCode;

use anyhow::{Context as _, bail, ensure};
use dfs_proto::env::Env;
use dfs_proto::federation::{ClusterEntry, Federate};
use dfs_proto::ids::{ClusterId, InodeId};
use serde::Serialize;

use super::{federation_map, federation_status, number};
use crate::cli::Source;
use crate::federation;
use crate::print::{self, Table};
use crate::status::{ClusterStatus, MemberState, VolumeStatus, gather, judge};

#[derive(Serialize)]
struct Row {
    name: String,
    id: String,
    /// The id of the member that leads; `None` if none does.
    leader: Option<u64>,
    term: Option<u64>,
    metaservers: usize,
    metaservers_reached: usize,
    chunkservers: usize,
    chunkservers_here: usize,
    copies: u32,
    volumes: usize,
    inodes: Option<u64>,
}

fn row(status: &ClusterStatus, volumes: &[VolumeStatus]) -> Row {
    let cluster = status.cluster.clone().unwrap_or_default();
    let leader = status.leader.as_ref();
    let servers = leader.map_or(&[][..], |leader| &leader.chunkservers);
    Row {
        leader: leader.map(|leader| leader.member),
        term: leader.map(|leader| leader.term),
        metaservers: status.members.len(),
        metaservers_reached: status.members.iter().filter(|m| m.state != MemberState::Unreachable).count(),
        chunkservers: servers.len(),
        chunkservers_here: servers.iter().filter(|server| server.state.is_reachable()).count(),
        copies: cluster.copies,
        volumes: volumes.iter().filter(|volume| volume.cluster == cluster.name).count(),
        inodes: leader.map(|leader| leader.inodes),
        name: cluster.name,
        id: cluster.id,
    }
}

pub async fn list(env: &Env, source: &Source, json: bool) -> anyhow::Result<ExitCode> {
    let federation = federation_status(env, source).await?;
    let rows: Vec<Row> = federation.clusters.iter().map(|one| row(one, &federation.volumes)).collect();
    if json {
        print::json(&rows)?;
        return Ok(ExitCode::SUCCESS);
    }
    let mut table = Table::new([
        "cluster",
        "id",
        "leader",
        "term",
        "metaservers",
        "chunkservers",
        "copies",
        "volumes",
        "inodes",
    ]);
    for row in rows {
        table.row([
            row.name,
            row.id,
            row.leader.map_or_else(|| "none".to_owned(), |leader| format!("metaserver {leader}")),
            number(row.term),
            format!("{} of {}", row.metaservers_reached, row.metaservers),
            format!("{} of {}", row.chunkservers_here, row.chunkservers),
            row.copies.to_string(),
            row.volumes.to_string(),
            number(row.inodes),
        ]);
    }
    print!("{}", table.render());
    Ok(ExitCode::SUCCESS)
}

pub async fn join(env: &Env, source: &Source, metaservers: &[String]) -> anyhow::Result<ExitCode> {
    let (addresses, map) = federation_map(env, source).await?;
    let status = gather::cluster(env, metaservers).await;
    ensure!(
        map.cluster_of(InodeId::ROOT).is_some(),
        "the federation has no root directory yet: its first cluster is about to join"
    );
    let (Some(cluster), Some(_)) = (&status.cluster, &status.leader) else {
        bail!("{}: {}", metaservers.join(","), judge::cluster(&status));
    };
    let id = id_of(&cluster.id)?;
    let inodes = status.leader.as_ref().map_or(0, |leader| leader.inodes);
    ensure!(
        inodes <= 1 || map.cluster(id).is_some(),
        "cluster {} has files ({inodes} inodes): nobody would see them in the federation's root directory; copy them there \
         through a mount of each",
        cluster.name
    );
    let known = federation::newest_map(env, metaservers).await;
    ensure!(
        known.as_ref().is_some_and(|known| known.federation == map.federation),
        "cluster {} does not know this federation: its metaservers need its `federation_members` (section [metaserver])",
        cluster.name
    );
    let metaservers = status.members.iter().map(|member| member.address.clone()).collect();
    let entry = ClusterEntry { name: cluster.name.clone(), metaservers };
    federation::change(env, addresses, Federate::Join { cluster: id, entry }).await?;
    println!("cluster {} is in the federation", cluster.name);
    Ok(ExitCode::SUCCESS)
}

pub async fn leave(env: &Env, source: &Source, name: &str) -> anyhow::Result<ExitCode> {
    let (addresses, map) = federation_map(env, source).await?;
    let named = map.clusters.iter().find(|(_, entry)| entry.name == name);
    let (cluster, entry) = named.with_context(|| format!("the federation has no cluster {name}"))?;
    let volumes = map.volumes.iter().filter(|(_, volume)| volume.cluster == *cluster).count();
    ensure!(volumes == 0, "cluster {name} has volumes ({volumes}): `dfs volume list` shows them");
    federation::change(env, addresses, Federate::Leave { cluster: *cluster }).await?;
    println!("cluster {name} has left the federation; its servers go on, stop them now");
    let members = federation::members(env, &entry.metaservers).await;
    for seat in members.iter().filter(|member| entry.metaservers.contains(member)) {
        println!(
            "but not the metaserver at {seat}: it is a member of the group that keeps the federation map"
        );
    }
    Ok(ExitCode::SUCCESS)
}

fn id_of(text: &str) -> anyhow::Result<ClusterId> {
    text.parse().with_context(|| format!("read the cluster id {text}"))
}
