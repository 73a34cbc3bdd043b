//! Every change and every read, with what it touches.

use super::*;
use crate::attr::{AccessMask, Name};
use crate::ids::{ChunkId, ClusterId};
use crate::meta::{CommitExtents, Create, FileCommit, NewInode, OpenChunk, Rename, RenameMode, SetAttr};
use crate::units::{ByteLen, Offset};

const ROOT: InodeId = InodeId::ROOT;
/// Directories and a file of one volume.
const D: InodeId = InodeId(5);
const E: InodeId = InodeId(3);
const F: InodeId = InodeId(9);

fn name(text: &str) -> Name {
    Name::new(text).unwrap()
}

/// In volume 1.
fn elsewhere(number: u64) -> InodeId {
    InodeId::new(VolumeId(1), number).unwrap()
}

/// What a scope says, as short as a table wants it: `inodes | names | behind | volumes | flags`.
fn brief(scope: &Scope) -> String {
    let joined = |parts: Vec<String>| if parts.is_empty() { "-".to_owned() } else { parts.join(" ") };
    let named = |(directory, name): &NameIn| format!("{}/{}", directory.0, String::from_utf8_lossy(name));
    let mut flags = Vec::new();
    if let Some(Listed { directory, with_attributes }) = scope.listed {
        flags.push(format!("lists {}{}", directory.0, if with_attributes { " with attributes" } else { "" }));
    }
    flags.extend(scope.gains_name.map(|directory| format!("gains {}", directory.0)));
    let yes = [(scope.grows, "grows"), (scope.is_batch, "batch"), (scope.enters_root, "enters root")];
    flags.extend(yes.iter().filter(|(holds, _)| *holds).map(|(_, flag)| (*flag).to_owned()));
    [
        joined(scope.inodes.iter().map(|inode| inode.0.to_string()).collect()),
        joined(scope.names.iter().map(named).collect()),
        joined(scope.behind.iter().map(|(name, behind)| format!("{} {behind:?}", named(name))).collect()),
        joined(scope.volumes.iter().map(|volume| volume.0.to_string()).collect()),
        if flags.is_empty() { "-".to_owned() } else { flags.join(", ") },
    ]
    .join(" | ")
}

fn create(parent: InodeId, what: NewInode, or_existing: bool) -> Change {
    Change::Create(Create { parent, name: name("a"), mode: 0o644, what, or_existing, opens: false })
}

fn rename(parent: InodeId, new_parent: InodeId) -> Change {
    Change::Rename(Rename {
        parent,
        name: name("a"),
        new_parent,
        new_name: name("b"),
        mode: RenameMode::Replace,
    })
}

fn exchange(parent: InodeId, new_parent: InodeId) -> Change {
    let mode = RenameMode::Exchange;
    Change::Rename(Rename { parent, name: name("a"), new_parent, new_name: name("b"), mode })
}

fn commit(files: &[InodeId]) -> Change {
    let file = |inode: &InodeId| FileCommit {
        inode: *inode,
        number: 1,
        extents: Vec::new(),
        size_at_least: ByteLen(0),
        mtime: None,
        kill_privileges: false,
    };
    Change::CommitExtents(CommitExtents { chunks: Vec::new(), files: files.iter().map(file).collect() })
}

