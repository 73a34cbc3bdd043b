//! Why an operation failed: only distinctions that a caller can act on.

use dfs_proto::error::MetaError;
use dfs_proto::ids::InodeId;
use dfs_proto::units::Offset;
use thiserror::Error;

pub(crate) type Result<T> = std::result::Result<T, ClientError>;

/// Why a call failed. Cloned to every open file that has to report it (P6.4).
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum ClientError {
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
    /// Supplementary groups would decide: call again with `Caller::groups` filled in (P5.6).
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
    /// The inode is gone, and its number is not used again.
    #[error("stale inode")]
    Stale,
    /// The file was not opened for this (EBADF).
    #[error("{inode} is not open for {wanted}")]
    NotOpenFor { inode: InodeId, wanted: &'static str },
    #[error("not supported: {what}")]
    Unsupported { what: String },
    /// The cluster ended this client's session; what was not committed is lost, new work goes on (P3.1).
    #[error("the session has ended, what was not committed is lost")]
    SessionLost,
    /// Somebody else holds a lock that is in the way (EAGAIN).
    #[error("locked by somebody else")]
    LockConflict,
    /// The wait would close a circle of owners that wait for each other (EDEADLK).
    #[error("a wait for this lock would never end")]
    LockDeadlock,
    /// This client has as many locks, or waits for locks, as it may have (ENOLCK).
    #[error("too many locks")]
    TooManyLocks,
    /// This client has as many files open as it may have (ENFILE).
    #[error("too many open files")]
    TooManyOpenFiles,
    /// A lock that was set through this open file is lost: somebody else may have got it since (P5.7).
    #[error("a lock of the file is lost")]
    LockLost,
    /// Nobody answered before the deadline; the operation may have happened.
    #[error("no answer before the deadline: {what}")]
    Unavailable { what: String },
    /// Every copy of these bytes is missing or damaged.
    #[error("{inode} at {offset}: no whole copy is left: {what}")]
    DataLost { inode: InodeId, offset: Offset, what: String },
    /// A bug: something happened that must not happen.
    #[error("internal error: {what}")]
    Internal { what: String },
}

impl From<MetaError> for ClientError {
    fn from(error: MetaError) -> ClientError {
        match error {
            MetaError::NotFound => ClientError::NotFound,
            MetaError::Exists => ClientError::Exists,
            MetaError::NotDirectory => ClientError::NotDirectory,
            MetaError::IsDirectory => ClientError::IsDirectory,
            MetaError::NotEmpty => ClientError::NotEmpty,
            MetaError::PermissionDenied => ClientError::PermissionDenied,
            MetaError::NotPermitted => ClientError::NotPermitted,
            MetaError::GroupsNeeded => ClientError::GroupsNeeded,
            MetaError::NameTooLong => ClientError::NameTooLong,
            MetaError::TooManyLinks => ClientError::TooManyLinks,
            MetaError::CrossVolume => ClientError::CrossVolume,
            MetaError::InvalidArgument { what } => ClientError::InvalidArgument { what },
            MetaError::FileTooLarge => ClientError::FileTooLarge,
            MetaError::NoSpace { what } => ClientError::NoSpace { what },
            MetaError::Stale => ClientError::Stale,
            MetaError::SessionExpired { .. } => ClientError::SessionLost,
            MetaError::Unsupported { what } => ClientError::Unsupported { what },
            MetaError::NotLeader { .. }
            | MetaError::Unavailable { .. }
            | MetaError::Away { .. }
            | MetaError::Undecided { .. }
            | MetaError::WrongCluster { .. } => ClientError::Unavailable { what: error.to_string() },
            MetaError::RequestTooOld
            | MetaError::ChunkNotOpen { .. }
            | MetaError::WrongSetVersion { .. }
            | MetaError::CommitRefused { .. }
            | MetaError::Internal { .. } => ClientError::Internal { what: error.to_string() },
        }
    }
}
