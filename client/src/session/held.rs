//! What a session holds: locks, open files, and waits for locks. The leader has a copy of it; this is the truth (P3.5).
//!
//! ```text
//!              begin_attach               attached
//!   Detached ───────────────▶ Attaching ─────────────▶ Attached
//!      ▲                          │                        │
//!      └──────────────────────────┴────────────────────────┘
//!       a request or a heartbeat without an answer, a leader that does not know the attachment, a new session
//! ```
//!
//! H1  A lock is held exactly while it is in this table. Whenever the leader may hold more for this session, or less, the
//!     session detaches, and the next attachment tells the leader what is right.
//! H2  The answer to a request for a lock counts only while the attachment lasts under which it was asked for: what comes later
//!     was not in what the next attachment told.
//! H3  A grant that is pushed counts only if nothing else was asked for the same owner and bytes since the wait began: nobody
//!     knows which of the two the leader did first. Then the lock is asked for once more, which costs nothing if it is held.
//! H4  A lock that the leader gave and nobody wants any more (its caller stopped waiting) is given back: the leader is told what
//!     the owner holds of those bytes. At most [`ABANDONED_MAX`] of these are kept; beyond that the session attaches anew.
//! H5  When a lock is lost, each open file through which it was set is told once (P6.4).
//! H6  A file that is being opened is in the table before the leader is asked, and the question waits (for a short time,
//!     [`OPENING_MAX`]) while an attachment without it, or its own close, may still be on the way there.
//! H7  The table never has more locks than a leader takes in an attachment (`TOLD_LOCKS_MAX`). An unlock that would leave more than
//!     `LOCKS_MAX` is refused before anything is done; a lock for which there is no room is not taken, and the session attaches anew
//!     without it.
//! H8  No more files are opened than an attachment may tell: the open that is one too many is refused ([`OPEN_FILES_MAX`]).
//!
//! Opens of which the leader is not told at once: `untold`.
//!
//! The lock of the table is held for one look, and with no other.

mod untold;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use dfs_proto::ids::{Attachment, InodeId, LockOwner, SessionId, VolumeId, WaitId};
use dfs_proto::lock::{HeldLock, LOCKS_MAX, LockRange, TOLD_LOCKS_MAX};
use dfs_proto::lock_ranges::Piece;
use tokio::sync::{Notify, OwnedMutexGuard, oneshot};
use tokio::time::timeout;

use crate::error::{ClientError, Result};
use crate::session::leases::{Bound, ReadLeases};
use crate::session::opens::{OPEN_FILES_MAX, OpenFiles};
use crate::session::ranges::{LockLoss, SetLock, SetRanges, as_held};

/// H4. They go as fast as the leader answers.
const ABANDONED_MAX: usize = 1024;
/// H6. The leader may miss an open that waited in vain until the attachment that follows.
const OPENING_MAX: Duration = Duration::from_secs(1);
/// When there are more turns than this, those that nobody has are dropped.
const TURNS_KEPT: usize = 1024;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Detached,
    Attaching(Attachment),
    Attached(Attachment),
}

/// A wait in the leader's line.
struct Wait {
    lock: HeldLock,
    is_granted: bool,
    /// H3.
    is_disturbed: bool,
    wake: Option<oneshot::Sender<()>>,
}

/// A wait that its caller gave up (H4).
#[derive(Clone, Copy, Debug)]
pub(super) struct Abandoned {
    pub(super) bound: Bound,
    pub(super) wait: WaitId,
    pub(super) lock: HeldLock,
}

/// What has become of a wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Waited {
    /// The lock is in the table.
    Granted,
    /// H3. The wait stays until it is answered for, or abandoned.
    Unsure,
    /// The attachment has ended.
    Void,
}

/// What an attachment tells the leader.
pub(super) struct Told {
    pub(super) bound: Bound,
    pub(super) locks: Vec<HeldLock>,
    pub(super) open: Vec<InodeId>,
}

/// What a heartbeat tells the leader.
pub(super) struct Heartbeat {
    pub(super) session: SessionId,
    pub(super) attachment: Option<Attachment>,
    pub(super) closed: Vec<InodeId>,
}

