//! A metaserver in memory, which keeps the rules of P2.1 and P8.1. It checks no rights, and its root directory has no attributes.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use async_trait::async_trait;
use dfs_proto::attr::{FileKind, InodeAttr, Name, Timestamp};
use dfs_proto::error::MetaError;
use dfs_proto::extent::ExtentMap;
use dfs_proto::ids::{ChunkId, ClusterId, Incarnation, InodeId, RequestId, ServerId, SessionId, SetVersion};
use dfs_proto::meta::{
    Change, ChangeRequest, Changed, ChunkLocation, CommitExtents, Create, DirEntry, FileExtents, MetaResult,
    OpenChunk, OpenSession, OpenedChunk, Read, ReadReply, ReadRequest, RenewSession, Replica, ReplicaReport,
    SessionOpened, SessionRenewed, SetAttr, SetTime,
};
use dfs_proto::units::{ByteLen, COMMIT_EXTENTS_MAX, Offset, REQUEST_WINDOW};
use tokio::time::sleep;

use crate::session::calls::{Answer, MetaCalls};

const CLUSTER: ClusterId = ClusterId(77);
/// Of every answer, so that requests overlap.
const DELAY: Duration = Duration::from_millis(1);

struct File {
    attr: InodeAttr,
    map: ExtentMap,
}

struct Chunk {
    owner: SessionId,
    is_open: bool,
    committed: u64,
    replicas: Vec<ServerId>,
}

#[derive(Default)]
pub(crate) struct State {
    alive: BTreeSet<SessionId>,
    last_session: u64,
    results: BTreeMap<(SessionId, RequestId), MetaResult<Changed>>,
    files: BTreeMap<InodeId, File>,
    names: BTreeMap<(InodeId, Name), InodeId>,
    last_inode: u64,
    chunks: BTreeMap<ChunkId, Chunk>,
    commits: BTreeMap<(SessionId, InodeId), u64>,
    servers: Vec<ServerId>,
    clock: i64,
    /// Executed, but the answer was lost until the deadline.
    pub(crate) lost_commit_answers: u32,
    /// Lost on the way there.
    pub(crate) lost_commits: u32,
    /// What creates are answered until the deadline.
    pub(crate) refuses_creates: Option<MetaError>,
    /// Creates of these names are not executed yet; how many wait for it.
    pub(crate) held: BTreeSet<Name>,
    pub(crate) holds: usize,
    pub(crate) is_full: bool,
    pub(crate) commit_requests: u64,
    pub(crate) commits_extents: Vec<usize>,
    pub(crate) changes: u64,
    pub(crate) lookups: u64,
    pub(crate) reads: u64,
    pub(crate) reports: Vec<ReplicaReport>,
    pub(crate) released: Vec<InodeId>,
    pub(crate) avoided: Vec<Vec<ServerId>>,
}

pub(crate) struct FakeMeta(Mutex<State>);

impl FakeMeta {
    pub(crate) fn new(servers: &[ServerId]) -> Arc<FakeMeta> {
        let state = State { servers: servers.to_vec(), last_inode: 1, clock: 1000, ..State::default() };
        Arc::new(FakeMeta(Mutex::new(state)))
    }

