//! Verifies the invariants of `state` by reading everything and counting again. For tests, and for a server that is
//! asked to look at itself; it is not quick.

use std::collections::{BTreeMap, BTreeSet};

use dfs_proto::attr::FileKind;
use dfs_proto::ids::{ChunkId, InodeId, RequestId, SessionId, VolumeId};

use super::keys::{self, May};
use super::record::chunk::Chunks;
use super::record::decode;
use super::record::inode::Inodes;
use super::record::orphan::Released;
use crate::command::Silence;
use crate::kv::{Pair, Snapshot, scan_prefix};
use crate::table::{chunk, cluster, dirent, extent, orphan, server, session, space, volume};
use crate::value::chunk::{ChunkRecord, ChunkState};
use crate::value::cluster::Totals;
use crate::value::dirent::Dirent;
use crate::value::extent::{Cut, Laid};
use crate::value::inode::InodeRecord;
use crate::value::volume::{VolumeEntry, VolumeState};

/// Every invariant that does not hold, as a sentence; empty: all is well.
pub fn check(view: &dyn Snapshot) -> Vec<String> {
    if cluster::get(view).is_none() {
        return Vec::new();
    }
    let mut check = Check::read(view);
    check.names();
    check.tree();
    check.orphans();
    check.extents();
    check.spaces();
    check.chunks();
    check.sessions();
    check.servers();
    check.counters();
    check.volumes();
    check.faults
}

struct Check<'v> {
    view: &'v dyn Snapshot,
    inodes: BTreeMap<InodeId, InodeRecord>,
    entries: Vec<(InodeId, Dirent)>,
    chunks: BTreeMap<ChunkId, ChunkRecord>,
    released: BTreeSet<InodeId>,
    /// Entries that lead to other volumes.
    volume_names: usize,
    faults: Vec<String>,
}

