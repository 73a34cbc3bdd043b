//! What there is once: the cluster itself, its members, the counters that ids come from, and the totals.

use dfs_proto::error::MetaError;

use crate::command::Member;
use crate::keys;
use crate::kv::{Snapshot, Txn, scan_prefix};
use crate::record::cluster::{Cluster, Counters as CountersTable, HashKey, Members};
use crate::record::{decode, encode};
use crate::value::cluster::{ClusterRecord, Counters};

pub(crate) fn get(view: &dyn Snapshot) -> Option<ClusterRecord> {
    view.get(&keys::cluster()).map(|bytes| decode::<Cluster>(&bytes))
}

pub(crate) fn put(txn: &mut Txn<'_>, record: &ClusterRecord) {
    txn.put(keys::cluster(), encode::<Cluster>(record));
}

pub(crate) fn require(view: &dyn Snapshot) -> Result<ClusterRecord, MetaError> {
    get(view).ok_or_else(|| MetaError::Unavailable { what: "the cluster is not initialised yet".to_owned() })
}

pub(crate) fn hash_key(view: &dyn Snapshot) -> u128 {
    match view.get(&keys::hash_key()) {
        Some(bytes) => decode::<HashKey>(&bytes),
        None => panic!("broken invariant: a directory exists and the hash key does not"),
    }
}

pub(crate) fn put_hash_key(txn: &mut Txn<'_>, hash_key: u128) {
    txn.put(keys::hash_key(), encode::<HashKey>(&hash_key));
}

pub(crate) fn counters(view: &dyn Snapshot) -> Counters {
    view.get(&keys::counters()).map_or_else(Counters::default, |bytes| decode::<CountersTable>(&bytes))
}

/// Changes the counters and returns what `change` does.
pub(crate) fn count<T>(txn: &mut Txn<'_>, change: impl FnOnce(&mut Counters) -> T) -> T {
    let mut counters = counters(txn);
    let result = change(&mut counters);
    txn.put(keys::counters(), encode::<CountersTable>(&counters));
    result
}

pub(crate) fn members(view: &dyn Snapshot) -> Vec<Member> {
    scan_prefix(view, &keys::table(keys::MEMBER)).map(|(_, value)| decode::<Members>(&value)).collect()
}

/// Replaces what is recorded.
pub(crate) fn put_members(txn: &mut Txn<'_>, members: &[Member]) {
    for old in self::members(txn) {
        txn.delete(keys::member(old.id));
    }
    for member in members {
        txn.put(keys::member(member.id), encode::<Members>(member));
    }
}
