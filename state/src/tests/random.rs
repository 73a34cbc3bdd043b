//! Random requests on the state and on an obvious model of a file system; answers, tree and bytes must agree, the
//! invariants hold, and a repeated request must change nothing.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};

use dfs_proto::attr::{Caller, FileKind};
use dfs_proto::error::MetaError;
use dfs_proto::extent::Extent;
use dfs_proto::ids::{ChunkId, InodeId, RequestId, RequestLane, SessionId, SetVersion};
use dfs_proto::meta::{
    Change, Changed, ChunkCommit, CommitExtents, FileCommit, MetaResult, NewInode, Read, ReadReply,
    ReadRequest, Rename, RenameMode,
};
use dfs_proto::units::{ByteLen, ChunkOffset, Offset};
use rand::rngs::SmallRng;
use rand::{Rng as _, SeedableRng as _};

use super::{CLUSTER, Harness, create, name};
use crate::command::Command;
use crate::read;
use crate::table::{extent, inode, session};

const SEEDS: u64 = 24;
const STEPS: u64 = 500;
const ROOT: InodeId = InodeId::ROOT;
/// Where a byte of a file is; `None`: a hole.
type Byte = Option<(ChunkId, u64)>;

enum Node {
    Directory(BTreeMap<String, InodeId>),
    File(Vec<Byte>),
}

/// What a file system is, at a glance. Errors are those of the state.
struct Model {
    nodes: BTreeMap<InodeId, Node>,
}

impl Model {
    fn entries(&self, directory: InodeId) -> &BTreeMap<String, InodeId> {
        match &self.nodes[&directory] {
            Node::Directory(entries) => entries,
            Node::File(_) => panic!("{directory} is a file of the model"),
        }
    }

    fn entries_mut(&mut self, directory: InodeId) -> &mut BTreeMap<String, InodeId> {
        match self.nodes.get_mut(&directory) {
            Some(Node::Directory(entries)) => entries,
            Some(Node::File(_)) | None => panic!("{directory} is no directory of the model"),
        }
    }

    fn is_directory(&self, node: InodeId) -> bool {
        matches!(self.nodes[&node], Node::Directory(_))
    }

    fn links(&self, node: InodeId) -> usize {
        let names = |n: &Node| match n {
            Node::Directory(entries) => entries.values().filter(|&&e| e == node).count(),
            Node::File(_) => 0,
        };
        self.nodes.values().map(names).sum()
    }

    fn find(&self, directory: InodeId, name: &str) -> MetaResult<InodeId> {
        self.entries(directory).get(name).copied().ok_or(MetaError::NotFound)
    }

    fn is_below(&self, node: InodeId, above: InodeId) -> bool {
        node == above
            || (self.is_directory(above)
                && self.entries(above).values().any(|&child| self.is_below(node, child)))
    }

    fn forget_if_nameless(&mut self, node: InodeId) -> Option<InodeId> {
        (self.links(node) == 0).then(|| {
            self.nodes.remove(&node);
            node
        })
    }

    fn unlink(&mut self, parent: InodeId, name: &str) -> MetaResult<Option<InodeId>> {
        let node = self.find(parent, name)?;
        if self.is_directory(node) {
            return Err(MetaError::IsDirectory);
        }
        self.entries_mut(parent).remove(name);
        Ok(self.forget_if_nameless(node))
    }

    fn rmdir(&mut self, parent: InodeId, name: &str) -> MetaResult<Option<InodeId>> {
        let node = self.find(parent, name)?;
        if !self.is_directory(node) {
            return Err(MetaError::NotDirectory);
        }
        if !self.entries(node).is_empty() {
            return Err(MetaError::NotEmpty);
        }
        self.entries_mut(parent).remove(name);
        Ok(self.forget_if_nameless(node))
    }

