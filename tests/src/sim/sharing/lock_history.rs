//! Who certainly held which lock when, and what was done under locks.
//!
//! A client that was granted a lock believes that it holds it until it unlocks, or is told that it is lost. After its session
//! has ended it may believe so until its next request (P3.3). So a lock was certainly held from the return of its grant until
//! the beginning of the last request that proved it: one that asked the leader, after which the client still believed. No two
//! owners may have held what excludes each other at the same moment.
//!
//! Under exclusive locks records are appended to a file: each at the place where the file ended, as its writer saw it. No record may
//! be overwritten, and none may be missing if its writer was told that it is durable.

use std::collections::{BTreeMap, BTreeSet};

use dfs_proto::lock::{LockKind, LockRange};

use super::register::Moment;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Lock {
    /// By its number.
    pub(super) file: usize,
    /// The client, and its owner.
    pub(super) owner: (u64, u64),
    pub(super) range: LockRange,
    pub(super) kind: LockKind,
}

impl Lock {
    fn excludes(&self, other: &Lock) -> bool {
        let is_exclusive = self.kind == LockKind::Exclusive || other.kind == LockKind::Exclusive;
        self.file == other.file
            && self.owner != other.owner
            && is_exclusive
            && self.range.overlaps(other.range)
    }
}

#[derive(Debug)]
struct Holding {
    lock: Lock,
    from: Moment,
    proven_until: Moment,
}

/// Of all clients.
#[derive(Debug, Default)]
pub(super) struct LockHistory {
    holdings: Vec<Holding>,
}

#[derive(Clone, Copy, Debug)]
pub(super) struct HoldingId(usize);

impl LockHistory {
    pub(super) fn granted(&mut self, lock: Lock, at: Moment) -> HoldingId {
        self.holdings.push(Holding { lock, from: at, proven_until: at });
        HoldingId(self.holdings.len() - 1)
    }

    /// A request that began then has shown that the lock is held.
    pub(super) fn proven(&mut self, id: HoldingId, began: Moment) -> Result<(), String> {
        let holding = &mut self.holdings[id.0];
        holding.proven_until = holding.proven_until.max(began);
        let holding = &self.holdings[id.0];
        let overlaps = |other: &&Holding| {
            let (from, until) = (holding.from.max(other.from), holding.proven_until.min(other.proven_until));
            other.lock.excludes(&holding.lock) && from < until
        };
        match self.holdings.iter().find(overlaps) {
            Some(other) => Err(format!("two hold what excludes each other: {holding:?} and {other:?}")),
            None => Ok(()),
        }
    }
}

/// A record: who wrote it, and its number.
pub(super) type Record = (u64, u64);

/// The records of one file.
#[derive(Clone, Debug, Default)]
pub(super) struct Records {
    tried: BTreeSet<Record>,
    durable: BTreeMap<usize, Record>,
}

impl Records {
    /// Somebody who holds the lock has seen that there are so many.
    pub(super) fn seen(&self, count: usize) -> Result<(), String> {
        let (least, most) = (self.durable.keys().next_back().map_or(0, |last| last + 1), self.tried.len());
        match (least..=most).contains(&count) {
            true => Ok(()),
            false => Err(format!("{count} records, where {least} are durable and {most} were tried")),
        }
    }

    pub(super) fn try_to_append(&mut self, record: Record) {
        self.tried.insert(record);
    }

    /// Its writer was told so.
    pub(super) fn is_durable(&mut self, record: Record, index: usize) -> Result<(), String> {
        match self.durable.insert(index, record) {
            None => Ok(()),
            Some(other) => Err(format!("{record:?} was written over {other:?}, at {index}")),
        }
    }

    /// These were found by somebody who began to look after `before` was all that was known.
    pub(super) fn check(&self, before: &Records, found: &[Record]) -> Result<(), String> {
        for (index, record) in &before.durable {
            if found.get(*index) != Some(record) {
                return Err(format!("record {index} is {:?}, and was {record:?}", found.get(*index)));
            }
        }
        let distinct: BTreeSet<Record> = found.iter().copied().collect();
        match distinct.len() == found.len() && distinct.is_subset(&self.tried) {
            true => Ok(()),
            false => Err(format!("{found:?} has records twice, or such as nobody wrote")),
        }
    }

    pub(super) fn durable(&self) -> usize {
        self.durable.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(time: u64) -> Moment {
        Moment::from_secs(time)
    }

    fn lock(owner: u64, kind: LockKind, (start, end): (u64, u64)) -> Lock {
        Lock { file: 0, owner: (owner, 1), range: LockRange { start, end }, kind }
    }

    /// The first is granted at 10 and proven until 20, the second from 15 to 25.
    fn are_allowed(first: Lock, second: Lock) -> bool {
        let mut history = LockHistory::default();
        let (one, two) = (history.granted(first, at(10)), history.granted(second, at(15)));
        assert_eq!(history.proven(one, at(20)), Ok(()));
        history.proven(two, at(25)).is_ok()
    }

    #[test]
    fn locks_that_exclude_each_other_are_never_held_at_the_same_moment() {
        use LockKind::{Exclusive, Shared};
        let all = (0, 99);
        assert!(!are_allowed(lock(1, Exclusive, all), lock(2, Exclusive, all)));
        assert!(!are_allowed(lock(1, Shared, all), lock(2, Exclusive, (50, 50))));
        assert!(are_allowed(lock(1, Shared, all), lock(2, Shared, all)));
        assert!(are_allowed(lock(1, Exclusive, (0, 9)), lock(2, Exclusive, (10, 19))));
        assert!(are_allowed(lock(1, Exclusive, all), lock(1, Exclusive, all)));
    }

    #[test]
    fn a_lock_counts_only_until_its_holder_could_know_better() {
        let mut history = LockHistory::default();
        let one = history.granted(lock(1, LockKind::Exclusive, (0, 9)), at(10));
        assert_eq!(history.proven(one, at(20)), Ok(()));
        let two = history.granted(lock(2, LockKind::Exclusive, (0, 9)), at(20));
        assert_eq!(history.proven(two, at(30)), Ok(()));
        assert!(history.proven(one, at(21)).is_err(), "it asked, and was not told");
    }

    #[test]
    fn a_record_that_is_overwritten_or_lost_or_written_by_nobody_is_found() {
        let (one, two, three) = ((1, 1), (2, 1), (3, 1));
        let mut records = Records::default();
        records.try_to_append(one);
        assert_eq!((records.seen(0), records.seen(1)), (Ok(()), Ok(())));
        assert!(records.seen(2).is_err());
        assert_eq!(records.is_durable(one, 0), Ok(()));
        assert!(records.seen(0).is_err());
        records.try_to_append(two);
        assert!(records.is_durable(two, 0).is_err());
        let mut records = Records::default();
        [one, two].into_iter().for_each(|record| records.try_to_append(record));
        assert_eq!(records.is_durable(one, 0), Ok(()));
        let check = |found: &[Record]| records.check(&records, found);
        assert_eq!((check(&[one]), check(&[one, two])), (Ok(()), Ok(())));
        assert_eq!(records.check(&Records::default(), &[]), Ok(()));
        for wrong in [&[][..], &[two, one], &[one, one], &[one, three]] {
            assert!(check(wrong).is_err(), "{wrong:?}");
        }
    }
}
