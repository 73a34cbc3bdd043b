//! Everything that may change a cluster's replicated state. The leader has filled in time, randomness and placement; ids are
//! made inside `apply` (P7.1). `record::log` is how they stand in Raft entries of at most 1 MiB (P7.2).

use dfs_proto::attr::{InodeAttr, Timestamp};
use dfs_proto::error::MetaError;
use dfs_proto::ids::{
    ChunkId, ClusterId, DirectoryId, Incarnation, InodeId, Instance, MemberId, ServerId, SessionId,
    SessionNonce, VolumeId,
};
use dfs_proto::meta::{ChangeRequest, Changed};

use crate::time::StateTime;

/// What one Raft entry carries: commands that waited at the same time share one sync.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    pub proposed: Proposed,
    pub commands: Vec<Command>,
}

/// When an entry was proposed, by its leader's clocks (P7.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Proposed {
    /// `wall` becomes the times of inodes, and is compared with nothing. `state` orders: the state's own time, as the leader
    /// reckons it.
    At { wall: Timestamp, state: StateTime },
    /// By a release whose clients named no volume for a chunk (P1.8): those that it opens may be mixed, as on members that have
    /// applied it already.
    WithMixed { wall: Timestamp, state: StateTime },
    /// By a release whose inodes had no birth time: those that it makes have none, as on members that have applied it already.
    BeforeBirth { wall: Timestamp, state: StateTime },
    /// By a release that had one clock for both, which `apply` did not let go backwards. It is applied as it was then: some
    /// members have applied it already, and all must hold the same.
    ByOneClock(Timestamp),
}

#[derive(Clone, Debug, PartialEq, Eq)]
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
    /// `volumes`: what the leader has asked other volumes' clusters for a change in the root directory; when that is not
    /// what the change needs by now, it is `Refused` and leaves no trace: ask again.
    /// `named`: the inodes that the leader has found behind names which the change alters. Where it would alter another one, it is
    /// `Refused` in the same way. `None`: of an entry before version 6, whose leader did not look.
    Change {
        request: ChangeRequest,
        placement: Vec<ServerId>,
        volumes: Vec<VolumeRoot>,
        named: Option<Vec<NamedInode>>,
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
        before: StateTime,
        limit: u32,
    },
    /// This server no longer has these chunks (P10.6).
    ConfirmDeleted {
        server: ServerId,
        chunks: Vec<ChunkId>,
    },
    /// A client's request that is answered with this error, unless an earlier try was executed: of what only the leader
    /// knows, as that its disk is full.
    Refuse {
        request: ChangeRequest,
        error: MetaError,
    },
    /// In the volume's cluster: makes its root directory (P9.2, step 2).
    MakeVolume {
        volume: VolumeId,
        root: RootAttr,
    },
    /// In the volume's cluster: no more names in its root, which must be empty, until the removal is undone or done.
    /// `version`: of the entry that is to go.
    StartRemoval {
        volume: VolumeId,
        version: u64,
    },
    /// In the volume's cluster: a removal of `version` or an older one did not happen.
    UndoRemoval {
        volume: VolumeId,
        version: u64,
    },
    /// In the volume's cluster: it has no name and gets none.
    DropVolume {
        volume: VolumeId,
    },
    /// In volume 0's cluster: the volume gets no name, its making was given up. `Refused(Exists)` when it has one.
    ForbidVolume {
        volume: VolumeId,
    },
    /// In volume 0's cluster: removals of its entry that are under way fail. `Refused(NotFound)` when it has none.
    FenceVolume {
        volume: VolumeId,
    },
    /// This session has no longer open what has no name (P6.5). Those that it does not hold are passed over. At most
    /// [`RELEASE_MAX`].
    ReleaseFor {
        session: SessionId,
        inodes: Vec<InodeId>,
    },
    /// From here on this session may hold locks and open files in this volume, which a new leader has to learn from it (P6.5).
    RecordHolds {
        session: SessionId,
        volume: VolumeId,
    },
    /// From here on this session may hold Write of files in this volume: a new leader shows and changes nothing there before it
    /// has learned from the session what (P3.6).
    RecordWrites {
        session: SessionId,
        volume: VolumeId,
    },
    /// How long these sessions were silent by now, for the next leader to go on from (P3.1). Those that have ended are passed over. At
    /// most [`NOTES_MAX`].
    NoteSilences {
        silences: Vec<Silence>,
    },
}

