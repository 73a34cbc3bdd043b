//! A walker does random operations through the client library, in a directory of its own, and compares every answer
//! with the model's. Faults may make it wait; they may not make it see an error or another answer. What it has closed
//! or synced, it looks at through another client too.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::sync::Arc;
use std::time::Duration;

use dfs_client::ClientError;
use dfs_client::inode::{
    Client, CreateOpen, File, GetAttr, Link, Lookup, Open, OpenMode, ReadDir, ReadLink, Rmdir, Unlink,
};
use dfs_net::env::Rng;
use dfs_proto::attr::{Caller, Name};
use dfs_proto::ids::InodeId;
use dfs_proto::meta::{Create, NewInode, Rename, RenameMode, SetAttr};
use dfs_proto::units::{ByteLen, Offset};
use futures::future::join_all;
use tokio::time::Instant;

use crate::model::{ModelError, ModelFs, Node, NodeId, ROOT};

/// Names a walker uses: few, so that operations meet each other.
const NAMES: u64 = 8;
/// Directories beyond this many are not made.
const DIRECTORIES_MAX: usize = 12;
const FILES_OPEN_MAX: usize = 4;
/// An operation that takes longer is logged.
const STALL_NOTED: Duration = Duration::from_secs(5);
const FILE_LEN_MAX: u64 = 256 * 1024;

/// What a walker saw.
#[derive(Clone, Copy, Debug, Default)]
pub struct Walked {
    /// Those that asked dfs for something and got an answer.
    pub operations: u64,
    pub bytes_written: u64,
    pub longest_stall: Duration,
}

pub struct Walker {
    client: Arc<Client>,
    /// Another mount: sees what was closed or synced.
    peer: Arc<Client>,
    rng: Rng,
    model: ModelFs,
    inodes: BTreeMap<NodeId, InodeId>,
    open: Vec<(NodeId, Arc<File>)>,
    pub walked: Walked,
    /// For messages: which walker.
    name: String,
}

fn caller() -> Caller {
    Caller { uid: 0, gid: 0, groups: Some(Vec::new()) }
}

fn name_of(text: &str) -> Name {
    Name::new(text).unwrap_or_else(|bad| panic!("{text}: {bad:?}"))
}

fn model_error(error: &ClientError) -> Option<ModelError> {
    Some(match error {
        ClientError::NotFound => ModelError::NotFound,
        ClientError::Exists => ModelError::Exists,
        ClientError::NotDirectory => ModelError::NotDirectory,
        ClientError::IsDirectory => ModelError::IsDirectory,
        ClientError::NotEmpty => ModelError::NotEmpty,
        ClientError::InvalidArgument { .. } => ModelError::Invalid,
        _ => return None,
    })
}

impl Walker {
    /// Walks in `directory`, which is empty.
    pub fn start(client: Arc<Client>, peer: Arc<Client>, rng: Rng, name: &str, directory: InodeId) -> Walker {
        Walker {
            client,
            peer,
            rng,
            model: ModelFs::default(),
            inodes: BTreeMap::from([(ROOT, directory)]),
            open: Vec::new(),
            walked: Walked::default(),
            name: name.to_owned(),
        }
    }

    fn directory(&self) -> NodeId {
        let all = self.model.directories();
        all[self.rng.below(all.len() as u64) as usize]
    }

    fn name(&self) -> String {
        format!("n{}", self.rng.below(NAMES))
    }

    fn inode(&self, node: NodeId) -> InodeId {
        self.inodes[&node]
    }

    /// Both answers must be the same; anything that the model cannot say is a failure of the promise.
    fn same<T, U: Debug>(&self, what: &str, real: &Result<T, ClientError>, model: &Result<U, ModelError>) {
        match (real, model) {
            (Ok(_), Ok(_)) => {}
            (Err(error), Err(expected)) if model_error(error) == Some(*expected) => {}
            (Ok(_), Err(expected)) => panic!("{}: {what}: it succeeded, expected {expected:?}", self.name),
            (Err(error), _) => panic!("{}: {what}: {error}, expected {model:?}", self.name),
        }
    }

