//! What the tests of the state share: a state in memory with one session, and short words for common requests.

use std::collections::{BTreeMap, BTreeSet};

use dfs_proto::attr::{Caller, InodeAttr, Name, Timestamp};
use dfs_proto::error::MetaError;
use dfs_proto::extent::Extent;
use dfs_proto::ids::{
    ChunkId, ClusterId, DirectoryId, InodeId, RequestId, RequestLane, ServerId, SessionId, SessionNonce,
    SetVersion, VolumeId,
};
use dfs_proto::meta::{
    Change, ChangeRequest, Changed, ChunkCommit, CommitExtents, Create, FileCommit, MetaResult, NewInode,
    OpenChunk, SetAttr,
};
use dfs_proto::units::{ByteLen, ChunkOffset, Offset};

use super::time::StateTime;
use super::{apply, check, federation, read};
use crate::command::{
    Answered, Command, Entry, InitCluster, NamedInode, Proposed, RegisterServer, Reply, RootAttr,
    ServerAddresses, VolumeRoot,
};
use crate::kv::memory::MemoryKv;
use crate::kv::{Kv as _, Pair, Snapshot, Txn};
use crate::record::{federation_log, log};
use crate::table::session;

mod answers;
mod exchange;
mod old_state;
mod permissions;
mod random;

pub(super) const CLUSTER: ClusterId = ClusterId(0xc1);

pub(super) fn name(text: &str) -> Name {
    Name::new(text).expect("valid")
}

/// Someone in a group of their own and no other.
pub(super) fn user(uid: u32) -> Caller {
    Caller { uid, gid: uid, groups: Some(Vec::new()) }
}

pub(super) fn create(parent: InodeId, text: &str, mode: u32, what: NewInode) -> Change {
    Change::Create(Create { parent, name: name(text), mode, what, or_existing: false, opens: false })
}

pub(super) fn attr_of(changed: MetaResult<Changed>) -> InodeAttr {
    match changed {
        Ok(Changed::Inode { attr, .. }) => attr,
        other => panic!("not an inode: {other:?}"),
    }
}

pub(super) fn init_command() -> Command {
    Command::InitCluster(InitCluster {
        cluster: CLUSTER,
        name: "test".to_owned(),
        copies: 2,
        copies_min: 1,
        hash_key: 0x1234_5678_9abc_def0,
        root: RootAttr { mode: 0o777, uid: 0, gid: 0 },
    })
}

/// A state in memory. Requests go out as `session`, numbered by themselves.
pub(super) struct Harness {
    pub kv: MemoryKv,
    pub session: SessionId,
    /// The leader's clocks.
    now: Timestamp,
    state_time: StateTime,
    pub servers: Vec<ServerId>,
    /// Who has a file open, as the leader knows.
    pub openers: BTreeMap<InodeId, Vec<SessionId>>,
    /// Everything that was executed.
    pub log: Vec<Entry>,
    /// Everything that was executed of the federation group, encoded.
    pub federation_log: Vec<Vec<u8>>,
}

impl Harness {
    pub(super) fn new() -> Harness {
        let mut harness = Harness::uninitialised();
        assert_eq!(harness.command(init_command()), Reply::Done);
        harness.session = harness.open_session(1);
        harness
    }

    pub(super) fn uninitialised() -> Harness {
        let now = Timestamp { seconds: 10, nanos: 0 };
        let state_time = StateTime { seconds: 10, nanos: 0 };
        Harness {
            kv: MemoryKv::default(),
            session: SessionId(0),
            now,
            state_time,
            servers: Vec::new(),
            openers: BTreeMap::new(),
            log: Vec::new(),
            federation_log: Vec::new(),
        }
    }

    /// The time of the commands that follow, by both clocks.
    pub(super) fn at(&mut self, seconds: i64) {
        self.wall_at(seconds);
        self.state_time = StateTime { seconds, nanos: 0 };
    }

    /// Somebody sets the leader's wall clock.
    pub(super) fn wall_at(&mut self, seconds: i64) {
        self.now = Timestamp { seconds, nanos: 0 };
    }

    pub(super) fn command(&mut self, command: Command) -> Reply {
        self.command_at(Proposed::At { wall: self.now, state: self.state_time }, command)
    }

    pub(super) fn command_at(&mut self, proposed: Proposed, command: Command) -> Reply {
        let (reply, batch) = {
            let base = self.kv.snapshot();
            let mut txn = Txn::new(&*base);
            let reply = apply(&command, proposed, &mut txn);
            (reply, txn.into_batch())
        };
        self.kv.write(batch).expect("memory");
        self.log.push(Entry { proposed, commands: vec![command] });
        reply
    }

    /// Executes a command of the federation group.
    pub(super) fn federation(&mut self, command: federation::command::Command) -> federation::command::Reply {
        let (reply, batch) = {
            let base = self.kv.snapshot();
            let mut txn = Txn::new(&*base);
            let reply = federation::apply(&command, &mut txn);
            (reply, txn.into_batch())
        };
        self.kv.write(batch).expect("memory");
        let encoded = [federation_log::encode_command(&command)];
        self.federation_log.push(log::join(self.now, self.state_time, &encoded));
        reply
    }

