//! The table of locks: sentences about it, and at random against a lock for each byte.

use dfs_proto::lock::LockKind;
use proptest::prelude::*;

use super::*;

const FILE: InodeId = InodeId(7);
const OTHER_FILE: InodeId = InodeId(8);
const A: SessionId = SessionId(1);
const B: SessionId = SessionId(2);
const C: SessionId = SessionId(3);

fn lock(inode: InodeId, owner: u64, (start, end): (u64, u64), kind: LockKind) -> HeldLock {
    HeldLock { inode, owner: LockOwner(owner), range: LockRange { start, end }, kind, process: 1 }
}

fn exclusive(owner: u64, range: (u64, u64)) -> HeldLock {
    lock(FILE, owner, range, LockKind::Exclusive)
}

fn shared(owner: u64, range: (u64, u64)) -> HeldLock {
    lock(FILE, owner, range, LockKind::Shared)
}

fn grant(session: SessionId, wait: u64) -> Grant {
    Grant { session, wait: WaitId(wait) }
}

impl LockTable {
    fn set_now(&mut self, session: SessionId, lock: HeldLock) -> LockReply {
        self.set(session, lock, None).0
    }

    fn wait(&mut self, session: SessionId, lock: HeldLock, wait: u64) -> LockReply {
        self.set(session, lock, Some(WaitId(wait))).0
    }

    fn has_circle(&self) -> bool {
        let mut waiting = self.files.values().flat_map(|file| file.line.values());
        waiting.any(|waiting| self.would_wait_for_itself(waiting.holder(), &waiting.lock))
    }

    fn unlock_now(&mut self, session: SessionId, owner: u64, (start, end): (u64, u64)) -> Vec<Grant> {
        let (reply, grants) = self.unlock(session, FILE, LockOwner(owner), LockRange { start, end });
        assert_eq!(reply, LockReply::Granted);
        grants
    }

    /// What must always hold.
    fn verify(&self) {
        let mut locks = BTreeMap::<SessionId, usize>::new();
        for (inode, file) in &self.files {
            assert!(!file.held.is_empty() || !file.line.is_empty(), "an unused file");
            for (holder, ranges) in &file.held {
                assert!(!ranges.pieces().is_empty());
                *locks.entry(holder.0).or_default() += ranges.pieces().len();
                assert!(self.sessions[&holder.0].files.contains(inode));
                let held = ranges.pieces();
                for pair in held.windows(2) {
                    assert!(pair[0].range.end < pair[1].range.start, "LT1: {pair:?}");
                    let [left, right] = [&pair[0], &pair[1]];
                    assert!(left.range.end + 1 < right.range.start || left.what != right.what, "LT1");
                }
                for held in held {
                    let lock = lock_of(held, *inode, holder.1);
                    assert_eq!(file.conflict(*holder, &lock), None, "LT1");
                }
            }
            for (place, waiting) in &file.line {
                let at = (*inode, *place);
                assert_eq!(self.sessions[&waiting.session].waits.get(&waiting.wait), Some(&at));
                assert!(self.waiting[&waiting.holder()].contains(&at));
                let ((other, byte), lock) = (waiting.behind, &waiting.lock);
                assert!(file.behind.contains(&(waiting.behind, *place)), "FL1");
                assert!(
                    other != waiting.holder() && (lock.range.start..=lock.range.end).contains(&byte),
                    "LT2"
                );
                let byte = LockRange { start: byte, end: byte };
                let held = file.held[&other].first_overlap(byte, |held| {
                    held.kind == LockKind::Exclusive || lock.kind == LockKind::Exclusive
                });
                assert!(held.is_some(), "LT2: {waiting:?}");
            }
            assert_eq!(file.behind.len(), file.line.len(), "FL1");
        }
        let waits = |of: &OfSession| of.waits.len();
        let counted: BTreeMap<_, _> =
            self.sessions.iter().map(|(session, of)| (*session, of.locks)).collect();
        assert!(counted.iter().all(|(session, count)| locks.get(session).copied().unwrap_or(0) == *count));
        assert_eq!(locks.values().sum::<usize>(), self.counts().0);
        let of_each = self.sessions.keys().map(|session| self.counts_of(*session));
        let together = of_each.fold((0, 0), |sum, of| (sum.0 + of.0, sum.1 + of.1));
        assert_eq!(together, self.counts());
        let in_lines: usize = self.files.values().map(|file| file.line.len()).sum();
        assert_eq!(self.sessions.values().map(waits).sum::<usize>(), in_lines);
        assert_eq!(self.waiting.values().map(BTreeSet::len).sum::<usize>(), in_lines);
        assert!(self.sessions.values().all(|of| of.locks + 2 * waits(of) <= TOLD_LOCKS_MAX), "LT4");
    }
}