    fn rename(
        &mut self,
        (from, old): (InodeId, &str),
        (to, new): (InodeId, &str),
    ) -> MetaResult<Option<InodeId>> {
        let node = self.find(from, old)?;
        if from != to && self.is_directory(node) && self.is_below(to, node) {
            let what = "a directory cannot be moved below itself".to_owned();
            return Err(MetaError::InvalidArgument { what });
        }
        let target = self.find(to, new).ok();
        if target == Some(node) {
            return Ok(None);
        }
        if let Some(target) = target {
            match (self.is_directory(node), self.is_directory(target)) {
                (true, false) => return Err(MetaError::NotDirectory),
                (false, true) => return Err(MetaError::IsDirectory),
                (true, true) if !self.entries(target).is_empty() => return Err(MetaError::NotEmpty),
                (true, true) | (false, false) => {}
            }
        }
        self.entries_mut(from).remove(old);
        self.entries_mut(to).insert(new.to_owned(), node);
        Ok(target.and_then(|target| self.forget_if_nameless(target)))
    }

    fn exchange(&mut self, (from, old): (InodeId, &str), (to, new): (InodeId, &str)) -> MetaResult<()> {
        let (node, target) = (self.find(from, old)?, self.find(to, new)?);
        if from != to && (self.is_below(to, node) || self.is_below(from, target)) {
            let what = "a directory cannot be moved below itself".to_owned();
            return Err(MetaError::InvalidArgument { what });
        }
        self.entries_mut(from).insert(old.to_owned(), target);
        self.entries_mut(to).insert(new.to_owned(), node);
        Ok(())
    }
}

/// Seeded, so that a run can be repeated.
struct Chance(RefCell<SmallRng>);

impl Chance {
    fn seeded(seed: u64) -> Chance {
        Chance(RefCell::new(SmallRng::seed_from_u64(seed)))
    }

    /// Uniform in `0..bound`; 0 if nothing is below it.
    fn below(&self, bound: u64) -> u64 {
        if bound == 0 { 0 } else { self.0.borrow_mut().random_range(0..bound) }
    }
}

/// The state, the model, and the chance that drives both.
struct World {
    harness: Harness,
    model: Model,
    rng: Chance,
    chunks: Vec<ChunkId>,
    orphans: Vec<InodeId>,
    /// Sessions that only have files open.
    others: [SessionId; 2],
    /// Who holds a file without a name. What a session held that has ended goes with the reaper.
    held: BTreeMap<InodeId, BTreeSet<SessionId>>,
    sessions: u128,
    /// Comparisons while a cut waited for the reaper: without any the test would miss the hardest part.
    cuts_seen: u32,
    /// The same of files without a name that several sessions hold.
    shared_seen: u32,
}

impl World {
    fn new(seed: u64) -> World {
        let mut harness = Harness::new();
        harness.servers(3);
        let others = [harness.open_session(2), harness.open_session(3)];
        let model = Model { nodes: BTreeMap::from([(ROOT, Node::Directory(BTreeMap::new()))]) };
        World {
            harness,
            model,
            rng: Chance::seeded(seed),
            chunks: Vec::new(),
            orphans: Vec::new(),
            others,
            held: BTreeMap::new(),
            sessions: 3,
            cuts_seen: 0,
            shared_seen: 0,
        }
    }

    fn pick(&self, directories: bool) -> Option<InodeId> {
        let all: Vec<InodeId> =
            self.model.nodes.keys().copied().filter(|&n| self.model.is_directory(n) == directories).collect();
        if all.is_empty() {
            return None;
        }
        all.get(self.rng.below(all.len() as u64) as usize).copied()
    }

    fn directory(&self) -> InodeId {
        self.pick(true).unwrap_or(ROOT)
    }

    fn name(&self) -> String {
        format!("n{}", self.rng.below(6))
    }

