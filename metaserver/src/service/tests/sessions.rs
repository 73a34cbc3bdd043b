//! Sessions that end.

use super::*;

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
    let close = RenewSession::of(client.opened.cluster, client.opened.session);
    let closed = client.meta.close_session(convert::renew_to_wire(&close)).await.expect("an answer");
    assert_eq!(closed.into_inner().error, None);
    sleep(Duration::from_secs(1)).await;
    assert_eq!(cluster.status(1).await.map(|s| (s.inodes, s.sessions, s.chunks_open)), Ok((1, 0, 0)));
    assert_eq!(client.renew().await, Err(MetaError::SessionExpired { session: SessionId(1) }));
    drop(servers);
}
