//! The services as clients and chunkservers see them: whole members in one process, over gRPC, with state and log in memory.
//!
//! The network is in memory too, so that tokio's paused clock may turn: then seconds of silence cost nothing.

mod bounds;
mod chunks;
mod clocks;
mod leases;
mod locks;
mod namespace;
mod opens;
mod sessions;
mod slow;
mod status;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use dfs_net::env::{Env, Rng};
use dfs_net::rpc::leader::LeaderChannel;
use dfs_net::rpc::{Identity, Role, grpc};
use dfs_net::services::admin_client::AdminClient;
use dfs_net::services::cluster_client::ClusterClient;
use dfs_net::services::meta_client::MetaClient;
use dfs_proto::attr::{AccessMask, Caller, InodeAttr, Name, Timestamp};
use dfs_proto::convert;
use dfs_proto::error::MetaError;
use dfs_proto::extent::Extent;
use dfs_proto::ids::{
    Attachment, ChunkId, ClusterId, InodeId, MemberId, RequestId, ServerId, SessionId, SessionNonce,
    SetVersion, VolumeId,
};
use dfs_proto::meta::{
    Change, ChangeRequest, Changed, ChunkCommit, CommitExtents, Create, Dropped, FileCommit, MetaResult,
    NewInode, OpenChunk, OpenSession, OpenedChunk, Read, ReadReply, ReadRequest, RenewSession,
    ReplicaProblem, ReplicaReport, SessionOpened,
};
use dfs_proto::units::{ByteLen, ChunkOffset, GIB, MIB, Offset};
use dfs_proto::wire;
use dfs_state::command::{Command, Proposed, Reply};
use dfs_state::kv::{KvHome as _, Txn};
use dfs_state::time::StateTime;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep};
use tonic::transport::Channel;

use crate::config::{BootstrapMember, Config, Settings};
use crate::memory_net::{Disks, MemoryNet, SetClock, TokioClock};
use crate::{ServeError, Storage, run};

/// For everything that is waited for; far longer than it takes.
const PATIENCE: Duration = Duration::from_secs(30);
const DEADLINE: Duration = Duration::from_secs(2);

struct Member {
    stop: oneshot::Sender<()>,
    serving: JoinHandle<Result<(), ServeError>>,
}

/// Members `m1`, `m2`, … and whoever talks to them.
struct Cluster {
    env: Env,
    settings: Settings,
    disks: BTreeMap<u64, Disks>,
    /// Each member's own.
    clocks: BTreeMap<u64, Arc<SetClock>>,
    members: BTreeMap<u64, Member>,
}

fn address(id: u64) -> String {
    format!("m{id}:1")
}

impl Cluster {
    /// Starts so many members and waits until one of them leads and the cluster is made.
    async fn start(count: u64, settings: Settings) -> Cluster {
        let clock = Arc::new(TokioClock(Instant::now()));
        let env = Env { clock, rng: Rng::seeded(count), net: Arc::new(MemoryNet::default()) };
        let clocks = (1..=count).map(|id| (id, Arc::new(SetClock::with_tokio()))).collect();
        let disks = (1..=count).map(|id| (id, Disks::new())).collect();
        let mut cluster = Cluster { env, settings, disks, clocks, members: BTreeMap::new() };
        for id in 1..=count {
            cluster.start_member(id);
        }
        cluster.leader().await;
        cluster
    }

    async fn one() -> Cluster {
        Cluster::start(1, Settings::default()).await
    }