struct State {
    session: SessionId,
    phase: Phase,
    /// The last attachment that was begun.
    attachment: u64,
    /// An attachment was begun that the leader has neither taken nor refused.
    is_attach_in_doubt: bool,
    /// An open waited in vain (H6).
    is_open_untold: bool,
    last_wait: u64,
    waits: BTreeMap<WaitId, Wait>,
    abandoned: Vec<Abandoned>,
    /// None of them is empty.
    locks: BTreeMap<(InodeId, LockOwner), SetRanges>,
    /// How many there are. The leader has fewer where neighbours differ only in the file that they were set through.
    lock_count: usize,
    turns: BTreeMap<InodeId, Weak<tokio::sync::Mutex<()>>>,
    files: OpenFiles,
    /// Some leader has taken an attachment of this session.
    has_attached: bool,
    /// The leader that the session is attached to knows of untold opens.
    covers_opens: bool,
    /// Volumes in which the state says that the session may hold something.
    may_hold_in: BTreeSet<VolumeId>,
}

/// What the present session at one cluster holds.
pub(crate) struct Held {
    state: Mutex<State>,
    leases: Arc<dyn ReadLeases>,
    /// The phase has changed, or a heartbeat was answered.
    moved: Notify,
    detached: Notify,
    was_abandoned: Notify,
}

/// A file is open, until this is dropped.
pub(crate) struct Opened {
    held: Arc<Held>,
    inode: InodeId,
}

/// A wait that was begun. If it is dropped before it is forgotten, it is abandoned (H4).
pub(super) struct InLine {
    held: Arc<Held>,
    bound: Bound,
    pub(super) wait: WaitId,
    woken: oneshot::Receiver<()>,
}

/// The turn of one request for locks of one inode: the next one is sent when this was answered.
pub(super) type Turn = OwnedMutexGuard<()>;

impl Held {
    pub(super) fn new(session: SessionId, leases: Arc<dyn ReadLeases>) -> Arc<Held> {
        let state = State {
            session,
            phase: Phase::Detached,
            attachment: 0,
            is_attach_in_doubt: true, // until it has attached, it is protected by nobody
            is_open_untold: false,
            last_wait: 0,
            waits: BTreeMap::new(),
            abandoned: Vec::new(),
            locks: BTreeMap::new(),
            lock_count: 0,
            turns: BTreeMap::new(),
            files: OpenFiles::default(),
            has_attached: false,
            covers_opens: false,
            may_hold_in: BTreeSet::new(),
        };
        let (state, moved, detached) = (Mutex::new(state), Notify::new(), Notify::new());
        Arc::new(Held { state, leases, moved, detached, was_abandoned: Notify::new() })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes the state, and tells those who wait for another phase, and whoever keeps what is leased.
    fn change<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        let mut state = self.state();
        let before = state.phase;
        let changed = change(&mut state);
        let (after, attachment) = (state.phase, Attachment(state.attachment));
        drop(state);
        if after != before {
            match after {
                Phase::Detached => {
                    self.leases.detached(attachment);
                    self.detached.notify_one();
                }
                Phase::Attaching(attachment) => self.leases.attaching(attachment),
                Phase::Attached(_) => {} // `control` says since when
            }
            self.moved.notify_waiters();
        }
        changed
    }

    // --- attachments ---

    /// What the leader is to be told now. `None` if it was told.
    pub(super) fn begin_attach(&self) -> Option<Told> {
        self.change(|state| {
            if state.phase != Phase::Detached {
                return None;
            }
            state.attachment += 1;
            state.phase = Phase::Attaching(Attachment(state.attachment));
            state.is_attach_in_doubt = true;
            let bound = Bound { session: state.session, attachment: Attachment(state.attachment) };
            Some(Told { bound, locks: state.all_locks(), open: state.files.tell_all() })
        })
    }

