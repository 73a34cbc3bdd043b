//! Whole chunkservers on loopback, with disks in memory, and a fake metaserver that answers what a test wants.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use dfs_chunkserver::config::{Config, Section};
use dfs_chunkserver::disk::MemoryDisk;
use dfs_chunkserver::machine::{FixedMachine, MachineLoad};
use dfs_chunkserver::workers::Workers;
use dfs_chunkserver::{RunError, Seams, start};
use dfs_proto::chunk::{Append, ChunkKey, ChunkReply, ChunkRequest, ReadChunk, SyncChunk, block_checksums};
use dfs_proto::config::Federation;
use dfs_proto::convert;
use dfs_proto::env::{Env, Net, Rng, Tcp};
use dfs_proto::error::{ChunkError, MetaError, ReplicaFailure};
use dfs_proto::ids::{ChunkId, ClusterId, Incarnation, InodeId, ServerId, SessionId, SetVersion};
use dfs_proto::meta::Replica;
use dfs_proto::rpc::admission::Admission;
use dfs_proto::rpc::frames::{ChunkTransport, FrameTransport, call};
use dfs_proto::rpc::grpc::SharedIdentity;
use dfs_proto::rpc::{Identity, Role, grpc};
use dfs_proto::units::{ByteLen, ChunkOffset, MIB, Offset};
use dfs_proto::wire;
use dfs_proto::wire::chunk_client::ChunkClient;
use dfs_proto::wire::cluster_server::{Cluster, ClusterServer};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tonic::{Request, Response, Status};

const CLUSTER: ClusterId = ClusterId(0xc1);
/// Far longer than anything here takes: a test that waits so long has failed.
const PATIENCE: Duration = Duration::from_secs(30);

/// The requests that the fake leader got, and what it answers next.
#[derive(Clone, Default)]
struct Told {
    registrations: Vec<wire::RegisterRequest>,
    heartbeats: Vec<wire::HeartbeatRequest>,
    directories: Vec<Bytes>,
    orders: Vec<u64>,
    re_register: bool,
    refuse: bool,
}

impl Told {
    /// The servers, each with the address of its last registration.
    fn servers(&self) -> Vec<wire::ServerAddress> {
        let server = |(index, directory): (usize, &Bytes)| {
            let last = self.registrations.iter().rfind(|request| request.directory == *directory);
            let frames_address = last.map(|request| request.frames_address.clone()).unwrap_or_default();
            wire::ServerAddress { server: index as u64 + 1, frames_address }
        };
        self.directories.iter().enumerate().map(server).collect()
    }
}

/// A leader that knows of nothing but chunkservers.
#[derive(Clone)]
struct FakeLeader {
    told: Arc<watch::Sender<Told>>,
    cluster: ClusterId,
}

#[tonic::async_trait]
impl Cluster for FakeLeader {
    async fn register(
        &self,
        request: Request<wire::RegisterRequest>,
    ) -> Result<Response<wire::RegisterReply>, Status> {
        let request = request.into_inner();
        let mut reply = wire::RegisterReply {
            cluster: self.cluster.to_wire().into(),
            incarnation: 1,
            instance: 1,
            ..Default::default()
        };
        self.told.send_modify(|told| {
            if told.refuse {
                let what = "this directory is of another cluster".to_owned();
                reply.error = Some(convert::error_to_wire(&MetaError::InvalidArgument { what }));
            }
            let known = told.directories.iter().position(|directory| *directory == request.directory);
            let index = known.unwrap_or_else(|| {
                told.directories.push(request.directory.clone());
                told.directories.len() - 1
            });
            reply.server = index as u64 + 1;
            told.registrations.push(request);
        });
        Ok(Response::new(reply))
    }

    async fn heartbeat(
        &self,
        request: Request<wire::HeartbeatRequest>,
    ) -> Result<Response<wire::HeartbeatReply>, Status> {
        let mut reply = wire::HeartbeatReply::default();
        self.told.send_modify(|told| {
            let request = request.into_inner();
            told.orders.retain(|chunk| !request.deleted.contains(chunk));
            told.heartbeats.push(request);
            reply.delete = told.orders.clone();
            reply.re_register = std::mem::take(&mut told.re_register);
            reply.servers_version = told.registrations.len() as u64;
            reply.servers = told.servers();
        });
        Ok(Response::new(reply))
    }
}

