//! What the federation group records beside its map.

use dfs_proto::federation::RootCopy;
use dfs_proto::ids::{FederationId, VolumeId};

/// What there is once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct FederationRecord {
    pub federation: FederationId,
    pub version: u64,
    /// The last number given.
    pub last_volume: VolumeId,
    pub root: RootCopy,
}
