//! Finding and changing what is stored: a file for each table, or for a few that change together.
//!
//! What a table keeps true of itself, such as an index or a count, is kept here and nowhere else. Whether a change is allowed,
//! and what else changes with it, is the operations' business (`ops`).
//!
//! A file here may use another one: an inode has its space, an orphan is an inode. What the values are is in `value`, how they
//! are stored in `record`, where in `keys`. The federation group's tables belong to `federation` alone.

pub(crate) mod chunk;
pub(crate) mod cluster;
pub(crate) mod dirent;
pub(crate) mod extent;
pub(crate) mod inode;
pub(crate) mod orphan;
pub(crate) mod server;
pub(crate) mod session;
pub(crate) mod space;
pub(crate) mod volume;
