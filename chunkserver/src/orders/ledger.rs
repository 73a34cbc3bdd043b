//! Keeps track of the orders of one kind. Pure: it starts nothing itself.
//!
//! ```text
//!   ordered ──► under way ──► done ──► confirmed, and forgotten
//!      │            └─ it failed ──► forgotten, until it is ordered again
//!      └─ passed over while others are under way, or while too many are done and not confirmed
//! ```

use std::collections::BTreeSet;

use dfs_proto::ids::ChunkId;

/// Orders of one kind that are carried out together; the leader gives no more at a time.
const UNDER_WAY_MAX: usize = 1000;
/// Orders that one heartbeat confirms. While so many wait to be confirmed, no others are begun.
const CONFIRMED_MAX: usize = 1000;

/// The orders of one kind, each about one chunk.
#[derive(Debug, Default)]
pub(super) struct Ledger {
    under_way: BTreeSet<ChunkId>,
    done: BTreeSet<ChunkId>,
}

impl Ledger {
    /// Notes as under way, and returns, what is to be carried out now: the first of `ordered`, or nothing while an earlier
    /// batch is under way. The caller calls [`Ledger::finish`] afterwards.
    pub(super) fn begin(&mut self, ordered: &[ChunkId]) -> Vec<ChunkId> {
        if !self.under_way.is_empty() || self.done.len() >= CONFIRMED_MAX {
            return Vec::new();
        }
        self.under_way.extend(ordered.iter().take(UNDER_WAY_MAX));
        self.under_way.iter().copied().collect()
    }

    /// The batch is no longer under way; those of it that are `done` wait to be confirmed.
    pub(super) fn finish(&mut self, done: Vec<ChunkId>) {
        self.under_way.clear();
        self.done.extend(done);
    }

    /// The orders that the next heartbeat confirms.
    pub(super) fn to_confirm(&self) -> Vec<ChunkId> {
        self.done.iter().take(CONFIRMED_MAX).copied().collect()
    }

    /// Forgets what the leader now knows to be done.
    pub(super) fn confirmed(&mut self, chunks: &[ChunkId]) {
        for chunk in chunks {
            self.done.remove(chunk);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chunks(ids: std::ops::Range<u64>) -> Vec<ChunkId> {
        ids.map(ChunkId).collect()
    }

    #[test]
    fn an_order_is_confirmed_when_it_is_done_and_until_the_leader_knows() {
        let mut ledger = Ledger::default();
        assert_eq!(ledger.begin(&chunks(1..4)), chunks(1..4));
        assert_eq!(ledger.to_confirm(), [], "nothing is done yet");
        ledger.finish(chunks(1..3));
        for _ in 0..2 {
            assert_eq!(ledger.to_confirm(), chunks(1..3), "the heartbeat may have been lost");
        }
        ledger.confirmed(&chunks(1..3));
        assert_eq!(ledger.to_confirm(), []);
        assert_eq!(ledger.begin(&chunks(3..4)), chunks(3..4), "what failed is done when it is ordered again");
    }

    #[test]
    fn while_a_batch_is_under_way_other_orders_are_passed_over() {
        let mut ledger = Ledger::default();
        ledger.begin(&chunks(1..2));
        assert_eq!(ledger.begin(&chunks(1..9)), []);
        ledger.finish(chunks(1..2));
        assert_eq!(ledger.begin(&chunks(2..9)), chunks(2..9));
    }

    #[test]
    fn what_is_under_way_and_what_waits_to_be_confirmed_is_bounded() {
        let mut ledger = Ledger::default();
        let batch = ledger.begin(&chunks(0..10_000));
        assert_eq!(batch.len(), UNDER_WAY_MAX);
        ledger.finish(batch);
        assert_eq!(ledger.begin(&chunks(5000..5001)), [], "the leader has to hear of the others first");
        assert_eq!(ledger.to_confirm().len(), CONFIRMED_MAX);
        ledger.confirmed(&chunks(0..1));
        assert_eq!(ledger.begin(&chunks(5000..5001)), chunks(5000..5001));
    }
}
