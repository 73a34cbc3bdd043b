//! What is known of names and attributes, and how long it is valid.
//!
//! Today the metaserver gives no leases: it answers, and nobody tells a client that an answer has become outdated. So
//! whatever is reused of an answer is reused by a rule of `interim`, and by no other. Leases will take the place of these rules.
//!
//! Uses `session`, to ask for what is not known.

pub(crate) mod cluster_names;
pub mod interim;
pub(crate) mod newest;
