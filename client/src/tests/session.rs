//! Sessions that end, and inodes without a name.

use std::time::Duration;

use dfs_proto::error::MetaError;
use dfs_proto::ids::ServerId;
use dfs_proto::meta::{Create, NewInode, SetAttr};
use dfs_proto::units::{ByteLen, Offset, REQUEST_WINDOW};
use tokio::time::timeout;

use crate::error::ClientError;
use crate::fakes::{Cluster, USER, create, make, new_file, open, unlink, wait_for};
use crate::inode::GetAttr;

#[tokio::test(start_paused = true)]
async fn an_expired_session_fails_unflushed_files_once_and_a_new_one_goes_on() {
    let cluster = Cluster::new();
    let client = cluster.client().await;
    let (dirty, clean) = (make(&client, "dirty").await, make(&client, "clean").await);
    dirty.write_at(&USER, Offset(0), b"kept").await.unwrap();
    clean.write_at(&USER, Offset(0), b"kept").await.unwrap();
    dirty.sync().await.unwrap();
    clean.sync().await.unwrap();
    dirty.write_at(&USER, Offset(0), b"lost").await.unwrap();
    cluster.meta.expire_all();
    assert_eq!(dirty.sync().await, Err(ClientError::SessionLost));
    assert_eq!(dirty.sync().await, Ok(()));
    assert_eq!(&dirty.read_at(Offset(0), 9).await.unwrap()[..], b"kept");
    for file in [&dirty, &clean] {
        file.write_at(&USER, Offset(4), b" and new").await.unwrap();
        file.sync().await.unwrap();
        assert_eq!(cluster.read_elsewhere(file.inode()).await, b"kept and new");
    }
    make(&client, "more").await;
}

#[tokio::test(start_paused = true)]
async fn a_heartbeat_notices_that_the_session_ended() {
    let cluster = Cluster::new();
    let client = cluster.client().await;
    let file = make(&client, "f").await;
    file.write_at(&USER, Offset(0), b"lost").await.unwrap();
    cluster.meta.expire_all();
    wait_for("the bytes to be dropped", || file.attr().size == ByteLen(0)).await;
    assert_eq!(file.write_at(&USER, Offset(0), b"x").await, Err(ClientError::SessionLost));
    assert_eq!(file.write_at(&USER, Offset(0), b"x").await, Ok(()));
}

/// Its failure dropped whatever was buffered by then: bytes of the session that had taken its place.
#[tokio::test(start_paused = true)]
async fn a_flush_that_began_under_a_replaced_session_drops_nothing_of_the_new_one() {
    let cluster = Cluster::new();
    let client = cluster.client().await;
    let file = make(&client, "f").await;
    file.write_at(&USER, Offset(0), b"lost").await.unwrap();
    (1..=3).for_each(|id| cluster.chunks.silence(ServerId(id), true));
    let flushing = tokio::spawn({
        let file = file.clone();
        async move { file.sync().await }
    });
    wait_for("the flush to have opened a chunk", || cluster.meta.open_chunks() == 1).await;
    cluster.meta.expire_all();
    wait_for("the bytes to be dropped", || file.attr().size == ByteLen(0)).await;
    assert!(!flushing.is_finished(), "it waits for the chunkservers");
    assert_eq!(file.write_at(&USER, Offset(0), b"x").await, Err(ClientError::SessionLost));
    file.write_at(&USER, Offset(0), b"new").await.unwrap();
    assert_eq!(flushing.await.unwrap(), Err(ClientError::SessionLost));
    (1..=3).for_each(|id| cluster.chunks.silence(ServerId(id), false));
    assert_eq!(file.sync().await, Ok(()));
    assert_eq!(cluster.read_elsewhere(file.inode()).await, b"new");
}

#[tokio::test(start_paused = true)]
async fn a_file_unlinked_while_open_stays_usable_and_is_released_at_the_last_close() {
    let cluster = Cluster::new();
    let client = cluster.client().await;
    let first = make(&client, "f").await;
    let second = open(&client, first.inode()).await.unwrap();
    first.write_at(&USER, Offset(0), b"still").await.unwrap();
    client.perform(&USER, unlink("f")).await.unwrap();
    first.flush().await.unwrap();
    first.release().await.unwrap();
    second.write_at(&USER, Offset(5), b" here").await.unwrap();
    assert_eq!(&second.read_at(Offset(0), 99).await.unwrap()[..], b"still here");
    assert!(cluster.meta.state().released.is_empty());
    let commits = cluster.meta.state().commit_requests;
    second.flush().await.unwrap();
    second.release().await.unwrap();
    wait_for("the release", || cluster.meta.state().released == [second.inode()]).await;
    assert_eq!(cluster.meta.state().commit_requests, commits, "nobody can ever read it");
}

