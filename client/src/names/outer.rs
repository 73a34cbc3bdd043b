//! Caches outside of this library that use what it answered for a while without asking again: for a mount, the kernel.

use dfs_proto::ids::InodeId;
use dfs_proto::scope::NameIn;
use tokio::time::Instant;

/// Names that must not be used any more.
#[derive(Clone, Copy, Debug)]
pub enum DroppedNames<'d> {
    Everything,
    Of {
        names: &'d [NameIn],
        /// All names in these.
        directories: &'d [InodeId],
    },
}

/// Why something was dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ChangedBy {
    /// This client is about to change it, or has.
    Own,
    /// Another client changes it, or may: the lease has ended.
    Others,
}

/// A cache outside of this library, which is told what it must not use any more. It is called where a recall is handled and before a
/// change is sent, under no lock of this library: so it must not wait for anything, and above all not for an answer of this library.
pub trait OuterCache: Send + Sync + 'static {
    /// When this returns, attributes of these inodes that were answered before are not used any more.
    fn drop_attrs(&self, inodes: &[InodeId]);
    /// The same of all inodes.
    fn drop_all_attrs(&self);
    /// From here on these names are not answered as they were before. What was answered before is used until the time that is returned;
    /// `None`: it is not.
    fn drop_names(&self, dropped: &DroppedNames<'_>, by: ChangedBy) -> Option<Instant>;
    /// This client has committed bytes that were written through it, by which the content's version went from `from` to `to`. Whoever has
    /// seen `from`, and these writes, has the content of `to`.
    fn content_moved(&self, inode: InodeId, from: u64, to: u64);
    /// Bytes that were written through this client are lost.
    fn content_lost(&self, inode: InodeId);
}

/// There is none: every use is a question.
pub struct NoOuterCache;

impl OuterCache for NoOuterCache {
    fn drop_attrs(&self, _inodes: &[InodeId]) {}

    fn drop_all_attrs(&self) {}

    fn drop_names(&self, _dropped: &DroppedNames<'_>, _by: ChangedBy) -> Option<Instant> {
        None
    }

    fn content_moved(&self, _inode: InodeId, _from: u64, _to: u64) {}

    fn content_lost(&self, _inode: InodeId) {}
}
