//! Write leases of files: only who holds Write of a file buffers what is written to it (P3.2).
//!
//! WL1  A lease counts until a term, less a margin, after the last attachment or heartbeat that the leader answered was *sent*, by
//!      CLOCK_BOOTTIME (P3.3). When it has lapsed, writes and reads that rely on it wait: the leader gives it to nobody else before
//!      the session has ended, and a heartbeat that is answered brings all of them back.
//! WL2  A hold is kept while bytes are laid into the buffer, and over no call. A flush needs none (P4.5).
//! WL3  A recall that overtakes its grant: what a writer asked for has its one operation first; what an open or a create asked for is
//!      given back at once, and the answer then means nothing (P3.5).
//! WL4  A grant counts only if it was asked for under the present attachment. An attachment tells all that is held.
//! WL5  A lease is dropped here before its return is sent, so no attachment names it again. What was written under it is committed
//!      by then, or is lost and noted (P6.4).
//! WL6  There is one number under way for each inode, and each is larger than the one before.
//!
//! | file | what |
//! |------|------|
//! | `state` | the table; pure |
//! | `returning` | the tasks that flush what is recalled, and give it back |

mod returning;
mod state;

#[cfg(test)]
mod random_tests;
#[cfg(test)]
mod tests;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use dfs_net::env::Clock;
use dfs_proto::error::MetaError;
use dfs_proto::ids::{Attachment, InodeId, SessionId, WriteGrant};
use dfs_proto::meta::{Acquired, HeldWrite, WriteRecall};
use tokio::sync::Notify;
use tokio::time::timeout;

use crate::data::node::Node;
use crate::data::writes::state::{Decision, State};
use crate::error::{ClientError, Result};
use crate::session::held::Bound;
use crate::session::leases::WriteLeases;
use crate::session::meta::MetaClient;
use crate::session::retry::Deadline;

/// The Write leases of one session.
pub(crate) struct Writes {
    clock: Arc<dyn Clock>,
    state: Mutex<State>,
    /// Who waits looks again.
    moved: Notify,
    to_flush: Notify,
    returned: Notify,
}

/// Bytes may be laid into the buffer, until this is dropped.
pub(crate) struct Hold {
    writes: Arc<Writes>,
    /// `None`: the leader gives no Write.
    write: Option<HeldWrite>,
    session: SessionId,
}

/// An open that asks for Write. If it is dropped, the answer means nothing.
pub(crate) struct Opening {
    writes: Arc<Writes>,
    write: HeldWrite,
}

/// The same for a create.
pub(crate) struct Creating {
    writes: Arc<Writes>,
    grant: WriteGrant,
}

impl Writes {
    pub(crate) fn new(clock: Arc<dyn Clock>) -> Arc<Writes> {
        let (moved, to_flush, returned) = (Notify::new(), Notify::new(), Notify::new());
        Arc::new(Writes { clock, state: Mutex::new(State::new()), moved, to_flush, returned })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes the table, and wakes all who wait for a change.
    fn change<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        let changed = change(&mut self.state());
        self.moved.notify_waiters();
        self.to_flush.notify_one();
        self.returned.notify_one();
        changed
    }

    /// Waits until bytes may be laid into the buffer of this inode, and asks the leader if need be.
    pub(crate) async fn hold(
        self: &Arc<Writes>,
        node: &Node,
        meta: &MetaClient,
        deadline: Deadline,
    ) -> Result<Hold> {
        loop {
            let moved = self.moved.notified();
            let decision = self.state().hold(node.inode, self.clock.boottime());
            match decision {
                Decision::Hold(write, session) => return Ok(self.held(Some(write), session)),
                Decision::Free => return Ok(self.held(None, meta.session_id())),
                Decision::Ask(write) => {
                    if let Some(hold) = self.acquire(write, node, meta, deadline).await? {
                        return Ok(hold);
                    }
                }
                Decision::Wait => in_time(deadline, moved).await?,
            }
        }
    }

    fn held(self: &Arc<Writes>, write: Option<HeldWrite>, session: SessionId) -> Hold {
        Hold { writes: self.clone(), write, session }
    }

