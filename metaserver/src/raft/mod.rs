//! Consensus: what is proposed here is applied on every member, in one order, and survives any minority of them.
//! The only module that knows openraft.
//!
//! Start with [`Consensus`]: `propose` and `read` are the two doors to the state. How a command becomes durable:
//!
//!     propose → proposer (gathers) → openraft → log::store → log::writer (one write, one sync)  ← durable here
//!                                             ↘ member::network → member::server (the others) → their log::store
//!     a quorum has it → machine::state_machine: apply → one batch in the Kv → the reply
//!
//! The floors: `log` is the log on disk, `member` is one member among the others of its group, and `machine` is the replicated
//! state on one member. Beside them: `consensus` wires a member of a group, `proposer` gathers commands into entries, `ticks` says
//! when openraft looks at its timers, `read_lease` whether the leader may answer reads by itself, and `types` are openraft's
//! types with their encodings. Rules: the headers of these files, and P7.

mod consensus;
pub mod log;
mod machine;
mod member;
mod proposer;
mod read_lease;
mod ticks;
mod types;

pub use consensus::{
    ClusterOptions, Consensus, ConsensusOptions, GroupStatus, Leadership, MemberStatus, Purpose, StartError,
    Timing, service,
};
pub use log::format::torn_segment_after;
pub use log::recover::Reached;
pub use log::store::LogOptions;
pub use machine::store::{ReadView, applied_count};
pub use member::examine::{Contradiction, Examined};
pub use member::group::Failure;
pub use member::stamp::{StampError, seat_in};

#[cfg(test)]
mod directory_tests;
#[cfg(test)]
mod group_tests;
#[cfg(test)]
mod old_directory_tests;
#[cfg(test)]
mod store_tests;
