//! What is answered without a request, and until when (`names/copy`).

use std::sync::Arc;
use std::time::Duration;

use dfs_proto::attr::{Caller, Name};
use dfs_proto::error::MetaError;
use dfs_proto::ids::{InodeId, VolumeId};
use dfs_proto::meta::{Create, NewInode, SetAttr};
use tokio::time::sleep;

use crate::error::ClientError;
use crate::fakes::{Cluster, USER, new_file, wait_for};
use crate::inode::{Client, GetAttr, Lookup, Unlink};

/// A client, and what it knows: a directory with a file in it.
struct Mount {
    cluster: Cluster,
    client: Arc<Client>,
    directory: InodeId,
    file: InodeId,
}

const OWNER: Caller = Caller { uid: 1000, gid: 1000, groups: None };

async fn make(client: &Client, parent: InodeId, name: &str, what: NewInode, mode: u32) -> InodeId {
    let create = Create { parent, what, mode, ..new_file(name) };
    client.perform(&OWNER, create).await.unwrap().attr.inode
}

impl Mount {
    async fn new() -> Mount {
        Mount::over(Cluster::new()).await
    }

    async fn over(cluster: Cluster) -> Mount {
        let client = cluster.client().await;
        wait_for("an attachment", || cluster.meta.state().leader.sessions().len() == 1).await;
        let root = cluster.meta.make_volume(VolumeId(5));
        let directory = make(&client, root, "d", NewInode::Directory, 0o755).await;
        let file = make(&client, directory, "f", NewInode::File, 0o644).await;
        Mount { cluster, client, directory, file }
    }

    /// A change of the file's attributes shows nothing under a lease.
    async fn forget_file(&self) {
        chmod(&self.client, self.file, 0o644).await.unwrap();
        self.cluster.meta.state().leader.leases.given.clear();
    }

    fn requests(&self) -> u64 {
        self.cluster.meta.state().reads
    }

    async fn stat(&self, inode: InodeId) -> Result<u32, ClientError> {
        self.client.perform(&USER, GetAttr { inode }).await.map(|attr| attr.mode)
    }

    async fn find(&self, name: &str) -> Result<InodeId, ClientError> {
        let lookup = Lookup { parent: self.directory, name: name.into() };
        self.client.perform(&USER, lookup).await.map(|attr| attr.inode)
    }

    /// So many requests does it take to ask for everything.
    async fn cost(&self) -> u64 {
        let before = self.requests();
        self.stat(self.directory).await.unwrap();
        self.stat(self.file).await.unwrap();
        drop(self.find("f").await);
        drop(self.find("absent").await);
        self.requests() - before
    }
}

async fn chmod(client: &Client, inode: InodeId, mode: u32) -> Result<(), ClientError> {
    let set = SetAttr { inode, mode: Some(mode), ..SetAttr::default() };
    client.perform(&OWNER, set).await.map(drop)
}

#[tokio::test(start_paused = true)]
async fn a_second_stat_and_a_second_lookup_cost_no_request() {
    let mount = Mount::new().await;
    assert_eq!(mount.cost().await, 1, "the creates have brought all but what is absent");
    mount.forget_file().await;
    assert_eq!(mount.cost().await, 1);
    for _ in 0..100 {
        assert_eq!(mount.cost().await, 0);
        assert_eq!(mount.find("f").await, Ok(mount.file));
        assert_eq!(mount.find("absent").await, Err(ClientError::NotFound));
        sleep(Duration::from_millis(300)).await; // heartbeats renew the leases
    }
    let state = mount.cluster.meta.state();
    assert_eq!(state.leader.attach_parts.len(), 1);
}

