//! The client library: files of a dfs federation, without FUSE.
//!
//! [`Client`] takes each operation to the cluster whose volume it is about, where it has a session. Operations on names and
//! attributes are answered by that cluster's leader and are durable when they return; each happens once, however often it
//! had to be sent. [`File`] buffers what is written, and makes it durable and visible to others at `flush` and `sync`. Every
//! call has a deadline.
//!
//! The floors, each of which uses only those below it: `route` says where an operation goes and `cluster` what it does there;
//! in `data`, `file` tells the story of one open file, `flush` is where a write becomes durable (`Core::flush`), `node` is what
//! all open files of an inode share, `reader` how a range of a file becomes bytes; `session` calls one cluster; `names` is
//! what is known of names and attributes.

mod cluster;
mod data;
mod error;
mod names;
mod route;
mod session;

#[cfg(test)]
mod fakes;
#[cfg(test)]
mod tests;

use dfs_proto::attr::InodeAttr;
use dfs_proto::ids::InodeId;
use dfs_proto::meta::DirEntry;
use std::time::Duration;

pub use cluster::client::Orphan;
pub use data::file::File;
pub use data::flush::FLUSH_SLICE_LEN;
pub use error::ClientError;
pub use names::interim;
pub use route::client::{Client, Looked};

/// How a client finds the federation, and what it may use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientConfig {
    /// gRPC addresses of some metaservers, at least one.
    pub metaservers: Vec<String>,
    /// For people: host and mount point.
    pub name: String,
    /// An operation on names or attributes that has no answer by then fails.
    pub metadata_timeout: Duration,
    /// The same for bytes.
    pub data_timeout: Duration,
    pub connect_timeout: Duration,
    /// Bytes written and not committed, over all files; writers wait beyond it (P1.6).
    pub session_memory_bytes: u64,
    /// Copies of what this client writes; 0: the cluster's default.
    pub copies: u32,
}

impl Default for ClientConfig {
    fn default() -> ClientConfig {
        ClientConfig {
            metaservers: Vec::new(),
            name: String::new(),
            metadata_timeout: Duration::from_secs(30),
            data_timeout: Duration::from_secs(30),
            connect_timeout: Duration::from_secs(2),
            session_memory_bytes: 256 << 20,
            copies: 0,
        }
    }
}

/// What a file is opened for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct OpenMode {
    pub read: bool,
    pub write: bool,
    /// To size 0, once it is open.
    pub truncate: bool,
}

/// The answer of [`Client::create`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Created {
    pub attr: InodeAttr,
    /// It was there before (`Create::or_existing`).
    pub existed: bool,
    /// See `dfs_proto::meta::FileCommit::number`.
    pub next_commit: u64,
}

/// One part of a directory's listing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DirPage {
    pub entries: Vec<DirEntry>,
    /// Nothing follows.
    pub end: bool,
    /// The directory's parent, for `..`.
    pub parent: InodeId,
}
