//! What must be true of the disks, whatever happened.
//!
//! J1  Two metaservers that have applied equally much hold the same bytes, at any moment; at the end all have.
//! J2  At the end `dfs_state::check` finds nothing.
//! J3  At the end every replica of every chunk gives all committed bytes, with their checksums, from what a power
//!     failure leaves. No disk of this simulation rots, so nobody has reported damage either.
//! J4  In the end the federation map, the root directory's entries and the clusters' volumes are the same, and nothing is
//!     in the middle.
//! J5  No chunk is ordered to be deleted within a minute after it was in use (P10.4), whatever clocks show.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use dfs_chunkserver::disk::MemoryDisk;
use dfs_chunkserver::metrics::Metrics;
use dfs_chunkserver::store::{ChunkStore, FullBelow, StoreOptions};
use dfs_chunkserver::workers::Workers;
use dfs_metaserver::raft::applied_count;
use dfs_proto::chunk::{ChunkKey, ReadChunk};
use dfs_proto::federation::VolumePhase;
use dfs_proto::ids::{ChunkId, ClusterId, ServerId, VolumeId};
use dfs_proto::units::{ChunkOffset, READ_LEN_MAX};
use dfs_state::kv::{Kv, KvHome, Snapshot};
use dfs_state::read;
use dfs_state::value::chunk::{ChunkRecord, ChunkState};
use dfs_state::value::volume::{VolumeEntry, VolumeState};
use futures::executor::block_on;

use super::disks::{Disks, GroupDisks};
use super::layout::FRAMES_PORT;

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

/// P10.4: so long a reader with an older map still finds the bytes.
const READABLE: Duration = Duration::from_secs(60);

/// Watches the states of all metaservers (J1).
#[derive(Default)]
pub(super) struct Judge {
    /// By group and entries applied.
    seen: BTreeMap<(usize, u64), (u64, usize)>,
    /// The current database of each metaserver: a new one is a snapshot that was installed.
    databases: BTreeMap<usize, String>,
    /// When each chunk of each cluster was last seen in use.
    in_use: BTreeMap<(usize, ChunkId), Duration>,
    pub(super) snapshots_installed: u64,
}

impl Judge {
    /// Looks at every state; true when all those of a group are the same.
    pub(super) fn look(&mut self, disks: &Disks, now: Duration) -> bool {
        for cluster in 0..disks.layout.clusters {
            self.look_at_chunks(disks, cluster, now);
        }
        for (index, part) in disks.clusters.iter().enumerate() {
            let Ok(Some(name)) = part.state.current() else { continue };
            let before = self.databases.insert(index, name.clone());
            self.snapshots_installed += u64::from(before.is_some_and(|before| before != name));
        }
        let same: Vec<bool> = (0..disks.layout.groups()).map(|group| self.look_at(disks, group)).collect();
        same.into_iter().all(|is_same| is_same)
    }

    /// Keeps J5.
    fn look_at_chunks(&mut self, disks: &Disks, cluster: usize, now: Duration) {
        let Some(kv) = furthest_made(disks, cluster) else { return };
        for (chunk, record) in read::chunks(&*kv.snapshot()) {
            match record.state {
                ChunkState::Open { .. } | ChunkState::Sealed => {
                    self.in_use.insert((cluster, chunk), now);
                }
                ChunkState::Dead { .. } => {}
                ChunkState::Deleting { .. } => {
                    let Some(last) = self.in_use.remove(&(cluster, chunk)) else { continue };
                    let since = now.saturating_sub(last);
                    assert!(since >= READABLE, "J5: {chunk} was in use {since:?} ago and is being deleted");
                }
            }
        }
    }

    fn look_at(&mut self, disks: &Disks, group: usize) -> bool {
        let mut found = Vec::new();
        for (index, part) in disks.of_group(group) {
            let seen = current(part).map(|kv| digest(&*kv.snapshot()));
            if let Some(Digest { applied, hash }) = seen {
                let (first, by) = *self.seen.entry((group, applied)).or_insert((hash, index));
                let (one, other) = (by + 1, index + 1);
                assert!(first == hash, "group {group}: m{one} and m{other} differ after {applied} entries");
            }
            found.push(seen);
        }
        found[0].is_some() && found.iter().all(|digest| *digest == found[0])
    }

