//! Data directories whose files do not agree are refused with a line that names the file, and nothing in them is changed. Data
//! directories that a crash has left, at whatever step, are not refused.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex};

use dfs_net::env::{BoxFuture, Rng};
use dfs_proto::attr::Timestamp;
use dfs_proto::ids::{ClusterId, DirectoryId, MemberId};
use dfs_proto::units::ByteLen;
use openraft::entry::RaftEntry as _;
use openraft::storage::{RaftLogStorage as _, RaftLogStorageExt as _};
use openraft::testing::log_id;
use openraft::{EntryPayload, RaftLogReader as _};

use super::log::disk::{FileDisk, FileId, LogDisk, WholeFile};
use super::log::store::LogOptions;
use super::machine::snapshot::copy;
use super::machine::store::{APPLIED_KEY, encode_applied};
use super::member::examine::{Examined, Opened};
use super::types::{Applied, LogEntry, MemberNode, Membership, MembershipConfig, TypeConfig, Vote};
use super::{ConsensusOptions, StartError};
use crate::Storage as ServerStorage;
use crate::config::{BootstrapMember, Config, Settings};
use crate::rocks::{RocksHome, RocksOptions};
use dfs_state::command::{Command, InitCluster, Proposed, RootAttr};
use dfs_state::kv::{Kv, KvError, KvHome, Txn};

const CLUSTER: ClusterId = ClusterId(0xc1);

fn temporary() -> tempfile::TempDir {
    tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap()
}

fn options(member: u64) -> ConsensusOptions {
    let bootstrap = (1..=3).map(|id| (MemberId(id), format!("127.0.0.1:{id}"))).collect();
    let mut options = ConsensusOptions::new(MemberId(member), "127.0.0.1:1".to_owned(), bootstrap);
    options.log = LogOptions { segment_len: 4096, kept_len_max: usize::MAX };
    options
}

type Storage = (Arc<dyn LogDisk>, Arc<dyn KvHome>);

fn storage(path: &Path) -> Storage {
    let small = RocksOptions {
        block_cache: ByteLen(1 << 20),
        write_buffers: ByteLen(1 << 20),
        ..RocksOptions::default()
    };
    (Arc::new(FileDisk::open(path).unwrap()), Arc::new(RocksHome::new(&path.join("state"), small)))
}

async fn open((disk, home): Storage, member: u64, seed: u64) -> Result<Opened, StartError> {
    let options = options(member);
    let examined = Examined::of(&options, &*disk, &*home, None).await?;
    examined.open(&options, disk, home, &Rng::seeded(seed)).await
}

/// What a member has told the other members, and so must not lose.
#[derive(Clone, Debug, Default, PartialEq)]
struct Promised {
    vote: Option<Vote>,
    /// The entries below this index were acknowledged.
    next: u64,
    /// The entries below this index were purged.
    purged: u64,
}

impl Promised {
    async fn check(&self, opened: &mut Opened, what: &str) {
        let mut reader = opened.log_store.get_log_reader().await;
        assert!(reader.read_vote().await.unwrap() >= self.vote, "{what}: a vote is forgotten");
        let log = opened.log_store.get_log_state().await.unwrap();
        let next = log.last_log_id.map_or(0, |last| last.index + 1);
        assert!(next >= self.next, "{what}: {} entries were reported, {next} are there", self.next);
        let first = log.last_purged_log_id.map_or(0, |purged| purged.index + 1);
        assert!(first <= opened.applied.next_index(), "{what}: between state and log is a hole");
        assert_eq!(reader.try_get_log_entries(..).await.unwrap().len() as u64, next - first, "{what}");
    }
}

async fn end(opened: Opened) {
    let Opened { log_store, log, .. } = opened;
    drop(log_store);
    log.closed().await;
}

