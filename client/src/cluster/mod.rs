//! One cluster, as the floors above use it: its session, what is known of its names and attributes, and the bytes of
//! its files, put together.
//!
//! CC1  Attributes that leave this floor show what this client has buffered (`attributes`).
//! CC2  What was written to a file is committed before one of its names changes (P2.5, `committed`).
//! CC3  An inode that lost its last name stays while it is open or kept here (`removed`).
//!
//! Uses `data`, `names` and `session`. No file here knows that there may be several clusters.

pub(crate) mod attributes;
pub(crate) mod client;
pub(crate) mod committed;
pub(crate) mod end;
pub(crate) mod removed;
