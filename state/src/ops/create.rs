//! A new name with a new inode: files, directories, symbolic links, FIFOs, sockets, devices.

use dfs_proto::attr::{AccessMask, Caller, FileKind, InodeAttr};
use dfs_proto::error::MetaError;
use dfs_proto::ids::ContentSeq;
use dfs_proto::meta::{Changed, Create, MetaResult, NewInode};
use dfs_proto::units::{ByteLen, LINKS_MAX, SYMLINK_LEN_MAX};

use super::context::{
    Context, ensure, entry_added, invalid, named, require_writable, searchable, searchable_by,
};
use crate::command::{RootAttr, VolumeStep};
use crate::kv::Snapshot;
use crate::permission;
use crate::table::{cluster, dirent, inode, session, volume};
use crate::value::dirent::{Dirent, DirentRecord};
use crate::value::inode::{Attached, InodeFlags, InodeRecord, MODE_BITS, SET_GID};
use crate::value::volume::VolumeEntry;

const GROUP_EXECUTE: u32 = 0o0010;

pub(super) fn apply(context: &mut Context<'_, '_>, create: &Create) -> MetaResult<Changed> {
    let mut parent = searchable(context, create.parent)?;
    if let Some(entry) = dirent::find(context.txn, create.parent, &create.name) {
        return existing(context, create, &entry);
    }
    require_writable(context, &parent)?;
    let record = new_record(context, create, &parent)?;
    let is_directory = record.is_directory();
    ensure(!is_directory || parent.nlink < LINKS_MAX, MetaError::TooManyLinks)?;
    if let Some(made) = context.volumes.iter().find(|root| root.step == VolumeStep::Made) {
        return enter_volume(context, create, parent, &made.attr);
    }
    let chooses = matches!(create.what, NewInode::Volume { .. });
    ensure(!chooses, invalid("a cluster is chosen for directories of a federation's root only"))?;
    let inode = volume::next_inode(context.txn, create.parent)?;
    dirent::insert(context.txn, create.parent, &create.name, DirentRecord { inode, kind: record.kind })?;
    inode::put(context.txn, inode, &record);
    entry_added(&mut parent, is_directory, context.now);
    inode::put(context.txn, create.parent, &parent);
    cluster::count(context.txn, |c| c.totals.inodes += 1);
    Ok(Changed::Inode { attr: inode::attr(context.txn, inode, &record), existed: false, next_commit: 1 })
}

/// The commit point of a new volume (P9.2, step 3): its root, which its cluster has made, gets its name.
fn enter_volume(
    context: &mut Context<'_, '_>,
    create: &Create,
    mut parent: InodeRecord,
    root: &InodeAttr,
) -> MetaResult<Changed> {
    let record = DirentRecord { inode: root.inode, kind: FileKind::Directory };
    dirent::insert(context.txn, create.parent, &create.name, record)?;
    volume::put_entry(context.txn, root.inode.volume(), &VolumeEntry::first(&create.name));
    entry_added(&mut parent, true, context.now);
    inode::put(context.txn, create.parent, &parent);
    Ok(Changed::Inode { attr: root.clone(), existed: false, next_commit: 1 })
}

/// The attributes that `create` would give a directory, if the caller may make it and the name is free.
pub(crate) fn plan_directory(view: &dyn Snapshot, caller: &Caller, create: &Create) -> MetaResult<RootAttr> {
    let parent = searchable_by(view, caller, create.parent)?;
    ensure(dirent::find(view, create.parent, &create.name).is_none(), MetaError::Exists)?;
    permission::require(&parent, caller, AccessMask::WRITE)?;
    let chooses = matches!(create.what, NewInode::Volume { .. });
    ensure(!chooses || caller.is_root(), MetaError::NotPermitted)?; // only administrators choose a cluster
    let (mode, gid) = mode_and_group(caller, create.mode, FileKind::Directory, &parent)?;
    Ok(RootAttr { mode, uid: caller.uid, gid })
}

/// O_CREAT on a file that is there opens it: the rights for that are asked for by the `Open` that follows.
fn existing(context: &Context<'_, '_>, create: &Create, entry: &Dirent) -> MetaResult<Changed> {
    let wants_file = create.or_existing && create.what == NewInode::File;
    ensure(wants_file && entry.record.kind == FileKind::File, MetaError::Exists)?;
    let inode = entry.record.inode;
    let next_commit = session::next_commit(context.txn, context.session, inode);
    let attr = inode::attr(context.txn, inode, &named(context, inode));
    Ok(Changed::Inode { attr, existed: true, next_commit })
}

