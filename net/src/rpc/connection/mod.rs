//! Connections that carry frames, from the greeting to the end: what chunk requests and unary calls have in common.

mod frame_io;
mod handshake;
mod silence;
mod writer;

use std::sync::{Mutex, MutexGuard};
use std::time::Duration;

use tokio::sync::watch;

#[cfg(test)]
pub(super) use frame_io::{ARRIVAL_DEADLINE, send_message};
pub(super) use frame_io::{CLAIMED_LEN_MIN, broken, read_claimed, read_frame, read_head};
pub(super) use handshake::{GREETING_DEADLINE, NotSent, accept_greeting, greet};
pub use silence::SILENCE_MAX;
pub(super) use silence::{Heard, Listening, Waited, with_signs_of_life};
#[cfg(test)]
pub(super) use writer::UNREAD_LEN_MAX;
pub(super) use writer::{Owed, Writer, poll_once};

pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}

/// Ready when the flag turns true or its owner is gone.
pub(super) async fn stopped(flag: &mut watch::Receiver<bool>) {
    let _ = flag.wait_for(|stop| *stop).await;
}

/// After a failed accept (out of descriptors): time for some to be closed.
pub(super) const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
