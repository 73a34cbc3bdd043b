//! Locks between mounts: who attaches, who waits, and who is ended because somebody waits (P3.5, P5.7).

mod administered;

use dfs_net::env::BoxFuture;
use dfs_net::rpc::push::{Push, PushHandler};
use dfs_net::rpc::unary::UnaryChannel;
use dfs_proto::convert::LOCK_GRANTED;
use dfs_proto::ids::{LockOwner, WaitId};
use dfs_proto::lock::{
    HeldLock, LOCKS_MAX, LockAsk, LockKind, LockRange, LockReply, LockRequest, TOLD_LOCKS_MAX,
};
use dfs_proto::meta::{Attach, Attached, SessionRenewed};
use prost::Message as _;
use tokio::sync::mpsc;
use tokio::time::timeout;

use super::*;

const TERM: Duration = Duration::from_secs(10);
const HEARTBEAT: Duration = Duration::from_millis(500);
/// Long enough for a silent holder to be found, and for the news to come round.
const A_LITTLE_MORE: Duration = Duration::from_secs(3);

/// A session over connections that take pushes.
struct Mount {
    leader: LeaderChannel,
    address: String,
    meta: MetaClient<UnaryChannel>,
    opened: SessionOpened,
    attachment: Attachment,
    pushed: mpsc::Receiver<Push>,
}

struct Pushed(mpsc::Sender<Push>);

impl PushHandler for Pushed {
    fn handle(&self, push: Push) -> BoxFuture<'_, ()> {
        Box::pin(async move { self.0.send(push).await.expect("its mount is there") })
    }
}

impl Cluster {
    /// A mount that has attached and holds nothing.
    async fn mount(&self, nonce: u128) -> Mount {
        let address = address(self.leader().await);
        let leader =
            LeaderChannel::anonymous(self.env.clone(), Role::Client, vec![address.clone()], DEADLINE);
        let (sender, pushed) = mpsc::channel(100);
        leader.handle_pushes(Arc::new(Pushed(sender)));
        let channel = leader.channel(&address, Instant::now() + DEADLINE).await.expect("the leader answers");
        let open =
            OpenSession { cluster: ClusterId::UNKNOWN, nonce: SessionNonce(nonce), client: String::new() };
        let mut meta = MetaClient::new(channel);
        let reply = meta.open_session(convert::open_session_to_wire(&open)).await.expect("an answer");
        let opened = convert::session_opened_from_wire(reply.into_inner()).expect("a session");
        let mut mount = Mount { leader, address, meta, opened, attachment: Attachment(0), pushed };
        assert_eq!(mount.attach(vec![]).await, Ok(vec![]));
        mount
    }
}

fn lock_of(number: u64, owner: u64) -> HeldLock {
    HeldLock {
        inode: InodeId::new(VolumeId(0), number).expect("it is small"),
        owner: LockOwner(owner),
        range: LockRange::WHOLE,
        kind: LockKind::Exclusive,
        process: 77,
    }
}

/// Of the root directory: every cluster has it.
fn lock() -> HeldLock {
    lock_of(1, 5)
}

fn bytes_from(start: u64, owner: u64) -> HeldLock {
    HeldLock { range: LockRange { start, end: start + 99 }, ..lock_of(1, owner) }
}

fn in_the_way(lock: HeldLock) -> MetaResult<LockReply> {
    Ok(LockReply::Conflict(HeldLock { owner: LockOwner(0), ..lock }))
}

impl Mount {
    fn session(&self) -> SessionId {
        self.opened.session
    }

    fn expired<T>(&self) -> MetaResult<T> {
        Err(MetaError::SessionExpired { session: self.session() })
    }

    /// Over a new connection, which takes the place of the one before.
    async fn connect(&mut self) {
        self.leader.drop_channel(&self.address);
        let channel = self.leader.channel(&self.address, Instant::now() + DEADLINE).await;
        self.meta = MetaClient::new(channel.expect("the leader answers"));
    }

