//! Sessions that attach, and the locks that they hold (P3.5, P5.7).
//!
//! A request: `enter_term` → `is_present` → `require_record` (P6.5) → `has_everybody_told` (coherence/awaited.rs) → `Attachments::lock` →
//! `confirm` (the session lives and this member still leads) → reply.

use std::collections::BTreeSet;

use dfs_net::rpc::push::PushSender;
use dfs_proto::error::MetaError;
use dfs_proto::ids::{SessionId, VolumeId};
use dfs_proto::lock::{LockAsk, LockReply, LockRequest};
use dfs_proto::meta::{Attach, Attached, MetaResult};
use dfs_proto::planted::{self, Bug};
use dfs_proto::scope::Unleased;
use tokio::time::Instant;

use super::Metaserver;
use super::namespace::require_session;
use crate::coherence::READ_TERM;
use crate::sessions::Renewed;
use dfs_state::command::{Command, Silence};
use dfs_state::kv::Snapshot;
use dfs_state::read;

impl Metaserver {
    pub(super) async fn attach(&self, attach: Attach, pushes: Option<PushSender>) -> MetaResult<Attached> {
        self.gate.check_cluster(attach.cluster)?;
        let pushes = pushes.ok_or_else(|| MetaError::InvalidArgument {
            what: "nothing can be sent unasked over this connection".to_owned(),
        })?;
        let (session, attachments) = (attach.session, &self.gate.attachments);
        let (attachment, received) = (attach.attachment, Instant::now());
        self.confirm(session).await?; // keeps AT5
        let term = self.gate.enter_term()?;
        let told = attachments.stands(term, attachments.attach(attach, pushes.clone())?)?;
        let [term_ms, read_term_ms] = [attachments.lease_term, READ_TERM].map(|term| term.as_millis() as u64);
        let answer = |lost| Attached { lost, term_ms, read_term_ms, gives_writes: true, covers_opens: true };
        let Some(told) = told else {
            return Ok(answer(Vec::new()));
        };
        // After its locks: from here on no lock and no removal is held up by this session.
        self.gate.attach(term, (session, attachment), &told, (pushes, received)).await?;
        self.confirm(session).await?; // keeps AT3
        attachments.require_term(term)?;
        self.renew(term, session).await?;
        if !told.lost.is_empty() {
            tracing::warn!("{session} has attached without {} locks that others hold", told.lost.len());
        }
        Ok(answer(told.lost))
    }

    pub(super) async fn lock(&self, request: LockRequest) -> MetaResult<LockReply> {
        self.gate.check_cluster(request.cluster)?;
        let (session, attachments) = (request.session, &self.gate.attachments);
        let term = self.gate.enter_term()?;
        if !attachments.is_present(session, request.attachment) {
            return Ok(LockReply::NotAttached);
        }
        let volume = match request.ask {
            LockAsk::Set { lock, .. } => {
                self.require_record(session, lock.inode.volume()).await?;
                Some(lock.inode.volume())
            }
            LockAsk::Test { lock } => Some(lock.inode.volume()),
            LockAsk::Unlock { .. } | LockAsk::Cancel { .. } => None,
        };
        if let Some(volume) = volume
            && !self.gate.has_everybody_told(volume).await?
            && !planted::has(Bug::LocksBeforeAttachments)
        {
            return Ok(LockReply::NotYet); // keeps AT4
        }
        let decided = attachments.lock(&request);
        self.confirm(session).await?; // keeps AT3
        attachments.stands(term, decided)
    }

    /// The next leader has to know that the session may hold a lock there, before it does (P6.5).
    async fn require_record(&self, session: SessionId, volume: VolumeId) -> MetaResult<()> {
        match self.gate.record_holds(session, volume).await? {
            true => Ok(()),
            false => Err(MetaError::Stale), // no volume of this cluster
        }
    }

    /// The session lives and this member leads: after this, what was decided before is told (AT3).
    pub(super) async fn confirm(&self, session: SessionId) -> MetaResult<()> {
        let decided = self.gate.attachments.decided();
        let look = |state: &dyn Snapshot| Ok(require_session(state, session));
        let alive = self.gate.read_unleased(Unleased::Sessions, look).await?;
        self.gate.attachments.tell(decided);
        if alive.is_err() && planted::has(Bug::AttachesAfterTheEnd) {
            return Ok(());
        }
        if alive.is_err() {
            self.gate.session_ended(session); // keeps AT5
        }
        match self.gate.sessions.is_ending(session) {
            true => alive.and(Err(is_ending())),
            false => alive,
        }
    }

    /// Before a call is answered that renews the session, and after it was confirmed; `term`: the leader's before that. Keeps SS4.
    pub(super) async fn renew(&self, term: u64, session: SessionId) -> MetaResult<()> {
        let number = match self.gate.sessions.renewed(term, session, Instant::now()) {
            Renewed::Unnoted => None,
            Renewed::Noted(number) => Some(number),
            Renewed::Ending => return Err(is_ending()),
            Renewed::Outdated => return Err(is_led_by_another()),
        };
        if number.is_some() {
            drop(self.gate.notes_silences.lock().await); // its note is in the log by then, or never will be
        } else if !self.gate.local(|state| read::is_silence_noted(state, session)) {
            return Ok(()); // all that earlier leaders have noted is in the state, as the session was confirmed
        }
        let silences = vec![Silence { session, silent_ms: 0 }];
        self.gate.change_in(term, Command::NoteSilences { silences }).await?;
        if let Some(number) = number {
            self.gate.sessions.note_is_taken_back(term, session, number);
        }
        // It may have been marked meanwhile.
        if self.gate.sessions.is_ending(session) { Err(is_ending()) } else { Ok(()) }
    }

    /// Tells of the grants that nobody has told yet, and forgets sessions that have ended without this leader's knowing: it had
    /// no answer to its command (AT5).
    pub(crate) async fn forget_ended(&self) -> MetaResult<()> {
        let attachments = &self.gate.attachments;
        // Before the read: who attaches during it is alive.
        let decided = attachments.decided();
        let mut sessions: BTreeSet<SessionId> = attachments.sessions().into_iter().collect();
        sessions.extend(self.gate.opens.sessions());
        sessions.extend(self.gate.leases.sessions());
        if sessions.is_empty() {
            return Ok(());
        }
        let look = |state: &dyn Snapshot| {
            let ended = sessions.iter().filter(|session| read::session(state, **session).is_none());
            Ok(ended.copied().collect::<Vec<_>>())
        };
        let ended = self.gate.read_unleased(Unleased::Sessions, look).await?;
        attachments.tell(decided);
        ended.into_iter().for_each(|session| self.gate.session_ended(session));
        Ok(())
    }
}

fn is_led_by_another() -> MetaError {
    MetaError::Unavailable { what: "another member has led meanwhile".to_owned() }
}

/// Its client asks again, and is told when it has ended (SS2 of `sessions`).
fn is_ending() -> MetaError {
    MetaError::Unavailable { what: "the session is about to be ended".to_owned() }
}
