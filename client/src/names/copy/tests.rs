//! The copy, step by step.

use std::sync::Arc;
use std::time::Duration;

use dfs_proto::attr::{Caller, FileKind, InodeAttr, Name};
use dfs_proto::error::MetaError;
use dfs_proto::ids::{Attachment, InodeId, RequestId, RequestLane, SessionId};
use dfs_proto::meta::{Change, Read, ReadReply, Recall, Recalled, SetAttr, Shown};

use crate::fakes::clock::TokioClock;
use crate::names::copy::LeasedCopy;
use crate::names::copy::fixtures::{DIRECTORY, attr};
use crate::names::copy::lease::MARGIN;
use crate::names::copy::state::State;
use crate::session::leases::{Handled, ReadLeases as _, SentAs};

const FILE: InodeId = InodeId(1000);
const OTHER: InodeId = InodeId(1001);
const TERM: Duration = Duration::from_secs(2);
const FIRST: Attachment = Attachment(1);
const SENT: Duration = Duration::from_secs(100);
const NOW: Duration = Duration::from_millis(100_010);

fn file(inode: InodeId) -> InodeAttr {
    attr(inode, FileKind::File, 1)
}

fn answer(copy: &mut State, read: Read, shown: ReadReply, leased: &[InodeId]) {
    let question = copy.ask().unwrap();
    copy.answered(question, &read, &Shown { answered: Ok(shown), leased: leased.to_vec() });
}

fn show(copy: &mut State, attr: InodeAttr) {
    let inode = attr.inode;
    answer(copy, Read::GetAttr { inode }, ReadReply::Attr(attr), &[inode]);
}

fn lookup(name: &str) -> Read {
    Read::Lookup { parent: DIRECTORY, name: name.into() }
}

/// It knows the directory, the file and its name `f`, and that there is no `g`.
fn filled() -> State {
    let mut copy = State::with_room(100);
    copy.attaching(FIRST);
    copy.attached(FIRST, SENT, TERM);
    fill(&mut copy);
    copy
}

fn fill(copy: &mut State) {
    show(copy, attr(DIRECTORY, FileKind::Directory, 1));
    answer(copy, lookup("f"), ReadReply::Attr(file(FILE)), &[DIRECTORY, FILE]);
    let question = copy.ask().unwrap();
    let absent = Shown { answered: Err(MetaError::NotFound), leased: vec![DIRECTORY] };
    copy.answered(question, &lookup("g"), &absent);
}

/// The directory, the file, the name that is there, the name that is not.
fn known_at(copy: &mut State, now: Duration) -> [bool; 4] {
    let reads = [Read::GetAttr { inode: DIRECTORY }, Read::GetAttr { inode: FILE }, lookup("f"), lookup("g")];
    reads.map(|read| copy.answer(&Caller::ROOT, &read, now).is_some())
}

fn known(copy: &mut State) -> [bool; 4] {
    known_at(copy, NOW)
}

fn recall(number: u64, inodes: &[(InodeId, &[&str])]) -> Recall {
    let names = |names: &[&str]| names.iter().map(|name| name.as_bytes().to_vec()).collect();
    let inodes = inodes.iter().map(|(inode, in_it)| (*inode, names(in_it))).collect();
    Recall { attachment: FIRST, number, what: Recalled::Inodes(inodes) }
}

fn unlink(name: &str) -> Change {
    Change::Unlink { parent: DIRECTORY, name: Name::new(name).unwrap() }
}

fn set(inode: InodeId) -> Change {
    Change::SetAttr(SetAttr { inode, ..SetAttr::default() })
}

fn sent(number: u64, answered_below: u64) -> SentAs {
    let id = |number| RequestId::new(RequestLane(3), number);
    SentAs { session: SessionId(1), request: id(number), answered_below: id(answered_below) }
}

