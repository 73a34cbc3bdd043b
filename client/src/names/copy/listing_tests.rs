//! Listings in the copy, step by step.

use std::time::Duration;

use dfs_proto::attr::{Caller, FileKind, InodeAttr, Name};
use dfs_proto::ids::{Attachment, InodeId};
use dfs_proto::meta::{
    Change, Create, DirEntry, NewInode, Read, ReadReply, Recall, Recalled, Rename, RenameMode, SetAttr, Shown,
};

use crate::names::copy::fixtures::{DIRECTORY, ROOM, attr, entry};
use crate::names::copy::lease::MARGIN;
use crate::names::copy::state::State;
use crate::session::leases::Taken;

const PARENT: InodeId = InodeId(499);
const TERM: Duration = Duration::from_secs(2);
const FIRST: Attachment = Attachment(1);
const SENT: Duration = Duration::from_secs(100);
const NOW: Duration = Duration::from_millis(100_010);
const ELSEWHERE: InodeId = InodeId(600);

fn attached() -> State {
    let mut copy = State::with_room(100, ROOM);
    copy.attaching(FIRST);
    copy.attached(FIRST, SENT, TERM);
    copy
}

fn list(cookie: u64, limit: u32, plus: bool) -> Read {
    Read::ReadDir { inode: DIRECTORY, cookie, limit, plus }
}

fn with_attr(cookie: u64) -> DirEntry {
    let without = entry(cookie);
    DirEntry { attr: Some(attr(without.inode, FileKind::File, 1)), ..without }
}

fn entries(of: impl Fn(u64) -> DirEntry, cookies: &[u64], end: bool) -> ReadReply {
    ReadReply::Entries { entries: cookies.iter().map(|cookie| of(*cookie)).collect(), end, parent: PARENT }
}

/// Everything that is in it is leased.
fn shown(reply: ReadReply) -> Shown {
    let mut leased = vec![DIRECTORY];
    if let ReadReply::Entries { entries, .. } = &reply {
        leased.extend(entries.iter().filter_map(|entry| Some(entry.attr.as_ref()?.inode)));
    }
    Shown { answered: Ok(reply), leased }
}

fn answer(copy: &mut State, read: &Read, reply: ReadReply) {
    let question = copy.ask().unwrap();
    copy.answered(question, read, &shown(reply));
}

/// All three entries, in two pages.
fn fill(copy: &mut State) {
    answer(copy, &list(0, 2, true), entries(with_attr, &[20, 30], false));
    answer(copy, &list(30, 2, true), entries(with_attr, &[40], true));
}

fn listed() -> State {
    let mut copy = attached();
    fill(&mut copy);
    copy
}

fn lists(copy: &mut State, read: &Read) -> Option<ReadReply> {
    copy.answer(&Caller::ROOT, read, NOW).map(Result::unwrap)
}

fn is_listed(copy: &mut State) -> bool {
    lists(copy, &list(0, 10, false)).is_some()
}

fn name(text: &str) -> Name {
    Name::new(text).unwrap()
}

fn recall(number: u64, inode: InodeId, names: &[&str]) -> Recall {
    let names = names.iter().map(|name| name.as_bytes().to_vec()).collect();
    Recall { attachment: FIRST, number, what: Recalled::Inodes(vec![(inode, names)]) }
}

#[test]
fn a_second_listing_is_answered_from_the_pages_of_the_first_until_the_leases_end() {
    let mut copy = listed();
    let all = [20, 30, 40];
    assert_eq!(lists(&mut copy, &list(0, 10, true)), Some(entries(with_attr, &all, true)));
    assert_eq!(lists(&mut copy, &list(0, 0, false)), Some(entries(entry, &all, true)), "0 is no limit");
    assert_eq!(lists(&mut copy, &list(20, 1, true)), Some(entries(with_attr, &[30], false)));
    assert_eq!(lists(&mut copy, &list(40, 1, true)), Some(entries(entry, &[], true)));
    let end = SENT + TERM - MARGIN;
    let read = list(0, 10, false);
    assert!(copy.answer(&Caller::ROOT, &read, end - Duration::from_nanos(1)).is_some());
    assert_eq!(copy.answer(&Caller::ROOT, &read, end), None);
}

#[test]
fn a_page_holds_no_more_than_one_of_the_server() {
    let mut copy = attached();
    let cookies: Vec<u64> = (20..1220).collect();
    answer(&mut copy, &list(0, 1000, false), entries(entry, &cookies[..1000], false));
    answer(&mut copy, &list(1019, 1000, false), entries(entry, &cookies[1000..], true));
    for limit in [0, 1000, 2000] {
        let page = Some(entries(entry, &cookies[..1000], false));
        assert_eq!(lists(&mut copy, &list(0, limit, false)), page, "{limit}");
    }
}

