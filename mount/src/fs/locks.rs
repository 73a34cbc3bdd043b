//! Calls that lock and unlock files (P5.7), and how locks end.
//!
//! flock(2), fcntl(2) and its OFD locks are of one kind here, since fuser does not say which a request is about.
//!
//! What an owner wrote before it unlocks is committed first, and what was committed before a lock is granted is seen under it
//! (F7): so programs on several mounts that lock what they write see each other's bytes.

use std::sync::Arc;
use std::time::Duration;

use dfs_client::ClientError;
use dfs_client::inode::{File, GetAttr, LockWanted};
use dfs_proto::attr::Caller;
use dfs_proto::ids::LockOwner;
use dfs_proto::lock::{HeldLock, LockKind, LockRange};
use tokio::time::{Instant, sleep, timeout};

use crate::fs::error::{FsError, FsResult};
use crate::fs::mounted::{Dropped, Fs, OpenFile};
use crate::handles::Handle;
use crate::lock_owners::{Ending, KernelOwner};
use crate::signals::{Look, look_at};

/// The longest time for which a request that would be refused waits for a lock of this mount that may be about to end (P5.7).
const ENDING_MAX: Duration = Duration::from_millis(50);
/// A request that is not to wait has a deadline of its own anyway.
const SEE_MAX: Duration = Duration::from_secs(60);
/// Between two looks at the signals of a thread that waits: a person does not notice it, and it costs a waiting thread 0.1 ms of
/// processor time in a second.
const SIGNALS_EVERY: Duration = Duration::from_millis(250);

/// A lock that the kernel asks for or asks about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct LockAsked {
    pub(crate) owner: KernelOwner,
    pub(crate) range: LockRange,
    pub(crate) kind: LockKind,
    /// For those who ask who holds it.
    pub(crate) process: u32,
}

/// Who waits for a lock.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Waiter {
    /// In this process's pid namespace.
    pub(crate) thread: u32,
    /// For so long it waits if it cannot be seen: nobody could end its wait.
    pub(crate) unseen_max: Duration,
}

impl LockAsked {
    fn by(self, owner: LockOwner) -> LockWanted {
        LockWanted { owner, range: self.range, kind: self.kind, process: self.process }
    }
}

impl Fs {
    /// Takes the lock, or refuses it.
    pub(crate) async fn try_lock(&self, handle: Handle, asked: LockAsked) -> FsResult<()> {
        let open = self.file(handle)?;
        let number = self.lock(&open, handle, asked, false).await?;
        self.see_others_writes(&open, (number, asked.range), SEE_MAX).await
    }

    /// Takes the lock when it is free, however long that takes. The wait ends with EINTR when the waiter is signalled.
    pub(crate) async fn wait_for_lock(
        &self,
        handle: Handle,
        asked: LockAsked,
        waiter: Waiter,
    ) -> FsResult<()> {
        let open = self.file(handle)?;
        let number = tokio::select! {
            biased;
            locked = self.lock(&open, handle, asked, true) => locked?,
            ended = wait_ended(waiter) => return Err(ended), // drops the request, which gives it up
        };
        self.see_others_writes(&open, (number, asked.range), waiter.unseen_max).await
    }

