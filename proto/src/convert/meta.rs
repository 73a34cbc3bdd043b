//! Messages of `meta.proto` and `common.proto`.

use bytes::Bytes;

use super::{invalid, required};
use crate::attr::{AccessMask, BadName, Caller, FileKind, InodeAttr, Name, Timestamp};
use crate::error::MetaError;
use crate::extent::Extent;
use crate::ids::{
    ChunkId, ClusterId, Incarnation, InodeId, RequestId, ServerId, SessionId, SessionNonce, SetVersion,
    VolumeId,
};
use crate::meta::{
    Change, ChangeRequest, Changed, ChunkCommit, ChunkLocation, CommitExtents, Create, DirEntry, FileCommit,
    FileExtents, MetaResult, NewInode, OpenChunk, OpenSession, OpenedChunk, Read, ReadReply, ReadRequest,
    Rename, RenewSession, Replica, ReplicaProblem, ReplicaReport, SessionOpened, SessionRenewed, SetAttr,
    SetTime, StatFs,
};
use crate::units::{
    ByteLen, CHUNK_LEN, COMMIT_EXTENTS_MAX, COMMIT_FILES_MAX, ChunkOffset, FILE_LEN_MAX, Offset,
    SYMLINK_LEN_MAX,
};
use crate::wire;

pub fn cluster_from_wire(bytes: &[u8]) -> MetaResult<ClusterId> {
    ClusterId::from_wire(bytes).ok_or_else(|| invalid("cluster id is not 16 bytes"))
}

pub fn name_from_wire(bytes: Bytes) -> MetaResult<Name> {
    Name::new(bytes).map_err(|bad| match bad {
        BadName::TooLong => MetaError::NameTooLong,
        BadName::Invalid => invalid("name"),
    })
}

pub fn timestamp_to_wire(time: Timestamp) -> wire::Timestamp {
    wire::Timestamp { seconds: time.seconds, nanos: time.nanos }
}

pub fn timestamp_from_wire(time: wire::Timestamp) -> MetaResult<Timestamp> {
    if time.nanos >= 1_000_000_000 {
        return Err(invalid("nanoseconds"));
    }
    Ok(Timestamp { seconds: time.seconds, nanos: time.nanos })
}

fn kind_to_wire(kind: FileKind) -> wire::FileKind {
    match kind {
        FileKind::File => wire::FileKind::File,
        FileKind::Directory => wire::FileKind::Directory,
        FileKind::Symlink => wire::FileKind::Symlink,
        FileKind::Fifo => wire::FileKind::Fifo,
        FileKind::Socket => wire::FileKind::Socket,
        FileKind::CharDevice => wire::FileKind::CharDevice,
        FileKind::BlockDevice => wire::FileKind::BlockDevice,
    }
}

fn kind_from_wire(kind: i32) -> MetaResult<FileKind> {
    Ok(match wire::FileKind::try_from(kind) {
        Ok(wire::FileKind::File) => FileKind::File,
        Ok(wire::FileKind::Directory) => FileKind::Directory,
        Ok(wire::FileKind::Symlink) => FileKind::Symlink,
        Ok(wire::FileKind::Fifo) => FileKind::Fifo,
        Ok(wire::FileKind::Socket) => FileKind::Socket,
        Ok(wire::FileKind::CharDevice) => FileKind::CharDevice,
        Ok(wire::FileKind::BlockDevice) => FileKind::BlockDevice,
        Ok(wire::FileKind::Unspecified) | Err(_) => return Err(invalid("file kind")),
    })
}

pub fn attr_to_wire(attr: &InodeAttr) -> wire::Attr {
    wire::Attr {
        inode: attr.inode.0,
        kind: kind_to_wire(attr.kind) as i32,
        mode: attr.mode,
        nlink: attr.nlink,
        uid: attr.uid,
        gid: attr.gid,
        size: attr.size.0,
        allocated: attr.allocated.0,
        rdev: attr.rdev,
        atime: Some(timestamp_to_wire(attr.atime)),
        mtime: Some(timestamp_to_wire(attr.mtime)),
        ctime: Some(timestamp_to_wire(attr.ctime)),
        content_version: attr.content_version,
    }
}

pub fn attr_from_wire(attr: wire::Attr) -> MetaResult<InodeAttr> {
    Ok(InodeAttr {
        inode: InodeId(attr.inode),
        kind: kind_from_wire(attr.kind)?,
        mode: attr.mode & 0o7777,
        nlink: attr.nlink,
        uid: attr.uid,
        gid: attr.gid,
        size: ByteLen(attr.size),
        allocated: ByteLen(attr.allocated),
        rdev: attr.rdev,
        atime: timestamp_from_wire(required(attr.atime, "atime")?)?,
        mtime: timestamp_from_wire(required(attr.mtime, "mtime")?)?,
        ctime: timestamp_from_wire(required(attr.ctime, "ctime")?)?,
        content_version: attr.content_version,
    })
}

