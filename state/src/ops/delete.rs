//! The end of dead chunks: ordered by a command, and remembered until every server of the set has confirmed (P10.6).

use dfs_proto::error::MetaError;
use dfs_proto::ids::{ChunkId, ServerId};

use crate::command::{REAP_LIMIT_MAX, Reply, SEAL_CHUNKS_MAX};
use crate::kv::Txn;
use crate::table::chunk;
use crate::time::StateTime;
use crate::value::chunk::{ChunkRecord, ChunkState};

/// Chunks that died at or before `before` are deleted from here on. The leader leaves readers their time (P10.4).
pub(crate) fn start(txn: &mut Txn<'_>, before: StateTime, limit: u32) -> Reply {
    let limit = limit.clamp(1, REAP_LIMIT_MAX) as usize;
    let due: Vec<ChunkId> =
        chunk::dead(txn).take_while(|(since, _)| *since <= before).map(|(_, id)| id).take(limit).collect();
    for &id in &due {
        chunk::update(txn, id, |record| {
            record.state = ChunkState::Deleting { unconfirmed: record.replicas.clone() };
        });
    }
    let more = chunk::dead(txn).next().is_some_and(|(since, _)| since <= before);
    Reply::Worked { count: due.len() as u32, more }
}

/// The record goes with the last confirmation. Chunks that are not to be deleted are passed over.
pub(crate) fn confirm(txn: &mut Txn<'_>, server: ServerId, chunks: &[ChunkId]) -> Reply {
    if chunks.len() > SEAL_CHUNKS_MAX {
        let what = format!("{} chunks confirmed at once, {SEAL_CHUNKS_MAX} are possible", chunks.len());
        return Reply::Refused(MetaError::InvalidArgument { what });
    }
    for &id in chunks {
        let Some(old) = chunk::get(txn, id) else { continue };
        let ChunkState::Deleting { unconfirmed } = &old.state else { continue };
        let unconfirmed: Vec<ServerId> = unconfirmed.iter().copied().filter(|&s| s != server).collect();
        if unconfirmed.is_empty() {
            chunk::put(txn, id, Some(&old), None);
        } else {
            let state = ChunkState::Deleting { unconfirmed };
            chunk::put(txn, id, Some(&old), Some(&ChunkRecord { state, ..old.clone() }));
        }
    }
    Reply::Done
}

#[cfg(test)]
mod tests {
    use dfs_proto::ids::InodeId;

    use super::*;
    use crate::command::Command;
    use crate::read;
    use crate::tests::Harness;

    fn at(seconds: i64) -> StateTime {
        StateTime { seconds, nanos: 0 }
    }

    #[test]
    fn a_dead_chunk_is_deleted_when_it_is_time_and_forgotten_when_all_have_confirmed() {
        let mut harness = Harness::new();
        let servers = harness.servers(2);
        let file = harness.file(InodeId::ROOT, "f");
        let chunk = harness.open_chunk();
        harness.write(file, 0, 10, chunk).expect("commits");
        harness.command(Command::SealChunks { chunks: vec![chunk] });
        harness.at(100);
        harness.truncate(file, 0);
        harness.view(|view| assert_eq!(read::first_dead_since(view), Some(at(100))));

        let start = |seconds| Command::StartDeleting { before: at(seconds), limit: 10 };
        assert_eq!(harness.command(start(99)), Reply::Worked { count: 0, more: false });
        assert_eq!(harness.command(start(100)), Reply::Worked { count: 1, more: false });
        harness.check();
        for server in servers {
            let deleting = |harness: &Harness| harness.view(|v| read::deleting(v, server, 10));
            assert_eq!(deleting(&harness), [chunk]);
            harness.command(Command::ConfirmDeleted { server, chunks: vec![chunk, ChunkId(99)] });
            assert_eq!(deleting(&harness), []);
            harness.check();
        }
        harness.view(|view| assert_eq!(read::chunk(view, chunk), None));
        assert_ne!(harness.open_chunk(), chunk, "chunk ids are never reused");
    }

    /// A leader whose clock was ahead once made the state's time stand for as long: what died then was deleted at once.
    #[test]
    fn regression_what_dies_after_the_clock_went_back_died_later_than_what_died_before() {
        let mut harness = Harness::new();
        harness.servers(2);
        let [first, second] = ["f", "g"].map(|name| {
            let (file, chunk) = (harness.file(InodeId::ROOT, name), harness.open_chunk());
            harness.write(file, 0, 10, chunk).expect("commits");
            harness.command(Command::SealChunks { chunks: vec![chunk] });
            file
        });
        harness.at(100);
        harness.truncate(first, 0);
        harness.at(50);
        harness.truncate(second, 0);
        let start = Command::StartDeleting { before: at(100), limit: 10 };
        assert_eq!(harness.command(start), Reply::Worked { count: 1, more: false });
        assert!(harness.view(read::first_dead_since).is_some_and(|since| since > at(100)));
    }

    #[test]
    fn a_chunk_that_is_not_dead_is_not_deleted_whatever_a_server_says() {
        let mut harness = Harness::new();
        let servers = harness.servers(2);
        let file = harness.file(InodeId::ROOT, "f");
        let chunk = harness.open_chunk();
        harness.write(file, 0, 10, chunk).expect("commits");
        harness.command(Command::SealChunks { chunks: vec![chunk] });
        harness.command(Command::StartDeleting { before: at(1_000_000), limit: 10 });
        harness.command(Command::ConfirmDeleted { server: servers[0], chunks: vec![chunk] });
        assert!(harness.view(|view| read::chunk(view, chunk)).is_some());
        harness.check();
    }
}