    /// The leader has taken what it was told, but for these locks. `covers_opens`: it knows of untold opens.
    pub(super) fn attached(&self, bound: Bound, lost: &[HeldLock], covers_opens: bool) {
        self.change(|state| {
            if state.session != bound.session {
                return; // its locks are lost as a whole
            }
            lost.iter().for_each(|lock| state.lose(lock.inode, lock.owner, lock.range));
            state.has_attached = true;
            if state.phase == Phase::Attaching(bound.attachment) {
                state.phase = Phase::Attached(bound.attachment);
                state.is_attach_in_doubt = false;
                state.covers_opens = covers_opens;
                state.files.was_attached();
                state.tell_what_waited_in_vain();
            }
        });
    }

    /// The attachment was refused, or got no answer: then the leader may take it yet.
    pub(super) fn not_attached(&self, bound: Bound, is_in_doubt: bool) {
        self.change(|state| {
            if state.phase == Phase::Attaching(bound.attachment) {
                state.phase = Phase::Detached;
                state.is_attach_in_doubt = is_in_doubt;
            }
        });
    }

    /// The session is about to be closed.
    pub(super) fn end(&self) {
        self.change(State::detach);
    }

    /// Nobody knows what the leader has made of a request under this attachment (H1).
    pub(crate) fn doubt(&self, attachment: Attachment) {
        self.change(|state| {
            if state.phase == Phase::Attached(attachment) {
                state.detach();
            }
        });
    }

    /// All that the session held is lost (H5).
    pub(super) fn session_replaced(&self, session: SessionId) {
        self.change(|state| {
            if session > state.session {
                state.lose_all();
                state.files.forget_closed();
                state.may_hold_in.clear();
                state.has_attached = false;
                state.session = session;
                state.is_attach_in_doubt = true;
                state.detach();
            }
        });
    }

    /// Returns when the leader is to be told something.
    pub(super) async fn detached(&self) {
        while self.state().phase != Phase::Detached {
            self.detached.notified().await;
        }
    }

    fn bound_now(&self) -> Option<Bound> {
        self.state().bound()
    }

    pub(super) fn is_bound(&self, bound: Bound) -> bool {
        self.bound_now() == Some(bound)
    }

    /// The present attachment, as soon as there is one.
    pub(crate) async fn bound(&self) -> Bound {
        loop {
            let moved = self.moved.notified();
            if let Some(bound) = self.bound_now() {
                return bound;
            }
            moved.await;
        }
    }

    pub(super) fn begin_heartbeat(&self) -> Heartbeat {
        let mut state = self.state();
        let closed = match state.bound() {
            Some(_) => state.files.tell(),
            None => Vec::new(),
        };
        let attachment = (state.attachment != 0).then_some(Attachment(state.attachment));
        Heartbeat { session: state.session, attachment, closed }
    }

    pub(super) fn heartbeat_answered(&self, attachment: Option<Attachment>, is_attached: bool) {
        self.change(|state| {
            if attachment.is_none_or(|attachment| state.phase != Phase::Attached(attachment)) {
                return;
            }
            match is_attached {
                true => {
                    state.files.was_heard();
                    state.tell_what_waited_in_vain();
                }
                false => state.detach(),
            }
        });
        self.moved.notify_waiters(); // for H6
    }

    /// If it told something, the leader may have missed that, or hear it late.
    pub(super) fn heartbeat_failed(&self, attachment: Option<Attachment>) {
        if let Some(attachment) = attachment.filter(|_| self.state().files.has_told()) {
            self.doubt(attachment);
        }
    }

    // --- open files ---

    /// To be called before the leader is asked to open a file (H6). Refused if the session has as many open as it may have (H8).
    pub(crate) async fn opening(self: &Arc<Held>, inode: InodeId) -> Result<Opened> {
        let has_room = {
            let files = &mut self.state().files;
            let has_room = files.is_open(inode) || files.count() < OPEN_FILES_MAX;
            if has_room {
                files.opened(inode);
            }
            has_room
        };
        match has_room {
            true => Ok(self.in_doubt_no_longer(Opened { held: self.clone(), inode }).await),
            false => Err(ClientError::TooManyOpenFiles),
        }
    }

    /// The same for a flush, which may come after the file was closed, and is never refused.
    pub(crate) async fn opening_to_flush(self: &Arc<Held>, inode: InodeId) -> Opened {
        self.state().files.opened(inode);
        self.in_doubt_no_longer(Opened { held: self.clone(), inode }).await
    }

