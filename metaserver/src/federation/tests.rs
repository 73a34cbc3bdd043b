//! A federation of three clusters of one metaserver each, in one process, with time that may turn.

#![allow(clippy::unwrap_used, reason = "in a test an unwrap is an assertion")]

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use dfs_net::env::{Env, Rng};
use dfs_net::rpc::Role;
use dfs_net::rpc::leader::LeaderChannel;
use dfs_net::services::cluster_client::ClusterClient;
use dfs_net::services::federation_client::FederationClient;
use dfs_net::services::meta_client::MetaClient;
use dfs_proto::attr::{Caller, InodeAttr, Name};
use dfs_proto::convert;
use dfs_proto::error::MetaError;
use dfs_proto::federation::{ClusterEntry, Federate, FederationMap, VolumePhase};
use dfs_proto::ids::{ClusterId, InodeId, RequestId, SessionNonce, VolumeId};
use dfs_proto::meta::{
    Change, ChangeRequest, Changed, Create, MetaResult, NewInode, OpenSession, Read, ReadReply, ReadRequest,
    Rename, RenameMode, SessionOpened,
};
use dfs_proto::units::GIB;
use dfs_proto::wire;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep};

use super::cluster_reports::REPORT_INTERVAL;
use crate::config::{BootstrapMember, Config, Settings};
use crate::memory_net::{Disks, MemoryNet, TokioClock};
use crate::{ServeError, Storage, run};

/// For everything that is waited for; far longer than it takes.
const PATIENCE: Duration = Duration::from_secs(60);
const CALL: Duration = Duration::from_secs(20);
const ROOT: InodeId = InodeId::ROOT;
const NAMES: [&str; 3] = ["alpha", "beta", "gamma"];

struct Process {
    stop: oneshot::Sender<()>,
    serving: JoinHandle<Result<(), ServeError>>,
}

struct TestFederation {
    env: Env,
    disks: BTreeMap<&'static str, (Disks, Disks)>,
    running: BTreeMap<&'static str, Process>,
}

fn address(name: &str) -> String {
    format!("{name}:1")
}

impl TestFederation {
    /// Alpha, which has the root, beta and gamma, each with a chunkserver that has reported.
    async fn start() -> TestFederation {
        let clock = Arc::new(TokioClock(Instant::now()));
        let env = Env { clock, rng: Rng::seeded(3), net: Arc::new(MemoryNet::default()) };
        let disks = NAMES.into_iter().map(|name| (name, (Disks::new(), Disks::new()))).collect();
        let mut federation = TestFederation { env, disks, running: BTreeMap::new() };
        for name in NAMES {
            federation.start_process(name);
        }
        for name in NAMES {
            federation.join(name).await;
            federation.report(name).await;
        }
        federation.until("all have joined", |map| map.clusters.len() == NAMES.len()).await;
        // By then the group's leader knows of the chunkservers. The clock is a simulated one.
        sleep(2 * REPORT_INTERVAL).await;
        federation
    }

    fn start_process(&mut self, name: &'static str) {
        let seats = NAMES.iter().zip(1..);
        let own = NAMES.iter().zip(1..).find(|(other, _)| **other == name).map(|(_, id)| id);
        let settings = Settings {
            id: Some(1),
            cluster: Some(name.to_owned()),
            data: Some("/unused".into()),
            listen: Some(address(name)),
            http: Some(String::new()),
            federation_members: Some(
                seats.map(|(name, id)| BootstrapMember { id, address: address(name) }).collect(),
            ),
            federation_id: own,
            // The chunkservers of these tests report once.
            server_away_ms: Some(600_000),
            ..Settings::default()
        };
        let config = Config::validate(settings).expect("sound settings");
        let (cluster, group) = &self.disks[name];
        let storage = Storage { cluster: cluster.storage(), federation: Some(group.storage()) };
        let (stop, stopped) = oneshot::channel();
        let shutdown = async move {
            let _ = stopped.await;
        };
        let serving = tokio::spawn(run(config, self.env.clone(), storage, Box::pin(shutdown)));
        self.running.insert(name, Process { stop, serving });
    }

    async fn stop(&mut self, name: &'static str) {
        let Process { stop, serving } = self.running.remove(name).expect("it runs");
        stop.send(()).expect("it still runs");
        serving.await.expect("no panic").expect("a clean end");
    }

    fn channel(&self, addresses: Vec<String>) -> LeaderChannel {
        LeaderChannel::anonymous(self.env.clone(), Role::Client, addresses, Duration::from_secs(1))
    }

