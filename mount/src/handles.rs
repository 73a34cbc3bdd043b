//! The open files and directories, by the number that the kernel got for each.
//!
//! H1  A number is never given twice in the life of a mount: a late request of a closed file finds nothing, never
//!     another file.
//! H2  The table is as large as the number of open files; it holds no descriptors.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

/// The number of an open file or directory, from `Handles::insert` until `Handles::remove`. It is not reused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Handle(pub(crate) u64);

/// The open files or directories. The lock is held for one look-up and never with another.
pub(crate) struct Handles<T> {
    next: AtomicU64,
    open: RwLock<HashMap<Handle, Arc<T>>>,
}

impl<T> Handles<T> {
    pub(crate) fn new() -> Handles<T> {
        Handles { next: AtomicU64::new(1), open: RwLock::new(HashMap::new()) }
    }

    pub(crate) fn insert(&self, value: T) -> Handle {
        let handle = Handle(self.next.fetch_add(1, Ordering::Relaxed)); // keeps H1
        self.open.write().unwrap_or_else(PoisonError::into_inner).insert(handle, Arc::new(value));
        handle
    }

    pub(crate) fn get(&self, handle: Handle) -> Option<Arc<T>> {
        self.open.read().unwrap_or_else(PoisonError::into_inner).get(&handle).cloned()
    }

    /// Takes the file or directory out of the table.
    pub(crate) fn remove(&self, handle: Handle) -> Option<Arc<T>> {
        self.open.write().unwrap_or_else(PoisonError::into_inner).remove(&handle)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_removed_handle_finds_nothing_and_its_number_is_not_given_again() {
        let handles = Handles::new();
        let first = handles.insert("first");
        assert_eq!(handles.get(first).as_deref(), Some(&"first"));
        assert_eq!(handles.remove(first).as_deref(), Some(&"first"));
        assert!(handles.get(first).is_none() && handles.remove(first).is_none());
        assert_ne!(handles.insert("second"), first);
    }

    #[test]
    fn whoever_holds_an_open_file_keeps_it_over_its_removal() {
        let handles = Handles::new();
        let handle = handles.insert(7);
        let held = handles.get(handle).unwrap();
        handles.remove(handle);
        assert_eq!(*held, 7);
    }
}
