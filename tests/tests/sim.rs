//! The simulation: 200 seeds, each in a process of its own, so that a seed replays.
//!
//! `DFS_SIM_SEED=17 cargo test --release -p dfs-tests --test sim one_seed -- --nocapture` replays one; a failure prints that line.

use std::collections::VecDeque;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};

use dfs_tests::sim::{self, Plan, Totals};

const SEEDS: u64 = 200;
/// Two cores.
const PARALLEL: usize = 2;
const MARK: &str = "totals: ";

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

fn start(seed: u64) -> (u64, Child) {
    let this = std::env::current_exe().expect("the test's own path");
    let child = Command::new(this)
        .args(["one_seed", "--exact", "--nocapture", "--test-threads=1"])
        .env("DFS_SIM_SEED", seed.to_string())
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
            let tail: Vec<&str> = errors.lines().rev().take(30).collect();
            let tail = tail.into_iter().rev().collect::<Vec<_>>().join("\n");
            Err(format!(
                "seed {seed} failed; replay: DFS_SIM_SEED={seed} cargo test --release -p dfs-tests --test sim one_seed -- --nocapture\n{tail}"
            ))
        }
    }
}

fn run_all(seeds: impl Iterator<Item = u64>) -> Vec<Result<Totals, String>> {
    let mut running = VecDeque::new();
    let mut results = Vec::new();
    for seed in seeds {
        if running.len() == PARALLEL {
            results.extend(running.pop_front().map(finish));
        }
        running.push_back(start(seed));
    }
    results.extend(running.into_iter().map(finish));
    results
}

/// Does nothing without a seed: `two_hundred_seeds…` starts it once for each.
#[test]
fn one_seed() {
    let Some(seed) = seed_from_environment() else { return };
    if std::env::var_os("RUST_LOG").is_some() {
        let filter = tracing_subscriber::EnvFilter::from_default_env();
        tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).init();
    }
    let totals = sim::run(Plan::of_seed(seed));
    println!("{MARK}{}", serde_json::to_string(&totals).expect("numbers"));
}

#[test]
fn two_hundred_seeds_of_faults_break_no_promise() {
    let first: u64 = std::env::var("DFS_SIM_FIRST").ok().and_then(|s| s.parse().ok()).unwrap_or(1);
    let count: u64 = std::env::var("DFS_SIM_SEEDS").ok().and_then(|s| s.parse().ok()).unwrap_or(SEEDS);
    let results = run_all(first..first + count);
    let failures: Vec<&String> = results.iter().filter_map(|r| r.as_ref().err()).collect();
    assert!(failures.is_empty(), "{} of {count} seeds failed, the first:\n{}", failures.len(), failures[0]);
    let runs: Vec<Totals> = results.into_iter().filter_map(Result::ok).collect();
    let sum = |of: fn(&Totals) -> u64| runs.iter().map(of).sum::<u64>();
    let (crashes, partitions) = (sum(|t| t.crashes), sum(|t| t.partitions));
    let (changes, losses) = (sum(|t| t.leader_changes), sum(|t| t.replica_losses));
    println!(
        "{count} seeds: {} operations, {} MiB written, {crashes} crashes, {partitions} partitions, {changes} leader changes, \
         {losses} replica losses, longest stall {} ms, {} s simulated",
        sum(|t| t.operations),
        sum(|t| t.bytes_written) >> 20,
        runs.iter().map(|t| t.longest_stall_ms).max().unwrap_or(0),
        sum(|t| t.simulated_ms) / 1000,
    );
    for (index, run) in runs.iter().enumerate() {
        assert!(run.operations >= 300, "seed {}: {} operations", first + index as u64, run.operations);
        assert!(run.crashes + run.partitions >= 3, "seed {}: too few faults", first + index as u64);
    }
    assert!(crashes >= 2 * count && partitions >= count / 2, "{crashes} crashes, {partitions} partitions");
    assert!(changes >= count / 2 && losses >= count / 2, "{changes} leader changes, {losses} replica losses");
}

#[test]
fn a_seed_replays_to_the_same_trace() {
    for seed in [1001, 1002, 1003] {
        let twice: Vec<_> = run_all([seed, seed].into_iter());
        assert_eq!(twice[0], twice[1], "seed {seed}");
        assert!(twice[0].is_ok(), "{:?}", twice[0]);
    }
}
