//! What this member knows of itself and of the other members. `network`, `server` and `bootstrap` share it.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard};

use dfs_net::env::Env;
use dfs_net::rpc::{Identity, Role};
use dfs_proto::ids::{ClusterId, DirectoryId, MemberId};
use dfs_proto::wire;
use tokio::sync::watch;
use tonic::Status;

use super::clocks::MemberClocks;
use crate::raft::types::FORMAT;
use dfs_state::kv::Snapshot;

/// The two kinds of groups of which a metaserver may be a member.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum GroupKind {
    /// All metaservers of one cluster, which keep its namespace.
    Cluster,
    /// Some metaservers of several clusters, which keep the federation map. Its members have ids of their own.
    Federation,
}

impl GroupKind {
    pub(crate) fn to_wire(self) -> wire::RaftGroup {
        match self {
            GroupKind::Cluster => wire::RaftGroup::ClusterGroup,
            GroupKind::Federation => wire::RaftGroup::FederationGroup,
        }
    }

    /// The cluster's id, or the federation's; `None` before the group's first command was applied.
    pub(crate) fn made(self, state: &dyn Snapshot) -> Option<ClusterId> {
        match self {
            GroupKind::Cluster => dfs_state::read::cluster(state).map(|record| record.cluster),
            GroupKind::Federation => {
                dfs_state::federation::id(state).map(|federation| ClusterId(federation.0))
            }
        }
    }
}

/// Why a member has stopped for good, in one line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure(pub String);

pub(crate) struct Group {
    pub(crate) kind: GroupKind,
    pub(crate) env: Env,
    pub(crate) own: MemberId,
    pub(crate) directory: DirectoryId,
    /// `host:port` at which the others reach this member.
    pub(crate) address: String,
    /// The members that the configuration lists. The group can be made only when all of them answer.
    pub(crate) configured: Vec<MemberId>,
    /// The cluster's id, or the federation's; unknown until it is made.
    cluster: watch::Sender<ClusterId>,
    failure: watch::Sender<Option<Failure>>,
    pub(crate) clocks: MemberClocks,
    /// Where the members are: as configured, until their greetings say otherwise. Lost at a restart.
    addresses: Mutex<BTreeMap<MemberId, String>>,
}

impl Group {
    pub(crate) fn new(
        kind: GroupKind,
        env: Env,
        own: (MemberId, DirectoryId),
        address: String,
        configured: BTreeMap<MemberId, String>,
        cluster: ClusterId,
    ) -> Group {
        Group {
            clocks: MemberClocks::new(own.0, configured.len(), env.clock.clone()),
            kind,
            env,
            own: own.0,
            directory: own.1,
            address,
            configured: configured.keys().copied().collect(),
            cluster: watch::Sender::new(cluster),
            failure: watch::Sender::new(None),
            addresses: Mutex::new(configured),
        }
    }

    pub(crate) fn cluster(&self) -> ClusterId {
        *self.cluster.borrow()
    }

    pub(crate) fn watch_cluster(&self) -> watch::Receiver<ClusterId> {
        self.cluster.subscribe()
    }

    pub(crate) fn set_cluster(&self, cluster: ClusterId) {
        self.cluster.send_replace(cluster);
    }

    /// This member cannot go on. Only the first failure is kept.
    pub(crate) fn fail(&self, what: String) {
        self.failure.send_if_modified(|failure| {
            let is_first = failure.is_none();
            if is_first {
                tracing::error!("{what}");
                *failure = Some(Failure(what));
            }
            is_first
        });
    }

    pub(crate) fn has_failed(&self) -> bool {
        self.failure.borrow().is_some()
    }

    pub(crate) fn watch_failure(&self) -> watch::Receiver<Option<Failure>> {
        self.failure.subscribe()
    }

    fn addresses(&self) -> MutexGuard<'_, BTreeMap<MemberId, String>> {
        self.addresses.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    pub(crate) fn address_of(&self, member: MemberId) -> Option<String> {
        if member == self.own {
            return Some(self.address.clone());
        }
        self.addresses().get(&member).cloned()
    }

    /// A member has greeted from this address.
    pub(crate) fn moved(&self, member: MemberId, address: &str) {
        if address.is_empty() || member == self.own {
            return;
        }
        let before = self.addresses().insert(member, address.to_owned());
        if before.as_deref() != Some(address) {
            tracing::info!("{member} is at {address}");
        }
    }

    pub(crate) fn identity(&self) -> Identity {
        self.identity_of(self.own)
    }

    /// What the handshake of a connection names. A member of the federation group does not know of which cluster another member's
    /// process is, nor its id there; so only the requests themselves name the member and its data directory.
    pub(crate) fn identity_of(&self, member: MemberId) -> Identity {
        let (id, cluster) = match self.kind {
            GroupKind::Cluster => (member.0, self.cluster()),
            GroupKind::Federation => (0, ClusterId::UNKNOWN),
        };
        Identity { role: Role::Metaserver, id, cluster }
    }

    pub(crate) fn header(&self, to: MemberId, directory: DirectoryId) -> wire::RaftHeader {
        wire::RaftHeader {
            format: u32::from(FORMAT),
            cluster: self.cluster().to_wire().into(),
            from_member: self.own.0,
            from_directory: self.directory.to_wire().into(),
            to_member: to.0,
            to_directory: directory.to_wire().into(),
            group: self.kind.to_wire().into(),
        }
    }

    /// Refuses a request that is not meant for this member (P7.7).
    pub(crate) fn check<'a>(
        &self,
        header: Option<&'a wire::RaftHeader>,
    ) -> Result<&'a wire::RaftHeader, Status> {
        let refuse = |what: String| Err(Status::failed_precondition(what));
        let Some(header) = header else { return refuse("the request has no header".to_owned()) };
        if header.format != u32::from(FORMAT) {
            return refuse(format!(
                "raft format {} there, {FORMAT} here: update the older one",
                header.format
            ));
        }
        if header.to_member != self.own.0 {
            return refuse(format!("this is {}, not {}", self.own, MemberId(header.to_member)));
        }
        self.check_cluster(&header.cluster)?;
        match DirectoryId::from_wire(&header.to_directory) {
            Some(expected) if expected == self.directory => Ok(header),
            Some(expected) => refuse(format!(
                "{} has data directory {} now, the group has recorded {expected}",
                self.own, self.directory
            )),
            None => refuse("the directory in the request's header is malformed".to_owned()),
        }
    }

    /// Refuses a member of another cluster. One that does not know its cluster yet is accepted.
    pub(crate) fn check_cluster(&self, theirs: &[u8]) -> Result<(), Status> {
        let own = self.cluster();
        match ClusterId::from_wire(theirs) {
            None => Err(Status::invalid_argument("the cluster id is malformed")),
            Some(theirs) if own.is_known() && theirs.is_known() && own != theirs => {
                let kind = match self.kind {
                    GroupKind::Cluster => "cluster",
                    GroupKind::Federation => "federation",
                };
                Err(Status::failed_precondition(format!("{kind} {own} here, {kind} {theirs} there")))
            }
            Some(_) => Ok(()),
        }
    }
}
