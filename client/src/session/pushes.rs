//! What the leader of a cluster sends unasked.

use std::sync::Arc;

use dfs_net::env::BoxFuture;
use dfs_net::rpc::push::{Push, PushHandler};
use dfs_proto::convert;
use dfs_proto::meta::MetaResult;
use tokio::time::Instant;

use crate::session::held::Held;
use crate::session::leases::{Leases, Taken};
use crate::session::recalls::HandledRecalls;

/// Takes in pushes, which never waits for anything.
pub(super) struct Pushes {
    pub(super) held: Arc<Held>,
    pub(super) leases: Leases,
    pub(super) recalls: Arc<HandledRecalls>,
}

impl Pushes {
    /// False: it is of an unknown kind.
    fn take(&self, push: &Push) -> MetaResult<bool> {
        if let Some((attachment, wait)) = convert::lock_granted_from_push(push)? {
            self.held.granted(attachment, wait);
            return Ok(true);
        }
        if let Some(recall) = convert::write_recall_from_push(push)? {
            self.leases.writes.recalled(&recall);
            return Ok(true);
        }
        let Some(recall) = convert::recall_from_push(push)? else { return Ok(false) };
        match self.leases.reads.recalled(&recall) {
            Taken::Handled(handled) => {
                // After the copy has dropped it (UO1).
                if let Some(open) = self.held.open_of(&recall) {
                    let until = self.leases.reads.used_until().unwrap_or_else(Instant::now);
                    if !self.recalls.add(handled, open, until) {
                        self.held.doubt(handled.attachment);
                    }
                }
            }
            Taken::Gap => self.held.doubt(recall.attachment),
            Taken::Old => {}
        }
        Ok(true)
    }
}

impl PushHandler for Pushes {
    fn handle(&self, push: Push) -> BoxFuture<'_, ()> {
        match self.take(&push) {
            Ok(true) => {}
            Ok(false) => tracing::debug!(path = %push.path, "a push of an unknown kind"),
            Err(error) => tracing::warn!(%error, "a push that cannot be read"),
        }
        Box::pin(std::future::ready(()))
    }
}
