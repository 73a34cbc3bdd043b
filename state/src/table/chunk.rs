//! Chunk records and their indexes.
//!
//! A record and its index entries are written by [`put`] alone, which also keeps the totals.

use std::collections::BTreeSet;

use dfs_proto::error::MetaError;
use dfs_proto::ids::{ChunkId, ServerId, SessionId};
use dfs_proto::meta::{ChunkLocation, MetaResult, OpenedChunk, Replica};
use dfs_proto::units::ByteLen;

use super::cluster;
use super::server;
use crate::keys;
use crate::kv::{Snapshot, Txn, scan_prefix};
use crate::record::chunk::Chunks;
use crate::record::{PRESENT, decode, encode};
use crate::time::StateTime;
use crate::value::chunk::{ChunkRecord, ChunkState};
use crate::value::cluster::Totals;

pub(crate) fn get(view: &dyn Snapshot, chunk: ChunkId) -> Option<ChunkRecord> {
    view.get(&keys::chunk(chunk)).map(|bytes| decode::<Chunks>(&bytes))
}

pub(crate) fn all(view: &dyn Snapshot) -> impl Iterator<Item = (ChunkId, ChunkRecord)> + '_ {
    scan_prefix(view, &keys::table(keys::CHUNK))
        .map(|(key, value)| (ChunkId(keys::number(&key, 0)), decode::<Chunks>(&value)))
}

/// The keys of a chunk's index entries.
pub(crate) fn index_of(chunk: ChunkId, record: &ChunkRecord) -> BTreeSet<Vec<u8>> {
    let mut index: BTreeSet<Vec<u8>> =
        record.replicas.iter().map(|&server| keys::chunk_by_server(server, chunk)).collect();
    match &record.state {
        ChunkState::Open { session } => {
            index.insert(keys::chunk_by_session(*session, chunk));
            index.extend(record.replicas.iter().map(|&server| keys::open_by_server(server, chunk)));
        }
        ChunkState::Sealed => {}
        ChunkState::Dead { since } => {
            index.insert(keys::dead(*since, chunk));
        }
        ChunkState::Deleting { unconfirmed } => {
            index.extend(unconfirmed.iter().map(|&server| keys::deleting_by_server(server, chunk)));
        }
    }
    if record.is_degraded() || record.is_damaged() {
        index.insert(keys::attention(chunk));
    }
    index
}

/// Writes `new` (`None`: no record any more) over `old`, with index and totals.
pub(crate) fn put(txn: &mut Txn<'_>, chunk: ChunkId, old: Option<&ChunkRecord>, new: Option<&ChunkRecord>) {
    match new {
        Some(record) => txn.put(keys::chunk(chunk), encode::<Chunks>(record)),
        None => txn.delete(keys::chunk(chunk)),
    }
    // A commit changes lengths only, and is the one that comes often.
    let is_indexed_alike = matches!((old, new), (Some(old), Some(new)) if old.is_indexed_like(new));
    if !is_indexed_alike {
        let index = |record: Option<&ChunkRecord>| record.map_or_else(BTreeSet::new, |r| index_of(chunk, r));
        let (before, after) = (index(old), index(new));
        for key in before.difference(&after) {
            txn.delete(key.as_slice());
        }
        for key in after.difference(&before) {
            txn.put(key.as_slice(), PRESENT);
        }
    }
    let totals = |record: Option<&ChunkRecord>| record.map_or_else(Totals::default, ChunkRecord::totals);
    cluster::count(txn, |c| c.totals = c.totals.plus(totals(new)).minus(totals(old)));
}

/// Reads, changes, writes. The caller knows that the chunk exists.
pub(crate) fn update(txn: &mut Txn<'_>, chunk: ChunkId, change: impl FnOnce(&mut ChunkRecord)) {
    let Some(old) = get(txn, chunk) else {
        panic!("broken invariant S5: {chunk} is named and has no record");
    };
    let mut new = old.clone();
    change(&mut new);
    put(txn, chunk, Some(&old), Some(&new));
}

