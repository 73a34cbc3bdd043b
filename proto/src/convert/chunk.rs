//! Messages of `chunk.proto`. The payload travels beside the message, so that it is not copied through prost.

use bytes::Bytes;

use crate::chunk::{Append, Blocks, ChunkKey, ChunkReply, ChunkRequest, ReadChunk, SyncChunk};
use crate::error::{ChunkError, ReplicaFailure};
use crate::ids::{ChunkId, ClusterId, Incarnation, InodeId, ServerId, SessionId, SetVersion};
use crate::meta::Replica;
use crate::units::{
    APPEND_LEN_MAX, BLOCK_LEN, ByteLen, CHUNK_LEN, ChunkOffset, Offset, READ_LEN_MAX, REPLICAS_MAX,
};
use crate::wire;

fn invalid(what: &str) -> ChunkError {
    ChunkError::Invalid { what: what.to_owned() }
}

fn forward_to_wire(forward: &[Replica]) -> Vec<wire::ReplicaAddress> {
    forward.iter().map(|r| wire::ReplicaAddress { server: r.server.0, address: r.address.clone() }).collect()
}

fn forward_from_wire(forward: Vec<wire::ReplicaAddress>) -> Result<Vec<Replica>, ChunkError> {
    if forward.len() >= REPLICAS_MAX {
        return Err(invalid("too many replicas to forward to"));
    }
    Ok(forward.into_iter().map(|r| Replica { server: ServerId(r.server), address: r.address }).collect())
}

/// The message and its payload.
pub fn request_to_wire(request: &ChunkRequest) -> (wire::ChunkRequest, Bytes) {
    use wire::chunk_request::Request as Wire;
    let (key, message, payload) = match request {
        ChunkRequest::Append(append) => {
            let message = wire::Append {
                offset: append.offset.0,
                session: append.session.0,
                inode: append.inode.0,
                file_offset: append.file_offset.0,
                block_checksums: append.block_checksums.clone(),
                forward: forward_to_wire(&append.forward),
            };
            (append.key, Wire::Append(message), append.data.clone())
        }
        ChunkRequest::Sync(sync) => {
            let message = wire::Sync { up_to: sync.up_to.0, forward: forward_to_wire(&sync.forward) };
            (sync.key, Wire::Sync(message), Bytes::new())
        }
        ChunkRequest::Read(read) => {
            (read.key, Wire::Read(wire::ReadChunk { offset: read.offset.0, len: read.len }), Bytes::new())
        }
        ChunkRequest::Stat { key } => (*key, Wire::Stat(wire::StatChunk {}), Bytes::new()),
    };
    let message = wire::ChunkRequest {
        cluster: key.cluster.to_wire().into(),
        incarnation: key.incarnation.0,
        chunk: key.chunk.0,
        set_version: key.set_version.0,
        request: Some(message),
    };
    (message, payload)
}

pub fn request_from_wire(message: wire::ChunkRequest, payload: Bytes) -> Result<ChunkRequest, ChunkError> {
    use wire::chunk_request::Request as Wire;
    let key = ChunkKey {
        cluster: ClusterId::from_wire(&message.cluster)
            .ok_or_else(|| invalid("cluster id is not 16 bytes"))?,
        incarnation: Incarnation(message.incarnation),
        chunk: ChunkId(message.chunk),
        set_version: SetVersion(message.set_version),
    };
    match message.request.ok_or_else(|| invalid("request is missing"))? {
        Wire::Append(append) => append_from_wire(key, append, payload).map(ChunkRequest::Append),
        Wire::Sync(sync) => Ok(ChunkRequest::Sync(SyncChunk {
            key,
            up_to: ByteLen(sync.up_to),
            forward: forward_from_wire(sync.forward)?,
        })),
        Wire::Read(read) => {
            if read.len == 0 || read.len > READ_LEN_MAX || read.offset > CHUNK_LEN {
                return Err(invalid("range to read"));
            }
            Ok(ChunkRequest::Read(ReadChunk { key, offset: ChunkOffset(read.offset), len: read.len }))
        }
        Wire::Stat(wire::StatChunk {}) => Ok(ChunkRequest::Stat { key }),
    }
}

