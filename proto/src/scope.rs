//! What an operation touches: the inodes and names that a change alters, or that the answer of a read shows. Leases are
//! recalled, and holders registered, by this and nothing else (P4.1, P4.4), so every operation states it here. A new operation
//! does not compile before it has chosen.
//!
//! Two things are left to whoever has the state: the inode that a name leads to ([`Scope::behind`]), and the children of a
//! directory that is listed ([`Scope::listed`]).
//!
//! Not here: the scope of the leader's own commands (`dfs_state::command::Command::scope`).

use std::collections::{BTreeMap, BTreeSet};

use crate::attr::FileKind;
use crate::ids::{InodeId, VolumeId};
use crate::meta::{Change, Read};

/// A name in a directory.
pub type NameIn = (InodeId, Vec<u8>);

/// What an operation touches.
///
/// An inode that the operation makes is not in it: nobody can hold a lease on it yet.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Scope {
    /// Inodes whose attributes or content change or are shown, as far as the operation gives their numbers. A directory
    /// is among them when one of its names is touched: its attributes change with its names, and its permissions decide.
    pub inodes: BTreeSet<InodeId>,
    /// Names that change or are shown.
    pub names: BTreeSet<NameIn>,
    /// Names that lead to an inode which is touched as well. `..` may be one of them, for the parent directory.
    pub behind: BTreeMap<NameIn, Behind>,
    /// The names in this directory are shown; not each of them is in `names`.
    pub listed: Option<Listed>,
    /// Volumes that the operation concerns, as far as the operation gives their numbers: the volume of an inode that is found
    /// through `behind` or `listed` comes to them.
    pub volumes: BTreeSet<VolumeId>,
    /// Its parts are independent of each other and may lie in different volumes. All other operations stay within one.
    pub is_batch: bool,
    /// The directory that gains a name. A change waits while this directory is being removed (P9.2).
    pub gains_name: Option<InodeId>,
    /// It adds records that stay, so it needs room on the disks of the metaservers (P12.1).
    pub grows: bool,
    /// It may make, move or remove a directory in the federation's root directory: such a directory is a volume of its own,
    /// so the change takes several quorums (P9.2).
    pub enters_root: bool,
}

/// What happens to the inode that a name leads to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Behind {
    /// Its attributes are shown and do not change.
    Shown,
    /// It changes, and is no directory: if it is one, the operation is refused.
    File,
    /// It changes, whatever it is.
    Any,
}

/// A directory of which a page is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Listed {
    pub directory: InodeId,
    /// The attributes of the children are shown as well as their names.
    pub with_attributes: bool,
}

/// Records that no lease covers: no client keeps a copy of them that could become wrong. Whoever touches nothing else says
/// which ones ([`Scope::unleased`]).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unleased {
    /// The cluster's settings, its members, and the totals: a client is told them when it opens a session, or asks `statfs`,
    /// and relies on neither.
    Cluster,
    /// A session is its own only reader. Its end takes its leases with it.
    Sessions,
    /// Chunkservers and their addresses: whoever finds them outdated asks again.
    Servers,
    /// Where chunks are and how long, and what a file consists of at one version of its content: chunk and set version are checked where
    /// the bytes are read and where they are committed (P2.1, P10.1), and versions compared with the file's, so an outdated copy is
    /// found out.
    Chunks,
    /// What is left of inodes that have no name, of sessions that have ended, and of ranges that are behind a cut. A session that
    /// does not tell what it has open may have an inode open that was an orphan of a session which ended: its reads are answered
    /// `Stale` from then on, so leases will need a command that names those inodes.
    Garbage,
    /// Which volumes there are, and the versions of their entries in volume 0: these are compared when a step is applied
    /// (P9.2).
    Volumes,
}

impl Scope {
    /// Of an operation that touches only records which no lease covers.
    pub fn unleased(_records: Unleased) -> Scope {
        Scope::default()
    }

    /// Of an operation on one inode.
    pub fn of_inode(inode: InodeId) -> Scope {
        Scope::default().inode(inode)
    }

    #[must_use]
    pub fn inode(mut self, inode: InodeId) -> Scope {
        self.inodes.insert(inode);
        self.volume(inode.volume())
    }

    #[must_use]
    pub fn volume(mut self, volume: VolumeId) -> Scope {
        self.volumes.insert(volume);
        self
    }

    /// An entry, and with it the directory's attributes.
    fn name(mut self, directory: InodeId, name: &[u8]) -> Scope {
        self.names.insert((directory, name.to_vec()));
        self.inode(directory)
    }

    fn name_and_inode(mut self, directory: InodeId, name: &[u8], behind: Behind) -> Scope {
        self.behind.insert((directory, name.to_vec()), behind);
        self.name(directory, name)
    }

    fn gaining_name(mut self, directory: InodeId) -> Scope {
        self.gains_name = Some(directory);
        self
    }

