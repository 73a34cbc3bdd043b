//! The table of Write leases, step by step.

use std::time::Duration;

use dfs_proto::ids::{Attachment, InodeId, SessionId, WriteGrant};
use dfs_proto::meta::{HeldWrite, WriteRecall};

use crate::data::writes::state::{Decision, HELD_MANY, HELD_MAX, State};
use crate::session::leases::Bound;

const FILE: InodeId = InodeId(7);
const SESSION: SessionId = SessionId(3);
const TERM: Duration = Duration::from_secs(10);
const START: Duration = Duration::from_secs(100);
/// The leases that were counted at `START` have lapsed.
const LAPSED: Duration = Duration::from_millis(109_500);

fn bound(attachment: u64) -> Bound {
    Bound { session: SESSION, attachment: Attachment(attachment) }
}

fn attach(state: &mut State, attachment: u64, sent: Duration) -> Vec<HeldWrite> {
    let told = state.attaching(bound(attachment));
    state.attached(Attachment(attachment), sent, Some(TERM));
    told
}

fn attached() -> State {
    let mut state = State::new();
    attach(&mut state, 1, START);
    state
}

fn ask(state: &mut State, inode: InodeId) -> HeldWrite {
    match state.hold(inode, START, None) {
        Decision::Ask(ticket) => ticket.write,
        other => panic!("{other:?}"),
    }
}

/// A writer without a ticket.
fn hold(state: &mut State, inode: InodeId, now: Duration) -> Option<HeldWrite> {
    match state.hold(inode, now, None) {
        Decision::Hold(write, session) => {
            assert_eq!(session, SESSION);
            Some(write)
        }
        Decision::Wait => None,
        other => panic!("{other:?}"),
    }
}

/// A writer that has asked, or has waited for the answer.
fn take_turn(state: &mut State, write: HeldWrite) -> bool {
    let held = state.hold(write.inode, START, Some(write.grant));
    matches!(held, Decision::Hold(held, SESSION) if held == write)
}

/// It has been written once.
fn holding() -> (State, HeldWrite) {
    let mut state = attached();
    let write = ask(&mut state, FILE);
    state.acquired(write, START);
    assert!(take_turn(&mut state, write));
    state.end_hold(write);
    (state, write)
}

fn recall(state: &mut State, attachment: u64, write: HeldWrite) {
    state.recalled(&WriteRecall { attachment: Attachment(attachment), writes: vec![write] });
}

#[test]
fn what_was_asked_for_once_is_held_until_it_is_recalled_and_flushed() {
    let (mut state, write) = holding();
    for _ in 0..3 {
        assert_eq!(hold(&mut state, FILE, START), Some(write));
    }
    recall(&mut state, 1, write);
    assert_eq!(hold(&mut state, FILE, START), None, "no hold begins any more");
    assert!(!state.end_hold(write) && !state.end_hold(write));
    assert!(state.end_hold(write), "the last one has ended");
    assert_eq!(state.take_to_flush(), [write]);
    assert!(state.is_held(FILE) && state.take_returned().is_empty(), "it is not flushed yet");
    state.flushed(write);
    assert!(!state.is_held(FILE));
    assert_eq!(state.take_returned(), [write]);
    assert!(ask(&mut state, FILE).grant > write.grant);
}

#[test]
fn a_recall_that_overtakes_its_grant_leaves_time_for_one_write_of_everybody_who_waited() {
    let mut state = attached();
    let write = ask(&mut state, FILE);
    let waits = |state: &mut State| matches!(state.hold(FILE, START, None), Decision::WaitWith(_));
    assert!(waits(&mut state) && waits(&mut state), "one question at a time");
    recall(&mut state, 1, write);
    assert!(state.take_returned().is_empty());
    state.acquired(write, START);
    assert_eq!(hold(&mut state, FILE, START), None, "who comes later waits for the next one");
    assert!(take_turn(&mut state, write) && take_turn(&mut state, write));
    assert!(!state.end_hold(write) && !state.end_hold(write), "one still waits for its turn");
    state.leave(write);
    assert_eq!(state.take_to_flush(), [write]);
}

#[test]
fn a_recalled_question_that_is_given_up_is_given_back() {
    let mut state = attached();
    let write = ask(&mut state, FILE);
    recall(&mut state, 1, write);
    state.given_up(write);
    assert_eq!(state.take_returned(), [write]);
    state.acquired(write, START);
    assert!(state.all_held().is_empty(), "its answer means nothing");
}

#[test]
fn what_a_create_asked_for_is_given_back_at_once_and_its_answer_means_nothing() {
    let mut state = attached();
    let grant = state.wish_to_create().unwrap();
    let created = HeldWrite { inode: FILE, grant };
    recall(&mut state, 1, created);
    assert_eq!(state.take_returned(), [created]);
    state.created(grant, Some(FILE), START);
    assert!(state.all_held().is_empty());
}

/// The file was found by its name, written and given back, before the answer to its create came.
#[test]
fn the_answer_to_a_create_that_comes_behind_a_later_return_of_its_file_means_nothing() {
    let mut state = attached();
    let grant = state.wish_to_create().unwrap();
    let later = ask(&mut state, FILE);
    state.acquired(later, START);
    assert!(take_turn(&mut state, later));
    recall(&mut state, 1, later);
    state.end_hold(later);
    state.flushed(later);
    state.created(grant, Some(FILE), START);
    assert!(state.all_held().is_empty());
}

