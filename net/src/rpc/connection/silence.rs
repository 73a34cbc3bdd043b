//! Signs of life, and the patience of those who wait for them.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, ReadBuf};
use tokio::sync::oneshot;
use tokio::time::{Instant, timeout, timeout_at};

use super::lock;

/// How often a server says that it works on a call (`frames`, F4). Several times in [`SILENCE_MAX`], so that a server that has
/// too few processors for a moment is still in time.
const SIGN_OF_LIFE_EVERY: Duration = Duration::from_millis(400);

/// A peer from which nothing arrives for this long, while a call waits, is given up (`frames`, F4).
pub const SILENCE_MAX: Duration = Duration::from_millis(1500);

/// The last part of [`SILENCE_MAX`]. This process may have been stopped itself, so it reads what lies in the socket before it
/// gives a peer up.
const LAST_LOOK: Duration = Duration::from_millis(50);

const _: () =
    assert!(SIGN_OF_LIFE_EVERY.as_millis() * 3 <= (SILENCE_MAX.as_millis() - LAST_LOOK.as_millis()));

/// Keeps F4 while `work` on a request goes on.
pub(in crate::rpc) async fn with_signs_of_life<T>(work: impl Future<Output = T>, sign: impl Fn()) -> T {
    let mut work = std::pin::pin!(work);
    loop {
        match timeout(SIGN_OF_LIFE_EVERY, &mut work).await {
            Ok(result) => return result,
            Err(_) => sign(),
        }
    }
}

/// When something last arrived from a peer, on whichever connection: on a narrow link one of them may wait for the others.
#[derive(Clone, Default)]
pub(in crate::rpc) struct Heard(Arc<Mutex<Option<Instant>>>);

impl Heard {
    fn note(&self) {
        *lock(&self.0) = Some(Instant::now());
    }

    /// Notes every byte that is read.
    pub(in crate::rpc) fn listening<R>(self, reader: R) -> Listening<R> {
        Listening { reader, heard: self }
    }

    /// Since when a request that was sent `at` has waited without a sign of the peer.
    fn silent_since(&self, at: Instant) -> Instant {
        lock(&self.0).map_or(at, |heard| heard.max(at))
    }

    /// The answer to what was sent `at`, unless the peer falls silent first (F4).
    pub(in crate::rpc) async fn answer<T>(&self, reply: &mut oneshot::Receiver<T>, at: Instant) -> Waited<T> {
        loop {
            let silent_since = self.silent_since(at);
            if let Ok(answer) = timeout_at(silent_since + SILENCE_MAX - LAST_LOOK, &mut *reply).await {
                return answer.map_or(Waited::Lost, Waited::Answered);
            }
            if let Ok(answer) = timeout(LAST_LOOK, &mut *reply).await {
                return answer.map_or(Waited::Lost, Waited::Answered);
            }
            if self.silent_since(at) == silent_since {
                return Waited::Silent;
            }
        }
    }
}

/// What became of a request.
pub(in crate::rpc) enum Waited<T> {
    Answered(T),
    /// The connection has ended.
    Lost,
    Silent,
}

/// A reader whose every byte is a sign of life: an answer may take long to arrive.
pub(in crate::rpc) struct Listening<R> {
    reader: R,
    heard: Heard,
}

impl<R: AsyncRead + Unpin> AsyncRead for Listening<R> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let read = Pin::new(&mut self.reader).poll_read(cx, buf);
        if buf.filled().len() > before {
            self.heard.note();
        }
        read
    }
}
