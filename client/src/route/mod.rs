//! Which cluster an operation goes to: the federation map, a session at each cluster that was needed, and what is
//! answered while a cluster is away.
//!
//! | file | what |
//! |------|------|
//! | `federation` | the map, kept up to date, and the clusters' clients |
//! | `routes` | from an inode or a name to its cluster, and what the map answers |
//!
//! Uses `cluster`, `names` and `session`. Nobody below knows that there are several clusters.

pub(crate) mod federation;
pub(crate) mod routes;