/// A member's life: it votes, appends entries, flushes its state, cuts its log, and installs a snapshot.
async fn live(
    opened: &mut Opened,
    promised: &mut Promised,
    (cluster, entries): (ClusterId, u64),
    term: u64,
) -> io::Result<()> {
    let own = opened.stamp.get().await;
    let vote = Vote::new(term, 1);
    opened.log_store.save_vote(&vote).await?;
    promised.vote = Some(vote);
    let mut membership = opened.applied.membership.clone();
    for _ in 0..entries {
        let id = log_id::<TypeConfig>(term, 0, promised.next);
        let mut entry = LogEntry::new_blank(id);
        if promised.next == 0 {
            let node =
                |member: u64| (member, MemberNode::new(String::new(), DirectoryId(100 + u128::from(member))));
            let mut nodes: BTreeMap<u64, MemberNode> = (1..=3).map(node).collect();
            nodes.insert(own.member.0, MemberNode::new(String::new(), own.directory));
            let config = MembershipConfig::new(vec![nodes.keys().copied().collect()], nodes).unwrap();
            membership = Membership::new(Some(id), config.clone());
            entry.payload = EntryPayload::Membership(config);
        }
        opened.log_store.blocking_append([entry]).await?;
        promised.next += 1;
    }
    let last = log_id::<TypeConfig>(term, 0, promised.next - entries / 5 - 1);
    let applied = Applied { last: Some(last), membership };
    let kv = opened.store.kv();
    let batch = {
        let base = kv.snapshot();
        let mut txn = Txn::new(&*base);
        let root = RootAttr { mode: 0o755, uid: 0, gid: 0 };
        let init = InitCluster { cluster, name: "c".into(), copies: 2, copies_min: 1, hash_key: 1, root };
        dfs_state::apply(&Command::InitCluster(init), Proposed::ByOneClock(Timestamp::default()), &mut txn);
        txn.put(APPLIED_KEY, encode_applied(&applied)?);
        txn.into_batch()
    };
    opened.store.write(batch)?;
    opened.applied = applied;
    opened.stamp.change(|stamp| stamp.cluster = cluster).await?;
    drop(kv);
    opened.store.make_checkpoint().await?;
    let purged = last.index - entries * 2 / 3;
    opened.log_store.purge(log_id::<TypeConfig>(term, 0, purged)).await?;
    promised.purged = purged + 1;
    opened.log_store.save_vote(&vote).await?; // behind the purge
    let received = copy(&opened.store, &*opened.store.kv()).await?;
    opened.applied = opened.store.install(received)?;
    Ok(())
}

/// A member's directory after two lives, and a copy that was made between them.
struct Used {
    now: PathBuf,
    then: PathBuf,
    promised: Promised,
}

async fn used(root: &Path, member: u64, cluster: ClusterId, seed: u64) -> Used {
    let (now, then) = (root.join(format!("{seed}-now")), root.join(format!("{seed}-then")));
    let mut promised = Promised::default();
    for term in 1..=2 {
        let mut opened = open(storage(&now), member, seed).await.unwrap();
        live(&mut opened, &mut promised, (cluster, 150), term).await.unwrap();
        end(opened).await;
        if term == 1 {
            copy_all(&now, &then);
        }
    }
    Used { now, then, promised }
}

fn copy_all(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let (path, target) = (entry.as_ref().unwrap().path(), to.join(entry.unwrap().file_name()));
        match path.is_dir() {
            true => copy_all(&path, &target),
            false => drop(fs::copy(&path, &target).unwrap()),
        }
    }
}

/// Every file and directory below `root`, with the file's content.
fn contents(root: &Path) -> BTreeMap<PathBuf, Option<Vec<u8>>> {
    fn add(root: &Path, below: &Path, found: &mut BTreeMap<PathBuf, Option<Vec<u8>>>) {
        for entry in fs::read_dir(root.join(below)).unwrap() {
            let path = below.join(entry.unwrap().file_name());
            if root.join(&path).is_dir() {
                found.insert(path.clone(), None);
                add(root, &path, found);
            } else {
                let bytes = fs::read(root.join(&path)).unwrap();
                found.insert(path, Some(bytes));
            }
        }
    }
    let mut found = BTreeMap::new();
    add(root, Path::new(""), &mut found);
    found
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    Missing,
    Empty,
    Cut,
    /// It is the file of another member of the same cluster.
    OtherMember,
    /// It is the file of the member of another cluster that has the same id.
    OtherCluster,
    Older,
}

