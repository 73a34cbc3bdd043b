//! Commits of extents: what a client wrote to chunks becomes part of files.

use super::attr::{timestamp_from_wire, timestamp_to_wire};
use crate::convert::invalid;
use crate::error::MetaError;
use crate::extent::Extent;
use crate::ids::{ChunkId, InodeId, SetVersion};
use crate::meta::{ChunkCommit, CommitExtents, FileCommit, MetaResult};
use crate::units::{
    ByteLen, CHUNK_LEN, COMMIT_EXTENTS_MAX, COMMIT_FILES_MAX, ChunkOffset, FILE_LEN_MAX, Offset,
};
use crate::wire;

pub(super) fn commit_to_wire(commit: &CommitExtents) -> wire::CommitExtents {
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

pub(super) fn commit_from_wire(commit: wire::CommitExtents) -> MetaResult<CommitExtents> {
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

pub(super) fn extent_to_wire(extent: &Extent) -> wire::Extent {
    wire::Extent {
        offset: extent.offset.0,
        len: extent.len,
        chunk: extent.chunk.0,
        chunk_offset: extent.chunk_offset.0,
    }
}

pub(super) fn extent_from_wire(extent: wire::Extent) -> MetaResult<Extent> {
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