    /// J1 and J4, after everything has become quiet.
    pub(super) fn agreement(&mut self, disks: &Disks, now: Duration) -> Result<(), String> {
        match self.look(disks, now) {
            true => volumes_agree(disks),
            false => Err("the metaservers' states do not become the same".to_owned()),
        }
    }
}

/// J4.
fn volumes_agree(disks: &Disks) -> Result<(), String> {
    if !disks.layout.has_federation() {
        return Ok(());
    }
    let map =
        dfs_state::federation::map(&*furthest(disks, disks.layout.clusters).snapshot()).ok_or("no map")?;
    let mut named = BTreeMap::new();
    for (volume, entry) in read::volume_entries(&*furthest(disks, 0).snapshot()) {
        if let VolumeEntry::Named { name, .. } = entry {
            named.insert(volume, name);
        }
    }
    let mut mapped: BTreeMap<ClusterId, Vec<VolumeId>> = BTreeMap::new();
    for (id, volume) in &map.volumes {
        if volume.phase != VolumePhase::Active || volume.name.as_ref() != named.get(id) {
            return Err(format!("{id} is {volume:?}, the root directory has {:?}", named.get(id)));
        }
        mapped.entry(volume.cluster).or_default().push(*id);
    }
    if map.volumes.len() != named.len() + 1 {
        return Err(format!("the map has {:?}, the root directory {named:?}", map.volumes));
    }
    for cluster in 0..disks.layout.clusters {
        let kv = furthest(disks, cluster);
        let view = kv.snapshot();
        let id = read::cluster(&*view).ok_or("a cluster was not made")?.cluster;
        let there = read::volumes(&*view).into_iter().filter(|(_, state)| *state != VolumeState::Dropped);
        let (there, wanted) = (there.collect::<Vec<_>>(), mapped.remove(&id).unwrap_or_default());
        let active: Vec<_> = wanted.into_iter().map(|id| (id, VolumeState::Active)).collect();
        if there != active {
            return Err(format!("cluster {} has {there:?}, the map says {active:?}", cluster + 1));
        }
    }
    Ok(())
}

fn current(part: &GroupDisks) -> Option<Arc<dyn Kv>> {
    let name = part.state.current().ok().flatten()?;
    Some(part.state.open(&name).unwrap_or_else(|error| panic!("open a state: {error}")))
}

/// The state of a group's member that has applied most.
fn furthest(disks: &Disks, group: usize) -> Arc<dyn Kv> {
    furthest_made(disks, group).unwrap_or_else(|| panic!("no member of group {group} has a state"))
}

/// The same, `None` before there is one.
fn furthest_made(disks: &Disks, group: usize) -> Option<Arc<dyn Kv>> {
    let states = disks.of_group(group).into_iter().filter_map(|(_, part)| current(part));
    let applied = |kv: &Arc<dyn Kv>| {
        applied_count(&*kv.snapshot()).unwrap_or_else(|error| panic!("read what is applied: {error}"))
    };
    states.max_by_key(applied)
}

/// What the disks held at the end.
pub(super) struct Found {
    pub(super) copies_read: u64,
    pub(super) chunks_deleted: u64,
}

/// J2, J3; every server is gone, and its disk is as the power failure left it.
pub(super) fn verdict(disks: &Disks) -> Found {
    for group in 0..disks.layout.groups() {
        for (index, part) in disks.of_group(group) {
            let Some(kv) = current(part) else { continue };
            let view = kv.snapshot();
            let broken = [dfs_state::check(&*view), dfs_state::federation::check(&*view)].concat();
            assert!(broken.is_empty(), "m{}: {broken:#?}", index + 1);
        }
    }
    let mut found = Found { copies_read: 0, chunks_deleted: 0 };
    for cluster in 0..disks.layout.clusters {
        let kv = furthest(disks, cluster);
        let view = kv.snapshot();
        let chunks = read::chunks(&*view);
        // Ids are given without gaps and not reused: those below the highest that have no record are gone.
        found.chunks_deleted += chunks.last().map_or(0, |(id, _)| id.0 - chunks.len() as u64);
        found.copies_read += copies(disks, &*view);
    }
    found
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
        descriptors: 20_000,
    };
    ChunkStore::open(Arc::new(disk.clone()), Path::new("/data"), options, Metrics::new())
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