impl FakeLeader {
    async fn start(cluster: ClusterId) -> (FakeLeader, String) {
        let leader = FakeLeader { told: Arc::new(watch::Sender::new(Told::default())), cluster };
        let listener = Tcp.bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_address();
        let identity = SharedIdentity::new(Identity { role: Role::Metaserver, id: 1, cluster });
        let routes = tonic::service::Routes::new(ClusterServer::new(leader.clone()));
        let never = Box::pin(std::future::pending());
        tokio::spawn(grpc::serve(listener, routes, identity, Admission::default(), never));
        (leader, address)
    }

    async fn wait_for(&self, condition: impl Fn(&Told) -> bool) -> Told {
        let mut told = self.told.subscribe();
        let seen = timeout(PATIENCE, told.wait_for(condition)).await.expect("the condition holds in time");
        seen.unwrap().clone()
    }
}

struct TestServer {
    replica: Replica,
    grpc: String,
    http: String,
    stop: watch::Sender<bool>,
    running: JoinHandle<Result<(), RunError>>,
}

fn config(leader: &str) -> Config {
    let any = || "127.0.0.1:0".to_owned();
    Config {
        federation: Federation { metaservers: vec![leader.to_owned()] },
        chunkserver: Section {
            data: PathBuf::from("/data"),
            listen: any(),
            frames_listen: any(),
            http: any(),
            heartbeat_interval_ms: 50,
            full_below_bytes: 0,
            full_below_percent: 0,
            ..Section::default()
        },
    }
}

fn seams(disk: &MemoryDisk) -> Seams {
    let load = MachineLoad { cpu_percent: 7, memory_total_bytes: 100, memory_available_bytes: 40 };
    Seams {
        disk: Arc::new(disk.clone()),
        machine: Arc::new(Mutex::new(FixedMachine(load))),
        io: Workers::inline(),
        syncs: Workers::inline(),
        descriptors: 20_000,
    }
}

fn disk() -> MemoryDisk {
    MemoryDisk::new(1 << 30)
}

impl TestServer {
    /// Starts a server; returns when the leader has got a heartbeat of it.
    async fn start(leader: &FakeLeader, address: &str, disk: &MemoryDisk) -> TestServer {
        let server = start(config(address), Env::real(), seams(disk)).await.unwrap();
        let advertised = server.advertised().clone();
        let (stop, stopped) = watch::channel(false);
        let running = tokio::spawn(server.run(stopped));
        let frames = advertised.frames.clone();
        let told =
            leader.wait_for(|told| told.registrations.iter().any(|r| r.frames_address == frames)).await;
        let registration = told.registrations.iter().find(|r| r.frames_address == advertised.frames).unwrap();
        let index = told.directories.iter().position(|d| *d == registration.directory).unwrap();
        let server = index as u64 + 1;
        let heartbeats = told.heartbeats.len();
        leader.wait_for(|told| told.heartbeats[heartbeats..].iter().any(|h| h.server == server)).await;
        let replica = Replica { server: ServerId(server), address: advertised.frames };
        let (grpc, http) = (advertised.grpc, advertised.http);
        TestServer { replica, grpc, http, stop, running }
    }

    async fn stop(self) -> Result<(), RunError> {
        self.stop.send_replace(true);
        timeout(PATIENCE, self.running).await.expect("it ends in time").unwrap()
    }
}

fn client(cluster: ClusterId) -> FrameTransport {
    let identity = SharedIdentity::new(Identity { role: Role::Client, id: 0, cluster });
    FrameTransport::new(Env::real(), identity, Duration::from_secs(2))
}

fn key(chunk: u64) -> ChunkKey {
    ChunkKey {
        cluster: CLUSTER,
        incarnation: Incarnation(1),
        chunk: ChunkId(chunk),
        set_version: SetVersion(1),
    }
}

fn append(chunk: u64, offset: u64, data: &Bytes, forward: &[&TestServer]) -> ChunkRequest {
    let (key, offset) = (key(chunk), ChunkOffset(offset));
    ChunkRequest::Append(Append {
        key,
        offset,
        session: SessionId(4),
        inode: InodeId(9),
        file_offset: Offset(0),
        block_checksums: block_checksums(&key, offset, data),
        forward: forward.iter().map(|server| server.replica.clone()).collect(),
        data: data.clone(),
    })
}

