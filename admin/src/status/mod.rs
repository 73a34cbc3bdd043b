//! The status of a federation as data: what `dfs status` prints, and what a console can show.
//!
//! [`find`] reads from the configuration which metaservers to ask. [`gather`] asks all of them at once and joins their
//! answers. [`judge`] says how healthy that is, and why. [`of`] does the last two. Nothing here prints, and nothing here
//! knows the command line; the names of the fields are the keys of the JSON that `dfs --json status` prints.

pub mod find;
pub mod gather;
pub mod judge;
mod picture;

use dfs_net::env::Env;
use serde::Serialize;

use find::Metaservers;
use judge::HealthReport;
pub use picture::{
    ChunkCounts, ChunkserverStatus, Cluster, ClusterStatus, FederationStatus, Held, LeaderReport,
    MemberState, MemberStatus, ServerState, VolumeState, VolumeStatus,
};

/// A federation and how healthy it is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Status {
    #[serde(rename = "verdict")]
    pub health: HealthReport,
    #[serde(flatten)]
    pub federation: FederationStatus,
}

/// Asks `metaservers`, and those that their answers name, and judges what they say. It answers within three seconds, also
/// when every server is dead.
pub async fn of(env: &Env, metaservers: &Metaservers) -> Status {
    let federation = gather::federation(env, metaservers).await;
    Status { health: judge::federation(&federation), federation }
}
