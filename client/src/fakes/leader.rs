//! What the leader of the fake metaserver knows of attached sessions, and the connections of its clients.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use dfs_net::rpc::push::{Push, PushHandler};
use dfs_proto::convert;
use dfs_proto::error::MetaError;
use dfs_proto::ids::{Attachment, ClusterId, InodeId, SessionId, WaitId};
use dfs_proto::lock::{LockAsk, LockReply, LockRequest};
use dfs_proto::meta::{
    Acquire, Acquired, Attach, Attached, ChangeRequest, Dropped, HeldWrite, MetaResult, OpenSession,
    ReadRequest, RecallsDone, RenewSession, ReplicaReport, ReturnWrites, SessionOpened, SessionRenewed,
    Shown,
};
use dfs_state::locks::{Grant, LockTable};
use futures::FutureExt as _;
use tokio::time::sleep;

use crate::fakes::leases::{Leases, Touched};
use crate::fakes::metaserver::FakeMeta;
use crate::fakes::writers::Writers;
use crate::session::calls::{Answer, MetaCalls};

/// A client's connection to the fake metaserver.
pub(crate) struct Connection {
    meta: Arc<FakeMeta>,
    pushes: Mutex<Option<Arc<dyn PushHandler>>>,
}

struct OfSession {
    attachment: Attachment,
    open: BTreeSet<InodeId>,
    pushes: Option<Arc<dyn PushHandler>>,
}

#[derive(Default)]
pub(crate) struct Leader {
    pub(crate) locks: LockTable,
    pub(crate) leases: Leases,
    pub(crate) writers: Writers,
    /// Recalls that are kept back.
    late: VecDeque<(SessionId, Push)>,
    /// Of the answer to a read, behind the pushes that come meanwhile.
    pub(crate) read_answer_delay: Duration,
    /// Of the answer to a request for Write, behind the pushes that come meanwhile.
    pub(crate) acquire_answer_delay: Duration,
    /// Of the answer to any change.
    pub(crate) change_answer_delay: Duration,
    attached: BTreeMap<SessionId, OfSession>,
    /// The parts so far of attachments that are being told.
    parts: BTreeMap<SessionId, Vec<Attach>>,
    /// Sessions that held locks at the leader before this one, and have not attached to this one.
    pub(crate) awaited: BTreeSet<SessionId>,
    /// Executed, but the answer is lost with the connection.
    pub(crate) lost_lock_answers: u32,
    pub(crate) lost_attach_answers: u32,
    pub(crate) lost_heartbeats: u32,
    /// Calls that say that recalls were handled.
    pub(crate) lost_recalled: u32,
    /// Calls that give Write back.
    pub(crate) lost_returns: u32,
    /// Lost with the connection.
    pub(crate) lost_pushes: u32,
    /// Of answers to requests for locks, behind the pushes that come with them.
    pub(crate) lock_answer_delay: Duration,
    /// Of a heartbeat on its way there, and of its answer.
    pub(crate) heartbeat_delay: Duration,
    /// Of an attachment on its way there.
    pub(crate) attach_delay: Duration,
    /// Of the answer to a create.
    pub(crate) create_answer_delay: Duration,
    /// It answers nothing.
    pub(crate) is_away: bool,
    pub(crate) lock_requests: Vec<LockAsk>,
    /// How many locks and files each part of an attachment named.
    pub(crate) attach_parts: Vec<(usize, usize)>,
    pub(crate) heartbeats: u64,
    pub(crate) closed: Vec<InodeId>,
    /// A lease on what was read covers opens.
    pub(crate) covers_opens: bool,
    /// What the answers to recalls have named as open.
    pub(crate) open_when_recalled: Vec<InodeId>,
}

/// Pushes on their way.
type Pushes = Vec<(Arc<dyn PushHandler>, Push)>;

fn deliver(pushes: Pushes) {
    for (handler, push) in pushes {
        handler.handle(push).now_or_never().expect("the handler does not wait");
    }
}

pub(super) fn away() -> MetaError {
    MetaError::Unavailable { what: "the connection was lost".to_owned() }
}

/// Not a moment, if there is no delay.
pub(super) async fn pause(delay: Duration) {
    if !delay.is_zero() {
        sleep(delay).await;
    }
}

fn take(left: &mut u32) -> bool {
    let is_taken = *left > 0;
    *left -= u32::from(is_taken);
    is_taken
}

