//! A metaserver and chunkservers in memory, which fail when told to.

mod chunks;
pub(crate) mod clock;
mod leader;
mod leases;
mod metaserver;
mod writers;
mod written;

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use dfs_net::env::{Env, Rng};
use dfs_proto::attr::{Caller, InodeAttr, Name};
use dfs_proto::ids::{ClusterId, InodeId, ServerId};
use dfs_proto::meta::{Create, NewInode};
use dfs_proto::units::Offset;

pub(crate) use self::chunks::FakeChunks;
use self::clock::TokioClock;
use self::leader::Connection;
pub(crate) use self::metaserver::FakeMeta;
use crate::cluster::client::ClusterClient;
use crate::config::ClientConfig;
use crate::error::Result;
use crate::inode::{Client, CreateOpen, File, Lookup, Open, OpenMode, Unlink};
use crate::names::{ChangedBy, DroppedNames, OuterCache};
use crate::route::federation::Federation;

pub(crate) const READ_WRITE: OpenMode = OpenMode { read: true, write: true, truncate: false };
pub(crate) const USER: Caller = Caller { uid: 1000, gid: 1000, groups: None };

/// Three chunkservers, two copies.
pub(crate) struct Cluster {
    pub(crate) meta: Arc<FakeMeta>,
    pub(crate) chunks: Arc<FakeChunks>,
    /// What outer caches were told of commits.
    pub(crate) moved: Arc<Moved>,
    /// Each client draws its own numbers.
    clients: AtomicU64,
}

/// An outer cache that only notes how contents move: the inode, and the versions before and after.
#[derive(Default)]
pub(crate) struct Moved(Mutex<Vec<(InodeId, u64, u64)>>);

impl Moved {
    pub(crate) fn take(&self) -> Vec<(InodeId, u64, u64)> {
        std::mem::take(&mut *self.0.lock().unwrap())
    }
}

impl OuterCache for Moved {
    fn drop_attrs(&self, _inodes: &[InodeId]) {}

    fn drop_all_attrs(&self) {}

    fn drop_names(&self, _dropped: &DroppedNames<'_>, _by: ChangedBy) -> Option<tokio::time::Instant> {
        None
    }

    fn content_moved(&self, inode: InodeId, from: u64, to: u64) {
        self.0.lock().unwrap().push((inode, from, to));
    }

    fn content_lost(&self, _inode: InodeId) {}
}

impl Cluster {
    pub(crate) fn new() -> Cluster {
        let servers = [ServerId(1), ServerId(2), ServerId(3)];
        Cluster {
            meta: FakeMeta::new(&servers),
            chunks: FakeChunks::new(&servers),
            moved: Arc::default(),
            clients: AtomicU64::new(0),
        }
    }

    /// The calls of one more client.
    pub(crate) fn calls(&self) -> Arc<Connection> {
        Connection::new(self.meta.clone())
    }

    pub(crate) async fn client(&self) -> Arc<Client> {
        self.client_with(ClientConfig::default()).await
    }

    pub(crate) async fn client_with(&self, config: ClientConfig) -> Arc<Client> {
        let seed = self.clients.fetch_add(1, Ordering::Relaxed);
        let clock = Arc::new(TokioClock::start());
        let env = Env { clock, rng: Rng::seeded(seed), ..Env::real() };
        let (wanted, meta, chunks) =
            ((ClusterId::UNKNOWN, config.metadata_timeout), self.calls(), self.chunks.clone());
        let connected =
            ClusterClient::assemble(config.clone(), env.clone(), wanted, meta, (chunks, self.moved.clone()))
                .await;
        Client::over(Federation::of_one(config, env, connected.expect("the fake answers")))
    }

    /// What another client that opens the file now reads.
    pub(crate) async fn read_elsewhere(&self, inode: InodeId) -> Vec<u8> {
        let other = self.client().await;
        let file = open(&other, inode).await.unwrap();
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
        opens: false,
    }
}

pub(crate) async fn make(client: &Client, name: &str) -> Arc<File> {
    create(client, new_file(name)).await.unwrap().0
}

/// In the fake's root directory.
pub(crate) fn unlink(name: &str) -> Unlink {
    Unlink { parent: InodeId::ROOT, name: Name::new(name).unwrap() }
}

/// In the fake's root directory.
pub(crate) fn lookup(name: &str) -> Lookup {
    Lookup { parent: InodeId::ROOT, name: name.into() }
}

/// Makes a file and opens it.
pub(crate) async fn create(client: &Client, create: Create) -> Result<(Arc<File>, InodeAttr)> {
    client.perform(&USER, CreateOpen { create, mode: READ_WRITE }).await
}

pub(crate) async fn open(client: &Client, inode: InodeId) -> Result<Arc<File>> {
    client.perform(&USER, Open { inode, mode: READ_WRITE }).await
}

pub(crate) async fn open_to_read(client: &Client, inode: InodeId) -> Result<Arc<File>> {
    let mode = OpenMode { read: true, ..OpenMode::default() };
    client.perform(&USER, Open { inode, mode }).await
}

/// Bytes that show by their values at which position they belong.
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
