//! What this member knows of itself and of the others: shared by the sending side, the serving side and the bootstrap.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard};

use dfs_proto::env::Env;
use dfs_proto::ids::{ClusterId, DirectoryId, MemberId};
use dfs_proto::rpc::{Identity, Role};
use dfs_proto::wire;
use tokio::sync::watch;
use tonic::Status;

use super::types::FORMAT;

/// Why a member stops for good, as one line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure(pub String);

pub(crate) struct Group {
    pub(crate) env: Env,
    pub(crate) own: MemberId,
    pub(crate) directory: DirectoryId,
    /// Where the others reach this member.
    pub(crate) address: String,
    /// The ids that the configuration lists; the bootstrap needs all of them.
    pub(crate) configured: Vec<MemberId>,
    cluster: watch::Sender<ClusterId>,
    failure: watch::Sender<Option<Failure>>,
    /// Where members are: as configured, until one says otherwise. Soft.
    addresses: Mutex<BTreeMap<MemberId, String>>,
}

impl Group {
    pub(crate) fn new(
        env: Env,
        own: (MemberId, DirectoryId),
        address: String,
        configured: BTreeMap<MemberId, String>,
        cluster: ClusterId,
    ) -> Group {
        Group {
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

    /// The first failure stays.
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

    /// A member has said where it is.
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
        Identity { role: Role::Metaserver, id: self.own.0, cluster: self.cluster() }
    }

    pub(crate) fn identity_of(&self, member: MemberId) -> Identity {
        Identity { role: Role::Metaserver, id: member.0, cluster: self.cluster() }
    }

    pub(crate) fn header(&self, to: MemberId, directory: DirectoryId) -> wire::RaftHeader {
        wire::RaftHeader {
            format: u32::from(FORMAT),
            cluster: self.cluster().to_wire().into(),
            from_member: self.own.0,
            from_directory: self.directory.to_wire().into(),
            to_member: to.0,
            to_directory: directory.to_wire().into(),
        }
    }

    /// Refuses what is not meant for this member (P7.7).
    pub(crate) fn check(&self, header: Option<&wire::RaftHeader>) -> Result<(), Status> {
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
            Some(expected) if expected == self.directory => Ok(()),
            Some(expected) => refuse(format!(
                "{} has data directory {} now, the group has recorded {expected}",
                self.own, self.directory
            )),
            None => refuse("the directory in the request's header is malformed".to_owned()),
        }
    }

    /// Refuses another cluster's member; one that does not know its cluster yet may speak.
    pub(crate) fn check_cluster(&self, theirs: &[u8]) -> Result<(), Status> {
        let own = self.cluster();
        match ClusterId::from_wire(theirs) {
            None => Err(Status::invalid_argument("the cluster id is malformed")),
            Some(theirs) if own.is_known() && theirs.is_known() && own != theirs => {
                Err(Status::failed_precondition(format!("cluster {own} here, cluster {theirs} there")))
            }
            Some(_) => Ok(()),
        }
    }
}
