//! The greeting with which every connection of frames begins.

use std::io;
use std::time::Duration;

use prost::Message as _;
use tokio::io::{AsyncRead, AsyncWrite, ReadHalf, WriteHalf};

use super::frame_io::{broken, read_frame, read_head, read_rest, send_message};
use crate::descriptors;
use crate::env::{Env, Stream};
use crate::rpc::SharedIdentity;
use crate::rpc::{Expected, Identity, Role, VERSION_PUSH, answer_greeting, check_answer, greeting};
use dfs_proto::frame::{self, FrameKind};
use dfs_proto::wire;

/// A greeting must arrive this soon after the connection.
pub(in crate::rpc) const GREETING_DEADLINE: Duration = Duration::from_secs(5);

/// The longest greeting that is read (`frames`, F5). A real one is much shorter.
const GREETING_LEN_MAX: usize = 4096;

/// What the side that listens learns from a greeting.
pub(in crate::rpc) struct Greeted {
    /// The peer says that it is a server.
    pub(in crate::rpc) is_server: bool,
    /// The peer is to get pushes.
    pub(in crate::rpc) takes_pushes: bool,
}

/// Reads the greeting of a new connection and answers it. A peer that does not fit is told why, and is an error.
pub(in crate::rpc) async fn accept_greeting(
    reader: &mut (impl AsyncRead + Unpin),
    writer: &mut (impl AsyncWrite + Unpin),
    identity: &SharedIdentity,
) -> io::Result<Greeted> {
    let head = read_head(reader).await?;
    let header = frame::decode_header(&head).map_err(broken)?;
    if header.kind != FrameKind::Greeting || header.body_len + header.payload_len > GREETING_LEN_MAX {
        return Err(broken("the first frame is not a greeting")); // keeps F5
    }
    let incoming = read_rest(reader, head).await?;
    let theirs = wire::Greeting::decode(incoming.body).map_err(broken)?;
    let reply = answer_greeting(&identity.get(), &theirs);
    send_message(writer, FrameKind::GreetingReply, &reply).await?;
    let is_server = [Role::Metaserver, Role::Chunkserver].iter().any(|role| role.name() == theirs.role);
    if !reply.refusal.is_empty() {
        return Err(broken(reply.refusal));
    }
    Ok(Greeted { is_server, takes_pushes: theirs.version_max >= VERSION_PUSH })
}

/// Why nothing could be sent.
#[derive(Debug, PartialEq, Eq)]
pub(in crate::rpc) enum NotSent {
    /// This process lacks descriptors, memory or ports: that says nothing about the peer.
    Lacking(String),
    /// The peer is not there, or refuses.
    Refused(String),
}

impl From<String> for NotSent {
    fn from(what: String) -> NotSent {
        NotSent::Refused(what)
    }
}

impl From<NotSent> for String {
    fn from(error: NotSent) -> String {
        match error {
            NotSent::Lacking(what) | NotSent::Refused(what) => what,
        }
    }
}

/// Connects to `address` and shakes hands. The caller has the deadline.
pub(in crate::rpc) async fn greet(
    env: &Env,
    own: &Identity,
    expected: &Expected,
    address: &str,
) -> Result<(ReadHalf<Box<dyn Stream>>, WriteHalf<Box<dyn Stream>>, wire::GreetingReply), NotSent> {
    let stream = env.net.connect(address).await.map_err(|error| {
        let what = format!("connect to {address}: {error}");
        if descriptors::is_lacking(&error) { NotSent::Lacking(what) } else { NotSent::Refused(what) }
    })?;
    let (mut reader, mut writer) = tokio::io::split(stream);
    let shake = |e: io::Error| format!("shake hands with {address}: {e}");
    send_message(&mut writer, FrameKind::Greeting, &greeting(own, expected)).await.map_err(shake)?;
    let incoming = read_frame(&mut reader).await.map_err(shake)?;
    let reply = wire::GreetingReply::decode(incoming.body).map_err(|e| shake(broken(e)))?;
    check_answer(expected, &reply)?;
    Ok((reader, writer, reply))
}
