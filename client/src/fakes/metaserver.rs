//! A metaserver: the state machine itself over a map in memory, without Raft. It loses requests and answers when told to.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use dfs_proto::attr::{Caller, InodeAttr, Name, Timestamp};
use dfs_proto::error::MetaError;
use dfs_proto::ids::{Attachment, ChunkId, ClusterId, DirectoryId, InodeId, ServerId, SessionId, VolumeId};
use dfs_proto::meta::{
    Change, ChangeRequest, Changed, Create, Dropped, FileExtents, MetaResult, OpenChunk, OpenSession, Read,
    ReadReply, ReadRequest, RenewSession, Replica, ReplicaReport, SessionOpened, SessionRenewed, Shown,
};
use dfs_proto::scope::NameIn;
use dfs_proto::units::{COMMIT_EXTENTS_MAX, Offset, REQUEST_WINDOW};
use dfs_state::command::{
    Command, InitCluster, NamedInode, Proposed, RegisterServer, Reply, RootAttr, ServerAddresses,
};
use dfs_state::kv::memory::MemoryKv;
use dfs_state::kv::{Kv as _, Snapshot, Txn};
use dfs_state::read;
use dfs_state::time::StateTime;
use dfs_state::value::chunk::{ChunkRecord, ChunkState};
use tokio::time::{Instant, sleep};

use crate::fakes::leader::{Leader, away, pause};
use crate::fakes::leases::Touched;
use crate::session::calls::Answer;

const CLUSTER: ClusterId = ClusterId(77);
/// Of every answer, so that requests overlap.
pub(super) const DELAY: Duration = Duration::from_millis(1);
/// Replicas of a chunk.
const COPIES: u32 = 2;

pub(crate) struct State {
    kv: MemoryKv,
    servers: Vec<ServerId>,
    /// Chunks whose replicas are elsewhere by now; no command of the state does that yet.
    moved: BTreeMap<ChunkId, Vec<ServerId>>,
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
    /// Requests that were held.
    held_requests: Vec<(ChangeRequest, Option<Dropped>)>,
    pub(crate) is_full: bool,
    /// Who has which file open.
    opened: BTreeSet<(InodeId, SessionId)>,
    pub(crate) commit_requests: u64,
    pub(crate) commits_extents: Vec<usize>,
    pub(crate) changes: u64,
    pub(crate) lookups: u64,
    pub(crate) reads: u64,
    pub(crate) extents_asked_for: u64,
    pub(crate) extents_near_asked_for: u64,
    /// Its answers to opens bring no extents.
    pub(crate) is_of_earlier_release: bool,
    pub(crate) reports: Vec<ReplicaReport>,
    pub(crate) released: Vec<InodeId>,
    pub(crate) avoided: Vec<Vec<ServerId>>,
    pub(crate) leader: Leader,
}

pub(crate) struct FakeMeta(Mutex<State>);

impl FakeMeta {
    pub(crate) fn new(servers: &[ServerId]) -> Arc<FakeMeta> {
        let mut state = State {
            kv: MemoryKv::default(),
            servers: servers.to_vec(),
            moved: BTreeMap::new(),
            clock: 1000,
            lost_commit_answers: 0,
            lost_commits: 0,
            refuses_creates: None,
            held: BTreeSet::new(),
            holds: 0,
            held_requests: Vec::new(),
            is_full: false,
            opened: BTreeSet::new(),
            commit_requests: 0,
            commits_extents: Vec::new(),
            changes: 0,
            lookups: 0,
            reads: 0,
            extents_asked_for: 0,
            extents_near_asked_for: 0,
            is_of_earlier_release: false,
            reports: Vec::new(),
            released: Vec::new(),
            avoided: Vec::new(),
            leader: Leader::default(),
        };
        state.make_cluster();
        Arc::new(FakeMeta(Mutex::new(state)))
    }