    pub(crate) fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap()
    }

    pub(crate) fn expire_all(&self) {
        let mut state = self.state();
        state.alive.clear();
        state.chunks.values_mut().for_each(|chunk| chunk.is_open = false);
    }

    /// As long as a name is held; its caller may give up.
    async fn hold(&self, change: &Change) {
        let Change::Create(Create { name, .. }) = change else { return };
        let is_held = self.state().held.contains(name);
        self.state().holds += usize::from(is_held);
        while self.state().held.contains(name) {
            sleep(DELAY).await;
        }
    }

    /// As the leader does when a replica is away.
    pub(crate) fn seal_all(&self) {
        self.state().chunks.values_mut().for_each(|chunk| chunk.is_open = false);
    }

    pub(crate) fn open_chunks(&self) -> usize {
        self.state().chunks.values().filter(|chunk| chunk.is_open).count()
    }

    pub(crate) fn chunks_made(&self) -> usize {
        self.state().chunks.len()
    }

    pub(crate) fn attr(&self, inode: InodeId) -> InodeAttr {
        self.state().files[&inode].attr.clone()
    }

    /// The first chunk of a file, and where in it the file starts.
    pub(crate) fn first_extent(&self, inode: InodeId) -> (ChunkId, u64) {
        let state = self.state();
        let extent = state.files[&inode].map.as_slice()[0];
        (extent.chunk, extent.chunk_offset.0)
    }

    pub(crate) fn replicas(&self, chunk: ChunkId) -> Vec<ServerId> {
        self.state().chunks[&chunk].replicas.clone()
    }

    pub(crate) fn move_replicas(&self, chunk: ChunkId, replicas: Vec<ServerId>) {
        self.state().chunks.get_mut(&chunk).unwrap().replicas = replicas;
    }
}

impl State {
    pub(crate) fn now(&mut self) -> Timestamp {
        self.clock += 1;
        Timestamp { seconds: self.clock, nanos: 0 }
    }

    /// Whether it is lost, or its answer.
    fn loses(&mut self, change: &Change) -> (bool, bool) {
        let is_commit = matches!(change, Change::CommitExtents(_));
        let take = |left: &mut u32| {
            let is_taken = is_commit && *left > 0;
            *left -= u32::from(is_taken);
            is_taken
        };
        (take(&mut self.lost_commits), take(&mut self.lost_commit_answers))
    }

    fn check_session(&self, session: SessionId) -> MetaResult<()> {
        if self.alive.contains(&session) { Ok(()) } else { Err(MetaError::SessionExpired { session }) }
    }

    fn change(&mut self, request: &ChangeRequest) -> MetaResult<Changed> {
        self.check_session(request.session)?;
        self.changes += 1;
        assert!(request.answered_below <= request.request);
        assert_eq!(request.answered_below.lane(), request.request.lane());
        assert!(request.request.0 < request.answered_below.0 + REQUEST_WINDOW);
        let key = (request.session, request.request);
        if let Some(known) = self.results.get(&key) {
            return known.clone();
        }
        let result = self.execute(request.session, &request.change);
        self.results.insert(key, result.clone());
        result
    }

    fn execute(&mut self, session: SessionId, change: &Change) -> MetaResult<Changed> {
        match change {
            Change::Create(create) => self.create(session, create),
            Change::Unlink { parent, name } => self.remove(*parent, name, false),
            Change::Rmdir { parent, name } => self.remove(*parent, name, true),
            Change::SetAttr(set) => self.set_attr(session, set),
            Change::OpenChunk(open) => self.open_chunk(session, open),
            Change::SealChunk { chunk } => {
                let chunk = self.chunks.get_mut(chunk).ok_or(MetaError::NotFound)?;
                chunk.is_open = false;
                Ok(Changed::Sealed { committed: ByteLen(chunk.committed) })
            }
            Change::CommitExtents(commit) => self.commit(session, commit),
            Change::ReleaseOrphans { inodes } => {
                inodes.iter().for_each(|inode| drop(self.files.remove(inode)));
                self.released.extend(inodes);
                Ok(Changed::Done)
            }
            Change::Rename(rename) => {
                let source = (rename.parent, rename.name.clone());
                let inode = self.names.remove(&source).ok_or(MetaError::NotFound)?;
                let orphan = self.names.insert((rename.new_parent, rename.new_name.clone()), inode);
                Ok(Changed::Removed { orphan: orphan.filter(|replaced| *replaced != inode) })
            }
            Change::Link { .. } => Err(MetaError::Unsupported { what: "not in this fake".to_owned() }),
        }
    }

