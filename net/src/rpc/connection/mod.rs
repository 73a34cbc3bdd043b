//! Connections that carry frames, from the greeting to the end: what chunk requests (`frames`) and unary calls (`unary`) have in
//! common.
//!
//! | what | file |
//! |---|---|
//! | reading whole frames, with a claim for long ones | `frame_io` |
//! | the greeting | `handshake` |
//! | signs of life, and how a silent peer is recognised | `silence` |
//! | the sending half, which all tasks of a connection share | `writer` |
//! | the side that connects: calls that wait for answers, pushes | `calls` |
//! | the side that listens: calls that are read and begun | `serving` |
//!
//! On each side one task reads a connection. Every call ends: with its answer, when its caller gives up, or when the connection
//! ends. What differs between the two protocols stays in their modules: what a call takes of what may be in flight (bytes, or
//! calls), whether a call is begun in the reading task or in one of its own, and how long a caller waits.

mod calls;
mod frame_io;
mod handshake;
mod serving;
mod silence;
mod writer;

use std::sync::{Mutex, MutexGuard};
use std::time::Duration;

use tokio::sync::watch;

pub(super) use calls::{Connection, Lost, Sent};
#[cfg(test)]
pub(super) use frame_io::{ARRIVAL_DEADLINE, read_frame, send_message};
pub(super) use frame_io::{CLAIMED_LEN_MIN, Incoming, broken};
#[cfg(test)]
pub(super) use handshake::accept_greeting;
pub(super) use handshake::{GREETING_DEADLINE, NotSent, greet};
pub(super) use serving::{Protocol, Served, serve_connection};
pub use silence::SILENCE_MAX;
pub(super) use silence::{Heard, Waited, with_signs_of_life};
#[cfg(test)]
pub(super) use writer::UNREAD_LEN_MAX;
pub(super) use writer::{Held, Outgoing, Writer, poll_once};

/// Small frames that arrive together are read by one system call. A longer payload is read directly into its own memory.
const READ_BUFFER_BYTES: usize = 16 * 1024;

pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}

/// Ready when the flag turns true or its owner is gone.
pub(super) async fn stopped(flag: &mut watch::Receiver<bool>) {
    let _ = flag.wait_for(|stop| *stop).await;
}

/// After a failed accept (out of descriptors): time for some to be closed.
pub(super) const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
