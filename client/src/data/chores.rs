//! Requests to the metaserver that no caller waits for: the release of orphans, the sealing of chunks, reports of bad
//! copies.
//!
//! C1  An orphan stays here until its release was answered. The other chores are only for tidiness: beyond their
//!     bound, and after a failure, they are dropped (a session that ends seals its chunks and releases its orphans).

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use dfs_proto::error::MetaError;
use dfs_proto::ids::{ChunkId, InodeId, ServerId, SessionId};
use dfs_proto::meta::{Change, ReplicaProblem};
use tokio::sync::Notify;
use tokio::time::sleep;

use crate::names::cluster_names::ClusterNames;

/// Orphans that one request releases.
const ORPHANS_BATCH: usize = 1000;
/// A caller that adds an orphan beyond this many first releases some.
const ORPHANS_MAX: usize = 8 * ORPHANS_BATCH;
const SEALS_MAX: usize = 4096;
const REPORTS_MAX: usize = 1024;
/// A request waits this long for more chores to gather.
const GATHER: Duration = Duration::from_millis(200);

#[derive(Default)]
struct Pending {
    orphans: BTreeSet<(SessionId, InodeId)>,
    /// The orphans that the metaserver was asked to release and has not answered yet.
    asked: BTreeSet<(SessionId, InodeId)>,
    seals: BTreeSet<(SessionId, ChunkId)>,
    reports: BTreeSet<(ChunkId, ServerId, bool)>,
}

/// What has become of an orphan that is opened after all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reopened {
    /// The inode does not wait for its release.
    NotWaiting,
    /// The inode waited for its release. From now on the caller releases it.
    TakenBack,
    /// The inode may be gone at any moment.
    TooLate,
}

/// The chores of one client at one cluster.
#[derive(Default)]
pub(crate) struct Chores {
    pending: Mutex<Pending>,
    added: Notify,
}

impl Chores {
    pub(crate) fn new() -> Arc<Chores> {
        Arc::new(Chores::default())
    }

    fn pending(&self) -> MutexGuard<'_, Pending> {
        self.pending.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn seal(&self, session: SessionId, chunk: ChunkId) {
        let mut pending = self.pending();
        if pending.seals.len() < SEALS_MAX {
            pending.seals.insert((session, chunk));
        }
        self.added.notify_one();
    }

    pub(crate) fn report(&self, chunk: ChunkId, server: ServerId, problem: ReplicaProblem) {
        let mut pending = self.pending();
        if pending.reports.len() < REPORTS_MAX {
            pending.reports.insert((chunk, server, problem == ReplicaProblem::Damaged));
        }
        self.added.notify_one();
    }

    pub(crate) fn release_orphan(&self, session: SessionId, inode: InodeId) {
        self.pending().orphans.insert((session, inode));
        self.added.notify_one();
    }

    /// There are so many orphans that a caller who makes one more should call [`Chores::work`] first.
    pub(crate) fn is_behind(&self) -> bool {
        self.pending().orphans.len() > ORPHANS_MAX
    }

    /// To be called when an inode was opened. Its last name may be gone: the open was under way when that happened.
    pub(crate) fn take_back(&self, session: SessionId, inode: InodeId) -> Reopened {
        let mut pending = self.pending();
        if pending.asked.contains(&(session, inode)) {
            return Reopened::TooLate;
        }
        if pending.orphans.remove(&(session, inode)) { Reopened::TakenBack } else { Reopened::NotWaiting }
    }

    /// Works on what is added, for ever.
    pub(crate) async fn run(&self, names: &ClusterNames) {
        loop {
            self.added.notified().await;
            if self.pending().orphans.len() < ORPHANS_BATCH {
                sleep(GATHER).await;
            }
            while self.work(names).await {}
        }
    }

    /// Sends one batch of each kind. True when more can be sent at once.
    pub(crate) async fn work(&self, names: &ClusterNames) -> bool {
        let reports = std::mem::take(&mut self.pending().reports);
        for (chunk, server, is_damaged) in reports {
            let problem = if is_damaged { ReplicaProblem::Damaged } else { ReplicaProblem::Unreachable };
            names.meta.report(chunk, server, problem).await;
        }
        let seals = std::mem::take(&mut self.pending().seals);
        for (session, chunk) in seals {
            // A refusal means that the chunk is sealed, or that its session has ended, which seals it.
            if let Err(error) = names.change_of(session, Change::SealChunk { chunk }).await {
                tracing::debug!(%chunk, %error, "seal a chunk");
            }
        }
        self.work_on_orphans(names).await
    }

    async fn work_on_orphans(&self, names: &ClusterNames) -> bool {
        let batch: Vec<(SessionId, InodeId)> = {
            let mut pending = self.pending();
            let Some(&(session, _)) = pending.orphans.first() else { return false };
            let of_session = pending.orphans.iter().take_while(|(of, _)| *of == session);
            let batch: Vec<_> = of_session.take(ORPHANS_BATCH).copied().collect();
            pending.asked.extend(&batch);
            batch
        };
        let Some(&(session, _)) = batch.first() else { return false };
        let inodes = batch.iter().map(|(_, inode)| *inode).collect();
        match names.change_of(session, Change::ReleaseOrphans { inodes }).await {
            Err(error @ MetaError::Unavailable { .. }) => {
                tracing::debug!(%error, "release orphans");
                self.added.notify_one(); // keeps C1
                return false;
            }
            Err(MetaError::SessionExpired { .. }) | Ok(_) => {}
            Err(error) => tracing::warn!(%error, "release orphans"),
        }
        let mut pending = self.pending();
        for orphan in &batch {
            pending.orphans.remove(orphan);
            pending.asked.remove(orphan);
        }
        !pending.orphans.is_empty()
    }
}
