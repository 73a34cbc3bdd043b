//! The whole system under test: real daemons on loopback, real mounts, and what the tests share.
//!
//! `cluster` starts, hurts and ends daemons; `daemon` is one of them; `guard` ends what a killed test process left;
//! `shared` lends one cluster to all tests of a file; `shell` runs commands with a deadline, `sys` the system calls that
//! `std` does not have; `machines` puts daemons into network namespaces, `links` takes their links down; `tree` makes and
//! compares trees; `load` works while servers fail, `ledger` remembers what was acknowledged; `power` cuts the power; `wait`
//! waits for conditions; `figures` writes down what was measured.

pub mod cluster;
pub mod daemon;
pub mod federation;
pub mod figures;
pub mod guard;
pub mod ledger;
pub mod links;
pub mod load;
pub mod machines;
pub mod model;
pub mod power;
pub mod shared;
pub mod shell;
pub mod sim;
pub mod sys;
pub mod tree;
pub mod wait;
pub mod walk;
