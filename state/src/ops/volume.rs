//! The steps by which volumes come and go (P9.2), and what changes in the root directory need to know of them: the root's
//! directories are other volumes, whose clusters only the leader can ask.

use dfs_proto::attr::{FileKind, Name};
use dfs_proto::error::MetaError;
use dfs_proto::ids::{InodeId, VolumeId};
use dfs_proto::meta::{Change, MetaResult, RenameMode};

use super::context::invalid;
use crate::command::{Reply, RootAttr, VolumeRoot, VolumeStep};
use crate::kv::{Snapshot, Txn};
use crate::now::Now;
use crate::table::{cluster, dirent, inode, volume};
use crate::value::inode::InodeRecord;
use crate::value::volume::{VolumeEntry, VolumeRecord, VolumeState};

/// Makes the root directory of a volume; nobody sees it before volume 0 has a name for it.
pub(crate) fn make(txn: &mut Txn<'_>, now: Now, id: VolumeId, attr: RootAttr) -> Reply {
    let Some(root) = volume::root_of(id).filter(|root| *root != InodeId::ROOT) else {
        return Reply::Refused(invalid(format!("{id} cannot be made")));
    };
    match volume::get(txn, id).map(|record| record.state) {
        Some(VolumeState::Dropped) => return Reply::Refused(given_up()),
        Some(VolumeState::Active | VolumeState::Removing { .. }) => {}
        None => {
            volume::put(txn, id, VolumeRecord { number: root.number(), state: VolumeState::Active });
            inode::put(txn, root, &InodeRecord::empty_directory(attr, InodeId::ROOT, now.wall, now.born));
            cluster::count(txn, |c| c.totals.inodes += 1);
        }
    }
    answer_root(txn, root)
}

/// From here on the volume gets no names, until that is undone. Only an empty one.
pub(crate) fn start_removal(txn: &mut Txn<'_>, id: VolumeId, version: u64) -> Reply {
    let (root, mut record) = match here(txn, id) {
        Ok(found) => found,
        Err(refused) => return Reply::Refused(refused),
    };
    let mut directory = match inode::require_directory(txn, root) {
        Ok(directory) => directory,
        Err(error) => return Reply::Refused(error),
    };
    if directory.size.0 > 0 {
        return Reply::Refused(MetaError::NotEmpty);
    }
    let newest = match record.state {
        VolumeState::Removing { version: before } => before.max(version),
        VolumeState::Active | VolumeState::Dropped => version,
    };
    record.state = VolumeState::Removing { version: newest };
    volume::put(txn, id, record);
    directory.nlink = 0;
    inode::put(txn, root, &directory);
    answer_root(txn, root)
}

/// The entry was not removed at `version` or before, and will not be.
pub(crate) fn undo_removal(txn: &mut Txn<'_>, id: VolumeId, version: u64) -> Reply {
    let (root, mut record) = match here(txn, id) {
        Ok(found) => found,
        Err(refused) => return Reply::Refused(refused),
    };
    if !matches!(record.state, VolumeState::Removing { version: started } if started <= version) {
        return Reply::Done;
    }
    record.state = VolumeState::Active;
    volume::put(txn, id, record);
    if let Ok(mut directory) = inode::require_directory(txn, root) {
        directory.nlink = 2; // it is empty
        inode::put(txn, root, &directory);
    }
    Reply::Done
}

/// The volume has no name and gets none: its root goes. `more`: files that are still open are left. Volume 0 goes from a
/// cluster that joins a federation which has one.
pub(crate) fn drop_volume(txn: &mut Txn<'_>, id: VolumeId) -> Reply {
    let Some(root) = volume::root_of(id) else {
        return Reply::Refused(invalid(format!("{id} cannot be dropped")));
    };
    let number = volume::get(txn, id).map_or(root.number(), |record| record.number);
    let mut count = 0;
    if let Some(directory) = inode::get(txn, root) {
        if directory.size.0 > 0 {
            return Reply::Refused(MetaError::NotEmpty);
        }
        inode::delete(txn, root);
        cluster::count(txn, |c| c.totals.inodes -= 1);
        count = 1;
    }
    volume::put(txn, id, VolumeRecord { number, state: VolumeState::Dropped }); // keeps VO2
    Reply::Worked { count, more: volume::has_inodes(txn, id) }
}

