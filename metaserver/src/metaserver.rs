//! [`Metaserver`]: the parts of one member, which its services, its background work and its part in the federation all use.

use std::sync::Arc;

use dfs_net::env::Env;
use dfs_proto::ids::MemberId;

use crate::coherence::Gate;
use crate::federation::Federation;
use crate::metrics::Metrics;
use crate::room::Room;
use crate::server_list::ServerList;

/// One member, as its services and its background work see it.
pub(crate) struct Metaserver {
    pub(crate) id: MemberId,
    /// `host:port` where others reach this member.
    pub(crate) address: String,
    pub(crate) gate: Gate,
    pub(crate) servers: ServerList,
    /// `None`: it was configured without one, and all directories are in volume 0.
    pub(crate) federation: Option<Arc<Federation>>,
    pub(crate) env: Env,
    pub(crate) metrics: Metrics,
    pub(crate) room: Room,
}

impl Metaserver {
    /// gRPC addresses of all members, this one, which leads, first.
    pub(crate) fn metaservers(&self) -> Vec<String> {
        let mut addresses = vec![self.address.clone()];
        for member in self.gate.consensus().members() {
            if member.id != self.id && !member.address.is_empty() {
                addresses.push(member.address);
            }
        }
        addresses
    }
}
