//! Directory entries: (directory, cookie, name) → inode. The cookie is a keyed hash of the name, or, when another name
//! of the directory has that one, the next free of the few behind it. So a listing is in cookie order, stable while
//! others come and go, and needs no second index (P7.6).

use dfs_proto::attr::{FileKind, Name};
use dfs_proto::error::MetaError;
use dfs_proto::ids::InodeId;
use dfs_proto::meta::MetaResult;
use serde::{Deserialize, Serialize};

use super::cluster;
use super::codec::{decode, encode};
use super::hash::siphash;
use super::keys;
use crate::kv::{Snapshot, Txn, prefix_end};

/// Cookies below are left to callers, for `.` and `..` and the start.
const COOKIE_MIN: u64 = 16;
/// Names of one directory that may have one hash. With a keyed 63-bit hash nobody will see a second one.
const COLLISIONS_MAX: u64 = 8;
const COOKIE_MAX: u64 = (1 << 63) - 1 - COLLISIONS_MAX;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct DirentRecord {
    pub inode: InodeId,
    pub kind: FileKind,
}

/// An entry as it stands in its directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Dirent {
    pub cookie: u64,
    pub name: Name,
    pub record: DirentRecord,
}

fn hash(view: &dyn Snapshot, name: &Name) -> u64 {
    (siphash(cluster::hash_key(view), name.as_bytes()) >> 1).clamp(COOKIE_MIN, COOKIE_MAX)
}

pub(super) fn find(view: &dyn Snapshot, directory: InodeId, name: &Name) -> Option<Dirent> {
    find_at(view, directory, hash(view, name), name)
}

fn find_at(view: &dyn Snapshot, directory: InodeId, hash: u64, name: &Name) -> Option<Dirent> {
    // Nearly every name stands at its own hash: one point read, no scan.
    if let Some(value) = view.get(&keys::dirent(directory, hash, name)) {
        return Some(Dirent {
            cookie: hash,
            name: name.clone(),
            record: decode(&value, "a directory entry"),
        });
    }
    collisions(view, directory, hash).find(|entry| entry.name == *name)
}

/// The entries that stand where a name with this hash may.
fn collisions(view: &dyn Snapshot, directory: InodeId, hash: u64) -> impl Iterator<Item = Dirent> {
    let (from, end) =
        (keys::dirents_from(directory, hash), keys::dirents_from(directory, hash + COLLISIONS_MAX));
    view.scan(&from, &end).map(|(key, value)| read(&key, &value))
}

fn read(key: &[u8], value: &[u8]) -> Dirent {
    let Ok(name) = Name::new(keys::dirent_name(key)) else {
        panic!("the state store is corrupt: directory entry {} has no name", key.escape_ascii());
    };
    Dirent { cookie: keys::number(key, 1), name, record: decode(value, "a directory entry") }
}

/// The entries with a cookie above `after`, in cookie order.
pub(super) fn list_after(
    view: &dyn Snapshot,
    directory: InodeId,
    after: u64,
) -> impl Iterator<Item = Dirent> + '_ {
    let from = keys::dirents_from(directory, after.saturating_add(1));
    let end = prefix_end(&keys::dirents_of(directory));
    view.scan(&from, &end).map(|(key, value)| read(&key, &value))
}

/// Adds a name that is not there.
pub(super) fn insert(
    txn: &mut Txn<'_>,
    directory: InodeId,
    name: &Name,
    record: DirentRecord,
) -> MetaResult<()> {
    let hash = hash(txn, name);
    insert_at(txn, directory, hash, name, record)
}

fn insert_at(
    txn: &mut Txn<'_>,
    directory: InodeId,
    hash: u64,
    name: &Name,
    record: DirentRecord,
) -> MetaResult<()> {
    let mut cookie = hash;
    for taken in collisions(txn, directory, hash) {
        if taken.cookie > cookie {
            break;
        }
        cookie += 1;
    }
    if cookie == hash + COLLISIONS_MAX {
        return Err(MetaError::NoSpace { what: "too many names with one hash in a directory".to_owned() });
    }
    txn.put(keys::dirent(directory, cookie, name), encode(&record));
    Ok(())
}

pub(super) fn remove(txn: &mut Txn<'_>, directory: InodeId, entry: &Dirent) {
    txn.delete(keys::dirent(directory, entry.cookie, &entry.name));
}

/// The name stays, with its cookie, and leads elsewhere.
pub(super) fn replace(txn: &mut Txn<'_>, directory: InodeId, entry: &Dirent, record: DirentRecord) {
    txn.put(keys::dirent(directory, entry.cookie, &entry.name), encode(&record));
}

/// Of a key and value of the table, for `check`.
pub(super) fn parse(key: &[u8], value: &[u8]) -> (InodeId, Dirent) {
    (InodeId(keys::number(key, 0)), read(key, value))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kv::Kv as _;
    use crate::kv::memory::MemoryKv;

    fn name(text: &str) -> Name {
        Name::new(text).expect("valid")
    }

    fn record(number: u64) -> DirentRecord {
        DirentRecord { inode: InodeId(number), kind: FileKind::File }
    }

    #[test]
    fn names_with_one_hash_have_cookies_of_their_own_and_are_found_after_others_left() {
        let kv = MemoryKv::default();
        let base = kv.snapshot();
        let mut txn = Txn::new(&*base);
        let directory = InodeId::ROOT;
        for (index, text) in ["a", "b", "c"].into_iter().enumerate() {
            insert_at(&mut txn, directory, 100, &name(text), record(index as u64)).expect("room");
        }
        insert_at(&mut txn, directory, 101, &name("next"), record(9)).expect("room");
        let first = find_at(&txn, directory, 100, &name("a")).expect("there");
        remove(&mut txn, directory, &first);
        let found = |text| find_at(&txn, directory, 100, &name(text)).map(|e| (e.cookie, e.record.inode.0));
        assert_eq!(found("a"), None);
        assert_eq!((found("b"), found("c")), (Some((101, 1)), Some((102, 2))));
        assert_eq!(find_at(&txn, directory, 101, &name("next")).map(|e| e.cookie), Some(103));
        let cookies: Vec<u64> = list_after(&txn, directory, 101).map(|e| e.cookie).collect();
        assert_eq!(cookies, [102, 103]);
        insert_at(&mut txn, directory, 100, &name("d"), record(3)).expect("room");
        assert_eq!(find_at(&txn, directory, 100, &name("d")).map(|e| e.cookie), Some(100));
    }

    #[test]
    fn more_collisions_than_there_is_room_for_are_refused() {
        let kv = MemoryKv::default();
        let base = kv.snapshot();
        let mut txn = Txn::new(&*base);
        for index in 0..COLLISIONS_MAX {
            insert_at(&mut txn, InodeId::ROOT, 100, &name(&format!("n{index}")), record(1)).expect("room");
        }
        let refused = insert_at(&mut txn, InodeId::ROOT, 100, &name("late"), record(1));
        assert!(matches!(refused, Err(MetaError::NoSpace { .. })));
    }
}
