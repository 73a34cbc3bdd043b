//! Carries out what the leader of the metaservers orders this server to do, and confirms to it what is done.
//!
//! ```text
//!   answer of a heartbeat ──► Ordered ──► carry_out ──► one module per kind of order, each with a Ledger
//!   next heartbeat        ◄── Done    ◄── to_confirm ◄──────────────────────┘
//! ```
//!
//! O1  Nothing is done that the leader did not order, and nothing is confirmed before it is done for good (P10.6).
//! O2  The leader repeats an order until it is confirmed. So an order may be passed over here, because others of its kind
//!     are under way, because it failed, or because this process ended: it comes again.
//! O3  What is under way and what waits to be confirmed are both bounded, for each kind by its `Ledger`.
//! O4  An order is carried out on a task of its own, so that no heartbeat waits for it.
//!
//! The only kind today is to delete chunks (`deletions`). Another kind is a module beside that one, a field of each of
//! the three structs here, and a list in the messages of `cluster.proto`.

mod deletions;
mod ledger;

use dfs_proto::ids::ChunkId;

use crate::store::ChunkStore;
use deletions::Deletions;

/// The orders in one answer of the leader.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Ordered {
    /// Chunks that no file needs any more.
    pub(crate) deletions: Vec<ChunkId>,
}

/// The orders that one heartbeat confirms.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Done {
    /// Chunks whose files are gone for good, or were not here.
    pub(crate) deletions: Vec<ChunkId>,
}

/// All orders that this server was given and has not confirmed. A clone shares them.
#[derive(Clone)]
pub(crate) struct Orders {
    deletions: Deletions,
}

impl Orders {
    pub(crate) fn new(store: ChunkStore) -> Orders {
        Orders { deletions: Deletions::new(store) }
    }

    /// Starts what may start now and passes over the rest (O2). Returns at once.
    pub(crate) fn carry_out(&self, ordered: Ordered) {
        self.deletions.carry_out(&ordered.deletions);
    }

    /// The orders that the next heartbeat confirms.
    pub(crate) fn to_confirm(&self) -> Done {
        Done { deletions: self.deletions.to_confirm() }
    }

    /// The leader has answered the heartbeat that carried `done`.
    pub(crate) fn confirmed(&self, done: &Done) {
        self.deletions.confirmed(&done.deletions);
    }
}
