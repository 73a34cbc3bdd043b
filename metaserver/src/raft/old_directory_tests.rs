//! Data directories that released metaservers have left (`tests/formats/README.md`). This release opens them, applies the entries
//! of the Raft log that are not in the state yet, and finds everything.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use dfs_net::env::Rng;
use dfs_proto::attr::{Caller, FileKind};
use dfs_proto::ids::{InodeId, MemberId, RequestId, RequestLane, SessionId, VolumeId};
use dfs_proto::meta::{Read, ReadReply, ReadRequest};
use dfs_proto::units::Offset;
use openraft::storage::RaftLogStorage as _;
use openraft::{EntryPayload, RaftLogReader as _};

use super::log::disk::FileDisk;
use super::log::store::LogOptions;
use super::machine::replicated;
use super::member::examine::{Examined, Opened};
use super::member::group::GroupKind;
use super::{ConsensusOptions, Purpose};
use crate::rocks::{RocksHome, RocksOptions};
use dfs_state::kv::{KvHome, Snapshot, Txn};
use dfs_state::{federation, read};

const ROOT: InodeId = InodeId::ROOT;

fn copy_directory(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for file in fs::read_dir(from).unwrap().map(Result::unwrap) {
        let to = to.join(file.file_name());
        if file.file_type().unwrap().is_dir() {
            copy_directory(&file.path(), &to);
        } else {
            fs::copy(file.path(), to).unwrap();
        }
    }
}

fn kept(name: &str) -> tempfile::TempDir {
    let copy = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap();
    let kept = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/formats").join(name);
    copy_directory(&kept, copy.path());
    copy
}

async fn open(path: &Path, purpose: Purpose) -> Opened {
    let bootstrap = BTreeMap::from([(MemberId(1), "127.0.0.1:17900".to_owned())]);
    let mut options = ConsensusOptions::new(MemberId(1), "127.0.0.1:17900".to_owned(), bootstrap);
    options.purpose = purpose;
    options.log = LogOptions { segment_len: 16 << 10, kept_len_max: usize::MAX };
    let disk = Arc::new(FileDisk::open(path).unwrap());
    let home: Arc<dyn KvHome> = Arc::new(RocksHome::new(&path.join("state"), RocksOptions::default()));
    let examined = Examined::of(&options, &*disk, &*home, None).await.unwrap();
    examined.open(&options, disk, home, &Rng::seeded(1)).await.unwrap()
}

/// Applies the entries of the log that are not in the state yet, as a start does. All of them are committed, because the group had
/// only this member. Returns how many commands they had.
async fn catch_up(opened: &mut Opened, kind: GroupKind) -> usize {
    let (next, kv) = (opened.applied.next_index(), opened.store.kv());
    let entries = opened.log_store.get_log_reader().await.try_get_log_entries(next..).await.unwrap();
    let mut count = 0;
    for entry in entries {
        let EntryPayload::Normal(proposal) = entry.payload else { continue };
        let batch = {
            let base = kv.snapshot();
            let mut txn = Txn::new(&*base);
            count += replicated::apply(kind, &proposal, &mut txn).unwrap().0.len();
            txn.into_batch()
        };
        kv.write(batch).unwrap();
    }
    count
}

struct Shown<'v> {
    view: &'v dyn Snapshot,
    session: SessionId,
}

impl Shown<'_> {
    fn find(&self, path: &str) -> InodeId {
        path.split('/').fold(ROOT, |parent, name| {
            let found = read::lookup(self.view, &Caller::ROOT, parent, name.as_bytes());
            found.unwrap_or_else(|error| panic!("{path}: {error}")).inode
        })
    }

    fn names(&self, path: &str) -> Vec<String> {
        let inode = if path.is_empty() { ROOT } else { self.find(path) };
        let read = Read::ReadDir { inode, cookie: 0, limit: 1000, plus: false };
        let cluster = read::cluster(self.view).unwrap().cluster;
        let request =
            ReadRequest { cluster, session: self.session, caller: Caller::ROOT, leases: None, read };
        let Ok(ReadReply::Entries { entries, .. }) = read::answer(self.view, &request) else {
            panic!("{path} is not listed");
        };
        let mut names: Vec<String> = entries.iter().map(|entry| entry.name.to_string()).collect();
        names.sort();
        names
    }

    /// Kind, permissions, links, owner, group, size.
    fn attributes(&self, path: &str) -> (FileKind, u32, u32, u32, u32, u64) {
        let attr = read::getattr(self.view, self.find(path)).unwrap();
        (attr.kind, attr.mode, attr.nlink, attr.uid, attr.gid, attr.size.0)
    }

    /// Offsets and lengths.
    fn extents(&self, path: &str) -> Vec<(u64, u64)> {
        let found = read::extents(self.view, self.find(path), Offset(0), u64::MAX, u32::MAX).unwrap();
        found.extents.iter().map(|e| (e.offset.0, e.len)).collect()
    }
}

