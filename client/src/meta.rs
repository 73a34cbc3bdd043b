//! The cluster's metadata: one method per operation.
//!
//! M1  A change keeps its request id over every try, so that it happens once (P8.1). It is not sent again under another
//!     session, unless its first try was the one that was told so: then it certainly did not happen.
//! M2  A session that has ended is replaced by the first request that is told so; the others wait for that.
//! M3  When the cluster has not answered one by its deadline, or no heartbeat for as long, what callers ask fails at once,
//!     until it was heard again: by the heartbeat, which goes on. What commits their bytes does not: it is worth waiting for.
//! Every call ends by `metadata_timeout`. Not here: what the answers mean for open files (`node`).

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use dfs_net::env::Env;
use dfs_proto::attr::{AccessMask, Caller, InodeAttr, Name, Timestamp};
use dfs_proto::error::MetaError;
use dfs_proto::ids::{ChunkId, ClusterId, InodeId, ServerId, SessionId, SessionNonce};
use dfs_proto::meta::{
    Change, ChangeRequest, Changed, CommitExtents, Create, FileExtents, MetaResult, OpenChunk, OpenSession,
    OpenedChunk, Read, ReadReply, ReadRequest, Rename, RenewSession, ReplicaProblem, ReplicaReport,
    SessionOpened, SessionRenewed, SetAttr, StatFs,
};
use dfs_proto::units::{ByteLen, Offset};
use tokio::time::Instant;

use crate::cluster::Found;
use crate::fresh::Fresh;
use crate::session::Session;
use crate::{Created, DirPage};

/// A chunkserver that failed is reported once; an answer is of no use, so it is not waited for long.
const REPORT_TIMEOUT: Duration = Duration::from_secs(3);
/// So long at most was an answer on its way, as far as the estimate of the cluster's clock goes.
const ANSWER_WAY_MAX: Duration = Duration::from_millis(50);

/// What a change answered, with the directories that it altered, and whether only one try was made: then a refusal means
/// that nothing happened.
pub(crate) struct Answer {
    pub(crate) answered: MetaResult<(Changed, Vec<InodeAttr>)>,
    pub(crate) is_first_try: bool,
}

/// What the cluster's clock showed, and when that was by this machine's CLOCK_BOOTTIME.
#[derive(Clone, Copy)]
struct ClusterClock {
    wall: Timestamp,
    at: Duration,
}

impl ClusterClock {
    /// The leader read it between the two; in the middle, if that was one try. A call that was repeated was answered by its
    /// last try, so that what came before says nothing.
    fn shown(wall: Timestamp, sent: Duration, answered: Duration) -> ClusterClock {
        let way = (answered.saturating_sub(sent) / 2).min(ANSWER_WAY_MAX);
        ClusterClock { wall, at: answered.saturating_sub(way) }
    }
}

/// The calls as they travel: the seam that gRPC and the tests' metaserver fill.
#[async_trait]
pub(crate) trait MetaCalls: Send + Sync + 'static {
    async fn open_session(&self, open: OpenSession, timeout: Duration) -> MetaResult<SessionOpened>;
    async fn renew(&self, renew: RenewSession, timeout: Duration) -> MetaResult<SessionRenewed>;
    async fn close_session(&self, close: RenewSession, timeout: Duration) -> MetaResult<()>;
    async fn change(&self, request: ChangeRequest, timeout: Duration) -> Answer;
    async fn read(&self, request: ReadRequest, timeout: Duration) -> MetaResult<ReadReply>;
    async fn report(&self, report: ReplicaReport, timeout: Duration) -> MetaResult<()>;
    /// Takes over the list of members that the cluster gave.
    fn learn(&self, cluster: ClusterId, metaservers: &[String]);
}

