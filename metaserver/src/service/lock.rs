//! Sessions that attach, and the locks that they hold (P3.5, P5.7).
//!
//! A request: `enter_term` → `open_volume` → `Attachments::lock` → `confirm` (the session lives and this member still leads) → reply.

use dfs_net::rpc::push::PushSender;
use dfs_proto::error::MetaError;
use dfs_proto::ids::{InodeId, SessionId};
use dfs_proto::lock::{LockAsk, LockReply, LockRequest};
use dfs_proto::meta::{Attach, Attached, MetaResult};
use dfs_proto::scope::Unleased;
use tokio::time::Instant;

use super::Metaserver;
use super::namespace::require_session;
use crate::coherence::{holding_sessions, record_holds};
use dfs_state::kv::Snapshot;
use dfs_state::read;

impl Metaserver {
    pub(super) async fn attach(&self, attach: Attach, pushes: Option<PushSender>) -> MetaResult<Attached> {
        self.gate.check_cluster(attach.cluster)?;
        let pushes = pushes.ok_or_else(|| MetaError::InvalidArgument {
            what: "nothing can be sent unasked over this connection".to_owned(),
        })?;
        let (session, attachments) = (attach.session, &self.gate.attachments);
        self.confirm(session).await?; // keeps AT6
        let decided = attachments.attach(attach, pushes)?;
        self.confirm(session).await?; // keeps AT4
        let lost = attachments.stands(decided)?;
        self.gate.sessions.renewed(session, Instant::now());
        if !lost.is_empty() {
            tracing::warn!("{session} has attached without {} locks that others hold", lost.len());
        }
        Ok(Attached { lost, term_ms: attachments.lease_term.as_millis() as u64 })
    }

    pub(super) async fn lock(&self, request: LockRequest) -> MetaResult<LockReply> {
        self.gate.check_cluster(request.cluster)?;
        self.gate.enter_term()?;
        let in_new_volume = match request.ask {
            LockAsk::Set { lock, .. } | LockAsk::Test { lock } => Some(lock.inode),
            LockAsk::Unlock { .. } | LockAsk::Cancel { .. } => None,
        };
        let attachments = &self.gate.attachments;
        if let Some(inode) =
            in_new_volume.filter(|inode| !attachments.may_lock(request.session, inode.volume()))
        {
            self.open_volume(&request, inode).await?;
        }
        let decided = attachments.lock(&request);
        self.confirm(request.session).await?; // keeps AT4
        attachments.stands(decided)
    }

    /// Looks whether everybody who may hold something in the volume has attached, and records that this session may (AT5).
    async fn open_volume(&self, request: &LockRequest, inode: InodeId) -> MetaResult<()> {
        let (session, volume, term) = (request.session, inode.volume(), self.gate.enter_term()?);
        let attachments = &self.gate.attachments;
        if !attachments.is_known(session) {
            return Ok(());
        }
        let look = |state: &dyn Snapshot| {
            require_session(state, session)?;
            read::getattr(state, inode)?; // so the volume is one
            Ok(holding_sessions(state, volume))
        };
        let holders = self.gate.read_unleased(Unleased::Sessions, look).await?;
        if !attachments.settle(term, volume, &holders) || matches!(request.ask, LockAsk::Test { .. }) {
            return Ok(());
        }
        if !holders.contains(&session)
            && let Some(command) = record_holds(session, volume)
        {
            self.gate.change(command).await?;
        }
        attachments.recorded(term, session, volume);
        Ok(())
    }

    /// The session lives and this member leads: after this, what was decided before is told (AT4).
    pub(super) async fn confirm(&self, session: SessionId) -> MetaResult<()> {
        let decided = self.gate.attachments.decided();
        let look = |state: &dyn Snapshot| Ok(require_session(state, session));
        let alive = self.gate.read_unleased(Unleased::Sessions, look).await?;
        self.gate.attachments.tell(decided);
        if alive.is_err() {
            self.forget_session(session); // keeps AT6
        }
        alive
    }

    /// The state has the session no longer.
    pub(crate) fn forget_session(&self, session: SessionId) {
        self.gate.sessions.forget(session);
        self.gate.attachments.end(session);
    }

    /// Tells of the grants that nobody has told yet, and forgets sessions that have ended without this leader's knowing: it had
    /// no answer to its command (AT6).
    pub(crate) async fn forget_ended(&self) -> MetaResult<()> {
        let attachments = &self.gate.attachments;
        // Before the read: who attaches during it is alive.
        let (sessions, decided) = (attachments.sessions(), attachments.decided());
        if sessions.is_empty() {
            return Ok(());
        }
        let look = |state: &dyn Snapshot| {
            let ended = sessions.iter().filter(|session| read::session(state, **session).is_none());
            Ok(ended.copied().collect::<Vec<_>>())
        };
        let ended = self.gate.read_unleased(Unleased::Sessions, look).await?;
        attachments.tell(decided);
        ended.into_iter().for_each(|session| self.forget_session(session));
        Ok(())
    }
}
