//! One chunk that this session has open: frames go out in order, acknowledgements and syncs come back.
//!
//! T1  Frames are sent in the order in which they were queued, back to back. Different bytes are never sent for the
//!     same place (P1.2). After an uncertain answer every frame without an acknowledgement is sent again as it was.
//! T2  If frames cannot be sent again, the stream ends: it takes no more, its server is suspect, and its bytes that
//!     are not committed are put into another chunk (P1.6).
//! T3  One sync is under way at a time. Callers that wait share the next one.
//! T4  A stream that nobody needs any more asks for its chunk to be sealed.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use dfs_proto::chunk::{Append, ChunkKey, ChunkReply, ChunkRequest, SyncChunk};
use dfs_proto::error::ChunkError;
use dfs_proto::ids::{InodeId, ServerId, SessionId};
use dfs_proto::meta::{ChunkLocation, OpenedChunk, Replica, ReplicaProblem};
use dfs_proto::rpc::frames;
use dfs_proto::units::{APPEND_LEN_MAX, ByteLen, ChunkOffset, Offset};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep};

use crate::data::chores::Chores;
use crate::data::chunk::ChunkClient;
use crate::session::requests::Session;

/// Frames under way and not acknowledged: enough to keep a network with a few milliseconds of delay busy.
const FRAMES_IN_FLIGHT_MAX: usize = 8;
/// Frames that wait behind those.
const FRAMES_QUEUED_MAX: usize = 4;
/// Times that unacknowledged frames are repeated without any progress.
const REPEATS_MAX: u32 = 2;
const REPEAT_PAUSE: Duration = Duration::from_millis(50);

/// How long one try may take. The time-outs grow while tries fail only because they take too long, so that a slow
/// cluster still gets there.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Timeouts {
    pub(crate) append: Duration,
    pub(crate) sync: Duration,
}

/// Bytes for the next place in the chunk.
#[derive(Clone, Debug)]
pub(crate) struct Frame {
    pub(crate) offset: u64,
    pub(crate) inode: InodeId,
    pub(crate) file_offset: u64,
    pub(crate) checksums: Vec<u32>,
    pub(crate) data: Bytes,
}

impl Frame {
    fn end(&self) -> u64 {
        self.offset + self.data.len() as u64
    }
}

/// How far every replica has the chunk, and how far on stable storage.
#[derive(Clone, Debug, Default)]
pub(crate) struct Progress {
    pub(crate) acked: u64,
    pub(crate) synced: u64,
    pub(crate) failure: Option<ChunkError>,
    /// It failed because the answer took too long, not because of a refusal or a lost connection.
    pub(crate) was_slow: bool,
}

/// An open chunk. Its task ends when this is dropped.
pub(crate) struct ChunkStream {
    pub(crate) session: SessionId,
    pub(crate) key: ChunkKey,
    pub(crate) location: Arc<ChunkLocation>,
    frames: mpsc::Sender<Frame>,
    wanted: watch::Sender<u64>,
    progress: Arc<watch::Sender<Progress>>,
    chores: Arc<Chores>,
}

impl ChunkStream {
    pub(crate) fn start(
        session: &Session,
        opened: OpenedChunk,
        chunks: Arc<ChunkClient>,
        timeouts: Timeouts,
    ) -> Arc<ChunkStream> {
        let key = ChunkKey {
            cluster: session.opened.cluster,
            incarnation: session.opened.incarnation,
            chunk: opened.chunk,
            set_version: opened.set_version,
        };
        let (frames, queue) = mpsc::channel(FRAMES_QUEUED_MAX);
        let (wanted, wanted_seen) = watch::channel(0);
        let progress = Arc::new(watch::Sender::new(Progress::default()));
        let chores = chunks.chores.clone();
        let appender = Appender {
            session: session.id(),
            key,
            replicas: opened.replicas.clone(),
            queue,
            wanted: wanted_seen,
            progress: progress.clone(),
            chunks,
            timeouts,
            unacked: VecDeque::new(),
            syncing: None,
            repeats: 0,
            failed_after: Wait::Short,
        };
        tokio::spawn(appender.run());
        let location = Arc::new(ChunkLocation {
            chunk: opened.chunk,
            set_version: opened.set_version,
            committed: ByteLen(0),
            sealed: false,
            replicas: opened.replicas,
        });
        Arc::new(ChunkStream { session: session.id(), key, location, frames, wanted, progress, chores })
    }

