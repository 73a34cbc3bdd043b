//! Sessions that attach, and the locks that they hold (P3.5, P5.7).

use dfs_net::rpc::push::PushSender;
use dfs_proto::error::MetaError;
use dfs_proto::lock::{LockReply, LockRequest};
use dfs_proto::meta::{Attach, Attached, MetaResult};
use dfs_proto::scope::Unleased;

use super::Metaserver;
use super::namespace::require_session;
use dfs_state::kv::Snapshot;

impl Metaserver {
    pub(super) async fn attach(&self, attach: Attach, _pushes: Option<PushSender>) -> MetaResult<Attached> {
        self.gate.check_cluster(attach.cluster)?;
        if attach.more || !attach.locks.is_empty() {
            return Err(MetaError::Unavailable { what: "not built yet".to_owned() });
        }
        let look = |state: &dyn Snapshot| require_session(state, attach.session);
        self.gate.read_unleased(Unleased::Sessions, look).await?;
        self.gate.attach_opens(attach.session, attach.open).await?;
        Ok(Attached { lost: Vec::new(), term_ms: 0 })
    }

    pub(super) async fn lock(&self, request: LockRequest) -> MetaResult<LockReply> {
        self.gate.check_cluster(request.cluster)?;
        Err(MetaError::Unavailable { what: "not built yet".to_owned() })
    }
}
