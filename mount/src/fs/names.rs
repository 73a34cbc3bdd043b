//! Calls that find and change names.

use std::time::Duration;

use dfs_client::inode::{Link, ReadLink, Resolve, Resolved, Rmdir, Unlink};
use dfs_proto::attr::{BadName, FileKind, InodeAttr, Name};
use dfs_proto::ids::InodeId;
use dfs_proto::meta::{Create, NewInode, Rename, RenameMode};
use tokio::time::Instant;

use crate::fs::attributes::Attributes;
use crate::fs::error::{FsError, FsResult};
use crate::fs::mounted::Fs;
use crate::groups::Requester;

/// What a name leads to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum LookedUp {
    Found(Attributes),
    /// The root directory of a volume whose cluster does not answer.
    Unanswered(InodeId),
}

impl Fs {
    pub(crate) async fn lookup(&self, who: Requester, parent: InodeId, name: &[u8]) -> FsResult<LookedUp> {
        let (asked, checked) = (Instant::now(), entry_name(name)?);
        let resolve = Resolve { parent, name: checked.as_bytes().to_vec() };
        let resolved = self.perform(who, resolve).await?;
        let (inode, kind) = match &resolved {
            Resolved::Attr(attr) => (attr.inode, attr.kind),
            Resolved::Unanswered(volume) => (*volume, FileKind::Directory),
        };
        let is_new = self.inodes.looked_up(inode, kind, (parent, name));
        let Resolved::Attr(attr) = resolved else { return Ok(LookedUp::Unanswered(inode)) };
        if is_new {
            self.inodes.began(&attr);
        }
        // After it was counted, which keeps KA5; so from here on the answer is no error.
        let known = self.noted(inode, asked).await.unwrap_or(None);
        let fresh = || Attributes { attr: self.shown_to(attr, asked), timeout: Duration::ZERO };
        Ok(LookedUp::Found(known.unwrap_or_else(fresh)))
    }

    pub(crate) fn forget(&self, inode: InodeId, count: u64) {
        self.inodes.forget(inode, count);
    }

    /// Makes a directory, symbolic link, node or file. A file is not opened.
    pub(crate) async fn make(
        &self,
        who: Requester,
        parent: InodeId,
        name: &[u8],
        mode: u32,
        what: NewInode,
    ) -> FsResult<InodeAttr> {
        let create = Create { parent, name: entry_name(name)?, mode, what, or_existing: false, opens: false };
        let created = self.perform(who, create).await?;
        self.inodes.looked_up(created.attr.inode, created.attr.kind, (parent, name));
        Ok(created.attr)
    }

    pub(crate) async fn link(
        &self,
        who: Requester,
        inode: InodeId,
        parent: InodeId,
        name: &[u8],
    ) -> FsResult<InodeAttr> {
        let attr = self.perform(who, Link { inode, parent, name: entry_name(name)? }).await?;
        self.inodes.looked_up(attr.inode, attr.kind, (parent, name));
        Ok(self.shown(attr))
    }

    pub(crate) async fn unlink(&self, who: Requester, parent: InodeId, name: &[u8]) -> FsResult<()> {
        Ok(self.perform(who, Unlink { parent, name: entry_name(name)? }).await?)
    }

    pub(crate) async fn rmdir(&self, who: Requester, parent: InodeId, name: &[u8]) -> FsResult<()> {
        let orphan = self.perform(who, Rmdir { parent, name: entry_name(name)? }).await?;
        self.inodes.orphaned(orphan);
        Ok(())
    }

    /// `flags` are those of `renameat2`. One of RENAME_NOREPLACE and RENAME_EXCHANGE works; all others are refused, never ignored.
    pub(crate) async fn rename(
        &self,
        who: Requester,
        (parent, name): (InodeId, &[u8]),
        (new_parent, new_name): (InodeId, &[u8]),
        flags: u32,
    ) -> FsResult<()> {
        let mode = match flags {
            0 => RenameMode::Replace,
            libc::RENAME_NOREPLACE => RenameMode::NoReplace,
            libc::RENAME_EXCHANGE => RenameMode::Exchange,
            flags => return Err(FsError::RenameFlags { flags }),
        };
        let rename =
            Rename { parent, name: entry_name(name)?, new_parent, new_name: entry_name(new_name)?, mode };
        let orphan = self.perform(who, rename).await?;
        self.inodes.orphaned(orphan);
        Ok(())
    }

    pub(crate) async fn readlink(&self, who: Requester, inode: InodeId) -> FsResult<Vec<u8>> {
        Ok(self.perform(who, ReadLink { inode }).await?)
    }
}

pub(super) fn entry_name(bytes: &[u8]) -> FsResult<Name> {
    Name::new(bytes).map_err(|bad| match bad {
        BadName::TooLong => FsError::NameTooLong,
        BadName::Invalid => FsError::BadName,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_that_are_no_name_of_an_entry_never_reach_the_server() {
        assert!(matches!(entry_name(&[b'x'; 256]), Err(FsError::NameTooLong)));
        for bad in [&b""[..], b".", b"..", b"a/b", b"a\0b"] {
            assert!(matches!(entry_name(bad), Err(FsError::BadName)), "{bad:?}");
        }
        assert!(entry_name(&[b'x'; 255]).is_ok());
    }
}