    /// Keeps H8 for what is opened when it is made.
    pub(crate) fn require_room_to_create(&self) -> Result<()> {
        match self.state().files.count() < OPEN_FILES_MAX {
            true => Ok(()),
            false => Err(ClientError::TooManyOpenFiles),
        }
    }

    /// Keeps H6.
    async fn in_doubt_no_longer(&self, opened: Opened) -> Opened {
        let inode = opened.inode;
        let settled = async {
            loop {
                let moved = self.moved.notified();
                if !self.state().is_opening_in_doubt(inode) {
                    return;
                }
                moved.await;
            }
        };
        if timeout(OPENING_MAX, settled).await.is_err() {
            self.state().is_open_untold = true; // the attachment that follows tells it
        }
        opened
    }

    /// The attachment that the leader has taken. `None` while one is on its way, which may not name what is opened now.
    pub(crate) fn attachment(&self) -> Option<u64> {
        let state = self.state();
        (!state.is_attach_in_doubt).then_some(state.attachment)
    }

    /// Nobody knows whether the leader has made a file and opened it. `asked`: the attachment when it was asked.
    pub(crate) fn may_have_created(&self, asked: Option<u64>) {
        if let Some(asked) = asked {
            self.doubt(Attachment(asked)); // the next attachment is told without it
        }
    }

    /// The leader has made a file and opened it for this session.
    pub(crate) fn was_created(self: &Arc<Held>, inode: InodeId) -> Opened {
        self.state().files.opened(inode);
        Opened { held: self.clone(), inode }
    }

    fn closed(&self, inode: InodeId) {
        self.change(|state| {
            if !state.files.closed(inode) {
                state.detach();
            }
        });
    }

    // --- locks ---

    /// There is room for this lock (H7).
    pub(super) fn has_room(&self, lock: &HeldLock, through: &LockLoss) -> bool {
        self.state().has_room(lock, through)
    }

    /// The leader has given this lock. False if that does not count (H2, H7).
    pub(super) fn accept(&self, bound: Bound, lock: &HeldLock, through: &LockLoss) -> bool {
        self.change(|state| state.bound() == Some(bound) && state.take_in(lock, through))
    }

    /// The owner does not hold these bytes any more. Returns the last attachment that may have told otherwise.
    pub(super) fn release(&self, inode: InodeId, owner: LockOwner, range: LockRange) -> Result<Attachment> {
        let mut state = self.state();
        if !state.fits((inode, owner), |ranges| ranges.len_without(range), LOCKS_MAX) {
            return Err(ClientError::TooManyLocks); // keeps H7
        }
        state.clear(inode, owner, range);
        Ok(Attachment(state.attachment))
    }

    /// A lock that was released was not unlocked at the leader, which knows it if it took this attachment.
    pub(super) fn was_not_unlocked(&self, told_in: Attachment) {
        self.change(|state| {
            if state.attachment == told_in.0 && state.phase != Phase::Detached {
                state.detach();
            }
        });
    }

    /// The leader does not hold this lock for the session any more.
    pub(super) fn lose(&self, lock: &HeldLock) {
        self.state().lose(lock.inode, lock.owner, lock.range);
    }

    pub(super) fn holds(&self, inode: InodeId, owner: LockOwner) -> bool {
        self.state().locks.contains_key(&(inode, owner))
    }

    /// What the owner holds of the range, and what it does not.
    pub(super) fn within(
        &self,
        inode: InodeId,
        owner: LockOwner,
        range: LockRange,
    ) -> (Vec<HeldLock>, Vec<LockRange>) {
        let state = self.state();
        let Some(ranges) = state.locks.get(&(inode, owner)) else { return (Vec::new(), vec![range]) };
        (as_held(&ranges.within(range), inode, owner), ranges.gaps(range))
    }

    /// What was set through one open file.
    pub(super) fn set_through(&self, inode: InodeId, through: &LockLoss) -> Vec<(LockOwner, LockRange)> {
        self.state().set_through(inode, through)
    }

