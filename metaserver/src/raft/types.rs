//! The types that openraft is made concrete with, and their encodings.
//!
//! Log entries carry their commands as bytes: encoded once by the proposer, decoded once in `apply`, and in between (log,
//! memory, network) passed on by reference count.

use std::fmt;

use bytes::Bytes;
use dfs_proto::attr::Timestamp;
use dfs_proto::ids::DirectoryId;
use openraft::alias::{EntryOf, LogIdOf, SnapshotMetaOf, StoredMembershipOf, VoteOf};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use thiserror::Error;

use dfs_state::command::{Entry, Proposed, Reply};
use dfs_state::time::StateTime;

openraft::declare_raft_types!(
    /// Standard Raft leader ids: one leader a term, so that a term names its leader (P3.5).
    pub(crate) TypeConfig:
        D = Proposal,
        R = Replies,
        NodeId = u64,
        Node = MemberNode,
        LeaderId = openraft::impls::leader_id_std::LeaderId<Self::Term, Self::NodeId>,
);

pub(crate) type LogId = LogIdOf<TypeConfig>;
pub(crate) type Vote = VoteOf<TypeConfig>;
pub(crate) type LogEntry = EntryOf<TypeConfig>;
pub(crate) type Membership = StoredMembershipOf<TypeConfig>;
/// Without where in the log it stands.
pub(crate) type MembershipConfig = openraft::Membership<u64, MemberNode>;
pub(crate) type SnapshotMeta = SnapshotMetaOf<TypeConfig>;

/// The version of every encoding that members exchange and store: log records, request bodies, entries.
///
/// 3: an entry carries the state's own time beside the leader's wall clock (P7.1).
pub(crate) const FORMAT: u8 = 3;
/// What is stored in this one is read too: an entry has one time, all else is the same.
pub(crate) const FORMAT_OF_ONE_CLOCK: u8 = 2;

/// A member as the Raft membership records it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct MemberNode {
    /// `host:port` of its gRPC port when the membership was made; greetings tell where it is now.
    pub(crate) address: String,
    /// The one data directory that may vote and acknowledge for this member (P7.7).
    pub(crate) directory: DirectoryId,
}

impl MemberNode {
    pub(crate) fn new(address: String, directory: DirectoryId) -> MemberNode {
        MemberNode { address, directory }
    }
}

/// An encoded [`Entry`]: the format version, then postcard of the wall clock's time, the state's, and the commands.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Proposal(Bytes);

/// A proposal that cannot be read: written by another release, or damaged.
#[derive(Debug, Error)]
pub(crate) enum ProposalError {
    #[error("log entry has format {actual}, this release reads {FORMAT_OF_ONE_CLOCK} and {FORMAT}")]
    Format { actual: u8 },
    #[error("decode log entry: {0}")]
    Decode(postcard::Error),
    #[error("log entry is empty")]
    Empty,
}

impl Proposal {
    /// Joins commands that were encoded one by one; the same bytes as postcard of all of them.
    pub(crate) fn join(
        wall: Timestamp,
        state: StateTime,
        commands: &[Vec<u8>],
    ) -> Result<Proposal, postcard::Error> {
        let mut bytes = vec![FORMAT];
        bytes = postcard::to_extend(&(wall, state), bytes)?;
        bytes = postcard::to_extend(&(commands.len() as u64), bytes)?;
        for command in commands {
            bytes.extend_from_slice(command);
        }
        Ok(Proposal(Bytes::from(bytes)))
    }

    pub(crate) fn decode(&self) -> Result<Entry, ProposalError> {
        match self.0.split_first() {
            None => Err(ProposalError::Empty),
            Some((&FORMAT, encoded)) => {
                let (wall, state, commands) = postcard::from_bytes(encoded).map_err(ProposalError::Decode)?;
                Ok(Entry { proposed: Proposed::At { wall, state }, commands })
            }
            Some((&FORMAT_OF_ONE_CLOCK, encoded)) => {
                let (now, commands) = postcard::from_bytes(encoded).map_err(ProposalError::Decode)?;
                Ok(Entry { proposed: Proposed::ByOneClock(now), commands })
            }
            Some((&actual, _)) => Err(ProposalError::Format { actual }),
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }
}

impl fmt::Debug for Proposal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Proposal({} bytes)", self.0.len())
    }
}

impl fmt::Display for Proposal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes", self.0.len())
    }
}

impl Serialize for Proposal {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_bytes(&self.0)
    }
}

impl<'de> Deserialize<'de> for Proposal {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Proposal, D::Error> {
        struct BytesVisitor;
        impl serde::de::Visitor<'_> for BytesVisitor {
            type Value = Proposal;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("bytes")
            }
            fn visit_bytes<E: serde::de::Error>(self, bytes: &[u8]) -> Result<Proposal, E> {
                Ok(Proposal(Bytes::copy_from_slice(bytes)))
            }
            fn visit_byte_buf<E: serde::de::Error>(self, bytes: Vec<u8>) -> Result<Proposal, E> {
                Ok(Proposal(Bytes::from(bytes)))
            }
        }
        deserializer.deserialize_byte_buf(BytesVisitor)
    }
}

/// The replies to an entry's commands, in their order; empty for entries without commands.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Replies(pub(crate) Vec<Reply>);

/// What the state machine has applied; stored in the batch of the effects (P7.3).
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Applied {
    pub(crate) last: Option<LogId>,
    pub(crate) membership: Membership,
}

impl Applied {
    /// The index that the next entry must have.
    pub(crate) fn next_index(&self) -> u64 {
        next_index(self.last.as_ref())
    }
}

/// One more than the index of `last`; 0 for none.
pub(crate) fn next_index(last: Option<&LogId>) -> u64 {
    last.map_or(0, |id| id.index + 1)
}

#[cfg(test)]
mod tests {
    use dfs_proto::ids::SessionId;

    use super::*;
    use dfs_state::command::Command;

    #[test]
    fn commands_encoded_one_by_one_join_to_the_same_entry() {
        let commands: Vec<Command> =
            (0..300).map(|n| Command::CloseSession { session: SessionId(n * 1000) }).collect();
        let (wall, state) = (Timestamp { seconds: -5, nanos: 7 }, StateTime { seconds: 3, nanos: 1 });
        let encoded: Vec<Vec<u8>> = commands.iter().map(|c| postcard::to_allocvec(c).unwrap()).collect();
        let proposal = Proposal::join(wall, state, &encoded).unwrap();
        let proposed = Proposed::At { wall, state };
        assert_eq!(proposal.decode().unwrap(), Entry { proposed, commands });
    }

    /// Byte for byte as the release before has written it: seconds, nanoseconds, one `CloseSession` of session 9.
    #[test]
    fn an_entry_of_the_format_before_is_read_with_its_one_time() {
        let proposal = Proposal(Bytes::from_static(&[2, 20, 7, 1, 3, 9]));
        let wanted = Entry {
            proposed: Proposed::ByOneClock(Timestamp { seconds: 10, nanos: 7 }),
            commands: vec![Command::CloseSession { session: SessionId(9) }],
        };
        assert_eq!(proposal.decode().unwrap(), wanted);
    }

    #[test]
    fn an_entry_of_another_format_is_refused() {
        let proposal = Proposal(Bytes::from_static(&[FORMAT + 1, 0, 0, 0]));
        assert!(matches!(proposal.decode(), Err(ProposalError::Format { actual }) if actual == FORMAT + 1));
    }
}
