//! A new chunk for a session to append to, on the servers that the leader chose.

use std::collections::BTreeSet;

use dfs_proto::error::MetaError;
use dfs_proto::ids::SetVersion;
use dfs_proto::meta::{Changed, MetaResult, OpenChunk};
use dfs_proto::units::{ByteLen, REPLICAS_MAX};

use super::context::{Context, ensure};
use crate::table::{chunk, cluster, server};
use crate::value::chunk::{ChunkRecord, ChunkState};

pub(super) fn apply(context: &mut Context<'_, '_>, open: &OpenChunk) -> MetaResult<Changed> {
    let replicas = context.placement.to_vec();
    let distinct: BTreeSet<_> = replicas.iter().collect();
    let is_sound = (1..=REPLICAS_MAX).contains(&replicas.len())
        && distinct.len() == replicas.len()
        && replicas.iter().all(|&id| server::get(context.txn, id).is_some());
    let what = || MetaError::Internal { what: format!("a chunk cannot be placed on {replicas:?}") };
    ensure(is_sound, what())?;
    let copies = match open.copies {
        0 => cluster::require(context.txn)?.copies,
        copies => copies.min(REPLICAS_MAX as u32),
    };
    let record = ChunkRecord {
        state: ChunkState::Open { session: context.session },
        set_version: SetVersion(1),
        replicas,
        copies,
        committed: ByteLen(0),
        live: ByteLen(0),
        damaged: Vec::new(),
        volume: open.volume,
    };
    let id = cluster::count(context.txn, |c| {
        c.chunk.0 += 1;
        c.chunk
    });
    chunk::put(context.txn, id, None, Some(&record));
    Ok(Changed::Chunk(chunk::opened(context.txn, id, &record)))
}

#[cfg(test)]
mod tests {
    use dfs_proto::attr::Caller;
    use dfs_proto::ids::ServerId;
    use dfs_proto::meta::Change;

    use super::*;
    use crate::read;
    use crate::tests::Harness;

    fn open(harness: &mut Harness, placement: &[ServerId]) -> MetaResult<Changed> {
        let change = Change::OpenChunk(OpenChunk::default());
        harness.change_placed(&Caller::ROOT, change, placement)
    }

    #[test]
    fn a_chunk_opens_on_the_chosen_servers_and_is_degraded_with_too_few() {
        let mut harness = Harness::new();
        let servers = harness.servers(3);
        let Ok(Changed::Chunk(opened)) = open(&mut harness, &servers[..2]) else { panic!("opens") };
        assert_eq!(opened.set_version, SetVersion(1));
        assert_eq!(opened.replicas[0].server, servers[0]);
        assert_eq!(opened.replicas[0].address, "frames:1");
        let Ok(Changed::Chunk(lone)) = open(&mut harness, &servers[2..]) else { panic!("opens") };
        assert_ne!(lone.chunk, opened.chunk);
        let totals = harness.view(read::totals);
        assert_eq!((totals.chunks_open, totals.chunks_degraded), (2, 1));
        harness.check();
    }

    #[test]
    fn a_placement_on_nobody_on_strangers_or_twice_on_one_server_is_refused() {
        let mut harness = Harness::new();
        let servers = harness.servers(2);
        for bad in [&[][..], &[ServerId(77)], &[servers[0], servers[0]]] {
            assert!(matches!(open(&mut harness, bad), Err(MetaError::Internal { .. })), "{bad:?}");
        }
        harness.check();
    }
}
