//! Which hosts there are, and what they are called.

use std::ops::Range;

/// Of each cluster.
pub(super) const METASERVERS: usize = 3;
/// The host of the client that dies.
pub(super) const MORTAL: &str = "x1";
/// The host of the client that makes volumes.
pub(super) const VOLUMES: &str = "v1";
/// The hosts of clients that share, and may be silent for long.
pub(super) const SHARERS: [&str; 1] = ["s1"];
pub(super) const GRPC_PORT: u16 = 7000;
pub(super) const FRAMES_PORT: u16 = 7101;
/// Numbers of hosts, for what each has of its own.
pub(super) const METASERVER_HOSTS: u64 = 100;
pub(super) const CHUNKSERVER_HOSTS: u64 = 200;
pub(super) const WALKER_HOSTS: u64 = 300;
pub(super) const MORTAL_HOST: u64 = 400;
pub(super) const VOLUMES_HOST: u64 = 500;
pub(super) const SHARER_HOSTS: u64 = 600;

/// Which servers there are: `m1`, `m2`, … and `c1`, `c2`, …, counted over all clusters. Metaservers are named by their index
/// from 0, Raft groups by the index of their cluster, or the number of clusters for the federation group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Layout {
    pub clusters: usize,
    /// Of each cluster.
    pub chunkservers: usize,
}

impl Layout {
    pub(super) const ALONE: Layout = Layout { clusters: 1, chunkservers: 3 };
    pub(super) const FEDERATION: Layout = Layout { clusters: 2, chunkservers: 2 };

    pub(super) fn has_federation(self) -> bool {
        self.clusters > 1
    }

    pub(super) fn metaservers(self) -> usize {
        self.clusters * METASERVERS
    }

    pub(super) fn all_chunkservers(self) -> usize {
        self.clusters * self.chunkservers
    }

    /// The members of the federation group, spread over the clusters.
    pub(super) fn seats(self) -> Vec<usize> {
        let rounds = (0..METASERVERS).flat_map(|id| (0..self.clusters).map(move |of| of * METASERVERS + id));
        if self.has_federation() { rounds.take(3).collect() } else { Vec::new() }
    }

    pub(super) fn groups(self) -> usize {
        self.clusters + usize::from(self.has_federation())
    }

    pub(super) fn members(self, group: usize) -> Vec<usize> {
        if group == self.clusters { self.seats() } else { members_of(group).collect() }
    }
}

pub(super) fn members_of(cluster: usize) -> Range<usize> {
    cluster * METASERVERS..(cluster + 1) * METASERVERS
}

pub(super) fn metaserver_name(index: usize) -> String {
    format!("m{}", index + 1)
}

pub(super) fn metaserver_addresses(indexes: impl IntoIterator<Item = usize>) -> Vec<String> {
    indexes.into_iter().map(|index| format!("{}:{GRPC_PORT}", metaserver_name(index))).collect()
}
