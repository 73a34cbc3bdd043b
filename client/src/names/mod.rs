//! What is known of names and attributes, and how long it is valid.
//!
//! Uses no other floor.

pub(crate) mod fresh;
pub(crate) mod touched;
