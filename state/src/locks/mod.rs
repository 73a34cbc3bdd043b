//! Locks of files, as a leader keeps them: who holds what, who waits in which order, and who would wait for ever (P5.7).
//!
//! This is no replicated state: the table is in the memory of the leader, and a new leader is told the locks by those who hold
//! them. It is here because it is pure, and so that a client's tests can run it in place of a leader.
//!
//! LT1  Two locks of different holders never overlap unless both are shared. A holder is an owner of a session; its locks
//!      are disjoint, and neighbours of one kind and process are one lock.
//! LT2  Whoever waits is kept from its lock by a lock that is held. It is granted as soon as there is none, in the order in which
//!      the waits began. As in Linux, who waits does not hold back a later request that conflicts with nothing but the wait.
//! LT3  The wait that would close a circle of holders that wait for each other is refused. (An owner whose threads lock and wait
//!      beside each other may close one by a lock that it gets at once. As in Linux, that is not seen.)
//! LT4  A session that has [`LOCKS_MAX`] locks gets no other one: neither a lock nor an unlock in the middle of one is done if it
//!      leaves more than before. It has at most [`WAITS_MAX`] waits. A wait is granted also beyond the bound, and leaves two locks
//!      more at most, so the locks and twice the waits of a session are never more than [`TOLD_LOCKS_MAX`], which every leader takes.
//! LT5  A change looks only at waits that may have been kept by what it has freed (`file`).
//!
//! Not here: whether a session is alive, and what a new leader does not know yet.

use std::collections::{BTreeMap, BTreeSet};

use dfs_proto::ids::{InodeId, LockOwner, SessionId, WaitId};
use dfs_proto::lock::{HeldLock, LOCKS_MAX, LockRange, LockReply, TOLD_LOCKS_MAX, WAITS_MAX};

use file::{File, Place, Waiting, met};
use put::{Holder, Put, lock_of};

mod file;
mod put;
#[cfg(test)]
mod tests;

/// The locks of all files.
#[derive(Debug, Default)]
pub struct LockTable {
    /// Only those that are locked or waited for.
    files: BTreeMap<InodeId, File>,
    sessions: BTreeMap<SessionId, OfSession>,
    /// Where each holder waits.
    waiting: BTreeMap<Holder, BTreeSet<(InodeId, Place)>>,
    /// The last place in a line.
    last_place: Place,
    looks: u64,
}

/// What the table has of one session.
#[derive(Debug, Default)]
struct OfSession {
    locks: usize,
    /// Where it holds a lock.
    files: BTreeSet<InodeId>,
    waits: BTreeMap<WaitId, (InodeId, Place)>,
}

/// Waits that may get their locks now.
type Looks = BTreeMap<InodeId, BTreeSet<Place>>;

/// A wait that has ended with the lock.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Grant {
    pub session: SessionId,
    pub wait: WaitId,
}

impl LockTable {
    /// Sets the lock in place of what its owner holds of the range. If another lock is in the way, the session waits in line if
    /// it gave the wait a number. Answers `Granted`, `Waiting`, `Conflict`, `Deadlock` or `TooMany`. The grants are those of
    /// others: a lock that became a shared one may let them in.
    pub fn set(
        &mut self,
        session: SessionId,
        lock: HeldLock,
        wait: Option<WaitId>,
    ) -> (LockReply, Vec<Grant>) {
        let holder = (session, lock.owner);
        let of_session = self.sessions.get(&session);
        if wait.is_some_and(|wait| of_session.is_some_and(|of| of.waits.contains_key(&wait))) {
            return (LockReply::Waiting, Vec::new()); // it is asked for once more
        }
        let conflict = self.files.get(&lock.inode).and_then(|file| file.conflict(holder, &lock));
        let Some((other, conflict)) = conflict else {
            return self.put_if_few(session, &Put::lock(&lock));
        };
        let Some(wait) = wait else {
            return (LockReply::Conflict(shown(other, conflict, session)), Vec::new());
        };
        let has_room = |of: &OfSession| {
            let waits = of.waits.len() + 1;
            waits <= WAITS_MAX && of.locks + 2 * waits <= TOLD_LOCKS_MAX
        };
        if !of_session.is_none_or(has_room) {
            return (LockReply::TooMany, Vec::new()); // keeps LT4
        }
        if self.would_wait_for_itself(holder, &lock) {
            return (LockReply::Deadlock, Vec::new()); // keeps LT3
        }
        self.last_place.0 += 1;
        let (inode, place) = (lock.inode, self.last_place);
        let waiting = Waiting { session, wait, lock, behind: met((other, conflict), &lock) };
        self.files.entry(inode).or_default().wait(place, waiting);
        self.sessions.entry(session).or_default().waits.insert(wait, (inode, place));
        self.waiting.entry(holder).or_default().insert((inode, place));
        (LockReply::Waiting, Vec::new())
    }

