//! The services as clients and chunkservers see them: whole members in one process, over gRPC, with state and log in memory.
//!
//! The network is in memory too, so that tokio's paused clock may turn: then seconds of silence cost nothing.

mod bounds;
mod slow;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use dfs_net::env::{Env, Rng};
use dfs_net::rpc::{Identity, Role, grpc};
use dfs_net::services::admin_client::AdminClient;
use dfs_net::services::cluster_client::ClusterClient;
use dfs_net::services::meta_client::MetaClient;
use dfs_proto::attr::{AccessMask, Caller, InodeAttr, Name};
use dfs_proto::convert;
use dfs_proto::error::MetaError;
use dfs_proto::extent::Extent;
use dfs_proto::ids::{
    ChunkId, ClusterId, InodeId, MemberId, RequestId, ServerId, SessionId, SessionNonce, VolumeId,
};
use dfs_proto::meta::{
    Change, ChangeRequest, Changed, ChunkCommit, CommitExtents, Create, FileCommit, MetaResult, NewInode,
    OpenChunk, OpenSession, OpenedChunk, Read, ReadReply, ReadRequest, RenewSession, ReplicaProblem,
    ReplicaReport, SessionOpened,
};
use dfs_proto::units::{ByteLen, ChunkOffset, GIB, MIB, Offset};
use dfs_proto::wire;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep};
use tonic::transport::Channel;

use crate::config::{BootstrapMember, Config, Settings};
use crate::memory_net::{Disks, MemoryNet, SetClock, TokioClock};
use crate::{ServeError, Storage, run};

mod clocks;

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
        Client { meta: MetaClient::new(channel), opened, next: 1 }
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
        let reply = self.meta.change(convert::change_request_to_wire(request)).await.expect("an answer");
        convert::changed_from_wire(reply.into_inner())
    }

    async fn change(&mut self, caller: &Caller, change: Change) -> MetaResult<Changed> {
        let request = self.request(caller, change);
        self.send(&request).await
    }

    async fn read(&mut self, caller: &Caller, read: Read) -> MetaResult<ReadReply> {
        let (cluster, session) = (self.opened.cluster, self.opened.session);
        let request = ReadRequest { cluster, session, caller: caller.clone(), read };
        let reply = self.meta.read(convert::read_request_to_wire(&request)).await.expect("an answer");
        convert::read_reply_from_wire(reply.into_inner())
    }

    async fn renew(&mut self) -> MetaResult<Vec<String>> {
        let renew = RenewSession { cluster: self.opened.cluster, session: self.opened.session };
        let reply = self.meta.renew_session(convert::renew_to_wire(&renew)).await.expect("an answer");
        convert::renewed_from_wire(reply.into_inner()).map(|renewed| renewed.metaservers)
    }

    async fn open_chunk(&mut self, avoid: Vec<ServerId>, copies: u32) -> MetaResult<OpenedChunk> {
        let change = Change::OpenChunk(OpenChunk { avoid, copies, ..OpenChunk::default() });
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
    Change::Create(Create { parent: InodeId::ROOT, name, mode, what, or_existing: false })
}

fn attr_of(changed: MetaResult<Changed>) -> InodeAttr {
    match changed {
        Ok(Changed::Inode { attr, .. }) => attr,
        other => panic!("a create answered {other:?}"),
    }
}

fn servers_of(chunk: &OpenedChunk) -> Vec<ServerId> {
    chunk.replicas.iter().map(|replica| replica.server).collect()
}

#[tokio::test(start_paused = true)]
async fn a_change_that_is_sent_again_is_executed_once_and_answered_the_same() {
    let cluster = Cluster::one().await;
    let mut client = cluster.client(1).await;
    let request = client.request(&Caller::ROOT, create("a", 0o644, NewInode::File));
    let first = client.send(&request).await;
    assert_eq!(client.send(&request).await, first);
    assert_eq!(attr_of(first).mode, 0o644);
    let again = client.change(&Caller::ROOT, create("a", 0o644, NewInode::File)).await;
    assert_eq!(again, Err(MetaError::Exists));
}

