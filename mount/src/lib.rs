//! `dfs-mount`: a dfs federation as a directory. fuser on top of the client library.
//!
//! Start with `fuse` (one method for each request of the kernel), then `fs` (what each means here). Everything behind
//! that is in the client library. `serve` is the daemon's life, from the mount to the last flush.

mod cli;
mod config;
mod convert;
mod daemon;
mod deferred;
mod errno;
mod fs;
mod fuse;
mod groups;
mod handles;
mod inodes;
mod kernel_attrs;
mod kernel_caches;
mod kernel_names;
mod lock_owners;
mod log;
mod mountpoint;
mod page_reads;
mod pages;
mod serve;
mod signals;
mod taken;

pub use serve::main;
