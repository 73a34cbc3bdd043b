//! How a writer waits for Write of a file, and how the leader is asked for it.

use std::sync::Arc;
use std::time::Duration;

use dfs_proto::error::MetaError;
use dfs_proto::ids::InodeId;
use dfs_proto::meta::{Acquired, HeldWrite, MetaResult};
use tokio::time::{sleep, timeout};

use crate::data::node::Node;
use crate::data::writes::state::{Decision, Ticket};
use crate::data::writes::{Hold, Writes, in_time};
use crate::error::Result;
use crate::session::meta::MetaClient;
use crate::session::retry::Deadline;

/// Between two questions, if the first one got no answer.
const PAUSE: Duration = Duration::from_millis(50);

/// A writer of one inode. Its place among those who wait is given back when this is dropped.
struct Waiter<'w> {
    writes: &'w Arc<Writes>,
    inode: InodeId,
    ticket: Option<Ticket>,
}

/// A question to the leader. If it is dropped without a grant, it has ended.
struct Question {
    writes: Arc<Writes>,
    write: HeldWrite,
}

impl Waiter<'_> {
    fn new(writes: &Arc<Writes>, inode: InodeId) -> Waiter<'_> {
        Waiter { writes, inode, ticket: None }
    }

    fn look(&mut self) -> Decision {
        let grant = self.ticket.as_ref().map(|ticket| ticket.write.grant);
        let decision = self.writes.state().hold(self.inode, self.writes.clock.boottime(), grant);
        if let Decision::Hold(..) = decision {
            self.ticket = None; // it is used up, or void
        }
        decision
    }

    /// The question was answered with this refusal.
    fn failure(&self) -> Option<MetaError> {
        self.ticket.as_ref().and_then(|ticket| ticket.failure.get().cloned())
    }
}

impl Drop for Waiter<'_> {
    fn drop(&mut self) {
        if let Some(ticket) = self.ticket.take() {
            self.writes.change(|state| state.leave(ticket.write));
        }
    }
}

impl Drop for Question {
    fn drop(&mut self) {
        self.writes.change(|state| state.given_up(self.write)); // does nothing to what is held
    }
}

impl Writes {
    /// Waits until bytes may be laid into the buffer of this inode, and has the leader asked if need be.
    pub(crate) async fn hold(
        self: &Arc<Writes>,
        node: &Arc<Node>,
        meta: &Arc<MetaClient>,
        deadline: Deadline,
    ) -> Result<Hold> {
        let mut waiter = Waiter::new(self, node.inode);
        loop {
            let moved = self.moved.notified();
            match waiter.failure() {
                None => {}
                // It has no name left, and nobody holds anything of it.
                Some(MetaError::Stale | MetaError::NotFound) => {
                    return Ok(self.held(None, meta.session_id()));
                }
                Some(MetaError::Unavailable { .. }) if !deadline.is_over() => {
                    meta.require_answering()?;
                    sleep(deadline.at_most(PAUSE)).await;
                    waiter.ticket = None;
                }
                Some(error) => return Err(error.into()),
            }
            match waiter.look() {
                Decision::Hold(write, session) => return Ok(self.held(Some(write), session)),
                Decision::Free => return Ok(self.held(None, meta.session_id())),
                Decision::Ask(ticket) => {
                    self.clone().ask(ticket.clone(), node.clone(), meta.clone());
                    waiter.ticket = Some(ticket);
                }
                Decision::WaitWith(ticket) => waiter.ticket = Some(ticket),
                Decision::Wait => {
                    let waited = in_time(self.deadline_of(node, meta, deadline), moved).await;
                    if self.deadline_of(node, meta, deadline).is_over() {
                        waited?;
                    }
                }
            }
        }
    }

    /// A writer who waits until what he has written is given to somebody else is not given up while that gets further.
    fn deadline_of(&self, node: &Node, meta: &MetaClient, deadline: Deadline) -> Deadline {
        let committed = node.with(meta.session_id(), |state| state.committed_at());
        committed.map_or(deadline, |at| deadline.or_later(at + meta.timeout()))
    }

    /// The same at once, if the lease is there. `None`: it is not.
    pub(crate) fn hold_now(self: &Arc<Writes>, inode: InodeId, meta: &MetaClient) -> Option<Hold> {
        let mut waiter = Waiter::new(self, inode);
        match waiter.look() {
            Decision::Hold(write, session) => Some(self.held(Some(write), session)),
            Decision::Free => Some(self.held(None, meta.session_id())),
            Decision::Ask(ticket) => {
                waiter.ticket = Some(ticket.clone());
                self.change(|state| state.given_up(ticket.write));
                None
            }
            Decision::WaitWith(ticket) => {
                waiter.ticket = Some(ticket); // which it gives back
                None
            }
            Decision::Wait => None,
        }
    }

    /// Asks the leader, whoever of those who wait gives up (WL6).
    fn ask(self: Arc<Writes>, ticket: Ticket, node: Arc<Node>, meta: Arc<MetaClient>) {
        tokio::spawn(async move {
            let Ticket { write, failure } = ticket;
            let question = Question { writes: self.clone(), write };
            match self.acquire(write, &node, &meta).await {
                Ok(true) => self.change(|state| state.acquired(write, self.clock.boottime())),
                Ok(false) => {} // it is asked for anew
                Err(error) => drop(failure.set(error)),
            }
            drop(question);
        });
    }

    /// False: it has to be asked for again, under the next attachment.
    async fn acquire(&self, write: HeldWrite, node: &Node, meta: &MetaClient) -> MetaResult<bool> {
        let late = |_| MetaError::Unavailable { what: "the cluster does not take the session".to_owned() };
        let bound = timeout(meta.timeout(), meta.held.bound()).await.map_err(late)?;
        if !self.state().is_bound(bound) {
            return Ok(false); // another attachment has begun: keeps WL4
        }
        let answer = tokio::select! {
            answer = meta.acquire(write, bound) => answer,
            () = self.is_void(write) => return Ok(false),
        };
        match answer {
            Ok(Acquired::Granted { attr, next_commit }) => {
                node.with(bound.session, |state| {
                    state.acquired(&attr);
                    state.learn_next_commit(bound.session, next_commit);
                });
                Ok(true)
            }
            Ok(Acquired::NotAttached) | Err(MetaError::SessionExpired { .. }) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Returns when an attachment has made the question void (WL4).
    async fn is_void(&self, write: HeldWrite) {
        loop {
            let moved = self.moved.notified();
            if !self.state().is_asked(write) {
                return;
            }
            moved.await;
        }
    }
}
