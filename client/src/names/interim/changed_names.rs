//! V7: a name in the root directory is not taken from the federation map once this client has changed it.
//!
//! While the root directory's cluster is silent, the names of volumes come from the map, which may be older than a change of
//! this client. So from a change on, a name is not taken from the map before the map was seen to agree with the root directory.
//! A program that renames a volume and makes another one of its name never gets the old one, however long the cluster is silent.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use dfs_proto::attr::Name;

/// Names that are remembered. Beyond it, no name is taken from the map any more.
const NAMES_MAX: usize = 100_000;

#[derive(Default)]
struct State {
    /// Each name that may differ from the map's, with the number of its last change.
    names: BTreeMap<Vec<u8>, u64>,
    changes: u64,
    is_full: bool,
}

/// The names that this client has changed since the map was seen to agree with the root directory.
#[derive(Default)]
pub(crate) struct ChangedNames(Mutex<State>);

/// A name that is being changed, until this is dropped.
pub(crate) struct NameChange<'n> {
    names: &'n ChangedNames,
    name: Name,
}

impl Drop for NameChange<'_> {
    fn drop(&mut self) {
        self.names.note(&self.name);
    }
}

/// The last change of a name when a question about the name was asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ChangeMark(Option<u64>);

impl ChangeMark {
    /// The name was changed, so it matters whether the map agrees with the answer.
    pub(crate) fn is_set(self) -> bool {
        self.0.is_some()
    }
}

impl ChangedNames {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// To be held while a name is being changed. The name counts as changed at the beginning and at the end, whatever the
    /// answer was, also when the caller no longer waits for it.
    pub(crate) fn during(&self, name: Name) -> NameChange<'_> {
        self.note(&name);
        NameChange { names: self, name }
    }

    fn note(&self, name: &Name) {
        let mut state = self.state();
        state.changes += 1;
        let change = state.changes;
        if state.names.len() < NAMES_MAX || state.names.contains_key(name.as_bytes()) {
            state.names.insert(name.as_bytes().to_vec(), change);
        } else {
            state.is_full = true;
        }
    }

    /// The map's entry for this name may be older than a change of this client.
    pub(crate) fn may_be_outdated(&self, name: &[u8]) -> bool {
        let state = self.state();
        state.is_full || state.names.contains_key(name)
    }

    /// To be called before the root directory is asked for this name.
    pub(crate) fn mark(&self, name: &[u8]) -> ChangeMark {
        ChangeMark(self.state().names.get(name).copied())
    }

    /// The root directory, which was asked at `mark`, has given the same answer as the map gives now.
    pub(crate) fn agreed(&self, name: &[u8], mark: ChangeMark) {
        let mut state = self.state();
        if mark.0.is_some() && state.names.get(name).copied() == mark.0 {
            state.names.remove(name);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_changed_name_is_doubtful_until_an_answer_that_was_asked_for_later_agrees() {
        let (names, name) = (ChangedNames::default(), Name::new("v").expect("a name"));
        let before = names.mark(b"v");
        let change = names.during(name);
        names.agreed(b"v", before);
        assert!(
            names.may_be_outdated(b"v") && !names.may_be_outdated(b"w"),
            "the question was asked before the change"
        );
        let during = names.mark(b"v");
        drop(change);
        names.agreed(b"v", during);
        assert!(names.may_be_outdated(b"v"), "the question was asked before the change had ended");
        names.agreed(b"v", names.mark(b"v"));
        assert!(!names.may_be_outdated(b"v"));
    }
}
