//! Locks of files between clients.

use std::sync::Arc;
use std::time::Duration;

use dfs_proto::ids::{Attachment, InodeId, LockOwner, SessionId, WaitId};
use dfs_proto::lock::{HeldLock, LOCK_END_MAX, LOCKS_MAX, LockAsk, LockKind, LockRange};
use dfs_proto::units::Offset;
use tokio::task::JoinHandle;
use tokio::time::sleep;

use crate::error::{ClientError, Result};
use crate::fakes::{Cluster, USER, make, open, wait_for};
use crate::inode::{Client, File, LockWanted};

use LockKind::{Exclusive, Shared};

const OWNER: LockOwner = LockOwner(1);

fn range(start: u64, end: u64) -> LockRange {
    LockRange { start, end }
}

fn wanted(kind: LockKind, range: LockRange) -> LockWanted {
    LockWanted { owner: OWNER, range, kind, process: 77 }
}

fn whole(kind: LockKind) -> LockWanted {
    wanted(kind, LockRange::WHOLE)
}

/// Two clients that have one file open.
struct Two {
    cluster: Cluster,
    files: [Arc<File>; 2],
    sessions: [SessionId; 2],
    /// They end with their clients.
    _clients: [Arc<Client>; 2],
}

impl Two {
    async fn new() -> Two {
        let cluster = Cluster::new();
        let clients = [cluster.client().await, cluster.client().await];
        let first = make(&clients[0], "f").await;
        let second = open(&clients[1], first.inode()).await.unwrap();
        wait_for("both to attach", || cluster.meta.state().leader.sessions().len() == 2).await;
        let attached = cluster.meta.state().leader.sessions();
        let sessions = [attached[0], attached[1]];
        Two { cluster, files: [first, second], sessions, _clients: clients }
    }

    /// The locks and waits at the leader.
    fn counts(&self) -> (usize, usize) {
        self.cluster.meta.state().leader.locks.counts()
    }

    fn held_by(&self, client: usize) -> Vec<(LockRange, LockKind)> {
        let held = self.cluster.meta.state().leader.locks.held_by(self.sessions[client]);
        held.iter().map(|lock: &HeldLock| (lock.range, lock.kind)).collect()
    }

    fn attachment(&self, client: usize) -> Option<Attachment> {
        self.cluster.meta.state().leader.attachment(self.sessions[client])
    }

    /// Returns when the wait is in the line.
    async fn waiting(&self, client: usize, wanted: LockWanted) -> JoinHandle<Result<()>> {
        let file = self.files[client].clone();
        let waits = self.counts().1;
        let waiting = tokio::spawn(async move { file.set_lock(wanted, true).await });
        wait_for("the wait", || self.counts().1 > waits).await;
        waiting
    }
}

#[tokio::test(start_paused = true)]
async fn a_lock_that_another_client_holds_is_refused_and_a_wait_for_it_is_granted_by_a_push() {
    let two = Two::new().await;
    let [holder, other] = &two.files;
    holder.set_lock(whole(Exclusive), false).await.unwrap();
    assert_eq!(other.set_lock(whole(Shared), false).await, Err(ClientError::LockConflict));
    let in_the_way = other.test_lock(whole(Shared)).await.unwrap().unwrap();
    assert_eq!((in_the_way.owner, in_the_way.process), (LockOwner(0), 77));
    let waiting = two.waiting(1, whole(Exclusive)).await;
    holder.unlock(OWNER, LockRange::WHOLE).await.unwrap();
    assert_eq!(waiting.await.unwrap(), Ok(()));
    assert_eq!(holder.set_lock(whole(Shared), false).await, Err(ClientError::LockConflict));
    other.unlock_owner(OWNER).await.unwrap();
    assert_eq!(two.counts(), (0, 0));
    assert_eq!(holder.test_lock(whole(Exclusive)).await, Ok(None));
}

#[tokio::test(start_paused = true)]
async fn a_wait_holds_back_no_other_request_about_the_inode() {
    let two = Two::new().await;
    two.files[0].set_lock(wanted(Exclusive, range(0, 9)), false).await.unwrap();
    let waiting = two.waiting(1, wanted(Exclusive, range(0, 9))).await;
    let others = LockWanted { owner: LockOwner(2), ..wanted(Exclusive, range(20, 29)) };
    two.files[1].set_lock(others, false).await.unwrap();
    two.files[1].unlock_owner(LockOwner(2)).await.unwrap();
    assert!(!waiting.is_finished());
}