    fn is_directory(&self, inode: InodeId) -> bool {
        self.files.get(&inode).is_none_or(|file| file.attr.kind == FileKind::Directory)
    }

    fn entries(&self, directory: InodeId) -> impl Iterator<Item = (&Name, InodeId)> {
        let all = self.names.iter().filter(move |((parent, _), _)| *parent == directory);
        all.map(|((_, name), inode)| (name, *inode))
    }

    fn remove(&mut self, parent: InodeId, name: &Name, as_directory: bool) -> MetaResult<Changed> {
        let inode = *self.names.get(&(parent, name.clone())).ok_or(MetaError::NotFound)?;
        match (as_directory, self.is_directory(inode)) {
            (false, true) => return Err(MetaError::IsDirectory),
            (true, false) => return Err(MetaError::NotDirectory),
            (true, true) if self.entries(inode).next().is_some() => return Err(MetaError::NotEmpty),
            (true, true) | (false, false) => {}
        }
        self.names.remove(&(parent, name.clone()));
        Ok(Changed::Removed { orphan: Some(inode) })
    }

    fn next_commit(&self, session: SessionId, inode: InodeId) -> u64 {
        self.commits.get(&(session, inode)).copied().unwrap_or(0) + 1
    }

    fn create(&mut self, session: SessionId, create: &Create) -> MetaResult<Changed> {
        let entry = (create.parent, create.name.clone());
        if let Some(inode) = self.names.get(&entry).copied() {
            let attr = self.files[&inode].attr.clone();
            let next_commit = self.next_commit(session, inode);
            let existing = Changed::Inode { attr, existed: true, next_commit };
            return if create.or_existing { Ok(existing) } else { Err(MetaError::Exists) };
        }
        self.last_inode += 1;
        let (inode, now) = (InodeId(self.last_inode), self.now());
        let attr = InodeAttr {
            inode,
            kind: if create.what.is_directory() { FileKind::Directory } else { FileKind::File },
            mode: create.mode,
            nlink: 1,
            uid: 1000,
            gid: 1000,
            size: ByteLen(0),
            allocated: ByteLen(0),
            rdev: 0,
            atime: now,
            mtime: now,
            ctime: now,
            content_version: 0,
        };
        self.files.insert(inode, File { attr: attr.clone(), map: ExtentMap::default() });
        self.names.insert(entry, inode);
        Ok(Changed::Inode { attr, existed: false, next_commit: 1 })
    }

    fn set_attr(&mut self, session: SessionId, set: &SetAttr) -> MetaResult<Changed> {
        let (now, next_commit) = (self.now(), self.next_commit(session, set.inode));
        let file = self.files.get_mut(&set.inode).ok_or(MetaError::Stale)?;
        if let Some(size) = set.size {
            file.map.cut(size.0, u64::MAX);
            file.attr.size = size;
            file.attr.mtime = now;
            file.attr.content_version += 1;
        }
        match set.mtime {
            Some(SetTime::At(time)) => file.attr.mtime = time,
            Some(SetTime::Now) => file.attr.mtime = now,
            None => {}
        }
        file.attr.mode = set.mode.unwrap_or(file.attr.mode);
        if set.kill_privileges {
            file.attr.mode &= !0o6000;
        }
        file.attr.ctime = now;
        Ok(Changed::Inode { attr: file.attr.clone(), existed: true, next_commit })
    }

    fn open_chunk(&mut self, session: SessionId, open: &OpenChunk) -> MetaResult<Changed> {
        if self.is_full {
            return Err(MetaError::NoSpace { what: "all chunkservers are full".to_owned() });
        }
        self.avoided.push(open.avoid.clone());
        let id = ChunkId(self.chunks.len() as u64 + 1);
        let turn = id.0 as usize % self.servers.len();
        let mut order: Vec<ServerId> = self.servers.iter().cycle().skip(turn).take(3).copied().collect();
        order.sort_by_key(|server| open.avoid.contains(server));
        order.truncate(2);
        let replicas = order.iter().map(|server| replica(*server)).collect();
        self.chunks.insert(id, Chunk { owner: session, is_open: true, committed: 0, replicas: order });
        Ok(Changed::Chunk(OpenedChunk { chunk: id, set_version: SetVersion(1), replicas }))
    }

