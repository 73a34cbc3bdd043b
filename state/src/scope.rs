//! What a command touches, and for which session it is executed. The gate of the metaserver asks the command itself, so nobody
//! can pass a scope that does not fit (P4.4).

use dfs_proto::ids::{SessionId, VolumeId};
use dfs_proto::meta::Change;
use dfs_proto::scope::{Scope, Unleased};

use crate::command::Command;
use crate::table::volume;

impl Command {
    /// The inodes and names that this command alters.
    pub fn scope(&self) -> Scope {
        match self {
            Command::Change { request, .. } => request.change.scope(),
            // Nothing is altered: the error is remembered, or the result of an earlier try is answered again.
            Command::Refuse { .. }
            | Command::OpenSession { .. }
            | Command::CloseSession { .. }
            | Command::ExpireSession { .. } => Scope::unleased(Unleased::Sessions),
            Command::RecordMembers { .. } => Scope::unleased(Unleased::Cluster),
            Command::RegisterServer(_) => Scope::unleased(Unleased::Servers),
            Command::SealChunks { .. }
            | Command::SealChunksOf { .. }
            | Command::ReportDamage { .. }
            | Command::StartDeleting { .. }
            | Command::ConfirmDeleted { .. } => Scope::unleased(Unleased::Chunks),
            Command::Reap { .. } => Scope::unleased(Unleased::Garbage),
            // Of the root directory that comes with the cluster.
            Command::InitCluster(_) => of_root(VolumeId(0)),
            // The attributes of the volume's root change, and whether names can be made in it.
            Command::MakeVolume { volume, .. }
            | Command::StartRemoval { volume, .. }
            | Command::UndoRemoval { volume, .. }
            | Command::DropVolume { volume } => of_root(*volume),
            Command::ForbidVolume { volume } | Command::FenceVolume { volume } => {
                Scope::unleased(Unleased::Volumes).volume(*volume)
            }
            Command::ReleaseFor { inodes, .. } => Change::ReleaseOrphans { inodes: inodes.clone() }.scope(),
            Command::RecordHolds { .. } | Command::RecordWrites { .. } | Command::NoteSilences { .. } => {
                Scope::unleased(Unleased::Sessions)
            }
        }
    }

    /// The session that asks for it; `None`: the leader itself, or a chunkserver.
    pub fn asked_by(&self) -> Option<SessionId> {
        match self {
            Command::Change { request, .. } | Command::Refuse { request, .. } => Some(request.session),
            // What it closed, or is about to hold.
            Command::CloseSession { session }
            | Command::ReleaseFor { session, .. }
            | Command::RecordHolds { session, .. }
            | Command::RecordWrites { session, .. } => Some(*session),
            // It has none yet.
            Command::OpenSession { .. } => None,
            Command::ExpireSession { .. }
            | Command::InitCluster(_)
            | Command::RecordMembers { .. }
            | Command::RegisterServer(_)
            | Command::SealChunks { .. }
            | Command::SealChunksOf { .. }
            | Command::ReportDamage { .. }
            | Command::Reap { .. }
            | Command::StartDeleting { .. }
            | Command::ConfirmDeleted { .. }
            | Command::MakeVolume { .. }
            | Command::StartRemoval { .. }
            | Command::UndoRemoval { .. }
            | Command::DropVolume { .. }
            | Command::ForbidVolume { .. }
            | Command::FenceVolume { .. }
            | Command::NoteSilences { .. } => None,
        }
    }
}

