//! Moves a name, atomically, replacing what is there; or exchanges two names, atomically. The order of the checks is Linux's, so
//! that the errors are.

use dfs_proto::attr::FileKind;
use dfs_proto::error::MetaError;
use dfs_proto::ids::InodeId;
use dfs_proto::meta::{Changed, MetaResult, Rename, RenameMode};
use dfs_proto::units::LINKS_MAX;

use super::context::{
    Context, drop_name, ensure, entry_added, entry_removed, invalid, is_volume_root, named, require_named,
    require_writable, searchable,
};
use crate::permission;
use crate::table::{dirent, inode, volume};
use crate::value::dirent::{Dirent, DirentRecord};
use crate::value::inode::InodeRecord;

/// How deep a directory may lie that another one is moved into: the walk to the root is work that grows (P7.2).
const DEPTH_MAX: usize = 10_000;

/// The directories as they are before, the old name's first.
type Parents = (InodeRecord, InodeRecord);

/// An entry and what it leads to.
struct Found {
    entry: Dirent,
    record: InodeRecord,
}

impl Found {
    fn of(context: &Context<'_, '_>, entry: Dirent) -> Found {
        Found { record: named(context, entry.record.inode), entry }
    }
}

pub(super) fn apply(context: &mut Context<'_, '_>, rename: &Rename) -> MetaResult<Changed> {
    ensure(rename.parent.volume() == rename.new_parent.volume(), MetaError::CrossVolume)?; // keeps P9.3
    let parents = (searchable(context, rename.parent)?, searchable(context, rename.new_parent)?);
    let source = dirent::find(context.txn, rename.parent, &rename.name).ok_or(MetaError::NotFound)?;
    let target = dirent::find(context.txn, rename.new_parent, &rename.new_name);
    match (rename.mode, target) {
        (RenameMode::NoReplace, Some(_)) => Err(MetaError::Exists),
        (RenameMode::Exchange, None) => Err(MetaError::NotFound),
        (RenameMode::Exchange, Some(target)) => exchange(context, rename, &parents, source, target),
        (RenameMode::Replace | RenameMode::NoReplace, target) => {
            replace(context, rename, &parents, source, target)
        }
    }
}

/// Each name stays in its place and leads to what the other one led to.
fn exchange(
    context: &mut Context<'_, '_>,
    rename: &Rename,
    parents: &Parents,
    source: Dirent,
    target: Dirent,
) -> MetaResult<Changed> {
    let (old_parent, new_parent) = (rename.parent, rename.new_parent);
    // The map learns the new names of two volumes one after the other (P9.5), and would have one name twice in between.
    let has_volume =
        is_volume_root(old_parent, source.record.inode) || is_volume_root(new_parent, target.record.inode);
    ensure(!has_volume, MetaError::CrossVolume)?;
    let (source, target) = (Found::of(context, source), Found::of(context, target));
    let is_moved = old_parent != new_parent;
    for (found, into) in [(&source, new_parent), (&target, old_parent)] {
        if is_moved && found.record.is_directory() {
            require_not_below(context, into, found.entry.record.inode)?;
        }
    }
    if source.entry.record.inode == target.entry.record.inode {
        return Ok(Changed::Removed { orphan: None }); // two names of one file, or one name twice
    }
    check_exchange(context, parents, [&source, &target], is_moved)?;
    let now = context.now;
    for (at, lost, gained) in [(old_parent, &source, &target), (new_parent, &target, &source)] {
        dirent::replace(context.txn, at, &lost.entry, gained.entry.record);
        change_directory(context, at, |directory| {
            entry_removed(directory, lost.record.is_directory(), now);
            entry_added(directory, gained.record.is_directory(), now);
        });
    }
    for (Found { entry, record: mut moved }, parent) in [(source, new_parent), (target, old_parent)] {
        require_named(context, entry.record.inode)?;
        moved.ctime = now;
        if moved.is_directory() {
            moved.parent = parent;
        }
        inode::put(context.txn, entry.record.inode, &moved);
    }
    Ok(Changed::Removed { orphan: None })
}

