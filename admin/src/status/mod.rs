//! What `dfs status` shows: which metaservers are asked, what they answer, and how healthy that is.

pub mod find;
pub mod gather;
pub mod judge;
