//! The store of the simulation: a map in memory that a crash throws back to its last flush (P7.4).

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::{Arc, Mutex, MutexGuard};

use dfs_proto::BoxFuture;

use super::{Batch, Kv, KvError, KvHome, Pair, Snapshot};

type Map = BTreeMap<Vec<u8>, Vec<u8>>;

/// Handles are shared by cloning; all see the same home.
#[derive(Clone, Default)]
pub struct MemoryHome {
    inner: Arc<Mutex<Databases>>,
}

#[derive(Default)]
struct Databases {
    by_name: BTreeMap<String, MemoryKv>,
    current: Option<String>,
}

impl MemoryHome {
    /// What a power failure does: every database is as its last finished flush left it.
    ///
    /// Handles from before the crash are cut off: what they write afterwards goes nowhere.
    pub fn crash(&self) {
        let mut home = self.lock();
        for kv in home.by_name.values_mut() {
            *kv = kv.after_crash();
        }
    }

    /// Takes the name of the current database away, or puts one in its place; gives what was there.
    pub fn swap_current(&self, with: Option<String>) -> Option<String> {
        std::mem::replace(&mut self.lock().current, with)
    }

    fn lock(&self) -> MutexGuard<'_, Databases> {
        self.inner.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

impl KvHome for MemoryHome {
    fn open(&self, name: &str) -> Result<Arc<dyn Kv>, KvError> {
        match self.lock().by_name.get(name) {
            Some(kv) => Ok(Arc::new(kv.clone())),
            None => Err(KvError::NoSuchDatabase { name: name.to_owned() }),
        }
    }

    fn open_read_only(&self, name: &str) -> Result<Arc<dyn Kv>, KvError> {
        self.open(name)
    }

    fn create(&self, name: &str) -> Result<Arc<dyn Kv>, KvError> {
        let mut home = self.lock();
        if home.by_name.contains_key(name) {
            return Err(KvError::DatabaseExists { name: name.to_owned() });
        }
        let kv = MemoryKv { home: Some(self.clone()), ..MemoryKv::default() };
        home.by_name.insert(name.to_owned(), kv.clone());
        Ok(Arc::new(kv))
    }

    fn current(&self) -> Result<Option<String>, KvError> {
        Ok(self.lock().current.clone())
    }

    fn make_current(&self, name: &str) -> Result<(), KvError> {
        let mut home = self.lock();
        if !home.by_name.contains_key(name) {
            return Err(KvError::NoSuchDatabase { name: name.to_owned() });
        }
        home.current = Some(name.to_owned());
        Ok(())
    }

    fn remove(&self, name: &str) -> Result<(), KvError> {
        self.lock().by_name.remove(name);
        Ok(())
    }

    fn list(&self) -> Result<Vec<String>, KvError> {
        Ok(self.lock().by_name.keys().cloned().collect())
    }
}

/// One database in memory. Clones are handles of the same one.
#[derive(Clone, Default)]
pub struct MemoryKv {
    states: Arc<Mutex<States>>,
    /// Where checkpoints go; a database on its own (in tests) makes none.
    home: Option<MemoryHome>,
}

/// Snapshots share the map, which is copied at the first write after one was taken and only while it is held.
#[derive(Clone, Default)]
struct States {
    now: Arc<Map>,
    /// Writes since the last flush, in order; `flushed` with all of them is `now`.
    flushed: Map,
    unflushed: Vec<Batch>,
}

impl MemoryKv {
    /// What a power failure leaves, as a new database.
    pub fn after_crash(&self) -> MemoryKv {
        let flushed = self.lock().flushed.clone();
        let states = States { now: Arc::new(flushed.clone()), flushed, unflushed: Vec::new() };
        MemoryKv { states: Arc::new(Mutex::new(states)), home: self.home.clone() }
    }

    fn lock(&self) -> MutexGuard<'_, States> {
        self.states.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    fn flush_now(&self) {
        let states = &mut *self.lock();
        for batch in states.unflushed.drain(..) {
            lay(&mut states.flushed, &batch);
        }
    }
}

fn lay(map: &mut Map, batch: &Batch) {
    for (key, value) in batch.iter() {
        match value {
            Some(value) => map.insert(key.to_vec(), value.to_vec()),
            None => map.remove(key),
        };
    }
}

impl Kv for MemoryKv {
    fn snapshot(&self) -> Box<dyn Snapshot + '_> {
        Box::new(MemorySnapshot(self.lock().now.clone()))
    }