    /// An open file is gone, and nobody has unlocked what was set through it.
    pub(crate) fn forget_through(&self, inode: InodeId, through: &LockLoss) {
        self.change(|state| {
            let left = state.set_through(inode, through);
            for (owner, range) in &left {
                state.clear(inode, *owner, *range);
            }
            if !left.is_empty() {
                state.detach();
            }
        });
    }

    /// Waits for the turn of a request about locks of this inode. They come in the order of the calls.
    pub(super) async fn turn(&self, inode: InodeId) -> Turn {
        let turn = self.state().turn(inode);
        turn.lock_owned().await
    }

    // --- waits ---

    /// Something is asked for the owner and these bytes: grants that come now may be from before it (H3).
    pub(super) fn disturb(&self, inode: InodeId, owner: LockOwner, range: LockRange) {
        let of_owner =
            |lock: &HeldLock| (lock.inode, lock.owner) == (inode, owner) && lock.range.overlaps(range);
        for wait in self.state().waits.values_mut().filter(|wait| of_owner(&wait.lock)) {
            wait.is_disturbed = true;
        }
    }

    /// Numbers a wait, before the leader is asked: the grant may come before the answer.
    pub(super) fn begin_wait(self: &Arc<Held>, bound: Bound, lock: HeldLock) -> Option<InLine> {
        let mut state = self.state();
        if state.bound() != Some(bound) {
            return None;
        }
        state.last_wait += 1;
        let (wake, woken) = oneshot::channel();
        let wait = WaitId(state.last_wait);
        state.waits.insert(wait, Wait { lock, is_granted: false, is_disturbed: false, wake: Some(wake) });
        Some(InLine { held: self.clone(), bound, wait, woken })
    }

    /// The leader says that a wait has ended with the lock.
    pub(super) fn granted(&self, attachment: Attachment, wait: WaitId) {
        let mut state = self.state();
        if state.phase != Phase::Attached(attachment) {
            return; // keeps H2
        }
        if let Some(wait) = state.waits.get_mut(&wait) {
            wait.is_granted = true;
            if let Some(wake) = wait.wake.take() {
                let _ = wake.send(()); // an error: its caller is just giving up
            }
        }
    }

    /// Returns the waits that were given up, as soon as there are some.
    pub(super) async fn abandoned(&self) -> Vec<Abandoned> {
        loop {
            let abandoned = std::mem::take(&mut self.state().abandoned);
            if !abandoned.is_empty() {
                return abandoned;
            }
            self.was_abandoned.notified().await;
        }
    }

    fn abandon(&self, bound: Bound, wait: WaitId) {
        self.change(|state| {
            let Some(Wait { lock, .. }) = state.waits.remove(&wait) else { return };
            match state.abandoned.len() < ABANDONED_MAX {
                true => state.abandoned.push(Abandoned { bound, wait, lock }),
                false => state.detach(),
            }
        });
        self.was_abandoned.notify_one();
    }
}

impl InLine {
    /// Waits for the end of the wait, which may never come.
    pub(super) async fn ended(&mut self, through: &LockLoss) -> Waited {
        let _ = (&mut self.woken).await; // an error: the attachment has ended
        self.held.change(|state| {
            let Some(wait) = state.waits.get(&self.wait) else { return Waited::Void };
            if wait.is_disturbed {
                return Waited::Unsure; // keeps H3
            }
            if !wait.is_granted {
                return Waited::Void;
            }
            let lock = wait.lock;
            state.waits.remove(&self.wait);
            match state.take_in(&lock, through) {
                true => Waited::Granted,
                false => Waited::Void,
            }
        })
    }

    /// The leader has nothing of this wait that the session has not.
    pub(super) fn forget(self) {
        self.held.state().waits.remove(&self.wait);
    }
}

impl Drop for InLine {
    fn drop(&mut self) {
        self.held.abandon(self.bound, self.wait);
    }
}

impl Drop for Opened {
    fn drop(&mut self) {
        self.held.closed(self.inode);
    }
}

impl State {
    fn bound(&self) -> Option<Bound> {
        match self.phase {
            Phase::Attached(attachment) => Some(Bound { session: self.session, attachment }),
            Phase::Detached | Phase::Attaching(_) => None,
        }
    }

