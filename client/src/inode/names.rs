//! Operations that change names.

use dfs_proto::attr::{Caller, InodeAttr, Name};
use dfs_proto::ids::InodeId;
use dfs_proto::meta::{Change, Create, Rename};

use crate::cluster::client::ClusterClient;
use crate::cluster::removed::Orphan;
use crate::error::Result;
use crate::inode::operation::AtOneCluster;
use crate::route::routes::ChangedEntry;
use crate::session::replies::{self, Created};

/// Makes a file, directory, symbolic link or node. A file is not opened; `CreateOpen` does that.
impl AtOneCluster for Create {
    type Reply = Created;

    fn at(&self) -> InodeId {
        self.parent
    }

    fn changed_entries(&self) -> Vec<ChangedEntry<'_>> {
        vec![ChangedEntry::of_new(self.parent, &self.name)]
    }

    async fn perform_at(self, cluster: &ClusterClient, caller: &Caller) -> Result<Created> {
        let created = replies::inode(cluster.core.names.change(caller, Change::Create(self)).await?)?;
        Ok(Created { attr: cluster.show(created.attr), ..created })
    }
}

/// Gives a file another name in its volume. What was written to the file is committed first (P2.5).
#[derive(Clone, Debug)]
pub struct Link {
    pub inode: InodeId,
    pub parent: InodeId,
    pub name: Name,
}

impl AtOneCluster for Link {
    type Reply = InodeAttr;

    fn at(&self) -> InodeId {
        self.parent
    }

    fn also_at(&self) -> Option<InodeId> {
        Some(self.inode)
    }

    fn changed_entries(&self) -> Vec<ChangedEntry<'_>> {
        vec![ChangedEntry::of_new(self.parent, &self.name)]
    }

    async fn perform_at(self, cluster: &ClusterClient, caller: &Caller) -> Result<InodeAttr> {
        let Link { inode, parent, name } = self;
        cluster.commit_open(inode).await?;
        let changed = cluster.core.names.change(caller, Change::Link { inode, parent, name }).await?;
        Ok(cluster.show(replies::inode(changed)?.attr))
    }
}

/// Removes a name that is not a directory's. If it was the last name of a file that is open here, the open files stay usable.
#[derive(Clone, Debug)]
pub struct Unlink {
    pub parent: InodeId,
    pub name: Name,
}

impl AtOneCluster for Unlink {
    type Reply = ();

    fn at(&self) -> InodeId {
        self.parent
    }

    async fn perform_at(self, cluster: &ClusterClient, caller: &Caller) -> Result<()> {
        let Unlink { parent, name } = self;
        cluster.help_with_chores().await;
        let changed = cluster.core.names.change(caller, Change::Unlink { parent, name }).await?;
        if let Some(inode) = replies::orphan(changed)? {
            cluster.core.nodes.orphaned(inode);
        }
        Ok(())
    }
}

/// Removes an empty directory. The reply keeps the directory, for processes that still stand in it.
#[derive(Clone, Debug)]
pub struct Rmdir {
    pub parent: InodeId,
    pub name: Name,
}

impl AtOneCluster for Rmdir {
    type Reply = Option<Orphan>;

    fn at(&self) -> InodeId {
        self.parent
    }

    fn changed_entries(&self) -> Vec<ChangedEntry<'_>> {
        vec![ChangedEntry::any(self.parent, &self.name)]
    }

    async fn perform_at(self, cluster: &ClusterClient, caller: &Caller) -> Result<Option<Orphan>> {
        let Rmdir { parent, name } = self;
        cluster.help_with_chores().await;
        let changed = cluster.core.names.change(caller, Change::Rmdir { parent, name }).await?;
        Ok(replies::orphan(changed)?.map(|inode| cluster.keep(inode)))
    }
}

/// Moves a name within a volume, or the name of a volume in the root directory. What was written to a file is committed before
/// it gets its new name (P2.5). The reply keeps what was replaced, if that was its last name.
impl AtOneCluster for Rename {
    type Reply = Option<Orphan>;

    fn at(&self) -> InodeId {
        self.parent
    }

    fn also_at(&self) -> Option<InodeId> {
        Some(self.new_parent)
    }

    fn changed_entries(&self) -> Vec<ChangedEntry<'_>> {
        let source = ChangedEntry::any(self.parent, &self.name);
        vec![source, ChangedEntry::any(self.new_parent, &self.new_name)]
    }

    async fn perform_at(self, cluster: &ClusterClient, caller: &Caller) -> Result<Option<Orphan>> {
        cluster.help_with_chores().await;
        for (parent, name) in self.moved() {
            cluster.commit_named(parent, name).await?;
        }
        let changed = cluster.core.names.change(caller, Change::Rename(self)).await?;
        Ok(replies::orphan(changed)?.map(|inode| cluster.keep(inode)))
    }
}
