//! Every metric of a metaserver. Names as Prometheus shows them: counters get `_total`. The gauges below `leading` are 0 on
//! members that do not lead.

use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::{Registry, Unit};

use crate::coherence::RecallCounts;

type Count = Gauge<u64, AtomicU64>;

/// Cloning gives another handle to the same numbers.
#[derive(Clone)]
pub struct Metrics {
    pub changes: Counter,
    pub refused_changes: Counter,
    pub change_seconds: Histogram,
    pub reads: Counter,
    pub refused_reads: Counter,
    pub heartbeats: Counter,
    pub placed_chunks: Counter,
    pub refused_placements: Counter,
    pub expired_sessions: Counter,
    pub background_failures: Counter,
    pub leading: Count,
    pub term: Count,
    pub log_last: Count,
    pub log_applied: Count,
    pub disk_free_bytes: Count,
    pub chunkservers: Count,
    pub chunkservers_away: Count,
    pub chunkservers_full: Count,
    pub inodes: Count,
    pub sessions: Count,
    pub sessions_attached: Count,
    pub locks: Count,
    pub locks_waited_for: Count,
    pub leases: Count,
    pub write_leases: Count,
    pub(crate) recalls: RecallCounts,
    pub chunks_open: Count,
    pub chunks_sealed: Count,
    pub chunks_dead: Count,
    pub chunks_deleting: Count,
    pub chunks_degraded: Count,
    pub chunks_damaged: Count,
    registry: Arc<Registry>,
}

impl Default for Metrics {
    fn default() -> Metrics {
        Metrics::new()
    }
}

impl Metrics {
    pub fn new() -> Metrics {
        let mut metrics = Metrics {
            changes: Counter::default(),
            refused_changes: Counter::default(),
            // 0.1 ms to 26 s: from one sync to a client's patience.
            change_seconds: Histogram::new(exponential_buckets(0.0001, 2.0, 19)),
            reads: Counter::default(),
            refused_reads: Counter::default(),
            heartbeats: Counter::default(),
            placed_chunks: Counter::default(),
            refused_placements: Counter::default(),
            expired_sessions: Counter::default(),
            background_failures: Counter::default(),
            leading: Count::default(),
            term: Count::default(),
            log_last: Count::default(),
            log_applied: Count::default(),
            disk_free_bytes: Count::default(),
            chunkservers: Count::default(),
            chunkservers_away: Count::default(),
            chunkservers_full: Count::default(),
            inodes: Count::default(),
            sessions: Count::default(),
            sessions_attached: Count::default(),
            locks: Count::default(),
            locks_waited_for: Count::default(),
            leases: Count::default(),
            write_leases: Count::default(),
            recalls: RecallCounts::default(),
            chunks_open: Count::default(),
            chunks_sealed: Count::default(),
            chunks_dead: Count::default(),
            chunks_deleting: Count::default(),
            chunks_degraded: Count::default(),
            chunks_damaged: Count::default(),
            registry: Arc::default(),
        };
        metrics.registry = Arc::new(metrics.register());
        metrics
    }

    fn register(&self) -> Registry {
        let mut registry = Registry::with_prefix("dfs_metaserver");
        let counters = [
            ("changes", "Changes that clients asked of this leader", &self.changes),
            ("refused_changes", "Changes answered with an error", &self.refused_changes),
            ("reads", "Reads that clients asked of this leader", &self.reads),
            ("refused_reads", "Reads answered with an error", &self.refused_reads),
            ("heartbeats", "Reports of chunkservers", &self.heartbeats),
            ("placed_chunks", "Chunks that got a place", &self.placed_chunks),
            (
                "refused_placements",
                "Chunks that got none, for now or for lack of space",
                &self.refused_placements,
            ),
            ("expired_sessions", "Sessions ended for their silence", &self.expired_sessions),
            ("background_failures", "Commands of background work that failed", &self.background_failures),
            ("recalls", "Recalls of leases that were sent", &self.recalls.issued),
            ("recalls_waited_for", "Recalls that changes have waited for", &self.recalls.waited_for),
            (
                "recalls_run_out",
                "Recalls that were not answered until the lease ended",
                &self.recalls.run_out,
            ),
            ("writes_granted", "Grants of Write", &self.recalls.writes_granted),
            ("writes_recalled", "Write leases that were asked for", &self.recalls.writes_recalled),
            (
                "writes_waited_for",
                "Reads and changes that have waited for Write to come back",
                &self.recalls.writes_waited_for,
            ),
        ];
        for (name, help, counter) in counters {
            registry.register(name, help, counter.clone());
        }
        let help = "From a change's arrival to its answer";
        registry.register_with_unit("change", help, Unit::Seconds, self.change_seconds.clone());
        let gauges = [
            ("leading", "1 on the leader", &self.leading),
            ("term", "Raft term", &self.term),
            ("log_last", "Index of the last Raft entry here", &self.log_last),
            ("log_applied", "Index of the last Raft entry applied here", &self.log_applied),
            ("disk_free_bytes", "Free on the disk of this member's data", &self.disk_free_bytes),
            ("chunkservers", "Registered chunkservers", &self.chunkservers),
            ("chunkservers_away", "Chunkservers silent for too long", &self.chunkservers_away),
            ("chunkservers_full", "Chunkservers that take no more appends", &self.chunkservers_full),
            ("inodes", "Files, directories and others", &self.inodes),
            ("sessions", "Sessions alive", &self.sessions),
            ("sessions_attached", "Sessions that have told what they hold", &self.sessions_attached),
            ("locks", "Locks of files that are held", &self.locks),
            ("locks_waited_for", "Locks of files that somebody waits for", &self.locks_waited_for),
            ("leases", "Inodes that sessions hold Read of, counted once for each session", &self.leases),
            ("write_leases", "Files that sessions hold Write of", &self.write_leases),
            ("chunks_open", "Chunks being written", &self.chunks_open),
            ("chunks_sealed", "Chunks complete", &self.chunks_sealed),
            ("chunks_dead", "Chunks without a live byte, not yet ordered to be deleted", &self.chunks_dead),
            ("chunks_deleting", "Chunks that a chunkserver has yet to delete", &self.chunks_deleting),
            ("chunks_degraded", "Chunks with fewer copies than wanted", &self.chunks_degraded),
            ("chunks_damaged", "Chunks with a damaged copy", &self.chunks_damaged),
        ];
        for (name, help, gauge) in gauges {
            registry.register(name, help, gauge.clone());
        }
        registry
    }

    /// All of them in the OpenMetrics text format.
    pub fn encode(&self) -> String {
        let mut text = String::new();
        // Writing into a string does not fail.
        let _ = encode(&mut text, &self.registry);
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metrics_have_the_crate_and_the_unit_in_their_names() {
        let metrics = Metrics::new();
        metrics.changes.inc();
        metrics.change_seconds.observe(0.001);
        metrics.term.set(4);
        let text = metrics.encode();
        for line in [
            "dfs_metaserver_changes_total 1",
            "dfs_metaserver_change_seconds_count 1",
            "dfs_metaserver_term 4",
        ] {
            assert!(text.contains(line), "{line} is missing in {text}");
        }
    }
}
