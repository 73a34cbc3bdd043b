//! Changes in the root directory, whose directories are volumes of their own (P9.2). The leader of volume 0's cluster drives
//! them. When it dies between two steps, `settle` and `undo` finish or take back what it has left.
//!
//!     mkdir   number and cluster (group) → root inode (its cluster) → entry, the commit point (here) → name (map)
//!     rmdir   no more names (its cluster) → entry, the commit point (here) → map, its cluster
//!     rename  entry, the commit point (here) → name (map)
//!
//! W1  A refusal made here is answered through consensus too, so that every try of a request gets the same answer.
//! W2  What other clusters have said of their volumes is part of the command, and `apply` compares it with the root directory. A
//!     command that comes too late leaves no trace, and the leader asks again.

use std::time::Duration;

use dfs_proto::error::MetaError;
use dfs_proto::federation::{AddedVolume, Federate, RootCopy, VolumeAnswer, VolumeCall};
use dfs_proto::ids::{ClusterId, InodeId};
use dfs_proto::meta::{Change, ChangeRequest, Create, Dropped, MetaResult, NewInode};
use tokio::time::timeout;

use super::{Federation, Making};
use crate::metaserver::Metaserver;
use dfs_state::command::{Answered, Command, Reply, RootAttr, VolumeRoot, VolumeStep};
use dfs_state::kv::Snapshot;
use dfs_state::read::{self, NeededVolume};

/// For one try of a request; a client tries again.
const DEADLINE: Duration = Duration::from_secs(20);

/// What a change in the root directory needs first.
enum Plan {
    /// Nothing, or it was executed before.
    Propose,
    Make(RootAttr),
    Ask(Vec<NeededVolume>),
    Refuse(MetaError),
}

impl Metaserver {
    /// Executes a change in the root directory once. Given up in the middle, it leaves what a crash would.
    pub(crate) async fn change_root(
        &self,
        federation: &Federation,
        request: ChangeRequest,
        dropped: Option<Dropped>,
    ) -> MetaResult<Answered> {
        let Ok(changed) = timeout(DEADLINE, self.try_to_change_root(federation, request, dropped)).await
        else {
            return Err(MetaError::Unavailable {
                what: format!("a change in the root directory did not end within {DEADLINE:?}"),
            });
        };
        changed
    }

    async fn try_to_change_root(
        &self,
        federation: &Federation,
        request: ChangeRequest,
        dropped: Option<Dropped>,
    ) -> MetaResult<Answered> {
        let map = federation.map();
        match map.cluster_of(InodeId::ROOT) {
            Some(cluster) if cluster == self.gate.cluster() => {}
            Some(_) => return Err(MetaError::WrongCluster { map_version: map.version }),
            None => {
                let what = "the federation has no root directory yet".to_owned();
                return Err(MetaError::Unavailable { what });
            }
        }
        let mut lost = Vec::new();
        loop {
            let mut made = None;
            let volumes = match self.plan(&request).await? {
                Plan::Propose => Vec::new(),
                Plan::Refuse(error) => return self.refuse(request, error).await, // keeps W1
                Plan::Make(attr) => match make_volume(federation, &request, attr, &mut lost).await {
                    Ok(Some((root, making))) => {
                        made = Some(making); // until its name is there
                        vec![root]
                    }
                    Ok(None) => continue,
                    Err(error) if is_overtaken(&error) => continue,
                    Err(error) => return self.refuse_unless_passing(request, error).await,
                },
                Plan::Ask(needed) => match self.ask(federation, &request, &needed).await {
                    Ok(roots) => roots,
                    Err(error) if is_overtaken(&error) => continue,
                    Err(error) => return self.refuse_unless_passing(request, error).await,
                },
            };
            let command = Command::of_request(request.clone(), Vec::new(), volumes.clone());
            let answer =
                self.gate.change_after(dropped.clone(), command).await.map(|executed| executed.reply);
            drop(made);
            federation.root_changed();
            match answer {
                Ok(Reply::Changed(changed)) => {
                    if changed.is_err() {
                        self.take_back(federation, &volumes).await;
                    }
                    return changed;
                }
                Ok(other) => return Err(MetaError::Internal { what: format!("unexpected reply {other:?}") }),
                Err(MetaError::Unavailable { .. } | MetaError::Undecided { .. })
                    if self.gate.is_leading() =>
                {
                    self.take_back(federation, &volumes).await; // keeps W2
                }
                Err(error) => return Err(error),
            }
        }
    }

    async fn plan(&self, request: &ChangeRequest) -> MetaResult<Plan> {
        let look = |state: &dyn Snapshot| {
            if read::known_result(state, request.session, request.request).is_some() {
                return Ok(Plan::Propose);
            }
            Ok(match &request.change {
                Change::Create(create) => match read::plan_directory(state, &request.caller, create) {
                    Ok(attr) => Plan::Make(attr),
                    Err(error) => Plan::Refuse(error),
                },
                change => match read::needed_volumes(state, change) {
                    needed if needed.is_empty() => Plan::Propose,
                    needed => Plan::Ask(needed),
                },
            })
        };
        self.gate.read(&request.change.scope(), look).await // its client is shown nothing
    }