    async fn attach_part(&mut self, part: u32, more: bool, locks: Vec<HeldLock>) -> MetaResult<Attached> {
        let attach = Attach {
            cluster: self.opened.cluster,
            session: self.session(),
            attachment: self.attachment,
            part,
            more,
            locks,
            open: vec![],
            writes: vec![],
        };
        let reply = self.meta.attach(convert::attach_to_wire(&attach)).await.expect("an answer");
        convert::attached_from_wire(reply.into_inner())
    }

    /// With the next number. The locks that are lost.
    async fn attach(&mut self, locks: Vec<HeldLock>) -> MetaResult<Vec<HeldLock>> {
        self.attachment.0 += 1;
        let attached = self.attach_part(0, false, locks).await?;
        assert_eq!(attached.term_ms, TERM.as_millis() as u64);
        Ok(attached.lost)
    }

    async fn ask(&mut self, ask: LockAsk) -> MetaResult<LockReply> {
        let (cluster, session, attachment) = (self.opened.cluster, self.session(), self.attachment);
        let request = LockRequest { cluster, session, attachment, ask };
        let reply = self.meta.lock(convert::lock_request_to_wire(&request)).await.expect("an answer");
        convert::lock_reply_from_wire(reply.into_inner())
    }

    async fn try_lock(&mut self, lock: HeldLock) -> MetaResult<LockReply> {
        self.ask(LockAsk::Set { lock, wait: None }).await
    }

    async fn wait_in_line(&mut self, lock: HeldLock, wait: u64) -> MetaResult<LockReply> {
        self.ask(LockAsk::Set { lock, wait: Some(WaitId(wait)) }).await
    }

    async fn unlock(&mut self, lock: HeldLock) {
        let HeldLock { inode, owner, range, .. } = lock;
        assert_eq!(self.ask(LockAsk::Unlock { inode, owner, range }).await, Ok(LockReply::Granted));
    }

    async fn heartbeat(&mut self) -> MetaResult<SessionRenewed> {
        let attachment = Some(self.attachment);
        let renew = RenewSession { attachment, ..RenewSession::of(self.opened.cluster, self.session()) };
        let reply = self.meta.renew_session(convert::renew_to_wire(&renew)).await.expect("an answer");
        convert::renewed_from_wire(reply.into_inner())
    }

    async fn is_attached(&mut self) -> bool {
        self.heartbeat().await.expect("it lives").is_attached
    }

    /// The next grant: of which attachment, and which wait.
    async fn granted(&mut self) -> (Attachment, WaitId) {
        let push = timeout(PATIENCE, self.pushed.recv()).await.expect("a push in time").expect("a push");
        assert_eq!(push.path, LOCK_GRANTED);
        let granted = wire::LockGranted::decode(push.message).expect("a grant");
        (Attachment(granted.attachment), WaitId(granted.wait))
    }

    fn has_heard_nothing(&mut self) -> bool {
        self.pushed.try_recv().is_err()
    }
}

