//! Where the replicated state is kept: an ordered map of bytes, with atomic batches and consistent views.
//!
//! K1  A [`Batch`] is applied whole or not at all, also over a crash.
//! K2  What was written before a [`Kv::flush`] that returned Ok survives a crash. What came later may be lost, but
//!     only from the end: what survives is the state after some batch, never a mixture (P7.3: no log of its own, the
//!     Raft log is the only one).
//! K3  A [`Snapshot`] never changes; a checkpoint is durable and whole before it has its name.
//!
//! Two implementations are in use: the metaserver's over RocksDB, and [`memory`] in the simulation and in tests, which at a
//! crash loses everything that K2 does not promise (P7.4).
//!
//! A read of a disk that fails panics: a state machine that cannot read its state must stop, not guess. The server's
//! panic hook ends the process. Writes and flushes return their errors, because the Raft glue reports those.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;

use dfs_proto::BoxFuture;
use thiserror::Error;

pub mod memory;
mod txn;

pub use txn::Txn;

/// A key and its value.
pub type Pair = (Vec<u8>, Vec<u8>);

/// Why the store could not do what it was asked. None of these goes away by trying again.
#[derive(Debug, Error)]
pub enum KvError {
    #[error("{doing}: {source}")]
    Io { doing: String, source: io::Error },
    #[error("{doing}: {what}")]
    Database { doing: String, what: String },
    #[error("there is no database named {name}")]
    NoSuchDatabase { name: String },
    #[error("a database named {name} exists already")]
    DatabaseExists { name: String },
}

/// A view that does not change while one looks at it. Also what a [`Txn`] is to those who only read.
pub trait Snapshot: Send + Sync {
    fn get(&self, key: &[u8]) -> Option<Vec<u8>>;

    /// Pairs from `from` on, in key order, up to before `end`; an empty `end` means: to the last key.
    fn scan<'a>(&'a self, from: &[u8], end: &[u8]) -> Box<dyn Iterator<Item = Pair> + 'a>;
}

/// One database.
pub trait Kv: Send + Sync + 'static {
    fn snapshot(&self) -> Box<dyn Snapshot + '_>;

    /// K1. Visible to snapshots taken later; durable only after a flush.
    fn write(&self, batch: Batch) -> Result<(), KvError>;

    /// K2. What was written before this call is durable when it ends.
    fn flush(&self) -> BoxFuture<'static, Result<(), KvError>>;

    /// Flushes, then makes a second, independent database of the present state beside this one, under `name`. It costs
    /// little, whatever the size. Writes may go on meanwhile; the checkpoint is the state between two of them.
    fn checkpoint(&self, name: &str) -> BoxFuture<'static, Result<(), KvError>>;
}

/// A place with named databases, one of which is current. A name is one path component.
///
/// To install a state received from elsewhere: [`Self::create`], write, flush, [`Self::make_current`] (P7.3).
pub trait KvHome: Send + Sync + 'static {
    /// Opens an existing database. A database is open at most once at a time: drop all handles before opening again.
    fn open(&self, name: &str) -> Result<Arc<dyn Kv>, KvError>;

    /// Opens an existing database to look at it: no file changes. It may not be written.
    fn open_read_only(&self, name: &str) -> Result<Arc<dyn Kv>, KvError>;

    /// A new, empty database.
    fn create(&self, name: &str) -> Result<Arc<dyn Kv>, KvError>;

    /// The name of the current database; `None` in a home that has none, be it fresh or not whole.
    fn current(&self) -> Result<Option<String>, KvError>;

    /// From when this returns, also over a crash, `name` is the current one; one rename decides.
    fn make_current(&self, name: &str) -> Result<(), KvError>;

    /// Deletes a database, which must not be open. No error if it is not there.
    fn remove(&self, name: &str) -> Result<(), KvError>;

    /// The names of all databases, sorted: leftovers of a crash too, which the caller removes.
    fn list(&self) -> Result<Vec<String>, KvError>;
}

/// Writes that happen together (K1). Of several to one key the last counts.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Batch {
    /// `None` deletes.
    writes: BTreeMap<Vec<u8>, Option<Vec<u8>>>,
}

impl Batch {
    pub fn put(&mut self, key: impl Into<Vec<u8>>, value: impl Into<Vec<u8>>) {
        self.writes.insert(key.into(), Some(value.into()));
    }

    pub fn delete(&mut self, key: impl Into<Vec<u8>>) {
        self.writes.insert(key.into(), None);
    }

    pub fn is_empty(&self) -> bool {
        self.writes.is_empty()
    }

    /// Bytes of keys and values, to bound a batch while a received snapshot is written.
    pub fn len_bytes(&self) -> usize {
        self.writes.iter().map(|(key, value)| key.len() + value.as_ref().map_or(0, Vec::len)).sum()
    }

    /// The writes in key order; `None` deletes.
    pub fn iter(&self) -> impl Iterator<Item = (&[u8], Option<&[u8]>)> {
        self.writes.iter().map(|(key, value)| (key.as_slice(), value.as_deref()))
    }
}

/// The first key behind all keys that begin with `prefix`; empty (no bound) if there is none.
pub fn prefix_end(prefix: &[u8]) -> Vec<u8> {
    let mut end = prefix.to_vec();
    while let Some(last) = end.pop() {
        if last < u8::MAX {
            end.push(last + 1);
            return end;
        }
    }
    Vec::new()
}

/// All pairs whose key begins with `prefix`.
pub fn scan_prefix<'a>(view: &'a dyn Snapshot, prefix: &[u8]) -> Box<dyn Iterator<Item = Pair> + 'a> {
    view.scan(prefix, &prefix_end(prefix))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_of_a_prefix_is_behind_everything_that_begins_with_it() {
        assert_eq!(prefix_end(b"ab"), b"ac");
        assert_eq!(prefix_end(&[1, 0xff]), [2]);
        assert_eq!(prefix_end(&[0xff, 0xff]), Vec::<u8>::new());
    }
}
