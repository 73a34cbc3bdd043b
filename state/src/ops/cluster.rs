//! The first command of a cluster, and its membership record.

use dfs_proto::error::MetaError;
use dfs_proto::ids::{Incarnation, InodeId};
use dfs_proto::units::REPLICAS_MAX;

use crate::command::{InitCluster, Member, Proposed, Reply};
use crate::kv::Txn;
use crate::now::advance_time;
use crate::table::{cluster, inode, volume};
use crate::value::cluster::ClusterRecord;
use crate::value::inode::InodeRecord;
use crate::value::volume::{VolumeRecord, VolumeState};

/// Makes the cluster and the root of volume 0. A second one changes nothing.
pub(crate) fn init(txn: &mut Txn<'_>, proposed: Proposed, init: &InitCluster) -> Reply {
    if cluster::get(txn).is_some() {
        return Reply::Done;
    }
    let copies_are_sound = 1 <= init.copies_min && init.copies_min <= init.copies;
    if !copies_are_sound || init.copies as usize > REPLICAS_MAX {
        let what = format!(
            "copies {} and copies_min {}: 1 <= copies_min <= copies <= {REPLICAS_MAX} is needed",
            init.copies, init.copies_min
        );
        return Reply::Refused(MetaError::InvalidArgument { what });
    }
    cluster::put(
        txn,
        &ClusterRecord {
            cluster: init.cluster,
            name: init.name.clone(),
            incarnation: Incarnation(1),
            copies: init.copies,
            copies_min: init.copies_min,
        },
    );
    cluster::put_hash_key(txn, init.hash_key);
    let root = InodeId::ROOT;
    volume::put(txn, root.volume(), VolumeRecord { number: root.number(), state: VolumeState::Active });
    let now = advance_time(txn, proposed);
    cluster::count(txn, |c| c.totals.inodes = 1);
    let record = InodeRecord::empty_directory(init.root, root, now.wall, now.born);
    inode::put(txn, root, &record);
    Reply::Done
}

/// Keeps P7.7: what a member must show to be taken for itself.
pub(crate) fn record_members(txn: &mut Txn<'_>, members: &[Member]) -> Reply {
    cluster::put_members(txn, members);
    Reply::Done
}

#[cfg(test)]
mod tests {
    use dfs_proto::ids::{ClusterId, DirectoryId, MemberId};

    use super::*;
    use crate::command::Command;
    use crate::read;
    use crate::tests::{CLUSTER, Harness, init_command};

    #[test]
    fn a_cluster_is_initialised_once() {
        let mut harness = Harness::new();
        let Command::InitCluster(mut again) = init_command() else { panic!("an InitCluster") };
        again.cluster = ClusterId(99);
        assert_eq!(harness.command(Command::InitCluster(again)), Reply::Done);
        harness.view(|view| assert_eq!(read::cluster(view).map(|c| c.cluster), Some(CLUSTER)));
    }

    #[test]
    fn nothing_is_possible_before() {
        let mut harness = Harness::uninitialised();
        let refused = harness.command(Command::Reap { limit: 1 });
        assert!(matches!(refused, Reply::Refused(MetaError::Unavailable { .. })));
    }

    #[test]
    fn recorded_members_replace_those_before() {
        let mut harness = Harness::new();
        let member = |id, directory| Member {
            id: MemberId(id),
            address: format!("host:{id}"),
            directory: DirectoryId(directory),
        };
        harness.command(Command::RecordMembers { members: vec![member(1, 10), member(2, 20)] });
        harness.command(Command::RecordMembers { members: vec![member(2, 21), member(3, 30)] });
        harness.view(|view| assert_eq!(read::members(view), [member(2, 21), member(3, 30)]));
    }
}
