//! The locks of one file, and the line of those who wait for some of it.
//!
//! FL1  Each wait is *behind* one byte that another holder has locked in its way. While that byte is locked so, the wait need not be
//!      looked at: so a change costs as much as there are waits behind the bytes that it frees ([`File::put`]). A wait that is
//!      looked at gets its lock, or is behind another byte.

use std::collections::{BTreeMap, BTreeSet};

use dfs_proto::ids::{LockOwner, SessionId, WaitId};
use dfs_proto::lock::{HeldLock, LockKind, LockRange};
use dfs_proto::lock_ranges::Ranges;

use super::put::{Held, Holder, Put, lock_of};

/// A place in a line. A later one is larger, also in another file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Place(pub(super) u64);

/// A byte that somebody has locked.
type Byte = (Holder, u64);

#[derive(Clone, Copy, Debug)]
pub(super) struct Waiting {
    pub(super) session: SessionId,
    pub(super) wait: WaitId,
    pub(super) lock: HeldLock,
    /// FL1.
    pub(super) behind: Byte,
}

#[derive(Debug, Default)]
pub(super) struct File {
    pub(super) held: BTreeMap<Holder, Ranges<Held>>,
    /// In the order of arrival.
    pub(super) line: BTreeMap<Place, Waiting>,
    /// The same waits, by the bytes that they are behind.
    pub(super) behind: BTreeSet<(Byte, Place)>,
}

impl Waiting {
    pub(super) fn holder(&self) -> Holder {
        (self.session, self.lock.owner)
    }
}

/// The first byte of `wanted` that is locked by this one.
pub(super) fn met((holder, held): (Holder, HeldLock), wanted: &HeldLock) -> Byte {
    (holder, held.range.start.max(wanted.range.start))
}

impl File {
    pub(super) fn is_unused(&self) -> bool {
        self.held.is_empty() && self.line.is_empty()
    }

    pub(super) fn is_held_by(&self, session: SessionId) -> bool {
        self.held.range((session, LockOwner(0))..=(session, LockOwner(u64::MAX))).next().is_some()
    }

    /// A lock of another holder that keeps `holder` from this lock.
    pub(super) fn conflict(&self, holder: Holder, lock: &HeldLock) -> Option<(Holder, HeldLock)> {
        self.conflicts(holder, lock).next()
    }

    pub(super) fn conflicts<'f>(
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

    /// How many locks the holder has.
    pub(super) fn count(&self, holder: Holder) -> usize {
        self.held.get(&holder).map_or(0, |ranges| ranges.pieces().len())
    }

    /// How many it would have after this.
    pub(super) fn count_after(&self, holder: Holder, put: &Put) -> usize {
        let none = Ranges::default();
        let ranges = self.held.get(&holder).unwrap_or(&none);
        match &put.what {
            Some(what) => ranges.len_with(put.range, what),
            None => ranges.len_without(put.range),
        }
    }

    /// Returns the waits that are behind a byte which is free now, or less locked than before (FL1).
    pub(super) fn put(&mut self, holder: Holder, put: &Put) -> BTreeSet<Place> {
        let ranges = self.held.entry(holder).or_default();
        let is_freed = |held: &Held| match put.what {
            Some(what) => held.kind == LockKind::Exclusive && what.kind == LockKind::Shared,
            None => true,
        };
        let before = ranges.within(put.range).into_iter();
        let freed: Vec<LockRange> =
            before.filter(|piece| is_freed(&piece.what)).map(|piece| piece.range).collect();
        match put.what {
            Some(what) => ranges.set(put.range, what),
            None => drop(ranges.clear(put.range)),
        }
        if ranges.pieces().is_empty() {
            self.held.remove(&holder);
        }
        freed.into_iter().flat_map(|range| self.behind((holder, range.start), (holder, range.end))).collect()
    }

    /// Takes all locks of the session out. Returns the waits that are behind some of them.
    pub(super) fn put_away(&mut self, session: SessionId) -> BTreeSet<Place> {
        let (first, last) = ((session, LockOwner(0)), (session, LockOwner(u64::MAX)));
        self.held.extract_if(first..=last, |_, _| true).for_each(drop);
        self.behind((first, 0), (last, u64::MAX)).collect()
    }

    fn behind(&self, first: Byte, last: Byte) -> impl Iterator<Item = Place> {
        self.behind.range((first, Place(0))..=(last, Place(u64::MAX))).map(|(_, place)| *place)
    }

    pub(super) fn wait(&mut self, place: Place, waiting: Waiting) {
        self.line.insert(place, waiting);
        self.behind.insert((waiting.behind, place));
    }

    /// The wait is over.
    pub(super) fn leave(&mut self, place: Place) -> Option<Waiting> {
        let waiting = self.line.remove(&place)?;
        self.behind.remove(&(waiting.behind, place));
        Some(waiting)
    }

    /// The wait at this place, if nothing keeps it from its lock any more (keeps FL1).
    pub(super) fn look(&mut self, place: Place) -> Option<Waiting> {
        let waiting = *self.line.get(&place)?;
        let Some(other) = self.conflict(waiting.holder(), &waiting.lock) else { return Some(waiting) };
        self.leave(place);
        self.wait(place, Waiting { behind: met(other, &waiting.lock), ..waiting });
        None
    }
}
