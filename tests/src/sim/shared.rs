//! What the hosts of a run share with whoever drives it, and what was seen.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use dfs_net::env::{Env, Rng};
use serde::{Deserialize, Serialize};

use super::clocks::Clocks;
use super::late_pushes::LatePushes;
use super::layout::SHARER_HOSTS;
use super::mortal::Promise;
use super::net::SimNet;
use super::plan::{OVER_INTERVAL, Plan};
use super::sharing::History;

/// What one run saw. `trace` covers every operation and fault with its time: equal traces mean equal runs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Totals {
    pub operations: u64,
    pub bytes_written: u64,
    /// Made, renamed and removed.
    pub volume_changes: u64,
    /// A power failure is one, and its crashes are not.
    pub faults: u64,
    pub crashes: u64,
    /// Crashes of a metaserver in the first write of a segment of its Raft log.
    pub torn_segments: u64,
    /// Starts of a metaserver without a file of its directory.
    pub starts_refused: u64,
    /// Segments that began in a file which a purge had left.
    pub recycled_segments: u64,
    /// Crashes of everything at once, whose crashes are counted too.
    pub blackouts: u64,
    /// Both ways.
    pub partitions: u64,
    /// A metaserver, mostly the leader, from both others.
    pub isolations: u64,
    /// Replies are lost after execution.
    pub one_way_cuts: u64,
    pub hung_links: u64,
    pub slow_logs: u64,
    pub client_crashes: u64,
    /// Wall clocks, there and back.
    pub clock_steps: u64,
    /// Clients that were silent for up to two terms.
    pub silences: u64,
    /// Locks that were held and unlocked.
    pub locks: u64,
    /// Times that a client was told that it may hold a lock no longer.
    pub locks_lost: u64,
    /// Appended under locks.
    pub records: u64,
    /// At what several clients change, each compared with everything that had returned before.
    pub looks: u64,
    /// Looks that were shown what another client had written, and not synced.
    pub fetches: u64,
    /// Of a client that was silent, from what it had leases on.
    pub own_answers: u64,
    pub longest_wait_ms: u64,
    pub leader_changes: u64,
    /// As seen: at least so many.
    pub snapshots_installed: u64,
    /// Crashes of a chunkserver: copies that lost what was not synced.
    pub replica_losses: u64,
    /// Copies of chunks that were read whole at the end, each on its server.
    pub copies_read: u64,
    pub chunks_deleted: u64,
    pub longest_stall_ms: u64,
    pub simulated_ms: u64,
    pub trace: u64,
}

/// What the hosts share with the driver outside.
pub(super) struct Shared {
    seed: u64,
    pub(super) clocks: Clocks,
    /// All clusters have joined, and whoever walks may begin.
    pub(super) is_whole: AtomicBool,
    pub(super) walking: AtomicUsize,
    /// The last power failure is over: what is left is everything.
    pub(super) is_over: AtomicBool,
    /// What a client that may be silent has to do with that.
    pub(super) silence: Silence,
    totals: Mutex<Totals>,
    /// Who led in each group and term, by index.
    leaders: Mutex<BTreeMap<(usize, u64), usize>>,
    /// When a leader was last seen for the first time, in any group.
    led_since: Mutex<Duration>,
    promises: Mutex<Vec<Promise>>,
    history: Mutex<History>,
}

/// Of the clients that only share.
#[derive(Default)]
pub(super) struct Silence {
    /// Until this moment of the simulation, in microseconds, they look at everything again and again.
    watched_until: AtomicU64,
    is_silent: AtomicBool,
    pub(super) late_pushes: Arc<LatePushes>,
    /// Somebody is silent, and this is to happen to a leader at the same time.
    failing: Mutex<Option<Failing>>,
}

/// Of a metaserver.
#[derive(Clone, Copy, Debug)]
pub(super) enum Failing {
    Crash(usize),
    /// It is cut off from the others, and not from whoever is silent: so it goes on renewing leases for a moment.
    Isolation(usize),
}

