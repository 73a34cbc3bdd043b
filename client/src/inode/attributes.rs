//! Operations on one inode, by its number.

use dfs_proto::attr::{AccessMask, Caller, InodeAttr};
use dfs_proto::ids::InodeId;
use dfs_proto::meta::{Read, SetAttr, StatFs};

use crate::cluster::client::ClusterClient;
use crate::error::Result;
use crate::inode::operation::AtOneCluster;
use crate::session::replies;

/// Changes attributes. What was written before a change of size is committed before it (P2.3); times that are set here survive
/// the commit of what was written before.
impl AtOneCluster for SetAttr {
    type Reply = InodeAttr;

    fn at(&self) -> InodeId {
        self.inode
    }

    async fn perform_at(self, cluster: &ClusterClient, caller: &Caller) -> Result<InodeAttr> {
        cluster.set_attr(caller, self).await
    }
}

/// access(2).
#[derive(Clone, Copy, Debug)]
pub struct Access {
    pub inode: InodeId,
    pub mask: AccessMask,
}

impl AtOneCluster for Access {
    type Reply = ();

    fn at(&self) -> InodeId {
        self.inode
    }

    async fn perform_at(self, cluster: &ClusterClient, caller: &Caller) -> Result<()> {
        let Access { inode, mask } = self;
        Ok(replies::granted(cluster.core.names.read(caller, Read::Access { inode, mask }).await?)?)
    }
}

/// readlink(2).
#[derive(Clone, Copy, Debug)]
pub struct ReadLink {
    pub inode: InodeId,
}

impl AtOneCluster for ReadLink {
    type Reply = Vec<u8>;

    fn at(&self) -> InodeId {
        self.inode
    }

    async fn perform_at(self, cluster: &ClusterClient, caller: &Caller) -> Result<Vec<u8>> {
        let read = Read::ReadLink { inode: self.inode };
        Ok(replies::target(cluster.core.names.read(caller, read).await?)?)
    }
}

/// statfs(2): the space of the volume that the inode is in. Everybody may ask for it.
#[derive(Clone, Copy, Debug)]
pub struct GetSpace {
    pub inode: InodeId,
}

impl AtOneCluster for GetSpace {
    type Reply = StatFs;

    fn at(&self) -> InodeId {
        self.inode
    }

    async fn perform_at(self, cluster: &ClusterClient, _caller: &Caller) -> Result<StatFs> {
        let read = Read::StatFs { inode: self.inode };
        Ok(replies::space(cluster.core.names.read(&Caller::ROOT, read).await?)?)
    }
}
