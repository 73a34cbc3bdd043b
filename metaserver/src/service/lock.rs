//! Sessions that attach, and the locks that they hold (P3.5, P5.7).

use dfs_net::rpc::push::PushSender;
use dfs_proto::error::MetaError;
use dfs_proto::lock::{LockReply, LockRequest};
use dfs_proto::meta::{Attach, Attached, MetaResult};

use super::Metaserver;

impl Metaserver {
    pub(super) async fn attach(&self, attach: Attach, _pushes: Option<PushSender>) -> MetaResult<Attached> {
        self.gate.check_cluster(attach.cluster)?;
        Err(MetaError::Unavailable { what: "not built yet".to_owned() })
    }

    pub(super) async fn lock(&self, request: LockRequest) -> MetaResult<LockReply> {
        self.gate.check_cluster(request.cluster)?;
        Err(MetaError::Unavailable { what: "not built yet".to_owned() })
    }
}
