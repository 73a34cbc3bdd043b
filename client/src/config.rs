//! The settings of a client.

use std::time::Duration;

/// What survives when a client dies.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Durability {
    /// What fsync(2) returned for; the rest is committed after `commit_interval`, or when somebody asks for it.
    #[default]
    Fsync,
    /// What close(2) returned for, too.
    Operation,
}

/// How a client finds the federation, and what it may use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientConfig {
    /// gRPC addresses of some metaservers, at least one.
    pub metaservers: Vec<String>,
    /// A name for administrators: host and mount point.
    pub name: String,
    /// An operation on names or attributes that has no answer by then fails.
    pub metadata_timeout: Duration,
    /// Reading or writing bytes that makes no progress until then fails.
    pub data_timeout: Duration,
    pub connect_timeout: Duration,
    /// The most bytes of all files that are written and not committed. Writers wait while it is reached (P1.6).
    pub session_memory_bytes: u64,
    /// Written bytes are committed after this time, also if nobody asks for it.
    pub commit_interval: Duration,
    pub durability: Durability,
    /// How many copies this client's bytes get; 0 is the cluster's default.
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
            commit_interval: Duration::from_secs(1),
            durability: Durability::Fsync,
            copies: 0,
        }
    }
}
