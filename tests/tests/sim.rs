//! The simulation: 100 seeds (200 in `make test-long`), each in a process of its own, so that a seed replays.
//!
//! `DFS_SIM_SEED=17 cargo test --release --workspace --test sim one_seed -- --nocapture` replays one; a failure prints that
//! line. `DFS_SIM_FIRST` and `DFS_SIM_SEEDS` choose others, `DFS_SIM_PLANT` a bug to be there (`dfs_proto::planted`).

use std::collections::VecDeque;
use std::io::Write as _;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};

use dfs_proto::planted::{self, Bug};
use dfs_tests::sim::{self, Plan, Totals};

const SEEDS: u64 = 100;
/// The seed that last found each planted bug; it has to be found by that one, or by one of so many that follow.
const FINDERS: [(Bug, u64); Bug::ALL.len()] = [
    (Bug::SkippedSync, 1),
    (Bug::SkippedLogSync, 2),
    (Bug::ReplyBeforeCommit, 8),
    (Bug::RetryAppliedTwice, 4),
    (Bug::SlownessTakenForSilence, 5),
    (Bug::WallClockOrders, 5),
    (Bug::UncommittedRename, 2),
    (Bug::TornSegmentRefused, 23),
    (Bug::LocksBeforeAttachments, 14),
    (Bug::OrphanForgotten, 5),
    (Bug::GrantsWhileFrozen, 8),
    (Bug::RecallsAfterApply, 6),
    (Bug::ChangesBeforeLeasesEnd, 42),
    (Bug::RenewsWhatIsRecalled, 8),
    (Bug::ServesAfterTheLease, 7),
    (Bug::WritesUnseen, 1),
    (Bug::LapsedWriterComesBack, 3),
    (Bug::ReturnsBeforeCommit, 1),
    (Bug::RecalledOpenUnnamed, 1),
];
const FINDERS_MORE: u64 = 20;
/// Two cores.
const PARALLEL: usize = 2;
const MARK: &str = "totals: ";
/// Lines of a failed seed's output that are shown, from its first panic on.
const SHOWN_LINES: usize = 30;

type Figure = fn(&Totals) -> u64;
/// What ten seeds must have together, on the average; with less the run proves too little. About half of what 200 seeds had.
const MINIMA: [(&str, u64, Figure); 26] = [
    ("operations", 3000, |t| t.operations),
    ("KiB written", 4000, |t| t.bytes_written >> 10),
    ("crashes of servers", 80, |t| t.crashes),
    ("torn first writes of a log's segment", 10, |t| t.torn_segments),
    ("starts refused for a missing file", 5, |t| t.starts_refused),
    ("log files used again after a purge", 120, |t| t.recycled_segments),
    ("power failures of everything", 10, |t| t.blackouts),
    ("crashes of a client", 10, |t| t.client_crashes),
    ("wall clocks stepped", 8, |t| t.clock_steps),
    ("partitions", 8, |t| t.partitions),
    ("metaservers cut off", 8, |t| t.isolations),
    ("links cut one way (replies lost)", 12, |t| t.one_way_cuts),
    ("links that hung", 10, |t| t.hung_links),
    ("slow log disks", 1, |t| t.slow_logs),
    ("leader changes", 15, |t| t.leader_changes),
    ("replica losses", 40, |t| t.replica_losses),
    ("snapshots installed", 3, |t| t.snapshots_installed),
    ("chunks deleted", 1, |t| t.chunks_deleted),
    ("copies of chunks read at the end", 140, |t| t.copies_read),
    ("changes of volumes", 50, |t| t.volume_changes),
    ("silences of a client that shares", 8, |t| t.silences),
    ("locks held", 80, |t| t.locks),
    ("records appended under locks", 30, |t| t.records),
    ("looks at what several clients change", 700, |t| t.looks),
    ("looks at what another client had not synced", 25, |t| t.fetches),
    ("answers of a silent client to itself", 3000, |t| t.own_answers),
];
/// And in each seed: completed operations, and faults beside the power failure at its end.
const OPERATIONS_MIN: u64 = 300;
const FAULTS_MIN: u64 = 3;

