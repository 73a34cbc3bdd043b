//! What each call of the kernel means here. There are no fuser types: `fuse` unpacks and replies, this module
//! decides.
//!
//! | file | what |
//! |------|------|
//! | `names`, `attributes`, `directories` | calls about names, attributes and listings |
//! | `files`, `writing` | open files: opening, reading, fsync, closing; writing, and what becomes of the kernel's pages |
//! | `locks` | locks, and how they end |
//! | `mounted` | what the calls share |
//! | `error` | why a call was refused |
//!
//! F1  Every call names its caller. The rights to a file's data are checked when the file is opened, and then belong
//!     to the open file (P2.4), whoever uses it.
//! F2  Attributes and names are not kept here: each call asks the client (P5.2), which answers from what is leased, and
//!     by the interim rules. What the kernel keeps of attributes is taken back in time (KA1 to KA4 of `kernel_attrs`).
//! F3  When bytes could not be written, the kernel's pages of that file are dropped, so that nobody reads what was
//!     never committed (P6.4). When the bytes of an append lie elsewhere than where the kernel put them in its pages, these are
//!     dropped before the append is answered.
//! F4  Once the mount is closing, nothing is accepted that would have to be written.
//! F5  A write that asks to be durable (O_SYNC, O_DSYNC, RWF_SYNC, RWF_DSYNC) is durable when it is answered. Where
//!     the page cache is used the kernel sends FSYNC after it; where it is not used, only the flags of the write say
//!     so (P5.2).
//! F6  When a write is answered, the kernel has no page that was filled without its bytes (`page_reads`). Until then the kernel does not
//!     get a size that a write past the page cache has made larger.
//! F7  What was written under a lock is committed before the lock is given up or weakened, and what was committed before a lock is
//!     granted is read under it: neither the client's caches nor the kernel's have anything older.
//! F8  Who asks for attributes, opens the file or gets a lock finds no page in the kernel's cache that is older than what he is
//!     shown (V6).
//!
//! Retries, buffers and caches are in the client library, the numbers of errors in `errno`.

mod attributes;
mod directories;
mod error;
mod files;
mod locks;
mod mounted;
mod names;
mod writing;

pub(crate) use attributes::{Attributes, Change};
pub(crate) use directories::Listed;
pub(crate) use error::{FsError, FsResult};
pub(crate) use files::{OpenFlags, Opened};
pub(crate) use locks::{LockAsked, Waiter};
pub(crate) use mounted::{DropPages, Dropped, Fs};
pub(crate) use names::LookedUp;
pub(crate) use writing::Write;
