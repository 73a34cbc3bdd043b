//! Names and attributes at one cluster, as this client sees them: the cluster's answer, under what is buffered here.

use std::time::Duration;

use dfs_proto::attr::{Caller, InodeAttr};
use dfs_proto::ids::InodeId;
use dfs_proto::meta::{Change, MetaResult, Read, SetAttr};
use dfs_proto::units::ByteLen;

use crate::cluster::client::ClusterClient;
use crate::data::node::NodeState;
use crate::error::Result;
use crate::session::replies::{self, Found};

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
        Ok(match self.find(caller, parent, name).await? {
            Found::Here(attr) => Found::Here(self.show(attr)),
            elsewhere => elsewhere,
        })
    }

    pub(crate) async fn getattr(&self, caller: &Caller, inode: InodeId) -> Result<InodeAttr> {
        // The inode is pinned, so that attributes of a commit and a close meanwhile are still known when the answer
        // is looked at.
        let _pin = self.core.nodes.pin_open(inode);
        Ok(self.show(replies::attr(self.core.names.read(caller, Read::GetAttr { inode }).await?)?))
    }

    /// The attributes that are known under a lease, and for how long an outer cache may use them: not at all while something is
    /// buffered, which may be dropped (N4) without a word to outer caches.
    pub(crate) fn leased_attr(&self, inode: InodeId) -> Option<(InodeAttr, Duration)> {
        let (attr, left) = self.core.names.leased_attr(inode)?;
        let left = if self.core.nodes.is_dirty(inode) { Duration::ZERO } else { left };
        Some((self.show(attr), left))
    }

    /// Changes attributes, in order with the commits of the file: one that is under way ends before, and what was written before is
    /// committed before a change of size. A later one changes no time and no mode that is set here. Nothing of the file is locked
    /// while the cluster is asked, which may wait for other clients (P4.5).
    pub(crate) async fn set_attr(&self, caller: &Caller, set: SetAttr) -> Result<InodeAttr> {
        let Some(pin) = self.core.nodes.pin_open(set.inode) else {
            let changed = self.core.names.change(caller, Change::SetAttr(set)).await?;
            return Ok(self.show(replies::inode(changed)?.attr));
        };
        let look = |look: &mut dyn FnMut(&mut NodeState)| pin.node.with(self.core.meta.session_id(), look);
        let (mut before, mut had_bytes) = ((None, false), false);
        {
            let _flushing = pin.node.flushing.lock().await;
            if set.size.is_some() && pin.node.dirty_since().is_some() {
                self.core.flush_locked(&pin.node).await?;
            }
            look(&mut |state| {
                had_bytes = state.size() > 0;
                before = state.are_being_set(set.mtime.is_some(), set.mode.is_some());
            });
        }
        let changed =
            self.core.names.change(caller, Change::SetAttr(set.clone())).await.inspect_err(|_| {
                look(&mut |state| state.were_not_set(before));
            })?;
        if set.size == Some(ByteLen(0)) && had_bytes {
            look(&mut |state| state.was_cut());
        }
        Ok(self.show(replies::inode(changed)?.attr))
    }
}