    pub(super) fn view<T>(&self, ask: impl FnOnce(&dyn Snapshot) -> T) -> T {
        ask(&*self.kv.snapshot())
    }

    /// Everything stored, but the counters, whose time goes on.
    pub(super) fn dump(&self) -> BTreeSet<Pair> {
        self.view(|view| view.scan(b"", b"").filter(|(key, _)| key[0] != super::keys::COUNTERS).collect())
    }

    #[track_caller]
    pub(super) fn check(&self) {
        let faults = self.view(check);
        assert!(faults.is_empty(), "{faults:#?}");
    }

    pub(super) fn open_session(&mut self, nonce: u128) -> SessionId {
        let client = "a test".to_owned();
        let reply = self.command(Command::OpenSession { nonce: SessionNonce(nonce), client });
        let Reply::SessionOpened(opened) = reply else { panic!("no session: {reply:?}") };
        opened.session
    }

    /// Until nothing is left to reap.
    pub(super) fn reap(&mut self) {
        while let Reply::Worked { more: true, .. } = self.command(Command::Reap { limit: 50 }) {
            self.check();
        }
    }

    pub(super) fn change(&mut self, caller: &Caller, change: Change) -> MetaResult<Changed> {
        self.change_placed(caller, change, &[])
    }

    pub(super) fn change_placed(
        &mut self,
        caller: &Caller,
        change: Change,
        placement: &[ServerId],
    ) -> MetaResult<Changed> {
        let request = self.next_request(caller, change);
        self.send(request, placement)
    }

    pub(super) fn next_request(&self, caller: &Caller, change: Change) -> ChangeRequest {
        let lane = RequestLane(0);
        let last = self
            .view(|view| session::get(view, self.session))
            .map_or(0, |record| record.window(lane).highest);
        self.numbered(caller, (last + 1, last + 1), change)
    }

    /// With what the leader has learned of other volumes; `None`: it is to learn that anew.
    pub(super) fn change_with(
        &mut self,
        caller: &Caller,
        change: Change,
        volumes: Vec<VolumeRoot>,
    ) -> Option<MetaResult<Changed>> {
        let request = self.next_request(caller, change);
        let reply = self.execute(request, Vec::new(), volumes);
        if matches!(reply, Reply::Refused(MetaError::Undecided { .. })) {
            return None;
        }
        let Reply::Changed(answered) = reply else { panic!("a change answered {reply:?}") };
        Some(answered.map(|answered| answered.changed))
    }

    pub(super) fn request(
        &mut self,
        caller: &Caller,
        request: u64,
        answered_below: u64,
        change: Change,
    ) -> MetaResult<Changed> {
        let request = self.numbered(caller, (request, answered_below), change);
        self.send(request, &[])
    }

    fn numbered(
        &self,
        caller: &Caller,
        (request, answered_below): (u64, u64),
        change: Change,
    ) -> ChangeRequest {
        ChangeRequest {
            cluster: CLUSTER,
            session: self.session,
            request: RequestId(request),
            answered_below: RequestId(answered_below),
            caller: caller.clone(),
            change,
        }
    }

    fn send(&mut self, request: ChangeRequest, placement: &[ServerId]) -> MetaResult<Changed> {
        let reply = self.execute(request, placement.to_vec(), Vec::new());
        let Reply::Changed(answered) = reply else { panic!("a change answered {reply:?}") };
        answered.map(|answered| answered.changed)
    }

    /// As a leader that knows `openers`.
    pub(super) fn execute(
        &mut self,
        request: ChangeRequest,
        placement: Vec<ServerId>,
        volumes: Vec<VolumeRoot>,
    ) -> Reply {
        let behind = self.view(|view| read::behind(view, &request.change));
        let named = behind.iter().map(|behind| {
            let openers = || self.openers.get(&behind.inode).cloned().unwrap_or_default();
            NamedInode { inode: behind.inode, openers: behind.loses_last_name.then(openers) }
        });
        let named = Some(named.collect());
        self.command(Command::Change { request, placement, volumes, named })
    }

    pub(super) fn file(&mut self, parent: InodeId, text: &str) -> InodeId {
        attr_of(self.change(&Caller::ROOT, create(parent, text, 0o644, NewInode::File))).inode
    }

    pub(super) fn directory(&mut self, parent: InodeId, text: &str) -> InodeId {
        attr_of(self.change(&Caller::ROOT, create(parent, text, 0o755, NewInode::Directory))).inode
    }

    pub(super) fn unlink(&mut self, parent: InodeId, text: &str) -> MetaResult<Option<InodeId>> {
        let changed = self.change(&Caller::ROOT, Change::Unlink { parent, name: name(text) })?;
        let Changed::Removed { orphan } = changed else { panic!("an unlink answered {changed:?}") };
        Ok(orphan)
    }