    fn commit(&mut self, session: SessionId, commit: &CommitExtents) -> MetaResult<Changed> {
        self.commit_requests += 1;
        let refused = |what: &str| Err(MetaError::CommitRefused { what: what.to_owned() });
        let mut lengths = BTreeMap::new();
        for named in &commit.chunks {
            let chunk = self.chunks.get(&named.chunk).filter(|c| c.is_open && c.owner == session);
            let chunk = chunk.ok_or(MetaError::ChunkNotOpen { chunk: named.chunk })?;
            lengths.insert(named.chunk, chunk.committed.max(named.up_to.0));
        }
        for file in &commit.files {
            assert!(file.extents.len() <= COMMIT_EXTENTS_MAX);
            if !self.files.contains_key(&file.inode) {
                return Err(MetaError::Stale);
            }
            if file.number != self.next_commit(session, file.inode) {
                return refused("number");
            }
            let fits = |e: &dfs_proto::extent::Extent| {
                lengths.get(&e.chunk).is_some_and(|len| e.chunk_offset.0 + e.len <= *len)
            };
            if !file.extents.iter().all(fits) {
                return refused("extent beyond its chunk");
            }
        }
        let mut attrs = Vec::new();
        for file in &commit.files {
            self.commits.insert((session, file.inode), file.number);
            self.commits_extents.push(file.extents.len());
            let stored = self.files.get_mut(&file.inode).ok_or(MetaError::Stale)?;
            file.extents.iter().for_each(|extent| stored.map.overlay(*extent));
            stored.attr.size = stored.attr.size.max(file.size_at_least);
            stored.attr.mtime = file.mtime.unwrap_or(stored.attr.mtime);
            stored.attr.content_version += 1;
            if file.kill_privileges {
                stored.attr.mode &= !0o6000;
            }
            attrs.push(stored.attr.clone());
        }
        for (id, len) in lengths {
            self.chunks.get_mut(&id).ok_or(MetaError::NotFound)?.committed = len;
        }
        Ok(Changed::Committed { attrs })
    }

    fn read(&mut self, request: &ReadRequest) -> MetaResult<ReadReply> {
        self.check_session(request.session)?;
        self.lookups += u64::from(matches!(request.read, Read::Lookup { .. }));
        self.reads += 1;
        let file = |inode: &InodeId| self.files.get(inode).ok_or(MetaError::Stale);
        match &request.read {
            Read::Lookup { parent, .. } if !self.is_directory(*parent) => Err(MetaError::NotDirectory),
            Read::Lookup { parent, name } => {
                let name = Name::new(name.clone()).map_err(|_| MetaError::NotFound)?;
                let inode = self.names.get(&(*parent, name)).ok_or(MetaError::NotFound)?;
                Ok(ReadReply::Attr(file(inode)?.attr.clone()))
            }
            Read::GetAttr { inode } => Ok(ReadReply::Attr(file(inode)?.attr.clone())),
            Read::Open { inode, .. } => Ok(ReadReply::Opened {
                attr: file(inode)?.attr.clone(),
                next_commit: self.next_commit(request.session, *inode),
            }),
            Read::Extents { inode, offset, len, .. } => {
                let file = file(inode)?;
                let end = offset.0.saturating_add(*len);
                let extents: Vec<_> = file.map.range(offset.0, end).collect();
                let named: BTreeSet<ChunkId> = extents.iter().map(|e| e.chunk).collect();
                let chunks = named.iter().map(|id| self.location(*id)).collect();
                let attr = file.attr.clone();
                Ok(ReadReply::Extents(FileExtents { attr, extents, up_to: Offset(end), chunks }))
            }
            Read::ReadDir { inode, cookie, limit, .. } => {
                let entries = self.entries(*inode).enumerate().skip(*cookie as usize);
                let entries = entries.map(|(index, (name, inode))| DirEntry {
                    name: name.clone(),
                    inode,
                    kind: self.files[&inode].attr.kind,
                    cookie: index as u64 + 1,
                    attr: Some(self.files[&inode].attr.clone()),
                });
                let mut entries: Vec<_> = entries.take(*limit as usize + 1).collect();
                let end = entries.len() <= *limit as usize;
                entries.truncate(*limit as usize);
                Ok(ReadReply::Entries { entries, end, parent: InodeId::ROOT })
            }
            Read::Access { .. } | Read::ReadLink { .. } | Read::StatFs { .. } => {
                Err(MetaError::Unsupported { what: "not in this fake".to_owned() })
            }
        }
    }