    /// Waits until one more frame may be queued. `None` when the stream has ended.
    pub(crate) async fn room(&self) -> Option<mpsc::Permit<'_, Frame>> {
        let room = self.frames.reserve().await.ok()?;
        self.failure().is_none().then_some(room)
    }

    /// Returns when `[0, up_to)` is on stable storage of every replica.
    pub(crate) async fn sync(&self, up_to: u64) -> Result<(), ChunkError> {
        self.wanted.send_if_modified(|wanted| std::mem::replace(wanted, up_to.max(*wanted)) < up_to);
        let mut progress = self.progress.subscribe();
        let reached = progress.wait_for(|p| p.synced >= up_to || p.failure.is_some()).await;
        let closed = || ChunkError::NotOpen { chunk: self.key.chunk };
        let reached = reached.map_err(|_| closed())?;
        match &reached.failure {
            Some(error) if reached.synced < up_to => Err(error.clone()),
            Some(_) | None => Ok(()),
        }
    }

    pub(crate) fn progress(&self) -> Progress {
        self.progress.borrow().clone()
    }

    pub(crate) fn failure(&self) -> Option<ChunkError> {
        self.progress.borrow().failure.clone()
    }

    /// The metaserver has answered that the chunk is not open any more. What was synced counts only if it was
    /// committed.
    pub(crate) fn end(&self) {
        let error = ChunkError::NotOpen { chunk: self.key.chunk };
        self.progress.send_modify(|progress| {
            progress.failure.get_or_insert(error);
            progress.synced = 0;
        });
    }
}

impl Drop for ChunkStream {
    fn drop(&mut self) {
        self.chores.seal(self.session, self.key.chunk); // keeps T4
    }
}

type Reply = JoinHandle<Result<ChunkReply, ChunkError>>;

/// A frame on its way.
struct Sent {
    frame: Frame,
    at: Instant,
    reply: Reply,
}

/// The stream's task: the only one who sends for this chunk.
struct Appender {
    session: SessionId,
    key: ChunkKey,
    /// The first is the primary.
    replicas: Vec<Replica>,
    queue: mpsc::Receiver<Frame>,
    wanted: watch::Receiver<u64>,
    progress: Arc<watch::Sender<Progress>>,
    chunks: Arc<ChunkClient>,
    timeouts: Timeouts,
    /// The frames without an acknowledgement, in the order of their places.
    unacked: VecDeque<Sent>,
    syncing: Option<Syncing>,
    repeats: u32,
    /// For how long the answer that failed was waited for.
    failed_after: Wait,
}

/// For how long an answer was waited for in vain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Wait {
    /// A refusal, or a connection that was lost: trying again may help.
    Short,
    /// Without a sign of life from the server (`frames`, F4).
    InSilence,
    /// For the whole time-out.
    ToTheEnd,
}

impl Wait {
    fn judge(waited: Duration, timeout: Duration) -> Wait {
        match waited {
            _ if waited >= timeout => Wait::ToTheEnd,
            _ if waited >= frames::SILENCE_MAX => Wait::InSilence,
            _ => Wait::Short,
        }
    }
}

/// A sync on its way.
struct Syncing {
    up_to: u64,
    at: Instant,
    reply: Reply,
}

enum Event {
    Frame(Option<Frame>),
    Appended(Result<ChunkReply, ChunkError>),
    Synced(Result<ChunkReply, ChunkError>),
    Wanted(bool),
}

impl Appender {
    async fn run(mut self) {
        if let Err(error) = self.work().await {
            self.fail(error).await;
        }
    }

