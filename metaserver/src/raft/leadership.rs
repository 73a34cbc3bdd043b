//! Who leads the group, as far as this member knows.

use std::sync::Arc;

use dfs_proto::ids::MemberId;
use openraft::ServerState;
use openraft::async_runtime::watch::WatchReceiver as _;
use tokio::sync::watch;
use tokio::time::Instant;

use super::machine::state_machine::Raft;
use super::member::group::Group;

/// Who leads the group, as far as this member knows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Leadership {
    pub term: u64,
    pub leader: Option<MemberId>,
    pub leader_address: Option<String>,
    pub is_leader: bool,
    /// When this member learned of this term and leader.
    pub since: Instant,
}

pub(crate) fn current_leadership(raft: &Raft, group: &Group, before: Option<&Leadership>) -> Leadership {
    let metrics = raft.metrics();
    let metrics = metrics.borrow_watched();
    let leader = metrics.current_leader.map(MemberId);
    let is_leader = metrics.state == ServerState::Leader && leader == Some(group.own);
    let known = leader.and_then(|leader| group.address_of(leader));
    let recorded = || {
        let node = metrics.membership_config.membership().get_node(&leader?.0)?;
        Some(node.address.clone())
    };
    let term = metrics.current_term;
    let since = before
        .filter(|before| (before.term, before.leader, before.is_leader) == (term, leader, is_leader))
        .map_or_else(Instant::now, |before| before.since);
    Leadership { term, leader, leader_address: known.or_else(recorded), is_leader, since }
}

/// Keeps `leadership` up to date. When Raft stops, this member has failed.
pub(crate) async fn watch_leadership(raft: Raft, group: Arc<Group>, leadership: watch::Sender<Leadership>) {
    let mut changes = raft.metrics();
    loop {
        let stopped = changes.borrow_watched().running_state.clone().err();
        let now = current_leadership(&raft, &group, Some(&leadership.borrow()));
        leadership.send_if_modified(|before| {
            let has_changed = *before != now;
            if has_changed {
                tracing::info!("term {}: leader {:?}", now.term, now.leader);
                *before = now;
            }
            has_changed
        });
        if let Some(stopped) = stopped {
            group.fail(format!("raft has stopped: {stopped}"));
            return;
        }
        if changes.changed().await.is_err() {
            return;
        }
    }
}
