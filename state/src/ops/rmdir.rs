//! Removes an empty directory. Like a file it stays, nameless, while the session has it open; but it gets no new names.

use dfs_proto::attr::Name;
use dfs_proto::error::MetaError;
use dfs_proto::ids::InodeId;
use dfs_proto::meta::{Changed, MetaResult};

use super::context::{
    Context, drop_name, ensure, entry_removed, is_volume_root, named, require_writable, searchable,
};
use crate::permission;
use crate::table::{dirent, inode, volume};

pub(super) fn apply(context: &mut Context<'_, '_>, parent: InodeId, name: &Name) -> MetaResult<Changed> {
    let mut directory = searchable(context, parent)?;
    let entry = dirent::find(context.txn, parent, name).ok_or(MetaError::NotFound)?;
    require_writable(context, &directory)?;
    let inode = entry.record.inode;
    let record = named(context, inode);
    permission::require_unsticky(&directory, &record, context.caller)?;
    ensure(record.is_directory(), MetaError::NotDirectory)?;
    ensure(record.size.0 == 0, MetaError::NotEmpty)?;
    dirent::remove(context.txn, parent, &entry);
    entry_removed(&mut directory, true, context.now);
    inode::put(context.txn, parent, &directory);
    if is_volume_root(parent, inode) {
        volume::delete_entry(context.txn, inode.volume());
        return Ok(Changed::Removed { orphan: None });
    }
    Ok(Changed::Removed { orphan: drop_name(context, inode, record)? })
}

#[cfg(test)]
mod tests {
    use dfs_proto::attr::Caller;
    use dfs_proto::meta::{Change, NewInode};

    use super::*;
    use crate::tests::{Harness, create, name};

    fn rmdir(harness: &mut Harness, text: &str) -> MetaResult<Changed> {
        harness.change(&Caller::ROOT, Change::Rmdir { parent: InodeId::ROOT, name: name(text) })
    }

    #[test]
    fn only_an_empty_directory_is_removed_and_nothing_is_made_in_it_later() {
        let mut harness = Harness::new();
        let directory = harness.directory(InodeId::ROOT, "d");
        harness.file(directory, "f");
        assert_eq!(rmdir(&mut harness, "d"), Err(MetaError::NotEmpty));
        harness.unlink(directory, "f").expect("it is there");
        assert_eq!(rmdir(&mut harness, "d"), Ok(Changed::Removed { orphan: Some(directory) }));
        assert_eq!(harness.attr(InodeId::ROOT).nlink, 2);
        let late = harness.change(&Caller::ROOT, create(directory, "g", 0o600, NewInode::File));
        assert_eq!(late, Err(MetaError::NotFound));
        harness.check();
    }

    #[test]
    fn a_file_is_no_directory() {
        let mut harness = Harness::new();
        harness.file(InodeId::ROOT, "f");
        assert_eq!(rmdir(&mut harness, "f"), Err(MetaError::NotDirectory));
        assert_eq!(rmdir(&mut harness, "none"), Err(MetaError::NotFound));
    }
}