fn check_exchange(
    context: &Context<'_, '_>,
    parents: &Parents,
    [source, target]: [&Found; 2],
    is_moved: bool,
) -> MetaResult<()> {
    let sides = [(&parents.0, source, target), (&parents.1, target, source)];
    for (parent, lost, _) in sides {
        require_writable(context, parent)?;
        permission::require_unsticky(parent, &lost.record, context.caller)?;
    }
    if !is_moved {
        return Ok(());
    }
    for (_, moved, _) in sides {
        if moved.record.is_directory() {
            require_writable(context, &moved.record)?; // its `..` changes
        }
    }
    let is_full = sides.iter().any(|(parent, lost, gained)| {
        gained.record.is_directory() && !lost.record.is_directory() && parent.nlink >= LINKS_MAX
    });
    ensure(!is_full, MetaError::TooManyLinks)
}

fn replace(
    context: &mut Context<'_, '_>,
    rename: &Rename,
    parents: &Parents,
    source: Dirent,
    target: Option<Dirent>,
) -> MetaResult<Changed> {
    let is_moved = rename.parent != rename.new_parent;
    let is_volume = |parent: InodeId, entry: &Dirent| is_volume_root(parent, entry.record.inode);
    let moves_volume = is_volume(rename.parent, &source);
    ensure(!(moves_volume && is_moved), MetaError::CrossVolume)?; // keeps P9.3
    if let Some(target) = &target
        && is_volume(rename.new_parent, target)
    {
        ensure(!is_moved, MetaError::CrossVolume)?; // keeps P9.3
        ensure(source.record.kind == FileKind::Directory, MetaError::IsDirectory)?;
        if target.record.inode == source.record.inode {
            return Ok(Changed::Removed { orphan: None });
        }
    }
    let source = Found::of(context, source);
    let target = target.map(|target| Found::of(context, target));
    if is_moved && source.record.is_directory() {
        require_not_below(context, rename.new_parent, source.entry.record.inode)?;
    }
    if target.as_ref().is_some_and(|t| t.entry.record.inode == source.entry.record.inode) {
        return Ok(Changed::Removed { orphan: None }); // two names of one file: POSIX wants nothing to happen
    }
    check_rights(context, parents, &source, target.as_ref(), is_moved)?;
    let orphan = move_entry(context, rename, source, target)?;
    Ok(Changed::Removed { orphan })
}

/// A directory never moves below itself, also when two clients race: the walk is part of the command.
fn require_not_below(context: &Context<'_, '_>, mut directory: InodeId, moved: InodeId) -> MetaResult<()> {
    for _ in 0..DEPTH_MAX {
        ensure(directory != moved, invalid("a directory cannot be moved below itself"))?;
        if volume::is_root(directory) {
            return Ok(()); // what it hangs in may be of another cluster
        }
        directory = named(context, directory).parent;
    }
    Err(invalid(format!("the directory to move into lies more than {DEPTH_MAX} deep")))
}

fn check_rights(
    context: &Context<'_, '_>,
    (old_parent, new_parent): &Parents,
    source: &Found,
    target: Option<&Found>,
    is_moved: bool,
) -> MetaResult<()> {
    require_writable(context, old_parent)?;
    permission::require_unsticky(old_parent, &source.record, context.caller)?;
    require_writable(context, new_parent)?;
    let is_directory = source.record.is_directory();
    if let Some(target) = target {
        permission::require_unsticky(new_parent, &target.record, context.caller)?;
        match (is_directory, target.record.is_directory()) {
            (true, false) => return Err(MetaError::NotDirectory),
            (false, true) => return Err(MetaError::IsDirectory),
            (true, true) | (false, false) => {}
        }
    }
    if is_directory && is_moved {
        require_writable(context, &source.record)?; // its `..` changes
    }
    if let Some(target) = target {
        ensure(!target.record.is_directory() || target.record.size.0 == 0, MetaError::NotEmpty)?;
    }
    let gains_directory = is_directory && is_moved && target.is_none();
    ensure(!gains_directory || new_parent.nlink < LINKS_MAX, MetaError::TooManyLinks)
}