#[tokio::test(start_paused = true)]
async fn a_change_sent_again_after_a_restart_is_not_executed_again() {
    let mut cluster = Cluster::one().await;
    let mut client = cluster.client(1).await;
    let request = client.request(&Caller::ROOT, create("a", 0o755, NewInode::Directory));
    let first = client.send(&request).await;
    cluster.restart(1).await;
    client.meta = MetaClient::new(cluster.leader_channel().await);
    assert_eq!(client.send(&request).await, first);
    let reopened = open_session(&cluster.leader_channel().await, client.opened.cluster, 1).await;
    assert_eq!(
        reopened.map(|opened| opened.session),
        Ok(client.opened.session),
        "the nonce finds the session"
    );
}

#[tokio::test(start_paused = true)]
async fn a_follower_refuses_and_names_the_leader() {
    let cluster = Cluster::start(3, Settings::default()).await;
    let leader = cluster.leader().await;
    let mut client = cluster.client(1).await;
    assert_eq!(client.renew().await.map(|members| members[0].clone()), Ok(address(leader)));
    let follower = cluster.members.keys().copied().find(|id| *id != leader).expect("three members");
    client.meta = MetaClient::new(cluster.channel(follower).await.expect("it answers"));
    let refused = MetaError::NotLeader { leader: Some(address(leader)) };
    let changed = client.change(&Caller::ROOT, create("a", 0o644, NewInode::File)).await;
    assert_eq!(changed, Err(refused.clone()));
    assert_eq!(
        client.read(&Caller::ROOT, Read::GetAttr { inode: InodeId::ROOT }).await,
        Err(refused.clone())
    );
    assert_eq!(client.renew().await, Err(refused));
}

#[tokio::test(start_paused = true)]
async fn a_leader_that_is_shut_down_hands_over_and_the_next_one_knows_everything() {
    let mut cluster = Cluster::start(3, Settings::default()).await;
    let mut client = cluster.client(1).await;
    let made = attr_of(client.change(&Caller::ROOT, create("a", 0o644, NewInode::File)).await);
    let first = cluster.leader().await;
    cluster.stop_member(first).await;
    client.meta = MetaClient::new(cluster.leader_channel().await);
    let lookup = Read::Lookup { parent: InodeId::ROOT, name: b"a".to_vec() };
    assert_eq!(client.read(&Caller::ROOT, lookup).await, Ok(ReadReply::Attr(made)));
}

#[tokio::test(start_paused = true)]
async fn permissions_are_checked_for_changes_and_for_reads() {
    let cluster = Cluster::one().await;
    let mut client = cluster.client(1).await;
    let knows_groups = Caller { groups: Some(vec![]), ..USER };
    let refused = client.change(&knows_groups, create("a", 0o644, NewInode::File)).await;
    assert_eq!(refused, Err(MetaError::PermissionDenied));
    let secret = attr_of(client.change(&Caller::ROOT, create("secret", 0o600, NewInode::File)).await);
    let open = Read::Open { inode: secret.inode, mask: AccessMask::READ };
    assert_eq!(client.read(&knows_groups, open.clone()).await, Err(MetaError::PermissionDenied));
    let opened = client.read(&Caller::ROOT, open).await;
    assert_eq!(opened, Ok(ReadReply::Opened { attr: secret, next_commit: 1 }));
}