    pub(crate) fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap()
    }

    /// Its sessions end, and what they had open is sealed.
    pub(crate) fn expire_all(&self) {
        let mut state = self.state();
        for (session, _) in state.view(read::sessions) {
            state.execute(Command::ExpireSession { session });
            state.leader.end(session);
        }
        while let Reply::Worked { more: true, .. } = state.execute(Command::Reap { limit: 100 }) {}
    }

    /// As long as a name is held; its caller may give up.
    async fn hold(&self, request: &ChangeRequest, dropped: &Option<Dropped>) {
        let Change::Create(Create { name, .. }) = &request.change else { return };
        if self.state().held.contains(name) {
            let mut state = self.state();
            state.holds += 1;
            state.held_requests.push((request.clone(), dropped.clone()));
        }
        while self.state().held.contains(name) {
            sleep(DELAY).await;
        }
    }

    /// The last create that was held arrives now, if it was lost with its caller. Returns what it made.
    pub(crate) fn execute_late(&self) -> InodeId {
        let mut state = self.state();
        let (request, dropped) = state.held_requests.pop().expect("a request was held");
        match state.change(request, dropped) {
            Ok(Changed::Inode { attr, .. }) => attr.inode,
            other => panic!("a late create is answered {other:?}"),
        }
    }

    /// As the leader does when a replica is away.
    pub(crate) fn seal_all(&self) {
        let mut state = self.state();
        let chunks = state.open_chunks();
        state.execute(Command::SealChunks { chunks });
    }

    pub(crate) fn open_chunks(&self) -> usize {
        self.state().open_chunks().len()
    }

    pub(crate) fn chunks_made(&self) -> usize {
        self.state().view(read::chunks).len()
    }

    pub(crate) fn attr(&self, inode: InodeId) -> InodeAttr {
        self.state().view(|view| read::getattr(view, inode)).unwrap()
    }

    /// A volume in this cluster, without a name. Returns its root.
    pub(crate) fn make_volume(&self, volume: VolumeId) -> InodeId {
        let root = RootAttr { mode: 0o777, uid: 0, gid: 0 };
        match self.state().execute(Command::MakeVolume { volume, root }) {
            Reply::VolumeRoot(attr) => attr.inode,
            other => panic!("{volume} is not made: {other:?}"),
        }
    }

    /// Every chunk that has bytes of the file.
    pub(crate) fn chunks_of(&self, inode: InodeId) -> BTreeSet<ChunkId> {
        let all = self.state().view(|view| read::extents(view, inode, Offset(0), u64::MAX, u32::MAX));
        all.unwrap().extents.iter().map(|extent| extent.chunk).collect()
    }

    pub(crate) fn volume_of(&self, chunk: ChunkId) -> Option<VolumeId> {
        self.state().view(|view| read::chunk(view, chunk)).unwrap().volume
    }

    /// The invariants of the state that do not hold.
    pub(crate) fn faults(&self) -> Vec<String> {
        self.state().view(dfs_state::check)
    }

    /// The first chunk of a file, and where in it the file starts.
    pub(crate) fn first_extent(&self, inode: InodeId) -> (ChunkId, u64) {
        let found = self.state().view(|view| read::extents(view, inode, Offset(0), 1, 1)).unwrap();
        (found.extents[0].chunk, found.extents[0].chunk_offset.0)
    }

    pub(crate) fn replicas(&self, chunk: ChunkId) -> Vec<ServerId> {
        self.state().view(|view| read::chunk(view, chunk)).unwrap().replicas
    }

    pub(crate) fn move_replicas(&self, chunk: ChunkId, replicas: Vec<ServerId>) {
        self.state().moved.insert(chunk, replicas);
    }
}

impl State {
    fn make_cluster(&mut self) {
        let made = self.execute(Command::InitCluster(InitCluster {
            cluster: CLUSTER,
            name: "fake".to_owned(),
            copies: COPIES,
            copies_min: 1,
            hash_key: 0x9abc_def0,
            root: RootAttr { mode: 0o777, uid: 0, gid: 0 },
        }));
        assert_eq!(made, Reply::Done);
        for server in self.servers.clone() {
            let addresses = ServerAddresses { frames: address(server), ..ServerAddresses::default() };
            let directory = DirectoryId(server.0.into());
            let register = RegisterServer { server: None, directory, addresses, zone: String::new() };
            match self.execute(Command::RegisterServer(register)) {
                Reply::Registered(registered) => assert_eq!(registered.server, server),
                other => panic!("{server} is not registered: {other:?}"),
            }
        }
    }