    /// One random operation; answers which.
    pub async fn step(&mut self) -> u64 {
        loop {
            let started = Instant::now();
            let kind = self.rng.below(27);
            let done = match kind {
                0..=2 => self.create_file(false).await,
                3 => self.create_file(true).await,
                4 => self.make_directory().await,
                5..=6 => self.unlink().await,
                7 => self.rmdir().await,
                8..=9 => self.rename().await,
                10 => self.link().await,
                11 => self.symlink().await,
                12..=13 => self.open_existing().await,
                14..=17 => self.write().await,
                18..=19 => self.append().await,
                20 => self.read().await,
                21 => self.truncate().await,
                22 => self.sync().await,
                23 => self.sync_all().await,
                24 => self.close().await,
                25 => self.stat().await,
                _ => self.list().await,
            };
            if done {
                self.walked.operations += 1;
                let took = started.elapsed();
                self.walked.longest_stall = self.walked.longest_stall.max(took);
                if took > STALL_NOTED {
                    tracing::info!("{}: an operation of kind {kind} took {took:?}", self.name);
                }
                return kind;
            }
        }
    }

    /// `or_existing`: O_CREAT without O_EXCL.
    async fn create_file(&mut self, or_existing: bool) -> bool {
        let (parent, name) = (self.directory(), self.name());
        let create = Create {
            parent: self.inode(parent),
            name: name_of(&name),
            mode: 0o644,
            what: NewInode::File,
            or_existing,
            opens: false,
        };
        let mode = OpenMode { read: true, write: true, ..OpenMode::default() };
        let real = self.client.perform(&caller(), CreateOpen { create, mode }).await;
        let existing = self.model.lookup(parent, &name);
        let model = match existing {
            Ok(node) if or_existing && matches!(self.model.node(node), Node::File(_)) => Ok(node),
            Ok(_) | Err(_) => self.model.create(parent, &name, Node::File(Vec::new())),
        };
        self.same(&format!("create {name}"), &real, &model);
        if let (Ok((file, attr)), Ok(node)) = (real, model) {
            let before = self.inodes.insert(node, attr.inode);
            assert!(before.is_none_or(|inode| inode == attr.inode), "{}: create {name}: another", self.name);
            self.keep_open(node, file).await;
        }
        true
    }

    async fn symlink(&mut self) -> bool {
        let (parent, name) = (self.directory(), self.name());
        let target = format!("../{}", self.rng.u64()).into_bytes();
        let create = Create {
            parent: self.inode(parent),
            name: name_of(&name),
            mode: 0o777,
            what: NewInode::Symlink { target: target.clone() },
            or_existing: false,
            opens: false,
        };
        let real = self.client.perform(&caller(), create).await;
        let model = self.model.create(parent, &name, Node::Symlink(target.clone()));
        self.same(&format!("symlink {name}"), &real, &model);
        if let (Ok(made), Ok(node)) = (real, model) {
            self.inodes.insert(node, made.attr.inode);
            let read = self.client.perform(&caller(), ReadLink { inode: made.attr.inode }).await;
            assert_eq!(read, Ok(target), "{}: readlink {name}", self.name);
        }
        true
    }

    /// Size and number of links, of something that has a name or of something open.
    async fn stat(&mut self) -> bool {
        let (parent, name) = (self.directory(), self.name());
        let Some(node) = self.model.lookup(parent, &name).ok().or(self.some_open().map(|(node, _)| node))
        else {
            return false;
        };
        let attr = match self.client.perform(&caller(), GetAttr { inode: self.inode(node) }).await {
            Ok(attr) => attr,
            Err(error) => panic!("{}: stat {}: {error}", self.name, self.inode(node)),
        };
        let (links, size) = match self.model.node(node) {
            Node::File(bytes) => (self.model.links(node), bytes.len()),
            Node::Symlink(target) => (self.model.links(node), target.len()),
            Node::Directory(entries) => {
                let is_directory = |&&child: &&NodeId| matches!(self.model.node(child), Node::Directory(_));
                (2 + entries.values().filter(is_directory).count(), entries.len())
            }
        };
        let seen = (attr.nlink as usize, attr.size.0 as usize);
        assert_eq!(seen, (links, size), "{}: links and size of {}", self.name, self.inode(node));
        true
    }