/// Adds to the live bytes; a sealed chunk without any is dead from now on (P10.4).
pub(crate) fn change_live(txn: &mut Txn<'_>, chunk: ChunkId, change: i64, now: StateTime) {
    update(txn, chunk, |record| {
        let Some(live) = record.live.0.checked_add_signed(change) else {
            panic!("broken invariant E3: {chunk} has {} live bytes, {change} are added", record.live);
        };
        record.live = ByteLen(live);
        match record.state {
            ChunkState::Sealed if live == 0 => record.state = ChunkState::Dead { since: now },
            ChunkState::Open { .. } | ChunkState::Sealed => {}
            ChunkState::Dead { .. } | ChunkState::Deleting { .. } => {
                panic!("broken invariant S5: {chunk} is dead, and {change} live bytes are added")
            }
        }
    });
}

/// P1.5: at the committed length, whatever the replicas hold. No effect on a chunk that is not open.
pub(crate) fn seal(txn: &mut Txn<'_>, chunk: ChunkId, now: StateTime) -> bool {
    let Some(old) = get(txn, chunk) else { return false };
    let ChunkState::Open { .. } = old.state else { return false };
    let state = if old.live.0 == 0 { ChunkState::Dead { since: now } } else { ChunkState::Sealed };
    put(txn, chunk, Some(&old), Some(&ChunkRecord { state, ..old.clone() }));
    true
}

/// The chunk, if this session may append to it and commit bytes of it.
pub(crate) fn require_open(
    view: &dyn Snapshot,
    chunk: ChunkId,
    session: SessionId,
) -> MetaResult<ChunkRecord> {
    match get(view, chunk) {
        Some(record) if record.state == (ChunkState::Open { session }) => Ok(record),
        Some(_) | None => Err(MetaError::ChunkNotOpen { chunk }),
    }
}

pub(crate) fn replicas(view: &dyn Snapshot, record: &ChunkRecord) -> Vec<Replica> {
    let replica = |&id: &ServerId| Replica {
        server: id,
        address: server::get(view, id).map(|s| s.addresses.frames).unwrap_or_default(),
    };
    record.replicas.iter().map(replica).collect()
}

pub(crate) fn opened(view: &dyn Snapshot, chunk: ChunkId, record: &ChunkRecord) -> OpenedChunk {
    OpenedChunk { chunk, set_version: record.set_version, replicas: replicas(view, record) }
}

pub(crate) fn location(view: &dyn Snapshot, chunk: ChunkId, record: &ChunkRecord) -> ChunkLocation {
    let sealed = match record.state {
        ChunkState::Open { .. } => false,
        ChunkState::Sealed | ChunkState::Dead { .. } | ChunkState::Deleting { .. } => true,
    };
    ChunkLocation {
        chunk,
        set_version: record.set_version,
        committed: record.committed,
        sealed,
        replicas: replicas(view, record),
    }
}

/// The chunks of an index whose keys end with the chunk, from a prefix on.
fn ids(view: &dyn Snapshot, prefix: Vec<u8>) -> impl Iterator<Item = ChunkId> + '_ {
    scan_prefix(view, &prefix).map(|(key, _)| ChunkId(keys::number(&key, 1)))
}

/// Every open chunk.
pub(crate) fn open(view: &dyn Snapshot) -> impl Iterator<Item = ChunkId> + '_ {
    ids(view, keys::table(keys::CHUNK_BY_SESSION))
}

pub(crate) fn open_of_session(view: &dyn Snapshot, session: SessionId) -> impl Iterator<Item = ChunkId> + '_ {
    ids(view, keys::chunks_of_session(session))
}

pub(crate) fn open_of_server(view: &dyn Snapshot, server: ServerId) -> impl Iterator<Item = ChunkId> + '_ {
    ids(view, keys::open_of_server(server))
}

pub(crate) fn of_server(view: &dyn Snapshot, server: ServerId) -> impl Iterator<Item = ChunkId> + '_ {
    ids(view, keys::chunks_of_server(server))
}

pub(crate) fn deleting_of_server(
    view: &dyn Snapshot,
    server: ServerId,
) -> impl Iterator<Item = ChunkId> + '_ {
    ids(view, keys::deleting_of_server(server))
}

/// Dead chunks, the longest dead first.
pub(crate) fn dead(view: &dyn Snapshot) -> impl Iterator<Item = (StateTime, ChunkId)> + '_ {
    scan_prefix(view, &keys::table(keys::DEAD)).map(|(key, _)| keys::dead_parts(&key))
}