#[tokio::test(start_paused = true)]
async fn a_request_for_another_cluster_or_volume_is_refused_with_both_names() {
    let cluster = Cluster::one().await;
    let mut client = cluster.client(1).await;
    let elsewhere = InodeId::new(VolumeId(3), 1).expect("in range");
    let refused = client.read(&Caller::ROOT, Read::GetAttr { inode: elsewhere }).await;
    assert_eq!(refused, Err(MetaError::WrongCluster { map_version: 0 }));
    let own = client.opened.cluster;
    client.opened.cluster = ClusterId(5);
    let refused = client.read(&Caller::ROOT, Read::GetAttr { inode: InodeId::ROOT }).await;
    let Err(MetaError::InvalidArgument { what }) = refused else { panic!("{refused:?}") };
    assert!(what.contains(&own.to_string()) && what.contains(&ClusterId(5).to_string()), "{what}");
    client.opened.cluster = ClusterId::UNKNOWN;
    let refused = client.change(&Caller::ROOT, create("a", 0o644, NewInode::File)).await;
    assert!(matches!(refused, Err(MetaError::InvalidArgument { .. })), "{refused:?}");
}

#[tokio::test(start_paused = true)]
async fn a_listing_is_answered_in_bounded_pages_that_go_on_at_the_cookie() {
    let cluster = Cluster::one().await;
    let mut client = cluster.client(1).await;
    for n in 0..1200 {
        attr_of(client.change(&Caller::ROOT, create(&format!("file{n}"), 0o644, NewInode::File)).await);
    }
    let (mut seen, mut cookie, mut pages) = (std::collections::BTreeSet::new(), 0, 0);
    loop {
        let read = Read::ReadDir { inode: InodeId::ROOT, cookie, limit: 0, plus: true };
        let page = client.read(&Caller::ROOT, read).await;
        let Ok(ReadReply::Entries { entries, end, .. }) = page else { panic!("{page:?}") };
        assert!(entries.len() <= super::namespace::ENTRIES_MAX as usize);
        cookie = entries.last().map_or(cookie, |entry| entry.cookie);
        seen.extend(entries.into_iter().map(|entry| entry.name));
        pages += 1;
        if end {
            break;
        }
    }
    assert_eq!((seen.len(), pages), (1200, 2));
}

#[tokio::test(start_paused = true)]
async fn free_space_counts_each_filesystem_once_and_waits_for_the_first_reports() {
    let mut cluster = Cluster::one().await;
    let mut servers = Vec::new();
    for (directory, filesystem) in [(1, 1), (2, 1), (3, 2)] {
        let mut server = cluster.register(directory, "").await;
        server.report(load(filesystem)).await;
        servers.push(server);
    }
    let mut client = cluster.client(1).await;
    let read = Read::StatFs { inode: InodeId::ROOT };
    let Ok(ReadReply::StatFs(space)) = client.read(&USER, read.clone()).await else { panic!("no statfs") };
    assert_eq!((space.total, space.free, space.inodes), (ByteLen(100 * GIB), ByteLen(60 * GIB), 1));
    cluster.restart(1).await;
    client.meta = MetaClient::new(cluster.leader_channel().await);
    let early = client.read(&USER, read.clone()).await;
    assert!(matches!(early, Err(MetaError::Unavailable { .. })), "{early:?}");
    sleep(Duration::from_secs(4)).await;
    assert!(client.read(&USER, read).await.is_ok(), "by now they count as away");
}

#[tokio::test(start_paused = true)]
async fn a_chunk_gets_its_copies_on_different_servers_with_addresses() {
    let cluster = Cluster::one().await;
    let servers = cluster.chunkservers(3).await;
    let mut client = cluster.client(1).await;
    for copies in [0, 1, 3] {
        let chunk = client.open_chunk(vec![], copies).await.expect("three servers are there");
        let wanted = if copies == 0 { 2 } else { copies as usize };
        let distinct: std::collections::BTreeSet<_> = servers_of(&chunk).into_iter().collect();
        assert_eq!(distinct.len(), wanted);
        for replica in &chunk.replicas {
            assert_eq!(replica.address, format!("c{}:2", replica.server.0));
        }
    }
    for _ in 0..20 {
        let chunk = client.open_chunk(vec![servers[0].id()], 2).await.expect("two others are there");
        assert!(!servers_of(&chunk).contains(&servers[0].id()));
    }
    let refused = client.open_chunk(vec![], 9).await;
    assert!(matches!(refused, Err(MetaError::InvalidArgument { .. })), "{refused:?}");
}