impl Leader {
    fn is_attached(&self, session: SessionId, attachment: Attachment) -> bool {
        self.attached.get(&session).is_some_and(|of| of.attachment == attachment)
    }

    /// Those that are attached, the oldest first.
    pub(crate) fn sessions(&self) -> Vec<SessionId> {
        self.attached.keys().copied().collect()
    }

    pub(crate) fn attachment(&self, session: SessionId) -> Option<Attachment> {
        self.attached.get(&session).map(|of| of.attachment)
    }

    pub(crate) fn open_of(&self, session: SessionId) -> BTreeSet<InodeId> {
        self.attached.get(&session).map(|of| of.open.clone()).unwrap_or_default()
    }

    pub(crate) fn opened(&mut self, session: SessionId, inode: InodeId) {
        if let Some(of) = self.attached.get_mut(&session) {
            of.open.insert(inode);
        }
    }

    /// Another one takes its place, which knows nothing.
    pub(crate) fn replace(&mut self) {
        let attached = std::mem::take(&mut self.attached).into_keys();
        self.awaited.extend(attached.filter(|session| !self.locks.held_by(*session).is_empty()));
        self.locks = LockTable::default();
        self.parts.clear();
        self.leases = Leases::of_term(self.leases.term_ms);
        self.writers.replace();
    }

    fn pushes(&mut self, grants: Vec<Grant>) -> Pushes {
        let mut pushes = Pushes::new();
        for Grant { session, wait } in grants {
            if self.attached.contains_key(&session) && take(&mut self.lost_pushes) {
                self.attached.remove(&session); // with its connection
            }
            let Some(of) = self.attached.get(&session) else { continue };
            let push = convert::lock_granted_to_push(of.attachment, wait);
            pushes.extend(of.pushes.clone().map(|handler| (handler, push)));
        }
        pushes
    }

    /// The session has ended.
    pub(crate) fn end(&mut self, session: SessionId) {
        self.attached.remove(&session);
        self.awaited.remove(&session);
        self.leases.forget(session);
        self.writers.end(session);
        let grants = self.locks.end(session);
        deliver(self.pushes(grants));
    }

    fn attach(
        &mut self,
        part: Attach,
        handler: Option<Arc<dyn PushHandler>>,
    ) -> MetaResult<(Attached, Pushes)> {
        let (session, attachment) = (part.session, part.attachment);
        assert!(self.attachment(session).is_none_or(|last| last < attachment), "attachments ascend");
        assert!(part.locks.len() + part.open.len() + part.writes.len() <= 10_000);
        self.attach_parts.push((part.locks.len(), part.open.len()));
        let parts = self.parts.entry(session).or_default();
        parts.retain(|earlier| earlier.attachment == attachment);
        if part.part as usize != parts.len() {
            return Err(MetaError::Unavailable { what: "a part is missing".to_owned() });
        }
        let more = part.more;
        parts.push(part);
        let read_term_ms = self.leases.term_ms;
        let (term_ms, gives_writes) = (self.writers.term_ms, self.writers.gives);
        let covers_opens = self.covers_opens;
        let mut attached = Attached { lost: Vec::new(), term_ms, read_term_ms, gives_writes, covers_opens };
        if more {
            return Ok((attached, Pushes::new()));
        }
        let parts = self.parts.remove(&session).unwrap_or_default();
        let locks: Vec<_> = parts.iter().flat_map(|part| part.locks.iter().copied()).collect();
        let open = parts.iter().flat_map(|part| part.open.iter().copied()).collect();
        self.attached.insert(session, OfSession { attachment, open, pushes: handler });
        self.awaited.remove(&session);
        self.leases.forget(session);
        self.writers.attach(session, parts.iter().flat_map(|part| part.writes.iter().copied()));
        let (lost, grants) = self.locks.attach(session, &locks);
        attached.lost = lost;
        Ok((attached, self.pushes(grants)))
    }

    /// `None`: the answer is lost.
    pub(super) fn renew(&mut self, renew: &RenewSession) -> Option<bool> {
        self.heartbeats += 1;
        let attachment = renew.attachment.unwrap_or(Attachment(0));
        let is_attached = self.is_attached(renew.session, attachment);
        if is_attached && let Some(of) = self.attached.get_mut(&renew.session) {
            of.open.retain(|inode| !renew.closed.contains(inode));
            self.closed.extend(&renew.closed);
        }
        (!take(&mut self.lost_heartbeats)).then_some(is_attached)
    }

