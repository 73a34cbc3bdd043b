//! The face for a mount: operations on inode numbers, and open files.
//!
//! An operation is a value, such as [`Rename`], and [`Client::perform`] performs it for a caller: it says to which cluster the
//! operation goes, what must be committed before, what the answer makes outdated, and what type the reply has. All of that
//! stands in one place for each operation:
//!
//! | file | operations |
//! |------|------------|
//! | `names` | `Create`, [`Link`], [`Unlink`], [`Rmdir`], `Rename` |
//! | `open` | [`Open`], [`CreateOpen`] |
//! | `lookup` | [`Resolve`], [`Lookup`], [`GetAttr`], [`GetLeasedAttr`], [`ReadDir`]: they may meet several clusters |
//! | `attributes` | `SetAttr`, [`Access`], [`ReadLink`], [`GetSpace`] |
//!
//! A new operation of the namespace needs an implementation of `AtOneCluster` here, and a call of it in the mount.
//! `Create`, `Rename` and `SetAttr` are the protocol's own types.
//!
//! Uses `route` and every floor below.

mod attributes;
mod client;
mod lookup;
mod names;
mod open;
mod operation;

pub use attributes::{Access, GetSpace, ReadLink};
pub use client::Client;
pub use lookup::{
    GetAttr, GetLeasedAttr, GetLeasedName, LeasedAttr, LeasedName, Lookup, ReadDir, Resolve, Resolved,
};
pub use names::{Link, Rmdir, Unlink};
pub use open::{CreateOpen, Open};
pub use operation::Operation;

pub use crate::cluster::removed::Orphan;
pub use crate::data::file::{File, OpenMode};
pub use crate::data::flush::FLUSH_SLICE_LEN;
pub use crate::data::locks::LockWanted;
pub use crate::session::replies::{Created, DirPage};
