//! What the leader of a cluster sends unasked.

use std::sync::Arc;

use dfs_net::env::BoxFuture;
use dfs_net::rpc::push::{Push, PushHandler};
use dfs_proto::convert;

use crate::session::held::Held;

/// Takes in pushes, which never waits for anything.
pub(super) struct Pushes(pub(super) Arc<Held>);

impl PushHandler for Pushes {
    fn handle(&self, push: Push) -> BoxFuture<'_, ()> {
        match convert::lock_granted_from_push(&push) {
            Ok(Some((attachment, wait))) => self.0.granted(attachment, wait),
            Ok(None) => tracing::debug!(path = %push.path, "a push of an unknown kind"),
            Err(error) => tracing::warn!(%error, "a push that cannot be read"),
        }
        Box::pin(std::future::ready(()))
    }
}
