//! A session at one cluster: what applications do to the files of its volumes. [`Client`](crate::Client) says which cluster.

use std::sync::Arc;
use std::time::Duration;

use dfs_net::env::Env;
use dfs_net::rpc::frames::{ChunkTransport, FrameTransport};
use dfs_net::rpc::grpc::SharedIdentity;
use dfs_net::rpc::leader::LeaderChannel;
use dfs_net::rpc::{Identity, Role};
use dfs_proto::attr::{AccessMask, Caller, InodeAttr, Name};
use dfs_proto::error::MetaError;
use dfs_proto::ids::{ClusterId, InodeId};
use dfs_proto::meta::{Create, Rename, SetAttr, StatFs};
use dfs_proto::planted::{self, Bug};
use dfs_proto::units::ByteLen;
use futures::StreamExt;
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::chores::{Chores, Reopened};
use crate::chunk::ChunkClient;
use crate::commit::Committer;
use crate::core::Core;
use crate::memory::SessionMemory;
use crate::meta::{MetaCalls, MetaClient};
use crate::node::{Node, Nodes, Pin};
use crate::readahead::ReadAheadBudget;
use crate::retry::Deadline;
use crate::writer::ChunkWriter;
use crate::{ClientConfig, ClientError, Created, DirPage, File, OpenMode, Result, grpc};

/// Inodes flushed at the same time at the end.
const LAST_FLUSHES_MAX: usize = 16;
/// Of the deadline of a shutdown, kept for closing the session.
const CLOSE_TIMEOUT_MAX: Duration = Duration::from_secs(2);

/// Whoever asks for attributes waits so long for what was appended here to go behind what another client wrote.
const SETTLE_MAX: Duration = Duration::from_secs(1);

/// What a name leads to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Found {
    Here(InodeAttr),
    /// The root of a volume that another cluster has.
    Elsewhere(InodeId),
}

/// One session at one cluster. Dropping it without [`ClusterClient::shutdown`] leaves the session to expire.
pub(crate) struct ClusterClient {
    core: Arc<Core>,
}

impl ClusterClient {
    /// Opens a session at `cluster`, or at whichever is there when that is unknown, within `patience`.
    pub(crate) async fn connect(
        config: ClientConfig,
        env: Env,
        cluster: ClusterId,
        patience: Duration,
    ) -> Result<Arc<ClusterClient>> {
        let own = SharedIdentity::new(Identity { role: Role::Client, id: 0, cluster: ClusterId::UNKNOWN });
        let (addresses, connect_timeout) = (config.metaservers.clone(), config.connect_timeout);
        let leader = LeaderChannel::new(env.clone(), own.clone(), addresses, connect_timeout);
        let transport = FrameTransport::new(env.clone(), own, connect_timeout);
        let calls = Arc::new(grpc::GrpcMeta(leader));
        ClusterClient::assemble(config, env, (cluster, patience), calls, Arc::new(transport)).await
    }

    /// The same over any metaservers and chunkservers.
    pub(crate) async fn assemble(
        config: ClientConfig,
        env: Env,
        (cluster, patience): (ClusterId, Duration),
        calls: Arc<dyn MetaCalls>,
        transport: Arc<dyn ChunkTransport>,
    ) -> Result<Arc<ClusterClient>> {
        let (name, deadline) = (config.name.clone(), config.metadata_timeout);
        let connected = MetaClient::connect(calls, env.clone(), name, cluster, (deadline, patience));
        let meta = Arc::new(connected.await?);
        let chores = Chores::new();
        let chunks = Arc::new(ChunkClient::new(transport, chores.clone(), env.rng.clone()));
        let memory = SessionMemory::new(config.session_memory_bytes);
        let (owner, releases) = (meta.clone(), chores.clone());
        let on_orphan = move |inode| releases.release_orphan(owner.session_id(), inode);
        let core = Arc::new(Core {
            writer: ChunkWriter::new(meta.clone(), chunks.clone(), config.copies),
            committer: Committer::new(meta.clone()),
            nodes: Nodes::new(memory.clone(), on_orphan),
            read_ahead: ReadAheadBudget::new(),
            ended: CancellationToken::new(),
            tasks: TaskTracker::new(),
            config,
            env,
            meta,
            chunks,
            memory,
            chores,
        });
        core.start_tasks();
        Ok(Arc::new(ClusterClient { core }))
    }

