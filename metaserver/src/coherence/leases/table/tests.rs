//! Who holds what, which recalls are under way, and when they are over.

use super::*;

const A: SessionId = SessionId(1);
const B: SessionId = SessionId(2);
const C: SessionId = SessionId(3);
const FIRST: Attachment = Attachment(1);
const SECOND: Attachment = Attachment(2);
const FILE: InodeId = InodeId(10);
const OTHER: InodeId = InodeId(11);
const DIRECTORY: InodeId = InodeId(12);
const TERM: Duration = Duration::from_millis(2200);
const HEARTBEAT: Duration = Duration::from_millis(500);

/// All three sessions have attached at `start`.
fn attached(bounds: Bounds) -> (Table, Instant) {
    let (mut table, start) = (Table::new(bounds), Instant::now());
    for session in [A, B, C] {
        table.attach(session, FIRST, start);
    }
    (table, start)
}

fn granted(table: &mut Table, session: SessionId, inodes: &[InodeId]) {
    for inode in inodes {
        assert_eq!(table.grant(session, FIRST, *inode), Granted::Yes);
    }
}

fn file(inode: InodeId) -> Touched {
    Touched { inode, is_directory: false, names: Vec::new() }
}

fn name_in(inode: InodeId, name: &str) -> Touched {
    Touched { inode, is_directory: true, names: vec![name.into()] }
}

/// What is sent: to whom, the number, the inodes.
fn sent(issued: &[Issued]) -> Vec<(SessionId, u64, Vec<InodeId>)> {
    let of = |issued: &Issued| {
        let Recalled::Inodes(inodes) = &issued.recall.what else { panic!("everything is recalled") };
        let inodes = inodes.iter().map(|(inode, _)| *inode).collect();
        (issued.session, issued.recall.number, inodes)
    };
    issued.iter().map(of).collect()
}

#[test]
fn a_change_recalls_from_all_others_what_they_hold_of_what_it_touches_and_nothing_else() {
    let (mut table, start) = attached(BOUNDS);
    granted(&mut table, A, &[FILE, OTHER]);
    granted(&mut table, B, &[FILE]);
    granted(&mut table, C, &[OTHER]);
    assert!(table.is_held_by_others(FILE, Some(A)) && !table.is_held_by_others(DIRECTORY, None));
    let (issued, outstanding) = table.recall(&[file(FILE)], |_| Some(A), start);
    assert_eq!(sent(&issued), [(B, 1, vec![FILE])]);
    assert_eq!(outstanding.len(), 1);
    assert!(!table.is_over(&outstanding[0]));
    table.answered(B, FIRST, 1);
    assert!(table.is_over(&outstanding[0]));
    assert!(!table.is_held_by_others(FILE, Some(A)), "it was given back");
    assert!(table.is_held_by_others(FILE, Some(B)), "who asks keeps it");
    assert_eq!(table.count(), 3);
}

#[test]
fn a_second_change_waits_for_the_recall_of_the_first_and_recalls_nothing_twice() {
    let (mut table, start) = attached(BOUNDS);
    granted(&mut table, A, &[FILE]);
    let (_, first) = table.recall(&[file(FILE)], |_| Some(B), start);
    let (issued, second) = table.recall(&[file(FILE)], |_| Some(C), start);
    assert!(issued.is_empty());
    assert_eq!(second, first);
    table.answered(A, FIRST, 1);
    assert_eq!(table.recall(&[file(FILE)], |_| Some(C), start), (vec![], vec![]));
}

#[test]
fn a_recall_is_over_with_a_later_answer_a_new_attachment_or_the_end_of_the_session() {
    for end in 0..4 {
        let (mut table, start) = attached(BOUNDS);
        granted(&mut table, A, &[FILE, OTHER]);
        let (_, first) = table.recall(&[file(FILE)], |_| None, start);
        let (_, second) = table.recall(&[file(OTHER)], |_| None, start);
        table.answered(A, SECOND, 2);
        assert!(!table.attach(A, FIRST, start));
        assert!(!table.is_over(&first[0]), "that was of another attachment");
        match end {
            0 => table.answered(A, FIRST, 2),
            1 => assert!(table.attach(A, SECOND, start)),
            2 => table.remove(A),
            _ => {
                table.answered(A, FIRST, 1);
                assert!(table.is_over(&first[0]) && !table.is_over(&second[0]));
                table.answered(A, FIRST, 7); // more than there were
            }
        }
        assert!(table.is_over(&first[0]) && table.is_over(&second[0]));
        assert_eq!(table.count(), 0);
    }
}

/// Its client may not know yet that an administrator has ended it.
#[test]
fn what_a_session_was_granted_outlives_it_until_that_has_run_out_unless_its_client_ended_it() {
    let (mut table, start) = attached(BOUNDS);
    granted(&mut table, A, &[FILE]);
    granted(&mut table, B, &[FILE]);
    table.remove(B);
    table.end(A, start);
    assert_eq!(table.renew(A, FIRST, start), None);
    assert_eq!(table.grant(A, FIRST, OTHER), Granted::No);
    let (_, outstanding) = table.recall(&[file(FILE)], |_| None, start);
    assert_eq!(
        outstanding.iter().map(|recall| (recall.session, recall.until)).collect::<Vec<_>>(),
        [(A, start + TERM)]
    );
    table.end(A, start + TERM);
    assert!(table.is_over(&outstanding[0]) && table.count() == 0 && table.sessions() == [C]);
}

