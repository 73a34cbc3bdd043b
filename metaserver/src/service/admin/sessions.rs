//! The sessions of the cluster, as administrators see them, and the end of one that they ask for.
//!
//! Beside the replicated state this shows what this leader has heard since its election.

use std::collections::BTreeSet;
use std::time::Duration;

use dfs_proto::convert;
use dfs_proto::error::MetaError;
use dfs_proto::ids::SessionId;
use dfs_proto::meta::MetaResult;
use dfs_proto::scope::Unleased;
use dfs_proto::wire;
use tokio::time::{Instant, sleep};

use crate::coherence::READ_ENDS;
use crate::metaserver::Metaserver;
use dfs_state::command::Command;
use dfs_state::kv::Snapshot;
use dfs_state::read;
use dfs_state::value::session::SessionRecord;

/// Sessions in one answer: about 100 KiB, and four times that if all their clients have long names.
const LISTED_SESSIONS_MAX: usize = 1000;
/// Between two looks whether what a session was granted has lapsed.
const LAPSE_EVERY: Duration = Duration::from_millis(100);
/// Ids of sessions that others wait for, in one status.
const WAITED_FOR_SHOWN_MAX: usize = 100;

impl Metaserver {
    /// What all sessions hold. The caller has entered the term (G3 of the gate).
    pub(super) fn held(&self) -> wire::HeldStatus {
        let (attached, locks, waits) = self.gate.attachments.counts();
        let waited_for = self.waited_for();
        wire::HeldStatus {
            sessions_attached: attached as u64,
            locks: locks as u64,
            waits: waits as u64,
            sessions_waited_for: waited_for.len() as u64,
            waited_for: waited_for.iter().take(WAITED_FOR_SHOWN_MAX).map(|session| session.0).collect(),
            write_leases: self.gate.leases.write_count() as u64,
        }
    }

    /// A page of the sessions that are alive, by id.
    pub(in crate::service) async fn list_sessions(
        &self,
        request: wire::ListSessionsRequest,
    ) -> MetaResult<wire::ListSessionsReply> {
        self.gate.check_cluster(convert::cluster_from_wire(&request.cluster)?)?;
        let first = SessionId(request.from);
        let limit = match request.limit as usize {
            0 => LISTED_SESSIONS_MAX,
            limit => limit.min(LISTED_SESSIONS_MAX),
        };
        let look = |state: &dyn Snapshot| {
            Ok((read::sessions_from(state, first, limit + 1), read::totals(state).sessions))
        };
        let (mut found, total) = self.gate.read_unleased(Unleased::Sessions, look).await?;
        let more = found.len() > limit;
        found.truncate(limit);
        let (waited_for, now) = (self.waited_for(), Instant::now());
        let sessions = found.iter().map(|(session, record)| {
            let is_waited_for = waited_for.contains(session);
            self.session_status(*session, record, is_waited_for, now)
        });
        Ok(wire::ListSessionsReply { error: None, sessions: sessions.collect(), more, total })
    }

    /// Ends a session that is alive, whether or not its client is heard. What it held goes on to others at once; if it holds Write of
    /// files, when that has lapsed.
    ///
    /// Errors: `SessionExpired` if there is no such session. After `NotLeader` or `Unavailable` it may end all the same: as long
    /// as this member leads, `worker::expire` goes on with what is marked.
    pub(in crate::service) async fn expire_session(
        &self,
        request: wire::ExpireSessionRequest,
    ) -> MetaResult<wire::SessionStatus> {
        self.gate.check_cluster(convert::cluster_from_wire(&request.cluster)?)?;
        let session = SessionId(request.session);
        let look = |state: &dyn Snapshot| Ok(read::session(state, session));
        let record = self.gate.read_unleased(Unleased::Sessions, look).await?;
        let record = record.ok_or(MetaError::SessionExpired { session })?;
        let is_waited_for = self.waited_for().contains(&session);
        let ended = self.session_status(session, &record, is_waited_for, Instant::now());
        let term = self.gate.enter_term()?;
        // Keeps SS2. There is nothing to look at once more: it does not end for its silence.
        self.gate.sessions.end_is_certain(session);
        self.until_writes_have_lapsed(term, session).await?; // keeps SS3
        self.gate.sessions.end_is_proposed(session);
        match self.gate.change_in(term, Command::ExpireSession { session }).await {
            // While its leases lapsed, `worker::expire` has done it.
            Ok(_) | Err(MetaError::SessionExpired { .. }) => {}
            Err(error) => return Err(error),
        }
        tracing::warn!(client = record.client, "{session} was ended by an administrator");
        self.gate.session_ended(session);
        // Its locks go on at once. If this fails, `worker` tells of them.
        let _ = self.forget_ended().await;
        Ok(ended)
    }

    async fn until_writes_have_lapsed(&self, term: u64, session: SessionId) -> MetaResult<()> {
        let lapses = self.gate.attachments.lease_term.max(READ_ENDS);
        let counts = || {
            let is_silent = self.gate.sessions.is_silent_for(lapses, session, Instant::now());
            let may_hold =
                self.gate.leases.write_count_of(session) > 0 || self.gate.opens.is_awaited_writer(session);
            may_hold && !is_silent
        };
        while counts() {
            sleep(LAPSE_EVERY).await;
            self.gate.require_term(term)?;
        }
        Ok(())
    }

    /// Those that hold what others wait for, or have to tell what they hold before others go on.
    fn waited_for(&self) -> BTreeSet<SessionId> {
        let mut waited_for = self.gate.attachments.waited_for();
        waited_for.extend(self.gate.opens.waited_for());
        waited_for.extend(self.gate.leases.writers_in_the_way(Instant::now()).0);
        waited_for
    }

    fn session_status(
        &self,
        session: SessionId,
        record: &SessionRecord,
        is_waited_for: bool,
        now: Instant,
    ) -> wire::SessionStatus {
        let (sessions, locks) = (&self.gate.sessions, self.gate.attachments.of(session));
        wire::SessionStatus {
            session: session.0,
            client: record.client.clone(),
            heard_ms: sessions.last_heard(session, now).map(|ago| ago.as_millis() as u64),
            is_attached: locks.is_attached,
            open_files: self.gate.opens.open_files(session) as u64,
            locks: locks.locks as u64,
            waits: locks.waits as u64,
            is_waited_for,
            is_ending: sessions.is_ending(session),
            write_leases: self.gate.leases.write_count_of(session) as u64,
        }
    }
}

pub(in crate::service) fn sessions_to_wire(
    result: MetaResult<wire::ListSessionsReply>,
) -> wire::ListSessionsReply {
    result.unwrap_or_else(|error| wire::ListSessionsReply {
        error: Some(convert::error_to_wire(&error)),
        ..Default::default()
    })
}

pub(in crate::service) fn expired_to_wire(
    result: MetaResult<wire::SessionStatus>,
) -> wire::ExpireSessionReply {
    let (error, ended) = match result {
        Ok(ended) => (None, Some(ended)),
        Err(error) => (Some(convert::error_to_wire(&error)), None),
    };
    wire::ExpireSessionReply { error, ended }
}