    fn lock(&mut self, request: LockRequest) -> (LockReply, Pushes) {
        let LockRequest { session, attachment, ask, .. } = request;
        self.lock_requests.push(ask);
        if !self.is_attached(session, attachment) {
            return (LockReply::NotAttached, Pushes::new());
        }
        let sets = matches!(ask, LockAsk::Set { .. } | LockAsk::Test { .. });
        if sets && !self.awaited.is_empty() {
            return (LockReply::NotYet, Pushes::new());
        }
        let (reply, grants) = match ask {
            LockAsk::Set { lock, wait } => self.locks.set(session, lock, wait),
            LockAsk::Test { lock } => (self.locks.test(session, &lock), Vec::new()),
            LockAsk::Unlock { inode, owner, range } => self.locks.unlock(session, inode, owner, range),
            LockAsk::Cancel { wait } => {
                self.locks.cancel(session, wait);
                (LockReply::Granted, Vec::new())
            }
        };
        (reply, self.pushes(grants))
    }

    /// Leases on these inodes, if the session asks for them under its present attachment.
    pub(super) fn give_leases(
        &mut self,
        session: SessionId,
        attachment: Option<Attachment>,
        inodes: &[InodeId],
    ) -> Vec<InodeId> {
        let asks = attachment.is_some_and(|attachment| self.is_attached(session, attachment));
        if !asks || self.leases.term_ms == 0 {
            return Vec::new();
        }
        let is_asked_for = |inode: &InodeId| self.writers.is_anybody_asking(*inode);
        let inodes: Vec<InodeId> = inodes.iter().copied().filter(|inode| !is_asked_for(inode)).collect();
        self.leases.give(session, &inodes);
        inodes
    }

    /// Whether nobody else writes these; who does is asked for it.
    pub(super) fn is_written_by_nobody_but(
        &mut self,
        session: SessionId,
        inodes: impl IntoIterator<Item = InodeId>,
    ) -> bool {
        let others = self.writers.of_others(session, inodes);
        for (holder, writes) in &others {
            let Some(of) = self.attached.get(holder) else { continue };
            let (attachment, handler) = (of.attachment, of.pushes.clone());
            if let (Some(recall), Some(handler)) =
                (self.writers.recall(*holder, attachment, writes.clone()), handler)
            {
                deliver(vec![(handler, convert::write_recall_to_push(&recall))]);
            }
        }
        others.is_empty() && self.writers.awaited.is_empty()
    }

    /// Write of a file that nobody else uses, if the session asks for it under its present attachment.
    pub(super) fn give_write(
        &mut self,
        session: SessionId,
        attachment: Option<Attachment>,
        write: HeldWrite,
    ) -> bool {
        let asks = attachment.is_some_and(|attachment| self.is_attached(session, attachment));
        let inode = write.inode;
        let others_have_it_open =
            self.attached.iter().any(|(other, of)| *other != session && of.open.contains(&inode));
        let is_free = self.writers.holder(inode).is_none()
            && !self.writers.is_anybody_asking(inode)
            && !others_have_it_open
            && !self.leases.is_held_by_others(session, inode);
        let gives = self.writers.gives && self.writers.may_grant() && asks && is_free;
        if gives {
            self.writers.grant(session, write);
            self.leases.give(session, &[inode]);
        }
        gives
    }

    /// Recalls what others hold of what changes; and from `by` what it has not dropped under its present attachment.
    pub(super) fn recall(&mut self, by: (SessionId, Option<Dropped>), touched: &Touched) {
        let (asker, dropped) = by;
        let is_spared = dropped.as_ref().is_some_and(|dropped| self.is_attached(asker, dropped.attachment));
        let behind = dropped.filter(|_| is_spared).map(|dropped| dropped.behind);
        let attached = &self.attached;
        let attachment_of = |session| attached.get(&session).map(|of| of.attachment);
        let recalls = self.leases.recall((asker, behind), touched, attachment_of);
        self.late.extend(recalls.iter().map(|(session, recall)| (*session, convert::recall_to_push(recall))));
        if !self.leases.are_pushes_late {
            self.deliver_late();
        }
    }

    /// Delivers the recalls that were kept back.
    pub(crate) fn deliver_late(&mut self) {
        for (session, push) in std::mem::take(&mut self.late) {
            let handler = self.attached.get(&session).and_then(|of| of.pushes.clone());
            deliver(handler.map(|handler| (handler, push)).into_iter().collect());
        }
    }