/// In volume 0's cluster: the volume, whose making was given up, gets no name any more. Refused when it has one.
pub(crate) fn forbid(txn: &mut Txn<'_>, id: VolumeId) -> Reply {
    match volume::entry(txn, id) {
        Some(VolumeEntry::Named { .. }) => return Reply::Refused(MetaError::Exists),
        Some(VolumeEntry::Forbidden) => {}
        None => volume::put_entry(txn, id, &VolumeEntry::Forbidden),
    }
    Reply::Done
}

/// In volume 0's cluster: a removal of the volume's entry that is on its way does not happen (VO3).
pub(crate) fn fence(txn: &mut Txn<'_>, id: VolumeId) -> Reply {
    match volume::entry(txn, id) {
        Some(VolumeEntry::Named { name, version }) => {
            volume::put_entry(txn, id, &VolumeEntry::Named { name, version: version + 1 });
            Reply::Fenced { removed_at: version }
        }
        Some(VolumeEntry::Forbidden) | None => Reply::Refused(MetaError::NotFound),
    }
}

fn here(txn: &Txn<'_>, id: VolumeId) -> MetaResult<(InodeId, VolumeRecord)> {
    let record = volume::get(txn, id).ok_or(MetaError::WrongCluster { map_version: 0 })?;
    match (volume::root_of(id), record.state) {
        (None, _) | (_, VolumeState::Dropped) => Err(given_up()),
        (Some(root), VolumeState::Active | VolumeState::Removing { .. }) => Ok((root, record)),
    }
}

/// Numbers are not used twice: whoever still works on it is told that it is gone.
fn given_up() -> MetaError {
    MetaError::Stale
}

/// `change` gives a name in the root of a volume that may be about to go: whether it will is known soon.
pub(crate) fn is_undecided(view: &dyn Snapshot, change: &Change) -> bool {
    let is_going = |root: InodeId| {
        let record = volume::get(view, root.volume());
        matches!(record.map(|record| record.state), Some(VolumeState::Removing { .. }))
    };
    root_entered(change).is_some_and(is_going)
}

/// The root of a volume, if the change puts a name into one. Not by the change's scope: what this answers decides how entries
/// that are in logs are applied, and a scope may change with the needs of leases.
pub(crate) fn root_entered(change: &Change) -> Option<InodeId> {
    let parent = match change {
        Change::Create(create) => create.parent,
        Change::Link { parent, .. } => *parent,
        Change::Rename(rename) => rename.new_parent,
        Change::Unlink { .. }
        | Change::Rmdir { .. }
        | Change::SetAttr(_)
        | Change::OpenChunk(_)
        | Change::SealChunk { .. }
        | Change::CommitExtents(_)
        | Change::ReleaseOrphans { .. } => return None,
    };
    volume::is_root(parent).then_some(parent)
}

fn answer_root(txn: &Txn<'_>, root: InodeId) -> Reply {
    match inode::require(txn, root) {
        Ok(record) => Reply::VolumeRoot(inode::attr(txn, root, &record)),
        Err(error) => Reply::Refused(error),
    }
}

/// A volume whose root a change in the root directory has to be told of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NeededVolume {
    pub volume: VolumeId,
    /// Of its entry.
    pub version: u64,
    /// It must be made to get no names; else only looked at.
    pub is_removed: bool,
}

impl NeededVolume {
    /// What is done with its root before the change.
    pub fn step(&self) -> VolumeStep {
        match self.is_removed {
            true => VolumeStep::Removing { version: self.version },
            false => VolumeStep::Seen { version: self.version },
        }
    }

