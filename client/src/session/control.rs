//! The control loop of a session: heartbeats, and attachments when the leader may not know what the session holds.
//!
//! AT1  The leader is told all that the session holds when the session is new, when the answer to a heartbeat says that it does not
//!      know the attachment, and when the outcome of a request is unknown (H1 of `held`).
//! AT2  What an attachment tells is of one moment, however many parts it has. A part that got no answer is not sent again: the
//!      next attachment has another number, and tells what is held then.
//! AT3  A leader that refuses, or forgets what it was told, is not told again more often than every [`ATTACH_PAUSE`].
//!
//! The answers to both say for how long the leases on what was read last (`leases`), counted from when they were sent.
//!
//! A session on which nothing changes costs one small request for each heartbeat.

use std::time::Duration;

use dfs_proto::error::MetaError;
use dfs_proto::ids::ClusterId;
use dfs_proto::meta::{Attach, Attached, HeldWrite, MetaResult, RecallsDone, RenewSession};
use tokio::time::{Instant, sleep, sleep_until};

use crate::session::held::Told;
use crate::session::leases::Handled;
use crate::session::meta::{MetaClient, REPORT_TIMEOUT};
use crate::session::recalls::Answering;

/// Locks, files and Write leases that one part of an attachment names.
const ATTACH_ITEMS_MAX: usize = 10_000;
/// AT3.
const ATTACH_PAUSE: Duration = Duration::from_millis(50);

impl MetaClient {
    /// Keeps the session alive and the leader informed, for ever.
    pub(crate) async fn run_control(&self) {
        let mut next_heartbeat = Instant::now();
        loop {
            if Instant::now() >= next_heartbeat {
                if let Err(error) = self.renew().await {
                    tracing::warn!(%error, "renew the session");
                }
                next_heartbeat = Instant::now() + self.heartbeat_interval();
            }
            let pause = match self.attach().await {
                Ok(()) | Err(MetaError::Unavailable { .. }) => ATTACH_PAUSE,
                Err(_) => self.heartbeat_interval(),
            };
            let detached = async {
                sleep(pause).await; // keeps AT3
                self.held.detached().await;
            };
            tokio::select! {
                () = sleep_until(next_heartbeat) => {}
                () = detached => {}
            }
        }
    }

    /// Tells the leader which recalls were handled, for ever: one call at a time, with the highest number. After one
    /// that failed the session attaches anew, which ends what the leader waits for.
    pub(crate) async fn run_recalls(&self) {
        loop {
            let Answering { handled, open } = self.recalls.next().await;
            let Handled { attachment, number } = handled;
            let session = self.session();
            let (cluster, session) = (session.opened.cluster, session.id());
            let open = open.into_iter().collect();
            let done = RecallsDone { cluster, session, attachment, number, open };
            match self.calls.recalled(done, self.control_timeout()).await {
                Ok(()) => self.held.recalls_were_answered(handled),
                Err(error) => {
                    tracing::debug!(%error, number, "tell the leader that recalls were handled");
                    self.held.doubt(attachment);
                }
            }
        }
    }

    /// Sends one heartbeat. If the session has ended, the next one is opened.
    async fn renew(&self) -> MetaResult<()> {
        let cluster = self.session().opened.cluster;
        let (sent, sent_at) = (self.env.clock.boottime(), Instant::now());
        let heartbeat = self.held.begin_heartbeat();
        let (session, attachment) = (heartbeat.session, heartbeat.attachment);
        let renew = RenewSession { cluster, session, attachment, closed: heartbeat.closed };
        let answer = self.calls.renew(renew, self.control_timeout()).await;
        self.note_heartbeat(sent_at, &answer);
        match answer {
            Ok(renewed) => {
                self.held.heartbeat_answered(attachment, renewed.is_attached);
                if let Some(attachment) = attachment.filter(|_| renewed.is_attached) {
                    self.leases.reads.renewed(attachment, sent, renewed.recalls);
                    self.leases.writes.renewed(attachment, sent);
                }
                self.leases.writes.has_room(renewed.has_room);
                self.set_clock(renewed.now, sent);
                self.calls.learn(cluster, &renewed.metaservers);
                Ok(())
            }
            Err(MetaError::SessionExpired { session }) => self.replace(session).await.map(drop),
            Err(error) => {
                self.held.heartbeat_failed(attachment);
                Err(error)
            }
        }
    }

