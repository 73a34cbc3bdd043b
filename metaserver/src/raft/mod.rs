//! Consensus: every member applies the same commands in the same order, and what was acknowledged survives as long as a
//! majority of the members does. This is the only module that knows openraft.
//!
//! Start with [`Consensus`]: its `propose` changes the state and its `read` gives a view of it. How a command becomes durable:
//!
//!     propose → proposer (gathers) → openraft → log::store → log::writer (one write, one sync)  ← durable here
//!                                             ↘ member::network → member::server (the others) → their log::store
//!     a quorum has it → machine::state_machine: apply → one batch in the Kv → the reply
//!
//! The floors, from below:
//!
//!     options       what a member is started with
//!     error         why a member cannot start
//!     types         openraft's types, with their encodings
//!     log           the Raft log on disk
//!     machine       the replicated state on one member
//!     member        one member among the others of its group
//!     leadership    who leads
//!     ticks         when openraft looks at its timers
//!     read_lease    whether the leader may answer reads by itself
//!     proposer      gathers commands into log entries
//!     consensus     a member, as the rest of the server sees it
//!     leader_work   what the leader of a group keeps true
//!     start         opens a member's directory, wires all of the above and runs it
//!
//! The invariants are in the headers of these files; the rules of the protocol are P7.

mod consensus;
mod error;
mod leader_work;
mod leadership;
pub mod log;
mod machine;
mod member;
mod options;
mod proposer;
mod read_lease;
mod start;
mod ticks;
mod types;

pub use consensus::{Consensus, GroupStatus, MemberStatus, service};
pub use error::{Contradiction, StartError};
pub use leadership::Leadership;
pub use log::format::torn_segment_after;
pub use log::recover::Reached;
pub use log::store::LogOptions;
pub use machine::store::{ReadView, applied_count};
pub use member::examine::Examined;
pub use member::group::Failure;
pub use member::stamp::{StampError, seat_in};
pub use options::{ClusterOptions, ConsensusOptions, Purpose, Timing};

#[cfg(test)]
mod directory_tests;
#[cfg(test)]
mod group_tests;
#[cfg(test)]
mod old_directory_tests;
#[cfg(test)]
mod store_tests;