    /// Pushes a grant, whoever asked for it.
    pub(crate) fn push_grant(&mut self, session: SessionId, attachment: Attachment, wait: WaitId) {
        let handler = self.attached.get(&session).and_then(|of| of.pushes.clone());
        let push = convert::lock_granted_to_push(attachment, wait);
        deliver(handler.map(|handler| (handler, push)).into_iter().collect());
    }
}

impl Connection {
    pub(crate) fn new(meta: Arc<FakeMeta>) -> Arc<Connection> {
        Arc::new(Connection { meta, pushes: Mutex::default() })
    }

    /// Whether nothing arrives now.
    async fn require_leader(&self, timeout: Duration) -> MetaResult<()> {
        if self.meta.state().leader.is_away {
            sleep(timeout).await;
            return Err(away());
        }
        Ok(())
    }
}

#[async_trait]
impl MetaCalls for Connection {
    async fn open_session(&self, open: OpenSession, _timeout: Duration) -> MetaResult<SessionOpened> {
        Ok(self.meta.open_session(open))
    }

    async fn renew(&self, renew: RenewSession, timeout: Duration) -> MetaResult<SessionRenewed> {
        self.require_leader(timeout).await?;
        let delay = self.meta.state().leader.heartbeat_delay;
        pause(delay).await;
        let renewed = self.meta.renewed(&renew);
        pause(delay).await;
        renewed
    }

    async fn attach(&self, attach: Attach, timeout: Duration) -> MetaResult<Attached> {
        self.require_leader(timeout).await?;
        let delay = self.meta.state().leader.attach_delay;
        pause(delay).await;
        let handler = self.pushes.lock().unwrap().clone();
        let (attached, pushes, is_lost) = {
            let mut state = self.meta.state();
            state.require_session(attach.session)?;
            let (attached, pushes) = state.leader.attach(attach, handler)?;
            (attached, pushes, take(&mut state.leader.lost_attach_answers))
        };
        deliver(pushes);
        if is_lost { Err(away()) } else { Ok(attached) }
    }

    async fn lock(&self, request: LockRequest, timeout: Duration) -> MetaResult<LockReply> {
        self.require_leader(timeout).await?;
        let (reply, pushes, delay, is_lost) = {
            let mut state = self.meta.state();
            state.require_session(request.session)?;
            let (reply, pushes) = state.leader.lock(request);
            (reply, pushes, state.leader.lock_answer_delay, take(&mut state.leader.lost_lock_answers))
        };
        deliver(pushes);
        pause(delay).await;
        if is_lost { Err(away()) } else { Ok(reply) }
    }

    fn handle_pushes(&self, handler: Arc<dyn PushHandler>) {
        *self.pushes.lock().unwrap() = Some(handler);
    }

    async fn recalled(&self, done: RecallsDone, timeout: Duration) -> MetaResult<()> {
        self.require_leader(timeout).await?;
        let RecallsDone { session, attachment, number, open, .. } = done;
        let leader = &mut self.meta.state().leader;
        if take(&mut leader.lost_recalled) {
            return Err(away());
        }
        for inode in open {
            leader.opened(session, inode);
            leader.open_when_recalled.push(inode);
        }
        leader.leases.handled.push((session, attachment, number));
        Ok(())
    }

    async fn acquire(&self, acquire: Acquire, timeout: Duration) -> MetaResult<Acquired> {
        self.require_leader(timeout).await?;
        self.meta.acquire(acquire, timeout).await
    }

    async fn return_writes(&self, returned: ReturnWrites, timeout: Duration) -> MetaResult<()> {
        self.require_leader(timeout).await?;
        let leader = &mut self.meta.state().leader;
        if take(&mut leader.lost_returns) {
            return Err(away());
        }
        leader.writers.returned(returned.session, returned.writes);
        Ok(())
    }

    async fn close_session(&self, close: RenewSession, _timeout: Duration) -> MetaResult<()> {
        self.meta.close_session(close.session);
        Ok(())
    }

    async fn change(&self, request: ChangeRequest, dropped: Option<Dropped>, timeout: Duration) -> Answer {
        self.meta.change(request, dropped, timeout).await
    }

    async fn read(&self, request: ReadRequest, timeout: Duration) -> Shown {
        self.meta.read(request, timeout).await
    }

    async fn report(&self, report: ReplicaReport, _timeout: Duration) -> MetaResult<()> {
        self.meta.state().reports.push(report);
        Ok(())
    }

    fn learn(&self, _cluster: ClusterId, _metaservers: &[String]) {}
}