    /// Sends a request; every third one twice, and the second time must be as if it had not been sent.
    fn change(&mut self, change: Change) -> MetaResult<Changed> {
        let session = self.harness.session;
        let lane = RequestLane(self.rng.below(3) as u8);
        let highest = self
            .harness
            .view(|view| session::get(view, session))
            .map_or(0, |record| record.window(lane).highest);
        let number = RequestId::new(lane, highest + 1).0;
        let first = self.harness.request(&Caller::ROOT, number, number, change.clone());
        if self.rng.below(3) == 0 {
            let before = self.harness.dump();
            let again = self.harness.request(&Caller::ROOT, number, number, change);
            assert_eq!(again, first);
            assert!(self.harness.dump() == before, "a repeated request changed something");
        }
        first
    }

    fn removed(&mut self, change: Change, wanted: MetaResult<Option<InodeId>>) {
        let wanted = wanted.map(|orphan| Changed::Removed { orphan });
        let changed = self.change(change);
        assert_eq!(changed, wanted);
        if let Ok(Changed::Removed { orphan: Some(orphan) }) = changed {
            self.orphans.push(orphan);
            let openers = self.harness.openers.remove(&orphan).unwrap_or_default();
            self.held.insert(orphan, openers.into_iter().chain([self.harness.session]).collect());
        }
    }

    /// In another session.
    fn open(&mut self) {
        let Some(inode) = self.pick(false) else { return };
        let session = self.others[self.rng.below(2) as usize];
        self.harness.openers.entry(inode).or_default().push(session);
    }

    /// The other session closes some of the files without a name, and the leader releases them for it.
    fn close(&mut self) {
        let session = self.others[self.rng.below(2) as usize];
        let inodes: Vec<InodeId> = self.held.keys().copied().filter(|_| self.rng.below(2) == 0).collect();
        self.released(session, &inodes);
        self.harness.command(Command::ReleaseFor { session, inodes });
    }

    fn released(&mut self, session: SessionId, inodes: &[InodeId]) {
        for inode in inodes {
            if let Some(holders) = self.held.get_mut(inode) {
                holders.remove(&session);
            }
        }
    }

    fn step(&mut self) {
        match self.rng.below(23) {
            0..=3 => self.make(),
            4 => self.link(),
            5..=6 => self.remove(),
            7..=9 => self.rename(),
            10..=14 => self.write(),
            15..=16 => self.truncate(),
            17 => self.seal(),
            18 => self.clean(),
            19..=20 => self.open(),
            21 => self.close(),
            _ => self.end_session(),
        }
    }

    fn make(&mut self) {
        let (parent, text) = (self.directory(), self.name());
        let (what, node) = if self.rng.below(2) == 0 {
            (NewInode::Directory, Node::Directory(BTreeMap::new()))
        } else {
            (NewInode::File, Node::File(Vec::new()))
        };
        let changed = self.change(create(parent, &text, 0o755, what));
        if self.model.find(parent, &text).is_ok() {
            assert_eq!(changed, Err(MetaError::Exists));
        } else {
            let inode = super::attr_of(changed).inode;
            self.model.nodes.insert(inode, node);
            self.model.entries_mut(parent).insert(text, inode);
        }
    }

    fn link(&mut self) {
        let Some(inode) = self.pick(false) else { return };
        let (parent, text) = (self.directory(), self.name());
        let changed = self.change(Change::Link { inode, parent, name: name(&text) });
        if self.model.find(parent, &text).is_ok() {
            assert_eq!(changed, Err(MetaError::Exists));
        } else {
            self.model.entries_mut(parent).insert(text, inode);
            assert_eq!(super::attr_of(changed).nlink as usize, self.model.links(inode));
        }
    }

    fn remove(&mut self) {
        let (parent, text) = (self.directory(), self.name());
        if self.rng.below(2) == 0 {
            let wanted = self.model.unlink(parent, &text);
            self.removed(Change::Unlink { parent, name: name(&text) }, wanted);
        } else {
            let wanted = self.model.rmdir(parent, &text);
            self.removed(Change::Rmdir { parent, name: name(&text) }, wanted);
        }
    }