    fn is_met_by(&self, root: &VolumeRoot) -> bool {
        root.attr.inode.volume() == self.volume && root.step == self.step()
    }
}

/// The volumes whose roots `change` moves or removes.
pub(crate) fn needed(view: &dyn Snapshot, change: &Change) -> Vec<NeededVolume> {
    let mut needed = Vec::new();
    match change {
        Change::Rmdir { parent, name } => {
            needed.extend(
                elsewhere(view, *parent, name).map(|found| NeededVolume { is_removed: true, ..found }),
            );
        }
        // A volume's name is not exchanged, whatever its cluster says.
        Change::Rename(rename) if rename.mode == RenameMode::Exchange => {}
        Change::Rename(rename) if rename.parent == rename.new_parent => {
            let source = elsewhere(view, rename.parent, &rename.name);
            let target = elsewhere(view, rename.new_parent, &rename.new_name);
            let source_entry = dirent::find(view, rename.parent, &rename.name);
            let is_directory = source_entry.is_some_and(|entry| entry.record.kind == FileKind::Directory);
            let replaces =
                target.filter(|_| is_directory && rename.mode == RenameMode::Replace && source != target);
            needed.extend(source);
            needed.extend(replaces.map(|found| NeededVolume { is_removed: true, ..found }));
        }
        Change::Rename(_)
        | Change::Create(_)
        | Change::Link { .. }
        | Change::Unlink { .. }
        | Change::SetAttr(_)
        | Change::OpenChunk(_)
        | Change::SealChunk { .. }
        | Change::CommitExtents(_)
        | Change::ReleaseOrphans { .. } => {}
    }
    needed
}

fn elsewhere(view: &dyn Snapshot, parent: InodeId, name: &Name) -> Option<NeededVolume> {
    let entry = dirent::find(view, parent, name)?;
    let volume = entry.record.inode.volume();
    if volume == parent.volume() {
        return None;
    }
    match volume::entry(view, volume) {
        Some(VolumeEntry::Named { version, .. }) => Some(NeededVolume { volume, version, is_removed: false }),
        Some(VolumeEntry::Forbidden) | None => {
            panic!("broken invariant S10: {volume} has a name and no entry")
        }
    }
}

/// The leader has asked about the volumes that this change is about, as the root directory is now.
pub(crate) fn fits(view: &dyn Snapshot, change: &Change, roots: &[VolumeRoot]) -> bool {
    let is_met = |needed: &NeededVolume| roots.iter().any(|root| needed.is_met_by(root));
    let is_free = |root: &VolumeRoot| match root.step {
        VolumeStep::Made => volume::entry(view, root.attr.inode.volume()).is_none(),
        VolumeStep::Seen { .. } | VolumeStep::Removing { .. } => true,
    };
    needed(view, change).iter().all(is_met) && roots.iter().all(is_free)
}

#[cfg(test)]
mod tests {
    use dfs_proto::attr::Caller;
    use dfs_proto::meta::{Changed, NewInode, Rename};

    use super::*;
    use crate::command::Command;
    use crate::read;
    use crate::tests::{Harness, create, name, user};

    const ROOT: InodeId = InodeId::ROOT;
    const ATTR: RootAttr = RootAttr { mode: 0o755, uid: 7, gid: 7 };

    fn root_of(reply: Reply) -> VolumeRoot {
        let Reply::VolumeRoot(attr) = reply else { panic!("no root: {reply:?}") };
        VolumeRoot { attr, step: VolumeStep::Made }
    }

    /// Makes the volume, here, without a name.
    fn made(harness: &mut Harness, number: u32) -> VolumeRoot {
        root_of(harness.command(Command::MakeVolume { volume: VolumeId(number), root: ATTR }))
    }

    /// With a name.
    fn volume(harness: &mut Harness, number: u32, text: &str) -> VolumeId {
        let root = made(harness, number);
        let entered = harness.change_with(&Caller::ROOT, mkdir(text), vec![root]);
        assert!(matches!(entered, Some(Ok(Changed::Inode { .. }))), "{entered:?}");
        VolumeId(number)
    }

