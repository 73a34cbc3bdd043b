//! One more name for an inode.

use dfs_proto::attr::Name;
use dfs_proto::error::MetaError;
use dfs_proto::ids::InodeId;
use dfs_proto::meta::{Changed, MetaResult};
use dfs_proto::units::LINKS_MAX;

use super::context::{Context, ensure, entry_added, require_writable, searchable};
use crate::table::{dirent, inode, session};
use crate::value::dirent::DirentRecord;

pub(super) fn apply(
    context: &mut Context<'_, '_>,
    inode: InodeId,
    parent: InodeId,
    name: &Name,
) -> MetaResult<Changed> {
    let mut directory = searchable(context, parent)?;
    ensure(dirent::find(context.txn, parent, name).is_none(), MetaError::Exists)?;
    require_writable(context, &directory)?;
    ensure(inode.volume() == parent.volume(), MetaError::CrossVolume)?; // keeps P9.3
    let mut record = inode::require(context.txn, inode)?;
    ensure(!record.is_directory(), MetaError::NotPermitted)?;
    ensure(record.nlink > 0, MetaError::NotFound)?;
    ensure(record.nlink < LINKS_MAX, MetaError::TooManyLinks)?;
    dirent::insert(context.txn, parent, name, DirentRecord { inode, kind: record.kind })?;
    record.nlink += 1;
    record.ctime = context.now;
    inode::put(context.txn, inode, &record);
    entry_added(&mut directory, false, context.now);
    inode::put(context.txn, parent, &directory);
    let next_commit = session::next_commit(context.txn, context.session, inode);
    let attr = inode::attr(context.txn, inode, &record);
    Ok(Changed::Inode { attr, existed: false, next_commit })
}

#[cfg(test)]
mod tests {
    use dfs_proto::attr::Caller;
    use dfs_proto::ids::VolumeId;
    use dfs_proto::meta::Change;

    use super::*;
    use crate::tests::{Harness, attr_of, name};

    fn link(inode: InodeId, parent: InodeId, text: &str) -> Change {
        Change::Link { inode, parent, name: name(text) }
    }

    #[test]
    fn a_second_name_counts_and_each_name_can_go() {
        let mut harness = Harness::new();
        let file = harness.file(InodeId::ROOT, "a");
        let attr = attr_of(harness.change(&Caller::ROOT, link(file, InodeId::ROOT, "b")));
        assert_eq!((attr.inode, attr.nlink), (file, 2));
        assert_eq!(harness.unlink(InodeId::ROOT, "a"), Ok(None));
        assert_eq!(harness.attr(file).nlink, 1);
        harness.check();
    }

    #[test]
    fn directories_orphans_and_other_volumes_get_no_second_name() {
        let mut harness = Harness::new();
        let directory = harness.directory(InodeId::ROOT, "d");
        let refused = harness.change(&Caller::ROOT, link(directory, InodeId::ROOT, "e"));
        assert_eq!(refused, Err(MetaError::NotPermitted));
        let file = harness.file(InodeId::ROOT, "f");
        assert_eq!(harness.unlink(InodeId::ROOT, "f"), Ok(Some(file)));
        let refused = harness.change(&Caller::ROOT, link(file, InodeId::ROOT, "g"));
        assert_eq!(refused, Err(MetaError::NotFound));
        let foreign = InodeId::new(VolumeId(5), 9).expect("in range");
        let refused = harness.change(&Caller::ROOT, link(foreign, InodeId::ROOT, "g"));
        assert_eq!(refused, Err(MetaError::CrossVolume));
        let elsewhere = harness.change(&Caller::ROOT, link(file, foreign, "g"));
        assert_eq!(elsewhere, Err(MetaError::WrongCluster { map_version: 0 }));
    }
}
