//! Until when the copy may be used: the leases of the present attachment, as this client may count on them.
//!
//! L1  A lease lasts for the term from when the attachment, or a heartbeat that counts, was *sent*, less [`MARGIN`], by
//!     CLOCK_BOOTTIME; the leader counts from when it received it (P3.3).
//! L2  A heartbeat counts once every recall that the leader had issued before its answer was handled (P3.4).
//! L3  When the leases had run out, a heartbeat that counts gives back none of what they covered.

use std::time::Duration;

use dfs_proto::ids::Attachment;
use dfs_proto::planted::{self, Bug};

/// The clocks of two machines may run apart by less than this in one term.
pub(super) const MARGIN: Duration = Duration::from_millis(200);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Void,
    Attaching,
    Attached { term: Duration },
}

/// A heartbeat that counts once so many recalls were handled.
#[derive(Clone, Copy, Debug)]
struct Renewal {
    sent: Duration,
    recalls: u64,
}

pub(super) struct Lease {
    /// The last one that was begun.
    attachment: Attachment,
    phase: Phase,
    /// By CLOCK_BOOTTIME.
    valid_until: Duration,
    /// The last recall that was handled.
    handled: u64,
    waiting: Option<Renewal>,
}

/// What a recall is to the present attachment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Order {
    /// Of another attachment, or handled before.
    Old,
    Next,
    /// One before it is missing.
    Gap,
}

/// What was covered by leases that had run out before they were renewed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub(super) enum Counted {
    Unbroken,
    Lapsed,
}

impl Lease {
    pub(super) fn none() -> Lease {
        Lease {
            attachment: Attachment(0),
            phase: Phase::Void,
            valid_until: Duration::ZERO,
            handled: 0,
            waiting: None,
        }
    }

    /// False: it is older than the last one.
    pub(super) fn attaching(&mut self, attachment: Attachment) -> bool {
        let is_new = attachment > self.attachment;
        if is_new {
            *self = Lease { attachment, phase: Phase::Attaching, ..Lease::none() };
        }
        is_new
    }

    pub(super) fn attached(&mut self, attachment: Attachment, sent: Duration, term: Duration) {
        if self.attachment == attachment && self.phase == Phase::Attaching && !term.is_zero() {
            self.phase = Phase::Attached { term };
            self.valid_until = (sent + term).saturating_sub(MARGIN);
        }
    }

    /// False: another one has begun.
    pub(super) fn detached(&mut self, attachment: Attachment) -> bool {
        let is_present = self.attachment == attachment;
        if is_present {
            *self = Lease { attachment, ..Lease::none() };
        }
        is_present
    }

    pub(super) fn renewed(
        &mut self,
        attachment: Attachment,
        (sent, now): (Duration, Duration),
        recalls: u64,
    ) -> Counted {
        if self.attachment != attachment {
            return Counted::Unbroken;
        }
        self.waiting = Some(Renewal { sent, recalls });
        self.count(now)
    }

    pub(super) fn order(&self, attachment: Attachment, number: u64) -> Order {
        if self.attachment != attachment || self.phase == Phase::Void || number <= self.handled {
            Order::Old
        } else if number == self.handled + 1 {
            Order::Next
        } else {
            Order::Gap
        }
    }

    /// What this recall takes back was dropped.
    pub(super) fn handled(&mut self, number: u64, now: Duration) -> Counted {
        self.handled = number;
        self.count(now)
    }

    /// Keeps L2.
    fn count(&mut self, now: Duration) -> Counted {
        let (Some(renewal), Phase::Attached { term }) = (self.waiting, self.phase) else {
            return Counted::Unbroken;
        };
        if renewal.recalls > self.handled && !planted::has(Bug::RenewsWhatIsRecalled) {
            return Counted::Unbroken;
        }
        self.waiting = None;
        let has_lapsed = now >= self.valid_until;
        let until = (renewal.sent + term).saturating_sub(MARGIN); // keeps L1
        self.valid_until = self.valid_until.max(until);
        if has_lapsed { Counted::Lapsed } else { Counted::Unbroken } // keeps L3
    }

    /// The one under which leases are asked for.
    pub(super) fn attachment(&self) -> Option<Attachment> {
        matches!(self.phase, Phase::Attached { .. }).then_some(self.attachment)
    }

    /// For how long it is valid from `now` on, unless it is renewed.
    pub(super) fn left(&self, now: Duration) -> Duration {
        if self.is_valid(now) { self.valid_until.saturating_sub(now) } else { Duration::ZERO }
    }

    pub(super) fn is_valid(&self, now: Duration) -> bool {
        let lasts = now < self.valid_until || planted::has(Bug::ServesAfterTheLease);
        lasts && self.attachment().is_some()
    }
}