    async fn keep_open(&mut self, node: NodeId, file: Arc<File>) {
        if self.open.len() == FILES_OPEN_MAX {
            self.close().await;
        }
        self.open.push((node, file));
    }

    async fn make_directory(&mut self) -> bool {
        if self.model.directories().len() >= DIRECTORIES_MAX {
            return false;
        }
        let (parent, name) = (self.directory(), self.name());
        let create = Create {
            parent: self.inode(parent),
            name: name_of(&name),
            mode: 0o755,
            what: NewInode::Directory,
            or_existing: false,
            opens: false,
        };
        let real = self.client.perform(&caller(), create).await;
        let model = self.model.create(parent, &name, Node::Directory(BTreeMap::new()));
        self.same(&format!("mkdir {name}"), &real, &model);
        if let (Ok(made), Ok(node)) = (real, model) {
            self.inodes.insert(node, made.attr.inode);
        }
        true
    }

    async fn unlink(&mut self) -> bool {
        let (parent, name) = (self.directory(), self.name());
        let unlink = Unlink { parent: self.inode(parent), name: name_of(&name) };
        let real = self.client.perform(&caller(), unlink).await;
        let model = self.model.unlink(parent, &name);
        self.same(&format!("unlink {name}"), &real, &model);
        true
    }

    async fn rmdir(&mut self) -> bool {
        let (parent, name) = (self.directory(), self.name());
        let rmdir = Rmdir { parent: self.inode(parent), name: name_of(&name) };
        let real = self.client.perform(&caller(), rmdir).await.map(drop);
        let model = self.model.rmdir(parent, &name);
        self.same(&format!("rmdir {name}"), &real, &model);
        true
    }

    async fn rename(&mut self) -> bool {
        let (parent, name) = (self.directory(), self.name());
        let (new_parent, new_name) = (self.directory(), self.name());
        let mode = match self.rng.below(4) {
            0 => RenameMode::NoReplace,
            1 => RenameMode::Exchange,
            _ => RenameMode::Replace,
        };
        let rename = Rename {
            parent: self.inode(parent),
            name: name_of(&name),
            new_parent: self.inode(new_parent),
            new_name: name_of(&new_name),
            mode,
        };
        let moved: Vec<_> = match mode {
            RenameMode::Exchange => vec![(parent, &name), (new_parent, &new_name)],
            RenameMode::Replace | RenameMode::NoReplace => vec![(parent, &name)],
        };
        let moved: Vec<_> = moved.iter().flat_map(|(at, name)| self.model.lookup(*at, name)).collect();
        let real = self.client.perform(&caller(), rename).await.map(drop);
        let model = self.model.rename(parent, &name, new_parent, &new_name, mode);
        self.same(&format!("rename {name} to {new_name}, {mode:?}"), &real, &model);
        if model.is_ok() {
            for node in moved {
                if matches!(self.model.node(node), Node::File(_)) {
                    self.show_peer(node).await; // what was written to it is committed (P2.5)
                }
            }
        }
        true
    }

    async fn link(&mut self) -> bool {
        let (from, name) = (self.directory(), self.name());
        let (parent, new_name) = (self.directory(), self.name());
        let Ok(node) = self.model.lookup(from, &name) else { return false };
        if matches!(self.model.node(node), Node::Directory(_)) {
            return false;
        }
        let link = Link { inode: self.inode(node), parent: self.inode(parent), name: name_of(&new_name) };
        let real = self.client.perform(&caller(), link).await;
        let model = self.model.link(node, parent, &new_name);
        self.same(&format!("link {name} to {new_name}"), &real, &model);
        true
    }