    fn rename(&mut self) {
        let (parent, old, new_parent, new) = (self.directory(), self.name(), self.directory(), self.name());
        let (wanted, mode) = match self.rng.below(3) {
            0 => {
                let exchanged = self.model.exchange((parent, &old), (new_parent, &new));
                (exchanged.map(|()| None), RenameMode::Exchange)
            }
            _ => (self.model.rename((parent, &old), (new_parent, &new)), RenameMode::Replace),
        };
        let rename = Rename { parent, name: name(&old), new_parent, new_name: name(&new), mode };
        self.removed(Change::Rename(rename), wanted);
    }

    /// Up to 300 pieces, from two chunks in turn so that they stay apart, with gaps.
    fn write(&mut self) {
        let Some(inode) = self.pick(false) else { return };
        while self.chunks.len() < 2 {
            self.chunks.push(self.harness.open_chunk());
        }
        let committed =
            |id| self.harness.view(|view| read::chunk(view, id)).map_or(0, |record| record.committed.0);
        let mut ends: Vec<(ChunkId, u64)> =
            self.chunks.iter().map(|&chunk| (chunk, committed(chunk))).collect();
        let mut at = self.rng.below(2000);
        let mut extents = Vec::new();
        for index in 0..1 + self.rng.below(if self.rng.below(4) == 0 { 300 } else { 4 }) {
            let turn = index as usize % ends.len();
            let (chunk, chunk_offset) = ends[turn];
            let len = 1 + self.rng.below(12);
            ends[turn].1 += len;
            extents.push(Extent { offset: Offset(at), len, chunk, chunk_offset: ChunkOffset(chunk_offset) });
            at += len + self.rng.below(3);
        }
        let Some(Node::File(bytes)) = self.model.nodes.get_mut(&inode) else { panic!("picked a file") };
        for extent in &extents {
            bytes.resize(bytes.len().max(extent.end() as usize), None);
            for index in 0..extent.len {
                bytes[(extent.offset.0 + index) as usize] =
                    Some((extent.chunk, extent.chunk_offset.0 + index));
            }
        }
        let size = bytes.len() as u64;
        let session = self.harness.session;
        let file = FileCommit {
            inode,
            number: self.harness.view(|view| session::next_commit(view, session, inode)),
            extents,
            size_at_least: ByteLen(0),
            mtime: None,
            kill_privileges: false,
        };
        let chunks = ends.iter().map(|&(chunk, up_to)| ChunkCommit {
            chunk,
            set_version: SetVersion(1),
            up_to: ByteLen(up_to),
        });
        let commit = CommitExtents { chunks: chunks.collect(), files: vec![file] };
        let changed = self.change(Change::CommitExtents(commit));
        let Ok(Changed::Committed { attrs }) = changed else { panic!("a commit answered {changed:?}") };
        assert_eq!(attrs[0].size, ByteLen(size));
    }

    fn truncate(&mut self) {
        let Some(inode) = self.pick(false) else { return };
        let size = self.rng.below(3000);
        self.harness.truncate(inode, size);
        let Some(Node::File(bytes)) = self.model.nodes.get_mut(&inode) else { panic!("picked a file") };
        bytes.resize(size as usize, None);
    }

    fn seal(&mut self) {
        if let Some(chunk) = self.chunks.pop() {
            if self.rng.below(2) == 0 {
                self.change(Change::SealChunk { chunk }).expect("its own");
            } else {
                self.harness.command(Command::SealChunks { chunks: vec![chunk] });
            }
        }
    }