    /// Whoever waits asks again, and what was abandoned is in no later attachment.
    fn detach(&mut self) {
        self.phase = Phase::Detached;
        self.waits.clear();
        self.abandoned.clear();
    }

    /// Keeps H6.
    fn tell_what_waited_in_vain(&mut self) {
        if std::mem::take(&mut self.is_open_untold) {
            self.detach();
        }
    }

    fn is_opening_in_doubt(&self, inode: InodeId) -> bool {
        self.is_attach_in_doubt || self.files.is_in_doubt(inode)
    }

    fn all_locks(&self) -> Vec<HeldLock> {
        let all = self.locks.iter();
        all.flat_map(|((inode, owner), ranges)| as_held(ranges.pieces(), *inode, *owner)).collect()
    }

    /// A change of what a holder has leaves at most so many locks in all, or no more than before.
    fn fits(
        &self,
        holder: (InodeId, LockOwner),
        after: impl FnOnce(&SetRanges) -> usize,
        locks_max: usize,
    ) -> bool {
        let none = SetRanges::default();
        let ranges = self.locks.get(&holder).unwrap_or(&none);
        let (before, after) = (ranges.pieces().len(), after(ranges));
        after <= before || self.lock_count + after - before <= locks_max
    }

    fn has_room(&self, lock: &HeldLock, through: &LockLoss) -> bool {
        let set = SetLock::of(lock, through);
        self.fits((lock.inode, lock.owner), |ranges| ranges.len_with(lock.range, &set), TOLD_LOCKS_MAX)
    }

    /// Takes in what the leader has given. False if there is no room: the leader is told.
    fn take_in(&mut self, lock: &HeldLock, through: &LockLoss) -> bool {
        let has_room = self.has_room(lock, through);
        match has_room {
            true => self.change_locks((lock.inode, lock.owner), |ranges| {
                ranges.set(lock.range, SetLock::of(lock, through));
            }),
            false => self.detach(), // keeps H7
        }
        has_room
    }

    fn clear(&mut self, inode: InodeId, owner: LockOwner, range: LockRange) -> Vec<Piece<SetLock>> {
        self.change_locks((inode, owner), |ranges| ranges.clear(range))
    }

    fn change_locks<T>(
        &mut self,
        holder: (InodeId, LockOwner),
        change: impl FnOnce(&mut SetRanges) -> T,
    ) -> T {
        let ranges = self.locks.entry(holder).or_default();
        let before = ranges.pieces().len();
        let changed = change(ranges);
        self.lock_count = self.lock_count + ranges.pieces().len() - before;
        if ranges.pieces().is_empty() {
            self.locks.remove(&holder);
        }
        changed
    }

    /// Keeps H5.
    fn lose(&mut self, inode: InodeId, owner: LockOwner, range: LockRange) {
        let lost = self.clear(inode, owner, range);
        if let Some(first) = lost.first() {
            let (locks, process) = (lost.len(), first.what.process);
            tracing::warn!(%inode, locks, process, "locks of this file are lost; its open files report it");
        }
        lost.iter().for_each(|piece| piece.what.through.note());
    }

    fn lose_all(&mut self) {
        let holders: Vec<(InodeId, LockOwner)> = self.locks.keys().copied().collect();
        for (inode, owner) in holders {
            self.lose(inode, owner, LockRange::WHOLE);
        }
    }

    fn set_through(&self, inode: InodeId, through: &LockLoss) -> Vec<(LockOwner, LockRange)> {
        let of_inode = self.locks.range((inode, LockOwner(0))..=(inode, LockOwner(u64::MAX)));
        let all = of_inode
            .flat_map(|((_, owner), ranges)| ranges.pieces().iter().map(move |piece| (*owner, piece)));
        all.filter(|(_, piece)| piece.what.through == *through)
            .map(|(owner, piece)| (owner, piece.range))
            .collect()
    }

