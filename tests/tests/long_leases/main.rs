//! What leases cost and promise, with the full numbers: `make test-long`. The figures go to `bench/long/`.
//!
//! | file | what |
//! |---|---|
//! | `looks` | what a mount has looked at, it looks at again without a server |
//! | `sharing` | two mounts in one directory, one maildir, one working tree |
//! | `holders` | who holds a lease is killed or stopped, with the leader or without |
//! | `storm` | many clients hold leases of many files, and one changes them all |

#![allow(clippy::unwrap_used, reason = "in a test an unwrap is an assertion")]

mod holders;
mod looks;
mod sharing;
mod storm;

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use dfs_tests::cluster::Cluster;

/// The term of leases that is not configured.
const TERM: Duration = Duration::from_secs(10);

/// They measure: one at a time.
fn turn() -> MutexGuard<'static, ()> {
    static TURN: Mutex<()> = Mutex::new(());
    TURN.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A number that a server shows at `/metrics`.
fn metric(cluster: &Cluster, server: &str, name: &str) -> f64 {
    let page = cluster.http_get(server, "/metrics").unwrap();
    let value = page.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    value.unwrap_or_else(|| panic!("no {name} in {page}")).trim().parse().unwrap()
}

fn milliseconds(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}
