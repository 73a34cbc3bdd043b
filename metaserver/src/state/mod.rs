//! The file system itself: a pure state machine over an ordered map of bytes. No clock, no chance, no disk, no network;
//! equal commands on equal states give equal replies and equal writes, on every member.
//!
//! Start with [`apply`]; `keys` has the table of everything stored; `ops/` has one file for each operation; [`read`] is
//! what may be asked. [`check`] verifies the invariants by reading everything:
//!
//! S1  Every directory entry leads to an inode of its kind. An inode has as many entries as `nlink` says; a directory
//!     has one, in its parent, and `nlink` 2 and one more for each directory in it. `size` of a directory is its
//!     number of entries.
//! S2  Every directory is reached from the root, or is an orphan, and then empty.
//! S3  Every name is found at its hash or just behind it; those behind it are counted.
//! S4  An inode has `nlink` 0 exactly if it is an orphan, held by a session that is alive or whose end is being reaped.
//! S5  Extents keep E1 to E3 (`extent`): disjoint, within the file's size unless a cut hides them, summed up in
//!     `allocated` of the inode and in the live bytes of chunks; and below the committed length of a chunk that is
//!     neither dead nor deleting.
//! S6  A chunk's index entries are those that its record implies.
//! S7  A session's remembered results lie in its window; nothing is left of one that neither lives nor is being reaped.
//! S8  Every id is at or below the counter that it came from (P7.1).
//! S9  The totals are what a recount gives.
//!
//! A broken invariant that `apply` or a read stumbles on panics, and so stops the server: better one replica down than
//! two replicas different. No command does work that grows with a file or directory (P7.2); the two exceptions are
//! amortised or capped, see `extent` and `ops::rename`.
//!
//! Not here: who may be asked (leases, the leader), which servers are alive, where a chunk is placed.
#![deny(clippy::wildcard_enum_match_arm)]

use dfs_proto::attr::Timestamp;
use dfs_proto::error::MetaError;
use dfs_proto::meta::{ChangeRequest, Changed, MetaResult};
use dfs_proto::planted::{self, Bug};

use crate::command::{Command, Reply};
use crate::kv::Txn;
use session::Admission;

mod check;
pub mod chunk;
pub mod cluster;
mod codec;
mod dirent;
mod extent;
mod hash;
mod inode;
pub mod keys;
mod ops;
mod orphan;
mod permission;
pub mod read;
pub mod server;
pub mod session;
#[cfg(test)]
mod tests;

pub use check::check;

/// Executes one command. `now` is the leader's time; the state's never goes backwards (P7.1).
pub fn apply(command: &Command, now: Timestamp, txn: &mut Txn<'_>) -> Reply {
    if let Command::InitCluster(init) = command {
        return ops::cluster::init(txn, now, init);
    }
    if let Err(not_yet) = cluster::require(txn) {
        let is_change = matches!(command, Command::Change { .. } | Command::RefuseForRoom { .. });
        return if is_change { Reply::Changed(Err(not_yet)) } else { Reply::Refused(not_yet) };
    }
    let now = advance_time(txn, now);
    match command {
        Command::InitCluster(_) => Reply::Done,
        Command::RecordMembers { members } => ops::cluster::record_members(txn, members),
        Command::OpenSession { nonce, client } => ops::session::open(txn, *nonce, client),
        Command::CloseSession { session } | Command::ExpireSession { session } => {
            session::end(txn, *session);
            Reply::Done
        }
        Command::Change { request, placement } => {
            let (session, caller) = (request.session, &request.caller);
            let execute = |txn: &mut Txn<'_>| {
                ops::execute(&mut ops::Context { txn, now, session, caller, placement }, &request.change)
            };
            Reply::Changed(once(txn, request, execute))
        }
        Command::RefuseForRoom { request } => {
            let full = MetaError::NoSpace { what: "the metaserver's disk is nearly full".to_owned() };
            Reply::Changed(once(txn, request, |_| Err(full)))
        }
        Command::RegisterServer(register) => ops::server::register(txn, register),
        Command::SealChunks { chunks } => ops::seal_chunk::seal_all(txn, now, chunks),
        Command::SealChunksOf { server, limit } => ops::seal_chunk::seal_of_server(txn, now, *server, *limit),
        Command::ReportDamage { chunk, server } => ops::server::report_damage(txn, *chunk, *server),
        Command::Reap { limit } => ops::reap::apply(txn, now, *limit),
        Command::StartDeleting { before, limit } => ops::delete::start(txn, *before, *limit),
        Command::ConfirmDeleted { server, chunks } => ops::delete::confirm(txn, *server, chunks),
    }
}

/// A clock that is behind, after a leader whose clock was ahead, moves the time on by the least that there is: what happens
/// now is later than what happened before (P10.4 compares them).
fn advance_time(txn: &mut Txn<'_>, now: Timestamp) -> Timestamp {
    let last = cluster::counters(txn).time;
    let now = if now < last { last.next() } else { now };
    if now > last {
        cluster::count(txn, |c| c.time = now);
    }
    now
}

/// Executes a client's request exactly once (P8.1). What is answered from here on, refusals too, is remembered in the
/// transaction of its effects; a refusal has none.
fn once(
    txn: &mut Txn<'_>,
    request: &ChangeRequest,
    execute: impl FnOnce(&mut Txn<'_>) -> MetaResult<Changed>,
) -> MetaResult<Changed> {
    if cluster::require(txn)?.cluster != request.cluster {
        return Err(MetaError::WrongCluster { map_version: 0 });
    }
    let session = request.session;
    let record = session::require(txn, session)?;
    match session::admit(txn, session, record, request.request, request.answered_below) {
        Admission::Known(result) if !planted::has(Bug::RetryAppliedTwice) => return result,
        Admission::TooOld => return Err(MetaError::RequestTooOld),
        Admission::New | Admission::Known(_) => {}
    }
    txn.savepoint();
    let result = execute(txn);
    match result {
        Ok(_) => txn.keep(),
        Err(_) => txn.rollback(),
    }
    session::remember(txn, session, request.request, &result);
    result
}
