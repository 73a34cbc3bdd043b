//! Time, randomness and the network, which the programs use only through [`Env`], so that the simulation can replace them.
//!
//! There are three clocks (P7.1):
//!
//! * The wall clock ([`Clock::now`]) is for times that users see. It may jump, also backwards, so nothing is ordered or timed by
//!   it.
//! * [`Clock::boottime`] goes on while the machine is suspended. It tells how old something is.
//! * tokio's clock (`tokio::time::Instant`, `sleep`, `timeout`; CLOCK_MONOTONIC) is for deadlines and timeouts. It stands still
//!   while the machine is suspended, so that nothing times out by that. The simulation advances it itself.

use std::io;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rand::rngs::SmallRng;
use rand::{Rng as _, SeedableRng};
use socket2::{SockRef, TcpKeepalive};
use tokio::io::{AsyncRead, AsyncWrite};

pub use dfs_proto::BoxFuture;
use dfs_proto::attr::Timestamp;

/// The wall clock and CLOCK_BOOTTIME of a machine.
pub trait Clock: Send + Sync + 'static {
    /// The wall-clock time, for users to see. It must not decide what came first, or how long something took.
    fn now(&self) -> Timestamp;
    /// The time since some moment before this process began, including the time in which the machine was suspended. It never goes
    /// backwards.
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
        // It fails only for an unknown clock or a bad pointer, and every kernel that mounts dfs has this clock.
        assert_eq!(failed, 0, "clock_gettime(CLOCK_BOOTTIME): {}", io::Error::last_os_error());
        Duration::new(passed.tv_sec as u64, passed.tv_nsec as u32)
    }
}

/// A seeded random number generator. Clones share it. Its lock is held for one number, and never together with another lock.
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

    /// Never 0, which stands for an unknown id.
    pub fn u128(&self) -> u128 {
        self.with(|rng| rng.random::<u128>()).max(1)
    }

    /// Uniform in `0..bound`; 0 when `bound` is 0.
    pub fn below(&self, bound: u64) -> u64 {
        if bound == 0 { 0 } else { self.with(|rng| rng.random_range(0..bound)) }
    }
}

/// A connection: bytes in order, in both directions.
pub trait Stream: AsyncRead + AsyncWrite + Send + Unpin + 'static {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin + 'static> Stream for T {}

/// The network. In the simulation it is turmoil's. Addresses are `host:port`.
pub trait Net: Send + Sync + 'static {
    /// Has no timeout of its own: the caller must have one.
    fn connect(&self, address: &str) -> BoxFuture<'static, io::Result<Box<dyn Stream>>>;
    fn bind(&self, address: &str) -> BoxFuture<'static, io::Result<Box<dyn Listener>>>;
}

pub trait Listener: Send + 'static {
    /// The next connection, and the peer's address.
    fn accept(&mut self) -> BoxFuture<'_, io::Result<(Box<dyn Stream>, String)>>;
    /// The address that it is bound to, with the port that was chosen if the configured one was 0.
    fn local_address(&self) -> String;
}

/// The machine's TCP, without Nagle's delay. A connection fails when the peer has vanished for [`SILENCE_MAX`].
pub struct Tcp;

/// How long a connection lives while the peer's machine acknowledges nothing, or its process reads nothing of what was sent. It is
/// far above the timeouts of the callers; it is there so that servers do not keep the connections of vanished peers for ever.
const SILENCE_MAX: Duration = Duration::from_secs(60);
const PROBE_INTERVAL: Duration = Duration::from_secs(15);

fn prepare(stream: &tokio::net::TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let socket = SockRef::from(stream);
    let probes = TcpKeepalive::new().with_time(PROBE_INTERVAL).with_interval(PROBE_INTERVAL);
    socket.set_tcp_keepalive(&probes)?;
    // If this is set, the kernel closes the connection by it and not by the number of probes.
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

/// What a process needs of its environment besides storage.
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

/// How many threads a daemon's runtime has: half as many as there are cores. Waking a thread on another core costs more than most
/// calls take (docs/measurements.md), and several daemons may share a small machine. Blocking calls have threads of their own.
pub fn runtime_threads() -> usize {
    std::thread::available_parallelism().map_or(1, |cores| cores.get().div_ceil(2))
}
