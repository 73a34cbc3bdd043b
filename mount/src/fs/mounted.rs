//! What the calls of one mount share.

use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, OnceLock};

use dfs_client::ClientError;
use dfs_client::inode::{Client, File, OpenMode, Operation};
use dfs_client::interim::LastKnown;
use dfs_proto::attr::InodeAttr;
use dfs_proto::ids::InodeId;
use dfs_proto::meta::StatFs;
use tokio::sync::oneshot;
use tokio::time::Instant;

use crate::fs::error::{FsError, FsResult};
use crate::groups::{Groups, Requester};
use crate::handles::{Handle, Handles};
use crate::inodes::Inodes;
use crate::kernel_caches::KernelCaches;
use crate::lock_owners::LockOwners;

/// Drops the kernel's attributes of a file, and pages of it. It must not wait: it is called while the kernel waits for an answer. The
/// receiver is ready when the pages are dropped, or cannot be.
pub(crate) type DropPages = Box<dyn Fn(InodeId, Dropped) -> oneshot::Receiver<()> + Send + Sync>;

/// Which pages of the kernel are dropped.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Dropped {
    All,
    /// Those with these bytes.
    With(Range<u64>),
    /// Only the attributes.
    None,
}

/// A file that is open.
pub(super) struct OpenFile {
    pub(super) file: Arc<File>,
    pub(super) inode: InodeId,
    pub(super) mode: OpenMode,
    /// Reads and writes go past the page cache, as the kernel got it at the open (`Opened::direct`).
    pub(super) direct: bool,
}

/// A directory that is open. The right to list it was checked when it was opened (P2.4).
pub(super) struct OpenDirectory {
    pub(super) inode: InodeId,
    /// How many entries the last answers held, so that about as many are fetched as fit.
    pub(super) page_len: AtomicU32,
}

/// One mounted federation.
pub(crate) struct Fs {
    pub(super) client: Arc<Client>,
    pub(super) files: Handles<OpenFile>,
    pub(super) directories: Handles<OpenDirectory>,
    pub(super) inodes: Inodes,
    pub(super) lock_owners: Arc<LockOwners>,
    pub(super) kernel: Arc<KernelCaches>,
    groups: Groups,
    pub(super) root: LastKnown<InodeAttr>,
    pub(super) space: LastKnown<StatFs>,
    pub(super) drop_pages: OnceLock<DropPages>,
    pub(super) is_closing: AtomicBool,
}

impl Fs {
    /// `kernel` is the cache in front of the client.
    pub(crate) fn new(client: Arc<Client>, kernel: Arc<KernelCaches>) -> Fs {
        Fs {
            client,
            files: Handles::new(),
            directories: Handles::new(),
            inodes: Inodes::new(),
            lock_owners: LockOwners::new(),
            kernel,
            groups: Groups::new(),
            root: LastKnown::default(),
            space: LastKnown::default(),
            drop_pages: OnceLock::new(),
            is_closing: AtomicBool::new(false),
        }
    }

    /// To be called when the kernel is connected. Later calls change nothing.
    pub(crate) fn set_drop_pages(&self, drop_pages: DropPages) {
        let _ = self.drop_pages.set(drop_pages);
    }

    /// From now on nothing is accepted that would have to be written (F4).
    pub(crate) fn close(&self) {
        self.is_closing.store(true, Ordering::Relaxed);
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.is_closing.load(Ordering::Relaxed)
    }

    pub(crate) fn inodes(&self) -> &Inodes {
        &self.inodes
    }

    /// Performs an operation for `who`. If the server answers that supplementary groups decide, it is performed again
    /// with them (P5.6). The second try is a request of its own: the first was refused before it changed anything.
    pub(super) async fn perform<O>(&self, who: Requester, operation: O) -> Result<O::Reply, ClientError>
    where
        O: Operation + Clone,
    {
        match self.client.perform(&self.groups.caller(who), operation.clone()).await {
            Err(ClientError::GroupsNeeded) => {
                self.client.perform(&self.groups.caller_with_groups(who), operation).await
            }
            answer => answer,
        }
    }

    /// The attributes that the kernel may see now (F6).
    pub(super) fn shown(&self, attr: InodeAttr) -> InodeAttr {
        self.inodes.show(attr, None)
    }

    /// The same, for the question about them that arrived at `asked`.
    pub(super) fn shown_to(&self, attr: InodeAttr, asked: Instant) -> InodeAttr {
        self.inodes.show(attr, Some(asked))
    }

    pub(super) fn file(&self, handle: Handle) -> FsResult<Arc<OpenFile>> {
        self.files.get(handle).ok_or(FsError::BadHandle(handle))
    }
}
