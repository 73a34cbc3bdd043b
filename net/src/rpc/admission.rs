//! Limits on the connections of a process, and on the memory that they hold. There is no authentication yet: every host that
//! reaches a port may connect, and what one peer takes must leave enough for the others.
//!
//! A1  A process keeps a bounded number of connections on all its ports together. One more takes the place of the one that
//!     has said nothing for longest: a stranger's, if there is one. A peer that is cut off while it waits for nothing
//!     connects anew when it next needs to.
//! A2  A stranger is a peer that has not shaken hands; HTTP/2 and HTTP peers stay strangers. The limit for strangers is lower,
//!     and one that sends nothing for [`STRANGER_IDLE_MAX`] is cut off. Peers that have shaken hands may be silent for ever:
//!     TCP finds out whether their machines are still there (`env::Tcp`).
//! A3  Bytes that requests and unread answers hold are bounded for all connections together. When none are left, a connection
//!     that needs some waits, in the order of arrival; after a moment the holder that has neither read nor written for longest
//!     is cut off. What servers ask of each other has a bound of its own: a request of a client may hold its bytes until another
//!     server has answered, and two servers that waited for each other's clients would wait for ever.
//! A4  A write that gets nowhere for [`WRITE_STALL_MAX`] ends its connection.

use std::collections::BTreeMap;
use std::future::Future as _;
use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, Weak};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, Sleep, sleep, timeout};
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};

use super::connection::lock;
use crate::descriptors;
use crate::env::Stream;

/// A2. HTTP/2 peers answer a ping every few seconds.
const STRANGER_IDLE_MAX: Duration = Duration::from_secs(60);
/// A4. As long as TCP's own patience; a peer that takes a byte now and then is A3's.
const WRITE_STALL_MAX: Duration = Duration::from_secs(60);
/// A3. A connection that waits for memory has another one cut off after this long, and only one that was idle for as long.
const CLAIM_PATIENCE: Duration = Duration::from_secs(1);
/// A3. Many connections' worth of credit; a small part of any server's memory.
const BYTES_MAX: u64 = 512 << 20;
/// Cutting connections off is logged once in so long.
const COMPLAINT_EVERY: Duration = Duration::from_secs(10);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    pub connections: usize,
    pub strangers: usize,
    pub bytes: u64,
}

impl Limits {
    /// The share of connections in a process that may have so many descriptors.
    pub fn of(descriptors: u64) -> Limits {
        let connections = (descriptors / 4).clamp(16, 4096) as usize;
        Limits { connections, strangers: (connections / 4).min(256), bytes: BYTES_MAX }
    }
}

/// One for all ports of a process. Cloning gives another handle.
#[derive(Clone)]
pub struct Admission(Arc<Inner>);

struct Inner {
    limits: Limits,
    bytes: Arc<Semaphore>,
    /// Of connections to other servers.
    server_bytes: Arc<Semaphore>,
    began: Instant,
    table: Mutex<Table>,
}

#[derive(Default)]
struct Table {
    next: u64,
    seats: BTreeMap<u64, Arc<Seat>>,
    complained: Option<Instant>,
}

/// The place of one connection in the table. It is freed when the stream of the connection is dropped.
pub struct Seat {
    number: u64,
    from: String,
    admission: Weak<Inner>,
    is_greeted: AtomicBool,
    /// The peer says that it is a server.
    is_server: AtomicBool,
    /// When something was last read or written, in milliseconds since the process began to listen.
    active_ms: AtomicU64,
    held: AtomicU64,
    cut_off: CancellationToken,
}

/// Bytes of the process's budget, until it is dropped.
pub struct Claim {
    seat: Arc<Seat>,
    bytes: u64,
    _permit: Option<OwnedSemaphorePermit>,
}

