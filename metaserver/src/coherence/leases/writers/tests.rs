//! Who holds Write, and who gets it next.

use super::*;

const A: SessionId = SessionId(1);
const B: SessionId = SessionId(2);
const X: InodeId = InodeId(10);
const Y: InodeId = InodeId(11);
const FIRST: Attachment = Attachment(1);
const SECOND: Duration = Duration::from_secs(1);

fn write(inode: InodeId, grant: u64) -> HeldWrite {
    HeldWrite { inode, grant: WriteGrant(grant) }
}

fn held_by_a() -> Writers {
    let mut writers = Writers::default();
    assert_eq!(writers.grant(A, write(X, 1)), Given::Yes);
    writers
}

fn attached(_: SessionId) -> Option<Attachment> {
    Some(FIRST)
}

fn recall(attachment: Attachment, writes: &[HeldWrite]) -> Vec<(SessionId, WriteRecall)> {
    vec![(A, WriteRecall { attachment, writes: writes.to_vec() })]
}

#[test]
fn one_session_at_a_time_holds_write_and_nobody_else_is_granted_anything() {
    let mut writers = held_by_a();
    assert_eq!(writers.grant(B, write(X, 1)), Given::No);
    assert!(writers.may_read(X, A) && !writers.may_read(X, B) && writers.may_read(Y, B));
    assert!(writers.returned(A, write(X, 1)));
    assert!(writers.may_read(X, B));
    assert_eq!(writers.grant(B, write(X, 1)), Given::Yes);
}

#[test]
fn a_return_ends_every_grant_up_to_its_number_and_no_later_one() {
    let mut writers = held_by_a();
    assert!(writers.keep(A, write(X, 3)) && writers.keep(A, write(X, 2)) && !writers.keep(B, write(X, 9)));
    assert_eq!(writers.grant_of(A, X), Some(WriteGrant(3)), "the larger number counts");
    assert!(!writers.returned(A, write(X, 2)) && !writers.returned(B, write(X, 3)));
    assert!(writers.returned(A, write(X, 4)) && !writers.returned(A, write(X, 4)));
    assert_eq!((writers.count(), writers.count_of(A)), (0, 0));
}

#[test]
fn a_commit_is_taken_under_the_grant_that_it_names_or_under_none_while_nobody_holds_one() {
    let mut writers = held_by_a();
    let may = |writers: &Writers, session, under: Option<u64>| {
        writers.may_commit(session, X, under.map(WriteGrant))
    };
    assert!(may(&writers, A, Some(1)));
    assert!(!may(&writers, A, Some(2)) && !may(&writers, A, None) && !may(&writers, B, None));
    writers.returned(A, write(X, 1));
    assert!(!may(&writers, A, Some(1)) && may(&writers, B, None), "it came late");
}

#[test]
fn a_state_shows_what_was_written_if_nobody_else_holds_write_and_none_has_ended_since_it_was_read() {
    let mut writers = Writers::default();
    let before = writers.now();
    assert!(writers.are_none_since(before));
    assert_eq!(writers.grant(A, write(X, 1)), Given::Yes);
    assert!(!writers.are_none_since(before));
    assert!(writers.is_seen(X, A, before) && !writers.is_seen(X, B, before) && writers.is_seen(Y, B, before));
    writers.returned(A, write(X, 1));
    assert!(!writers.is_seen(X, B, before) && !writers.are_none_since(before), "it came and went meanwhile");
    assert!(writers.is_seen(X, B, writers.now()) && writers.are_none_since(writers.now()));
}

#[test]
fn while_one_acquires_it_nothing_is_granted_to_others_nor_with_an_open() {
    let mut writers = held_by_a();
    writers.begin_acquire(B, X);
    assert_eq!(writers.grant_acquired(B, write(X, 1)), Given::No, "it is not back yet");
    assert_eq!(writers.in_the_way(), BTreeSet::from([A]));
    writers.returned(A, write(X, 1));
    assert_eq!(writers.grant(A, write(X, 2)), Given::No);
    assert!(!writers.may_read(X, A) && writers.may_read(X, B));
    assert_eq!(writers.grant_acquired(B, write(X, 1)), Given::Yes);
    assert_eq!(writers.in_the_way(), BTreeSet::new(), "who acquires it has it");
    writers.end_acquire(X);
    assert!(!writers.is_acquired(X) && !writers.may_read(X, A));
}

#[test]
fn while_somebody_waits_nobody_is_granted_it_anew() {
    let mut writers = held_by_a();
    writers.begin_wait(X);
    writers.begin_wait(X);
    assert_eq!(writers.in_the_way(), BTreeSet::from([A]));
    writers.returned(A, write(X, 1));
    writers.end_wait(X);
    assert_eq!(writers.grant(A, write(X, 2)), Given::No, "another one waits");
    assert!(writers.may_read(X, A));
    writers.end_wait(X);
    assert_eq!(writers.grant(A, write(X, 2)), Given::Yes);
}

