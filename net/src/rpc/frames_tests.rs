//! Frames over real sockets: order, deadlines, broken connections, strangers; and over pipes, where time is turned: silence.

use std::sync::atomic::AtomicUsize;

use bytes::Bytes;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::*;
use crate::env::{BoxFuture, Net, Stream, Tcp};
use crate::rpc::connection::{
    ARRIVAL_DEADLINE, GREETING_DEADLINE, accept_greeting, read_frame, send_message,
};
use crate::rpc::{Identity, greeting};
use dfs_proto::chunk::{Append, SyncChunk};
use dfs_proto::frame::HEADER_LEN;
use dfs_proto::ids::{ChunkId, ClusterId, Incarnation, InodeId, SessionId, SetVersion};
use dfs_proto::units::{ByteLen, ChunkOffset, Offset};

const CLUSTER: ClusterId = ClusterId(5);

/// Appends are recorded in arrival order; syncs never answer.
#[derive(Default)]
struct Recorder {
    offsets: Mutex<Vec<u64>>,
    dropped: AtomicUsize,
}

impl ChunkService for Recorder {
    fn call(&self, request: ChunkRequest) -> BoxFuture<'static, Result<ChunkReply, ChunkError>> {
        match request {
            ChunkRequest::Append(append) => {
                lock(&self.offsets).push(append.offset.0);
                let len = ByteLen(append.offset.0 + append.data.len() as u64);
                Box::pin(async move { Ok(ChunkReply::Appended { len }) })
            }
            ChunkRequest::Sync(_) => Box::pin(std::future::pending()),
            ChunkRequest::Read(_) | ChunkRequest::Stat { .. } => {
                self.dropped.fetch_add(1, Ordering::Relaxed);
                Box::pin(async { Err(ChunkError::Busy) })
            }
        }
    }
}

fn key(cluster: ClusterId) -> ChunkKey {
    ChunkKey { cluster, incarnation: Incarnation(1), chunk: ChunkId(3), set_version: SetVersion(1) }
}

fn append(offset: u64, data: Bytes) -> ChunkRequest {
    let key = key(CLUSTER);
    let block_checksums = dfs_proto::chunk::block_checksums(&key, ChunkOffset(offset), &data);
    ChunkRequest::Append(Append {
        key,
        offset: ChunkOffset(offset),
        session: SessionId(1),
        inode: InodeId(1),
        file_offset: Offset(0),
        block_checksums,
        forward: Vec::new(),
        data,
    })
}

async fn start(service: Arc<dyn ChunkService>) -> (Replica, watch::Sender<bool>) {
    let listener = Tcp.bind("127.0.0.1:0").await.unwrap();
    let replica = Replica { server: ServerId(2), address: listener.local_address() };
    let identity = SharedIdentity::new(Identity { role: Role::Chunkserver, id: 2, cluster: CLUSTER });
    let (stop, stopped) = watch::channel(false);
    tokio::spawn(serve(listener, identity, service, Admission::default(), stopped));
    (replica, stop)
}

fn transport(cluster: ClusterId) -> FrameTransport {
    let own = SharedIdentity::new(Identity { role: Role::Client, id: 0, cluster });
    FrameTransport::new(Env::real(), own, Duration::from_secs(2))
}

const DEADLINE: Duration = Duration::from_secs(10);

#[tokio::test]
async fn appends_submitted_in_order_arrive_in_order_and_are_all_answered() {
    let recorder = Arc::new(Recorder::default());
    let (replica, _stop) = start(recorder.clone()).await;
    let transport = transport(CLUSTER);
    let data = Bytes::from(vec![1u8; 1 << 20]);
    let mut answers = Vec::new();
    for index in 0..40u64 {
        answers.push(transport.submit(&replica, append(index << 20, data.clone()), DEADLINE).await.unwrap());
    }
    for (index, answer) in answers.into_iter().enumerate() {
        assert_eq!(answer.await, Ok(ChunkReply::Appended { len: ByteLen((index as u64 + 1) << 20) }));
    }
    let offsets = lock(&recorder.offsets).clone();
    assert_eq!(offsets, (0..40u64).map(|i| i << 20).collect::<Vec<_>>());
}

#[tokio::test]
async fn a_request_without_an_answer_ends_at_its_deadline() {
    let (replica, _stop) = start(Arc::new(Recorder::default())).await;
    let transport = transport(CLUSTER);
    let sync = ChunkRequest::Sync(SyncChunk { key: key(CLUSTER), up_to: ByteLen(1), forward: Vec::new() });
    let error = call(&transport, &replica, sync, Duration::from_millis(50)).await;
    assert!(matches!(error, Err(ChunkError::Unreachable { server: ServerId(2), .. })), "{error:?}");
    // The silent connection was given up; the next request works on a new one.
    let reply = call(&transport, &replica, append(0, Bytes::from_static(b"x")), DEADLINE).await;
    assert_eq!(reply, Ok(ChunkReply::Appended { len: ByteLen(1) }));
}