    /// The background work, some of it at a time.
    fn clean(&mut self) {
        if self.rng.below(2) == 0 {
            let inodes = std::mem::take(&mut self.orphans);
            self.released(self.harness.session, &inodes);
            assert_eq!(self.change(Change::ReleaseOrphans { inodes }), Ok(Changed::Done));
        }
        self.harness.command(Command::Reap { limit: 1 + self.rng.below(200) as u32 });
        let before = self.harness.view(read::last_time);
        self.harness.command(Command::StartDeleting { before, limit: 2 });
        let server = self.harness.servers[self.rng.below(2) as usize];
        let chunks = self.harness.view(|view| read::deleting(view, server, 10));
        self.harness.command(Command::ConfirmDeleted { server, chunks });
    }

    fn end_session(&mut self) {
        self.sessions += 1;
        let new = self.harness.open_session(self.sessions);
        let which = self.rng.below(3) as usize;
        let ended = match self.others.get_mut(which) {
            Some(other) => std::mem::replace(other, new),
            None => std::mem::replace(&mut self.harness.session, new),
        };
        self.harness.command(Command::ExpireSession { session: ended });
        if which == self.others.len() {
            self.chunks.clear();
            self.orphans.clear();
        }
        for openers in self.harness.openers.values_mut() {
            openers.retain(|opener| *opener != ended);
        }
        for holders in self.held.values_mut() {
            holders.remove(&ended);
        }
    }

    /// A file without a name is there while a session that is alive holds it.
    fn compare_held(&mut self) {
        let alive = [self.harness.session, self.others[0], self.others[1]];
        for (inode, holders) in &self.held {
            for session in alive {
                let holds = self.harness.view(|view| read::holds_orphan(view, session, *inode));
                assert_eq!(holds, holders.contains(&session), "{session} holds {inode}");
            }
            if !holders.is_empty() {
                assert_eq!(self.harness.attr(*inode).nlink, 0);
                self.shared_seen += u32::from(holders.len() > 1);
            }
        }
        self.held.retain(|_, holders| !holders.is_empty());
    }

    fn compare(&mut self) {
        self.harness.check();
        self.compare_held();
        self.cuts_seen += u32::from(self.harness.view(|view| extent::first_cut(view).is_some()));
        for (&inode, node) in &self.model.nodes {
            match node {
                Node::Directory(entries) => assert_eq!(&self.list(inode), entries, "{inode}"),
                Node::File(bytes) => {
                    assert_eq!(self.harness.attr(inode).size.0, bytes.len() as u64);
                    assert!(self.bytes(inode) == *bytes, "{inode} has other bytes");
                }
            }
        }
    }

    fn list(&self, inode: InodeId) -> BTreeMap<String, InodeId> {
        let (mut all, mut cookies, mut cookie) = (BTreeMap::new(), BTreeSet::new(), 0);
        loop {
            let request = ReadRequest {
                cluster: CLUSTER,
                session: self.harness.session,
                caller: Caller::ROOT,
                leases: None,
                read: Read::ReadDir { inode, cookie, limit: 2, plus: true },
            };
            let (answer, leasable) = self.harness.view(|view| read::answer_leasable(view, &request));
            let Ok(ReadReply::Entries { entries, end, .. }) = answer else { panic!("answered {answer:?}") };
            let shown = [inode].into_iter().chain(entries.iter().map(|entry| entry.inode));
            let expected: BTreeSet<InodeId> = shown.filter(|inode| self.may_be_leased(*inode)).collect();
            assert_eq!(leasable, expected.into_iter().collect::<Vec<_>>());
            for entry in entries {
                let text = String::from_utf8(entry.name.as_bytes().to_vec()).expect("ascii");
                assert_eq!(entry.kind == FileKind::Directory, self.model.is_directory(entry.inode));
                assert!(cookies.insert(entry.cookie));
                cookie = entry.cookie;
                all.insert(text, entry.inode);
            }
            if end {
                return all;
            }
        }
    }

    /// As its records say that are read for this alone.
    fn may_be_leased(&self, inode: InodeId) -> bool {
        let has_cuts = self.harness.view(|view| inode::space(view, inode)).cuts > 0;
        self.harness.attr(inode).nlink > 0 && !has_cuts
    }

