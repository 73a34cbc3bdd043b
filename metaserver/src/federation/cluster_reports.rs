//! What clusters have reported to the federation group's leader, and where a new volume goes by that.
//!
//! FG1  Reports about how busy clusters are count only in the term in which they came ([`Soft`]). A volume is placed once every
//!      cluster of the map has reported living chunkservers in this term, or [`COMPLETE_AFTER`] has passed since the election (as
//!      P10.2). (A cluster that has just elected a leader reports no chunkservers at first.)

use std::collections::BTreeMap;
use std::time::Duration;

use dfs_proto::error::MetaError;
use dfs_proto::federation::{ClusterEntry, ClusterLoad, FederationMap};
use dfs_proto::ids::ClusterId;
use dfs_proto::meta::MetaResult;
use tokio::time::Instant;

use super::placement::{Candidate, choose};
use crate::coherence::soft::Soft;

/// Between two reports of a cluster's leader.
pub(super) const REPORT_INTERVAL: Duration = Duration::from_secs(2);
/// One and a half intervals of reports. A call waits longer than this, so with a cluster away the first call already succeeds.
const COMPLETE_AFTER: Duration = REPORT_INTERVAL.saturating_mul(3).checked_div(2).expect("not by zero");
/// A cluster that was silent for this long gets no volumes.
const SILENT_AFTER: Duration = Duration::from_secs(3 * REPORT_INTERVAL.as_secs() + 1);

/// Clusters that are not in the map and whose load is kept. Whoever makes up more fills no memory.
pub(super) const STRANGERS_MAX: usize = 64;

/// What this process has heard as the group's leader.
pub(super) struct ClusterReports {
    pub(super) heard: Soft<BTreeMap<ClusterId, ClusterReport>>,
}

pub(super) struct ClusterReport {
    load: ClusterLoad,
    at: Instant,
    placed_since: u32,
}

impl ClusterReports {
    pub(super) fn new(now: Instant) -> ClusterReports {
        ClusterReports { heard: Soft::new(now) }
    }

    pub(super) fn heard(&self, map: &FederationMap, cluster: ClusterId, load: ClusterLoad, now: Instant) {
        let mut soft = self.heard.lock();
        let is_stranger = |id: &ClusterId| map.cluster(*id).is_none();
        if is_stranger(&cluster) && !soft.known.contains_key(&cluster) {
            let strangers = soft.known.keys().filter(|id| is_stranger(id)).count();
            if strangers >= STRANGERS_MAX {
                return;
            }
        }
        soft.known.insert(cluster, ClusterReport { load, at: now, placed_since: 0 });
    }

    pub(super) fn placed(&self, cluster: ClusterId) {
        if let Some(heard) = self.heard.lock().known.get_mut(&cluster) {
            heard.placed_since += 1;
        }
    }

    pub(super) fn choose(
        &self,
        map: &FederationMap,
        except: &[ClusterId],
        now: Instant,
    ) -> MetaResult<ClusterId> {
        let soft = self.heard.lock();
        let is_complete = now.saturating_duration_since(soft.since) >= COMPLETE_AFTER
            || map.clusters.iter().all(|(id, _)| soft.known.get(id).is_some_and(has_servers));
        if !is_complete {
            let what = "waiting for the clusters to report how busy they are".to_owned();
            return Err(MetaError::Unavailable { what }); // keeps FG1
        }
        let candidate = |(id, entry): &(ClusterId, ClusterEntry)| {
            let heard = soft.known.get(id)?;
            let is_there = now.saturating_duration_since(heard.at) < SILENT_AFTER && !except.contains(id);
            is_there.then(|| Candidate {
                cluster: *id,
                name: entry.name.clone(),
                load: heard.load,
                volumes: map.volumes.iter().filter(|(_, volume)| volume.cluster == *id).count(),
                placed_since: heard.placed_since,
            })
        };
        let candidates: Vec<Candidate> = map.clusters.iter().filter_map(candidate).collect();
        // It may have some by its next report.
        choose(&candidates).ok_or_else(|| match except {
            [] => MetaError::Unavailable {
                what: "no cluster with a living chunkserver has reported".to_owned(),
            },
            _ => {
                MetaError::Away { what: "no other cluster with a living chunkserver has reported".to_owned() }
            }
        })
    }
}

fn has_servers(heard: &ClusterReport) -> bool {
    heard.load.chunkservers > 0
}