/// A number that is no volume's has no root, and its command is refused.
fn of_root(volume: VolumeId) -> Scope {
    match volume::root_of(volume) {
        Some(root) => Scope::of_inode(root),
        None => Scope::unleased(Unleased::Volumes).volume(volume),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use dfs_proto::attr::{Caller, Name};
    use dfs_proto::error::MetaError;
    use dfs_proto::ids::{ChunkId, ClusterId, DirectoryId, InodeId, RequestId, ServerId, SessionNonce};
    use dfs_proto::meta::{Change, ChangeRequest};

    use super::*;
    use crate::command::{InitCluster, RegisterServer, RootAttr, ServerAddresses};
    use crate::time::StateTime;

    const SESSION: SessionId = SessionId(4);
    const VOLUME: VolumeId = VolumeId(3);
    const ROOT_ATTR: RootAttr = RootAttr { mode: 0o755, uid: 0, gid: 0 };

    fn unlink() -> ChangeRequest {
        let change = Change::Unlink { parent: InodeId(5), name: Name::new("a").unwrap() };
        ChangeRequest {
            cluster: ClusterId(7),
            session: SESSION,
            request: RequestId(1),
            answered_below: RequestId(1),
            caller: Caller::ROOT,
            change,
        }
    }

    /// Commands that touch nothing but records which no lease covers, and who asks.
    fn unleased() -> Vec<(Command, Option<SessionId>)> {
        let server = ServerId(2);
        let register = RegisterServer {
            server: None,
            directory: DirectoryId(1),
            addresses: ServerAddresses::default(),
            zone: String::new(),
        };
        let refuse = Command::Refuse { request: unlink(), error: MetaError::NotFound };
        vec![
            (refuse, Some(SESSION)),
            (Command::RecordMembers { members: Vec::new() }, None),
            (Command::OpenSession { nonce: SessionNonce(1), client: String::new() }, None),
            (Command::CloseSession { session: SESSION }, Some(SESSION)),
            (Command::ExpireSession { session: SESSION }, None),
            (Command::RegisterServer(register), None),
            (Command::SealChunks { chunks: vec![ChunkId(1)] }, None),
            (Command::SealChunksOf { server, limit: 1 }, None),
            (Command::ReportDamage { chunk: ChunkId(1), server }, None),
            (Command::Reap { limit: 1 }, None),
            (Command::StartDeleting { before: StateTime::default(), limit: 1 }, None),
            (Command::ConfirmDeleted { server, chunks: Vec::new() }, None),
            (Command::RecordHolds { session: SESSION, volume: VOLUME }, Some(SESSION)),
            (Command::RecordWrites { session: SESSION, volume: VOLUME }, Some(SESSION)),
            (Command::NoteSilences { silences: Vec::new() }, None),
        ]
    }

    #[test]
    fn commands_on_records_that_no_lease_covers_touch_nothing() {
        for (command, by) in unleased() {
            assert_eq!(command.scope(), Scope::default(), "{command:?}");
            assert_eq!(command.asked_by(), by, "{command:?}");
        }
    }

    #[test]
    fn a_step_of_a_volume_touches_its_root_and_a_step_of_its_entry_does_not() {
        let (volume, version) = (VOLUME, 1);
        let root = InodeId::new(VOLUME, 1).unwrap();
        let steps = [
            (Command::MakeVolume { volume, root: ROOT_ATTR }, vec![root]),
            (Command::StartRemoval { volume, version }, vec![root]),
            (Command::UndoRemoval { volume, version }, vec![root]),
            (Command::DropVolume { volume }, vec![root]),
            (Command::ForbidVolume { volume }, vec![]),
            (Command::FenceVolume { volume }, vec![]),
        ];
        for (command, inodes) in steps {
            let wanted = BTreeSet::from_iter(inodes);
            let scope = command.scope();
            assert_eq!((scope.inodes, scope.volumes), (wanted, BTreeSet::from([volume])), "{command:?}");
            assert_eq!(command.asked_by(), None);
        }
        let init = InitCluster {
            cluster: ClusterId(7),
            name: String::new(),
            copies: 1,
            copies_min: 1,
            hash_key: 0,
            root: ROOT_ATTR,
        };
        assert_eq!(Command::InitCluster(init).scope(), Scope::of_inode(InodeId::ROOT));
    }

    #[test]
    fn a_clients_change_touches_what_it_says_itself() {
        let request = unlink();
        let command = Command::of_request(request.clone(), Vec::new(), Vec::new());
        assert_eq!(command.scope(), request.change.scope());
        assert_eq!(command.asked_by(), Some(SESSION));
    }

    #[test]
    fn a_release_for_a_session_touches_what_is_released() {
        let inodes = vec![InodeId(5), InodeId(6)];
        let command = Command::ReleaseFor { session: SESSION, inodes: inodes.clone() };
        assert_eq!(command.scope(), Change::ReleaseOrphans { inodes }.scope());
        assert_eq!(command.asked_by(), Some(SESSION));
    }
}