fn sync(chunk: u64, up_to: u64, forward: &[&TestServer]) -> ChunkRequest {
    let forward = forward.iter().map(|server| server.replica.clone()).collect();
    ChunkRequest::Sync(SyncChunk { key: key(chunk), up_to: ByteLen(up_to), forward })
}

async fn ask(
    transport: &FrameTransport,
    server: &TestServer,
    request: ChunkRequest,
) -> Result<ChunkReply, ChunkError> {
    call(transport, &server.replica, request, PATIENCE).await
}

async fn read(
    transport: &FrameTransport,
    server: &TestServer,
    chunk: u64,
    len: u64,
) -> Result<Bytes, ChunkError> {
    let read = ReadChunk { key: key(chunk), offset: ChunkOffset(0), len };
    match ask(transport, server, ChunkRequest::Read(read)).await? {
        ChunkReply::Read(blocks) => blocks.verify(&key(chunk), ChunkOffset(0), len),
        other => panic!("a read was answered with {other:?}"),
    }
}

#[tokio::test]
async fn a_fresh_server_is_given_an_id_and_keeps_it_when_it_comes_back_elsewhere() {
    let (leader, address) = FakeLeader::start(CLUSTER).await;
    let disk = disk();
    let server = TestServer::start(&leader, &address, &disk).await;
    let told = leader.wait_for(|told| !told.heartbeats.is_empty()).await;
    assert_eq!((told.registrations[0].server, told.registrations[0].cluster.len()), (0, 0));
    let load = told.heartbeats[0].load.clone().unwrap();
    assert_eq!((load.cpu_percent, load.memory_available, load.disk_total), (7, 40, 1 << 30));
    server.stop().await.unwrap();
    let server = TestServer::start(&leader, &address, &disk).await;
    let told = leader.wait_for(|told| told.registrations.len() > 1).await;
    let (first, second) = (&told.registrations[0], &told.registrations[1]);
    assert_eq!((second.server, second.cluster.to_vec()), (1, CLUSTER.to_wire()));
    assert_eq!(first.directory, second.directory);
    assert_ne!(first.frames_address, second.frames_address);
    server.stop().await.unwrap();
}

#[tokio::test]
async fn an_append_is_on_every_replica_when_it_is_acknowledged_and_a_sync_makes_it_durable_on_all() {
    let (leader, address) = FakeLeader::start(CLUSTER).await;
    let disks = [disk(), disk(), disk()];
    let mut servers = Vec::new();
    for disk in &disks {
        servers.push(TestServer::start(&leader, &address, disk).await);
    }
    let (primary, others) = (&servers[0], [&servers[1], &servers[2]]);
    let transport = client(CLUSTER);
    let data = Bytes::from((0..MIB).map(|at| (at % 253) as u8).collect::<Vec<_>>());
    let mut answers = Vec::new();
    for index in 0..4 {
        let request = append(8, index * MIB, &data, &others);
        answers.push(transport.submit(&primary.replica, request, PATIENCE).await.unwrap());
    }
    for (index, answer) in answers.into_iter().enumerate() {
        assert_eq!(answer.await, Ok(ChunkReply::Appended { len: ByteLen((index as u64 + 1) * MIB) }));
    }
    for server in &servers {
        assert_eq!(read(&transport, server, 8, 4 * MIB).await.unwrap(), data.repeat(4));
    }
    let synced = ask(&transport, primary, sync(8, 4 * MIB, &others)).await;
    assert_eq!(synced, Ok(ChunkReply::Synced { len: ByteLen(4 * MIB) }));
    for server in servers {
        server.running.abort();
        assert!(server.running.await.is_err_and(|ended| ended.is_cancelled()));
    }
    for disk in &disks {
        disk.crash(&Rng::seeded(5));
        let server = TestServer::start(&leader, &address, disk).await;
        assert_eq!(read(&transport, &server, 8, 4 * MIB).await.unwrap(), data.repeat(4));
        server.stop().await.unwrap();
    }
}

/// The replica that failed, and why.
fn failed(answer: Result<ChunkReply, ChunkError>) -> (ServerId, ReplicaFailure) {
    match answer {
        Err(ChunkError::ReplicaFailed { server, cause, .. }) => (server, cause),
        other => panic!("expected a failed replica, not {other:?}"),
    }
}

