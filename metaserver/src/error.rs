//! Why a metaserver does not start, or ends.

use std::io;
use std::path::PathBuf;

use thiserror::Error;

use crate::raft;
use crate::room::TooFull;

/// Why a metaserver does not start, or not go on. One line each.
#[derive(Debug, Error)]
pub enum ServeError {
    #[error("data directory {}: {what}", data.display())]
    Storage { data: PathBuf, what: String },
    #[error("listen on {address} (`{key}`): {why}")]
    Bind { key: &'static str, address: String, why: io::Error },
    #[error("`listen` = {listen} does not say where others reach this metaserver: set `advertise`")]
    NoAddress { listen: String },
    #[error("data directory {}: {why}", data.display())]
    Start { data: PathBuf, why: raft::StartError },
    #[error("data directory {}: {why}", data.display())]
    TooFull { data: PathBuf, why: TooFull },
    #[error("{what} has stopped: {why}")]
    Stopped { what: &'static str, why: String },
    #[error("{0}")]
    Failed(String),
}