#[test]
fn a_holder_is_asked_once_in_each_attachment_and_counts_as_silent_when_it_does_not_return_for_a_minute() {
    let (mut writers, start) = (held_by_a(), Instant::now());
    writers.grant(A, write(Y, 2));
    let both = [write(X, 1), write(Y, 2)];
    assert_eq!(writers.ask(&[X, Y], Some(A), attached, start), [], "not by itself");
    assert_eq!(writers.ask(&[X, Y], Some(B), |_| None, start), [], "it is not attached");
    assert_eq!(writers.ask(&[X, Y], Some(B), attached, start), recall(FIRST, &both));
    assert_eq!(writers.ask(&[X, Y], Some(B), attached, start), []);
    writers.attach(A, &both);
    let again = |_| Some(Attachment(2));
    assert_eq!(writers.ask(&[X], None, again, start + SECOND), recall(Attachment(2), &both[..1]));
    assert_eq!(writers.late(start + RETURN_MAX), BTreeSet::new(), "nobody waits");
    writers.begin_wait(X);
    assert_eq!(writers.late(start + RETURN_MAX - SECOND), BTreeSet::new());
    assert_eq!(writers.late(start + RETURN_MAX), BTreeSet::from([A]));
    writers.commits(X, start + SECOND);
    assert_eq!(writers.late(start + RETURN_MAX), BTreeSet::new(), "it works");
    writers.keep(A, write(X, 3));
    assert_eq!(writers.ask(&[X], None, again, start), recall(Attachment(2), &[write(X, 3)]), "a new number");
    assert_eq!(writers.late(start + RETURN_MAX + SECOND), BTreeSet::from([A]));
}

#[test]
fn many_that_are_asked_for_go_in_several_pushes_that_each_fit() {
    let mut writers = Writers::default();
    let inodes: Vec<InodeId> = (0..300).map(|number| InodeId(u64::MAX - number)).collect();
    for inode in &inodes {
        writers.grant(A, write(*inode, u64::MAX));
    }
    let asked = writers.ask(&inodes, Some(B), |_| Some(Attachment(u64::MAX)), Instant::now());
    assert_eq!(asked.iter().map(|(_, recall)| recall.writes.len()).sum::<usize>(), 300);
    for (_, recall) in asked {
        let push = dfs_proto::convert::write_recall_to_push(&recall);
        assert!(prost::Message::encoded_len(&push) <= dfs_proto::frame::PUSH_LEN_MAX);
    }
}

#[test]
fn an_attachment_keeps_what_it_names_and_drops_the_rest_but_takes_nothing_that_others_hold() {
    let mut writers = held_by_a();
    writers.grant(A, write(Y, 2));
    let since = writers.now();
    assert_eq!(writers.attach(A, &[write(Y, 2)]), []);
    assert_eq!((writers.grant_of(A, X), writers.grant_of(A, Y)), (None, Some(WriteGrant(2))));
    assert!(!writers.is_seen(X, B, since), "it has ended");
    assert_eq!(writers.attach(B, &[write(X, 5), write(Y, 6)]), [write(Y, 6)]);
    assert_eq!((writers.grant_of(B, X), writers.count_of(B)), (Some(WriteGrant(5)), 1));
}

#[test]
fn a_session_that_has_ended_holds_nothing_and_its_ends_are_noted() {
    let mut writers = held_by_a();
    let since = writers.now();
    writers.end(A);
    assert!(writers.may_read(X, B) && !writers.is_seen(X, B, since) && writers.sessions().next().is_none());
    assert_eq!((writers.count(), writers.count_of(A)), (0, 0));
}

#[test]
fn the_number_of_grants_is_bounded_but_what_is_told_is_believed() {
    let mut writers = Writers::new(Bounds { all: 3, of_session: 2 });
    let [z, last] = [InodeId(12), InodeId(13)];
    assert_eq!(
        [X, Y, z].map(|inode| writers.grant(A, write(inode, 1))),
        [Given::Yes, Given::Yes, Given::TooMany]
    );
    assert!(writers.keep(A, write(X, 2)), "it has that");
    assert_eq!(writers.oldest_of(A), [Y, X]);
    assert_eq!([z, last].map(|inode| writers.grant(B, write(inode, 1))), [Given::Yes, Given::TooMany]);
    assert_eq!(writers.attach(B, &[write(z, 1), write(last, 2)]), []);
    assert_eq!(writers.count(), 4);
}