#[tokio::test(start_paused = true)]
async fn what_another_client_changes_is_asked_for_again_and_nothing_else() {
    let mount = Mount::new().await;
    let other = mount.cluster.client().await;
    mount.cost().await;
    chmod(&other, mount.file, 0o600).await.unwrap();
    assert_eq!(mount.stat(mount.file).await, Ok(0o600));
    assert_eq!(mount.cost().await, 0);
    let made = make(&other, mount.directory, "absent", NewInode::File, 0o644).await;
    let before = mount.requests();
    assert_eq!(mount.find("absent").await, Ok(made));
    assert_eq!(mount.stat(mount.directory).await, Ok(0o755));
    assert_eq!(mount.requests(), before + 2);
    assert_eq!(mount.find("f").await, Ok(mount.file));
    assert_eq!(mount.requests(), before + 2, "the directory's other names stay");
    other.perform(&OWNER, Unlink { parent: mount.directory, name: Name::new("f").unwrap() }).await.unwrap();
    assert_eq!(mount.find("f").await, Err(ClientError::NotFound));
    wait_for("the recalls to be answered", || {
        let state = mount.cluster.meta.state();
        state.leader.leases.handled.last().is_some_and(|(_, _, number)| *number == 3)
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_a_recall_has_overtaken_is_not_used_again() {
    let mount = Mount::new().await;
    let other = mount.cluster.client().await;
    mount.forget_file().await;
    mount.cluster.meta.state().leader.read_answer_delay = Duration::from_millis(50);
    let (client, file) = (mount.client.clone(), mount.file);
    let asking = tokio::spawn(async move { client.perform(&USER, GetAttr { inode: file }).await });
    wait_for("the question", || mount.cluster.meta.state().leader.leases.given.contains(&file)).await;
    chmod(&other, mount.file, 0o600).await.unwrap();
    assert_eq!(asking.await.unwrap().unwrap().mode, 0o644, "it was read before");
    assert_eq!(mount.stat(mount.file).await, Ok(0o600));
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_an_own_change_has_overtaken_is_not_used_again() {
    let mount = Mount::new().await;
    mount.forget_file().await;
    mount.cluster.meta.state().leader.read_answer_delay = Duration::from_millis(50);
    let (client, file) = (mount.client.clone(), mount.file);
    let asking = tokio::spawn(async move { client.perform(&USER, GetAttr { inode: file }).await });
    wait_for("the question", || mount.cluster.meta.state().leader.leases.given.contains(&file)).await;
    chmod(&mount.client, mount.file, 0o600).await.unwrap();
    assert_eq!(asking.await.unwrap().unwrap().mode, 0o644, "it was read before");
    assert_eq!(mount.stat(mount.file).await, Ok(0o600));
}

/// A look-up that came between the two was answered from the copy, when others saw the change already.
#[tokio::test(start_paused = true)]
async fn while_an_own_change_is_under_way_what_it_may_alter_is_asked_for_each_time() {
    let mount = Mount::new().await;
    mount.cost().await;
    mount.cluster.meta.state().leader.change_answer_delay = Duration::from_millis(100);
    let (client, file) = (mount.client.clone(), mount.file);
    let changing = tokio::spawn(async move { chmod(&client, file, 0o600).await });
    tokio::task::yield_now().await; // now it is under way
    let mut seen = Vec::new();
    while !changing.is_finished() {
        let before = mount.requests();
        seen.push(mount.stat(mount.file).await.unwrap());
        assert!(mount.requests() > before || changing.is_finished());
    }
    changing.await.unwrap().unwrap();
    assert!(seen.is_sorted_by(|earlier, later| earlier >= later), "0o644, then 0o600: {seen:?}");
    assert!(seen.contains(&0o600), "it was seen before it was answered");
}

#[tokio::test(start_paused = true)]
async fn own_changes_are_seen_at_once_whatever_their_outcome() {
    let mount = Mount::new().await;
    mount.cost().await;
    chmod(&mount.client, mount.file, 0o600).await.unwrap();
    assert_eq!(mount.stat(mount.file).await, Ok(0o600));
    let name = || Name::new("f").unwrap();
    let refused =
        mount.client.perform(&Caller { uid: 7, ..OWNER }, Unlink { parent: mount.directory, name: name() });
    assert!(refused.await.is_err());
    assert_eq!(mount.find("f").await, Ok(mount.file));
    mount.client.perform(&OWNER, Unlink { parent: mount.directory, name: name() }).await.unwrap();
    assert_eq!(mount.find("f").await, Err(ClientError::NotFound));
    let made = make(&mount.client, mount.directory, "absent", NewInode::File, 0o644).await;
    assert_eq!(mount.find("absent").await, Ok(made));
}

/// It is executed when its caller has given up, and recalls spare the session that asked only while the attachment lasts that the
/// change names.
#[tokio::test(start_paused = true)]
async fn a_change_that_happens_after_its_caller_gave_up_is_seen() {
    let mount = Mount::new().await;
    mount.cost().await;
    mount.cluster.meta.state().held.insert(Name::new("absent").unwrap());
    let create = Create { parent: mount.directory, ..new_file("absent") };
    let (client, started) = (mount.client.clone(), mount.cluster.meta.state().holds);
    let making = tokio::spawn(async move { client.perform(&OWNER, create).await });
    wait_for("it to be on its way", || mount.cluster.meta.state().holds > started).await;
    making.abort();
    assert!(making.await.is_err());
    sleep(Duration::from_millis(100)).await; // the session attaches anew
    mount.cost().await;
    assert_eq!(mount.cost().await, 0);
    assert_eq!(mount.find("absent").await, Err(ClientError::NotFound));
    // The fake has lost it with its caller; another member has it still.
    let late = mount.cluster.meta.execute_late();
    assert_eq!(mount.find("absent").await, Ok(late));
    assert_eq!(mount.find("absent").await, Ok(late));
}

#[tokio::test(start_paused = true)]
async fn without_answers_to_heartbeats_the_copy_ends_with_its_term() {
    let mount = Mount::new().await;
    mount.cost().await;
    mount.cluster.meta.state().leader.lost_heartbeats = 1000;
    sleep(Duration::from_millis(500)).await;
    assert_eq!(mount.cost().await, 0);
    sleep(Duration::from_millis(2000)).await;
    assert_eq!(mount.cost().await, 4);
    assert_eq!(mount.cost().await, 4, "the leases have ended");
    mount.cluster.meta.state().leader.lost_heartbeats = 0;
    sleep(Duration::from_millis(2000)).await;
    mount.cost().await;
    assert_eq!(mount.cost().await, 0);
}

#[tokio::test(start_paused = true)]
async fn a_recall_that_has_not_arrived_stops_the_renewal() {
    let mount = Mount::new().await;
    let other = mount.cluster.client().await;
    mount.cost().await;
    mount.cluster.meta.state().leader.leases.are_pushes_late = true;
    chmod(&other, mount.file, 0o600).await.unwrap(); // after the leases have ended, as the leader counts
    sleep(Duration::from_millis(2000)).await;
    assert_eq!(mount.stat(mount.file).await, Ok(0o600), "heartbeats were answered, and renewed nothing");
    assert_eq!(mount.cost().await, 4);
    mount.cluster.meta.state().leader.deliver_late();
    mount.cost().await;
    assert_eq!(mount.cost().await, 0, "now the last one counts");
}

#[tokio::test(start_paused = true)]
async fn when_the_leader_cannot_be_told_of_a_recall_the_session_attaches_anew() {
    let mount = Mount::new().await;
    let other = mount.cluster.client().await;
    mount.cost().await;
    sleep(Duration::from_millis(100)).await;
    mount.cluster.meta.state().leader.lost_recalled = 1;
    chmod(&other, mount.file, 0o600).await.unwrap();
    wait_for("an attachment", || mount.cluster.meta.state().leader.attach_parts.len() == 3).await;
    sleep(Duration::from_millis(100)).await;
    assert_eq!(mount.cost().await, 4);
    assert_eq!(mount.cost().await, 0);
}

#[tokio::test(start_paused = true)]
async fn another_leader_or_session_ends_the_copy() {
    let mount = Mount::new().await;
    mount.cost().await;
    mount.cluster.meta.state().leader.replace();
    wait_for("an attachment", || mount.cluster.meta.state().leader.sessions().len() == 1).await;
    assert_eq!(mount.cost().await, 4);
    sleep(Duration::from_millis(10)).await;
    mount.cost().await;
    assert_eq!(mount.cost().await, 0);
    mount.cluster.meta.expire_all();
    wait_for("an attachment", || mount.cluster.meta.state().leader.sessions().len() == 1).await;
    assert_eq!(mount.cost().await, 4);
}

#[tokio::test(start_paused = true)]
async fn who_may_not_search_the_directory_is_refused_as_the_cluster_refuses() {
    let mount = Mount::new().await;
    chmod(&mount.client, mount.directory, 0o750).await.unwrap();
    mount.cost().await;
    let look = |caller: Caller| {
        let lookup = Lookup { parent: mount.directory, name: "f".into() };
        let client = mount.client.clone();
        async move { client.perform(&caller, lookup).await.map(|attr| attr.inode) }
    };
    let stranger = |groups| Caller { uid: 7, gid: 7, groups };
    let before = mount.requests();
    assert_eq!(look(stranger(Some(vec![8]))).await, Err(ClientError::PermissionDenied));
    assert_eq!(look(stranger(None)).await, Err(ClientError::from(MetaError::GroupsNeeded)));
    assert_eq!(mount.requests(), before + 2);
    assert_eq!(look(stranger(Some(vec![1000]))).await, Ok(mount.file));
    assert_eq!(look(Caller::ROOT).await, Ok(mount.file));
    assert_eq!(mount.requests(), before + 2);
}

#[tokio::test(start_paused = true)]
async fn with_a_leader_of_an_earlier_release_everything_is_asked_each_time() {
    let cluster = Cluster::new();
    cluster.meta.state().leader.leases.term_ms = 0;
    let mount = Mount::over(cluster).await;
    for _ in 0..3 {
        assert_eq!(mount.cost().await, 4);
    }
    let state = mount.cluster.meta.state();
    assert!(state.leader.leases.given.is_empty());
}

#[tokio::test(start_paused = true)]
async fn what_the_answer_to_an_own_change_shows_is_known_until_others_change_it() {
    let mount = Mount::new().await;
    let other = mount.cluster.client().await;
    let unlink = |name| Unlink { parent: mount.directory, name: Name::new(name).unwrap() };
    let made = make(&mount.client, mount.directory, "g", NewInode::File, 0o640).await;
    mount.client.perform(&OWNER, unlink("f")).await.unwrap();
    let before = mount.requests();
    assert_eq!(mount.find("g").await, Ok(made));
    assert_eq!(mount.find("f").await, Err(ClientError::NotFound));
    assert_eq!((mount.stat(made).await, mount.stat(mount.directory).await), (Ok(0o640), Ok(0o755)));
    assert_eq!(mount.requests(), before);
    let again = make(&other, mount.directory, "f", NewInode::File, 0o600).await;
    other.perform(&OWNER, unlink("g")).await.unwrap();
    assert_eq!(mount.find("f").await, Ok(again));
    assert_eq!(mount.find("g").await, Err(ClientError::NotFound));
}