#[test]
fn a_recall_runs_out_when_the_lease_ends_that_was_renewed_before_it() {
    let (mut table, start) = attached(BOUNDS);
    granted(&mut table, A, &[FILE, OTHER]);
    assert_eq!(table.renew(A, FIRST, start + HEARTBEAT), Some(0));
    let (_, outstanding) = table.recall(&[file(FILE)], |_| None, start + HEARTBEAT);
    assert_eq!(outstanding[0].until, start + HEARTBEAT + TERM);
    assert_eq!(table.renew(A, FIRST, start + HEARTBEAT * 2), Some(1), "it names the recall");
    table.has_run_out(&outstanding[0]);
    assert!(table.is_over(&outstanding[0]));
    assert_eq!(table.renew(A, FIRST, start + HEARTBEAT * 6), None, "it has to attach anew");
    assert_eq!(table.grant(A, FIRST, FILE), Granted::No);
    let (_, other) = table.recall(&[file(OTHER)], |_| None, start + HEARTBEAT * 2 + TERM);
    assert_eq!(other, vec![], "its lease ended with the last heartbeat that was answered");
    table.attach(A, SECOND, start + HEARTBEAT * 7);
    assert_eq!(table.renew(A, SECOND, start + HEARTBEAT * 8), Some(0));
    assert_eq!(table.grant(A, SECOND, FILE), Granted::Yes);
}

/// It may have handled the recall and counted the heartbeat, and its answer was lost.
#[test]
fn after_a_recall_that_ran_out_others_wait_for_what_a_later_heartbeat_may_have_renewed() {
    let (mut table, start) = attached(BOUNDS);
    granted(&mut table, A, &[FILE, OTHER]);
    let (_, outstanding) = table.recall(&[file(FILE)], |_| None, start);
    table.renew(A, FIRST, start + HEARTBEAT * 4);
    table.has_run_out(&outstanding[0]);
    let (_, other) = table.recall(&[file(OTHER)], |_| None, start + TERM);
    assert_eq!(other[0].until, start + HEARTBEAT * 4 + TERM);
}

#[test]
fn nobody_waits_for_a_silent_session_whose_lease_has_ended_and_it_has_to_attach_anew() {
    let (mut table, start) = attached(BOUNDS);
    granted(&mut table, A, &[FILE]);
    assert_eq!(table.recall(&[file(FILE)], |_| None, start + TERM), (vec![], vec![]));
    assert_eq!(table.count(), 0);
    assert_eq!(table.renew(A, FIRST, start + TERM), None);
}

#[test]
fn names_of_a_directory_are_recalled_and_the_directory_stays_leased() {
    let (mut table, start) = attached(BOUNDS);
    granted(&mut table, A, &[DIRECTORY]);
    let (issued, _) = table.recall(&[name_in(DIRECTORY, "n")], |_| Some(B), start);
    let what = Recalled::Inodes(vec![(DIRECTORY, vec![b"n".to_vec()])]);
    assert_eq!(issued[0].recall, Recall { attachment: FIRST, number: 1, what });
    table.answered(A, FIRST, 1);
    let (issued, outstanding) = table.recall(&[name_in(DIRECTORY, "m")], |_| Some(B), start);
    assert_eq!(sent(&issued), [(A, 2, vec![DIRECTORY])]);
    assert_eq!(outstanding[0].number, 2);
}

#[test]
fn who_no_longer_reads_a_directory_in_which_many_names_change_gives_everything_back_once() {
    let (mut table, start) = attached(BOUNDS);
    granted(&mut table, A, &[DIRECTORY, FILE]);
    let mut change = |reads: bool| {
        let (issued, _) = table.recall(&[name_in(DIRECTORY, "n")], |_| Some(B), start);
        issued.iter().for_each(|issued| table.answered(A, FIRST, issued.recall.number));
        if reads {
            granted(&mut table, A, &[DIRECTORY]);
        }
        let is_of_everything = issued.iter().any(|issued| issued.recall.what == Recalled::Everything);
        (is_of_everything, table.count())
    };
    for _ in 0..TOLD_MAX * 2 {
        assert_eq!(change(true), (false, 2), "it reads the directory");
    }
    for _ in 0..TOLD_MAX {
        assert_eq!(change(false), (false, 2));
    }
    assert_eq!(change(false), (true, 0));
    assert_eq!(change(false), (false, 0));
}

#[test]
fn what_is_granted_again_after_a_recall_was_issued_is_not_given_back_by_its_answer() {
    let (mut table, start) = attached(BOUNDS);
    granted(&mut table, A, &[FILE]);
    table.recall(&[file(FILE)], |_| None, start); // and the change was given up
    granted(&mut table, A, &[FILE]);
    table.answered(A, FIRST, 1);
    let (issued, _) = table.recall(&[file(FILE)], |_| None, start);
    assert_eq!(sent(&issued), [(A, 2, vec![FILE])]);
}