    fn start_member(&mut self, id: u64) {
        let bootstrap = self.disks.keys().map(|&id| BootstrapMember { id, address: address(id) }).collect();
        let own = Settings {
            id: Some(id),
            data: Some("/unused".into()),
            listen: Some(address(id)),
            http: Some(format!("m{id}:2")),
            bootstrap: Some(bootstrap),
            ..Settings::default()
        };
        let config = Config::validate(own.over(self.settings.clone())).expect("sound settings");
        let storage = Storage { cluster: self.disks[&id].storage(), federation: None };
        let (stop, stopped) = oneshot::channel();
        let shutdown = async move {
            let _ = stopped.await;
        };
        let env = Env { clock: self.clocks[&id].clone(), ..self.env.clone() };
        let serving = tokio::spawn(run(config, env, storage, Box::pin(shutdown)));
        self.members.insert(id, Member { stop, serving });
    }

    async fn stop_member(&mut self, id: u64) {
        let Member { stop, serving } = self.members.remove(&id).expect("it runs");
        stop.send(()).expect("it still runs");
        serving.await.expect("no panic").expect("a clean end");
    }

    async fn restart(&mut self, id: u64) {
        self.stop_member(id).await;
        self.start_member(id);
        self.leader().await;
    }

    /// As if the only member had executed them before it started.
    async fn execute_as(&mut self, proposed: Proposed, commands: impl IntoIterator<Item = Command>) {
        self.stop_member(1).await;
        let home = &self.disks[&1].state;
        let kv = home.open(&home.current().unwrap().unwrap()).unwrap();
        let batch = {
            let base = kv.snapshot();
            let mut txn = Txn::new(&*base);
            for command in commands {
                let reply = dfs_state::apply(&command, proposed, &mut txn);
                let is_refused = matches!(reply, Reply::Refused(_) | Reply::Changed(Err(_)));
                assert!(!is_refused, "{command:?}: {reply:?}");
            }
            txn.into_batch()
        };
        kv.write(batch).unwrap();
        kv.flush().await.unwrap();
        self.start_member(1);
        self.leader().await;
    }

    async fn channel(&self, id: u64) -> Result<Channel, String> {
        let own = Identity { role: Role::Client, id: 0, cluster: ClusterId::UNKNOWN };
        let expected = Identity { role: Role::Metaserver, id, cluster: ClusterId::UNKNOWN };
        grpc::connect(&self.env, &address(id), &own, &expected, DEADLINE).await
    }

    async fn status(&self, id: u64) -> Result<wire::StatusReply, String> {
        let mut admin = AdminClient::new(self.channel(id).await?);
        let reply = admin.status(wire::StatusRequest {}).await.map_err(|status| status.to_string())?;
        Ok(reply.into_inner())
    }

    /// The member that leads, once the cluster is made.
    async fn leader(&self) -> u64 {
        let deadline = Instant::now() + PATIENCE;
        loop {
            for id in self.members.keys() {
                if self.status(*id).await.is_ok_and(|s| s.is_leader && !s.cluster.is_empty()) {
                    return *id;
                }
            }
            assert!(Instant::now() < deadline, "nobody leads");
            sleep(Duration::from_millis(20)).await;
        }
    }

    async fn leader_channel(&self) -> Channel {
        self.channel(self.leader().await).await.expect("the leader answers")
    }

    async fn client(&self, nonce: u128) -> Client {
        let channel = self.leader_channel().await;
        let opened = open_session(&channel, ClusterId::UNKNOWN, nonce).await.expect("a session");
        let members = self.disks.keys().map(|id| address(*id)).collect();
        let control = LeaderChannel::anonymous(self.env.clone(), Role::Client, members, DEADLINE);
        Client {
            meta: MetaClient::new(channel),
            control,
            attachment: Attachment(0),
            dropped: Vec::new(),
            opened,
            next: 1,
        }
    }

    /// A chunkserver that has registered and not yet reported.
    async fn register(&self, directory: u128, zone: &str) -> Chunkserver {
        let mut cluster = ClusterClient::new(self.leader_channel().await);
        let request = registration(directory, zone);
        let reply = cluster.register(request).await.expect("an answer").into_inner();
        assert_eq!(reply.error, None);
        Chunkserver { cluster, registered: reply }
    }

