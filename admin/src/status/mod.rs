//! What `dfs status` shows: which metaservers are asked, what they answer, and how healthy that is.

pub mod find;
pub mod gather;
pub mod judge;

use dfs_proto::federation::VolumePhase;
use dfs_proto::wire;
use serde::Serialize;

/// A member's clock that is off by more is named.
const CLOCK_OFF_MAX_MS: u64 = 1000;

/// All of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct FederationStatus {
    /// Where the addresses came from.
    pub found_by: String,
    /// Of the federation's map; 0: one cluster on its own, or nobody answered.
    pub map_version: u64,
    /// At least one, by name.
    pub clusters: Vec<ClusterStatus>,
    pub volumes: Vec<VolumeStatus>,
}

/// One cluster, joined from all answers.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct ClusterStatus {
    /// `None`: nobody answered, and no map names it.
    pub cluster: Option<Cluster>,
    pub members: Vec<MemberStatus>,
    /// What only a leader knows; `None`: there is none, or it did not answer.
    pub leader: Option<LeaderReport>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Cluster {
    pub id: String,
    pub name: String,
    /// 0: nobody of it answered.
    pub copies: u32,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct MemberStatus {
    /// `None`: it never answered, and nobody who did names it.
    pub id: Option<u64>,
    pub address: String,
    pub state: MemberState,
    pub last_log: Option<u64>,
    /// Entries that its log is behind the leader's.
    pub log_lag: Option<u64>,
    /// Its disk is: it takes nothing new while it leads.
    pub is_full: bool,
    /// How far its clock is ahead of the others', as the leader knows.
    pub clock_off_ms: Option<i64>,
    /// Why it did not answer.
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
    /// P7.1: a clock that is off by more than a second.
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

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct LeaderReport {
    pub member: u64,
    pub term: u64,
    pub last_log: u64,
    pub last_applied: u64,
    pub chunkservers: Vec<ChunkserverStatus>,
    pub chunks: ChunkCounts,
    pub inodes: u64,
    pub sessions: u64,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct ChunkCounts {
    pub open: u64,
    pub sealed: u64,
    pub degraded: u64,
    pub damaged: u64,
    pub dead: u64,
}

/// Volumes but the root directory's are directories in it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct VolumeStatus {
    pub number: u32,
    /// Its path; empty: it has none yet, or none any more.
    pub name: String,
    pub cluster: String,
    pub state: VolumeState,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum VolumeState {
    Creating,
    Active,
    /// It has lost its name; what is left of it is being removed.
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
    Away,
    Full,
    /// Registered, but this leader has not heard it since its election.
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

    /// Can it be read from now?
    pub fn is_reachable(self) -> bool {
        matches!(self, ServerState::Alive | ServerState::Full)
    }

    /// As a leader tells it on the wire; what an unknown number may mean is not "alive".
    pub fn from_wire(state: i32) -> ServerState {
        match wire::ServerState::try_from(state) {
            Ok(wire::ServerState::Alive) => ServerState::Alive,
            Ok(wire::ServerState::Full) => ServerState::Full,
            Ok(wire::ServerState::Away | wire::ServerState::Unspecified) | Err(_) => ServerState::Away,
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ChunkserverStatus {
    pub id: u64,
    pub grpc_address: String,
    pub frames_address: String,
    pub http_address: String,
    pub zone: String,
    pub state: ServerState,
    pub report_age_ms: u64,
    pub cpu_percent: u32,
    pub memory_total: u64,
    pub memory_available: u64,
    pub disk_total: u64,
    pub disk_free: u64,
    pub requests_in_flight: u64,
    pub chunks: u64,
}

impl ClusterStatus {
    /// Empty: not known.
    pub fn name(&self) -> &str {
        self.cluster.as_ref().map_or("", |cluster| &cluster.name)
    }
}
