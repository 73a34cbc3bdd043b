//! The parts of a client at one cluster, which its files and its background tasks share.

use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use dfs_net::env::Env;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::config::ClientConfig;
use crate::data::chores::Chores;
use crate::data::chunk::ChunkClient;
use crate::data::commit::Committer;
use crate::data::memory::{ReadAheadBudget, SessionMemory};
use crate::data::near::Near;
use crate::data::nodes::Nodes;
use crate::data::writer::ChunkWriter;
use crate::data::writes::Writes;
use crate::names::cluster_names::ClusterNames;
use crate::session::meta::MetaClient;

/// The parts. They are made once for each cluster, by `cluster`.
pub(crate) struct Core {
    pub(crate) config: ClientConfig,
    pub(crate) env: Env,
    pub(crate) meta: Arc<MetaClient>,
    pub(crate) names: Arc<ClusterNames>,
    pub(crate) chunks: Arc<ChunkClient>,
    pub(crate) writer: ChunkWriter,
    pub(crate) committer: Arc<Committer>,
    pub(crate) nodes: Arc<Nodes>,
    pub(crate) near: Arc<Near>,
    pub(crate) memory: Arc<SessionMemory>,
    pub(crate) writes: Arc<Writes>,
    pub(crate) chores: Arc<Chores>,
    pub(crate) read_ahead: ReadAheadBudget,
    /// How often a flush has got further: bytes have found a place, or were committed.
    pub(crate) flush_steps: AtomicU64,
    /// Cancelled when the client is shut down or dropped.
    pub(crate) ended: CancellationToken,
    pub(crate) tasks: TaskTracker,
}
