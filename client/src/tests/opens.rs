//! Files that are opened without a request, under the lease of their attributes (P6.5).

use std::sync::Arc;
use std::time::Duration;

use dfs_proto::attr::{Caller, Name};
use dfs_proto::ids::{InodeId, VolumeId};
use dfs_proto::meta::{Create, NewInode, SetAttr};
use dfs_proto::units::Offset;
use tokio::time::sleep;

use crate::error::Result;
use crate::fakes::{Cluster, READ_WRITE, USER, new_file, open_to_read, wait_for};
use crate::inode::{Client, CreateOpen, File, GetAttr, Open, OpenMode, Unlink};

const STRANGER: Caller = Caller { uid: 2000, gid: 2000, groups: None };

/// A client that has looked at a file with five bytes, and another one.
struct Mounts {
    cluster: Cluster,
    client: Arc<Client>,
    other: Arc<Client>,
    root: InodeId,
    file: InodeId,
}

impl Mounts {
    async fn new() -> Mounts {
        Mounts::of_leader_that_covers(true).await
    }

    async fn of_leader_that_covers(covers_opens: bool) -> Mounts {
        let cluster = Cluster::new();
        cluster.meta.state().leader.covers_opens = covers_opens;
        let (client, other) = (cluster.client().await, cluster.client().await);
        wait_for("attachments", || cluster.meta.state().leader.sessions().len() == 2).await;
        let root = cluster.meta.make_volume(VolumeId(5));
        let create = Create { parent: root, what: NewInode::File, mode: 0o640, ..new_file("f") };
        let (made, attr) = other.perform(&USER, CreateOpen { create, mode: READ_WRITE }).await.unwrap();
        made.write_at(&USER, Offset(0), b"bytes").await.unwrap();
        made.sync().await.unwrap();
        made.release().await.unwrap();
        let mounts = Mounts { cluster, client, other, root, file: attr.inode };
        mounts.look().await;
        mounts
    }

    /// Afterwards the client's copy has the file's attributes, and a leader has opened a file of its volume.
    async fn look(&self) {
        assert_eq!(self.read().await, b"bytes");
        self.wait_until_told().await;
        self.client.perform(&USER, GetAttr { inode: self.file }).await.unwrap();
    }

    async fn open(&self) -> Result<Arc<File>> {
        open_to_read(&self.client, self.file).await
    }

    async fn read(&self) -> Vec<u8> {
        let opened = self.open().await.unwrap();
        let bytes = opened.read_at(Offset(0), 100).await.unwrap();
        opened.release().await.unwrap();
        bytes.to_vec()
    }

    fn requests(&self) -> u64 {
        self.cluster.meta.state().reads
    }

    /// So many requests does an open take.
    async fn cost(&self, caller: &Caller, mode: OpenMode) -> u64 {
        let before = self.requests();
        drop(self.client.perform(caller, Open { inode: self.file, mode }).await);
        self.requests() - before
    }

    /// Until the leader knows of each close that it is told.
    async fn wait_until_told(&self) {
        let is_open = |session| self.cluster.meta.state().leader.open_of(session).contains(&self.file);
        let sessions = self.cluster.meta.state().leader.sessions();
        wait_for("the closes to be told", || !sessions.iter().any(|session| is_open(*session))).await;
        sleep(Duration::from_millis(1100)).await; // and the answer
    }

    fn is_known_to_be_open(&self) -> bool {
        let leader = &self.cluster.meta.state().leader;
        leader.sessions().iter().any(|session| leader.open_of(*session).contains(&self.file))
    }

    fn name(&self) -> Name {
        Name::new("f").unwrap()
    }
}

const READ: OpenMode = OpenMode { read: true, write: false, truncate: false };

#[tokio::test(start_paused = true)]
async fn a_file_that_was_looked_at_is_opened_read_and_closed_without_a_request() {
    let mounts = Mounts::new().await;
    let before = mounts.requests();
    for _ in 0..100 {
        assert_eq!(mounts.read().await, b"bytes");
        sleep(Duration::from_millis(300)).await; // heartbeats renew the leases
    }
    assert_eq!(mounts.requests(), before);
    let state = mounts.cluster.meta.state();
    assert_eq!(
        (state.leader.closed.len(), state.leader.attach_parts.len()),
        (2, 2),
        "nobody is told of that"
    );
}

