//! Which right each request needs: the table of SEMANTICS.md, tried past any mount, with the identity that the request names.

use dfs_proto::attr::{AccessMask, Caller, Name};
use dfs_proto::error::MetaError;
use dfs_proto::ids::InodeId;
use dfs_proto::meta::{
    Change, Create, MetaResult, NewInode, Read, ReadReply, ReadRequest, Rename, RenameMode, SetAttr, SetTime,
};
use dfs_proto::units::{ByteLen, Offset};

use super::{CLUSTER, Harness, attr_of, create, name, user};
use crate::read;

const OWNER: u32 = 10;
const STRANGER: u32 = 11;
const R: u32 = 4;
const W: u32 = 2;
const X: u32 = 1;

/// `d` with a file `f`, a link `l`, and a directory `sub`, all the owner's; a stranger asks.
struct Tree {
    harness: Harness,
    d: InodeId,
    f: InodeId,
    l: InodeId,
}

impl Tree {
    /// With these bits for others on `d` and on `f`.
    fn with(directory_bits: u32, file_bits: u32) -> Tree {
        let mut harness = Harness::new();
        let owner = user(OWNER);
        let mut make = |parent, text: &str, what| {
            attr_of(harness.change(&owner, create(parent, text, 0o700, what))).inode
        };
        let d = make(InodeId::ROOT, "d", NewInode::Directory);
        let f = make(d, "f", NewInode::File);
        let l = make(d, "l", NewInode::Symlink { target: b"f".to_vec() });
        make(d, "sub", NewInode::Directory);
        harness.chmod(&owner, d, 0o700 | directory_bits).expect("the owner may");
        harness.chmod(&owner, f, 0o600 | file_bits).expect("the owner may");
        Tree { harness, d, f, l }
    }

    fn read(&self, read: Read) -> MetaResult<ReadReply> {
        let caller = user(STRANGER);
        let request =
            ReadRequest { cluster: CLUSTER, session: self.harness.session, caller, leases: None, read };
        self.harness.view(|view| read::answer(view, &request))
    }

    fn change(&mut self, change: Change) -> MetaResult<()> {
        self.harness.change(&user(STRANGER), change).map(drop)
    }

    fn set(&mut self, set: SetAttr) -> MetaResult<()> {
        let inode = self.f;
        self.change(Change::SetAttr(SetAttr { inode, ..set }))
    }

    fn rename(&mut self, from: &str, to: &str) -> MetaResult<()> {
        let (parent, new_parent) = (self.d, self.d);
        self.change(Change::Rename(Rename {
            parent,
            name: name(from),
            new_parent,
            new_name: name(to),
            mode: RenameMode::Replace,
        }))
    }
}

type Ask = fn(&mut Tree) -> MetaResult<()>;

fn open(tree: &Tree, inode: InodeId, mask: AccessMask) -> MetaResult<()> {
    tree.read(Read::Open { inode, mask }).map(drop)
}

fn new(parent: InodeId, text: &str, what: NewInode, or_existing: bool) -> Change {
    Change::Create(Create { parent, name: name(text), mode: 0o600, what, or_existing, opens: false })
}

/// The request; what it needs of the directory; what of the file.
const TABLE: &[(&str, u32, u32, Ask)] = &[
    ("lookup of a name", X, 0, |t| t.read(Read::Lookup { parent: t.d, name: b"f".to_vec() }).map(drop)),
    ("lookup of ..", X, 0, |t| t.read(Read::Lookup { parent: t.d, name: b"..".to_vec() }).map(drop)),
    ("getattr", 0, 0, |t| t.read(Read::GetAttr { inode: t.f }).map(drop)),
    ("access to read", 0, R, |t| t.read(Read::Access { inode: t.f, mask: AccessMask::READ }).map(drop)),
    ("access to write", 0, W, |t| t.read(Read::Access { inode: t.f, mask: AccessMask::WRITE }).map(drop)),
    ("open a directory", R, 0, |t| t.read(Read::Access { inode: t.d, mask: AccessMask::READ }).map(drop)),
    ("open to read", 0, R, |t| open(t, t.f, AccessMask::READ)),
    ("open to write", 0, W, |t| open(t, t.f, AccessMask::WRITE)),
    ("open to read and write", 0, R | W, |t| open(t, t.f, AccessMask::READ.union(AccessMask::WRITE))),
    ("open to execute", 0, X, |t| open(t, t.f, AccessMask::EXECUTE)),
    ("readlink", 0, 0, |t| t.read(Read::ReadLink { inode: t.l }).map(drop)),
    ("list", R, 0, |t| t.read(Read::ReadDir { inode: t.d, cookie: 0, limit: 10, plus: false }).map(drop)),
    ("list on", R, 0, |t| t.read(Read::ReadDir { inode: t.d, cookie: 77, limit: 10, plus: true }).map(drop)),
    ("where the bytes are", 0, R, |t| {
        t.read(Read::Extents { inode: t.f, offset: Offset(0), len: 1, limit: 1 }).map(drop)
    }),
    ("statfs", 0, 0, |t| t.read(Read::StatFs { inode: t.d }).map(drop)),
    ("make a file", W | X, 0, |t| t.change(new(t.d, "new", NewInode::File, true))),
    ("open(O_CREAT) of one that is there: the open asks", X, 0, |t| {
        t.change(new(t.d, "f", NewInode::File, true))
    }),
    ("mkdir", W | X, 0, |t| t.change(new(t.d, "new", NewInode::Directory, false))),
    ("symlink", W | X, 0, |t| t.change(new(t.d, "new", NewInode::Symlink { target: b"f".to_vec() }, false))),
    ("link", W | X, 0, |t| t.change(Change::Link { inode: t.f, parent: t.d, name: name("new") })),
    ("unlink", W | X, 0, |t| t.change(Change::Unlink { parent: t.d, name: name("f") })),
    ("rmdir", W | X, 0, |t| t.change(Change::Rmdir { parent: t.d, name: name("sub") })),
    ("rename", W | X, 0, |t| t.rename("f", "new")),
    ("rename over another", W | X, 0, |t| t.rename("l", "f")),
    ("truncate", 0, W, |t| t.set(SetAttr { size: Some(ByteLen(0)), ..SetAttr::default() })),
    ("truncate an open file", 0, 0, |t| {
        t.set(SetAttr { size: Some(ByteLen(0)), by_handle: true, ..SetAttr::default() })
    }),
    ("set both times to now", 0, W, |t| {
        let now = Some(SetTime::Now);
        t.set(SetAttr { atime: now, mtime: now, ..SetAttr::default() })
    }),
    ("clear set-uid", 0, W, |t| t.set(SetAttr { kill_privileges: true, ..SetAttr::default() })),
];

