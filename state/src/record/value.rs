//! Values that several records have in them. To change one of these takes a new version of every table that has it, and of
//! the log entries.

use dfs_proto::attr;
use dfs_proto::error;
use dfs_proto::federation;
use dfs_proto::meta;

use super::stored::{stored_enum, stored_struct};
use crate::command;
use crate::time;

stored_struct! {
    Timestamp = attr::Timestamp { seconds: i64, nanos: u32 }
}

stored_struct! {
    StateTime = time::StateTime { seconds: i64, nanos: u32 }
}

stored_enum! {
    FileKind = attr::FileKind { File, Directory, Symlink, Fifo, Socket, CharDevice, BlockDevice }
}

stored_struct! {
    InodeAttr = attr::InodeAttr {
        inode: u64,
        kind: FileKind,
        mode: u32,
        nlink: u32,
        uid: u32,
        gid: u32,
        size: u64,
        allocated: u64,
        rdev: u32,
        atime: Timestamp,
        mtime: Timestamp,
        ctime: Timestamp,
        content_version: u64,
    }
}

stored_struct! {
    ServerAddresses = command::ServerAddresses { grpc: String, frames: String, http: String }
}

stored_struct! {
    Member = command::Member { id: u64, address: String, directory: u128 }
}

stored_struct! {
    RootCopy = federation::RootCopy { mode: u32, uid: u32, gid: u32 }
}

stored_struct! {
    ClusterEntry = federation::ClusterEntry { name: String, metaservers: Vec<String> }
}

stored_enum! {
    Changed = meta::Changed {
        Done,
        Inode { attr: InodeAttr, existed: bool, next_commit: u64 },
        Removed { orphan: Option<u64> },
        Chunk(opened: OpenedChunk),
        Sealed { committed: u64 },
        Committed { attrs: Vec<InodeAttr> },
    }
}

stored_struct! {
    OpenedChunk = meta::OpenedChunk { chunk: u64, set_version: u64, replicas: Vec<Replica> }
}

stored_struct! {
    Replica = meta::Replica { server: u64, address: String }
}

stored_enum! {
    MetaError = error::MetaError {
        NotFound,
        Exists,
        NotDirectory,
        IsDirectory,
        NotEmpty,
        PermissionDenied,
        NotPermitted,
        GroupsNeeded,
        NameTooLong,
        TooManyLinks,
        CrossVolume,
        InvalidArgument { what: String },
        FileTooLarge,
        NoSpace { what: String },
        Stale,
        SessionExpired { session: u64 },
        RequestTooOld,
        NotLeader { leader: Option<String> },
        WrongCluster { map_version: u64 },
        Unavailable { what: String },
        Away { what: String },
        ChunkNotOpen { chunk: u64 },
        WrongSetVersion { chunk: u64, actual: u64, named: u64 },
        CommitRefused { what: String },
        Unsupported { what: String },
        Internal { what: String },
        Undecided { what: String },
    }
}
