//! The client library: files of a dfs federation, without FUSE.
//!
//! There are two faces. A mount uses [`inode`]: operations on inode numbers, and open files. A gateway uses [`path`]: operations
//! on paths. Operations on names and attributes are answered by the leader of one cluster and are durable when they return;
//! each happens once, however often it had to be sent. An open [`File`](inode::File) buffers what is written while this
//! client holds Write of the file, and makes it durable by `sync`, after a while, and when another client asks for the file. Every call has a deadline.
//!
//! # The floors
//!
//! Each floor uses only those below it, and no file uses one that uses it, directly or around:
//!
//! ```text
//!   path       operations on paths
//!   inode      operations on inodes, each one value and one implementation
//!   route      which cluster an operation goes to
//!   cluster    one cluster: the parts below, put together
//!   data       the bytes of files: buffer, send, sync, commit, read
//!   names      what is known of names and attributes, and how long it is valid
//!   session    requests to one cluster: sessions, request ids, retries
//!   error, config
//! ```
//!
//! # The way of a write
//!
//! To where its bytes are durable and visible, in the order in which they get there:
//!
//! 1. `File::write_at` (`data/writing`) checks the size, waits for Write of the file (`Writes::hold`, `data/writes`), reserves memory, and
//!    lays the bytes into the buffer of the inode (`NodeState::write`, `data/node`; `data/buffer`). From here on this client shows
//!    them, and whoever else asks for the file has them committed first.
//! 2. `Core::send` (`data/flush`), when a run is full, or `Core::flush`, by `sync`, by the background, or because the leader wants the
//!    file back (`data/writes/returning`), finds the runs (bytes that follow
//!    each other) that were not sent yet: `place_below`.
//! 3. `ChunkWriter::append` (`data/writer`) chooses a chunk of the file's volume. `ChunkStream` (`data/stream`) sends the bytes to
//!    its primary, which passes them on to the other replicas.
//! 4. `ChunkStream::sync` returns when every replica has the bytes on stable storage. They are durable, but in no file yet.
//! 5. `Core::commit_parts` (`data/flush`) → `Committer::commit` (`data/commit`) → `ClusterNames::change_of` → `MetaClient::change_of`
//!    sends `Change::CommitExtents`.
//! 6. At the metaserver, `state/src/ops/commit_extents.rs`: the write is **durable** once a majority of the members has synced the log
//!    entry, and **visible** to everybody once `apply` has made its bytes part of the file; there a stale one is refused.
//! 7. `NodeState::committed` (`data/node/sending`) drops the bytes from the buffer.
//!
//! # The way of a lock
//!
//! `File::set_lock` (`data/locks`) → `MetaClient::set_lock` (`session/locks`) asks the leader over the control connection
//! (`session/control`). What the session holds is in `session/held`; the leader's side is in `metaserver/src/lib.rs`.
//!
//! # The way of a file from one writer to the next
//!
//! `Writes::hold` → `MetaClient::acquire` (`session/writes`) asks the leader, which pushes a recall to whoever holds the file:
//! `session/pushes` → `Writes::recalled` → `Core::flush_recalled` (`data/writes/returning`) → `MetaClient::return_writes`. What is held is told
//! with each attachment (`session/control`).
//!
//! # The way of a look-up that costs no request
//!
//! `Lookup` and `GetAttr` (`inode/lookup`) → `ClusterNames::read` (`names/cluster_names`) → `LeasedCopy::answer` (`names/copy`): what
//! was shown under a lease and is neither recalled nor touched by a change of this client. Recalls arrive in `session/pushes`;
//! heartbeats (`session/control`) say how long the leases last. Everything else is asked of the leader, and asks for leases.
//! A cache in front of this library, such as the kernel's in front of a mount, uses attributes for as long as `GetLeasedAttr` says,
//! and is told what to drop (`names/outer`).
//!
//! # Tests of the way of a write
//!
//! The test `a_write_is_seen_here_and_elsewhere_at_once` shows it with fakes, and with real processes, of which
//! every one is killed, `what_fsync_returned_for_and_close_where_it_is_asked_to_survives_the_death_of_every_process`.

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

pub use config::{ClientConfig, Durability};
pub use error::ClientError;
pub use names::{ChangedBy, DroppedNames, NoOuterCache, OuterCache, interim};
