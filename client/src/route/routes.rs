//! From an inode to the cluster of its volume. The root directory, in which every volume has its name, is of volume 0; its
//! cluster decides while it answers (P9.1), and the federation map while it does not.

use std::future::Future;
use std::sync::Arc;

use dfs_proto::attr::{FileKind, InodeAttr, Name, Timestamp};
use dfs_proto::federation::RootCopy;
use dfs_proto::ids::{InodeId, VolumeId};
use dfs_proto::units::ByteLen;

use crate::cluster::client::ClusterClient;
use crate::error::{ClientError, Result};
use crate::names::interim::changed_names::{ChangeMark, ChangedNames, NameChange};
use crate::route::federation::Federation;
use crate::session::replies::Found;

/// The ways to the clusters of one federation.
pub struct Routes {
    pub(crate) federation: Arc<Federation>,
    changed_names: ChangedNames,
}

/// A name that an operation changes.
pub struct ChangedEntry<'o> {
    parent: InodeId,
    name: &'o Name,
    may_free: bool,
}

impl<'o> ChangedEntry<'o> {
    /// The operation may take the name from a volume, or give it to one.
    pub(crate) fn any(parent: InodeId, name: &'o Name) -> ChangedEntry<'o> {
        ChangedEntry { parent, name, may_free: true }
    }

    /// The operation needs a free name. So it matters to the map only if the map shows a volume that had the name before.
    pub(crate) fn of_new(parent: InodeId, name: &'o Name) -> ChangedEntry<'o> {
        ChangedEntry { parent, name, may_free: false }
    }
}

impl Routes {
    pub(crate) fn new(federation: Arc<Federation>) -> Arc<Routes> {
        Arc::new(Routes { federation, changed_names: ChangedNames::default() })
    }

    /// The client at the cluster of the volume that `inode` is in.
    pub(crate) async fn at(&self, inode: InodeId) -> Result<Arc<ClusterClient>> {
        self.federation.at(inode).await
    }

    /// The same if a session is open there: this waits for nothing.
    pub(crate) fn opened_at(&self, inode: InodeId) -> Option<Arc<ClusterClient>> {
        self.federation.opened_at(inode)
    }

    /// The answer of the cluster of `inode`'s volume. `None` while that cluster is silent (V8).
    pub(crate) async fn soon<T: Send + 'static>(
        &self,
        inode: InodeId,
        question: impl Future<Output = Result<T>> + Send + 'static,
    ) -> Result<Option<T>> {
        self.federation.soon(inode, question).await
    }

    /// There may be several clusters.
    pub(crate) fn is_of_federation(&self) -> bool {
        self.federation.map().is_some()
    }

    /// To be held while these names are being changed (V7).
    pub(crate) fn changing(&self, entries: &[ChangedEntry<'_>]) -> Vec<NameChange<'_>> {
        let in_map = entries.iter().filter(|entry| {
            entry.parent == InodeId::ROOT
                && self
                    .federation
                    .map()
                    .is_some_and(|map| entry.may_free || map.named(entry.name.as_bytes()).is_some())
        });
        in_map.map(|entry| self.changed_names.during(entry.name.clone())).collect()
    }

    /// To be called before the root directory is asked for this name.
    pub(crate) fn mark(&self, name: &[u8]) -> ChangeMark {
        self.changed_names.mark(name)
    }

    /// The root directory, which was asked for the name at `mark`, gave this answer. Once the map says the same, the name is
    /// taken from the map again (V7).
    pub(crate) fn compare(&self, name: &[u8], mark: ChangeMark, found: Option<&Found>) {
        if !mark.is_set() {
            return; // almost always: finding a name in the map looks at every volume
        }
        let volume = found.and_then(|found| match found {
            Found::Here(InodeAttr { inode, .. }) | Found::Elsewhere(inode) => {
                (inode.volume() != VolumeId(0)).then(|| inode.volume())
            }
        });
        if self.federation.map().and_then(|map| map.named(name)) == volume {
            self.changed_names.agreed(name, mark);
        }
    }

    /// The root directory of the volume of this name, as the map shows it. `None` if the map has no such volume, or may be
    /// outdated (V7).
    pub(crate) fn mapped(&self, name: &[u8]) -> Option<InodeId> {
        if self.changed_names.may_be_outdated(name) {
            return None;
        }
        let volume = self.federation.map().and_then(|map| map.named(name))?;
        InodeId::new(volume, InodeId::ROOT.number())
    }

    /// The attributes of the root directory, as the map remembers them. `None` without a federation.
    pub(crate) fn mapped_root(&self) -> Option<InodeAttr> {
        self.federation.map().map(|map| copied_root(map.root, map.volumes.len()))
    }

    /// Refuses an operation that names inodes of two volumes (P9.3), also while their clusters are away.
    pub(crate) fn require_one_volume(one: InodeId, other: InodeId) -> Result<()> {
        if one.volume() == other.volume() { Ok(()) } else { Err(ClientError::CrossVolume) }
    }
}

fn copied_root(root: RootCopy, volumes: usize) -> InodeAttr {
    let unknown = Timestamp { seconds: 0, nanos: 0 };
    InodeAttr {
        inode: InodeId::ROOT,
        kind: FileKind::Directory,
        mode: root.mode,
        nlink: volumes as u32 + 1,
        uid: root.uid,
        gid: root.gid,
        size: ByteLen(volumes as u64),
        allocated: ByteLen(0),
        rdev: 0,
        atime: unknown,
        mtime: unknown,
        ctime: unknown,
        content_version: 0,
    }
}
