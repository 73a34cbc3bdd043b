//! How the leader is told what a session holds.

use std::sync::Arc;
use std::time::Duration;

use dfs_net::env::{Env, Rng};
use dfs_proto::ids::{ClusterId, InodeId, LockOwner, SessionId};
use dfs_proto::lock::{HeldLock, LockKind, LockRange};
use tokio::time::sleep;

use crate::data::writes::Writes;
use crate::error::ClientError;
use crate::fakes::{Cluster, create, make, new_file, open, wait_for};
use crate::names::NoOuterCache;
use crate::names::copy::LeasedCopy;
use crate::session::leases::Leases;
use crate::session::meta::MetaClient;
use crate::session::ranges::LockLoss;

async fn session(cluster: &Cluster) -> Arc<MetaClient> {
    let env = Env { rng: Rng::seeded(1), ..Env::real() };
    let timeout = Duration::from_secs(30);
    let (reads, writes) =
        (LeasedCopy::new(env.clock.clone(), Arc::new(NoOuterCache)), Writes::new(env.clock.clone()));
    let (leases, name) = (Leases { reads, writes }, "test".to_owned());
    let (cluster, timeouts) = (cluster.calls(), (timeout, timeout));
    let connected = MetaClient::connect(cluster, env, leases, name, ClusterId::UNKNOWN, timeouts);
    let meta = Arc::new(connected.await.unwrap());
    let running = meta.clone();
    tokio::spawn(async move { running.run_control().await });
    meta
}

async fn attached(cluster: &Cluster) -> SessionId {
    wait_for("an attachment", || cluster.meta.state().leader.sessions().len() == 1).await;
    cluster.meta.state().leader.sessions()[0]
}

#[tokio::test(start_paused = true)]
async fn thousands_of_open_files_are_told_in_parts() {
    let cluster = Cluster::new();
    let meta = session(&cluster).await;
    let session = attached(&cluster).await;
    let mut opened = Vec::new();
    for number in 1..=25_000 {
        opened.push(meta.held.opening(InodeId(number)).await.unwrap());
    }
    for number in 0..3 {
        let range = LockRange { start: 2 * number, end: 2 * number };
        let lock =
            HeldLock { inode: InodeId(1), owner: LockOwner(1), range, kind: LockKind::Shared, process: 1 };
        meta.set_lock(lock, &LockLoss::default(), false).await.unwrap();
    }
    cluster.meta.state().leader.replace();
    wait_for("the next attachment", || cluster.meta.state().leader.open_of(session).len() == 25_000).await;
    let state = cluster.meta.state();
    assert_eq!(state.leader.attach_parts, [(0, 0), (3, 9_997), (0, 10_000), (0, 5_003)]);
    assert_eq!(state.leader.locks.counts(), (3, 0));
}

#[tokio::test(start_paused = true)]
async fn an_attachment_whose_answer_was_lost_is_told_again_under_another_number() {
    let cluster = Cluster::new();
    cluster.meta.state().leader.lost_attach_answers = 2;
    let meta = session(&cluster).await;
    let session = attached(&cluster).await;
    let lock = HeldLock {
        inode: InodeId(1),
        owner: LockOwner(1),
        range: LockRange::WHOLE,
        kind: LockKind::Shared,
        process: 1,
    };
    meta.set_lock(lock, &LockLoss::default(), false).await.unwrap();
    assert_eq!(cluster.meta.state().leader.attachment(session).map(|attachment| attachment.0), Some(3));
}