const FAULTS: [Fault; 6] =
    [Fault::Missing, Fault::Empty, Fault::Cut, Fault::OtherMember, Fault::OtherCluster, Fault::Older];

/// Makes the fault. Returns false if it cannot be made: the other directory has no such file, or nothing would change.
fn befall(fault: Fault, file: &Path, here: &Path, others: [&Path; 3]) -> bool {
    let path = here.join(file);
    let from = match fault {
        Fault::Missing if path.is_dir() => return fs::remove_dir_all(path).is_ok(),
        Fault::Missing => return fs::remove_file(path).is_ok(),
        _ if path.is_dir() => return false,
        Fault::Empty | Fault::Cut => {
            let len = fs::metadata(&path).unwrap().len();
            let kept = if fault == Fault::Cut { len / 2 } else { 0 };
            return len > 0 && fs::File::options().write(true).open(path).unwrap().set_len(kept).is_ok();
        }
        Fault::OtherMember => others[0].join(file),
        Fault::OtherCluster => others[1].join(file),
        Fault::Older => others[2].join(file),
    };
    from.is_file() && fs::read(&from).unwrap() != fs::read(&path).unwrap() && fs::copy(from, path).is_ok()
}

/// Whether a start looks at this file. It does not look at locks, at RocksDB's own logs, nor at its tables, whose damage is found
/// when they are read.
fn is_looked_at(file: &Path) -> bool {
    let name = file.file_name().unwrap().to_string_lossy();
    let is_table_or_diary = name.ends_with(".sst") || name.starts_with("LOG") || name == "IDENTITY";
    name != "LOCK" && !is_table_or_diary && !name.starts_with("OPTIONS") && !name.ends_with(".log")
}

