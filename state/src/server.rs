//! Registered chunkservers.

use dfs_proto::ids::{DirectoryId, ServerId};

use super::keys;
use super::record::server::{ServerDirectories, Servers};
use super::record::{decode, encode};
use crate::kv::{Snapshot, Txn, scan_prefix};
use crate::value::server::ServerRecord;

pub(super) fn get(view: &dyn Snapshot, server: ServerId) -> Option<ServerRecord> {
    view.get(&keys::server(server)).map(|bytes| decode::<Servers>(&bytes))
}

pub(super) fn put(txn: &mut Txn<'_>, server: ServerId, record: &ServerRecord) {
    txn.put(keys::server(server), encode::<Servers>(record));
    txn.put(keys::server_by_directory(record.directory), encode::<ServerDirectories>(&server));
}

pub(super) fn by_directory(view: &dyn Snapshot, directory: DirectoryId) -> Option<ServerId> {
    view.get(&keys::server_by_directory(directory)).map(|bytes| decode::<ServerDirectories>(&bytes))
}

pub(super) fn all(view: &dyn Snapshot) -> impl Iterator<Item = (ServerId, ServerRecord)> + '_ {
    scan_prefix(view, &keys::table(keys::SERVER))
        .map(|(key, value)| (ServerId(keys::number(&key, 0)), decode::<Servers>(&value)))
}