    /// The federation says where the cluster's metaservers are.
    pub(crate) fn learn(&self, metaservers: &[String]) {
        self.core.meta.learn(metaservers);
    }

    fn show(&self, attr: InodeAttr) -> InodeAttr {
        self.core.nodes.show(attr, self.core.meta.session_id())
    }

    /// `name` may be `.` or `..`.
    pub(crate) async fn lookup(&self, caller: &Caller, parent: InodeId, name: &[u8]) -> Result<Found> {
        let asked_at = Instant::now();
        let attr = match self.core.meta.lookup(caller, parent, name).await? {
            Found::Here(attr) => self.show(attr),
            elsewhere => return Ok(elsewhere),
        };
        let settled = match self.core.nodes.pin_open(attr.inode) {
            Some(pin) => self.settled(&pin.node, asked_at).await,
            None => None,
        };
        Ok(Found::Here(settled.unwrap_or(attr)))
    }

    pub(crate) async fn getattr(&self, caller: &Caller, inode: InodeId) -> Result<InodeAttr> {
        // Pinned, so that what is committed and closed meanwhile is not forgotten before the answer is looked at.
        let pin = self.core.nodes.pin_open(inode);
        let asked_at = Instant::now();
        let attr = self.show(self.core.meta.getattr(caller, inode).await?);
        match pin {
            Some(pin) => Ok(self.settled(&pin.node, asked_at).await.unwrap_or(attr)),
            None => Ok(attr),
        }
    }

    /// An answer to a question of that time was taken in. If it shows that another client wrote where something appended here
    /// waits for its commit, that goes behind it first, so that what is shown is what the file will be.
    async fn settled(&self, node: &Arc<Node>, asked_at: Instant) -> Option<InodeAttr> {
        let session = self.core.meta.session_id();
        let (is_outgrown, shown) = node.with(session, |state| {
            state.heard(asked_at);
            (state.is_outgrown(), state.shown())
        });
        if !is_outgrown {
            return shown;
        }
        // It goes on when nobody waits for it; that it failed, the open files will report.
        let _ = timeout(SETTLE_MAX, self.core.move_behind(node)).await;
        node.with(session, |state| state.shown())
    }

    /// The same, but what a change of this client has told in the last milliseconds is not asked for again (`fresh`).
    pub(crate) async fn getattr_lately(&self, caller: &Caller, inode: InodeId) -> Result<InodeAttr> {
        match self.core.meta.fresh_attr(inode) {
            Some(attr) => Ok(self.show(attr)),
            None => self.getattr(caller, inode).await,
        }
    }

    /// Changes attributes. What was written before a change of size is committed before it (P2.3), times set here
    /// survive the commit of what was written before.
    pub(crate) async fn setattr(&self, caller: &Caller, set: SetAttr) -> Result<InodeAttr> {
        let Some(pin) = self.core.nodes.pin_open(set.inode) else {
            return Ok(self.show(self.core.meta.setattr(caller, set).await?.attr));
        };
        let _flushing = pin.node.flushing.lock().await;
        if set.size.is_some() && pin.node.dirty_since().is_some() {
            self.core.flush_locked(&pin.node).await?;
        }
        let (sets_mtime, sets_mode) = (set.mtime.is_some(), set.mode.is_some());
        let done = self.core.meta.setattr(caller, set).await?;
        Ok(pin.node.with(self.core.meta.session_id(), |state| {
            if sets_mtime {
                state.times_were_set();
            }
            if sets_mode {
                state.mode_was_set();
            }
            state.observe(&done.attr);
            state.shown().unwrap_or(done.attr)
        }))
    }

    /// access(2).
    pub(crate) async fn access(&self, caller: &Caller, inode: InodeId, mask: AccessMask) -> Result<()> {
        Ok(self.core.meta.access(caller, inode, mask).await?)
    }

    /// Makes a file, directory, symlink or node.
    pub(crate) async fn create(&self, caller: &Caller, create: Create) -> Result<Created> {
        let created = self.core.meta.create(caller, create).await?;
        Ok(Created { attr: self.show(created.attr), ..created })
    }

