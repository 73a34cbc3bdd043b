//! Calls to one cluster: sessions, request ids, deadlines and retries.
//!
//! Uses `names`, to note what a change may alter.

pub(crate) mod grpc;
pub(crate) mod meta;
pub(crate) mod requests;
pub(crate) mod retry;