    async fn open_existing(&mut self) -> bool {
        let (parent, name) = (self.directory(), self.name());
        let lookup = Lookup { parent: self.inode(parent), name: name.clone().into_bytes() };
        let real = self.client.perform(&caller(), lookup).await;
        let model = self.model.lookup(parent, &name);
        self.same(&format!("lookup {name}"), &real, &model);
        let Ok(node) = model else { return true };
        if !matches!(self.model.node(node), Node::File(_)) {
            return true;
        }
        let truncate = self.rng.below(8) == 0;
        let mode = OpenMode { read: true, write: true, truncate };
        match self.client.perform(&caller(), Open { inode: self.inode(node), mode }).await {
            Ok(file) => {
                if truncate {
                    self.model.truncate(node, 0);
                }
                self.keep_open(node, file).await;
            }
            Err(error) => panic!("{}: open {name}: {error}", self.name),
        }
        true
    }

    fn some_open(&self) -> Option<(NodeId, Arc<File>)> {
        let index = self.rng.below(self.open.len() as u64) as usize;
        self.open.get(index).cloned()
    }

    fn some_data(&self) -> Vec<u8> {
        let is_long = self.rng.below(8) == 0;
        let len = if is_long { self.rng.below(FILE_LEN_MAX / 2) } else { self.rng.below(9000) } + 1;
        let fill = self.rng.u64().to_le_bytes();
        fill.iter().copied().cycle().take(len as usize).collect()
    }

    async fn append(&mut self) -> bool {
        let Some((node, file)) = self.some_open() else { return false };
        let (end, data) = (self.model.read(node).len(), self.some_data());
        if end + data.len() > FILE_LEN_MAX as usize {
            return false;
        }
        match file.append(&caller(), &data).await {
            Ok(at) => assert_eq!(at, Offset(end as u64), "{}: append", self.name),
            Err(error) => panic!("{}: append to {}: {error}", self.name, self.inode(node)),
        }
        self.model.write(node, end, &data);
        self.walked.bytes_written += data.len() as u64;
        true
    }

    async fn write(&mut self) -> bool {
        let Some((node, file)) = self.some_open() else { return false };
        let (offset, data) = (self.rng.below(FILE_LEN_MAX / 2), self.some_data());
        let len = data.len() as u64;
        if let Err(error) = file.write_at(&caller(), Offset(offset), &data).await {
            panic!("{}: write {len} at {offset} of {}: {error}", self.name, self.inode(node));
        }
        self.model.write(node, offset as usize, &data);
        self.walked.bytes_written += len;
        true
    }

    async fn read(&mut self) -> bool {
        let Some((node, file)) = self.some_open() else { return false };
        let offset = self.rng.below(FILE_LEN_MAX / 2);
        let len = self.rng.below(100_000) + 1;
        self.compare(node, &file, offset, len).await;
        true
    }

    async fn compare(&self, node: NodeId, file: &File, offset: u64, len: u64) {
        let bytes = match file.read_at(Offset(offset), len).await {
            Ok(bytes) => bytes,
            Err(error) => panic!("{}: read {len} at {offset} of {}: {error}", self.name, self.inode(node)),
        };
        let all = self.model.read(node);
        let from = all.len().min(offset as usize);
        let expected = &all[from..all.len().min((offset + len) as usize)];
        if bytes != expected {
            let at = bytes.iter().zip(expected).position(|(a, b)| a != b);
            panic!(
                "{}: {} at {offset}: read {} bytes, expected {}, first difference at {at:?}",
                self.name,
                self.inode(node),
                bytes.len(),
                expected.len()
            );
        }
    }

    async fn truncate(&mut self) -> bool {
        let Some((node, _file)) = self.some_open() else { return false };
        let len = self.rng.below(FILE_LEN_MAX / 2);
        let set = SetAttr {
            inode: self.inode(node),
            size: Some(ByteLen(len)),
            by_handle: true,
            ..SetAttr::default()
        };
        if let Err(error) = self.client.perform(&caller(), set).await {
            panic!("{}: truncate to {len}: {error}", self.name);
        }
        self.model.truncate(node, len as usize);
        true
    }

