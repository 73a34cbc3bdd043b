//! What must be true of the disks, whatever happened.
//!
//! J1  Two metaservers that have applied equally much hold the same bytes, at any moment; at the end all have.
//! J2  At the end `state::check` finds nothing.
//! J3  At the end every replica of every chunk gives all committed bytes, with their checksums, from what a power
//!     failure leaves. No disk of this simulation rots, so nobody has reported damage either.

use std::collections::BTreeMap;
use std::path::Path;

use dfs_chunkserver::disk::MemoryDisk;
use dfs_chunkserver::metrics::Metrics;
use dfs_chunkserver::store::{ChunkStore, FullBelow, StoreOptions};
use dfs_chunkserver::workers::Workers;
use dfs_metaserver::kv::{Kv, KvHome, Snapshot};
use dfs_metaserver::raft::applied_count;
use dfs_metaserver::state;
use dfs_metaserver::state::chunk::{ChunkRecord, ChunkState};
use dfs_metaserver::state::read;
use dfs_proto::chunk::{ChunkKey, ReadChunk};
use dfs_proto::ids::{ChunkId, ServerId};
use dfs_proto::units::{ChunkOffset, READ_LEN_MAX};
use futures::executor::block_on;

use super::{Disks, FRAMES_PORT};

/// A state's bytes as one number, and how many entries it holds the effects of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Digest {
    applied: u64,
    hash: u64,
}

fn digest(view: &dyn Snapshot) -> Digest {
    let mut hash = 0xcbf2_9ce4_8422_2325u64;
    let mut mix = |bytes: &[u8]| {
        // Eight bytes at a time; the length tells neighbours apart.
        for piece in bytes.chunks(8).chain([&bytes.len().to_le_bytes()[..]]) {
            let mut word = [0; 8];
            word[..piece.len()].copy_from_slice(piece);
            hash = (hash ^ u64::from_le_bytes(word)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
            hash ^= hash >> 29;
        }
    };
    for (key, value) in view.scan(b"", b"") {
        mix(&key);
        mix(&value);
    }
    let applied = applied_count(view).unwrap_or_else(|error| panic!("read what is applied: {error}"));
    Digest { applied, hash }
}

/// Watches the states of all metaservers (J1).
#[derive(Default)]
pub(super) struct Judge {
    seen: BTreeMap<u64, (u64, usize)>,
    /// The current database of each metaserver: a new one is a snapshot that was installed.
    databases: BTreeMap<usize, String>,
    pub(super) snapshots_installed: u64,
}

impl Judge {
    /// Looks at every state; true when all of them are the same.
    pub(super) fn look(&mut self, disks: &Disks) -> bool {
        for (index, home) in disks.states.iter().enumerate() {
            let Ok(Some(name)) = home.current() else { continue };
            let before = self.databases.insert(index, name.clone());
            self.snapshots_installed += u64::from(before.is_some_and(|before| before != name));
        }
        let found: Vec<Option<Digest>> = (0..disks.states.len())
            .map(|index| current(disks, index).map(|kv| digest(&*kv.snapshot())))
            .collect();
        for (index, digest) in found.iter().enumerate() {
            let Some(Digest { applied, hash }) = *digest else { continue };
            let (first, by) = *self.seen.entry(applied).or_insert((hash, index));
            assert!(first == hash, "m{} and m{} differ after {applied} entries", by + 1, index + 1);
        }
        found[0].is_some() && found.iter().all(|digest| *digest == found[0])
    }
}

fn current(disks: &Disks, index: usize) -> Option<std::sync::Arc<dyn Kv>> {
    let home = &disks.states[index];
    let name = home.current().ok().flatten()?;
    Some(home.open(&name).unwrap_or_else(|error| panic!("open the state of m{}: {error}", index + 1)))
}

/// What the disks held at the end.
pub(super) struct Found {
    pub(super) copies_read: u64,
    pub(super) chunks_deleted: u64,
}

/// J2, J3; every server is gone, and its disk is as the power failure left it.
pub(super) fn verdict(disks: &Disks) -> Found {
    let mut states = (0..disks.states.len()).filter_map(|index| current(disks, index).map(|kv| (index, kv)));
    let mut furthest: Option<(u64, std::sync::Arc<dyn Kv>)> = None;
    for (index, kv) in states.by_ref() {
        let broken = state::check(&*kv.snapshot());
        assert!(broken.is_empty(), "m{}: {broken:#?}", index + 1);
        let applied = digest(&*kv.snapshot()).applied;
        if furthest.as_ref().is_none_or(|(most, _)| applied > *most) {
            furthest = Some((applied, kv));
        }
    }
    let (_, kv) = furthest.unwrap_or_else(|| panic!("no metaserver has a state"));
    let view = kv.snapshot();
    let chunks = read::chunks(&*view);
    // Ids are given without gaps and not reused: those below the highest that have no record are gone.
    let chunks_deleted = chunks.last().map_or(0, |(id, _)| id.0 - chunks.len() as u64);
    Found { copies_read: copies(disks, &*view), chunks_deleted }
}

fn copies(disks: &Disks, view: &dyn Snapshot) -> u64 {
    let stores: Vec<ChunkStore> = disks.chunks.iter().map(open_store).collect();
    let place: BTreeMap<ServerId, usize> = read::servers(view)
        .into_iter()
        .filter_map(|(id, record)| {
            let at = |index: &usize| record.addresses.frames == format!("c{}:{FRAMES_PORT}", index + 1);
            Some((id, (0..stores.len()).find(at)?))
        })
        .collect();
    let mut copies = 0;
    for (id, record) in read::chunks(view) {
        if matches!(record.state, ChunkState::Deleting { .. }) {
            continue;
        }
        assert!(record.damaged.is_empty(), "{id}: a copy was called damaged that is not: {record:?}");
        for server in &record.replicas {
            let index = place[server];
            read_all(&stores[index], view, id, &record)
                .unwrap_or_else(|what| panic!("J3: c{} has not all of {id}: {what}; {record:?}", index + 1));
            copies += 1;
        }
    }
    copies
}

fn open_store(disk: &MemoryDisk) -> ChunkStore {
    let options = StoreOptions {
        full: FullBelow { bytes: 0, percent: 0 },
        io: Workers::inline(),
        syncs: Workers::inline(),
    };
    ChunkStore::open(std::sync::Arc::new(disk.clone()), Path::new("/data"), options, Metrics::new())
        .unwrap_or_else(|error| panic!("open a chunk store: {error}"))
}

fn read_all(
    store: &ChunkStore,
    view: &dyn Snapshot,
    id: ChunkId,
    record: &ChunkRecord,
) -> Result<(), String> {
    let cluster = read::cluster(view).ok_or("there is no cluster")?;
    let key = ChunkKey {
        cluster: cluster.cluster,
        incarnation: cluster.incarnation,
        chunk: id,
        set_version: record.set_version,
    };
    let mut at = 0;
    while at < record.committed.0 {
        let len = (record.committed.0 - at).min(READ_LEN_MAX);
        let blocks = block_on(store.read(ReadChunk { key, offset: ChunkOffset(at), len }));
        let blocks = blocks.map_err(|error| error.to_string())?;
        blocks.verify(&key, ChunkOffset(at), len).map_err(|error| error.to_string())?;
        at += len;
    }
    Ok(())
}
