//! `dfs-mount`: a dfs federation as a directory. fuser on top of the client library.
//!
//! Start with `fuse` (one method per request of the kernel), then `fs` (what each means here); everything behind that
//! is the client's. `serve` is the daemon's life, from the mount to the last flush.

mod cli;
mod config;
mod convert;
mod daemon;
mod errno;
mod error;
mod fs;
mod fuse;
mod groups;
mod handles;
mod inodes;
mod last_known;
mod log;
mod mountpoint;
mod pages;
mod rest;
mod serve;

pub use serve::main;