fn append_from_wire(key: ChunkKey, append: wire::Append, data: Bytes) -> Result<Append, ChunkError> {
    let len = data.len() as u64;
    let fits = append.offset.checked_add(len).is_some_and(|end| end <= CHUNK_LEN);
    if len == 0 || len > APPEND_LEN_MAX || !fits {
        return Err(invalid("append of 0 bytes, more than 1 MiB or beyond the chunk's 64 MiB"));
    }
    if append.block_checksums.len() as u64 != len.div_ceil(BLOCK_LEN) {
        return Err(invalid("number of block checksums"));
    }
    Ok(Append {
        key,
        offset: ChunkOffset(append.offset),
        session: SessionId(append.session),
        inode: InodeId(append.inode),
        file_offset: Offset(append.file_offset),
        block_checksums: append.block_checksums,
        forward: forward_from_wire(append.forward)?,
        data,
    })
}

/// The message and its payload.
pub fn reply_to_wire(result: Result<ChunkReply, ChunkError>) -> (wire::ChunkReply, Bytes) {
    use wire::chunk_reply::Reply as Wire;
    let (reply, payload) = match result {
        Err(error) => (Wire::Failure(failure_to_wire(&error)), Bytes::new()),
        Ok(ChunkReply::Appended { len }) => (Wire::Appended(wire::Appended { len: len.0 }), Bytes::new()),
        Ok(ChunkReply::Synced { len }) => (Wire::Synced(wire::Synced { len: len.0 }), Bytes::new()),
        Ok(ChunkReply::Stat { len, open }) => {
            (Wire::Stat(wire::ChunkStat { len: len.0, open }), Bytes::new())
        }
        Ok(ChunkReply::Read(blocks)) => {
            let message = wire::ReadBlocks {
                offset: blocks.offset.0,
                block_lens: blocks.lens,
                block_checksums: blocks.checksums,
            };
            (Wire::Read(message), blocks.data)
        }
    };
    (wire::ChunkReply { reply: Some(reply) }, payload)
}

/// `key` is the request's: the failure codes do not repeat the chunk.
pub fn reply_from_wire(
    key: &ChunkKey,
    reply: wire::ChunkReply,
    payload: Bytes,
) -> Result<ChunkReply, ChunkError> {
    use wire::chunk_reply::Reply as Wire;
    match reply.reply.ok_or_else(|| invalid("reply is missing"))? {
        Wire::Failure(failure) => Err(failure_from_wire(key.chunk, failure)),
        Wire::Appended(appended) => Ok(ChunkReply::Appended { len: ByteLen(appended.len) }),
        Wire::Synced(synced) => Ok(ChunkReply::Synced { len: ByteLen(synced.len) }),
        Wire::Stat(stat) => Ok(ChunkReply::Stat { len: ByteLen(stat.len), open: stat.open }),
        Wire::Read(read) => {
            let total: u64 = read.block_lens.iter().map(|&l| u64::from(l)).sum();
            if read.block_lens.len() != read.block_checksums.len() || total != payload.len() as u64 {
                return Err(invalid("blocks do not add up to the payload"));
            }
            Ok(ChunkReply::Read(Blocks {
                offset: ChunkOffset(read.offset),
                lens: read.block_lens,
                checksums: read.block_checksums,
                data: payload,
            }))
        }
    }
}

