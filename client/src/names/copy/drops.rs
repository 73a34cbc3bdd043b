//! What was dropped while questions were under way: an answer says nothing about what was dropped since its question began.
//!
//! Drops are noted only while a question is under way. When there are more than [`NOTED_MAX`], everything counts as dropped for
//! the questions that are under way.

use std::collections::BTreeMap;

use dfs_proto::ids::InodeId;
use dfs_proto::scope::NameIn;

const NOTED_MAX: usize = 16_384;

/// When a question began: the number of the last drop before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Began(u64);

#[derive(Default)]
pub(super) struct Drops {
    /// The number of the last drop.
    last: u64,
    /// How many questions began at each time.
    asking: BTreeMap<Began, usize>,
    /// The last drop of each of them.
    attrs: BTreeMap<InodeId, u64>,
    names: BTreeMap<NameIn, u64>,
    /// Of all names in a directory.
    directories: BTreeMap<InodeId, u64>,
    /// Of any name in a directory; one for each directory that `names` or `directories` has.
    listings: BTreeMap<InodeId, u64>,
    everything: u64,
}

impl Drops {
    pub(super) fn begin(&mut self) -> Began {
        let began = Began(self.last);
        *self.asking.entry(began).or_default() += 1;
        began
    }

    pub(super) fn end(&mut self, began: Began) {
        if let Some(count) = self.asking.get_mut(&began) {
            *count -= 1;
            if *count == 0 {
                self.asking.remove(&began);
            }
        }
        if self.asking.is_empty() {
            self.forget();
        }
    }

    fn forget(&mut self) {
        self.attrs.clear();
        self.names.clear();
        self.directories.clear();
        self.listings.clear();
    }

    /// `None`: nobody asks.
    fn next(&mut self) -> Option<u64> {
        if self.asking.is_empty() {
            return None;
        }
        self.last += 1;
        if self.attrs.len() + self.names.len() + self.directories.len() >= NOTED_MAX {
            self.everything = self.last;
            self.forget();
        }
        Some(self.last)
    }

    pub(super) fn attr(&mut self, inode: InodeId) {
        if let Some(number) = self.next() {
            self.attrs.insert(inode, number);
        }
    }

    pub(super) fn name(&mut self, directory: InodeId, name: &[u8]) {
        if let Some(number) = self.next() {
            self.names.insert((directory, name.to_vec()), number);
            self.listings.insert(directory, number);
        }
    }

    pub(super) fn names_in(&mut self, directory: InodeId) {
        if let Some(number) = self.next() {
            self.directories.insert(directory, number);
            self.listings.insert(directory, number);
        }
    }

    pub(super) fn everything(&mut self) {
        self.everything = self.next().unwrap_or(self.everything);
    }

    pub(super) fn has_attr_since(&self, Began(began): Began, inode: InodeId) -> bool {
        began < self.attrs.get(&inode).copied().unwrap_or(0).max(self.everything)
    }

    pub(super) fn has_name_since(&self, Began(began): Began, name: &NameIn) -> bool {
        let own = self.names.get(name).copied().unwrap_or(0);
        let with_all = self.directories.get(&name.0).copied().unwrap_or(0);
        began < own.max(with_all).max(self.everything)
    }

    /// Any name in the directory.
    pub(super) fn has_any_name_since(&self, Began(began): Began, directory: InodeId) -> bool {
        began < self.listings.get(&directory).copied().unwrap_or(0).max(self.everything)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::names::copy::fixtures::DIRECTORY;

    const FILE: InodeId = InodeId(1000);

    #[test]
    fn an_answer_says_nothing_about_what_was_dropped_since_its_question() {
        let mut drops = Drops::default();
        let early = drops.begin();
        drops.attr(FILE);
        let late = drops.begin();
        assert!(drops.has_attr_since(early, FILE));
        assert!(!drops.has_attr_since(late, FILE));
        assert!(!drops.has_attr_since(early, DIRECTORY));
        let [name, other] = ["f", "g"].map(|name| (DIRECTORY, name.as_bytes().to_vec()));
        assert!(!drops.has_name_since(early, &name) && !drops.has_any_name_since(early, DIRECTORY));
        drops.name(DIRECTORY, b"f");
        assert!(drops.has_any_name_since(late, DIRECTORY) && !drops.has_any_name_since(late, FILE));
        assert_eq!([&name, &other].map(|name| drops.has_name_since(late, name)), [true, false]);
        let later = drops.begin();
        drops.names_in(DIRECTORY);
        assert!(drops.has_any_name_since(later, DIRECTORY));
        assert_eq!([&name, &other].map(|name| drops.has_name_since(late, name)), [true, true]);
        assert!(!drops.has_attr_since(late, DIRECTORY));
        let last = drops.begin();
        drops.everything();
        assert!(drops.has_attr_since(late, DIRECTORY) && drops.has_any_name_since(last, DIRECTORY));
    }

    #[test]
    fn when_too_much_is_dropped_everything_is_and_with_the_last_question_it_is_forgotten() {
        let mut drops = Drops::default();
        let asked = drops.begin();
        for number in 0..=NOTED_MAX as u64 {
            drops.attr(InodeId(5000 + number));
        }
        assert!(drops.attrs.len() <= NOTED_MAX);
        assert!(drops.has_attr_since(asked, FILE));
        let later = drops.begin();
        assert!(!drops.has_attr_since(later, FILE));
        drops.end(asked);
        drops.end(later);
        assert!(drops.attrs.is_empty());
    }
}