    pub(crate) fn now(&mut self) -> Timestamp {
        self.clock += 1;
        Timestamp { seconds: self.clock, nanos: 0 }
    }

    pub(super) fn view<T>(&self, look: impl FnOnce(&dyn Snapshot) -> T) -> T {
        look(&*self.kv.snapshot())
    }

    fn execute(&mut self, command: Command) -> Reply {
        let wall = self.now();
        let proposed = Proposed::At { wall, state: StateTime { seconds: wall.seconds, nanos: 0 } };
        let (reply, batch) = {
            let base = self.kv.snapshot();
            let mut txn = Txn::new(&*base);
            let reply = dfs_state::apply(&command, proposed, &mut txn);
            (reply, txn.into_batch())
        };
        self.kv.write(batch).unwrap();
        reply
    }

    fn open_chunks(&self) -> Vec<ChunkId> {
        let is_open = |(chunk, record): (ChunkId, ChunkRecord)| match record.state {
            ChunkState::Open { .. } => Some(chunk),
            ChunkState::Sealed | ChunkState::Dead { .. } | ChunkState::Deleting { .. } => None,
        };
        self.view(read::chunks).into_iter().filter_map(is_open).collect()
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

    fn change(&mut self, request: ChangeRequest, dropped: Option<Dropped>) -> MetaResult<Changed> {
        self.changes += 1;
        assert!(request.answered_below <= request.request);
        assert_eq!(request.answered_below.lane(), request.request.lane());
        assert!(request.request.0 < request.answered_below.0 + REQUEST_WINDOW);
        let placement = match &request.change {
            Change::OpenChunk(open) => self.place(open)?,
            _ => Vec::new(),
        };
        let (change, session) = (request.change.clone(), request.session);
        let touched = self.touched(&change);
        self.leader.recall((session, dropped), &touched);
        let behind = self.view(|view| read::behind(view, &change));
        let named = behind.iter().map(|behind| {
            let openers = || self.openers(behind.inode);
            NamedInode { inode: behind.inode, openers: behind.loses_last_name.then(openers) }
        });
        let (volumes, named) = (Vec::new(), Some(named.collect()));
        let reply = self.execute(Command::Change { request, placement, volumes, named });
        let result = match reply {
            Reply::Changed(result) => result.map(|answered| answered.changed),
            Reply::Refused(refused) => Err(refused),
            other => panic!("a change is answered {other:?}"),
        };
        if let (Change::Create(Create { opens: true, .. }), Ok(Changed::Inode { attr, .. })) =
            (&change, &result)
        {
            self.opened.insert((attr.inode, session));
        }
        self.note(&change, result.is_ok());
        if let (Change::Create(_), Ok(Changed::Inode { attr, .. })) = (&change, &result) {
            self.leader.opened(session, attr.inode);
        }
        result
    }

    /// What a change alters.
    pub(super) fn touched(&self, change: &Change) -> Touched {
        let scope = change.scope();
        let find = |(directory, name): &NameIn| {
            self.view(|view| read::lookup(view, &Caller::ROOT, *directory, name)).ok().map(|attr| attr.inode)
        };
        let behind = scope.behind.keys().filter_map(find).collect();
        Touched { named: scope.inodes, names: scope.names, behind }
    }

    fn openers(&self, inode: InodeId) -> Vec<SessionId> {
        let of_file = (inode, SessionId(0))..=(inode, SessionId(u64::MAX));
        self.opened.range(of_file).map(|(_, session)| *session).collect()
    }

    fn closed(&mut self, session: SessionId, inodes: Vec<InodeId>) {
        for inode in &inodes {
            self.opened.remove(&(*inode, session));
        }
        self.execute(Command::ReleaseFor { session, inodes });
    }

    /// For the tests that count.
    fn note(&mut self, change: &Change, is_done: bool) {
        match change {
            Change::CommitExtents(commit) => {
                self.commit_requests += 1;
                for file in commit.files.iter().filter(|_| is_done) {
                    assert!(file.extents.len() <= COMMIT_EXTENTS_MAX);
                    self.commits_extents.push(file.extents.len());
                }
            }
            Change::ReleaseOrphans { inodes } if is_done => self.released.extend(inodes),
            _ => {}
        }
    }

    /// The servers in turn, those to be avoided last.
    fn place(&mut self, open: &OpenChunk) -> MetaResult<Vec<ServerId>> {
        if self.is_full {
            return Err(MetaError::NoSpace { what: "all chunkservers are full".to_owned() });
        }
        self.avoided.push(open.avoid.clone());
        let turn = (self.view(read::chunks).len() + 1) % self.servers.len();
        let in_turn = self.servers.iter().cycle().skip(turn).take(self.servers.len());
        let mut order: Vec<ServerId> = in_turn.copied().collect();
        order.sort_by_key(|server| open.avoid.contains(server));
        order.truncate(COPIES as usize);
        Ok(order)
    }

    /// Answers a read, with leases on what is shown, but not on what has no name.
    pub(super) fn shown(&mut self, request: &ReadRequest) -> Shown {
        let answered = self.read(request);
        let mut shown = request.read.scope().inodes;
        match &answered {
            Ok(ReadReply::Attr(attr)) => drop(shown.insert(attr.inode)),
            Ok(ReadReply::Entries { entries, .. }) => {
                shown.extend(entries.iter().filter(|entry| entry.attr.is_some()).map(|entry| entry.inode));
            }
            Err(error) if *error != MetaError::NotFound => shown.clear(),
            Ok(_) | Err(_) => {}
        }
        let has_name =
            |inode: InodeId| self.view(|view| read::getattr(view, inode)).is_ok_and(|attr| attr.nlink > 0);
        shown.retain(|inode| has_name(*inode));
        let shown: Vec<InodeId> = shown.into_iter().collect();
        let leased = self.leader.give_leases(request.session, request.leases, &shown);
        Shown { answered, leased }
    }

    /// What the answer to a change shows of these directories, and what of it, and of what was made, is leased.
    fn shown_by_change(
        &mut self,
        (session, attachment): (SessionId, Option<Attachment>),
        directories: Vec<InodeId>,
        result: &MetaResult<Changed>,
    ) -> (Vec<InodeAttr>, Vec<InodeId>) {
        let Ok(changed) = result else { return Default::default() };
        let attr = |inode| self.view(|view| read::getattr(view, inode)).ok();
        let directories: Vec<InodeAttr> = directories.into_iter().filter_map(attr).collect();
        let made = match changed {
            Changed::Inode { attr, existed: false, .. } => Some(attr),
            _ => None,
        };
        let shown: Vec<InodeId> = directories.iter().chain(made).map(|attr| attr.inode).collect();
        let leased = self.leader.give_leases(session, attachment, &shown);
        (directories, leased)
    }

    fn read(&mut self, request: &ReadRequest) -> MetaResult<ReadReply> {
        self.lookups += u64::from(matches!(request.read, Read::Lookup { .. }));
        self.reads += 1;
        self.extents_asked_for += u64::from(matches!(request.read, Read::Extents { .. }));
        self.extents_near_asked_for += u64::from(matches!(request.read, Read::ExtentsNear { .. }));
        if let Read::Open { inode, .. } = request.read {
            self.leader.opened(request.session, inode);
        }
        let mut reply = self.view(|view| read::answer(view, request))?;
        if let Read::Open { inode, .. } = request.read {
            self.opened.insert((inode, request.session));
        }
        if let ReadReply::Opened { extents, .. } = &mut reply
            && self.is_of_earlier_release
        {
            *extents = None;
        }
        let extents = match &mut reply {
            ReadReply::Extents(extents) => Some(extents),
            ReadReply::Opened { extents, .. } => extents.as_mut(),
            _ => None,
        };
        if let Some(FileExtents { chunks, .. }) = extents {
            for location in chunks {
                if let Some(servers) = self.moved.get(&location.chunk) {
                    location.replicas = servers.iter().map(|server| replica(*server)).collect();
                }
            }
        }
        Ok(reply)
    }

    pub(super) fn require_session(&self, session: SessionId) -> MetaResult<()> {
        let known = self.view(|view| read::session(view, session));
        known.map(drop).ok_or(MetaError::SessionExpired { session })
    }
}

fn address(server: ServerId) -> String {
    format!("server-{}:1", server.0)
}

fn replica(server: ServerId) -> Replica {
    Replica { server, address: address(server) }
}

/// What its clients ask (`leader`).
impl FakeMeta {
    pub(super) fn open_session(&self, open: OpenSession) -> SessionOpened {
        let mut state = self.state();
        let reply = state.execute(Command::OpenSession { nonce: open.nonce, client: open.client });
        let Reply::SessionOpened(opened) = reply else { panic!("no session: {reply:?}") };
        SessionOpened {
            session: opened.session,
            cluster: opened.cluster,
            incarnation: opened.incarnation,
            root: InodeId::ROOT,
            copies: COPIES,
            heartbeat_interval_ms: 1000,
            now: state.now(),
        }
    }

