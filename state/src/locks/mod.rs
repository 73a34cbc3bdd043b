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
//! LT4  A session that has [`LOCKS_MAX`] locks gets no other one, and it has at most [`WAITS_MAX`] waits. What it waits for when it
//!      reaches the bound is still granted.
//!
//! Not here: whether a session is alive, and what a new leader does not know yet.

use std::collections::{BTreeMap, BTreeSet};

use dfs_proto::ids::{InodeId, LockOwner, SessionId, WaitId};
use dfs_proto::lock::{HeldLock, LOCKS_MAX, LockKind, LockRange, LockReply, TOLD_LOCKS_MAX, WAITS_MAX};

#[cfg(test)]
mod tests;

use dfs_proto::lock_ranges::{Piece, Ranges};

/// An owner of a session.
type Holder = (SessionId, LockOwner);

/// How bytes are locked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Held {
    kind: LockKind,
    process: u32,
}

fn lock_of(piece: &Piece<Held>, inode: InodeId, owner: LockOwner) -> HeldLock {
    let Held { kind, process } = piece.what;
    HeldLock { inode, owner, range: piece.range, kind, process }
}

/// The locks of all files.
#[derive(Debug, Default)]
pub struct LockTable {
    /// Only those that are locked or waited for.
    files: BTreeMap<InodeId, File>,
    sessions: BTreeMap<SessionId, OfSession>,
    /// Which files each holder waits for.
    waiting: BTreeMap<Holder, Vec<InodeId>>,
}

#[derive(Debug, Default)]
struct File {
    held: BTreeMap<Holder, Ranges<Held>>,
    /// In the order of arrival.
    line: Vec<Waiting>,
}

#[derive(Clone, Copy, Debug)]
struct Waiting {
    session: SessionId,
    wait: WaitId,
    lock: HeldLock,
}

/// What the table has of one session.
#[derive(Debug, Default)]
struct OfSession {
    locks: usize,
    /// Where it holds a lock.
    files: BTreeSet<InodeId>,
    waits: BTreeMap<WaitId, InodeId>,
}

/// A wait that has ended with the lock.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Grant {
    pub session: SessionId,
    pub wait: WaitId,
}

impl File {
    /// A lock of another holder that keeps `holder` from this lock.
    fn conflict(&self, holder: Holder, lock: &HeldLock) -> Option<(Holder, HeldLock)> {
        self.conflicts(holder, lock).next()
    }