#[test]
fn shared_locks_go_together_and_an_exclusive_one_excludes_every_other_holder() {
    let mut table = LockTable::default();
    assert_eq!(table.set_now(A, shared(1, (0, 9))), LockReply::Granted);
    assert_eq!(table.set_now(B, shared(1, (5, 20))), LockReply::Granted);
    let in_the_way = HeldLock { owner: LockOwner(0), ..shared(1, (0, 9)) };
    assert_eq!(table.set_now(C, exclusive(3, (9, 9))), LockReply::Conflict(in_the_way));
    assert_eq!(table.test(C, &exclusive(3, (21, 30))), LockReply::Granted);
    assert_eq!(
        table.set_now(A, exclusive(2, (3, 4))),
        LockReply::Conflict(shared(1, (0, 9))),
        "another owner"
    );
    assert_eq!(table.set_now(A, exclusive(1, (3, 4))), LockReply::Granted, "its own");
    table.verify();
}

#[test]
fn whoever_waits_gets_the_lock_in_the_order_of_arrival() {
    let mut table = LockTable::default();
    table.set_now(A, exclusive(1, (0, 99)));
    for (session, wait) in [(B, 10), (C, 11), (B, 12)] {
        assert_eq!(table.wait(session, exclusive(wait, (0, 9)), wait), LockReply::Waiting);
    }
    assert_eq!(table.blockers(), BTreeSet::from([A]));
    assert_eq!([A, B, C].map(|session| table.counts_of(session)), [(1, 0), (0, 2), (0, 1)]);
    assert_eq!(table.unlock_now(A, 1, (50, 99)), []);
    assert_eq!(table.unlock_now(A, 1, (0, 49)), [grant(B, 10)]);
    assert_eq!(table.unlock_now(B, 10, (0, 9)), [grant(C, 11)]);
    table.verify();
    assert_eq!(table.end(C), [grant(B, 12)]);
    assert_eq!(table.end(B), []);
    assert_eq!(table.counts(), (0, 0));
    assert!(table.files.is_empty() && table.sessions.is_empty() && table.waiting.is_empty());
}

#[test]
fn a_lock_that_becomes_a_shared_one_lets_other_readers_in() {
    let mut table = LockTable::default();
    table.set_now(A, exclusive(1, (0, 9)));
    table.wait(B, shared(1, (0, 9)), 1);
    table.wait(C, exclusive(1, (0, 9)), 1);
    assert_eq!(table.set(A, shared(1, (0, 9)), None), (LockReply::Granted, vec![grant(B, 1)]));
    table.verify();
}

#[test]
fn a_wait_that_would_close_a_circle_is_refused_and_the_others_go_on() {
    let mut table = LockTable::default();
    let of_other = |owner| lock(OTHER_FILE, owner, (0, 0), LockKind::Exclusive);
    table.set_now(A, exclusive(1, (0, 0)));
    table.set_now(B, exclusive(1, (1, 1)));
    table.set_now(C, of_other(1));
    assert_eq!(table.wait(A, exclusive(1, (1, 1)), 1), LockReply::Waiting, "A waits for B");
    assert_eq!(table.wait(B, of_other(1), 1), LockReply::Waiting, "B waits for C");
    assert_eq!(table.wait(C, exclusive(1, (0, 0)), 1), LockReply::Deadlock);
    assert_eq!(table.wait(C, exclusive(2, (0, 0)), 1), LockReply::Waiting, "another owner holds nothing");
    table.cancel(C, WaitId(1));
    assert_eq!(table.end(C), [grant(B, 1)]);
    assert_eq!(table.wait(B, exclusive(1, (0, 0)), 2), LockReply::Deadlock, "two wait for each other");
    table.verify();
}