#[tokio::test(start_paused = true)]
async fn a_wait_whose_push_was_lost_is_granted_after_the_next_attachment() {
    let two = Two::new().await;
    two.files[0].set_lock(whole(Exclusive), false).await.unwrap();
    let waiting = two.waiting(1, whole(Exclusive)).await;
    let before = two.attachment(1);
    two.cluster.meta.state().leader.lost_pushes = 1;
    two.files[0].unlock(OWNER, LockRange::WHOLE).await.unwrap();
    assert_eq!(waiting.await.unwrap(), Ok(()));
    assert_eq!((two.counts(), two.held_by(1).len()), ((1, 0), 1));
    assert!(two.attachment(1) > before, "it has attached anew");
}

#[tokio::test(start_paused = true)]
async fn a_push_that_comes_before_the_answer_ends_the_wait() {
    let two = Two::new().await;
    two.files[0].set_lock(whole(Exclusive), false).await.unwrap();
    two.cluster.meta.state().leader.lock_answer_delay = Duration::from_millis(200);
    let waiting = two.waiting(1, whole(Exclusive)).await;
    let unlocking = two.files[0].unlock(OWNER, LockRange::WHOLE);
    assert_eq!(unlocking.await, Ok(()));
    assert_eq!(waiting.await.unwrap(), Ok(()));
    assert_eq!(two.held_by(1).len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_push_of_another_attachment_grants_nothing() {
    let two = Two::new().await;
    two.files[0].set_lock(whole(Exclusive), false).await.unwrap();
    let waiting = two.waiting(1, whole(Exclusive)).await;
    let now = two.attachment(1).unwrap();
    for attachment in [Attachment(now.0 - 1), Attachment(now.0 + 1)].into_iter().filter(|other| other.0 > 0) {
        for wait in 1..9 {
            two.cluster.meta.state().leader.push_grant(two.sessions[1], attachment, WaitId(wait));
        }
    }
    sleep(Duration::from_secs(1)).await;
    assert!(!waiting.is_finished());
}

#[tokio::test(start_paused = true)]
async fn a_lock_whose_answer_was_lost_is_asked_for_again_under_the_next_attachment() {
    let two = Two::new().await;
    let before = two.attachment(0);
    two.cluster.meta.state().leader.lost_lock_answers = 1;
    two.files[0].set_lock(whole(Exclusive), false).await.unwrap();
    assert_eq!(two.counts(), (1, 0));
    assert!(two.attachment(0) > before);
    two.cluster.meta.state().leader.lost_lock_answers = 1;
    two.files[0].unlock(OWNER, LockRange::WHOLE).await.unwrap();
    assert_eq!(two.counts(), (0, 0));
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_comes_after_the_next_attachment_does_not_count() {
    let two = Two::new().await;
    two.cluster.meta.state().leader.lock_answer_delay = Duration::from_secs(3);
    let file = two.files[0].clone();
    let asking = tokio::spawn(async move { file.set_lock(whole(Exclusive), false).await });
    wait_for("the leader to grant it", || two.counts() == (1, 0)).await;
    two.cluster.meta.state().leader.replace();
    two.cluster.meta.state().leader.awaited.clear();
    wait_for("the next attachment", || two.attachment(0).is_some()).await;
    assert_eq!(two.counts(), (0, 0));
    assert_eq!(asking.await.unwrap(), Ok(()));
    assert_eq!(two.counts(), (1, 0), "it was asked for again");
}

#[tokio::test(start_paused = true)]
async fn what_was_granted_to_a_call_that_nobody_waits_for_any_more_is_held_by_nobody() {
    let two = Two::new().await;
    two.cluster.meta.state().leader.lock_answer_delay = Duration::from_secs(2);
    let file = two.files[0].clone();
    let asking = tokio::spawn(async move { file.set_lock(whole(Exclusive), false).await });
    wait_for("the leader to grant it", || two.counts() == (1, 0)).await;
    asking.abort();
    wait_for("the leader to hear what is held", || two.counts() == (0, 0)).await;
    assert_eq!(two.files[1].set_lock(whole(Exclusive), false).await, Ok(()));
}

#[tokio::test(start_paused = true)]
async fn a_wait_that_is_given_up_leaves_the_line() {
    let two = Two::new().await;
    two.files[0].set_lock(whole(Exclusive), false).await.unwrap();
    let waiting = two.waiting(1, whole(Exclusive)).await;
    let before = two.attachment(1);
    waiting.abort();
    wait_for("the line to be empty", || two.counts() == (1, 0)).await;
    two.files[0].unlock_owner(OWNER).await.unwrap();
    wait_for("no lock to be left", || two.counts() == (0, 0)).await;
    assert_eq!(two.attachment(1), before, "others of this client kept their places");
}

#[tokio::test(start_paused = true)]
async fn a_wait_that_is_given_up_when_it_is_granted_leaves_what_was_held_before() {
    let two = Two::new().await;
    two.files[1].set_lock(wanted(Shared, range(0, 9)), false).await.unwrap();
    two.files[0].set_lock(wanted(Exclusive, range(20, 29)), false).await.unwrap();
    let waiting = two.waiting(1, wanted(Exclusive, range(0, 29))).await;
    waiting.abort(); // nothing of it runs before the grant
    two.files[0].unlock_owner(OWNER).await.unwrap();
    assert_eq!(two.held_by(1), [(range(0, 29), Exclusive)]);
    wait_for("the rest to be given back", || two.held_by(1) == [(range(0, 9), Shared)]).await;
    assert_eq!(two.files[0].set_lock(wanted(Shared, range(0, 29)), false).await, Ok(()));
}

/// The grant and the unlock cross each other: nobody knows which of them the leader did first.
#[tokio::test(start_paused = true)]
async fn a_grant_that_may_be_older_than_an_unlock_of_the_same_owner_is_asked_for_once_more() {
    let two = Two::new().await;
    two.files[0].set_lock(whole(Exclusive), false).await.unwrap();
    let waiting = two.waiting(1, whole(Exclusive)).await;
    two.files[1].unlock(OWNER, range(0, 4)).await.unwrap();
    two.files[0].unlock_owner(OWNER).await.unwrap();
    // The leader has granted it. Before its client knows, another thread unlocks.
    two.files[1].unlock(OWNER, range(5, 9)).await.unwrap();
    assert_eq!(waiting.await.unwrap(), Ok(()));
    assert_eq!(two.held_by(1), [(LockRange::WHOLE, Exclusive)]);
}

#[tokio::test(start_paused = true)]
async fn locks_and_waits_survive_a_new_leader() {
    let two = Two::new().await;
    two.files[0].set_lock(whole(Exclusive), false).await.unwrap();
    let waiting = two.waiting(1, whole(Exclusive)).await;
    two.cluster.meta.state().leader.replace();
    assert_eq!(two.files[1].set_lock(whole(Shared), false).await, Err(ClientError::LockConflict));
    wait_for("it to wait again", || two.counts() == (1, 1)).await;
    assert!(!waiting.is_finished());
    two.files[0].unlock_owner(OWNER).await.unwrap();
    assert_eq!(waiting.await.unwrap(), Ok(()));
    for file in &two.files {
        assert!(file.read_at(Offset(0), 1).await.is_ok(), "nothing is lost");
    }
}

#[tokio::test(start_paused = true)]
async fn a_wait_outlasts_a_cluster_that_does_not_answer_and_other_requests_do_not() {
    let two = Two::new().await;
    two.files[0].set_lock(whole(Exclusive), false).await.unwrap();
    let waiting = two.waiting(1, whole(Exclusive)).await;
    two.cluster.meta.state().leader.is_away = true;
    sleep(Duration::from_secs(5)).await;
    let answer = two.files[1].set_lock(whole(Shared), true).await;
    assert!(matches!(answer, Err(ClientError::Unavailable { .. })), "{answer:?}");
    sleep(Duration::from_secs(100)).await;
    assert!(!waiting.is_finished());
    two.cluster.meta.state().leader.is_away = false;
    sleep(Duration::from_secs(5)).await;
    assert_eq!(two.counts(), (1, 1));
    two.files[0].unlock_owner(OWNER).await.unwrap();
    assert_eq!(waiting.await.unwrap(), Ok(()));
}

#[tokio::test(start_paused = true)]
async fn a_leader_that_does_not_know_all_locks_yet_is_asked_until_the_deadline() {
    let two = Two::new().await;
    two.cluster.meta.state().leader.awaited.insert(SessionId(999));
    let answer = two.files[0].set_lock(whole(Shared), false).await;
    assert!(matches!(answer, Err(ClientError::Unavailable { .. })), "{answer:?}");
    let file = two.files[0].clone();
    let asking = tokio::spawn(async move { file.set_lock(whole(Shared), false).await });
    sleep(Duration::from_secs(9)).await;
    two.cluster.meta.state().leader.awaited.clear();
    assert_eq!(asking.await.unwrap(), Ok(()));
}

#[tokio::test(start_paused = true)]
async fn a_wait_that_would_never_end_is_a_deadlock() {
    let two = Two::new().await;
    let (left, right) = (range(0, 9), range(10, 19));
    two.files[0].set_lock(wanted(Exclusive, left), false).await.unwrap();
    two.files[1].set_lock(wanted(Exclusive, right), false).await.unwrap();
    let _waiting = two.waiting(0, wanted(Exclusive, right)).await;
    let closing = two.files[1].set_lock(wanted(Exclusive, left), true).await;
    assert_eq!(closing, Err(ClientError::LockDeadlock));
    assert_eq!(two.counts(), (2, 1));
}

#[tokio::test(start_paused = true)]
async fn after_its_session_expired_each_file_through_which_a_lock_was_set_fails_once() {
    let cluster = Cluster::new();
    let client = cluster.client().await;
    let reader = make(&client, "f").await;
    let (writer, without) =
        (open(&client, reader.inode()).await.unwrap(), open(&client, reader.inode()).await.unwrap());
    reader.set_lock(wanted(Shared, range(0, 0)), false).await.unwrap();
    writer.set_lock(wanted(Shared, range(1, 1)), false).await.unwrap();
    without.set_lock(wanted(Shared, range(2, 2)), false).await.unwrap();
    without.unlock(OWNER, range(2, 2)).await.unwrap();
    let before = cluster.meta.state().leader.sessions();
    cluster.meta.expire_all();
    wait_for("the next session", || {
        let sessions = cluster.meta.state().leader.sessions();
        !sessions.is_empty() && sessions != before
    })
    .await;
    assert_eq!(cluster.meta.state().leader.locks.counts(), (0, 0));
    for _ in 0..2 {
        // The kernel drops the error of a read that it makes ahead.
        assert_eq!(reader.read_at(Offset(0), 1).await, Err(ClientError::LockLost));
    }
    assert_eq!(reader.flush().await, Err(ClientError::LockLost));
    assert_eq!(writer.write_at(&USER, Offset(0), b"x").await, Err(ClientError::LockLost));
    for file in [&reader, &writer, &without] {
        assert!(file.read_at(Offset(0), 1).await.is_ok());
        assert_eq!(file.write_at(&USER, Offset(0), b"x").await, Ok(()));
        assert_eq!(file.sync().await, Ok(()));
    }
    assert_eq!(reader.set_lock(whole(Exclusive), false).await, Ok(()));
}

#[tokio::test(start_paused = true)]
async fn a_lock_that_a_new_leader_gave_to_somebody_else_is_lost_and_told_once() {
    let two = Two::new().await;
    two.files[0].set_lock(wanted(Exclusive, range(0, 9)), false).await.unwrap();
    two.files[0].set_lock(wanted(Exclusive, range(20, 29)), false).await.unwrap();
    {
        let leader = &mut two.cluster.meta.state().leader;
        leader.replace();
        leader.awaited.clear(); // which no leader does
        let inode = two.files[0].inode();
        let other = HeldLock { inode, owner: OWNER, range: range(9, 9), kind: Exclusive, process: 1 };
        leader.locks.set(SessionId(999), other, None);
    }
    wait_for("the next attachment", || two.held_by(0) == [(range(20, 29), Exclusive)]).await;
    sleep(Duration::from_millis(1)).await;
    assert_eq!(two.files[0].flush().await, Err(ClientError::LockLost));
    assert_eq!(two.files[0].flush().await, Ok(()));
    assert_eq!(two.files[1].flush().await, Ok(()));
}

/// A shared lock takes the place of an exclusive one when it is granted: then others may come in.
#[tokio::test(start_paused = true)]
async fn an_exclusive_lock_that_cannot_be_taken_back_after_a_wait_was_given_up_is_lost() {
    let two = Two::new().await;
    two.files[1].set_lock(wanted(Exclusive, range(0, 9)), false).await.unwrap();
    two.files[0].set_lock(wanted(Exclusive, range(20, 29)), false).await.unwrap();
    let waiting = two.waiting(1, wanted(Shared, range(0, 29))).await;
    waiting.abort();
    two.files[0].unlock_owner(OWNER).await.unwrap();
    assert_eq!(two.files[0].set_lock(wanted(Shared, range(5, 5)), false).await, Ok(()));
    wait_for("nothing to be left of it", || two.held_by(1).is_empty()).await;
    assert_eq!(two.files[1].read_at(Offset(0), 1).await, Err(ClientError::LockLost));
    assert_eq!(two.files[1].flush().await, Err(ClientError::LockLost));
    assert!(two.files[1].read_at(Offset(0), 1).await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn an_owner_without_locks_costs_no_request_and_a_closed_file_leaves_none() {
    let two = Two::new().await;
    let requests = || two.cluster.meta.state().leader.lock_requests.len();
    two.files[0].unlock_owner(OWNER).await.unwrap();
    assert_eq!(requests(), 0);
    two.files[0].set_lock(whole(Shared), false).await.unwrap();
    two.files[0].unlock_owner(LockOwner(2)).await.unwrap();
    assert_eq!(requests(), 1);
    two.files[0].release().await.unwrap();
    assert_eq!(two.counts(), (0, 0));
    let asked = two.cluster.meta.state().leader.lock_requests.clone();
    assert!(matches!(asked[..], [LockAsk::Set { .. }, LockAsk::Unlock { .. }]), "{asked:?}");
    two.files[1].release().await.unwrap();
    assert_eq!(requests(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_file_that_is_dropped_without_a_close_leaves_no_lock() {
    let cluster = Cluster::new();
    let client = cluster.client().await;
    let file = make(&client, "f").await;
    file.set_lock(whole(Exclusive), false).await.unwrap();
    drop(file);
    wait_for("the lock to go", || cluster.meta.state().leader.locks.counts() == (0, 0)).await;
}

/// The leader has more of the session than the session knows: say, a grant whose answer is on its way.
#[tokio::test(start_paused = true)]
async fn an_unlock_for_which_the_leader_has_no_room_is_told_with_an_attachment() {
    let two = Two::new().await;
    two.files[0].set_lock(whole(Exclusive), false).await.unwrap();
    let inode = two.files[0].inode();
    for byte in 0..LOCKS_MAX as u64 - 1 {
        let (owner, range) = (LockOwner(9), range(2 * byte, 2 * byte));
        let unknown = HeldLock { inode: InodeId(inode.0 + 1), owner, range, kind: Shared, process: 1 };
        two.cluster.meta.state().leader.locks.set(two.sessions[0], unknown, None);
    }
    assert_eq!(two.files[0].unlock(OWNER, range(5, 9)).await, Ok(()));
    assert_eq!(two.held_by(0), [(range(0, 4), Exclusive), (range(10, LOCK_END_MAX), Exclusive)]);
}

/// The lock went to somebody else while the write waited for the file, and who has it may have written there.
#[tokio::test(start_paused = true)]
async fn a_write_that_waits_while_its_lock_is_lost_writes_nothing() {
    let two = Two::new().await;
    let file = two.files[1].clone();
    file.set_lock(whole(Exclusive), false).await.unwrap();
    two.cluster.meta.state().leader.acquire_answer_delay = Duration::from_secs(3);
    let writer = file.clone();
    let writing = tokio::spawn(async move { writer.write_at(&USER, Offset(0), b"late").await });
    sleep(Duration::from_secs(1)).await; // for the question to reach the leader
    two.cluster.meta.expire_all();
    assert_eq!(writing.await.unwrap(), Err(ClientError::LockLost));
    assert_eq!(two.cluster.read_elsewhere(file.inode()).await, b"");
    file.write_at(&USER, Offset(0), b"again").await.unwrap();
    file.sync().await.unwrap();
    assert_eq!(two.cluster.read_elsewhere(file.inode()).await, b"again");
}
