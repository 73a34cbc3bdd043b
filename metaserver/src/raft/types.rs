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

use dfs_state::command::{Entry, Reply};
use dfs_state::record::log::{self, EntryError};
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

/// The version of what members exchange: of request bodies, and of the entries in them, which no member may get that cannot
/// read them. Members of different versions refuse each other: an upgrade stops all of them. Raised with `log::VERSION`, and
/// when a table gets a new version: a snapshot carries its records.
///
/// 6: a rename may exchange two names. 5: a chunk may have a volume. 4: inodes have a birth time. 3: an entry carries the state's
/// own time beside the leader's wall clock (P7.1).
pub(crate) const FORMAT: u8 = log::VERSION;
/// The version of [`Applied`], as it is stored. Its bytes have not changed since version 2, which is read too.
pub(crate) const APPLIED_VERSION: u8 = 3;
pub(crate) const APPLIED_VERSION_BEFORE: u8 = 2;

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

/// An encoded [`Entry`], see `dfs_state::record::log`.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Proposal(Bytes);

impl Proposal {
    /// Of commands that were encoded one by one (`log::encode_command`).
    pub(crate) fn join(wall: Timestamp, state: StateTime, commands: &[Vec<u8>]) -> Proposal {
        Proposal(Bytes::from(log::join(wall, state, commands)))
    }

    pub(crate) fn decode(&self) -> Result<Entry, EntryError> {
        log::decode(&self.0)
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
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Replies(pub(crate) Vec<Reply>);

/// openraft asks for it, and uses it only where members answer each other's proposals, which they do not do here.
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
