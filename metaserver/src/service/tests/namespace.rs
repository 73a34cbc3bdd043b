//! Changes and reads of the namespace, over a change of leader too.

use super::*;

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
    let Ok(ReadReply::Opened { attr, next_commit, extents }) = opened else { panic!("{opened:?}") };
    assert_eq!((attr, next_commit), (secret, 1));
    assert_eq!(extents.map(|extents| extents.extents), Some(Vec::new()));
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
        assert!(entries.len() <= crate::service::namespace::ENTRIES_MAX as usize);
        cookie = entries.last().map_or(cookie, |entry| entry.cookie);
        seen.extend(entries.into_iter().map(|entry| entry.name));
        pages += 1;
        if end {
            break;
        }
    }
    assert_eq!((seen.len(), pages), (1200, 2));
}