#[test]
fn a_session_that_attaches_has_what_it_says_and_nothing_else() {
    let mut table = LockTable::default();
    table.set_now(A, exclusive(1, (0, 9)));
    table.set_now(A, exclusive(1, (20, 29)));
    table.wait(B, exclusive(1, (0, 9)), 1);
    table.wait(C, exclusive(1, (25, 25)), 1);
    let kept = exclusive(1, (20, 29));
    assert_eq!(table.attach(A, &[kept]), (vec![], vec![grant(B, 1)]));
    assert_eq!(table.held_by(A), [kept]);
    table.wait(A, exclusive(1, (5, 5)), 9);
    assert_eq!(table.attach(A, &[kept, exclusive(1, (3, 12))]), (vec![exclusive(1, (3, 12))], vec![]));
    assert_eq!(table.counts(), (2, 1), "its wait has ended, and that of C goes on");
    table.verify();
}

/// Every second byte, so that no two are one lock.
fn byte(n: usize) -> (u64, u64) {
    (2 * n as u64, 2 * n as u64)
}

impl LockTable {
    /// What the session holds, and its waits if they were granted, are what a leader takes.
    fn can_be_told(&self, session: SessionId) -> bool {
        let held = self.held_by(session);
        held.len() <= TOLD_LOCKS_MAX && LockTable::default().attach(session, &held).0.is_empty()
    }
}

#[test]
fn a_session_has_so_many_locks_and_waits_and_no_more() {
    let mut table = LockTable::default();
    let locks: Vec<HeldLock> = (0..TOLD_LOCKS_MAX + 10).map(|n| exclusive(1, byte(n))).collect();
    for lock in &locks[..LOCKS_MAX] {
        assert_eq!(table.set_now(A, *lock), LockReply::Granted);
    }
    assert_eq!(table.set_now(A, locks[LOCKS_MAX]), LockReply::TooMany);
    assert_eq!(table.attach(A, &locks).0.len(), 10);
    for n in 0..WAITS_MAX as u64 {
        assert_eq!(table.wait(B, exclusive(n, (0, 0)), n + 1), LockReply::Waiting);
    }
    assert_eq!(table.wait(B, exclusive(0, (0, 0)), 1 << 40), LockReply::TooMany);
    assert_eq!(table.wait(B, exclusive(3, (0, 0)), 4), LockReply::Waiting, "the same once more");
    table.verify();
}

#[test]
fn unlocks_in_the_middle_of_a_lock_leave_no_more_than_can_be_told() {
    let mut table = LockTable::default();
    table.set_now(A, exclusive(1, (0, 4 * TOLD_LOCKS_MAX as u64)));
    let unlock = |table: &mut LockTable, n| {
        let range = LockRange { start: 2 * n + 1, end: 2 * n + 1 };
        table.unlock(A, FILE, LockOwner(1), range).0
    };
    let replies: Vec<LockReply> = (0..=TOLD_LOCKS_MAX as u64).map(|n| unlock(&mut table, n)).collect();
    assert!(table.can_be_told(A));
    assert_eq!(replies[LOCKS_MAX - 2], LockReply::Granted);
    assert_eq!(replies[LOCKS_MAX - 1], LockReply::TooMany, "it needs one more, as in POSIX");
    assert_eq!(table.counts().0, LOCKS_MAX, "what was refused has changed nothing");
    assert_eq!(table.unlock(A, FILE, LockOwner(1), LockRange { start: 0, end: 3 }).0, LockReply::Granted);
    table.verify();
}

#[test]
fn waits_that_end_in_the_middle_of_a_lock_leave_no_more_than_can_be_told() {
    let mut table = LockTable::default();
    let whole = (0, 4 * TOLD_LOCKS_MAX as u64);
    table.set_now(A, shared(1, whole));
    for n in 0..LOCKS_MAX - 1 {
        let locked = lock(OTHER_FILE, 1, byte(n), LockKind::Exclusive);
        assert_eq!(table.set_now(A, locked), LockReply::Granted);
    }
    let mut waits = 0;
    for round in 0..3 {
        table.set_now(B, shared(1, whole));
        while table.wait(A, exclusive(1, byte(waits + round)), 1 + waits as u64) == LockReply::Waiting {
            waits += 1;
        }
        table.unlock_now(B, 1, whole);
        assert!(table.can_be_told(A), "after {waits} waits");
        table.verify();
    }
    assert!(waits >= WAITS_MAX);
}