    async fn chunkservers(&self, count: u64) -> Vec<Chunkserver> {
        let mut servers = Vec::new();
        for directory in 1..=count {
            let mut server = self.register(u128::from(directory), "").await;
            server.report(load(directory)).await;
            servers.push(server);
        }
        servers
    }

    /// Everybody in `servers` reports each second while the clock goes on for `time`.
    async fn pass(&self, time: Duration, servers: &mut [Chunkserver]) {
        let end = Instant::now() + time;
        while Instant::now() < end {
            sleep(Duration::from_secs(1)).await;
            for server in servers.iter_mut() {
                let load = load(server.registered.server);
                server.report(load).await;
            }
        }
    }
}

fn registration(directory: u128, zone: &str) -> wire::RegisterRequest {
    wire::RegisterRequest {
        directory: directory.to_be_bytes().to_vec().into(),
        grpc_address: format!("c{directory}:1"),
        frames_address: format!("c{directory}:2"),
        http_address: String::new(),
        zone: zone.to_owned(),
        ..Default::default()
    }
}

fn load(filesystem: u64) -> wire::Load {
    wire::Load {
        disk_total: 100 * GIB,
        disk_free: 60 * GIB,
        filesystem: filesystem.to_be_bytes().to_vec().into(),
        memory_total: GIB,
        memory_available: GIB,
        ..Default::default()
    }
}

async fn open_session(channel: &Channel, cluster: ClusterId, nonce: u128) -> MetaResult<SessionOpened> {
    let open = OpenSession { cluster, nonce: SessionNonce(nonce), client: "test".to_owned() };
    let mut meta = MetaClient::new(channel.clone());
    let reply = meta.open_session(convert::open_session_to_wire(&open)).await.expect("an answer");
    convert::session_opened_from_wire(reply.into_inner())
}

struct Chunkserver {
    cluster: ClusterClient<Channel>,
    registered: wire::RegisterReply,
}

impl Chunkserver {
    fn id(&self) -> ServerId {
        ServerId(self.registered.server)
    }

    async fn send(&mut self, request: wire::HeartbeatRequest) -> wire::HeartbeatReply {
        let request = wire::HeartbeatRequest {
            cluster: self.registered.cluster.clone(),
            server: self.registered.server,
            instance: self.registered.instance,
            ..request
        };
        self.cluster.heartbeat(request).await.expect("an answer").into_inner()
    }

    async fn report(&mut self, load: wire::Load) -> wire::HeartbeatReply {
        let reply = self.send(wire::HeartbeatRequest { load: Some(load), ..Default::default() }).await;
        assert_eq!((reply.error.clone(), reply.re_register), (None, false));
        reply
    }
}

/// One session.
struct Client {
    meta: MetaClient<Channel>,
    /// For what takes a connection that is fit for pushes.
    control: LeaderChannel,
    attachment: Attachment,
    /// What it says that it dropped, beside what a change names by number.
    dropped: Vec<InodeId>,
    opened: SessionOpened,
    next: u64,
}

const USER: Caller = Caller { uid: 1000, gid: 1000, groups: None };

impl Client {
    fn request(&mut self, caller: &Caller, change: Change) -> ChangeRequest {
        self.next += 1;
        ChangeRequest {
            cluster: self.opened.cluster,
            session: self.opened.session,
            request: RequestId(self.next),
            answered_below: RequestId(0),
            caller: caller.clone(),
            change,
        }
    }

    async fn send(&mut self, request: &ChangeRequest) -> MetaResult<Changed> {
        let dropped = Dropped {
            attachment: self.attachment,
            behind: self.dropped.clone(),
            wants_write: None,
            wants_read: false,
            writes: Vec::new(),
        };
        let dropped = (self.attachment.0 != 0).then_some(&dropped);
        let request = convert::change_request_to_wire(request, dropped);
        let reply = self.meta.change(request).await.expect("an answer");
        convert::changed_from_wire(reply.into_inner())
    }