    /// Makes a file and opens it; with `or_existing` opens the one that is there, with the rights that `mode` wants.
    pub(crate) async fn create_open(
        &self,
        caller: &Caller,
        create: Create,
        mode: OpenMode,
    ) -> Result<(Arc<File>, InodeAttr)> {
        let asked_at = Instant::now();
        let created = self.core.meta.create(caller, create).await?;
        let inode = created.attr.inode;
        if created.existed {
            let file = self.open(caller, inode, mode).await?;
            let attr = file.attr();
            return Ok((file, attr));
        }
        let session = self.core.meta.session_id();
        let pin = self.core.nodes.pin(inode, session);
        pin.node.with(session, |state| {
            state.was_created(&created.attr);
            state.heard(asked_at);
            state.learn_next_commit(session, created.next_commit);
        });
        let file = File::new(self.core.clone(), pin, mode);
        let attr = file.attr();
        Ok((file, attr))
    }

    /// Opens a file; the rights checked here belong to it from now on. What others closed before is seen by it.
    pub(crate) async fn open(&self, caller: &Caller, inode: InodeId, mode: OpenMode) -> Result<Arc<File>> {
        let session = self.core.meta.session_id();
        let pin = self.core.nodes.pin(inode, session);
        let read = if mode.read { AccessMask::READ } else { AccessMask::NONE };
        let write = if mode.write { AccessMask::WRITE } else { AccessMask::NONE };
        let asked_at = Instant::now();
        let (attr, next_commit) = self.core.meta.open(caller, inode, read.union(write)).await?;
        match self.core.chores.take_back(session, inode) {
            Reopened::NotWaiting => {}
            Reopened::TakenBack => self.core.nodes.reopened_orphan(inode),
            // The kernel looks the name up again, and finds what has it now.
            Reopened::TooLate => return Err(ClientError::Stale),
        }
        pin.node.with(session, |state| {
            state.observe(&attr);
            state.learn_next_commit(session, next_commit);
        });
        self.settled(&pin.node, asked_at).await;
        let file = File::new(self.core.clone(), pin, mode);
        if mode.truncate && mode.write {
            let size = Some(ByteLen(0));
            self.setattr(caller, SetAttr { inode, size, by_handle: true, ..SetAttr::default() }).await?;
        }
        Ok(file)
    }

    /// Gives a file another name; what was written to it is committed first (P2.5).
    pub(crate) async fn link(
        &self,
        caller: &Caller,
        inode: InodeId,
        parent: InodeId,
        name: &Name,
    ) -> Result<InodeAttr> {
        if let Some(pin) = self.core.nodes.pin_open(inode) {
            self.commit_whole(&pin.node).await?;
        }
        Ok(self.show(self.core.meta.link(caller, inode, parent, name).await?.attr))
    }

    /// The last name of a file that is open here may go: its open files stay usable.
    pub(crate) async fn unlink(&self, caller: &Caller, parent: InodeId, name: &Name) -> Result<()> {
        self.help_with_chores().await;
        if let Some(inode) = self.core.meta.unlink(caller, parent, name).await? {
            self.core.nodes.orphaned(inode);
        }
        Ok(())
    }

    pub(crate) async fn rmdir(
        &self,
        caller: &Caller,
        parent: InodeId,
        name: &Name,
    ) -> Result<Option<Orphan>> {
        self.help_with_chores().await;
        Ok(self.core.meta.rmdir(caller, parent, name).await?.map(|inode| self.keep(inode)))
    }

    /// What was written to a file is committed before it gets its new name (P2.5): who writes a new file and renames it over
    /// the old one expects either of the two after a crash, fsync or not. If that fails, nothing is renamed.
    pub(crate) async fn rename(&self, caller: &Caller, rename: Rename) -> Result<Option<Orphan>> {
        self.help_with_chores().await;
        self.commit_named(rename.parent, &rename.name).await?;
        Ok(self.core.meta.rename(caller, rename).await?.map(|inode| self.keep(inode)))
    }

    /// Commits what is buffered of the file of this name. Whatever else is wrong with the name, its change is told.
    async fn commit_named(&self, parent: InodeId, name: &Name) -> Result<()> {
        if self.core.memory.is_unused() || planted::has(Bug::UncommittedRename) {
            return Ok(()); // almost always: it costs no request then
        }
        let inode = match self.core.meta.lookup(&Caller::ROOT, parent, name.as_bytes()).await {
            Ok(Found::Here(attr)) => attr.inode,
            Err(unanswered @ MetaError::Unavailable { .. }) => return Err(unanswered.into()),
            Ok(Found::Elsewhere(_)) | Err(_) => return Ok(()),
        };
        match self.core.nodes.pin_open(inode) {
            Some(pin) => self.commit_whole(&pin.node).await,
            None => Ok(()),
        }
    }