fn move_entry(
    context: &mut Context<'_, '_>,
    rename: &Rename,
    source: Found,
    target: Option<Found>,
) -> MetaResult<Option<InodeId>> {
    let now = context.now;
    let is_directory = source.record.is_directory();
    let Found { entry, record: mut moved } = source;
    let DirentRecord { inode, kind } = entry.record;
    dirent::remove(context.txn, rename.parent, &entry);
    change_directory(context, rename.parent, |d| entry_removed(d, is_directory, now));
    let mut orphan = None;
    match target {
        Some(replaced) => {
            let new = DirentRecord { inode, kind };
            dirent::replace(context.txn, rename.new_parent, &replaced.entry, new);
            let old = replaced.entry.record.inode;
            if is_volume_root(rename.new_parent, old) {
                volume::delete_entry(context.txn, old.volume());
            } else {
                orphan = drop_name(context, old, replaced.record)?;
            }
            change_directory(context, rename.new_parent, |d| {
                entry_removed(d, is_directory, now);
                entry_added(d, is_directory, now);
            });
        }
        None => {
            dirent::insert(context.txn, rename.new_parent, &rename.new_name, DirentRecord { inode, kind })?;
            change_directory(context, rename.new_parent, |d| entry_added(d, is_directory, now));
        }
    }
    if is_volume_root(rename.parent, inode) {
        volume::rename_entry(context.txn, inode.volume(), &rename.new_name);
        return Ok(orphan);
    }
    require_named(context, inode)?;
    moved.ctime = now;
    if is_directory {
        moved.parent = rename.new_parent;
    }
    inode::put(context.txn, inode, &moved);
    Ok(orphan)
}

/// Reads it again: both parents may be one directory.
fn change_directory(
    context: &mut Context<'_, '_>,
    directory: InodeId,
    change: impl FnOnce(&mut InodeRecord),
) {
    let mut record = named(context, directory);
    change(&mut record);
    inode::put(context.txn, directory, &record);
}

#[cfg(test)]
mod tests {
    use dfs_proto::attr::Caller;
    use dfs_proto::meta::{Change, NewInode};

    use super::*;
    use crate::command::{Command, NamedInode, Reply};
    use crate::tests::{Harness, attr_of, create, name, user};

    fn rename(parent: InodeId, from: &str, new_parent: InodeId, to: &str) -> Change {
        Change::Rename(Rename {
            parent,
            name: name(from),
            new_parent,
            new_name: name(to),
            mode: RenameMode::Replace,
        })
    }

    fn mv(
        harness: &mut Harness,
        (parent, from): (InodeId, &str),
        (new_parent, to): (InodeId, &str),
    ) -> MetaResult<Option<InodeId>> {
        let changed = harness.change(&Caller::ROOT, rename(parent, from, new_parent, to))?;
        let Changed::Removed { orphan } = changed else { panic!("a rename answered {changed:?}") };
        Ok(orphan)
    }

    const ROOT: InodeId = InodeId::ROOT;

    #[test]
    fn a_rename_over_a_file_makes_an_orphan_of_it_and_keeps_the_count() {
        let mut harness = Harness::new();
        let (new, old) = (harness.file(ROOT, "new"), harness.file(ROOT, "old"));
        assert_eq!(mv(&mut harness, (ROOT, "new"), (ROOT, "old")), Ok(Some(old)));
        assert_eq!(harness.lookup(ROOT, "old"), Ok(new));
        assert_eq!(harness.lookup(ROOT, "new"), Err(MetaError::NotFound));
        assert_eq!(harness.attr(ROOT).size.0, 1);
        harness.check();
    }

