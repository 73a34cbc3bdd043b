//! Refusals, and replies that carry nothing but a possible refusal.

use crate::error::MetaError;
use crate::ids::{ChunkId, SessionId, SetVersion};
use crate::meta::MetaResult;
use crate::wire;

pub fn error_to_wire(error: &MetaError) -> wire::Error {
    use wire::ErrorCode as Code;
    let plain = |code: Code| wire::Error { code: code as i32, ..Default::default() };
    let text = |code: Code, text: &str| wire::Error {
        code: code as i32,
        text: text.to_owned(),
        ..Default::default()
    };
    match error {
        MetaError::NotFound => plain(Code::NotFound),
        MetaError::Exists => plain(Code::Exists),
        MetaError::NotDirectory => plain(Code::NotDirectory),
        MetaError::IsDirectory => plain(Code::IsDirectory),
        MetaError::NotEmpty => plain(Code::NotEmpty),
        MetaError::PermissionDenied => plain(Code::PermissionDenied),
        MetaError::NotPermitted => plain(Code::NotPermitted),
        MetaError::GroupsNeeded => plain(Code::GroupsNeeded),
        MetaError::NameTooLong => plain(Code::NameTooLong),
        MetaError::TooManyLinks => plain(Code::TooManyLinks),
        MetaError::CrossVolume => plain(Code::CrossVolume),
        MetaError::InvalidArgument { what } => text(Code::InvalidArgument, what),
        MetaError::FileTooLarge => plain(Code::FileTooLarge),
        MetaError::NoSpace { what } => text(Code::NoSpace, what),
        MetaError::Stale => plain(Code::Stale),
        MetaError::SessionExpired { session } => wire::Error { a: session.0, ..plain(Code::SessionExpired) },
        MetaError::RequestTooOld => plain(Code::RequestTooOld),
        MetaError::NotLeader { leader } => text(Code::NotLeader, leader.as_deref().unwrap_or("")),
        MetaError::WrongCluster { map_version } => {
            wire::Error { a: *map_version, ..plain(Code::WrongCluster) }
        }
        MetaError::Unavailable { what } => text(Code::Unavailable, what),
        MetaError::Away { what } => text(Code::ClusterAway, what),
        MetaError::ChunkNotOpen { chunk } => wire::Error { a: chunk.0, ..plain(Code::ChunkNotOpen) },
        MetaError::WrongSetVersion { chunk, actual, named } => {
            wire::Error { a: chunk.0, b: actual.0, c: named.0, ..plain(Code::WrongSetVersion) }
        }
        MetaError::CommitRefused { what } => text(Code::CommitRefused, what),
        MetaError::Unsupported { what } => text(Code::Unsupported, what),
        MetaError::Internal { what } => text(Code::Internal, what),
        MetaError::Undecided { what } => text(Code::Undecided, what),
    }
}

pub fn error_from_wire(error: wire::Error) -> MetaError {
    use wire::ErrorCode as Code;
    let what = error.text;
    match Code::try_from(error.code) {
        Ok(Code::NotFound) => MetaError::NotFound,
        Ok(Code::Exists) => MetaError::Exists,
        Ok(Code::NotDirectory) => MetaError::NotDirectory,
        Ok(Code::IsDirectory) => MetaError::IsDirectory,
        Ok(Code::NotEmpty) => MetaError::NotEmpty,
        Ok(Code::PermissionDenied) => MetaError::PermissionDenied,
        Ok(Code::NotPermitted) => MetaError::NotPermitted,
        Ok(Code::GroupsNeeded) => MetaError::GroupsNeeded,
        Ok(Code::NameTooLong) => MetaError::NameTooLong,
        Ok(Code::TooManyLinks) => MetaError::TooManyLinks,
        Ok(Code::CrossVolume) => MetaError::CrossVolume,
        Ok(Code::InvalidArgument) => MetaError::InvalidArgument { what },
        Ok(Code::FileTooLarge) => MetaError::FileTooLarge,
        Ok(Code::NoSpace) => MetaError::NoSpace { what },
        Ok(Code::Stale) => MetaError::Stale,
        Ok(Code::SessionExpired) => MetaError::SessionExpired { session: SessionId(error.a) },
        Ok(Code::RequestTooOld) => MetaError::RequestTooOld,
        Ok(Code::NotLeader) => MetaError::NotLeader { leader: (!what.is_empty()).then_some(what) },
        Ok(Code::WrongCluster) => MetaError::WrongCluster { map_version: error.a },
        Ok(Code::Unavailable) => MetaError::Unavailable { what },
        Ok(Code::ClusterAway) => MetaError::Away { what },
        Ok(Code::ChunkNotOpen) => MetaError::ChunkNotOpen { chunk: ChunkId(error.a) },
        Ok(Code::WrongSetVersion) => MetaError::WrongSetVersion {
            chunk: ChunkId(error.a),
            actual: SetVersion(error.b),
            named: SetVersion(error.c),
        },
        Ok(Code::CommitRefused) => MetaError::CommitRefused { what },
        Ok(Code::Unsupported) => MetaError::Unsupported { what },
        Ok(Code::Internal) => MetaError::Internal { what },
        Ok(Code::Undecided) => MetaError::Undecided { what },
        Ok(Code::ErrorUnspecified) | Err(_) => {
            MetaError::Internal { what: format!("error code {} is not known here: {what}", error.code) }
        }
    }
}

/// For replies whose error is a field of its own.
pub fn refusal(error: Option<wire::Error>) -> MetaResult<()> {
    error.map_or(Ok(()), |e| Err(error_from_wire(e)))
}

pub fn empty_to_wire(result: MetaResult<()>) -> wire::EmptyReply {
    wire::EmptyReply { error: result.err().as_ref().map(error_to_wire) }
}