#[tokio::test(start_paused = true)]
async fn the_leader_is_asked_unless_the_file_is_only_read_and_the_rights_are_clear() {
    let mounts = Mounts::new().await;
    assert_eq!(mounts.cost(&USER, READ).await, 0);
    assert_eq!(mounts.cost(&Caller::ROOT, READ).await, 0);
    assert_eq!(mounts.cost(&STRANGER, READ).await, 1, "a refusal is the leader's own");
    assert!(mounts.cost(&USER, READ_WRITE).await >= 1);
    let mounts = Mounts::of_leader_that_covers(false).await;
    assert_eq!(mounts.cost(&USER, READ).await, 1, "it is of an earlier release");
}

#[tokio::test(start_paused = true)]
async fn the_first_file_of_a_volume_is_opened_by_the_leader_so_that_the_next_one_knows_of_the_session() {
    let mounts = Mounts::new().await;
    let fresh = mounts.cluster.client().await;
    wait_for("an attachment", || mounts.cluster.meta.state().leader.sessions().len() == 3).await;
    fresh.perform(&USER, GetAttr { inode: mounts.file }).await.unwrap();
    let before = mounts.requests();
    let first = open_to_read(&fresh, mounts.file).await.unwrap();
    assert_eq!(mounts.requests(), before + 1);
    first.release().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn the_answer_to_a_recall_names_the_open_and_then_its_close_is_told() {
    let mounts = Mounts::new().await;
    let opened = mounts.open().await.unwrap();
    assert!(!mounts.is_known_to_be_open());
    let set = SetAttr { inode: mounts.file, mode: Some(0o600), ..SetAttr::default() };
    mounts.other.perform(&USER, set).await.unwrap();
    wait_for("the answer", || mounts.is_known_to_be_open()).await;
    assert_eq!(mounts.cluster.meta.state().leader.open_when_recalled, [mounts.file]);
    opened.release().await.unwrap();
    mounts.wait_until_told().await;
    assert_eq!(mounts.cost(&USER, READ).await, 1, "the attributes were recalled");
}

#[tokio::test(start_paused = true)]
async fn an_attachment_names_what_was_opened_without_a_request() {
    let mounts = Mounts::new().await;
    let opened = mounts.open().await.unwrap();
    mounts.cluster.meta.state().leader.replace();
    wait_for("an attachment", || mounts.is_known_to_be_open()).await;
    drop(opened);
    mounts.wait_until_told().await;
}

#[tokio::test(start_paused = true)]
async fn after_an_answer_to_a_recall_that_was_lost_the_open_is_told_by_an_attachment() {
    let mounts = Mounts::new().await;
    let _opened = mounts.open().await.unwrap();
    mounts.cluster.meta.state().leader.lost_recalled = 1;
    let set = SetAttr { inode: mounts.file, mode: Some(0o600), ..SetAttr::default() };
    mounts.other.perform(&USER, set).await.unwrap();
    wait_for("an attachment", || mounts.is_known_to_be_open()).await;
    let state = mounts.cluster.meta.state();
    assert_eq!(state.leader.open_when_recalled, []);
    assert_eq!(state.leader.attach_parts.len(), 3);
}

#[tokio::test(start_paused = true)]
async fn a_file_that_the_client_itself_unlinks_stays_readable_and_is_released_with_its_close() {
    let mounts = Mounts::new().await;
    let opened = mounts.open().await.unwrap();
    let unlink = Unlink { parent: mounts.root, name: mounts.name() };
    mounts.client.perform(&USER, unlink).await.unwrap();
    assert_eq!(&opened.read_at(Offset(0), 100).await.unwrap()[..], b"bytes");
    sleep(Duration::from_secs(5)).await;
    assert_eq!(&opened.read_at(Offset(0), 100).await.unwrap()[..], b"bytes");
    assert_eq!(mounts.cluster.meta.state().released, []);
    opened.release().await.unwrap();
    wait_for("the release", || mounts.cluster.meta.state().released == [mounts.file]).await;
}

/// The recall comes between the look at the copy and the moment when the open is used.
#[tokio::test(start_paused = true)]
async fn an_open_that_a_recall_meets_is_named_by_its_answer_or_asked_for() {
    let mounts = Mounts::new().await;
    for round in 0..50_u64 {
        mounts.look().await;
        let before = mounts.requests();
        let (client, file) = (mounts.client.clone(), mounts.file);
        let opening = tokio::spawn(async move { open_to_read(&client, file).await });
        let set = SetAttr { inode: mounts.file, mode: Some(0o640), ..SetAttr::default() };
        sleep(Duration::from_micros(round * 40)).await;
        mounts.other.perform(&USER, set).await.unwrap();
        let opened = opening.await.unwrap().unwrap();
        wait_for("the leader to know", || mounts.is_known_to_be_open()).await;
        assert!(mounts.requests() <= before + 1);
        opened.release().await.unwrap();
    }
}
