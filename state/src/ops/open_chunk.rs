//! A new chunk for a session to append to, on the servers that the leader chose. It is of one volume, which this cluster has
//! (P1.8).

use std::collections::BTreeSet;

use dfs_proto::error::MetaError;
use dfs_proto::ids::SetVersion;
use dfs_proto::meta::{Changed, MetaResult, OpenChunk};
use dfs_proto::units::{ByteLen, REPLICAS_MAX};

use super::context::{Context, ensure, invalid};
use crate::table::{chunk, cluster, server, volume};
use crate::value::chunk::{ChunkRecord, ChunkState};

pub(super) fn apply(context: &mut Context<'_, '_>, open: &OpenChunk) -> MetaResult<Changed> {
    require_volume(context, open)?;
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

/// Keeps P1.8. Earlier releases asked for no volume, and looked for none.
fn require_volume(context: &Context<'_, '_>, open: &OpenChunk) -> MetaResult<()> {
    if context.may_open_mixed {
        return Ok(());
    }
    let Some(volume) = open.volume else {
        return Err(invalid(
            "a chunk is opened for one volume, and none is named: the client is of an earlier release",
        ));
    };
    ensure(volume::is_here(context.txn, volume), MetaError::WrongCluster { map_version: 0 })
}

#[cfg(test)]
mod tests {
    use dfs_proto::attr::{Caller, Timestamp};
    use dfs_proto::ids::{ServerId, VolumeId};
    use dfs_proto::meta::Change;

    use super::*;
    use crate::command::{Command, Proposed, Reply, RootAttr};
    use crate::read;
    use crate::tests::Harness;
    use crate::time::StateTime;

    fn open(harness: &mut Harness, placement: &[ServerId]) -> MetaResult<Changed> {
        open_of(harness, Some(VolumeId(0)), placement)
    }

    fn open_of(
        harness: &mut Harness,
        volume: Option<VolumeId>,
        placement: &[ServerId],
    ) -> MetaResult<Changed> {
        let change = Change::OpenChunk(OpenChunk { volume, ..OpenChunk::default() });
        harness.change_placed(&Caller::ROOT, change, placement)
    }

    #[test]
    fn a_chunk_without_a_volume_or_of_one_that_is_not_here_is_refused() {
        let mut harness = Harness::new();
        let servers = harness.servers(2);
        let refused = open_of(&mut harness, None, &servers);
        assert!(matches!(refused, Err(MetaError::InvalidArgument { .. })), "{refused:?}");
        let elsewhere = Err(MetaError::WrongCluster { map_version: 0 });
        let five = Some(VolumeId(5));
        assert_eq!(open_of(&mut harness, five, &servers), elsewhere);
        assert_eq!(harness.view(read::totals).chunks_open, 0);
        let root = RootAttr { mode: 0o755, uid: 0, gid: 0 };
        harness.command(Command::MakeVolume { volume: VolumeId(5), root });
        assert!(open_of(&mut harness, five, &servers).is_ok());
        harness.command(Command::DropVolume { volume: VolumeId(5) });
        assert_eq!(open_of(&mut harness, five, &servers), elsewhere);
        harness.check();
    }

    #[test]
    fn files_of_a_dropped_volume_that_are_still_open_get_chunks() {
        let mut harness = Harness::new();
        let servers = harness.servers(2);
        let (volume, root) = (VolumeId(5), RootAttr { mode: 0o755, uid: 0, gid: 0 });
        harness.command(Command::MakeVolume { volume, root });
        let file = harness.file(volume::root_of(volume).expect("in range"), "f");
        harness.unlink(volume::root_of(volume).expect("in range"), "f").expect("it is there");
        harness.command(Command::DropVolume { volume });
        let Ok(Changed::Chunk(opened)) = open_of(&mut harness, Some(volume), &servers) else {
            panic!("opens")
        };
        harness.write(file, 0, 10, opened.chunk).expect("commits");
        harness.check();
    }

    /// Some members have applied them with the release that wrote them, others do it with this one: all must hold the same.
    #[test]
    fn an_entry_of_a_release_with_mixed_chunks_opens_them_as_that_one_did() {
        let (wall, state) = (Timestamp { seconds: 20, nanos: 0 }, StateTime { seconds: 20, nanos: 0 });
        for proposed in [
            Proposed::WithMixed { wall, state },
            Proposed::BeforeBirth { wall, state },
            Proposed::ByOneClock(wall),
        ] {
            let mut harness = Harness::new();
            let placement = harness.servers(2);
            for volume in [None, Some(VolumeId(0)), Some(VolumeId(5))] {
                let open = Change::OpenChunk(OpenChunk { volume, ..OpenChunk::default() });
                let request = harness.next_request(&Caller::ROOT, open);
                let command = Command::of_request(request, placement.clone(), Vec::new());
                let reply = harness.command_at(proposed, command);
                let Reply::Changed(Ok(answered)) = reply else { panic!("{proposed:?} answered {reply:?}") };
                let Changed::Chunk(opened) = answered.changed else { panic!("no chunk: {answered:?}") };
                let record = harness.view(|view| read::chunk(view, opened.chunk)).expect("opened");
                assert_eq!(record.volume, volume);
            }
            harness.check();
        }
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
