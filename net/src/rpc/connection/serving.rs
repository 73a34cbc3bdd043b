//! A connection as the side that listens has it: calls are read one after the other, and answered in any order.

use std::future::Future;
use std::io;
use std::sync::Arc;

use tokio::io::{BufReader, ReadHalf};
use tokio::sync::watch;
use tokio::time::timeout;

use super::frame_io::{Incoming, broken, read_claimed, read_head};
use super::handshake::{GREETING_DEADLINE, accept_greeting};
use super::silence::with_signs_of_life;
use super::writer::Writer;
use super::{READ_BUFFER_BYTES, stopped};
use crate::env::Stream;
use crate::rpc::SharedIdentity;
use crate::rpc::admission::{Claim, Seat};
use crate::rpc::push::PushSender;
use dfs_proto::frame::FrameKind;

/// What is needed to answer on a connection.
pub(in crate::rpc) struct Served {
    pub(in crate::rpc) writer: Arc<Writer>,
    pub(in crate::rpc) seat: Arc<Seat>,
    /// None: the peer does not understand pushes (`push`, N1).
    pub(in crate::rpc) pushes: Option<PushSender>,
}

/// What a protocol does with the calls of one connection.
pub(in crate::rpc) trait Protocol: Send {
    /// The kind of frame that is a call.
    const CALL: FrameKind;

    /// Begins to answer a call. `room` is what its frame claimed when it was long. Nothing more is read from the connection until
    /// the future is ready; an error ends the connection.
    fn begin(
        &mut self,
        call: Incoming,
        room: Option<Claim>,
        on: &Served,
    ) -> impl Future<Output = io::Result<()>> + Send;

    /// Waits until the calls that were begun are answered. What is still running after that has no one to answer to.
    fn finish(self, on: &Served) -> impl Future<Output = ()> + Send;
}

/// Serves one connection until it ends or `shutdown` turns true; then the calls that are running are answered.
pub(in crate::rpc) async fn serve_connection<P: Protocol>(
    (stream, seat): (Box<dyn Stream>, Arc<Seat>),
    from: String,
    identity: SharedIdentity,
    mut protocol: P,
    mut shutdown: watch::Receiver<bool>,
) {
    let (reader, mut writer) = tokio::io::split(stream);
    let mut reader = BufReader::with_capacity(READ_BUFFER_BYTES, reader);
    let greeted = accept_greeting(&mut reader, &mut writer, &identity);
    let greeted = match timeout(GREETING_DEADLINE, greeted).await {
        Ok(Ok(greeted)) => greeted,
        Ok(Err(error)) => return tracing::warn!(%from, %error, "refused a frame connection"),
        Err(_) => return tracing::debug!(%from, "a frame connection did not greet in time"),
    };
    seat.greeted(greeted.is_server);
    let writer = Writer::new(writer);
    let pushes = greeted.takes_pushes.then(|| PushSender::new(&writer, &seat));
    let served = Served { writer, seat, pushes };
    tokio::select! {
        result = read_calls(&mut reader, &mut protocol, &served) => {
            if let Err(error) = result && error.kind() == io::ErrorKind::InvalidData {
                tracing::warn!(%from, %error, "ended a frame connection");
            }
        }
        () = stopped(&mut shutdown) => {}
        () = served.writer.ended() => {}
    }
    // A peer that does not read its answers is cut off.
    tokio::select! {
        _ = timeout(GREETING_DEADLINE, protocol.finish(&served)) => {}
        () = served.writer.ended() => {}
    }
    served.writer.end();
}

async fn read_calls<P: Protocol>(
    reader: &mut BufReader<ReadHalf<Box<dyn Stream>>>,
    protocol: &mut P,
    served: &Served,
) -> io::Result<()> {
    loop {
        let head = read_head(reader).await?;
        let arriving = read_claimed(reader, head, &served.seat);
        let (incoming, room) = with_signs_of_life(arriving, || served.writer.sign(0)).await?;
        if incoming.header.kind != P::CALL {
            return Err(broken(format!("expected a {:?}, got a {:?}", P::CALL, incoming.header.kind)));
        }
        protocol.begin(incoming, room, served).await?;
    }
}