fn failure_to_wire(error: &ChunkError) -> wire::ChunkFailure {
    use wire::ChunkFailureCode as Code;
    let failure = |code: Code, text: &str, a: u64, b: u64| wire::ChunkFailure {
        code: code as i32,
        text: text.to_owned(),
        a,
        b,
        cause: Code::ChunkFailureUnspecified as i32,
    };
    let failed = |server: ServerId, cause: ReplicaFailure, what: &str| wire::ChunkFailure {
        cause: cause_to_wire(cause) as i32,
        ..failure(Code::ReplicaFailed, what, server.0, 0)
    };
    match error {
        ChunkError::Gone { .. } => failure(Code::Gone, "", 0, 0),
        ChunkError::AppendOutOfPlace { held, named, .. } => {
            failure(Code::AppendOutOfPlace, "", *held, *named)
        }
        ChunkError::NotOpen { .. } => failure(Code::NotOpen, "", 0, 0),
        ChunkError::Damaged { at, .. } => failure(Code::ChunkDamaged, "", *at, 0),
        ChunkError::TooShort { held, wanted, .. } => failure(Code::TooShort, "", *held, *wanted),
        ChunkError::ReplicaFailed { server, cause, what, .. } => failed(*server, *cause, what),
        ChunkError::Unreachable { server, what } => failed(*server, ReplicaFailure::Unreachable, what),
        ChunkError::NoSpace => failure(Code::DiskFull, "", 0, 0),
        ChunkError::Disk { what } => failure(Code::DiskError, what, 0, 0),
        ChunkError::Outdated { what } => failure(Code::Outdated, what, 0, 0),
        ChunkError::Invalid { what } => failure(Code::InvalidRequest, what, 0, 0),
        ChunkError::Busy => failure(Code::Busy, "", 0, 0),
    }
}

fn failure_from_wire(chunk: ChunkId, failure: wire::ChunkFailure) -> ChunkError {
    use wire::ChunkFailureCode as Code;
    let what = failure.text;
    match Code::try_from(failure.code) {
        Ok(Code::Gone) => ChunkError::Gone { chunk },
        Ok(Code::AppendOutOfPlace) => {
            ChunkError::AppendOutOfPlace { chunk, held: failure.a, named: failure.b }
        }
        Ok(Code::NotOpen) => ChunkError::NotOpen { chunk },
        Ok(Code::ChunkDamaged) => ChunkError::Damaged { chunk, at: failure.a },
        Ok(Code::TooShort) => ChunkError::TooShort { chunk, held: failure.a, wanted: failure.b },
        Ok(Code::ReplicaFailed) => {
            let (server, cause) = (ServerId(failure.a), cause_from_wire(failure.cause));
            ChunkError::ReplicaFailed { chunk, server, cause, what }
        }
        Ok(Code::DiskFull) => ChunkError::NoSpace,
        Ok(Code::DiskError) => ChunkError::Disk { what },
        Ok(Code::Outdated) => ChunkError::Outdated { what },
        Ok(Code::InvalidRequest) => ChunkError::Invalid { what },
        Ok(Code::Busy) => ChunkError::Busy,
        Ok(Code::ChunkFailureUnspecified | Code::NoAnswer) | Err(_) => {
            ChunkError::Invalid { what: format!("failure code {} is not known here: {what}", failure.code) }
        }
    }
}

fn cause_to_wire(cause: ReplicaFailure) -> wire::ChunkFailureCode {
    use wire::ChunkFailureCode as Code;
    match cause {
        ReplicaFailure::Unknown => Code::ChunkFailureUnspecified,
        ReplicaFailure::Unreachable => Code::NoAnswer,
        ReplicaFailure::NoSpace => Code::DiskFull,
        ReplicaFailure::Disk => Code::DiskError,
        ReplicaFailure::NotOpen => Code::NotOpen,
        ReplicaFailure::AppendOutOfPlace => Code::AppendOutOfPlace,
        ReplicaFailure::TooShort => Code::TooShort,
        ReplicaFailure::Damaged => Code::ChunkDamaged,
        ReplicaFailure::Gone => Code::Gone,
        ReplicaFailure::Outdated => Code::Outdated,
        ReplicaFailure::Invalid => Code::InvalidRequest,
        ReplicaFailure::Busy => Code::Busy,
    }
}

