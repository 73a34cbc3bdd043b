//! One client that shares, and what its two halves (`locking`, `naming`) have in common.

use std::sync::Arc;
use std::time::Duration;

use dfs_client::ClientError;
use dfs_client::inode::Client;
use dfs_net::env::Rng;
use dfs_proto::attr::Name;
use dfs_proto::ids::InodeId;

use super::register::{Moment, Span};
use crate::sim::shared::Shared;

/// Under one leader: a term, faults after each other, and everybody else who is in line before.
pub(super) const WAIT_MAX: Duration = Duration::from_secs(120);

/// One client that shares.
#[derive(Clone)]
pub(in crate::sim) struct Sharer {
    /// Unique over all lives of all hosts.
    pub(in crate::sim) number: u64,
    pub(in crate::sim) name: String,
    pub(in crate::sim) shared: Arc<Shared>,
    pub(in crate::sim) rng: Rng,
    /// For names.
    pub(in crate::sim) client: Arc<Client>,
    /// For locks, and more looks. It may lose its session.
    pub(in crate::sim) locker: Arc<Client>,
    /// `client` may lose its session too; it holds locks for longer then.
    pub(in crate::sim) is_mortal: bool,
    /// It is silent at times, and looks closely then.
    pub(in crate::sim) is_watched: bool,
    pub(in crate::sim) directory: InodeId,
}

pub(super) fn now() -> Moment {
    turmoil::sim_elapsed().unwrap_or_default()
}

pub(super) fn since(began: Moment) -> Span {
    Span { began, ended: now() }
}

pub(super) fn name_of(text: &str) -> Name {
    Name::new(text).unwrap_or_else(|bad| panic!("{text}: {bad:?}"))
}

/// What of a session that has ended may fail.
pub(super) fn is_of_lost_session(error: &ClientError) -> bool {
    matches!(error, ClientError::SessionLost | ClientError::LockLost)
}

impl Sharer {
    pub(super) fn is_over(&self) -> bool {
        self.shared.walking.load(std::sync::atomic::Ordering::SeqCst) == 0
    }

    /// It only looks at names now (`watching`): a change that is under way would keep it from answering itself.
    pub(super) fn watches(&self) -> bool {
        self.is_watched && self.shared.silence.is_watched(now())
    }

    pub(super) fn require(&self, checked: Result<(), String>) {
        if let Err(what) = checked {
            panic!("{}: {what}", self.name);
        }
    }

    /// At least a millisecond: what one operation showed has ended before the next one begins.
    pub(super) async fn pause(&self, most: Duration) {
        tokio::time::sleep(Duration::from_micros(1000 + self.rng.below(most.as_micros() as u64))).await;
    }
}
