//! Each host's wall clock, which faults step, and what must be true of the times of files (P7.1); and its CLOCK_BOOTTIME, which
//! runs a little faster or slower on each client's host than the servers' clocks do, and jumps when the host was suspended.
//!
//! tokio's clock is the simulation's own.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use dfs_client::inode::{Client, CreateOpen, GetAttr, OpenMode};
use dfs_net::env::{Clock, Rng};
use dfs_proto::attr::{Caller, InodeAttr, Name, Timestamp};
use dfs_proto::ids::InodeId;
use dfs_proto::meta::{Create, NewInode};
use dfs_proto::units::Offset;

use super::layout::WALKER_HOSTS;

/// Longer than a client needs to hear what time it is, and metaservers who of them is wrong.
const QUIET: Duration = Duration::from_secs(8);
/// How far from the true time a file's may be then: the way of an answer, and a pause.
const TIME_OFF_MAX: Duration = Duration::from_secs(1);

/// The rate of a client's clock is off by up to so many thousandths, which is what leases have to bear.
const RATE_OFF_MAX: u64 = 30;

/// How the clocks of hosts are off. Those that are not listed are right.
#[derive(Clone, Default)]
pub(super) struct Clocks(Arc<Mutex<Off>>);

#[derive(Default)]
struct Off {
    /// By how many seconds the wall clock is ahead.
    ahead: BTreeMap<u64, i64>,
    /// For how long the host was suspended.
    slept: BTreeMap<u64, Duration>,
}

impl Clocks {
    fn off(&self) -> MutexGuard<'_, Off> {
        self.0.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    pub(super) fn step(&self, hosts: &[u64], seconds: i64) {
        self.off().ahead.extend(hosts.iter().map(|host| (*host, seconds)));
    }

    pub(super) fn set_right(&self, hosts: &[u64]) {
        self.off().ahead.retain(|host, _| !hosts.contains(host));
    }

    pub(super) fn slept(&self, host: u64, time: Duration) {
        *self.off().slept.entry(host).or_default() += time;
    }

    pub(super) fn of_host(&self, host: u64, seed: u64) -> Arc<SimClock> {
        let draw = Rng::seeded(seed ^ host.rotate_left(32)).below(2 * RATE_OFF_MAX + 1);
        let is_client = host >= WALKER_HOSTS;
        let rate = if is_client { 1000 - RATE_OFF_MAX + draw } else { 1000 };
        Arc::new(SimClock { clocks: self.clone(), host, rate: rate as u32 })
    }
}

/// The clocks of one host.
pub(super) struct SimClock {
    clocks: Clocks,
    host: u64,
    /// Of CLOCK_BOOTTIME, in thousandths of the servers'.
    rate: u32,
}

fn true_time() -> Timestamp {
    let since = turmoil::since_epoch().unwrap_or_default();
    Timestamp { seconds: since.as_secs() as i64, nanos: since.subsec_nanos() }
}

impl Clock for SimClock {
    fn now(&self) -> Timestamp {
        let ahead = self.clocks.off().ahead.get(&self.host).copied().unwrap_or_default();
        let time = true_time();
        Timestamp { seconds: time.seconds + ahead, ..time }
    }

    fn boottime(&self) -> Duration {
        let slept = self.clocks.off().slept.get(&self.host).copied().unwrap_or_default();
        turmoil::sim_elapsed().unwrap_or_default() * self.rate / 1000 + slept
    }
}

/// With every clock right again for a while, what is made and written has the time that it is, whatever clocks showed before.
/// `lived`: a client that was there meanwhile.
pub(super) async fn check(lived: &Client, directory: InodeId) {
    tokio::time::sleep(QUIET).await;
    let create = Create {
        parent: directory,
        name: Name::new("what-time-is-it").unwrap_or_else(|bad| panic!("{bad:?}")),
        mode: 0o644,
        what: NewInode::File,
        or_existing: false,
        opens: false,
    };
    let mode = OpenMode { read: true, write: true, ..OpenMode::default() };
    let began = true_time();
    let made = lived.perform(&Caller::ROOT, CreateOpen { create, mode }).await;
    let (file, attr) = made.unwrap_or_else(|error| panic!("make a file at the end: {error}"));
    require_right("made", began, &attr);
    let began_to_write = true_time();
    let written = async {
        file.write_at(&Caller::ROOT, Offset(0), b"now").await?;
        file.sync().await?;
        lived.perform(&Caller::ROOT, GetAttr { inode: attr.inode }).await
    };
    let attr = written.await.unwrap_or_else(|error| panic!("write a file at the end: {error}"));
    // A write changes no atime. It has the time at which it began, and what follows may wait for others.
    require_right("written", began_to_write, &InodeAttr { atime: attr.mtime, ..attr });
    let directory = lived.perform(&Caller::ROOT, GetAttr { inode: directory }).await;
    let directory = directory.unwrap_or_else(|error| panic!("stat a directory at the end: {error}"));
    let times = InodeAttr { atime: directory.mtime, ..directory };
    require_right("changed", began, &times);
    drop(file.release().await); // it was synced
}

/// The times are from when that was done: between `began` and now.
fn require_right(what: &str, began: Timestamp, attr: &InodeAttr) {
    let (began, now) = (began.as_nanos(), true_time().as_nanos());
    for (name, time) in [("atime", attr.atime), ("mtime", attr.mtime), ("ctime", attr.ctime)] {
        let off = (began - time.as_nanos()).max(time.as_nanos() - now).max(0).unsigned_abs();
        let seconds = off / 1_000_000_000;
        assert!(
            off <= TIME_OFF_MAX.as_nanos(),
            "{name} of an inode that was {what} just now is off by {seconds} s"
        );
    }
}