#[tokio::test]
async fn the_directory_that_a_killed_metaserver_of_the_first_formats_left_is_read_as_it_was() {
    let directory = kept("directory.1");
    let mut opened = open(directory.path(), Purpose::Cluster(Default::default())).await;
    assert!(opened.applied.next_index() > 50, "the state has a part of it");
    let commands = catch_up(&mut opened, GroupKind::Cluster).await;
    assert!(commands > 5, "the log has the rest: {commands} commands");
    let kv = opened.store.kv();
    let view = kv.snapshot();
    assert_eq!(dfs_state::check(&*view), Vec::<String>::new());
    let session = read::sessions(&*view)[0].0;
    let shown = Shown { view: &*view, session };
    names_are_there(&shown);
    bytes_are_there(&shown);
    let requests = (0..24).flat_map(|lane| (1..2000).map(move |n| RequestId::new(RequestLane(lane), n)));
    let results = requests.filter(|request| read::known_result(&*view, session, *request).is_some()).count();
    assert!(results > 0, "what the last requests were answered is remembered");
}

fn names_are_there(shown: &Shown<'_>) {
    use FileKind::{CharDevice, Directory, Fifo, File, Symlink};
    assert_eq!(shown.names(""), ["second", "v1"]);
    let names = ["dir", "fifo", "file", "null", "over", "short", "sparse", "symlink"];
    assert_eq!(shown.names("v1"), names);
    assert_eq!(shown.names("v1/dir"), ["deeper", "hard", "renamed"]);
    assert_eq!(shown.names("v1/dir/deeper").len(), 39);
    assert_eq!(shown.attributes("v1/file"), (File, 0o640, 2, 1000, 1001, 6000));
    assert_eq!(shown.find("v1/file"), shown.find("v1/dir/hard"));
    assert_eq!(shown.attributes("v1/dir"), (Directory, 0o750, 3, 0, 0, 3));
    assert_eq!(shown.attributes("v1/symlink"), (Symlink, 0o777, 1, 0, 0, 8));
    assert_eq!(read::readlink(shown.view, shown.find("v1/symlink")).unwrap(), b"dir/hard");
    assert_eq!(shown.attributes("v1/fifo"), (Fifo, 0o600, 1, 0, 0, 0));
    assert_eq!(shown.attributes("v1/null").0, CharDevice);
    assert_eq!(shown.attributes("v1/over"), (File, 0o644, 1, 0, 0, 100));
    assert_eq!(shown.attributes("v1/short"), (File, 0o644, 1, 0, 0, 12345));
    assert_eq!(shown.attributes("v1/sparse"), (File, 0o644, 1, 0, 0, 3 * 4096));
    assert_eq!(shown.attributes("second/two"), (File, 0o644, 1, 0, 0, 4096));
}

/// `check` has verified already that the extents name committed bytes.
fn bytes_are_there(shown: &Shown<'_>) {
    for (path, len) in [("v1/file", 6000), ("v1/over", 100), ("v1/short", 12345), ("second/two", 4096)] {
        let pieces = shown.extents(path);
        assert!(pieces.windows(2).all(|two| two[0].0 + two[0].1 == two[1].0), "{path}: {pieces:?}");
        assert_eq!((pieces[0].0, pieces.iter().map(|piece| piece.1).sum::<u64>()), (0, len), "{path}");
    }
    let starts: Vec<u64> = shown.extents("v1/sparse").iter().map(|piece| piece.0).collect();
    assert_eq!(starts, [0, 8192], "the others were cut off");
}

#[tokio::test]
async fn the_federation_groups_part_of_that_directory_is_read_too() {
    let directory = kept("directory.1");
    let mut opened = open(&directory.path().join("federation"), Purpose::Federation).await;
    catch_up(&mut opened, GroupKind::Federation).await;
    let kv = opened.store.kv();
    let view = kv.snapshot();
    assert_eq!(federation::check(&*view), Vec::<String>::new());
    let map = federation::map(&*view).unwrap();
    assert_eq!(map.clusters[0].1.name, "old");
    assert_eq!(map.last_volume, VolumeId(3));
    let names = map.volumes.iter().map(|(id, volume)| (id.0, volume.name.as_ref().map(ToString::to_string)));
    let wanted = [(0, None), (1, Some("v1".to_owned())), (2, Some("second".to_owned()))];
    assert_eq!(names.collect::<Vec<_>>(), wanted);
}
