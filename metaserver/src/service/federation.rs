//! What other clusters, and whoever follows the map, ask of this member.

use std::sync::Arc;
use std::time::Duration;

use dfs_proto::error::MetaError;
use dfs_proto::federation::{AddedVolume, Federate, FederationMap, VolumeAnswer, VolumeCall, VolumeRequest};
use dfs_proto::ids::InodeId;
use dfs_proto::meta::MetaResult;
use dfs_proto::scope::Scope;
use dfs_proto::wire;
use tokio::time::timeout;

use super::namespace::unexpected;
use crate::federation::Federation;
use crate::metaserver::Metaserver;
use dfs_state::command::{Command, Reply, RootAttr};
use dfs_state::kv::Snapshot;
use dfs_state::read;

/// A question for a newer map is held for so long at most.
const HELD_MAX: Duration = Duration::from_secs(30);

impl Metaserver {
    fn federated(&self) -> MetaResult<&Arc<Federation>> {
        let what = || "this metaserver was configured without a federation".to_owned();
        self.federation.as_ref().ok_or_else(|| MetaError::Unsupported { what: what() })
    }

    /// `None`: nothing newer came in time.
    pub(super) async fn newer_map(
        &self,
        request: wire::GetMapRequest,
    ) -> MetaResult<Option<Arc<FederationMap>>> {
        let federation = self.federated()?;
        let held = Duration::from_millis(request.wait_ms.into()).min(HELD_MAX);
        Ok(timeout(held, federation.newer_than(request.known_version)).await.ok())
    }

    /// For the federation group's leader.
    pub(super) async fn federate(&self, call: Federate) -> MetaResult<Option<AddedVolume>> {
        self.federated()?.change_map(call).await
    }

    /// A step of a volume that this cluster has, or of its entry in volume 0 (P9.2).
    pub(super) async fn volume(&self, request: VolumeRequest) -> MetaResult<VolumeAnswer> {
        self.gate.check_cluster(request.cluster)?;
        let volume = request.volume;
        let command = match request.step {
            VolumeCall::Show => return self.show_root(request).await,
            VolumeCall::Make { root } => {
                let root = RootAttr { mode: root.mode, uid: root.uid, gid: root.gid };
                Command::MakeVolume { volume, root }
            }
            VolumeCall::StartRemoval { version } => Command::StartRemoval { volume, version },
            VolumeCall::UndoRemoval { version } => Command::UndoRemoval { volume, version },
            VolumeCall::Drop => Command::DropVolume { volume },
            VolumeCall::Fence => Command::FenceVolume { volume },
        };
        match self.gate.change(command).await? {
            Reply::VolumeRoot(attr) => Ok(VolumeAnswer::Root(attr)),
            Reply::Done => Ok(VolumeAnswer::Done),
            Reply::Worked { more, .. } => Ok(VolumeAnswer::Dropped { more }),
            Reply::Fenced { removed_at } => Ok(VolumeAnswer::Fenced { removed_at }),
            other => Err(unexpected(&other)),
        }
    }

    async fn show_root(&self, request: VolumeRequest) -> MetaResult<VolumeAnswer> {
        let root = InodeId::new(request.volume, InodeId::ROOT.number());
        let root = root.ok_or(MetaError::Stale)?;
        let look = |state: &dyn Snapshot| read::getattr(state, root);
        self.gate.read(&Scope::of_inode(root), look).await.map(VolumeAnswer::Root)
    }
}
