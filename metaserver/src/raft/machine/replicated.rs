//! The two state machines that a group may replicate, a cluster's and the federation's. The rest of the Raft code carries their
//! commands as bytes, and their replies without looking at them.

use dfs_state::command;
use dfs_state::federation::{self, command as federation_command};
use dfs_state::kv::Txn;
use dfs_state::record::federation_log;
use dfs_state::record::log::{self, EntryError};

use crate::raft::member::group::GroupKind;
use crate::raft::types::{AnyReply, Proposal, Replies};

/// A command of one of the two state machines.
pub(crate) trait ReplicatedCommand {
    /// The groups that replicate this state machine.
    const GROUP: GroupKind;
    type Reply;
    fn encode(&self) -> Vec<u8>;
    /// `None`: it is a reply of the other state machine.
    fn reply(reply: AnyReply) -> Option<Self::Reply>;
}

impl ReplicatedCommand for command::Command {
    const GROUP: GroupKind = GroupKind::Cluster;
    type Reply = command::Reply;

    fn encode(&self) -> Vec<u8> {
        log::encode_command(self)
    }

    fn reply(reply: AnyReply) -> Option<command::Reply> {
        match reply {
            AnyReply::Cluster(reply) => Some(reply),
            AnyReply::Federation(_) => None,
        }
    }
}

impl ReplicatedCommand for federation_command::Command {
    const GROUP: GroupKind = GroupKind::Federation;
    type Reply = federation_command::Reply;

    fn encode(&self) -> Vec<u8> {
        federation_log::encode_command(self)
    }

    fn reply(reply: AnyReply) -> Option<federation_command::Reply> {
        match reply {
            AnyReply::Federation(reply) => Some(reply),
            AnyReply::Cluster(_) => None,
        }
    }
}

/// Executes the commands of an entry on the state machine of this kind of group.
pub(crate) fn apply(kind: GroupKind, proposal: &Proposal, txn: &mut Txn<'_>) -> Result<Replies, EntryError> {
    let replies = match kind {
        GroupKind::Cluster => {
            let entry = log::decode(proposal.bytes())?;
            let replies = entry.commands.iter().map(|command| dfs_state::apply(command, entry.proposed, txn));
            replies.map(AnyReply::Cluster).collect()
        }
        GroupKind::Federation => {
            let commands = federation_log::decode(proposal.bytes())?;
            commands.iter().map(|command| federation::apply(command, txn)).map(AnyReply::Federation).collect()
        }
    };
    Ok(Replies(replies))
}