    fn mkdir(text: &str) -> Change {
        create(ROOT, text, 0o755, NewInode::Directory)
    }

    fn rmdir(text: &str) -> Change {
        Change::Rmdir { parent: ROOT, name: name(text) }
    }

    fn rename(from: &str, to: &str) -> Change {
        let (name, new_name) = (name(from), name(to));
        Change::Rename(Rename { parent: ROOT, name, new_parent: ROOT, new_name, mode: RenameMode::Replace })
    }

    /// As the leader does: everything that the change needs is asked for, then it is proposed.
    fn change(harness: &mut Harness, caller: &Caller, change: Change) -> Option<MetaResult<Changed>> {
        let roots = ask(harness, &change);
        harness.change_with(caller, change, roots)
    }

    fn ask(harness: &mut Harness, change: &Change) -> Vec<VolumeRoot> {
        let needed = harness.view(|view| read::needed_volumes(view, change));
        let mut roots = Vec::new();
        for need in needed {
            let (step, NeededVolume { volume, version, .. }) = (need.step(), need);
            let attr = match need.is_removed {
                true => root_of(harness.command(Command::StartRemoval { volume, version })).attr,
                false => harness.attr(InodeId::new(volume, 1).expect("in range")),
            };
            roots.push(VolumeRoot { attr, step });
        }
        roots
    }

    fn entry(harness: &Harness, id: VolumeId) -> Option<VolumeEntry> {
        harness.view(|view| volume::entry(view, id))
    }

    #[test]
    fn a_volume_has_its_root_before_its_name_and_files_of_its_own_numbers() {
        let mut harness = Harness::new();
        let root = made(&mut harness, 5);
        assert_eq!((root.attr.uid, root.attr.mode, root.attr.nlink), (7, 0o755, 2));
        assert_eq!(made(&mut harness, 5), root, "making it again changes nothing");
        assert_eq!(harness.lookup(ROOT, "v"), Err(MetaError::NotFound));
        harness.check();
        let entered = harness.change_with(&Caller::ROOT, mkdir("v"), vec![root.clone()]);
        assert_eq!(
            entered,
            Some(Ok(Changed::Inode { attr: root.attr.clone(), existed: false, next_commit: 1 }))
        );
        assert_eq!(harness.lookup(ROOT, "v"), Ok(root.attr.inode));
        assert_eq!(harness.lookup(root.attr.inode, ".."), Ok(ROOT));
        assert_eq!(harness.attr(ROOT).nlink, 3);
        let file = harness.file(root.attr.inode, "f");
        assert_eq!((file.volume(), file.number()), (VolumeId(5), 2));
        harness.check();
    }

    #[test]
    fn a_volume_that_is_forbidden_gets_no_name_and_one_with_a_name_is_not_forbidden() {
        let mut harness = Harness::new();
        let late = made(&mut harness, 5);
        assert_eq!(harness.command(Command::ForbidVolume { volume: VolumeId(5) }), Reply::Done);
        assert_eq!(harness.change_with(&Caller::ROOT, mkdir("late"), vec![late]), None, "asked to try again");
        assert_eq!(harness.lookup(ROOT, "late"), Err(MetaError::NotFound));
        let named = volume(&mut harness, 6, "v");
        assert_eq!(
            harness.command(Command::ForbidVolume { volume: named }),
            Reply::Refused(MetaError::Exists)
        );
        harness.check();
    }

