//! Reading and writing whole frames.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use prost::Message;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::time::timeout;

use crate::rpc::admission::{Claim, Seat};
use dfs_proto::frame::{self, FrameHeader, FrameKind, HEADER_LEN};

/// A frame must be complete this long after its first bytes (`frames`, F5). It is the longest deadline that clients give a slow
/// link, and it cuts off a peer that sends a byte now and then.
pub(in crate::rpc) const ARRIVAL_DEADLINE: Duration = Duration::from_secs(120);

/// Room for a frame of this length is claimed before it is read, or written.
pub(in crate::rpc) const CLAIMED_LEN_MIN: usize = 64 << 10;

pub(in crate::rpc) fn broken(what: impl std::fmt::Display) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what.to_string())
}

pub(in crate::rpc) struct Incoming {
    pub(in crate::rpc) header: FrameHeader,
    pub(in crate::rpc) body: Bytes,
    pub(in crate::rpc) payload: Bytes,
}

pub(in crate::rpc) async fn read_frame(reader: &mut (impl AsyncRead + Unpin)) -> io::Result<Incoming> {
    let head = read_head(reader).await?;
    read_rest(reader, head).await
}

/// The rest of a frame whose head has come (F5); a long one has claimed its room.
pub(in crate::rpc) async fn read_claimed(
    reader: &mut (impl AsyncRead + Unpin),
    head: [u8; HEADER_LEN],
    seat: &Arc<Seat>,
) -> io::Result<(Incoming, Option<Claim>)> {
    let header = frame::decode_header(&head).map_err(broken)?;
    let len = header.body_len + header.payload_len;
    let claim = if len >= CLAIMED_LEN_MIN { Some(seat.claim(len as u64).await) } else { None };
    match timeout(ARRIVAL_DEADLINE, read_rest(reader, head)).await {
        Ok(incoming) => Ok((incoming?, claim)),
        Err(_) => Err(broken(format!("a frame of {len} bytes did not arrive within {ARRIVAL_DEADLINE:?}"))),
    }
}

pub(in crate::rpc) async fn read_head(reader: &mut (impl AsyncRead + Unpin)) -> io::Result<[u8; HEADER_LEN]> {
    let mut head = [0u8; HEADER_LEN];
    reader.read_exact(&mut head).await?;
    Ok(head)
}

pub(in crate::rpc) async fn read_rest(
    reader: &mut (impl AsyncRead + Unpin),
    head: [u8; HEADER_LEN],
) -> io::Result<Incoming> {
    let header = frame::decode_header(&head).map_err(broken)?;
    let body = read_bytes(reader, header.body_len).await?;
    frame::verify_body(&header, &head, &body).map_err(broken)?;
    let payload = read_bytes(reader, header.payload_len).await?;
    Ok(Incoming { header, body, payload })
}

async fn read_bytes(reader: &mut (impl AsyncRead + Unpin), len: usize) -> io::Result<Bytes> {
    let mut buf = BytesMut::with_capacity(len);
    let mut limited = reader.take(len as u64);
    while buf.len() < len {
        if limited.read_buf(&mut buf).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
    Ok(buf.freeze())
}

pub(in crate::rpc) async fn send_message(
    writer: &mut (impl AsyncWrite + Unpin),
    kind: FrameKind,
    message: &impl Message,
) -> io::Result<()> {
    writer.write_all(&frame::encode(kind, 0, message, 0)).await
}
