//! Who the members of the group are, as the Raft membership records them.

use std::collections::BTreeMap;

use dfs_proto::ids::{DirectoryId, MemberId};
use openraft::async_runtime::watch::WatchReceiver as _;

use super::group::Group;
use crate::raft::machine::state_machine::Raft;
use crate::raft::types::MemberNode;
use dfs_state::command::Member;

/// The data directories that the membership records; empty until there is a membership.
pub(crate) fn recorded(raft: &Raft) -> BTreeMap<MemberId, DirectoryId> {
    let metrics = raft.metrics();
    let metrics = metrics.borrow_watched();
    let nodes = metrics.membership_config.membership().nodes();
    nodes.map(|(id, node)| (MemberId(*id), node.directory)).collect()
}

/// The members that the membership records, with the addresses that their greetings gave.
pub(crate) fn members(raft: &Raft, group: &Group) -> Vec<Member> {
    let metrics = raft.metrics();
    let metrics = metrics.borrow_watched();
    let nodes = metrics.membership_config.membership().nodes();
    let member = |(id, node): (&u64, &MemberNode)| {
        let id = MemberId(*id);
        let address = group.address_of(id).unwrap_or_else(|| node.address.clone());
        Member { id, address, directory: node.directory }
    };
    nodes.map(member).collect()
}
