//! The Raft log on one disk.
//!
//!     format     the bytes of its files
//!     disk       the system calls that it makes, and a simulated disk
//!     writer     appends and syncs
//!     recover    reads the log at a start
//!     store      the log as openraft uses it

pub mod disk;
pub(crate) mod format;
pub(crate) mod recover;
pub(crate) mod store;
pub(crate) mod writer;
