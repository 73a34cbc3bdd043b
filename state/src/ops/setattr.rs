//! chmod, chown, truncate, utimens: any of them in one request.

use dfs_proto::attr::{AccessMask, FileKind};
use dfs_proto::error::MetaError;
use dfs_proto::meta::{Changed, MetaResult, SetAttr, SetTime};
use dfs_proto::units::{ByteLen, FILE_LEN_MAX};

use super::context::{Context, ensure, invalid};
use crate::permission;
use crate::table::extent::{Edit, LiveBytes};
use crate::table::{inode, session};
use crate::value::inode::{InodeRecord, MODE_BITS, SET_GID};

pub(super) fn apply(context: &mut Context<'_, '_>, set: &SetAttr) -> MetaResult<Changed> {
    let mut record = inode::require(context.txn, set.inode)?;
    check_owner(context, set, &record)?;
    check_mode(context, set, &record)?;
    check_times(context, set, &record)?;
    check_privileges(context, set, &record)?;
    if let Some(size) = set.size {
        check_size(context, set, &record, size)?;
    }

    if set.uid.is_some() || set.gid.is_some() {
        record.uid = set.uid.unwrap_or(record.uid);
        record.gid = set.gid.unwrap_or(record.gid);
        record.kill_privileges();
    }
    if let Some(mode) = set.mode {
        record.mode = allowed_mode(context, mode & MODE_BITS, &record)?;
    }
    if set.kill_privileges || (set.size.is_some() && !context.caller.is_root()) {
        record.kill_privileges();
    }
    if let Some(size) = set.size {
        resize(context, set, &mut record, size);
    }
    let at = |set: SetTime| match set {
        SetTime::Now => context.now,
        SetTime::At(time) => time,
    };
    record.atime = set.atime.map_or(record.atime, at);
    record.mtime = set.mtime.map_or(record.mtime, at);
    record.ctime = context.now;
    inode::put(context.txn, set.inode, &record);
    let next_commit = session::next_commit(context.txn, context.session, set.inode);
    let attr = inode::attr(context.txn, set.inode, &record);
    Ok(Changed::Inode { attr, existed: true, next_commit })
}

/// Root gives files away; an owner may only hand one to a group of theirs.
fn check_owner(context: &Context<'_, '_>, set: &SetAttr, record: &InodeRecord) -> MetaResult<()> {
    let caller = context.caller;
    if caller.is_root() || (set.uid.is_none() && set.gid.is_none()) {
        return Ok(());
    }
    let keeps_owner = set.uid.is_none_or(|uid| uid == record.uid);
    ensure(caller.uid == record.uid && keeps_owner, MetaError::NotPermitted)?;
    match set.gid {
        Some(gid) if gid != record.gid => {
            ensure(permission::is_in_group(caller, gid)?, MetaError::NotPermitted)
        }
        Some(_) | None => Ok(()),
    }
}

fn check_mode(context: &Context<'_, '_>, set: &SetAttr, record: &InodeRecord) -> MetaResult<()> {
    if set.mode.is_none() {
        return Ok(());
    }
    let is_symlink = record.kind == FileKind::Symlink;
    ensure(!is_symlink, MetaError::Unsupported { what: "the mode of a symbolic link".to_owned() })?;
    ensure(permission::is_owner_or_root(record, context.caller), MetaError::NotPermitted)
}

/// Set-gid is only for members of the file's group.
fn allowed_mode(context: &Context<'_, '_>, mode: u32, record: &InodeRecord) -> MetaResult<u32> {
    let asks = mode & SET_GID != 0 && !context.caller.is_root();
    if asks && !permission::is_in_group(context.caller, record.gid)? {
        return Ok(mode & !SET_GID);
    }
    Ok(mode)
}

