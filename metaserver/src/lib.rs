//! One metaserver: a member of the Raft group that keeps a cluster's namespace, and while it leads, the one who answers
//! clients, hears chunkservers and does the background work.
//!
//!     service   gRPC: converts, checks, passes the gate          `coherence::gate` is the one door to consensus (P4.4)
//!     raft      orders commands and makes them durable           ← durable: `raft::log_writer`
//!     state     what commands do, and what may be read: pure     ← a stale change is refused: `state::session`
//!     kv        where the state is kept: RocksDB, or memory
//!     view, placement, sessions, coherence::leases   the leader's soft state
//!     room      on this member's disk: without it, it stops before the disk is full
//!     worker    background work of the leader
//!     federation   the map of all clusters' volumes, and this member's part in keeping it
//!
//! [`start`] wires them, [`Running::run_until`] shuts them down in order. Nothing here uses a thread, a file or a clock but
//! through [`Storage`] and `Env`: the simulation passes its own.

mod coherence;
pub mod config;
mod federation;
mod http;
#[cfg(test)]
mod memory_net;
pub mod metrics;
mod placement;
pub mod raft;
pub mod rocks;
mod room;
mod service;
mod sessions;
mod storage;
mod view;
mod wiring;
mod worker;

pub use storage::{GroupStorage, Storage};
pub use wiring::{Running, ServeError, run, start};
