//! A connection as the side that connects has it: calls on their way, and the answers that they wait for.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use tokio::io::{BufReader, ReadHalf, WriteHalf};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};
use tokio::time::Instant;

use super::frame_io::{Incoming, read_frame};
use super::silence::{Heard, Listening, Waited};
use super::writer::{Held, Outgoing, Writer};
use super::{READ_BUFFER_BYTES, lock};
use crate::env::Stream;
use crate::rpc::push::{PushHandler, PushInbox};
use dfs_proto::frame::FrameKind;

/// Both directions of a stream.
type Halves = (ReadHalf<Box<dyn Stream>>, WriteHalf<Box<dyn Stream>>);

/// The connection ends when it is dropped.
pub(in crate::rpc) struct Connection {
    writer: Arc<Writer>,
    shared: Arc<Shared>,
    /// What may be in flight to the peer: calls, or bytes.
    in_flight: Arc<Semaphore>,
    /// What of it may wait to be written. Only a peer that is slow to read lets these be less than what may be in flight: calls
    /// whose callers have given up are still queued.
    unwritten: Arc<Semaphore>,
}

/// What the reader task and the calls share.
struct Shared {
    waiting: Mutex<Waiting>,
    heard: Heard,
}

#[derive(Default)]
struct Waiting {
    /// No call may wait any more.
    is_closed: bool,
    last_id: u64,
    /// Frames that have arrived.
    arrived: u64,
    calls: HashMap<u64, Waiter>,
}

/// A call whose answer has not arrived. What it takes of what may be in flight is free again when the answer arrives, or when
/// its caller gives up.
struct Waiter {
    answer: oneshot::Sender<Incoming>,
    _share: OwnedSemaphorePermit,
}

/// The connection has ended.
#[derive(Debug)]
pub(in crate::rpc) struct Lost;

impl Shared {
    /// Ends every call that waits.
    fn close(&self) {
        let calls = {
            let mut waiting = lock(&self.waiting);
            waiting.is_closed = true;
            std::mem::take(&mut waiting.calls)
        };
        drop(calls); // not under the lock: a caller that wakes up may take it
    }
}

impl Connection {
    /// A connection whose peer has shaken hands. Answers are frames of kind `answers`; `heard` is when something last arrived
    /// from this peer, on whichever connection.
    pub(in crate::rpc) fn over(
        (reader, writer): Halves,
        answers: FrameKind,
        in_flight: usize,
        heard: Heard,
        pushes: Option<Arc<dyn PushHandler>>,
    ) -> Arc<Connection> {
        let listening = heard.clone().listening(reader);
        let shared = Arc::new(Shared { waiting: Mutex::default(), heard });
        let writer = Writer::new(writer);
        let (reading_shared, reading_writer) = (shared.clone(), writer.clone());
        tokio::spawn(async move {
            tokio::select! {
                biased;
                () = read_answers(listening, answers, &reading_shared, PushInbox::new(pushes)) => {}
                () = reading_writer.ended() => {}
            }
            reading_shared.close();
            reading_writer.end();
        });
        let semaphore = || Arc::new(Semaphore::new(in_flight));
        Arc::new(Connection { writer, shared, in_flight: semaphore(), unwritten: semaphore() })
    }

    /// False once the connection has ended. Then a new one must be made.
    pub(in crate::rpc) fn is_alive(&self) -> bool {
        !lock(&self.shared.waiting).is_closed && !self.writer.is_ended()
    }

    /// Ends the connection, and with it every call that waits on it.
    pub(in crate::rpc) fn end(&self) {
        self.shared.close();
        self.writer.end(); // the reader task ends too
    }

    /// Queues a call, as soon as `share` of what may be in flight is free. `encode` makes the frame, head and payload, of the call
    /// with this id. When the caller gives up before that, the call is certainly not sent and leaves nothing behind. So it is after
    /// an error.
    pub(in crate::rpc) async fn send(
        self: Arc<Self>,
        share: u32,
        encode: impl FnOnce(u64) -> (Bytes, Bytes),
    ) -> Result<Sent, Lost> {
        let in_flight = self.in_flight.clone().acquire_many_owned(share).await.map_err(|_| Lost)?;
        let unwritten = self.unwritten.clone().acquire_many_owned(share).await.map_err(|_| Lost)?;
        // From here on nothing waits.
        let (answer, reply) = oneshot::channel();
        let waiter = Waiter { answer, _share: in_flight };
        let (id, arrived_before) = {
            let mut waiting = lock(&self.shared.waiting);
            if waiting.is_closed || self.writer.is_ended() {
                return Err(Lost);
            }
            waiting.last_id += 1;
            let id = waiting.last_id;
            waiting.calls.insert(id, waiter);
            (id, waiting.arrived)
        };
        let sent = Sent { id, at: Instant::now(), arrived_before, reply, is_over: false, connection: self };
        let (head, payload) = encode(id);
        sent.connection.writer.send(Outgoing::new(
            head,
            payload,
            Some(Held { _permit: Some(unwritten), _claim: None }),
        ));
        Ok(sent)
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.end();
    }
}

