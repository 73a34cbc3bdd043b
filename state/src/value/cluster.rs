//! What there is once: the cluster itself, the counters that ids come from, and the totals.

use dfs_proto::ids::{ChunkId, ClusterId, Incarnation, ServerId, SessionId};

use crate::time::StateTime;

/// What `InitCluster` recorded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClusterRecord {
    pub cluster: ClusterId,
    /// For people.
    pub name: String,
    pub incarnation: Incarnation,
    pub copies: u32,
    pub copies_min: u32,
}

/// Kept by every change, so that asking costs nothing; `check` recounts them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// Orphans are counted, released ones are not.
    pub inodes: u64,
    pub sessions: u64,
    pub chunks_open: u64,
    /// Dead ones not counted.
    pub chunks_sealed: u64,
    /// Sealed, no live byte, deletion not yet ordered (P10.4).
    pub chunks_dead: u64,
    pub chunks_deleting: u64,
    /// Open or sealed, with fewer replicas than wanted (P10.2).
    pub chunks_degraded: u64,
    /// Open or sealed, with a copy that was reported damaged.
    pub chunks_damaged: u64,
    /// Bytes that extents name.
    pub bytes_live: u64,
    /// Committed bytes of all chunks; less the live ones: what compaction could win. Once, not per copy.
    pub bytes_committed: u64,
}

impl Totals {
    /// Field by field with `change(left, right)`, which says why it cannot fail.
    pub(crate) fn combine(self, other: Totals, change: impl Fn(u64, u64) -> u64) -> Totals {
        Totals {
            inodes: change(self.inodes, other.inodes),
            sessions: change(self.sessions, other.sessions),
            chunks_open: change(self.chunks_open, other.chunks_open),
            chunks_sealed: change(self.chunks_sealed, other.chunks_sealed),
            chunks_dead: change(self.chunks_dead, other.chunks_dead),
            chunks_deleting: change(self.chunks_deleting, other.chunks_deleting),
            chunks_degraded: change(self.chunks_degraded, other.chunks_degraded),
            chunks_damaged: change(self.chunks_damaged, other.chunks_damaged),
            bytes_live: change(self.bytes_live, other.bytes_live),
            bytes_committed: change(self.bytes_committed, other.bytes_committed),
        }
    }

    pub(crate) fn plus(self, other: Totals) -> Totals {
        self.combine(other, |a, b| a + b)
    }

    pub(crate) fn minus(self, other: Totals) -> Totals {
        self.combine(other, |a, b| match a.checked_sub(b) {
            Some(rest) => rest,
            None => panic!("broken invariant S9: a total of {a} is to lose {b}"),
        })
    }
}

/// The last ids given, and the state's own time (P7.1).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Counters {
    pub time: StateTime,
    pub chunk: ChunkId,
    pub session: SessionId,
    pub server: ServerId,
    /// The queue of released inodes: the last number given, and the last one that the reaper is done with.
    pub released: u64,
    pub reaped: u64,
    pub totals: Totals,
}
