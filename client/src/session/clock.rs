//! The cluster's clock, as its answers show it. This machine's wall clock is not used, so nobody sees what it shows (P7.1).

use std::time::Duration;

use dfs_proto::attr::Timestamp;

/// The longest time for which an answer is assumed to have been on its way.
const ANSWER_WAY_MAX: Duration = Duration::from_millis(50);

/// A time of the cluster's clock, and when it was that time by this machine's CLOCK_BOOTTIME.
#[derive(Clone, Copy)]
pub(crate) struct ClusterClock {
    wall: Timestamp,
    at: Duration,
}

impl ClusterClock {
    /// The leader read its clock between `sent` and `answered`; in the middle, if there was one try. A call that was repeated
    /// was answered by its last try, so the time before that says nothing.
    pub(crate) fn shown(wall: Timestamp, sent: Duration, answered: Duration) -> ClusterClock {
        let way = (answered.saturating_sub(sent) / 2).min(ANSWER_WAY_MAX);
        ClusterClock { wall, at: answered.saturating_sub(way) }
    }

    /// What the cluster's clock shows at `boottime`.
    pub(crate) fn at(self, boottime: Duration) -> Timestamp {
        self.wall.after(boottime.saturating_sub(self.at))
    }
}