impl<'v> Check<'v> {
    fn read(view: &'v dyn Snapshot) -> Check<'v> {
        let inode = |(key, value): Pair| (InodeId(keys::number(&key, 0)), decode::<Inodes>(&value));
        let chunk = |(key, value): Pair| (ChunkId(keys::number(&key, 0)), decode::<Chunks>(&value));
        Check {
            view,
            inodes: scan_prefix(view, &keys::table(keys::INODE)).map(inode).collect(),
            entries: scan_prefix(view, &keys::table(keys::DIRENT))
                .map(|(key, value)| dirent::parse(&key, &value))
                .collect(),
            chunks: scan_prefix(view, &keys::table(keys::CHUNK)).map(chunk).collect(),
            released: scan_prefix(view, &keys::table(keys::RELEASED))
                .map(|(_, value)| decode::<Released>(&value))
                .collect(),
            volume_names: 0,
            faults: Vec::new(),
        }
    }

    fn expect(&mut self, holds: bool, fault: impl FnOnce() -> String) {
        if !holds {
            self.faults.push(fault());
        }
    }

    fn expect_equal<T: PartialEq + std::fmt::Debug>(&mut self, what: &str, recorded: T, counted: T) {
        self.expect(recorded == counted, || format!("{what}: recorded {recorded:?}, counted {counted:?}"));
    }

    /// The numbers behind a prefix, of every key of a table.
    fn index(&self, prefix: u8) -> Vec<(u64, Vec<u8>)> {
        let keys = scan_prefix(self.view, &keys::table(prefix));
        keys.map(|(key, _)| (keys::number(&key, 0), key)).collect()
    }

    /// S1, S3: each entry leads somewhere, is found again, and is counted on both sides.
    fn names(&mut self) {
        let mut names: BTreeMap<InodeId, u32> = BTreeMap::new();
        let mut children: BTreeMap<InodeId, (u64, u32)> = BTreeMap::new();
        let mut displaced: BTreeMap<u64, u64> = BTreeMap::new();
        for (directory, entry) in std::mem::take(&mut self.entries) {
            let Dirent { name, record, .. } = &entry;
            if dirent::is_displaced(self.view, &entry) {
                *displaced.entry(directory.0).or_default() += 1;
            }
            let found = dirent::find(self.view, directory, name);
            self.expect(found.as_ref() == Some(&entry), || {
                format!("S3: {name:?} of {directory} is not found")
            });
            let is_directory = record.kind == FileKind::Directory;
            *names.entry(record.inode).or_default() += 1;
            let child = children.entry(directory).or_default();
            *child = (child.0 + 1, child.1 + u32::from(is_directory));
            if record.inode.volume() != directory.volume() {
                self.volume_names += 1;
                self.volume_entry(directory, &entry);
                continue;
            }
            let target = self.inodes.get(&record.inode).map(|inode| (inode.kind, inode.parent));
            self.expect(target.is_some_and(|t| t.0 == record.kind), || {
                format!("S1: {name:?} of {directory} leads to {}, which is {target:?}", record.inode)
            });
            self.expect(!is_directory || target.is_some_and(|t| t.1 == directory), || {
                format!("S1: {} stands in {directory}, its parent is {target:?}", record.inode)
            });
        }
        let counts = self.index(keys::DISPLACED);
        let recorded =
            counts.iter().map(|(id, _)| (*id, dirent::displaced(self.view, InodeId(*id)))).collect();
        self.expect_equal("S3: displaced names", recorded, displaced);
        for (id, inode) in &self.inodes {
            let (size, directories) = children.remove(id).unwrap_or_default();
            let count = names.remove(id).unwrap_or_default();
            let (named, nlink) = match (inode.is_directory(), inode.nlink) {
                // Its name is in volume 0, perhaps of another cluster.
                (true, nlink) if volume::is_root(*id) => {
                    (count, if nlink == 0 { 0 } else { 2 + directories })
                }
                (true, 0) => (0, 0),
                (true, _) => (1, 2 + directories),
                (false, nlink) => (nlink, count),
            };
            if (count, inode.nlink) != (named, nlink) {
                self.faults
                    .push(format!("S1: {id} has {count} names and nlink {}, not {nlink}", inode.nlink));
            }
            if inode.is_directory() && inode.size.0 != size {
                self.faults.push(format!("S1: {id} has {size} entries and says {}", inode.size));
            }
        }
        let strays: Vec<InodeId> = children.into_keys().collect();
        self.expect(strays.is_empty(), || format!("S1: entries in what is no directory: {strays:?}"));
    }

    /// S10.
    fn volume_entry(&mut self, directory: InodeId, entry: &Dirent) {
        let Dirent { name, record, .. } = entry;
        let is_sound = directory == InodeId::ROOT
            && record.kind == FileKind::Directory
            && volume::is_root(record.inode)
            && matches!(
                volume::entry(self.view, record.inode.volume()),
                Some(VolumeEntry::Named { name: recorded, .. }) if recorded == *name
            );
        self.expect(is_sound, || format!("S10: {name:?} of {directory} leads to {}", record.inode));
    }

    /// S2: following parents ends at the root of a volume.
    fn tree(&mut self) {
        let mut reached: BTreeSet<InodeId> =
            self.inodes.keys().copied().filter(|id| volume::is_root(*id)).collect();
        for (id, inode) in &self.inodes {
            if !inode.is_directory() || inode.nlink == 0 {
                continue;
            }
            let mut path = vec![*id];
            while let Some(last) = path.last().copied()
                && !reached.contains(&last)
            {
                match self.inodes.get(&last).map(|inode| inode.parent) {
                    Some(parent) if !path.contains(&parent) => path.push(parent),
                    Some(_) | None => {
                        self.faults.push(format!("S2: {id} does not hang on the root: {path:?}"));
                        break;
                    }
                }
            }
            reached.extend(path);
        }
    }

    /// S4.
    fn orphans(&mut self) {
        let mut counted: BTreeMap<InodeId, u32> = BTreeMap::new();
        for (holder, key) in self.index(keys::ORPHAN_BY_SESSION) {
            let (holder, id) = (SessionId(holder), InodeId(keys::number(&key, 1)));
            *counted.entry(id).or_default() += 1;
            self.expect(self.is_known(holder), || format!("S4: {holder} holds {id} and is gone"));
        }
        let orphans: Vec<InodeId> =
            self.index(keys::ORPHAN).into_iter().map(|(number, _)| InodeId(number)).collect();
        let holders = |id: &InodeId| orphan::holders(self.view, *id).unwrap_or_default();
        let recorded = orphans.iter().map(|id| (*id, holders(id))).collect();
        self.expect_equal("S4: holders of orphans", recorded, counted);
        for id in &orphans {
            let nlink = self.inodes.get(id).map(|inode| inode.nlink);
            self.expect(nlink == Some(0), || format!("S4: orphan {id} has nlink {nlink:?}"));
        }
        let is_nameless = |(id, inode): &(&InodeId, &InodeRecord)| inode.nlink == 0 && !volume::is_root(**id);
        let nameless = self.inodes.iter().filter(is_nameless).count();
        self.expect_equal("S4: inodes without a name", nameless, orphans.len());
        for id in self.released.clone() {
            let is_there = self.inodes.contains_key(&id);
            self.expect(!is_there, || format!("S4: {id} is released and has a record"));
        }
    }

    fn is_known(&self, session: SessionId) -> bool {
        session::get(self.view, session).is_some() || self.view.get(&keys::ended(session)).is_some()
    }

    /// S5: the extents of each inode, and what they add up to.
    fn extents(&mut self) {
        let mut files: BTreeMap<InodeId, Vec<Laid>> = BTreeMap::new();
        for (key, value) in scan_prefix(self.view, &keys::table(keys::EXTENT)) {
            let (id, laid) = extent::parse(&key, &value);
            files.entry(id).or_default().push(laid);
        }
        let mut live: BTreeMap<ChunkId, u64> = BTreeMap::new();
        for laid in files.values().flatten() {
            *live.entry(laid.extent.chunk).or_default() += laid.extent.len;
            let end = laid.extent.chunk_offset.0 + laid.extent.len;
            let chunk = self.chunks.get(&laid.extent.chunk);
            let is_sound = chunk.is_some_and(|chunk| match chunk.state {
                ChunkState::Open { .. } | ChunkState::Sealed => end <= chunk.committed.0,
                ChunkState::Dead { .. } | ChunkState::Deleting { .. } => false,
            });
            self.expect(is_sound, || format!("S5: {laid:?} names bytes that are not committed"));
        }
        for (id, laid) in files.iter().flat_map(|(id, all)| all.iter().map(move |laid| (id, laid))) {
            let volume = self.chunks.get(&laid.extent.chunk).and_then(|chunk| chunk.volume);
            self.expect(volume.is_none_or(|volume| volume == id.volume()), || {
                format!("S5: {laid:?} of {id} is in a chunk of {volume:?}")
            });
        }
        for (id, chunk) in &self.chunks {
            let counted = live.remove(id).unwrap_or_default();
            if chunk.live.0 != counted {
                self.faults.push(format!("S5: {id} has {counted} live bytes and says {}", chunk.live));
            }
        }
        for (id, laid) in &files {
            self.file(*id, laid);
        }
        for (id, inode) in &self.inodes {
            let allocated = space::of(self.view, *id, inode).allocated;
            if allocated.0 > 0 && !files.contains_key(id) {
                self.faults.push(format!("S5: {id} has no extent and {allocated} bytes allocated"));
            }
            let (counted, cuts) =
                (space::of(self.view, *id, inode).cuts, extent::cuts(self.view, *id, 1).len());
            if counted as usize != cuts {
                self.faults.push(format!("S5: {id} has {cuts} cuts and counts {counted}"));
            }
        }
    }

    /// S5: every space record is of a file.
    fn spaces(&mut self) {
        for (number, _) in self.index(keys::SPACE) {
            let kind = self.inodes.get(&InodeId(number)).map(|inode| inode.kind);
            self.expect(kind == Some(FileKind::File), || {
                format!("S5: {} has a space record and is {kind:?}", InodeId(number))
            });
        }
    }

    fn file(&mut self, id: InodeId, all: &[Laid]) {
        let is_disjoint = all.windows(2).all(|pair| pair[0].extent.end() <= pair[1].extent.offset.0);
        self.expect(is_disjoint, || format!("S5: extents of {id} overlap"));
        let Some(inode) = self.inodes.get(&id).cloned() else {
            let is_released = self.released.contains(&id);
            return self.expect(is_released, || format!("S5: {id} has extents and no record"));
        };
        let space = space::of(self.view, id, &inode);
        let cuts = extent::cuts(self.view, id, 1);
        let total: u64 = all.iter().map(|laid| laid.extent.len).sum();
        self.expect_equal(&format!("S5: bytes allocated to {id}"), space.allocated.0, total);
        let visible = || all.iter().filter(|laid| !laid.is_hidden_by(&cuts));
        let end = visible().map(|laid| laid.extent.end()).max().unwrap_or(0);
        self.expect(end <= inode.size.0, || {
            format!("S5: {id} ends at {} and has bytes up to {end}", inode.size)
        });
        let straddles = |laid: &Laid| {
            let is_cut = |cut: &Cut| {
                laid.seq < cut.seq && laid.extent.offset.0 < cut.from && cut.from < laid.extent.end()
            };
            cuts.iter().any(is_cut)
        };
        let straddling = visible().find(|laid| straddles(laid)).copied();
        self.expect(straddling.is_none(), || format!("S5: {straddling:?} of {id} reaches over a cut"));
    }

    /// S6.
    fn chunks(&mut self) {
        let mut wanted = BTreeSet::new();
        for (id, chunk) in &self.chunks {
            wanted.extend(chunk::index_of(*id, chunk));
        }
        let prefixes = [
            keys::CHUNK_BY_SESSION,
            keys::OPEN_BY_SERVER,
            keys::CHUNK_BY_SERVER,
            keys::DEAD,
            keys::DELETING_BY_SERVER,
            keys::ATTENTION,
        ];
        let found: BTreeSet<Vec<u8>> =
            prefixes.into_iter().flat_map(|prefix| self.index(prefix)).map(|(_, key)| key).collect();
        for key in wanted.symmetric_difference(&found) {
            let which = if found.contains(key) { "is left over" } else { "is missing" };
            self.faults.push(format!("S6: chunk index entry {} {which}", key.escape_ascii()));
        }
        for (id, chunk) in self.chunks.clone() {
            if let ChunkState::Open { session } = chunk.state {
                self.expect(self.is_known(session), || format!("S7: {session} writes {id} and is gone"));
            }
        }
    }

    /// S7.
    fn sessions(&mut self) {
        for (id, record) in session::all(self.view) {
            let by_nonce = session::by_nonce(self.view, record.nonce);
            self.expect(by_nonce == Some(id), || format!("S7: {id} is not found by its nonce"));
        }
        let nonces = self.view_len(keys::SESSION_BY_NONCE);
        self.expect_equal("S7: nonces", nonces, session::all(self.view).count());
        for (number, key) in self.index(keys::RESULT) {
            let id = SessionId(number);
            let request = RequestId(keys::number(&key, 1));
            match session::get(self.view, id).map(|record| record.window(request.lane())) {
                Some(window) => {
                    self.expect((window.oldest..=window.highest).contains(&request.number()), || {
                        format!("S7: a result of {id} for {request} is outside its window")
                    });
                }
                None => self.expect(self.is_known(id), || format!("S7: a result of {id}, which is gone")),
            }
        }
        for (number, _) in self.index(keys::COMMIT) {
            let id = SessionId(number);
            self.expect(self.is_known(id), || format!("S7: a commit number of {id}, which is gone"));
        }
        for Silence { session, silent_ms } in session::noted_silences(self.view).collect::<Vec<_>>() {
            self.expect(session::is_alive(self.view, session) && silent_ms > 0, || {
                format!("S7: a silence of {silent_ms} ms of {session}, which has ended or is heard")
            });
        }
        May::ALL.into_iter().for_each(|may| self.what_sessions_may(may));
    }

    fn what_sessions_may(&mut self, may: May) {
        let of_sessions = self.index(may.by_session());
        let pairs: BTreeSet<(u64, u64)> =
            of_sessions.iter().map(|(session, key)| (*session, keys::number(key, 1))).collect();
        let of_volumes = self.index(may.by_volume());
        let by_volume = of_volumes.iter().map(|(volume, key)| (keys::number(key, 1), *volume)).collect();
        for (session, _) in &pairs {
            let id = SessionId(*session);
            self.expect(self.is_known(id), || format!("S7: {id} may hold something and is gone"));
        }
        self.expect_equal("S7: what sessions may hold, by volume", by_volume, pairs);
    }

    fn view_len(&self, prefix: u8) -> usize {
        scan_prefix(self.view, &keys::table(prefix)).count()
    }

    fn servers(&mut self) {
        for (id, record) in server::all(self.view) {
            let found = server::by_directory(self.view, record.directory);
            self.expect(found == Some(id), || format!("{id} is not found by its directory"));
        }
        for (id, chunk) in self.chunks.clone() {
            let stranger = chunk.replicas.iter().find(|&&s| server::get(self.view, s).is_none());
            self.expect(stranger.is_none(), || {
                format!("{id} has a replica on {stranger:?}, which is not known")
            });
        }
    }

    /// S10, and the roots of the volumes that are here.
    fn volumes(&mut self) {
        let named = volume::entries(self.view);
        let entries: Vec<VolumeId> = named
            .filter_map(|(id, entry)| matches!(entry, VolumeEntry::Named { .. }).then_some(id))
            .collect();
        self.expect_equal("S10: volumes with a name", entries.len(), self.volume_names);
        for (id, record) in volume::all(self.view) {
            let nlink = volume::root_of(id).and_then(|root| self.inodes.get(&root)).map(|root| root.nlink);
            let is_sound = match record.state {
                VolumeState::Active => nlink.is_some_and(|nlink| nlink >= 2),
                VolumeState::Removing { .. } => nlink == Some(0),
                VolumeState::Dropped => nlink.is_none(),
            };
            self.expect(is_sound, || {
                format!("S10: {id} is {:?}, its root has nlink {nlink:?}", record.state)
            });
        }
    }

    /// S8, S9.
    fn counters(&mut self) {
        let counters = cluster::counters(self.view);
        let waiting = counters.released - counters.reaped;
        self.expect_equal("S8: released inodes", waiting, self.released.len() as u64);
        let last = |prefix| self.index(prefix).last().map_or(0, |(number, _)| *number);
        let lasts = [
            ("chunk", counters.chunk.0, last(keys::CHUNK)),
            ("session", counters.session.0, last(keys::SESSION).max(last(keys::ENDED))),
            ("server", counters.server.0, last(keys::SERVER)),
        ];
        for (what, counter, highest) in lasts {
            self.expect(highest <= counter, || {
                format!("S8: {what} {highest} is above the counter, {counter}")
            });
        }
        for id in self.inodes.keys().copied().collect::<Vec<_>>() {
            let number = volume::get(self.view, id.volume()).map(|volume| volume.number);
            self.expect(number >= Some(id.number()), || format!("S8: {id} is above the counter, {number:?}"));
        }
        let mut totals = Totals {
            inodes: self.inodes.len() as u64,
            sessions: session::all(self.view).count() as u64,
            ..Totals::default()
        };
        for chunk in self.chunks.values() {
            totals = totals.plus(chunk.totals());
        }
        self.expect_equal("S9: totals", counters.totals, totals);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kv::{Kv as _, Txn};
    use crate::table::chunk;
    use crate::tests::Harness;

    #[test]
    fn bytes_of_a_file_in_a_chunk_of_another_volume_are_a_fault() {
        let mut harness = Harness::new();
        harness.servers(2);
        let (file, id) = (harness.file(InodeId::ROOT, "f"), harness.open_chunk());
        harness.write(file, 0, 10, id).expect("commits");
        let faults_with = |volume| {
            let batch = harness.view(|view| {
                let mut txn = Txn::new(view);
                chunk::update(&mut txn, id, |record| record.volume = volume);
                txn.into_batch()
            });
            harness.kv.write(batch).expect("memory");
            harness.view(check)
        };
        assert_eq!(faults_with(None), Vec::<String>::new(), "a mixed chunk is of all volumes");
        let faults = faults_with(Some(VolumeId(5)));
        assert!(faults.len() == 1 && faults[0].starts_with("S5"), "{faults:?}");
        assert_eq!(faults_with(Some(file.volume())), Vec::<String>::new());
    }
}