/// HashMap, `select!` and rand draw on the operating system's randomness; here it comes from the seed, so that a run
/// can be replayed. Only processes with `DFS_SIM_SEED` set are changed.
#[unsafe(no_mangle)]
extern "C" fn getrandom(buffer: *mut u8, len: usize, _flags: u32) -> isize {
    static STATE: AtomicU64 = AtomicU64::new(0);
    static SEED: std::sync::OnceLock<u64> = std::sync::OnceLock::new();
    // No allocation-free way to ask std: the environment is read once.
    let seed = *SEED.get_or_init(|| seed_from_environment().unwrap_or_else(|| u64::from(std::process::id())));
    // SAFETY: the caller passes a buffer of `len` bytes, as getrandom(2) demands.
    let bytes = unsafe { std::slice::from_raw_parts_mut(buffer, len) };
    for piece in bytes.chunks_mut(8) {
        let n = STATE.fetch_add(1, Ordering::Relaxed);
        let mut word = seed.wrapping_add(n.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        piece.copy_from_slice(&(word ^ (word >> 31)).to_le_bytes()[..piece.len()]);
    }
    len as isize
}

fn seed_from_environment() -> Option<u64> {
    // SAFETY: the name is a C string; the value is read at once, before any other thread sets variables.
    let value = unsafe { libc::getenv(c"DFS_SIM_SEED".as_ptr()) };
    if value.is_null() {
        return None;
    }
    // SAFETY: getenv returned a C string.
    unsafe { std::ffi::CStr::from_ptr(value) }.to_str().ok()?.parse().ok()
}

/// Said also when the test passes: libtest keeps what `println!` says.
fn say(line: &str) {
    writeln!(std::io::stdout().lock(), "{line}").expect("write to standard output");
}

fn start(seed: u64, bug: Option<Bug>) -> (u64, Child) {
    let this = std::env::current_exe().expect("the test's own path");
    let child = Command::new(this)
        .args(["one_seed", "--exact", "--nocapture", "--test-threads=1"])
        .env("DFS_SIM_SEED", seed.to_string())
        .env("DFS_SIM_PLANT", bug.map_or("", Bug::name))
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn();
    (seed, child.expect("start a process for one seed"))
}

/// The totals of a seed, or what it printed before it failed.
fn finish((seed, child): (u64, Child)) -> Result<Totals, String> {
    let output = child.wait_with_output().map_err(|e| format!("seed {seed}: {e}"))?;
    let text = String::from_utf8_lossy(&output.stdout);
    let totals = text.lines().find_map(|line| line.split_once(MARK).map(|(_, json)| json.to_owned()));
    match totals {
        Some(json) if output.status.success() => {
            serde_json::from_str(&json).map_err(|e| format!("seed {seed}: {e}"))
        }
        Some(_) | None => {
            let errors = String::from_utf8_lossy(&output.stderr);
            let from =
                errors.find(" panicked at ").map_or(0, |at| errors[..at].rfind('\n').map_or(0, |n| n + 1));
            let shown: Vec<&str> = errors[from..].lines().take(SHOWN_LINES).collect();
            Err(format!(
                "seed {seed} failed ({}); replay: DFS_SIM_SEED={seed} cargo test --release --workspace --test sim \
                 one_seed -- --nocapture\n{}",
                output.status,
                shown.join("\n")
            ))
        }
    }
}

fn run_all(seeds: impl Iterator<Item = u64>, bug: Option<Bug>) -> Vec<Result<Totals, String>> {
    let mut running = VecDeque::new();
    let mut results = Vec::new();
    for seed in seeds {
        if running.len() == PARALLEL {
            results.extend(running.pop_front().map(finish));
        }
        running.push_back(start(seed, bug));
    }
    results.extend(running.into_iter().map(finish));
    results
}

/// Does nothing without a seed: `a_hundred_seeds…` starts it once for each.
#[test]
fn one_seed() {
    let Some(seed) = seed_from_environment() else { return };
    if std::env::var_os("RUST_LOG").is_some() {
        let filter = tracing_subscriber::EnvFilter::from_default_env();
        tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).init();
    }
    let wanted = std::env::var("DFS_SIM_PLANT").unwrap_or_default();
    match Bug::ALL.into_iter().find(|bug| bug.name() == wanted) {
        Some(bug) => planted::plant(bug),
        None => assert!(wanted.is_empty(), "DFS_SIM_PLANT={wanted}: there is no such bug"),
    }
    let totals = sim::run(Plan::of_seed(seed));
    println!("{MARK}{}", serde_json::to_string(&totals).expect("numbers"));
}