    /// Tells the leader what the session holds, if that is to be told (AT1).
    async fn attach(&self) -> MetaResult<()> {
        let Some(told) = self.held.begin_attach() else { return Ok(()) };
        self.until_nothing_is_used().await; // of what was shown before
        let sent = self.env.clock.boottime();
        let (bound, locks, files) = (told.bound, told.locks.len(), told.open.len());
        let writes = self.leases.writes.attaching(bound);
        match self.send_parts(told, writes).await {
            Ok(attached) => {
                tracing::debug!(attachment = %bound.attachment, locks, files, "attached");
                self.held.attached(bound, &attached.lost, attached.covers_opens);
                let read_term = Duration::from_millis(attached.read_term_ms);
                self.leases.reads.attached(bound.attachment, sent, read_term);
                let write_term = attached.gives_writes.then(|| Duration::from_millis(attached.term_ms));
                self.leases.writes.attached(bound.attachment, sent, write_term);
                Ok(())
            }
            Err(error) => {
                let is_in_doubt = matches!(error, MetaError::Unavailable { .. });
                self.held.not_attached(bound, is_in_doubt);
                if let MetaError::SessionExpired { session } = error {
                    return self.replace(session).await.map(drop);
                }
                match is_in_doubt {
                    true => tracing::debug!(%error, locks, files, "attach the session"),
                    false => tracing::warn!(%error, locks, files, "attach the session"),
                }
                Err(error)
            }
        }
    }

    /// What the copy has dropped is used nowhere any more.
    pub(super) async fn until_nothing_is_used(&self) {
        if let Some(until) = self.leases.reads.used_until() {
            sleep_until(until).await;
        }
    }

    async fn send_parts(&self, told: Told, writes: Vec<HeldWrite>) -> MetaResult<Attached> {
        let mut attached = Attached {
            lost: Vec::new(),
            term_ms: 0,
            read_term_ms: 0,
            gives_writes: false,
            covers_opens: false,
        };
        for part in parts(self.session().opened.cluster, told, writes) {
            let answered = self.calls.attach(part, self.control_timeout()).await?;
            let lost = [attached.lost, answered.lost].concat();
            attached = Attached { lost, ..answered };
        }
        Ok(attached)
    }

    /// The next heartbeat is not held up for long.
    pub(super) fn control_timeout(&self) -> Duration {
        self.heartbeat_interval().max(REPORT_TIMEOUT)
    }
}

/// At least one.
fn parts(cluster: ClusterId, told: Told, writes: Vec<HeldWrite>) -> Vec<Attach> {
    let Told { bound, locks, open } = told;
    let (mut locks, mut open, mut writes) = (locks.into_iter(), open.into_iter(), writes.into_iter());
    let mut parts = Vec::new();
    loop {
        let part_locks: Vec<_> = locks.by_ref().take(ATTACH_ITEMS_MAX).collect();
        let room = ATTACH_ITEMS_MAX - part_locks.len();
        let part_open: Vec<_> = open.by_ref().take(room).collect();
        let part_writes = writes.by_ref().take(room - part_open.len()).collect();
        let more = locks.len() + open.len() + writes.len() > 0;
        parts.push(Attach {
            cluster,
            session: bound.session,
            attachment: bound.attachment,
            part: parts.len() as u32,
            more,
            locks: part_locks,
            open: part_open,
            writes: part_writes,
        });
        if !more {
            return parts;
        }
    }
}
