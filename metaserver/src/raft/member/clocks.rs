//! How far the members' wall clocks are apart (P7.1). Members exchange the times of their clocks in their greetings (`bootstrap`).
//!
//! MC1  Between two greetings, this member extrapolates the other clocks by its own CLOCK_BOOTTIME. So a step of its own wall clock
//!      is noticed at once, and a step of another clock at the next greeting.
//! MC2  Each clock is compared with the median of all known clocks. Of two clocks nobody can tell which is right, so both are
//!      shown as wrong, and nothing is done.
//! MC3  A member whose clock is off by more than a minute does not lead, if a majority of the group agrees on the time without
//!      it, because only then another member can lead. Until the lead is handed over, it takes the time from the others.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use dfs_net::env::Clock;
use dfs_proto::attr::Timestamp;
use dfs_proto::ids::MemberId;

/// A clock that was not heard for so long is not counted. Three greetings in a row were lost then.
const KNOWN_FOR: Duration = Duration::from_secs(20);
/// An answer that took longer is not used: the other clock was read at an unknown moment of this time.
const ROUND_TRIP_MAX: Duration = Duration::from_millis(500);
const OFF_MAX_TO_LEAD: Duration = Duration::from_secs(60);

pub(crate) struct MemberClocks {
    own: MemberId,
    /// How many members the group has.
    count: usize,
    clock: Arc<dyn Clock>,
    heard: Mutex<BTreeMap<MemberId, Heard>>,
}

/// What another member's clock showed, and when that was by this member's CLOCK_BOOTTIME.
#[derive(Clone, Copy)]
struct Heard {
    wall: Timestamp,
    at: Duration,
}

/// The clocks at one moment.
struct Survey {
    /// How many nanoseconds each clock is ahead of the median; negative if it is behind.
    off: BTreeMap<MemberId, i128>,
}

impl MemberClocks {
    pub(crate) fn new(own: MemberId, count: usize, clock: Arc<dyn Clock>) -> MemberClocks {
        MemberClocks { own, count, clock, heard: Mutex::default() }
    }

    /// CLOCK_BOOTTIME, to be read before a greeting is sent and after its answer has come.
    pub(crate) fn look(&self) -> Duration {
        self.clock.boottime()
    }

    /// `member` has read its clock between these two times of [`MemberClocks::look`].
    pub(crate) fn heard(&self, member: MemberId, wall: Timestamp, (asked, answered): (Duration, Duration)) {
        let took = answered.saturating_sub(asked);
        if took <= ROUND_TRIP_MAX {
            let heard = Heard { wall, at: asked + took / 2 };
            self.heard.lock().unwrap_or_else(PoisonError::into_inner).insert(member, heard);
        }
    }

    /// This member's wall clock.
    pub(crate) fn own_wall(&self) -> Timestamp {
        self.clock.now()
    }

    /// The wall-clock time of what is proposed here: this member's clock, or the others' while this one must not lead (MC3).
    pub(crate) fn wall(&self) -> Timestamp {
        let own = self.own_wall();
        match self.bars_from_leading() {
            Some(off) => Timestamp::from_nanos(own.as_nanos() - off),
            None => own,
        }
    }

    /// How many milliseconds each known clock is ahead of the others.
    pub(crate) fn off_ms(&self) -> BTreeMap<MemberId, i64> {
        let survey = self.survey();
        survey.off.into_iter().map(|(member, off)| (member, (off / 1_000_000) as i64)).collect()
    }

    /// Whether the clock of `member` lets it lead (MC3).
    pub(crate) fn may_lead(&self, member: MemberId) -> bool {
        self.survey().bars(member, self.count).is_none()
    }

    fn bars_from_leading(&self) -> Option<i128> {
        self.survey().bars(self.own, self.count)
    }

    fn survey(&self) -> Survey {
        let (own, now) = (self.own_wall().as_nanos(), self.clock.boottime());
        let heard = self.heard.lock().unwrap_or_else(PoisonError::into_inner);
        let known = heard.iter().filter(|(_, heard)| now.saturating_sub(heard.at) <= KNOWN_FOR);
        let shown = |heard: &Heard| heard.wall.after(now.saturating_sub(heard.at)).as_nanos();
        let mut clocks: BTreeMap<MemberId, i128> =
            known.map(|(member, heard)| (*member, shown(heard))).collect();
        clocks.insert(self.own, own);
        Survey::of(&clocks)
    }
}