    /// Gets the lock. What others wrote is not seen yet. Returns the owner's number.
    async fn lock(
        &self,
        open: &OpenFile,
        handle: Handle,
        asked: LockAsked,
        waits: bool,
    ) -> FsResult<LockOwner> {
        let (inode, owner) = (open.inode, asked.owner);
        let end = Instant::now() + ENDING_MAX;
        self.lock_owners.settled(inode, owner, handle, end).await;
        if asked.kind == LockKind::Shared && self.lock_owners.holder(inode, owner).is_some() {
            self.written(inode, open.file.flush().await)?; // it may have been exclusive (keeps F7)
        }
        loop {
            let asking = self.lock_owners.ask(inode, owner, handle);
            let number = asking.number;
            match open.file.set_lock(asked.by(number), waits).await {
                Ok(()) => {
                    if asking.granted() {
                        return Ok(number);
                    }
                    // Another thread has closed the file, and the locks that the owner had then have ended.
                    open.file.unlock_owner(number).await?;
                }
                Err(refused) if is_refusal(&refused) => {
                    asking.refused();
                    if waits || !self.lock_owners.others_ended(inode, owner, end).await {
                        return Err(refused.into());
                    }
                }
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// The lock that is in the way of this one. Its process is 0 if it is of another mount.
    pub(crate) async fn test_lock(&self, handle: Handle, asked: LockAsked) -> FsResult<Option<HeldLock>> {
        let open = self.file(handle)?;
        let end = Instant::now() + ENDING_MAX;
        self.lock_owners.settled(open.inode, asked.owner, handle, end).await;
        let holder = self.lock_owners.holder(open.inode, asked.owner);
        let number = holder.map_or_else(|| self.lock_owners.nobody(), |holder| holder.number);
        loop {
            let Some(held) = open.file.test_lock(asked.by(number)).await? else { return Ok(None) };
            if !self.lock_owners.others_ended(open.inode, asked.owner, end).await {
                return Ok(Some(seen_here(held)));
            }
        }
    }

    /// Unlocks what the owner holds of the range. An error says that bytes that were written before are lost, or that what would be
    /// left is more locks than the mount may have: then it stays locked.
    pub(crate) async fn unlock(&self, handle: Handle, owner: KernelOwner, range: LockRange) -> FsResult<()> {
        let open = self.file(handle)?;
        self.lock_owners.settled(open.inode, owner, handle, Instant::now() + ENDING_MAX).await;
        let Some(holder) = self.lock_owners.holder(open.inode, owner) else { return Ok(()) };
        let written = self.written(open.inode, open.file.flush().await); // keeps F7
        match open.file.unlock(holder.number, range).await {
            Ok(()) => {}
            Err(too_many @ ClientError::TooManyLocks) => return written.and(Err(too_many.into())), // it is locked still
            Err(error) => tracing::warn!("{}: unlock: {error}", open.inode), // the leader is told when it answers again
        }
        if range == LockRange::WHOLE {
            self.lock_owners.unlocked_all(holder);
        }
        written
    }

    /// Ends the locks of an owner that closes a descriptor. `None` if it has none; else what it wrote is committed.
    pub(super) async fn end_locks_of(
        &self,
        open: &OpenFile,
        handle: Handle,
        owner: KernelOwner,
    ) -> Option<Result<(), ClientError>> {
        let ending = self.lock_owners.closed(open.inode, owner, handle)?;
        Some(end_locks(open.file.clone(), vec![ending]).await)
    }

    /// Ends the locks that were set through an open file that is gone.
    pub(super) async fn end_locks_through(&self, open: &OpenFile, handle: Handle) -> Result<(), ClientError> {
        match self.lock_owners.released(open.inode, handle) {
            none if none.is_empty() => Ok(()),
            ending => end_locks(open.file.clone(), ending).await,
        }
    }

    /// What was committed before the lock was granted is read from here on (keeps F7). If that cannot be made sure within `within`,
    /// the lock is given back: its program is told that it has none.
    async fn see_others_writes(
        &self,
        open: &OpenFile,
        (number, range): (LockOwner, LockRange),
        within: Duration,
    ) -> FsResult<()> {
        let seen = timeout(within, self.drop_what_is_old(open)).await.unwrap_or(Err(FsError::TimedOut));
        if seen.is_err() {
            let _ = open.file.unlock(number, range).await; // the error that is told is the first one
        }
        seen
    }

    /// Drops the kernel's attributes, and its pages if the content has changed.
    async fn drop_what_is_old(&self, open: &OpenFile) -> FsResult<()> {
        let inode = open.inode;
        let attr = self.client.perform(&Caller::ROOT, GetAttr { inode }).await?;
        if self.inodes.pages_are(inode, |pages| pages.are_older_than(&attr)) {
            return if self.drop_pages_before(&attr).await { Ok(()) } else { Err(FsError::PagesStay) };
        }
        let Some(drop_pages) = self.drop_pages.get() else { return Ok(()) };
        drop_pages(inode, Dropped::None).await.map_err(|_| FsError::PagesStay)
    }
}

/// The request is answered, and its lock is not held.
fn is_refusal(error: &ClientError) -> bool {
    matches!(error, ClientError::LockConflict | ClientError::LockDeadlock | ClientError::TooManyLocks)
}

/// A process of another mount has no number here, as with NFS.
fn seen_here(held: HeldLock) -> HeldLock {
    let is_elsewhere = held.owner == LockOwner(0);
    HeldLock { process: if is_elsewhere { 0 } else { held.process }, ..held }
}

/// Commits what was written, and unlocks. It goes on when nobody waits for it any longer: what the table no longer has must not
/// stay locked.
async fn end_locks(file: Arc<File>, ending: Vec<Ending>) -> Result<(), ClientError> {
    let inode = file.inode();
    let ended = tokio::spawn(async move {
        let written = file.flush().await; // keeps F7
        for owner in ending {
            if let Err(error) = file.unlock_owner(owner.number).await {
                tracing::warn!("{inode}: unlock what was closed: {error}");
            }
        }
        written
    });
    ended
        .await
        .unwrap_or_else(|error| Err(ClientError::Internal { what: format!("locks that end: {error}") }))
}

/// Returns when the wait of this thread has to end, and says why.
async fn wait_ended(waiter: Waiter) -> FsError {
    let began = Instant::now();
    let mut is_seen = false;
    loop {
        sleep(SIGNALS_EVERY).await;
        match look_at(waiter.thread) {
            Ok(Look::Waits) => is_seen = true,
            Ok(Look::Signalled) => return FsError::Interrupted,
            Ok(Look::NotThere) if is_seen => return FsError::Interrupted, // it was killed
            // Another look may see it. One that nobody sees gets an error, not EINTR (`signals`).
            Ok(Look::NotThere) | Err(_) if began.elapsed() < waiter.unseen_max => {}
            Ok(Look::NotThere) | Err(_) => return FsError::TimedOut,
        }
    }
}

#[cfg(test)]
mod tests {
    use dfs_proto::ids::InodeId;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_wait_that_nobody_can_see_ends_in_time_and_one_that_is_seen_goes_on() {
        let unseen_max = Duration::from_secs(30);
        let unseen = Waiter { thread: 0, unseen_max };
        assert!(matches!(wait_ended(unseen).await, FsError::TimedOut));
        let seen = Waiter { thread: std::process::id(), unseen_max };
        assert!(timeout(4 * unseen_max, wait_ended(seen)).await.is_err());
    }

    #[tokio::test(start_paused = true)]
    async fn a_thread_that_ends_while_it_waits_waits_no_longer() {
        let (sender, receiver) = std::sync::mpsc::channel::<()>();
        let (tell, told) = std::sync::mpsc::channel();
        let thread = std::thread::spawn(move || {
            // SAFETY: takes nothing and returns a number.
            tell.send(unsafe { libc::gettid() }).unwrap();
            receiver.recv().unwrap_err();
        });
        let waiter = Waiter { thread: told.recv().unwrap() as u32, unseen_max: Duration::from_secs(30) };
        let ended = tokio::spawn(wait_ended(waiter));
        sleep(2 * SIGNALS_EVERY).await;
        assert!(!ended.is_finished());
        drop(sender);
        thread.join().unwrap();
        assert!(matches!(ended.await.unwrap(), FsError::Interrupted));
    }

    #[test]
    fn a_holder_on_another_mount_has_no_process() {
        let held = |owner| HeldLock {
            inode: InodeId(5),
            owner: LockOwner(owner),
            range: LockRange::WHOLE,
            kind: LockKind::Shared,
            process: 70,
        };
        assert_eq!(seen_here(held(0)).process, 0);
        assert_eq!(seen_here(held(3)).process, 70);
    }
}
