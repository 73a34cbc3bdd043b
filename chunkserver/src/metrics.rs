//! Every metric of a chunkserver, with its name, help and unit. Prometheus appends `_total` to the names of counters.

use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::{Registry, Unit};

/// The metrics of one server. A clone counts on the same numbers.
#[derive(Clone)]
pub struct Metrics {
    pub appended_bytes: Counter,
    pub read_bytes: Counter,
    pub damaged_reads: Counter,
    pub damaged_headers: Counter,
    pub lacking: Counter,
    pub deleted_chunks: Counter,
    pub forward_failures: Counter,
    pub requests: Counter,
    pub refused_requests: Counter,
    pub requests_in_flight: Gauge,
    pub disk_total_bytes: Gauge<u64, AtomicU64>,
    pub disk_free_bytes: Gauge<u64, AtomicU64>,
    pub chunks: Gauge<u64, AtomicU64>,
    pub heartbeat_failures: Counter,
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
            appended_bytes: Counter::default(),
            read_bytes: Counter::default(),
            damaged_reads: Counter::default(),
            damaged_headers: Counter::default(),
            lacking: Counter::default(),
            deleted_chunks: Counter::default(),
            forward_failures: Counter::default(),
            requests: Counter::default(),
            refused_requests: Counter::default(),
            requests_in_flight: Gauge::default(),
            disk_total_bytes: Gauge::default(),
            disk_free_bytes: Gauge::default(),
            chunks: Gauge::default(),
            heartbeat_failures: Counter::default(),
            registry: Arc::default(),
        };
        metrics.registry = Arc::new(metrics.register());
        metrics
    }

    fn register(&self) -> Registry {
        let mut registry = Registry::with_prefix("dfs_chunkserver");
        let counters = [
            ("damaged_reads", "Reads that found a damaged block or a failing disk", &self.damaged_reads),
            (
                "damaged_headers",
                "Damaged frame headers behind which frames were found",
                &self.damaged_headers,
            ),
            ("lacking", "Reads and writes that failed for want of descriptors or memory", &self.lacking),
            ("deleted_chunks", "Chunks deleted by order of the metaserver", &self.deleted_chunks),
            ("forward_failures", "Appends and syncs that another replica did not do", &self.forward_failures),
            ("requests", "Requests of the chunk service", &self.requests),
            (
                "refused_requests",
                "Requests of the chunk service answered with an error",
                &self.refused_requests,
            ),
            (
                "heartbeat_failures",
                "Heartbeats that no metaserver's leader answered",
                &self.heartbeat_failures,
            ),
        ];
        for (name, help, counter) in counters {
            registry.register(name, help, counter.clone());
        }
        let byte_counters = [
            ("appended", "Data appended here, by clients and other chunkservers", &self.appended_bytes),
            ("read", "Data read here, whole blocks", &self.read_bytes),
        ];
        for (name, help, counter) in byte_counters {
            registry.register_with_unit(name, help, Unit::Bytes, counter.clone());
        }
        let byte_gauges = [
            ("disk_total", "Size of the filesystem below the data directory", &self.disk_total_bytes),
            ("disk_free", "What could still be written there", &self.disk_free_bytes),
        ];
        for (name, help, gauge) in byte_gauges {
            registry.register_with_unit(name, help, Unit::Bytes, gauge.clone());
        }
        registry.register("chunks", "Chunk files", self.chunks.clone());
        let in_flight = self.requests_in_flight.clone();
        registry.register("requests_in_flight", "Requests being worked on", in_flight);
        registry
    }

    /// All metrics in the OpenMetrics text format.
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
        metrics.read_bytes.inc_by(5);
        metrics.disk_free_bytes.set(7);
        let text = metrics.encode();
        assert!(text.contains("dfs_chunkserver_read_bytes_total 5"), "{text}");
        assert!(text.contains("dfs_chunkserver_disk_free_bytes 7"), "{text}");
    }
}
