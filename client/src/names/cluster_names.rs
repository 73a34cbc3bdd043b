//! Every request to one cluster that names an inode, and what is known without a request.
//!
//! This is the only user of a session's changes and reads: so no change can miss the rules about what it makes outdated.

use std::sync::Arc;
use std::time::Duration;

use dfs_net::env::Env;
use dfs_proto::attr::{AccessMask, Caller, InodeAttr};
use dfs_proto::ids::{InodeId, SessionId, WriteGrant};
use dfs_proto::meta::{Change, Changed, HeldWrite, MetaResult, Read, ReadReply};

use crate::names::ahead::Ahead;
use crate::names::copy::LeasedCopy;
use crate::session::held::Opened;
use crate::session::meta::MetaClient;

/// Entries that are read ahead with one request: as many as an answer holds.
const PAGE_LEN: u32 = 1000;

/// The names and attributes at one cluster.
pub(crate) struct ClusterNames {
    pub(crate) meta: Arc<MetaClient>,
    copy: Arc<LeasedCopy>,
    ahead: Ahead,
}

impl ClusterNames {
    /// `copy` is told of the leases of the same session.
    pub(crate) fn new(meta: Arc<MetaClient>, copy: Arc<LeasedCopy>, env: &Env) -> Arc<ClusterNames> {
        Arc::new(ClusterNames { meta, copy, ahead: Ahead::new(env.clock.clone()) })
    }

    /// This client has committed bytes of the file, and by that alone its content went from one version to the other.
    pub(crate) fn content_moved(&self, inode: InodeId, from: u64, to: u64) {
        self.copy.content_moved(inode, from, to);
    }

    /// Bytes of the file that were written through this client are lost.
    pub(crate) fn content_lost(&self, inode: InodeId) {
        self.copy.content_lost(inode);
    }

    /// A change that an application asked for. It happens once, however often it had to be sent.
    pub(crate) async fn change(&self, caller: &Caller, change: Change) -> MetaResult<Changed> {
        self.change_wanting(caller, change, None).await.map(|(changed, _)| changed)
    }

    /// The same for a create that opens, which may bring Write of the new file: then true.
    pub(crate) async fn change_wanting(
        &self,
        caller: &Caller,
        change: Change,
        write: Option<WriteGrant>,
    ) -> MetaResult<(Changed, bool)> {
        let mut changing = self.copy.changing(&change, &self.meta);
        changing.sending.want(write);
        let answer = self.meta.change(caller, &change, &changing.sending).await;
        changing.shown(&change, &answer);
        changing.answered(&answer);
        answer.answered.map(|(changed, _)| (changed, answer.writes))
    }

    /// A change that belongs to `owner`, a session. It is refused once that session has ended.
    pub(crate) async fn change_of(&self, owner: SessionId, change: Change) -> MetaResult<Changed> {
        self.commit_of(owner, change, Vec::new()).await
    }

    /// The same for a commit of what was written under these leases.
    pub(crate) async fn commit_of(
        &self,
        owner: SessionId,
        change: Change,
        writes: Vec<HeldWrite>,
    ) -> MetaResult<Changed> {
        let bound = match writes.is_empty() {
            true => None,
            false => Some(self.meta.bound_of(owner).await?),
        };
        let mut changing = self.copy.changing(&change, &self.meta);
        if let Some(bound) = bound {
            changing.sending.write_under(bound.attachment, writes);
        }
        let answer = self.meta.change_of(owner, change, &changing.sending).await;
        changing.answered(&answer);
        answer.answered.map(|(changed, _)| changed)
    }

    /// The answer of the cluster, or of the copy if that has it.
    pub(crate) async fn read(self: &Arc<ClusterNames>, caller: &Caller, read: Read) -> MetaResult<ReadReply> {
        if let Some(answer) = self.copy.answer(caller, &read) {
            return answer;
        }
        let asked = self.copy.widened(&read);
        let asking = self.copy.ask(&asked);
        let shown = self.meta.read(caller, &asked, asking.leases()).await;
        asking.answered(&asked, &shown);
        if let (Read::Lookup { parent, .. }, Ok(_)) = (&read, &shown.answered)
            && shown.leased.contains(parent)
            && self.copy.is_valid()
            && let Some(cookie) = self.ahead.has_missed(*parent)
        {
            tokio::spawn(self.clone().read_ahead(*parent, cookie));
        }
        shown.answered.map(|reply| cut(reply, &read))
    }

    /// Whoever may not list the directory is answered nothing by it: the copy checks the rights of each caller (CY6).
    async fn read_ahead(self: Arc<ClusterNames>, directory: InodeId, cookie: u64) {
        let read = Read::ReadAhead { inode: directory, cookie, limit: PAGE_LEN };
        let asking = self.copy.ask(&read);
        let shown = self.meta.read(&Caller::ROOT, &read, asking.leases()).await;
        asking.answered(&read, &shown);
        let next = match &shown.answered {
            Ok(ReadReply::Entries { entries, end: false, .. }) => entries.last().map(|entry| entry.cookie),
            _ => None,
        };
        self.ahead.has_read(directory, next);
    }

    /// Opens a file without a request, if the copy has attributes that let the caller: the lease covers the open (P6.5).
    pub(crate) fn open_untold(
        &self,
        caller: &Caller,
        inode: InodeId,
        mask: AccessMask,
    ) -> Option<(Opened, InodeAttr)> {
        let opened = self.meta.held.opening_untold(inode)?; // before the look at the copy (UO1)
        let attr = self.copy.open(caller, inode, mask)?;
        Some((opened, attr))
    }

    /// The attributes that the copy has, and for how long an outer cache may use them.
    pub(crate) fn leased_attr(&self, inode: InodeId) -> Option<(InodeAttr, Duration)> {
        self.copy.leased_attr(inode)
    }

    /// Where a name leads, as the copy knows, and for how long an outer cache may use that.
    pub(crate) fn leased_name(&self, directory: InodeId, name: &[u8]) -> Option<(Option<InodeId>, Duration)> {
        self.copy.leased_name(directory, name)
    }
}

/// The reply to `read`, of a longer page.
fn cut(reply: ReadReply, read: &Read) -> ReadReply {
    match (reply, read) {
        (ReadReply::Entries { mut entries, end, parent }, Read::ReadDir { limit, .. }) if *limit != 0 => {
            let is_longer = entries.len() > *limit as usize;
            entries.truncate(*limit as usize);
            ReadReply::Entries { entries, end: end && !is_longer, parent }
        }
        (reply, _) => reply,
    }
}