    /// Asked again, as clients do, while it waits for somebody else.
    async fn change(&mut self, caller: &Caller, change: Change) -> MetaResult<Changed> {
        let request = self.request(caller, change);
        loop {
            match self.send(&request).await {
                Err(MetaError::Undecided { .. }) => {}
                answered => return answered,
            }
        }
    }

    async fn read(&mut self, caller: &Caller, read: Read) -> MetaResult<ReadReply> {
        let (cluster, session) = (self.opened.cluster, self.opened.session);
        let request = ReadRequest { cluster, session, caller: caller.clone(), leases: None, read };
        let reply = self.meta.read(convert::read_request_to_wire(&request)).await.expect("an answer");
        convert::shown_from_wire(reply.into_inner()).answered
    }

    async fn renew(&mut self) -> MetaResult<Vec<String>> {
        let renew = RenewSession::of(self.opened.cluster, self.opened.session);
        let reply = self.meta.renew_session(convert::renew_to_wire(&renew)).await.expect("an answer");
        convert::renewed_from_wire(reply.into_inner()).map(|renewed| renewed.metaservers)
    }

    async fn open_chunk(&mut self, avoid: Vec<ServerId>, copies: u32) -> MetaResult<OpenedChunk> {
        let volume = Some(InodeId::ROOT.volume());
        let change = Change::OpenChunk(OpenChunk { avoid, copies, volume, ..OpenChunk::default() });
        match self.change(&USER, change).await? {
            Changed::Chunk(opened) => Ok(opened),
            other => panic!("an open answered {other:?}"),
        }
    }

    async fn seal(&mut self, chunk: ChunkId) -> MetaResult<Changed> {
        self.change(&USER, Change::SealChunk { chunk }).await
    }

    async fn report(&mut self, chunk: ChunkId, server: ServerId, problem: ReplicaProblem) {
        let report = ReplicaReport { cluster: self.opened.cluster, chunk, server, problem };
        let reply = self.meta.report_replica(convert::report_to_wire(&report)).await.expect("an answer");
        assert_eq!(reply.into_inner().error, None);
    }
}

fn create(name: &str, mode: u32, what: NewInode) -> Change {
    let name = Name::new(name).expect("a name");
    Change::Create(Create { parent: InodeId::ROOT, name, mode, what, or_existing: false, opens: false })
}

fn attr_of(changed: MetaResult<Changed>) -> InodeAttr {
    match changed {
        Ok(Changed::Inode { attr, .. }) => attr,
        other => panic!("a create answered {other:?}"),
    }
}

/// The first bytes of a file are the first ones of a new chunk.
fn commit(inode: InodeId, number: u64, chunk: ChunkId) -> Change {
    let len = 8192;
    let extent = Extent { offset: Offset(0), len, chunk, chunk_offset: ChunkOffset(0) };
    Change::CommitExtents(CommitExtents {
        chunks: vec![ChunkCommit { chunk, set_version: SetVersion(1), up_to: ByteLen(len) }],
        files: vec![FileCommit {
            inode,
            number,
            extents: vec![extent],
            size_at_least: ByteLen(len),
            mtime: None,
            kill_privileges: false,
        }],
    })
}

fn servers_of(chunk: &OpenedChunk) -> Vec<ServerId> {
    chunk.replicas.iter().map(|replica| replica.server).collect()
}

/// A file of one extent, with two copies.
async fn written_file(client: &mut Client) -> (InodeAttr, OpenedChunk) {
    let made = attr_of(client.change(&Caller::ROOT, create("a", 0o640, NewInode::File)).await);
    let chunk = client.open_chunk(vec![], 2).await.expect("two servers are there");
    match client.change(&USER, commit(made.inode, 1, chunk.chunk)).await {
        Ok(Changed::Committed { mut attrs }) => (attrs.remove(0), chunk),
        other => panic!("a commit answered {other:?}"),
    }
}
