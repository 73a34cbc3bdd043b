//! Recalls that were handled, and what the leader is to be told with that (`control`).
//!
//! HR1  An answer is told when nothing is used any more that it takes back: outer caches may use it until a time that only grows.
//! HR2  No answer is told before those of all recalls before it, or with them: the leader takes it for an answer to these, too, and has to
//!      know by then which of their files are open (OP5 of the leader's `opens`).

use std::collections::{BTreeSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use dfs_proto::ids::InodeId;
use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until};

use crate::session::leases::Handled;
use crate::session::opens::NAMED_MAX;

/// What was handled and not told yet.
#[derive(Default)]
pub(super) struct HandledRecalls {
    /// In the order of the recalls, all of one attachment. Of answers that are due there is one: there are no more than recalls come while
    /// outer caches use a name.
    waiting: Mutex<VecDeque<Waiting>>,
    more: Notify,
}

/// An answer that is not told before this time.
struct Waiting {
    until: Instant,
    answering: Answering,
}

/// The answer to a recall, and to all before it.
pub(super) struct Answering {
    pub(super) handled: Handled,
    /// Those of the recalled files that are open.
    pub(super) open: BTreeSet<InodeId>,
}

impl Answering {
    /// The other one is of a later recall.
    fn add(&mut self, later: Answering) {
        self.open.extend(later.open);
        self.handled.number = self.handled.number.max(later.handled.number);
    }
}

impl HandledRecalls {
    pub(super) fn new() -> Arc<HandledRecalls> {
        Arc::default()
    }

    fn waiting(&self) -> MutexGuard<'_, VecDeque<Waiting>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// To be called in the order of the recalls. False: with those before it that is too much to tell.
    pub(super) fn add(&self, handled: Handled, open: BTreeSet<InodeId>, until: Instant) -> bool {
        let mut waiting = self.waiting();
        let is_outdated = |last: &Waiting| last.answering.handled.attachment > handled.attachment;
        if waiting.back().is_some_and(is_outdated) {
            return true; // the leader waits for it no longer
        }
        waiting.retain(|before| before.answering.handled.attachment == handled.attachment);
        let named: usize = waiting.iter().map(|before| before.answering.open.len()).sum();
        if named + open.len() > NAMED_MAX {
            waiting.clear();
            return false;
        }
        let now = Instant::now();
        if let Some(answering) = take_due(&mut waiting, now) {
            waiting.push_front(Waiting { until: now, answering });
        }
        let until = waiting.back().map_or(until, |last| until.max(last.until));
        let answering = Answering { handled, open };
        match waiting.back_mut().filter(|last| last.until == until) {
            Some(last) => last.answering.add(answering),
            None => waiting.push_back(Waiting { until, answering }),
        }
        self.more.notify_one();
        true
    }

    pub(super) async fn next(&self) -> Answering {
        loop {
            let until = {
                let mut waiting = self.waiting();
                if let Some(answering) = take_due(&mut waiting, Instant::now()) {
                    return answering;
                }
                waiting.front().map(|first| first.until)
            };
            let is_due = async {
                match until {
                    Some(until) => sleep_until(until).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = self.more.notified() => {}
                () = is_due => {}
            }
        }
    }
}

/// Keeps HR1 and HR2.
fn take_due(waiting: &mut VecDeque<Waiting>, now: Instant) -> Option<Answering> {
    let mut due: Option<Answering> = None;
    while waiting.front().is_some_and(|first| first.until <= now) {
        let first = waiting.pop_front()?.answering;
        match &mut due {
            Some(due) => due.add(first),
            None => due = Some(first),
        }
    }
    due
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use dfs_proto::ids::Attachment;

    use super::*;

    fn add(recalls: &HandledRecalls, (attachment, number, inode): (u64, u64, u64), until: Instant) {
        let handled = Handled { attachment: Attachment(attachment), number };
        assert!(recalls.add(handled, BTreeSet::from([InodeId(inode)]), until));
    }

    /// The number and the open files of the next answer.
    async fn next(recalls: &HandledRecalls) -> (u64, Vec<u64>) {
        let told = recalls.next().await;
        (told.handled.number, told.open.into_iter().map(|inode| inode.0).collect())
    }

    #[tokio::test]
    async fn answers_of_one_attachment_are_told_together_and_never_in_place_of_a_later_attachments() {
        let (recalls, now) = (HandledRecalls::new(), Instant::now());
        for added in [(1, 5, 10), (2, 1, 11), (2, 2, 12)] {
            add(&recalls, added, now);
        }
        add(&recalls, (1, 6, 13), now); // it was held up
        let told = recalls.next().await;
        assert_eq!((told.handled.attachment, told.handled.number), (Attachment(2), 2));
        assert_eq!(told.open, BTreeSet::from([InodeId(11), InodeId(12)]));
    }

    /// The leader, which was told of the second one first, took it for an answer to the first one as well, and did not know of the open file:
    /// it was gone when another mount removed its name.
    #[tokio::test(start_paused = true)]
    async fn an_answer_that_waits_is_overtaken_by_no_later_one() {
        let (recalls, start) = (HandledRecalls::new(), Instant::now());
        let after = |ms| start + Duration::from_millis(ms);
        add(&recalls, (1, 1, 10), after(100));
        add(&recalls, (1, 2, 11), start);
        add(&recalls, (1, 3, 12), after(100));
        add(&recalls, (1, 4, 13), after(150));
        assert_eq!(next(&recalls).await, (3, vec![10, 11, 12]));
        assert_eq!(start.elapsed(), Duration::from_millis(100), "nothing is used any more");
        assert_eq!(next(&recalls).await, (4, vec![13]));
        assert_eq!(start.elapsed(), Duration::from_millis(150));
    }

    #[tokio::test(start_paused = true)]
    async fn more_open_files_than_can_be_named_are_not_told_in_parts() {
        let (recalls, now) = (HandledRecalls::new(), Instant::now());
        let open = |from: usize| (from..from + NAMED_MAX).map(|number| InodeId(number as u64)).collect();
        let handled = |number| Handled { attachment: Attachment(1), number };
        assert!(recalls.add(handled(1), open(0), now + Duration::from_secs(1)));
        assert!(!recalls.add(handled(2), open(NAMED_MAX), now));
        add(&recalls, (2, 1, 5), now);
        assert_eq!(next(&recalls).await, (1, vec![5]));
    }
}
