//! How the processes of dfs reach each other, and what a process gets from its surroundings.
//!
//! * `rpc`: the handshake; frames for the bytes of chunks and for frequent calls; gRPC; the channel that follows a cluster's leader.
//! * `env`: the doors to time, chance and the network. The simulation passes its own.
//! * `config`, `descriptors`: the configuration file, and how many descriptors this process may have.
//!
//! It knows `dfs-proto`, whose types it carries, and does not know what they mean to a server or a client.

pub mod config;
pub mod descriptors;
pub mod env;
pub mod rpc;

/// gRPC's clients and servers, generated from `proto/proto/*.proto`. Their messages are `dfs_proto::wire`.
#[allow(missing_docs, unreachable_pub, unused_qualifications, clippy::all, clippy::unwrap_used)]
pub mod services {
    tonic::include_proto!("dfs.v1");
}
