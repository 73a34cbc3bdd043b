//! The file system itself: a pure state machine over an ordered map of bytes. No clock, no chance, no disk, no network;
//! equal commands on equal states give equal replies and equal writes, on every member.
//!
//! Start with [`apply`]; `ops/` has one file for each operation; [`read`] is what may be asked. Below both, what is stored:
//! [`keys`] has the list of the tables, [`value`] what they hold, [`record`] how that stands on a disk, and `table` finds and
//! changes it. [`check`] verifies the invariants by reading everything:
//!
//! S1  Every directory entry leads to an inode of its kind. An inode has as many entries as `nlink` says; a directory
//!     has one, in its parent, and `nlink` 2 and one more for each directory in it. `size` of a directory is its
//!     number of entries.
//! S2  Every directory is reached from the root, or is an orphan, and then empty.
//! S3  Every name is found at its hash or just behind it; those behind it are counted.
//! S4  An inode has `nlink` 0 exactly if it is an orphan, held by sessions that are alive or whose end is being reaped. Its
//!     record says how many these are.
//! S5  Extents keep E1 to E3 (`table::extent`): disjoint, within the file's size unless a cut hides them, summed up in
//!     `allocated` of the inode's space record and in the live bytes of chunks; and below the committed length of a chunk that is
//!     neither dead nor deleting. A chunk that has a volume is named by files of that volume only (P1.8).
//! S6  A chunk's index entries are those that its record implies.
//! S7  A session's remembered results lie in its windows; nothing is left of one that neither lives nor is being reaped. Each
//!     record that it may hold something in a volume is found by the volume too. A silence is noted only of one that lives, and is
//!     not 0.
//! S8  Every id is at or below the counter that it came from (P7.1).
//! S9  The totals are what a recount gives.
//! S10 Each entry of the root that leads to another volume has that volume's [`VolumeEntry`](value::volume::VolumeEntry), with its name.
//!
//! A broken invariant that `apply` or a read stumbles on panics, and so stops the server: better one replica down than
//! two replicas different. No command does work that grows with a file or directory (P7.2); the two exceptions are
//! amortised or capped, see `table::extent` and `ops::rename`.
//!
//! [`federation`] is another state machine, of the federation group, in a store of its own.
//!
//! Not here: who may be asked (leases, the leader), which servers are alive, where a chunk is placed.
#![deny(clippy::wildcard_enum_match_arm)]

use dfs_proto::error::MetaError;
use dfs_proto::ids::InodeId;
use dfs_proto::meta::{ChangeRequest, Changed, MetaResult};
use dfs_proto::planted::{self, Bug};
use dfs_proto::units::REQUEST_LANES;

use crate::command::{Answered, Command, Proposed, Reply};
use crate::kv::Txn;
use keys::May;
use now::{Now, advance_time};
use table::session::Admission;
use table::{cluster, inode, session};

mod check;
pub mod command;
pub mod federation;
mod hash;
pub mod keys;
pub mod kv;
mod leasable;
pub mod locks;
mod now;
mod ops;
mod permission;
pub mod read;
pub mod record;
mod scope;
mod table;
#[cfg(test)]
mod tests;
pub mod time;
pub mod value;

pub use check::check;