#[tokio::test]
async fn a_client_of_another_cluster_is_refused_at_the_handshake() {
    let (replica, _stop) = start(Arc::new(Recorder::default())).await;
    let error = call(&transport(ClusterId(6)), &replica, append(0, Bytes::from_static(b"x")), DEADLINE).await;
    assert!(
        matches!(&error, Err(ChunkError::Unreachable { what, .. }) if what.contains("cluster")),
        "{error:?}"
    );
}

#[tokio::test]
async fn garbage_on_the_port_ends_only_its_own_connection() {
    let (replica, _stop) = start(Arc::new(Recorder::default())).await;
    let mut garbage = Tcp.connect(&replica.address).await.unwrap();
    garbage.write_all(b"GET / HTTP/1.1\r\nHost: dfs\r\n\r\n and more than a header").await.unwrap();
    let mut rest = Vec::new();
    let _ = garbage.read_to_end(&mut rest).await; // a reset is as good as an end
    assert!(rest.is_empty());
    let reply = call(&transport(CLUSTER), &replica, append(0, Bytes::from_static(b"x")), DEADLINE).await;
    assert_eq!(reply, Ok(ChunkReply::Appended { len: ByteLen(1) }));
}

#[tokio::test]
async fn requests_that_wait_on_a_broken_connection_are_told_at_once() {
    let (replica, stop) = start(Arc::new(Recorder::default())).await;
    let transport = transport(CLUSTER);
    let sync = ChunkRequest::Sync(SyncChunk { key: key(CLUSTER), up_to: ByteLen(1), forward: Vec::new() });
    let pending = transport.submit(&replica, sync, Duration::from_secs(60)).await.unwrap();
    stop.send(true).unwrap();
    let error = timeout(Duration::from_secs(20), pending).await.expect("told before the deadline");
    assert!(matches!(error, Err(ChunkError::Unreachable { .. })), "{error:?}");
}

/// A peer at the other end of a pipe: with a service behind it, or silent after the handshake.
struct Pipe(Option<Arc<dyn ChunkService>>);

impl Net for Pipe {
    fn connect(&self, _address: &str) -> BoxFuture<'static, io::Result<Box<dyn Stream>>> {
        let (near, far) = tokio::io::duplex(1 << 16);
        let identity = SharedIdentity::new(Identity { role: Role::Chunkserver, id: 2, cluster: CLUSTER });
        match self.0.clone() {
            Some(service) => {
                let (stop, stopped) = watch::channel(false);
                let admitted = Admission::default().admit(Box::new(far), "pipe");
                tokio::spawn(async move {
                    serve_connection(admitted, "pipe".into(), identity, ChunkCalls::new(service), stopped)
                        .await;
                    drop(stop);
                });
            }
            None => {
                tokio::spawn(async move {
                    let (mut reader, mut writer) = tokio::io::split(far);
                    accept_greeting(&mut reader, &mut writer, &identity).await.unwrap();
                    tokio::io::copy(&mut reader, &mut tokio::io::sink()).await
                });
            }
        }
        Box::pin(async move { Ok(Box::new(near) as Box<dyn Stream>) })
    }

    fn bind(&self, _address: &str) -> BoxFuture<'static, io::Result<Box<dyn Listener>>> {
        Box::pin(async { Err(io::ErrorKind::Unsupported.into()) })
    }
}

/// Sends a sync through the pipe; how it ended, and after how long.
async fn sync_through(pipe: Pipe, deadline: Duration) -> (Result<ChunkReply, ChunkError>, Duration) {
    let own = SharedIdentity::new(Identity { role: Role::Client, id: 0, cluster: CLUSTER });
    let env = Env { net: Arc::new(pipe), ..Env::real() };
    let transport = FrameTransport::new(env, own, Duration::from_secs(2));
    let replica = Replica { server: ServerId(2), address: "pipe".to_owned() };
    let sync = ChunkRequest::Sync(SyncChunk { key: key(CLUSTER), up_to: ByteLen(1), forward: Vec::new() });
    let started = Instant::now();
    (call(&transport, &replica, sync, deadline).await, started.elapsed())
}

#[tokio::test(start_paused = true)]
async fn a_silent_peer_is_given_up_long_before_the_deadline() {
    let (error, after) = sync_through(Pipe(None), Duration::from_secs(60)).await;
    assert!(matches!(error, Err(ChunkError::Unreachable { server: ServerId(2), .. })), "{error:?}");
    assert!(after >= SILENCE_MAX && after < SILENCE_MAX * 2, "{after:?}");
}

#[tokio::test(start_paused = true)]
async fn a_server_that_works_for_long_is_waited_for_until_the_deadline() {
    let deadline = Duration::from_secs(60);
    let (error, after) = sync_through(Pipe(Some(Arc::new(Recorder::default()))), deadline).await;
    assert!(matches!(error, Err(ChunkError::Unreachable { server: ServerId(2), .. })), "{error:?}");
    assert_eq!(after.as_secs(), deadline.as_secs());
}