    fn location(&self, chunk: ChunkId) -> ChunkLocation {
        let known = &self.chunks[&chunk];
        ChunkLocation {
            chunk,
            set_version: SetVersion(1),
            committed: ByteLen(known.committed),
            sealed: !known.is_open,
            replicas: known.replicas.iter().map(|server| replica(*server)).collect(),
        }
    }
}

fn replica(server: ServerId) -> Replica {
    Replica { server, address: format!("server-{}:1", server.0) }
}

/// Adds the directories that a change altered: this fake names none.
fn told(result: MetaResult<Changed>) -> MetaResult<(Changed, Vec<InodeAttr>)> {
    result.map(|changed| (changed, Vec::new()))
}

#[async_trait]
impl MetaCalls for FakeMeta {
    async fn open_session(&self, _open: OpenSession, _timeout: Duration) -> MetaResult<SessionOpened> {
        let mut state = self.state();
        state.last_session += 1;
        let session = SessionId(state.last_session);
        state.alive.insert(session);
        let now = state.now();
        Ok(SessionOpened {
            session,
            cluster: CLUSTER,
            incarnation: Incarnation(1),
            root: InodeId::ROOT,
            copies: 2,
            heartbeat_interval_ms: 1000,
            now,
        })
    }

    async fn renew(&self, renew: RenewSession, _timeout: Duration) -> MetaResult<SessionRenewed> {
        let mut state = self.state();
        state.check_session(renew.session)?;
        Ok(SessionRenewed { now: state.now(), metaservers: vec!["meta-1:1".to_owned()] })
    }

    async fn close_session(&self, close: RenewSession, _timeout: Duration) -> MetaResult<()> {
        self.state().alive.remove(&close.session);
        Ok(())
    }

    async fn change(&self, request: ChangeRequest, timeout: Duration) -> Answer {
        sleep(DELAY).await;
        let (is_request_lost, is_answer_lost) = self.state().loses(&request.change);
        if let (Some(refused), Change::Create(_)) = (self.state().refuses_creates.clone(), &request.change) {
            return Answer { answered: Err(refused), is_first_try: true };
        }
        self.hold(&request.change).await;
        let result = (!is_request_lost).then(|| self.state().change(&request));
        match result.filter(|_| !is_answer_lost) {
            Some(result) => Answer { answered: told(result), is_first_try: true },
            None => {
                sleep(timeout).await;
                let result = Err(MetaError::Unavailable { what: "no answer in time".to_owned() });
                Answer { answered: told(result), is_first_try: false }
            }
        }
    }

    async fn read(&self, request: ReadRequest, _timeout: Duration) -> MetaResult<ReadReply> {
        sleep(DELAY).await;
        self.state().read(&request)
    }

    async fn report(&self, report: ReplicaReport, _timeout: Duration) -> MetaResult<()> {
        self.state().reports.push(report);
        Ok(())
    }

    fn learn(&self, _cluster: ClusterId, _metaservers: &[String]) {}
}
