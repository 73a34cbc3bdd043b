//! What is recorded of a chunk.
//!
//!     Open{session} ──seal──► Sealed ──last live byte gone──► Dead{since} ──60 s──► Deleting{unconfirmed} ──► no record
//!         └──────seal, nothing live──────────────────────────────►┘

use dfs_proto::ids::{ServerId, SessionId, SetVersion, VolumeId};
use dfs_proto::units::ByteLen;

use super::cluster::Totals;
use crate::time::StateTime;

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ChunkState {
    /// Its one writer (P1.1).
    Open { session: SessionId },
    /// At the committed length (P1.5).
    Sealed,
    /// Sealed, and nothing names a byte of it. Readers with an older map may still come (P10.4).
    Dead { since: StateTime },
    /// Ordered to be deleted; these servers have not confirmed it (P10.6).
    Deleting { unconfirmed: Vec<ServerId> },
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChunkRecord {
    pub state: ChunkState,
    pub set_version: SetVersion,
    /// The first is the primary.
    pub replicas: Vec<ServerId>,
    /// Replicas wanted.
    pub copies: u32,
    pub committed: ByteLen,
    /// Bytes that extents name.
    pub live: ByteLen,
    /// Replicas that did not give what was committed, as readers reported.
    pub damaged: Vec<ServerId>,
    /// The one volume whose bytes it holds (P1.8). `None`: *mixed*, opened by an entry of an earlier release.
    pub volume: Option<VolumeId>,
}

impl ChunkRecord {
    fn is_in_use(&self) -> bool {
        match self.state {
            ChunkState::Open { .. } | ChunkState::Sealed => true,
            ChunkState::Dead { .. } | ChunkState::Deleting { .. } => false,
        }
    }

    pub fn is_degraded(&self) -> bool {
        self.is_in_use() && (self.replicas.len() as u64) < u64::from(self.copies)
    }

    pub fn is_damaged(&self) -> bool {
        self.is_in_use() && !self.damaged.is_empty()
    }

    /// What it adds to the totals.
    pub(crate) fn totals(&self) -> Totals {
        let mut totals = Totals {
            bytes_live: self.live.0,
            bytes_committed: self.committed.0,
            chunks_degraded: u64::from(self.is_degraded()),
            chunks_damaged: u64::from(self.is_damaged()),
            ..Totals::default()
        };
        match self.state {
            ChunkState::Open { .. } => totals.chunks_open = 1,
            ChunkState::Sealed => totals.chunks_sealed = 1,
            ChunkState::Dead { .. } => totals.chunks_dead = 1,
            ChunkState::Deleting { .. } => totals.chunks_deleting = 1,
        }
        totals
    }

    pub(crate) fn is_indexed_like(&self, other: &ChunkRecord) -> bool {
        self.state == other.state
            && self.replicas == other.replicas
            && self.copies == other.copies
            && self.damaged.is_empty() == other.damaged.is_empty()
    }
}