impl Survey {
    /// Keeps MC2.
    fn of(clocks: &BTreeMap<MemberId, i128>) -> Survey {
        let mut sorted: Vec<i128> = clocks.values().copied().collect();
        sorted.sort_unstable();
        let ends = sorted.first().zip(sorted.last()).map_or((0, 0), |(first, last)| (*first, *last));
        let middle = (sorted.get((sorted.len().max(1) - 1) / 2), sorted.get(sorted.len() / 2));
        let off = |clock: i128| match (sorted.len(), middle) {
            (0 | 1, _) => 0,
            (2, _) if clock == ends.0 => ends.0 - ends.1,
            (2, _) => ends.1 - ends.0,
            (_, (Some(low), Some(high))) => clock - clock.clamp(*low, *high),
            (_, _) => 0,
        };
        Survey { off: clocks.iter().map(|(member, clock)| (*member, off(*clock))).collect() }
    }

    /// How far the clock of `member` is off, if that keeps it from leading a group of `count` members (MC3).
    fn bars(&self, member: MemberId, count: usize) -> Option<i128> {
        let is_too_far = |off: i128| off.unsigned_abs() > OFF_MAX_TO_LEAD.as_nanos();
        let agreeing = self.off.values().filter(|off| !is_too_far(**off)).count();
        let off = self.off.get(&member).copied().filter(|off| is_too_far(*off))?;
        (agreeing > count / 2).then_some(off)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory_net::SetClock;

    fn survey(clocks: &[i128]) -> Survey {
        Survey::of(&(1..).map(MemberId).zip(clocks.iter().map(|seconds| seconds * 1_000_000_000)).collect())
    }

    fn off(clocks: &[i128]) -> Vec<i128> {
        survey(clocks).off.into_values().map(|off| off / 1_000_000_000).collect()
    }

    fn barred(clocks: &[i128], count: usize) -> Vec<u64> {
        let survey = survey(clocks);
        let members = 1..=clocks.len() as u64;
        members.filter(|member| survey.bars(MemberId(*member), count).is_some()).collect()
    }

    #[test]
    fn a_clock_is_judged_by_the_middle_one_and_of_two_both_are_named() {
        assert_eq!(off(&[100]), [0]);
        assert_eq!(off(&[100, 190]), [-90, 90]);
        assert_eq!(off(&[100, 100]), [0, 0]);
        assert_eq!(off(&[100, 4000, 101]), [-1, 3899, 0]);
        assert_eq!(off(&[100, 101, 5, 900]), [0, 0, -95, 799]);
    }

    #[test]
    fn a_member_whose_clock_is_off_by_more_than_a_minute_is_barred_if_the_others_are_enough_to_lead() {
        assert_eq!(barred(&[0, 59, 0], 3), []);
        assert_eq!(barred(&[0, 61, 0], 3), [2]);
        assert_eq!(barred(&[0, -61, 0], 3), [2]);
        assert_eq!(barred(&[0, 1000, 2000], 3), [], "no two agree");
        assert_eq!(barred(&[0, 1000], 3), [], "of two nobody can tell");
        assert_eq!(barred(&[0, 0, 1000], 5), [], "without it, two of five are no majority");
        assert_eq!(barred(&[0, 0, 0, 1000], 5), [4]);
    }

    #[test]
    fn who_steps_this_clock_is_noticed_at_once_and_the_time_is_taken_from_the_others() {
        let set = Arc::new(SetClock::default());
        let clocks = MemberClocks::new(MemberId(1), 3, set.clone());
        let hear = || {
            for other in [2, 3] {
                clocks.heard(MemberId(other), set.now(), (set.boottime(), set.boottime()));
            }
        };
        hear();
        set.pass(Duration::from_secs(4));
        let right = set.now();
        assert_eq!((clocks.wall(), clocks.may_lead(MemberId(1))), (right, true));
        set.step_wall(400_000_000);
        assert!(!clocks.may_lead(MemberId(1)) && clocks.may_lead(MemberId(2)));
        assert_eq!(clocks.wall(), right);
        assert_eq!(clocks.off_ms()[&MemberId(1)], 400_000_000_000);
        set.step_wall(-400_000_000 + 30);
        assert!(clocks.may_lead(MemberId(1)));
        assert_eq!(
            clocks.wall(),
            right.after(Duration::from_secs(30)),
            "this is the leader's clock, right or wrong"
        );
        assert_eq!(clocks.off_ms()[&MemberId(1)], 30_000);
    }

    #[test]
    fn what_was_heard_long_ago_or_with_a_late_answer_is_not_counted() {
        let set = Arc::new(SetClock::default());
        let clocks = MemberClocks::new(MemberId(1), 3, set.clone());
        let asked = set.boottime();
        set.pass(Duration::from_secs(2));
        clocks.heard(MemberId(2), set.now(), (asked, set.boottime()));
        assert_eq!(clocks.off_ms().len(), 1);
        clocks.heard(MemberId(2), set.now(), (set.boottime(), set.boottime()));
        assert_eq!(clocks.off_ms().len(), 2);
        set.pass(KNOWN_FOR + Duration::from_secs(1));
        assert_eq!(clocks.off_ms().len(), 1);
    }
}