#[tokio::test(start_paused = true)]
async fn a_file_that_another_client_removed_stays_readable_and_writable_where_it_is_open() {
    let cluster = Cluster::new();
    let (remover, holder) = (cluster.client().await, cluster.client().await);
    let file = make(&holder, "f").await;
    file.write_at(&USER, Offset(0), b"before").await.unwrap();
    file.sync().await.unwrap();
    remover.perform(&USER, unlink("f")).await.unwrap();
    wait_for("the remover's release", || cluster.meta.state().released == [file.inode()]).await;
    file.write_at(&USER, Offset(6), b" and after").await.unwrap();
    file.sync().await.unwrap();
    assert_eq!(&file.read_at(Offset(0), 99).await.unwrap()[..], b"before and after");
    let again = open(&holder, file.inode()).await.unwrap();
    assert_eq!(&again.read_at(Offset(0), 99).await.unwrap()[..], b"before and after");
    let set = SetAttr { inode: file.inode(), size: Some(ByteLen(6)), by_handle: true, ..SetAttr::default() };
    holder.perform(&USER, set).await.unwrap();
    assert_eq!(&again.read_at(Offset(0), 99).await.unwrap()[..], b"before");
    let attr = holder.perform(&USER, GetAttr { inode: file.inode() }).await.unwrap();
    assert_eq!((attr.nlink, attr.size), (0, ByteLen(6)));
    assert_eq!(open(&remover, file.inode()).await.err(), Some(ClientError::Stale));
    again.release().await.unwrap();
    assert_eq!(file.release().await, Ok(()));
}

#[tokio::test(start_paused = true)]
async fn what_nobody_has_open_is_released_soon_after_the_unlink_many_in_one_request() {
    let cluster = Cluster::new();
    let client = cluster.client().await;
    for index in 0..50 {
        client.perform(&USER, new_file(&format!("f{index}"))).await.unwrap();
    }
    for index in 0..50 {
        client.perform(&USER, unlink(&format!("f{index}"))).await.unwrap();
    }
    wait_for("the releases", || cluster.meta.state().released.len() == 50).await;
    assert!(cluster.meta.state().changes <= 102 + 2);
}

#[tokio::test(start_paused = true)]
async fn more_requests_than_the_window_holds_all_get_their_answer() {
    let cluster = Cluster::new();
    let client = cluster.client().await;
    let names: Vec<String> = (0..1000).map(|i| format!("f{i}")).collect();
    let creates = names.iter().map(|name| client.perform(&USER, new_file(name)));
    let made = futures::future::join_all(creates).await;
    assert!(made.iter().all(Result::is_ok));
}

/// The window of a session's requests was one: while a volume of a cluster that is lost was being removed, everything of
/// that mount stopped after 255 more changes.
#[tokio::test(start_paused = true)]
async fn changes_that_are_slow_hold_no_other_change_back() {
    let cluster = Cluster::new();
    let client = cluster.client().await;
    let mut slow = Vec::new();
    for (round, what) in
        [NewInode::Directory, NewInode::File, NewInode::Directory, NewInode::File].into_iter().enumerate()
    {
        let create = Create { what, ..new_file(&format!("slow{round}")) };
        cluster.meta.state().held.insert(create.name.clone());
        let making = client.clone();
        slow.push(tokio::spawn(async move { making.perform(&USER, create).await }));
        wait_for("it to be under way", || cluster.meta.state().holds == slow.len()).await;
        let others = async {
            for index in 0..2 * REQUEST_WINDOW {
                client.perform(&USER, new_file(&format!("{round}-{index}"))).await.unwrap();
            }
            let file = make(&client, &format!("f{round}")).await;
            file.write_at(&USER, Offset(0), b"x").await.unwrap();
            file.sync().await.unwrap();
        };
        timeout(Duration::from_secs(5), others).await.expect("others do not wait for it");
    }
    assert!(slow.iter().all(|making| !making.is_finished()));
    cluster.meta.state().held.clear();
    for making in slow {
        assert!(!making.await.unwrap().unwrap().existed);
    }
}

#[tokio::test(start_paused = true)]
async fn a_cluster_that_never_answered_fails_what_comes_next_and_one_that_could_not_decide_does_not() {
    let cluster = Cluster::new();
    let client = cluster.client().await;
    let what = || "v is being removed".to_owned();
    for (refused, goes_on) in
        [(MetaError::Undecided { what: what() }, true), (MetaError::Unavailable { what: what() }, false)]
    {
        cluster.meta.state().refuses_creates = Some(refused.clone());
        let answer = create(&client, new_file("f")).await;
        assert!(matches!(answer, Err(ClientError::Unavailable { .. })));
        cluster.meta.state().refuses_creates = None;
        let next = create(&client, new_file("g")).await;
        assert_eq!(next.is_ok(), goes_on, "after {refused}");
    }
}
