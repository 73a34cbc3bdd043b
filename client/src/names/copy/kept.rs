//! Attributes and names, as many as there is room for, in two generations: when the young one is full, it becomes the old one,
//! and what was old is forgotten. What is used in the old one moves to the young one.

use std::collections::BTreeMap;

use dfs_proto::attr::InodeAttr;
use dfs_proto::ids::InodeId;

/// What a name leads to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum LeadsTo {
    /// The name is not there.
    Nothing,
    Inode(InodeId),
    /// The root of a volume that another cluster has, which knows its attributes.
    Elsewhere(InodeId),
}

impl LeadsTo {
    pub(super) fn inode(self) -> Option<InodeId> {
        match self {
            LeadsTo::Nothing => None,
            LeadsTo::Inode(inode) | LeadsTo::Elsewhere(inode) => Some(inode),
        }
    }
}

pub(super) struct Kept {
    young: Generation,
    old: Generation,
    /// Of one generation.
    room: usize,
}

#[derive(Default)]
struct Generation {
    attrs: BTreeMap<InodeId, InodeAttr>,
    names: BTreeMap<InodeId, BTreeMap<Vec<u8>, LeadsTo>>,
    names_len: usize,
}

impl Kept {
    /// At most `room` attributes and names together.
    pub(super) fn with_room(room: usize) -> Kept {
        Kept { young: Generation::default(), old: Generation::default(), room: (room / 2).max(1) }
    }

    pub(super) fn put_attr(&mut self, attr: InodeAttr) {
        self.drop_attr(attr.inode);
        self.make_room();
        self.young.attrs.insert(attr.inode, attr);
    }

    pub(super) fn put_name(&mut self, directory: InodeId, name: &[u8], leads_to: LeadsTo) {
        self.drop_name(directory, name);
        self.make_room();
        self.young.names.entry(directory).or_default().insert(name.to_vec(), leads_to);
        self.young.names_len += 1;
    }

    fn make_room(&mut self) {
        if self.young.len() >= self.room {
            self.old = std::mem::take(&mut self.young);
        }
    }

    pub(super) fn attr(&mut self, inode: InodeId) -> Option<InodeAttr> {
        if let Some(attr) = self.young.attrs.get(&inode) {
            return Some(attr.clone());
        }
        let attr = self.old.attrs.get(&inode)?.clone();
        self.put_attr(attr.clone());
        Some(attr)
    }

    /// `None`: it is not known.
    pub(super) fn name(&mut self, directory: InodeId, name: &[u8]) -> Option<LeadsTo> {
        if let Some(leads_to) = self.young.name(directory, name) {
            return Some(leads_to);
        }
        let leads_to = self.old.name(directory, name)?;
        self.put_name(directory, name, leads_to);
        Some(leads_to)
    }

    pub(super) fn drop_attr(&mut self, inode: InodeId) {
        for generation in [&mut self.young, &mut self.old] {
            generation.attrs.remove(&inode);
        }
    }

    pub(super) fn drop_name(&mut self, directory: InodeId, name: &[u8]) {
        self.young.drop_name(directory, name);
        self.old.drop_name(directory, name);
    }

    /// All names in a directory.
    pub(super) fn drop_names_in(&mut self, directory: InodeId) {
        for generation in [&mut self.young, &mut self.old] {
            if let Some(names) = generation.names.remove(&directory) {
                generation.names_len -= names.len();
            }
        }
    }

    pub(super) fn clear(&mut self) {
        self.young = Generation::default();
        self.old = Generation::default();
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.young.len() + self.old.len()
    }
}

impl Generation {
    fn len(&self) -> usize {
        self.attrs.len() + self.names_len
    }

    fn name(&self, directory: InodeId, name: &[u8]) -> Option<LeadsTo> {
        self.names.get(&directory)?.get(name).copied()
    }

    fn drop_name(&mut self, directory: InodeId, name: &[u8]) {
        let Some(names) = self.names.get_mut(&directory) else { return };
        if names.remove(name).is_some() {
            self.names_len -= 1;
        }
        if names.is_empty() {
            self.names.remove(&directory);
        }
    }
}

#[cfg(test)]
mod tests {
    use dfs_proto::attr::FileKind;

    use super::*;
    use crate::names::copy::fixtures::{DIRECTORY, attr};

    const FILE: InodeId = InodeId(1000);

    #[test]
    fn what_is_used_stays_and_the_rest_makes_room() {
        let mut kept = Kept::with_room(100);
        kept.put_attr(attr(FILE, FileKind::File, 1));
        kept.put_name(DIRECTORY, b"f", LeadsTo::Inode(FILE));
        for number in 0..10_000 {
            match number % 2 {
                0 => kept.put_attr(attr(InodeId(2000 + number), FileKind::File, 1)),
                _ => kept.put_name(DIRECTORY, &number.to_le_bytes(), LeadsTo::Nothing),
            }
            assert!(kept.len() <= 100);
            assert_eq!(kept.attr(FILE).map(|attr| attr.inode), Some(FILE));
            assert_eq!(kept.name(DIRECTORY, b"f"), Some(LeadsTo::Inode(FILE)));
        }
        assert_eq!(kept.attr(InodeId(2000)), None);
        assert_eq!(kept.name(DIRECTORY, &1u64.to_le_bytes()), None);
    }

    #[test]
    fn what_is_dropped_is_dropped_from_both_generations() {
        let filled = || {
            let mut kept = Kept::with_room(4);
            kept.put_attr(attr(FILE, FileKind::File, 1));
            kept.put_name(DIRECTORY, b"f", LeadsTo::Inode(FILE));
            kept.put_attr(attr(DIRECTORY, FileKind::Directory, 1)); // now the first two are old
            kept
        };
        let known = |mut kept: Kept| {
            let name = kept.name(DIRECTORY, b"f").is_some();
            [kept.attr(FILE).is_some(), kept.attr(DIRECTORY).is_some(), name]
        };
        assert_eq!(known(filled()), [true; 3]);
        let after = |change: fn(&mut Kept)| {
            let mut kept = filled();
            change(&mut kept);
            known(kept)
        };
        assert_eq!(after(|kept| kept.drop_attr(FILE)), [false, true, true]);
        assert_eq!(after(|kept| kept.drop_name(DIRECTORY, b"f")), [true, true, false]);
        assert_eq!(after(|kept| kept.drop_names_in(DIRECTORY)), [true, true, false]);
        assert_eq!(after(Kept::clear), [false; 3]);
    }
}