    fn conflicts<'f>(
        &'f self,
        holder: Holder,
        lock: &'f HeldLock,
    ) -> impl Iterator<Item = (Holder, HeldLock)> + 'f {
        let others = self.held.iter().filter(move |(other, _)| **other != holder);
        others.filter_map(move |(other, ranges)| {
            let is_in_the_way = |held: &Held| [held.kind, lock.kind].contains(&LockKind::Exclusive);
            let held = ranges.first_overlap(lock.range, is_in_the_way)?;
            Some((*other, lock_of(held, lock.inode, other.1)))
        })
    }
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
            // A range that is cut out of the middle of another one leaves two.
            if of_session.is_some_and(|of| of.locks + 2 > LOCKS_MAX) {
                return (LockReply::TooMany, Vec::new()); // keeps LT4
            }
            self.hold(session, &lock);
            return (LockReply::Granted, self.grant(lock.inode));
        };
        let Some(wait) = wait else {
            return (LockReply::Conflict(shown(other, conflict, session)), Vec::new());
        };
        if of_session.is_some_and(|of| of.waits.len() >= WAITS_MAX) {
            return (LockReply::TooMany, Vec::new()); // keeps LT4
        }
        if self.would_wait_for_itself(holder, &lock) {
            return (LockReply::Deadlock, Vec::new()); // keeps LT3
        }
        self.files.entry(lock.inode).or_default().line.push(Waiting { session, wait, lock });
        self.sessions.entry(session).or_default().waits.insert(wait, lock.inode);
        self.waiting.entry(holder).or_default().push(lock.inode);
        (LockReply::Waiting, Vec::new())
    }

    /// Whether the lock would be granted: `Granted` or `Conflict`.
    pub fn test(&self, session: SessionId, lock: &HeldLock) -> LockReply {
        let conflict =
            self.files.get(&lock.inode).and_then(|file| file.conflict((session, lock.owner), lock));
        conflict.map_or(LockReply::Granted, |(other, held)| LockReply::Conflict(shown(other, held, session)))
    }

    /// Takes the range out of what the owner holds.
    pub fn unlock(
        &mut self,
        session: SessionId,
        inode: InodeId,
        owner: LockOwner,
        range: LockRange,
    ) -> Vec<Grant> {
        self.change(session, inode, owner, |ranges| drop(ranges.clear(range)));
        self.grant(inode)
    }

    /// Ends a wait without the lock. No effect if the wait has ended.
    pub fn cancel(&mut self, session: SessionId, wait: WaitId) {
        let Some(of_session) = self.sessions.get_mut(&session) else { return };
        if let Some(inode) = of_session.waits.remove(&wait) {
            self.leave_line(inode, |waiting| waiting.session == session && waiting.wait == wait);
        }
        self.forget_if_empty(session);
    }

    /// Replaces all that the session holds by what it says. Its waits end. The locks in the answer are lost: others are in the
    /// way, or they are more than a session may have.
    pub fn attach(&mut self, session: SessionId, locks: &[HeldLock]) -> (Vec<HeldLock>, Vec<Grant>) {
        let changed = self.remove(session);
        let mut lost = Vec::new();
        for lock in locks {
            let file = self.files.get(&lock.inode);
            let conflict = file.and_then(|file| file.conflict((session, lock.owner), lock));
            let is_full = self.sessions.get(&session).is_some_and(|of| of.locks >= TOLD_LOCKS_MAX);
            match conflict.is_some() || is_full {
                true => lost.push(*lock),
                false => self.hold(session, lock),
            }
        }
        (lost, self.grant_all(changed))
    }

    /// The session has ended: so have its locks and waits.
    pub fn end(&mut self, session: SessionId) -> Vec<Grant> {
        let changed = self.remove(session);
        self.grant_all(changed)
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
        let files: BTreeSet<InodeId> = self.waiting.values().flatten().copied().collect();
        let lines = files.iter().filter_map(|inode| self.files.get(inode));
        let blockers = lines.flat_map(|file| {
            file.line.iter().flat_map(move |waiting| {
                let holder = (waiting.session, waiting.lock.owner);
                let others = file.conflicts(holder, &waiting.lock).map(|((session, _), _)| session);
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

    fn hold(&mut self, session: SessionId, lock: &HeldLock) {
        self.change(session, lock.inode, lock.owner, |ranges| {
            ranges.set(lock.range, Held { kind: lock.kind, process: lock.process });
        });
    }

    /// Changes what one holder has of one file.
    fn change(
        &mut self,
        session: SessionId,
        inode: InodeId,
        owner: LockOwner,
        change: impl FnOnce(&mut Ranges<Held>),
    ) {
        let file = self.files.entry(inode).or_default();
        let ranges = file.held.entry((session, owner)).or_default();
        let before = ranges.pieces().len();
        change(ranges);
        let after = ranges.pieces().len();
        if after == 0 {
            file.held.remove(&(session, owner));
        }
        let is_elsewhere = file.held.keys().any(|(of, _)| *of == session);
        let is_unused = file.held.is_empty() && file.line.is_empty();
        let of_session = self.sessions.entry(session).or_default();
        of_session.locks = of_session.locks + after - before;
        match is_elsewhere {
            true => of_session.files.insert(inode),
            false => of_session.files.remove(&inode),
        };
        if is_unused {
            self.files.remove(&inode);
        }
        self.forget_if_empty(session);
    }

    /// Takes all locks and waits of the session out. Returns the files in which others may get theirs now.
    fn remove(&mut self, session: SessionId) -> BTreeSet<InodeId> {
        let Some(of_session) = self.sessions.remove(&session) else { return BTreeSet::new() };
        for inode in of_session.waits.values() {
            self.leave_line(*inode, |waiting| waiting.session == session);
        }
        for inode in &of_session.files {
            let Some(file) = self.files.get_mut(inode) else { continue };
            file.held.retain(|(of, _), _| *of != session);
            if file.held.is_empty() && file.line.is_empty() {
                self.files.remove(inode);
            }
        }
        of_session.files
    }

    /// Takes waits out of the line of a file. They stay in `sessions`.
    fn leave_line(&mut self, inode: InodeId, leaves: impl Fn(&Waiting) -> bool) {
        let Some(file) = self.files.get_mut(&inode) else { return };
        let (gone, line): (Vec<Waiting>, Vec<Waiting>) = file.line.drain(..).partition(leaves);
        file.line = line;
        if file.held.is_empty() && file.line.is_empty() {
            self.files.remove(&inode);
        }
        for waiting in gone {
            self.waits_no_longer((waiting.session, waiting.lock.owner), inode);
        }
    }

    /// One wait of this holder for a lock of this file has ended.
    fn waits_no_longer(&mut self, holder: Holder, inode: InodeId) {
        let Some(files) = self.waiting.get_mut(&holder) else { return };
        if let Some(at) = files.iter().position(|file| *file == inode) {
            files.swap_remove(at);
        }
        if files.is_empty() {
            self.waiting.remove(&holder);
        }
    }

    fn grant_all(&mut self, files: BTreeSet<InodeId>) -> Vec<Grant> {
        files.into_iter().flat_map(|inode| self.grant(inode)).collect()
    }

    /// Gives the locks of a file to those of its line that nothing keeps from them (LT2).
    fn grant(&mut self, inode: InodeId) -> Vec<Grant> {
        let mut grants = Vec::new();
        let mut at = 0;
        while let Some(waiting) = self.files.get(&inode).and_then(|file| file.line.get(at)).copied() {
            let Waiting { session, wait, lock } = waiting;
            let holder = (session, lock.owner);
            if self.files[&inode].conflict(holder, &lock).is_some() {
                at += 1;
                continue;
            }
            self.hold(session, &lock);
            self.leave_line(inode, |other| other.session == session && other.wait == wait);
            if let Some(of_session) = self.sessions.get_mut(&session) {
                of_session.waits.remove(&wait);
            }
            grants.push(Grant { session, wait });
            at = 0; // what it held before may have become less
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
            for inode in self.waiting.get(&blocker).into_iter().flatten() {
                let line = self.files.get(inode).into_iter().flat_map(|file| &file.line);
                let own = line.filter(|waiting| (waiting.session, waiting.lock.owner) == blocker);
                next.extend(own.flat_map(|waiting| self.blockers_of(blocker, &waiting.lock)));
            }
        }
        false
    }

    fn blockers_of(&self, holder: Holder, lock: &HeldLock) -> Vec<Holder> {
        let file = self.files.get(&lock.inode).into_iter();
        file.flat_map(|file| file.conflicts(holder, lock)).map(|(other, _)| other).collect()
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
