//! Opening a session. Ending one is a line in `state::apply`; what it leaves behind is for `reap`.

use dfs_proto::error::MetaError;
use dfs_proto::ids::{SessionId, SessionNonce, VolumeId};

use crate::command::{NOTES_MAX, OpenedSession, Reply, Silence};
use crate::keys::May;
use crate::kv::Txn;
use crate::table::{cluster, session};

/// Idempotent by nonce: a retried opening finds the session it made (P3.1).
pub(crate) fn open(txn: &mut Txn<'_>, nonce: SessionNonce, client: &str) -> Reply {
    let cluster = match cluster::require(txn) {
        Ok(cluster) => cluster,
        Err(refused) => return Reply::Refused(refused),
    };
    let session = match session::by_nonce(txn, nonce) {
        Some(session) => session,
        None => session::open(txn, nonce, client),
    };
    Reply::SessionOpened(OpenedSession {
        session,
        cluster: cluster.cluster,
        incarnation: cluster.incarnation,
        copies: cluster.copies,
    })
}

/// Before the session holds in the volume what it may hold from here on.
pub(crate) fn record_may(txn: &mut Txn<'_>, may: May, id: SessionId, volume: VolumeId) -> Reply {
    match session::require(txn, id) {
        Ok(_) => session::record_may(txn, may, id, volume),
        Err(refused) => return Reply::Refused(refused),
    }
    Reply::Done
}

pub(crate) fn note_silences(txn: &mut Txn<'_>, silences: &[Silence]) -> Reply {
    if silences.len() > NOTES_MAX {
        let what = format!("{} silences at once, {NOTES_MAX} are possible", silences.len());
        return Reply::Refused(MetaError::InvalidArgument { what });
    }
    for Silence { session, silent_ms } in silences {
        session::note_silence(txn, *session, *silent_ms);
    }
    Reply::Done
}

#[cfg(test)]
mod tests {
    use dfs_proto::attr::Caller;
    use dfs_proto::error::MetaError;
    use dfs_proto::ids::{InodeId, RequestId, RequestLane, SessionId, VolumeId};
    use dfs_proto::meta::{Change, Changed, NewInode};
    use dfs_proto::units::{REQUEST_LANES, REQUEST_WINDOW};

    use crate::command::{Command, NOTES_MAX, Reply, Silence};
    use crate::read;
    use crate::tests::{Harness, attr_of, create, name};

    #[test]
    fn a_retried_opening_finds_its_session() {
        let mut harness = Harness::new();
        let first = harness.open_session(5);
        assert_eq!(harness.open_session(5), first);
        assert_ne!(harness.open_session(6), first);
        harness.check();
    }

    #[test]
    fn an_ended_session_is_refused_everything_and_leaves_nothing() {
        let mut harness = Harness::new();
        harness.file(InodeId::ROOT, "f");
        let orphan = harness.unlink(InodeId::ROOT, "f").expect("it is there").expect("the last name");
        let session = harness.session;
        harness.command(Command::ExpireSession { session });
        harness.check();
        let refused = harness.change(&Caller::ROOT, create(InodeId::ROOT, "g", 0o600, NewInode::File));
        assert_eq!(refused, Err(MetaError::SessionExpired { session }));
        harness.reap();
        assert!(harness.try_attr(orphan).is_err());
        assert_eq!(harness.open_session(1).0, session.0 + 1, "session ids are never reused");
        harness.check();
    }

    #[test]
    fn a_repeated_request_gets_its_first_answer_and_is_not_executed_again() {
        let mut harness = Harness::new();
        let make = || create(InodeId::ROOT, "f", 0o600, NewInode::File);
        let first = harness.request(&Caller::ROOT, 1, 0, make());
        assert_eq!(harness.request(&Caller::ROOT, 1, 0, make()), first);
        let refused = harness.request(&Caller::ROOT, 2, 0, make());
        assert_eq!(refused, Err(MetaError::Exists));
        let unlink = Change::Unlink { parent: InodeId::ROOT, name: name("f") };
        assert!(harness.request(&Caller::ROOT, 3, 0, unlink).is_ok());
        assert_eq!(harness.request(&Caller::ROOT, 2, 0, make()), refused, "a refusal is remembered too");
        assert_eq!(attr_of(first).inode, InodeId(2));
        harness.check();
    }