fn caller_to_wire(caller: &Caller) -> wire::Caller {
    wire::Caller {
        uid: caller.uid,
        gid: caller.gid,
        groups_known: caller.groups.is_some(),
        groups: caller.groups.clone().unwrap_or_default(),
    }
}

/// As many as Linux allows a process (NGROUPS_MAX).
const GROUPS_MAX: usize = 65_536;

fn caller_from_wire(caller: wire::Caller) -> MetaResult<Caller> {
    if caller.groups.len() > GROUPS_MAX {
        return Err(invalid("too many groups"));
    }
    Ok(Caller { uid: caller.uid, gid: caller.gid, groups: caller.groups_known.then_some(caller.groups) })
}

pub fn error_to_wire(error: &MetaError) -> wire::Error {
    use wire::ErrorCode as Code;
    let plain = |code: Code| wire::Error { code: code as i32, ..Default::default() };
    let text = |code: Code, text: &str| wire::Error {
        code: code as i32,
        text: text.to_owned(),
        ..Default::default()
    };
    match error {
        MetaError::NotFound => plain(Code::NotFound),
        MetaError::Exists => plain(Code::Exists),
        MetaError::NotDirectory => plain(Code::NotDirectory),
        MetaError::IsDirectory => plain(Code::IsDirectory),
        MetaError::NotEmpty => plain(Code::NotEmpty),
        MetaError::PermissionDenied => plain(Code::PermissionDenied),
        MetaError::NotPermitted => plain(Code::NotPermitted),
        MetaError::GroupsNeeded => plain(Code::GroupsNeeded),
        MetaError::NameTooLong => plain(Code::NameTooLong),
        MetaError::TooManyLinks => plain(Code::TooManyLinks),
        MetaError::CrossVolume => plain(Code::CrossVolume),
        MetaError::InvalidArgument { what } => text(Code::InvalidArgument, what),
        MetaError::FileTooLarge => plain(Code::FileTooLarge),
        MetaError::NoSpace { what } => text(Code::NoSpace, what),
        MetaError::Stale => plain(Code::Stale),
        MetaError::SessionExpired { session } => wire::Error { a: session.0, ..plain(Code::SessionExpired) },
        MetaError::RequestTooOld => plain(Code::RequestTooOld),
        MetaError::NotLeader { leader } => text(Code::NotLeader, leader.as_deref().unwrap_or("")),
        MetaError::WrongCluster { map_version } => {
            wire::Error { a: *map_version, ..plain(Code::WrongCluster) }
        }
        MetaError::Unavailable { what } => text(Code::Unavailable, what),
        MetaError::Away { what } => text(Code::ClusterAway, what),
        MetaError::ChunkNotOpen { chunk } => wire::Error { a: chunk.0, ..plain(Code::ChunkNotOpen) },
        MetaError::WrongSetVersion { chunk, actual, named } => {
            wire::Error { a: chunk.0, b: actual.0, c: named.0, ..plain(Code::WrongSetVersion) }
        }
        MetaError::CommitRefused { what } => text(Code::CommitRefused, what),
        MetaError::Unsupported { what } => text(Code::Unsupported, what),
        MetaError::Internal { what } => text(Code::Internal, what),
        MetaError::Undecided { what } => text(Code::Undecided, what),
    }
}

pub fn error_from_wire(error: wire::Error) -> MetaError {
    use wire::ErrorCode as Code;
    let what = error.text;
    match Code::try_from(error.code) {
        Ok(Code::NotFound) => MetaError::NotFound,
        Ok(Code::Exists) => MetaError::Exists,
        Ok(Code::NotDirectory) => MetaError::NotDirectory,
        Ok(Code::IsDirectory) => MetaError::IsDirectory,
        Ok(Code::NotEmpty) => MetaError::NotEmpty,
        Ok(Code::PermissionDenied) => MetaError::PermissionDenied,
        Ok(Code::NotPermitted) => MetaError::NotPermitted,
        Ok(Code::GroupsNeeded) => MetaError::GroupsNeeded,
        Ok(Code::NameTooLong) => MetaError::NameTooLong,
        Ok(Code::TooManyLinks) => MetaError::TooManyLinks,
        Ok(Code::CrossVolume) => MetaError::CrossVolume,
        Ok(Code::InvalidArgument) => MetaError::InvalidArgument { what },
        Ok(Code::FileTooLarge) => MetaError::FileTooLarge,
        Ok(Code::NoSpace) => MetaError::NoSpace { what },
        Ok(Code::Stale) => MetaError::Stale,
        Ok(Code::SessionExpired) => MetaError::SessionExpired { session: SessionId(error.a) },
        Ok(Code::RequestTooOld) => MetaError::RequestTooOld,
        Ok(Code::NotLeader) => MetaError::NotLeader { leader: (!what.is_empty()).then_some(what) },
        Ok(Code::WrongCluster) => MetaError::WrongCluster { map_version: error.a },
        Ok(Code::Unavailable) => MetaError::Unavailable { what },
        Ok(Code::ClusterAway) => MetaError::Away { what },
        Ok(Code::ChunkNotOpen) => MetaError::ChunkNotOpen { chunk: ChunkId(error.a) },
        Ok(Code::WrongSetVersion) => MetaError::WrongSetVersion {
            chunk: ChunkId(error.a),
            actual: SetVersion(error.b),
            named: SetVersion(error.c),
        },
        Ok(Code::CommitRefused) => MetaError::CommitRefused { what },
        Ok(Code::Unsupported) => MetaError::Unsupported { what },
        Ok(Code::Internal) => MetaError::Internal { what },
        Ok(Code::Undecided) => MetaError::Undecided { what },
        Ok(Code::ErrorUnspecified) | Err(_) => {
            MetaError::Internal { what: format!("error code {} is not known here: {what}", error.code) }
        }
    }
}

