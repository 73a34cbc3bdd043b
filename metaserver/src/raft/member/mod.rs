//! One member among the others of its group.
//!
//!     stamp, examine     whose data directory this is, and whether its files agree
//!     bootstrap          how the group is made, and how its members find each other
//!     membership         who the members are
//!     network, server    how members send requests to each other, and answer them
//!     sender             which requests and answers are refused before openraft sees them
//!     group              what this member knows of itself and the others
//!     clocks             how far the members' clocks are apart

pub(crate) mod bootstrap;
pub(crate) mod clocks;
pub(crate) mod examine;
pub(crate) mod group;
pub(crate) mod membership;
pub(crate) mod network;
pub(crate) mod sender;
pub(crate) mod server;
pub(crate) mod stamp;
