//! The state's own time: what orders in it, and no wall clock (P7.1).
//!
//! It began with the cluster, never goes backwards, and advances with each command, never by more than has passed on the
//! leader's CLOCK_BOOTTIME (`raft::machine::clock`). What its figures are says nothing to anybody: only which is greater. (In a
//! state that an earlier release has made they began with the wall clock's, and may be far ahead of it; they go on from
//! there.)

use std::time::Duration;

use dfs_proto::attr::Timestamp;

const NANOS: u32 = 1_000_000_000;

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct StateTime {
    pub seconds: i64,
    pub nanos: u32,
}

impl StateTime {
    pub fn after(self, passed: Duration) -> StateTime {
        let nanos = self.nanos + passed.subsec_nanos();
        let seconds =
            i64::try_from(passed.as_secs()).unwrap_or(i64::MAX).saturating_add((nanos / NANOS).into());
        StateTime { seconds: self.seconds.saturating_add(seconds), nanos: nanos % NANOS }
    }

    /// The least that is later.
    pub(super) fn next(self) -> StateTime {
        self.after(Duration::from_nanos(1))
    }

    /// As entries of an earlier release are applied, which had one clock for both.
    pub(super) fn from_wall(wall: Timestamp) -> StateTime {
        StateTime { seconds: wall.seconds, nanos: wall.nanos }
    }

    pub(super) fn as_wall(self) -> Timestamp {
        Timestamp { seconds: self.seconds, nanos: self.nanos }
    }
}

#[cfg(test)]
mod tests {
    use dfs_proto::attr::{Caller, InodeAttr};
    use dfs_proto::error::MetaError;
    use dfs_proto::ids::InodeId;
    use dfs_proto::meta::{Change, NewInode, SetAttr};

    use super::*;
    use crate::command::{Command, Proposed, Reply};
    use crate::read;
    use crate::tests::{Harness, create, user};

    const ROOT: InodeId = InodeId::ROOT;
    /// Where somebody set the clock to, for a second.
    const YEAR_2038: i64 = 2_147_483_647;

    fn times(attr: &InodeAttr) -> (i64, i64, i64) {
        (attr.atime.seconds, attr.mtime.seconds, attr.ctime.seconds)
    }

    /// A test program set a machine's clock to 2038 for a second: since then all that was made or written in the cluster was
    /// of 2038, because `apply` took the greater of the leader's time and the last one.
    #[test]
    fn regression_after_a_clock_was_ahead_for_a_moment_new_times_are_what_it_shows_again() {
        let mut harness = Harness::new();
        harness.servers(2);
        let chunk = harness.open_chunk();
        harness.at(1000);
        harness.wall_at(YEAR_2038);
        let of_then = harness.file(ROOT, "then");
        harness.write(of_then, 0, 10, chunk).expect("commits");
        harness.wall_at(1002);
        let later = harness.file(ROOT, "later");
        assert_eq!(times(&harness.attr(later)), (1002, 1002, 1002));
        assert_eq!(harness.attr(ROOT).mtime.seconds, 1002, "the directory that it was made in");
        harness.chmod(&Caller::ROOT, of_then, 0o600).expect("root may");
        assert_eq!(
            times(&harness.attr(of_then)),
            (YEAR_2038, YEAR_2038, 1002),
            "its bytes are of that moment"
        );
        harness.wall_at(YEAR_2038);
        harness.chmod(&Caller::ROOT, of_then, 0o644).expect("root may");
        harness.wall_at(1003);
        harness.write(of_then, 0, 10, chunk).expect("commits");
        assert_eq!(times(&harness.attr(of_then)), (YEAR_2038, 1003, 1003));
        harness.wall_at(1004);
        harness.truncate(of_then, 0);
        assert_eq!(times(&harness.attr(of_then)), (YEAR_2038, 1004, 1004));
        harness.check();
    }

    #[test]
    fn what_the_wall_clock_does_is_nothing_to_the_states_own_time() {
        let mut harness = Harness::new();
        harness.at(1000);
        let mut last = harness.view(read::last_time);
        for wall in [1000, YEAR_2038, 5, 1001] {
            harness.wall_at(wall);
            harness.command(Command::Reap { limit: 1 });
            let now = harness.view(read::last_time);
            assert!(now > last && now < StateTime { seconds: 1001, nanos: 0 }, "{now:?} after {last:?}");
            last = now;
        }
        harness.at(900); // a new leader that reckons it behind
        harness.command(Command::Reap { limit: 1 });
        assert_eq!(harness.view(read::last_time), last.next());
    }

    #[test]
    fn a_state_that_believes_in_2038_goes_on_from_there_with_the_right_times() {
        let mut harness = Harness::new();
        let by_one_clock = |seconds| Proposed::ByOneClock(Timestamp { seconds, nanos: 0 });
        for (wall, shown) in [(YEAR_2038, YEAR_2038), (1001, YEAR_2038)] {
            let request =
                harness.next_request(&Caller::ROOT, create(ROOT, &format!("{wall}"), 0o644, NewInode::File));
            let change = Command::of_request(request, Vec::new(), Vec::new());
            harness.command_at(by_one_clock(wall), change);
            let made = harness.lookup(ROOT, &format!("{wall}")).expect("made");
            assert_eq!(harness.attr(made).mtime.seconds, shown, "as the release before applies it");
        }
        harness.at(1002);
        let file = harness.file(ROOT, "now");
        assert_eq!(times(&harness.attr(file)), (1002, 1002, 1002));
        assert!(
            harness.view(read::last_time) > StateTime { seconds: YEAR_2038, nanos: 0 },
            "nothing dies earlier than before"
        );
    }

    /// Some members have applied them with the release that wrote them, others do it with this one: all must hold the same.
    #[test]
    fn an_entry_of_the_release_with_one_clock_is_applied_by_the_rules_of_that_release() {
        let mut harness = Harness::new();
        harness.servers(2);
        harness.at(1000);
        let (file, chunk) = (harness.file(ROOT, "f"), harness.open_chunk());
        harness.wall_at(YEAR_2038);
        harness.chmod(&Caller::ROOT, file, 0o4755).expect("root may");
        harness.wall_at(1001);
        let stranger = user(8);
        let clear = Change::SetAttr(SetAttr { inode: file, kill_privileges: true, ..SetAttr::default() });
        let refused = harness.change(&stranger, clear.clone());
        assert_eq!(refused, Err(MetaError::PermissionDenied), "by the rules of this release");
        for (caller, change) in [(&Caller::ROOT, harness.commit(file, 0, 10, chunk)), (&stranger, clear)] {
            let request = harness.next_request(caller, change);
            let change = Command::of_request(request, Vec::new(), Vec::new());
            let proposed = Proposed::ByOneClock(Timestamp { seconds: 1001, nanos: 0 });
            let reply = harness.command_at(proposed, change);
            assert!(matches!(reply, Reply::Changed(Ok(_))), "{reply:?}");
            let attr = harness.attr(file);
            let is_cleared = attr.mode == 0o755;
            let ctime = if is_cleared { 1001 } else { YEAR_2038 };
            assert_eq!((is_cleared, attr.ctime.seconds), (caller == &stranger, ctime));
        }
        harness.check();
    }

    #[test]
    fn times_add_up_and_end_where_they_must() {
        let time = StateTime { seconds: 1, nanos: 999_999_999 };
        assert_eq!(time.next(), StateTime { seconds: 2, nanos: 0 });
        assert_eq!(time.after(Duration::from_millis(1)), StateTime { seconds: 2, nanos: 999_999 });
        assert_eq!(time.after(Duration::MAX).seconds, i64::MAX);
    }
}
