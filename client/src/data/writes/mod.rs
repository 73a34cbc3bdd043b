//! Write leases of files: only who holds Write of a file buffers what is written to it (P3.2).
//!
//! WL1  A lease counts until a term, less a margin, after the last attachment or heartbeat that the leader answered was *sent*, by
//!      CLOCK_BOOTTIME (P3.3). When it has lapsed, writes and reads that rely on it wait: the leader gives it to nobody else before
//!      the session has ended, and a heartbeat that is answered brings all of them back.
//! WL2  A hold is kept while bytes are laid into the buffer, and over no call. A flush needs none (P4.5).
//! WL3  A recall that overtakes its grant: every writer that waited for the grant has its operation first (P3.5). What a create asked
//!      for is given back at once, and its answer then means nothing. A recall ends whatever has its number or a lower one.
//! WL4  A grant counts only if it was asked for under the present attachment. An attachment tells all that is held.
//! WL5  A lease is dropped here before its return is sent, and no return is sent while an attachment is on its way: so no attachment
//!      names it again. What was written under it is committed by then, or is lost and noted (P6.4).
//! WL6  One question is under way for each inode, with a number that is larger than all before. It is a task of its own: who waits
//!      has a deadline of its own, and may give up.
//!
//! | file | what |
//! |------|------|
//! | `state` | the table; pure |
//! | `acquiring` | how a writer waits, and how the leader is asked |
//! | `returning` | the tasks that flush what is recalled, and give it back |

mod acquiring;
mod returning;
mod state;

#[cfg(test)]
mod random_tests;
#[cfg(test)]
mod tests;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use dfs_net::env::Clock;
use dfs_proto::ids::{Attachment, InodeId, SessionId, WriteGrant};
use dfs_proto::meta::{HeldWrite, WriteRecall};
use tokio::sync::Notify;
use tokio::time::timeout;

use crate::data::writes::state::State;
use crate::error::{ClientError, Result};
use crate::session::leases::{Bound, WriteLeases};
use crate::session::retry::Deadline;

/// The Write leases of one session.
pub(crate) struct Writes {
    clock: Arc<dyn Clock>,
    state: Mutex<State>,
    /// Who waits looks again.
    moved: Notify,
    to_flush: Notify,
    returned: Notify,
    /// As the last heartbeat said, and before it.
    has_room: AtomicBool,
}

/// Bytes may be laid into the buffer, until this is dropped.
pub(crate) struct Hold {
    writes: Arc<Writes>,
    /// `None`: the leader gives no Write.
    write: Option<HeldWrite>,
    session: SessionId,
}

/// A create that asks for Write. If it is dropped, the answer means nothing.
pub(crate) struct Creating {
    writes: Arc<Writes>,
    grant: WriteGrant,
}

impl Writes {
    pub(crate) fn new(clock: Arc<dyn Clock>) -> Arc<Writes> {
        let (moved, to_flush, returned) = (Notify::new(), Notify::new(), Notify::new());
        let (state, has_room) = (Mutex::new(State::new()), AtomicBool::new(true));
        Arc::new(Writes { clock, state, moved, to_flush, returned, has_room })
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

    fn held(self: &Arc<Writes>, write: Option<HeldWrite>, session: SessionId) -> Hold {
        Hold { writes: self.clone(), write, session }
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

    /// What was written to the file may be committed later than its close: it is held, and the servers have room for it.
    pub(crate) fn may_commit_later(&self, inode: InodeId) -> bool {
        self.has_room.load(Ordering::Relaxed) && self.has(inode)
    }

    /// To be called before a create that opens for writing is sent.
    pub(crate) fn creating(self: &Arc<Writes>) -> Option<Creating> {
        let grant = self.state().wish_to_create()?;
        Some(Creating { writes: self.clone(), grant })
    }
}

async fn in_time<T>(deadline: Deadline, waiting: impl Future<Output = T>) -> Result<T> {
    let late =
        |_| ClientError::Unavailable { what: "the file could not be had for writing in time".to_owned() };
    timeout(deadline.left(), waiting).await.map_err(late)
}

impl Hold {
    /// Bytes that belong to another session are not laid.
    pub(crate) fn session(&self) -> SessionId {
        self.session
    }

    /// The lease under which the bytes are written: nobody else writes the file. `None`: the leader gives no Write.
    pub(crate) fn write(&self) -> Option<HeldWrite> {
        self.write
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

    fn has_room(&self, has_room: bool) {
        self.has_room.store(has_room, Ordering::Relaxed);
    }

    fn recalled(&self, recall: &WriteRecall) {
        self.change(|state| state.recalled(recall));
    }

    fn session_ended(&self) {
        self.change(State::session_ended);
    }
}
