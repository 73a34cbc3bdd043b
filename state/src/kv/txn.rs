//! A transaction: writes laid over a view, readable at once, turned into one batch at the end.

use std::collections::BTreeMap;
use std::iter::Peekable;
use std::ops::Bound;
use std::sync::{Mutex, PoisonError};

use super::{Batch, Pair, Snapshot};

type Writes = BTreeMap<Vec<u8>, Option<Vec<u8>>>;
type Undo = BTreeMap<Vec<u8>, Option<Option<Vec<u8>>>>;

/// Reads see the writes made so far over the view that lies below. Nothing reaches the store before the caller writes
/// [`Txn::into_batch`]. May span many commands; [`Txn::savepoint`] makes one of them undoable.
pub struct Txn<'a> {
    base: &'a dyn Snapshot,
    /// What was read of `base`: each command of a batch asks for the same few records (cluster, session, volume), twice or
    /// more, and a point read of the store costs a dozen times as much as one of this. A lock only because a view is
    /// `Sync`.
    known: Mutex<BTreeMap<Vec<u8>, Option<Vec<u8>>>>,
    writes: Writes,
    /// What `writes` held for each key changed since the savepoint; the outer `None`: nothing.
    undo: Option<Undo>,
}

impl<'a> Txn<'a> {
    pub fn new(base: &'a dyn Snapshot) -> Txn<'a> {
        Txn { base, known: Mutex::default(), writes: Writes::new(), undo: None }
    }

    pub fn put(&mut self, key: impl Into<Vec<u8>>, value: impl Into<Vec<u8>>) {
        self.set(key.into(), Some(value.into()));
    }

    pub fn delete(&mut self, key: impl Into<Vec<u8>>) {
        self.set(key.into(), None);
    }

    fn set(&mut self, key: Vec<u8>, value: Option<Vec<u8>>) {
        let before = self.writes.insert(key.clone(), value);
        if let Some(undo) = &mut self.undo {
            undo.entry(key).or_insert(before);
        }
    }

    /// From here on writes can be taken back with [`Txn::rollback`]. There is one savepoint; a new one replaces it.
    pub fn savepoint(&mut self) {
        self.undo = Some(BTreeMap::new());
    }

    /// Removes the savepoint; its writes stay.
    pub fn keep(&mut self) {
        self.undo = None;
    }

    /// Takes back every write since the savepoint, and removes it.
    pub fn rollback(&mut self) {
        for (key, before) in self.undo.take().unwrap_or_default() {
            match before {
                Some(value) => {
                    self.writes.insert(key, value);
                }
                None => {
                    self.writes.remove(&key);
                }
            }
        }
    }

    /// Keys written so far, for callers that gather many commands in one transaction.
    pub fn write_count(&self) -> usize {
        self.writes.len()
    }

    pub fn into_batch(self) -> Batch {
        Batch { writes: self.writes }
    }
}

impl Snapshot for Txn<'_> {
    fn get(&self, key: &[u8]) -> Option<Vec<u8>> {
        if let Some(written) = self.writes.get(key) {
            return written.clone();
        }
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(value) = known.get(key) {
            return value.clone();
        }
        let value = self.base.get(key);
        known.insert(key.to_vec(), value.clone());
        value
    }

    fn scan<'a>(&'a self, from: &[u8], end: &[u8]) -> Box<dyn Iterator<Item = Pair> + 'a> {
        if !end.is_empty() && from >= end {
            return Box::new(std::iter::empty());
        }
        let upper = if end.is_empty() { Bound::Unbounded } else { Bound::Excluded(end) };
        let written = self.writes.range::<[u8], _>((Bound::Included(from), upper));
        Box::new(Merged { written: written.peekable(), base: self.base.scan(from, end).peekable() })
    }
}

/// Two sorted sequences as one; what is written hides what lies below.
struct Merged<'a, W: Iterator> {
    written: Peekable<W>,
    base: Peekable<Box<dyn Iterator<Item = Pair> + 'a>>,
}