/// For replies whose error is a field of its own.
pub fn refusal(error: Option<wire::Error>) -> MetaResult<()> {
    error.map_or(Ok(()), |e| Err(error_from_wire(e)))
}

pub fn empty_to_wire(result: MetaResult<()>) -> wire::EmptyReply {
    wire::EmptyReply { error: result.err().as_ref().map(error_to_wire) }
}

// --- sessions ---

pub fn open_session_to_wire(open: &OpenSession) -> wire::OpenSessionRequest {
    wire::OpenSessionRequest {
        cluster: open.cluster.to_wire().into(),
        nonce: open.nonce.to_wire().into(),
        client: open.client.clone(),
    }
}

/// Bytes of a client's description that are kept.
const CLIENT_NAME_LEN_MAX: usize = 256;

pub fn open_session_from_wire(open: wire::OpenSessionRequest) -> MetaResult<OpenSession> {
    let nonce = SessionNonce::from_wire(&open.nonce).filter(|n| n.is_known());
    if open.client.len() > CLIENT_NAME_LEN_MAX {
        return Err(invalid("client name longer than 256 bytes"));
    }
    Ok(OpenSession {
        cluster: cluster_from_wire(&open.cluster)?,
        nonce: required(nonce, "nonce of 16 bytes")?,
        client: open.client,
    })
}

pub fn session_opened_to_wire(result: MetaResult<SessionOpened>) -> wire::OpenSessionReply {
    match result {
        Ok(opened) => wire::OpenSessionReply {
            error: None,
            session: opened.session.0,
            cluster: opened.cluster.to_wire().into(),
            incarnation: opened.incarnation.0,
            root: opened.root.0,
            copies: opened.copies,
            heartbeat_interval_ms: opened.heartbeat_interval_ms,
            now: Some(timestamp_to_wire(opened.now)),
        },
        Err(error) => wire::OpenSessionReply { error: Some(error_to_wire(&error)), ..Default::default() },
    }
}

pub fn session_opened_from_wire(reply: wire::OpenSessionReply) -> MetaResult<SessionOpened> {
    refusal(reply.error)?;
    Ok(SessionOpened {
        session: SessionId(reply.session),
        cluster: cluster_from_wire(&reply.cluster)?,
        incarnation: Incarnation(reply.incarnation),
        root: InodeId(reply.root),
        copies: reply.copies,
        heartbeat_interval_ms: reply.heartbeat_interval_ms,
        now: timestamp_from_wire(required(reply.now, "now")?)?,
    })
}

pub fn renew_to_wire(renew: &RenewSession) -> wire::RenewSessionRequest {
    wire::RenewSessionRequest { cluster: renew.cluster.to_wire().into(), session: renew.session.0 }
}

pub fn renew_from_wire(renew: wire::RenewSessionRequest) -> MetaResult<RenewSession> {
    Ok(RenewSession { cluster: cluster_from_wire(&renew.cluster)?, session: SessionId(renew.session) })
}

pub fn renewed_to_wire(result: MetaResult<SessionRenewed>) -> wire::RenewSessionReply {
    match result {
        Ok(renewed) => wire::RenewSessionReply {
            error: None,
            now: Some(timestamp_to_wire(renewed.now)),
            metaservers: renewed.metaservers,
        },
        Err(error) => wire::RenewSessionReply { error: Some(error_to_wire(&error)), ..Default::default() },
    }
}

pub fn renewed_from_wire(reply: wire::RenewSessionReply) -> MetaResult<SessionRenewed> {
    refusal(reply.error)?;
    Ok(SessionRenewed {
        now: timestamp_from_wire(required(reply.now, "now")?)?,
        metaservers: reply.metaservers,
    })
}