    async fn federate(&self, call: Federate) -> MetaResult<()> {
        let request = convert::federate_to_wire(&call);
        let channel = self.channel(NAMES.map(address).to_vec());
        let answer = channel.call(CALL, |channel| {
            let request = request.clone();
            async move {
                let reply = FederationClient::new(channel).federate(request).await?;
                Ok(convert::federated_from_wire(reply.into_inner()))
            }
        });
        answer.await.map(drop)
    }

    /// As an administrator does; the first one joins by itself.
    async fn join(&self, name: &str) {
        let opened = self.session(name, 1).await.opened;
        let entry = ClusterEntry { name: name.to_owned(), metaservers: vec![address(name)] };
        self.federate(Federate::Join { cluster: opened.cluster, entry }).await.expect("it joins");
    }

    /// A chunkserver registers and reports once.
    async fn report(&self, name: &str) {
        let registered = self
            .channel(vec![address(name)])
            .call(CALL, |channel| async move {
                let request = wire::RegisterRequest {
                    directory: 7u128.to_be_bytes().to_vec().into(),
                    grpc_address: "c:1".to_owned(),
                    frames_address: "c:2".to_owned(),
                    ..Default::default()
                };
                let reply = ClusterClient::new(channel).register(request).await?.into_inner();
                Ok(convert::refusal(reply.error.clone()).map(|()| reply))
            })
            .await
            .expect("it registers");
        let channel = self.channel(vec![address(name)]);
        let reported = channel.call(CALL, |channel| {
            let request = wire::HeartbeatRequest {
                cluster: registered.cluster.clone(),
                server: registered.server,
                instance: registered.instance,
                load: Some(wire::Load {
                    disk_total: 100 * GIB,
                    disk_free: 60 * GIB,
                    memory_total: GIB,
                    memory_available: GIB,
                    ..Default::default()
                }),
                ..Default::default()
            };
            async move {
                let reply = ClusterClient::new(channel).heartbeat(request).await?.into_inner();
                Ok(convert::refusal(reply.error))
            }
        });
        reported.await.expect("it is heard");
    }

    async fn map(&self, name: &str) -> FederationMap {
        let channel = self.channel(vec![address(name)]);
        let answer = channel.call(CALL, |channel| async move {
            let reply = FederationClient::new(channel).get_map(wire::GetMapRequest::default()).await?;
            Ok(convert::map_from_wire(reply.into_inner()))
        });
        answer.await.expect("it answers").unwrap_or_default()
    }

    /// Until every process that runs has a map of which this is true.
    async fn until(&self, what: &str, holds: impl Fn(&FederationMap) -> bool) {
        let deadline = Instant::now() + PATIENCE;
        for name in self.running.keys() {
            loop {
                let map = self.map(name).await;
                if holds(&map) {
                    break;
                }
                assert!(Instant::now() < deadline, "waited in vain at {name} until {what}: {map:#?}");
                sleep(Duration::from_millis(50)).await;
            }
        }
    }

    async fn session(&self, name: &str, nonce: u128) -> TestClient {
        let channel = self.channel(vec![address(name)]);
        let open = OpenSession {
            cluster: ClusterId::UNKNOWN,
            nonce: SessionNonce(nonce),
            client: "test".to_owned(),
        };
        let opened = channel
            .call(CALL, |channel| {
                let open = convert::open_session_to_wire(&open);
                async move {
                    let reply = MetaClient::new(channel).open_session(open).await?;
                    Ok(convert::session_opened_from_wire(reply.into_inner()))
                }
            })
            .await
            .expect("a session");
        TestClient { channel, opened, next: 1 }
    }
}

/// A session at one cluster.
struct TestClient {
    channel: LeaderChannel,
    opened: SessionOpened,
    next: u64,
}

impl TestClient {
    fn request(&mut self, change: Change) -> ChangeRequest {
        self.next += 1;
        ChangeRequest {
            cluster: self.opened.cluster,
            session: self.opened.session,
            request: RequestId(self.next),
            answered_below: RequestId(0),
            caller: Caller::ROOT,
            change,
        }
    }

    async fn send(&self, request: &ChangeRequest) -> MetaResult<Changed> {
        let request = convert::change_request_to_wire(request, None);
        let answer = self.channel.call(CALL, |channel| {
            let request = request.clone();
            async move {
                let reply = MetaClient::new(channel).change(request).await?;
                Ok(convert::changed_from_wire(reply.into_inner()))
            }
        });
        answer.await
    }

    async fn change(&mut self, change: Change) -> MetaResult<Changed> {
        let request = self.request(change);
        self.send(&request).await
    }

