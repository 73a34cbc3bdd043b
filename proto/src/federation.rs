//! The federation map: which clusters there are, and which volume lives where (P9.1). Every metaserver serves the last one
//! that it knows, every client keeps one.

use serde::{Deserialize, Serialize};

use crate::attr::{InodeAttr, Name};
use crate::ids::{ClusterId, FederationId, InodeId, VolumeId};

/// One state of the map. A higher version is a later one.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct FederationMap {
    pub federation: FederationId,
    pub version: u64,
    pub root: RootCopy,
    /// The last number given: what is not above it and not in `volumes` was removed.
    pub last_volume: VolumeId,
    /// By id.
    pub clusters: Vec<(ClusterId, ClusterEntry)>,
    /// By number; volume 0 is the root directory's.
    pub volumes: Vec<(VolumeId, MapVolume)>,
}

/// What the root directory looks like while its own cluster is away.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RootCopy {
    pub mode: u32,
    pub uid: u32,
    pub gid: u32,
}

impl Default for RootCopy {
    fn default() -> RootCopy {
        RootCopy { mode: 0o755, uid: 0, gid: 0 }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClusterEntry {
    /// For people; no two clusters of a federation have the same.
    pub name: String,
    /// gRPC addresses, `host:port`.
    pub metaservers: Vec<String>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MapVolume {
    pub cluster: ClusterId,
    /// In the root directory, as volume 0 had it at `version`. `None`: it is volume 0, or has none any more.
    pub name: Option<Name>,
    /// Of the entry in volume 0; 0: it has none yet.
    pub version: u64,
    pub phase: VolumePhase,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum VolumePhase {
    /// It has a number and a cluster, and no name yet.
    Creating,
    Active,
    /// It has no name any more; files that were open may be left.
    Removing,
}

/// How busy a cluster is: averages over its chunkservers that are alive, in percent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ClusterLoad {
    pub cpu: u32,
    pub memory: u32,
    pub disk: u32,
    /// That are alive. With none, nothing is placed there.
    pub chunkservers: u32,
}

/// What the leader of the federation group is asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Federate {
    /// A cluster's leader says where its metaservers are and how busy it is; with the first report it joins.
    Report {
        cluster: ClusterId,
        entry: ClusterEntry,
        load: ClusterLoad,
    },
    /// A number for a new volume. `cluster`: where; the least busy one if it is not known, but none of `except`.
    AddVolume {
        name: Name,
        cluster: ClusterId,
        except: Vec<ClusterId>,
    },
    SettleVolume {
        volume: VolumeId,
        name: Name,
        version: u64,
    },
    RetireVolume {
        volume: VolumeId,
    },
    ForgetVolume {
        volume: VolumeId,
    },
    CopyRoot {
        root: RootCopy,
    },
    Join {
        cluster: ClusterId,
        entry: ClusterEntry,
    },
    Leave {
        cluster: ClusterId,
    },
}

/// The answer to [`Federate::AddVolume`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AddedVolume {
    pub volume: VolumeId,
    pub cluster: ClusterId,
}

/// A step that the leader of a volume's cluster, or of volume 0's, is asked for (P9.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VolumeRequest {
    pub cluster: ClusterId,
    pub volume: VolumeId,
    pub step: VolumeCall,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum VolumeCall {
    Make {
        root: RootCopy,
    },
    Show,
    /// No more names in its root. `version`: of the entry that is to go.
    StartRemoval {
        version: u64,
    },
    UndoRemoval {
        version: u64,
    },
    Drop,
    /// In volume 0's cluster: a removal that is under way fails.
    Fence,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum VolumeAnswer {
    /// Make, Show, StartRemoval.
    Root(InodeAttr),
    /// UndoRemoval.
    Done,
    /// `more`: files that are open are left.
    Dropped { more: bool },
    /// Removals at this version or below fail.
    Fenced { removed_at: u64 },
}

impl FederationMap {
    pub fn cluster(&self, id: ClusterId) -> Option<&ClusterEntry> {
        let at = self.clusters.binary_search_by_key(&id, |(id, _)| *id).ok()?;
        self.clusters.get(at).map(|(_, entry)| entry)
    }

    pub fn volume(&self, id: VolumeId) -> Option<&MapVolume> {
        let at = self.volumes.binary_search_by_key(&id, |(id, _)| *id).ok()?;
        self.volumes.get(at).map(|(_, volume)| volume)
    }

    /// The cluster that an inode's volume lives in.
    pub fn cluster_of(&self, inode: InodeId) -> Option<ClusterId> {
        self.volume(inode.volume()).map(|volume| volume.cluster)
    }

    /// The volume of this name in the root directory, as far as the map knows.
    pub fn named(&self, name: &[u8]) -> Option<VolumeId> {
        let is_it = |volume: &MapVolume| volume.name.as_ref().is_some_and(|n| n.as_bytes() == name);
        let active = self.volumes.iter().filter(|(_, volume)| volume.phase == VolumePhase::Active);
        active.filter(|(_, volume)| is_it(volume)).map(|(id, _)| *id).next_back()
    }
}