pub fn report_to_wire(report: &ReplicaReport) -> wire::ReportReplicaRequest {
    wire::ReportReplicaRequest {
        cluster: report.cluster.to_wire().into(),
        chunk: report.chunk.0,
        server: report.server.0,
        problem: match report.problem {
            ReplicaProblem::Unreachable => wire::ReplicaProblem::Unreachable,
            ReplicaProblem::Damaged => wire::ReplicaProblem::Damaged,
        } as i32,
    }
}

pub fn report_from_wire(report: wire::ReportReplicaRequest) -> MetaResult<ReplicaReport> {
    Ok(ReplicaReport {
        cluster: cluster_from_wire(&report.cluster)?,
        chunk: ChunkId(report.chunk),
        server: ServerId(report.server),
        problem: match wire::ReplicaProblem::try_from(report.problem) {
            Ok(wire::ReplicaProblem::Unreachable) => ReplicaProblem::Unreachable,
            Ok(wire::ReplicaProblem::Damaged) => ReplicaProblem::Damaged,
            Ok(wire::ReplicaProblem::Unspecified) | Err(_) => return Err(invalid("problem")),
        },
    })
}

// --- changes ---

pub fn change_request_to_wire(request: &ChangeRequest) -> wire::ChangeRequest {
    wire::ChangeRequest {
        cluster: request.cluster.to_wire().into(),
        session: request.session.0,
        request: request.request.0,
        answered_below: request.answered_below.0,
        caller: Some(caller_to_wire(&request.caller)),
        change: Some(change_to_wire(&request.change)),
    }
}

pub fn change_request_from_wire(request: wire::ChangeRequest) -> MetaResult<ChangeRequest> {
    Ok(ChangeRequest {
        cluster: cluster_from_wire(&request.cluster)?,
        session: SessionId(request.session),
        request: RequestId(request.request),
        answered_below: RequestId(request.answered_below),
        caller: caller_from_wire(required(request.caller, "caller")?)?,
        change: change_from_wire(required(request.change, "change")?)?,
    })
}

fn bytes_of(name: &Name) -> Bytes {
    Bytes::copy_from_slice(name.as_bytes())
}

fn change_to_wire(change: &Change) -> wire::change_request::Change {
    use wire::change_request::Change as Wire;
    match change {
        Change::Create(create) => Wire::Create(create_to_wire(create)),
        Change::Link { inode, parent, name } => {
            Wire::Link(wire::Link { inode: inode.0, parent: parent.0, name: bytes_of(name) })
        }
        Change::Unlink { parent, name } => {
            Wire::Unlink(wire::RemoveName { parent: parent.0, name: bytes_of(name) })
        }
        Change::Rmdir { parent, name } => {
            Wire::Rmdir(wire::RemoveName { parent: parent.0, name: bytes_of(name) })
        }
        Change::Rename(rename) => Wire::Rename(wire::Rename {
            parent: rename.parent.0,
            name: bytes_of(&rename.name),
            new_parent: rename.new_parent.0,
            new_name: bytes_of(&rename.new_name),
            no_replace: rename.no_replace,
        }),
        Change::SetAttr(set) => Wire::SetAttr(wire::SetAttr {
            inode: set.inode.0,
            mode: set.mode,
            uid: set.uid,
            gid: set.gid,
            size: set.size.map(|s| s.0),
            atime: set.atime.map(set_time_to_wire),
            mtime: set.mtime.map(set_time_to_wire),
            by_handle: set.by_handle,
            kill_privileges: set.kill_privileges,
        }),
        Change::OpenChunk(open) => Wire::OpenChunk(wire::OpenChunk {
            avoid: open.avoid.iter().map(|s| s.0).collect(),
            copies: open.copies,
            beside: open.beside.iter().map(|s| s.0).collect(),
            volume: open.volume.map(|v| v.0),
        }),
        Change::SealChunk { chunk } => Wire::SealChunk(wire::SealChunk { chunk: chunk.0 }),
        Change::CommitExtents(commit) => Wire::CommitExtents(commit_to_wire(commit)),
        Change::ReleaseOrphans { inodes } => {
            Wire::ReleaseOrphans(wire::ReleaseOrphans { inodes: inodes.iter().map(|i| i.0).collect() })
        }
    }
}

/// Inodes that one release may name.
const RELEASE_MAX: usize = 1000;
/// Servers that one opening may name, to avoid or beside it.
const SERVERS_MAX: usize = 1024;

