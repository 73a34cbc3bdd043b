//! One member among the others of its group: whose data directory it is (`stamp`, `examine`), how the group is made
//! (`bootstrap`) and who is in it (`membership`), how members talk (`network`, `server`) and what they believe of each other
//! (`sender`, `group`, `clocks`).

pub(crate) mod bootstrap;
pub(crate) mod clocks;
pub(crate) mod examine;
pub(crate) mod group;
pub(crate) mod membership;
pub(crate) mod network;
pub(crate) mod sender;
pub(crate) mod server;
pub(crate) mod stamp;
