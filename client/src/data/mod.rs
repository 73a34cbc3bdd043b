//! The bytes of files at one cluster: what is buffered, sent, committed, cached and read.
//!
//! Uses `session` and `names`. Nobody below knows it.

pub(crate) mod background;
pub(crate) mod buffer;
pub(crate) mod chores;
pub(crate) mod chunk;
pub(crate) mod commit;
pub(crate) mod core;
pub(crate) mod extents;
pub(crate) mod file;
pub(crate) mod flush;
pub(crate) mod memory;
pub(crate) mod node;
pub(crate) mod nodes;
pub(crate) mod readahead;
pub(crate) mod reader;
pub(crate) mod stream;
pub(crate) mod writer;
