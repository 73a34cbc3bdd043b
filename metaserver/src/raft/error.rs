//! Why a member cannot start.

use std::io;

use dfs_proto::ids::{ClusterId, DirectoryId, MemberId};
use thiserror::Error;

use super::log::recover::Reached;
use super::member::stamp::StampError;

/// Why a member cannot start. Each message is one line.
#[derive(Debug, Error)]
pub enum StartError {
    #[error(transparent)]
    Stamp(#[from] StampError),
    #[error(
        "{0}; nothing in the directory was changed: the way out is to replace this member or to restore its directory, and \
         this version can do neither"
    )]
    Contradiction(#[from] Contradiction),
    #[error("write the data directory's MEMBER file: {0}")]
    Io(io::Error),
    #[error("open the state store: {0}")]
    State(io::Error),
    #[error("open the Raft log: {0}")]
    Log(io::Error),
    #[error("{member} is not in the bootstrap list")]
    NotListed { member: MemberId },
    #[error("raft settings: {0}")]
    Config(#[from] openraft::ConfigError),
    #[error("start raft: {0}")]
    Raft(String),
}

/// Why the files of a data directory do not agree, or cannot be read. Each message is one line.
#[derive(Debug, Error)]
pub enum Contradiction {
    #[error("{0}")]
    Stamp(StampError),
    #[error("MEMBER is missing, but {found} is there: the directory is not whole")]
    NoStamp { found: String },
    #[error("look at the state: {0}")]
    State(io::Error),
    #[error("read the Raft log: {0}")]
    Log(io::Error),
    #[error("state/CURRENT is missing, but {used}{remark}: the state, or its name, was lost")]
    NoState { used: &'static str, remark: String },
    #[error(
        "MEMBER says that the Raft log has come to batch {} of segment {}, but its files (*.raftlog) end {}{remark}: its end was \
         lost, and with it what this member has promised",
        reached.batch, reached.sequence, end_of(found)
    )]
    LogBehind { reached: Reached, found: Option<Reached>, remark: String },
    #[error(
        "the state is applied up to entry {applied}, but the Raft log (*.raftlog) begins at {first}: what lies between is lost; \
         state/CURRENT names an old state, or the log is another one's"
    )]
    Hole { applied: u64, first: u64 },
    #[error(
        "the state is applied up to entry {applied}, but the Raft log (*.raftlog) beside it is empty: its files were lost, and \
         with them what this member has promised; it must not vote again"
    )]
    LogMissing { applied: u64 },
    #[error(
        "entry {index} of the Raft log (*.raftlog) is not the one that the state (state/CURRENT) has applied: they are of two members"
    )]
    Diverged { index: u64 },
    #[error(
        "{what} was made in data directory {recorded}, but MEMBER is of {actual}: one of the two was emptied or replaced"
    )]
    Foreign { what: &'static str, recorded: DirectoryId, actual: DirectoryId },
    #[error("{what} is of a group without {member}, whose MEMBER this is: one of the two was replaced")]
    Stranger { what: &'static str, member: MemberId },
    #[error(
        "MEMBER is of cluster {stamped}, but the state (state/CURRENT) is of cluster {found}: one of the two was replaced"
    )]
    OtherCluster { stamped: ClusterId, found: ClusterId },
    #[error(
        "MEMBER is {}, but the MEMBER above says that it is {expected}: it was lost or replaced",
        of_directory(actual)
    )]
    OtherSeat { expected: DirectoryId, actual: Option<DirectoryId> },
}

fn end_of(found: &Option<Reached>) -> String {
    match found {
        Some(Reached { sequence, batch }) => format!("with batch {batch} of segment {sequence}"),
        None => "before it begins".to_owned(),
    }
}

fn of_directory(actual: &Option<DirectoryId>) -> String {
    actual.map_or_else(|| "missing".to_owned(), |actual| format!("of data directory {actual}"))
}
