//! Reading ahead of questions: whoever asks for several names of a directory will probably ask for more. So its listing is read with
//! attributes in the background, and the client's copy answers what comes (P3.2).
//!
//! AH1  A page is read when the cluster had to be asked for a second name that is there, and the next page when it had to be asked for one
//!      more. So pages are read only for somebody who has not found what he wants in those before. (Who makes new names asks for
//!      names that are not there.)
//! AH2  One page at a time of a directory, [`PAGES_MAX`] until no name of it was missed for [`FORGOTTEN_AFTER`], and [`AT_ONCE_MAX`]
//!      together: a few names of a directory with a million cost no more than that.
//! AH3  What is read enters the copy as any other answer does (CY2), and disturbs no writer (`Read::ReadAhead`).

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use dfs_net::env::Clock;
use dfs_proto::ids::InodeId;

/// Names of a directory that the cluster is asked for before its listing is.
const MISSES_MIN: u32 = 2;
/// Pages of one directory (AH2), of a thousand entries each.
const PAGES_MAX: u32 = 16;
/// Pages that are on their way.
const AT_ONCE_MAX: usize = 4;
/// Directories. When there are more, the one in which a name was missed longest ago is forgotten.
const DIRECTORIES_MAX: usize = 64;
/// Names that are missed so long after the last one begin anew.
const FORGOTTEN_AFTER: Duration = Duration::from_secs(10);

/// A directory in which names were missed.
struct Missed {
    misses: u32,
    pages: u32,
    /// The next page begins behind it; `None`: there is none.
    next: Option<u64>,
    is_under_way: bool,
    last: Duration,
}

/// The lock is held for one look, and with no other.
pub(crate) struct Ahead {
    clock: Arc<dyn Clock>,
    missed: Mutex<BTreeMap<InodeId, Missed>>,
}

impl Ahead {
    pub(crate) fn new(clock: Arc<dyn Clock>) -> Ahead {
        Ahead { clock, missed: Mutex::default() }
    }

    fn missed(&self) -> MutexGuard<'_, BTreeMap<InodeId, Missed>> {
        self.missed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The cluster had to be asked for a name in this directory, and has it. Behind which cookie a page is to be read now, if one is:
    /// [`Ahead::has_read`] has to follow.
    pub(crate) fn has_missed(&self, directory: InodeId) -> Option<u64> {
        let now = self.clock.boottime();
        let mut all = self.missed();
        let at_once = all.values().filter(|missed| missed.is_under_way).count();
        if all.len() >= DIRECTORIES_MAX && !all.contains_key(&directory) {
            let idle = all.iter().filter(|(_, missed)| !missed.is_under_way);
            let oldest = idle.min_by_key(|(_, missed)| missed.last).map(|(directory, _)| *directory);
            all.remove(&oldest?);
        }
        let new = || Missed { misses: 0, pages: 0, next: Some(0), is_under_way: false, last: now };
        let missed = all.entry(directory).or_insert_with(new);
        if now.saturating_sub(missed.last) >= FORGOTTEN_AFTER && !missed.is_under_way {
            *missed = new();
        }
        missed.misses += 1;
        missed.last = now;
        let is_due = missed.misses >= MISSES_MIN && missed.pages < PAGES_MAX; // keeps AH1 and AH2
        if !is_due || missed.is_under_way || at_once >= AT_ONCE_MAX {
            return None;
        }
        let cookie = missed.next?;
        missed.is_under_way = true;
        missed.pages += 1;
        Some(cookie)
    }

    /// A page was read, and the next one begins behind `next`. `None`: it is the last one, or there was none.
    pub(crate) fn has_read(&self, directory: InodeId, next: Option<u64>) {
        if let Some(missed) = self.missed().get_mut(&directory) {
            missed.is_under_way = false;
            missed.next = next;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fakes::clock::TokioClock;

    const DIRECTORY: InodeId = InodeId(7);

    fn ahead() -> (Ahead, Arc<TokioClock>) {
        let clock = Arc::new(TokioClock::stopped());
        (Ahead::new(clock.clone()), clock)
    }

    #[test]
    fn the_second_name_that_is_missed_brings_a_page_and_each_later_one_the_next_until_the_end() {
        let (ahead, _) = ahead();
        assert_eq!(ahead.has_missed(DIRECTORY), None);
        assert_eq!(ahead.has_missed(DIRECTORY), Some(0));
        assert_eq!(ahead.has_missed(DIRECTORY), None, "one page at a time");
        ahead.has_read(DIRECTORY, Some(500));
        assert_eq!(ahead.has_missed(InodeId(8)), None, "another directory");
        assert_eq!(ahead.has_missed(DIRECTORY), Some(500));
        ahead.has_read(DIRECTORY, None);
        assert_eq!(ahead.has_missed(DIRECTORY), None);
    }

    #[test]
    fn a_long_directory_costs_a_bounded_number_of_pages_until_it_is_forgotten() {
        let (ahead, clock) = ahead();
        let pages = || {
            let page = |next| ahead.has_missed(DIRECTORY).inspect(|_| ahead.has_read(DIRECTORY, Some(next)));
            (1..200).filter_map(page).count()
        };
        assert_eq!(pages(), PAGES_MAX as usize);
        assert_eq!(pages(), 0);
        clock.sleep_through(FORGOTTEN_AFTER);
        assert_eq!(ahead.has_missed(DIRECTORY), None, "it begins anew");
        assert_eq!(ahead.has_missed(DIRECTORY), Some(0));
    }

    #[test]
    fn few_pages_are_on_their_way_together_and_few_directories_are_remembered() {
        let (ahead, clock) = ahead();
        let twice = |number| [1, 2].map(|_| ahead.has_missed(InodeId(number)))[1];
        for number in 0..AT_ONCE_MAX as u64 {
            assert_eq!(twice(number), Some(0));
        }
        assert_eq!(twice(50), None);
        ahead.has_read(InodeId(0), None);
        assert_eq!(ahead.has_missed(InodeId(50)), Some(0));
        for number in 100..1000 {
            clock.sleep_through(Duration::from_millis(1));
            assert_eq!(twice(number), None);
            assert!(ahead.missed().len() <= DIRECTORIES_MAX);
        }
        (0..=50).for_each(|number| ahead.has_read(InodeId(number), None));
        assert_eq!(ahead.missed().values().filter(|missed| missed.is_under_way).count(), 0);
    }
}
