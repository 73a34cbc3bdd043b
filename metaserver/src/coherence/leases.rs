//! Who caches what. Until leases exist nobody does, and both doors below let everyone through; but every change and
//! every read already passes one of them and says what it touches (P4.4), because coherence cannot be bolted on.
//!
//! Once there are leases: [`Leases::lock`] locks inodes and names in sorted order, recalls them from all other sessions and
//! waits (P4.1); [`Leases::register`] makes the reader a holder before the state is read (P3.5, P4.3).

use std::collections::BTreeSet;

use dfs_proto::attr::Name;
use dfs_proto::ids::{InodeId, SessionId};
use dfs_proto::meta::{Change, Read};

/// What a change alters or a read shows: inodes (attributes, content) and names in directories. Sorted, so that locking in
/// order cannot deadlock.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Touched {
    pub(crate) inodes: BTreeSet<InodeId>,
    pub(crate) names: BTreeSet<(InodeId, Vec<u8>)>,
}

impl Touched {
    /// A change of no name and no file: sessions, chunkservers, background work.
    pub(crate) fn nothing() -> Touched {
        Touched::default()
    }

    pub(crate) fn inode(mut self, inode: InodeId) -> Touched {
        self.inodes.insert(inode);
        self
    }

    /// An entry, and with it the directory's attributes.
    fn name(mut self, parent: InodeId, name: &Name) -> Touched {
        self.names.insert((parent, name.as_bytes().to_vec()));
        self.inode(parent)
    }

    /// What the request itself names. The inode behind a name that is removed or replaced is known only from the state:
    /// whoever locks adds it.
    pub(crate) fn by_change(change: &Change) -> Touched {
        let touched = Touched::nothing();
        match change {
            Change::Create(create) => touched.name(create.parent, &create.name),
            Change::Link { inode, parent, name } => touched.name(*parent, name).inode(*inode),
            Change::Unlink { parent, name } | Change::Rmdir { parent, name } => touched.name(*parent, name),
            Change::Rename(rename) => {
                touched.name(rename.parent, &rename.name).name(rename.new_parent, &rename.new_name)
            }
            Change::SetAttr(set) => touched.inode(set.inode),
            Change::CommitExtents(commit) => commit.files.iter().fold(touched, |t, file| t.inode(file.inode)),
            Change::ReleaseOrphans { inodes } => inodes.iter().fold(touched, |t, inode| t.inode(*inode)),
            Change::OpenChunk(_) | Change::SealChunk { .. } => touched,
        }
    }

    /// What the answer of a read shows.
    pub(crate) fn by_read(read: &Read) -> Touched {
        let mut touched = Touched::nothing();
        match read {
            Read::Lookup { parent, name } => {
                touched.names.insert((*parent, name.clone()));
                touched.inode(*parent)
            }
            Read::GetAttr { inode }
            | Read::Access { inode, .. }
            | Read::Open { inode, .. }
            | Read::ReadLink { inode }
            | Read::ReadDir { inode, .. }
            | Read::Extents { inode, .. }
            | Read::StatFs { inode } => touched.inode(*inode),
        }
    }
}

/// Keeps what a change touches locked; dropping it unlocks.
pub(crate) struct Locked(());

/// The leases of this leader's term.
#[derive(Default)]
pub(crate) struct Leases(());

impl Leases {
    /// Waits until no other session caches what is touched.
    pub(crate) async fn lock(&self, _touched: &Touched, _by: Option<SessionId>) -> Locked {
        Locked(())
    }

    /// Makes `by` a holder of what it is about to be shown. Called before the state is read.
    pub(crate) fn register(&self, _shown: &Touched, _by: Option<SessionId>) {}
}

#[cfg(test)]
mod tests {
    use dfs_proto::meta::Rename;

    use super::*;

    #[test]
    fn a_rename_touches_both_names_and_both_directories() {
        let name = |text: &str| Name::new(text).unwrap();
        let touched = Touched::by_change(&Change::Rename(Rename {
            parent: InodeId(5),
            name: name("a"),
            new_parent: InodeId(3),
            new_name: name("b"),
            no_replace: false,
        }));
        assert_eq!(touched.inodes, BTreeSet::from([InodeId(3), InodeId(5)]));
        assert_eq!(touched.names, BTreeSet::from([(InodeId(3), b"b".to_vec()), (InodeId(5), b"a".to_vec())]));
    }
}