fn change_from_wire(change: wire::change_request::Change) -> MetaResult<Change> {
    use wire::change_request::Change as Wire;
    Ok(match change {
        Wire::Create(create) => Change::Create(create_from_wire(create)?),
        Wire::Link(link) => Change::Link {
            inode: InodeId(link.inode),
            parent: InodeId(link.parent),
            name: name_from_wire(link.name)?,
        },
        Wire::Unlink(remove) => {
            Change::Unlink { parent: InodeId(remove.parent), name: name_from_wire(remove.name)? }
        }
        Wire::Rmdir(remove) => {
            Change::Rmdir { parent: InodeId(remove.parent), name: name_from_wire(remove.name)? }
        }
        Wire::Rename(rename) => Change::Rename(Rename {
            parent: InodeId(rename.parent),
            name: name_from_wire(rename.name)?,
            new_parent: InodeId(rename.new_parent),
            new_name: name_from_wire(rename.new_name)?,
            no_replace: rename.no_replace,
        }),
        Wire::SetAttr(set) => Change::SetAttr(set_attr_from_wire(set)?),
        Wire::OpenChunk(open) => {
            if open.avoid.len().max(open.beside.len()) > SERVERS_MAX {
                return Err(invalid("too many servers to avoid, or beside it"));
            }
            Change::OpenChunk(OpenChunk {
                avoid: open.avoid.into_iter().map(ServerId).collect(),
                copies: open.copies,
                beside: open.beside.into_iter().map(ServerId).collect(),
                volume: open.volume.map(VolumeId),
            })
        }
        Wire::SealChunk(seal) => Change::SealChunk { chunk: ChunkId(seal.chunk) },
        Wire::CommitExtents(commit) => Change::CommitExtents(commit_from_wire(commit)?),
        Wire::ReleaseOrphans(release) => {
            if release.inodes.len() > RELEASE_MAX {
                return Err(invalid("more than 1000 inodes in one release"));
            }
            Change::ReleaseOrphans { inodes: release.inodes.into_iter().map(InodeId).collect() }
        }
    })
}

fn create_to_wire(create: &Create) -> wire::Create {
    let cluster;
    let (kind, target, rdev) = match &create.what {
        NewInode::File => (wire::FileKind::File, &[][..], 0),
        NewInode::Directory => (wire::FileKind::Directory, &[][..], 0),
        NewInode::Volume { cluster: of } => {
            cluster = of.0.to_be_bytes();
            (wire::FileKind::Directory, &cluster[..], 0)
        }
        NewInode::Symlink { target } => (wire::FileKind::Symlink, target.as_slice(), 0),
        NewInode::Fifo => (wire::FileKind::Fifo, &[][..], 0),
        NewInode::Socket => (wire::FileKind::Socket, &[][..], 0),
        NewInode::CharDevice { rdev } => (wire::FileKind::CharDevice, &[][..], *rdev),
        NewInode::BlockDevice { rdev } => (wire::FileKind::BlockDevice, &[][..], *rdev),
    };
    wire::Create {
        parent: create.parent.0,
        name: bytes_of(&create.name),
        mode: create.mode,
        kind: kind as i32,
        target: Bytes::copy_from_slice(target),
        rdev,
        or_existing: create.or_existing,
    }
}

fn create_from_wire(create: wire::Create) -> MetaResult<Create> {
    let what = match kind_from_wire(create.kind)? {
        FileKind::File => NewInode::File,
        FileKind::Directory => match ClusterId::from_wire(&create.target) {
            Some(cluster) if cluster.is_known() => NewInode::Volume { cluster },
            Some(_) => NewInode::Directory,
            None => return Err(invalid("the cluster of a new volume is no id")),
        },
        FileKind::Symlink if create.target.is_empty() => return Err(MetaError::NotFound),
        FileKind::Symlink if create.target.len() > SYMLINK_LEN_MAX => return Err(MetaError::NameTooLong),
        FileKind::Symlink => NewInode::Symlink { target: create.target.to_vec() },
        FileKind::Fifo => NewInode::Fifo,
        FileKind::Socket => NewInode::Socket,
        FileKind::CharDevice => NewInode::CharDevice { rdev: create.rdev },
        FileKind::BlockDevice => NewInode::BlockDevice { rdev: create.rdev },
    };
    Ok(Create {
        parent: InodeId(create.parent),
        name: name_from_wire(create.name)?,
        mode: create.mode & 0o7777,
        what,
        or_existing: create.or_existing,
    })
}

fn set_time_to_wire(time: SetTime) -> wire::SetTime {
    match time {
        SetTime::Now => wire::SetTime { now: true, at: None },
        SetTime::At(at) => wire::SetTime { now: false, at: Some(timestamp_to_wire(at)) },
    }
}

fn set_time_from_wire(time: wire::SetTime) -> MetaResult<SetTime> {
    if time.now {
        return Ok(SetTime::Now);
    }
    Ok(SetTime::At(timestamp_from_wire(required(time.at, "time")?)?))
}

