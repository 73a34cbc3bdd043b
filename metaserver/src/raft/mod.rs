//! Consensus: what is proposed here is applied on every member, in one order, and survives any minority of them.
//! The only module that knows openraft.
//!
//! Start with [`Consensus`]: `propose` and `read` are the two doors to the state. How a command becomes durable:
//!
//!     propose → proposer (gathers) → openraft → log_store → log_writer (one write, one sync)  ← durable here
//!                                             ↘ network → server (the others) → their log_store
//!     a quorum has it → state_machine::apply → one batch in the Kv → the reply
//!
//! What comes from others is checked in `sender` before openraft stores it. `state_store` says which database is current,
//! `snapshot` moves one to another member, `bootstrap` makes the group,
//! `stamp` says whose directory it is, `examine` whether its files agree before any is changed, `ticks` when openraft looks at
//! its timers; `state_clock`, `member_clocks` and `read_lease` say what time it is, whose clock is wrong, and whether this
//! machine has slept. Rules: the headers of these files, and PROTOCOLS.md P7.

mod bootstrap;
mod consensus;
mod examine;
mod group;
pub mod log_disk;
mod log_format;
mod log_recover;
mod log_store;
mod log_writer;
mod member_clocks;
mod network;
mod proposer;
mod read_lease;
mod sender;
mod server;
mod snapshot;
mod stamp;
mod state_clock;
mod state_machine;
mod state_store;
mod ticks;
mod types;

pub use consensus::{
    ClusterOptions, Consensus, ConsensusOptions, GroupStatus, Leadership, MemberStatus, Purpose, StartError,
    Timing, service,
};
pub use examine::{Contradiction, Examined};
pub use group::Failure;
pub use log_format::torn_segment_after;
pub use log_recover::Reached;
pub use log_store::LogOptions;
pub use stamp::{StampError, seat_in};
pub use state_store::{ReadView, applied_count};

#[cfg(test)]
mod directory_tests;
#[cfg(test)]
mod group_tests;
#[cfg(test)]
mod old_directory_tests;
#[cfg(test)]
mod store_tests;
