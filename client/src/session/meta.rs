//! The client of one cluster's metaservers: under which session a request goes, and what an ended session or a lost
//! answer means.
//!
//! M1  A change keeps its request id over every try, so that it happens once (P8.1). It is sent again under another
//!     session only if its first try was refused because the session had ended: then the change certainly did not
//!     happen.
//! M2  The first request that is refused because its session has ended opens the next session; the others wait for
//!     that.
//! M3  When a request got no answer by its deadline (and no heartbeat after it did), or no heartbeat did for as long, later requests of callers fail
//!     at once. This ends when a heartbeat, which goes on, is answered. Requests of a flush do not fail so: the bytes
//!     they commit are worth waiting for.
//! Every request ends by `metadata_timeout`. What the answers mean for names and open files is not known here.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use dfs_net::env::Env;
use dfs_proto::attr::{Caller, Timestamp};
use dfs_proto::error::MetaError;
use dfs_proto::ids::{Attachment, ChunkId, ClusterId, ServerId, SessionId, SessionNonce};
use dfs_proto::meta::{
    Change, ChangeRequest, MetaResult, OpenSession, Read, ReadRequest, RenewSession, ReplicaProblem,
    ReplicaReport, SessionOpened, Shown,
};
use tokio::time::Instant;

use crate::session::calls::{Answer, MetaCalls};
use crate::session::clock::ClusterClock;
use crate::session::held::Held;
use crate::session::leases::{Leases, Sending};
use crate::session::pushes::Pushes;
use crate::session::recalls::HandledRecalls;
use crate::session::requests::Session;

/// A chunkserver that failed is reported once. The answer is of no use, so it is not waited for long.
pub(super) const REPORT_TIMEOUT: Duration = Duration::from_secs(3);

/// A session at one cluster, and the next one when that has ended.
pub(crate) struct MetaClient {
    pub(super) calls: Arc<dyn MetaCalls>,
    pub(super) env: Env,
    name: String,
    pub(super) timeout: Duration,
    /// The cluster is taken to be away (M3).
    is_away: AtomicBool,
    /// When the first of the heartbeats that got no answer was sent.
    silent_since: Mutex<Option<Instant>>,
    /// When the last heartbeat that got an answer was sent.
    heard_since: Mutex<Option<Instant>>,
    current: Mutex<Arc<Session>>,
    /// Held while a session is opened (M2). Never taken with another lock.
    opening: tokio::sync::Mutex<()>,
    cluster_clock: Mutex<ClusterClock>,
    /// What the current session holds at the leader.
    pub(crate) held: Arc<Held>,
    /// Told what becomes of the leases.
    pub(super) leases: Leases,
    pub(super) recalls: Arc<HandledRecalls>,
}

impl MetaClient {
    /// Opens the first session, or fails after `within`. If `cluster` is known, another cluster at the same addresses refuses.
    pub(crate) async fn connect(
        calls: Arc<dyn MetaCalls>,
        env: Env,
        leases: Leases,
        name: String,
        cluster: ClusterId,
        (timeout, within): (Duration, Duration),
    ) -> MetaResult<MetaClient> {
        let sent = env.clock.boottime();
        let opened = open(calls.as_ref(), &env, &name, cluster, within).await?;
        let cluster_clock = ClusterClock::shown(opened.now, sent, env.clock.boottime());
        let (held, recalls) = (Held::new(opened.session, leases.reads.clone()), HandledRecalls::new());
        let pushes = Pushes { held: held.clone(), leases: leases.clone(), recalls: recalls.clone() };
        calls.handle_pushes(Arc::new(pushes));
        let client = MetaClient {
            calls,
            env,
            name,
            timeout,
            is_away: AtomicBool::new(false),
            silent_since: Mutex::new(None),
            heard_since: Mutex::new(None),
            current: Mutex::new(Session::new(opened)),
            opening: tokio::sync::Mutex::new(()),
            cluster_clock: Mutex::new(cluster_clock),
            held,
            leases,
            recalls,
        };
        Ok(client)
    }

    /// Refuses while the cluster is taken to be away (M3).
    pub(crate) fn require_answering(&self) -> MetaResult<()> {
        match self.is_away.load(Ordering::Relaxed) {
            true => Err(MetaError::Unavailable { what: "the cluster did not answer lately".to_owned() }),
            false => Ok(()),
        }
    }

    /// Notes whether the cluster answers, from the result of one request (M3). A request is `Unavailable` only if no
    /// answer came by its deadline, since calls try again until then. If a heartbeat that was sent after it was answered, the cluster
    /// answers, and the request has waited for another client.
    fn note_request<T>(&self, sent: Instant, result: &MetaResult<T>) {
        let heard_since = *self.heard_since.lock().unwrap_or_else(PoisonError::into_inner);
        let has_waited = result.is_err() && heard_since.is_some_and(|heard| heard > sent);
        if !has_waited {
            self.note(result);
        }
    }

    fn note<T>(&self, result: &MetaResult<T>) {
        let is_away = matches!(result, Err(MetaError::Unavailable { .. }));
        if self.is_away.swap(is_away, Ordering::Relaxed) != is_away {
            tracing::warn!("the cluster {}", if is_away { "does not answer" } else { "answers again" });
        }
    }