#[test]
fn what_was_shown_under_leases_is_answered_until_they_end() {
    let mut copy = filled();
    assert_eq!(known(&mut copy), [true; 4]);
    assert_eq!(copy.answer(&Caller::ROOT, &lookup("g"), NOW), Some(Err(MetaError::NotFound)));
    let end = SENT + TERM - MARGIN;
    assert_eq!(known_at(&mut copy, end - Duration::from_nanos(1)), [true; 4]);
    assert_eq!(known_at(&mut copy, end), [false; 4]);
}

#[test]
fn a_heartbeat_renews_from_when_it_was_sent_and_what_had_lapsed_does_not_come_back() {
    let (mut copy, later) = (filled(), SENT + Duration::from_secs(1));
    copy.renewed(FIRST, (later, later + Duration::from_millis(500)), 0);
    assert_eq!(known_at(&mut copy, later + TERM - MARGIN - Duration::from_nanos(1)), [true; 4]);
    assert_eq!(known_at(&mut copy, later + TERM - MARGIN), [false; 4]);
    copy.renewed(FIRST, (later + TERM, later + TERM), 0);
    assert_eq!(known_at(&mut copy, later + TERM), [false; 4]);
    fill(&mut copy);
    assert_eq!(known_at(&mut copy, later + TERM), [true; 4]);
}

#[test]
fn a_heartbeat_counts_once_every_recall_before_its_answer_was_handled() {
    let (mut copy, later) = (filled(), SENT + Duration::from_secs(1));
    let long_after = SENT + TERM;
    copy.renewed(FIRST, (later, later), 2);
    assert_eq!(known_at(&mut copy, long_after), [false; 4]);
    copy.recalled(&recall(1, &[(OTHER, &[])]), later);
    assert_eq!(known_at(&mut copy, long_after), [false; 4]);
    copy.recalled(&recall(2, &[(OTHER, &[])]), later);
    assert_eq!(known_at(&mut copy, long_after), [true; 4]);
}

#[test]
fn a_recall_takes_back_what_it_names_and_nothing_else() {
    for (inodes, left) in [
        (vec![(FILE, &[][..])], [true, false, false, true]),
        (vec![(DIRECTORY, &["g"][..])], [false, true, false, false]),
        (vec![(OTHER, &["f"][..])], [true; 4]),
    ] {
        let mut copy = filled();
        let handled = copy.recalled(&recall(1, &inodes), NOW);
        assert_eq!(handled, Some(Handled { attachment: FIRST, number: 1 }));
        assert_eq!(known(&mut copy), left, "{inodes:?}");
    }
    let mut copy = filled();
    copy.recalled(&recall(1, &[(DIRECTORY, &["f"])]), NOW);
    show(&mut copy, attr(DIRECTORY, FileKind::Directory, 2));
    assert_eq!(known(&mut copy), [true, true, false, true], "its other names stay");
}

#[test]
fn everything_goes_with_a_recall_of_everything_and_with_a_gap_between_recalls() {
    let everything = Recall { attachment: FIRST, number: 1, what: Recalled::Everything };
    for (recall, handled) in [(everything, 1), (recall(5, &[]), 5)] {
        let mut copy = filled();
        assert_eq!(copy.recalled(&recall, NOW), Some(Handled { attachment: FIRST, number: handled }));
        assert_eq!(known(&mut copy), [false; 4]);
    }
}

#[test]
fn a_recall_of_another_attachment_or_one_that_comes_again_does_nothing() {
    let mut copy = filled();
    let of_another = Recall { attachment: Attachment(2), ..recall(1, &[(FILE, &[])]) };
    assert_eq!(copy.recalled(&of_another, NOW), None);
    assert!(copy.recalled(&recall(1, &[]), NOW).is_some());
    assert_eq!(copy.recalled(&recall(1, &[(FILE, &[])]), NOW), None);
    assert_eq!(known(&mut copy), [true; 4]);
}