/// See the module.
pub(crate) struct MetaClient {
    calls: Arc<dyn MetaCalls>,
    env: Env,
    name: String,
    timeout: Duration,
    /// M3.
    is_away: AtomicBool,
    /// Of heartbeats.
    silent_since: Mutex<Option<Instant>>,
    current: Mutex<Arc<Session>>,
    /// Held while a session is opened (M2). Never taken with another lock.
    opening: tokio::sync::Mutex<()>,
    fresh: Fresh,
    cluster_clock: Mutex<ClusterClock>,
}

impl MetaClient {
    /// Opens the first session, within `patience`. Another cluster at the same addresses refuses it, unless `cluster` is
    /// unknown.
    pub(crate) async fn connect(
        calls: Arc<dyn MetaCalls>,
        env: Env,
        name: String,
        cluster: ClusterId,
        (timeout, patience): (Duration, Duration),
    ) -> MetaResult<MetaClient> {
        let sent = env.clock.boottime();
        let opened = open(calls.as_ref(), &env, &name, cluster, patience).await?;
        let cluster_clock = ClusterClock::shown(opened.now, sent, env.clock.boottime());
        let fresh = Fresh::new(env.clock.clone());
        let client = MetaClient {
            calls,
            env,
            name,
            timeout,
            is_away: AtomicBool::new(false),
            silent_since: Mutex::new(None),
            current: Mutex::new(Session::new(opened)),
            opening: tokio::sync::Mutex::new(()),
            fresh,
            cluster_clock: Mutex::new(cluster_clock),
        };
        Ok(client)
    }

    /// Keeps M3.
    fn require_heard(&self) -> MetaResult<()> {
        match self.is_away.load(Ordering::Relaxed) {
            true => Err(MetaError::Unavailable { what: "the cluster did not answer lately".to_owned() }),
            false => Ok(()),
        }
    }

    /// Keeps M3. Only an answer that never came is `Unavailable`: the calls try again until their deadline.
    fn note<T>(&self, result: &MetaResult<T>) {
        let is_away = matches!(result, Err(MetaError::Unavailable { .. }));
        if self.is_away.swap(is_away, Ordering::Relaxed) != is_away {
            tracing::warn!("the cluster {}", if is_away { "does not answer" } else { "answers again" });
        }
    }

    /// Keeps M3.
    fn note_heartbeat<T>(&self, answer: &MetaResult<T>) {
        let mut silent_since = self.silent_since.lock().unwrap_or_else(PoisonError::into_inner);
        if !matches!(answer, Err(MetaError::Unavailable { .. })) {
            *silent_since = None;
            self.note(&Ok(()));
        } else if silent_since.get_or_insert_with(Instant::now).elapsed() >= self.timeout {
            self.note(answer);
        }
    }

    /// The federation says where the cluster's metaservers are.
    pub(crate) fn learn(&self, metaservers: &[String]) {
        self.calls.learn(self.session().opened.cluster, metaservers);
    }