#[tokio::test]
async fn a_replica_that_is_dead_or_lacks_bytes_is_named() {
    let (leader, address) = FakeLeader::start(CLUSTER).await;
    let primary = TestServer::start(&leader, &address, &disk()).await;
    let secondary = TestServer::start(&leader, &address, &disk()).await;
    let transport = client(CLUSTER);
    let data = Bytes::from_static(b"bytes");
    ask(&transport, &primary, append(8, 0, &data, &[])).await.unwrap();
    // The secondary never had the first append.
    let not_open = (ServerId(2), ReplicaFailure::NotOpen);
    assert_eq!(failed(ask(&transport, &primary, append(8, 5, &data, &[&secondary])).await), not_open);
    assert_eq!(failed(ask(&transport, &primary, sync(8, 5, &[&secondary])).await), not_open);
    ask(&transport, &primary, append(9, 0, &data, &[&secondary])).await.unwrap();
    secondary.stop.send_replace(true);
    let mut stopped = secondary;
    timeout(PATIENCE, &mut stopped.running).await.unwrap().unwrap().unwrap();
    let unreachable = (ServerId(2), ReplicaFailure::Unreachable);
    assert_eq!(failed(ask(&transport, &primary, append(9, 5, &data, &[&stopped])).await), unreachable);
    assert_eq!(failed(ask(&transport, &primary, sync(9, 5, &[&stopped])).await), unreachable);
    primary.stop().await.unwrap();
}

#[tokio::test]
async fn a_replica_whose_disk_is_full_is_named_with_that_cause() {
    let (leader, address) = FakeLeader::start(CLUSTER).await;
    let small = disk();
    let primary = TestServer::start(&leader, &address, &disk()).await;
    let secondary = TestServer::start(&leader, &address, &small).await;
    let transport = client(CLUSTER);
    small.set_capacity(0);
    let answer = ask(&transport, &primary, append(8, 0, &Bytes::from_static(b"bytes"), &[&secondary])).await;
    assert_eq!(failed(answer), (ServerId(2), ReplicaFailure::NoSpace));
    primary.stop().await.unwrap();
    secondary.stop().await.unwrap();
}

/// A server connected to any address that a client named.
#[tokio::test]
async fn a_server_connects_to_no_address_that_the_metaserver_did_not_give_it() {
    let (leader, address) = FakeLeader::start(CLUSTER).await;
    let primary = TestServer::start(&leader, &address, &disk()).await;
    let secondary = TestServer::start(&leader, &address, &disk()).await;
    let transport = client(CLUSTER);
    let elsewhere = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let stranger = elsewhere.local_addr().unwrap().to_string();
    let to = |server: u64, address: &str| Replica { server: ServerId(server), address: address.to_owned() };
    let asked = async |chunk: u64, forward: Vec<Replica>| {
        let ChunkRequest::Append(append) = append(chunk, 0, &Bytes::from_static(b"bytes"), &[]) else {
            panic!("it is an append")
        };
        ask(&transport, &primary, ChunkRequest::Append(Append { forward, ..append })).await
    };
    let unknown = asked(8, vec![to(77, &stranger)]).await;
    assert!(matches!(unknown, Err(ChunkError::ReplicaFailed { server: ServerId(77), .. })), "{unknown:?}");
    // The right server at a wrong address is reached where it is.
    let wrong = asked(9, vec![to(2, &stranger)]).await;
    assert_eq!(wrong, Ok(ChunkReply::Appended { len: ByteLen(5) }));
    assert_eq!(read(&transport, &secondary, 9, 5).await.unwrap(), "bytes");
    let twice = vec![secondary.replica.clone(), secondary.replica.clone()];
    for bad in [vec![primary.replica.clone()], twice, (10..20).map(|id| to(id, &stranger)).collect()] {
        let refused = asked(10, bad).await;
        assert!(matches!(refused, Err(ChunkError::Invalid { .. })), "{refused:?}");
    }
    let nobody = timeout(Duration::from_millis(50), elsewhere.accept()).await;
    assert!(nobody.is_err(), "somebody connected to {stranger}");
    primary.stop().await.unwrap();
    secondary.stop().await.unwrap();
}

