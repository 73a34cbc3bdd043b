//! What a change that passed the gate is answered.

use dfs_proto::ids::InodeId;
use dfs_state::command::Reply;

/// What became of a change.
pub(crate) struct Executed {
    pub(crate) reply: Reply,
    /// The session that asked for it holds Write of the file that it has made.
    pub(crate) writes: bool,
    /// It holds Read of these, which the answer shows.
    pub(crate) leased: Vec<InodeId>,
}

impl From<Reply> for Executed {
    fn from(reply: Reply) -> Executed {
        Executed { reply, writes: false, leased: Vec::new() }
    }
}