#[test]
fn an_attachment_drops_what_the_session_held_and_counts_recalls_from_one_again() {
    let (mut table, start) = attached(BOUNDS);
    granted(&mut table, A, &[FILE]);
    table.recall(&[file(FILE)], |_| None, start);
    table.attach(A, SECOND, start);
    assert_eq!((table.count(), table.renew(A, SECOND, start)), (0, Some(0)));
    assert_eq!(table.renew(A, FIRST, start), None);
    assert_eq!(table.grant(A, FIRST, FILE), Granted::No, "that answer is of another attachment");
    assert_eq!(table.grant(SessionId(9), FIRST, FILE), Granted::No, "it never attached");
}

#[test]
fn what_loses_its_last_name_has_no_holder_any_more() {
    let (mut table, start) = attached(BOUNDS);
    granted(&mut table, A, &[FILE, OTHER]);
    granted(&mut table, B, &[FILE]);
    table.forget(FILE);
    assert_eq!(table.count(), 1);
    assert_eq!(table.recall(&[file(FILE)], |_| None, start), (vec![], vec![]));
}

#[test]
fn who_has_its_share_gives_everything_back_before_it_is_granted_more() {
    let (mut table, start) = attached(Bounds { leases: 100, of_session: 2 });
    granted(&mut table, A, &[FILE, OTHER]);
    assert_eq!(table.grant(A, FIRST, DIRECTORY), Granted::TooMany);
    assert_eq!(table.grant(A, FIRST, FILE), Granted::Yes, "it holds that already");
    let issued = table.make_room(A, start).expect("it has too much");
    assert_eq!((issued.session, issued.recall.what), (A, Recalled::Everything));
    assert_eq!(table.make_room(A, start), None, "once");
    assert_eq!(table.grant(A, FIRST, FILE), Granted::No);
    let (issued, outstanding) = table.recall(&[file(FILE)], |_| None, start);
    assert!(issued.is_empty() && outstanding[0].number == 1, "a change waits for this recall");
    table.answered(A, FIRST, 1);
    assert!(table.is_over(&outstanding[0]));
    assert_eq!((table.count(), table.grant(A, FIRST, DIRECTORY)), (0, Granted::Yes));
}

#[test]
fn when_there_are_too_many_leases_the_session_that_has_most_gives_them_back() {
    let (mut table, start) = attached(Bounds { leases: 3, of_session: 100 });
    granted(&mut table, A, &[FILE, OTHER]);
    granted(&mut table, B, &[FILE]);
    assert_eq!(table.grant(C, FIRST, FILE), Granted::TooMany);
    assert_eq!(table.make_room(C, start).map(|issued| issued.session), Some(A));
    assert_eq!(table.renew(A, FIRST, start + HEARTBEAT), Some(1));
    assert_eq!(table.renew(A, FIRST, start + TERM), None, "it does not answer");
    table.attach(A, SECOND, start + TERM);
    assert_eq!(table.grant(C, FIRST, FILE), Granted::Yes);
}

#[test]
fn a_recall_of_much_is_several_pushes_and_the_last_one_is_waited_for() {
    let (mut table, start) = attached(BOUNDS);
    let inodes: Vec<InodeId> = (100..900).map(InodeId).collect();
    granted(&mut table, A, &inodes);
    let mut touched: Vec<Touched> = inodes.iter().map(|inode| file(*inode)).collect();
    touched[400].names = vec![vec![b'n'; 255]; 2];
    let (issued, outstanding) = table.recall(&touched, |_| None, start);
    let numbers: Vec<u64> = issued.iter().map(|issued| issued.recall.number).collect();
    assert_eq!(numbers, (1..=issued.len() as u64).collect::<Vec<_>>());
    assert_eq!(outstanding[0].number, issued.len() as u64);
    for issued in &issued {
        let push = dfs_proto::convert::recall_to_push(&issued.recall);
        assert!(prost::Message::encoded_len(&push) <= PUSH_LEN_MAX);
    }
    let all: Vec<InodeId> = sent(&issued).into_iter().flat_map(|(_, _, inodes)| inodes).collect();
    assert_eq!(all, inodes);
    table.answered(A, FIRST, outstanding[0].number);
    assert_eq!(table.count(), 0);
}

/// The map of holders and the sets of sessions, as full as the bounds let them be; each place has a byte of its own. An inode with
/// several holders takes less for each: `BTreeSet` has at least half of its places full.
#[test]
fn a_lease_takes_at_most_64_bytes_where_there_are_as_many_as_there_may_be() {
    let places = |entries: usize| (entries * 8 / 7).next_power_of_two();
    let of_holders = places(BOUNDS.leases) * (size_of::<(InodeId, Holders)>() + 1);
    let of_sessions = places(BOUNDS.of_session) * (size_of::<InodeId>() + 1);
    let each = of_holders as f64 / BOUNDS.leases as f64 + of_sessions as f64 / BOUNDS.of_session as f64;
    assert!(each <= 64.0, "{each}");
}
