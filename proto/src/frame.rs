//! One frame of our own transport: bytes in, bytes out.
//!
//! ```text
//! | magic u32 | version u8 | kind u8 | 0 u16 | request u64 | body len u32 | payload len u32 | crc32c u32 | body | payload |
//! ```
//!
//! Little-endian. The checksum covers the header before it and the body (a prost message); the payload (chunk bytes) has
//! its own, block by block, made where the bytes were made. A frame that does not match ends its connection: after a
//! broken length nothing that follows can be trusted. So does a frame of a kind that the receiver does not know: a kind that was
//! added later is sent only to a peer whose greeting speaks the protocol version that knows it ([`FrameKind::Push`]).
//!
//! The version in the header is that of this layout, and not the protocol version, which the greetings negotiate.

use bytes::{BufMut, Bytes, BytesMut};
use thiserror::Error;

use crate::units::{MESSAGE_LEN_MAX, READ_LEN_MAX};

pub const HEADER_LEN: usize = 28;
/// What every frame, and so every connection of frames, begins with.
pub const MAGIC_BYTES: [u8; 4] = *b"dfs\x01";
const MAGIC: u32 = u32::from_le_bytes(MAGIC_BYTES);
const VERSION: u8 = 1;
/// A body is ids, checksums, a few addresses; the largest is of a read that crosses very many tiny appends.
pub const BODY_LEN_MAX: usize = 1024 * 1024;
/// A call's or answer's message with its path or status.
pub const CALL_LEN_MAX: usize = MESSAGE_LEN_MAX + 64 * 1024;
/// The body of a push. It says that something has happened; whoever needs more asks for it with a call.
pub const PUSH_LEN_MAX: usize = 4096;
/// A read's answer is whole blocks, so up to one block longer at each end than what was asked.
pub const PAYLOAD_LEN_MAX: usize = READ_LEN_MAX as usize + 8192;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FrameKind {
    Greeting,
    GreetingReply,
    /// Of the chunk service.
    Request,
    Reply,
    /// The request is still being worked on.
    Working,
    /// A unary gRPC call.
    Call,
    Answer,
    /// A message that a server sends without having been asked. Known since protocol version 2.
    Push,
}

impl FrameKind {
    fn body_len_max(self) -> usize {
        match self {
            FrameKind::Greeting
            | FrameKind::GreetingReply
            | FrameKind::Request
            | FrameKind::Reply
            | FrameKind::Working => BODY_LEN_MAX,
            FrameKind::Call | FrameKind::Answer => CALL_LEN_MAX,
            FrameKind::Push => PUSH_LEN_MAX,
        }
    }
}

/// A header that was checked for form; the checksum waits for the body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FrameHeader {
    pub kind: FrameKind,
    pub request: u64,
    pub body_len: usize,
    pub payload_len: usize,
    checksum: u32,
}

#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum FrameError {
    #[error("not a dfs frame (it starts with {start:02x?})")]
    Magic { start: [u8; 4] },
    #[error("frame version {found}, this side speaks {VERSION}")]
    Version { found: u8 },
    #[error("frame of unknown kind {found}")]
    Kind { found: u8 },
    #[error("frame body of {body_len} and payload of {payload_len} bytes is over the limit")]
    TooLong { body_len: usize, payload_len: usize },
    #[error("frame checksum {computed:08x}, the header says {named:08x}")]
    Checksum { computed: u32, named: u32 },
}

/// Header and body; the payload is written behind them as it is.
pub fn encode(kind: FrameKind, request: u64, body: &impl prost::Message, payload_len: usize) -> Bytes {
    let body_len = body.encoded_len();
    let mut out = BytesMut::with_capacity(HEADER_LEN + body_len);
    out.put_u32_le(MAGIC);
    out.put_u8(VERSION);
    out.put_u8(match kind {
        FrameKind::Greeting => 1,
        FrameKind::GreetingReply => 2,
        FrameKind::Request => 3,
        FrameKind::Reply => 4,
        FrameKind::Call => 5,
        FrameKind::Answer => 6,
        FrameKind::Working => 7,
        FrameKind::Push => 8,
    });
    out.put_u16_le(0);
    out.put_u64_le(request);
    out.put_u32_le(body_len as u32);
    out.put_u32_le(payload_len as u32);
    out.put_u32_le(0);
    body.encode_raw(&mut out);
    let checksum = checksum(&out[..24], &out[HEADER_LEN..]);
    out[24..28].copy_from_slice(&checksum.to_le_bytes());
    out.freeze()
}