    async fn mkdir(&mut self, text: &str) -> MetaResult<InodeAttr> {
        match self.change(create(ROOT, text, NewInode::Directory)).await? {
            Changed::Inode { attr, .. } => Ok(attr),
            other => panic!("mkdir answered {other:?}"),
        }
    }

    async fn rmdir(&mut self, text: &str) -> MetaResult<Changed> {
        self.change(Change::Rmdir { parent: ROOT, name: name(text) }).await
    }

    async fn rename(&mut self, from: &str, to: &str) -> MetaResult<Changed> {
        let (name, new_name) = (name(from), name(to));
        let rename = Rename { parent: ROOT, name, new_parent: ROOT, new_name, mode: RenameMode::Replace };
        self.change(Change::Rename(rename)).await
    }

    async fn read(&self, read: Read) -> MetaResult<ReadReply> {
        let request = ReadRequest {
            cluster: self.opened.cluster,
            session: self.opened.session,
            caller: Caller::ROOT,
            leases: None,
            read,
        };
        let request = convert::read_request_to_wire(&request);
        let answer = self.channel.call(CALL, |channel| {
            let request = request.clone();
            async move {
                let reply = MetaClient::new(channel).read(request).await?;
                Ok(convert::shown_from_wire(reply.into_inner()).answered)
            }
        });
        answer.await
    }

    async fn lookup(&self, text: &str) -> MetaResult<ReadReply> {
        self.read(Read::Lookup { parent: ROOT, name: text.as_bytes().to_vec() }).await
    }
}

fn name(text: &str) -> Name {
    Name::new(text).unwrap()
}

fn create(parent: InodeId, text: &str, what: NewInode) -> Change {
    Change::Create(Create { parent, name: name(text), mode: 0o755, what, or_existing: false, opens: false })
}

fn phase_of(map: &FederationMap, volume: VolumeId) -> Option<VolumePhase> {
    map.volume(volume).map(|volume| volume.phase)
}

#[tokio::test(start_paused = true)]
async fn top_level_directories_become_volumes_of_all_clusters_and_files_in_the_root_stay_in_the_first() {
    let federation = TestFederation::start().await;
    let mut alpha = federation.session("alpha", 2).await;
    let mut made = Vec::new();
    for number in 0..6 {
        made.push(alpha.mkdir(&format!("d{number}")).await.expect("it is made").inode.volume());
    }
    federation
        .until("all are active", |map| {
            made.iter().all(|volume| phase_of(map, *volume) == Some(VolumePhase::Active))
        })
        .await;
    let map = federation.map("gamma").await;
    for (id, entry) in &map.clusters {
        let count = made.iter().filter(|volume| map.volume(**volume).unwrap().cluster == *id).count();
        assert_eq!(count, 2, "{}: {map:#?}", entry.name);
    }
    let file = alpha.change(create(ROOT, "f", NewInode::File)).await.expect("it is made");
    assert!(matches!(file, Changed::Inode { attr, .. } if attr.inode.volume() == VolumeId(0)));
    assert_eq!(alpha.mkdir("d0").await, Err(MetaError::Exists));
}

#[tokio::test(start_paused = true)]
async fn a_volume_of_another_cluster_is_used_there_renamed_here_and_removed_when_it_is_empty() {
    let federation = TestFederation::start().await;
    let mut alpha = federation.session("alpha", 2).await;
    let alpha_id = alpha.opened.cluster;
    let (mut elsewhere, mut count) = (None, 0);
    while elsewhere.is_none() {
        let made = alpha.mkdir(&format!("d{count}")).await.expect("it is made");
        let cluster = federation.map("alpha").await.volume(made.inode.volume()).unwrap().cluster;
        elsewhere = (cluster != alpha_id).then_some((made, cluster));
        count += 1;
    }
    let (made, cluster) = elsewhere.unwrap();
    let volume = made.inode.volume();
    let old = format!("d{}", count - 1);
    assert_eq!(alpha.lookup(&old).await, Ok(ReadReply::Elsewhere(made.inode)));
    let map = federation.map("alpha").await;
    let there = &map.cluster(cluster).unwrap().name;
    let mut other = federation.session(there, 3).await;
    let file = other.change(create(made.inode, "f", NewInode::File)).await.expect("it is made");
    assert!(matches!(file, Changed::Inode { attr, .. } if attr.inode.volume() == volume));
    assert_eq!(alpha.rmdir(&old).await, Err(MetaError::NotEmpty));
    assert_eq!(alpha.rename(&old, "v").await, Ok(Changed::Removed { orphan: None }));
    federation.until("the map has the name", |map| map.named(b"v") == Some(volume)).await;
    let unlink = Change::Unlink { parent: made.inode, name: name("f") };
    let orphan = other.change(unlink).await.expect("it is there");
    let Changed::Removed { orphan: Some(orphan) } = orphan else { panic!("{orphan:?}") };
    assert_eq!(alpha.rmdir("v").await, Ok(Changed::Removed { orphan: None }));
    assert_eq!(alpha.lookup("v").await, Err(MetaError::NotFound));
    federation
        .until("it is shown as removed", |map| phase_of(map, volume) == Some(VolumePhase::Removing))
        .await;
    other.change(Change::ReleaseOrphans { inodes: vec![orphan] }).await.expect("held");
    federation.until("nothing is left of it", |map| map.volume(volume).is_none()).await;
}

