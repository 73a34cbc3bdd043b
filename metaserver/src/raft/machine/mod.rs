//! The replicated state on one member: `state_machine` applies entries to it, `store` says which database is the current one,
//! `snapshot` moves one to another member, and `clock` tells the state's time.

pub(crate) mod clock;
pub(crate) mod snapshot;
pub(crate) mod state_machine;
pub(crate) mod store;