#[test]
fn a_hundred_seeds_of_faults_break_no_promise() {
    let first: u64 = std::env::var("DFS_SIM_FIRST").ok().and_then(|s| s.parse().ok()).unwrap_or(1);
    let count: u64 = std::env::var("DFS_SIM_SEEDS").ok().and_then(|s| s.parse().ok()).unwrap_or(SEEDS);
    let results = run_all(first..first + count, None);
    let failures: Vec<&String> = results.iter().filter_map(|r| r.as_ref().err()).collect();
    assert!(failures.is_empty(), "{} of {count} seeds failed, the first:\n{}", failures.len(), failures[0]);
    let runs: Vec<Totals> = results.into_iter().filter_map(Result::ok).collect();
    let sum = |of: Figure| runs.iter().map(of).sum::<u64>();
    say(&format!(
        "simulation: {count} seeds from {first}, {} s simulated, longest stall {} ms, longest wait for a lock {} ms",
        sum(|t| t.simulated_ms) / 1000,
        runs.iter().map(|t| t.longest_stall_ms).max().unwrap_or(0),
        runs.iter().map(|t| t.longest_wait_ms).max().unwrap_or(0),
    ));
    for (what, least_of_ten, of) in MINIMA {
        say(&format!("simulation: {:>9} {what} (at least {})", sum(of), least_of_ten * count / 10));
    }
    for (seed, run) in (first..).zip(&runs) {
        let faults = run.faults - 1;
        assert!(run.operations >= OPERATIONS_MIN, "seed {seed}: {} operations", run.operations);
        assert!(faults >= FAULTS_MIN, "seed {seed}: {faults} faults");
    }
    for (what, least_of_ten, of) in MINIMA {
        let least = least_of_ten * count / 10;
        assert!(sum(of) >= least, "{} {what}, at least {least}", sum(of));
    }
}

/// Each bug is found, and it is the bug that is found: without it the same seed passes.
#[test]
fn planted_bugs_are_found() {
    for (bug, finder) in FINDERS {
        let found = (finder..=finder + FINDERS_MORE).step_by(PARALLEL).find_map(|first| {
            let seeds = first..first + PARALLEL as u64;
            let failures = run_all(seeds.clone(), Some(bug));
            seeds.zip(failures).find_map(|(seed, result)| Some((seed, result.err()?)))
        });
        let (seed, saw) = found.unwrap_or_else(|| panic!("{}: not found from seed {finder} on", bug.name()));
        let what: Vec<&str> = saw.lines().skip(2).take_while(|line| !line.contains("backtrace")).collect();
        say(&format!("simulation: {} found by seed {seed}: {}", bug.name(), what.join(" ")));
        let without = finish(start(seed, None));
        assert!(without.is_ok(), "seed {seed} fails without {} too: {without:?}", bug.name());
    }
}

#[test]
fn a_seed_replays_to_the_same_trace() {
    for seed in [1001, 1002, 1003] {
        let twice: Vec<_> = run_all([seed, seed].into_iter(), None);
        assert_eq!(twice[0], twice[1], "seed {seed}");
        assert!(twice[0].is_ok(), "{:?}", twice[0]);
    }
}
