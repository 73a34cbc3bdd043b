//! Sessions: opened and closed through Raft, renewed in the leader's memory (P3.1).

use std::time::Duration;

use dfs_net::rpc::push::PushSender;
use dfs_proto::error::MetaError;
use dfs_proto::ids::{Attachment, InodeId};
use dfs_proto::meta::{
    Acquire, Acquired, MetaResult, OpenSession, RecallsDone, RenewSession, ReturnWrites, SessionOpened,
    SessionRenewed,
};
use dfs_proto::scope::Unleased;
use dfs_proto::units::MIB;
use tokio::time::Instant;

use super::namespace::unexpected;
use crate::metaserver::Metaserver;
use dfs_state::command::{Command, Reply};
use dfs_state::kv::Snapshot;
use dfs_state::read;

/// How often a client renews. Several renewals may be lost before anything is decided by its silence; and so soon it learns that
/// it has to attach again.
pub(crate) const RENEW_INTERVAL: Duration = Duration::from_millis(500);

/// Each is a record until it ends, which one that is not renewed does after minutes: more than any cluster has mounts,
/// and no more than a new leader takes in at once.
pub(super) const SESSIONS_MAX: u64 = 65_536;

/// What one session buffers at most, unless its client is told otherwise (`session_memory_bytes`).
const BUFFERED_MAX: u64 = 256 * MIB;

impl Metaserver {
    /// Idempotent by nonce.
    pub(super) async fn open_session(&self, open: OpenSession) -> MetaResult<SessionOpened> {
        if open.cluster.is_known() {
            self.gate.check_cluster(open.cluster)?;
        }
        let look = |state: &dyn Snapshot| Ok(read::totals(state).sessions);
        if self.gate.read_unleased(Unleased::Sessions, look).await? >= SESSIONS_MAX {
            let what =
                format!("{SESSIONS_MAX} sessions are open; those that are not renewed end by themselves");
            return Err(MetaError::Unavailable { what });
        }
        let command = Command::OpenSession { nonce: open.nonce, client: open.client };
        let term = self.gate.enter_term()?;
        match self.gate.change_in(term, command).await? {
            Reply::SessionOpened(opened) => {
                self.renew(term, opened.session).await?;
                Ok(SessionOpened {
                    session: opened.session,
                    cluster: opened.cluster,
                    incarnation: opened.incarnation,
                    root: InodeId::ROOT,
                    copies: opened.copies,
                    heartbeat_interval_ms: RENEW_INTERVAL.as_millis() as u64,
                    now: self.gate.consensus().wall(),
                })
            }
            other => Err(unexpected(&other)),
        }
    }

    /// Refused once the session has ended: then nothing of it can be saved (P3.1).
    pub(super) async fn renew_session(
        &self,
        renew: RenewSession,
        pushes: Option<PushSender>,
    ) -> MetaResult<SessionRenewed> {
        self.gate.check_cluster(renew.cluster)?;
        let (session, received) = (renew.session, Instant::now());
        let term = self.gate.enter_term()?;
        self.confirm(session).await?;
        self.renew(term, session).await?;
        let is_known = |(attachment, pushes): &(Attachment, PushSender)| {
            self.gate.opens.is_attached(session)
                && self.gate.attachments.is_attached(session, *attachment, pushes)
        };
        let attachment = renew.attachment.zip(pushes).filter(is_known).map(|(attachment, _)| attachment);
        let recalls = attachment.and_then(|attachment| self.gate.leases.renew(session, attachment, received));
        if recalls.is_some() {
            self.gate.closed(session, &renew.closed);
        }
        let (now, metaservers) = (self.gate.consensus().wall(), self.metaservers());
        let (is_attached, recalls) = (recalls.is_some(), recalls.unwrap_or(0));
        let has_room = self.has_room();
        Ok(SessionRenewed { now, metaservers, is_attached, recalls, has_room })
    }

    /// What all sessions that write may have buffered has a place (P12.1): else a close commits, and says that the disk is full.
    fn has_room(&self) -> bool {
        let copies = self.gate.local(|state| read::cluster(state).map_or(1, |info| info.copies));
        let writers = self.gate.leases.writing_sessions().max(1) as u64;
        self.gate.view.space(copies, 0).free.0 / BUFFERED_MAX >= writers
    }

    /// The session has handled recalls.
    pub(super) async fn recalled(&self, done: RecallsDone) -> MetaResult<()> {
        self.gate.check_cluster(done.cluster)?;
        self.gate.recalled(&done).await
    }

    /// `confirm` → `Gate::acquire` (coherence/writes.rs) → reply.
    pub(super) async fn acquire(&self, acquire: Acquire) -> MetaResult<Acquired> {
        self.gate.check_cluster(acquire.cluster)?;
        self.confirm(acquire.session).await?; // keeps SS2
        self.gate.acquire(&acquire).await
    }

    /// What was written under these is committed.
    pub(super) fn return_writes(&self, returned: ReturnWrites) -> MetaResult<()> {
        self.gate.check_cluster(returned.cluster)?;
        self.gate.enter_term()?;
        self.gate.leases.return_writes(returned.session, &returned.writes);
        Ok(())
    }

    pub(super) async fn close_session(&self, close: RenewSession) -> MetaResult<()> {
        self.gate.check_cluster(close.cluster)?;
        let command = Command::CloseSession { session: close.session };
        self.gate.change(command).await?;
        self.gate.leases.close(close.session);
        self.gate.session_ended(close.session);
        // Its locks go on at once. If this fails, `worker` tells of them.
        let _ = self.forget_ended().await;
        Ok(())
    }
}
