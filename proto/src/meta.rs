//! The operations of a cluster's namespace, as everyone in Rust speaks them. The wire form is `proto/meta.proto`;
//! `convert` maps between the two and is where input is validated.
//!
//! A *change* goes through Raft and is executed exactly once: `(session, request)` finds the result of a first try
//! (P8.1). A *read* is answered by the leader under its lease. What each of them touches stands in [`scope`](crate::scope).

use serde::{Deserialize, Serialize};

use crate::attr::{AccessMask, Caller, InodeAttr, Name, Timestamp};
use crate::error::MetaError;
use crate::extent::Extent;
use crate::ids::{
    Attachment, ChunkId, ClusterId, Incarnation, InodeId, RequestId, ServerId, SessionId, SessionNonce,
    SetVersion, VolumeId, WriteGrant,
};
use crate::lock::HeldLock;
use crate::units::{ByteLen, Offset};

/// A change with everything needed to execute it once.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChangeRequest {
    pub cluster: ClusterId,
    pub session: SessionId,
    pub request: RequestId,
    /// Every request below this one was answered or given up; its result need not be kept.
    pub answered_below: RequestId,
    pub caller: Caller,
    pub change: Change,
}

/// What may be changed through a session.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Change {
    Create(Create),
    Link {
        inode: InodeId,
        parent: InodeId,
        name: Name,
    },
    Unlink {
        parent: InodeId,
        name: Name,
    },
    Rmdir {
        parent: InodeId,
        name: Name,
    },
    Rename(Rename),
    SetAttr(SetAttr),
    OpenChunk(OpenChunk),
    SealChunk {
        chunk: ChunkId,
    },
    CommitExtents(CommitExtents),
    /// Inodes whose last name is gone and which this session has no longer open: their space may go.
    ReleaseOrphans {
        inodes: Vec<InodeId>,
    },
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Create {
    pub parent: InodeId,
    pub name: Name,
    /// Permission bits with the umask already applied.
    pub mode: u32,
    pub what: NewInode,
    /// O_CREAT without O_EXCL: an existing *regular file* is answered with its attributes (`existed`), not refused.
    pub or_existing: bool,
    /// The session has the new file open from here on; one that existed it opens afterwards.
    pub opens: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum NewInode {
    File,
    Directory,
    Symlink {
        target: Vec<u8>,
    },
    Fifo,
    Socket,
    CharDevice {
        rdev: u32,
    },
    BlockDevice {
        rdev: u32,
    },
    /// A directory of the root directory, as a volume of this cluster. Only administrators choose.
    Volume {
        cluster: ClusterId,
    },
}

impl NewInode {
    pub fn is_directory(&self) -> bool {
        match self {
            NewInode::Directory | NewInode::Volume { .. } => true,
            NewInode::File
            | NewInode::Symlink { .. }
            | NewInode::Fifo
            | NewInode::Socket
            | NewInode::CharDevice { .. }
            | NewInode::BlockDevice { .. } => false,
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rename {
    pub parent: InodeId,
    pub name: Name,
    pub new_parent: InodeId,
    pub new_name: Name,
    pub mode: RenameMode,
}

/// What a rename does if something has the new name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum RenameMode {
    /// It takes its place.
    Replace,
    /// RENAME_NOREPLACE: the rename is refused.
    NoReplace,
    /// RENAME_EXCHANGE: it gets the old name. Without anything of the new name the rename is refused.
    Exchange,
}

impl Rename {
    /// The names whose inodes get another name. What was written to these inodes is committed first (P2.5).
    pub fn moved(&self) -> Vec<(InodeId, &Name)> {
        let source = (self.parent, &self.name);
        match self.mode {
            RenameMode::Replace | RenameMode::NoReplace => vec![source],
            RenameMode::Exchange => vec![source, (self.new_parent, &self.new_name)],
        }
    }
}

/// Only what is `Some` changes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SetAttr {
    pub inode: InodeId,
    pub mode: Option<u32>,
    pub uid: Option<u32>,
    pub gid: Option<u32>,
    pub size: Option<ByteLen>,
    pub atime: Option<SetTime>,
    pub mtime: Option<SetTime>,
    /// The size is set through a file that is open for writing: the mode is not asked again (P2.4).
    pub by_handle: bool,
    /// Clear set-uid, set-gid as a write by an unprivileged caller does (FUSE_HANDLE_KILLPRIV_V2).
    pub kill_privileges: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum SetTime {
    /// The cluster's clock, when the change is proposed.
    Now,
    At(Timestamp),
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct OpenChunk {
    /// Servers that this session has just seen fail: not chosen if there are others.
    pub avoid: Vec<ServerId>,
    /// Copies wanted; 0: the cluster's default.
    pub copies: u32,
    /// Servers of the chunks that the session fills beside this one, each once per copy: the new chunk goes where there
    /// are fewest of them, so that a stream gets the throughput of several servers.
    pub beside: Vec<ServerId>,
    /// The one volume whose bytes the chunk will hold (P1.8). `None`: of a client of an earlier release; it is refused.
    pub volume: Option<VolumeId>,
}

/// Makes bytes that every replica has on stable storage part of files (P2).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CommitExtents {
    pub chunks: Vec<ChunkCommit>,
    pub files: Vec<FileCommit>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChunkCommit {
    pub chunk: ChunkId,
    pub set_version: SetVersion,
    /// Bytes of the chunk's data durable on every replica.
    pub up_to: ByteLen,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileCommit {
    pub inode: InodeId,
    /// One more than the last of this session for this inode; the first after an open is `next_commit` of its answer.
    pub number: u64,
    /// In file order, disjoint.
    pub extents: Vec<Extent>,
    /// The file is at least this long afterwards.
    pub size_at_least: ByteLen,
    /// When the bytes were written; `None` leaves the times (set explicitly since the write, P2.3).
    pub mtime: Option<Timestamp>,
    /// Clear set-uid and set-gid, as a write by an unprivileged caller does.
    pub kill_privileges: bool,
}

/// What a change answers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Changed {
    Done,
    /// Create, link, setattr. `next_commit`: see [`FileCommit::number`].
    Inode {
        attr: InodeAttr,
        existed: bool,
        next_commit: u64,
    },
    /// Unlink, rmdir, rename. `orphan`: an inode that lost its last name; release it once no handle of this session
    /// has it open.
    Removed {
        orphan: Option<InodeId>,
    },
    Chunk(OpenedChunk),
    Sealed {
        committed: ByteLen,
    },
    /// The attributes of each committed file, in the request's order.
    Committed {
        attrs: Vec<InodeAttr>,
    },
}

/// A chunk to append to. The first replica is the primary.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OpenedChunk {
    pub chunk: ChunkId,
    pub set_version: SetVersion,
    pub replicas: Vec<Replica>,
}

/// Where one copy is. The address is of the frame port, as the server last gave it; empty while it is not known.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Replica {
    pub server: ServerId,
    pub address: String,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReadRequest {
    pub cluster: ClusterId,
    pub session: SessionId,
    pub caller: Caller,
    /// The session's present attachment, for leases on what is shown (P3.2). `None`: it wants none.
    pub leases: Option<Attachment>,
    pub read: Read,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Read {
    /// `name` may be `.` or `..` here.
    Lookup {
        parent: InodeId,
        name: Vec<u8>,
    },
    GetAttr {
        inode: InodeId,
    },
    /// `access(2)`: are these rights there for the caller?
    Access {
        inode: InodeId,
        mask: AccessMask,
    },
    /// Checks the rights that an open wants; they then belong to the open file.
    Open {
        inode: InodeId,
        mask: AccessMask,
    },
    ReadLink {
        inode: InodeId,
    },
    /// Entries behind `cookie` (0: from the start), at most `limit`; with attributes if `plus`.
    ReadDir {
        inode: InodeId,
        cookie: u64,
        limit: u32,
        plus: bool,
    },
    /// The same with attributes, but without those of files that other sessions write: nobody has asked the client for them yet, so no
    /// writer is disturbed.
    ReadAhead {
        inode: InodeId,
        cookie: u64,
        limit: u32,
    },
    /// The extents that touch `[offset, offset + len)`, at most `limit` of them, whole (not clipped).
    Extents {
        inode: InodeId,
        offset: Offset,
        len: u64,
        limit: u32,
    },
    /// The extents of files whose numbers are near: all but the last eight bits are the same. Files that were made together are often
    /// read together.
    ExtentsNear {
        inode: InodeId,
    },
    StatFs {
        inode: InodeId,
    },
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ReadReply {
    Attr(InodeAttr),
    /// Of a lookup: the root of a volume that another cluster has; ask there for its attributes.
    Elsewhere(InodeId),
    Opened {
        attr: InodeAttr,
        next_commit: u64,
        /// To an open for reading: the first extents of a file, of the same moment as the attributes. `None`: of an earlier release.
        extents: Option<FileExtents>,
    },
    Granted,
    Target(Vec<u8>),
    /// `end`: nothing follows. `parent`: the directory's parent, for `..`.
    Entries {
        entries: Vec<DirEntry>,
        end: bool,
        parent: InodeId,
    },
    Extents(FileExtents),
    FewExtents(FewExtents),
    StatFs(StatFs),
}

/// The answer to a read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shown {
    pub answered: MetaResult<ReadReply>,
    /// The session holds Read of these inodes. A directory's lease covers its names that are shown, and that a name is not there.
    pub leased: Vec<InodeId>,
}

impl Shown {
    pub fn without_leases(answered: MetaResult<ReadReply>) -> Shown {
        Shown { answered, leased: Vec::new() }
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DirEntry {
    pub name: Name,
    pub inode: InodeId,
    pub kind: crate::attr::FileKind,
    /// Give this back to go on behind the entry; stable while the directory changes (P7.6). Never 0.
    pub cookie: u64,
    /// Asked for, and of a volume that the answering cluster has.
    pub attr: Option<InodeAttr>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileExtents {
    pub attr: InodeAttr,
    pub extents: Vec<Extent>,
    /// The answer is complete up to here (`offset + len`, unless `limit` cut it).
    pub up_to: Offset,
    /// Every chunk that `extents` name.
    pub chunks: Vec<ChunkLocation>,
}

/// Of files that have few extents.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FewExtents {
    pub files: Vec<ExtentsAt>,
    /// Every chunk that they name.
    pub chunks: Vec<ChunkLocation>,
}

/// All extents that a file has at this version of its content.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExtentsAt {
    pub inode: InodeId,
    pub content_version: u64,
    pub extents: Vec<Extent>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChunkLocation {
    pub chunk: ChunkId,
    pub set_version: SetVersion,
    pub committed: ByteLen,
    pub sealed: bool,
    pub replicas: Vec<Replica>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StatFs {
    pub total: ByteLen,
    pub free: ByteLen,
    pub inodes: u64,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OpenSession {
    /// Unknown: whichever cluster answers.
    pub cluster: ClusterId,
    pub nonce: SessionNonce,
    /// For people: host name and mount point.
    pub client: String,
}

/// What a client needs to know of the cluster it has a session at.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SessionOpened {
    pub session: SessionId,
    pub cluster: ClusterId,
    pub incarnation: Incarnation,
    pub root: InodeId,
    /// Replicas that new chunks get by default.
    pub copies: u32,
    /// Renew at least this often; three in a row may be lost.
    pub heartbeat_interval_ms: u64,
    /// The cluster's clock.
    pub now: Timestamp,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RenewSession {
    pub cluster: ClusterId,
    pub session: SessionId,
    /// `None`: a client that holds nothing and is sent nothing unasked.
    pub attachment: Option<Attachment>,
    /// Files that the session no longer has open.
    pub closed: Vec<InodeId>,
}

impl RenewSession {
    /// Of a client that holds nothing.
    pub fn of(cluster: ClusterId, session: SessionId) -> RenewSession {
        RenewSession { cluster, session, attachment: None, closed: Vec::new() }
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SessionRenewed {
    /// The cluster's clock.
    pub now: Timestamp,
    /// gRPC addresses of all metaservers, the leader first.
    pub metaservers: Vec<String>,
    /// False: the leader does not know the attachment, or its connection has ended. The client attaches again.
    pub is_attached: bool,
    /// The number of the last recall of this attachment until now: the heartbeat renews the leases once all were handled (P3.4).
    pub recalls: u64,
    /// There is room for all that sessions may have buffered, so that a close need not commit.
    pub has_room: bool,
}

/// What a session holds, for a leader that may not know it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attach {
    pub cluster: ClusterId,
    pub session: SessionId,
    pub attachment: Attachment,
    /// Counted from 0, so that a leader notices when it was not told all of them.
    pub part: u32,
    /// Another part follows. What the parts say counts once the last one has arrived.
    pub more: bool,
    pub locks: Vec<HeldLock>,
    /// Files that the session has open.
    pub open: Vec<InodeId>,
    pub writes: Vec<HeldWrite>,
}

/// A Write lease of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct HeldWrite {
    pub inode: InodeId,
    pub grant: WriteGrant,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attached {
    /// Locks that somebody else holds meanwhile.
    pub lost: Vec<HeldLock>,
    /// For how long a silent session keeps its locks against somebody who waits for them.
    pub term_ms: u64,
    /// For how long this, or a heartbeat, renews the leases on what was read. 0: of a leader that gives none.
    pub read_term_ms: u64,
    /// The leader grants Write of files, which a heartbeat renews for `term_ms`.
    pub gives_writes: bool,
    /// A lease on what was read covers opens for reading: of them the leader need not be told before it is recalled (P6.5).
    pub covers_opens: bool,
}

/// Asks for Write of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Acquire {
    pub cluster: ClusterId,
    pub session: SessionId,
    pub attachment: Attachment,
    pub write: HeldWrite,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Acquired {
    /// The session holds Write of the file, which nobody else has written since.
    Granted { attr: InodeAttr, next_commit: u64 },
    /// The request names another attachment than the session's present one.
    NotAttached,
}

/// The leader wants these back, unasked: once what was written under them is committed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WriteRecall {
    pub attachment: Attachment,
    pub writes: Vec<HeldWrite>,
}

/// What was written under these leases is committed, and the session holds them no longer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReturnWrites {
    pub cluster: ClusterId,
    pub session: SessionId,
    pub writes: Vec<HeldWrite>,
}

/// What the leader takes back, unasked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Recall {
    pub attachment: Attachment,
    /// Counted from 1 within the attachment.
    pub number: u64,
    pub what: Recalled,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Recalled {
    /// With names: the attributes of the directory, and what these names lead to; its other names stay. Without: all that was
    /// shown of the inode, the names in it too.
    Inodes(Vec<(InodeId, Vec<Vec<u8>>)>),
    /// All that the session was shown.
    Everything,
}

/// What a session has dropped by itself before it asked for a change: the inodes that the change gives by number, its names, and
/// `behind`, inodes to which the names led. Nothing of that is recalled from it while this is its present attachment (P4.1).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dropped {
    pub attachment: Attachment,
    pub behind: Vec<InodeId>,
    /// The session wants Write of the file that the change makes and opens.
    pub wants_write: Option<WriteGrant>,
    /// The session wants Read of what the answer shows.
    pub wants_read: bool,
    /// Under which the files of a commit were written.
    pub writes: Vec<HeldWrite>,
}

/// This recall was handled, and all before it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RecallsDone {
    pub cluster: ClusterId,
    pub session: SessionId,
    pub attachment: Attachment,
    pub number: u64,
    /// Those of the recalled files that the session has open.
    pub open: Vec<InodeId>,
}

/// A copy that did not give the bytes that the metadata promises.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReplicaReport {
    pub cluster: ClusterId,
    pub chunk: ChunkId,
    pub server: ServerId,
    pub problem: ReplicaProblem,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ReplicaProblem {
    /// Not reached in time.
    Unreachable,
    /// A checksum failed or bytes are missing.
    Damaged,
}

/// Shorthand for what every metadata call returns.
pub type MetaResult<T> = Result<T, MetaError>;
