//! Finding and changing what is stored: a file for each table, or for a few that change together.
//!
//! What must change together does so here and nowhere else: a record and its index, its share of the totals, the live bytes of
//! a chunk. Which changes a command consists of, and whether its caller may have them, is the operations' business (`ops`).
//!
//! What the values are is in `value`, how they are stored in `record`, where in `keys`. The tables of the federation group are
//! read and written in `federation` alone.

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