    fn bytes(&self, inode: InodeId) -> Vec<Byte> {
        let mut bytes = vec![None; self.harness.attr(inode).size.0 as usize];
        let mut at = 0;
        while at < bytes.len() as u64 {
            let rest = bytes.len() as u64 - at;
            let part = self.harness.view(|view| read::extents(view, inode, Offset(at), rest, 50));
            let part = part.expect("it is there");
            for extent in part.extents {
                for index in 0..extent.len {
                    bytes[(extent.offset.0 + index) as usize] =
                        Some((extent.chunk, extent.chunk_offset.0 + index));
                }
            }
            at = part.up_to.0;
        }
        bytes
    }
}

#[test]
fn random_requests_leave_what_they_leave_in_an_obvious_model() {
    let (mut cuts_seen, mut shared_seen) = (0, 0);
    for seed in 0..SEEDS {
        println!("seed {seed}");
        let mut world = World::new(seed);
        for step in 0..STEPS {
            world.harness.at(step.cast_signed());
            world.step();
            if step % 20 == 0 {
                world.compare();
            }
        }
        world.compare();
        world.harness.reap();
        world.compare();
        cuts_seen += world.cuts_seen;
        shared_seen += world.shared_seen;
    }
    println!("{cuts_seen} comparisons with a cut, {shared_seen} of a file that several sessions hold");
    assert!(cuts_seen > 0 && shared_seen > 0);
}

/// Two members apply the same commands, one of them in one transaction, and store the same.
#[test]
fn commands_give_the_same_state_however_they_are_batched() {
    use super::{StateTime, apply, init_command};
    use crate::command::{NamedInode, Proposed};
    use crate::kv::memory::MemoryKv;
    use crate::kv::{Kv as _, Txn};
    use dfs_proto::attr::Timestamp;
    use dfs_proto::ids::SessionNonce;
    use dfs_proto::meta::ChangeRequest;

    let mut commands =
        vec![init_command(), Command::OpenSession { nonce: SessionNonce(1), client: String::new() }];
    for number in 1..200 {
        let change = match number % 4 {
            0 => Change::Unlink { parent: ROOT, name: name(&format!("n{}", number % 7)) },
            1 | 2 => create(ROOT, &format!("n{}", number % 7), 0o600, NewInode::File),
            _ => create(InodeId(number), "below", 0o600, NewInode::File),
        };
        let request = ChangeRequest {
            cluster: CLUSTER,
            session: SessionId(1),
            request: RequestId(number),
            answered_below: RequestId(number / 2),
            caller: Caller::ROOT,
            change,
        };
        let named = |number| NamedInode { inode: InodeId(number), openers: Some(vec![SessionId(1)]) };
        let (placement, volumes, named) = (Vec::new(), Vec::new(), (1..200).map(named).collect());
        commands.push(Command::Change { request, placement, volumes, named: Some(named) });
    }
    let wall = Timestamp { seconds: 1, nanos: 0 };
    let now = Proposed::At { wall, state: StateTime { seconds: 1, nanos: 0 } };
    let (single, batched) = (MemoryKv::default(), MemoryKv::default());
    let mut replies = Vec::new();
    for command in &commands {
        let base = single.snapshot();
        let mut txn = Txn::new(&*base);
        replies.push(apply(command, now, &mut txn));
        single.write(txn.into_batch()).expect("memory");
    }
    let base = batched.snapshot();
    let mut txn = Txn::new(&*base);
    let together: Vec<_> = commands.iter().map(|command| apply(command, now, &mut txn)).collect();
    batched.write(txn.into_batch()).expect("memory");
    assert_eq!(together, replies);
    let all = |kv: &MemoryKv| kv.snapshot().scan(b"", b"").collect::<Vec<_>>();
    assert!(all(&single) == all(&batched));
}