fn set_attr_from_wire(set: wire::SetAttr) -> MetaResult<SetAttr> {
    if set.size.is_some_and(|s| s > FILE_LEN_MAX) {
        return Err(MetaError::FileTooLarge);
    }
    Ok(SetAttr {
        inode: InodeId(set.inode),
        mode: set.mode.map(|m| m & 0o7777),
        uid: set.uid,
        gid: set.gid,
        size: set.size.map(ByteLen),
        atime: set.atime.map(set_time_from_wire).transpose()?,
        mtime: set.mtime.map(set_time_from_wire).transpose()?,
        by_handle: set.by_handle,
        kill_privileges: set.kill_privileges,
    })
}

fn commit_to_wire(commit: &CommitExtents) -> wire::CommitExtents {
    wire::CommitExtents {
        chunks: commit
            .chunks
            .iter()
            .map(|c| wire::ChunkCommit { chunk: c.chunk.0, set_version: c.set_version.0, up_to: c.up_to.0 })
            .collect(),
        files: commit
            .files
            .iter()
            .map(|f| wire::FileCommit {
                inode: f.inode.0,
                number: f.number,
                extents: f.extents.iter().map(extent_to_wire).collect(),
                size_at_least: f.size_at_least.0,
                mtime: f.mtime.map(timestamp_to_wire),
                kill_privileges: f.kill_privileges,
            })
            .collect(),
    }
}

fn commit_from_wire(commit: wire::CommitExtents) -> MetaResult<CommitExtents> {
    if commit.files.len() > COMMIT_FILES_MAX || commit.chunks.len() > COMMIT_FILES_MAX {
        return Err(invalid("too many files or chunks in one commit"));
    }
    let chunks = commit.chunks.into_iter().map(|c| ChunkCommit {
        chunk: ChunkId(c.chunk),
        set_version: SetVersion(c.set_version),
        up_to: ByteLen(c.up_to),
    });
    let files = commit.files.into_iter().map(file_commit_from_wire).collect::<MetaResult<_>>()?;
    Ok(CommitExtents { chunks: chunks.collect(), files })
}

fn file_commit_from_wire(file: wire::FileCommit) -> MetaResult<FileCommit> {
    if file.extents.len() > COMMIT_EXTENTS_MAX {
        return Err(invalid("more than 512 extents of one file in one commit"));
    }
    if file.size_at_least > FILE_LEN_MAX {
        return Err(MetaError::FileTooLarge);
    }
    let extents = file.extents.into_iter().map(extent_from_wire).collect::<MetaResult<Vec<_>>>()?;
    if extents.windows(2).any(|pair| pair[0].end() > pair[1].offset.0) {
        return Err(invalid("extents overlap or are not in file order"));
    }
    if extents.last().is_some_and(|last| last.end() > file.size_at_least) {
        return Err(invalid("an extent ends behind the size"));
    }
    Ok(FileCommit {
        inode: InodeId(file.inode),
        number: file.number,
        extents,
        size_at_least: ByteLen(file.size_at_least),
        mtime: file.mtime.map(timestamp_from_wire).transpose()?,
        kill_privileges: file.kill_privileges,
    })
}

fn extent_to_wire(extent: &Extent) -> wire::Extent {
    wire::Extent {
        offset: extent.offset.0,
        len: extent.len,
        chunk: extent.chunk.0,
        chunk_offset: extent.chunk_offset.0,
    }
}

fn extent_from_wire(extent: wire::Extent) -> MetaResult<Extent> {
    let fits = extent.len >= 1
        && extent.chunk_offset.checked_add(extent.len).is_some_and(|end| end <= CHUNK_LEN)
        && extent.offset.checked_add(extent.len).is_some_and(|end| end <= FILE_LEN_MAX);
    if !fits {
        return Err(invalid("extent out of range"));
    }
    Ok(Extent {
        offset: Offset(extent.offset),
        len: extent.len,
        chunk: ChunkId(extent.chunk),
        chunk_offset: ChunkOffset(extent.chunk_offset),
    })
}

fn replicas_to_wire(replicas: &[Replica]) -> Vec<wire::Replica> {
    replicas.iter().map(|r| wire::Replica { server: r.server.0, address: r.address.clone() }).collect()
}

fn replicas_from_wire(replicas: Vec<wire::Replica>) -> Vec<Replica> {
    replicas.into_iter().map(|r| Replica { server: ServerId(r.server), address: r.address }).collect()
}

pub fn changed_to_wire(result: MetaResult<Changed>) -> wire::ChangeReply {
    use wire::change_reply::Result as Wire;
    let result = match result {
        Err(error) => Wire::Error(error_to_wire(&error)),
        Ok(Changed::Done) => Wire::Done(wire::Done {}),
        Ok(Changed::Inode { attr, existed, next_commit }) => {
            Wire::Inode(wire::ChangedInode { attr: Some(attr_to_wire(&attr)), existed, next_commit })
        }
        Ok(Changed::Removed { orphan }) => {
            Wire::Removed(wire::Removed { orphan: orphan.map_or(0, |inode| inode.0) })
        }
        Ok(Changed::Chunk(opened)) => Wire::Chunk(wire::OpenedChunk {
            chunk: opened.chunk.0,
            set_version: opened.set_version.0,
            replicas: replicas_to_wire(&opened.replicas),
        }),
        Ok(Changed::Sealed { committed }) => Wire::Sealed(wire::Sealed { committed: committed.0 }),
        Ok(Changed::Committed { attrs }) => {
            Wire::Committed(wire::Committed { attrs: attrs.iter().map(attr_to_wire).collect() })
        }
    };
    wire::ChangeReply { result: Some(result), directories: Vec::new() }
}