    /// Notes whether a heartbeat was answered (M3).
    pub(super) fn note_heartbeat<T>(&self, sent: Instant, answer: &MetaResult<T>) {
        if answer.is_ok() {
            *self.heard_since.lock().unwrap_or_else(PoisonError::into_inner) = Some(sent);
        }
        let mut silent_since = self.silent_since.lock().unwrap_or_else(PoisonError::into_inner);
        if !matches!(answer, Err(MetaError::Unavailable { .. })) {
            *silent_since = None;
            self.note(&Ok(()));
        } else if silent_since.get_or_insert_with(Instant::now).elapsed() >= self.timeout {
            self.note(answer);
        }
    }

    /// Takes over the addresses of the cluster's metaservers from the federation map.
    pub(crate) fn learn(&self, metaservers: &[String]) {
        self.calls.learn(self.session().opened.cluster, metaservers);
    }

    /// Every request has an answer, or fails, by then.
    pub(crate) fn timeout(&self) -> Duration {
        self.timeout
    }

    pub(crate) fn session(&self) -> Arc<Session> {
        self.current.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(crate) fn session_id(&self) -> SessionId {
        self.session().id()
    }

    /// The time by the cluster's clock. A write's mtime is taken from it (P6.3), and never from this machine's wall
    /// clock (P7.1).
    pub(crate) fn cluster_now(&self) -> Timestamp {
        let clock = self.cluster_clock.lock().unwrap_or_else(PoisonError::into_inner);
        clock.at(self.env.clock.boottime())
    }

    pub(super) fn set_clock(&self, shown: Timestamp, sent: Duration) {
        let clock = ClusterClock::shown(shown, sent, self.env.clock.boottime());
        *self.cluster_clock.lock().unwrap_or_else(PoisonError::into_inner) = clock;
    }

    pub(crate) fn heartbeat_interval(&self) -> Duration {
        let millis = self.session().opened.heartbeat_interval_ms;
        Duration::from_millis(millis.clamp(100, 60_000))
    }

    pub(crate) async fn close(&self, timeout: Duration) -> MetaResult<()> {
        self.held.end(); // from here on nothing is answered under leases
        self.until_nothing_is_used().await;
        let session = self.session();
        let close = RenewSession::of(session.opened.cluster, session.id());
        self.calls.close_session(close, timeout).await
    }

    /// Opens a session in place of `lost`, unless that was done meanwhile (keeps M2, S3).
    pub(super) async fn replace(&self, lost: SessionId) -> MetaResult<Arc<Session>> {
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
        self.leases.writes.session_ended(); // before anything is written under the next one
        *self.current.lock().unwrap_or_else(PoisonError::into_inner) = session.clone();
        self.held.session_replaced(session.id());
        Ok(session)
    }

    /// Sends a change until it is answered (M1).
    pub(crate) async fn change(&self, caller: &Caller, change: &Change, sending: &Sending) -> Answer {
        let refused = |error| Answer::refused(error, true);
        if let Err(away) = self.require_answering() {
            return refused(away);
        }
        let mut session = self.session();
        loop {
            let sent = Instant::now();
            let answer = self.change_under(&session, caller.clone(), change.clone(), sending).await;
            self.note_request(sent, &answer.answered);
            let Err(MetaError::SessionExpired { .. }) = &answer.answered else { return answer };
            let replaced = self.replace(session.id()).await;
            if !answer.is_first_try {
                return answer; // keeps M1
            }
            session = match replaced {
                Ok(session) => session,
                Err(error) => return refused(error),
            };
        }
    }

    /// Sends a change that belongs to `owner`, a session. It is refused once that session has ended.
    pub(crate) async fn change_of(&self, owner: SessionId, change: Change, sending: &Sending) -> Answer {
        let refused = |error| Answer::refused(error, true);
        let session = self.session();
        if session.id() != owner {
            return refused(MetaError::SessionExpired { session: owner });
        }
        let answer = self.change_under(&session, Caller::ROOT, change, sending).await;
        if let Err(MetaError::SessionExpired { .. }) = answer.answered
            && let Err(error) = self.replace(owner).await
        {
            return refused(error);
        }
        answer
    }

    async fn change_under(
        &self,
        session: &Arc<Session>,
        caller: Caller,
        change: Change,
        sending: &Sending,
    ) -> Answer {
        let ticket = session.begin(&change).await;
        let request = ChangeRequest {
            cluster: session.opened.cluster,
            session: session.id(),
            request: ticket.id,
            answered_below: ticket.answered_below(),
            caller,
            change,
        };
        sending.sent();
        self.calls.change(request, sending.dropped.clone(), self.timeout).await
    }

    /// Leases on what the answer shows are asked for under the attachment `leases`.
    pub(crate) async fn read(&self, caller: &Caller, read: &Read, leases: Option<Attachment>) -> Shown {
        if let Err(away) = self.require_answering() {
            return Shown::without_leases(Err(away));
        }
        let mut session = self.session();
        loop {
            let request = ReadRequest {
                cluster: session.opened.cluster,
                session: session.id(),
                caller: caller.clone(),
                leases,
                read: read.clone(),
            };
            let sent = Instant::now();
            let shown = self.calls.read(request, self.timeout).await;
            self.note_request(sent, &shown.answered);
            let Err(MetaError::SessionExpired { .. }) = shown.answered else { return shown };
            session = match self.replace(session.id()).await {
                Ok(session) => session,
                Err(error) => return Shown::without_leases(Err(error)),
            };
        }
    }

    /// Nobody knows what has become of a change for which something was dropped. It may be executed late, and the leader spares this
    /// session only while the attachment lasts that the change names (P3.7).
    pub(crate) fn change_in_doubt(&self, attachment: Attachment) {
        self.held.doubt(attachment);
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