    fn set(&mut self, caller: &Caller, set: SetAttr) -> MetaResult<InodeAttr> {
        self.change(caller, Change::SetAttr(set)).map(|changed| attr_of(Ok(changed)))
    }

    pub(super) fn chmod(&mut self, caller: &Caller, inode: InodeId, mode: u32) -> MetaResult<InodeAttr> {
        self.set(caller, SetAttr { inode, mode: Some(mode), ..SetAttr::default() })
    }

    pub(super) fn chown(&mut self, inode: InodeId, uid: u32, gid: u32) {
        let set = SetAttr { inode, uid: Some(uid), gid: Some(gid), ..SetAttr::default() };
        self.set(&Caller::ROOT, set).expect("root may");
    }

    pub(super) fn truncate(&mut self, inode: InodeId, size: u64) {
        let set = SetAttr { inode, size: Some(ByteLen(size)), ..SetAttr::default() };
        self.set(&Caller::ROOT, set).expect("root may");
    }

    pub(super) fn lookup(&self, parent: InodeId, text: &str) -> MetaResult<InodeId> {
        self.view(|view| read::lookup(view, &Caller::ROOT, parent, text.as_bytes())).map(|attr| attr.inode)
    }

    pub(super) fn try_attr(&self, inode: InodeId) -> Result<InodeAttr, MetaError> {
        self.view(|view| read::getattr(view, inode))
    }

    #[track_caller]
    pub(super) fn attr(&self, inode: InodeId) -> InodeAttr {
        self.try_attr(inode).expect("it is there")
    }

    /// Registers that many more.
    pub(super) fn servers(&mut self, count: usize) -> Vec<ServerId> {
        for _ in 0..count {
            let number = self.servers.len() as u128 + 1;
            let reply = self.command(Command::RegisterServer(RegisterServer {
                server: None,
                directory: DirectoryId(number),
                addresses: ServerAddresses { frames: format!("frames:{number}"), ..Default::default() },
                zone: String::new(),
            }));
            let Reply::Registered(registered) = reply else { panic!("a registration answered {reply:?}") };
            self.servers.push(registered.server);
        }
        self.servers.clone()
    }

    /// On the first two servers, of volume 0.
    pub(super) fn open_chunk(&mut self) -> ChunkId {
        self.open_chunk_of(VolumeId(0))
    }

    pub(super) fn open_chunk_of(&mut self, volume: VolumeId) -> ChunkId {
        let placement = self.servers[..2].to_vec();
        let open = Change::OpenChunk(OpenChunk { volume: Some(volume), ..OpenChunk::default() });
        match self.change_placed(&Caller::ROOT, open, &placement) {
            Ok(Changed::Chunk(opened)) => opened.chunk,
            other => panic!("no chunk: {other:?}"),
        }
    }

    /// On the first two servers, of no volume, as earlier releases did.
    pub(super) fn open_mixed_chunk(&mut self) -> ChunkId {
        let placement = self.servers[..2].to_vec();
        let request = self.next_request(&Caller::ROOT, Change::OpenChunk(OpenChunk::default()));
        let proposed = Proposed::WithMixed { wall: self.now, state: self.state_time };
        let reply = self.command_at(proposed, Command::of_request(request, placement, Vec::new()));
        let Reply::Changed(Ok(Answered { changed: Changed::Chunk(opened), .. })) = reply else {
            panic!("no chunk: {reply:?}")
        };
        opened.chunk
    }

    /// Commits `len` bytes, the next ones of the chunk.
    pub(super) fn write(
        &mut self,
        inode: InodeId,
        offset: u64,
        len: u64,
        chunk: ChunkId,
    ) -> MetaResult<Changed> {
        let commit = self.commit(inode, offset, len, chunk);
        self.change(&Caller::ROOT, commit)
    }

    /// Of `len` bytes, the next ones of the chunk.
    pub(super) fn commit(&self, inode: InodeId, offset: u64, len: u64, chunk: ChunkId) -> Change {
        let session = self.session;
        let (record, number) =
            self.view(|view| (read::chunk(view, chunk), session::next_commit(view, session, inode)));
        let from = record.map_or(0, |record| record.committed.0);
        let extent = Extent { offset: Offset(offset), len, chunk, chunk_offset: ChunkOffset(from) };
        Change::CommitExtents(CommitExtents {
            chunks: vec![ChunkCommit { chunk, set_version: SetVersion(1), up_to: ByteLen(from + len) }],
            files: vec![FileCommit {
                inode,
                number,
                extents: vec![extent],
                size_at_least: ByteLen(offset + len),
                mtime: Some(self.now),
                kill_privileges: false,
            }],
        })
    }

    /// Every extent of a file: offset, length, chunk.
    pub(super) fn pieces(&self, inode: InodeId) -> Vec<(u64, u64, ChunkId)> {
        let all = self.view(|view| read::extents(view, inode, Offset(0), u64::MAX, u32::MAX));
        let all = all.expect("it is there");
        all.extents.iter().map(|extent| (extent.offset.0, extent.len, extent.chunk)).collect()
    }
}
