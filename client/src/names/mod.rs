//! What is known of names and attributes, and how long it is valid.
//!
//! What the leader shows under a lease is kept in `copy`, and is valid until it is recalled or the lease ends. Of other answers
//! nobody tells a client that they have become outdated. So whatever is reused of them is reused by a rule of `interim`, and by no
//! other.
//!
//! `ahead` reads listings before anybody asks. `outer` is how caches outside of this library are told what the copy has dropped.
//!
//! Uses `session`, to ask for what is not known.

mod ahead;
pub(crate) mod cluster_names;
pub(crate) mod copy;
pub mod interim;
pub(crate) mod newest;
mod outer;

pub use outer::{ChangedBy, DroppedNames, NoOuterCache, OuterCache};
