//! The federation as applications see it: one tree. Each operation goes to the cluster of the volume that it is about; the
//! root directory, which every volume hangs in, is of volume 0, whose entries decide while its cluster answers (P9.1).

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use dfs_net::env::Env;
use dfs_proto::attr::{AccessMask, Caller, FileKind, InodeAttr, Name, Timestamp};
use dfs_proto::federation::RootCopy;
use dfs_proto::ids::{InodeId, VolumeId};
use dfs_proto::meta::{Create, DirEntry, Rename, SetAttr, StatFs};
use dfs_proto::units::ByteLen;
use futures::future::join_all;
use futures::{StreamExt as _, stream};

use crate::cluster::{ClusterClient, Found, Orphan};
use crate::federation::Federation;
use crate::touched::{Mark, Touched};
use crate::{ClientConfig, ClientError, Created, DirPage, File, OpenMode, Result};

/// Volumes of one listing whose attributes are asked for at the same time.
const ROOTS_AT_ONCE: usize = 32;

/// What a name leads to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Looked {
    Attr(InodeAttr),
    /// To the root directory of a volume whose cluster does not answer: nothing else is known of it.
    Unanswered(InodeId),
}

/// A mounted federation. Dropping it without [`Client::shutdown`] leaves its sessions to expire.
pub struct Client {
    federation: Arc<Federation>,
    touched: Touched,
}

impl Client {
    /// Finds the federation. Sessions are opened where they are needed.
    pub async fn connect(config: ClientConfig, env: Env) -> Result<Arc<Client>> {
        let federation = Federation::connect(config, env).await?;
        Ok(Arc::new(Client { federation, touched: Touched::default() }))
    }

    async fn at(&self, inode: InodeId) -> Result<Arc<ClusterClient>> {
        self.federation.at(inode).await
    }

    /// `name` may be `.` or `..`.
    pub async fn lookup(&self, caller: &Caller, parent: InodeId, name: &[u8]) -> Result<InodeAttr> {
        match self.look_up(caller, parent, name).await? {
            Looked::Attr(attr) => Ok(attr),
            Looked::Unanswered(root) => self.getattr(caller, root).await,
        }
    }

    /// The same without waiting for the cluster of a volume that the name leads to: it may be away.
    pub async fn look_up(&self, caller: &Caller, parent: InodeId, name: &[u8]) -> Result<Looked> {
        if parent != InodeId::ROOT {
            let found = self.at(parent).await?.lookup(caller, parent, name).await?;
            return self.follow(caller, found).await;
        }
        let mark = self.touched.mark(name);
        let question = {
            let (federation, caller, name) = (self.federation.clone(), caller.clone(), name.to_vec());
            async move { federation.at(parent).await?.lookup(&caller, parent, &name).await }
        };
        match self.federation.soon(parent, question).await {
            Ok(Some(found)) => {
                self.compare(name, mark, Some(&found));
                self.follow(caller, found).await
            }
            Ok(None) => match self.follow_map(caller, name).await {
                Some(looked) => looked,
                None => {
                    let found = self.at(parent).await?.lookup(caller, parent, name).await?;
                    self.follow(caller, found).await
                }
            },
            Err(away @ ClientError::Unavailable { .. }) => {
                self.follow_map(caller, name).await.unwrap_or(Err(away))
            }
            Err(error) => {
                if error == ClientError::NotFound {
                    self.compare(name, mark, None);
                }
                Err(error)
            }
        }
    }

    async fn follow(&self, caller: &Caller, found: Found) -> Result<Looked> {
        match found {
            Found::Here(attr) => Ok(Looked::Attr(attr)),
            Found::Elsewhere(root) => {
                let attr = self.federation.soon(root, self.ask_for_attr(caller, root)).await?;
                Ok(attr.map_or(Looked::Unanswered(root), Looked::Attr))
            }
        }
    }

    /// While volume 0's cluster does not answer, the names of volumes are those of the map. `None`: it knows none, or is
    /// behind.
    async fn follow_map(&self, caller: &Caller, name: &[u8]) -> Option<Result<Looked>> {
        if self.touched.is_doubtful(name) {
            return None;
        }
        let volume = self.federation.map().and_then(|map| map.named(name))?;
        match self.follow(caller, Found::Elsewhere(root_of(volume)?)).await {
            Err(ClientError::Stale) => None, // it was removed
            looked => Some(looked),
        }
    }