/// When `state/CURRENT` was missing, a start once deleted the metadata before it looked at the log.
#[tokio::test]
async fn each_file_of_a_directory_that_is_not_what_it_was_is_refused_by_name_with_nothing_changed_or_does_no_harm()
 {
    let root = temporary();
    let own = used(root.path(), 1, CLUSTER, 1).await;
    let other_member = used(root.path(), 2, CLUSTER, 2).await;
    let other_cluster = used(root.path(), 1, ClusterId(0xc2), 3).await;
    let (mut refused, mut wrong) = (BTreeMap::new(), Vec::new());
    for file in contents(&own.now).into_keys().filter(|file| is_looked_at(file)) {
        for fault in FAULTS {
            let here = root.path().join("here");
            copy_all(&own.now, &here);
            let what = format!("{} {fault:?}", file.display());
            if befall(fault, &file, &here, [&other_member.now, &other_cluster.now, &own.then]) {
                let before = contents(&here);
                match open(storage(&here), 1, 9).await {
                    Ok(mut opened) => {
                        own.promised.check(&mut opened, &what).await;
                        end(opened).await;
                        refused.insert(what, "starts".to_owned());
                    }
                    Err(error) => {
                        let error = error.to_string();
                        let name = file.to_string_lossy().into_owned();
                        let is_named = match name.strip_suffix(".raftlog") {
                            Some(_) => error.contains(".raftlog"),
                            None if name.starts_with("state/state-") => error.contains("state/state-"),
                            None if name == "state" => error.contains("state/CURRENT"),
                            None => error.contains(&name),
                        };
                        let is_said = error.contains("nothing in the directory was changed")
                            || error.contains("give it the directory of its own");
                        if !is_named || !is_said || error.contains('\n') {
                            wrong.push(format!("{what}: {error}"));
                        }
                        if contents(&here) != before {
                            wrong.push(format!("{what}: refused, and something was changed"));
                        }
                        refused.insert(what, error);
                    }
                }
            }
            fs::remove_dir_all(&here).unwrap();
        }
    }
    for (what, outcome) in &refused {
        println!("{what}: {outcome}");
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    let is_refused = |what: &str| refused.get(what).is_some_and(|outcome| outcome != "starts");
    for what in ["MEMBER", "state/CURRENT"] {
        for fault in ["Missing", "Empty", "Cut"] {
            assert!(is_refused(&format!("{what} {fault}")), "{what} {fault}");
        }
    }
    for what in ["MEMBER OtherMember", "MEMBER OtherCluster", "state Missing"] {
        assert!(is_refused(what), "{what}");
    }
    let logs =
        |fault: &str| refused.iter().filter(|(what, _)| what.ends_with(&format!(".raftlog {fault}"))).count();
    let refused_logs = |fault: &str| {
        let of = |what: &&String| what.ends_with(&format!(".raftlog {fault}")) && is_refused(what);
        refused.keys().filter(of).count()
    };
    for fault in ["Missing", "Empty", "Cut"] {
        assert!(
            logs(fault) > refused_logs(fault) && refused_logs(fault) >= 2,
            "spare files do no harm, live ones: {fault}"
        );
    }
    assert!(
        refused_logs("OtherMember") >= 2 && refused_logs("OtherCluster") >= 2 && refused_logs("Older") >= 1
    );
}

/// The whole log, and the whole state, are replaced by older ones.
#[tokio::test]
async fn a_log_of_another_day_is_refused_and_a_state_of_another_day_if_the_log_does_not_reach_back() {
    let root = temporary();
    let own = used(root.path(), 1, CLUSTER, 1).await;
    let with = |which: &dyn Fn(&str) -> bool| {
        let here = root.path().join("here");
        let _ = fs::remove_dir_all(&here); // of the one before
        for (path, is_then) in [(&own.now, false), (&own.then, true)] {
            for (file, bytes) in contents(path) {
                let target = here.join(&file);
                match bytes {
                    Some(bytes) if which(&file.to_string_lossy()) == is_then => {
                        fs::create_dir_all(target.parent().unwrap()).unwrap();
                        fs::write(target, bytes).unwrap();
                    }
                    _ => {}
                }
            }
        }
        here
    };
    let here = with(&|file| file.ends_with(".raftlog"));
    let error = open(storage(&here), 1, 9).await.err().unwrap().to_string();
    assert!(error.contains("MEMBER says that the Raft log has come to"), "{error}");
    let here = with(&|file| file.starts_with("state/"));
    let error = open(storage(&here), 1, 9).await.err().unwrap().to_string();
    assert!(
        error.contains("applied up to entry 120, but the Raft log") && error.contains("state/CURRENT"),
        "{error}"
    );
    // An older stamp says less, and nothing that is wrong.
    let mut opened = open(storage(&with(&|file| file == "MEMBER")), 1, 9).await.unwrap();
    own.promised.check(&mut opened, "an older stamp").await;
    end(opened).await;
}

/// This is so after a crash, when the stamp does not name the last batches yet.
#[tokio::test]
async fn a_log_file_that_was_cut_is_refused_also_if_no_other_file_says_where_it_ended() {
    let root = temporary();
    let (now, crashed) = (root.path().join("now"), root.path().join("crashed"));
    let (mut promised, mut refused) = (Promised::default(), 0);
    let mut opened = open(storage(&now), 1, 1).await.unwrap();
    live(&mut opened, &mut promised, (CLUSTER, 150), 1).await.unwrap();
    copy_all(&now, &crashed);
    end(opened).await;
    for file in contents(&crashed).into_keys().filter(|file| file.extension().is_some_and(|e| e == "raftlog"))
    {
        let here = root.path().join("here");
        copy_all(&crashed, &here);
        assert!(befall(Fault::Cut, &file, &here, [&here, &here, &here]));
        match open(storage(&here), 1, 9).await {
            Ok(mut opened) => {
                promised.check(&mut opened, &file.to_string_lossy()).await;
                end(opened).await;
            }
            Err(error) => {
                assert!(error.to_string().contains("it was cut"), "{error}");
                refused += 1;
            }
        }
        fs::remove_dir_all(&here).unwrap();
    }
    assert!(refused >= 2, "{refused} files were in use");
}

/// The process dies just before an operation on the disk, or in the middle of it.
struct Death {
    left: AtomicI64,
    in_the_middle: bool,
}

impl Death {
    /// Whether the process dies in the middle of this operation. An error if it dies before, or is dead already.
    fn comes(&self) -> io::Result<bool> {
        match self.left.fetch_sub(1, Ordering::SeqCst) {
            left if left > 0 => Ok(false),
            0 if self.in_the_middle => Ok(true),
            _ => Err(dead()),
        }
    }
}

fn dead() -> io::Error {
    io::Error::other("it is dead")
}

struct MortalDisk {
    inner: FileDisk,
    path: PathBuf,
    death: Arc<Death>,
}

impl MortalDisk {
    fn or<T: Send + 'static>(
        &self,
        half: impl FnOnce() -> io::Result<()>,
        whole: impl FnOnce() -> BoxFuture<'static, io::Result<T>>,
    ) -> BoxFuture<'static, io::Result<T>> {
        match self.death.comes() {
            Ok(false) => whole(),
            Ok(true) => {
                let error = half().err().unwrap_or_else(dead);
                Box::pin(async move { Err(error) })
            }
            Err(error) => Box::pin(async move { Err(error) }),
        }
    }
}

