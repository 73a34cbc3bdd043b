//! What a member of a group is started with.

use std::collections::BTreeMap;
use std::time::Duration;

use dfs_proto::ids::MemberId;

use super::log::store::LogOptions;
use super::member::group::GroupKind;
use dfs_state::command::RootAttr;

/// How a leader is noticed and replaced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timing {
    pub heartbeat: Duration,
    /// A follower that has heard nothing for one lease and this long stands for election.
    pub election_min: Duration,
    /// Also the leader's lease: for so long after a heartbeat no follower helps to elect another one.
    pub election_max: Duration,
}

impl Timing {
    pub fn new(heartbeat: Duration, election_timeout: Duration) -> Timing {
        Timing { heartbeat, election_min: election_timeout, election_max: election_timeout * 7 / 4 }
    }
}

impl Default for Timing {
    /// A killed leader is replaced after 1 to 1.6 s.
    fn default() -> Timing {
        Timing::new(Duration::from_millis(300), Duration::from_millis(450))
    }
}

/// What the first leader makes the cluster with.
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

/// What a group is there for, and what its first leader makes it with.
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
    /// Where the other members and clients reach this one: `host:port` of its gRPC port.
    pub address: String,
    /// Every member of the group with its address; equal on all.
    pub bootstrap: BTreeMap<MemberId, String>,
    pub purpose: Purpose,
    pub timing: Timing,
    /// A snapshot is made after this many entries; it lets the log be cut.
    pub snapshot_entries: u64,
    /// Entries kept behind a snapshot for followers that are a little behind.
    pub keep_entries: u64,
    /// When the entries are too long for it, a snapshot is also made, and the log cut.
    pub log: LogOptions,
    /// A read that the state is not applied far enough for within this time is given up.
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
