//! What a leader learns and never replicates: it is learned anew by each leader, from heartbeats and reports.
//!
//! SO1  What was learned in an earlier term does not count: entering a term forgets it. Silence is counted from the election
//!      at the earliest.
//! SO2  After a while in which nobody could be heard (`gate`, G4), the state begins anew, as after an election. What would be
//!      wrong to forget within a term stays, and only the silence is counted from then on (`attachments`, AT2).

use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::time::Instant;

/// The soft state of one term. The lock is held for one look, and with no other.
pub(crate) struct Soft<T>(Mutex<OfTerm<T>>);

pub(crate) struct OfTerm<T> {
    term: u64,
    /// The election, or when the state began anew.
    pub(crate) since: Instant,
    pub(crate) known: T,
}

/// Whatever is learned; for whoever begins all of it anew.
pub(crate) trait BeginsAnew {
    /// Called before anything else is done as the leader of `term`, which was elected at `since`.
    fn enter_term(&self, term: u64, since: Instant);

    /// Within its term (SO2).
    fn begin_anew(&self, now: Instant);
}

impl<T> OfTerm<T> {
    pub(crate) fn term(&self) -> u64 {
        self.term
    }
}

impl<T: Default> Soft<T> {
    pub(crate) fn new(now: Instant) -> Soft<T> {
        Soft(Mutex::new(OfTerm { term: 0, since: now, known: T::default() }))
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, OfTerm<T>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<T: Default> BeginsAnew for Soft<T> {
    fn enter_term(&self, term: u64, since: Instant) {
        let mut soft = self.lock();
        // Whoever comes late with an earlier term changes nothing.
        if soft.term < term {
            *soft = OfTerm { term, since, known: T::default() }; // keeps SO1
        }
    }

    fn begin_anew(&self, now: Instant) {
        let mut soft = self.lock();
        *soft = OfTerm { term: soft.term, since: now, known: T::default() };
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn learned(soft: &Soft<u32>) -> (Instant, u32) {
        let soft = soft.lock();
        (soft.since, soft.known)
    }

    #[test]
    fn only_a_later_term_forgets_what_was_learned() {
        let start = Instant::now();
        let soft = Soft::new(start);
        soft.enter_term(2, start + SECOND);
        soft.lock().known = 5;
        soft.enter_term(2, start + SECOND * 2);
        soft.enter_term(1, start + SECOND * 3);
        assert_eq!(learned(&soft), (start + SECOND, 5));
        soft.enter_term(3, start + SECOND * 4);
        assert_eq!(learned(&soft), (start + SECOND * 4, 0));
    }

    #[test]
    fn what_begins_anew_stays_in_its_term() {
        let start = Instant::now();
        let soft = Soft::new(start);
        soft.enter_term(2, start);
        soft.lock().known = 5;
        soft.begin_anew(start + SECOND);
        assert_eq!(learned(&soft), (start + SECOND, 0));
        soft.lock().known = 6;
        soft.enter_term(2, start);
        assert_eq!(learned(&soft), (start + SECOND, 6));
    }
}