/// Every read is answered at once with a megabyte.
#[derive(Default)]
struct Generous(AtomicUsize);

impl ChunkService for Generous {
    fn call(&self, _request: ChunkRequest) -> BoxFuture<'static, Result<ChunkReply, ChunkError>> {
        self.0.fetch_add(1, Ordering::Relaxed);
        let data = Bytes::from(vec![0; 1 << 20]);
        let blocks =
            dfs_proto::chunk::Blocks { offset: ChunkOffset(0), lens: vec![], checksums: vec![], data };
        Box::pin(async move { Ok(ChunkReply::Read(blocks)) })
    }
}

/// The raw peer of a served pipe, after the handshake.
async fn greeted(service: Arc<dyn ChunkService>) -> Box<dyn Stream> {
    let own = Identity { role: Role::Client, id: 0, cluster: CLUSTER };
    let mut peer = Pipe(Some(service)).connect("pipe").await.unwrap();
    send_message(&mut peer, FrameKind::Greeting, &greeting(&own, &own_chunkserver())).await.unwrap();
    assert_eq!(read_frame(&mut peer).await.unwrap().header.kind, FrameKind::GreetingReply);
    peer
}

fn own_chunkserver() -> Identity {
    Identity { role: Role::Chunkserver, id: 2, cluster: CLUSTER }
}

/// Its answers gave their credit back when they were queued: 64 more than the credit waited in memory.
#[tokio::test(start_paused = true)]
async fn a_peer_that_reads_no_answers_is_owed_no_more_than_its_credit() {
    let service = Arc::new(Generous::default());
    let mut peer = greeted(service.clone()).await;
    let read = dfs_proto::chunk::ReadChunk { key: key(CLUSTER), offset: ChunkOffset(0), len: 1 << 20 };
    let (message, _) = convert::request_to_wire(&ChunkRequest::Read(read));
    let asking = async {
        for id in 1..=200 {
            peer.write_all(&frame::encode(FrameKind::Request, id, &message, 0)).await.unwrap();
        }
    };
    let _ = timeout(Duration::from_secs(1), asking).await;
    let asked = service.0.load(Ordering::Relaxed);
    assert!(asked > 0 && asked <= CREDIT_BYTES as usize >> 20, "{asked} answers of 1 MiB are waiting");
}

#[tokio::test(start_paused = true)]
async fn a_frame_that_arrives_too_slowly_ends_its_connection() {
    let mut peer = greeted(Arc::new(Generous::default())).await;
    let head = frame::encode(FrameKind::Request, 1, &wire::ChunkRequest::default(), 1 << 20);
    peer.write_all(&head).await.unwrap();
    let (mut reader, mut writer) = tokio::io::split(peer);
    let dripping = tokio::spawn(async move {
        while writer.write_all(b"x").await.is_ok() {
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
    });
    let begun = Instant::now();
    while read_frame(&mut reader).await.is_ok() {} // signs of life meanwhile
    assert!(begun.elapsed() <= ARRIVAL_DEADLINE + GREETING_DEADLINE * 2, "{:?}", begun.elapsed());
    dripping.await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_greeting_that_is_no_short_one_is_refused_before_it_is_read() {
    let service: Arc<dyn ChunkService> = Arc::new(Generous::default());
    let mut peer = Pipe(Some(service)).connect("pipe").await.unwrap();
    let long = wire::Greeting { role: "x".repeat(1 << 19), ..Default::default() };
    let frame = frame::encode(FrameKind::Greeting, 0, &long, 0);
    peer.write_all(&frame[..HEADER_LEN]).await.unwrap();
    assert!(timeout(Duration::from_secs(1), read_frame(&mut peer)).await.unwrap().is_err());
}

/// A network without a descriptor to spare.
struct NoDescriptors;

impl Net for NoDescriptors {
    fn connect(&self, _address: &str) -> BoxFuture<'static, io::Result<Box<dyn Stream>>> {
        Box::pin(async { Err(io::Error::from_raw_os_error(24)) })
    }

    fn bind(&self, _address: &str) -> BoxFuture<'static, io::Result<Box<dyn Listener>>> {
        Box::pin(async { Err(io::ErrorKind::Unsupported.into()) })
    }
}

/// Whoever had no descriptor for a connection accused the server, and put its chunks elsewhere.
#[tokio::test]
async fn who_cannot_connect_for_want_of_descriptors_accuses_nobody() {
    let own = SharedIdentity::new(Identity { role: Role::Client, id: 0, cluster: CLUSTER });
    let env = Env { net: Arc::new(NoDescriptors), ..Env::real() };
    let transport = FrameTransport::new(env, own, Duration::from_secs(2));
    let replica = Replica { server: ServerId(2), address: "pipe".to_owned() };
    let answer = call(&transport, &replica, append(0, Bytes::from_static(b"x")), DEADLINE).await;
    assert_eq!(answer, Err(ChunkError::Busy));
}