impl Drop for Claim {
    fn drop(&mut self) {
        self.seat.held.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

impl Default for Admission {
    /// By the descriptors that this process may have.
    fn default() -> Admission {
        Admission::new(Limits::of(descriptors::obtained()))
    }
}

impl Admission {
    pub fn new(limits: Limits) -> Admission {
        let semaphore = || Arc::new(Semaphore::new(limits.bytes as usize));
        let (bytes, server_bytes) = (semaphore(), semaphore());
        Admission(Arc::new(Inner {
            limits,
            bytes,
            server_bytes,
            began: Instant::now(),
            table: Mutex::default(),
        }))
    }

    /// Takes a connection in; its place is free again when the stream is dropped.
    pub fn admit(&self, stream: Box<dyn Stream>, from: &str) -> (Box<dyn Stream>, Arc<Seat>) {
        let inner = &self.0;
        let mut table = lock(&inner.table);
        inner.make_room(&mut table); // keeps A1
        table.next += 1;
        let seat = Arc::new(Seat {
            number: table.next,
            from: from.to_owned(),
            admission: Arc::downgrade(inner),
            is_greeted: AtomicBool::new(false),
            is_server: AtomicBool::new(false),
            active_ms: AtomicU64::new(inner.now_ms()),
            held: AtomicU64::new(0),
            cut_off: CancellationToken::new(),
        });
        table.seats.insert(seat.number, seat.clone());
        (Box::new(Seated::new(stream, seat.clone())), seat)
    }

    /// Connections that are kept now.
    pub fn connections(&self) -> usize {
        lock(&self.0.table).seats.len()
    }
}

impl Inner {
    fn now_ms(&self) -> u64 {
        self.began.elapsed().as_millis() as u64
    }

    fn make_room(&self, table: &mut Table) {
        let strangers = table.seats.values().filter(|seat| !seat.is_greeted()).count();
        if strangers >= self.limits.strangers || table.seats.len() >= self.limits.connections {
            let idlest =
                table.seats.values().min_by_key(|seat| (seat.is_greeted(), seat.active_ms())).cloned();
            if let Some(seat) = idlest {
                let (all, what) = (table.seats.len(), "to make room for another connection");
                self.cut_off(
                    table,
                    &seat,
                    &format!("{what}: {all} are open, {strangers} of them strangers'"),
                );
            }
        }
    }

    fn cut_off(&self, table: &mut Table, seat: &Seat, why: &str) {
        table.seats.remove(&seat.number);
        seat.cut_off.cancel();
        let now = Instant::now();
        if table.complained.is_none_or(|at| now - at >= COMPLAINT_EVERY) {
            table.complained = Some(now);
            let kind = if seat.is_greeted() { "a connection" } else { "a stranger's connection" };
            tracing::warn!(from = %seat.from, "{kind} is cut off {why}");
        }
    }

    /// Keeps A3.
    fn cut_off_laziest(&self, is_server: bool) {
        let mut table = lock(&self.table);
        let lazy_before = self.now_ms().saturating_sub(CLAIM_PATIENCE.as_millis() as u64);
        // The other budget is no help to whoever waits for this one.
        let of_budget = |seat: &&Arc<Seat>| seat.is_server() == is_server;
        let holders =
            table.seats.values().filter(|seat| seat.held.load(Ordering::Relaxed) > 0).filter(of_budget);
        let laziest = holders.min_by_key(|seat| seat.active_ms()).cloned();
        if let Some(seat) = laziest.filter(|seat| seat.active_ms() <= lazy_before) {
            let held = seat.held.load(Ordering::Relaxed);
            self.cut_off(&mut table, &seat, &format!("because it holds {held} bytes and does nothing"));
        }
    }
}

impl Seat {
    fn is_greeted(&self) -> bool {
        self.is_greeted.load(Ordering::Relaxed)
    }

    fn is_server(&self) -> bool {
        self.is_server.load(Ordering::Relaxed)
    }

    fn active_ms(&self) -> u64 {
        self.active_ms.load(Ordering::Relaxed)
    }

    fn note_activity(&self) {
        if let Some(admission) = self.admission.upgrade() {
            self.active_ms.store(admission.now_ms(), Ordering::Relaxed);
        }
    }

    /// Notes that the peer has shaken hands, and whether it says that it is a server.
    pub(super) fn greeted(&self, as_server: bool) {
        self.is_server.store(as_server, Ordering::Relaxed);
        self.is_greeted.store(true, Ordering::Relaxed);
    }

    /// Cuts the connection off. `why` completes the sentence "a connection is cut off" in the log.
    pub(super) fn end(&self, why: &str) {
        if let Some(admission) = self.admission.upgrade() {
            admission.cut_off(&mut lock(&admission.table), self, why);
        }
    }

    /// Waits until this connection may hold `bytes` more (A3).
    pub(super) async fn claim(self: &Arc<Self>, bytes: u64) -> Claim {
        let mut claim = Claim { seat: self.clone(), bytes, _permit: None };
        self.held.fetch_add(bytes, Ordering::Relaxed);
        let Some(admission) = self.admission.upgrade() else { return claim };
        let is_server = self.is_server();
        let budget = if is_server { &admission.server_bytes } else { &admission.bytes };
        let count = bytes.min(admission.limits.bytes) as u32;
        let mut waiting = std::pin::pin!(budget.clone().acquire_many_owned(count));
        loop {
            match timeout(CLAIM_PATIENCE, &mut waiting).await {
                Ok(permit) => claim._permit = permit.ok(),
                Err(_) => {
                    admission.cut_off_laziest(is_server);
                    continue;
                }
            }
            return claim;
        }
    }
}

/// A stream that ends when its seat is cut off.
struct Seated {
    stream: Box<dyn Stream>,
    seat: Arc<Seat>,
    read_end: Pin<Box<WaitForCancellationFutureOwned>>,
    write_end: Pin<Box<WaitForCancellationFutureOwned>>,
    idle: Option<Pin<Box<Sleep>>>,
    stalled: Option<Pin<Box<Sleep>>>,
}

impl Seated {
    fn new(stream: Box<dyn Stream>, seat: Arc<Seat>) -> Seated {
        let end = || Box::pin(seat.cut_off.clone().cancelled_owned());
        let (read_end, write_end) = (end(), end());
        Seated { stream, seat, read_end, write_end, idle: None, stalled: None }
    }

    /// Keeps A4 for what a write has answered.
    fn note_write<T>(&mut self, cx: &mut Context<'_>, written: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if written.is_ready() {
            self.stalled = None;
            self.seat.note_activity();
            return written;
        }
        if self.write_end.as_mut().poll(cx).is_ready() {
            return Poll::Ready(Err(io::ErrorKind::ConnectionAborted.into()));
        }
        let stalled = self.stalled.get_or_insert_with(|| Box::pin(sleep(WRITE_STALL_MAX)));
        ready!(stalled.as_mut().poll(cx));
        Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
    }
}

impl Drop for Seated {
    fn drop(&mut self) {
        if let Some(admission) = self.seat.admission.upgrade() {
            lock(&admission.table).seats.remove(&self.seat.number);
        }
    }
}

impl AsyncRead for Seated {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.read_end.as_mut().poll(cx).is_ready() {
            return Poll::Ready(Err(io::ErrorKind::ConnectionAborted.into()));
        }
        let read = Pin::new(&mut self.stream).poll_read(cx, buf);
        if read.is_ready() {
            self.idle = None;
            self.seat.note_activity();
            return read;
        }
        if !self.seat.is_greeted() {
            let idle = self.idle.get_or_insert_with(|| Box::pin(sleep(STRANGER_IDLE_MAX)));
            ready!(idle.as_mut().poll(cx)); // keeps A2
            return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
        }
        Poll::Pending
    }
}

impl AsyncWrite for Seated {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(cx, buf);
        self.note_write(cx, written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write_vectored(cx, bufs);
        self.note_write(cx, written)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
#[path = "admission_tests.rs"]
mod tests;