/// Reads until the connection ends, or the peer breaks the protocol.
async fn read_answers(
    reader: Listening<ReadHalf<Box<dyn Stream>>>,
    answers: FrameKind,
    shared: &Shared,
    mut pushes: PushInbox,
) {
    let mut reader = BufReader::with_capacity(READ_BUFFER_BYTES, reader);
    while let Ok(incoming) = read_frame(&mut reader).await {
        let waiter = {
            let mut waiting = lock(&shared.waiting);
            waiting.arrived += 1;
            match incoming.header.kind == answers {
                true => waiting.calls.remove(&incoming.header.request),
                false => None,
            }
        };
        match incoming.header.kind {
            kind if kind == answers => {
                if let Some(waiter) = waiter {
                    let _ = waiter.answer.send(incoming); // its caller has given up
                }
            }
            FrameKind::Working => {}
            FrameKind::Push => {
                if let Err(error) = pushes.put(incoming.body) {
                    return tracing::warn!(%error, "ended a frame connection");
                }
            }
            kind => {
                return tracing::warn!(?kind, "ended a frame connection: the peer sent an unexpected frame");
            }
        }
    }
}

/// A call that was queued. When it is dropped, its caller has given up.
pub(in crate::rpc) struct Sent {
    id: u64,
    at: Instant,
    /// Frames that had arrived on this connection before.
    arrived_before: u64,
    reply: oneshot::Receiver<Incoming>,
    is_over: bool,
    connection: Arc<Connection>,
}

impl Sent {
    /// The answer. When the peer falls silent first, the connection ends.
    pub(in crate::rpc) async fn answer(&mut self) -> Waited<Incoming> {
        let waited = self.connection.shared.heard.answer(&mut self.reply, self.at).await;
        self.is_over = true;
        if let Waited::Silent = waited {
            self.connection.end();
        }
        waited
    }

    /// For a caller whose deadline has passed: ends the connection if no frame has arrived on it since the call was sent.
    pub(in crate::rpc) fn end_if_idle(&self) {
        let arrived = lock(&self.connection.shared.waiting).arrived;
        if arrived == self.arrived_before {
            self.connection.end();
        }
    }

    /// Ends the connection of a peer whose answer cannot be understood.
    pub(in crate::rpc) fn end_connection(&self) {
        self.connection.end();
    }
}

impl Drop for Sent {
    fn drop(&mut self) {
        if !self.is_over {
            let waiter = lock(&self.connection.shared.waiting).calls.remove(&self.id);
            drop(waiter); // not under the lock
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::time::timeout;

    use super::*;

    /// It once stayed among the waiting with its credit, until the connection ended: a peer that was slow, but not silent, was
    /// in the end sent nothing at all.
    #[tokio::test]
    async fn regression_a_request_that_could_not_be_queued_in_time_gives_its_credit_back() {
        const CREDIT: usize = 1 << 20;
        let (near, _far) = tokio::io::duplex(1 << 16);
        let halves = tokio::io::split(Box::new(near) as Box<dyn Stream>);
        let connection = Connection::over(halves, FrameKind::Reply, CREDIT, Heard::default(), None);
        let queued = connection.unwritten.clone().acquire_many_owned(CREDIT as u32).await.unwrap();
        let sending = connection.clone().send(4096, |_| (Bytes::from_static(b"x"), Bytes::new()));
        assert!(timeout(Duration::from_millis(20), sending).await.is_err());
        assert_eq!(connection.in_flight.available_permits(), CREDIT);
        assert!(lock(&connection.shared.waiting).calls.is_empty());
        drop(queued);
    }

    #[tokio::test]
    async fn a_call_whose_caller_gives_up_gives_its_credit_back_and_one_on_an_ended_connection_is_lost() {
        let (near, _far) = tokio::io::duplex(1 << 16);
        let halves = tokio::io::split(Box::new(near) as Box<dyn Stream>);
        let connection = Connection::over(halves, FrameKind::Reply, 10, Heard::default(), None);
        let encode = |_| (Bytes::from_static(b"x"), Bytes::new());
        let given_up = connection.clone().send(4, encode).await.unwrap();
        let mut waiting = connection.clone().send(4, encode).await.unwrap();
        assert_eq!(connection.in_flight.available_permits(), 2);
        drop(given_up);
        assert_eq!(connection.in_flight.available_permits(), 6);
        connection.end();
        assert!(matches!(waiting.answer().await, Waited::Lost));
        assert!(!connection.is_alive() && connection.clone().send(4, encode).await.is_err());
        assert_eq!(connection.in_flight.available_permits(), 10);
    }

    #[tokio::test]
    async fn calls_that_were_given_up_and_not_written_are_bounded_too() {
        let (near, _far) = tokio::io::duplex(16); // nobody reads
        let halves = tokio::io::split(Box::new(near) as Box<dyn Stream>);
        let connection = Connection::over(halves, FrameKind::Reply, 10, Heard::default(), None);
        let encode = |_| (Bytes::from_static(&[0; 100]), Bytes::new());
        for _ in 0..10 {
            drop(connection.clone().send(1, encode).await.unwrap());
        }
        assert_eq!(connection.in_flight.available_permits(), 10);
        let sending = connection.clone().send(1, encode);
        assert!(timeout(Duration::from_millis(20), sending).await.is_err(), "an eleventh frame is queued");
    }
}