#[tokio::test(start_paused = true)]
async fn a_directory_in_the_root_is_made_once_however_often_it_is_asked_for() {
    let federation = TestFederation::start().await;
    let mut alpha = federation.session("alpha", 2).await;
    let request = alpha.request(create(ROOT, "d", NewInode::Directory));
    let (first, second) = tokio::join!(alpha.send(&request), alpha.send(&request));
    assert_eq!(first, second);
    assert_eq!(alpha.send(&request).await, first);
    federation
        .until("one volume is left", |map| {
            map.volumes.len() == 2 && map.volumes.iter().all(|(_, v)| v.phase == VolumePhase::Active)
        })
        .await;
}

#[tokio::test(start_paused = true)]
async fn with_another_cluster_away_its_volumes_are_known_and_those_of_the_rest_are_made_and_removed() {
    let mut federation = TestFederation::start().await;
    let mut alpha = federation.session("alpha", 2).await;
    let mut on_gamma = None;
    for number in 0..6 {
        let made = alpha.mkdir(&format!("d{number}")).await.expect("it is made");
        let map = federation.map("alpha").await;
        let cluster = map.volume(made.inode.volume()).unwrap().cluster;
        if map.cluster(cluster).unwrap().name == "gamma" {
            on_gamma = Some((format!("d{number}"), made.inode.volume()));
        }
    }
    let (lost, volume) = on_gamma.expect("gamma has got some");
    federation.stop("gamma").await;
    let started = Instant::now();
    let refused = alpha.rmdir(&lost).await;
    assert!(matches!(refused, Err(MetaError::Away { .. })), "{refused:?}");
    assert!(started.elapsed() < Duration::from_secs(10), "{:?}", started.elapsed());
    let started = Instant::now();
    assert!(matches!(alpha.rmdir(&lost).await, Err(MetaError::Away { .. })));
    assert!(started.elapsed() < Duration::from_millis(100), "{:?}", started.elapsed());
    assert_eq!(federation.map("beta").await.named(lost.as_bytes()), Some(volume));
    for number in 0..8 {
        let made = alpha.mkdir(&format!("more{number}")).await.expect("others have room");
        let map = federation.map("alpha").await;
        let at = map.volume(made.inode.volume()).unwrap().cluster;
        assert_ne!(map.cluster(at).unwrap().name, "gamma", "it is away");
        if number == 3 {
            let is_new = |phase| phase == VolumePhase::Creating;
            assert!(map.volumes.iter().any(|(_, v)| is_new(v.phase)), "gamma was chosen: {map:#?}");
            sleep(Duration::from_secs(10)).await; // gamma has not reported for longer than three times
        }
    }
    federation.start_process("gamma");
    let deadline = Instant::now() + PATIENCE;
    while alpha.rmdir(&lost).await.is_err() {
        assert!(Instant::now() < deadline, "gamma does not come back");
        sleep(Duration::from_millis(200)).await;
    }
    federation
        .until("nothing is left of it, nor of what gamma was chosen for", |map| {
            map.volume(volume).is_none()
                && map.volumes.iter().all(|(_, entry)| entry.phase == VolumePhase::Active)
        })
        .await;
}

#[tokio::test(start_paused = true)]
async fn a_process_that_starts_while_the_group_is_away_serves_the_last_map() {
    let mut federation = TestFederation::start().await;
    let mut alpha = federation.session("alpha", 2).await;
    alpha.mkdir("d").await.expect("it is made");
    federation.until("it has its name", |map| map.named(b"d").is_some()).await;
    sleep(Duration::from_secs(3)).await; // it is written a second later at the latest
    for name in NAMES {
        federation.stop(name).await;
    }
    federation.start_process("beta");
    let map = federation.map("beta").await;
    assert!(map.named(b"d").is_some(), "{map:#?}");
}