    #[test]
    fn a_file_that_is_renamed_over_is_held_by_those_who_have_it_open() {
        let mut harness = Harness::new();
        let (new, old) = (harness.file(ROOT, "new"), harness.file(ROOT, "old"));
        let opener = harness.open_session(2);
        harness.openers.insert(old, vec![opener]);
        let request = harness.next_request(&Caller::ROOT, rename(ROOT, "new", ROOT, "old"));
        let reply = harness.command(Command::of_request(request, Vec::new(), Vec::new()));
        assert!(matches!(reply, Reply::Refused(MetaError::Undecided { .. })), "who has it open? {reply:?}");
        assert_eq!(harness.lookup(ROOT, "new"), Ok(new));
        harness.check();
        assert_eq!(mv(&mut harness, (ROOT, "new"), (ROOT, "old")), Ok(Some(old)));
        harness.change(&Caller::ROOT, Change::ReleaseOrphans { inodes: vec![old] }).expect("held");
        assert_eq!(harness.attr(old).nlink, 0);
        harness.check();
        harness.command(Command::ReleaseFor { session: opener, inodes: vec![old] });
        assert!(harness.try_attr(old).is_err());
        harness.check();
    }

    /// Others may hold leases on them, and the leader has recalled those of what it has found.
    #[test]
    fn a_rename_alters_no_inode_that_the_leader_has_not_found_behind_its_names() {
        let mut harness = Harness::new();
        let (a, b) = (harness.directory(ROOT, "a"), harness.file(ROOT, "b"));
        let exchange = Rename {
            parent: ROOT,
            name: name("a"),
            new_parent: ROOT,
            new_name: name("b"),
            mode: RenameMode::Exchange,
        };
        let of = |inode| NamedInode { inode, openers: None };
        for (change, needed) in
            [(Change::Rename(exchange), vec![a, b]), (rename(ROOT, "a", ROOT, "c"), vec![b])]
        {
            for left_out in &needed {
                let named = [a, b].into_iter().filter(|inode| inode != left_out).map(of).collect();
                let request = harness.next_request(&Caller::ROOT, change.clone());
                let (placement, volumes) = (Vec::new(), Vec::new());
                let reply =
                    harness.command(Command::Change { request, placement, volumes, named: Some(named) });
                assert!(matches!(reply, Reply::Refused(MetaError::Undecided { .. })), "{reply:?}");
                harness.check();
            }
            harness.change(&Caller::ROOT, change).expect("the leader has found them");
        }
        assert_eq!((harness.lookup(ROOT, "b"), harness.lookup(ROOT, "c")), (Ok(a), Ok(b)));
    }

    #[test]
    fn a_moved_directory_knows_its_new_parent_and_the_parents_count_it() {
        let mut harness = Harness::new();
        let (a, b) = (harness.directory(ROOT, "a"), harness.directory(ROOT, "b"));
        let moved = harness.directory(a, "d");
        assert_eq!(mv(&mut harness, (a, "d"), (b, "e")), Ok(None));
        assert_eq!(harness.lookup(moved, ".."), Ok(b));
        assert_eq!((harness.attr(a).nlink, harness.attr(b).nlink), (2, 3));
        let empty = harness.directory(ROOT, "empty");
        assert_eq!(mv(&mut harness, (b, "e"), (ROOT, "empty")), Ok(Some(empty)));
        assert_eq!((harness.attr(b).nlink, harness.attr(ROOT).nlink), (2, 5));
        harness.check();
    }

    #[test]
    fn a_directory_never_moves_below_itself() {
        let mut harness = Harness::new();
        let a = harness.directory(ROOT, "a");
        let b = harness.directory(a, "b");
        for parent in [a, b] {
            let refused = mv(&mut harness, (ROOT, "a"), (parent, "x"));
            assert!(matches!(refused, Err(MetaError::InvalidArgument { .. })), "{refused:?}");
        }
        assert_eq!(mv(&mut harness, (a, "b"), (ROOT, "a")), Err(MetaError::NotEmpty));
        harness.check();
    }

