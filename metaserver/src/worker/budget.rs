//! How often each kind of background work is done, and how much of it at a time. Clients' changes go through the same log, so
//! no command is large, and no round holds many of them.

use std::time::Duration;

use dfs_state::command::REAP_LIMIT_MAX;

/// Of one kind of work.
#[derive(Clone, Copy, Debug)]
pub(super) struct Budget {
    /// Between two rounds, when the one before has left nothing to do.
    pub(super) every: Duration,
    /// In one round.
    pub(super) commands_max: usize,
    /// Touched by one command (P7.2).
    pub(super) records_max: u32,
}

/// Short against `server_away`, so that a dead server's chunks are sealed soon after it counts as away; and short enough for
/// G4 of the gate, which counts on these reads.
pub(super) const SEAL: Budget =
    Budget { every: Duration::from_millis(250), commands_max: 100, records_max: REAP_LIMIT_MAX };

/// Once in a term, until none is left. A pause in between, as other changes go through the same log.
pub(super) const SEAL_MIXED: Budget =
    Budget { every: Duration::from_millis(250), commands_max: 1, records_max: REAP_LIMIT_MAX };

/// Nobody waits for it; only space does.
pub(super) const REAP: Budget =
    Budget { every: Duration::from_millis(500), commands_max: 1, records_max: REAP_LIMIT_MAX };

pub(super) const DELETE: Budget =
    Budget { every: Duration::from_secs(1), commands_max: 1, records_max: REAP_LIMIT_MAX };

/// Of a session, one record; what it leaves behind is reaped. A plan reads all sessions, so one round takes whatever is due. Somebody may
/// wait for it, beyond the term for as long as this.
pub(super) const EXPIRE: Budget =
    Budget { every: Duration::from_millis(250), commands_max: usize::MAX, records_max: 1 };