    #[test]
    fn a_dropped_volume_is_not_made_again_by_a_step_that_comes_late() {
        let mut harness = Harness::new();
        let drop = Command::DropVolume { volume: VolumeId(5) };
        assert_eq!(harness.command(drop.clone()), Reply::Worked { count: 0, more: false });
        let late = harness.command(Command::MakeVolume { volume: VolumeId(5), root: ATTR });
        assert!(matches!(late, Reply::Refused(_)), "{late:?}");
        made(&mut harness, 6);
        let drop = Command::DropVolume { volume: VolumeId(6) };
        assert_eq!(harness.command(drop.clone()), Reply::Worked { count: 1, more: false });
        assert_eq!(harness.command(drop), Reply::Worked { count: 0, more: false });
        assert_eq!(harness.try_attr(InodeId::new(VolumeId(6), 1).expect("in range")), Err(MetaError::Stale));
        harness.check();
    }

    #[test]
    fn directories_move_in_a_cluster_that_has_given_up_the_root_directory() {
        let mut harness = Harness::new();
        let root = made(&mut harness, 5).attr.inode;
        harness.command(Command::DropVolume { volume: VolumeId(0) });
        let (a, b) = (harness.directory(root, "a"), harness.directory(root, "b"));
        let moved = harness.directory(a, "d");
        let to = |new_parent| {
            let (parent, name, new_name) = (a, name("d"), name("d"));
            Change::Rename(Rename { parent, name, new_parent, new_name, mode: RenameMode::Replace })
        };
        assert!(matches!(harness.change(&Caller::ROOT, to(moved)), Err(MetaError::InvalidArgument { .. })));
        assert_eq!(harness.change(&Caller::ROOT, to(b)), Ok(Changed::Removed { orphan: None }));
        assert_eq!(harness.lookup(b, "d"), Ok(moved));
    }

    #[test]
    fn a_removed_volume_is_dropped_once_its_open_files_are_released() {
        let mut harness = Harness::new();
        let volume = volume(&mut harness, 5, "v");
        let root = InodeId::new(volume, 1).expect("in range");
        let open = harness.file(root, "open");
        harness.unlink(root, "open").expect("it is there");
        assert_eq!(
            change(&mut harness, &Caller::ROOT, rmdir("v")),
            Some(Ok(Changed::Removed { orphan: None }))
        );
        assert_eq!((harness.attr(ROOT).nlink, entry(&harness, volume)), (2, None));
        harness.check();
        let drop = Command::DropVolume { volume };
        assert_eq!(harness.command(drop.clone()), Reply::Worked { count: 1, more: true });
        assert_eq!(harness.attr(open).nlink, 0, "it can still be read");
        harness.change(&Caller::ROOT, Change::ReleaseOrphans { inodes: vec![open] }).expect("held");
        assert_eq!(harness.command(drop), Reply::Worked { count: 0, more: false });
        harness.check();
    }

    #[test]
    fn only_an_empty_volume_is_removed_and_a_removal_that_was_fenced_is_not_done() {
        let mut harness = Harness::new();
        let volume = volume(&mut harness, 5, "v");
        let root = InodeId::new(volume, 1).expect("in range");
        harness.file(root, "f");
        let started = harness.command(Command::StartRemoval { volume, version: 1 });
        assert_eq!(started, Reply::Refused(MetaError::NotEmpty));
        harness.unlink(root, "f").expect("it is there");
        let on_its_way = ask(&mut harness, &rmdir("v"));
        let new = create(root, "g", 0o600, NewInode::File);
        let request = harness.next_request(&Caller::ROOT, new);
        assert!(harness.view(|view| read::is_undecided(view, &request)));
        let reply = harness.command(Command::of_request(request, Vec::new(), Vec::new()));
        assert!(matches!(reply, Reply::Refused(MetaError::Undecided { .. })), "it may go, or not: {reply:?}");
        harness.check();
        let fenced = harness.command(Command::FenceVolume { volume });
        assert_eq!(fenced, Reply::Fenced { removed_at: 1 });
        assert_eq!(harness.command(Command::UndoRemoval { volume, version: 1 }), Reply::Done);
        harness.file(root, "g");
        assert_eq!(harness.change_with(&Caller::ROOT, rmdir("v"), on_its_way), None);
        assert_eq!(harness.lookup(ROOT, "v"), Ok(root));
        harness.check();
    }

