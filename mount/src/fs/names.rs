//! Calls that find and change names.

use std::time::Duration;

use dfs_client::ClientError;
use dfs_client::inode::{GetLeasedName, Link, ReadLink, Resolve, Resolved, Rmdir, Unlink};
use dfs_proto::attr::{BadName, Caller, FileKind, InodeAttr, Name};
use dfs_proto::ids::InodeId;
use dfs_proto::meta::{Create, NewInode, Rename, RenameMode};
use tokio::time::{Instant, sleep_until};

use crate::fs::attributes::Attributes;
use crate::fs::error::{FsError, FsResult};
use crate::fs::mounted::Fs;
use crate::groups::Requester;

/// What a name leads to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum LookedUp {
    /// The name has a time-out of its own.
    Found(Attributes, Duration),
    /// It is not there; for so long.
    Absent(Duration),
    /// The root directory of a volume whose cluster does not answer.
    Unanswered(InodeId),
}

impl Fs {
    pub(crate) async fn lookup(&self, who: Requester, parent: InodeId, name: &[u8]) -> FsResult<LookedUp> {
        let (asked, checked) = (Instant::now(), entry_name(name)?);
        let resolve = Resolve { parent, name: checked.as_bytes().to_vec() };
        let resolved = match self.perform(who, resolve).await {
            Ok(resolved) => resolved,
            Err(ClientError::NotFound) => {
                return Ok(LookedUp::Absent(self.name_timeout((parent, &checked), None).await));
            }
            Err(error) => return Err(error.into()),
        };
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
        let attributes = known.unwrap_or_else(fresh);
        let for_name = self.name_timeout((parent, &checked), Some(inode)).await;
        Ok(LookedUp::Found(attributes, for_name))
    }

    /// For how long the kernel may use what the answer says of a name (KN1).
    async fn name_timeout(&self, (parent, name): (InodeId, &Name), leads_to: Option<InodeId>) -> Duration {
        let name = name.as_bytes();
        let known = async || {
            let leased = GetLeasedName { parent, name: name.to_vec() };
            let known = self.client.perform(&Caller::ROOT, leased).await.ok().flatten();
            known.filter(|known| known.inode == leads_to)
        };
        let names = &self.kernel.names;
        let before = names.losses();
        if known().await.is_none() {
            return Duration::ZERO; // and nothing is noted
        }
        names.was_held(parent, before);
        let Some(note) = names.note((parent, name), leads_to) else { return Duration::ZERO };
        known().await.map_or(Duration::ZERO, |known| note.timeout(known.valid_for)) // after the note: keeps KN1
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
        let names = [(parent, name), (new_parent, new_name)];
        let carried = self.kernel.names.carry(names, mode == RenameMode::Exchange);
        let orphan = self.perform(who, rename).await?;
        self.inodes.orphaned(orphan);
        if let Some(until) = self.kernel.names.carried(carried) {
            sleep_until(until).await; // keeps KN5
        }
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