    #[test]
    fn a_refusal_has_no_effects_but_its_memory() {
        let mut harness = Harness::new();
        let before = harness.dump();
        let refused = harness.request(&Caller::ROOT, 1, 0, create(InodeId(9), "f", 0o600, NewInode::File));
        assert_eq!(refused, Err(MetaError::Stale));
        let after = harness.dump();
        let changed: Vec<u8> = after.difference(&before).map(|(key, _)| key[0]).collect();
        assert_eq!(changed, [crate::keys::SESSION, crate::keys::RESULT]);
    }

    #[test]
    fn requests_below_the_window_are_refused_and_forgotten() {
        let mut harness = Harness::new();
        let make = |text: &str| create(InodeId::ROOT, text, 0o600, NewInode::File);
        assert!(harness.request(&Caller::ROOT, 3, 0, make("a")).is_ok());
        assert!(harness.request(&Caller::ROOT, 4, 4, make("b")).is_ok());
        let told = harness.request(&Caller::ROOT, 3, 0, make("a"));
        assert_eq!(told, Err(MetaError::RequestTooOld), "the client has its answer");
        assert_eq!(harness.request(&Caller::ROOT, 2, 0, make("c")), Err(MetaError::RequestTooOld));
        let far = 4 + REQUEST_WINDOW;
        assert!(harness.request(&Caller::ROOT, far, 4, make("d")).is_ok());
        assert_eq!(harness.request(&Caller::ROOT, 4, 4, make("b")), Err(MetaError::RequestTooOld));
        assert!(harness.request(&Caller::ROOT, 5, 4, make("e")).is_ok(), "the oldest in the window");
        harness.check();
    }

    /// One window for all held a session back for as long as its slowest request took.
    #[test]
    fn a_request_without_an_answer_holds_back_its_own_lane_only() {
        let mut harness = Harness::new();
        let make = |text: &str| create(InodeId::ROOT, text, 0o600, NewInode::File);
        let [slow, other] = [0, 5].map(|lane| move |number| RequestId::new(RequestLane(lane), number).0);
        let first = harness.request(&Caller::ROOT, slow(1), slow(1), make("slow"));
        for number in 1..=3 * REQUEST_WINDOW {
            let (request, answered) = (other(number), other(number.saturating_sub(20)));
            assert!(harness.request(&Caller::ROOT, request, answered, make(&format!("{number}"))).is_ok());
        }
        assert_eq!(harness.request(&Caller::ROOT, slow(1), slow(1), make("slow")), first, "remembered");
        assert!(harness.request(&Caller::ROOT, slow(2), slow(2), make("slow too")).is_ok());
        let told = harness.request(&Caller::ROOT, slow(1), slow(1), make("slow"));
        assert_eq!(told, Err(MetaError::RequestTooOld), "the client has its answer");
        let foreign = RequestId::new(RequestLane(REQUEST_LANES), 1).0;
        let refused = harness.request(&Caller::ROOT, foreign, 0, make("g"));
        assert!(matches!(refused, Err(MetaError::InvalidArgument { .. })), "{refused:?}");
        harness.check();
    }

    #[test]
    fn who_may_hold_something_in_a_volume_is_known_until_the_session_ends() {
        let mut harness = Harness::new();
        let (first, second) = (harness.session, harness.open_session(2));
        for (session, volume) in [(second, 0), (first, 0), (first, 5), (first, 0)] {
            let command = Command::RecordHolds { session, volume: VolumeId(volume) };
            assert_eq!(harness.command(command), Reply::Done);
        }
        harness.check();
        let holding =
            |harness: &Harness, volume| harness.view(|view| read::holding_sessions(view, VolumeId(volume)));
        assert_eq!((holding(&harness, 0), holding(&harness, 5)), (vec![first, second], vec![first]));
        assert!(harness.view(|view| read::has_holds(view, second, VolumeId(0))));
        assert!(!harness.view(|view| read::has_holds(view, second, VolumeId(5))));
        harness.command(Command::ExpireSession { session: first });
        assert_eq!((holding(&harness, 0), holding(&harness, 5)), (vec![second], vec![]));
        harness.check();
        let late = Command::RecordHolds { session: first, volume: VolumeId(0) };
        assert_eq!(harness.command(late), Reply::Refused(MetaError::SessionExpired { session: first }));
        harness.reap();
        assert!(!harness.view(|view| read::may_hold_something(view, first)));
        assert!(harness.view(|view| read::may_hold_something(view, second)));
        harness.check();
    }

