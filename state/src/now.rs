//! What time it is for a command, and how the state's own time goes on with it.

use dfs_proto::attr::Timestamp;
use dfs_proto::planted::{self, Bug};

use super::time::StateTime;
use crate::command::Proposed;
use crate::kv::Txn;
use crate::table::cluster;

/// What time it is for one command.
#[derive(Clone, Copy, Debug)]
pub(super) struct Now {
    /// For the times of inodes, as the leader's wall clock has it.
    pub(super) wall: Timestamp,
    /// For what orders (P7.1).
    pub(super) state: StateTime,
    /// The entry is of a release that had one clock for both, and is applied as it was then.
    pub(super) is_of_one_clock: bool,
    /// Of the inodes that are made now; `None` if the entry is of a release that recorded none, and is applied as it was then.
    pub(super) born: Option<Timestamp>,
    /// The entry is of a release whose chunks could be of no volume, and is applied as it was then (P1.8).
    pub(super) may_open_mixed: bool,
}

/// Moves the state's time on (P7.1). A leader that reckons it behind moves it by the least that there is: what happens now is
/// later than what happened before (P10.4 compares them).
pub(super) fn advance_time(txn: &mut Txn<'_>, proposed: Proposed) -> Now {
    let last = cluster::counters(txn).time;
    let now = match proposed {
        Proposed::At { wall, .. } | Proposed::WithMixed { wall, .. }
            if planted::has(Bug::WallClockOrders) =>
        {
            by_one_clock(last, wall)
        }
        Proposed::At { wall, state } | Proposed::WithMixed { wall, state } => {
            by_two_clocks(last, wall, state)
        }
        Proposed::BeforeBirth { wall, state } => Now { born: None, ..by_two_clocks(last, wall, state) },
        Proposed::ByOneClock(wall) => by_one_clock(last, wall),
    };
    let may_open_mixed = match proposed {
        Proposed::At { .. } => false,
        Proposed::WithMixed { .. } | Proposed::BeforeBirth { .. } | Proposed::ByOneClock(_) => true,
    };
    if now.state > last {
        cluster::count(txn, |c| c.time = now.state);
    }
    Now { may_open_mixed, ..now }
}

fn by_two_clocks(last: StateTime, wall: Timestamp, state: StateTime) -> Now {
    let state = if state > last { state } else { last.next() };
    Now { wall, state, is_of_one_clock: false, born: Some(wall), may_open_mixed: false }
}

/// As an earlier release did it: the greater of the wall clock's time and the last one, for both.
fn by_one_clock(last: StateTime, wall: Timestamp) -> Now {
    let state = StateTime::from_wall(wall);
    let state = if state < last { last.next() } else { state };
    Now { wall: state.as_wall(), state, is_of_one_clock: true, born: None, may_open_mixed: true }
}
