//! What administrators are shown of sessions, and sessions that they end.

use super::*;

impl Cluster {
    async fn admin(&self) -> AdminClient<Channel> {
        AdminClient::new(self.leader_channel().await)
    }

    async fn sessions(&self, of: ClusterId, from: u64, limit: u32) -> wire::ListSessionsReply {
        let request = wire::ListSessionsRequest { cluster: of.to_wire().into(), from, limit };
        self.admin().await.list_sessions(request).await.expect("an answer").into_inner()
    }

    async fn session(&self, mount: &Mount) -> wire::SessionStatus {
        let id = mount.session().0;
        let mut reply = self.sessions(mount.opened.cluster, id, 1).await;
        assert_eq!(reply.sessions.first().map(|session| session.session), Some(id));
        reply.sessions.remove(0)
    }

    async fn expire(&self, of: ClusterId, session: SessionId) -> MetaResult<wire::SessionStatus> {
        let request = wire::ExpireSessionRequest { cluster: of.to_wire().into(), session: session.0 };
        let reply = self.admin().await.expire_session(request).await.expect("an answer").into_inner();
        convert::refusal(reply.error).map(|()| reply.ended.expect("what it held"))
    }

    async fn held(&self) -> wire::HeldStatus {
        self.status(self.leader().await).await.expect("an answer").held.expect("a leader tells")
    }
}

#[tokio::test(start_paused = true)]
async fn the_status_and_the_list_say_who_holds_what_and_who_is_waited_for() {
    let cluster = Cluster::one().await;
    let (mut one, mut two) = (cluster.mount(1).await, cluster.mount(2).await);
    let stranger = cluster.client(3).await;
    assert_eq!(one.try_lock(lock()).await, Ok(LockReply::Granted));
    assert_eq!(two.wait_in_line(lock(), 1).await, Ok(LockReply::Waiting));
    let expected = wire::HeldStatus {
        sessions_attached: 2,
        locks: 1,
        waits: 1,
        sessions_waited_for: 1,
        waited_for: vec![one.session().0],
        write_leases: 0,
    };
    assert_eq!(cluster.held().await, expected);
    pass(Duration::from_secs(2), &mut [&mut two]).await;
    let listed = cluster.sessions(stranger.opened.cluster, 0, 0).await;
    assert_eq!((listed.more, listed.total), (false, 3));
    let shown: Vec<_> = listed
        .sessions
        .iter()
        .map(|s| (s.session, s.is_attached, s.locks, s.waits, s.is_waited_for, s.is_ending))
        .collect();
    let expected = [
        (one.session().0, true, 1, 0, true, false),
        (two.session().0, true, 0, 1, false, false),
        (stranger.opened.session.0, false, 0, 0, false, false),
    ];
    assert_eq!(shown, expected);
    assert_eq!(listed.sessions[2].client, "test");
    let ages: Vec<u64> = listed.sessions.iter().filter_map(|session| session.heard_ms).collect();
    assert!(ages[0] >= 2000 && ages[1] < 1000 && ages[2] >= 2000, "{ages:?}");
}

#[tokio::test(start_paused = true)]
async fn sessions_are_listed_in_pages_by_their_ids() {
    let cluster = Cluster::one().await;
    let mut ids = Vec::new();
    for nonce in 1..=3 {
        ids.push(cluster.client(nonce).await.opened);
    }
    let of = ids[0].cluster;
    let listed = |reply: wire::ListSessionsReply| -> Vec<u64> {
        reply.sessions.iter().map(|session| session.session).collect()
    };
    let first = cluster.sessions(of, 0, 2).await;
    assert!(first.more);
    assert_eq!(listed(first), [ids[0].session.0, ids[1].session.0]);
    let rest = cluster.sessions(of, ids[1].session.0 + 1, 2).await;
    assert!(!rest.more);
    assert_eq!(listed(rest), [ids[2].session.0]);
    assert_eq!(listed(cluster.sessions(of, u64::MAX, 2).await), []);
}