#[test]
fn pages_of_a_directory_that_is_not_leased_are_not_kept() {
    let mut copy = attached();
    let question = copy.ask().unwrap();
    let page = Shown { leased: vec![InodeId(1020)], ..shown(entries(with_attr, &[20], true)) };
    copy.answered(question, &list(0, 10, true), &page);
    assert!(!is_listed(&mut copy));
}

#[test]
fn a_listing_goes_with_each_own_change_of_a_name_and_stays_out_until_that_is_answered() {
    let (parent, mode) = (DIRECTORY, RenameMode::Replace);
    let create = |what| {
        let (or_existing, opens) = (true, false);
        Change::Create(Create { parent, name: name("new"), mode: 0, what, or_existing, opens })
    };
    let rename = |(parent, new_parent)| {
        Change::Rename(Rename { parent, name: name("name 20"), new_parent, new_name: name("new"), mode })
    };
    let set = |inode| Change::SetAttr(SetAttr { inode, ..SetAttr::default() });
    let in_it = [
        create(NewInode::File),
        create(NewInode::Directory),
        Change::Link { inode: InodeId(1020), parent, name: name("new") },
        Change::Unlink { parent, name: name("name 20") },
        Change::Unlink { parent, name: name("not there") },
        Change::Rmdir { parent, name: name("name 20") },
        rename((parent, parent)),
        rename((parent, ELSEWHERE)),
        rename((ELSEWHERE, parent)),
        set(DIRECTORY), // more than necessary
    ];
    let elsewhere = [
        Change::Unlink { parent: ELSEWHERE, name: name("name 20") },
        Change::Link { inode: InodeId(1020), parent: ELSEWHERE, name: name("new") },
        set(InodeId(1020)),
    ];
    for (changes, stays) in [(&in_it[..], false), (&elsewhere[..], true)] {
        for change in changes {
            let mut copy = listed();
            let early = copy.ask().unwrap();
            let (own, _) = copy.begin_change(change.scope(), NOW);
            assert_eq!(is_listed(&mut copy), stays, "{change:?}");
            fill(&mut copy);
            assert_eq!(is_listed(&mut copy), stays, "{change:?} is under way");
            let during = copy.ask().unwrap();
            copy.end_change(own);
            for question in [early, during] {
                copy.answered(question, &list(0, 10, true), &shown(entries(with_attr, &[20, 30, 40], true)));
                assert_eq!(is_listed(&mut copy), stays, "{change:?} was answered after the question was put");
            }
            fill(&mut copy);
            assert!(is_listed(&mut copy), "{change:?}");
        }
    }
}

/// It may have moved: `..` of the listing leads elsewhere then.
#[test]
fn a_listing_goes_with_an_own_rename_of_the_directory_itself() {
    let mut copy = listed();
    let found = ReadReply::Attr(attr(DIRECTORY, FileKind::Directory, 1));
    let look = Read::Lookup { parent: PARENT, name: b"d".to_vec() };
    let question = copy.ask().unwrap();
    copy.answered(question, &look, &Shown { answered: Ok(found), leased: vec![PARENT, DIRECTORY] });
    let (name, new_name, mode) = (name("d"), name("e"), RenameMode::Replace);
    let rename = Change::Rename(Rename { parent: PARENT, name, new_parent: ELSEWHERE, new_name, mode });
    let _ = copy.begin_change(rename.scope(), NOW);
    assert!(!is_listed(&mut copy));
}

#[test]
fn a_listing_goes_with_a_recall_of_any_of_its_names_and_with_the_attachment() {
    for (inode, names, stays) in [
        (DIRECTORY, &["name 20"][..], false),
        (DIRECTORY, &["new"][..], false),
        (DIRECTORY, &[][..], false),
        (InodeId(1020), &[][..], true),
        (ELSEWHERE, &["name 20"][..], true),
    ] {
        let mut copy = listed();
        let _ = copy.recalled(&recall(1, inode, names), NOW);
        assert_eq!(is_listed(&mut copy), stays, "{inode} {names:?}");
    }
    let everything = Recall { attachment: FIRST, number: 1, what: Recalled::Everything };
    let ends: [&dyn Fn(&mut State); 4] = [
        &|copy| assert_ne!(copy.recalled(&everything, NOW), Taken::Old),
        &|copy| assert_eq!(copy.recalled(&recall(2, ELSEWHERE, &[]), NOW), Taken::Gap),
        &|copy| copy.detached(FIRST),
        &|copy| {
            // The leases had run out.
            copy.renewed(FIRST, (SENT + 2 * TERM, SENT + 2 * TERM), 0);
            assert_eq!(copy.answer(&Caller::ROOT, &list(0, 10, false), SENT + 2 * TERM), None);
        },
    ];
    for (number, end) in ends.into_iter().enumerate() {
        let mut copy = listed();
        end(&mut copy);
        assert!(!is_listed(&mut copy), "{number}");
    }
}

