//! The copy, step by step.

use std::sync::Arc;
use std::time::Duration;

use dfs_proto::attr::{Caller, FileKind, InodeAttr, Name};
use dfs_proto::error::MetaError;
use dfs_proto::ids::{Attachment, InodeId};
use dfs_proto::meta::{Change, Changed, Dropped, Read, ReadReply, Recall, Recalled, SetAttr, Shown};
use dfs_proto::scope::NameIn;

use crate::fakes::clock::TokioClock;
use crate::names::copy::LeasedCopy;
use crate::names::copy::fixtures::{DIRECTORY, ROOM, attr};
use crate::names::copy::lease::MARGIN;
use crate::names::copy::state::{DroppedAttrs, State, Untold};
use crate::names::outer::NoOuterCache;
use crate::session::leases::{Handled, ReadLeases as _, Taken};

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
    let mut copy = State::with_room(100, ROOM);
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
        (vec![(DIRECTORY, &[][..])], [false, true, false, false]),
        (vec![(OTHER, &["f"][..])], [true; 4]),
    ] {
        let mut copy = filled();
        let handled = copy.recalled(&recall(1, &inodes), NOW);
        assert_eq!(handled, Taken::Handled(Handled { attachment: FIRST, number: 1 }));
        assert_eq!(known(&mut copy), left, "{inodes:?}");
    }
    let mut copy = filled();
    copy.recalled(&recall(1, &[(DIRECTORY, &["f"])]), NOW);
    show(&mut copy, attr(DIRECTORY, FileKind::Directory, 2));
    assert_eq!(known(&mut copy), [true, true, false, true], "its other names stay");
    copy.recalled(&recall(2, &[(DIRECTORY, &[])]), NOW);
    show(&mut copy, attr(DIRECTORY, FileKind::Directory, 3));
    assert_eq!(known(&mut copy), [true, true, false, false], "all names go with the whole directory");
}

#[test]
fn everything_goes_with_a_recall_of_everything() {
    let mut copy = filled();
    let everything = Recall { attachment: FIRST, number: 1, what: Recalled::Everything };
    let handled = Handled { attachment: FIRST, number: 1 };
    assert_eq!(copy.recalled(&everything, NOW), Taken::Handled(handled));
    assert_eq!(known(&mut copy), [false; 4]);
}

#[test]
fn a_gap_between_recalls_ends_the_attachment() {
    let mut copy = filled();
    assert_eq!(copy.recalled(&recall(2, &[]), NOW), Taken::Gap);
    assert_eq!((known(&mut copy), copy.ask()), ([false; 4], None));
}

#[test]
fn a_recall_of_another_attachment_or_one_that_comes_again_does_nothing() {
    let mut copy = filled();
    let of_another = Recall { attachment: Attachment(2), ..recall(1, &[(FILE, &[])]) };
    assert_eq!(copy.recalled(&of_another, NOW), Taken::Old);
    assert_ne!(copy.recalled(&recall(1, &[]), NOW), Taken::Old);
    assert_eq!(copy.recalled(&recall(1, &[(FILE, &[])]), NOW), Taken::Old);
    assert_eq!(known(&mut copy), [true; 4]);
}