#[test]
fn every_request_is_granted_with_the_rights_of_the_table_and_refused_without_any_of_them() {
    for (what, directory, file, ask) in TABLE {
        for bits in 0..64 {
            let (directory_bits, file_bits) = (bits >> 3, bits & 7);
            let is_granted = directory_bits & directory == *directory && file_bits & file == *file;
            let wanted = if is_granted { Ok(()) } else { Err(MetaError::PermissionDenied) };
            let answered = ask(&mut Tree::with(directory_bits, file_bits));
            assert_eq!(answered, wanted, "{what}, directory {directory_bits:o}, file {file_bits:o}");
        }
    }
}

#[test]
fn what_is_for_the_owner_is_not_for_whoever_may_write() {
    let at = Some(SetTime::At(Default::default()));
    let sets = [
        SetAttr { mode: Some(0o777), ..SetAttr::default() },
        SetAttr { uid: Some(STRANGER), ..SetAttr::default() },
        SetAttr { gid: Some(STRANGER), ..SetAttr::default() },
        SetAttr { mtime: at, ..SetAttr::default() },
        SetAttr { atime: Some(SetTime::Now), ..SetAttr::default() },
    ];
    for set in sets {
        let mut tree = Tree::with(7, 7);
        assert_eq!(tree.set(set.clone()), Err(MetaError::NotPermitted), "{set:?}");
    }
}

/// Mount and server each believed that the other looked: whoever asked past a mount could list every directory.
#[test]
fn regression_a_listing_shows_names_to_whoever_may_read_and_attributes_only_to_whoever_may_look_up() {
    let listed = |bits| {
        let tree = Tree::with(bits, 0);
        tree.read(Read::ReadDir { inode: tree.d, cookie: 0, limit: 10, plus: true })
    };
    assert_eq!(listed(X | W), Err(MetaError::PermissionDenied));
    for (bits, shows) in [(R, false), (R | X, true)] {
        let Ok(ReadReply::Entries { entries, .. }) = listed(bits) else { panic!("refused with {bits:o}") };
        let names: std::collections::BTreeSet<Name> =
            entries.iter().map(|entry| entry.name.clone()).collect();
        assert_eq!(names, ["f", "l", "sub"].map(name).into());
        assert!(entries.iter().all(|entry| entry.attr.is_some() == shows), "with {bits:o}");
    }
}

#[test]
fn groups_that_were_not_sent_are_asked_for_before_a_listing_is_refused_or_cut_short() {
    let mut tree = Tree::with(0, 0);
    let unknown = Caller { groups: None, ..user(STRANGER) };
    for mode in [0o740, 0o754] {
        tree.harness.chmod(&user(OWNER), tree.d, mode).expect("the owner may");
        let read = Read::ReadDir { inode: tree.d, cookie: 0, limit: 10, plus: true };
        let session = tree.harness.session;
        let request = ReadRequest { cluster: CLUSTER, session, caller: unknown.clone(), leases: None, read };
        let answer = tree.harness.view(|view| read::answer(view, &request));
        assert_eq!(answer, Err(MetaError::GroupsNeeded), "{mode:o}");
    }
}