    /// Looks at the volumes that a rename or removal is about; those that go get no more names from here on. Refuses what
    /// would be refused before anything is done to them.
    async fn ask(
        &self,
        federation: &Federation,
        request: &ChangeRequest,
        needed: &[NeededVolume],
    ) -> MetaResult<Vec<VolumeRoot>> {
        let mut roots = Vec::new();
        for need in needed {
            let cluster = federation.cluster_of(need.volume).await?;
            match federation.at(cluster, need.volume, VolumeCall::Show).await? {
                VolumeAnswer::Root(attr) => roots.push(VolumeRoot { attr, step: need.step() }),
                other => return Err(unexpected(&other)),
            }
        }
        let (tried, now) = (roots.clone(), self.gate.consensus().now());
        let look = |state: &dyn Snapshot| Ok(read::would_answer(state, request, &tried, now));
        // Its client is shown nothing by this.
        if let Reply::Changed(Err(refused)) = self.gate.read(&request.change.scope(), look).await? {
            return Err(refused);
        }
        for (need, root) in needed.iter().zip(&mut roots).filter(|(need, _)| need.is_removed) {
            let cluster = federation.cluster_of(need.volume).await?;
            let step = VolumeCall::StartRemoval { version: need.version };
            match federation.at(cluster, need.volume, step).await? {
                VolumeAnswer::Root(attr) => root.attr = attr,
                other => return Err(unexpected(&other)),
            }
        }
        Ok(roots)
    }

    /// Only what a later try would be told too.
    async fn refuse_unless_passing(&self, request: ChangeRequest, error: MetaError) -> MetaResult<Answered> {
        match error {
            MetaError::NotLeader { .. } | MetaError::Unavailable { .. } | MetaError::Undecided { .. } => {
                Err(error)
            }
            error => self.refuse(request, error).await,
        }
    }

    /// The change that these were for was not made, as far as is known. It may still be on its way: the fence goes through
    /// the same log and makes sure.
    async fn take_back(&self, federation: &Federation, volumes: &[VolumeRoot]) {
        for root in volumes.iter().filter(|root| matches!(root.step, VolumeStep::Removing { .. })) {
            let volume = root.attr.inode.volume();
            let undone = async {
                let fence = Command::FenceVolume { volume };
                let version = match self.gate.change(fence).await {
                    Ok(Reply::Fenced { removed_at }) => removed_at,
                    Err(MetaError::NotFound) => return Ok(()), // it was removed after all
                    Err(error) => return Err(error),
                    Ok(other) => {
                        return Err(MetaError::Internal { what: format!("unexpected reply {other:?}") });
                    }
                };
                let cluster = federation.cluster_of(volume).await?;
                federation.at(cluster, volume, VolumeCall::UndoRemoval { version }).await.map(drop)
            };
            if let Err(error) = undone.await {
                tracing::debug!(%volume, %error, "take a removal back; its cluster will ask"); // `undo`
            }
        }
    }

    async fn refuse(&self, request: ChangeRequest, error: MetaError) -> MetaResult<Answered> {
        match self.gate.change(Command::Refuse { request, error }).await? {
            Reply::Changed(changed) => changed,
            other => Err(MetaError::Internal { what: format!("unexpected reply {other:?}") }),
        }
    }
}

/// What a step finds when another request came first: the root directory is looked at again.
fn is_overtaken(error: &MetaError) -> bool {
    matches!(error, MetaError::Stale | MetaError::WrongCluster { .. })
}

/// P9.2, steps 1 and 2. A cluster that was lost a moment ago may still be the least busy one as far as the group knows. Then
/// it is added to `lost`, another one is to be asked for (`None`), and `settle` takes the number back.
async fn make_volume<'f>(
    federation: &'f Federation,
    request: &ChangeRequest,
    attr: RootAttr,
    lost: &mut Vec<ClusterId>,
) -> MetaResult<Option<(VolumeRoot, Making<'f>)>> {
    let Change::Create(Create { name, what, .. }) = &request.change else {
        return Err(MetaError::Internal { what: "only a new directory makes a volume".to_owned() });
    };
    let wanted = match what {
        NewInode::Volume { cluster } => *cluster,
        _ => ClusterId::UNKNOWN,
    };
    let add = Federate::AddVolume { name: name.clone(), cluster: wanted, except: lost.clone() };
    let Some(AddedVolume { volume, cluster }) = federation.federate(add).await? else {
        return Err(MetaError::Internal { what: "no volume was added".to_owned() });
    };
    let making = federation.making(volume);
    let root = RootCopy { mode: attr.mode, uid: attr.uid, gid: attr.gid };
    match federation.at(cluster, volume, VolumeCall::Make { root }).await {
        Ok(VolumeAnswer::Root(attr)) => Ok(Some((VolumeRoot { attr, step: VolumeStep::Made }, making))),
        Ok(other) => Err(unexpected(&other)),
        Err(MetaError::Away { .. }) if !wanted.is_known() && !lost.contains(&cluster) => {
            lost.push(cluster);
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

fn unexpected(answer: &VolumeAnswer) -> MetaError {
    MetaError::Internal { what: format!("unexpected answer {answer:?}") }
}