    /// Runs until nobody needs the stream any more (`Ok`), or it cannot go on.
    async fn work(&mut self) -> Result<(), ChunkError> {
        if self.replicas.is_empty() {
            return Err(ChunkError::Invalid { what: "a chunk without replicas".to_owned() });
        }
        loop {
            self.start_sync();
            match self.next_event().await {
                Event::Frame(Some(frame)) => self.send(frame).await?,
                Event::Frame(None) | Event::Wanted(false) => return Ok(()),
                Event::Wanted(true) => {}
                Event::Appended(result) => self.appended(result).await?,
                Event::Synced(result) => self.synced(result)?,
            }
        }
    }

    async fn next_event(&mut self) -> Event {
        let has_room = self.unacked.len() < FRAMES_IN_FLIGHT_MAX;
        let first = self.unacked.front_mut().map(|sent| &mut sent.reply);
        let sync = self.syncing.as_mut().map(|syncing| &mut syncing.reply);
        tokio::select! {
            biased;
            result = joined(first) => Event::Appended(result),
            result = joined(sync) => Event::Synced(result),
            frame = self.queue.recv(), if has_room => Event::Frame(frame),
            changed = self.wanted.changed() => Event::Wanted(changed.is_ok()),
        }
    }

    async fn send(&mut self, frame: Frame) -> Result<(), ChunkError> {
        let request = ChunkRequest::Append(Append {
            key: self.key,
            offset: ChunkOffset(frame.offset),
            session: self.session,
            inode: frame.inode,
            file_offset: Offset(frame.file_offset),
            block_checksums: frame.checksums.clone(),
            forward: self.replicas[1..].to_vec(),
            data: frame.data.clone(),
        });
        let at = Instant::now();
        let submitted = self.chunks.transport.submit(&self.replicas[0], request, self.timeouts.append).await;
        // If a frame cannot be sent, the stream ends: the next frames would only wait as long for a connection.
        let pending = submitted.inspect_err(|_| {
            self.failed_after = Wait::judge(at.elapsed(), self.timeouts.append);
        })?;
        // The answer is awaited on a task of its own, so that what it holds of the connection's credit is given back even
        // while this task waits for credit itself.
        self.unacked.push_back(Sent { frame, at, reply: tokio::spawn(pending) });
        Ok(())
    }

    async fn appended(&mut self, result: Result<ChunkReply, ChunkError>) -> Result<(), ChunkError> {
        let Some(sent) = self.unacked.pop_front() else { return Ok(()) };
        match result {
            Ok(ChunkReply::Appended { len }) if len.0 >= sent.frame.end() => {
                self.repeats = 0;
                self.progress.send_modify(|progress| progress.acked = sent.frame.end());
                Ok(())
            }
            Ok(_) => Err(ChunkError::Invalid { what: "the answer is not one to the append".to_owned() }),
            Err(error) => {
                self.failed_after = Wait::judge(sent.at.elapsed(), self.timeouts.append);
                let is_uncertain = matches!(error, ChunkError::Unreachable { .. } | ChunkError::Busy);
                self.unacked.push_front(sent);
                // A server that was silent for long would be silent again.
                if !is_uncertain || self.failed_after != Wait::Short || self.repeats >= REPEATS_MAX {
                    return Err(error);
                }
                self.repeats += 1;
                self.repeat().await
            }
        }
    }

    /// Sends everything without an acknowledgement once more, as it was (keeps T1).
    async fn repeat(&mut self) -> Result<(), ChunkError> {
        let unacked = std::mem::take(&mut self.unacked);
        for sent in &unacked {
            sent.reply.abort();
        }
        sleep(REPEAT_PAUSE * self.repeats).await;
        let primary = self.replicas[0].server;
        if self.chunks.avoided().contains(&primary) {
            // Meanwhile another stream has found out why the connection was lost.
            return Err(ChunkError::Unreachable { server: primary, what: "it fell silent".to_owned() });
        }
        for sent in unacked {
            self.send(sent.frame).await?;
        }
        Ok(())
    }

