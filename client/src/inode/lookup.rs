//! Operations that may meet several clusters: the root directory has the names of all volumes, each of which has its own cluster.

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use dfs_proto::attr::{Caller, InodeAttr};
use dfs_proto::ids::InodeId;
use dfs_proto::meta::{DirEntry, Read};
use futures::{StreamExt as _, stream};

use crate::error::{ClientError, Result};
use crate::inode::operation::Operation;
use crate::route::routes::Routes;
use crate::session::replies::{self, DirPage, Found};

/// Volumes of one listing whose attributes are asked for at the same time.
const ROOTS_AT_ONCE: usize = 32;

/// Finds what a name leads to. It does not wait for the cluster of a volume that the name leads to. `name` may be `.` or `..`.
#[derive(Clone, Debug)]
pub struct Resolve {
    pub parent: InodeId,
    pub name: Vec<u8>,
}

/// What a name leads to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Resolved {
    Attr(InodeAttr),
    /// The name leads to the root directory of a volume whose cluster does not answer. Nothing else is known of it.
    Unanswered(InodeId),
}

impl Operation for Resolve {
    type Reply = Resolved;

    async fn perform(self, routes: &Arc<Routes>, caller: &Caller) -> Result<Resolved> {
        let Resolve { parent, name } = self;
        if parent != InodeId::ROOT {
            let found = routes.at(parent).await?.lookup(caller, parent, &name).await?;
            return follow(routes, caller, found).await;
        }
        let mark = routes.mark(&name);
        let question = {
            let (routes, caller, name) = (routes.clone(), caller.clone(), name.clone());
            async move { routes.at(parent).await?.lookup(&caller, parent, &name).await }
        };
        match routes.soon(parent, question).await {
            Ok(Some(found)) => {
                routes.compare(&name, mark, Some(&found));
                follow(routes, caller, found).await
            }
            Ok(None) => match follow_map(routes, caller, &name).await {
                Some(resolved) => resolved,
                None => {
                    let found = routes.at(parent).await?.lookup(caller, parent, &name).await?;
                    follow(routes, caller, found).await
                }
            },
            Err(away @ ClientError::Unavailable { .. }) => {
                follow_map(routes, caller, &name).await.unwrap_or(Err(away))
            }
            Err(error) => {
                if error == ClientError::NotFound {
                    routes.compare(&name, mark, None);
                }
                Err(error)
            }
        }
    }
}

async fn follow(routes: &Arc<Routes>, caller: &Caller, found: Found) -> Result<Resolved> {
    match found {
        Found::Here(attr) => Ok(Resolved::Attr(attr)),
        Found::Elsewhere(root) => {
            let attr = routes.soon(root, ask_for_attr(routes, caller, root)).await?;
            Ok(attr.map_or(Resolved::Unanswered(root), Resolved::Attr))
        }
    }
}

/// While the root directory's cluster does not answer, the names of volumes are those of the map. `None`: the map does not have
/// the name, or may be outdated.
async fn follow_map(routes: &Arc<Routes>, caller: &Caller, name: &[u8]) -> Option<Result<Resolved>> {
    match follow(routes, caller, Found::Elsewhere(routes.mapped(name)?)).await {
        Err(ClientError::Stale) => None, // it was removed
        resolved => Some(resolved),
    }
}

fn ask_for_attr(
    routes: &Arc<Routes>,
    caller: &Caller,
    inode: InodeId,
) -> impl Future<Output = Result<InodeAttr>> + Send + use<> {
    let (routes, caller) = (routes.clone(), caller.clone());
    async move { routes.at(inode).await?.getattr(&caller, inode).await }
}

/// The attributes of the inode that a name leads to. `name` may be `.` or `..`.
#[derive(Clone, Debug)]
pub struct Lookup {
    pub parent: InodeId,
    pub name: Vec<u8>,
}

impl Operation for Lookup {
    type Reply = InodeAttr;

    async fn perform(self, routes: &Arc<Routes>, caller: &Caller) -> Result<InodeAttr> {
        let Lookup { parent, name } = self;
        match (Resolve { parent, name }).perform(routes, caller).await? {
            Resolved::Attr(attr) => Ok(attr),
            Resolved::Unanswered(inode) => (GetAttr { inode }).perform(routes, caller).await,
        }
    }
}

