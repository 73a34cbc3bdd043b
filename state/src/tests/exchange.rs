//! Two names exchanged (RENAME_EXCHANGE): as on ext4, but for the names of volumes.

use dfs_proto::attr::FileKind;
use dfs_proto::ids::VolumeId;
use dfs_proto::meta::{Rename, RenameMode};

use super::*;
use crate::command::VolumeStep;

const ROOT: InodeId = InodeId::ROOT;

type At<'t> = (InodeId, &'t str);

fn exchange((parent, from): At<'_>, (new_parent, to): At<'_>) -> Change {
    let mode = RenameMode::Exchange;
    Change::Rename(Rename { parent, name: name(from), new_parent, new_name: name(to), mode })
}

impl Harness {
    /// Checks the state afterwards.
    #[track_caller]
    fn exchange(&mut self, caller: &Caller, source: At<'_>, target: At<'_>) -> MetaResult<()> {
        let changed = self.change(caller, exchange(source, target));
        self.check();
        changed.map(|changed| assert_eq!(changed, Changed::Removed { orphan: None }))
    }

    /// A refusal leaves everything as it was.
    #[track_caller]
    fn refused(&mut self, caller: &Caller, source: At<'_>, target: At<'_>) -> MetaError {
        let before = self.view(read::totals);
        let found = |harness: &Harness| [source, target].map(|(at, text)| harness.lookup(at, text));
        let names = found(self);
        let refused = self.exchange(caller, source, target).expect_err("it is refused");
        assert_eq!((found(self), self.view(read::totals)), (names, before));
        refused
    }
}

fn is_invalid(error: MetaError) -> bool {
    matches!(error, MetaError::InvalidArgument { .. })
}

#[test]
fn each_name_leads_to_what_the_other_one_led_to_whatever_that_is() {
    for kinds in [[false, false], [false, true], [true, false], [true, true]] {
        for same_parent in [true, false] {
            let mut harness = Harness::new();
            let a = harness.directory(ROOT, "a");
            let b = if same_parent { a } else { harness.directory(ROOT, "b") };
            let mut made = |at, text: &str, is_directory| {
                if is_directory { harness.directory(at, text) } else { harness.file(at, text) }
            };
            let (x, y) = (made(a, "x", kinds[0]), made(b, "y", kinds[1]));
            if kinds[0] {
                harness.file(x, "a full directory is exchanged as well");
            }
            assert_eq!(harness.exchange(&Caller::ROOT, (a, "x"), (b, "y")), Ok(()));
            assert_eq!((harness.lookup(a, "x"), harness.lookup(b, "y")), (Ok(y), Ok(x)));
            for (inode, parent) in [(x, b), (y, a)] {
                if harness.attr(inode).kind == FileKind::Directory {
                    assert_eq!(harness.lookup(inode, ".."), Ok(parent));
                }
            }
            assert_eq!(harness.exchange(&Caller::ROOT, (b, "y"), (a, "x")), Ok(()));
            assert_eq!((harness.lookup(a, "x"), harness.lookup(b, "y")), (Ok(x), Ok(y)));
        }
    }
}

#[test]
fn a_directory_that_changes_places_with_a_file_is_counted_by_its_new_parent() {
    let mut harness = Harness::new();
    let (a, b) = (harness.directory(ROOT, "a"), harness.directory(ROOT, "b"));
    harness.directory(a, "d");
    let file = harness.file(b, "f");
    let links =
        |harness: &Harness| [a, b].map(|parent| (harness.attr(parent).nlink, harness.attr(parent).size.0));
    assert_eq!(links(&harness), [(3, 1), (2, 1)]);
    assert_eq!(harness.exchange(&Caller::ROOT, (a, "d"), (b, "f")), Ok(()));
    assert_eq!(links(&harness), [(2, 1), (3, 1)]);
    assert_eq!(harness.attr(file).nlink, 1);
}