    /// Whether the lock would be granted: `Granted` or `Conflict`.
    pub fn test(&self, session: SessionId, lock: &HeldLock) -> LockReply {
        let conflict =
            self.files.get(&lock.inode).and_then(|file| file.conflict((session, lock.owner), lock));
        conflict.map_or(LockReply::Granted, |(other, held)| LockReply::Conflict(shown(other, held, session)))
    }

    /// Takes the range out of what the owner holds. Answers `Granted`, or `TooMany`, and then nothing has changed.
    pub fn unlock(
        &mut self,
        session: SessionId,
        inode: InodeId,
        owner: LockOwner,
        range: LockRange,
    ) -> (LockReply, Vec<Grant>) {
        self.put_if_few(session, &Put { inode, owner, range, what: None })
    }

    /// Ends a wait without the lock. No effect if the wait has ended.
    pub fn cancel(&mut self, session: SessionId, wait: WaitId) {
        let Some(of_session) = self.sessions.get_mut(&session) else { return };
        if let Some((inode, place)) = of_session.waits.remove(&wait) {
            self.leave_line(inode, place);
        }
        self.forget_if_empty(session);
    }

    /// Replaces all that the session holds by what it says. Its waits end. The locks in the answer are lost: others are in the
    /// way, or they are more than a session may have.
    pub fn attach(&mut self, session: SessionId, locks: &[HeldLock]) -> (Vec<HeldLock>, Vec<Grant>) {
        let mut looks = self.remove(session);
        let mut lost = Vec::new();
        for lock in locks {
            let (put, file) = (Put::lock(lock), self.files.get(&lock.inode));
            let conflict = file.and_then(|file| file.conflict((session, lock.owner), lock));
            match conflict.is_none() && self.fits(session, &put, TOLD_LOCKS_MAX) {
                true => looks.entry(lock.inode).or_default().extend(self.put(session, &put)),
                false => lost.push(*lock),
            }
        }
        (lost, self.grant_all(looks))
    }

    /// The session has ended: so have its locks and waits.
    pub fn end(&mut self, session: SessionId) -> Vec<Grant> {
        let looks = self.remove(session);
        self.grant_all(looks)
    }

    pub fn held_by(&self, session: SessionId) -> Vec<HeldLock> {
        let files = self.sessions.get(&session).into_iter().flat_map(|of| &of.files);
        let of_file = |inode: &InodeId| {
            let (inode, file) = (*inode, &self.files[inode]);
            let own = file.held.range((session, LockOwner(0))..=(session, LockOwner(u64::MAX)));
            own.flat_map(move |(holder, ranges)| {
                ranges.pieces().iter().map(move |held| lock_of(held, inode, holder.1))
            })
        };
        files.flat_map(of_file).collect()
    }

    /// Sessions that hold what another session waits for.
    pub fn blockers(&self) -> BTreeSet<SessionId> {
        let files: BTreeSet<InodeId> = self.waiting.values().flatten().map(|(inode, _)| *inode).collect();
        let lines = files.iter().filter_map(|inode| self.files.get(inode));
        let blockers = lines.flat_map(|file| {
            file.line.values().flat_map(move |waiting| {
                let others = file.conflicts(waiting.holder(), &waiting.lock).map(|((session, _), _)| session);
                others.filter(move |session| *session != waiting.session)
            })
        });
        blockers.collect()
    }

    /// Locks that are held, and waits.
    pub fn counts(&self) -> (usize, usize) {
        let counts = self.sessions.values().map(|of| (of.locks, of.waits.len()));
        counts
            .fold((0, 0), |(locks, waits), (more_locks, more_waits)| (locks + more_locks, waits + more_waits))
    }

    /// Of one session.
    pub fn counts_of(&self, session: SessionId) -> (usize, usize) {
        self.sessions.get(&session).map_or((0, 0), |of| (of.locks, of.waits.len()))
    }

    /// How often a wait was looked at, to see whether it gets its lock: what changes cost (LT5).
    pub fn looks(&self) -> u64 {
        self.looks
    }

    /// The session would have at most so many locks after this, or no more than before.
    fn fits(&self, session: SessionId, put: &Put, locks_max: usize) -> bool {
        let (holder, file) = ((session, put.owner), self.files.get(&put.inode));
        let before = file.map_or(0, |file| file.count(holder));
        let after = file.map_or(usize::from(put.what.is_some()), |file| file.count_after(holder, put));
        let locks = self.sessions.get(&session).map_or(0, |of| of.locks);
        after <= before || locks + after - before <= locks_max
    }