fn checksum(head: &[u8], body: &[u8]) -> u32 {
    let mut digest = crc_fast::Digest::new(crc_fast::CrcAlgorithm::Crc32Iscsi);
    digest.update(head);
    digest.update(body);
    digest.finalize() as u32
}

fn u32_at(bytes: &[u8; HEADER_LEN], at: usize) -> u32 {
    u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

/// Checks form and limits.
pub fn decode_header(bytes: &[u8; HEADER_LEN]) -> Result<FrameHeader, FrameError> {
    if u32_at(bytes, 0) != MAGIC {
        return Err(FrameError::Magic { start: [bytes[0], bytes[1], bytes[2], bytes[3]] });
    }
    if bytes[4] != VERSION {
        return Err(FrameError::Version { found: bytes[4] });
    }
    let kind = match bytes[5] {
        1 => FrameKind::Greeting,
        2 => FrameKind::GreetingReply,
        3 => FrameKind::Request,
        4 => FrameKind::Reply,
        5 => FrameKind::Call,
        6 => FrameKind::Answer,
        7 => FrameKind::Working,
        8 => FrameKind::Push,
        found => return Err(FrameError::Kind { found }),
    };
    let (body_len, payload_len) = (u32_at(bytes, 16) as usize, u32_at(bytes, 20) as usize);
    if body_len > kind.body_len_max() || payload_len > PAYLOAD_LEN_MAX {
        return Err(FrameError::TooLong { body_len, payload_len });
    }
    let request = u64::from(u32_at(bytes, 8)) | u64::from(u32_at(bytes, 12)) << 32;
    Ok(FrameHeader { kind, request, body_len, payload_len, checksum: u32_at(bytes, 24) })
}

/// Checks the body against the header that announced it.
pub fn verify_body(header: &FrameHeader, head: &[u8; HEADER_LEN], body: &[u8]) -> Result<(), FrameError> {
    let computed = checksum(&head[..24], body);
    if computed != header.checksum {
        return Err(FrameError::Checksum { computed, named: header.checksum });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::wire;

    #[test]
    fn a_frame_comes_back_as_it_was_sent() {
        let body = wire::Greeting { role: "client".into(), ..Default::default() };
        let bytes = encode(FrameKind::Request, u64::MAX - 1, &body, 77);
        let head: [u8; HEADER_LEN] = bytes[..HEADER_LEN].try_into().unwrap();
        let header = decode_header(&head).unwrap();
        assert_eq!((header.kind, header.request, header.payload_len), (FrameKind::Request, u64::MAX - 1, 77));
        assert_eq!(header.body_len, bytes.len() - HEADER_LEN);
        assert_eq!(verify_body(&header, &head, &bytes[HEADER_LEN..]), Ok(()));
    }

    proptest! {
        #[test]
        fn any_bytes_are_a_header_or_an_error(bytes in prop::array::uniform28(any::<u8>())) {
            let _ = decode_header(&bytes);
        }

        #[test]
        fn a_flipped_bit_is_noticed(at in 0usize..200) {
            let body = wire::Greeting { role: "chunkserver".into(), own_id: 3, ..Default::default() };
            let mut bytes = encode(FrameKind::Reply, 5, &body, 0).to_vec();
            let at = at % (bytes.len() * 8);
            bytes[at / 8] ^= 1 << (at % 8);
            let head: [u8; HEADER_LEN] = bytes[..HEADER_LEN].try_into().unwrap();
            let accepted = decode_header(&head).and_then(|header| {
                let end = (HEADER_LEN + header.body_len).min(bytes.len());
                verify_body(&header, &head, &bytes[HEADER_LEN..end])
            });
            prop_assert!(accepted.is_err());
        }
    }
}