    fn turn(&mut self, inode: InodeId) -> Arc<tokio::sync::Mutex<()>> {
        if let Some(turn) = self.turns.get(&inode).and_then(Weak::upgrade) {
            return turn;
        }
        if self.turns.len() >= TURNS_KEPT {
            self.turns.retain(|_, turn| turn.strong_count() > 0);
        }
        let turn = Arc::new(tokio::sync::Mutex::new(()));
        self.turns.insert(inode, Arc::downgrade(&turn));
        turn
    }
}

#[cfg(test)]
mod tests {
    use dfs_proto::lock::{LockKind, TOLD_FILES_MAX};

    use super::*;
    use crate::fakes::clock::TokioClock;
    use crate::names::NoOuterCache;
    use crate::names::copy::LeasedCopy;

    const FILE: InodeId = InodeId(7);
    const OWNER: LockOwner = LockOwner(1);

    fn attached() -> (Arc<Held>, Bound) {
        let held =
            Held::new(SessionId(1), LeasedCopy::new(Arc::new(TokioClock::stopped()), Arc::new(NoOuterCache)));
        let bound = held.begin_attach().unwrap().bound;
        held.attached(bound, &[], true);
        (held, bound)
    }

    fn lock(start: u64, end: u64) -> HeldLock {
        let range = LockRange { start, end };
        HeldLock { inode: FILE, owner: OWNER, range, kind: LockKind::Exclusive, process: 1 }
    }

    fn told(held: &Arc<Held>) -> Vec<HeldLock> {
        held.state().all_locks()
    }

    #[test]
    fn an_unlock_that_would_leave_more_locks_than_a_session_may_have_changes_nothing() {
        let (held, bound) = attached();
        assert!(held.accept(bound, &lock(0, 1 << 40), &LockLoss::default()));
        let unlock = |byte| held.release(FILE, OWNER, LockRange { start: byte, end: byte });
        let unlocked = (1..).take_while(|n| unlock(2 * n).is_ok()).count();
        assert_eq!(unlocked, LOCKS_MAX - 1);
        assert_eq!(told(&held).len(), LOCKS_MAX);
        assert!(held.is_bound(bound), "the leader is told nothing");
        assert!(held.release(FILE, OWNER, LockRange { start: 0, end: 4 }).is_ok(), "fewer are left");
        assert!(held.release(FILE, OWNER, LockRange::WHOLE).is_ok());
        assert_eq!((told(&held), held.state().lock_count), (Vec::new(), 0));
    }

    /// The leader has joined the locks, and the answer that says so comes late.
    #[test]
    fn a_granted_lock_for_which_the_next_attachment_has_no_room_is_not_held() {
        let (held, bound) = attached();
        let through = LockLoss::default();
        for n in 0..TOLD_LOCKS_MAX as u64 {
            assert!(held.accept(bound, &lock(2 * n, 2 * n), &through));
        }
        let late = lock(1 << 40, 1 << 40);
        assert!(!held.has_room(&late, &through) && !held.accept(bound, &late, &through));
        assert!(!held.is_bound(bound), "the leader has it, and is told otherwise");
        assert_eq!(held.begin_attach().unwrap().locks.len(), TOLD_LOCKS_MAX);
        assert!(held.has_room(&lock(0, 4), &through), "fewer would be left");
    }

    #[tokio::test]
    async fn a_session_opens_no_more_files_than_it_can_tell() {
        let (held, _) = attached();
        let mut opened = Vec::new();
        for number in 0..OPEN_FILES_MAX as u64 {
            opened.push(held.opening(InodeId(number)).await.unwrap());
        }
        let next = InodeId(OPEN_FILES_MAX as u64);
        assert_eq!(held.opening(next).await.err(), Some(ClientError::TooManyOpenFiles));
        assert_eq!(held.require_room_to_create(), Err(ClientError::TooManyOpenFiles));
        assert!(held.opening(InodeId(5)).await.is_ok(), "it is open already");
        let _for_a_flush = held.opening_to_flush(next).await;
        assert!(held.state().files.tell_all().len() <= TOLD_FILES_MAX);
        opened.truncate(10);
        assert!(held.opening(InodeId(1 << 40)).await.is_ok());
        assert_eq!(held.require_room_to_create(), Ok(()));
    }
}
