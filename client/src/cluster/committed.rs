//! What was written to a file is committed before one of its names changes (P2.5).
//!
//! A program that writes a new file and renames it over the old one expects one of the two after a crash, whether it called
//! fsync or not. If the commit fails, no name changes.

use std::sync::Arc;

use dfs_proto::attr::{Caller, Name};
use dfs_proto::error::MetaError;
use dfs_proto::ids::InodeId;
use dfs_proto::planted::{self, Bug};

use crate::cluster::client::ClusterClient;
use crate::data::node::Node;
use crate::error::Result;
use crate::session::replies::Found;

impl ClusterClient {
    /// Commits what is buffered of the file of this name. Any other problem of the name is left to the change to report.
    pub(crate) async fn commit_named(&self, parent: InodeId, name: &Name) -> Result<()> {
        if self.core.memory.is_unused() || planted::has(Bug::UncommittedRename) {
            return Ok(()); // almost always: it costs no request then
        }
        let inode = match self.find(&Caller::ROOT, parent, name.as_bytes()).await {
            Ok(Found::Here(attr)) => attr.inode,
            Err(unanswered @ MetaError::Unavailable { .. }) => return Err(unanswered.into()),
            Ok(Found::Elsewhere(_)) | Err(_) => return Ok(()),
        };
        self.commit_open(inode).await
    }

    /// Commits what is buffered of an inode, whether it is open here or was closed.
    pub(crate) async fn commit_open(&self, inode: InodeId) -> Result<()> {
        match self.core.nodes.pin_open(inode) {
            Some(pin) => self.commit_whole(&pin.node).await,
            None => Ok(()),
        }
    }

    /// It is also an error if bytes were lost before, in a flush of another caller or with a session, and no open file has
    /// reported that yet: the file does not have what was written to it.
    async fn commit_whole(&self, node: &Arc<Node>) -> Result<()> {
        self.core.flush(node).await?;
        let session = self.core.meta.session_id();
        let is_open = !self.core.nodes.is_last(node.inode);
        let failure = node.with(session, |state| {
            let failure = state.unreported_failure();
            if !is_open {
                state.failure_was_reported(); // by this operation
            }
            failure
        });
        failure.map_or(Ok(()), Err)
    }
}