    #[test]
    fn undoing_an_older_removal_leaves_a_newer_one() {
        let mut harness = Harness::new();
        let volume = volume(&mut harness, 5, "v");
        harness.command(Command::StartRemoval { volume, version: 2 });
        harness.command(Command::UndoRemoval { volume, version: 1 });
        let root = InodeId::new(volume, 1).expect("in range");
        assert_eq!(harness.attr(root).nlink, 0);
    }

    #[test]
    fn a_volume_gets_another_name_in_the_root_only_and_replaces_an_empty_one() {
        let mut harness = Harness::new();
        let (a, b) = (volume(&mut harness, 5, "a"), volume(&mut harness, 6, "b"));
        let roots = [a, b].map(|volume| InodeId::new(volume, 1).expect("in range"));
        assert!(matches!(change(&mut harness, &Caller::ROOT, rename("a", "c")), Some(Ok(_))));
        assert_eq!(harness.lookup(ROOT, "c"), Ok(roots[0]));
        assert_eq!(entry(&harness, a), Some(VolumeEntry::Named { name: name("c"), version: 2 }));
        harness.check();
        assert!(matches!(change(&mut harness, &Caller::ROOT, rename("c", "b")), Some(Ok(_))));
        assert_eq!((harness.lookup(ROOT, "b"), entry(&harness, b)), (Ok(roots[0]), None));
        assert_eq!(harness.attr(ROOT).nlink, 3);
        harness.check();
        let below = harness.directory(ROOT, "plain");
        let away = Change::Rename(Rename {
            parent: ROOT,
            name: name("b"),
            new_parent: below,
            new_name: name("x"),
            mode: RenameMode::Replace,
        });
        assert_eq!(change(&mut harness, &Caller::ROOT, away), Some(Err(MetaError::CrossVolume)));
        harness.check();
    }

    #[test]
    fn files_and_volumes_do_not_replace_each_other() {
        let mut harness = Harness::new();
        volume(&mut harness, 5, "v");
        harness.file(ROOT, "f");
        let onto =
            |harness: &mut Harness, from: &str, to: &str| change(harness, &Caller::ROOT, rename(from, to));
        assert_eq!(onto(&mut harness, "f", "v"), Some(Err(MetaError::IsDirectory)));
        assert_eq!(onto(&mut harness, "v", "f"), Some(Err(MetaError::NotDirectory)));
        assert_eq!(onto(&mut harness, "v", "v"), Some(Ok(Changed::Removed { orphan: None })));
        assert_eq!(harness.unlink(ROOT, "v"), Err(MetaError::IsDirectory));
        harness.check();
    }

    #[test]
    fn what_the_leader_learned_before_another_change_is_not_acted_on() {
        let mut harness = Harness::new();
        volume(&mut harness, 5, "a");
        let (one, two) = (rename("a", "b"), rename("a", "c"));
        let learned = ask(&mut harness, &two);
        assert!(matches!(change(&mut harness, &Caller::ROOT, one), Some(Ok(_))));
        assert!(matches!(change(&mut harness, &Caller::ROOT, rename("b", "a")), Some(Ok(_))));
        assert_eq!(harness.change_with(&Caller::ROOT, two, learned), None);
        harness.check();
    }

    #[test]
    fn in_a_sticky_root_only_owners_move_or_remove_volumes() {
        let mut harness = Harness::new();
        harness.chmod(&Caller::ROOT, ROOT, 0o1777).expect("root may");
        volume(&mut harness, 5, "v");
        let refused = Some(Err(MetaError::NotPermitted));
        assert_eq!(change(&mut harness, &user(8), rename("v", "w")), refused);
        assert_eq!(change(&mut harness, &user(8), rmdir("v")), refused);
        harness.command(Command::UndoRemoval { volume: VolumeId(5), version: 1 });
        assert!(matches!(change(&mut harness, &user(7), rename("v", "w")), Some(Ok(_))));
        harness.check();
    }
}
