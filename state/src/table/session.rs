//! Sessions: who is alive, what they were answered (P8.1), what they committed last (P2.1).
//!
//!     no record ──OpenSession──► alive ──CloseSession, ExpireSession──► ended ──reaper──► no record
//!
//! Requests are numbered in lanes, each with its window, so that one that stays without an answer (a volume of a cluster that
//! is lost is being removed) holds back those of its lane only.
//!
//! Ending is one write, and the only fence (P3.3): a session without a [`SessionRecord`] is refused everything.

use std::collections::{BTreeMap, BTreeSet};

use dfs_proto::error::MetaError;
use dfs_proto::ids::{InodeId, RequestId, SessionId, SessionNonce, VolumeId};
use dfs_proto::meta::{Changed, MetaResult};
use dfs_proto::units::REQUEST_WINDOW;

use super::cluster;
use crate::command::Silence;
use crate::keys::{self, May};
use crate::kv::{Snapshot, Txn, prefix_end, scan_prefix};
use crate::record::result::Results;
use crate::record::session::{Commits, Nonces, Sessions, Silences};
use crate::record::{PRESENT, decode, encode};
use crate::value::session::SessionRecord;

pub(crate) fn get(view: &dyn Snapshot, session: SessionId) -> Option<SessionRecord> {
    view.get(&keys::session(session)).map(|bytes| decode::<Sessions>(&bytes))
}

pub(crate) fn is_alive(view: &dyn Snapshot, session: SessionId) -> bool {
    view.get(&keys::session(session)).is_some()
}

pub(crate) fn require(view: &dyn Snapshot, session: SessionId) -> MetaResult<SessionRecord> {
    get(view, session).ok_or(MetaError::SessionExpired { session })
}

pub(crate) fn by_nonce(view: &dyn Snapshot, nonce: SessionNonce) -> Option<SessionId> {
    view.get(&keys::session_by_nonce(nonce)).map(|bytes| decode::<Nonces>(&bytes))
}

pub(crate) fn all(view: &dyn Snapshot) -> impl Iterator<Item = (SessionId, SessionRecord)> + '_ {
    from(view, SessionId(0))
}

/// By id, from this one on.
pub(crate) fn from(
    view: &dyn Snapshot,
    first: SessionId,
) -> impl Iterator<Item = (SessionId, SessionRecord)> + '_ {
    view.scan(&keys::session(first), &prefix_end(&keys::table(keys::SESSION)))
        .map(|(key, value)| (SessionId(keys::number(&key, 0)), decode::<Sessions>(&value)))
}

pub(crate) fn open(txn: &mut Txn<'_>, nonce: SessionNonce, client: &str) -> SessionId {
    let session = cluster::count(txn, |c| {
        c.session.0 += 1;
        c.totals.sessions += 1;
        c.session
    });
    let record = SessionRecord { nonce, client: client.to_owned(), windows: Vec::new() };
    txn.put(keys::session(session), encode::<Sessions>(&record));
    txn.put(keys::session_by_nonce(nonce), encode::<Nonces>(&session));
    session
}

/// No effect if it has ended before.
pub(crate) fn end(txn: &mut Txn<'_>, session: SessionId) {
    let Some(record) = get(txn, session) else { return };
    txn.delete(keys::session(session));
    txn.delete(keys::session_by_nonce(record.nonce));
    txn.delete(keys::silence(session));
    txn.put(keys::ended(session), PRESENT);
    cluster::count(txn, |c| c.totals.sessions -= 1);
}

pub(crate) fn first_ended(view: &dyn Snapshot) -> Option<SessionId> {
    scan_prefix(view, &keys::table(keys::ENDED)).next().map(|(key, _)| SessionId(keys::number(&key, 0)))
}

/// Deletes up to `limit` remembered results, commit numbers and records of what it may hold, of one that has ended; less than
/// `limit`: it is gone.
pub(crate) fn reap(txn: &mut Txn<'_>, session: SessionId, limit: usize) -> usize {
    let left: Vec<Vec<u8>> = scan_prefix(txn, &keys::results_of(session))
        .chain(scan_prefix(txn, &keys::commits_of(session)))
        .chain(May::ALL.into_iter().flat_map(|may| scan_prefix(txn, &keys::may_of(may, session))))
        .map(|(key, _)| key)
        .take(limit)
        .collect();
    let count = left.len();
    for key in left {
        if let Some(may) = May::ALL.into_iter().find(|may| key.first() == Some(&may.by_session())) {
            txn.delete(keys::may_by_volume(may, keys::volume_of_may(&key), session));
        }
        txn.delete(key);
    }
    if count < limit {
        txn.delete(keys::ended(session));
    }
    count
}

/// 0: no longer. No effect when it has ended.
pub(crate) fn note_silence(txn: &mut Txn<'_>, session: SessionId, silent_ms: u64) {
    match silent_ms {
        _ if !is_alive(txn, session) => {}
        0 => txn.delete(keys::silence(session)),
        _ => txn.put(keys::silence(session), encode::<Silences>(&silent_ms)),
    }
}

pub(crate) fn is_silence_noted(view: &dyn Snapshot, session: SessionId) -> bool {
    view.get(&keys::silence(session)).is_some()
}