#[test]
fn an_answer_that_a_recall_has_overtaken_does_not_enter() {
    for (recalled, left) in [
        ((FILE, &[][..]), [false, false]),
        ((DIRECTORY, &["f"][..]), [true, false]),
        ((DIRECTORY, &["g"][..]), [true, true]),
    ] {
        let mut copy = filled();
        copy.recalled(&recall(1, &[(FILE, &[]), (DIRECTORY, &["f"])]), NOW);
        let question = copy.ask().unwrap();
        copy.recalled(&recall(2, &[recalled]), NOW);
        let answered = Ok(ReadReply::Attr(file(FILE)));
        copy.answered(question, &lookup("f"), &Shown { answered, leased: vec![DIRECTORY, FILE] });
        show(&mut copy, attr(DIRECTORY, FileKind::Directory, 2));
        let [_, is_file, is_name, _] = known(&mut copy);
        assert_eq!([is_file, is_name], left, "{recalled:?}");
    }
}

#[test]
fn an_answer_to_a_question_of_an_earlier_attachment_or_without_a_lease_does_not_enter() {
    let mut copy = filled();
    let question = copy.ask().unwrap();
    copy.attaching(Attachment(2));
    assert_eq!(copy.ask(), None, "the leader has not taken it yet");
    copy.attached(Attachment(2), SENT, TERM);
    let shown = Shown { answered: Ok(ReadReply::Attr(file(FILE))), leased: vec![FILE] };
    copy.answered(question, &Read::GetAttr { inode: FILE }, &shown);
    answer(&mut copy, lookup("f"), ReadReply::Attr(file(FILE)), &[DIRECTORY]);
    assert_eq!(known(&mut copy), [false; 4]);
    show(&mut copy, file(FILE));
    assert_eq!(known(&mut copy), [false, true, false, false]);
}

#[test]
fn the_end_of_an_attachment_or_of_the_session_empties_the_copy() {
    let ends: [fn(&mut State); 3] = [
        |copy| copy.detached(FIRST),
        |copy| copy.attaching(Attachment(2)),
        |copy| copy.session_replaced(SessionId(2)),
    ];
    for end in ends {
        let mut copy = filled();
        end(&mut copy);
        assert_eq!((known(&mut copy), copy.len()), ([false; 4], 0));
    }
    let mut copy = filled();
    copy.detached(Attachment(0));
    assert_eq!(known(&mut copy), [true; 4], "it was another one that ended");
}

#[test]
fn from_a_leader_without_leases_nothing_is_asked_and_nothing_is_kept() {
    let mut copy = State::with_room(100);
    copy.attaching(FIRST);
    copy.attached(FIRST, SENT, Duration::ZERO);
    copy.renewed(FIRST, (SENT, NOW), 0);
    assert_eq!(copy.ask(), None);
}

#[test]
fn a_change_drops_what_it_may_alter_and_keeps_it_out_until_it_is_settled() {
    for (change, left) in [
        (unlink("f"), [false, false, false, true]),
        (unlink("g"), [false, true, false, false]),
        (set(FILE), [true, false, false, true]),
        (set(OTHER), [true; 4]),
        // What the name leads to is not known: it may be any file.
        (unlink("h"), [false, false, false, true]),
    ] {
        let mut copy = filled();
        let own = copy.begin_change(change.scope(), NOW).unwrap();
        fill(&mut copy);
        // Without the directory no name is answered.
        let with_directory =
            |[directory, file, f, g]: [bool; 4]| [directory, file, f && directory, g && directory];
        assert_eq!(known(&mut copy), with_directory(left), "{change:?} is under way");
        let early = copy.ask().unwrap();
        copy.settle(own, NOW);
        let answered = Ok(ReadReply::Attr(file(FILE)));
        copy.answered(early, &lookup("f"), &Shown { answered, leased: vec![DIRECTORY, FILE] });
        assert_eq!(known(&mut copy), with_directory(left), "{change:?} was settled after the question");
        fill(&mut copy);
        assert_eq!(known(&mut copy), [true; 4]);
    }
}