/// stat(2), of an inode.
#[derive(Clone, Copy, Debug)]
pub struct GetAttr {
    pub inode: InodeId,
}

impl Operation for GetAttr {
    type Reply = InodeAttr;

    async fn perform(self, routes: &Arc<Routes>, caller: &Caller) -> Result<InodeAttr> {
        let inode = self.inode;
        if inode != InodeId::ROOT {
            return routes.at(inode).await?.getattr(caller, inode).await;
        }
        let answer = routes.soon(inode, ask_for_attr(routes, caller, inode)).await;
        match (answer, routes.mapped_root()) {
            (Ok(Some(attr)), _) => Ok(attr),
            (Ok(None) | Err(ClientError::Unavailable { .. }), Some(mapped)) => Ok(mapped),
            (Ok(None), None) => routes.at(inode).await?.getattr(caller, inode).await,
            (Err(error), _) => Err(error),
        }
    }
}

/// The attributes of an inode that are known under a lease, without a request. `None`: they are not.
#[derive(Clone, Copy, Debug)]
pub struct GetLeasedAttr {
    pub inode: InodeId,
}

/// Attributes, and for how long an outer cache may use them unless it is told to drop them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LeasedAttr {
    pub attr: InodeAttr,
    pub valid_for: Duration,
}

impl Operation for GetLeasedAttr {
    type Reply = Option<LeasedAttr>;

    async fn perform(self, routes: &Arc<Routes>, _caller: &Caller) -> Result<Option<LeasedAttr>> {
        let leased = routes.opened_at(self.inode).and_then(|cluster| cluster.leased_attr(self.inode));
        Ok(leased.map(|(attr, valid_for)| LeasedAttr { attr, valid_for }))
    }
}

/// Where a name leads, as it is known under a lease, without a request. `None`: it is not.
#[derive(Clone, Debug)]
pub struct GetLeasedName {
    pub parent: InodeId,
    pub name: Vec<u8>,
}

/// Where a name leads, and for how long an outer cache may use that unless it is told to drop it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LeasedName {
    /// `None`: it is not there.
    pub inode: Option<InodeId>,
    pub valid_for: Duration,
}

impl Operation for GetLeasedName {
    type Reply = Option<LeasedName>;

    async fn perform(self, routes: &Arc<Routes>, _caller: &Caller) -> Result<Option<LeasedName>> {
        let cluster = routes.opened_at(self.parent);
        let leased = cluster.and_then(|cluster| cluster.core.names.leased_name(self.parent, &self.name));
        Ok(leased.map(|(inode, valid_for)| LeasedName { inode, valid_for }))
    }
}

/// At most `limit` entries behind `cookie` (0: from the start). With `plus` they have attributes, except those of volumes whose
/// cluster does not answer at once.
#[derive(Clone, Copy, Debug)]
pub struct ReadDir {
    pub inode: InodeId,
    pub cookie: u64,
    pub limit: u32,
    pub plus: bool,
}

impl Operation for ReadDir {
    type Reply = DirPage;

    async fn perform(self, routes: &Arc<Routes>, caller: &Caller) -> Result<DirPage> {
        let ReadDir { inode, cookie, limit, plus } = self;
        let cluster = routes.at(inode).await?;
        let read = Read::ReadDir { inode, cookie, limit, plus };
        let mut page = replies::page(cluster.core.names.read(caller, read).await?)?;
        for entry in &mut page.entries {
            entry.attr = entry.attr.take().map(|attr| cluster.show(attr));
        }
        if plus && inode == InodeId::ROOT {
            fill_in(routes, caller, &mut page.entries).await;
        }
        Ok(page)
    }
}

/// Adds the attributes of volumes that other clusters have.
async fn fill_in(routes: &Arc<Routes>, caller: &Caller, entries: &mut [DirEntry]) {
    let mut asked = Vec::new();
    for entry in entries.iter().filter(|entry| entry.attr.is_none()) {
        let inode = entry.inode;
        let question = ask_for_attr(routes, caller, inode);
        asked.push(async move { (inode, routes.soon(inode, question).await.ok().flatten()) });
    }
    let answers = stream::iter(asked).buffer_unordered(ROOTS_AT_ONCE).collect::<BTreeMap<_, _>>().await;
    for entry in entries.iter_mut().filter(|entry| entry.attr.is_none()) {
        entry.attr = answers.get(&entry.inode).cloned().flatten();
    }
}