    /// `None`: it has to be asked for again.
    async fn acquire(
        self: &Arc<Writes>,
        write: HeldWrite,
        node: &Node,
        meta: &MetaClient,
        deadline: Deadline,
    ) -> Result<Option<Hold>> {
        let asking = Opening { writes: self.clone(), write };
        let bound = in_time(deadline, meta.held.bound()).await?;
        if !self.state().is_bound(bound) || !self.state().is_asked(write) {
            return Ok(None); // another attachment has begun: keeps WL4
        }
        let answer = tokio::select! {
            answer = meta.acquire(write, bound, deadline.left()) => answer,
            () = self.is_void(write) => return Ok(None),
        };
        match answer {
            Ok(Acquired::Granted { attr, next_commit }) => {
                node.with(bound.session, |state| {
                    state.observe(&attr);
                    state.learn_next_commit(bound.session, next_commit);
                });
                let acquired = self.change(|state| state.acquired(write, self.clock.boottime()));
                drop(asking); // it does nothing to what is held
                Ok(acquired.map(|session| self.held(Some(write), session)))
            }
            Ok(Acquired::NotAttached) | Err(MetaError::SessionExpired { .. }) => Ok(None),
            // It has no name left, so nobody opens it any more. What is written to it is committed as without leases.
            Err(MetaError::Stale | MetaError::NotFound) => Ok(Some(self.held(None, bound.session))),
            Err(error) => Err(error.into()),
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

    /// Waits until what was written under leases of `session` may be relied upon (WL1). A session that has ended has lost it, which
    /// is told elsewhere.
    pub(crate) async fn wait_until_valid(&self, session: SessionId, deadline: Deadline) -> Result<()> {
        loop {
            let moved = self.moved.notified();
            {
                let state = self.state();
                if state.session() != session || state.is_valid(self.clock.boottime()) {
                    return Ok(());
                }
            }
            in_time(deadline, moved).await?;
        }
    }

    /// Nobody else writes the file. Waits while the lease has lapsed.
    pub(crate) async fn is_held(&self, inode: InodeId, deadline: Deadline) -> Result<bool> {
        loop {
            let moved = self.moved.notified();
            {
                let state = self.state();
                if !state.is_held(inode) {
                    return Ok(false);
                }
                if state.is_valid(self.clock.boottime()) {
                    return Ok(true);
                }
            }
            in_time(deadline, moved).await?;
        }
    }

    /// The same, whether it has lapsed or not.
    pub(crate) fn has(&self, inode: InodeId) -> bool {
        self.state().is_held(inode)
    }

    /// To be called before an open for writing is sent.
    pub(crate) fn opening(self: &Arc<Writes>, inode: InodeId) -> Option<Opening> {
        let write = self.state().wish_to_open(inode, self.clock.boottime())?;
        Some(Opening { writes: self.clone(), write })
    }

    /// To be called before a create that opens for writing is sent.
    pub(crate) fn creating(self: &Arc<Writes>) -> Option<Creating> {
        let grant = self.state().wish_to_create()?;
        Some(Creating { writes: self.clone(), grant })
    }
}

async fn in_time<T>(deadline: Deadline, waiting: impl Future<Output = T>) -> Result<T> {
    let late = |_| ClientError::Unavailable { what: "the file could not be had for writing in time".to_owned() };
    timeout(deadline.left(), waiting).await.map_err(late)
}

impl Hold {
    /// Bytes that belong to another session are not laid.
    pub(crate) fn session(&self) -> SessionId {
        self.session
    }

    /// Nobody else writes the file.
    pub(crate) fn is_exclusive(&self) -> bool {
        self.write.is_some()
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        let Some(write) = self.write else { return };
        if self.writes.state().end_hold(write) {
            self.writes.to_flush.notify_one();
        }
    }
}

impl Opening {
    pub(crate) fn grant(&self) -> WriteGrant {
        self.write.grant
    }

    /// The answer has come, and was taken in. `writes`: with Write.
    pub(crate) fn answered(self, writes: bool) {
        if writes {
            self.writes.change(|state| state.opened(self.write, self.writes.clock.boottime()));
        } // else it is given up
    }
}

impl Drop for Opening {
    fn drop(&mut self) {
        self.writes.change(|state| state.given_up(self.write)); // does nothing to what is held
    }
}

impl Creating {
    pub(crate) fn grant(&self) -> WriteGrant {
        self.grant
    }

    /// The answer has come, and was taken in. `made`: with Write of this file.
    pub(crate) fn answered(self, made: Option<InodeId>) {
        let now = self.writes.clock.boottime();
        self.writes.change(|state| state.created(self.grant, made, now));
    }
}

impl Drop for Creating {
    fn drop(&mut self) {
        self.writes.state().created(self.grant, None, Duration::ZERO);
    }
}

impl WriteLeases for Writes {
    fn attaching(&self, bound: Bound) -> Vec<HeldWrite> {
        self.change(|state| state.attaching(bound))
    }

    fn attached(&self, attachment: Attachment, sent: Duration, term: Option<Duration>) {
        self.change(|state| state.attached(attachment, sent, term));
    }

    fn renewed(&self, attachment: Attachment, sent: Duration) {
        self.change(|state| state.renewed(attachment, sent));
    }

    fn recalled(&self, recall: &WriteRecall) {
        self.change(|state| state.recalled(recall));
    }

    fn session_ended(&self) {
        self.change(State::session_ended);
    }
}
