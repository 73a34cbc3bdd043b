//! A cluster's leader tells the federation group's where its metaservers are and how busy its chunkservers; with the first
//! report the first cluster joins.

use dfs_proto::federation::{ClusterEntry, ClusterLoad, Federate};
use dfs_proto::ids::{InodeId, VolumeId};
use dfs_proto::meta::MetaResult;
use dfs_proto::scope::Unleased;
use tokio::time::{Instant, sleep};

use super::Federation;
use super::cluster_reports::REPORT_INTERVAL;
use crate::metaserver::Metaserver;
use crate::view::Load;
use dfs_state::command::Command;
use dfs_state::kv::Snapshot;
use dfs_state::read;
use dfs_state::value::volume::VolumeState;

/// Runs while this member leads its cluster.
pub(crate) async fn report(metaserver: &Metaserver, federation: &Federation) {
    let mut complaint = String::new();
    loop {
        match report_once(metaserver, federation).await {
            Ok(()) => complaint.clear(),
            Err(error) if error.to_string() != complaint => {
                complaint = error.to_string();
                tracing::warn!("report to the federation: {complaint}");
            }
            Err(_) => {}
        }
        sleep(REPORT_INTERVAL).await;
    }
}

async fn report_once(metaserver: &Metaserver, federation: &Federation) -> MetaResult<()> {
    let look = |state: &dyn Snapshot| {
        let has_root = read::volumes(state).contains(&(VolumeId(0), VolumeState::Active));
        Ok((read::cluster(state), read::servers(state), has_root))
    };
    let (record, servers, has_root) = metaserver.gate.read_unleased(Unleased::Cluster, look).await?;
    let Some(record) = record else { return Ok(()) };
    let map = federation.map();
    let root_at = map.cluster_of(InodeId::ROOT);
    let has_joined = map.cluster(record.cluster).is_some();
    if has_root && has_joined && root_at.is_some_and(|cluster| cluster != record.cluster) {
        let leave = Command::DropVolume { volume: VolumeId(0) };
        if let Err(error) = metaserver.gate.change(leave).await {
            tracing::warn!(%error, "give up the root directory that this cluster had before it joined");
        }
    }
    let load = average(&metaserver.gate.view.loads(&servers, Instant::now()));
    let mut metaservers = metaserver.metaservers();
    metaservers.sort(); // whoever leads
    let entry = ClusterEntry { name: record.name, metaservers };
    federation.federate(Federate::Report { cluster: record.cluster, entry, load }).await.map(drop)
}

/// Over the chunkservers that are alive.
fn average(loads: &[Load]) -> ClusterLoad {
    let count = loads.len() as u64;
    if count == 0 {
        return ClusterLoad::default();
    }
    let mean = |percent: &dyn Fn(&Load) -> u64| (loads.iter().map(percent).sum::<u64>() / count) as u32;
    let used = |total: u64, free: u64| match total {
        0 => 0,
        total => 100 * u128::from(total.saturating_sub(free)) / u128::from(total),
    };
    ClusterLoad {
        cpu: mean(&|load| u64::from(load.cpu_percent.min(100))),
        memory: mean(&|load| used(load.memory_total.0, load.memory_available.0) as u64),
        disk: mean(&|load| used(load.disk_total.0, load.disk_free.0) as u64),
        chunkservers: count as u32,
    }
}

#[cfg(test)]
mod tests {
    use dfs_proto::units::ByteLen;

    use super::*;

    #[test]
    fn the_load_of_a_cluster_is_the_mean_of_its_chunkservers() {
        let server = |cpu_percent, free| Load {
            cpu_percent,
            memory_total: ByteLen(200),
            memory_available: ByteLen(150),
            disk_total: ByteLen(1000),
            disk_free: ByteLen(free),
            ..Load::default()
        };
        let load = average(&[server(10, 900), server(30, 700)]);
        assert_eq!(load, ClusterLoad { cpu: 20, memory: 25, disk: 20, chunkservers: 2 });
        assert_eq!(average(&[]), ClusterLoad::default());
    }
}
