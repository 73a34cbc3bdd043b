//! Directory entries: (directory, cookie) → name and inode. The cookie is a keyed hash of the name, or, when another name
//! of the directory has that one, the next free of the few behind it. So a listing is in cookie order, stable while
//! others come and go, and needs no second index (P7.6). Each directory counts the names that had to give way: without
//! any, which is nearly always, one point read tells that a name is not there. (A scan would read a block of each level of
//! the database, and cost what the directory is long.)

use dfs_proto::attr::Name;
use dfs_proto::error::MetaError;
use dfs_proto::ids::InodeId;
use dfs_proto::meta::MetaResult;

use super::cluster;
use crate::hash::siphash;
use crate::keys;
use crate::kv::{Snapshot, Txn, prefix_end};
use crate::record::dirent::{Dirents, Displaced};
use crate::record::{decode, encode};
use crate::value::dirent::{Dirent, DirentRecord};

/// Cookies below are left to callers, for `.` and `..` and the start.
const COOKIE_MIN: u64 = 16;
/// Names of one directory that may have one hash. With a keyed 63-bit hash nobody will see a second one.
const COLLISIONS_MAX: u64 = 8;
const COOKIE_MAX: u64 = (1 << 63) - 1 - COLLISIONS_MAX;

fn hash(view: &dyn Snapshot, name: &Name) -> u64 {
    (siphash(cluster::hash_key(view), name.as_bytes()) >> 1).clamp(COOKIE_MIN, COOKIE_MAX)
}

pub(crate) fn find(view: &dyn Snapshot, directory: InodeId, name: &Name) -> Option<Dirent> {
    find_at(view, directory, hash(view, name), name)
}

fn find_at(view: &dyn Snapshot, directory: InodeId, hash: u64, name: &Name) -> Option<Dirent> {
    match at(view, directory, hash) {
        Some(entry) if entry.name == *name => Some(entry),
        _ if displaced(view, directory) == 0 => None,
        _ => (hash + 1..hash + COLLISIONS_MAX)
            .find_map(|cookie| at(view, directory, cookie).filter(|entry| entry.name == *name)),
    }
}

fn at(view: &dyn Snapshot, directory: InodeId, cookie: u64) -> Option<Dirent> {
    view.get(&keys::dirent(directory, cookie)).map(|value| read(cookie, &value))
}

fn read(cookie: u64, value: &[u8]) -> Dirent {
    let (name, record) = decode::<Dirents>(value);
    Dirent { cookie, name, record }
}

/// Names of the directory that do not stand at their hash.
pub(crate) fn displaced(view: &dyn Snapshot, directory: InodeId) -> u64 {
    view.get(&keys::displaced(directory)).map_or(0, |value| decode::<Displaced>(&value))
}

fn set_displaced(txn: &mut Txn<'_>, directory: InodeId, count: u64) {
    match count {
        0 => txn.delete(keys::displaced(directory)),
        count => txn.put(keys::displaced(directory), encode::<Displaced>(&count)),
    }
}

/// The entries with a cookie above `after`, in cookie order.
pub(crate) fn list_after(
    view: &dyn Snapshot,
    directory: InodeId,
    after: u64,
) -> impl Iterator<Item = Dirent> + '_ {
    let from = keys::dirent(directory, after.saturating_add(1));
    let end = prefix_end(&keys::dirents_of(directory));
    view.scan(&from, &end).map(|(key, value)| read(keys::number(&key, 1), &value))
}

/// Adds a name that is not there.
pub(crate) fn insert(
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
    let free = (hash..hash + COLLISIONS_MAX).find(|cookie| at(txn, directory, *cookie).is_none());
    let Some(cookie) = free else {
        return Err(MetaError::NoSpace { what: "too many names with one hash in a directory".to_owned() });
    };
    if cookie != hash {
        let count = displaced(txn, directory) + 1;
        set_displaced(txn, directory, count);
    }
    put(txn, directory, cookie, name, record);
    Ok(())
}

fn put(txn: &mut Txn<'_>, directory: InodeId, cookie: u64, name: &Name, record: DirentRecord) {
    txn.put(keys::dirent(directory, cookie), encode::<Dirents>(&(name.clone(), record)));
}

pub(crate) fn remove(txn: &mut Txn<'_>, directory: InodeId, entry: &Dirent) {
    let is_displaced = is_displaced(txn, entry);
    remove_at(txn, directory, entry, is_displaced);
}

fn remove_at(txn: &mut Txn<'_>, directory: InodeId, entry: &Dirent, is_displaced: bool) {
    if is_displaced {
        let Some(count) = displaced(txn, directory).checked_sub(1) else {
            panic!(
                "the state store is corrupt: {directory} counts no displaced name and has {:?}",
                entry.name
            );
        };
        set_displaced(txn, directory, count);
    }
    txn.delete(keys::dirent(directory, entry.cookie));
}

/// The name stays, with its cookie, and leads elsewhere.
pub(crate) fn replace(txn: &mut Txn<'_>, directory: InodeId, entry: &Dirent, record: DirentRecord) {
    put(txn, directory, entry.cookie, &entry.name, record);
}

pub(crate) fn is_displaced(view: &dyn Snapshot, entry: &Dirent) -> bool {
    entry.cookie != hash(view, &entry.name)
}

/// Of a key and value of the table, for `check`.
pub(crate) fn parse(key: &[u8], value: &[u8]) -> (InodeId, Dirent) {
    (InodeId(keys::number(key, 0)), read(keys::number(key, 1), value))
}

#[cfg(test)]
mod tests {
    use dfs_proto::attr::FileKind;

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
        assert_eq!(displaced(&txn, directory), 3);
        remove_at(&mut txn, directory, &first, false);
        let found = |text| find_at(&txn, directory, 100, &name(text)).map(|e| (e.cookie, e.record.inode.0));
        assert_eq!(found("a"), None);
        assert_eq!((found("b"), found("c")), (Some((101, 1)), Some((102, 2))));
        assert_eq!(find_at(&txn, directory, 101, &name("next")).map(|e| e.cookie), Some(103));
        let cookies: Vec<u64> = list_after(&txn, directory, 101).map(|e| e.cookie).collect();
        assert_eq!(cookies, [102, 103]);
        insert_at(&mut txn, directory, 100, &name("d"), record(3)).expect("room");
        assert_eq!(find_at(&txn, directory, 100, &name("d")).map(|e| e.cookie), Some(100));
        for (hash, text) in [(100, "b"), (100, "c"), (101, "next"), (100, "d")] {
            let entry = find_at(&txn, directory, hash, &name(text)).expect("there");
            remove_at(&mut txn, directory, &entry, entry.cookie != hash);
        }
        assert_eq!(displaced(&txn, directory), 0);
        assert_eq!(txn.scan(b"", b"").count(), 0, "nothing is left");
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
