//! Names in the root directory that this client has changed: of them the federation map may tell something older. It is
//! not believed before it was seen to tell the same as the root directory, so that whoever renames a volume and makes
//! another one of its name never gets the old one, however long the root directory's cluster does not answer.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use dfs_proto::attr::Name;

/// With more, no name is believed from the map any more.
const NAMES_MAX: usize = 100_000;

#[derive(Default)]
struct State {
    /// With the number of the last change.
    names: BTreeMap<Vec<u8>, u64>,
    changes: u64,
    is_full: bool,
}

/// See the module.
#[derive(Default)]
pub(crate) struct Touched(Mutex<State>);

/// See [`Touched::during`].
pub(crate) struct Changing<'t> {
    touched: &'t Touched,
    name: Option<Name>,
}

impl Drop for Changing<'_> {
    fn drop(&mut self) {
        self.name.iter().for_each(|name| self.touched.touch(name));
    }
}

/// What was known of a name when a question about it was asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Mark(Option<u64>);

impl Mark {
    /// The name was doubtful: whether the map agrees is of interest.
    pub(crate) fn is_set(self) -> bool {
        self.0.is_some()
    }
}

impl Touched {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// While a name is being changed; `None`: nothing that the map could tell of is. It counts as changed at the beginning
    /// and at the end, whatever became of it, also when nobody waits for the answer any more.
    pub(crate) fn during(&self, name: Option<Name>) -> Changing<'_> {
        name.iter().for_each(|name| self.touch(name));
        Changing { touched: self, name }
    }

    fn touch(&self, name: &Name) {
        let mut state = self.state();
        state.changes += 1;
        let change = state.changes;
        if state.names.len() < NAMES_MAX || state.names.contains_key(name.as_bytes()) {
            state.names.insert(name.as_bytes().to_vec(), change);
        } else {
            state.is_full = true;
        }
    }

    /// What the map says of this name may be older than what this client did.
    pub(crate) fn is_doubtful(&self, name: &[u8]) -> bool {
        let state = self.state();
        state.is_full || state.names.contains_key(name)
    }

    /// Before the root directory is asked for this name.
    pub(crate) fn mark(&self, name: &[u8]) -> Mark {
        Mark(self.state().names.get(name).copied())
    }

    /// The root directory, asked at `mark`, has told the same as the map does now.
    pub(crate) fn agreed(&self, name: &[u8], mark: Mark) {
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
        let (touched, name) = (Touched::default(), Name::new("v").expect("a name"));
        let before = touched.mark(b"v");
        let changing = touched.during(Some(name));
        touched.agreed(b"v", before);
        assert!(touched.is_doubtful(b"v") && !touched.is_doubtful(b"w"), "it was asked before the change");
        let during = touched.mark(b"v");
        drop(changing);
        touched.agreed(b"v", during);
        assert!(touched.is_doubtful(b"v"), "it was asked before the change had ended");
        touched.agreed(b"v", touched.mark(b"v"));
        assert!(!touched.is_doubtful(b"v"));
    }
}
