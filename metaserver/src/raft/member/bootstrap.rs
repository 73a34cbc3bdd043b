//! How fresh members become a group, and how members find each other again (P7.7).
//!
//! Each member makes an id for its data directory. Members greet each other: they say who they are and where they are reached.
//! When the member with the lowest id has heard every member that the configuration lists, it makes the Raft membership, which
//! records each member's data directory. The first leader then makes the cluster (`leader_work`). All steps are idempotent, so
//! that a restart goes on where the last run stopped.
//!
//! B1  Only one member makes the membership, and only while no member that answers has one.
//! B2  A member whose data directory is not the recorded one stops. Its disk was emptied, and its votes and acknowledged entries
//!     are lost.
//! B3  A member may come back at another address. The others learn it from its greetings; the membership does not change.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use dfs_net::rpc::grpc;
use dfs_net::services::raft_client::RaftClient;
use dfs_proto::attr::Timestamp;
use dfs_proto::ids::{DirectoryId, MemberId};
use dfs_proto::wire;
use openraft::async_runtime::watch::WatchReceiver as _;
use tokio::time::{sleep, timeout};
use tonic::transport::Channel;

use super::group::Group;
use super::membership::recorded;
use super::stamp::StampFile;
use crate::raft::machine::state_machine::Raft;
use crate::raft::machine::store::StateStore;
use crate::raft::types::{FORMAT, MemberNode};

/// The pause between two rounds of greetings before there is a membership, and afterwards.
const ROUND_BEFORE: Duration = Duration::from_millis(100);
const ROUND_AFTER: Duration = Duration::from_secs(5);
const CONNECT_DEADLINE: Duration = Duration::from_secs(1);
const GREETING_DEADLINE: Duration = Duration::from_secs(2);

/// Greets the other members for as long as this one runs.
pub(crate) struct Greeter {
    pub(crate) raft: Raft,
    pub(crate) group: Arc<Group>,
    channels: BTreeMap<MemberId, (String, Channel)>,
    /// The members that have answered in this round, and this one.
    heard: BTreeMap<MemberId, MemberNode>,
    /// The last problem with each member, so that it is logged once.
    complaints: BTreeMap<MemberId, String>,
}

impl Greeter {
    pub(crate) fn new(raft: Raft, group: Arc<Group>) -> Greeter {
        Greeter {
            raft,
            group,
            channels: BTreeMap::new(),
            heard: BTreeMap::new(),
            complaints: BTreeMap::new(),
        }
    }

    pub(crate) async fn run(mut self) {
        loop {
            let is_made_elsewhere = self.round().await;
            let has_membership = !recorded(&self.raft).is_empty();
            if self.group.has_failed() {
                return;
            }
            if !has_membership && !is_made_elsewhere {
                self.make_membership().await; // keeps B1
            }
            sleep(if has_membership { ROUND_AFTER } else { ROUND_BEFORE }).await;
        }
    }

    /// Greets every other member once. Returns true if one of them has a membership.
    async fn round(&mut self) -> bool {
        let mut others = self.group.configured.clone();
        others.extend(recorded(&self.raft).into_keys());
        others.sort();
        others.dedup();
        others.retain(|member| *member != self.group.own);
        let greetings = others.iter().map(|member| {
            let channel = self.channels.get(member).cloned();
            let group = self.group.clone();
            async move { (*member, greet(&group, *member, channel).await) }
        });
        let answers = futures::future::join_all(greetings).await;
        // A member whose disk was emptied since the last round has another directory now.
        self.heard.clear();
        self.heard.insert(self.group.own, MemberNode::new(self.group.address.clone(), self.group.directory));
        let mut is_made_elsewhere = false;
        for (member, answer) in answers {
            match answer {
                Ok((address, channel, reply)) => {
                    self.channels.insert(member, (address, channel));
                    is_made_elsewhere |= self.hear(member, &reply);
                }
                Err(what) => {
                    self.channels.remove(&member);
                    self.complain(member, what);
                }
            }
        }
        is_made_elsewhere
    }

    fn complain(&mut self, member: MemberId, what: String) {
        if self.complaints.get(&member) != Some(&what) {
            tracing::warn!("{member} cannot be greeted: {what}");
            self.complaints.insert(member, what);
        }
    }