pub(crate) fn noted_silences(view: &dyn Snapshot) -> impl Iterator<Item = Silence> + '_ {
    scan_prefix(view, &keys::table(keys::SILENCE)).map(|(key, value)| Silence {
        session: SessionId(keys::number(&key, 0)),
        silent_ms: decode::<Silences>(&value),
    })
}

/// Those that are alive and may hold something, or may write, somewhere.
pub(crate) fn that_hold_something(view: &dyn Snapshot) -> BTreeSet<SessionId> {
    let may = May::ALL.into_iter().flat_map(|may| scan_prefix(view, &keys::table(may.by_session())));
    let mut all: BTreeSet<SessionId> = may.map(|(key, _)| SessionId(keys::number(&key, 0))).collect();
    all.retain(|session| is_alive(view, *session));
    all
}

/// No effect when it is recorded.
pub(crate) fn record_may(txn: &mut Txn<'_>, may: May, session: SessionId, volume: VolumeId) {
    txn.put(keys::may(may, session, volume), PRESENT);
    txn.put(keys::may_by_volume(may, volume, session), PRESENT);
}

pub(crate) fn may(view: &dyn Snapshot, may: May, session: SessionId, volume: VolumeId) -> bool {
    view.get(&keys::may(may, session, volume)).is_some()
}

pub(crate) fn may_hold_somewhere(view: &dyn Snapshot, session: SessionId) -> bool {
    scan_prefix(view, &keys::may_of(May::Hold, session)).next().is_some()
}

/// Those that are alive and may hold something in the volume.
pub(crate) fn holding(view: &dyn Snapshot, volume: VolumeId) -> impl Iterator<Item = SessionId> + '_ {
    scan_prefix(view, &keys::may_in(May::Hold, volume))
        .map(|(key, _)| SessionId(keys::number(&key, 1)))
        .filter(|session| is_alive(view, *session))
}

/// All of them, with the volumes.
pub(crate) fn all_that_may(
    view: &dyn Snapshot,
    may: May,
) -> impl Iterator<Item = (VolumeId, SessionId)> + '_ {
    // Each session is looked at once: it may hold something in many volumes.
    let mut alive = BTreeMap::new();
    scan_prefix(view, &keys::table(may.by_volume()))
        .map(|(key, _)| (keys::volume_in(&key), SessionId(keys::number(&key, 1))))
        .filter(move |(_, session)| *alive.entry(*session).or_insert_with(|| is_alive(view, *session)))
}

/// What P8.1 says about a request.
pub(crate) enum Admission {
    /// A try was executed: this was its result.
    Known(MetaResult<Changed>),
    New,
    /// Below the window.
    TooOld,
}

/// Moves the window of the request's lane on and tells whether to execute it. Results below the window go.
pub(crate) fn admit(
    txn: &mut Txn<'_>,
    session: SessionId,
    mut record: SessionRecord,
    request: RequestId,
    answered_below: RequestId,
) -> Admission {
    let (lane, number) = (request.lane(), request.number());
    let before = record.window(lane);
    let window = record.window_mut(lane);
    window.highest = window.highest.max(number);
    let oldest_kept = window.highest.saturating_sub(REQUEST_WINDOW - 1);
    // What a request claims about later ones than itself, or about another lane, cannot be true.
    let answered_below = if answered_below.lane() == lane { answered_below.number().min(number) } else { 0 };
    window.oldest = window.oldest.max(answered_below).max(oldest_kept);
    let after = *window;
    if after != before {
        txn.put(keys::session(session), encode::<Sessions>(&record));
    }
    if after.oldest > before.oldest {
        let [from, end] = [before.oldest, after.oldest].map(|number| RequestId::new(lane, number));
        forget_results(txn, session, from, end);
    }
    if number < after.oldest {
        return Admission::TooOld;
    }
    // Above every number seen nothing was executed.
    let known = (number <= before.highest).then(|| result(txn, session, request)).flatten();
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
pub(crate) fn result(
    view: &dyn Snapshot,
    session: SessionId,
    request: RequestId,
) -> Option<MetaResult<Changed>> {
    view.get(&keys::result(session, request)).map(|bytes| decode::<Results>(&bytes))
}

pub(crate) fn remember(
    txn: &mut Txn<'_>,
    session: SessionId,
    request: RequestId,
    result: &MetaResult<Changed>,
) {
    txn.put(keys::result(session, request), encode::<Results>(result));
}

/// The number that the next commit of this session for this inode must have (P2.1).
pub(crate) fn next_commit(view: &dyn Snapshot, session: SessionId, inode: InodeId) -> u64 {
    view.get(&keys::commit(session, inode)).map_or(0, |bytes| decode::<Commits>(&bytes)) + 1
}

pub(crate) fn record_commit(txn: &mut Txn<'_>, session: SessionId, inode: InodeId, number: u64) {
    txn.put(keys::commit(session, inode), encode::<Commits>(&number));
}

pub(crate) fn forget_commits(txn: &mut Txn<'_>, session: SessionId, inode: InodeId) {
    txn.delete(keys::commit(session, inode));
}