/// Any time of one's own choosing is for the owner; "now" on both is for whoever may write. With a new size the kernel
/// sends "now" along, and the right to the size decides.
fn check_times(context: &Context<'_, '_>, set: &SetAttr, record: &InodeRecord) -> MetaResult<()> {
    let is_owner = permission::is_owner_or_root(record, context.caller);
    match (set.atime, set.mtime) {
        (None, None) => Ok(()),
        _ if is_owner => Ok(()),
        (Some(SetTime::Now), Some(SetTime::Now)) if set.size.is_none() => {
            permission::require(record, context.caller, AccessMask::WRITE)
        }
        (None | Some(SetTime::Now), None | Some(SetTime::Now)) if set.size.is_some() => Ok(()),
        (None | Some(SetTime::Now | SetTime::At(_)), None | Some(SetTime::Now | SetTime::At(_))) => {
            Err(MetaError::NotPermitted)
        }
    }
}

/// Set-uid and set-gid go with a write, so they are for whoever may write; of a file open for writing that is known (P2.4).
fn check_privileges(context: &Context<'_, '_>, set: &SetAttr, record: &InodeRecord) -> MetaResult<()> {
    let is_asked = set.kill_privileges && !set.by_handle;
    if !is_asked || context.is_of_one_clock || permission::is_owner_or_root(record, context.caller) {
        return Ok(());
    }
    permission::require(record, context.caller, AccessMask::WRITE)
}

fn check_size(
    context: &Context<'_, '_>,
    set: &SetAttr,
    record: &InodeRecord,
    size: ByteLen,
) -> MetaResult<()> {
    match record.kind {
        FileKind::File => {}
        FileKind::Directory => return Err(MetaError::IsDirectory),
        FileKind::Symlink
        | FileKind::Fifo
        | FileKind::Socket
        | FileKind::CharDevice
        | FileKind::BlockDevice => return Err(invalid("only a regular file has a size to set")),
    }
    if !set.by_handle {
        permission::require(record, context.caller, AccessMask::WRITE)?; // else keeps P2.4
    }
    ensure(size.0 <= FILE_LEN_MAX, MetaError::FileTooLarge)
}

/// Ordered with the commits of the inode by its `ContentSeq` (P2.3). Growing makes a hole.
fn resize(context: &mut Context<'_, '_>, set: &SetAttr, record: &mut InodeRecord, size: ByteLen) {
    if size < record.size {
        let mut live = LiveBytes::default();
        let mut edit = Edit::begin(context.txn, set.inode, record, &mut live);
        edit.truncate(size.0);
        edit.finish();
        live.settle(context.txn, context.state_time);
    } else if size > record.size {
        record.next_content();
    }
    record.size = size;
    record.mtime = context.now;
}

#[cfg(test)]
mod tests {
    use dfs_proto::attr::{Caller, Timestamp};
    use dfs_proto::ids::InodeId;
    use dfs_proto::meta::Change;

    use super::*;
    use crate::tests::{Harness, user};

    const ROOT: InodeId = InodeId::ROOT;

    fn member(uid: u32, groups: &[u32]) -> Caller {
        Caller { uid, gid: uid, groups: Some(groups.to_vec()) }
    }

    fn set(inode: InodeId) -> SetAttr {
        SetAttr { inode, ..SetAttr::default() }
    }

    #[test]
    fn an_owner_changes_the_mode_and_loses_set_gid_of_a_foreign_group() {
        let mut harness = Harness::new();
        let file = harness.file(ROOT, "f");
        harness.chown(file, 7, 50);
        assert_eq!(harness.chmod(&user(8), file, 0o600), Err(MetaError::NotPermitted));
        let asked = Caller { uid: 7, gid: 7, groups: None };
        assert_eq!(harness.chmod(&asked, file, 0o2755), Err(MetaError::GroupsNeeded));
        assert_eq!(harness.chmod(&member(7, &[]), file, 0o2755).map(|a| a.mode), Ok(0o755));
        assert_eq!(harness.chmod(&member(7, &[50]), file, 0o2755).map(|a| a.mode), Ok(0o2755));
        assert_eq!(harness.chmod(&Caller::ROOT, file, 0o7777).map(|a| a.mode), Ok(0o7777));
    }