#[tokio::test(start_paused = true)]
async fn a_session_on_which_nothing_changes_attaches_once() {
    let cluster = Cluster::new();
    let _client = cluster.client().await;
    sleep(Duration::from_secs(100)).await;
    let state = cluster.meta.state();
    assert_eq!(state.leader.attach_parts.len(), 1);
    assert!((90..=110).contains(&state.leader.heartbeats), "{}", state.leader.heartbeats);
    assert!(state.leader.closed.is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_closed_file_is_told_with_a_heartbeat_again_if_that_got_no_answer() {
    let cluster = Cluster::new();
    let client = cluster.client().await;
    let session = attached(&cluster).await;
    let file = make(&client, "f").await;
    let inode = file.inode();
    assert!(cluster.meta.state().leader.open_of(session).contains(&inode));
    cluster.meta.state().leader.lost_heartbeats = 1;
    file.release().await.unwrap();
    wait_for("it to be told twice", || cluster.meta.state().leader.closed == [inode, inode]).await;
    assert!(!cluster.meta.state().leader.open_of(session).contains(&inode));
    sleep(Duration::from_secs(10)).await;
    assert_eq!(cluster.meta.state().leader.closed.len(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_file_that_is_opened_again_while_its_close_is_on_the_way_is_known_to_be_open() {
    let cluster = Cluster::new();
    cluster.meta.state().leader.heartbeat_delay = Duration::from_millis(20);
    let client = cluster.client().await;
    let session = attached(&cluster).await;
    let file = make(&client, "f").await;
    let inode = file.inode();
    file.release().await.unwrap();
    for _ in 0..500 {
        let next = open(&client, inode).await.unwrap();
        sleep(Duration::from_millis(7)).await;
        assert!(cluster.meta.state().leader.open_of(session).contains(&inode));
        next.release().await.unwrap();
        sleep(Duration::from_millis(7)).await;
    }
    wait_for("the last close", || !cluster.meta.state().leader.open_of(session).contains(&inode)).await;
}

#[tokio::test(start_paused = true)]
async fn what_is_opened_while_an_attachment_is_on_the_way_is_not_forgotten() {
    let cluster = Cluster::new();
    let client = cluster.client().await;
    let session = attached(&cluster).await;
    let mut inodes = Vec::new();
    for index in 0..300 {
        let file = make(&client, &format!("f{index}")).await;
        inodes.push(file.inode());
        file.release().await.unwrap();
    }
    wait_for("the closes to be told", || cluster.meta.state().leader.closed.len() == 300).await;
    cluster.meta.state().leader.attach_delay = Duration::from_millis(200);
    cluster.meta.state().leader.replace();
    let mut files = Vec::new();
    for inode in &inodes {
        files.push(open(&client, *inode).await.unwrap());
        sleep(Duration::from_millis(7)).await;
    }
    assert_eq!(cluster.meta.state().leader.attach_parts.len(), 2);
    let open = cluster.meta.state().leader.open_of(session);
    assert_eq!(inodes.iter().filter(|inode| !open.contains(inode)).count(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_file_whose_making_is_answered_after_an_attachment_is_told_with_the_next() {
    let cluster = Cluster::new();
    let client = cluster.client().await;
    let session = attached(&cluster).await;
    cluster.meta.state().leader.create_answer_delay = Duration::from_secs(3);
    let maker = client.clone();
    let making = tokio::spawn(async move { make(&maker, "f").await });
    wait_for("it to be made", || cluster.meta.state().changes == 1).await;
    cluster.meta.state().leader.replace();
    wait_for("the attachment", || cluster.meta.state().leader.attachment(session).is_some()).await;
    assert!(cluster.meta.state().leader.open_of(session).is_empty());
    let file = making.await.unwrap();
    wait_for("the next one", || cluster.meta.state().leader.open_of(session).contains(&file.inode())).await;
}

#[tokio::test(start_paused = true)]
async fn a_file_whose_making_was_given_up_is_told_to_be_closed() {
    let cluster = Cluster::new();
    let client = cluster.client().await;
    let session = attached(&cluster).await;
    cluster.meta.state().leader.create_answer_delay = Duration::from_secs(3);
    let maker = client.clone();
    let making = tokio::spawn(async move { make(&maker, "f").await });
    wait_for("it to be made", || cluster.meta.state().leader.open_of(session).len() == 1).await;
    making.abort();
    wait_for("the close to be told", || cluster.meta.state().leader.open_of(session).is_empty()).await;
    assert_eq!(cluster.meta.state().leader.attach_parts.len(), 1, "it has not attached anew for it");
}

#[tokio::test(start_paused = true)]
async fn a_file_whose_making_was_not_answered_is_open_nowhere() {
    let cluster = Cluster::new();
    let client = cluster.client().await;
    let session = attached(&cluster).await;
    cluster.meta.state().leader.create_answer_delay = Duration::from_secs(1000);
    let made = create(&client, new_file("f")).await.map(drop);
    assert!(matches!(made, Err(ClientError::Unavailable { .. })), "{made:?}");
    wait_for("the next attachment", || cluster.meta.state().leader.open_of(session).is_empty()).await;
}