#[tokio::test(start_paused = true)]
async fn a_session_that_an_administrator_ends_is_heard_no_more_and_its_lock_goes_on_at_once() {
    let cluster = Cluster::one().await;
    let (mut one, mut two) = (cluster.mount(1).await, cluster.mount(2).await);
    assert_eq!(one.try_lock(lock()).await, Ok(LockReply::Granted));
    assert_eq!(two.wait_in_line(lock(), 1).await, Ok(LockReply::Waiting));
    let began = Instant::now();
    let ended = cluster.expire(one.opened.cluster, one.session()).await.expect("it lives");
    assert_eq!((ended.session, ended.locks, ended.is_waited_for), (one.session().0, 1, true));
    assert_eq!(two.granted().await, (two.attachment, WaitId(1)));
    assert!(began.elapsed() < HEARTBEAT, "{:?}", began.elapsed());
    assert_eq!(one.heartbeat().await, one.expired());
    assert_eq!(one.try_lock(lock()).await, Ok(LockReply::NotAttached));
    assert_eq!(cluster.held().await.sessions_attached, 1);
    let again = cluster.expire(one.opened.cluster, one.session()).await;
    assert_eq!(again, Err(MetaError::SessionExpired { session: one.session() }));
    assert!(two.is_attached().await);
}

#[tokio::test(start_paused = true)]
async fn who_waits_for_a_session_that_a_new_leader_has_not_heard_is_helped_by_its_end() {
    let mut cluster = Cluster::one().await;
    let (mut one, two) = (cluster.mount(1).await, cluster.mount(2).await);
    assert_eq!(one.try_lock(lock()).await, Ok(LockReply::Granted));
    drop(two);
    cluster.restart(1).await;
    let mut other = cluster.mount(3).await;
    assert_eq!(cluster.session(&one).await.heard_ms, None);
    assert_eq!(other.try_lock(lock()).await, Ok(LockReply::NotYet));
    let awaited = cluster.session(&one).await;
    assert_eq!((awaited.is_attached, awaited.locks, awaited.is_waited_for), (false, 0, true));
    assert_eq!(cluster.held().await.waited_for, [one.session().0]);
    cluster.expire(one.opened.cluster, one.session()).await.expect("it lives");
    assert_eq!(other.try_lock(lock()).await, Ok(LockReply::Granted));
}

#[tokio::test(start_paused = true)]
async fn a_session_or_a_cluster_that_is_not_there_and_a_member_that_does_not_lead_are_refused() {
    let cluster = Cluster::start(3, Settings::default()).await;
    let (mount, own) = (cluster.mount(1).await, cluster.client(2).await.opened.cluster);
    let unknown = SessionId(99);
    assert_eq!(cluster.expire(own, unknown).await, Err(MetaError::SessionExpired { session: unknown }));
    for foreign in [ClusterId(own.0 + 1), ClusterId::UNKNOWN] {
        let refused = cluster.expire(foreign, mount.session()).await;
        assert!(matches!(refused, Err(MetaError::InvalidArgument { .. })), "{refused:?}");
        assert!(cluster.sessions(foreign, 0, 0).await.error.is_some());
    }
    let leader = cluster.leader().await;
    let follower = if leader == 1 { 2 } else { 1 };
    let mut admin = AdminClient::new(cluster.channel(follower).await.expect("it answers"));
    let request = wire::ExpireSessionRequest { cluster: own.to_wire().into(), session: mount.session().0 };
    let reply = admin.expire_session(request).await.expect("an answer").into_inner();
    let refused = reply.error.map(convert::error_from_wire);
    assert_eq!(refused, Some(MetaError::NotLeader { leader: Some(address(leader)) }));
    assert_eq!(admin.status(wire::StatusRequest {}).await.expect("an answer").into_inner().held, None);
    assert!(cluster.session(&mount).await.is_attached);
}