impl LogDisk for MortalDisk {
    fn list(&self) -> BoxFuture<'static, io::Result<Vec<FileId>>> {
        self.inner.list()
    }
    fn read(&self, file: FileId) -> BoxFuture<'static, io::Result<Vec<u8>>> {
        self.inner.read(file)
    }
    fn create(&self, file: FileId, len: u64) -> BoxFuture<'static, io::Result<()>> {
        let path = self.path.join(file.name());
        self.or(|| fs::write(path, vec![0; len as usize / 2]), || self.inner.create(file, len))
    }
    fn write(&self, file: FileId, offset: u64, bytes: Vec<u8>) -> BoxFuture<'static, io::Result<Vec<u8>>> {
        use std::os::unix::fs::FileExt as _;
        let path = self.path.join(file.name());
        let torn = bytes[..bytes.len() / 2].to_vec();
        let tear = || fs::File::options().write(true).open(path)?.write_all_at(&torn, offset);
        self.or(tear, || self.inner.write(file, offset, bytes))
    }
    fn sync(&self, file: FileId) -> BoxFuture<'static, io::Result<()>> {
        self.or(|| Ok(()), || self.inner.sync(file))
    }
    fn remove(&self, file: FileId) -> BoxFuture<'static, io::Result<()>> {
        self.or(|| Ok(()), || self.inner.remove(file))
    }
    fn free(&self) -> BoxFuture<'static, io::Result<ByteLen>> {
        self.inner.free()
    }
    fn read_whole(&self, file: WholeFile) -> BoxFuture<'static, io::Result<Option<Vec<u8>>>> {
        self.inner.read_whole(file)
    }
    fn write_whole(&self, file: WholeFile, bytes: Vec<u8>) -> BoxFuture<'static, io::Result<()>> {
        let new = self.path.join("MEMBER.new");
        let half = bytes[..bytes.len() / 2].to_vec();
        self.or(|| fs::write(new, half), || self.inner.write_whole(file, bytes))
    }
}

struct MortalHome {
    inner: RocksHome,
    path: PathBuf,
    death: Arc<Death>,
}

