//! Locks of files, asked for under a session (P5.7).
//!
//! LK1  One request about locks of an inode is under way at a time, so that the leader gets them in the order of the calls. A
//!      wait in the leader's line is not under way: it holds back nothing.
//! LK2  A request is sent once. If it is given up, or gets no answer, the session attaches anew, and the request is sent again
//!      under that attachment: the leader refuses the first one, should it arrive later.
//! LK3  A request is answered within `metadata_timeout`. Only a wait in the line lasts for as long as it takes, also over a change
//!      of the leader: then it is at the end of the line again.
//!
//! The table of the leader decides about every lock, also between owners of this session.

use std::time::Duration;

use dfs_proto::error::MetaError;
use dfs_proto::ids::{Attachment, InodeId, LockOwner};
use dfs_proto::lock::{HeldLock, LockAsk, LockRange, LockReply, LockRequest};
use dfs_proto::meta::MetaResult;
use futures::StreamExt;
use tokio::time::{sleep, timeout};

use crate::error::{ClientError, Result};
use crate::session::held::{Abandoned, Held, InLine, Waited};
use crate::session::leases::Bound;
use crate::session::meta::MetaClient;
use crate::session::ranges::LockLoss;

/// Between questions to a leader that does not know all locks yet.
const NOT_YET_PAUSE: Duration = Duration::from_millis(50);
/// Waits that were given up and are ended at the same time.
const CANCELS_MAX: usize = 16;

/// How a leader has taken a request for a lock.
enum Asked {
    Granted,
    InLine(InLine),
}

/// A request that is under way. If it is dropped before it was answered, its outcome is unknown.
struct UnderWay<'h> {
    held: &'h Held,
    bound: Bound,
    is_answered: bool,
}

impl Drop for UnderWay<'_> {
    fn drop(&mut self) {
        if !self.is_answered {
            self.held.doubt(self.bound.attachment); // keeps LK2
        }
    }
}

/// A lock that is not held here any more, and is not unlocked at the leader yet. If this is dropped, the session attaches anew.
struct Untold<'h> {
    held: &'h Held,
    told_in: Attachment,
}

impl Drop for Untold<'_> {
    fn drop(&mut self) {
        self.held.was_not_unlocked(self.told_in); // keeps H1
    }
}

impl MetaClient {
    /// Sets a lock in place of what its owner holds of the range. If others are in the way, it is refused, or waits for them.
    /// Whoever stops waiting holds afterwards what was held before.
    pub(crate) async fn set_lock(&self, lock: HeldLock, through: &LockLoss, waits: bool) -> Result<()> {
        self.require_answering()?;
        // A wait whose grant the leader may have taken back.
        let mut unsure: Option<InLine> = None;
        let mut is_patient = false;
        loop {
            let asking = self.ask_to_set(lock, through, waits);
            let asked = if is_patient { asking.await? } else { self.in_time(asking).await? };
            let Asked::InLine(mut in_line) = asked else {
                if let Some(earlier) = unsure {
                    earlier.forget();
                }
                return Ok(());
            };
            drop(unsure.take()); // whatever of it is left at the leader is given back
            is_patient = true; // LK3
            match in_line.ended(through).await {
                Waited::Granted => return Ok(()),
                Waited::Unsure => unsure = Some(in_line),
                Waited::Void => {}
            }
        }
    }

    /// A lock that would be in the way. Its owner is 0 if it is another session's.
    pub(crate) async fn test_lock(&self, lock: HeldLock) -> Result<Option<HeldLock>> {
        self.require_answering()?;
        self.in_time(async {
            loop {
                let bound = self.held.bound().await;
                match self.ask(bound, LockAsk::Test { lock }).await? {
                    Some(LockReply::Granted) => return Ok(None),
                    Some(LockReply::Conflict(other)) => return Ok(Some(other)),
                    Some(LockReply::NotYet) => sleep(NOT_YET_PAUSE).await,
                    Some(other) => return Err(unexpected(other)),
                    None => {}
                }
            }
        })
        .await
    }

    /// Takes the range out of what the owner holds. After `TooManyLocks` nothing has changed, after another error the leader hears of
    /// it when it answers again.
    pub(crate) async fn unlock(&self, inode: InodeId, owner: LockOwner, range: LockRange) -> Result<()> {
        let untold = Untold { held: &self.held, told_in: self.held.release(inode, owner, range)? };
        self.require_answering()?;
        self.in_time(self.ask_to_unlock(inode, owner, range, untold.told_in)).await?;
        std::mem::forget(untold);
        Ok(())
    }

    /// Ends all locks of the owner on this inode. Nothing is sent if there are none.
    pub(crate) async fn unlock_owner(&self, inode: InodeId, owner: LockOwner) -> Result<()> {
        match self.held.holds(inode, owner) {
            true => self.unlock(inode, owner, LockRange::WHOLE).await,
            false => Ok(()),
        }
    }

    /// Ends all locks that were set through one open file. Nothing is sent if there are none.
    pub(crate) async fn unlock_through(&self, inode: InodeId, through: &LockLoss) -> Result<()> {
        for (owner, range) in self.held.set_through(inode, through) {
            self.unlock(inode, owner, range).await?;
        }
        Ok(())
    }

    /// Ends the waits that were given up, for ever.
    pub(crate) async fn run_cancels(&self) {
        loop {
            let abandoned = self.held.abandoned().await;
            let cancels = futures::stream::iter(abandoned);
            cancels.for_each_concurrent(CANCELS_MAX, |abandoned| self.cancel(abandoned)).await;
        }
    }

    async fn in_time<T>(&self, asking: impl Future<Output = Result<T>>) -> Result<T> {
        let late = |_| ClientError::Unavailable { what: "a request for a lock was not answered".to_owned() };
        timeout(self.timeout, asking).await.map_err(late)?
    }

