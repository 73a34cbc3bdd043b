//! What is stored, and nothing else: the types here are the layouts on the disks, of the tables and of the commands in the
//! Raft log. Each value begins with the version byte of its table; the rest is postcard of the type of that version.
//!
//! The types that the programs work with (`value`, `command` and `dfs_proto`) are converted from and to them, so that
//! a name, the order of fields or variants, or a field more in one of those changes nothing on a disk: it does not
//! compile until somebody says here what the stored form is to be.
//!
//! F1  A type here is never changed, nor is a golden file of it (`tests/formats`). Another layout is another type, a new
//!     version of its table, and a reader of the old one.
//! F2  What is read is of a version that is known, or is refused with the name of the table, the version found and those
//!     read. Nothing is guessed.
//! F3  A record is written in the newest version of its table, whichever it was read in.
//!
//! An index entry, whose key says everything, has the value [`PRESENT`], which nobody reads.

pub(crate) mod chunk;
pub(crate) mod cluster;
pub(crate) mod dirent;
pub(crate) mod extent;
pub(crate) mod federation;
pub mod federation_log;
pub(crate) mod inode;
pub mod log;
pub(crate) mod orphan;
pub(crate) mod result;
pub(crate) mod server;
pub(crate) mod session;
pub(crate) mod space;
mod stored;
mod value;
pub(crate) mod volume;

#[cfg(test)]
mod golden_tests;

use serde::Serialize;
use serde::de::DeserializeOwned;
use stored::{Broken, Stored};

/// Of an index entry.
pub(crate) const PRESENT: [u8; 1] = [1];

/// How the values of one table are stored.
pub(crate) trait Table {
    /// For people, as "the inodes".
    const NAME: &'static str;
    /// Of what is written (F3).
    const VERSION: u8;
    /// The versions before it that are read.
    const OLD: &'static [Old<Self::Value>] = &[];
    type Value: 'static;
    type Record: Stored<Self::Value> + Serialize + DeserializeOwned;
}

/// A version that is read and not written any more.
pub(crate) struct Old<Value> {
    pub(crate) version: u8,
    pub(crate) read: fn(&[u8]) -> Result<Value, Broken>,
}

pub(crate) fn encode<T: Table>(value: &T::Value) -> Vec<u8> {
    match postcard::to_extend(&T::Record::store(value), vec![T::VERSION]) {
        Ok(bytes) => bytes,
        // Our records are plain data: postcard refuses only sequences of unknown length.
        Err(error) => panic!("a record cannot be encoded: {error}"),
    }
}

/// # Panics
/// On bytes that no version of dfs known here made (F2): a server must not go on from a guess.
pub(crate) fn decode<T: Table>(bytes: &[u8]) -> T::Value {
    let name = T::NAME;
    let Some((&version, record)) = bytes.split_first() else {
        panic!("the state store is corrupt: an empty record in the table of {name}");
    };
    let read = match T::OLD.iter().find(|old| old.version == version) {
        Some(old) => (old.read)(record),
        None if version == T::VERSION => read_as::<T::Record, T::Value>(record),
        None => panic!(
            "the table of {name} has a record of version {version}; this version of dfs reads {}",
            versions_read::<T>()
        ),
    };
    match read {
        Ok(value) => value,
        Err(broken) => panic!("the state store is corrupt: the table of {name}: {broken}"),
    }
}

fn versions_read<T: Table>() -> String {
    let old = T::OLD.iter().map(|old| old.version);
    let versions: Vec<String> = old.chain([T::VERSION]).map(|version| version.to_string()).collect();
    versions.join(" and ")
}

/// Reads the layout `Record`, without its version.
pub(crate) fn read_as<Record, Value>(record: &[u8]) -> Result<Value, Broken>
where
    Record: Stored<Value> + DeserializeOwned,
{
    match postcard::take_from_bytes::<Record>(record).map_err(|error| Broken(error.to_string()))? {
        (record, []) => record.live(),
        (_, rest) => Err(Broken(format!("{} bytes are left over", rest.len()))),
    }
}
