//! What a member of a group is started with.

use std::collections::BTreeMap;
use std::time::Duration;

use dfs_proto::ids::MemberId;

use super::log::store::LogOptions;
use super::member::group::GroupKind;
use dfs_state::command::RootAttr;

/// How soon a leader that has failed is noticed and replaced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timing {
    pub heartbeat: Duration,
    /// A follower stands for election when it has heard no leader for the length of the leader's lease plus this.
    pub election_min: Duration,
    /// This is also the length of the leader's lease: for so long after a heartbeat, no follower helps to elect another leader.
    pub election_max: Duration,
}

impl Timing {
    pub fn new(heartbeat: Duration, election_timeout: Duration) -> Timing {
        Timing { heartbeat, election_min: election_timeout, election_max: election_timeout * 7 / 4 }
    }
}

impl Default for Timing {
    /// With these, a leader that was killed is replaced after 1 to 1.6 s.
    fn default() -> Timing {
        Timing::new(Duration::from_millis(300), Duration::from_millis(450))
    }
}

/// How the first leader makes the cluster.
#[derive(Clone, Debug)]
pub struct ClusterOptions {
    pub name: String,
    pub copies: u32,
    pub copies_min: u32,
    pub root: RootAttr,
}

impl Default for ClusterOptions {
    fn default() -> ClusterOptions {
        ClusterOptions {
            name: "dfs".to_owned(),
            copies: 2,
            copies_min: 1,
            root: RootAttr { mode: 0o755, uid: 0, gid: 0 },
        }
    }
}

/// What a group is for, and what its first leader needs to make that.
#[derive(Clone, Debug)]
pub enum Purpose {
    Cluster(ClusterOptions),
    Federation,
}

impl Purpose {
    pub(crate) fn kind(&self) -> GroupKind {
        match self {
            Purpose::Cluster(_) => GroupKind::Cluster,
            Purpose::Federation => GroupKind::Federation,
        }
    }
}

#[derive(Clone, Debug)]
pub struct ConsensusOptions {
    pub member: MemberId,
    /// `host:port` of the gRPC port, at which clients and the other members reach this member.
    pub address: String,
    /// Every member of the group with its address. All members must be given the same.
    pub bootstrap: BTreeMap<MemberId, String>,
    pub purpose: Purpose,
    pub timing: Timing,
    /// A snapshot is made after this many entries, so that the log can be cut.
    pub snapshot_entries: u64,
    /// So many entries are kept when the log is cut, so that a follower that is a little behind needs no snapshot.
    pub keep_entries: u64,
    /// A snapshot is also made when the entries have more bytes than this allows.
    pub log: LogOptions,
    /// A read fails when the entries that it must see are not applied within this time.
    pub deadline: Duration,
}

impl ConsensusOptions {
    pub fn new(member: MemberId, address: String, bootstrap: BTreeMap<MemberId, String>) -> ConsensusOptions {
        ConsensusOptions {
            member,
            address,
            bootstrap,
            purpose: Purpose::Cluster(ClusterOptions::default()),
            timing: Timing::default(),
            snapshot_entries: 10_000,
            keep_entries: 2_000,
            log: LogOptions::default(),
            deadline: Duration::from_secs(4),
        }
    }
}