    fn growing(mut self) -> Scope {
        self.grows = true;
        self
    }

    fn entering_root_if(mut self, enters: bool) -> Scope {
        self.enters_root = enters;
        self
    }

    fn batch(inodes: impl Iterator<Item = InodeId>) -> Scope {
        inodes.fold(Scope { is_batch: true, ..Scope::default() }, Scope::inode)
    }

    /// The directories in which names are touched, in order.
    pub fn directories(&self) -> Vec<InodeId> {
        let directories: BTreeSet<InodeId> = self.names.iter().map(|(directory, _)| *directory).collect();
        directories.into_iter().collect()
    }

    /// Its parts belong together and lie in different volumes: it is refused (P9.3).
    pub fn crosses_volumes(&self) -> bool {
        !self.is_batch && self.volumes.len() > 1
    }

    /// A change with this scope may alter the attributes of an existing inode of this kind, as far as can be told without
    /// the state.
    pub fn may_alter(&self, inode: InodeId, kind: FileKind) -> bool {
        self.inodes.contains(&inode)
            || self.behind.values().any(|behind| match behind {
                Behind::Shown => false,
                Behind::File => kind != FileKind::Directory,
                Behind::Any => true,
            })
    }
}

impl Change {
    /// What this change alters.
    pub fn scope(&self) -> Scope {
        let scope = Scope::default();
        match self {
            Change::Create(create) => {
                let (parent, name) = (create.parent, create.name.as_bytes());
                let scope = match create.or_existing {
                    true => scope.name_and_inode(parent, name, Behind::Shown),
                    false => scope.name(parent, name),
                };
                let enters_root = parent == InodeId::ROOT && create.what.is_directory();
                scope.gaining_name(parent).growing().entering_root_if(enters_root)
            }
            // The inode that gets another name is given by its number: the name leads nowhere before.
            Change::Link { inode, parent, name } => {
                scope.name(*parent, name.as_bytes()).inode(*inode).gaining_name(*parent).growing()
            }
            Change::Unlink { parent, name } => scope.name_and_inode(*parent, name.as_bytes(), Behind::File),
            Change::Rmdir { parent, name } => scope
                .name_and_inode(*parent, name.as_bytes(), Behind::Any)
                .entering_root_if(*parent == InodeId::ROOT),
            // The ctime of what is moved changes, and the `..` of a directory. An exchange moves both.
            Change::Rename(rename) => scope
                .name_and_inode(rename.parent, rename.name.as_bytes(), Behind::Any)
                .name_and_inode(rename.new_parent, rename.new_name.as_bytes(), Behind::Any)
                .gaining_name(rename.new_parent)
                .entering_root_if([rename.parent, rename.new_parent].contains(&InodeId::ROOT)),
            Change::SetAttr(set) => scope.inode(set.inode),
            Change::OpenChunk(_) => Scope::unleased(Unleased::Chunks).growing(),
            Change::SealChunk { .. } => Scope::unleased(Unleased::Chunks),
            Change::CommitExtents(commit) => {
                Scope::batch(commit.files.iter().map(|file| file.inode)).growing()
            }
            Change::ReleaseOrphans { inodes } => Scope::batch(inodes.iter().copied()),
        }
    }
}

impl Read {
    /// What the answer shows.
    pub fn scope(&self) -> Scope {
        match self {
            Read::Lookup { parent, name } => lookup(*parent, name),
            Read::GetAttr { inode }
            | Read::Access { inode, .. }
            | Read::Open { inode, .. }
            | Read::ReadLink { inode }
            | Read::Extents { inode, .. } => Scope::of_inode(*inode),
            Read::ReadDir { inode, plus, .. } => {
                let listed = Some(Listed { directory: *inode, with_attributes: *plus });
                Scope { listed, ..Scope::of_inode(*inode) }
            }
            Read::ReadAhead { inode, .. } => {
                let listed = Some(Listed { directory: *inode, with_attributes: true });
                Scope { listed, ..Scope::of_inode(*inode) }
            }
            // What a file consists of at one version stays true; whether that is its version is not said.
            Read::ExtentsNear { inode } => Scope::unleased(Unleased::Chunks).volume(inode.volume()),
            // The inode only says which volume is meant; space and numbers of inodes are those of the cluster.
            Read::StatFs { inode } => Scope::unleased(Unleased::Cluster).volume(inode.volume()),
        }
    }
}

/// `.` and `..` are no entries: nothing but a directory's attributes is shown.
fn lookup(parent: InodeId, name: &[u8]) -> Scope {
    match name {
        b"." => Scope::of_inode(parent),
        b".." => {
            let behind = BTreeMap::from([((parent, name.to_vec()), Behind::Shown)]);
            Scope { behind, ..Scope::of_inode(parent) }
        }
        name => Scope::default().name_and_inode(parent, name, Behind::Shown),
    }
}

#[cfg(test)]
mod tests;