    pub(crate) fn session(&self) -> Arc<Session> {
        self.current.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(crate) fn session_id(&self) -> SessionId {
        self.session().id()
    }

    /// The cluster's clock, as its answers estimate it: what a write's mtime is taken from (P6.3). Whatever this machine's
    /// wall clock shows, nobody sees it (P7.1).
    pub(crate) fn cluster_now(&self) -> Timestamp {
        let clock = self.cluster_clock.lock().unwrap_or_else(PoisonError::into_inner);
        clock.wall.after(self.env.clock.boottime().saturating_sub(clock.at))
    }

    fn set_clock(&self, shown: Timestamp, sent: Duration) {
        let clock = ClusterClock::shown(shown, sent, self.env.clock.boottime());
        *self.cluster_clock.lock().unwrap_or_else(PoisonError::into_inner) = clock;
    }

    /// One heartbeat. A session that has ended is replaced.
    pub(crate) async fn renew(&self) -> MetaResult<()> {
        let session = self.session();
        let cluster = session.opened.cluster;
        let sent = self.env.clock.boottime();
        let renew = RenewSession { cluster, session: session.id() };
        let answer = self.calls.renew(renew, self.heartbeat_interval().max(REPORT_TIMEOUT)).await;
        self.note_heartbeat(&answer);
        match answer {
            Ok(renewed) => {
                self.set_clock(renewed.now, sent);
                self.calls.learn(cluster, &renewed.metaservers);
                Ok(())
            }
            Err(MetaError::SessionExpired { session }) => self.replace(session).await.map(drop),
            Err(error) => Err(error),
        }
    }

    pub(crate) fn heartbeat_interval(&self) -> Duration {
        let millis = self.session().opened.heartbeat_interval_ms;
        Duration::from_millis(millis.clamp(100, 60_000))
    }

    pub(crate) async fn close(&self, timeout: Duration) -> MetaResult<()> {
        let session = self.session();
        let close = RenewSession { cluster: session.opened.cluster, session: session.id() };
        self.calls.close_session(close, timeout).await
    }

    /// Opens a session in place of `lost`, unless that was done meanwhile (keeps M2, S3).
    async fn replace(&self, lost: SessionId) -> MetaResult<Arc<Session>> {
        let _opening = self.opening.lock().await;
        let current = self.session();
        if current.id() != lost {
            return Ok(current);
        }
        tracing::warn!(session = lost.0, "the session has ended; what was not committed is lost");
        let (cluster, sent) = (current.opened.cluster, self.env.clock.boottime());
        let opened = open(self.calls.as_ref(), &self.env, &self.name, cluster, self.timeout).await?;
        self.set_clock(opened.now, sent);
        let session = Session::new(opened);
        *self.current.lock().unwrap_or_else(PoisonError::into_inner) = session.clone();
        Ok(session)
    }

    /// Sends a change until it is answered (M1).
    async fn change(&self, caller: &Caller, change: Change) -> MetaResult<Changed> {
        self.require_heard()?;
        let mut session = self.session();
        loop {
            let ticket = session.begin(&change).await;
            let request = ChangeRequest {
                cluster: session.opened.cluster,
                session: session.id(),
                request: ticket.id,
                answered_below: ticket.answered_below(),
                caller: caller.clone(),
                change: change.clone(),
            };
            let changing = self.fresh.begin(&change);
            let answer = self.calls.change(request, self.timeout).await;
            self.note(&answer.answered);
            match answer.answered {
                Ok((changed, directories)) => {
                    changing.answered(&changed, directories, answer.is_first_try);
                    return Ok(changed);
                }
                Err(MetaError::SessionExpired { session: lost }) => {
                    let replaced = self.replace(session.id()).await;
                    if !answer.is_first_try {
                        return Err(MetaError::SessionExpired { session: lost }); // keeps M1
                    }
                    session = replaced?;
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// The same for what belongs to `owner`, a session: refused once that one has ended.
    async fn change_of(&self, owner: SessionId, change: Change) -> MetaResult<Changed> {
        let session = self.session();
        if session.id() != owner {
            return Err(MetaError::SessionExpired { session: owner });
        }
        let ticket = session.begin(&change).await;
        let request = ChangeRequest {
            cluster: session.opened.cluster,
            session: owner,
            request: ticket.id,
            answered_below: ticket.answered_below(),
            caller: Caller::ROOT,
            change,
        };
        let _changing = self.fresh.begin(&request.change);
        let answer = self.calls.change(request, self.timeout).await;
        if let Err(MetaError::SessionExpired { .. }) = answer.answered {
            self.replace(owner).await?;
        }
        answer.answered.map(|(changed, _)| changed)
    }

    async fn read(&self, caller: &Caller, read: Read) -> MetaResult<ReadReply> {
        self.require_heard()?;
        let mut session = self.session();
        loop {
            let request = ReadRequest {
                cluster: session.opened.cluster,
                session: session.id(),
                caller: caller.clone(),
                read: read.clone(),
            };
            let answer = self.calls.read(request, self.timeout).await;
            self.note(&answer);
            match answer {
                Err(MetaError::SessionExpired { .. }) => session = self.replace(session.id()).await?,
                result => return result,
            }
        }
    }

    pub(crate) async fn lookup(&self, caller: &Caller, parent: InodeId, name: &[u8]) -> MetaResult<Found> {
        match self.read(caller, Read::Lookup { parent, name: name.to_vec() }).await? {
            ReadReply::Attr(attr) => Ok(Found::Here(attr)),
            ReadReply::Elsewhere(inode) => Ok(Found::Elsewhere(inode)),
            other => Err(unexpected(&other)),
        }
    }

    pub(crate) async fn getattr(&self, caller: &Caller, inode: InodeId) -> MetaResult<InodeAttr> {
        match self.read(caller, Read::GetAttr { inode }).await? {
            ReadReply::Attr(attr) => Ok(attr),
            other => Err(unexpected(&other)),
        }
    }

    /// As a change has just told them, if one has.
    pub(crate) fn fresh_attr(&self, inode: InodeId) -> Option<InodeAttr> {
        self.fresh.get(inode)
    }

    pub(crate) async fn access(&self, caller: &Caller, inode: InodeId, mask: AccessMask) -> MetaResult<()> {
        match self.read(caller, Read::Access { inode, mask }).await? {
            ReadReply::Granted => Ok(()),
            other => Err(unexpected(&other)),
        }
    }

    /// The attributes and the number of the next commit (P2.1).
    pub(crate) async fn open(
        &self,
        caller: &Caller,
        inode: InodeId,
        mask: AccessMask,
    ) -> MetaResult<(InodeAttr, u64)> {
        match self.read(caller, Read::Open { inode, mask }).await? {
            ReadReply::Opened { attr, next_commit } => Ok((attr, next_commit)),
            other => Err(unexpected(&other)),
        }
    }

    pub(crate) async fn readlink(&self, caller: &Caller, inode: InodeId) -> MetaResult<Vec<u8>> {
        match self.read(caller, Read::ReadLink { inode }).await? {
            ReadReply::Target(target) => Ok(target),
            other => Err(unexpected(&other)),
        }
    }

    pub(crate) async fn read_dir(
        &self,
        caller: &Caller,
        inode: InodeId,
        cookie: u64,
        limit: u32,
        plus: bool,
    ) -> MetaResult<DirPage> {
        match self.read(caller, Read::ReadDir { inode, cookie, limit, plus }).await? {
            ReadReply::Entries { entries, end, parent } => Ok(DirPage { entries, end, parent }),
            other => Err(unexpected(&other)),
        }
    }

    pub(crate) async fn extents(
        &self,
        inode: InodeId,
        offset: Offset,
        len: u64,
        limit: u32,
    ) -> MetaResult<FileExtents> {
        // The right to read was checked at the open and belongs to the open file (P2.4).
        match self.read(&Caller::ROOT, Read::Extents { inode, offset, len, limit }).await? {
            ReadReply::Extents(extents) => Ok(extents),
            other => Err(unexpected(&other)),
        }
    }

    pub(crate) async fn statfs(&self, inode: InodeId) -> MetaResult<StatFs> {
        match self.read(&Caller::ROOT, Read::StatFs { inode }).await? {
            ReadReply::StatFs(stat) => Ok(stat),
            other => Err(unexpected(&other)),
        }
    }

    pub(crate) async fn create(&self, caller: &Caller, create: Create) -> MetaResult<Created> {
        self.change(caller, Change::Create(create)).await.and_then(inode_of)
    }

    pub(crate) async fn link(
        &self,
        caller: &Caller,
        inode: InodeId,
        parent: InodeId,
        name: &Name,
    ) -> MetaResult<Created> {
        let link = Change::Link { inode, parent, name: name.clone() };
        self.change(caller, link).await.and_then(inode_of)
    }

    pub(crate) async fn setattr(&self, caller: &Caller, set: SetAttr) -> MetaResult<Created> {
        self.change(caller, Change::SetAttr(set)).await.and_then(inode_of)
    }

    /// Answers the inode that lost its last name, if one did.
    pub(crate) async fn unlink(
        &self,
        caller: &Caller,
        parent: InodeId,
        name: &Name,
    ) -> MetaResult<Option<InodeId>> {
        self.change(caller, Change::Unlink { parent, name: name.clone() }).await.and_then(orphan_of)
    }

    pub(crate) async fn rmdir(
        &self,
        caller: &Caller,
        parent: InodeId,
        name: &Name,
    ) -> MetaResult<Option<InodeId>> {
        self.change(caller, Change::Rmdir { parent, name: name.clone() }).await.and_then(orphan_of)
    }

    pub(crate) async fn rename(&self, caller: &Caller, rename: Rename) -> MetaResult<Option<InodeId>> {
        self.change(caller, Change::Rename(rename)).await.and_then(orphan_of)
    }

    pub(crate) async fn open_chunk(&self, owner: SessionId, open: OpenChunk) -> MetaResult<OpenedChunk> {
        match self.change_of(owner, Change::OpenChunk(open)).await? {
            Changed::Chunk(opened) => Ok(opened),
            other => Err(unexpected(&other)),
        }
    }

    pub(crate) async fn seal_chunk(&self, owner: SessionId, chunk: ChunkId) -> MetaResult<ByteLen> {
        match self.change_of(owner, Change::SealChunk { chunk }).await? {
            Changed::Sealed { committed } => Ok(committed),
            other => Err(unexpected(&other)),
        }
    }

    /// The attributes of each committed file, in order.
    pub(crate) async fn commit(&self, owner: SessionId, commit: CommitExtents) -> MetaResult<Vec<InodeAttr>> {
        let files = commit.files.len();
        match self.change_of(owner, Change::CommitExtents(commit)).await? {
            Changed::Committed { attrs } if attrs.len() == files => Ok(attrs),
            other => Err(unexpected(&other)),
        }
    }

    pub(crate) async fn release_orphans(&self, owner: SessionId, inodes: Vec<InodeId>) -> MetaResult<()> {
        self.change_of(owner, Change::ReleaseOrphans { inodes }).await.map(drop)
    }

    pub(crate) async fn report(&self, chunk: ChunkId, server: ServerId, problem: ReplicaProblem) {
        let cluster = self.session().opened.cluster;
        let report = ReplicaReport { cluster, chunk, server, problem };
        if let Err(error) = self.calls.report(report, REPORT_TIMEOUT).await {
            tracing::debug!(%chunk, %server, %error, "report a replica");
        }
    }
}

async fn open(
    calls: &dyn MetaCalls,
    env: &Env,
    name: &str,
    cluster: ClusterId,
    timeout: Duration,
) -> MetaResult<SessionOpened> {
    let nonce = SessionNonce(env.rng.u128());
    let opened = calls.open_session(OpenSession { cluster, nonce, client: name.to_owned() }, timeout).await?;
    calls.learn(opened.cluster, &[]);
    Ok(opened)
}

fn inode_of(changed: Changed) -> MetaResult<Created> {
    match changed {
        Changed::Inode { attr, existed, next_commit } => Ok(Created { attr, existed, next_commit }),
        other => Err(unexpected(&other)),
    }
}

fn orphan_of(changed: Changed) -> MetaResult<Option<InodeId>> {
    match changed {
        Changed::Removed { orphan } => Ok(orphan),
        other => Err(unexpected(&other)),
    }
}

fn unexpected(reply: &dyn std::fmt::Debug) -> MetaError {
    MetaError::Internal { what: format!("the metaserver answered something else: {reply:?}") }
}