impl<'a, W> Iterator for Merged<'a, W>
where
    W: Iterator<Item = (&'a Vec<u8>, &'a Option<Vec<u8>>)>,
{
    type Item = Pair;

    fn next(&mut self) -> Option<Pair> {
        loop {
            let Some((key, _)) = self.written.peek() else { return self.base.next() };
            if let Some(pair) = self.base.next_if(|(below, _)| below < *key) {
                return Some(pair);
            }
            self.base.next_if(|(below, _)| below == *key);
            let (key, value) = self.written.next()?;
            if let Some(value) = value {
                return Some((key.clone(), value.clone()));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::kv::Kv as _;
    use crate::kv::memory::MemoryKv;

    fn all(view: &dyn Snapshot) -> Vec<Pair> {
        view.scan(b"", b"").collect()
    }

    #[test]
    fn a_rollback_takes_back_what_came_after_the_savepoint_and_nothing_else() {
        let kv = MemoryKv::default();
        let base = kv.snapshot();
        let mut txn = Txn::new(&*base);
        txn.put(b"a", b"1");
        txn.savepoint();
        txn.put(b"a", b"2");
        txn.put(b"a", b"3");
        txn.put(b"b", b"1");
        txn.rollback();
        assert_eq!(all(&txn), [(b"a".to_vec(), b"1".to_vec())]);
    }

    /// Counts what is asked of it.
    struct Counted(Mutex<usize>);

    impl Snapshot for Counted {
        fn get(&self, key: &[u8]) -> Option<Vec<u8>> {
            *self.0.lock().expect("nobody panics") += 1;
            (key == b"there").then(|| b"1".to_vec())
        }

        fn scan<'a>(&'a self, _: &[u8], _: &[u8]) -> Box<dyn Iterator<Item = Pair> + 'a> {
            Box::new(std::iter::empty())
        }
    }

    #[test]
    fn what_lies_below_is_read_once_whether_it_is_there_or_not() {
        let base = Counted(Mutex::new(0));
        let mut txn = Txn::new(&base);
        for _ in 0..3 {
            assert_eq!((txn.get(b"there"), txn.get(b"not")), (Some(b"1".to_vec()), None));
        }
        txn.savepoint();
        txn.put(b"there", b"2");
        txn.rollback();
        assert_eq!(txn.get(b"there"), Some(b"1".to_vec()));
        assert_eq!(*base.0.lock().expect("nobody panics"), 2);
    }

    proptest! {
        #[test]
        fn a_transaction_reads_like_the_store_it_will_make(
            below in prop::collection::btree_map(0u8..20, any::<u8>(), 0..10),
            writes in prop::collection::vec((0u8..20, prop::option::of(any::<u8>())), 0..20),
            (from, end) in (0u8..20, 0u8..20),
        ) {
            let kv = MemoryKv::default();
            let mut batch = Batch::default();
            for (key, value) in &below {
                batch.put([*key], [*value]);
            }
            kv.write(batch).expect("memory");
            let mut model = below;
            let base = kv.snapshot();
            let mut txn = Txn::new(&*base);
            for (key, value) in writes {
                match value {
                    Some(value) => { txn.put([key], [value]); model.insert(key, value); }
                    None => { txn.delete([key]); model.remove(&key); }
                }
            }
            let wanted: Vec<Pair> = model.iter().map(|(k, v)| (vec![*k], vec![*v])).collect();
            prop_assert_eq!(all(&txn), wanted.clone());
            let part: Vec<Pair> = txn.scan(&[from], &[end]).collect();
            let wanted_part: Vec<Pair> =
                wanted.iter().filter(|(k, _)| k[0] >= from && k[0] < end).cloned().collect();
            prop_assert_eq!(part, wanted_part);
            for key in 0..20 {
                prop_assert_eq!(txn.get(&[key]), model.get(&key).map(|v| vec![*v]));
            }
            let batch = txn.into_batch();
            kv.write(batch).expect("memory");
            prop_assert_eq!(all(&*kv.snapshot()), wanted);
        }
    }
}
