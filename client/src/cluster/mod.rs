//! One cluster, as the floors above use it: its session, what is known of its names and attributes, and the bytes of its
//! files, put together.
//!
//! Uses `data`, `names` and `session`. Nobody below knows it.

pub(crate) mod client;
