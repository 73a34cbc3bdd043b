//! Sealing: by the writer, or by the leader when a replica is away. Always at the committed length (P1.5).

use dfs_proto::error::MetaError;
use dfs_proto::ids::{ChunkId, ServerId};
use dfs_proto::meta::{Changed, MetaResult};

use super::context::{Context, ensure};
use crate::command::{REAP_LIMIT_MAX, Reply, SEAL_CHUNKS_MAX};
use crate::kv::Txn;
use crate::table::chunk;
use crate::time::StateTime;
use crate::value::chunk::ChunkState;

/// Sealing again is no error: the leader may have been first.
pub(super) fn apply(context: &mut Context<'_, '_>, id: ChunkId) -> MetaResult<Changed> {
    let refused = MetaError::ChunkNotOpen { chunk: id };
    let record = chunk::get(context.txn, id).ok_or(refused.clone())?;
    if let ChunkState::Open { session } = record.state {
        ensure(session == context.session, refused)?; // a foreign chunk is not this session's to end
        chunk::seal(context.txn, id, context.state_time);
    }
    Ok(Changed::Sealed { committed: record.committed })
}

/// Those that are not open are passed over.
pub(crate) fn seal_all(txn: &mut Txn<'_>, now: StateTime, chunks: &[ChunkId]) -> Reply {
    if chunks.len() > SEAL_CHUNKS_MAX {
        let what = format!("{} chunks to seal at once, {SEAL_CHUNKS_MAX} are possible", chunks.len());
        return Reply::Refused(MetaError::InvalidArgument { what });
    }
    let count = chunks.iter().filter(|&&id| chunk::seal(txn, id, now)).count();
    Reply::Worked { count: count as u32, more: false }
}

pub(crate) fn seal_of_server(txn: &mut Txn<'_>, now: StateTime, server: ServerId, limit: u32) -> Reply {
    let limit = limit.clamp(1, REAP_LIMIT_MAX) as usize;
    let chunks: Vec<ChunkId> = chunk::open_of_server(txn, server).take(limit).collect();
    for &id in &chunks {
        chunk::seal(txn, id, now);
    }
    let more = chunk::open_of_server(txn, server).next().is_some();
    Reply::Worked { count: chunks.len() as u32, more }
}

#[cfg(test)]
mod tests {
    use dfs_proto::attr::Caller;
    use dfs_proto::ids::InodeId;
    use dfs_proto::meta::Change;
    use dfs_proto::units::ByteLen;

    use super::*;
    use crate::command::Command;
    use crate::read;
    use crate::tests::Harness;

    #[test]
    fn a_chunk_is_sealed_at_its_committed_length_by_its_writer_only() {
        let mut harness = Harness::new();
        harness.servers(2);
        let file = harness.file(InodeId::ROOT, "f");
        let chunk = harness.open_chunk();
        harness.write(file, 0, 100, chunk).expect("commits");
        let owner = harness.session;
        harness.session = harness.open_session(2);
        let refused = harness.change(&Caller::ROOT, Change::SealChunk { chunk });
        assert_eq!(refused, Err(MetaError::ChunkNotOpen { chunk }));
        harness.session = owner;
        for _ in 0..2 {
            let sealed = harness.change(&Caller::ROOT, Change::SealChunk { chunk });
            assert_eq!(sealed, Ok(Changed::Sealed { committed: ByteLen(100) }));
        }
        harness.check();
    }

    #[test]
    fn the_chunks_of_a_server_are_sealed_in_batches() {
        let mut harness = Harness::new();
        let servers = harness.servers(2);
        for _ in 0..5 {
            harness.open_chunk();
        }
        let seal = |limit| Command::SealChunksOf { server: servers[1], limit };
        assert_eq!(harness.command(seal(3)), Reply::Worked { count: 3, more: true });
        assert_eq!(harness.command(seal(3)), Reply::Worked { count: 2, more: false });
        let totals = harness.view(read::totals);
        assert_eq!((totals.chunks_open, totals.chunks_dead), (0, 5), "nothing was ever committed in them");
        harness.check();
    }

    #[test]
    fn open_chunks_of_no_volume_are_found_until_they_are_sealed() {
        let mut harness = Harness::new();
        harness.servers(2);
        let file = harness.file(InodeId::ROOT, "f");
        let mixed = [harness.open_mixed_chunk(), harness.open_mixed_chunk()];
        let of_volume = harness.open_chunk();
        harness.write(file, 0, 100, mixed[0]).expect("commits");
        let found = |harness: &Harness, limit| harness.view(|view| read::open_mixed_chunks(view, limit));
        assert_eq!(found(&harness, 10), mixed);
        assert_eq!(found(&harness, 1), mixed[..1]);
        harness.command(Command::SealChunks { chunks: mixed.to_vec() });
        assert_eq!(found(&harness, 10), []);
        let refused = harness.write(file, 0, 10, mixed[0]);
        assert_eq!(refused, Err(MetaError::ChunkNotOpen { chunk: mixed[0] }));
        assert_eq!(harness.pieces(file), [(0, 100, mixed[0])], "it stays readable");
        let record = harness.view(|view| read::chunk(view, mixed[0])).expect("it is named");
        assert_eq!((record.volume, record.state), (None, ChunkState::Sealed), "and mixed");
        harness.write(file, 0, 10, of_volume).expect("commits");
        harness.check();
    }

    #[test]
    fn sealing_named_chunks_passes_over_those_not_open() {
        let mut harness = Harness::new();
        harness.servers(2);
        let chunk = harness.open_chunk();
        let seal = || Command::SealChunks { chunks: vec![chunk, ChunkId(99)] };
        assert_eq!(harness.command(seal()), Reply::Worked { count: 1, more: false });
        assert_eq!(harness.command(seal()), Reply::Worked { count: 0, more: false });
        harness.check();
    }
}
