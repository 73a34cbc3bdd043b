//! The records of the state that say where a session holds locks or open files, so that the next leader waits for it (P6.5).

use dfs_proto::ids::{SessionId, VolumeId};
use dfs_state::command::Command;
use dfs_state::kv::Snapshot;

/// The sessions that may hold something in the volume.
pub(crate) fn holding_sessions(_state: &dyn Snapshot, _volume: VolumeId) -> Vec<SessionId> {
    Vec::new() // TO CONNECT: dfs_state::read::holding_sessions(state, volume)
}

/// What makes the session one of them.
pub(crate) fn record_holds(_session: SessionId, _volume: VolumeId) -> Option<Command> {
    None // TO CONNECT: Some(Command::RecordHolds { session, volume })
}