    /// The map is believed again for this name once it tells what the root directory tells.
    fn compare(&self, name: &[u8], mark: Mark, found: Option<&Found>) {
        if !mark.is_set() {
            return; // almost always: finding a name in the map looks at every volume
        }
        let volume = found.and_then(|found| match found {
            Found::Here(InodeAttr { inode, .. }) | Found::Elsewhere(inode) => {
                (inode.volume() != VolumeId(0)).then(|| inode.volume())
            }
        });
        if self.federation.map().and_then(|map| map.named(name)) == volume {
            self.touched.agreed(name, mark);
        }
    }

    /// Those that the map may tell something of: names in the root directory of a federation.
    fn in_root(&self, parent: InodeId, name: &Name) -> Option<Name> {
        (parent == InodeId::ROOT && self.is_of_federation()).then(|| name.clone())
    }

    /// The same for a change that can only take the place of a volume that was there before.
    fn mapped_in_root(&self, parent: InodeId, name: &Name) -> Option<Name> {
        let is_mapped =
            |name: &Name| self.federation.map().is_some_and(|map| map.named(name.as_bytes()).is_some());
        self.in_root(parent, name).filter(is_mapped)
    }

    fn ask_for_attr(
        &self,
        caller: &Caller,
        inode: InodeId,
    ) -> impl Future<Output = Result<InodeAttr>> + Send + use<> {
        let (federation, caller) = (self.federation.clone(), caller.clone());
        async move { federation.at(inode).await?.getattr(&caller, inode).await }
    }

    pub async fn getattr(&self, caller: &Caller, inode: InodeId) -> Result<InodeAttr> {
        if inode != InodeId::ROOT {
            return self.at(inode).await?.getattr(caller, inode).await;
        }
        match (self.federation.soon(inode, self.ask_for_attr(caller, inode)).await, self.federation.map()) {
            (Ok(Some(attr)), _) => Ok(attr),
            (Ok(None) | Err(ClientError::Unavailable { .. }), Some(map)) => {
                Ok(copied_root(map.root, map.volumes.len()))
            }
            (Ok(None), None) => self.at(inode).await?.getattr(caller, inode).await,
            (Err(error), _) => Err(error),
        }
    }

    /// The same, but it may be what a change of this client told up to 10 ms ago. Never older than such a change.
    pub async fn getattr_lately(&self, caller: &Caller, inode: InodeId) -> Result<InodeAttr> {
        match inode {
            InodeId::ROOT => self.getattr(caller, inode).await,
            _ => self.at(inode).await?.getattr_lately(caller, inode).await,
        }
    }

    /// Changes attributes. What was written before a change of size is committed before it (P2.3), times set here
    /// survive the commit of what was written before.
    pub async fn setattr(&self, caller: &Caller, set: SetAttr) -> Result<InodeAttr> {
        self.at(set.inode).await?.setattr(caller, set).await
    }

    /// access(2).
    pub async fn access(&self, caller: &Caller, inode: InodeId, mask: AccessMask) -> Result<()> {
        self.at(inode).await?.access(caller, inode, mask).await
    }

    /// Makes a file, directory, symlink or node.
    pub async fn create(&self, caller: &Caller, create: Create) -> Result<Created> {
        let _changing = self.touched.during(self.mapped_in_root(create.parent, &create.name));
        self.at(create.parent).await?.create(caller, create).await
    }

    /// Makes a file and opens it; with `or_existing` opens the one that is there, with the rights that `mode` wants.
    pub async fn create_open(
        &self,
        caller: &Caller,
        create: Create,
        mode: OpenMode,
    ) -> Result<(Arc<File>, InodeAttr)> {
        let _changing = self.touched.during(self.mapped_in_root(create.parent, &create.name));
        self.at(create.parent).await?.create_open(caller, create, mode).await
    }

    /// Opens a file; the rights checked here belong to it from now on. What others closed before is seen by it.
    pub async fn open(&self, caller: &Caller, inode: InodeId, mode: OpenMode) -> Result<Arc<File>> {
        self.at(inode).await?.open(caller, inode, mode).await
    }

