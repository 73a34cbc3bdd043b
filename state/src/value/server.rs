//! A registered chunkserver.

use dfs_proto::ids::{DirectoryId, Instance};

use crate::command::ServerAddresses;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerRecord {
    pub directory: DirectoryId,
    pub addresses: ServerAddresses,
    pub zone: String,
    /// Of the last registration; an older one is refused (P11.1).
    pub instance: Instance,
}
