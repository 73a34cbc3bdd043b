//! Registered chunkservers.

use dfs_proto::ids::{DirectoryId, ServerId};

use crate::keys;
use crate::kv::{Snapshot, Txn, scan_prefix};
use crate::record::server::{ServerDirectories, Servers};
use crate::record::{decode, encode};
use crate::value::server::ServerRecord;

pub(crate) fn get(view: &dyn Snapshot, server: ServerId) -> Option<ServerRecord> {
    view.get(&keys::server(server)).map(|bytes| decode::<Servers>(&bytes))
}

pub(crate) fn put(txn: &mut Txn<'_>, server: ServerId, record: &ServerRecord) {
    txn.put(keys::server(server), encode::<Servers>(record));
    txn.put(keys::server_by_directory(record.directory), encode::<ServerDirectories>(&server));
}

pub(crate) fn by_directory(view: &dyn Snapshot, directory: DirectoryId) -> Option<ServerId> {
    view.get(&keys::server_by_directory(directory)).map(|bytes| decode::<ServerDirectories>(&bytes))
}

pub(crate) fn all(view: &dyn Snapshot) -> impl Iterator<Item = (ServerId, ServerRecord)> + '_ {
    scan_prefix(view, &keys::table(keys::SERVER))
        .map(|(key, value)| (ServerId(keys::number(&key, 0)), decode::<Servers>(&value)))
}
