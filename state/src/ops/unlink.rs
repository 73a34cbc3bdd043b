//! Removes a name of anything but a directory. The inode that loses its last name becomes an orphan of the session,
//! which may have it open (P6.5).

use dfs_proto::attr::Name;
use dfs_proto::error::MetaError;
use dfs_proto::ids::InodeId;
use dfs_proto::meta::{Changed, MetaResult};

use super::context::{
    Context, drop_name, ensure, entry_removed, is_volume_root, named, require_writable, searchable,
};
use crate::permission;
use crate::table::{dirent, inode};

pub(super) fn apply(context: &mut Context<'_, '_>, parent: InodeId, name: &Name) -> MetaResult<Changed> {
    let mut directory = searchable(context, parent)?;
    let entry = dirent::find(context.txn, parent, name).ok_or(MetaError::NotFound)?;
    require_writable(context, &directory)?;
    let inode = entry.record.inode;
    ensure(!is_volume_root(parent, inode), MetaError::IsDirectory)?;
    let record = named(context, inode);
    permission::require_unsticky(&directory, &record, context.caller)?;
    ensure(!record.is_directory(), MetaError::IsDirectory)?;
    dirent::remove(context.txn, parent, &entry);
    entry_removed(&mut directory, false, context.now);
    inode::put(context.txn, parent, &directory);
    Ok(Changed::Removed { orphan: drop_name(context, inode, record) })
}

#[cfg(test)]
mod tests {
    use dfs_proto::attr::Caller;
    use dfs_proto::meta::{Change, NewInode};

    use super::*;
    use crate::tests::{Harness, create, name, user};

    #[test]
    fn an_unlinked_file_stays_until_its_holder_releases_it() {
        let mut harness = Harness::new();
        let file = harness.file(InodeId::ROOT, "f");
        assert_eq!(harness.unlink(InodeId::ROOT, "f"), Ok(Some(file)));
        assert_eq!(harness.attr(file).nlink, 0);
        harness.check();
        let released = harness.change(&Caller::ROOT, Change::ReleaseOrphans { inodes: vec![file] });
        assert_eq!(released, Ok(Changed::Done));
        assert_eq!(harness.try_attr(file), Err(MetaError::Stale));
        harness.check();
    }

    #[test]
    fn in_a_sticky_directory_only_owners_remove_names() {
        let mut harness = Harness::new();
        let directory = harness.directory(InodeId::ROOT, "tmp");
        harness.chmod(&Caller::ROOT, directory, 0o1777).expect("root may");
        harness.change(&user(7), create(directory, "f", 0o666, NewInode::File)).expect("everyone may write");
        let unlink = || Change::Unlink { parent: directory, name: name("f") };
        assert_eq!(harness.change(&user(8), unlink()), Err(MetaError::NotPermitted));
        assert!(harness.change(&user(7), unlink()).is_ok());
        harness.check();
    }

    #[test]
    fn a_directory_is_not_unlinked() {
        let mut harness = Harness::new();
        harness.directory(InodeId::ROOT, "d");
        assert_eq!(harness.unlink(InodeId::ROOT, "d"), Err(MetaError::IsDirectory));
        assert_eq!(harness.unlink(InodeId::ROOT, "none"), Err(MetaError::NotFound));
    }
}