    /// Commits what is buffered. An error also when bytes were lost before, in a flush of somebody else's or with a session,
    /// and no open file has told anybody yet: the file is not what was written to it.
    async fn commit_whole(&self, node: &Arc<Node>) -> Result<()> {
        self.core.flush(node).await?;
        let session = self.core.meta.session_id();
        node.with(session, |state| state.unheard_failure()).map_or(Ok(()), Err)
    }

    /// Pinned before it is called an orphan, so that nobody releases it.
    fn keep(&self, inode: InodeId) -> Orphan {
        let pin = self.core.nodes.pin(inode, self.core.meta.session_id());
        self.core.nodes.orphaned(inode);
        Orphan(pin)
    }

    /// Before something is removed: nothing is waited for between that and noting it.
    async fn help_with_chores(&self) {
        if self.core.chores.is_behind() {
            self.core.chores.work(&self.core.meta).await;
        }
    }

    pub(crate) async fn readlink(&self, caller: &Caller, inode: InodeId) -> Result<Vec<u8>> {
        Ok(self.core.meta.readlink(caller, inode).await?)
    }

    /// Of the volume that the inode is in.
    pub(crate) async fn statfs(&self, inode: InodeId) -> Result<StatFs> {
        Ok(self.core.meta.statfs(inode).await?)
    }

    /// At most `limit` entries behind `cookie` (0: from the start); with attributes if `plus`.
    pub(crate) async fn read_dir(
        &self,
        caller: &Caller,
        inode: InodeId,
        cookie: u64,
        limit: u32,
        plus: bool,
    ) -> Result<DirPage> {
        let mut page = self.core.meta.read_dir(caller, inode, cookie, limit, plus).await?;
        for entry in &mut page.entries {
            entry.attr = entry.attr.take().map(|attr| self.show(attr));
        }
        Ok(page)
    }

    /// Commits everything, ends the session and the background tasks. Names what could not be written, and why.
    pub(crate) async fn shutdown(&self, deadline: Duration) -> Vec<String> {
        let close_timeout = (deadline / 4).min(CLOSE_TIMEOUT_MAX);
        let deadline = Deadline::after(deadline);
        let flush_timeout = deadline.left().saturating_sub(close_timeout);
        let flushes = self.core.dirty().into_iter().map(|(_, node)| async move {
            let bytes = node.with(self.core.meta.session_id(), |state| state.buffer.dirty_bytes());
            let lost = |why: String| format!("{}: {bytes} bytes: {why}", node.inode);
            if self.core.nodes.is_orphan(node.inode) {
                return None;
            }
            match timeout(flush_timeout, self.core.flush(&node)).await {
                Ok(Ok(())) => None,
                Ok(Err(error)) => Some(lost(error.to_string())),
                Err(_) => Some(lost("not committed in time".to_owned())),
            }
        });
        let lost: Vec<Option<String>> =
            futures::stream::iter(flushes).buffered(LAST_FLUSHES_MAX).collect().await;
        self.core.ended.cancel();
        let close = async {
            self.core.writer.close().await;
            self.core.meta.close(deadline.left()).await
        };
        match timeout(deadline.left(), close).await {
            Ok(Ok(())) | Ok(Err(MetaError::SessionExpired { .. })) => {}
            Ok(Err(error)) => tracing::warn!(%error, "close the session; it will expire"),
            Err(_) => tracing::warn!("the session could not be closed in time; it will expire"),
        }
        self.core.tasks.close();
        // They were cancelled; waiting only makes sure that none outlives the client.
        let _ = timeout(deadline.left(), self.core.tasks.wait()).await;
        lost.into_iter().flatten().collect()
    }
}

/// An inode that has lost its last name, and stays until this is dropped and no file has it open.
pub struct Orphan(Pin);

impl Orphan {
    pub fn inode(&self) -> InodeId {
        self.0.node.inode
    }
}

impl Drop for ClusterClient {
    fn drop(&mut self) {
        self.core.ended.cancel();
    }
}
