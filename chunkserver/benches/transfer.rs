//! Appends, syncs and reads of 1 MiB over loopback frames, on real files: `cargo bench -p dfs-chunkserver`.
//!
//! One process has the client and all servers, so the CPU time is that of every side together.

#![allow(clippy::unwrap_used, reason = "a benchmark fails by panicking")]

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use dfs_chunkserver::disk::RealDisk;
use dfs_chunkserver::metrics::Metrics;
use dfs_chunkserver::neighbours::Neighbours;
use dfs_chunkserver::service::Service;
use dfs_chunkserver::store::{ChunkStore, FullBelow, StoreOptions};
use dfs_chunkserver::workers::Workers;
use dfs_net::env::{Env, Net, Tcp};
use dfs_net::rpc::admission::Admission;
use dfs_net::rpc::frames::{ChunkTransport, FrameTransport, call, serve};
use dfs_net::rpc::grpc::SharedIdentity;
use dfs_net::rpc::{Identity, Role};
use dfs_proto::chunk::{Append, ChunkKey, ChunkReply, ChunkRequest, ReadChunk, SyncChunk, block_checksums};
use dfs_proto::ids::{ChunkId, ClusterId, Incarnation, InodeId, ServerId, SessionId, SetVersion};
use dfs_proto::meta::Replica;
use dfs_proto::units::{ByteLen, CHUNK_LEN, ChunkOffset, GIB, MIB, Offset};
use futures::stream::{self, StreamExt};
use tokio::sync::watch;
use tokio::time::Instant;

const CLUSTER: ClusterId = ClusterId(1);
const DEADLINE: Duration = Duration::from_secs(60);
/// Requests that the client has in flight.
const IN_FLIGHT: usize = 8;
const CHUNKS: u64 = GIB / CHUNK_LEN;

fn transport(role: Role, id: u64) -> (FrameTransport, SharedIdentity) {
    let identity = SharedIdentity::new(Identity { role, id, cluster: CLUSTER });
    (FrameTransport::new(Env::real(), identity.clone(), DEADLINE), identity)
}

struct BenchServer {
    replica: Replica,
    _stop: watch::Sender<bool>,
    _data: tempfile::TempDir,
}

async fn start(id: u64, neighbours: &Neighbours) -> BenchServer {
    let data = tempfile::tempdir().unwrap();
    let options = StoreOptions {
        full: FullBelow { bytes: 0, percent: 0 },
        io: Workers::threads(16),
        syncs: Workers::threads(8),
        descriptors: 20_000,
    };
    let store = ChunkStore::open(Arc::new(RealDisk), data.path(), options, Metrics::new()).unwrap();
    let (transport, identity) = transport(Role::Chunkserver, id);
    let listener = Tcp.bind("127.0.0.1:0").await.unwrap();
    let replica = Replica { server: ServerId(id), address: listener.local_address() };
    let (transport, metrics) = (Arc::new(transport), Metrics::new());
    let known = neighbours.clone();
    let service = Service::new(store, transport, known, identity.clone(), DEADLINE, metrics);
    let (stop, stopped) = watch::channel(false);
    tokio::spawn(serve(listener, identity, Arc::new(service), Admission::default(), stopped));
    BenchServer { replica, _stop: stop, _data: data }
}

fn key(chunk: u64) -> ChunkKey {
    ChunkKey {
        cluster: CLUSTER,
        incarnation: Incarnation(1),
        chunk: ChunkId(chunk),
        set_version: SetVersion(1),
    }
}

/// CPU seconds of this process so far.
fn cpu_seconds() -> f64 {
    // SAFETY: an all-zero rusage is valid, being plain numbers.
    let mut usage: libc::rusage = unsafe { std::mem::zeroed() };
    // SAFETY: `usage` is writable for the length of the call.
    unsafe { libc::getrusage(libc::RUSAGE_SELF, &mut usage) };
    let seconds = |time: libc::timeval| time.tv_sec as f64 + time.tv_usec as f64 / 1e6;
    seconds(usage.ru_utime) + seconds(usage.ru_stime)
}

async fn measured(what: &str, work: impl Future<Output = ()>) {
    let (begin, cpu) = (Instant::now(), cpu_seconds());
    work.await;
    let (wall, cpu) = (begin.elapsed().as_secs_f64(), cpu_seconds() - cpu);
    println!("{what:<28} {:>7.0} MiB/s  {cpu:>6.2} CPU-s/GiB", 1024.0 / wall);
}

async fn write(client: &FrameTransport, base: u64, servers: &[BenchServer], data: &Bytes) {
    let forward: Vec<_> = servers[1..].iter().map(|server| server.replica.clone()).collect();
    let appends =
        (0..CHUNKS).flat_map(|chunk| (0..CHUNK_LEN / MIB).map(move |index| (base + chunk, index * MIB)));
    let submitted = stream::iter(appends).then(|(chunk, offset)| {
        let (key, offset) = (key(chunk), ChunkOffset(offset));
        let append = Append {
            key,
            offset,
            session: SessionId(1),
            inode: InodeId(1),
            file_offset: Offset(0),
            block_checksums: block_checksums(&key, offset, data),
            forward: forward.clone(),
            data: data.clone(),
        };
        client.submit(&servers[0].replica, ChunkRequest::Append(append), DEADLINE)
    });
    let answers = submitted.map(Result::unwrap).buffered(IN_FLIGHT);
    answers.for_each(async |answer| assert!(matches!(answer, Ok(ChunkReply::Appended { .. })))).await;
    for chunk in 0..CHUNKS {
        let (key, up_to) = (key(base + chunk), ByteLen(CHUNK_LEN));
        let sync = ChunkRequest::Sync(SyncChunk { key, up_to, forward: forward.clone() });
        assert!(call(client, &servers[0].replica, sync, DEADLINE).await.is_ok());
    }
}

async fn read(client: &FrameTransport, base: u64, server: &BenchServer) {
    let reads =
        (0..CHUNKS).flat_map(|chunk| (0..CHUNK_LEN / MIB).map(move |index| (base + chunk, index * MIB)));
    let answers = stream::iter(reads).map(async |(chunk, offset)| {
        let read = ReadChunk { key: key(chunk), offset: ChunkOffset(offset), len: MIB };
        match call(client, &server.replica, ChunkRequest::Read(read), DEADLINE).await {
            Ok(ChunkReply::Read(blocks)) => assert!(blocks.verify(&read.key, read.offset, MIB).is_ok()),
            other => panic!("a read was answered with {other:?}"),
        }
    });
    answers.buffer_unordered(IN_FLIGHT).for_each(async |()| {}).await;
}

#[tokio::main]
async fn main() {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    println!("1 GiB in appends and reads of 1 MiB, {IN_FLIGHT} in flight, loopback, {cores} cores");
    let second = start(2, &Neighbours::default()).await;
    let first = start(1, &Neighbours::fixed(std::slice::from_ref(&second.replica))).await;
    let servers = [first, second];
    let (client, _) = transport(Role::Client, 0);
    let data = Bytes::from((0..MIB).map(|at| (at % 251) as u8).collect::<Vec<_>>());
    measured("append + sync, 1 copy", write(&client, 0, &servers[..1], &data)).await;
    measured("append + sync, 2 copies", write(&client, 1000, &servers, &data)).await;
    measured("read", read(&client, 0, &servers[0])).await;
}
