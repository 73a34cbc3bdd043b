//! The replicated state on one member.
//!
//!     state_machine    applies log entries to it
//!     replicated       which state machine that is, and its commands and replies
//!     store            which database holds it, and how far it is durable
//!     snapshot         sends it to another member
//!     clock            the state's own time

pub(crate) mod clock;
pub(crate) mod replicated;
pub(crate) mod snapshot;
pub(crate) mod state_machine;
pub(crate) mod store;
