//! Names and attributes at one cluster, as this client sees them: the cluster's answer, under what is buffered here.

use std::sync::Arc;
use std::time::Duration;

use dfs_proto::attr::{Caller, InodeAttr};
use dfs_proto::ids::InodeId;
use dfs_proto::meta::{Change, MetaResult, Read, SetAttr};
use tokio::time::{Instant, timeout};

use crate::cluster::client::ClusterClient;
use crate::data::node::Node;
use crate::error::Result;
use crate::session::replies::{self, Found};

/// The longest time for which a question about attributes waits until what was appended here has moved behind what another
/// client wrote.
const SETTLE_MAX: Duration = Duration::from_secs(1);

impl ClusterClient {
    /// The attributes with what is buffered here, and with newer content that is known.
    pub(crate) fn show(&self, attr: InodeAttr) -> InodeAttr {
        self.core.nodes.show(attr, self.core.meta.session_id())
    }

    /// The cluster's answer to a look-up, without what is buffered here. `name` may be `.` or `..`.
    pub(crate) async fn find(&self, caller: &Caller, parent: InodeId, name: &[u8]) -> MetaResult<Found> {
        let read = Read::Lookup { parent, name: name.to_vec() };
        replies::found(self.core.names.read(caller, read).await?)
    }

    /// What a name leads to. `name` may be `.` or `..`.
    pub(crate) async fn lookup(&self, caller: &Caller, parent: InodeId, name: &[u8]) -> Result<Found> {
        let asked_at = Instant::now();
        let attr = match self.find(caller, parent, name).await? {
            Found::Here(attr) => self.show(attr),
            elsewhere => return Ok(elsewhere),
        };
        let settled = match self.core.nodes.pin_open(attr.inode) {
            Some(pin) => self.settled(&pin.node, asked_at).await,
            None => None,
        };
        Ok(Found::Here(settled.unwrap_or(attr)))
    }

    pub(crate) async fn getattr(&self, caller: &Caller, inode: InodeId) -> Result<InodeAttr> {
        // The inode is pinned, so that attributes of a commit and a close meanwhile are still known when the answer
        // is looked at.
        let pin = self.core.nodes.pin_open(inode);
        let asked_at = Instant::now();
        let attr = self.show(replies::attr(self.core.names.read(caller, Read::GetAttr { inode }).await?)?);
        match pin {
            Some(pin) => Ok(self.settled(&pin.node, asked_at).await.unwrap_or(attr)),
            None => Ok(attr),
        }
    }

    /// The same, but attributes that a change of this client brought a moment ago are not asked for again (V4).
    pub(crate) async fn recent_attr(&self, caller: &Caller, inode: InodeId) -> Result<InodeAttr> {
        match self.core.names.known_attr(inode) {
            Some(attr) => Ok(self.show(attr)),
            None => self.getattr(caller, inode).await,
        }
    }

    /// The attributes that are known under a lease, and for how long an outer cache may use them: not at all while something is
    /// buffered, which may be moved (N7) or dropped (N4) without a word to outer caches.
    pub(crate) fn leased_attr(&self, inode: InodeId) -> Option<(InodeAttr, Duration)> {
        let (attr, left) = self.core.names.leased_attr(inode)?;
        let left = if self.core.nodes.is_dirty(inode) { Duration::ZERO } else { left };
        Some((self.show(attr), left))
    }

    /// Changes attributes, in order with the commits of the file if it is open.
    pub(crate) async fn set_attr(&self, caller: &Caller, set: SetAttr) -> Result<InodeAttr> {
        let Some(pin) = self.core.nodes.pin_open(set.inode) else {
            let changed = self.core.names.change(caller, Change::SetAttr(set)).await?;
            return Ok(self.show(replies::inode(changed)?.attr));
        };
        let _flushing = pin.node.flushing.lock().await;
        if set.size.is_some() && pin.node.dirty_since().is_some() {
            self.core.flush_locked(&pin.node).await?;
        }
        let (sets_mtime, sets_mode) = (set.mtime.is_some(), set.mode.is_some());
        let changed = self.core.names.change(caller, Change::SetAttr(set)).await?;
        let attr = replies::inode(changed)?.attr;
        Ok(pin.node.with(self.core.meta.session_id(), |state| {
            if sets_mtime {
                state.times_were_set();
            }
            if sets_mode {
                state.mode_was_set();
            }
            state.observe(&attr);
            state.shown().unwrap_or(attr)
        }))
    }

    /// To be called when the node has taken in an answer to a question of that time. If the answer shows that another client
    /// wrote where something appended here waits for its commit, the appended bytes first move behind that: so what is shown is
    /// what the file will be.
    pub(crate) async fn settled(&self, node: &Arc<Node>, asked_at: Instant) -> Option<InodeAttr> {
        let session = self.core.meta.session_id();
        let (is_outgrown, shown) = node.with(session, |state| {
            state.answered(asked_at);
            (state.is_outgrown(), state.shown())
        });
        if !is_outgrown {
            return shown;
        }
        // The flush goes on when nobody waits for it; the open files report its failure.
        let _ = timeout(SETTLE_MAX, self.core.move_behind(node)).await;
        node.with(session, |state| state.shown())
    }
}
