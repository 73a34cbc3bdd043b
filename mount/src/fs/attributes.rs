//! Calls about the attributes of an inode.

use std::time::Duration;

use dfs_client::ClientError;
use dfs_client::inode::{Access, GetAttr, GetLeasedAttr, GetSpace};
use dfs_proto::attr::{AccessMask, Caller, InodeAttr};
use dfs_proto::ids::InodeId;
use dfs_proto::meta::{SetAttr, StatFs};
use dfs_proto::units::FILE_LEN_MAX;
use tokio::time::Instant;

use crate::fs::error::{FsError, FsResult};
use crate::fs::mounted::Fs;
use crate::groups::Requester;
use crate::handles::Handle;
use crate::kernel_attrs::timeout;

/// A change of attributes, and the handle through which the size is set.
pub(crate) struct Change {
    pub(crate) set: SetAttr,
    pub(crate) handle: Option<Handle>,
}

/// The answer to GETATTR.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Attributes {
    pub(crate) attr: InodeAttr,
    /// For so long the kernel does not ask again, unless it is told to.
    pub(crate) timeout: Duration,
}

impl Fs {
    pub(crate) async fn getattr(&self, who: Requester, inode: InodeId) -> FsResult<Attributes> {
        let asked = Instant::now();
        let fresh = self.perform(who, GetAttr { inode });
        let attr = match inode {
            InodeId::ROOT => self.root.or(fresh).await?,
            _ => match self.leased(inode, asked).await? {
                Some(known) => return Ok(known),
                None => fresh.await?,
            },
        };
        // The answer may have come with a lease.
        if let Some(known) = self.leased(inode, asked).await? {
            return Ok(known);
        }
        self.drop_unnoticed(&attr).await;
        Ok(Attributes { attr: self.shown_to(attr, asked), timeout: Duration::ZERO })
    }

    /// The attributes that are known under a lease. The kernel's pages are not older than they are (V6).
    async fn leased(&self, inode: InodeId, asked: Instant) -> FsResult<Option<Attributes>> {
        let seen = self.client.perform(&Caller::ROOT, GetLeasedAttr { inode }).await?;
        let Some(seen) = seen else { return Ok(None) };
        self.drop_unnoticed(&seen.attr).await;
        self.noted(inode, asked).await
    }

    /// The attributes that are known under a lease, with a time-out unless the kernel would then use old pages. It waits for nothing
    /// that is known already.
    pub(super) async fn noted(&self, inode: InodeId, asked: Instant) -> FsResult<Option<Attributes>> {
        let read = || self.client.perform(&Caller::ROOT, GetLeasedAttr { inode });
        let Some(seen) = read().await? else { return Ok(None) }; // and nothing is noted
        if !self.inodes.has_taken(&seen.attr) {
            let attr = self.shown_to(seen.attr, asked);
            return Ok(Some(Attributes { attr, timeout: Duration::ZERO })); // keeps KA6
        }
        let at_most = self.kernel.attrs.note(inode);
        let Some(leased) = read().await? else { return Ok(None) }; // after the note: keeps KA1
        let (attr, valid_for) = (leased.attr, leased.valid_for);
        let are_old = self.inodes.pages_are(inode, |pages| pages.are_older_unnoticed(&attr));
        let has_no_timeout = are_old || !self.inodes.has_taken(&attr);
        let timeout = if has_no_timeout { Duration::ZERO } else { timeout(at_most, valid_for) };
        Ok(Some(Attributes { attr: self.shown_to(attr, asked), timeout }))
    }

    /// Drops the kernel's pages if they are older than these attributes, which it is about to get, and it would not notice (V6). False: they
    /// could not be dropped.
    async fn drop_unnoticed(&self, attr: &InodeAttr) -> bool {
        let are_unnoticed = self.inodes.pages_are(attr.inode, |pages| pages.are_older_unnoticed(attr));
        !are_unnoticed || self.drop_pages_before(attr).await
    }

    pub(crate) async fn setattr(&self, who: Requester, change: Change) -> FsResult<InodeAttr> {
        let mut set = change.set;
        if set.size.is_some_and(|size| size.0 > FILE_LEN_MAX) {
            return Err(FsError::TooLarge);
        }
        // ftruncate: the right to truncate came with the open (keeps F1).
        set.by_handle = match change.handle.filter(|_| set.size.is_some()) {
            Some(handle) => self.file(handle)?.mode.write,
            None => false,
        };
        // A truncation by an unprivileged caller clears set-uid and set-gid; the kernel says so in a flag that fuser
        // does not pass on, so what the flag is made of (CAP_FSETID) is taken from the uid.
        set.kill_privileges = set.size.is_some() && who.uid != 0;
        let attr = self.perform(who, set).await?;
        Ok(self.shown(attr))
    }

    pub(crate) async fn access(&self, who: Requester, inode: InodeId, mask: AccessMask) -> FsResult<()> {
        Ok(self.perform(who, Access { inode, mask }).await?)
    }

    pub(crate) async fn statfs(&self, inode: InodeId) -> FsResult<StatFs> {
        let fresh = self.client.perform(&Caller::ROOT, GetSpace { inode });
        if inode != InodeId::ROOT {
            return Ok(fresh.await?);
        }
        match self.space.or(fresh).await {
            // There are other clusters: the mount can begin and end without the cluster of the root directory.
            Err(ClientError::Unavailable { .. }) if self.client.is_of_federation() => Ok(StatFs::default()),
            space => Ok(space?),
        }
    }
}