    async fn sync(&mut self) -> bool {
        let Some((node, file)) = self.some_open() else { return false };
        if let Err(error) = file.sync().await {
            panic!("{}: fsync: {error}", self.name);
        }
        self.show_peer(node).await;
        true
    }

    /// All open files at the same time, so that their commits meet.
    async fn sync_all(&mut self) -> bool {
        for synced in join_all(self.open.iter().map(|(_, file)| file.sync())).await {
            if let Err(error) = synced {
                panic!("{}: fsync of all: {error}", self.name);
            }
        }
        !self.open.is_empty()
    }

    async fn close(&mut self) -> bool {
        if self.open.is_empty() {
            return false;
        }
        let index = self.rng.below(self.open.len() as u64) as usize;
        let (node, file) = self.open.swap_remove(index);
        if let Err(error) = file.flush().await {
            panic!("{}: close: {error}", self.name);
        }
        drop(file.release().await); // nothing was written since the flush
        self.show_peer(node).await;
        true
    }

    /// What was closed or synced is seen by what another client opens later.
    async fn show_peer(&self, node: NodeId) {
        if self.model.links(node) > 0 {
            self.compare_file_as(&self.peer, node).await;
        }
    }

    async fn list(&mut self) -> bool {
        let directory = self.directory();
        let names = list_all(&self.client, self.inode(directory)).await;
        assert_eq!(names, self.model.list(directory).unwrap_or_default(), "{}: list", self.name);
        true
    }

    /// Closes everything, so that another client may look.
    pub async fn finish(&mut self) {
        while !self.open.is_empty() {
            self.close().await;
        }
    }

    /// Compares the whole tree as `reader`, another client, sees it.
    pub async fn compare_as(&self, reader: &Arc<Client>) {
        let mut left = vec![ROOT];
        while let Some(directory) = left.pop() {
            let names = list_all(reader, self.inode(directory)).await;
            assert_eq!(
                names,
                self.model.list(directory).unwrap_or_default(),
                "{}: list at the end",
                self.name
            );
            for name in names {
                let node = self.model.lookup(directory, &name).unwrap_or(ROOT);
                match self.model.node(node) {
                    Node::Directory(_) => left.push(node),
                    Node::File(_) => self.compare_file_as(reader, node).await,
                    Node::Symlink(target) => {
                        let read = reader.perform(&caller(), ReadLink { inode: self.inode(node) }).await;
                        assert_eq!(read.as_ref(), Ok(target), "{}: symlink at the end", self.name);
                    }
                }
            }
        }
    }

    async fn compare_file_as(&self, reader: &Arc<Client>, node: NodeId) {
        let mode = OpenMode { read: true, ..OpenMode::default() };
        let file = match reader.perform(&caller(), Open { inode: self.inode(node), mode }).await {
            Ok(file) => file,
            Err(error) => panic!("{}: open {} as another client: {error}", self.name, self.inode(node)),
        };
        assert_eq!(file.attr().size.0, self.model.read(node).len() as u64, "{}: size", self.name);
        self.compare(node, &file, 0, FILE_LEN_MAX * 2).await;
        drop(file.release().await); // nothing was written
    }
}

async fn list_all(client: &Arc<Client>, directory: InodeId) -> Vec<String> {
    let (mut names, mut cookie) = (Vec::new(), 0);
    loop {
        let read = ReadDir { inode: directory, cookie, limit: 100, plus: false };
        let page = client.perform(&caller(), read).await;
        let page = page.unwrap_or_else(|error| panic!("list {directory}: {error}"));
        names.extend(page.entries.iter().map(|e| e.name.to_string()));
        let last = page.entries.last().map(|e| e.cookie);
        match last {
            Some(last) if !page.end => cookie = last,
            Some(_) | None => break,
        }
    }
    names.sort();
    names
}