    async fn ask_to_set(&self, lock: HeldLock, through: &LockLoss, waits: bool) -> Result<Asked> {
        loop {
            if !self.held.has_room(&lock, through) {
                return Err(ClientError::TooManyLocks);
            }
            let bound = self.held.bound().await;
            let turn = self.held.turn(lock.inode).await;
            if !self.held.is_bound(bound) {
                continue;
            }
            self.held.disturb(lock.inode, lock.owner, lock.range);
            let in_line = match waits {
                true => match self.held.begin_wait(bound, lock) {
                    Some(in_line) => Some(in_line),
                    None => continue, // the attachment has just ended
                },
                false => None,
            };
            let wait = in_line.as_ref().map(|in_line| in_line.wait);
            let answer = self.ask(bound, LockAsk::Set { lock, wait }).await?;
            match (answer, in_line) {
                (Some(LockReply::Waiting), Some(in_line)) => return Ok(Asked::InLine(in_line)),
                (_, Some(in_line)) => in_line.forget(),
                (_, None) => {}
            }
            match answer {
                Some(LockReply::Granted) if self.held.accept(bound, &lock, through) => {
                    return Ok(Asked::Granted);
                }
                Some(LockReply::Granted) | None => {}
                Some(LockReply::Conflict(_)) => return Err(ClientError::LockConflict),
                Some(LockReply::Deadlock) => return Err(ClientError::LockDeadlock),
                Some(LockReply::TooMany) => return Err(ClientError::TooManyLocks),
                Some(LockReply::NotYet) => {
                    drop(turn);
                    sleep(NOT_YET_PAUSE).await;
                }
                Some(other) => return Err(unexpected(other)),
            }
        }
    }

    /// `told_in`: the last attachment that may have told the lock.
    async fn ask_to_unlock(
        &self,
        inode: InodeId,
        owner: LockOwner,
        range: LockRange,
        mut told_in: Attachment,
    ) -> Result<()> {
        loop {
            let bound = self.held.bound().await;
            if bound.attachment > told_in {
                return Ok(()); // the leader was told without it
            }
            let turn = self.held.turn(inode).await;
            if !self.held.is_bound(bound) {
                continue;
            }
            // Once more, in order with what was asked before.
            told_in = self.held.release(inode, owner, range)?;
            self.held.disturb(inode, owner, range);
            match self.ask(bound, LockAsk::Unlock { inode, owner, range }).await? {
                Some(LockReply::Granted) => return Ok(()),
                // It has more locks of this session than are in the table: it is told those, without this one.
                Some(LockReply::TooMany) => self.held.doubt(bound.attachment),
                Some(LockReply::NotYet) => {
                    drop(turn);
                    sleep(NOT_YET_PAUSE).await;
                }
                Some(other) => return Err(unexpected(other)),
                None => {}
            }
        }
    }

    /// Asks the leader once. `None`: the outcome is unknown, or the attachment has ended (LK2).
    async fn ask(&self, bound: Bound, ask: LockAsk) -> MetaResult<Option<LockReply>> {
        let Bound { session, attachment } = bound;
        let request = LockRequest { cluster: self.session().opened.cluster, session, attachment, ask };
        let mut under_way = UnderWay { held: &self.held, bound, is_answered: false };
        match self.calls.lock(request, self.timeout).await {
            Ok(LockReply::NotAttached) | Err(MetaError::Unavailable { .. }) => Ok(None),
            Ok(reply) => {
                under_way.is_answered = true;
                Ok(Some(reply))
            }
            Err(MetaError::SessionExpired { session }) => {
                self.replace(session).await?;
                Ok(None)
            }
            Err(stale @ MetaError::Stale) => {
                under_way.is_answered = true; // before the leader looked at its table
                Err(stale)
            }
            Err(error) => Err(error),
        }
    }

    /// Ends a wait that was given up, and gives back what was granted for it (H4 of `held`).
    async fn cancel(&self, abandoned: Abandoned) {
        let Abandoned { bound, wait, lock } = abandoned;
        let _turn = self.held.turn(lock.inode).await;
        if !self.held.is_bound(bound) {
            return; // the leader was told what is held
        }
        let ended = self.ask(bound, LockAsk::Cancel { wait }).await;
        if !matches!(ended, Ok(Some(LockReply::Granted))) || !self.restore(bound, &lock).await {
            self.held.doubt(bound.attachment);
        }
    }

    /// Tells the leader what the owner of this lock holds of its bytes. It does not wait: the leader has at least that, or the
    /// same bytes shared, when it gave a shared lock in place of an exclusive one. False if the leader may know otherwise.
    async fn restore(&self, bound: Bound, lock: &HeldLock) -> bool {
        let HeldLock { inode, owner, range, .. } = *lock;
        self.held.disturb(inode, owner, range);
        let (held, free) = self.held.within(inode, owner, range);
        for range in free {
            let unlocked = self.ask(bound, LockAsk::Unlock { inode, owner, range }).await;
            if !matches!(unlocked, Ok(Some(LockReply::Granted))) {
                return false;
            }
        }
        for lock in held {
            match self.ask(bound, LockAsk::Set { lock, wait: None }).await {
                Ok(Some(LockReply::Granted)) => {}
                // Somebody else has come in between: what is left of it at the leader goes with the next attachment.
                Ok(Some(LockReply::Conflict(_))) => {
                    self.held.lose(&lock);
                    return false;
                }
                _ => return false,
            }
        }
        true
    }
}

fn unexpected(reply: LockReply) -> ClientError {
    ClientError::Internal { what: format!("a request about locks was answered {reply:?}") }
}