impl MortalHome {
    fn or<T>(
        &self,
        half: impl FnOnce() -> io::Result<()>,
        whole: impl FnOnce() -> Result<T, KvError>,
    ) -> Result<T, KvError> {
        let died = |source| KvError::Io { doing: "die".to_owned(), source };
        match self.death.comes() {
            Ok(false) => whole(),
            Ok(true) => Err(died(half().err().unwrap_or_else(dead))),
            Err(error) => Err(died(error)),
        }
    }
}

impl KvHome for MortalHome {
    fn open(&self, name: &str) -> Result<Arc<dyn Kv>, KvError> {
        self.inner.open(name)
    }
    fn open_read_only(&self, name: &str) -> Result<Arc<dyn Kv>, KvError> {
        self.inner.open_read_only(name)
    }
    fn create(&self, name: &str) -> Result<Arc<dyn Kv>, KvError> {
        let path = self.path.join(name);
        let half =
            || fs::create_dir_all(&path).and_then(|()| fs::write(path.join("MANIFEST-000001"), "half"));
        self.or(half, || self.inner.create(name))
    }
    fn current(&self) -> Result<Option<String>, KvError> {
        self.inner.current()
    }
    fn make_current(&self, name: &str) -> Result<(), KvError> {
        self.or(|| fs::write(self.path.join("CURRENT.new"), "sta"), || self.inner.make_current(name))
    }
    fn remove(&self, name: &str) -> Result<(), KvError> {
        let half = self.path.join(name).join("CURRENT");
        self.or(|| if half.exists() { fs::remove_file(half) } else { Ok(()) }, || self.inner.remove(name))
    }
    fn list(&self) -> Result<Vec<String>, KvError> {
        self.inner.list()
    }
}

/// Two lives, with a death at the n-th operation that changes something. Returns true if there are not so many operations.
async fn lives_until(path: &Path, death: &Arc<Death>, promised: &mut Promised) -> bool {
    let small = RocksOptions {
        block_cache: ByteLen(1 << 20),
        write_buffers: ByteLen(1 << 20),
        ..RocksOptions::default()
    };
    for term in 1..=2 {
        let disk =
            MortalDisk { inner: FileDisk::open(path).unwrap(), path: path.to_owned(), death: death.clone() };
        let state = path.join("state");
        let home = MortalHome { inner: RocksHome::new(&state, small), path: state, death: death.clone() };
        let Ok(mut opened) = open((Arc::new(disk), Arc::new(home)), 1, 1).await else { return false };
        let lived = live(&mut opened, promised, (CLUSTER, 50), term).await;
        end(opened).await;
        if lived.is_err() {
            return false;
        }
    }
    death.left.load(Ordering::SeqCst) >= 0
}

/// Waits until the tasks of a member that has died have ended.
async fn while_it_is_used(path: &Path) {
    for _ in 0..1000 {
        if FileDisk::open(path).is_ok() {
            return;
        }
        tokio::task::yield_now().await;
    }
    panic!("it is used for ever");
}

#[tokio::test]
async fn a_start_after_a_death_at_any_step_of_the_making_the_votes_the_cuts_and_the_snapshots_works() {
    let mut steps = 0;
    for in_the_middle in [false, true] {
        for step in 0.. {
            let root = temporary();
            let death = Arc::new(Death { left: AtomicI64::new(step), in_the_middle });
            let mut promised = Promised::default();
            let is_over = lives_until(root.path(), &death, &mut promised).await;
            let what = format!("died at step {step}, in the middle: {in_the_middle}");
            while_it_is_used(root.path()).await;
            for _ in 0..2 {
                let opened = open(storage(root.path()), 1, 1).await;
                let mut opened = opened.unwrap_or_else(|error| panic!("{what}: {error}"));
                promised.check(&mut opened, &what).await;
                end(opened).await;
            }
            steps += 1;
            if is_over {
                break;
            }
        }
    }
    println!("{steps} deaths");
    assert!(steps > 60, "{steps}");
}

/// Records the order in which the state's home is changed.
struct NotedHome {
    inner: Arc<dyn KvHome>,
    calls: Arc<Mutex<Vec<String>>>,
}