    #[test]
    fn kinds_must_match_and_a_replaced_directory_be_empty() {
        let mut harness = Harness::new();
        let full = harness.directory(ROOT, "full");
        harness.file(full, "x");
        harness.directory(ROOT, "d");
        harness.file(ROOT, "f");
        assert_eq!(mv(&mut harness, (ROOT, "d"), (ROOT, "f")), Err(MetaError::NotDirectory));
        assert_eq!(mv(&mut harness, (ROOT, "f"), (ROOT, "d")), Err(MetaError::IsDirectory));
        assert_eq!(mv(&mut harness, (ROOT, "d"), (ROOT, "full")), Err(MetaError::NotEmpty));
        assert_eq!(mv(&mut harness, (ROOT, "none"), (ROOT, "f")), Err(MetaError::NotFound));
        harness.check();
    }

    #[test]
    fn two_names_of_one_file_stay_both() {
        let mut harness = Harness::new();
        let file = harness.file(ROOT, "a");
        let link = Change::Link { inode: file, parent: ROOT, name: name("b") };
        harness.change(&Caller::ROOT, link).expect("free name");
        assert_eq!(mv(&mut harness, (ROOT, "a"), (ROOT, "b")), Ok(None));
        assert_eq!(mv(&mut harness, (ROOT, "a"), (ROOT, "a")), Ok(None));
        assert_eq!(harness.attr(file).nlink, 2);
        harness.check();
    }

    #[test]
    fn noreplace_refuses_a_taken_name() {
        let mut harness = Harness::new();
        harness.file(ROOT, "a");
        harness.file(ROOT, "b");
        let mut change = Rename {
            parent: ROOT,
            name: name("a"),
            new_parent: ROOT,
            new_name: name("b"),
            mode: RenameMode::NoReplace,
        };
        assert_eq!(harness.change(&Caller::ROOT, Change::Rename(change.clone())), Err(MetaError::Exists));
        change.new_name = name("c");
        assert!(harness.change(&Caller::ROOT, Change::Rename(change)).is_ok());
        harness.check();
    }

    #[test]
    fn moving_another_ones_directory_needs_write_permission_on_it() {
        let mut harness = Harness::new();
        let (a, b) = (harness.directory(ROOT, "a"), harness.directory(ROOT, "b"));
        for directory in [a, b] {
            harness.chmod(&Caller::ROOT, directory, 0o777).expect("root may");
        }
        attr_of(harness.change(&Caller::ROOT, create(a, "d", 0o755, NewInode::Directory)));
        let refused = harness.change(&user(7), rename(a, "d", b, "d"));
        assert_eq!(refused, Err(MetaError::PermissionDenied));
        assert!(harness.change(&user(7), rename(a, "d", a, "e")).is_ok(), "`..` stays");
        harness.check();
    }

    #[test]
    fn in_sticky_directories_neither_source_nor_target_of_others_is_touched() {
        let mut harness = Harness::new();
        let (sticky, open) = (harness.directory(ROOT, "sticky"), harness.directory(ROOT, "open"));
        harness.chmod(&Caller::ROOT, sticky, 0o1777).expect("root may");
        harness.chmod(&Caller::ROOT, open, 0o777).expect("root may");
        attr_of(harness.change(&user(8), create(sticky, "theirs", 0o666, NewInode::File)));
        attr_of(harness.change(&user(7), create(open, "mine", 0o666, NewInode::File)));
        let source = harness.change(&user(7), rename(sticky, "theirs", open, "x"));
        assert_eq!(source, Err(MetaError::NotPermitted));
        let target = harness.change(&user(7), rename(open, "mine", sticky, "theirs"));
        assert_eq!(target, Err(MetaError::NotPermitted));
    }
}
