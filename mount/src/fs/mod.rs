//! What each call of the kernel means here. No fuser types: `fuse.rs` unpacks and replies, this decides.
//!
//! F1  Every call names its caller; rights to a file's data are checked when it is opened and then belong to the open
//!     file (P2.4), whoever uses it.
//! F2  Attributes and names are never kept here: until there are leases each call asks (P5.2).
//! F3  When bytes could not be written, the kernel's pages of that file are dropped too, so that nobody reads what was
//!     never committed (P6.4).
//!     Likewise when the bytes of an append lie elsewhere than where the kernel put them in its pages.
//! F4  Once the mount is closing, nothing more is accepted that would have to be written.
//!
//! F5  A write that asks to be durable (O_SYNC, O_DSYNC, RWF_SYNC, RWF_DSYNC) is, when it is answered. Where the page cache is
//!     used the kernel sends FSYNC behind it; where it is not, the write's flags are all that says so (P5.2).
//!
//! F6  A write past the page cache makes the file longer for the kernel only when the page in which the file ended is gone (I4
//!     of `inodes`). The kernel drops that page before it sends the write, and whoever reads meanwhile brings it back. Until
//!     then nobody is shown the new size.
//!
//! Not here: retries, buffers, caches (the client library), and the words that errors become (`errno`).

mod attributes;
mod directories;
mod error;
mod files;
mod mounted;
mod names;
mod writing;

pub(crate) use attributes::Change;
pub(crate) use directories::Listed;
pub(crate) use error::{FsError, FsResult};
pub(crate) use files::{OpenFlags, Opened};
pub(crate) use mounted::{DropPages, Fs};
pub(crate) use writing::Write;
