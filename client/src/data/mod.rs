//! The bytes of files at one cluster: what is buffered, sent, committed, cached and read.
//!
//! | file | what |
//! |------|------|
//! | `file`, `writing`, `unfinished`, `locks` | one open file; what is written through it; the locks that are set through it |
//! | `node`, `nodes` | one inode, which all its open files share; the table of these |
//! | `buffer`, `memory` | what was written and is not committed, and how much memory that takes |
//! | `flush`, `commit` | from the buffer to the commit, of one file and of many in one request |
//! | `writer`, `slots`, `stream` | where bytes go; the open chunks of a session; one of them |
//! | `reader`, `readahead`, `extents`, `chunk` | from a range of a file to the bytes of chunks |
//! | `near` | where the bytes of small files are that are probably opened next |
//! | `writes` | which files this client may write: the leases on them, and how they are given back |
//! | `core`, `background`, `seen_through`, `chores` | the parts put together, and the tasks that run beside callers |
//!
//! Uses `names` and `session`. Nobody below knows it.

pub(crate) mod background;
pub(crate) mod buffer;
pub(crate) mod chores;
pub(crate) mod chunk;
pub(crate) mod commit;
pub(crate) mod core;
pub(crate) mod extents;
pub(crate) mod file;
pub(crate) mod flush;
pub(crate) mod locks;
pub(crate) mod memory;
pub(crate) mod near;
pub(crate) mod node;
pub(crate) mod nodes;
pub(crate) mod readahead;
pub(crate) mod reader;
pub(crate) mod seen_through;
pub(crate) mod slots;
pub(crate) mod stream;
mod unfinished;
pub(crate) mod writer;
pub(crate) mod writes;
mod writing;