#[tokio::test(start_paused = true)]
async fn full_servers_get_no_chunks_and_when_all_are_there_is_no_space() {
    let cluster = Cluster::one().await;
    let mut servers = cluster.chunkservers(3).await;
    let mut client = cluster.client(1).await;
    servers[1].report(wire::Load { full: true, ..load(2) }).await;
    for _ in 0..20 {
        let chunk = client.open_chunk(vec![], 2).await.expect("two have space");
        assert!(!servers_of(&chunk).contains(&servers[1].id()));
    }
    for server in &mut servers {
        server.report(wire::Load { full: true, ..load(1) }).await;
    }
    let refused = client.open_chunk(vec![], 1).await;
    assert!(matches!(refused, Err(MetaError::NoSpace { .. })), "{refused:?}");
    attr_of(client.change(&Caller::ROOT, create("a", 0o644, NewInode::File)).await);
}

#[tokio::test(start_paused = true)]
async fn a_member_whose_own_disk_is_nearly_full_takes_nothing_new_and_stops_before_it_is_full() {
    let settings = Settings { disk_reserve_mib: Some(100), ..Settings::default() };
    let mut cluster = Cluster::start(1, settings).await;
    let mut client = cluster.client(1).await;
    let disk = cluster.disks[&1].log.clone();
    let before = client.request(&Caller::ROOT, create("before", 0o644, NewInode::File));
    let made = client.send(&before).await;
    assert!(made.is_ok(), "{made:?}");

    disk.set_free(ByteLen(99 * MIB));
    sleep(Duration::from_secs(2)).await;
    assert!(cluster.status(1).await.expect("it answers").is_full);
    let refused = client.change(&Caller::ROOT, create("more", 0o644, NewInode::File)).await;
    assert!(matches!(refused, Err(MetaError::NoSpace { .. })), "{refused:?}");
    assert_eq!(client.send(&before).await, made, "what was done before stays done");
    let unlink = Change::Unlink { parent: InodeId::ROOT, name: Name::new("before").expect("a name") };
    client.change(&Caller::ROOT, unlink).await.expect("deleting makes room");

    disk.set_free(ByteLen(100 * MIB));
    sleep(Duration::from_secs(2)).await;
    attr_of(client.change(&Caller::ROOT, create("more", 0o644, NewInode::File)).await);

    disk.set_free(ByteLen(49 * MIB));
    for _ in 0..2 {
        let member = cluster.members.remove(&1).expect("it was started");
        let ended = member.serving.await.expect("no panic").expect_err("it cannot go on");
        assert!(ended.to_string().contains("49 MiB free"), "{ended}");
        cluster.start_member(1); // refused for the same reason
    }
}

#[tokio::test(start_paused = true)]
async fn a_new_leader_places_fewer_copies_only_after_ten_seconds_or_when_all_were_heard() {
    let mut cluster = Cluster::one().await;
    cluster.chunkservers(2).await;
    let mut client = cluster.client(1).await;
    cluster.restart(1).await;
    client.meta = MetaClient::new(cluster.leader_channel().await);
    let mut only = cluster.register(1, "").await;
    only.report(load(1)).await;
    let early = client.open_chunk(vec![], 2).await;
    assert!(matches!(early, Err(MetaError::Unavailable { .. })), "{early:?}");
    cluster.pass(Duration::from_secs(10), std::slice::from_mut(&mut only)).await;
    let chunk = client.open_chunk(vec![], 2).await.expect("ten seconds have passed");
    assert_eq!(servers_of(&chunk), [only.id()]);
    let mut other = cluster.register(2, "").await;
    other.report(load(2)).await;
    let chunk = client.open_chunk(vec![], 2).await.expect("both are there");
    assert_eq!(chunk.replicas.len(), 2);
}

