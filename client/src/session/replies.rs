//! Which reply belongs to which request. A metaserver that gives another one has a bug, and the caller gets an
//! internal error.

use dfs_proto::attr::InodeAttr;
use dfs_proto::error::MetaError;
use dfs_proto::ids::InodeId;
use dfs_proto::meta::{
    Changed, DirEntry, FewExtents, FileExtents, MetaResult, OpenedChunk, ReadReply, StatFs,
};

/// The reply to `Change::Create`, `Change::Link` and `Change::SetAttr`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Created {
    pub attr: InodeAttr,
    /// The file was there before (`Create::or_existing`).
    pub existed: bool,
    /// The number of the next commit of this file (`dfs_proto::meta::FileCommit::number`).
    pub next_commit: u64,
}

/// One part of a directory's listing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DirPage {
    pub entries: Vec<DirEntry>,
    /// There are no entries behind these.
    pub end: bool,
    /// The directory's parent, for `..`.
    pub parent: InodeId,
}

/// The reply to `Read::Lookup`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Found {
    Here(InodeAttr),
    /// The name leads to the root directory of a volume that another cluster has.
    Elsewhere(InodeId),
}

/// Takes the reply to `Read::Lookup`.
pub(crate) fn found(reply: ReadReply) -> MetaResult<Found> {
    match reply {
        ReadReply::Attr(attr) => Ok(Found::Here(attr)),
        ReadReply::Elsewhere(inode) => Ok(Found::Elsewhere(inode)),
        other => Err(unexpected(&other)),
    }
}

/// Takes the reply to `Read::GetAttr`.
pub(crate) fn attr(reply: ReadReply) -> MetaResult<InodeAttr> {
    match reply {
        ReadReply::Attr(attr) => Ok(attr),
        other => Err(unexpected(&other)),
    }
}

/// Takes the reply to `Read::Access`.
pub(crate) fn granted(reply: ReadReply) -> MetaResult<()> {
    match reply {
        ReadReply::Granted => Ok(()),
        other => Err(unexpected(&other)),
    }
}

/// What `Read::Open` brings.
pub(crate) struct OpenedFile {
    pub(crate) attr: InodeAttr,
    /// The number of the next commit (P2.1).
    pub(crate) next_commit: u64,
    /// The first extents, of the same moment.
    pub(crate) extents: Option<FileExtents>,
}

/// Takes the reply to `Read::Open`.
pub(crate) fn opened(reply: ReadReply) -> MetaResult<OpenedFile> {
    match reply {
        ReadReply::Opened { attr, next_commit, extents } => Ok(OpenedFile { attr, next_commit, extents }),
        other => Err(unexpected(&other)),
    }
}

/// Takes the reply to `Read::ReadLink`.
pub(crate) fn target(reply: ReadReply) -> MetaResult<Vec<u8>> {
    match reply {
        ReadReply::Target(target) => Ok(target),
        other => Err(unexpected(&other)),
    }
}

/// Takes the reply to `Read::ReadDir`.
pub(crate) fn page(reply: ReadReply) -> MetaResult<DirPage> {
    match reply {
        ReadReply::Entries { entries, end, parent } => Ok(DirPage { entries, end, parent }),
        other => Err(unexpected(&other)),
    }
}

/// Takes the reply to `Read::ExtentsNear`.
pub(crate) fn few_extents(reply: ReadReply) -> MetaResult<FewExtents> {
    match reply {
        ReadReply::FewExtents(few) => Ok(few),
        other => Err(unexpected(&other)),
    }
}

/// Takes the reply to `Read::Extents`.
pub(crate) fn extents(reply: ReadReply) -> MetaResult<FileExtents> {
    match reply {
        ReadReply::Extents(extents) => Ok(extents),
        other => Err(unexpected(&other)),
    }
}

/// Takes the reply to `Read::StatFs`.
pub(crate) fn space(reply: ReadReply) -> MetaResult<StatFs> {
    match reply {
        ReadReply::StatFs(space) => Ok(space),
        other => Err(unexpected(&other)),
    }
}

/// Takes the reply to `Change::Create`, `Change::Link` and `Change::SetAttr`.
pub(crate) fn inode(changed: Changed) -> MetaResult<Created> {
    match changed {
        Changed::Inode { attr, existed, next_commit } => Ok(Created { attr, existed, next_commit }),
        other => Err(unexpected(&other)),
    }
}

/// Takes the reply to `Change::Unlink`, `Change::Rmdir` and `Change::Rename`: the inode that lost its last name, if
/// one did.
pub(crate) fn orphan(changed: Changed) -> MetaResult<Option<InodeId>> {
    match changed {
        Changed::Removed { orphan } => Ok(orphan),
        other => Err(unexpected(&other)),
    }
}

/// Takes the reply to `Change::OpenChunk`.
pub(crate) fn chunk(changed: Changed) -> MetaResult<OpenedChunk> {
    match changed {
        Changed::Chunk(opened) => Ok(opened),
        other => Err(unexpected(&other)),
    }
}

/// Takes the reply to `Change::CommitExtents` of so many files: the attributes of each, in order.
pub(crate) fn committed(changed: Changed, files: usize) -> MetaResult<Vec<InodeAttr>> {
    match changed {
        Changed::Committed { attrs } if attrs.len() == files => Ok(attrs),
        other => Err(unexpected(&other)),
    }
}

fn unexpected(reply: &dyn std::fmt::Debug) -> MetaError {
    MetaError::Internal { what: format!("the metaserver answered something else: {reply:?}") }
}
