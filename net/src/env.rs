//! The only doors to time, chance and the network. `run()` passes the real ones in, the simulation its own.
//!
//! Three clocks, each for what it is good for (P7.1):
//!
//! * the wall clock ([`Clock::now`]) for times that users see. It jumps, backwards too: nothing is ordered or waited for by it;
//! * [`Clock::boottime`] for what must go on while the machine sleeps: how old something is, what has passed;
//! * tokio's (`tokio::time::Instant`, `sleep`, `timeout`; CLOCK_MONOTONIC) for deadlines and silence. It stands still while
//!   the machine sleeps: nobody's patience runs out by that. The simulation turns it itself.

use std::io;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rand::rngs::SmallRng;
use rand::{Rng as _, SeedableRng};
use socket2::{SockRef, TcpKeepalive};
use tokio::io::{AsyncRead, AsyncWrite};

pub use dfs_proto::BoxFuture;
use dfs_proto::attr::Timestamp;

/// A machine's clocks, but for tokio's.
pub trait Clock: Send + Sync + 'static {
    /// Wall-clock time, for what users see. Never for deciding what came first or how long something took.
    fn now(&self) -> Timestamp;
    /// What has passed since a moment before this process began, time asleep included. Never goes back.
    fn boottime(&self) -> Duration;
}

/// The machine's clocks.
pub struct SystemClock;

impl Clock for SystemClock {
    #[allow(clippy::disallowed_methods, reason = "this is the door that everyone else goes through")]
    fn now(&self) -> Timestamp {
        let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
        Timestamp { seconds: since.as_secs() as i64, nanos: since.subsec_nanos() }
    }

    fn boottime(&self) -> Duration {
        let mut passed = libc::timespec { tv_sec: 0, tv_nsec: 0 };
        // SAFETY: `passed` is a timespec that this call alone writes.
        let failed = unsafe { libc::clock_gettime(libc::CLOCK_BOOTTIME, &mut passed) };
        // Every kernel that mounts dfs has this clock, and the pointer is sound: nothing else can fail.
        assert_eq!(failed, 0, "clock_gettime(CLOCK_BOOTTIME): {}", io::Error::last_os_error());
        Duration::new(passed.tv_sec as u64, passed.tv_nsec as u32)
    }
}

/// A seeded source of chance, shared by cloning. The lock is held for one draw and never with another.
#[derive(Clone)]
pub struct Rng(Arc<Mutex<SmallRng>>);

impl Rng {
    pub fn seeded(seed: u64) -> Rng {
        Rng(Arc::new(Mutex::new(SmallRng::seed_from_u64(seed))))
    }

    /// Seeded by the operating system.
    pub fn from_os() -> Rng {
        Rng(Arc::new(Mutex::new(SmallRng::from_os_rng())))
    }

    fn with<T>(&self, draw: impl FnOnce(&mut SmallRng) -> T) -> T {
        draw(&mut self.0.lock().unwrap_or_else(|poisoned| poisoned.into_inner()))
    }

    pub fn u64(&self) -> u64 {
        self.with(|rng| rng.random())
    }

    /// Never 0, so that it can stand for "known".
    pub fn u128(&self) -> u128 {
        self.with(|rng| rng.random::<u128>()).max(1)
    }

    /// Uniform in `0..bound`; 0 when `bound` is 0.
    pub fn below(&self, bound: u64) -> u64 {
        if bound == 0 { 0 } else { self.with(|rng| rng.random_range(0..bound)) }
    }
}

/// One connection: bytes in order, both ways.
pub trait Stream: AsyncRead + AsyncWrite + Send + Unpin + 'static {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin + 'static> Stream for T {}

/// The network: TCP here, turmoil's in the simulation. Addresses are `host:port`.
pub trait Net: Send + Sync + 'static {
    /// Without a deadline of its own: the caller has one.
    fn connect(&self, address: &str) -> BoxFuture<'static, io::Result<Box<dyn Stream>>>;
    fn bind(&self, address: &str) -> BoxFuture<'static, io::Result<Box<dyn Listener>>>;
}

pub trait Listener: Send + 'static {
    /// The next connection and the address it comes from.
    fn accept(&mut self) -> BoxFuture<'_, io::Result<(Box<dyn Stream>, String)>>;
    /// Where it listens, with the port that was chosen when the configured one was 0.
    fn local_address(&self) -> String;
}

/// The machine's TCP, without Nagle's delay. A peer that has vanished without a word is noticed by [`SILENCE_MAX`].
pub struct Tcp;

/// So long a connection lives while the other machine gives no sign of life, or its process takes nothing of what waits for
/// it. Far above the deadlines of those who then connect anew; servers must not keep connections of what is gone for ever.
const SILENCE_MAX: Duration = Duration::from_secs(60);
const PROBE_INTERVAL: Duration = Duration::from_secs(15);

fn prepare(stream: &tokio::net::TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let socket = SockRef::from(stream);
    let probes = TcpKeepalive::new().with_time(PROBE_INTERVAL).with_interval(PROBE_INTERVAL);
    socket.set_tcp_keepalive(&probes)?;
    // With this set it, not the number of probes, ends a connection.
    socket.set_tcp_user_timeout(Some(SILENCE_MAX))
}

struct TcpAcceptor(tokio::net::TcpListener);

impl Net for Tcp {
    fn connect(&self, address: &str) -> BoxFuture<'static, io::Result<Box<dyn Stream>>> {
        let address = address.to_owned();
        Box::pin(async move {
            let stream = tokio::net::TcpStream::connect(&address).await?;
            prepare(&stream)?;
            Ok(Box::new(stream) as Box<dyn Stream>)
        })
    }

    fn bind(&self, address: &str) -> BoxFuture<'static, io::Result<Box<dyn Listener>>> {
        let address = address.to_owned();
        Box::pin(async move {
            let listener = tokio::net::TcpListener::bind(&address).await?;
            Ok(Box::new(TcpAcceptor(listener)) as Box<dyn Listener>)
        })
    }
}

impl Listener for TcpAcceptor {
    fn accept(&mut self) -> BoxFuture<'_, io::Result<(Box<dyn Stream>, String)>> {
        Box::pin(async move {
            let (stream, from) = self.0.accept().await?;
            prepare(&stream)?;
            Ok((Box::new(stream) as Box<dyn Stream>, from.to_string()))
        })
    }

    fn local_address(&self) -> String {
        self.0.local_addr().map(|a| a.to_string()).unwrap_or_default()
    }
}

/// What a process gets from its surroundings.
#[derive(Clone)]
pub struct Env {
    pub clock: Arc<dyn Clock>,
    pub rng: Rng,
    pub net: Arc<dyn Net>,
}

impl Env {
    pub fn real() -> Env {
        Env { clock: Arc::new(SystemClock), rng: Rng::from_os(), net: Arc::new(Tcp) }
    }
}

/// Threads of a daemon's runtime: half the cores. Waking a thread on another core costs more than most calls take
/// (figures in docs/measurements.md), and several daemons share a small machine; what blocks has threads of its own.
pub fn runtime_threads() -> usize {
    std::thread::available_parallelism().map_or(1, |cores| cores.get().div_ceil(2))
}