    /// Starts a sync if one is wanted and none is under way (T3).
    fn start_sync(&mut self) {
        let progress = self.progress.borrow().clone();
        let (acked, wanted) = (progress.acked, *self.wanted.borrow_and_update());
        let is_due = wanted > progress.synced && acked >= wanted && progress.failure.is_none();
        if self.syncing.is_some() || !is_due {
            return;
        }
        let request = ChunkRequest::Sync(SyncChunk {
            key: self.key,
            up_to: ByteLen(acked),
            forward: self.replicas[1..].to_vec(),
        });
        let (chunks, primary, timeout) = (self.chunks.clone(), self.replicas[0].clone(), self.timeouts.sync);
        let reply =
            tokio::spawn(
                async move { frames::call(chunks.transport.as_ref(), &primary, request, timeout).await },
            );
        self.syncing = Some(Syncing { up_to: acked, at: Instant::now(), reply });
    }

    fn synced(&mut self, result: Result<ChunkReply, ChunkError>) -> Result<(), ChunkError> {
        let Some(Syncing { up_to, at, .. }) = self.syncing.take() else { return Ok(()) };
        self.failed_after = Wait::judge(at.elapsed(), self.timeouts.sync);
        match result? {
            ChunkReply::Synced { len } if len.0 >= up_to => {
                self.progress.send_modify(|progress| {
                    if progress.failure.is_none() {
                        progress.synced = progress.synced.max(up_to);
                    }
                });
                Ok(())
            }
            ChunkReply::Synced { len } => {
                Err(ChunkError::TooShort { chunk: self.key.chunk, held: len.0, wanted: up_to })
            }
            _ => Err(ChunkError::Invalid { what: "the answer is not one to the sync".to_owned() }),
        }
    }

    /// Ends the stream (T2). It finds out which server failed before anybody asks for another chunk.
    async fn fail(&mut self, error: ChunkError) {
        let chunk = self.key.chunk;
        let culprits = self.culprits(&error).await;
        let is_full = is_full(&error);
        tracing::info!(%chunk, %error, ?culprits, "a chunk takes no more; going on elsewhere");
        for server in culprits {
            if is_full {
                self.chunks.avoid(server);
            } else {
                self.chunks.suspect(server);
                self.chunks.chores.report(chunk, server, ReplicaProblem::Unreachable);
            }
        }
        let was_slow = self.failed_after == Wait::ToTheEnd;
        self.progress.send_modify(|progress| {
            progress.failure.get_or_insert(error);
            progress.was_slow = was_slow;
        });
    }

    async fn culprits(&self, error: &ChunkError) -> Vec<ServerId> {
        let primary = self.replicas.first().map(|replica| replica.server);
        match error {
            ChunkError::ReplicaFailed { server, .. } => vec![*server],
            // The other replicas may be behind the same link. Most often they are not, and answer at once.
            ChunkError::Unreachable { .. } if self.failed_after == Wait::InSilence => {
                let others = self.chunks.probe(self.key, &self.replicas[1..]).await;
                primary.into_iter().chain(others).collect()
            }
            // The primary may take long because it waits for another replica.
            ChunkError::Unreachable { .. } if self.replicas.len() > 1 => {
                let silent = self.chunks.probe(self.key, &self.replicas).await;
                if silent.is_empty() { primary.into_iter().collect() } else { silent }
            }
            _ => primary.into_iter().collect(),
        }
    }
}

/// A disk is full, at the primary or at the replica that it names.
pub(crate) fn is_full(error: &ChunkError) -> bool {
    match error {
        ChunkError::NoSpace => true,
        ChunkError::ReplicaFailed { what, .. } => *what == ChunkError::NoSpace.to_string(),
        _ => false,
    }
}

/// The answer to a request. Without a request it is never ready.
async fn joined(reply: Option<&mut Reply>) -> Result<ChunkReply, ChunkError> {
    match reply {
        Some(reply) => reply.await.unwrap_or_else(|error| {
            Err(ChunkError::Invalid { what: format!("the request's task ended: {error}") })
        }),
        None => std::future::pending().await,
    }
}

const _: () = assert!(FRAMES_IN_FLIGHT_MAX as u64 * APPEND_LEN_MAX < frames_credit());

/// One stream alone must never fill the credit of its connection.
const fn frames_credit() -> u64 {
    dfs_proto::rpc::CREDIT_BYTES
}