#[test]
fn neither_attributes_nor_names_that_a_change_may_alter_enter_while_it_is_under_way() {
    let mut copy = filled();
    copy.begin_change(unlink("f").scope(), NOW).unwrap();
    fill(&mut copy);
    assert_eq!(copy.len(), 1, "the name that is not there");
}

#[test]
fn a_change_behind_a_name_that_others_touch_meanwhile_may_alter_any_file() {
    let others: [fn(&mut State); 3] = [
        |copy| assert!(copy.recalled(&recall(1, &[(DIRECTORY, &["f"])]), NOW).is_some()),
        |copy| {
            let second = copy.begin_change(unlink("f").scope(), NOW).unwrap();
            copy.settle(second, NOW);
        },
        |copy| copy.renewed(FIRST, (SENT + TERM, SENT + TERM), 0),
    ];
    for touch in others {
        let mut copy = filled();
        show(&mut copy, file(OTHER));
        copy.begin_change(unlink("f").scope(), NOW).unwrap();
        assert!(copy.attr(OTHER, NOW).is_some());
        touch(&mut copy);
        assert_eq!(copy.attr(OTHER, NOW), None);
        show(&mut copy, file(OTHER));
        assert_eq!(copy.attr(OTHER, NOW), None);
    }
}

#[test]
fn a_change_in_doubt_keeps_things_out_until_a_later_one_of_its_lane_was_executed() {
    let mut copy = filled();
    let doubtful = copy.begin_change(set(FILE).scope(), NOW).unwrap();
    copy.change_sent(doubtful, sent(7, 7));
    copy.doubt(doubtful);
    let knows_file = |copy: &mut State| {
        fill(copy);
        copy.attr(FILE, NOW).is_some()
    };
    assert!(!knows_file(&mut copy));
    copy.executed(sent(8, 7), NOW);
    assert!(!knows_file(&mut copy), "that one was sent while the first was waited for");
    let of_other_lane = SentAs { answered_below: RequestId::new(RequestLane(4), 9), ..sent(9, 9) };
    copy.executed(of_other_lane, NOW);
    assert!(!knows_file(&mut copy));
    copy.executed(sent(9, 8), NOW);
    assert!(knows_file(&mut copy));
    assert_eq!(copy.changes(), 0);
}

#[test]
fn a_change_in_doubt_ends_with_its_session_and_one_that_was_not_sent_at_once() {
    let mut copy = filled();
    let unsent = copy.begin_change(set(FILE).scope(), NOW).unwrap();
    copy.doubt(unsent);
    assert_eq!(copy.changes(), 0);
    for number in 0..5000 {
        let own = copy.begin_change(set(FILE).scope(), NOW).unwrap();
        copy.change_sent(own, sent(number, 0));
        copy.doubt(own);
    }
    assert!(copy.changes() <= 2048);
    show(&mut copy, file(OTHER));
    assert_eq!(copy.attr(OTHER, NOW), None, "too much is in doubt to keep anything new");
    copy.session_replaced(SessionId(2));
    copy.attaching(Attachment(2));
    copy.attached(Attachment(2), SENT, TERM);
    fill(&mut copy);
    assert_eq!((known(&mut copy), copy.changes()), ([true; 4], 0));
}

/// Its monotonic clock stands still while a machine sleeps.
#[test]
fn what_was_known_before_the_machine_slept_is_not_answered_after_it() {
    let clock = Arc::new(TokioClock::stopped());
    let copy = LeasedCopy::new(clock.clone());
    copy.attaching(FIRST);
    copy.attached(FIRST, Duration::ZERO, TERM);
    let read = Read::GetAttr { inode: FILE };
    let shown = Shown { answered: Ok(ReadReply::Attr(file(FILE))), leased: vec![FILE] };
    copy.ask(&read).answered(&read, &shown);
    assert!(copy.answer(&Caller::ROOT, &read).is_some());
    clock.sleep_through(TERM);
    assert_eq!(copy.answer(&Caller::ROOT, &read), None);
}
