//! The values of the tables, as the programs work with them: what there is to know of a chunk, an inode, a session.
//!
//! A table is at home in four places: `keys` says where its values stand, this module what they are, `record` how they are
//! stored, and `table` finds and changes them. The files of one have the same name in all three folders; a table whose values
//! are ids, numbers or types of `dfs_proto` has none here.
//!
//! Beside a table's value stands what it is together with its key, where callers want both: [`Dirent`](dirent::Dirent),
//! [`Laid`](extent::Laid), [`Cut`](extent::Cut).
//!
//! Not here: anything that reads or writes a store.

pub mod chunk;
pub mod cluster;
pub(crate) mod dirent;
pub(crate) mod extent;
pub(crate) mod federation;
pub(crate) mod inode;
pub mod server;
pub mod session;
pub(crate) mod space;
pub mod volume;
