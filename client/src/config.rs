//! What a client is told when it starts.

use std::time::Duration;

/// How a client finds the federation, and what it may use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientConfig {
    /// gRPC addresses of some metaservers, at least one.
    pub metaservers: Vec<String>,
    /// For people: host and mount point.
    pub name: String,
    /// An operation on names or attributes that has no answer by then fails.
    pub metadata_timeout: Duration,
    /// The same for bytes.
    pub data_timeout: Duration,
    pub connect_timeout: Duration,
    /// Bytes written and not committed, over all files; writers wait beyond it (P1.6).
    pub session_memory_bytes: u64,
    /// Copies of what this client writes; 0: the cluster's default.
    pub copies: u32,
}

impl Default for ClientConfig {
    fn default() -> ClientConfig {
        ClientConfig {
            metaservers: Vec::new(),
            name: String::new(),
            metadata_timeout: Duration::from_secs(30),
            data_timeout: Duration::from_secs(30),
            connect_timeout: Duration::from_secs(2),
            session_memory_bytes: 256 << 20,
            copies: 0,
        }
    }
}
