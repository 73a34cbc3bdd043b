//! An append of which the kernel sends the rest in another request.
//!
//! UF1  What one write(2) appends lies together, whoever appends on other clients (P6.3): the hold under which its first part was laid is
//!     kept for the next one.
//! UF2  Over all parts it is kept for [`REST_MAX`] at most, because whether there is a rest is a guess: nobody waits longer for that, also
//!      while one append follows the other. Then the next part is laid like any other write.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::{Instant, sleep_until};

use crate::data::writes::Hold;

/// The kernel sends the rest as soon as it has the answer to the part before it.
const REST_MAX: Duration = Duration::from_millis(50);

/// Of one open file.
#[derive(Default)]
pub(super) struct Unfinished(Mutex<Kept>);

#[derive(Default)]
struct Kept {
    /// How often something was kept.
    count: u64,
    begun: Option<Begun>,
}

/// A hold, and when its first part was laid.
pub(super) struct Begun {
    hold: Hold,
    began: Instant,
}

impl Begun {
    pub(super) fn now(hold: Hold) -> Begun {
        Begun { hold, began: Instant::now() }
    }

    pub(super) fn hold(&self) -> &Hold {
        &self.hold
    }

    fn ends(&self) -> Instant {
        self.began + REST_MAX
    }
}

impl Unfinished {
    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The next part may follow at once.
    pub(super) fn is_kept(&self) -> bool {
        self.kept().begun.as_ref().is_some_and(|begun| Instant::now() < begun.ends())
    }

    /// For the next part.
    pub(super) fn take(&self) -> Option<Begun> {
        let begun = self.kept().begun.take()?;
        (Instant::now() < begun.ends()).then_some(begun) // keeps UF2
    }

    pub(super) fn keep(self: &Arc<Unfinished>, begun: Begun) {
        let ends = begun.ends();
        let count = {
            let mut kept = self.kept();
            kept.count += 1;
            kept.begun = Some(begun);
            kept.count
        };
        let unfinished = Arc::downgrade(self);
        tokio::spawn(async move {
            sleep_until(ends).await; // keeps UF2
            if let Some(unfinished) = unfinished.upgrade() {
                unfinished.end(count);
            }
        });
    }

    fn end(&self, count: u64) {
        let mut kept = self.kept();
        if kept.count == count {
            kept.begun = None;
        }
    }
}
