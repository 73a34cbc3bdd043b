//! The operations on paths.

use std::future::Future;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use dfs_proto::attr::{Caller, InodeAttr};
use dfs_proto::meta::{Create, NewInode, Rename, RenameMode};
use dfs_proto::units::{APPEND_LEN_MAX, MIB, Offset};

use crate::error::{ClientError, Result};
use crate::inode::{
    Client, CreateOpen, DirPage, File, GetAttr, Lookup, Open, OpenMode, ReadDir, Rmdir, Unlink,
};
use crate::path::walk::{self, Entry};

/// Read at a time when a whole file is read.
const READ_LEN: u64 = 4 * MIB;

/// The files of a federation by their paths.
pub struct Paths {
    client: Arc<Client>,
}

impl Paths {
    pub fn new(client: Arc<Client>) -> Paths {
        Paths { client }
    }

    /// The attributes of a file or directory.
    pub async fn stat(&self, caller: &Caller, path: &[u8]) -> Result<InodeAttr> {
        if walk::components(path)?.is_empty() {
            let inode = walk::inode(&self.client, caller, path).await?;
            return self.client.perform(caller, GetAttr { inode }).await;
        }
        let Entry { parent, name } = walk::entry(&self.client, caller, path).await?;
        self.client.perform(caller, Lookup { parent, name: name.as_bytes().to_vec() }).await
    }

    /// Opens a file. After writing, [`File::sync`] makes the bytes durable; at the end, [`File::release`] closes the
    /// file.
    pub async fn open(&self, caller: &Caller, path: &[u8], mode: OpenMode) -> Result<Arc<File>> {
        let inode = walk::inode(&self.client, caller, path).await?;
        self.client.perform(caller, Open { inode, mode }).await
    }

    /// The whole content of a file. It is in memory at once: a large file is better read with [`Paths::read_range`].
    pub async fn read(&self, caller: &Caller, path: &[u8]) -> Result<Bytes> {
        let file = self.open_to_read(caller, path).await?;
        let mut content = BytesMut::new();
        loop {
            let part = file.read_at(Offset(content.len() as u64), READ_LEN).await?;
            if part.is_empty() {
                break;
            }
            content.extend_from_slice(&part);
        }
        file.release().await?;
        Ok(content.freeze())
    }

    /// The bytes from `offset` on; fewer than `len` only at the end of the file.
    pub async fn read_range(&self, caller: &Caller, path: &[u8], offset: Offset, len: u64) -> Result<Bytes> {
        let file = self.open_to_read(caller, path).await?;
        let bytes = file.read_at(offset, len).await?;
        file.release().await?;
        Ok(bytes)
    }

    async fn open_to_read(&self, caller: &Caller, path: &[u8]) -> Result<Arc<File>> {
        self.open(caller, path, OpenMode { read: true, ..OpenMode::default() }).await
    }

    /// Makes `data` the content of a file. The file is made with `mode`, its permission bits, if it is not there.
    pub async fn write(&self, caller: &Caller, path: &[u8], mode: u32, data: Bytes) -> Result<()> {
        let Entry { parent, name } = walk::entry(&self.client, caller, path).await?;
        let create = Create { parent, name, mode, what: NewInode::File, or_existing: true, opens: false };
        let (client, caller) = (self.client.clone(), caller.clone());
        finish(async move {
            let mode = OpenMode { write: true, truncate: true, ..OpenMode::default() };
            let (file, _) = client.perform(&caller, CreateOpen { create, mode }).await?;
            let filled = fill(&file, &caller, &data).await; // keeps PA2
            // Also after an error: nothing of this write may be committed after it has returned, over a later one.
            let released = file.release().await;
            filled.and(released)
        })
        .await
    }

    /// At most `limit` entries of a directory behind `cookie` (0: from the start), in an order that stays. An entry has no
    /// attributes if the caller may list the directory and not search it.
    pub async fn list(&self, caller: &Caller, path: &[u8], cookie: u64, limit: u32) -> Result<DirPage> {
        let inode = walk::inode(&self.client, caller, path).await?;
        self.client.perform(caller, ReadDir { inode, cookie, limit, plus: true }).await
    }

    /// Makes a directory with `mode`, its permission bits.
    pub async fn make_directory(&self, caller: &Caller, path: &[u8], mode: u32) -> Result<InodeAttr> {
        let Entry { parent, name } = walk::entry(&self.client, caller, path).await?;
        let create =
            Create { parent, name, mode, what: NewInode::Directory, or_existing: false, opens: false };
        Ok(self.client.perform(caller, create).await?.attr)
    }

    /// Removes a file, or an empty directory.
    pub async fn remove(&self, caller: &Caller, path: &[u8]) -> Result<()> {
        let Entry { parent, name } = walk::entry(&self.client, caller, path).await?;
        let (client, caller) = (self.client.clone(), caller.clone());
        finish(async move {
            let unlinked = client.perform(&caller, Unlink { parent, name: name.clone() }).await;
            match unlinked {
                Err(ClientError::IsDirectory) => {
                    client.perform(&caller, Rmdir { parent, name }).await.map(drop)
                }
                removed => removed,
            }
        })
        .await
    }

    /// Gives a file or directory another name, in place of what has that name.
    pub async fn rename(&self, caller: &Caller, path: &[u8], new_path: &[u8]) -> Result<()> {
        let source = walk::entry(&self.client, caller, path).await?;
        let target = walk::entry(&self.client, caller, new_path).await?;
        let rename = Rename {
            parent: source.parent,
            name: source.name,
            new_parent: target.parent,
            new_name: target.name,
            mode: RenameMode::Replace,
        };
        let (client, caller) = (self.client.clone(), caller.clone());
        finish(async move { client.perform(&caller, rename).await.map(drop) }).await
    }
}

async fn fill(file: &File, caller: &Caller, data: &[u8]) -> Result<()> {
    let mut at = 0;
    for part in data.chunks(APPEND_LEN_MAX as usize) {
        file.write_at(caller, Offset(at), part).await?;
        at += part.len() as u64;
    }
    file.sync().await
}

/// Goes on when its caller gives up (PA4): what was sent has its effect anyway, and what is left of it (the release of a file, or
/// of an inode that has lost its last name) has to follow.
async fn finish<T: Send + 'static>(work: impl Future<Output = Result<T>> + Send + 'static) -> Result<T> {
    let ended = |error| ClientError::Internal { what: format!("the operation ended: {error}") };
    tokio::spawn(work).await.map_err(ended)?
}