#[test]
fn both_inodes_get_a_new_ctime_and_both_parents_new_times() {
    let mut harness = Harness::new();
    let (a, b) = (harness.directory(ROOT, "a"), harness.directory(ROOT, "b"));
    let (file, directory) = (harness.file(a, "f"), harness.directory(b, "d"));
    harness.at(20);
    assert_eq!(harness.exchange(&Caller::ROOT, (a, "f"), (b, "d")), Ok(()));
    let times = |inode| {
        let attr = harness.attr(inode);
        [attr.mtime, attr.ctime].map(|time| time.seconds)
    };
    assert_eq!([a, b].map(times), [[20, 20]; 2]);
    assert_eq!([file, directory].map(times), [[10, 20]; 2]);
    assert_eq!(times(ROOT), [10, 10], "it is not touched");
}

#[test]
fn two_names_of_one_file_stay_as_they_are() {
    let mut harness = Harness::new();
    let file = harness.file(ROOT, "a");
    let link = Change::Link { inode: file, parent: ROOT, name: name("b") };
    harness.change(&Caller::ROOT, link).expect("free name");
    harness.directory(ROOT, "d");
    let before = harness.attr(file);
    harness.at(20);
    for (source, target) in [("a", "b"), ("a", "a"), ("d", "d")] {
        assert_eq!(harness.exchange(&Caller::ROOT, (ROOT, source), (ROOT, target)), Ok(()));
    }
    assert_eq!(harness.attr(file), before);
}

#[test]
fn both_names_must_be_there_and_no_directory_gets_below_itself() {
    let mut harness = Harness::new();
    let file = harness.file(ROOT, "f");
    let a = harness.directory(ROOT, "a");
    let b = harness.directory(a, "b");
    harness.file(b, "deep");
    let root = Caller::ROOT;
    assert_eq!(harness.refused(&root, (ROOT, "f"), (ROOT, "none")), MetaError::NotFound);
    assert_eq!(harness.refused(&root, (ROOT, "none"), (ROOT, "f")), MetaError::NotFound);
    assert_eq!(harness.refused(&root, (file, "x"), (ROOT, "f")), MetaError::NotDirectory);
    for below in [(a, "b"), (b, "deep")] {
        assert!(is_invalid(harness.refused(&root, (ROOT, "a"), below)));
        assert!(is_invalid(harness.refused(&root, below, (ROOT, "a"))));
    }
    assert_eq!(harness.exchange(&root, (b, "deep"), (ROOT, "f")), Ok(()));
}

#[test]
fn one_may_exchange_what_one_may_rename_away_from_both_places() {
    let mut harness = Harness::new();
    let (mine, theirs) = (harness.directory(ROOT, "mine"), harness.directory(ROOT, "theirs"));
    let (own, shared) = (harness.directory(mine, "own"), harness.directory(mine, "shared"));
    let foreign = harness.directory(theirs, "foreign");
    harness.file(mine, "f");
    for inode in [mine, own, shared] {
        harness.chown(inode, 7, 7);
    }
    let caller = user(7);
    assert_eq!(
        harness.refused(&caller, (mine, "f"), (theirs, "foreign")),
        MetaError::PermissionDenied,
        "the other directory is not writable"
    );
    harness.chmod(&Caller::ROOT, theirs, 0o777).expect("root may");
    for (source, target) in [((mine, "own"), (theirs, "foreign")), ((theirs, "foreign"), (mine, "own"))] {
        assert_eq!(harness.refused(&caller, source, target), MetaError::PermissionDenied, "its `..` changes");
    }
    harness.chmod(&Caller::ROOT, foreign, 0o777).expect("root may");
    assert_eq!(harness.exchange(&caller, (mine, "own"), (theirs, "foreign")), Ok(()));
    harness.chmod(&Caller::ROOT, foreign, 0o755).expect("root may");
    assert_eq!(harness.exchange(&caller, (mine, "own"), (mine, "shared")), Ok(()), "`..` stays");
    harness.chmod(&Caller::ROOT, mine, 0o400).expect("root may");
    assert_eq!(
        harness.refused(&caller, (mine, "own"), (mine, "shared")),
        MetaError::PermissionDenied,
        "no search on it"
    );
}

