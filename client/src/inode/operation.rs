//! What an operation on names or attributes is, and how most of them are performed: at one cluster.

use std::future::Future;
use std::sync::Arc;

use dfs_proto::attr::Caller;
use dfs_proto::ids::InodeId;

use crate::cluster::client::ClusterClient;
use crate::error::Result;
use crate::route::routes::{ChangedEntry, Routes};

/// An operation on names or attributes. It is durable, and seen by everybody who asks, when its reply is there; it happens
/// once, however often it had to be sent.
pub trait Operation: Send + Sized {
    type Reply;

    /// `Client::perform` calls this.
    fn perform(
        self,
        routes: &Arc<Routes>,
        caller: &Caller,
    ) -> impl Future<Output = Result<Self::Reply>> + Send;
}

/// An operation that one cluster performs.
pub trait AtOneCluster: Send + Sync + Sized {
    type Reply;

    /// The cluster of this inode's volume performs the operation.
    fn at(&self) -> InodeId;

    /// Another inode that the operation names. It must be of the same volume.
    fn also_at(&self) -> Option<InodeId> {
        None
    }

    /// The names that a volume may get or lose by the operation.
    fn changed_entries(&self) -> Vec<ChangedEntry<'_>> {
        Vec::new()
    }

    /// What happens at the cluster: what is committed before, the request, and what is made of the answer.
    fn perform_at(
        self,
        cluster: &ClusterClient,
        caller: &Caller,
    ) -> impl Future<Output = Result<Self::Reply>> + Send;
}

impl<O: AtOneCluster> Operation for O {
    type Reply = O::Reply;

    async fn perform(self, routes: &Arc<Routes>, caller: &Caller) -> Result<O::Reply> {
        if let Some(other) = self.also_at() {
            Routes::require_one_volume(self.at(), other)?;
        }
        let cluster = routes.at(self.at()).await?;
        let changed = self.changed_entries();
        if !changed.is_empty() {
            // What is certainly not sent changes no name: the map stays good for it (V7).
            cluster.core.meta.require_answering()?;
        }
        let _changing = routes.changing(&changed);
        self.perform_at(&cluster, caller).await
    }
}