    #[test]
    fn who_may_write_in_a_volume_is_known_apart_from_who_may_hold_something_there() {
        let mut harness = Harness::new();
        let (first, second) = (harness.session, harness.open_session(2));
        let volume = VolumeId(5);
        for (session, volume) in [(first, volume), (second, VolumeId(0)), (second, volume), (first, volume)] {
            assert_eq!(harness.command(Command::RecordWrites { session, volume }), Reply::Done);
        }
        harness.check();
        let all = |harness: &Harness| harness.view(read::all_writing_sessions);
        assert_eq!(all(&harness), [(VolumeId(0), second), (volume, first), (volume, second)]);
        assert!(harness.view(|view| read::may_write(view, first, volume)));
        assert!(!harness.view(|view| read::may_write(view, first, VolumeId(0))));
        assert!(!harness.view(|view| read::has_holds(view, first, volume)));
        harness.command(Command::ExpireSession { session: first });
        assert_eq!(all(&harness), [(VolumeId(0), second), (volume, second)]);
        let late = Command::RecordWrites { session: first, volume };
        assert_eq!(harness.command(late), Reply::Refused(MetaError::SessionExpired { session: first }));
        harness.reap();
        assert!(!harness.view(|view| read::may_write(view, first, volume)));
        harness.check();
    }

    #[test]
    fn a_silence_is_noted_until_its_session_is_heard_or_ends() {
        let mut harness = Harness::new();
        let (first, second, third) = (harness.session, harness.open_session(2), harness.open_session(3));
        let note = |session, silent_ms| Silence { session, silent_ms };
        let silences = vec![note(first, 3000), note(second, 3000), note(third, 1), note(SessionId(99), 5)];
        assert_eq!(harness.command(Command::NoteSilences { silences }), Reply::Done);
        let noted = |harness: &Harness| harness.view(read::noted_silences);
        assert_eq!(noted(&harness), [note(first, 3000), note(second, 3000), note(third, 1)]);
        harness.check();
        let silences = vec![note(first, 6000), note(second, 0), note(second, 0)];
        assert_eq!(harness.command(Command::NoteSilences { silences }), Reply::Done);
        harness.command(Command::ExpireSession { session: third });
        assert_eq!(noted(&harness), [note(first, 6000)]);
        assert!(harness.view(|view| read::is_silence_noted(view, first)));
        assert!(!harness.view(|view| read::is_silence_noted(view, second)));
        harness.check();
        let late = vec![note(third, 9000)];
        assert_eq!(harness.command(Command::NoteSilences { silences: late }), Reply::Done);
        assert_eq!(noted(&harness), [note(first, 6000)], "one that has ended is passed over");
        harness.check();
    }

    #[test]
    fn more_silences_than_an_entry_may_have_are_refused() {
        let mut harness = Harness::new();
        let silences = vec![Silence { session: harness.session, silent_ms: 1 }; NOTES_MAX + 1];
        let reply = harness.command(Command::NoteSilences { silences });
        assert!(matches!(reply, Reply::Refused(MetaError::InvalidArgument { .. })), "{reply:?}");
        assert!(harness.view(read::noted_silences).is_empty());
    }

    #[test]
    fn sessions_do_not_share_request_numbers() {
        let mut harness = Harness::new();
        let make = |text: &str| create(InodeId::ROOT, text, 0o600, NewInode::File);
        assert!(harness.request(&Caller::ROOT, 1, 0, make("a")).is_ok());
        harness.session = harness.open_session(2);
        let second = harness.request(&Caller::ROOT, 1, 0, make("b"));
        assert!(matches!(second, Ok(Changed::Inode { existed: false, .. })));
    }
}