    /// Gives a file another name in its volume; what was written to it is committed first (P2.5).
    pub async fn link(
        &self,
        caller: &Caller,
        inode: InodeId,
        parent: InodeId,
        name: &Name,
    ) -> Result<InodeAttr> {
        require_one_volume(inode, parent)?;
        let _changing = self.touched.during(self.mapped_in_root(parent, name));
        self.at(parent).await?.link(caller, inode, parent, name).await
    }

    /// The last name of a file that is open here may go: its open files stay usable.
    pub async fn unlink(&self, caller: &Caller, parent: InodeId, name: &Name) -> Result<()> {
        self.at(parent).await?.unlink(caller, parent, name).await
    }

    /// Gives the directory, for whoever still stands in it.
    pub async fn rmdir(&self, caller: &Caller, parent: InodeId, name: &Name) -> Result<Option<Orphan>> {
        let _changing = self.touched.during(self.in_root(parent, name));
        self.at(parent).await?.rmdir(caller, parent, name).await
    }

    /// Within a volume, or of a volume in the root directory. What was written to a file is committed first (P2.5). Gives what
    /// was replaced, if that was its last name.
    pub async fn rename(&self, caller: &Caller, rename: Rename) -> Result<Option<Orphan>> {
        require_one_volume(rename.parent, rename.new_parent)?;
        let _changing = self.touched.during(self.in_root(rename.parent, &rename.name));
        let _replacing = self.touched.during(self.in_root(rename.new_parent, &rename.new_name));
        self.at(rename.parent).await?.rename(caller, rename).await
    }

    pub async fn readlink(&self, caller: &Caller, inode: InodeId) -> Result<Vec<u8>> {
        self.at(inode).await?.readlink(caller, inode).await
    }

    /// There may be several clusters.
    pub fn is_of_federation(&self) -> bool {
        self.federation.map().is_some()
    }

    /// Of the volume that the inode is in.
    pub async fn statfs(&self, inode: InodeId) -> Result<StatFs> {
        self.at(inode).await?.statfs(inode).await
    }

    /// At most `limit` entries behind `cookie` (0: from the start); with attributes if `plus`, but of volumes that do not
    /// answer at once.
    pub async fn read_dir(
        &self,
        caller: &Caller,
        inode: InodeId,
        cookie: u64,
        limit: u32,
        plus: bool,
    ) -> Result<DirPage> {
        let mut page = self.at(inode).await?.read_dir(caller, inode, cookie, limit, plus).await?;
        if plus && inode == InodeId::ROOT {
            self.fill_in(caller, &mut page.entries).await;
        }
        Ok(page)
    }

    /// The attributes of volumes that other clusters have.
    async fn fill_in(&self, caller: &Caller, entries: &mut [DirEntry]) {
        let mut asked = Vec::new();
        for entry in entries.iter().filter(|entry| entry.attr.is_none()) {
            let (federation, inode) = (self.federation.clone(), entry.inode);
            let question = self.ask_for_attr(caller, inode);
            asked.push(async move { (inode, federation.soon(inode, question).await.ok().flatten()) });
        }
        let answers = stream::iter(asked).buffer_unordered(ROOTS_AT_ONCE).collect::<BTreeMap<_, _>>().await;
        for entry in entries.iter_mut().filter(|entry| entry.attr.is_none()) {
            entry.attr = answers.get(&entry.inode).cloned().flatten();
        }
    }

    /// Commits everything, ends the sessions and the background tasks. Names what could not be written, and why.
    pub async fn shutdown(&self, deadline: Duration) -> Vec<String> {
        self.federation.end();
        let sessions = self.federation.open_sessions();
        let ending = sessions.iter().map(|session| session.shutdown(deadline));
        join_all(ending).await.into_iter().flatten().collect()
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        self.federation.end();
    }
}

/// Keeps P9.3, also while clusters are away.
fn require_one_volume(one: InodeId, other: InodeId) -> Result<()> {
    if one.volume() == other.volume() { Ok(()) } else { Err(ClientError::CrossVolume) }
}

fn root_of(volume: VolumeId) -> Option<InodeId> {
    InodeId::new(volume, InodeId::ROOT.number())
}

/// The root directory, as the map remembers it.
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
