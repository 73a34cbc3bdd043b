//! Every request to one cluster that names an inode, and what is known without a request.
//!
//! This is the only user of a session's changes and reads: so no change can miss the rules about what it makes outdated.

use std::sync::Arc;

use dfs_net::env::Env;
use dfs_proto::attr::{Caller, InodeAttr};
use dfs_proto::ids::{InodeId, SessionId};
use dfs_proto::meta::{Change, Changed, MetaResult, Read, ReadReply};

use crate::names::interim::after_change::{AttrsAfterChange, ChangeUnderWay};
use crate::session::calls::Answer;
use crate::session::meta::MetaClient;

/// The names and attributes at one cluster.
pub(crate) struct ClusterNames {
    pub(crate) meta: Arc<MetaClient>,
    after_change: AttrsAfterChange,
}

impl ClusterNames {
    pub(crate) fn new(meta: Arc<MetaClient>, env: &Env) -> Arc<ClusterNames> {
        Arc::new(ClusterNames { meta, after_change: AttrsAfterChange::new(env.clock.clone()) })
    }

    /// A change that an application asked for. It happens once, however often it had to be sent.
    pub(crate) async fn change(&self, caller: &Caller, change: Change) -> MetaResult<Changed> {
        let under_way = self.after_change.begin(&change);
        learn(under_way, self.meta.change(caller, &change).await)
    }

    /// A change that belongs to `owner`, a session. It is refused once that session has ended.
    pub(crate) async fn change_of(&self, owner: SessionId, change: Change) -> MetaResult<Changed> {
        let _under_way = self.after_change.begin(&change);
        self.meta.change_of(owner, change).await.answered.map(|(changed, _)| changed)
    }

    pub(crate) async fn read(&self, caller: &Caller, read: Read) -> MetaResult<ReadReply> {
        self.meta.read(caller, read).await
    }

    /// The attributes that a change of this client brought a moment ago, if one did (V4).
    pub(crate) fn attr_after_change(&self, inode: InodeId) -> Option<InodeAttr> {
        self.after_change.get(inode)
    }
}

fn learn(under_way: ChangeUnderWay<'_>, answer: Answer) -> MetaResult<Changed> {
    let (changed, directories) = answer.answered?;
    under_way.answered(&changed, directories, answer.is_first_try);
    Ok(changed)
}