/// The directories that a change altered. What cannot be read is left out: nobody depends on it.
pub fn directories_from_wire(reply: &mut wire::ChangeReply) -> Vec<InodeAttr> {
    std::mem::take(&mut reply.directories).into_iter().filter_map(|attr| attr_from_wire(attr).ok()).collect()
}

pub fn changed_from_wire(reply: wire::ChangeReply) -> MetaResult<Changed> {
    use wire::change_reply::Result as Wire;
    Ok(match required(reply.result, "result")? {
        Wire::Error(error) => return Err(error_from_wire(error)),
        Wire::Done(wire::Done {}) => Changed::Done,
        Wire::Inode(inode) => Changed::Inode {
            attr: attr_from_wire(required(inode.attr, "attr")?)?,
            existed: inode.existed,
            next_commit: inode.next_commit,
        },
        Wire::Removed(removed) => {
            Changed::Removed { orphan: (removed.orphan != 0).then_some(InodeId(removed.orphan)) }
        }
        Wire::Chunk(opened) => Changed::Chunk(OpenedChunk {
            chunk: ChunkId(opened.chunk),
            set_version: SetVersion(opened.set_version),
            replicas: replicas_from_wire(opened.replicas),
        }),
        Wire::Sealed(sealed) => Changed::Sealed { committed: ByteLen(sealed.committed) },
        Wire::Committed(committed) => Changed::Committed {
            attrs: committed.attrs.into_iter().map(attr_from_wire).collect::<MetaResult<_>>()?,
        },
    })
}

// --- reads ---

pub fn read_request_to_wire(request: &ReadRequest) -> wire::ReadRequest {
    use wire::read_request::Read as Wire;
    let access = |inode: InodeId, mask: AccessMask| wire::Access { inode: inode.0, mask: u32::from(mask.0) };
    let read = match &request.read {
        Read::Lookup { parent, name } => {
            Wire::Lookup(wire::Lookup { parent: parent.0, name: Bytes::copy_from_slice(name) })
        }
        Read::GetAttr { inode } => Wire::GetAttr(inode.0),
        Read::Access { inode, mask } => Wire::Access(access(*inode, *mask)),
        Read::Open { inode, mask } => Wire::Open(access(*inode, *mask)),
        Read::ReadLink { inode } => Wire::ReadLink(inode.0),
        Read::ReadDir { inode, cookie, limit, plus } => {
            Wire::ReadDir(wire::ReadDir { inode: inode.0, cookie: *cookie, limit: *limit, plus: *plus })
        }
        Read::Extents { inode, offset, len, limit } => {
            Wire::Extents(wire::ExtentsOf { inode: inode.0, offset: offset.0, len: *len, limit: *limit })
        }
        Read::StatFs { inode } => Wire::StatFs(inode.0),
    };
    wire::ReadRequest {
        cluster: request.cluster.to_wire().into(),
        session: request.session.0,
        caller: Some(caller_to_wire(&request.caller)),
        read: Some(read),
    }
}

fn mask_from_wire(mask: u32) -> MetaResult<AccessMask> {
    if mask > 7 {
        return Err(invalid("access mask"));
    }
    Ok(AccessMask(mask as u8))
}

pub fn read_request_from_wire(request: wire::ReadRequest) -> MetaResult<ReadRequest> {
    use wire::read_request::Read as Wire;
    let read = match required(request.read, "read")? {
        Wire::Lookup(lookup) => Read::Lookup { parent: InodeId(lookup.parent), name: lookup.name.to_vec() },
        Wire::GetAttr(inode) => Read::GetAttr { inode: InodeId(inode) },
        Wire::Access(access) => {
            Read::Access { inode: InodeId(access.inode), mask: mask_from_wire(access.mask)? }
        }
        Wire::Open(access) => Read::Open { inode: InodeId(access.inode), mask: mask_from_wire(access.mask)? },
        Wire::ReadLink(inode) => Read::ReadLink { inode: InodeId(inode) },
        Wire::ReadDir(dir) => {
            Read::ReadDir { inode: InodeId(dir.inode), cookie: dir.cookie, limit: dir.limit, plus: dir.plus }
        }
        Wire::Extents(of) => Read::Extents {
            inode: InodeId(of.inode),
            offset: Offset(of.offset),
            len: of.len,
            limit: of.limit,
        },
        Wire::StatFs(inode) => Read::StatFs { inode: InodeId(inode) },
    };
    Ok(ReadRequest {
        cluster: cluster_from_wire(&request.cluster)?,
        session: SessionId(request.session),
        caller: caller_from_wire(required(request.caller, "caller")?)?,
        read,
    })
}