fn cause_from_wire(cause: i32) -> ReplicaFailure {
    use wire::ChunkFailureCode as Code;
    match Code::try_from(cause) {
        Ok(Code::NoAnswer) => ReplicaFailure::Unreachable,
        Ok(Code::DiskFull) => ReplicaFailure::NoSpace,
        Ok(Code::DiskError) => ReplicaFailure::Disk,
        Ok(Code::NotOpen) => ReplicaFailure::NotOpen,
        Ok(Code::AppendOutOfPlace) => ReplicaFailure::AppendOutOfPlace,
        Ok(Code::TooShort) => ReplicaFailure::TooShort,
        Ok(Code::ChunkDamaged) => ReplicaFailure::Damaged,
        Ok(Code::Gone) => ReplicaFailure::Gone,
        Ok(Code::Outdated) => ReplicaFailure::Outdated,
        Ok(Code::InvalidRequest) => ReplicaFailure::Invalid,
        Ok(Code::Busy) => ReplicaFailure::Busy,
        Ok(Code::ChunkFailureUnspecified | Code::ReplicaFailed) | Err(_) => ReplicaFailure::Unknown,
    }
}

#[cfg(test)]
mod tests {
    use prost::Message;

    use super::*;

    const CHUNK: ChunkId = ChunkId(9);

    /// What the other side reads of a refusal.
    fn read_back(error: &ChunkError) -> ChunkError {
        let key = ChunkKey {
            cluster: ClusterId(1),
            incarnation: Incarnation(1),
            chunk: CHUNK,
            set_version: SetVersion(1),
        };
        let (reply, payload) = reply_to_wire(Err(error.clone()));
        let reply = wire::ChunkReply::decode(reply.encode_to_vec().as_slice()).unwrap();
        reply_from_wire(&key, reply, payload).unwrap_err()
    }

    fn replica_failed(cause: ReplicaFailure) -> ChunkError {
        ChunkError::ReplicaFailed { chunk: CHUNK, server: ServerId(3), cause, what: "in words".to_owned() }
    }

    #[test]
    fn a_refusal_and_the_cause_of_a_replicas_failure_survive_the_wire() {
        let what = || "in words".to_owned();
        let refusals = [
            ChunkError::Gone { chunk: CHUNK },
            ChunkError::AppendOutOfPlace { chunk: CHUNK, held: 5, named: 7 },
            ChunkError::NotOpen { chunk: CHUNK },
            ChunkError::Damaged { chunk: CHUNK, at: 4096 },
            ChunkError::TooShort { chunk: CHUNK, held: 5, wanted: 7 },
            ChunkError::NoSpace,
            ChunkError::Disk { what: what() },
            ChunkError::Outdated { what: what() },
            ChunkError::Invalid { what: what() },
            ChunkError::Busy,
        ];
        for refusal in refusals {
            assert_eq!(read_back(&refusal), refusal);
            let failed = replica_failed(ReplicaFailure::of(&refusal));
            assert_eq!(read_back(&failed), failed);
        }
        let unreachable = ChunkError::Unreachable { server: ServerId(3), what: what() };
        assert_eq!(read_back(&unreachable), replica_failed(ReplicaFailure::Unreachable));
        let unknown = replica_failed(ReplicaFailure::Unknown);
        assert_eq!(read_back(&unknown), unknown);
    }

    #[test]
    fn a_cause_that_an_earlier_version_leaves_out_or_a_later_one_added_is_unknown_and_its_text_stays() {
        // REPLICA_FAILED with text and server, without the field `cause`.
        let earlier = b"\x08\x06\x12\x09disk full\x18\x03";
        let later = [earlier.as_slice(), b"\x28\x63"].concat();
        for message in [earlier.as_slice(), &later] {
            let failure = wire::ChunkFailure::decode(message).unwrap();
            let (cause, what) = (ReplicaFailure::Unknown, "disk full".to_owned());
            let expected = ChunkError::ReplicaFailed { chunk: CHUNK, server: ServerId(3), cause, what };
            assert_eq!(failure_from_wire(CHUNK, failure), expected);
        }
    }
}