/// Time goes on, and these mounts send their heartbeats.
async fn pass(time: Duration, mounts: &mut [&mut Mount]) {
    let end = Instant::now() + time;
    while Instant::now() < end {
        sleep(HEARTBEAT).await;
        for mount in mounts.iter_mut() {
            mount.heartbeat().await.expect("it lives");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_lock_goes_to_who_waits_when_it_is_unlocked_and_a_push_says_so() {
    let cluster = Cluster::one().await;
    let (mut one, mut two) = (cluster.mount(1).await, cluster.mount(2).await);
    assert_eq!(one.try_lock(lock()).await, Ok(LockReply::Granted));
    assert_eq!(two.ask(LockAsk::Test { lock: lock() }).await, in_the_way(lock()));
    assert_eq!(two.try_lock(lock()).await, in_the_way(lock()));
    assert_eq!(two.wait_in_line(lock(), 1).await, Ok(LockReply::Waiting));
    assert!(two.has_heard_nothing());
    one.unlock(lock()).await;
    assert_eq!(two.granted().await, (two.attachment, WaitId(1)));
    assert_eq!(one.try_lock(lock()).await, in_the_way(lock()));
}

#[tokio::test(start_paused = true)]
async fn a_wait_that_was_cancelled_gets_nothing() {
    let cluster = Cluster::one().await;
    let (mut one, mut two) = (cluster.mount(1).await, cluster.mount(2).await);
    assert_eq!(one.try_lock(lock()).await, Ok(LockReply::Granted));
    assert_eq!(two.wait_in_line(lock(), 1).await, Ok(LockReply::Waiting));
    assert_eq!(two.ask(LockAsk::Cancel { wait: WaitId(1) }).await, Ok(LockReply::Granted));
    one.unlock(lock()).await;
    assert_eq!(one.try_lock(lock()).await, Ok(LockReply::Granted));
    assert!(two.has_heard_nothing());
}

#[tokio::test(start_paused = true)]
async fn the_locks_of_a_session_that_is_closed_go_to_who_waits() {
    let cluster = Cluster::one().await;
    let (mut one, mut two) = (cluster.mount(1).await, cluster.mount(2).await);
    assert_eq!(one.try_lock(lock()).await, Ok(LockReply::Granted));
    assert_eq!(two.wait_in_line(lock(), 1).await, Ok(LockReply::Waiting));
    let close = RenewSession::of(one.opened.cluster, one.session());
    one.meta.close_session(convert::renew_to_wire(&close)).await.expect("an answer");
    assert_eq!(two.granted().await, (two.attachment, WaitId(1)));
    assert_eq!(one.try_lock(lock()).await, Ok(LockReply::NotAttached));
}

#[tokio::test(start_paused = true)]
async fn a_holder_that_is_silent_for_a_term_is_ended_when_somebody_waits_and_one_that_renews_is_not() {
    let cluster = Cluster::one().await;
    let (mut holder, mut waiter) = (cluster.mount(1).await, cluster.mount(2).await);
    let (mut silent, wanted) = (cluster.mount(3).await, bytes_from(100, 5));
    assert_eq!(holder.try_lock(wanted).await, Ok(LockReply::Granted));
    assert_eq!(silent.try_lock(bytes_from(200, 5)).await, Ok(LockReply::Granted));
    assert_eq!(waiter.wait_in_line(wanted, 1).await, Ok(LockReply::Waiting));
    pass(TERM * 3, &mut [&mut holder, &mut waiter]).await;
    assert!(waiter.has_heard_nothing(), "the holder renews");
    pass(TERM - HEARTBEAT * 2, &mut [&mut waiter]).await;
    assert!(waiter.has_heard_nothing(), "the term is not over");
    pass(A_LITTLE_MORE, &mut [&mut waiter]).await;
    assert_eq!(waiter.granted().await, (waiter.attachment, WaitId(1)));
    assert_eq!(holder.heartbeat().await, holder.expired());
    assert!(silent.is_attached().await, "nobody waits for it");
}

#[tokio::test(start_paused = true)]
async fn a_silent_holder_is_ended_too_for_one_that_asks_without_waiting() {
    let cluster = Cluster::one().await;
    let (mut holder, mut other) = (cluster.mount(1).await, cluster.mount(2).await);
    assert_eq!(holder.try_lock(lock()).await, Ok(LockReply::Granted));
    pass(TERM * 2, &mut [&mut other]).await;
    assert_eq!(other.try_lock(lock_of(1, 6)).await, in_the_way(lock()), "it has kept it");
    pass(A_LITTLE_MORE, &mut [&mut other]).await;
    assert_eq!(other.try_lock(lock()).await, Ok(LockReply::Granted));
    assert_eq!(holder.heartbeat().await, holder.expired());
}

#[tokio::test(start_paused = true)]
async fn a_while_in_which_the_leader_did_not_run_ends_no_holder_and_frees_no_lock() {
    let cluster = Cluster::one().await;
    let (mut holder, mut waiter) = (cluster.mount(1).await, cluster.mount(2).await);
    assert_eq!(holder.try_lock(lock()).await, Ok(LockReply::Granted));
    assert_eq!(waiter.wait_in_line(lock(), 1).await, Ok(LockReply::Waiting));
    tokio::time::advance(TERM * 2).await;
    pass(TERM * 2, &mut [&mut holder, &mut waiter]).await;
    assert!(waiter.has_heard_nothing());
    assert!(holder.is_attached().await, "nothing was forgotten");
    holder.unlock(lock()).await;
    assert_eq!(waiter.granted().await, (waiter.attachment, WaitId(1)));
}

#[tokio::test(start_paused = true)]
async fn who_attaches_again_holds_what_it_says_and_waits_for_nothing() {
    let cluster = Cluster::one().await;
    let (mut one, mut two) = (cluster.mount(1).await, cluster.mount(2).await);
    let (kept, dropped) = (bytes_from(100, 1), bytes_from(200, 2));
    for lock in [kept, dropped] {
        assert_eq!(one.try_lock(lock).await, Ok(LockReply::Granted));
    }
    assert_eq!(two.wait_in_line(dropped, 1).await, Ok(LockReply::Waiting));
    assert_eq!(two.wait_in_line(kept, 2).await, Ok(LockReply::Waiting));
    assert_eq!(one.attach(vec![kept]).await, Ok(vec![]));
    assert_eq!(two.granted().await, (two.attachment, WaitId(1)));
    assert_eq!(two.attach(vec![dropped]).await, Ok(vec![]));
    one.unlock(kept).await;
    assert_eq!(one.try_lock(kept).await, Ok(LockReply::Granted), "the second wait has ended");
    assert!(two.has_heard_nothing());
}

#[tokio::test(start_paused = true)]
async fn what_belongs_to_an_earlier_attachment_does_nothing() {
    let cluster = Cluster::one().await;
    let (mut one, mut two) = (cluster.mount(1).await, cluster.mount(2).await);
    assert_eq!(one.attach(vec![]).await, Ok(vec![]));
    let newest = std::mem::replace(&mut one.attachment, Attachment(1));
    assert_eq!(one.try_lock(lock()).await, Ok(LockReply::NotAttached), "a late request");
    assert!(!one.is_attached().await);
    let refused = one.attach_part(0, false, vec![lock()]).await;
    assert!(matches!(refused, Err(MetaError::InvalidArgument { .. })), "{refused:?}");
    assert_eq!(two.try_lock(lock()).await, Ok(LockReply::Granted));
    one.attachment = newest;
    assert!(one.is_attached().await);
}

#[tokio::test(start_paused = true)]
async fn a_heartbeat_over_another_connection_says_that_the_session_is_not_attached() {
    let cluster = Cluster::one().await;
    let mut mount = cluster.mount(1).await;
    assert!(mount.is_attached().await);
    mount.connect().await;
    assert!(!mount.is_attached().await);
    assert_eq!(mount.attach(vec![]).await, Ok(vec![]));
    assert!(mount.is_attached().await);
}

#[tokio::test(start_paused = true)]
async fn a_connection_that_takes_no_pushes_is_none_to_attach_over() {
    let cluster = Cluster::one().await;
    let mut client = cluster.client(1).await;
    let attach = Attach {
        cluster: client.opened.cluster,
        session: client.opened.session,
        attachment: Attachment(1),
        part: 0,
        more: false,
        locks: vec![],
        open: vec![],
        writes: vec![],
    };
    let reply = client.meta.attach(convert::attach_to_wire(&attach)).await.expect("an answer").into_inner();
    assert!(matches!(convert::attached_from_wire(reply), Err(MetaError::InvalidArgument { .. })));
}

#[tokio::test(start_paused = true)]
async fn after_a_restart_the_first_who_says_that_it_holds_a_lock_has_it() {
    let mut cluster = Cluster::one().await;
    let (mut one, mut two) = (cluster.mount(1).await, cluster.mount(2).await);
    assert_eq!(one.try_lock(lock()).await, Ok(LockReply::Granted));
    cluster.restart(1).await;
    one.connect().await;
    two.connect().await;
    assert!(!one.is_attached().await);
    assert_eq!(one.try_lock(lock()).await, Ok(LockReply::NotAttached));
    assert_eq!(one.attach(vec![lock()]).await, Ok(vec![]));
    assert_eq!(two.attach(vec![lock()]).await, Ok(vec![lock()]));
    assert_eq!(two.try_lock(lock()).await, in_the_way(lock()));
}

#[tokio::test(start_paused = true)]
async fn a_new_leader_grants_no_lock_where_somebody_may_hold_one_who_has_not_attached() {
    let mut cluster = Cluster::one().await;
    let (mut holder, mut other) = (cluster.mount(1).await, cluster.mount(2).await);
    assert_eq!(holder.try_lock(lock()).await, Ok(LockReply::Granted));
    cluster.restart(1).await;
    other.connect().await;
    assert_eq!(other.attach(vec![]).await, Ok(vec![]));
    assert_eq!(other.try_lock(lock()).await, Ok(LockReply::NotYet));
    assert_eq!(other.ask(LockAsk::Test { lock: lock() }).await, Ok(LockReply::NotYet));
    holder.connect().await;
    assert_eq!(holder.attach(vec![lock()]).await, Ok(vec![]));
    assert_eq!(other.try_lock(lock()).await, in_the_way(lock()));
    holder.unlock(lock()).await;
    assert_eq!(other.try_lock(lock()).await, Ok(LockReply::Granted));
}

#[tokio::test(start_paused = true)]
async fn who_does_not_attach_to_a_new_leader_within_a_term_is_ended_if_somebody_asks() {
    let mut cluster = Cluster::one().await;
    let (mut gone, mut other) = (cluster.mount(1).await, cluster.mount(2).await);
    assert_eq!(gone.try_lock(lock()).await, Ok(LockReply::Granted));
    cluster.restart(1).await;
    gone.connect().await;
    other.connect().await;
    assert_eq!(other.attach(vec![]).await, Ok(vec![]));
    pass(TERM * 2, &mut [&mut gone, &mut other]).await;
    assert_eq!(other.try_lock(lock()).await, Ok(LockReply::NotYet), "nobody has asked before");
    pass(A_LITTLE_MORE, &mut [&mut other]).await;
    assert_eq!(other.try_lock(lock()).await, Ok(LockReply::Granted));
    assert_eq!(gone.heartbeat().await, gone.expired());
}

/// Of the term, while it is noted that so much of it has passed.
const STEP: Duration = TERM.checked_div(4).expect("it is not 0");

impl Cluster {
    /// A change of leader, after which these mounts attach again. They hold nothing.
    async fn change_leader(&mut self, mounts: &mut [&mut Mount]) {
        self.restart(1).await;
        for mount in mounts {
            mount.connect().await;
            assert_eq!(mount.attach(vec![]).await, Ok(vec![]));
        }
    }
}

#[tokio::test(start_paused = true)]
async fn the_silence_of_a_holder_is_counted_over_two_elections() {
    let mut cluster = Cluster::one().await;
    let (mut gone, mut other) = (cluster.mount(1).await, cluster.mount(2).await);
    assert_eq!(gone.try_lock(lock()).await, Ok(LockReply::Granted));
    for _ in 0..2 {
        pass(STEP + STEP / 2, &mut [&mut other]).await;
        cluster.change_leader(&mut [&mut other]).await;
        assert_eq!(other.try_lock(lock()).await, Ok(LockReply::NotYet));
    }
    pass(STEP, &mut [&mut other]).await;
    assert_eq!(other.try_lock(lock()).await, Ok(LockReply::NotYet), "too early by any reckoning");
    // At the least two steps were noted.
    pass(STEP + A_LITTLE_MORE, &mut [&mut other]).await;
    assert_eq!(other.try_lock(lock()).await, Ok(LockReply::Granted));
    gone.connect().await;
    assert_eq!(gone.heartbeat().await, gone.expired());
}

/// The first leader notes its silence, the second one answers its heartbeat, and the third one counts from then on.
#[tokio::test(start_paused = true)]
async fn a_holder_whose_heartbeat_is_answered_is_not_ended_for_a_silence_that_was_noted_before() {
    let mut cluster = Cluster::one().await;
    let (mut holder, mut other) = (cluster.mount(1).await, cluster.mount(2).await);
    assert_eq!(holder.try_lock(lock()).await, Ok(LockReply::Granted));
    pass(STEP * 3 + STEP / 2, &mut [&mut other]).await;
    cluster.change_leader(&mut [&mut other]).await;
    assert_eq!(other.try_lock(lock()).await, Ok(LockReply::NotYet));
    holder.connect().await;
    assert!(!holder.is_attached().await);
    let answered = Instant::now();
    cluster.change_leader(&mut [&mut other]).await;
    assert_eq!(other.try_lock(lock()).await, Ok(LockReply::NotYet));
    while answered.elapsed() < TERM - HEARTBEAT {
        pass(HEARTBEAT, &mut [&mut other]).await;
        assert_eq!(other.try_lock(lock()).await, Ok(LockReply::NotYet), "after {:?}", answered.elapsed());
    }
    holder.connect().await;
    assert_eq!(holder.attach(vec![lock()]).await, Ok(vec![]), "it lives");
}

/// The same under one leader, which has noted the silence itself.
#[tokio::test(start_paused = true)]
async fn a_heartbeat_takes_back_what_the_same_leader_has_noted() {
    let mut cluster = Cluster::one().await;
    let (mut holder, mut other) = (cluster.mount(1).await, cluster.mount(2).await);
    assert_eq!(holder.try_lock(lock()).await, Ok(LockReply::Granted));
    pass(STEP * 3 + STEP / 2, &mut [&mut other]).await;
    assert!(holder.is_attached().await);
    let answered = Instant::now();
    cluster.change_leader(&mut [&mut other]).await;
    while answered.elapsed() < TERM - HEARTBEAT {
        assert_eq!(other.try_lock(lock()).await, Ok(LockReply::NotYet), "after {:?}", answered.elapsed());
        pass(HEARTBEAT, &mut [&mut other]).await;
    }
    holder.connect().await;
    assert_eq!(holder.attach(vec![lock()]).await, Ok(vec![]), "it lives");
}

#[tokio::test(start_paused = true)]
async fn an_attachment_counts_once_all_its_parts_have_come_over_one_connection() {
    let cluster = Cluster::one().await;
    let (mut one, mut two) = (cluster.mount(1).await, cluster.mount(2).await);
    let (first, second) = (lock_of(1, 1), lock_of(2, 1));
    let is_refused =
        |attached: MetaResult<Attached>| matches!(attached, Err(MetaError::InvalidArgument { .. }));
    one.attachment.0 += 1;
    assert!(one.attach_part(0, true, vec![first]).await.is_ok());
    assert!(one.attach_part(0, true, vec![first]).await.is_ok(), "its answer was lost");
    assert_eq!(two.try_lock(first).await, Ok(LockReply::Granted), "not all was told");
    two.unlock(first).await;
    assert!(one.attach_part(1, false, vec![second]).await.is_ok());
    for lock in [first, second] {
        assert_eq!(
            two.ask(LockAsk::Test { lock: HeldLock { owner: LockOwner(9), ..lock } }).await,
            in_the_way(lock)
        );
    }
    one.attachment.0 += 1;
    assert!(is_refused(one.attach_part(1, false, vec![]).await), "another leader had the first part");
    assert!(one.attach_part(0, true, vec![]).await.is_ok());
    one.connect().await;
    assert!(is_refused(one.attach_part(1, false, vec![]).await));
}

#[tokio::test(start_paused = true)]
async fn a_session_attaches_with_a_bounded_number_of_locks() {
    let cluster = Cluster::one().await;
    let mut mount = cluster.mount(1).await;
    let locks = |count: usize| (0..count as u64).map(|owner| lock_of(owner, 1)).collect::<Vec<_>>();
    mount.attachment.0 += 1;
    assert!(mount.attach_part(0, true, locks(10_000)).await.is_ok());
    assert!(mount.attach_part(1, true, locks(10_000)).await.is_ok());
    let refused = mount.attach_part(2, false, locks(TOLD_LOCKS_MAX - 20_000 + 1)).await;
    assert!(matches!(refused, Err(MetaError::InvalidArgument { .. })), "{refused:?}");
    assert!(!mount.is_attached().await);
    assert_eq!(mount.attach(locks(LOCKS_MAX - 1)).await, Ok(vec![]));
}