#[test]
fn a_create_brings_what_is_held() {
    let mut state = attached();
    let grant = state.wish_to_create().unwrap();
    state.created(grant, Some(FILE), START);
    assert_eq!(hold(&mut state, FILE, START), Some(HeldWrite { inode: FILE, grant }));
    let refused = state.wish_to_create().unwrap();
    state.created(refused, None, START);
    ask(&mut state, InodeId(9));
}

/// The leader may know the last one only.
#[test]
fn a_recall_ends_what_has_its_number_or_a_lower_one_and_is_answered_with_its_own() {
    let (mut state, write) = holding();
    let later = HeldWrite { grant: WriteGrant(write.grant.0 + 1), ..write };
    recall(&mut state, 1, later);
    assert_eq!(state.take_to_flush(), [write]);
    state.flushed(write);
    assert_eq!(state.take_returned(), [later]);
}

#[test]
fn what_is_not_held_is_given_back_at_once_and_another_grant_stays() {
    let (mut state, write) = holding();
    let earlier = HeldWrite { inode: FILE, grant: WriteGrant(0) };
    recall(&mut state, 1, earlier);
    assert_eq!(state.take_returned(), [earlier]);
    assert_eq!(hold(&mut state, FILE, START), Some(write));
    recall(&mut state, 9, write);
    state.end_hold(write);
    assert_eq!(hold(&mut state, FILE, START), Some(write), "it is of another attachment");
}

#[test]
fn a_lapsed_lease_is_not_written_under_until_the_leader_has_answered() {
    let (mut state, write) = holding();
    assert_eq!(hold(&mut state, FILE, LAPSED), None);
    assert!(!state.is_valid(LAPSED));
    state.renewed(Attachment(7), LAPSED);
    assert_eq!(hold(&mut state, FILE, LAPSED), None, "it is of another attachment");
    assert_eq!(attach(&mut state, 2, LAPSED), [write]);
    assert_eq!(hold(&mut state, FILE, LAPSED), Some(write), "as if nothing had been");
}

#[test]
fn a_question_of_an_earlier_attachment_is_void_and_what_is_held_goes_on() {
    let (mut state, write) = holding();
    let asked = ask(&mut state, InodeId(8));
    let created = state.wish_to_create().unwrap();
    assert_eq!(attach(&mut state, 2, START), [write]);
    state.acquired(asked, START);
    state.created(created, Some(InodeId(10)), START);
    assert_eq!(state.all_held(), [write]);
}

#[test]
fn nothing_is_given_back_while_an_attachment_is_on_its_way() {
    let (mut state, write) = holding();
    state.attaching(bound(2));
    state.return_unused(FILE);
    state.take_to_flush();
    state.flushed(write);
    assert!(state.take_returned().is_empty(), "it names the lease");
    state.attached(Attachment(2), START, Some(TERM));
    assert_eq!(state.take_returned(), [write]);
}

#[test]
fn with_the_session_all_ends() {
    let (mut state, write) = holding();
    recall(&mut state, 1, write);
    state.session_ended();
    state.flushed(write);
    assert!(state.take_to_flush().is_empty() && state.take_returned().is_empty());
    assert_eq!(hold(&mut state, FILE, START), None, "until the next one has attached");
    let next = Bound { session: SessionId(4), attachment: Attachment(2) };
    assert!(state.attaching(next).is_empty());
    state.attached(Attachment(2), START, Some(TERM));
    assert!(ask(&mut state, FILE).grant > write.grant);
}

#[test]
fn a_leader_that_gives_none_lets_everybody_write() {
    let (mut state, _) = holding();
    state.attaching(bound(2));
    state.attached(Attachment(2), START, None);
    assert!(matches!(state.hold(FILE, LAPSED, None), Decision::Free));
    assert!(state.is_valid(LAPSED) && !state.is_held(FILE));
    assert_eq!(state.wish_to_create(), None);
}

#[test]
fn what_is_not_used_and_clean_is_given_back_and_so_is_the_oldest_of_too_many() {
    let (mut state, write) = holding();
    let age = Duration::from_secs(5);
    state.return_idle(START + age, age, |_| false);
    assert!(state.take_to_flush().is_empty(), "it is dirty");
    state.return_idle(START + age / 2, age, |_| true);
    assert!(state.take_to_flush().is_empty(), "it was just used");
    state.return_idle(START + age, age, |_| true);
    assert_eq!(state.take_to_flush(), [write]);
    state.flushed(write);

    for number in 0..HELD_MAX as u64 {
        let write = ask(&mut state, InodeId(1000 + number));
        state.acquired(write, START + Duration::from_millis(number));
        state.leave(write);
    }
    assert_eq!(hold(&mut state, FILE, START), None, "there is no room");
    assert_eq!(state.wish_to_create(), None);
    state.return_idle(START, Duration::MAX, |_| false);
    let oldest = state.take_to_flush();
    assert_eq!(oldest.len(), HELD_MAX - HELD_MANY);
    assert!(oldest.iter().all(|write| write.inode.0 < 1000 + (HELD_MAX - HELD_MANY) as u64));
}