#[tokio::test]
async fn a_sync_of_more_than_is_there_fails() {
    let (leader, address) = FakeLeader::start(CLUSTER).await;
    let server = TestServer::start(&leader, &address, &disk()).await;
    let transport = client(CLUSTER);
    ask(&transport, &server, append(8, 0, &Bytes::from_static(b"bytes"), &[])).await.unwrap();
    let synced = ask(&transport, &server, sync(8, 6, &[])).await;
    assert_eq!(synced, Err(ChunkError::TooShort { chunk: ChunkId(8), held: 5, wanted: 6 }));
    server.stop().await.unwrap();
}

#[tokio::test]
async fn ordered_deletions_are_carried_out_and_confirmed() {
    let (leader, address) = FakeLeader::start(CLUSTER).await;
    let server = TestServer::start(&leader, &address, &disk()).await;
    let transport = client(CLUSTER);
    for chunk in [8, 9] {
        ask(&transport, &server, append(chunk, 0, &Bytes::from_static(b"bytes"), &[])).await.unwrap();
    }
    leader.told.send_modify(|told| told.orders = vec![8, 77]);
    let told = leader.wait_for(|told| told.orders.is_empty()).await;
    assert!(told.heartbeats.iter().any(|beat| beat.deleted == [8, 77]), "77 was never here");
    assert_eq!(read(&transport, &server, 8, 5).await, Err(ChunkError::Gone { chunk: ChunkId(8) }));
    assert_eq!(read(&transport, &server, 9, 5).await.unwrap(), "bytes");
    server.stop().await.unwrap();
}

/// The contract for other languages: HTTP/2 and the messages of `chunk.proto`, and nothing else of ours.
#[tokio::test]
async fn a_grpc_client_appends_syncs_reads_and_is_refused_as_one_that_speaks_frames() {
    let (leader, address) = FakeLeader::start(CLUSTER).await;
    let primary = TestServer::start(&leader, &address, &disk()).await;
    let secondary = TestServer::start(&leader, &address, &disk()).await;
    let grpc = ChunkClient::connect(format!("http://{}", primary.grpc)).await.unwrap();
    let call = async |request: ChunkRequest| {
        let (message, payload) = convert::request_to_wire(&request);
        let call = wire::ChunkCall { request: Some(message), payload };
        let answer = grpc.clone().call(call).await.unwrap().into_inner();
        convert::reply_from_wire(request.key(), answer.reply.unwrap(), answer.payload)
    };
    let data = Bytes::from((0..10_000).map(|at| (at % 253) as u8).collect::<Vec<_>>());
    let others = [&secondary];
    assert_eq!(call(append(8, 0, &data, &others)).await, Ok(ChunkReply::Appended { len: ByteLen(10_000) }));
    assert_eq!(call(sync(8, 10_000, &others)).await, Ok(ChunkReply::Synced { len: ByteLen(10_000) }));
    let range = ReadChunk { key: key(8), offset: ChunkOffset(5000), len: 100 };
    let Ok(ChunkReply::Read(blocks)) = call(ChunkRequest::Read(range)).await else {
        panic!("a read is answered with blocks")
    };
    assert_eq!(blocks.verify(&key(8), range.offset, range.len).unwrap(), data[5000..5100]);
    let refused = Err(ChunkError::AppendOutOfPlace { chunk: ChunkId(8), held: 10_000, named: 20_000 });
    assert_eq!(call(append(8, 20_000, &data, &others)).await, refused);
    assert_eq!(read(&client(CLUSTER), &secondary, 8, 10_000).await.unwrap(), data);
    primary.stop().await.unwrap();
    secondary.stop().await.unwrap();
}

/// A message that lacks its parts is the caller's mistake, and the next call is served.
#[tokio::test]
async fn a_grpc_call_without_a_request_is_refused_by_name() {
    let (leader, address) = FakeLeader::start(CLUSTER).await;
    let server = TestServer::start(&leader, &address, &disk()).await;
    let mut grpc = ChunkClient::connect(format!("http://{}", server.grpc)).await.unwrap();
    let status = grpc.call(wire::ChunkCall::default()).await.unwrap_err();
    assert_eq!((status.code(), status.message()), (tonic::Code::InvalidArgument, "request is missing"));
    let empty = wire::ChunkCall { request: Some(wire::ChunkRequest::default()), payload: Bytes::new() };
    let reply = grpc.call(empty).await.unwrap().into_inner().reply.unwrap();
    let failure = convert::reply_from_wire(&key(8), reply, Bytes::new());
    assert_eq!(failure, Err(ChunkError::Invalid { what: "request is missing".to_owned() }));
    server.stop().await.unwrap();
}

