//! What the federation group's leader has heard of the clusters, and where new volumes go.
//!
//! FG1  How busy clusters are is soft: what was reported before this term does not count. A volume is placed once every
//!     cluster of the map has reported living chunkservers in this term (after an election of its own it has none at first),
//!     or [`COMPLETE_AFTER`] has passed since the election (as P10.2).

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use dfs_proto::error::MetaError;
use dfs_proto::federation::{ClusterEntry, ClusterLoad, FederationMap};
use dfs_proto::ids::ClusterId;
use dfs_proto::meta::MetaResult;
use tokio::time::Instant;

use super::placement::{Candidate, choose};

/// Between two reports of a cluster's leader.
pub(super) const REPORT_INTERVAL: Duration = Duration::from_secs(2);
/// A report and a half; shorter than what a call waits, so that with a cluster away the first call already succeeds.
const COMPLETE_AFTER: Duration = REPORT_INTERVAL.saturating_mul(3).checked_div(2).expect("not by zero");
/// A cluster that was silent for as long gets no volumes.
const SILENT_AFTER: Duration = Duration::from_secs(3 * REPORT_INTERVAL.as_secs() + 1);

/// What this process has heard as the group's leader.
#[derive(Default)]
pub(crate) struct Group {
    soft: Mutex<Soft>,
}

#[derive(Default)]
struct Soft {
    term: u64,
    heard: BTreeMap<ClusterId, Heard>,
}

struct Heard {
    load: ClusterLoad,
    at: Instant,
    placed_since: u32,
}

fn has_servers(heard: &Heard) -> bool {
    heard.load.chunkservers > 0
}

impl Group {
    fn with<T>(&self, look: impl FnOnce(&mut Soft) -> T) -> T {
        look(&mut self.soft.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Keeps FG1.
    pub(super) fn enter_term(&self, term: u64) {
        self.with(|soft| {
            if soft.term < term {
                *soft = Soft { term, heard: BTreeMap::new() };
            }
        });
    }

    pub(super) fn heard(&self, cluster: ClusterId, load: ClusterLoad, now: Instant) {
        self.with(|soft| soft.heard.insert(cluster, Heard { load, at: now, placed_since: 0 }));
    }

    pub(super) fn placed(&self, cluster: ClusterId) {
        self.with(|soft| {
            if let Some(heard) = soft.heard.get_mut(&cluster) {
                heard.placed_since += 1;
            }
        });
    }

    pub(super) fn choose(
        &self,
        map: &FederationMap,
        except: &[ClusterId],
        elected: Instant,
        now: Instant,
    ) -> MetaResult<ClusterId> {
        self.with(|soft| {
            let is_complete = now.saturating_duration_since(elected) >= COMPLETE_AFTER
                || map.clusters.iter().all(|(id, _)| soft.heard.get(id).is_some_and(has_servers));
            if !is_complete {
                let what = "waiting for the clusters to report how busy they are".to_owned();
                return Err(MetaError::Unavailable { what }); // keeps FG1
            }
            let candidate = |(id, entry): &(ClusterId, ClusterEntry)| {
                let heard = soft.heard.get(id)?;
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
                _ => MetaError::Away {
                    what: "no other cluster with a living chunkserver has reported".to_owned(),
                },
            })
        })
    }
}