#[tokio::test(start_paused = true)]
async fn below_the_least_number_of_copies_an_open_waits() {
    let cluster = Cluster::start(1, Settings { copies_min: Some(2), ..Settings::default() }).await;
    let mut servers = cluster.chunkservers(2).await;
    let mut client = cluster.client(1).await;
    cluster.pass(Duration::from_secs(20), &mut servers[..1]).await;
    let refused = client.open_chunk(vec![], 2).await;
    assert!(matches!(refused, Err(MetaError::Unavailable { .. })), "{refused:?}");
    servers[1].report(load(2)).await;
    assert!(client.open_chunk(vec![], 2).await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn the_open_chunks_of_a_server_that_is_away_are_sealed() {
    let cluster = Cluster::one().await;
    let mut servers = cluster.chunkservers(3).await;
    let mut client = cluster.client(1).await;
    cluster.pass(Duration::from_secs(11), &mut servers).await;
    let kept = client.open_chunk(vec![servers[0].id()], 2).await.expect("three are there");
    let lost = client.open_chunk(vec![servers[1].id()], 2).await.expect("three are there");
    cluster.pass(Duration::from_secs(5), &mut servers[1..]).await;
    let status = cluster.status(1).await.expect("it answers");
    assert_eq!((status.chunks_open, status.chunks_sealed + status.chunks_dead), (1, 1));
    assert_eq!(status.chunks_degraded, 0, "a dead chunk needs no copies");
    let states: Vec<i32> = status.chunkservers.iter().map(|server| server.state).collect();
    let (alive, away) = (wire::ServerState::Alive as i32, wire::ServerState::Away as i32);
    assert_eq!(states, [away, alive, alive]);
    for _ in 0..20 {
        let chunk = client.open_chunk(vec![], 2).await.expect("two are left");
        assert!(!servers_of(&chunk).contains(&servers[0].id()));
    }
    assert!(client.seal(kept.chunk).await.is_ok());
    assert!(client.seal(lost.chunk).await.is_ok(), "sealing again is no error");
}

#[tokio::test(start_paused = true)]
async fn a_report_that_a_server_is_unreachable_only_shortens_the_patience_with_it() {
    let cluster = Cluster::one().await;
    let mut servers = cluster.chunkservers(2).await;
    let mut client = cluster.client(1).await;
    let chunk = client.open_chunk(vec![], 2).await.expect("two are there");
    client.report(chunk.chunk, servers[0].id(), ReplicaProblem::Unreachable).await;
    assert_eq!(client.open_chunk(vec![], 2).await.map(|chunk| chunk.replicas.len()), Ok(2));
    cluster.pass(Duration::from_secs(2), &mut servers[1..]).await;
    let kept = client.open_chunk(vec![servers[1].id()], 1).await.map(|chunk| servers_of(&chunk));
    assert_eq!(kept, Ok(vec![servers[1].id()]), "there is no other");
    let status = cluster.status(1).await.expect("it answers");
    assert_eq!(status.chunkservers[0].state, wire::ServerState::Away as i32);
    servers[0].report(load(1)).await;
    let status = cluster.status(1).await.expect("it answers");
    assert_eq!(status.chunkservers[0].state, wire::ServerState::Alive as i32);
}

#[tokio::test(start_paused = true)]
async fn a_dead_chunk_is_deleted_after_a_minute_where_it_was_and_forgotten_when_confirmed() {
    let cluster = Cluster::one().await;
    let mut servers = cluster.chunkservers(2).await;
    let mut client = cluster.client(1).await;
    let chunk = client.open_chunk(vec![], 2).await.expect("two are there").chunk;
    client.seal(chunk).await.expect("it is this session's");
    cluster.pass(Duration::from_secs(50), &mut servers).await;
    assert_eq!(servers[0].report(load(1)).await.delete, [] as [u64; 0]);
    cluster.pass(Duration::from_secs(15), &mut servers).await;
    for server in &mut servers {
        assert_eq!(server.report(load(1)).await.delete, [chunk.0]);
        let done =
            wire::HeartbeatRequest { deleted: vec![chunk.0], load: Some(load(1)), ..Default::default() };
        assert_eq!(server.send(done).await.delete, [] as [u64; 0]);
    }
    let status = cluster.status(1).await.expect("it answers");
    assert_eq!((status.chunks_open, status.chunks_sealed, status.chunks_dead), (0, 0, 0));
}

#[tokio::test(start_paused = true)]
async fn an_older_instance_is_told_to_register_again_and_a_foreign_directory_is_refused() {
    let cluster = Cluster::one().await;
    let mut older = cluster.register(1, "").await;
    let mut newer = cluster.register(1, "").await;
    assert_eq!((newer.id(), newer.registered.instance), (older.id(), older.registered.instance + 1));
    assert!(older.send(wire::HeartbeatRequest::default()).await.re_register);
    assert!(!newer.send(wire::HeartbeatRequest::default()).await.re_register);
    let foreign = wire::RegisterRequest { cluster: vec![9; 16].into(), ..registration(7, "") };
    let reply = newer.cluster.register(foreign).await.expect("an answer").into_inner();
    let refused = convert::error_from_wire(reply.error.expect("a refusal"));
    assert!(matches!(refused, MetaError::InvalidArgument { .. }), "{refused:?}");
}

#[tokio::test(start_paused = true)]
async fn damage_is_counted_once_whoever_reports_it() {
    let cluster = Cluster::one().await;
    let mut servers = cluster.chunkservers(2).await;
    let mut client = cluster.client(1).await;
    let chunk = client.open_chunk(vec![], 2).await.expect("two are there").chunk;
    let found =
        || wire::HeartbeatRequest { damaged: vec![chunk.0, 999], load: Some(load(1)), ..Default::default() };
    assert_eq!(servers[0].send(found()).await.error, None);
    let id = servers[0].id();
    client.report(chunk, id, ReplicaProblem::Damaged).await;
    assert_eq!(servers[0].send(found()).await.error, None);
    assert_eq!(cluster.status(1).await.expect("it answers").chunks_damaged, 1);
}

#[tokio::test(start_paused = true)]
async fn a_session_that_is_silent_for_five_minutes_is_ended_and_a_renewed_one_is_not() {
    let cluster = Cluster::one().await;
    let mut silent = cluster.client(1).await;
    let mut renewed = cluster.client(2).await;
    for _ in 0..301 {
        sleep(Duration::from_secs(1)).await;
        assert_eq!(renewed.renew().await, Ok(vec![address(1)]));
    }
    sleep(Duration::from_secs(3)).await;
    let expired = MetaError::SessionExpired { session: silent.opened.session };
    assert_eq!(silent.renew().await, Err(expired.clone()));
    let read = silent.read(&Caller::ROOT, Read::GetAttr { inode: InodeId::ROOT }).await;
    assert_eq!(read, Err(expired.clone()));
    let changed = silent.change(&Caller::ROOT, create("a", 0o644, NewInode::File)).await;
    assert_eq!(changed, Err(expired));
    attr_of(renewed.change(&Caller::ROOT, create("a", 0o644, NewInode::File)).await);
}

#[tokio::test(start_paused = true)]
async fn a_closed_session_leaves_nothing() {
    let cluster = Cluster::one().await;
    let servers = cluster.chunkservers(2).await;
    let mut client = cluster.client(1).await;
    client.open_chunk(vec![], 2).await.expect("two are there");
    let made = attr_of(client.change(&Caller::ROOT, create("a", 0o644, NewInode::File)).await);
    let unlink = Change::Unlink { parent: InodeId::ROOT, name: Name::new("a").expect("a name") };
    assert_eq!(client.change(&Caller::ROOT, unlink).await, Ok(Changed::Removed { orphan: Some(made.inode) }));
    assert_eq!(cluster.status(1).await.map(|s| (s.inodes, s.sessions, s.chunks_open)), Ok((2, 1, 1)));
    let close = RenewSession { cluster: client.opened.cluster, session: client.opened.session };
    let closed = client.meta.close_session(convert::renew_to_wire(&close)).await.expect("an answer");
    assert_eq!(closed.into_inner().error, None);
    sleep(Duration::from_secs(1)).await;
    assert_eq!(cluster.status(1).await.map(|s| (s.inodes, s.sessions, s.chunks_open)), Ok((1, 0, 0)));
    assert_eq!(client.renew().await, Err(MetaError::SessionExpired { session: SessionId(1) }));
    drop(servers);
}

/// A file of one extent, with two copies.
async fn written_file(client: &mut Client) -> (InodeAttr, OpenedChunk) {
    let made = attr_of(client.change(&Caller::ROOT, create("a", 0o640, NewInode::File)).await);
    let chunk = client.open_chunk(vec![], 2).await.expect("two servers are there");
    let (inode, len) = (made.inode, 8192);
    let extent = Extent { offset: Offset(0), len, chunk: chunk.chunk, chunk_offset: ChunkOffset(0) };
    let commit = CommitExtents {
        chunks: vec![ChunkCommit { chunk: chunk.chunk, set_version: chunk.set_version, up_to: ByteLen(len) }],
        files: vec![FileCommit {
            inode,
            number: 1,
            extents: vec![extent],
            size_at_least: ByteLen(len),
            mtime: None,
            kill_privileges: false,
        }],
    };
    match client.change(&USER, Change::CommitExtents(commit)).await {
        Ok(Changed::Committed { mut attrs }) => (attrs.remove(0), chunk),
        other => panic!("a commit answered {other:?}"),
    }
}

#[tokio::test(start_paused = true)]
async fn a_readers_first_copy_is_one_that_can_be_reached_and_the_chunk_counts_as_degraded() {
    let cluster = Cluster::one().await;
    let mut servers = cluster.chunkservers(2).await;
    let mut client = cluster.client(1).await;
    let (file, chunk) = written_file(&mut client).await;
    assert_eq!(cluster.status(1).await.map(|s| (s.chunks_open, s.chunks_degraded)), Ok((1, 0)));
    let away = chunk.replicas[0].server;
    servers.retain(|server| server.id() != away);
    cluster.pass(Duration::from_secs(5), &mut servers).await;
    assert_eq!(cluster.status(1).await.map(|s| (s.chunks_sealed, s.chunks_degraded)), Ok((1, 1)));
    let read = Read::Extents { inode: file.inode, offset: Offset(0), len: 1 << 20, limit: 0 };
    let answer = client.read(&Caller::ROOT, read).await;
    let Ok(ReadReply::Extents(extents)) = answer else { panic!("{answer:?}") };
    assert_eq!((extents.extents.len(), extents.attr.clone()), (1, file));
    assert_eq!(extents.chunks[0].replicas, [chunk.replicas[1].clone(), chunk.replicas[0].clone()]);
}

#[tokio::test(start_paused = true)]
async fn a_file_is_shown_by_path_with_its_copies() {
    let cluster = Cluster::one().await;
    let servers = cluster.chunkservers(2).await;
    let mut client = cluster.client(1).await;
    let (file, chunk) = written_file(&mut client).await;
    client.report(chunk.chunk, servers[0].id(), ReplicaProblem::Damaged).await;
    let mut admin = AdminClient::new(cluster.leader_channel().await);
    let show = |path: &str| wire::FileShowRequest { path: path.to_owned(), ..Default::default() };
    let shown = admin.file_show(show("/a")).await.expect("an answer").into_inner();
    assert_eq!(shown.attr, Some(convert::attr_to_wire(&file)));
    assert_eq!((shown.more, shown.cluster_name.as_str()), (false, "local"));
    let extent = &shown.extents[0];
    assert_eq!((extent.len, extent.chunk, extent.chunk_state.as_str()), (8192, chunk.chunk.0, "open"));
    for copy in &extent.copies {
        assert_eq!(copy.damaged, copy.server == servers[0].id().0);
        assert_eq!((copy.address.as_str(), copy.state), (format!("c{}:2", copy.server).as_str(), 1));
    }
    let missing = admin.file_show(show("/b/c")).await.expect("an answer").into_inner();
    assert_eq!(missing.error.map(convert::error_from_wire), Some(MetaError::NotFound));
}

#[tokio::test(start_paused = true)]
async fn every_member_tells_its_status_and_the_leader_tells_more() {
    let cluster =
        Cluster::start(3, Settings { cluster: Some("here".to_owned()), ..Settings::default() }).await;
    let leader = cluster.leader().await;
    let deadline = Instant::now() + PATIENCE;
    for id in 1..=3 {
        loop {
            let status = cluster.status(id).await.expect("it answers");
            if status.leader == leader && status.cluster_name == "here" && status.members.len() == 3 {
                assert_eq!((status.answered_by, status.is_leader), (id, id == leader));
                break;
            }
            assert!(Instant::now() < deadline, "{id} does not hear of the leader");
            sleep(Duration::from_millis(20)).await;
        }
    }
}

async fn get(cluster: &Cluster, path: &str) -> String {
    let mut stream = cluster.env.net.connect("m1:2").await.expect("it listens");
    let request = format!("GET {path} HTTP/1.1\r\nhost: m1\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.expect("it reads");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.expect("text");
    answer
}

#[tokio::test(start_paused = true)]
async fn metrics_and_health_are_served_over_http() {
    let cluster = Cluster::one().await;
    let mut client = cluster.client(1).await;
    attr_of(client.change(&Caller::ROOT, create("a", 0o640, NewInode::File)).await);
    let metrics = get(&cluster, "/metrics").await;
    for line in ["dfs_metaserver_changes_total 1", "dfs_metaserver_leading 1", "dfs_metaserver_inodes 2"] {
        assert!(metrics.contains(line), "{line} is missing in {metrics}");
    }
    let health = get(&cluster, "/healthz").await;
    assert!(health.starts_with("HTTP/1.1 200 OK") && health.contains(&MemberId(1).to_string()), "{health}");
}

#[tokio::test]
async fn a_used_port_and_an_address_that_says_nothing_are_one_line_each() {
    let tcp = Env::real();
    let taken = tcp.net.bind("127.0.0.1:0").await.expect("a free port").local_address();
    let holder = tcp.net.bind(&taken).await;
    let storage = || Storage { cluster: Disks::new().storage(), federation: None };
    let listening = tcp.net.bind("127.0.0.1:0").await.expect("a free port");
    let with = |listen: String| {
        let settings = Settings {
            id: Some(1),
            data: Some("/unused".into()),
            listen: Some(listen),
            http: Some(String::new()),
            ..Settings::default()
        };
        Config::validate(settings).expect("sound settings")
    };
    let error = run(with(listening.local_address()), tcp.clone(), storage(), Box::pin(async {})).await;
    let line = error.expect_err("the port is taken").to_string();
    assert!(
        line.starts_with(&format!("listen on {}", listening.local_address())) && !line.contains('\n'),
        "{line}"
    );
    let error = run(with("0.0.0.0:0".to_owned()), tcp, storage(), Box::pin(async {})).await;
    let line = error.expect_err("nobody could connect").to_string();
    assert!(line.contains("set `advertise`"), "{line}");
    drop(holder);
}
