//! What every part of dfs speaks: ids, units, the operations of the namespace and of chunks, the refusals that travel,
//! and the two transports that carry them. It knows nobody.
//!
//! Start with `meta` (the namespace's operations) and `chunk` (the chunkservers'); `proto/*.proto` is the same contract
//! for any other language.

pub mod attr;
pub mod chunk;
pub mod config;
pub mod convert;
pub mod descriptors;
pub mod env;
pub mod error;
pub mod extent;
pub mod federation;
pub mod frame;
pub mod ids;
pub mod meta;
pub mod planted;
pub mod rpc;
pub mod units;

/// Generated from `proto/*.proto`.
#[allow(missing_docs, unreachable_pub, unused_qualifications, clippy::all, clippy::unwrap_used)]
pub mod wire {
    tonic::include_proto!("dfs.v1");
}
