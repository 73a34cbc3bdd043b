//! What every part of dfs speaks: ids, units, the operations of the namespace and of chunks, the refusals that travel,
//! and their form on the wire. It does no I/O and knows no other crate of dfs.
//!
//! Start with `meta` (the namespace's operations) and `chunk` (the chunkservers'); `proto/*.proto` is the same contract
//! for any other language. What comes from the wire is checked in `convert`, and nowhere else.

use std::future::Future;
use std::pin::Pin;

pub mod attr;
pub mod chunk;
pub mod convert;
pub mod error;
pub mod extent;
pub mod federation;
pub mod frame;
pub mod ids;
pub mod lock;
pub mod lock_ranges;
pub mod meta;
pub mod permission;
pub mod planted;
pub mod scope;
pub mod units;

/// What a trait returns in place of an `async fn`, so that it can be used as `dyn`, and so that the body is compiled once, in
/// the crate that has it.
pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// The messages, generated from `proto/*.proto`.
#[allow(missing_docs, unreachable_pub, unused_qualifications, clippy::all, clippy::unwrap_used)]
pub mod wire {
    include!(concat!(env!("OUT_DIR"), "/dfs.v1.rs"));
}
