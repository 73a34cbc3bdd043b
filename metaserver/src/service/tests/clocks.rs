//! Clocks that are set, and machines that sleep (P7.1, P7.5). What is right is what tokio's clock says.

use dfs_net::env::Clock as _;
use dfs_proto::attr::Timestamp;

use super::*;

/// To 2038 from the tests' beginning, and more.
const YEARS: i64 = 450_000_000;
const OFF_MAX: Duration = Duration::from_secs(1);

impl Cluster {
    fn true_time(&self) -> Timestamp {
        self.env.clock.now()
    }

    /// How far ahead each clock is, in milliseconds, once the leader knows that of all.
    async fn clocks_off(&self, holds: impl Fn(&BTreeMap<u64, i64>) -> bool) -> BTreeMap<u64, i64> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let status = self.status(self.leader().await).await.unwrap_or_default();
            let off = status.members.iter().filter_map(|m| Some((m.member, m.clock_off_ms?)));
            let off: BTreeMap<u64, i64> = off.collect();
            if off.len() == self.members.len() && holds(&off) {
                return off;
            }
            assert!(Instant::now() < deadline, "the leader is not told of the clocks, or of others: {off:?}");
            sleep(Duration::from_millis(100)).await;
        }
    }
}

fn are_near(time: Timestamp, other: Timestamp) -> bool {
    (time.as_nanos() - other.as_nanos()).unsigned_abs() <= OFF_MAX.as_nanos()
}

fn is_right(time: Timestamp, cluster: &Cluster) -> bool {
    are_near(time, cluster.true_time())
}

#[tokio::test(start_paused = true)]
async fn a_leader_whose_clock_is_stepped_by_years_is_named_and_replaced_and_no_file_ever_shows_it() {
    for step in [YEARS, -YEARS] {
        let cluster = Cluster::start(3, Settings::default()).await;
        let off = cluster.clocks_off(|_| true).await;
        assert!(off.values().all(|off| off.abs() < 100), "{off:?}");
        let (wrong, mut client) = (cluster.leader().await, cluster.client(1).await);
        cluster.clocks[&wrong].step_wall(step);
        let made = attr_of(client.change(&Caller::ROOT, create("at-once", 0o644, NewInode::File)).await);
        assert!(is_right(made.mtime, &cluster), "{made:?}");
        let deadline = Instant::now() + PATIENCE;
        while cluster.leader().await == wrong {
            assert!(Instant::now() < deadline, "{wrong} goes on leading");
            sleep(Duration::from_millis(100)).await;
        }
        let mut client = cluster.client(2).await;
        assert!(is_right(client.opened.now, &cluster));
        let made = attr_of(client.change(&Caller::ROOT, create("later", 0o644, NewInode::File)).await);
        assert!(is_right(made.mtime, &cluster), "{made:?}");
        let off = cluster.clocks_off(|off| off[&wrong].abs() > 1000).await;
        assert!((off[&wrong] - step * 1000).abs() < 1000, "{off:?}");
        assert_eq!(off.values().filter(|off| off.abs() < 1000).count(), 2, "{off:?}");
        cluster.clocks[&wrong].step_wall(-step);
        cluster.clocks_off(|off| off.values().all(|off| off.abs() < 1000)).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_clock_that_is_off_by_less_than_a_minute_is_named_and_leads_and_gives_its_time() {
    let cluster = Cluster::start(3, Settings::default()).await;
    cluster.clocks_off(|_| true).await;
    let (leader, mut client) = (cluster.leader().await, cluster.client(1).await);
    cluster.clocks[&leader].step_wall(50);
    let off = cluster.clocks_off(|off| off[&leader] > 1000).await;
    assert!((off[&leader] - 50_000).abs() < 1000, "{off:?}");
    sleep(Duration::from_secs(10)).await;
    assert_eq!(cluster.leader().await, leader);
    let made = attr_of(client.change(&Caller::ROOT, create("a", 0o644, NewInode::File)).await);
    let own = cluster.clocks[&leader].now();
    assert!(are_near(made.mtime, own), "{made:?}, {own:?}");
}

/// One machine with everything on it, whose clock a program set to 2038 for a second.
#[tokio::test(start_paused = true)]
async fn regression_a_clock_that_jumps_and_comes_back_is_forgotten_and_deletes_nothing_early_or_late() {
    let cluster = Cluster::one().await;
    let mut servers = cluster.chunkservers(2).await;
    let mut client = cluster.client(1).await;
    let (file, chunk) = written_file(&mut client).await;
    client.seal(chunk.chunk).await.expect("it is this session's");
    cluster.clocks[&1].step_wall(YEARS);
    let unlink = Change::Unlink { parent: InodeId::ROOT, name: Name::new("a").expect("a name") };
    assert!(client.change(&Caller::ROOT, unlink).await.is_ok(), "{file:?}");
    let then = attr_of(client.change(&Caller::ROOT, create("then", 0o644, NewInode::File)).await);
    let shown = cluster.clocks[&1].now();
    assert!(
        are_near(then.mtime, shown),
        "as a local filesystem's, times follow the clock: {then:?}, {shown:?}"
    );
    let release = Change::ReleaseOrphans { inodes: vec![file.inode] };
    assert!(client.change(&Caller::ROOT, release).await.is_ok());
    sleep(Duration::from_secs(2)).await; // the reaper has been there
    cluster.clocks[&1].step_wall(-YEARS);
    let now = attr_of(client.change(&Caller::ROOT, create("now", 0o644, NewInode::File)).await);
    assert!(is_right(now.mtime, &cluster) && is_right(now.ctime, &cluster), "{now:?}");
    cluster.pass(Duration::from_secs(50), &mut servers).await;
    let mut deleted = Vec::new();
    for server in &mut servers {
        deleted.extend(server.report(load(server.registered.server)).await.delete);
    }
    assert_eq!(deleted, [], "within a minute");
    cluster.pass(Duration::from_secs(15), &mut servers).await;
    for server in &mut servers {
        deleted.extend(server.report(load(server.registered.server)).await.delete);
    }
    assert_eq!(deleted.len(), 2, "then on both");
}

/// A laptop with a metaserver on it was shut for a night. Its monotonic clock stood still, so it served reads under the lease
/// of the evening, though another member had led since.
#[tokio::test(start_paused = true)]
async fn regression_a_leader_that_slept_asks_the_quorum_before_it_answers_a_read() {
    let cluster = Cluster::start(3, Settings::default()).await;
    let (leader, mut client) = (cluster.leader().await, cluster.client(1).await);
    let root = Read::GetAttr { inode: InodeId::ROOT };
    // On all machines; tokio's clock stands still.
    let night = || cluster.clocks.values().for_each(|clock| clock.pass(Duration::from_secs(8 * 3600)));
    night();
    assert!(client.read(&Caller::ROOT, root.clone()).await.is_ok(), "a quorum is there and confirms it");
    sleep(Duration::from_secs(2)).await;
    for (id, member) in &cluster.members {
        if *id != leader {
            member.serving.abort();
        }
    }
    let answer = client.read(&Caller::ROOT, root.clone()).await;
    assert!(answer.is_ok(), "while it is awake its lease counts: {answer:?}");
    night();
    let answer = client.read(&Caller::ROOT, root).await;
    assert!(matches!(answer, Err(MetaError::Unavailable { .. } | MetaError::NotLeader { .. })), "{answer:?}");
}
