//! What a filesystem is, as plainly as it can be said: the reference that random operations are compared with.
//!
//! One tree of named nodes; files are byte vectors, hard links share one. No permissions, no times: those have tests of
//! their own. Every operation returns what dfs must return.

use std::collections::BTreeMap;

use dfs_proto::meta::RenameMode;

/// The errors that random operations can meet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ModelError {
    NotFound,
    Exists,
    NotDirectory,
    IsDirectory,
    NotEmpty,
    Invalid,
}

pub type ModelResult<T> = Result<T, ModelError>;

/// Identifies a node of the model for its whole life.
pub type NodeId = usize;

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Node {
    File(Vec<u8>),
    Directory(BTreeMap<String, NodeId>),
    Symlink(Vec<u8>),
}

#[derive(Clone, Debug)]
pub struct ModelFs {
    nodes: BTreeMap<NodeId, Node>,
    next: NodeId,
}

pub const ROOT: NodeId = 0;

impl Default for ModelFs {
    fn default() -> ModelFs {
        ModelFs { nodes: BTreeMap::from([(ROOT, Node::Directory(BTreeMap::new()))]), next: 1 }
    }
}

impl ModelFs {
    pub fn node(&self, id: NodeId) -> &Node {
        &self.nodes[&id]
    }

    fn entries(&self, directory: NodeId) -> ModelResult<&BTreeMap<String, NodeId>> {
        match self.node(directory) {
            Node::Directory(entries) => Ok(entries),
            Node::File(_) | Node::Symlink(_) => Err(ModelError::NotDirectory),
        }
    }

    fn entries_mut(&mut self, directory: NodeId) -> &mut BTreeMap<String, NodeId> {
        match self.nodes.get_mut(&directory) {
            Some(Node::Directory(entries)) => entries,
            other => panic!("{directory} is {other:?}, not a directory"),
        }
    }

    pub fn lookup(&self, parent: NodeId, name: &str) -> ModelResult<NodeId> {
        self.entries(parent)?.get(name).copied().ok_or(ModelError::NotFound)
    }

    pub fn list(&self, directory: NodeId) -> ModelResult<Vec<String>> {
        Ok(self.entries(directory)?.keys().cloned().collect())
    }

    pub fn create(&mut self, parent: NodeId, name: &str, node: Node) -> ModelResult<NodeId> {
        if self.entries(parent)?.contains_key(name) {
            return Err(ModelError::Exists);
        }
        let id = self.next;
        self.next += 1;
        self.nodes.insert(id, node);
        self.entries_mut(parent).insert(name.to_owned(), id);
        Ok(id)
    }

    pub fn link(&mut self, node: NodeId, parent: NodeId, name: &str) -> ModelResult<()> {
        if self.entries(parent)?.contains_key(name) {
            return Err(ModelError::Exists);
        }
        self.entries_mut(parent).insert(name.to_owned(), node);
        Ok(())
    }

    pub fn unlink(&mut self, parent: NodeId, name: &str) -> ModelResult<()> {
        let node = self.lookup(parent, name)?;
        if matches!(self.node(node), Node::Directory(_)) {
            return Err(ModelError::IsDirectory);
        }
        self.entries_mut(parent).remove(name);
        Ok(())
    }

    pub fn rmdir(&mut self, parent: NodeId, name: &str) -> ModelResult<()> {
        let node = self.lookup(parent, name)?;
        if !self.entries(node)?.is_empty() {
            return Err(ModelError::NotEmpty);
        }
        self.entries_mut(parent).remove(name);
        Ok(())
    }

    pub fn rename(
        &mut self,
        parent: NodeId,
        name: &str,
        new_parent: NodeId,
        new_name: &str,
        mode: RenameMode,
    ) -> ModelResult<()> {
        let node = self.lookup(parent, name)?;
        if mode == RenameMode::Exchange {
            let target = self.lookup(new_parent, new_name)?;
            if parent != new_parent && (self.is_below(new_parent, node) || self.is_below(parent, target)) {
                return Err(ModelError::Invalid);
            }
            self.entries_mut(parent).insert(name.to_owned(), target);
            self.entries_mut(new_parent).insert(new_name.to_owned(), node);
            return Ok(());
        }
        if mode == RenameMode::NoReplace && self.entries(new_parent)?.contains_key(new_name) {
            return Err(ModelError::Exists);
        }
        let moves_directory = matches!(self.node(node), Node::Directory(_));
        if moves_directory && self.is_below(new_parent, node) {
            return Err(ModelError::Invalid);
        }
        if let Some(&target) = self.entries(new_parent)?.get(new_name) {
            if target == node {
                return Ok(());
            }
            match (moves_directory, self.node(target)) {
                (true, Node::Directory(entries)) if !entries.is_empty() => return Err(ModelError::NotEmpty),
                (true, Node::File(_) | Node::Symlink(_)) => return Err(ModelError::NotDirectory),
                (false, Node::Directory(_)) => return Err(ModelError::IsDirectory),
                (true, Node::Directory(_)) | (false, Node::File(_) | Node::Symlink(_)) => {}
            }
        }
        self.entries_mut(parent).remove(name);
        self.entries_mut(new_parent).insert(new_name.to_owned(), node);
        Ok(())
    }

    /// True when `node` is `top` or lies below it.
    fn is_below(&self, node: NodeId, top: NodeId) -> bool {
        node == top
            || match self.node(top) {
                Node::Directory(entries) => entries.values().any(|&child| self.is_below(node, child)),
                Node::File(_) | Node::Symlink(_) => false,
            }
    }

    fn bytes_mut(&mut self, file: NodeId) -> &mut Vec<u8> {
        match self.nodes.get_mut(&file) {
            Some(Node::File(bytes)) => bytes,
            other => panic!("{file} is {other:?}, not a file"),
        }
    }

    pub fn write(&mut self, file: NodeId, offset: usize, data: &[u8]) {
        let bytes = self.bytes_mut(file);
        bytes.resize(bytes.len().max(offset + data.len()), 0);
        bytes[offset..offset + data.len()].copy_from_slice(data);
    }

    pub fn truncate(&mut self, file: NodeId, len: usize) {
        self.bytes_mut(file).resize(len, 0);
    }

    pub fn read(&self, file: NodeId) -> &[u8] {
        match self.node(file) {
            Node::File(bytes) => bytes,
            other => panic!("{file} is {other:?}, not a file"),
        }
    }

    /// How many names the node has.
    pub fn links(&self, node: NodeId) -> usize {
        let names = |directory: &NodeId| match self.node(*directory) {
            Node::Directory(entries) => entries.values().filter(|&&named| named == node).count(),
            Node::File(_) | Node::Symlink(_) => 0,
        };
        self.directories().iter().map(names).sum()
    }

    /// All directories that can be reached, in a fixed order.
    pub fn directories(&self) -> Vec<NodeId> {
        let mut found = vec![ROOT];
        let mut at = 0;
        while at < found.len() {
            if let Node::Directory(entries) = self.node(found[at]) {
                found.extend(entries.values().filter(|&&n| matches!(self.node(n), Node::Directory(_))));
            }
            at += 1;
        }
        found
    }
}