    #[test]
    fn only_root_gives_files_away_and_owners_choose_among_their_groups() {
        let mut harness = Harness::new();
        let file = harness.file(ROOT, "f");
        harness.chown(file, 7, 7);
        let change = |uid, gid| Change::SetAttr(SetAttr { uid, gid, ..set(file) });
        let owner = member(7, &[50]);
        assert_eq!(harness.change(&owner, change(Some(8), None)), Err(MetaError::NotPermitted));
        assert_eq!(harness.change(&owner, change(None, Some(51))), Err(MetaError::NotPermitted));
        assert!(harness.change(&owner, change(Some(7), Some(50))).is_ok());
        assert_eq!(harness.attr(file).gid, 50);
        assert_eq!(harness.change(&member(8, &[50]), change(None, Some(50))), Err(MetaError::NotPermitted));
    }

    #[test]
    fn a_new_owner_gets_no_privileges() {
        let mut harness = Harness::new();
        let file = harness.file(ROOT, "f");
        harness.chmod(&Caller::ROOT, file, 0o6755).expect("root may");
        harness.chown(file, 7, 7);
        assert_eq!(harness.attr(file).mode, 0o755);
        harness.chmod(&Caller::ROOT, file, 0o6745).expect("root may");
        harness.chown(file, 7, 8);
        assert_eq!(harness.attr(file).mode, 0o2745, "set-gid without group execute is no privilege");
    }

    #[test]
    fn times_of_ones_choice_are_for_the_owner_and_now_is_for_writers() {
        let mut harness = Harness::new();
        let file = harness.file(ROOT, "f");
        harness.chown(file, 7, 7);
        harness.chmod(&Caller::ROOT, file, 0o646).expect("root may");
        let times = |atime, mtime| Change::SetAttr(SetAttr { atime, mtime, ..set(file) });
        let at = |seconds| Some(SetTime::At(Timestamp { seconds, nanos: 5 }));
        let now = Some(SetTime::Now);
        assert_eq!(harness.change(&user(8), times(at(1), at(2))), Err(MetaError::NotPermitted));
        assert_eq!(harness.change(&user(8), times(now, None)), Err(MetaError::NotPermitted));
        assert!(harness.change(&user(8), times(now, now)).is_ok());
        harness.at(99);
        assert!(harness.change(&user(7), times(at(-1), at(2))).is_ok());
        let attr = harness.attr(file);
        assert_eq!((attr.atime.seconds, attr.mtime.seconds, attr.ctime.seconds), (-1, 2, 99));
        harness.chmod(&Caller::ROOT, file, 0o644).expect("root may");
        assert_eq!(harness.change(&user(8), times(now, now)), Err(MetaError::PermissionDenied));
    }

    #[test]
    fn the_size_needs_write_permission_unless_it_comes_through_an_open_file() {
        let mut harness = Harness::new();
        let file = harness.file(ROOT, "f");
        harness.chmod(&Caller::ROOT, file, 0o4755).expect("root may");
        let size = |len, by_handle| {
            let mtime = Some(SetTime::Now);
            Change::SetAttr(SetAttr { size: Some(ByteLen(len)), mtime, by_handle, ..set(file) })
        };
        assert_eq!(harness.change(&user(7), size(5, false)), Err(MetaError::PermissionDenied));
        assert!(harness.change(&user(7), size(5, true)).is_ok());
        let attr = harness.attr(file);
        assert_eq!((attr.size, attr.mode), (ByteLen(5), 0o755));
        let huge = harness.change(&Caller::ROOT, size(FILE_LEN_MAX + 1, false));
        assert_eq!(huge, Err(MetaError::FileTooLarge));
        let directory = harness.directory(ROOT, "d");
        let change = Change::SetAttr(SetAttr { size: Some(ByteLen(0)), ..set(directory) });
        assert_eq!(harness.change(&Caller::ROOT, change), Err(MetaError::IsDirectory));
    }
}