impl Command {
    /// A client's request, without what only the gate knows: what is behind its names, and who has that open.
    pub fn of_request(request: ChangeRequest, placement: Vec<ServerId>, volumes: Vec<VolumeRoot>) -> Command {
        Command::Change { request, placement, volumes, named: Some(Vec::new()) }
    }
}

/// For how long no heartbeat of a session was answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Silence {
    pub session: SessionId,
    /// At least this long, as leaders have measured it. 0: nothing is known, as its client was heard.
    pub silent_ms: u64,
}

/// An inode behind a name that a change alters, as the leader has found it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NamedInode {
    pub inode: InodeId,
    /// The sessions that have the file open; `None`: the leader did not ask, because it does not lose its last name.
    pub openers: Option<Vec<SessionId>>,
}

/// Another volume's root, as its cluster has shown it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VolumeRoot {
    pub attr: InodeAttr,
    pub step: VolumeStep,
}

/// What was done with another volume's root before it was shown. Versions are of its entry in volume 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum VolumeStep {
    /// It is new and waits for its name.
    Made,
    Seen {
        version: u64,
    },
    /// It is empty and gets no names.
    Removing {
        version: u64,
    },
}

/// Chunk ids that one `SealChunks` or `ConfirmDeleted` may name: each is a handful of records (P7.2).
pub const SEAL_CHUNKS_MAX: usize = 1000;
/// Records that one `Reap`, chunks that one `StartDeleting` or `SealChunksOf` may touch (P7.2).
pub const REAP_LIMIT_MAX: u32 = 1000;
/// Sessions that one `NoteSilences` may name: a record each (P7.2).
pub const NOTES_MAX: usize = 1000;
/// Inodes that one `ReleaseFor`, or one request, may release: a few records each (P7.2).
pub const RELEASE_MAX: usize = 1000;

#[derive(Clone, Debug, PartialEq, Eq)]
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
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RootAttr {
    pub mode: u32,
    pub uid: u32,
    pub gid: u32,
}

/// One metaserver of the group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    pub id: MemberId,
    /// `host:port` of its gRPC port.
    pub address: String,
    pub directory: DirectoryId,
}

/// A chunkserver has started. Idempotent by directory, but for the instance, which each registration raises (P11.1).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RegisterServer {
    /// What its data directory is stamped with; `None` at its first start.
    pub server: Option<ServerId>,
    pub directory: DirectoryId,
    pub addresses: ServerAddresses,
    /// Copies go to different zones first; empty: none given.
    pub zone: String,
}

/// Where a chunkserver listens, `host:port` each.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ServerAddresses {
    pub grpc: String,
    pub frames: String,
    pub http: String,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reply {
    /// InitCluster, RecordMembers, CloseSession, ExpireSession, ReportDamage, ConfirmDeleted, UndoRemoval, ForbidVolume,
    /// ReleaseFor, RecordHolds, RecordWrites, NoteSilences.
    Done,
    /// Any command: nothing was changed and nothing remembered.
    Refused(MetaError),
    SessionOpened(OpenedSession),
    /// Change, Refuse.
    Changed(Result<Answered, MetaError>),
    Registered(Registered),
    /// MakeVolume, StartRemoval.
    VolumeRoot(InodeAttr),
    /// FenceVolume: removals at this version or below fail.
    Fenced {
        removed_at: u64,
    },
    /// SealChunks, SealChunksOf, Reap, StartDeleting, DropVolume: what was done; `more`: call again.
    Worked {
        count: u32,
        more: bool,
    },
}

/// What a client's change is answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answered {
    /// The remembered result: of this try, or of the first one (P8.1).
    pub changed: Changed,
    /// The directories whose names the change alters, as they were right after this try was applied. They are not remembered:
    /// when a request is repeated, they are shown as they are by then.
    pub directories: Vec<InodeAttr>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OpenedSession {
    pub session: SessionId,
    pub cluster: ClusterId,
    pub incarnation: Incarnation,
    pub copies: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Registered {
    pub server: ServerId,
    pub instance: Instance,
    pub incarnation: Incarnation,
    pub cluster: ClusterId,
}