pub fn read_reply_to_wire(result: MetaResult<ReadReply>) -> wire::ReadReply {
    use wire::read_reply::Result as Wire;
    let result = match result {
        Err(error) => Wire::Error(error_to_wire(&error)),
        Ok(ReadReply::Attr(attr)) => Wire::Attr(attr_to_wire(&attr)),
        Ok(ReadReply::Elsewhere(inode)) => Wire::Elsewhere(inode.0),
        Ok(ReadReply::Opened { attr, next_commit }) => {
            Wire::Opened(wire::Opened { attr: Some(attr_to_wire(&attr)), next_commit })
        }
        Ok(ReadReply::Granted) => Wire::Granted(wire::Done {}),
        Ok(ReadReply::Target(target)) => Wire::Target(target.into()),
        Ok(ReadReply::Entries { entries, end, parent }) => Wire::Entries(wire::Entries {
            entries: entries.iter().map(entry_to_wire).collect(),
            end,
            parent: parent.0,
        }),
        Ok(ReadReply::Extents(extents)) => Wire::Extents(wire::FileExtents {
            attr: Some(attr_to_wire(&extents.attr)),
            extents: extents.extents.iter().map(extent_to_wire).collect(),
            up_to: extents.up_to.0,
            chunks: extents.chunks.iter().map(location_to_wire).collect(),
        }),
        Ok(ReadReply::StatFs(stat)) => {
            Wire::StatFs(wire::StatFs { total: stat.total.0, free: stat.free.0, inodes: stat.inodes })
        }
    };
    wire::ReadReply { result: Some(result) }
}

fn entry_to_wire(entry: &DirEntry) -> wire::Entry {
    wire::Entry {
        name: bytes_of(&entry.name),
        inode: entry.inode.0,
        kind: kind_to_wire(entry.kind) as i32,
        cookie: entry.cookie,
        attr: entry.attr.as_ref().map(attr_to_wire),
    }
}

fn entry_from_wire(entry: wire::Entry) -> MetaResult<DirEntry> {
    Ok(DirEntry {
        name: name_from_wire(entry.name)?,
        inode: InodeId(entry.inode),
        kind: kind_from_wire(entry.kind)?,
        cookie: entry.cookie,
        attr: entry.attr.map(attr_from_wire).transpose()?,
    })
}

fn location_to_wire(location: &ChunkLocation) -> wire::ChunkLocation {
    wire::ChunkLocation {
        chunk: location.chunk.0,
        set_version: location.set_version.0,
        committed: location.committed.0,
        sealed: location.sealed,
        replicas: replicas_to_wire(&location.replicas),
    }
}

fn location_from_wire(location: wire::ChunkLocation) -> ChunkLocation {
    ChunkLocation {
        chunk: ChunkId(location.chunk),
        set_version: SetVersion(location.set_version),
        committed: ByteLen(location.committed),
        sealed: location.sealed,
        replicas: replicas_from_wire(location.replicas),
    }
}

pub fn read_reply_from_wire(reply: wire::ReadReply) -> MetaResult<ReadReply> {
    use wire::read_reply::Result as Wire;
    Ok(match required(reply.result, "result")? {
        Wire::Error(error) => return Err(error_from_wire(error)),
        Wire::Attr(attr) => ReadReply::Attr(attr_from_wire(attr)?),
        Wire::Elsewhere(inode) => ReadReply::Elsewhere(InodeId(inode)),
        Wire::Opened(opened) => ReadReply::Opened {
            attr: attr_from_wire(required(opened.attr, "attr")?)?,
            next_commit: opened.next_commit,
        },
        Wire::Granted(wire::Done {}) => ReadReply::Granted,
        Wire::Target(target) => ReadReply::Target(target.to_vec()),
        Wire::Entries(entries) => ReadReply::Entries {
            entries: entries.entries.into_iter().map(entry_from_wire).collect::<MetaResult<_>>()?,
            end: entries.end,
            parent: InodeId(entries.parent),
        },
        Wire::Extents(extents) => ReadReply::Extents(FileExtents {
            attr: attr_from_wire(required(extents.attr, "attr")?)?,
            extents: extents.extents.into_iter().map(extent_from_wire).collect::<MetaResult<_>>()?,
            up_to: Offset(extents.up_to),
            chunks: extents.chunks.into_iter().map(location_from_wire).collect(),
        }),
        Wire::StatFs(stat) => ReadReply::StatFs(StatFs {
            total: ByteLen(stat.total),
            free: ByteLen(stat.free),
            inodes: stat.inodes,
        }),
    })
}
