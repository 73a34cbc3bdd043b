//! Sessions: who is alive, what they were answered (P8.1), what they committed last (P2.1).
//!
//!     no record ──OpenSession──► alive ──CloseSession, ExpireSession──► ended ──reaper──► no record
//!
//! Ending is one write, and the only fence (P3.3): a session without a [`SessionRecord`] is refused everything.

use dfs_proto::error::MetaError;
use dfs_proto::ids::{InodeId, RequestId, SessionId, SessionNonce};
use dfs_proto::meta::{Changed, MetaResult};
use dfs_proto::units::REQUEST_WINDOW;
use serde::{Deserialize, Serialize};

use super::cluster;
use super::codec::{PRESENT, decode, encode};
use super::keys;
use crate::kv::{Snapshot, Txn, scan_prefix};

/// One that is alive.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SessionRecord {
    pub nonce: SessionNonce,
    /// For people: host name and mount point.
    pub client: String,
    /// Requests below are refused: answered, given up, or too old (P8.1).
    pub window: RequestId,
    /// The highest request seen.
    pub highest: RequestId,
}

pub(super) fn get(view: &dyn Snapshot, session: SessionId) -> Option<SessionRecord> {
    view.get(&keys::session(session)).map(|bytes| decode(&bytes, "a session"))
}

pub(super) fn require(view: &dyn Snapshot, session: SessionId) -> MetaResult<SessionRecord> {
    get(view, session).ok_or(MetaError::SessionExpired { session })
}

pub(super) fn by_nonce(view: &dyn Snapshot, nonce: SessionNonce) -> Option<SessionId> {
    view.get(&keys::session_by_nonce(nonce)).map(|bytes| decode(&bytes, "a session's nonce"))
}

pub(super) fn all(view: &dyn Snapshot) -> impl Iterator<Item = (SessionId, SessionRecord)> + '_ {
    scan_prefix(view, &keys::table(keys::SESSION))
        .map(|(key, value)| (SessionId(keys::number(&key, 0)), decode(&value, "a session")))
}

pub(super) fn open(txn: &mut Txn<'_>, nonce: SessionNonce, client: &str) -> SessionId {
    let session = cluster::count(txn, |c| {
        c.session.0 += 1;
        c.totals.sessions += 1;
        c.session
    });
    let record =
        SessionRecord { nonce, client: client.to_owned(), window: RequestId(0), highest: RequestId(0) };
    txn.put(keys::session(session), encode(&record));
    txn.put(keys::session_by_nonce(nonce), encode(&session));
    session
}

/// No effect if it has ended before.
pub(super) fn end(txn: &mut Txn<'_>, session: SessionId) {
    let Some(record) = get(txn, session) else { return };
    txn.delete(keys::session(session));
    txn.delete(keys::session_by_nonce(record.nonce));
    txn.put(keys::ended(session), PRESENT);
    cluster::count(txn, |c| c.totals.sessions -= 1);
}

pub(super) fn first_ended(view: &dyn Snapshot) -> Option<SessionId> {
    scan_prefix(view, &keys::table(keys::ENDED)).next().map(|(key, _)| SessionId(keys::number(&key, 0)))
}

/// Deletes up to `limit` remembered results and commit numbers of one that has ended; less than `limit`: it is gone.
pub(super) fn reap(txn: &mut Txn<'_>, session: SessionId, limit: usize) -> usize {
    let left: Vec<Vec<u8>> = scan_prefix(txn, &keys::results_of(session))
        .chain(scan_prefix(txn, &keys::commits_of(session)))
        .map(|(key, _)| key)
        .take(limit)
        .collect();
    let count = left.len();
    for key in left {
        txn.delete(key);
    }
    if count < limit {
        txn.delete(keys::ended(session));
    }
    count
}

/// What P8.1 says about a request.
pub(super) enum Admission {
    /// A try was executed: this was its result.
    Known(MetaResult<Changed>),
    New,
    /// Below the window.
    TooOld,
}

/// Moves the window on and tells whether to execute the request. Results below the window go.
pub(super) fn admit(
    txn: &mut Txn<'_>,
    session: SessionId,
    mut record: SessionRecord,
    request: RequestId,
    answered_below: RequestId,
) -> Admission {
    let before = record.clone();
    record.highest = record.highest.max(request);
    let oldest_kept = RequestId(record.highest.0.saturating_sub(REQUEST_WINDOW - 1));
    // What a request claims about later ones than itself cannot be true.
    let answered_below = answered_below.min(request);
    record.window = record.window.max(answered_below).max(oldest_kept);
    if record != before {
        txn.put(keys::session(session), encode(&record));
    }
    if record.window > before.window {
        forget_results(txn, session, before.window, record.window);
    }
    if request < record.window {
        return Admission::TooOld;
    }
    // Above every number seen nothing was executed.
    let known = (request <= before.highest).then(|| result(txn, session, request)).flatten();
    match known {
        Some(result) => Admission::Known(result),
        None => Admission::New,
    }
}

/// Forgets what requests from `from` up to and without `end` were answered.
fn forget_results(txn: &mut Txn<'_>, session: SessionId, from: RequestId, end: RequestId) {
    // A few deletions of what may never have been there cost less than one scan.
    const FEW: u64 = 32;
    let gone: Vec<Vec<u8>> = match end.0 - from.0 {
        ..=FEW => (from.0..end.0).map(|request| keys::result(session, RequestId(request))).collect(),
        _ => {
            let (from, end) = (keys::result(session, from), keys::result(session, end));
            txn.scan(&from, &end).map(|(key, _)| key).collect()
        }
    };
    for key in gone {
        txn.delete(key);
    }
}

/// What the request was answered, if that is remembered.
pub(super) fn result(
    view: &dyn Snapshot,
    session: SessionId,
    request: RequestId,
) -> Option<MetaResult<Changed>> {
    view.get(&keys::result(session, request)).map(|bytes| decode(&bytes, "a remembered result"))
}

pub(super) fn remember(
    txn: &mut Txn<'_>,
    session: SessionId,
    request: RequestId,
    result: &MetaResult<Changed>,
) {
    txn.put(keys::result(session, request), encode(result));
}

/// The number that the next commit of this session for this inode must have (P2.1).
pub(super) fn next_commit(view: &dyn Snapshot, session: SessionId, inode: InodeId) -> u64 {
    view.get(&keys::commit(session, inode)).map_or(0, |bytes| decode(&bytes, "a commit number")) + 1
}

pub(super) fn record_commit(txn: &mut Txn<'_>, session: SessionId, inode: InodeId, number: u64) {
    txn.put(keys::commit(session, inode), encode(&number));
}

pub(super) fn forget_commits(txn: &mut Txn<'_>, session: SessionId, inode: InodeId) {
    txn.delete(keys::commit(session, inode));
}
