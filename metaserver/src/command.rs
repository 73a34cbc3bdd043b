//! Everything that may change the replicated state. The leader has filled in time, randomness and placement; ids are
//! made inside `apply` (P7.1). Encoded with postcard into Raft entries of at most 1 MiB (P7.2).

use dfs_proto::attr::Timestamp;
use dfs_proto::error::MetaError;
use dfs_proto::ids::{
    ChunkId, ClusterId, DirectoryId, Incarnation, Instance, MemberId, ServerId, SessionId, SessionNonce,
};
use dfs_proto::meta::{ChangeRequest, Changed};
use serde::{Deserialize, Serialize};

/// What one Raft entry carries: commands that waited at the same time share one sync.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// The leader's clock. `apply` never lets time go backwards.
    pub now: Timestamp,
    pub commands: Vec<Command>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Command {
    /// The first command of a cluster; a second one changes nothing and answers the same.
    InitCluster(InitCluster),
    /// Every member's id, address and data directory (P7.7). Replaces what is recorded.
    RecordMembers {
        members: Vec<Member>,
    },
    /// Idempotent by nonce.
    OpenSession {
        nonce: SessionNonce,
        client: String,
    },
    /// The client leaves. Its open chunks are sealed and its orphans released, by `Reap`.
    CloseSession {
        session: SessionId,
    },
    /// The fence: from here on every command of this session is refused (P3.3).
    ExpireSession {
        session: SessionId,
    },
    /// A client's request. `placement`: the servers of the chunk that an `OpenChunk` opens, primary first; else empty.
    Change {
        request: ChangeRequest,
        placement: Vec<ServerId>,
    },
    RegisterServer(RegisterServer),
    /// Seals those that are open, at their committed length (P1.5). At most [`SEAL_CHUNKS_MAX`].
    SealChunks {
        chunks: Vec<ChunkId>,
    },
    /// Seals up to `limit` of the open chunks that have a replica on this server, which is away (P1.7).
    SealChunksOf {
        server: ServerId,
        limit: u32,
    },
    /// A copy gave other bytes than were committed, or none.
    ReportDamage {
        chunk: ChunkId,
        server: ServerId,
    },
    /// Removes at most `limit` records that nothing needs any more: of released orphans, behind cuts, of ended sessions.
    Reap {
        limit: u32,
    },
    /// Chunks that are dead since `before` or longer are deleted from here on (P10.4); at most `limit` of them.
    StartDeleting {
        before: Timestamp,
        limit: u32,
    },
    /// This server no longer has these chunks (P10.6).
    ConfirmDeleted {
        server: ServerId,
        chunks: Vec<ChunkId>,
    },
    /// A client's request that is answered `NoSpace`, unless an earlier try was executed: the leader's disk is full.
    RefuseForRoom {
        request: ChangeRequest,
    },
}

/// Chunk ids that one `SealChunks` or `ConfirmDeleted` may name: each is a handful of records (P7.2).
pub const SEAL_CHUNKS_MAX: usize = 1000;
/// Records that one `Reap`, chunks that one `StartDeleting` or `SealChunksOf` may touch (P7.2).
pub const REAP_LIMIT_MAX: u32 = 1000;

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct InitCluster {
    pub cluster: ClusterId,
    /// For people.
    pub name: String,
    /// Replicas that new chunks get, and how few will do while servers are missing (P10.2).
    pub copies: u32,
    pub copies_min: u32,
    /// Random: keys the hash of directory entries (P7.6), so that nobody can make names collide.
    pub hash_key: u128,
    pub root: RootAttr,
}

/// Of the root directory, when the cluster is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RootAttr {
    pub mode: u32,
    pub uid: u32,
    pub gid: u32,
}

/// One metaserver of the group.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Member {
    pub id: MemberId,
    /// `host:port` of its gRPC port.
    pub address: String,
    pub directory: DirectoryId,
}

/// A chunkserver has started. Idempotent by directory, but for the instance, which each registration raises (P11.1).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RegisterServer {
    /// What its data directory is stamped with; `None` at its first start.
    pub server: Option<ServerId>,
    pub directory: DirectoryId,
    pub addresses: ServerAddresses,
    /// Copies go to different zones first; empty: none given.
    pub zone: String,
}

/// Where a chunkserver listens, `host:port` each.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServerAddresses {
    pub grpc: String,
    pub frames: String,
    pub http: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Reply {
    /// InitCluster, RecordMembers, CloseSession, ExpireSession, ReportDamage, ConfirmDeleted.
    Done,
    /// Any command but Change: nothing was changed.
    Refused(MetaError),
    SessionOpened(OpenedSession),
    /// Change, RefuseForRoom: the stored result, also of its first try.
    Changed(Result<Changed, MetaError>),
    Registered(Registered),
    /// SealChunks, SealChunksOf, Reap, StartDeleting: what was done; `more`: call again.
    Worked {
        count: u32,
        more: bool,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OpenedSession {
    pub session: SessionId,
    pub cluster: ClusterId,
    pub incarnation: Incarnation,
    pub copies: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Registered {
    pub server: ServerId,
    pub instance: Instance,
    pub incarnation: Incarnation,
    pub cluster: ClusterId,
}
