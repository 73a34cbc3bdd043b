//! Inodes without a name. The sessions that have the file open hold the orphan, and so does the one that removed the last
//! name, each until it releases it for itself (P6.5). With the last release the inode is gone for everyone and only its extents
//! are left, for the reaper.
//!
//!     nlink 1 ──unlink──► orphan, held by sessions ──each releases, or ends──► released ──reaper──► nothing

use dfs_proto::ids::{InodeId, SessionId};

use super::cluster;
use super::inode;
use super::session;
use super::space;
use crate::keys;
use crate::kv::{Snapshot, Txn, scan_prefix};
use crate::record::orphan::{Orphans, Released};
use crate::record::{PRESENT, decode, encode};

/// The inode has lost its last name; these sessions hold it. One may be among them twice.
pub(crate) fn hold(txn: &mut Txn<'_>, inode: InodeId, sessions: impl Iterator<Item = SessionId>) {
    let mut holders = 0;
    for session in sessions {
        if !holds(txn, session, inode) {
            txn.put(keys::orphan_by_session(session, inode), PRESENT);
            holders += 1;
        }
    }
    txn.put(keys::orphan(inode), encode::<Orphans>(&holders));
}

/// How many sessions hold it, if it is an orphan.
pub(crate) fn holders(view: &dyn Snapshot, inode: InodeId) -> Option<u32> {
    view.get(&keys::orphan(inode)).map(|bytes| decode::<Orphans>(&bytes))
}

pub(crate) fn holds(view: &dyn Snapshot, session: SessionId, inode: InodeId) -> bool {
    view.get(&keys::orphan_by_session(session, inode)).is_some()
}

pub(crate) fn held_by(view: &dyn Snapshot, session: SessionId) -> impl Iterator<Item = InodeId> + '_ {
    scan_prefix(view, &keys::orphans_of(session)).map(|(key, _)| InodeId(keys::number(&key, 1)))
}

/// No effect if this session does not hold it. With the last one that does, it is gone.
pub(crate) fn release(txn: &mut Txn<'_>, inode: InodeId, session: SessionId) {
    if !holds(txn, session, inode) {
        return;
    }
    txn.delete(keys::orphan_by_session(session, inode));
    session::forget_commits(txn, session, inode);
    match holders(txn, inode) {
        None | Some(0) => panic!("broken invariant S4: {session} holds {inode}, which is no orphan"),
        Some(1) => free(txn, inode),
        Some(others) => txn.put(keys::orphan(inode), encode::<Orphans>(&(others - 1))),
    }
}

/// Nobody holds it any more.
fn free(txn: &mut Txn<'_>, inode: InodeId) {
    let Some(record) = inode::get(txn, inode) else {
        panic!("broken invariant S4: orphan {inode} has no record");
    };
    let space = space::of(txn, inode, &record);
    txn.delete(keys::orphan(inode));
    inode::delete(txn, inode);
    cluster::count(txn, |c| c.totals.inodes -= 1);
    if space.allocated.0 > 0 || space.cuts > 0 {
        let number = cluster::count(txn, |c| {
            c.released += 1;
            c.released
        });
        txn.put(keys::released(number), encode::<Released>(&inode));
    }
}

/// The released inode that waits longest. Found by its number: a scan would pass over the traces of all those that
/// are done, which the store clears away only later.
pub(crate) fn first_released(view: &dyn Snapshot) -> Option<InodeId> {
    let counters = cluster::counters(view);
    if counters.reaped == counters.released {
        return None;
    }
    match view.get(&keys::released(counters.reaped + 1)) {
        Some(value) => Some(decode::<Released>(&value)),
        None => panic!("broken invariant S4: released inode number {} is missing", counters.reaped + 1),
    }
}

/// Nothing is left of the one that waited longest.
pub(crate) fn forget_first_released(txn: &mut Txn<'_>) {
    let number = cluster::count(txn, |c| {
        c.reaped += 1;
        c.reaped
    });
    txn.delete(keys::released(number));
}
