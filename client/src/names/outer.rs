//! Caches outside of this library that use what it answered for a while without asking again: for a mount, the kernel.

use dfs_proto::ids::InodeId;

/// A cache outside of this library, which is told what it must not use any more. It is called where a recall is handled and before a
/// change is sent, under no lock of this library: so it must not wait for anything, and above all not for an answer of this library.
pub trait OuterCache: Send + Sync + 'static {
    /// When this returns, attributes of these inodes that were answered before are not used any more.
    fn drop_attrs(&self, inodes: &[InodeId]);
    /// The same of all inodes.
    fn drop_all_attrs(&self);
}

/// There is none: every use is a question.
pub struct NoOuterCache;

impl OuterCache for NoOuterCache {
    fn drop_attrs(&self, _inodes: &[InodeId]) {}

    fn drop_all_attrs(&self) {}
}