    /// Takes in the answer to a greeting. Returns true if the member that answered has a membership.
    fn hear(&mut self, member: MemberId, reply: &wire::MemberGreetingReply) -> bool {
        self.complaints.remove(&member);
        let own = reply.recorded.iter().find(|recorded| recorded.member == self.group.own.0);
        let recorded = own.and_then(|recorded| DirectoryId::from_wire(&recorded.directory));
        if let Some(recorded) = recorded.filter(|recorded| *recorded != self.group.directory) {
            // keeps B2
            self.group.fail(format!(
                "{} is recorded with data directory {recorded} (says {member}), but this one is {}: it was emptied or \
                 replaced, and what this member had promised is lost; bring the old directory back",
                self.group.own, self.group.directory
            ));
        }
        if !reply.recorded.is_empty() && own.is_none() {
            self.group.fail(format!("{} is no member of the group (says {member})", self.group.own));
        }
        if let Some(directory) = DirectoryId::from_wire(&reply.directory).filter(|id| id.is_known()) {
            self.heard.insert(member, MemberNode::new(reply.address.clone(), directory));
        }
        !reply.recorded.is_empty()
    }

    async fn make_membership(&mut self) {
        let configured = &self.group.configured;
        let is_lowest = configured.first() == Some(&self.group.own);
        if !is_lowest || !configured.iter().all(|member| self.heard.contains_key(member)) {
            return;
        }
        let nodes: BTreeMap<u64, MemberNode> =
            configured.iter().filter_map(|id| Some((id.0, self.heard.get(id)?.clone()))).collect();
        tracing::info!("all {} members have answered, making the group", nodes.len());
        if let Err(error) = self.raft.initialize(nodes).await {
            tracing::warn!("make the group: {error}");
        }
    }
}

type Greeted = (String, Channel, wire::MemberGreetingReply);

async fn greet(
    group: &Group,
    member: MemberId,
    channel: Option<(String, Channel)>,
) -> Result<Greeted, String> {
    let address = group.address_of(member).ok_or("its address is not known")?;
    let channel = match channel.filter(|(connected_to, _)| *connected_to == address) {
        Some((_, channel)) => channel,
        None => {
            let expected = group.identity_of(member);
            grpc::connect(&group.env, &address, &group.identity(), &expected, CONNECT_DEADLINE)
                .await
                .map_err(|what| format!("connect to {address}: {what}"))?
        }
    };
    let greeting = wire::MemberGreeting {
        format: u32::from(FORMAT),
        cluster: group.cluster().to_wire().into(),
        member: group.own.0,
        directory: group.directory.to_wire().into(),
        address: group.address.clone(),
        to_member: member.0,
        bootstrap: group.configured.iter().map(|id| id.0).collect(),
        group: group.kind.to_wire().into(),
    };
    let mut client = RaftClient::new(channel.clone());
    let asked = group.clocks.look();
    let reply = match timeout(GREETING_DEADLINE, client.introduce(greeting)).await {
        Ok(Ok(reply)) => reply.into_inner(),
        Ok(Err(status)) => return Err(format!("{address}: {}", status.message())),
        Err(_) => return Err(format!("{address}: no answer within {GREETING_DEADLINE:?}")),
    };
    if reply.member != member.0 {
        return Err(format!("{address} is {}", MemberId(reply.member)));
    }
    group.check_cluster(&reply.cluster).map_err(|status| format!("{address}: {}", status.message()))?;
    let wall = Timestamp::from_nanos(reply.clock_nanos.into());
    group.clocks.heard(member, wall, (asked, group.clocks.look()));
    Ok((address, channel, reply))
}

/// As soon as the state has the id of the cluster or the federation, writes it to the stamp and lets every request name it.
pub(crate) async fn stamp_cluster(
    raft: Raft,
    group: Arc<Group>,
    store: Arc<StateStore>,
    stamp: Arc<StampFile>,
) {
    let stamped = stamp.get().await.cluster;
    let mut changes = raft.metrics();
    loop {
        let made = group.kind.made(&*store.kv().snapshot());
        if let Some(found) = made {
            if stamped.is_known() && stamped != found {
                group.fail(format!(
                    "the data directory is stamped with cluster {stamped}, the state is of {found}"
                ));
                return;
            }
            if !stamped.is_known()
                && let Err(error) = stamp.change(|stamp| stamp.cluster = found).await
            {
                group.fail(format!("stamp the data directory with its cluster: {error}"));
                return;
            }
            group.set_cluster(found);
            return;
        }
        if changes.changed().await.is_err() {
            return;
        }
    }
}