    fn put_if_few(&mut self, session: SessionId, put: &Put) -> (LockReply, Vec<Grant>) {
        if !self.fits(session, put, LOCKS_MAX) {
            return (LockReply::TooMany, Vec::new()); // keeps LT4
        }
        let looks = self.put(session, put);
        (LockReply::Granted, self.grant(put.inode, looks))
    }

    /// Returns the waits that may get their locks now.
    fn put(&mut self, session: SessionId, put: &Put) -> BTreeSet<Place> {
        let (holder, file) = ((session, put.owner), self.files.entry(put.inode).or_default());
        let before = file.count(holder);
        let looks = file.put(holder, put);
        let (after, is_held) = (file.count(holder), file.is_held_by(session));
        let of_session = self.sessions.entry(session).or_default();
        of_session.locks = of_session.locks + after - before;
        match is_held {
            true => of_session.files.insert(put.inode),
            false => of_session.files.remove(&put.inode),
        };
        self.forget_if_unused(put.inode);
        self.forget_if_empty(session);
        looks
    }

    /// Takes all locks and waits of the session out.
    fn remove(&mut self, session: SessionId) -> Looks {
        let Some(of_session) = self.sessions.remove(&session) else { return Looks::new() };
        for (inode, place) in of_session.waits.values() {
            self.leave_line(*inode, *place);
        }
        let mut looks = Looks::new();
        for inode in of_session.files {
            let Some(file) = self.files.get_mut(&inode) else { continue };
            looks.insert(inode, file.put_away(session));
            self.forget_if_unused(inode);
        }
        looks
    }

    /// Takes a wait out of the line of a file. It stays in `sessions`.
    fn leave_line(&mut self, inode: InodeId, place: Place) {
        let Some(waiting) = self.files.get_mut(&inode).and_then(|file| file.leave(place)) else { return };
        self.forget_if_unused(inode);
        let Some(places) = self.waiting.get_mut(&waiting.holder()) else { return };
        places.remove(&(inode, place));
        if places.is_empty() {
            self.waiting.remove(&waiting.holder());
        }
    }

    fn grant_all(&mut self, looks: Looks) -> Vec<Grant> {
        looks.into_iter().flat_map(|(inode, looks)| self.grant(inode, looks)).collect()
    }

    /// Gives their locks to those of these waits that nothing keeps from them, the first in the line first (LT2).
    fn grant(&mut self, inode: InodeId, mut looks: BTreeSet<Place>) -> Vec<Grant> {
        let mut grants = Vec::new();
        while let Some(place) = looks.pop_first() {
            self.looks += 1;
            let free = self.files.get_mut(&inode).and_then(|file| file.look(place));
            let Some(Waiting { session, wait, lock, .. }) = free else { continue };
            looks.extend(self.put(session, &Put::lock(&lock))); // what it held before may have become less
            self.leave_line(inode, place);
            if let Some(of_session) = self.sessions.get_mut(&session) {
                of_session.waits.remove(&wait);
            }
            grants.push(Grant { session, wait });
        }
        grants
    }

    /// Some holder of a conflicting lock waits, over others, for `holder`.
    fn would_wait_for_itself(&self, holder: Holder, lock: &HeldLock) -> bool {
        let mut seen = BTreeSet::new();
        let mut next = self.blockers_of(holder, lock);
        while let Some(blocker) = next.pop() {
            if blocker == holder {
                return true;
            }
            if !seen.insert(blocker) {
                continue;
            }
            for (inode, place) in self.waiting.get(&blocker).into_iter().flatten() {
                let waiting = self.files.get(inode).and_then(|file| file.line.get(place));
                next.extend(waiting.into_iter().flat_map(|waiting| self.blockers_of(blocker, &waiting.lock)));
            }
        }
        false
    }

    fn blockers_of(&self, holder: Holder, lock: &HeldLock) -> Vec<Holder> {
        let file = self.files.get(&lock.inode).into_iter();
        file.flat_map(|file| file.conflicts(holder, lock)).map(|(other, _)| other).collect()
    }

    fn forget_if_unused(&mut self, inode: InodeId) {
        if self.files.get(&inode).is_some_and(File::is_unused) {
            self.files.remove(&inode);
        }
    }

    fn forget_if_empty(&mut self, session: SessionId) {
        let is_empty = |of: &OfSession| of.files.is_empty() && of.waits.is_empty();
        if self.sessions.get(&session).is_some_and(is_empty) {
            self.sessions.remove(&session);
        }
    }
}

/// A lock that is in the way, as the session that asks may see it.
fn shown(holder: Holder, lock: HeldLock, session: SessionId) -> HeldLock {
    match holder.0 == session {
        true => lock,
        false => HeldLock { owner: LockOwner(0), ..lock },
    }
}