#[test]
fn with_all_locks_that_it_may_have_a_session_changes_and_joins_them_and_splits_none() {
    let mut table = LockTable::default();
    let locks: Vec<HeldLock> = (0..LOCKS_MAX as u64).map(|n| exclusive(1, (10 * n, 10 * n + 7))).collect();
    assert_eq!(table.attach(A, &locks), (vec![], vec![]));
    assert_eq!(table.set_now(A, shared(1, (0, 7))), LockReply::Granted, "weaker in place");
    assert_eq!(table.set_now(A, exclusive(1, (0, 7))), LockReply::Granted, "and back");
    assert_eq!(table.set_now(A, shared(1, (13, 14))), LockReply::TooMany);
    assert_eq!(table.set_now(A, shared(1, (10, 14))), LockReply::TooMany);
    assert_eq!(table.held_by(A), locks, "what was refused has changed nothing");
    assert_eq!(table.set_now(A, exclusive(1, (8, 9))), LockReply::Granted, "two become one");
    assert_eq!(table.set_now(A, shared(1, (14, 17))), LockReply::Granted);
    table.verify();
}

#[test]
fn a_change_looks_only_at_the_waits_for_what_it_has_freed() {
    let (mut table, count) = (LockTable::default(), 2000);
    table.set_now(A, exclusive(1, (0, 10 * count)));
    for n in 0..count {
        assert_eq!(table.wait(B, exclusive(n, (2 * n, 2 * n)), n + 1), LockReply::Waiting);
    }
    let looks = |table: &mut LockTable, change: &dyn Fn(&mut LockTable) -> Vec<Grant>| {
        let before = table.looks();
        let grants = change(table).len() as u64;
        table.verify();
        (table.looks() - before, grants)
    };
    assert_eq!(looks(&mut table, &|table| table.unlock_now(A, 1, (8 * count, 9 * count))), (0, 0));
    assert_eq!(looks(&mut table, &|table| table.unlock_now(A, 1, (501, 501))), (0, 0), "nobody waits for it");
    assert_eq!(looks(&mut table, &|table| table.unlock_now(A, 1, (500, 500))), (1, 1));
    assert_eq!(looks(&mut table, &|table| table.set(A, exclusive(1, (0, 99)), None).1), (0, 0));
    assert_eq!(looks(&mut table, &|table| table.unlock_now(A, 1, (600, 619))), (10, 10));
    for n in 0..count {
        assert_eq!(table.wait(C, exclusive(n, (700, 700)), n + 1), LockReply::Waiting);
    }
    let freed = looks(&mut table, &|table| table.unlock_now(A, 1, (700, 700)));
    assert_eq!(freed, (1 + count, 1), "each of those that wait for the byte is looked at once");
    assert_eq!(looks(&mut table, &|table| table.end(A)), (count - 12, count - 12));
}

/// A lock of each byte: what a holder has of it.
type Bytes = BTreeMap<(InodeId, Holder, u64), LockKind>;

fn conflicts_in(bytes: &Bytes, holder: Holder, lock: &HeldLock) -> bool {
    bytes.iter().any(|((inode, other, byte), kind)| {
        *inode == lock.inode
            && *other != holder
            && (lock.range.start..=lock.range.end).contains(byte)
            && (*kind == LockKind::Exclusive || lock.kind == LockKind::Exclusive)
    })
}

fn put(bytes: &mut Bytes, session: SessionId, lock: &HeldLock) {
    for byte in lock.range.start..=lock.range.end {
        bytes.insert((lock.inode, (session, lock.owner), byte), lock.kind);
    }
}

#[derive(Clone, Debug)]
enum Step {
    Set { session: u64, owner: u64, inode: u64, range: (u64, u64), exclusive: bool, waits: bool },
    Unlock { session: u64, owner: u64, inode: u64, range: (u64, u64) },
    Cancel { session: u64, index: usize },
    AttachAgain { session: u64 },
    End { session: u64 },
}