    pub(super) fn renewed(&self, renew: &RenewSession) -> MetaResult<SessionRenewed> {
        let mut state = self.state();
        state.require_session(renew.session)?;
        state.closed(renew.session, renew.closed.clone());
        let is_attached = state.leader.renew(renew).ok_or_else(away)?;
        Ok(SessionRenewed {
            now: state.now(),
            metaservers: vec!["meta-1:1".to_owned()],
            is_attached,
            recalls: state.leader.leases.issued(renew.session),
            has_room: true,
        })
    }

    pub(super) fn close_session(&self, session: SessionId) {
        let mut state = self.state();
        state.execute(Command::CloseSession { session });
        state.leader.end(session);
    }

    pub(super) async fn change(
        &self,
        request: ChangeRequest,
        dropped: Option<Dropped>,
        timeout: Duration,
    ) -> Answer {
        sleep(DELAY).await;
        let (is_request_lost, is_answer_lost) = self.state().loses(&request.change);
        if let (Some(refused), Change::Create(_)) = (self.state().refuses_creates.clone(), &request.change) {
            return Answer::refused(refused, true);
        }
        self.hold(&request, &dropped).await;
        if !self.wait_for_writers(&request, timeout).await {
            return Answer::refused(away(), true);
        }
        let is_create = matches!(request.change, Change::Create(_));
        let wish = dropped.clone();
        let session = request.session;
        let result = (!is_request_lost).then(|| {
            let mut state = self.state();
            let is_covered = state.require_written_under(&request, &dropped);
            let directories = request.change.scope().directories();
            let result = is_covered.and_then(|()| state.change(request, dropped));
            let attachment = wish.as_ref().map(|wish| wish.attachment);
            let (directories, leased) = state.shown_by_change((session, attachment), directories, &result);
            let writes = state.give_write_of_new(session, &result, wish);
            (result.map(|changed| (changed, directories)), writes, leased)
        });
        let delay = self.state().leader.change_answer_delay;
        pause(delay).await;
        let delay = if is_create { self.state().leader.create_answer_delay } else { Duration::ZERO };
        pause(delay.min(timeout)).await;
        match result.filter(|_| !is_answer_lost && delay < timeout) {
            Some((answered, writes, leased)) => Answer { answered, is_first_try: true, writes, leased },
            None => {
                sleep(timeout).await;
                Answer::refused(MetaError::Unavailable { what: "no answer in time".to_owned() }, false)
            }
        }
    }

    pub(super) async fn read(&self, request: ReadRequest, timeout: Duration) -> Shown {
        let deadline = Instant::now() + timeout;
        sleep(DELAY).await;
        loop {
            let (shown, delay) = {
                let mut state = self.state();
                (state.shown_if_unwritten(&request), state.leader.read_answer_delay)
            };
            if let Some(shown) = shown {
                pause(delay).await;
                return shown;
            }
            if Instant::now() >= deadline {
                return Shown::without_leases(Err(away()));
            }
            sleep(DELAY).await;
        }
    }
}