fn new_record(context: &Context<'_, '_>, create: &Create, parent: &InodeRecord) -> MetaResult<InodeRecord> {
    let (kind, rdev, target) = match &create.what {
        NewInode::File => (FileKind::File, 0, Vec::new()),
        NewInode::Directory | NewInode::Volume { .. } => (FileKind::Directory, 0, Vec::new()),
        NewInode::Symlink { target } => {
            ensure(!target.is_empty(), MetaError::NotFound)?;
            ensure(target.len() <= SYMLINK_LEN_MAX, MetaError::NameTooLong)?;
            ensure(!target.contains(&0), invalid("the target of a symbolic link contains a NUL"))?;
            (FileKind::Symlink, 0, target.clone())
        }
        NewInode::Fifo => (FileKind::Fifo, 0, Vec::new()),
        NewInode::Socket => (FileKind::Socket, 0, Vec::new()),
        NewInode::CharDevice { rdev } => (FileKind::CharDevice, *rdev, Vec::new()),
        NewInode::BlockDevice { rdev } => (FileKind::BlockDevice, *rdev, Vec::new()),
    };
    let is_device = matches!(kind, FileKind::CharDevice | FileKind::BlockDevice);
    ensure(!is_device || context.caller.is_root(), MetaError::NotPermitted)?;
    let (mode, gid) = mode_and_group(context.caller, create.mode, kind, parent)?;
    Ok(InodeRecord {
        kind,
        mode,
        nlink: if kind == FileKind::Directory { 2 } else { 1 },
        uid: context.caller.uid,
        gid,
        size: ByteLen(target.len() as u64),
        rdev,
        atime: context.now,
        mtime: context.now,
        ctime: context.now,
        content_version: 0,
        content_seq: ContentSeq(0),
        parent: create.parent,
        target,
        born: context.born,
        flags: InodeFlags::default(),
        has: Attached::default(),
        space_within: None,
    })
}

/// In a set-gid directory the new inode has the directory's group, and a new directory is set-gid too.
fn mode_and_group(
    caller: &Caller,
    mode: u32,
    kind: FileKind,
    parent: &InodeRecord,
) -> MetaResult<(u32, u32)> {
    let mut mode = if kind == FileKind::Symlink { 0o777 } else { mode & MODE_BITS };
    if parent.mode & SET_GID == 0 {
        return Ok((mode, caller.gid));
    }
    if kind == FileKind::Directory {
        mode |= SET_GID;
    } else if mode & SET_GID != 0
        && mode & GROUP_EXECUTE != 0
        && !caller.is_root()
        && !permission::is_in_group(caller, parent.gid)?
    {
        // Else anyone who may write in the directory could make programs that run as its group.
        mode &= !SET_GID;
    }
    Ok((mode, parent.gid))
}

#[cfg(test)]
mod tests {
    use dfs_proto::ids::{ClusterId, InodeId};

    use super::*;
    use crate::tests::{Harness, attr_of, create, name, user};

    #[test]
    fn a_new_file_belongs_to_its_maker_and_changes_its_parent() {
        let mut harness = Harness::new();
        harness.at(50);
        let attr = attr_of(harness.change(&user(7), create(InodeId::ROOT, "f", 0o100_640, NewInode::File)));
        assert_eq!((attr.uid, attr.gid, attr.mode, attr.nlink), (7, 7, 0o640, 1));
        let root = harness.attr(InodeId::ROOT);
        assert_eq!((root.size, root.nlink, root.mtime.seconds), (ByteLen(1), 2, 50));
        harness.directory(InodeId::ROOT, "d");
        assert_eq!(harness.attr(InodeId::ROOT).nlink, 3);
        harness.check();
    }

    #[test]
    fn an_existing_name_is_refused_unless_the_file_is_wanted_either_way() {
        let mut harness = Harness::new();
        let file = harness.file(InodeId::ROOT, "f");
        harness.directory(InodeId::ROOT, "d");
        let again = |harness: &mut Harness, text: &str, or_existing| {
            harness.change(
                &Caller::ROOT,
                dfs_proto::meta::Change::Create(Create {
                    parent: InodeId::ROOT,
                    name: name(text),
                    mode: 0o600,
                    what: NewInode::File,
                    or_existing,
                    opens: false,
                }),
            )
        };
        assert_eq!(again(&mut harness, "f", false), Err(MetaError::Exists));
        let found = again(&mut harness, "f", true);
        assert!(matches!(found, Ok(Changed::Inode { existed: true, attr, .. }) if attr.inode == file));
        assert_eq!(again(&mut harness, "d", true), Err(MetaError::Exists));
    }