#[test]
fn what_each_change_touches() {
    let volume = NewInode::Volume { cluster: ClusterId(1) };
    let table = [
        (create(D, NewInode::File, false), "5 | 5/a | - | 0 | gains 5, grows"),
        (create(D, NewInode::File, true), "5 | 5/a | 5/a Shown | 0 | gains 5, grows"),
        (create(D, NewInode::Directory, false), "5 | 5/a | - | 0 | gains 5, grows"),
        (create(ROOT, NewInode::File, false), "1 | 1/a | - | 0 | gains 1, grows"),
        (create(ROOT, NewInode::Fifo, false), "1 | 1/a | - | 0 | gains 1, grows"),
        (create(ROOT, NewInode::Directory, false), "1 | 1/a | - | 0 | gains 1, grows, enters root"),
        (create(ROOT, volume, false), "1 | 1/a | - | 0 | gains 1, grows, enters root"),
        (Change::Link { inode: F, parent: D, name: name("a") }, "5 9 | 5/a | - | 0 | gains 5, grows"),
        (Change::Unlink { parent: D, name: name("a") }, "5 | 5/a | 5/a File | 0 | -"),
        (Change::Unlink { parent: ROOT, name: name("a") }, "1 | 1/a | 1/a File | 0 | -"),
        (Change::Rmdir { parent: D, name: name("a") }, "5 | 5/a | 5/a Any | 0 | -"),
        (Change::Rmdir { parent: ROOT, name: name("a") }, "1 | 1/a | 1/a Any | 0 | enters root"),
        (rename(D, D), "5 | 5/a 5/b | 5/a Any 5/b Any | 0 | gains 5"),
        (rename(D, E), "3 5 | 3/b 5/a | 3/b Any 5/a Any | 0 | gains 3"),
        (rename(ROOT, D), "1 5 | 1/a 5/b | 1/a Any 5/b Any | 0 | gains 5, enters root"),
        (rename(D, ROOT), "1 5 | 1/b 5/a | 1/b Any 5/a Any | 0 | gains 1, enters root"),
        (exchange(D, E), "3 5 | 3/b 5/a | 3/b Any 5/a Any | 0 | gains 3"),
        (exchange(ROOT, ROOT), "1 | 1/a 1/b | 1/a Any 1/b Any | 0 | gains 1, enters root"),
        (Change::SetAttr(SetAttr { inode: F, ..SetAttr::default() }), "9 | - | - | 0 | -"),
        (Change::OpenChunk(OpenChunk::default()), "- | - | - | - | grows"),
        (Change::SealChunk { chunk: ChunkId(7) }, "- | - | - | - | -"),
        (commit(&[]), "- | - | - | - | grows, batch"),
        (commit(&[F, D]), "5 9 | - | - | 0 | grows, batch"),
        (Change::ReleaseOrphans { inodes: vec![F, D] }, "5 9 | - | - | 0 | batch"),
    ];
    for (change, wanted) in table {
        assert_eq!(brief(&change.scope()), wanted, "{change:?}");
    }
}

#[test]
fn what_the_answer_to_each_read_shows() {
    let mask = AccessMask::READ;
    let lookup = |name: &[u8]| Read::Lookup { parent: D, name: name.to_vec() };
    let list = |plus| Read::ReadDir { inode: D, cookie: 0, limit: 0, plus };
    let table = [
        (lookup(b"a"), "5 | 5/a | 5/a Shown | 0 | -"),
        (lookup(b"."), "5 | - | - | 0 | -"),
        (lookup(b".."), "5 | - | 5/.. Shown | 0 | -"),
        (Read::GetAttr { inode: F }, "9 | - | - | 0 | -"),
        (Read::Access { inode: F, mask }, "9 | - | - | 0 | -"),
        (Read::Open { inode: F, mask }, "9 | - | - | 0 | -"),
        (Read::ReadLink { inode: F }, "9 | - | - | 0 | -"),
        (list(false), "5 | - | - | 0 | lists 5"),
        (list(true), "5 | - | - | 0 | lists 5 with attributes"),
        (Read::Extents { inode: F, offset: Offset(0), len: 1, limit: 0 }, "9 | - | - | 0 | -"),
        (Read::ExtentsNear { inode: F }, "- | - | - | 0 | -"),
        (Read::StatFs { inode: F }, "- | - | - | 0 | -"),
    ];
    for (read, wanted) in table {
        assert_eq!(brief(&read.scope()), wanted, "{read:?}");
    }
}

#[test]
fn only_parts_that_are_independent_may_lie_in_different_volumes() {
    let crosses = |change: Change| change.scope().crosses_volumes();
    assert!(crosses(rename(D, elsewhere(1))));
    assert!(crosses(Change::Link { inode: F, parent: elsewhere(1), name: name("a") }));
    assert!(!crosses(rename(D, E)));
    assert!(!crosses(Change::OpenChunk(OpenChunk::default())));
    assert!(!crosses(commit(&[F, elsewhere(4)])));
    assert!(!crosses(Change::ReleaseOrphans { inodes: vec![F, elsewhere(4)] }));
}

#[test]
fn the_directories_of_a_change_are_those_whose_names_it_touches() {
    assert_eq!(rename(D, E).scope().directories(), [E, D]);
    assert_eq!(rename(D, D).scope().directories(), [D]);
    assert_eq!(Change::Link { inode: F, parent: D, name: name("a") }.scope().directories(), [D]);
    assert_eq!(commit(&[F]).scope().directories(), []);
}

#[test]
fn a_change_may_alter_what_it_numbers_and_what_its_names_may_lead_to() {
    let alters = |change: Change, inode, kind| change.scope().may_alter(inode, kind);
    let (file, directory) = (FileKind::File, FileKind::Directory);
    let unlink = || Change::Unlink { parent: D, name: name("a") };
    assert!(alters(unlink(), D, directory) && alters(unlink(), F, file));
    assert!(!alters(unlink(), E, directory), "what is unlinked is no directory");
    assert!(alters(rename(D, D), E, directory));
    assert!(!alters(create(D, NewInode::File, true), F, file), "an existing file is only shown");
}
