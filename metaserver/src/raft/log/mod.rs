//! The Raft log on one disk: `format` is what its files hold, `disk` the calls that it makes, `writer` appends and syncs,
//! `recover` reads it at a start, and `store` is what openraft sees of it.

pub mod disk;
pub(crate) mod format;
pub(crate) mod recover;
pub(crate) mod store;
pub(crate) mod writer;
