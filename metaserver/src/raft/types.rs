//! The types that openraft is used with, and their encodings.
//!
//! A log entry carries its commands as bytes. The proposer encodes them once and `apply` decodes them once; in between, the log,
//! the memory and the network share the same bytes.

use std::fmt;

use bytes::Bytes;
use dfs_proto::attr::Timestamp;
use dfs_proto::ids::DirectoryId;
use openraft::alias::{EntryOf, LogIdOf, SnapshotMetaOf, StoredMembershipOf, VoteOf};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use dfs_state::command::Reply;
use dfs_state::federation::command as federation;
use dfs_state::record::log;
use dfs_state::time::StateTime;

openraft::declare_raft_types!(
    /// Leader ids as in the Raft paper: a term has at most one leader, so that the term names it (P3.5).
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
/// A membership without its position in the log.
pub(crate) type MembershipConfig = openraft::Membership<u64, MemberNode>;
pub(crate) type SnapshotMeta = SnapshotMetaOf<TypeConfig>;

/// The version of everything that members send each other. Members of different versions refuse each other, so that none gets log
/// entries that it cannot read; so an upgrade stops all members. It is raised with `log::VERSION`, and also when a table gets a
/// new version, because a snapshot carries the table's records.
///
/// 6: a change names who has a file open, and a rename may exchange two names. 5: a chunk may have a volume. 4: inodes have a birth time. 3: an entry carries the state's
/// own time beside the leader's wall clock (P7.1).
pub(crate) const FORMAT: u8 = log::VERSION;
/// The version of the stored [`Applied`]. Version 2 has the same bytes and can be read too.
pub(crate) const APPLIED_VERSION: u8 = 3;
pub(crate) const APPLIED_VERSION_BEFORE: u8 = 2;

/// A member as the Raft membership records it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct MemberNode {
    /// `host:port` of its gRPC port when the membership was made. Where it is now, its greetings say.
    pub(crate) address: String,
    /// Only from this data directory may the member vote and acknowledge entries (P7.7).
    pub(crate) directory: DirectoryId,
}

impl MemberNode {
    pub(crate) fn new(address: String, directory: DirectoryId) -> MemberNode {
        MemberNode { address, directory }
    }
}

/// The bytes of an entry (`record::log` and `record::federation_log` of `dfs_state`).
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Proposal(Bytes);

impl Proposal {
    /// Joins commands that were encoded one by one.
    pub(crate) fn join(wall: Timestamp, state: StateTime, commands: &[Vec<u8>]) -> Proposal {
        Proposal(Bytes::from(log::join(wall, state, commands)))
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        &self.0
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

/// A reply of either state machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum AnyReply {
    Cluster(Reply),
    Federation(federation::Reply),
}

/// The replies to an entry's commands, in their order; empty for entries without commands.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Replies(pub(crate) Vec<AnyReply>);

/// openraft requires this for members that forward proposals to each other, which ours do not.
impl Serialize for Replies {
    fn serialize<S: Serializer>(&self, _serializer: S) -> Result<S::Ok, S::Error> {
        Err(serde::ser::Error::custom("replies stay on the member that made them"))
    }
}

impl<'de> Deserialize<'de> for Replies {
    fn deserialize<D: Deserializer<'de>>(_deserializer: D) -> Result<Replies, D::Error> {
        Err(serde::de::Error::custom("replies stay on the member that made them"))
    }
}

/// What the state machine has applied. It is stored in the same batch as the effects (P7.3).
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