#[test]
fn an_answer_that_a_recall_has_overtaken_does_not_enter() {
    for (recalled, left) in [
        ((FILE, &[][..]), [false, false]),
        ((DIRECTORY, &["f"][..]), [true, false]),
        ((DIRECTORY, &["g"][..]), [true, true]),
        ((DIRECTORY, &[][..]), [true, false]),
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
fn the_end_of_an_attachment_empties_the_copy() {
    let ends: [fn(&mut State); 2] = [|copy| copy.detached(FIRST), |copy| copy.attaching(Attachment(2))];
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
    let mut copy = State::with_room(100, ROOM);
    copy.attaching(FIRST);
    copy.attached(FIRST, SENT, Duration::ZERO);
    copy.renewed(FIRST, (SENT, NOW), 0);
    assert_eq!(copy.ask(), None);
}

#[test]
fn a_change_drops_what_it_names_and_keeps_it_out_until_it_is_answered() {
    let behind = |inodes: &[InodeId]| {
        Some(Dropped {
            attachment: FIRST,
            behind: inodes.to_vec(),
            wants_write: None,
            wants_read: true,
            writes: Vec::new(),
        })
    };
    for (change, dropped, left) in [
        (unlink("f"), behind(&[FILE]), [false, false, false, true]),
        (unlink("g"), behind(&[]), [false, true, false, false]),
        (set(FILE), behind(&[]), [true, false, false, true]),
        (set(DIRECTORY), behind(&[]), [false, true, false, false]),
        (set(OTHER), behind(&[]), [true; 4]),
        // What the name leads to is not known here: the leader recalls it.
        (unlink("h"), behind(&[]), [false, true, true, true]),
    ] {
        let mut copy = filled();
        let (own, told) = copy.begin_change(change.scope(), NOW);
        assert_eq!(told, dropped, "{change:?}");
        fill(&mut copy);
        // Without the directory no name is answered.
        let names = |[directory, file, f, g]: [bool; 4]| [directory, file, f && directory, g && directory];
        assert_eq!(known(&mut copy), names(left), "{change:?} is under way");
        let early = copy.ask().unwrap();
        copy.end_change(own);
        let answered = Ok(ReadReply::Attr(file(FILE)));
        copy.answered(early, &lookup("f"), &Shown { answered, leased: vec![DIRECTORY, FILE] });
        assert_eq!(known(&mut copy), names(left), "{change:?} was answered after the question was put");
        fill(&mut copy);
        assert_eq!(known(&mut copy), [true; 4]);
    }
}

#[test]
fn neither_attributes_nor_names_that_were_dropped_for_a_change_enter_while_it_is_under_way() {
    let mut copy = filled();
    copy.begin_change(unlink("f").scope(), NOW);
    fill(&mut copy);
    assert_eq!(copy.len(), 1, "the name that is not there");
}

#[test]
fn what_a_change_has_dropped_is_told_only_as_far_as_it_is_leased() {
    let mut copy = filled();
    let (_, dropped) = copy.begin_change(unlink("f").scope(), SENT + TERM);
    assert_eq!(
        dropped,
        Some(Dropped {
            attachment: FIRST,
            behind: Vec::new(),
            wants_write: None,
            wants_read: true,
            writes: Vec::new()
        }),
        "the leases have ended"
    );
    copy.attaching(Attachment(2));
    assert_eq!(copy.begin_change(unlink("f").scope(), NOW).1, None);
}

/// Without that, the leader recalled the attributes from the mount that asked for the removal.
#[test]
fn a_name_that_this_client_has_made_is_dropped_with_the_file_and_never_answered() {
    let mut copy = filled();
    let (name, inode) = (Name::new("new").unwrap(), OTHER);
    let link = Change::Link { inode, parent: DIRECTORY, name: name.clone() };
    let (own, _) = copy.begin_change(link.scope(), NOW);
    copy.executed(&link, &Changed::Inode { attr: file(inode), existed: false, next_commit: 1 });
    copy.end_change(own);
    fill(&mut copy);
    show(&mut copy, file(inode));
    assert_eq!(copy.answer(&Caller::ROOT, &lookup("new"), NOW), None);
    let (_, dropped) = copy.begin_change(unlink("new").scope(), NOW);
    assert_eq!(
        dropped,
        Some(Dropped {
            attachment: FIRST,
            behind: vec![inode],
            wants_write: None,
            wants_read: true,
            writes: Vec::new()
        })
    );
    assert_eq!(copy.attr(inode, NOW), None);
    show(&mut copy, file(inode));
    assert_eq!(copy.attr(inode, NOW), None, "the change is under way");
}

/// Its monotonic clock stands still while a machine sleeps.
#[test]
fn what_was_known_before_the_machine_slept_is_not_answered_after_it() {
    let clock = Arc::new(TokioClock::stopped());
    let copy = LeasedCopy::new(clock.clone(), Arc::new(NoOuterCache));
    copy.attaching(FIRST);
    copy.attached(FIRST, Duration::ZERO, TERM);
    let read = Read::GetAttr { inode: FILE };
    let shown = Shown { answered: Ok(ReadReply::Attr(file(FILE))), leased: vec![FILE] };
    copy.ask(&read).answered(&read, &shown);
    assert!(copy.answer(&Caller::ROOT, &read).is_some());
    clock.sleep_through(TERM);
    assert_eq!(copy.answer(&Caller::ROOT, &read), None);
}

#[test]
fn outer_caches_are_told_whatever_is_dropped_also_what_was_forgotten_here_before() {
    type Told = (DroppedAttrs, Vec<NameIn>, Vec<InodeId>);
    let mut copy = filled();
    let told = |copy: &mut State| -> Told {
        let Untold { attrs, names, directories } = copy.take_untold();
        (attrs, names, directories)
    };
    let of = |attrs: &[InodeId], names: &[NameIn], directories: &[InodeId]| -> Told {
        (DroppedAttrs::Of(attrs.to_vec()), names.to_vec(), directories.to_vec())
    };
    let everything: Told = (DroppedAttrs::Everything, Vec::new(), Vec::new());
    assert_eq!(told(&mut copy), everything, "the attachment");
    assert_eq!(told(&mut copy), of(&[], &[], &[]), "once");
    copy.recalled(&recall(1, &[(FILE, &[]), (OTHER, &[])]), NOW);
    assert_eq!(told(&mut copy), of(&[FILE, OTHER], &[], &[FILE, OTHER]));
    copy.recalled(&recall(2, &[(DIRECTORY, &["f"])]), NOW);
    assert_eq!(told(&mut copy), of(&[DIRECTORY], &[(DIRECTORY, b"f".to_vec())], &[]));
    let (number, _) = copy.begin_change(set(FILE).scope(), NOW);
    assert_eq!(told(&mut copy), of(&[FILE], &[], &[FILE]));
    copy.end_change(number);
    assert_eq!(told(&mut copy), of(&[FILE], &[], &[FILE]));
    copy.recalled(&recall(4, &[(FILE, &[])]), NOW);
    assert_eq!(told(&mut copy), everything, "one recall is missing");
}

#[test]
fn outer_caches_may_use_attributes_for_as_long_as_the_lease_lasts() {
    let mut copy = filled();
    let until = SENT + TERM - MARGIN;
    assert_eq!(copy.leased_attr(FILE, NOW), Some((file(FILE), until - NOW)));
    assert_eq!(copy.leased_attr(FILE, until), None);
    assert_eq!(copy.leased_attr(OTHER, NOW), None);
    let _ = copy.recalled(&recall(1, &[(FILE, &[])]), NOW);
    assert_eq!(copy.leased_attr(FILE, NOW), None);
}
