//! What needs no connection; the rest is tested through the service (`service/tests/locks.rs`).

use super::*;

const SECOND: Duration = Duration::from_secs(1);
const SESSION: SessionId = SessionId(4);
const OTHER: SessionId = SessionId(5);

fn leading() -> (Attachments, Instant) {
    let start = Instant::now();
    let attachments = Attachments::new(SECOND * 10, start);
    attachments.enter_term(3, start);
    (attachments, start)
}

fn inode(number: u64) -> InodeId {
    InodeId::new(VolumeId(7), number).expect("it is small")
}

#[test]
fn opens_are_known_until_they_are_closed_or_their_session_or_the_term_ends() {
    let (attachments, start) = leading();
    for session in [SESSION, OTHER] {
        assert!(attachments.register_open(session, inode(1)));
    }
    assert!(attachments.register_open(SESSION, inode(2)));
    assert_eq!(attachments.openers(inode(1)), [SESSION, OTHER]);
    attachments.closed(SESSION, &[inode(1), inode(9)]);
    assert_eq!(attachments.openers(inode(1)), [OTHER]);
    attachments.end(SESSION);
    assert_eq!((attachments.openers(inode(2)), attachments.sessions()), (vec![], vec![OTHER]));
    attachments.enter_term(4, start);
    assert_eq!((attachments.openers(inode(1)), attachments.sessions()), (vec![], vec![]));
}

#[test]
fn a_while_in_which_nobody_could_be_heard_forgets_nothing_and_gives_everybody_a_term_to_attach() {
    let (attachments, start) = leading();
    attachments.register_open(SESSION, inode(1));
    assert!(attachments.is_missing(SESSION, start + SECOND * 10));
    attachments.begin_anew(start + SECOND * 5);
    assert!(!attachments.is_missing(SESSION, start + SECOND * 14));
    assert!(attachments.is_missing(SESSION, start + SECOND * 15));
    assert_eq!(attachments.openers(inode(1)), [SESSION]);
}

#[test]
fn a_session_has_a_bounded_number_of_files_open() {
    let (attachments, _) = leading();
    for number in 0..OPEN_MAX as u64 {
        assert!(attachments.register_open(SESSION, inode(number)));
    }
    assert!(!attachments.register_open(SESSION, inode(OPEN_MAX as u64)));
    assert!(attachments.register_open(SESSION, inode(0)), "it is known");
    assert!(attachments.register_open(OTHER, inode(OPEN_MAX as u64)));
    attachments.closed(SESSION, &[inode(0)]);
    assert!(attachments.register_open(SESSION, inode(OPEN_MAX as u64)));
}

#[test]
fn a_volume_is_settled_when_nobody_is_missing_who_may_hold_something_in_it_and_only_in_that_term() {
    let (attachments, start) = leading();
    let volume = VolumeId(7);
    assert!(!attachments.settle(3, volume, &[SESSION]));
    assert_eq!(attachments.in_the_way(&[SESSION, OTHER]), BTreeSet::from([SESSION]));
    assert_eq!(attachments.in_the_way(&[SESSION]), BTreeSet::new(), "nobody has asked again");
    assert!(!attachments.settle(2, volume, &[]), "what an earlier term has shown says nothing");
    assert!(attachments.settle(3, volume, &[]));
    assert!(attachments.settle(3, volume, &[SESSION]), "it has ended meanwhile");
    attachments.enter_term(4, start);
    assert!(!attachments.settle(4, volume, &[SESSION]));
}
