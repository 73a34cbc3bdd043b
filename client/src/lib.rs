//! The client library: files of a dfs federation, without FUSE.
//!
//! [`Client`](inode::Client) takes each operation to the cluster whose volume it is about, where it has a session. Operations on names and
//! attributes are answered by that cluster's leader and are durable when they return; each happens once, however often it
//! had to be sent. [`File`](inode::File) buffers what is written, and makes it durable and visible to others at `flush` and `sync`. Every
//! call has a deadline.
//!
//! The floors, each of which uses only those below it: `route` says where an operation goes and `cluster` what it does there;
//! in `data`, `file` tells the story of one open file, `flush` is where a write becomes durable (`Core::flush`), `node` is what
//! all open files of an inode share, `reader` how a range of a file becomes bytes; `session` calls one cluster; `names` is
//! what is known of names and attributes.

mod cluster;
mod config;
mod data;
mod error;
pub mod inode;
mod names;
pub mod path;
mod route;
mod session;

#[cfg(test)]
mod fakes;
#[cfg(test)]
mod tests;

pub use config::ClientConfig;
pub use error::ClientError;
pub use names::interim;