/// Executes one command of an entry that its leader has `proposed` then, on a cluster's state.
pub fn apply(command: &Command, proposed: Proposed, txn: &mut Txn<'_>) -> Reply {
    if let Command::InitCluster(init) = command {
        return ops::cluster::init(txn, proposed, init);
    }
    if let Err(not_yet) = cluster::require(txn) {
        let is_change = matches!(command, Command::Change { .. } | Command::Refuse { .. });
        return if is_change { Reply::Changed(Err(not_yet)) } else { Reply::Refused(not_yet) };
    }
    let now = advance_time(txn, proposed);
    match command {
        Command::InitCluster(_) => Reply::Done,
        Command::RecordMembers { members } => ops::cluster::record_members(txn, members),
        Command::OpenSession { nonce, client } => ops::session::open(txn, *nonce, client),
        Command::CloseSession { session } | Command::ExpireSession { session } => {
            session::end(txn, *session);
            Reply::Done
        }
        Command::Change { request, placement, volumes, named } => {
            let (session, caller) = (request.session, &request.caller);
            once(txn, request, |txn| {
                if !ops::volume::fits(txn, &request.change, volumes) {
                    return Executed::NotNow("the root directory has changed meanwhile");
                }
                if ops::volume::is_undecided(txn, &request.change) {
                    return Executed::NotNow("the directory is being removed");
                }
                let Now { wall, state, is_of_one_clock, born, may_open_mixed } = now;
                let mut context = ops::context::Context {
                    txn,
                    now: wall,
                    state_time: state,
                    is_of_one_clock,
                    born,
                    may_open_mixed,
                    session,
                    caller,
                    placement,
                    volumes,
                    named: named.as_deref(),
                };
                match ops::execute(&mut context, &request.change) {
                    Err(MetaError::Undecided { .. }) => Executed::NotNow("a name leads to another inode"),
                    result => Executed::Answered(result),
                }
            })
        }
        Command::Refuse { request, error } => once(txn, request, |_| Executed::Answered(Err(error.clone()))),
        Command::RegisterServer(register) => ops::server::register(txn, register),
        Command::SealChunks { chunks } => ops::seal_chunk::seal_all(txn, now.state, chunks),
        Command::SealChunksOf { server, limit } => {
            ops::seal_chunk::seal_of_server(txn, now.state, *server, *limit)
        }
        Command::ReportDamage { chunk, server } => ops::server::report_damage(txn, *chunk, *server),
        Command::Reap { limit } => ops::reap::apply(txn, now.state, *limit),
        Command::StartDeleting { before, limit } => ops::delete::start(txn, *before, *limit),
        Command::ConfirmDeleted { server, chunks } => ops::delete::confirm(txn, *server, chunks),
        Command::MakeVolume { volume, root } => ops::volume::make(txn, now, *volume, *root),
        Command::StartRemoval { volume, version } => ops::volume::start_removal(txn, *volume, *version),
        Command::UndoRemoval { volume, version } => ops::volume::undo_removal(txn, *volume, *version),
        Command::DropVolume { volume } => ops::volume::drop_volume(txn, *volume),
        Command::ForbidVolume { volume } => ops::volume::forbid(txn, *volume),
        Command::FenceVolume { volume } => ops::volume::fence(txn, *volume),
        Command::ReleaseFor { session, inodes } => ops::release_orphans::release_for(txn, *session, inodes),
        Command::RecordHolds { session, volume } => {
            ops::session::record_may(txn, May::Hold, *session, *volume)
        }
        Command::RecordWrites { session, volume } => {
            ops::session::record_may(txn, May::Write, *session, *volume)
        }
        Command::NoteSilences { silences } => ops::session::note_silences(txn, silences),
    }
}

/// What executing a request came to.
enum Executed {
    Answered(MetaResult<Changed>),
    /// Nothing was done, for a passing reason: what the leader found out for it is outdated, for one.
    NotNow(&'static str),
}

/// Executes a client's request exactly once (P8.1). What is answered from here on, refusals too, is remembered in the
/// transaction of its effects; a refusal has none.
fn once(txn: &mut Txn<'_>, request: &ChangeRequest, execute: impl FnOnce(&mut Txn<'_>) -> Executed) -> Reply {
    let session = request.session;
    match answered_before(txn, request) {
        Ok(None) => {}
        Ok(Some(result)) => return answer(txn, request, result),
        Err(refused) => return Reply::Changed(Err(refused)),
    }
    txn.savepoint();
    let result = match execute(txn) {
        Executed::Answered(result) => result,
        Executed::NotNow(why) => {
            txn.rollback();
            return Reply::Refused(MetaError::Undecided { what: why.to_owned() });
        }
    };
    match result {
        Ok(_) => txn.keep(),
        Err(_) => txn.rollback(),
    }
    session::remember(txn, session, request.request, &result);
    answer(txn, request, result)
}

/// The result, with what the change has made of the directories whose names it alters: their client shows them at once, and
/// need not ask.
fn answer(txn: &Txn<'_>, request: &ChangeRequest, result: MetaResult<Changed>) -> Reply {
    let shown = |inode: InodeId| inode::get(txn, inode).map(|record| inode::attr(txn, inode, &record));
    Reply::Changed(result.map(|changed| {
        let directories = request.change.scope().directories();
        Answered { changed, directories: directories.into_iter().filter_map(shown).collect() }
    }))
}

/// What a try before this one answered. An error: it is not to be executed.
fn answered_before(txn: &mut Txn<'_>, request: &ChangeRequest) -> MetaResult<Option<MetaResult<Changed>>> {
    if cluster::require(txn)?.cluster != request.cluster {
        return Err(MetaError::WrongCluster { map_version: 0 });
    }
    let session = request.session;
    let record = session::require(txn, session)?;
    if request.request.lane().0 >= REQUEST_LANES {
        let what = format!("{}; there are {REQUEST_LANES}", request.request.lane());
        return Err(MetaError::InvalidArgument { what });
    }
    match session::admit(txn, session, record, request.request, request.answered_below) {
        Admission::Known(result) if !planted::has(Bug::RetryAppliedTwice) => Ok(Some(result)),
        Admission::TooOld => Err(MetaError::RequestTooOld),
        Admission::New | Admission::Known(_) => Ok(None),
    }
}
