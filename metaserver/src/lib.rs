//! One metaserver: a member of the Raft group that keeps a cluster's namespace. While it leads, it answers clients, hears
//! chunkservers, and does the background work.
//!
//!     wiring      makes the parts, serves, and shuts down in order      `storage`: what is on disk, and where
//!     metaserver  the parts of one member, which the services, the background work and the federation use
//!     service     gRPC: converts, checks, passes the gate
//!     coherence   the gate, which every change and every read passes (P4.4), locks of files, who has which file open, the leases,
//!                 and what else a leader learns
//!     raft        orders commands and makes them durable
//!     rocks       the state's database                                  the state itself is the crate `dfs_state`
//!     view, sessions, placement   which chunkservers and sessions are alive, and where a new chunk goes
//!     server_list the addresses of all chunkservers, for each of them
//!     worker      background work of the leader: expiry, sealing, reaping, deletion
//!     federation  the map of all clusters' volumes, and this member's part in keeping it
//!     room        a member stops before its disk is full
//!
//! # A write, from the call to the answer
//!
//!     service::MetaService::change → service::namespace: try_change → coherence::Gate::change
//!       → raft::Consensus::propose → raft::log::writer (one write, one sync, on a majority)    ← durable
//!       → dfs_state::apply → state/src/ops/commit_extents.rs: apply                            ← visible
//!
//! *Durable*: once a majority has synced the entry of the log, the change survives. Tests:
//! `what_was_acknowledged_survives_the_power_failure_of_all_members_at_once` (raft/group_tests.rs),
//! `what_was_reported_as_durable_survives_a_crash_and_what_follows_is_whole_or_gone` (raft/store_tests.rs).
//!
//! *Visible*: bytes become part of a file in `commit_extents::apply`, and nowhere else: `lay` puts the extents, `apply` the inode's record. Test:
//! `a_commit_makes_bytes_part_of_the_file` (state/src/ops/commit_extents.rs).
//!
//! # Where a stale write is refused, or answered as before
//!
//!     its session has ended                        `session::require`, called by `answered_before` in state/src/lib.rs
//!       an_ended_session_is_refused_everything_and_leaves_nothing          (state/src/ops/session.rs)
//!     its request was executed before: same answer `session::admit`, called by `answered_before`
//!       a_repeated_request_gets_its_first_answer_and_is_not_executed_again (state/src/ops/session.rs)
//!     its chunk is sealed, another session's, or of another set version    `check_chunks` in state/src/ops/commit_extents.rs
//!       a_commit_that_names_a_wrong_chunk_is_refused_whole
//!     an earlier commit of the file is missing     `check_file` in state/src/ops/commit_extents.rs
//!       a_commit_that_names_a_wrong_file_or_number_is_refused_whole
//!     its leader leads no more                     openraft, by the term; and `Gate::change`, which does not even propose
//!       leadership_moves_when_asked_and_reads_are_refused_elsewhere        (raft/group_tests.rs)
//!
//! # A lock of a file, from the request to the grant
//!
//!     service::MetaService::lock → service::lock: Metaserver::lock → coherence::attachments: Attachments::lock
//!       → dfs_state::locks: LockTable::set (state/src/locks/mod.rs)    ← granted, refused, or in line
//!
//! Whoever is in line is granted the lock by the unlock of another one (`LockTable::unlock`), and is told by a push. Tests:
//! `whoever_waits_gets_the_lock_in_the_order_of_arrival` (state/src/locks/tests.rs),
//! `a_lock_goes_to_who_waits_when_it_is_unlocked_and_a_push_says_so` (service/tests/locks.rs). A new leader grants nothing before it knows who holds what:
//! `has_everybody_told` (coherence/awaited.rs). Test:
//! `a_new_leader_grants_no_lock_where_somebody_may_hold_one_who_has_not_attached` (service/tests/locks.rs).
//!
//! [`start`] wires the parts, and [`Running::run_until`] shuts them down in order. Nothing here uses a thread, a file or a clock
//! except through [`Storage`] and `Env`: the simulation passes its own.

mod coherence;
pub mod config;
mod error;
mod federation;
mod http;
#[cfg(test)]
mod memory_net;
mod metaserver;
pub mod metrics;
mod placement;
pub mod raft;
pub mod rocks;
mod room;
mod server_list;
mod service;
mod sessions;
mod storage;
mod view;
mod wiring;
mod worker;

pub use error::ServeError;
pub use storage::{GroupStorage, Storage};
pub use wiring::{Running, run, start};
