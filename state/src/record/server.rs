//! Chunkservers.

use dfs_proto::ids::ServerId;

use super::Table;
use super::stored::stored_struct;
use super::value::ServerAddresses;
use crate::value::server;

/// The chunkservers. Version 1 since the first release.
pub(crate) struct Servers;

impl Table for Servers {
    const NAME: &'static str = "the chunkservers";
    const VERSION: u8 = 1;
    type Value = server::ServerRecord;
    type Record = Server;
}

stored_struct! {
    Server = server::ServerRecord {
        directory: u128,
        addresses: ServerAddresses,
        zone: String,
        instance: u64,
    }
}

/// Chunkservers by data directory. Version 1 since the first release.
pub(crate) struct ServerDirectories;

impl Table for ServerDirectories {
    const NAME: &'static str = "the chunkservers' directories";
    const VERSION: u8 = 1;
    type Value = ServerId;
    type Record = u64;
}
