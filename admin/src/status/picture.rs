//! The parts of a status, as plain data.

use dfs_proto::federation::VolumePhase;
use dfs_proto::wire;
use serde::Serialize;

/// A clock that is off by more is a problem (P7.1).
const CLOCK_OFF_MAX_MS: u64 = 1000;

/// A federation, as the answers of its metaservers show it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct FederationStatus {
    /// Where the addresses of the first metaservers came from.
    pub found_by: String,
    /// The version of the federation's map; 0 if no metaserver gave one: it is one cluster on its own, or nobody answers.
    pub map_version: u64,
    /// Sorted by name. There is at least one, unless the map has none yet.
    pub clusters: Vec<ClusterStatus>,
    pub volumes: Vec<VolumeStatus>,
}

/// One cluster, as the answers of its metaservers show it together.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct ClusterStatus {
    /// `None` if no metaserver answered and no map names the cluster.
    pub cluster: Option<Cluster>,
    /// The metaservers.
    pub members: Vec<MemberStatus>,
    /// `None` if no metaserver leads, or the leader did not answer.
    pub leader: Option<LeaderReport>,
}

/// What a cluster is called, and how many replicas it wants of each chunk.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Cluster {
    pub id: String,
    pub name: String,
    /// The replicas that each chunk should have; 0 if no metaserver of the cluster answered.
    pub copies: u32,
}

/// One metaserver: a member of its cluster's Raft group.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct MemberStatus {
    /// `None` if it did not answer and no other member names its address.
    pub id: Option<u64>,
    pub address: String,
    pub state: MemberState,
    /// The index of the last entry of its log; `None` if it did not answer.
    pub last_log: Option<u64>,
    /// How many entries its log is behind the leader's; `None` if nobody knows.
    pub log_lag: Option<u64>,
    /// Its disk is full: while it leads, the cluster takes nothing new.
    pub is_full: bool,
    /// How far its clock is ahead of the others'; `None` if the leader does not know.
    pub clock_off_ms: Option<i64>,
    /// Why it did not answer; `None` if it did.
    pub problem: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum MemberState {
    Leader,
    Follower,
    Unreachable,
}

impl MemberStatus {
    /// What is wrong with its clock, if it is off by more than a second (P7.1).
    pub fn clock_problem(&self) -> Option<String> {
        let off = self.clock_off_ms.filter(|off| off.unsigned_abs() > CLOCK_OFF_MAX_MS)?;
        let direction = if off > 0 { "ahead of" } else { "behind" };
        let seconds = off.unsigned_abs() as f64 / 1000.0;
        Some(format!("its clock is {seconds:.1} s {direction} the others"))
    }
}

impl MemberState {
    pub fn name(self) -> &'static str {
        match self {
            MemberState::Leader => "leader",
            MemberState::Follower => "follower",
            MemberState::Unreachable => "unreachable",
        }
    }
}

/// What only the leader of a cluster knows.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct LeaderReport {
    /// The id of the member that leads.
    pub member: u64,
    pub term: u64,
    pub last_log: u64,
    pub last_applied: u64,
    pub chunkservers: Vec<ChunkserverStatus>,
    pub chunks: ChunkCounts,
    pub inodes: u64,
    pub sessions: u64,
    /// What the sessions hold; `None` if the leader is of a release that does not tell.
    pub held: Option<Held>,
}

/// What all sessions of a cluster hold together, as its leader knows it since its election.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Held {
    /// Sessions that have told the leader what they hold.
    pub sessions_attached: u64,
    pub locks: u64,
    /// Requests that wait for a lock.
    pub waits: u64,
    /// Files that a session may write without asking.
    pub write_leases: u64,
    /// Sessions that others wait for.
    pub sessions_waited_for: u64,
    /// Which these are; if they are many, the first of them.
    pub waited_for: Vec<u64>,
}

/// How many chunks a cluster has in each state. A chunk may be counted twice: degraded and damaged ones are sealed or open.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct ChunkCounts {
    pub open: u64,
    pub sealed: u64,
    /// Chunks with fewer replicas than they should have, or with one on a server that is away.
    pub degraded: u64,
    pub damaged: u64,
    /// Chunks that no file needs any more and that are about to be deleted.
    pub dead: u64,
}

/// One volume: the root directory, or a directory in it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct VolumeStatus {
    pub number: u32,
    /// The path; empty if the volume has none yet, or none any more.
    pub name: String,
    /// The name of the cluster that has the volume.
    pub cluster: String,
    pub state: VolumeState,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum VolumeState {
    Creating,
    Active,
    /// The volume has lost its name, and what is left of it is being removed.
    Removing,
}

impl VolumeState {
    pub fn of(phase: VolumePhase) -> VolumeState {
        match phase {
            VolumePhase::Creating => VolumeState::Creating,
            VolumePhase::Active => VolumeState::Active,
            VolumePhase::Removing => VolumeState::Removing,
        }
    }

    pub fn name(self) -> &'static str {
        match self {
            VolumeState::Creating => "creating",
            VolumeState::Active => "active",
            VolumeState::Removing => "removing",
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum ServerState {
    Alive,
    /// The leader has not heard from the server for some seconds.
    Away,
    /// The server can be read from, but takes no more data.
    Full,
    /// The server has registered, but this leader has not heard from it since its election.
    NotHeard,
}

impl ServerState {
    pub fn name(self) -> &'static str {
        match self {
            ServerState::Alive => "alive",
            ServerState::Away => "away",
            ServerState::Full => "full",
            ServerState::NotHeard => "not heard",
        }
    }

    /// Whether chunks can be read from the server now.
    pub fn is_reachable(self) -> bool {
        matches!(self, ServerState::Alive | ServerState::Full)
    }

    /// The state that a leader names on the wire. A number that is not known here counts as away, never as alive.
    pub fn from_wire(state: i32) -> ServerState {
        match wire::ServerState::try_from(state) {
            Ok(wire::ServerState::Alive) => ServerState::Alive,
            Ok(wire::ServerState::Full) => ServerState::Full,
            Ok(wire::ServerState::Away | wire::ServerState::Unspecified) | Err(_) => ServerState::Away,
        }
    }
}

/// One chunkserver and its last report.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ChunkserverStatus {
    pub id: u64,
    pub grpc_address: String,
    pub frames_address: String,
    pub http_address: String,
    pub zone: String,
    pub state: ServerState,
    /// How long ago the leader got the report that the figures below are from.
    pub report_age_ms: u64,
    pub cpu_percent: u32,
    /// Bytes, as the three below.
    pub memory_total: u64,
    pub memory_available: u64,
    pub disk_total: u64,
    pub disk_free: u64,
    pub requests_in_flight: u64,
    pub chunks: u64,
}

impl ClusterStatus {
    /// The name of the cluster; empty if it is not known.
    pub fn name(&self) -> &str {
        self.cluster.as_ref().map_or("", |cluster| &cluster.name)
    }
}
