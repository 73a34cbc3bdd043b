//! For tests of whole members in one process: a network in memory, so that tokio's paused clock may turn, and disks.

#![allow(clippy::unwrap_used, reason = "in a test an unwrap is an assertion")]

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use dfs_proto::attr::Timestamp;
use dfs_proto::env::{BoxFuture, Clock, Listener, Net, Stream};
use tokio::sync::mpsc;
use tokio::time::Instant;

use crate::GroupStorage;
use crate::kv::memory::MemoryHome;
use crate::raft::log_disk::SimulatedDisk;

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
        Timestamp::from_millis(1_700_000_000_000 + self.0.elapsed().as_millis() as i64)
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