    fn write(&self, batch: Batch) -> Result<(), KvError> {
        let mut states = self.lock();
        lay(Arc::make_mut(&mut states.now), &batch);
        states.unflushed.push(batch);
        Ok(())
    }

    fn flush(&self) -> BoxFuture<'static, Result<(), KvError>> {
        let kv = self.clone();
        Box::pin(async move {
            kv.flush_now();
            Ok(())
        })
    }

    fn checkpoint(&self, name: &str) -> BoxFuture<'static, Result<(), KvError>> {
        let (kv, name) = (self.clone(), name.to_owned());
        Box::pin(async move {
            kv.flush_now();
            let home = kv.home.clone().ok_or_else(|| KvError::Database {
                doing: "make a checkpoint".to_owned(),
                what: "this database has no home".to_owned(),
            })?;
            let copy = kv.after_crash();
            let mut home = home.lock();
            if home.by_name.contains_key(&name) {
                return Err(KvError::DatabaseExists { name });
            }
            home.by_name.insert(name, copy);
            Ok(())
        })
    }
}

struct MemorySnapshot(Arc<Map>);

impl Snapshot for MemorySnapshot {
    fn get(&self, key: &[u8]) -> Option<Vec<u8>> {
        self.0.get(key).cloned()
    }

    fn scan<'a>(&'a self, from: &[u8], end: &[u8]) -> Box<dyn Iterator<Item = Pair> + 'a> {
        if !end.is_empty() && from >= end {
            return Box::new(std::iter::empty());
        }
        let upper = if end.is_empty() { Bound::Unbounded } else { Bound::Excluded(end) };
        let range = self.0.range::<[u8], _>((Bound::Included(from), upper));
        Box::new(range.map(|(key, value)| (key.clone(), value.clone())))
    }
}

#[cfg(test)]
mod tests {
    use futures::executor::block_on;

    use super::*;

    fn put(kv: &dyn Kv, key: &[u8], value: &[u8]) {
        let mut batch = Batch::default();
        batch.put(key, value);
        kv.write(batch).expect("memory");
    }

    #[test]
    fn a_crash_loses_what_was_written_since_the_last_flush() {
        let home = MemoryHome::default();
        let kv = home.create("a").expect("fresh home");
        home.make_current("a").expect("it is there");
        put(&*kv, b"kept", b"1");
        block_on(kv.flush()).expect("memory");
        put(&*kv, b"lost", b"1");
        put(&*kv, b"kept", b"2");
        home.crash();
        put(&*kv, b"late", b"1"); // an old handle writes on: nobody sees it
        let name = home.current().expect("memory").expect("made current");
        let after = home.open(&name).expect("it is there");
        let all: Vec<Pair> = after.snapshot().scan(b"", b"").collect();
        assert_eq!(all, [(b"kept".to_vec(), b"1".to_vec())]);
    }

    #[test]
    fn a_checkpoint_survives_a_crash_and_does_not_follow_later_writes() {
        let home = MemoryHome::default();
        let kv = home.create("a").expect("fresh home");
        put(&*kv, b"k", b"1");
        block_on(kv.checkpoint("copy")).expect("memory");
        put(&*kv, b"k", b"2");
        home.crash();
        let copy = home.open("copy").expect("checkpointed");
        assert_eq!(copy.snapshot().get(b"k"), Some(b"1".to_vec()));
        assert_eq!(home.list().expect("memory"), ["a", "copy"]);
    }

    #[test]
    fn a_snapshot_does_not_see_later_writes() {
        let kv = MemoryKv::default();
        put(&kv, b"k", b"1");
        let before = kv.snapshot();
        put(&kv, b"k", b"2");
        assert_eq!(before.get(b"k"), Some(b"1".to_vec()));
        assert_eq!(kv.snapshot().get(b"k"), Some(b"2".to_vec()));
    }
}
