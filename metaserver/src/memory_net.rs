//! For tests of whole members in one process: a network in memory, so that tokio's paused clock may turn, and disks.

#![allow(clippy::unwrap_used, reason = "in a test an unwrap is an assertion")]

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use dfs_net::env::{BoxFuture, Clock, Listener, Net, Stream};
use dfs_proto::attr::Timestamp;
use tokio::sync::mpsc;
use tokio::time::Instant;

use crate::GroupStorage;
use crate::raft::log::disk::SimulatedDisk;
use dfs_state::kv::memory::MemoryHome;

/// A network within the process: an address is a name that somebody listens at.
#[derive(Clone, Default)]
pub(crate) struct MemoryNet(Arc<Mutex<Listeners>>);

type Listeners = BTreeMap<String, mpsc::Sender<Box<dyn Stream>>>;

struct MemoryListener {
    address: String,
    incoming: mpsc::Receiver<Box<dyn Stream>>,
}

impl Net for MemoryNet {
    fn connect(&self, address: &str) -> BoxFuture<'static, io::Result<Box<dyn Stream>>> {
        let listener = self.0.lock().unwrap().get(address).cloned();
        Box::pin(async move {
            let refused = || io::Error::from(io::ErrorKind::ConnectionRefused);
            let (near, far) = tokio::io::duplex(1 << 20);
            listener.ok_or_else(refused)?.send(Box::new(far)).await.map_err(|_| refused())?;
            Ok(Box::new(near) as Box<dyn Stream>)
        })
    }

    fn bind(&self, address: &str) -> BoxFuture<'static, io::Result<Box<dyn Listener>>> {
        let (net, address) = (self.clone(), address.to_owned());
        Box::pin(async move {
            let (sender, incoming) = mpsc::channel(16);
            let mut listeners = net.0.lock().unwrap();
            if listeners.get(&address).is_some_and(|listener| !listener.is_closed()) {
                return Err(io::Error::from(io::ErrorKind::AddrInUse));
            }
            listeners.insert(address.clone(), sender);
            Ok(Box::new(MemoryListener { address, incoming }) as Box<dyn Listener>)
        })
    }
}

impl Listener for MemoryListener {
    fn accept(&mut self) -> BoxFuture<'_, io::Result<(Box<dyn Stream>, String)>> {
        Box::pin(async move {
            let stream = self.incoming.recv().await.ok_or(io::ErrorKind::BrokenPipe)?;
            Ok((stream, "memory".to_owned()))
        })
    }

    fn local_address(&self) -> String {
        self.address.clone()
    }
}

/// Wall-clock time that goes with tokio's.
pub(crate) struct TokioClock(pub(crate) Instant);

impl Clock for TokioClock {
    fn now(&self) -> Timestamp {
        BEGINNING.after(self.0.elapsed())
    }

    fn boottime(&self) -> Duration {
        self.0.elapsed()
    }
}

const BEGINNING: Timestamp = Timestamp { seconds: 1_700_000_000, nanos: 0 };

/// Clocks of one machine that a test sets: beside tokio's, if there is a runtime.
#[derive(Default)]
pub(crate) struct SetClock {
    began: Option<Instant>,
    set: Mutex<Set>,
}

#[derive(Clone, Copy, Default)]
struct Set {
    /// What has passed beside tokio's time, and how far the wall clock was stepped.
    passed: Duration,
    stepped_nanos: i128,
}

impl SetClock {
    /// Goes on with tokio's time.
    pub(crate) fn with_tokio() -> SetClock {
        SetClock { began: Some(Instant::now()), set: Mutex::default() }
    }

    /// All goes on by so much, but for tokio's time: as if the machine slept.
    pub(crate) fn pass(&self, time: Duration) {
        self.set.lock().unwrap().passed += time;
    }

    pub(crate) fn step_wall(&self, seconds: i64) {
        self.set.lock().unwrap().stepped_nanos += i128::from(seconds) * 1_000_000_000;
    }
}

impl Clock for SetClock {
    fn now(&self) -> Timestamp {
        let right = BEGINNING.after(self.boottime());
        Timestamp::from_nanos(right.as_nanos() + self.set.lock().unwrap().stepped_nanos)
    }

    fn boottime(&self) -> Duration {
        self.began.map_or(Duration::ZERO, |began| began.elapsed()) + self.set.lock().unwrap().passed
    }
}

/// What of a member survives it.
#[derive(Clone)]
pub(crate) struct Disks {
    pub(crate) log: SimulatedDisk,
    pub(crate) state: MemoryHome,
}

impl Disks {
    pub(crate) fn new() -> Disks {
        Disks { log: SimulatedDisk::new(Duration::from_micros(100)), state: MemoryHome::default() }
    }

    pub(crate) fn storage(&self) -> GroupStorage {
        GroupStorage { log: Arc::new(self.log.clone()), state: Arc::new(self.state.clone()) }
    }
}