impl KvHome for NotedHome {
    fn open(&self, name: &str) -> Result<Arc<dyn Kv>, KvError> {
        self.inner.open(name)
    }
    fn open_read_only(&self, name: &str) -> Result<Arc<dyn Kv>, KvError> {
        self.inner.open_read_only(name)
    }
    fn create(&self, name: &str) -> Result<Arc<dyn Kv>, KvError> {
        self.inner.create(name)
    }
    fn current(&self) -> Result<Option<String>, KvError> {
        self.inner.current()
    }
    fn make_current(&self, name: &str) -> Result<(), KvError> {
        self.calls.lock().unwrap().push(format!("make {name} current"));
        self.inner.make_current(name)
    }
    fn remove(&self, name: &str) -> Result<(), KvError> {
        self.calls.lock().unwrap().push(format!("remove {name}"));
        self.inner.remove(name)
    }
    fn list(&self) -> Result<Vec<String>, KvError> {
        self.inner.list()
    }
}

/// The process that made it the current one may have been killed before that was on the disk. After a power failure, the former
/// one is current again, and must still be there.
#[tokio::test]
async fn what_is_current_is_said_again_before_anything_beside_it_is_removed() {
    let root = temporary();
    let mut opened = open(storage(root.path()), 1, 1).await.unwrap();
    live(&mut opened, &mut Promised::default(), (CLUSTER, 50), 1).await.unwrap();
    end(opened).await;
    let (disk, inner) = storage(root.path());
    let current = inner.current().unwrap().unwrap();
    let calls = Arc::new(Mutex::new(Vec::new()));
    let home = Arc::new(NotedHome { inner, calls: calls.clone() });
    end(open((disk, home), 1, 1).await.unwrap()).await;
    let calls = calls.lock().unwrap();
    assert_eq!(calls[0], format!("make {current} current"), "{calls:?}");
    assert!(calls.len() > 1 && calls[1..].iter().all(|call| call.starts_with("remove ")), "{calls:?}");
}

/// The directory of the federation group's member is below that of the cluster's member, whose stamp has its id.
#[tokio::test]
async fn a_lost_or_replaced_directory_of_the_federation_groups_member_is_refused_and_not_made_anew() {
    let root = temporary();
    let (data, seat) = (root.path().join("data"), root.path().join("data/federation"));
    let opened = open(storage(&data), 1, 1).await.unwrap();
    let own = open(storage(&seat), 1, 2).await.unwrap();
    let own_seat = own.stamp.get().await.directory;
    opened.stamp.change(|stamp| stamp.seat = Some(own_seat)).await.unwrap();
    end(opened).await;
    end(own).await;
    let other = root.path().join("other");
    end(open(storage(&other), 1, 3).await.unwrap()).await;
    let look = async |path: &Path| {
        let (disk, home) = storage(path);
        let seen = Examined::of(&options(1), &*disk, &*home, super::seat_in(&data)).await;
        seen.map(drop).map_err(|error| error.to_string())
    };
    assert_eq!(look(&seat).await, Ok(()));
    let error = look(&other).await.unwrap_err();
    assert!(error.contains(&format!("the MEMBER above says that it is {own_seat}")), "{error}");
    fs::remove_dir_all(&seat).unwrap();
    let before = contents(&data);
    let listed = |id: u64| BootstrapMember { id, address: format!("127.0.0.1:{id}") };
    let settings = Settings {
        id: Some(1),
        data: Some(data.clone()),
        bootstrap: Some(vec![listed(1)]),
        federation_members: Some(vec![listed(1)]),
        federation_id: Some(1),
        ..Settings::default()
    };
    let error = ServerStorage::open(&Config::validate(settings).unwrap()).err().unwrap().to_string();
    assert!(error.contains("data/federation: MEMBER is missing") && !error.contains('\n'), "{error}");
    assert!(contents(&data) == before, "refused, and something was changed");
}
