//! Inodes that lose their last name: they stay while they are open or kept here, and are released afterwards.

use dfs_proto::ids::InodeId;

use crate::cluster::client::ClusterClient;
use crate::data::nodes::Pin;

/// An inode that has lost its last name, and stays until this is dropped and no file has it open.
pub struct Orphan(Pin);

impl Orphan {
    pub fn inode(&self) -> InodeId {
        self.0.node.inode
    }
}

impl ClusterClient {
    /// The inode has lost its last name. It is pinned before it is called an orphan, so that nobody releases it.
    pub(crate) fn keep(&self, inode: InodeId) -> Orphan {
        let pin = self.core.nodes.pin(inode, self.core.meta.session_id());
        self.core.nodes.orphaned(inode);
        Orphan(pin)
    }

    /// To be called before something is removed: between the removal and the note of it, nothing may wait.
    pub(crate) async fn help_with_chores(&self) {
        if self.core.chores.is_behind() {
            self.core.chores.work(&self.core.names).await;
        }
    }
}
