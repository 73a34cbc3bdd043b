//! Pushes: messages that a server sends to a connected client without having been asked.
//!
//! N1  Only a client whose greeting speaks version [`VERSION_PUSH`](super::VERSION_PUSH) or later is sent a push. An older one
//!     would end its connection at a kind of frame that it does not know.
//! N2  The pushes of one connection reach the handler of the client in the order in which they were sent, one after the
//!     other. Nothing is promised about the order of a push and an answer: a push may be handled before the caller has seen an
//!     answer that was sent earlier.
//! N3  A slow handler holds back pushes, and never answers. When [`PUSHES_WAITING_MAX`] pushes wait for it, the next one ends
//!     the connection: no push is left out while a connection lives.
//! N4  The server does not wait for the client. When [`UNWRITTEN_LEN_MAX`] bytes of pushes cannot be written, the next push ends
//!     the connection, as unread answers do (`unary`, U5).
//! N5  A client without a handler ignores pushes and stays connected. It logs the first one.
//!
//! A push is not acknowledged. When a connection has ended, the server cannot know which of its last pushes arrived; what must
//! not be lost has to be said again on the next connection.

use std::io;
use std::sync::{Arc, Weak};

use bytes::Bytes;
use prost::Message as _;
use thiserror::Error;
use tokio::sync::{Semaphore, TryAcquireError, mpsc};

use super::admission::Seat;
use super::connection::{Held, Outgoing, Writer, broken};
use crate::env::BoxFuture;
use dfs_proto::frame::{self, FrameKind, HEADER_LEN, PUSH_LEN_MAX};
pub use dfs_proto::wire::Push;

/// N3. A server that recalls all that a client has cached sends thousands at once.
const PUSHES_WAITING_MAX: usize = 4096;
/// N4. Thousands of short messages.
const UNWRITTEN_LEN_MAX: usize = 1 << 20;
/// The reason that the log gives when N4 ends a connection.
const UNREAD: &str = "because it does not read what it is sent unasked";

/// What a client does with pushes.
pub trait PushHandler: Send + Sync + 'static {
    /// Handles one push. The next one of the same connection waits until the future is ready (N2).
    fn handle(&self, push: Push) -> BoxFuture<'_, ()>;
}

/// The pushes of one connection on their way from its reader to the handler.
pub(super) struct PushInbox {
    /// None: the client has no handler.
    waiting: Option<mpsc::Sender<Push>>,
    has_logged: bool,
}

impl PushInbox {
    /// The pushes that are waiting when the connection ends are still handled.
    pub(super) fn new(handler: Option<Arc<dyn PushHandler>>) -> PushInbox {
        let waiting = handler.map(|handler| {
            let (waiting, mut queue) = mpsc::channel(PUSHES_WAITING_MAX);
            tokio::spawn(async move {
                while let Some(push) = queue.recv().await {
                    handler.handle(push).await;
                }
            });
            waiting
        });
        PushInbox { waiting, has_logged: false }
    }

    /// Takes in the body of a frame, without waiting. After an error the connection must end.
    pub(super) fn put(&mut self, body: Bytes) -> io::Result<()> {
        let push = Push::decode(body).map_err(broken)?;
        match &self.waiting {
            Some(waiting) => waiting.try_send(push).map_err(|_| {
                broken(format!("{PUSHES_WAITING_MAX} pushes wait for their handler")) // keeps N3
            }),
            None => {
                if !std::mem::replace(&mut self.has_logged, true) {
                    tracing::info!(path = %push.path, "ignores what the server sends unasked"); // keeps N5
                }
                Ok(())
            }
        }
    }
}

/// Sends pushes to the client at the other end of one connection. A clone sends on the same connection.
#[derive(Clone)]
pub struct PushSender(Arc<Outbox>);

struct Outbox {
    /// The connection lives no longer for it.
    writer: Weak<Writer>,
    seat: Arc<Seat>,
    /// Bytes of pushes that may still be queued (N4).
    room: Arc<Semaphore>,
}

/// Why a push was not sent.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum PushError {
    #[error("the connection has ended")]
    Ended,
    #[error("a push of {len} bytes is longer than {PUSH_LEN_MAX}")]
    TooLong { len: usize },
}

impl PushSender {
    /// The caller makes sure of N1.
    pub(super) fn new(writer: &Arc<Writer>, seat: &Arc<Seat>) -> PushSender {
        let room = Arc::new(Semaphore::new(UNWRITTEN_LEN_MAX));
        PushSender(Arc::new(Outbox { writer: Arc::downgrade(writer), seat: seat.clone(), room }))
    }

    /// The sender of the connection over which a request came. There is none when the request came over HTTP/2, or from a
    /// client that is too old (N1).
    pub fn of<T>(request: &tonic::Request<T>) -> Option<PushSender> {
        request.extensions().get::<PushSender>().cloned()
    }

    /// Both send on the same connection.
    pub fn is_same(&self, other: &PushSender) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }

    /// The connection has ended, or ends for its pushes (N4): no further one can be sent on it.
    pub fn is_ended(&self) -> bool {
        let Outbox { writer, room, .. } = &*self.0;
        room.is_closed() || writer.upgrade().is_none_or(|writer| writer.is_ended())
    }

    /// Queues a push, without waiting. It must be called within the runtime, which may have to write the rest of it.
    pub fn send(&self, push: &Push) -> Result<(), PushError> {
        let Outbox { writer, seat, room } = &*self.0;
        let len = push.encoded_len();
        if len > PUSH_LEN_MAX {
            return Err(PushError::TooLong { len });
        }
        let writer = writer.upgrade().filter(|writer| !writer.is_ended()).ok_or(PushError::Ended)?;
        match room.clone().try_acquire_many_owned((HEADER_LEN + len) as u32) {
            Ok(share) => {
                let held = Some(Held { _permit: Some(share), _claim: None });
                let head = frame::encode(FrameKind::Push, 0, push, 0);
                writer.send(Outgoing::new(head, Bytes::new(), held));
                Ok(())
            }
            Err(TryAcquireError::NoPermits) => {
                room.close();
                seat.end(UNREAD); // keeps N4
                Err(PushError::Ended)
            }
            Err(TryAcquireError::Closed) => Err(PushError::Ended),
        }
    }
}

#[cfg(test)]
#[path = "push_tests.rs"]
mod tests;
