//! A client's changes and reads: check whom they are for, pass the gate, fill in what only the leader knows.

use dfs_proto::attr::{AccessMask, FileKind};
use dfs_proto::error::MetaError;
use dfs_proto::ids::{InodeId, SessionId};
use dfs_proto::meta::{
    Change, ChangeRequest, ChunkLocation, Dropped, MetaResult, Read, ReadReply, ReadRequest, Shown, StatFs,
};
use dfs_proto::scope::Scope;
use tokio::time::Instant;

use crate::coherence::{Executed, Reader};
use crate::metaserver::Metaserver;
use crate::view::ServerState;
use dfs_state::command::{Answered, Command, Reply};
use dfs_state::kv::Snapshot;
use dfs_state::read;

/// Entries in one answer: with attributes and the longest names less than [`REPLY_LEN_MAX`].
pub(crate) const ENTRIES_MAX: u32 = 1000;
/// Extents in one answer, each with its chunk's place.
pub(crate) const EXTENTS_MAX: u32 = 1000;
/// An answer to a read is no longer than this.
pub(crate) const REPLY_LEN_MAX: usize = 1 << 20;
const ENTRY_LEN_MAX: usize = 512;
const EXTENT_LEN_MAX: usize = 1024;
const _: () = assert!(ENTRIES_MAX as usize * ENTRY_LEN_MAX <= REPLY_LEN_MAX);
const _: () = assert!(EXTENTS_MAX as usize * EXTENT_LEN_MAX <= REPLY_LEN_MAX);

/// What a client's change is answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ChangeAnswer {
    pub(crate) answered: Answered,
    /// The session holds Write of the file that it has made.
    pub(crate) writes: bool,
    /// It holds Read of these, which the answer shows.
    pub(crate) leased: Vec<InodeId>,
}

impl Metaserver {
    /// Executes a change once, however often it is asked (P8.1).
    ///
    /// `dropped`: what its session has dropped of its own copy before it asked.
    pub(crate) async fn change(
        &self,
        request: ChangeRequest,
        dropped: Option<Dropped>,
    ) -> MetaResult<ChangeAnswer> {
        let started = Instant::now();
        let changed = self.try_change(request, dropped).await;
        self.metrics.changes.inc();
        self.metrics.change_seconds.observe(started.elapsed().as_secs_f64());
        if changed.is_err() {
            self.metrics.refused_changes.inc();
        }
        changed
    }

    async fn try_change(&self, request: ChangeRequest, dropped: Option<Dropped>) -> MetaResult<ChangeAnswer> {
        self.gate.check_cluster(request.cluster)?;
        let scope = request.change.scope();
        if scope.crosses_volumes() {
            return Err(MetaError::CrossVolume); // keeps P9.3
        }
        let is_full = self.room.is_full() && scope.grows; // keeps RO1 of `room`
        if let Some(federation) = self.federation.as_ref().filter(|_| !is_full && scope.enters_root) {
            let answered = self.change_root(federation, request, dropped).await?;
            return Ok(ChangeAnswer { answered, writes: false, leased: Vec::new() }); // it makes no file
        }
        self.require_decided(&request, &scope).await?;
        let placement = match &request.change {
            Change::OpenChunk(open) => self.place(request.session, open).await?,
            _ => Vec::new(), // no other change has a placement
        };
        let full = || MetaError::NoSpace { what: "the metaserver's disk is nearly full".to_owned() };
        let command = match is_full {
            true => Command::Refuse { request, error: full() },
            false => Command::of_request(request, placement, Vec::new()),
        };
        let Executed { reply, writes, leased } = self.gate.change_after(dropped, command).await?;
        match reply {
            Reply::Changed(answered) => answered.map(|answered| ChangeAnswer { answered, writes, leased }),
            other => Err(unexpected(&other)),
        }
    }

    /// Refuses a change that `apply` would not execute now, so that it does not enter the log each time its client repeats
    /// it, which is every few milliseconds. A request that an earlier try has executed goes on (P8.1). The local state may be
    /// old, so it decides only whether a confirmed read is needed.
    async fn require_decided(&self, request: &ChangeRequest, scope: &Scope) -> MetaResult<()> {
        let is_undecided = |state: &dyn Snapshot| read::is_undecided(state, request);
        if !read::enters_volume_root(&request.change) || !self.gate.local(is_undecided) {
            return Ok(());
        }
        let look = |state: &dyn Snapshot| {
            require_session(state, request.session)?;
            match is_undecided(state) {
                true => Err(MetaError::Undecided { what: "the directory is being removed".to_owned() }),
                false => Ok(()),
            }
        };
        self.gate.read(scope, look).await // its client is shown nothing
    }

