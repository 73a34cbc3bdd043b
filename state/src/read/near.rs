//! Where the bytes of many small files are, with one look: of all files whose numbers are near, because files that were made together
//! are often read together. (ext4 reads the inodes around one ahead for the same reason: its mount option `inode_readahead_blks`.)
//!
//! Three tables are walked through once, each up to a bound, in place of four looks for each file.

use std::collections::BTreeMap;

use dfs_proto::extent::Extent;
use dfs_proto::ids::{ChunkId, InodeId};
use dfs_proto::meta::{ExtentsAt, FewExtents, MetaResult};

use crate::keys;
use crate::kv::{Snapshot, scan_prefix};
use crate::record::decode;
use crate::record::inode::Inodes;
use crate::record::space::Spaces;
use crate::table::{chunk, extent, inode};

/// Extents of one file: of one that has more nothing is said.
const EXTENTS_OF_FILE_MAX: usize = 4;
/// Records of extents that are looked at. Of files behind these nothing is said.
const EXTENTS_SEEN_MAX: usize = 1024;

/// Of files with a name of which nothing is left behind a cut.
pub(super) fn extents(view: &dyn Snapshot, near: InodeId) -> MetaResult<FewExtents> {
    inode::require(view, near)?;
    let spaces = scan_prefix(view, &keys::near(&keys::space(near)));
    let spaces: BTreeMap<InodeId, u32> =
        spaces.map(|(key, value)| (InodeId(keys::number(&key, 0)), decode::<Spaces>(&value).cuts)).collect();
    let mut laid = laid_near(view, near);
    let mut few = FewExtents::default();
    let mut chunks: BTreeMap<ChunkId, Option<_>> = BTreeMap::new();
    for (key, value) in scan_prefix(view, &keys::near(&keys::inode(near))) {
        let (inode, record) = (InodeId(keys::number(&key, 0)), decode::<Inodes>(&value));
        let Some(extents) = laid.remove(&inode) else { continue };
        let within = || record.space_within.map_or(0, |space| space.cuts);
        let cuts = spaces.get(&inode).copied().unwrap_or_else(within);
        if record.nlink == 0 || cuts != 0 || extents.len() > EXTENTS_OF_FILE_MAX {
            continue;
        }
        let mut is_placed = true;
        for extent in &extents {
            let found = chunks.entry(extent.chunk).or_insert_with(|| chunk::get(view, extent.chunk));
            is_placed &= found.is_some();
        }
        if is_placed {
            few.files.push(ExtentsAt { inode, content_version: record.content_version, extents });
        }
    }
    let location = |(id, found)| Option::map(found, |record| chunk::location(view, id, &record));
    few.chunks = chunks.into_iter().filter_map(location).collect();
    Ok(few)
}

/// Extents in the order of their files. Of the last file it may not be all when there are too many: then it is left out.
fn laid_near(view: &dyn Snapshot, near: InodeId) -> BTreeMap<InodeId, Vec<Extent>> {
    let mut found: BTreeMap<InodeId, Vec<Extent>> = BTreeMap::new();
    for (seen, (key, value)) in scan_prefix(view, &keys::near(&keys::extents_of(near))).enumerate() {
        if seen == EXTENTS_SEEN_MAX {
            found.pop_last();
            break;
        }
        let (inode, laid) = extent::parse(&key, &value);
        found.entry(inode).or_default().push(laid.extent);
    }
    found
}

#[cfg(test)]
mod tests {
    use dfs_proto::error::MetaError;
    use dfs_proto::units::{MIB, Offset};

    use super::*;
    use crate::read;
    use crate::tests::Harness;

    fn near(t: &Harness, inode: InodeId) -> MetaResult<FewExtents> {
        t.view(|view| extents(view, inode))
    }

    #[test]
    fn of_files_with_few_extents_one_look_tells_what_a_look_at_each_does() {
        let mut t = Harness::new();
        t.servers(2);
        let (root, chunk) = (InodeId::ROOT, t.open_chunk());
        let [a, b, _empty, many] = ["a", "b", "empty", "many"].map(|name| t.file(root, name));
        for (file, offset) in [(a, 0), (b, 0), (a, MIB), (many, 0)] {
            t.write(file, offset, 100, chunk).unwrap();
        }
        for piece in 1..=EXTENTS_OF_FILE_MAX as u64 {
            t.write(many, piece * MIB, 100, chunk).unwrap();
        }
        let few = near(&t, many).unwrap();
        assert_eq!(few.files.iter().map(|file| file.inode).collect::<Vec<_>>(), [a, b]);
        for file in &few.files {
            let one = t.view(|view| read::extents(view, file.inode, Offset(0), u64::MAX, 9)).unwrap();
            assert_eq!((file.content_version, &file.extents), (one.attr.content_version, &one.extents));
            assert_eq!(few.chunks, one.chunks);
        }
        assert_eq!(near(&t, InodeId(1 << 20)), Err(MetaError::Stale));
    }

    #[test]
    fn of_files_behind_too_many_extents_and_of_those_without_a_name_nothing_is_told() {
        let mut t = Harness::new();
        t.servers(2);
        let (root, chunk) = (InodeId::ROOT, t.open_chunk());
        let [a, many, behind] = ["a", "many", "behind"].map(|name| t.file(root, name));
        for file in [a, behind] {
            t.write(file, 0, 100, chunk).unwrap();
        }
        for piece in 0..EXTENTS_SEEN_MAX as u64 - 2 {
            t.write(many, piece * MIB, 100, chunk).unwrap();
        }
        let told = |t: &Harness| -> Vec<InodeId> {
            near(t, a).unwrap().files.iter().map(|file| file.inode).collect()
        };
        assert_eq!(told(&t), [a, behind]);
        t.write(many, MIB << 20, 100, chunk).unwrap();
        assert_eq!(told(&t), [a], "whether that is all of it was not seen");
        t.unlink(root, "a").unwrap();
        assert_eq!(told(&t), []);
    }
}
