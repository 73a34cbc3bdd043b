//! The kernel's caches, in front of the client: what is taken back of them when the client's copy drops something.

use dfs_client::{ChangedBy, DroppedNames, OuterCache};
use dfs_proto::ids::InodeId;
use tokio::time::Instant;

use crate::kernel_attrs::KernelAttrs;
use crate::kernel_names::KernelNames;

pub(crate) struct KernelCaches {
    pub(crate) attrs: KernelAttrs,
    pub(crate) names: KernelNames,
}

impl KernelCaches {
    pub(crate) fn new() -> KernelCaches {
        KernelCaches { attrs: KernelAttrs::new(), names: KernelNames::default() }
    }
}

impl OuterCache for KernelCaches {
    fn drop_attrs(&self, inodes: &[InodeId]) {
        self.attrs.drop_attrs(inodes);
    }

    fn drop_all_attrs(&self) {
        self.attrs.drop_all_attrs();
    }

    fn drop_names(&self, dropped: &DroppedNames<'_>, by: ChangedBy) -> Option<Instant> {
        self.names.dropped(dropped, by)
    }

    fn content_moved(&self, inode: InodeId, from: u64, to: u64) {
        self.attrs.content_moved(inode, from, to);
    }

    fn content_lost(&self, inode: InodeId) {
        self.attrs.content_lost(inode);
    }
}
