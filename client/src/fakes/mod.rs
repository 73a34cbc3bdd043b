//! A metaserver and chunkservers in memory, which fail when told to.

mod chunks;
mod metaserver;

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use dfs_net::env::{Clock, Env, Rng};
use dfs_proto::attr::{Caller, InodeAttr, Name, Timestamp};
use dfs_proto::ids::{ClusterId, InodeId, ServerId};
use dfs_proto::meta::{Create, NewInode};
use dfs_proto::units::Offset;
use tokio::time::Instant;

pub(crate) use self::chunks::FakeChunks;
pub(crate) use self::metaserver::FakeMeta;
use crate::cluster::ClusterClient;
use crate::{ClientConfig, File, OpenMode};

pub(crate) const READ_WRITE: OpenMode = OpenMode { read: true, write: true, truncate: false };
pub(crate) const USER: Caller = Caller { uid: 1000, gid: 1000, groups: None };

/// Three chunkservers, two copies.
pub(crate) struct Cluster {
    pub(crate) meta: Arc<FakeMeta>,
    pub(crate) chunks: Arc<FakeChunks>,
    /// Each client draws its own numbers.
    clients: AtomicU64,
}

impl Cluster {
    pub(crate) fn new() -> Cluster {
        let servers = [ServerId(1), ServerId(2), ServerId(3)];
        Cluster {
            meta: FakeMeta::new(&servers),
            chunks: FakeChunks::new(&servers),
            clients: AtomicU64::new(0),
        }
    }

    pub(crate) async fn client(&self) -> Arc<ClusterClient> {
        self.client_with(ClientConfig::default()).await
    }

    pub(crate) async fn client_with(&self, config: ClientConfig) -> Arc<ClusterClient> {
        let seed = self.clients.fetch_add(1, Ordering::Relaxed);
        let clock = Arc::new(TokioClock::start());
        let env = Env { clock, rng: Rng::seeded(seed), ..Env::real() };
        let (wanted, meta, chunks) =
            ((ClusterId::UNKNOWN, config.metadata_timeout), self.meta.clone(), self.chunks.clone());
        let connected = ClusterClient::assemble(config, env, wanted, meta, chunks).await;
        connected.expect("the fake answers")
    }

    /// What another client that opens the file now reads.
    pub(crate) async fn read_elsewhere(&self, inode: InodeId) -> Vec<u8> {
        let other = self.client().await;
        let file = other.open(&USER, inode, READ_WRITE).await.unwrap();
        let size = file.attr().size.0;
        let bytes = file.read_at(Offset(0), size).await.unwrap();
        assert_eq!(bytes.len() as u64, size);
        file.release().await.unwrap();
        bytes.to_vec()
    }
}

pub(crate) fn new_file(name: &str) -> Create {
    Create {
        parent: InodeId::ROOT,
        name: Name::new(name).unwrap(),
        mode: 0o644,
        what: NewInode::File,
        or_existing: false,
    }
}

pub(crate) async fn make(client: &ClusterClient, name: &str) -> Arc<File> {
    client.create_open(&USER, new_file(name), READ_WRITE).await.unwrap().0
}

/// Bytes that tell where they should stand.
pub(crate) fn pattern(seed: u64, len: u64) -> Vec<u8> {
    (0..len).map(|at| (seed.wrapping_mul(31) ^ at ^ (at >> 8) ^ (at >> 16)) as u8).collect()
}

/// Waits for a condition, a minute at most.
pub(crate) async fn wait_for(what: &str, mut is_so: impl FnMut() -> bool) {
    for _ in 0..6000 {
        if is_so() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("waited a minute for: {what}");
}

pub(crate) fn size_of(attr: &InodeAttr) -> u64 {
    attr.size.0
}

/// Clocks that go with tokio's, but for what the machine sleeps. The wall clock is wrong.
pub(crate) struct TokioClock {
    began: Option<Instant>,
    asleep: Mutex<Duration>,
}

impl TokioClock {
    pub(crate) fn start() -> TokioClock {
        TokioClock { began: Some(Instant::now()), asleep: Mutex::default() }
    }

    pub(crate) fn stopped() -> TokioClock {
        TokioClock { began: None, asleep: Mutex::default() }
    }

    pub(crate) fn sleep_through(&self, time: Duration) {
        *self.asleep.lock().unwrap() += time;
    }
}

impl Clock for TokioClock {
    fn now(&self) -> Timestamp {
        Timestamp { seconds: 2_147_483_647, nanos: 0 }
    }

    fn boottime(&self) -> Duration {
        self.began.map_or(Duration::ZERO, |began| began.elapsed()) + *self.asleep.lock().unwrap()
    }
}