impl Silence {
    pub(super) fn watch_until(&self, until: Duration) {
        self.watched_until.store(until.as_micros() as u64, Ordering::SeqCst);
    }

    pub(super) fn is_watched(&self, now: Duration) -> bool {
        now.as_micros() < u128::from(self.watched_until.load(Ordering::SeqCst))
    }

    pub(super) fn set_silent(&self, is_silent: bool) {
        self.is_silent.store(is_silent, Ordering::SeqCst);
    }

    pub(super) fn is_silent(&self) -> bool {
        self.is_silent.load(Ordering::SeqCst)
    }

    fn failing(&self) -> MutexGuard<'_, Option<Failing>> {
        self.failing.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    pub(super) fn fail(&self, failing: Failing) {
        *self.failing() = Some(failing);
    }

    pub(super) fn take_failing(&self) -> Option<Failing> {
        self.failing().take()
    }
}

/// FNV-1a over times and events: enough to tell two runs apart.
fn mix(trace: u64, words: &[u64]) -> u64 {
    words.iter().fold(trace, |trace, word| (trace ^ word).wrapping_mul(0x0000_0100_0000_01b3))
}

impl Shared {
    pub(super) fn new(plan: Plan) -> Shared {
        Shared {
            seed: plan.seed,
            clocks: Clocks::default(),
            is_whole: AtomicBool::new(!plan.layout.has_federation()),
            walking: AtomicUsize::new(plan.walkers),
            is_over: AtomicBool::new(false),
            silence: Silence::default(),
            totals: Mutex::default(),
            leaders: Mutex::default(),
            led_since: Mutex::default(),
            promises: Mutex::default(),
            history: Mutex::new(History::new()),
        }
    }

    pub(super) fn note(&self, walker: u64, operation: u64) {
        let at = turmoil::sim_elapsed().unwrap_or_default().as_nanos() as u64;
        let mut totals = self.totals();
        totals.trace = mix(totals.trace, &[walker, operation, at]);
    }

    /// The caller counts it by its kind.
    pub(super) fn note_fault(&self, sim: &turmoil::Sim<'_>, kind: u64) -> MutexGuard<'_, Totals> {
        let mut totals = self.totals();
        totals.trace = mix(totals.trace, &[1000 + kind, sim.elapsed().as_nanos() as u64]);
        totals.faults += 1;
        totals
    }

    pub(super) fn leaders(&self) -> MutexGuard<'_, BTreeMap<(usize, u64), usize>> {
        self.leaders.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    pub(super) fn leader_changed(&self) {
        *self.led_since.lock().unwrap_or_else(|poisoned| poisoned.into_inner()) =
            turmoil::sim_elapsed().unwrap_or_default();
    }

    /// Since this moment no leader has changed.
    pub(super) fn led_since(&self) -> Duration {
        *self.led_since.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    pub(super) fn promises(&self) -> MutexGuard<'_, Vec<Promise>> {
        self.promises.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// What clients have done to each other's files. Not held over an await.
    pub(super) fn history(&self) -> MutexGuard<'_, History> {
        self.history.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// The metaserver that led the group last, as far as anybody knows.
    pub(super) fn leader(&self, group: usize) -> Option<usize> {
        self.leaders().range((group, 0)..=(group, u64::MAX)).next_back().map(|(_, index)| *index)
    }

    pub(super) async fn wait_whole(&self) {
        while !self.is_whole.load(Ordering::SeqCst) {
            tokio::time::sleep(OVER_INTERVAL).await;
        }
    }

    pub(super) fn totals(&self) -> MutexGuard<'_, Totals> {
        self.totals.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

/// Each start of each host draws from a stream of its own.
pub(super) fn env(shared: &Shared, host: u64, start: u64) -> Env {
    let rng = Rng::seeded(shared.seed ^ host.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ (start << 32));
    let pushes = (host >= SHARER_HOSTS).then(|| shared.silence.late_pushes.clone());
    Env { clock: shared.clocks.of_host(host, shared.seed), rng, net: Arc::new(SimNet { pushes }) }
}
