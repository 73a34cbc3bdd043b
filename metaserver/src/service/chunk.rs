//! Where a new chunk goes, and what readers tell about copies.

use dfs_proto::error::MetaError;
use dfs_proto::ids::{ServerId, SessionId};
use dfs_proto::meta::{MetaResult, OpenChunk, ReplicaProblem, ReplicaReport};
use dfs_proto::scope::Unleased;
use dfs_proto::units::REPLICAS_MAX;
use tokio::time::Instant;

use super::namespace::require_session;
use crate::metaserver::Metaserver;
use crate::placement::{self, Given, Wanted};
use dfs_state::command::Command;
use dfs_state::kv::Snapshot;
use dfs_state::read;

impl Metaserver {
    /// The servers for a chunk that this session opens, primary first (P10.2).
    pub(super) async fn place(&self, session: SessionId, open: &OpenChunk) -> MetaResult<Vec<ServerId>> {
        let look = |state: &dyn Snapshot| {
            require_session(state, session)?;
            Ok((read::cluster(state), read::servers(state)))
        };
        let (info, registered) = self.gate.read_unleased(Unleased::Servers, look).await?;
        let info =
            info.ok_or_else(|| MetaError::Unavailable { what: "the cluster is not made yet".to_owned() })?;
        let copies = if open.copies == 0 { info.copies } else { open.copies };
        if copies as usize > REPLICAS_MAX {
            let what = format!("{copies} copies; at most {REPLICAS_MAX} are possible");
            return Err(MetaError::InvalidArgument { what });
        }
        let view = &self.gate.view;
        let now = Instant::now();
        let wanted =
            Wanted { copies, copies_min: info.copies_min, view_complete: view.is_complete(&registered, now) };
        let given = Given { avoid: &open.avoid, beside: &open.beside };
        let placed = placement::plan(&view.candidates(&registered, now), wanted, given, &self.env.rng);
        match &placed {
            Ok(servers) => {
                view.placed(servers);
                self.metrics.placed_chunks.inc();
            }
            Err(_) => {
                self.metrics.refused_placements.inc();
            }
        }
        placed
    }

    /// A copy did not give what was committed. Not being reached is no damage: it only shortens the server's patience.
    pub(super) async fn report_replica(&self, report: ReplicaReport) -> MetaResult<()> {
        self.gate.check_cluster(report.cluster)?;
        let ReplicaReport { chunk, server, .. } = report;
        let look = |state: &dyn Snapshot| Ok(read::chunk(state, chunk));
        let record = self.gate.read_unleased(Unleased::Chunks, look).await?;
        match report.problem {
            ReplicaProblem::Unreachable => self.gate.view.suspect(server),
            ReplicaProblem::Damaged => {
                let is_news =
                    record.is_some_and(|r| r.replicas.contains(&server) && !r.damaged.contains(&server));
                if is_news {
                    tracing::warn!("{chunk}: the copy on {server} is reported damaged");
                    let command = Command::ReportDamage { chunk, server };
                    self.gate.change(command).await?;
                }
            }
        }
        Ok(())
    }
}