fn steps() -> impl Strategy<Value = Step> {
    let range = || (0u64..12, 0u64..6).prop_map(|(start, len)| (start, start + len));
    prop_oneof![
        6 => (1u64..4, 1u64..3, 7u64..9, range(), any::<bool>(), any::<bool>()).prop_map(
            |(session, owner, inode, range, exclusive, waits)| Step::Set {
                session, owner, inode, range, exclusive, waits
            }
        ),
        4 => (1u64..4, 1u64..3, 7u64..9, range())
            .prop_map(|(session, owner, inode, range)| Step::Unlock { session, owner, inode, range }),
        1 => (1u64..4, 0usize..8).prop_map(|(session, index)| Step::Cancel { session, index }),
        1 => (1u64..4).prop_map(|session| Step::AttachAgain { session }),
        1 => (1u64..4).prop_map(|session| Step::End { session }),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    /// The table against a lock for each byte.
    #[test]
    fn every_byte_is_locked_as_if_each_had_a_lock_of_its_own(
        steps in prop::collection::vec(steps(), 1..60),
        has_threads in any::<bool>(),
    ) {
        let mut table = LockTable::default();
        let mut bytes = Bytes::new();
        let mut waits: Vec<(SessionId, WaitId, HeldLock)> = Vec::new();
        for (number, step) in steps.into_iter().enumerate() {
            let mut grants = Vec::new();
            match step {
                Step::Set { session, owner, inode, range, exclusive, waits: may_wait } => {
                    let kind = if exclusive { LockKind::Exclusive } else { LockKind::Shared };
                    let (session, lock) = (SessionId(session), lock(InodeId(inode), owner, range, kind));
                    let wait = may_wait.then_some(WaitId(number as u64 + 1));
                    let is_its = |of: &(SessionId, WaitId, HeldLock)| (of.0, of.2.owner) == (session, lock.owner);
                    if !has_threads && waits.iter().any(is_its) {
                        continue; // it waits
                    }
                    let is_free = !conflicts_in(&bytes, (session, lock.owner), &lock);
                    let (reply, granted) = table.set(session, lock, wait);
                    prop_assert_eq!(reply == LockReply::Granted, is_free);
                    if is_free {
                        put(&mut bytes, session, &lock);
                    }
                    if reply == LockReply::Waiting {
                        waits.extend(wait.map(|wait| (session, wait, lock)));
                    }
                    grants = granted;
                }
                Step::Unlock { session, owner, inode, range } => {
                    let (session, owner) = (SessionId(session), LockOwner(owner));
                    for byte in range.0..=range.1 {
                        bytes.remove(&(InodeId(inode), (session, owner), byte));
                    }
                    let range = LockRange { start: range.0, end: range.1 };
                    let (reply, granted) = table.unlock(session, InodeId(inode), owner, range);
                    prop_assert_eq!(reply, LockReply::Granted);
                    grants = granted;
                }
                Step::Cancel { session, index } => {
                    if let Some(at) = waits.iter().position(|(of, ..)| of.0 == session).filter(|at| *at <= index) {
                        let (session, wait, _) = waits.remove(at);
                        table.cancel(session, wait);
                    }
                }
                Step::AttachAgain { session } => {
                    let session = SessionId(session);
                    waits.retain(|(of, ..)| *of != session);
                    let held = table.held_by(session);
                    let (lost, granted) = table.attach(session, &held);
                    prop_assert_eq!(lost, vec![]);
                    prop_assert_eq!(table.held_by(session), held);
                    grants = granted;
                }
                Step::End { session } => {
                    let session = SessionId(session);
                    waits.retain(|(of, ..)| *of != session);
                    bytes.retain(|(_, holder, _), _| holder.0 != session);
                    grants = table.end(session);
                }
            }
            for granted in grants {
                let at = waits.iter().position(|(session, wait, _)| {
                    *session == granted.session && *wait == granted.wait
                });
                let (session, _, lock) = waits.remove(at.expect("only who waits is granted"));
                prop_assert!(!conflicts_in(&bytes, (session, lock.owner), &lock));
                put(&mut bytes, session, &lock);
            }
            for (session, _, lock) in &waits {
                prop_assert!(conflicts_in(&bytes, (*session, lock.owner), lock), "nothing keeps {:?} waiting", lock);
            }
            table.verify();
            prop_assert!(has_threads || !table.has_circle(), "LT3");
            let mut held = Bytes::new();
            for session in [A, B, C] {
                table.held_by(session).iter().for_each(|lock| put(&mut held, session, lock));
            }
            prop_assert_eq!(&held, &bytes);
        }
    }
}