#[test]
fn a_page_that_a_recall_has_overtaken_does_not_enter_and_no_later_page_jumps_over_it() {
    let mut copy = attached();
    answer(&mut copy, &list(0, 1, true), entries(with_attr, &[20], false));
    let question = copy.ask().unwrap();
    let _ = copy.recalled(&recall(1, DIRECTORY, &["new"]), NOW);
    copy.answered(question, &list(20, 1, true), &shown(entries(with_attr, &[30], false)));
    answer(&mut copy, &list(30, 1, true), entries(with_attr, &[40], true));
    assert!(!is_listed(&mut copy));
    let question = copy.ask().unwrap();
    let _ = copy.recalled(&recall(2, DIRECTORY, &["new"]), NOW);
    copy.answered(question, &list(0, 10, true), &shown(entries(with_attr, &[20, 30, 40], true)));
    assert!(!is_listed(&mut copy));
    fill(&mut copy);
    let _ = copy.recalled(&recall(3, InodeId(1020), &[]), NOW);
    assert!(is_listed(&mut copy), "it was asked for after the recall");
}

#[test]
fn a_page_with_attributes_is_asked_for_whole_if_one_of_them_is_not_known() {
    let mut copy = listed();
    let _ = copy.recalled(&recall(1, InodeId(1030), &[]), NOW);
    assert_eq!(lists(&mut copy, &list(0, 10, true)), None);
    assert_eq!(lists(&mut copy, &list(0, 1, true)), Some(entries(with_attr, &[20], false)));
    assert_eq!(lists(&mut copy, &list(30, 1, true)), Some(entries(with_attr, &[40], true)));
    assert_eq!(lists(&mut copy, &list(0, 10, false)), Some(entries(entry, &[20, 30, 40], true)));
    answer(&mut copy, &list(0, 10, true), entries(with_attr, &[20, 30, 40], true));
    assert!(lists(&mut copy, &list(0, 10, true)).is_some());
}

#[test]
fn the_copy_lists_only_for_whom_the_mode_bits_clearly_let_do_so() {
    let user = Caller { uid: 7, gid: 7, groups: None };
    for (mode, [without, with]) in
        [(0o755, [true, true]), (0o744, [true, false]), (0o711, [false; 2]), (0o750, [false; 2])]
    {
        let mut copy = listed();
        let directory = InodeAttr { mode, ..attr(DIRECTORY, FileKind::Directory, 1) };
        let may = |copy: &mut State| {
            [false, true].map(|plus| copy.answer(&user, &list(0, 10, plus), NOW).is_some())
        };
        assert_eq!(may(&mut copy), [false; 2], "its attributes are not known");
        let (question, inode) = (copy.ask().unwrap(), DIRECTORY);
        let shown = Shown { answered: Ok(ReadReply::Attr(directory)), leased: vec![DIRECTORY] };
        copy.answered(question, &Read::GetAttr { inode }, &shown);
        assert_eq!(may(&mut copy), [without, with], "{mode:o}");
    }
}

#[test]
fn a_page_behind_others_that_are_known_is_asked_for_as_long_as_they_are() {
    let mut copy = attached();
    let cookies: Vec<u64> = (20..1220).collect();
    assert_eq!(copy.widened(&list(0, 32, true)), list(0, 32, true));
    answer(&mut copy, &list(0, 100, false), entries(entry, &cookies[..100], false));
    assert_eq!(copy.widened(&list(119, 32, true)), list(119, 100, true));
    assert_eq!(copy.widened(&list(119, 200, true)), list(119, 200, true));
    assert_eq!(copy.widened(&list(119, 0, true)), list(119, 0, true), "as many as there may be");
    assert_eq!(copy.widened(&list(150, 32, true)), list(150, 32, true), "that is behind a gap");
    answer(&mut copy, &list(119, 1000, false), entries(entry, &cookies[100..], false));
    assert_eq!(copy.widened(&list(1219, 32, true)), list(1219, 1000, true));
    let _ = copy.recalled(&recall(1, DIRECTORY, &["new"]), NOW);
    assert_eq!(copy.widened(&list(119, 32, true)), list(119, 32, true));
}