    /// Answers a read from the leader's state.
    pub(crate) async fn read(&self, request: ReadRequest) -> Shown {
        let shown = self.try_read(request).await.unwrap_or_else(|error| Shown::without_leases(Err(error)));
        self.metrics.reads.inc();
        if shown.answered.is_err() {
            self.metrics.refused_reads.inc();
        }
        shown
    }

    /// An error is a refusal without leases.
    async fn try_read(&self, mut request: ReadRequest) -> MetaResult<Shown> {
        self.gate.check_cluster(request.cluster)?;
        let shown = request.read.scope();
        bound(&mut request.read);
        if let Read::StatFs { .. } = request.read {
            let answered = self.gate.read(&shown, |state| self.stat_fs(state, &request)).await;
            return answered.map(|reply| Shown::without_leases(Ok(reply)));
        }
        let opening = match request.read {
            Read::Open { inode, mask } if mask != AccessMask::NONE => {
                self.gate.opening(request.session, inode).await?
            }
            _ => None, // nothing else opens a file
        };
        let look = |state: &dyn Snapshot| match request.leases {
            Some(_) => read::answer_leasable(state, &request),
            None => (read::answer(state, &request), Vec::new()),
        };
        let waits = !matches!(request.read, Read::ReadAhead { .. });
        let reader = Reader { session: request.session, leases: request.leases, waits };
        let Shown { answered, leased } = self.gate.read_for(&shown, reader, look).await;
        if let (Some(opening), Ok(ReadReply::Opened { attr, .. })) = (opening, &answered)
            && attr.kind != FileKind::Directory
        {
            opening.succeeded();
        }
        let answered = answered.map(|reply| match reply {
            ReadReply::Extents(mut extents) => {
                self.reachable_first(&mut extents.chunks);
                ReadReply::Extents(extents)
            }
            ReadReply::Opened { attr, next_commit, extents: Some(mut extents) } => {
                self.reachable_first(&mut extents.chunks);
                ReadReply::Opened { attr, next_commit, extents: Some(extents) }
            }
            ReadReply::FewExtents(mut few) => {
                self.reachable_first(&mut few.chunks);
                ReadReply::FewExtents(few)
            }
            other => other,
        });
        Ok(Shown { answered, leased })
    }

    /// A reader tries the copies in order, so copies on servers that are away come last.
    fn reachable_first(&self, chunks: &mut [ChunkLocation]) {
        let now = Instant::now();
        for chunk in chunks.iter_mut().filter(|chunk| chunk.replicas.len() > 1) {
            let away = |server| self.gate.view.state(server, now) == ServerState::Away;
            chunk.replicas.sort_by_cached_key(|replica| away(replica.server));
        }
    }

    /// P12.1. Right after an election it waits (the client asks again) until each server was heard or counts as away, so
    /// that `df` never shows a cluster without space because nobody has reported yet.
    fn stat_fs(&self, state: &dyn Snapshot, request: &ReadRequest) -> MetaResult<ReadReply> {
        require_session(state, request.session)?;
        let registered = read::servers(state);
        if !self.gate.view.is_settled(&registered, Instant::now()) {
            return Err(MetaError::Unavailable { what: "waiting for chunkservers to report".to_owned() });
        }
        let copies = read::cluster(state).map_or(1, |info| info.copies);
        let space: StatFs = self.gate.view.space(copies, read::totals(state).inodes);
        Ok(ReadReply::StatFs(space))
    }
}

/// Refuses a session that has ended.
pub(super) fn require_session(state: &dyn Snapshot, session: SessionId) -> MetaResult<()> {
    read::session(state, session).map(|_| ()).ok_or(MetaError::SessionExpired { session })
}

/// What `apply` never answers to this command.
pub(super) fn unexpected(reply: &Reply) -> MetaError {
    MetaError::Internal { what: format!("unexpected reply {reply:?}") }
}

/// A limit of 0 means as many as an answer may have.
fn bound(read: &mut Read) {
    let clamp = |limit: &mut u32, max: u32| *limit = if *limit == 0 { max } else { (*limit).min(max) };
    match read {
        Read::ReadDir { limit, .. } | Read::ReadAhead { limit, .. } => clamp(limit, ENTRIES_MAX),
        Read::Extents { limit, .. } => clamp(limit, EXTENTS_MAX),
        Read::Lookup { .. }
        | Read::GetAttr { .. }
        | Read::Access { .. }
        | Read::Open { .. }
        | Read::ReadLink { .. }
        | Read::ExtentsNear { .. }
        | Read::StatFs { .. } => {}
    }
}
