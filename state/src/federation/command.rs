//! What may change the federation map, and what is answered. `record::federation_log` is how the commands stand in Raft entries.

use dfs_proto::attr::Name;
use dfs_proto::error::MetaError;
use dfs_proto::federation::{ClusterEntry, RootCopy};
use dfs_proto::ids::{ClusterId, FederationId, VolumeId};

/// A change of the federation map. All but `AddVolume` may be repeated: the second time nothing changes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    /// The first command, which makes the federation. A second one changes nothing.
    Init { federation: FederationId },
    /// A cluster joins, or its metaservers have moved. The first cluster gets volume 0.
    JoinCluster { cluster: ClusterId, entry: ClusterEntry },
    /// A cluster of the map says where its metaservers are now.
    MoveCluster { cluster: ClusterId, entry: ClusterEntry },
    /// `Refused(NotEmpty)` while the cluster has volumes.
    LeaveCluster { cluster: ClusterId },
    /// Gives a number to a volume that is to be made in this cluster (P9.2, step 1). Answers `VolumeAdded`.
    AddVolume { cluster: ClusterId, name: Name },
    /// Volume 0 has this name for the volume, at this version of its entry (P9.2, step 4; P9.5).
    SettleVolume { volume: VolumeId, name: Name, version: u64 },
    /// Volume 0 has no name for the volume and will have none.
    RetireVolume { volume: VolumeId },
    /// Nothing is left of a retired volume.
    ForgetVolume { volume: VolumeId },
    /// The root directory has these attributes.
    CopyRoot { root: RootCopy },
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reply {
    /// Every command but AddVolume.
    Done,
    /// Any command: nothing was changed.
    Refused(MetaError),
    /// AddVolume.
    VolumeAdded { volume: VolumeId },
}