#[tokio::test]
async fn a_server_that_is_told_so_registers_again() {
    let (leader, address) = FakeLeader::start(CLUSTER).await;
    let server = TestServer::start(&leader, &address, &disk()).await;
    leader.told.send_modify(|told| told.re_register = true);
    let told = leader.wait_for(|told| told.registrations.len() == 2).await;
    assert_eq!(told.registrations[1].server, 1);
    server.stop().await.unwrap();
}

#[tokio::test]
async fn a_directory_that_another_cluster_owns_ends_the_server_with_one_line() {
    let (leader, address) = FakeLeader::start(CLUSTER).await;
    let disk = disk();
    TestServer::start(&leader, &address, &disk).await.stop().await.unwrap();
    let run = async |address: &str| {
        let (_stop, stopped) = watch::channel(false);
        let server = start(config(address), Env::real(), seams(&disk)).await.unwrap();
        timeout(PATIENCE, server.run(stopped)).await.unwrap().unwrap_err().to_string()
    };
    let (_other, other_address) = FakeLeader::start(ClusterId(0xc2)).await;
    let message = run(&other_address).await;
    assert!(message.starts_with("data directory /data belongs to chunkserver 1 of cluster"), "{message}");
    leader.told.send_modify(|told| told.refuse = true);
    let message = run(&address).await;
    assert!(message.starts_with("the metaserver refuses this chunkserver"), "{message}");
}

#[tokio::test]
async fn a_request_for_another_cluster_is_refused() {
    let (leader, address) = FakeLeader::start(CLUSTER).await;
    let server = TestServer::start(&leader, &address, &disk()).await;
    // A client without a session names no cluster in the handshake.
    let transport = client(ClusterId::UNKNOWN);
    let request = match append(8, 0, &Bytes::from_static(b"bytes"), &[]) {
        ChunkRequest::Append(append) => {
            ChunkRequest::Append(Append { key: ChunkKey { cluster: ClusterId(1), ..append.key }, ..append })
        }
        other => other,
    };
    assert!(matches!(ask(&transport, &server, request).await, Err(ChunkError::Invalid { .. })));
    server.stop().await.unwrap();
}

#[tokio::test]
async fn metrics_and_health_are_served_over_http() {
    let (leader, address) = FakeLeader::start(CLUSTER).await;
    let server = TestServer::start(&leader, &address, &disk()).await;
    let get = async |path: &str| {
        let mut stream = tokio::net::TcpStream::connect(&server.http).await.unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer
    };
    let metrics = get("/metrics").await;
    assert!(metrics.contains("dfs_chunkserver_disk_total_bytes 1073741824"), "{metrics}");
    assert!(get("/healthz").await.starts_with("HTTP/1.1 200"));
    server.stop().await.unwrap();
}

#[tokio::test]
async fn a_port_in_use_is_one_clear_line() {
    let taken = Tcp.bind("127.0.0.1:0").await.unwrap();
    let mut config = config("127.0.0.1:1");
    config.chunkserver.frames_listen = taken.local_address();
    let message = start(config, Env::real(), seams(&disk())).await.err().unwrap().to_string();
    let expected = format!("listen on {} (frames_listen): Address already in use", taken.local_address());
    assert!(message.starts_with(&expected), "{message}");
}

#[tokio::test]
async fn what_was_appended_is_durable_after_an_orderly_end() {
    let (leader, address) = FakeLeader::start(CLUSTER).await;
    let disk = disk();
    let server = TestServer::start(&leader, &address, &disk).await;
    let transport = client(CLUSTER);
    ask(&transport, &server, append(8, 0, &Bytes::from_static(b"bytes"), &[])).await.unwrap();
    server.stop().await.unwrap();
    disk.crash(&Rng::seeded(1));
    let server = TestServer::start(&leader, &address, &disk).await;
    assert_eq!(read(&transport, &server, 8, 5).await.unwrap(), "bytes");
    server.stop().await.unwrap();
}
