//! Clients that work on the same files and names at once, and what they may see of each other.
//!
//! Each takes locks of two files (`locking`), and makes, renames, removes and looks at names of one directory (`naming`). Pure
//! histories say what is wrong: `lock_history` for locks and what is done under them, `shown` over `register` for all that
//! is looked at. Every look is checked against everything that had returned before it began.
//!
//! A client that may be silent for longer than a term, or dies, may lose its session, and says so; what it was doing then may have
//! happened or not. The others see no error, and none waits for a lock under one leader for longer than [`WAIT_MAX`].

mod lock_history;
mod locking;
mod naming;
mod register;
mod shown;

use std::sync::Arc;
use std::time::Duration;

use dfs_client::ClientError;
use dfs_client::inode::Client;
use dfs_net::env::Rng;
use dfs_proto::attr::Name;
use dfs_proto::ids::InodeId;

use super::shared::Shared;
use lock_history::{LockHistory, Records};
use register::{Moment, Span};
use shown::Shown;

/// The directory's name in the root.
pub(super) const DIRECTORY: &str = "shared";
/// Files with locks.
const LOCKED: usize = 2;
/// Under one leader: a term, faults after each other, and everybody else who is in line before.
const WAIT_MAX: Duration = Duration::from_secs(120);

/// Of all clients.
#[derive(Debug)]
pub(super) struct History {
    locks: LockHistory,
    records: [Records; LOCKED],
    shown: Shown,
}

impl History {
    pub(super) fn new() -> History {
        History { locks: LockHistory::default(), records: Default::default(), shown: Shown::new() }
    }

    pub(super) fn looks(&self) -> u64 {
        self.shown.looks
    }
}

/// One client that shares.
#[derive(Clone)]
pub(super) struct Sharer {
    /// Unique over all lives of all hosts.
    pub(super) number: u64,
    pub(super) name: String,
    pub(super) shared: Arc<Shared>,
    pub(super) rng: Rng,
    /// For names.
    pub(super) client: Arc<Client>,
    /// For locks, and more looks. It may lose its session.
    pub(super) locker: Arc<Client>,
    /// `client` may lose its session too; it holds locks for longer then.
    pub(super) is_mortal: bool,
    pub(super) directory: InodeId,
}

fn now() -> Moment {
    turmoil::sim_elapsed().unwrap_or_default()
}

fn since(began: Moment) -> Span {
    Span { began, ended: now() }
}

fn name_of(text: &str) -> Name {
    Name::new(text).unwrap_or_else(|bad| panic!("{text}: {bad:?}"))
}

/// What of a session that has ended may fail.
fn is_of_lost_session(error: &ClientError) -> bool {
    matches!(error, ClientError::SessionLost | ClientError::LockLost)
}

impl Sharer {
    /// Works until all walkers are done.
    pub(super) async fn live(self) {
        let naming = naming::live(self.clone());
        futures::future::join(naming, locking::live(self)).await;
    }

    fn is_over(&self) -> bool {
        self.shared.walking.load(std::sync::atomic::Ordering::SeqCst) == 0
    }

    fn require(&self, checked: Result<(), String>) {
        if let Err(what) = checked {
            panic!("{}: {what}", self.name);
        }
    }

    /// At least a millisecond: what one operation showed has ended before the next one begins.
    async fn pause(&self, most: Duration) {
        tokio::time::sleep(Duration::from_micros(1000 + self.rng.below(most.as_micros() as u64))).await;
    }
}

/// Everything is as it was, as a fresh client sees it after the power failure.
pub(super) async fn check(sharer: Sharer) {
    naming::look_at_all(&sharer).await;
    locking::check(&sharer).await;
}
