//! Members whose log disks are slow, and one that hears nobody: the first are waited for, the second is not.

use dfs_net::rpc::leader::LeaderChannel;
use dfs_net::rpc::unary::UnaryChannel;

use super::*;

const SLOW_SYNC: Duration = Duration::from_millis(1600);
/// What an application waits for one answer before it is told EIO.
const CALL: Duration = Duration::from_secs(30);
/// Two syncs, one of which had begun, and the way.
const CHANGE_MAX: Duration = Duration::from_secs(6);
const READ_MAX: Duration = Duration::from_millis(500);
const WRITERS: u64 = 4;

impl Cluster {
    fn leader_of(&self, members: impl IntoIterator<Item = u64>) -> LeaderChannel {
        let members = members.into_iter().map(address).collect();
        LeaderChannel::anonymous(self.env.clone(), Role::Client, members, Duration::from_secs(1))
    }

    fn slow_down(&self, sync_time: Duration) {
        self.disks.values().for_each(|disks| disks.log.set_sync_time(sync_time));
    }
}

async fn change(leader: &LeaderChannel, request: &ChangeRequest) -> MetaResult<Changed> {
    let message = convert::change_request_to_wire(request, None);
    let call = |channel: UnaryChannel| {
        let message = message.clone();
        async move { Ok(convert::changed_from_wire(MetaClient::new(channel).change(message).await?.into_inner())) }
    };
    leader.call(CALL, call).await
}

async fn read_root(leader: &LeaderChannel, opened: &SessionOpened) -> MetaResult<ReadReply> {
    let (cluster, session, read) = (opened.cluster, opened.session, Read::GetAttr { inode: InodeId::ROOT });
    let request = ReadRequest { cluster, session, caller: USER, leases: None, read };
    let message = convert::read_request_to_wire(&request);
    let call = |channel: UnaryChannel| {
        let message = message.clone();
        async move {
            Ok(convert::shown_from_wire(MetaClient::new(channel).read(message).await?.into_inner()).answered)
        }
    };
    leader.call(CALL, call).await
}

/// Makes files one after the other; how many.
async fn write(leader: &LeaderChannel, opened: &SessionOpened, writer: u64, until: Instant) -> u64 {
    let mut made = 0;
    while Instant::now() < until {
        made += 1;
        let request = ChangeRequest {
            cluster: opened.cluster,
            session: opened.session,
            request: RequestId(made * WRITERS + writer),
            answered_below: RequestId(0),
            caller: Caller::ROOT,
            change: create(&format!("{writer}-{made}"), 0o644, NewInode::File),
        };
        let began = Instant::now();
        attr_of(change(leader, &request).await);
        let took = began.elapsed();
        assert!(took < CHANGE_MAX, "change {made} of writer {writer} took {took:?}");
    }
    made
}

async fn keep_reading(leader: &LeaderChannel, opened: &SessionOpened, until: Instant) {
    while Instant::now() < until {
        let began = Instant::now();
        read_root(leader, opened).await.expect("a read");
        let took = began.elapsed();
        assert!(took < READ_MAX, "a read took {took:?}");
        sleep(Duration::from_millis(50)).await;
    }
}

/// With slow disks every change was executed and answered EIO after half a minute: its tries had a second and a half each,
/// and heartbeats waited for the disk too, so that the leader had no quorum.
#[tokio::test(start_paused = true)]
async fn with_log_disks_that_take_1600_ms_for_a_sync_everything_goes_on_for_minutes() {
    let cluster = Cluster::start(3, Settings::default()).await;
    let opened = cluster.client(1).await.opened;
    let leader = cluster.leader_of(1..=3);
    let before = cluster.status(cluster.leader().await).await.expect("a status");
    cluster.slow_down(SLOW_SYNC);
    let until = Instant::now() + Duration::from_secs(180);
    let writers = (0..WRITERS).map(|writer| write(&leader, &opened, writer, until));
    let (made, ()) = tokio::join!(futures::future::join_all(writers), keep_reading(&leader, &opened, until));
    let made: u64 = made.iter().sum();
    let after = cluster.status(cluster.leader().await).await.expect("a status");
    assert_eq!(after.term, before.term, "nobody stood for election");
    assert!(made >= WRITERS * 30, "{made} changes in three minutes");
    let entries = after.last_log - before.last_log;
    assert!(entries <= made + 10, "{entries} entries for {made} changes");
}

/// It was waited for as a slow one is.
#[tokio::test(start_paused = true)]
async fn a_leader_that_hears_no_quorum_any_more_says_so_to_everybody_who_waits() {
    let cluster = Cluster::start(3, Settings::default()).await;
    let mut client = cluster.client(1).await;
    let leader = cluster.leader().await;
    cluster.slow_down(Duration::from_secs(600));
    let request = client.request(&Caller::ROOT, create("f", 0o644, NewInode::File));
    let waiting = tokio::spawn(async move { client.send(&request).await });
    sleep(Duration::from_secs(20)).await;
    assert!(!waiting.is_finished(), "it is slow");
    let others = cluster.members.iter().filter(|(id, _)| **id != leader);
    others.for_each(|(_, member)| member.serving.abort());
    let cut_off = Instant::now();
    let answer = waiting.await.expect("no panic");
    assert!(matches!(answer, Err(MetaError::Unavailable { .. } | MetaError::NotLeader { .. })), "{answer:?}");
    let after = cut_off.elapsed();
    assert!(after < Duration::from_secs(2), "it said so after {after:?}");
}
