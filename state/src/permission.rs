//! Who may do what, as Linux decides it. Pure.

use dfs_proto::attr::{AccessMask, Caller};
use dfs_proto::error::MetaError;
use dfs_proto::meta::MetaResult;
pub(super) use dfs_proto::permission::is_in_group;
use dfs_proto::permission::{self, Guarded};

use crate::value::inode::{InodeRecord, STICKY};

/// The mode bits: EACCES, unless the caller has all the rights in `mask`.
pub(super) fn require(record: &InodeRecord, caller: &Caller, mask: AccessMask) -> MetaResult<()> {
    let InodeRecord { kind, mode, uid, gid, .. } = *record;
    permission::require(Guarded { kind, mode, uid, gid }, caller, mask)
}

pub(super) fn is_owner_or_root(record: &InodeRecord, caller: &Caller) -> bool {
    caller.is_root() || caller.uid == record.uid
}

/// EPERM if `directory` is sticky and neither it nor `entry` belongs to the caller.
pub(super) fn require_unsticky(
    directory: &InodeRecord,
    entry: &InodeRecord,
    caller: &Caller,
) -> MetaResult<()> {
    let is_free = directory.mode & STICKY == 0
        || is_owner_or_root(directory, caller)
        || is_owner_or_root(entry, caller);
    if is_free { Ok(()) } else { Err(MetaError::NotPermitted) }
}

#[cfg(test)]
mod tests {
    use dfs_proto::attr::{FileKind, Timestamp};
    use dfs_proto::ids::{ContentSeq, InodeId};
    use dfs_proto::units::ByteLen;

    use super::*;
    use crate::value::inode::{Attached, InodeFlags};

    fn record(kind: FileKind, mode: u32) -> InodeRecord {
        InodeRecord {
            kind,
            mode,
            nlink: 1,
            uid: 10,
            gid: 20,
            size: ByteLen(0),
            rdev: 0,
            atime: Timestamp::default(),
            mtime: Timestamp::default(),
            ctime: Timestamp::default(),
            content_version: 0,
            content_seq: ContentSeq(0),
            parent: InodeId::ROOT,
            target: Vec::new(),
            born: None,
            flags: InodeFlags::default(),
            has: Attached::default(),
            space_within: None,
        }
    }

    fn caller(uid: u32, gid: u32, groups: Option<Vec<u32>>) -> Caller {
        Caller { uid, gid, groups }
    }

    #[test]
    fn the_owner_is_judged_by_the_owners_bits_alone() {
        let file = record(FileKind::File, 0o077);
        let owner = caller(10, 20, Some(vec![20]));
        assert_eq!(require(&file, &owner, AccessMask::READ), Err(MetaError::PermissionDenied));
        assert_eq!(require(&file, &caller(11, 20, None), AccessMask::READ), Ok(()));
    }

    #[test]
    fn groups_are_asked_for_only_when_they_decide() {
        let stranger = caller(11, 21, None);
        assert_eq!(require(&record(FileKind::File, 0o644), &stranger, AccessMask::READ), Ok(()));
        let file = record(FileKind::File, 0o640);
        assert_eq!(require(&file, &stranger, AccessMask::READ), Err(MetaError::GroupsNeeded));
        assert_eq!(require(&file, &stranger, AccessMask::WRITE), Err(MetaError::PermissionDenied));
        assert_eq!(require(&file, &caller(11, 21, Some(vec![20])), AccessMask::READ), Ok(()));
        let refused = require(&file, &caller(11, 21, Some(vec![22])), AccessMask::READ);
        assert_eq!(refused, Err(MetaError::PermissionDenied));
    }

    #[test]
    fn root_may_everything_but_execute_what_nobody_may() {
        let file = record(FileKind::File, 0o000);
        assert_eq!(require(&file, &Caller::ROOT, AccessMask::READ.union(AccessMask::WRITE)), Ok(()));
        assert_eq!(require(&file, &Caller::ROOT, AccessMask::EXECUTE), Err(MetaError::PermissionDenied));
        assert_eq!(require(&record(FileKind::Directory, 0), &Caller::ROOT, AccessMask::EXECUTE), Ok(()));
    }
}
