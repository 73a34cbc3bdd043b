//! The refusals that travel. What the one who gets a refusal does next depends on what it had asked for, so it is decided
//! there: for a change of leader in `rpc::leader`, for reads, appends and commits in the client.

use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::ids::{ChunkId, ServerId, SessionId, SetVersion};

/// What a metaserver refuses, and why.
#[derive(Clone, Debug, Error, PartialEq, Eq, Serialize, Deserialize)]
pub enum MetaError {
    #[error("no such file or directory")]
    NotFound,
    #[error("it exists already")]
    Exists,
    #[error("not a directory")]
    NotDirectory,
    #[error("is a directory")]
    IsDirectory,
    #[error("directory not empty")]
    NotEmpty,
    /// The mode bits refuse (EACCES).
    #[error("permission denied")]
    PermissionDenied,
    /// The caller's identity refuses (EPERM).
    #[error("operation not permitted")]
    NotPermitted,
    /// Supplementary groups would decide and were not given: send them (P5.6).
    #[error("supplementary groups are needed to decide")]
    GroupsNeeded,
    #[error("name too long")]
    NameTooLong,
    #[error("too many links")]
    TooManyLinks,
    #[error("across volumes")]
    CrossVolume,
    #[error("invalid argument: {what}")]
    InvalidArgument { what: String },
    #[error("file too large")]
    FileTooLarge,
    #[error("no space left: {what}")]
    NoSpace { what: String },
    /// The inode was removed and its last holder released it.
    #[error("stale inode")]
    Stale,
    #[error("{session} has ended")]
    SessionExpired { session: SessionId },
    /// The request id is below the window: it was executed or given up long ago, and is not executed now (P8.1).
    #[error("request id below the window of remembered results")]
    RequestTooOld,
    /// Ask the leader; its address if it is known.
    #[error("not the leader")]
    NotLeader { leader: Option<String> },
    /// The map of the federation, by which this cluster was asked, is old: a newer one names another.
    #[error("this cluster does not have the volume (map version {map_version})")]
    WrongCluster { map_version: u64 },
    /// No quorum, an election, too few chunkservers heard: later it may work.
    #[error("not available now: {what}")]
    Unavailable { what: String },
    /// Another cluster, or the federation group, that this needs: it is not waited for (P9.4).
    #[error("away: {what}")]
    Away { what: String },
    #[error("{chunk} is sealed or not open for this session")]
    ChunkNotOpen { chunk: ChunkId },
    #[error("{chunk}: replica set is at {actual}, the request names {named}")]
    WrongSetVersion { chunk: ChunkId, actual: SetVersion, named: SetVersion },
    #[error("commit refused: {what}")]
    CommitRefused { what: String },
    #[error("not supported: {what}")]
    Unsupported { what: String },
    /// Something that must not happen, with what was seen.
    #[error("internal error: {what}")]
    Internal { what: String },
    /// Another request about the same is under way, perhaps in another cluster: later it may work. Unlike with
    /// `Unavailable`, the cluster that says so is well.
    #[error("not decided yet: {what}")]
    Undecided { what: String },
}

/// What a chunkserver refuses, and why.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum ChunkError {
    /// No such chunk here. For a reader: fetch the extents again; if they still name it, this copy is bad (P10.4).
    #[error("{chunk} is not here")]
    Gone { chunk: ChunkId },
    /// The append is not at the end; a gap, or different bytes for a place that has some (P1.2).
    #[error("{chunk}: append at {named}, but it ends at {held}")]
    AppendOutOfPlace { chunk: ChunkId, held: u64, named: u64 },
    /// This server started anew since the chunk was opened, or an I/O failed: no more appends, go on elsewhere.
    #[error("{chunk} takes no more appends here")]
    NotOpen { chunk: ChunkId },
    /// A checksum does not match: on arrival, or at rest from `at` on.
    #[error("{chunk}: damaged at {at}")]
    Damaged { chunk: ChunkId, at: u64 },
    /// Fewer bytes are held than asked for.
    #[error("{chunk}: {held} bytes held, {wanted} wanted")]
    TooShort { chunk: ChunkId, held: u64, wanted: u64 },
    /// Another member of the replica set failed: which one, why, and the same in words.
    #[error("{chunk}: {server} failed: {what}")]
    ReplicaFailed { chunk: ChunkId, server: ServerId, cause: ReplicaFailure, what: String },
    #[error("disk full")]
    NoSpace,
    /// The disk failed under this chunk.
    #[error("disk error: {what}")]
    Disk { what: String },
    /// The set version or incarnation named is older than one that this server has seen.
    #[error("the request is older than what this server knows: {what}")]
    Outdated { what: String },
    #[error("invalid request: {what}")]
    Invalid { what: String },
    /// The server cannot do it now, for a reason that lies in the server alone: later it may.
    #[error("busy")]
    Busy,
    /// The transport failed before an answer came: what was asked may or may not have happened.
    #[error("{server}: {what}")]
    Unreachable { server: ServerId, what: String },
}

/// Why a member of a replica set failed, as the server saw it that had passed a request on to it: the kind of
/// [`ChunkError`] that came back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReplicaFailure {
    /// The server that reports the failure did not say why, or named a cause that is not known here: it is of an earlier or
    /// a later version.
    Unknown,
    /// No answer came: there was no connection, or it ended, or the deadline passed.
    Unreachable,
    NoSpace,
    Disk,
    NotOpen,
    AppendOutOfPlace,
    TooShort,
    Damaged,
    Gone,
    Outdated,
    Invalid,
    Busy,
}

impl ReplicaFailure {
    /// The kind of `error`, which a member of a replica set answered or which took the place of its answer.
    pub fn of(error: &ChunkError) -> ReplicaFailure {
        match error {
            ChunkError::Gone { .. } => ReplicaFailure::Gone,
            ChunkError::AppendOutOfPlace { .. } => ReplicaFailure::AppendOutOfPlace,
            ChunkError::NotOpen { .. } => ReplicaFailure::NotOpen,
            ChunkError::Damaged { .. } => ReplicaFailure::Damaged,
            ChunkError::TooShort { .. } => ReplicaFailure::TooShort,
            // It had passed the request on itself.
            ChunkError::ReplicaFailed { cause, .. } => *cause,
            ChunkError::NoSpace => ReplicaFailure::NoSpace,
            ChunkError::Disk { .. } => ReplicaFailure::Disk,
            ChunkError::Outdated { .. } => ReplicaFailure::Outdated,
            ChunkError::Invalid { .. } => ReplicaFailure::Invalid,
            ChunkError::Busy => ReplicaFailure::Busy,
            ChunkError::Unreachable { .. } => ReplicaFailure::Unreachable,
        }
    }
}