    #[test]
    fn a_set_gid_directory_hands_its_group_on() {
        let mut harness = Harness::new();
        let made = harness.change(&Caller::ROOT, create(InodeId::ROOT, "d", 0o2777, NewInode::Directory));
        let directory = attr_of(made).inode;
        harness.chown(directory, 0, 55);
        let chmod = harness.chmod(&Caller::ROOT, directory, 0o2777);
        assert_eq!(chmod.map(|a| a.mode), Ok(0o2777));
        let file = attr_of(harness.change(&user(7), create(directory, "f", 0o2755, NewInode::File)));
        assert_eq!((file.gid, file.mode), (55, 0o755), "set-gid is not for those outside the group");
        let member = Caller { uid: 7, gid: 7, groups: Some(vec![55]) };
        let file = attr_of(harness.change(&member, create(directory, "g", 0o2755, NewInode::File)));
        assert_eq!((file.gid, file.mode), (55, 0o2755));
        let below = attr_of(harness.change(&user(7), create(directory, "d", 0o700, NewInode::Directory)));
        assert_eq!((below.gid, below.mode), (55, 0o2700));
    }

    #[test]
    fn only_root_makes_devices_and_everyone_makes_fifos() {
        let mut harness = Harness::new();
        let device = NewInode::BlockDevice { rdev: 0x801 };
        let refused = harness.change(&user(7), create(InodeId::ROOT, "b", 0o600, device.clone()));
        assert_eq!(refused, Err(MetaError::NotPermitted));
        let made = attr_of(harness.change(&Caller::ROOT, create(InodeId::ROOT, "b", 0o600, device)));
        assert_eq!((made.kind, made.rdev), (FileKind::BlockDevice, 0x801));
        assert!(harness.change(&user(7), create(InodeId::ROOT, "p", 0o600, NewInode::Fifo)).is_ok());
        assert!(harness.change(&user(7), create(InodeId::ROOT, "s", 0o600, NewInode::Socket)).is_ok());
        harness.check();
    }

    #[test]
    fn a_symbolic_link_shows_its_targets_length_and_mode_0777() {
        let mut harness = Harness::new();
        let link = |target: &str| NewInode::Symlink { target: target.into() };
        let made = attr_of(harness.change(&user(7), create(InodeId::ROOT, "l", 0o600, link("some/where"))));
        assert_eq!((made.size, made.mode), (ByteLen(10), 0o777));
        let empty = harness.change(&user(7), create(InodeId::ROOT, "m", 0o600, link("")));
        assert_eq!(empty, Err(MetaError::NotFound));
        let long = link(&"x".repeat(SYMLINK_LEN_MAX + 1));
        let refused = harness.change(&user(7), create(InodeId::ROOT, "m", 0o600, long));
        assert_eq!(refused, Err(MetaError::NameTooLong));
    }

    #[test]
    fn making_a_name_needs_write_permission_but_finding_it_taken_does_not() {
        let mut harness = Harness::new();
        let directory = harness.directory(InodeId::ROOT, "d");
        harness.file(directory, "f");
        let new = harness.change(&user(7), create(directory, "g", 0o600, NewInode::File));
        assert_eq!(new, Err(MetaError::PermissionDenied));
        let taken = harness.change(&user(7), create(directory, "f", 0o600, NewInode::File));
        assert_eq!(taken, Err(MetaError::Exists));
    }

    #[test]
    fn only_root_chooses_the_cluster_of_a_volume_and_whoever_may_write_makes_one() {
        let harness = Harness::new();
        let plan = |caller: &Caller, what| {
            let create = Create {
                parent: InodeId::ROOT,
                name: name("v"),
                mode: 0o755,
                what,
                or_existing: false,
                opens: false,
            };
            harness.view(|view| plan_directory(view, caller, &create)).map(|root| root.uid)
        };
        let chosen = || NewInode::Volume { cluster: ClusterId(7) };
        assert_eq!(plan(&user(7), NewInode::Directory), Ok(7));
        assert_eq!(plan(&user(7), chosen()), Err(MetaError::NotPermitted));
        assert_eq!(plan(&Caller::ROOT, chosen()), Ok(0));
    }
}
