//! Which cluster an operation goes to: the federation map, a session at each cluster that was needed, and what is answered
//! while a cluster is away.
//!
//! Uses every floor below: `cluster`, `names`, `session`. Nobody below knows that there are several clusters.

pub(crate) mod federation;
pub(crate) mod routes;