#[test]
fn in_a_sticky_directory_neither_name_is_exchanged_by_a_stranger() {
    let mut harness = Harness::new();
    let (sticky, open) = (harness.directory(ROOT, "sticky"), harness.directory(ROOT, "open"));
    harness.chmod(&Caller::ROOT, sticky, 0o1777).expect("root may");
    harness.chmod(&Caller::ROOT, open, 0o777).expect("root may");
    attr_of(harness.change(&user(8), create(sticky, "theirs", 0o666, NewInode::File)));
    attr_of(harness.change(&user(7), create(sticky, "own", 0o666, NewInode::File)));
    attr_of(harness.change(&user(7), create(open, "mine", 0o666, NewInode::File)));
    for other in [(open, "mine"), (sticky, "own")] {
        for (source, target) in [(other, (sticky, "theirs")), ((sticky, "theirs"), other)] {
            assert_eq!(harness.refused(&user(7), source, target), MetaError::NotPermitted);
        }
    }
    assert_eq!(harness.exchange(&user(7), (sticky, "own"), (open, "mine")), Ok(()));
    assert_eq!(harness.exchange(&Caller::ROOT, (sticky, "own"), (sticky, "theirs")), Ok(()));
}

/// The map learns names one by one: while two names change places it would have one of them twice.
#[test]
fn the_name_of_a_volume_is_not_exchanged_and_nothing_crosses_volumes() {
    let mut harness = Harness::new();
    let inside: Vec<InodeId> = [(5, "five"), (6, "six")]
        .into_iter()
        .map(|(number, text)| {
            let root = RootAttr { mode: 0o755, uid: 0, gid: 0 };
            let made = harness.command(Command::MakeVolume { volume: VolumeId(number), root });
            let Reply::VolumeRoot(attr) = made else { panic!("no root: {made:?}") };
            let (inode, step) = (attr.inode, VolumeStep::Made);
            let mkdir = create(ROOT, text, 0o755, NewInode::Directory);
            let entered = harness.change_with(&Caller::ROOT, mkdir, vec![VolumeRoot { attr, step }]);
            attr_of(entered.expect("it fits"));
            harness.file(inode, "f");
            inode
        })
        .collect();
    let directory = harness.directory(ROOT, "d");
    harness.file(ROOT, "f");
    harness.file(directory, "f");
    let pairs = [
        ((ROOT, "five"), (ROOT, "six")),
        ((ROOT, "five"), (ROOT, "f")),
        ((ROOT, "d"), (ROOT, "five")),
        ((directory, "f"), (ROOT, "five")),
        ((ROOT, "five"), (directory, "f")),
        ((inside[0], "f"), (inside[1], "f")),
        ((ROOT, "f"), (inside[0], "f")),
    ];
    for (source, target) in pairs {
        let change = exchange(source, target);
        let needed = harness.view(|view| read::needed_volumes(view, &change));
        assert!(needed.iter().all(|needed| !needed.is_removed), "{change:?}");
        let roots = needed.into_iter().map(|needed| {
            let root = InodeId::new(needed.volume, 1).expect("in range");
            VolumeRoot { attr: harness.attr(root), step: needed.step() }
        });
        let roots = roots.collect();
        let refused = harness.change_with(&Caller::ROOT, change, roots);
        assert_eq!(refused, Some(Err(MetaError::CrossVolume)), "{source:?} and {target:?}");
        harness.check();
    }
    assert_eq!(harness.exchange(&Caller::ROOT, (ROOT, "f"), (ROOT, "d")), Ok(()));
}
