//! The client of one cluster: how its parts are made and put together.

use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use dfs_net::env::Env;
use dfs_net::rpc::frames::{ChunkTransport, FrameTransport};
use dfs_net::rpc::grpc::SharedIdentity;
use dfs_net::rpc::leader::LeaderChannel;
use dfs_net::rpc::{Identity, Role};
use dfs_proto::ids::ClusterId;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::config::ClientConfig;
use crate::data::chores::Chores;
use crate::data::chunk::ChunkClient;
use crate::data::commit::Committer;
use crate::data::core::Core;
use crate::data::memory::{ReadAheadBudget, SessionMemory};
use crate::data::near::Near;
use crate::data::nodes::Nodes;
use crate::data::writer::ChunkWriter;
use crate::data::writes::Writes;
use crate::error::Result;
use crate::names::OuterCache;
use crate::names::cluster_names::ClusterNames;
use crate::names::copy::LeasedCopy;
use crate::session::calls::MetaCalls;
use crate::session::grpc::GrpcMeta;
use crate::session::leases::Leases;
use crate::session::meta::MetaClient;

/// A client at one cluster. If it is dropped without a shutdown, its session expires.
pub struct ClusterClient {
    pub(crate) core: Arc<Core>,
}

impl ClusterClient {
    /// Opens a session at `cluster`, or fails after `within`. If `cluster` is unknown, the session is opened at whichever
    /// cluster answers.
    pub(crate) async fn connect(
        config: ClientConfig,
        env: Env,
        (cluster, within): (ClusterId, Duration),
        outer: Arc<dyn OuterCache>,
    ) -> Result<Arc<ClusterClient>> {
        let own = SharedIdentity::new(Identity { role: Role::Client, id: 0, cluster: ClusterId::UNKNOWN });
        let (addresses, connect_timeout) = (config.metaservers.clone(), config.connect_timeout);
        let channel = || LeaderChannel::new(env.clone(), own.clone(), addresses.clone(), connect_timeout);
        let calls = Arc::new(GrpcMeta::new([channel(), channel(), channel()]));
        let transport = FrameTransport::new(env.clone(), own, connect_timeout);
        ClusterClient::assemble(config, env, (cluster, within), calls, (Arc::new(transport), outer)).await
    }

    /// The same over any metaservers and chunkservers, so that tests can bring their own.
    pub(crate) async fn assemble(
        config: ClientConfig,
        env: Env,
        (cluster, within): (ClusterId, Duration),
        calls: Arc<dyn MetaCalls>,
        (transport, outer): (Arc<dyn ChunkTransport>, Arc<dyn OuterCache>),
    ) -> Result<Arc<ClusterClient>> {
        let (name, deadline) = (config.name.clone(), config.metadata_timeout);
        let copy = LeasedCopy::new(env.clock.clone(), outer);
        let writes = Writes::new(env.clock.clone());
        let leases = Leases { reads: copy.clone(), writes: writes.clone() };
        let timeouts = (deadline, within);
        let connected = MetaClient::connect(calls, env.clone(), leases, name, cluster, timeouts);
        let meta = Arc::new(connected.await?);
        let names = ClusterNames::new(meta.clone(), copy, &env);
        let chores = Chores::new();
        let chunks = Arc::new(ChunkClient::new(transport, chores.clone(), env.rng.clone()));
        let memory = SessionMemory::new(config.session_memory_bytes);
        let (owner, releases) = (meta.clone(), chores.clone());
        let on_orphan = move |inode| releases.release_orphan(owner.session_id(), inode);
        let core = Arc::new(Core {
            flush_steps: AtomicU64::new(0),
            writer: ChunkWriter::new(names.clone(), chunks.clone(), config.copies),
            committer: Committer::new(names.clone()),
            nodes: Nodes::new(memory.clone(), on_orphan),
            near: Arc::new(Near::new()),
            read_ahead: ReadAheadBudget::new(),
            ended: CancellationToken::new(),
            tasks: TaskTracker::new(),
            config,
            env,
            meta,
            names,
            chunks,
            memory,
            writes,
            chores,
        });
        core.start_tasks();
        Ok(Arc::new(ClusterClient { core }))
    }

    /// Takes over the addresses of the cluster's metaservers from the federation map.
    pub(crate) fn learn(&self, metaservers: &[String]) {
        self.core.meta.learn(metaservers);
    }
}

impl Drop for ClusterClient {
    fn drop(&mut self) {
        self.core.ended.cancel();
    }
}
