//! Where this client's own changes have led names, as a guess: another client may have changed them since. Nothing is answered from
//! it. A later change of such a name drops what the name probably leads to as well (`own_changes`).
//!
//! So the leader has nothing to recall from a mount that makes a file, looks at it, and removes or renames it: the mount was leased the
//! file's attributes, and was never shown the name, which it had made.

use std::collections::BTreeMap;

use dfs_proto::ids::InodeId;
use dfs_proto::meta::{Change, Changed, RenameMode};
use dfs_proto::scope::NameIn;

/// In each of two generations; a name takes some 100 bytes.
const ROOM: usize = 16_384;

/// Names, as many as there is room for: when the young ones are too many, they become the old ones, and what was old is forgotten.
#[derive(Default)]
pub(super) struct Hints {
    young: BTreeMap<NameIn, InodeId>,
    old: BTreeMap<NameIn, InodeId>,
}

impl Hints {
    pub(super) fn leads_to(&self, name: &NameIn) -> Option<InodeId> {
        self.young.get(name).or_else(|| self.old.get(name)).copied()
    }

    pub(super) fn note(&mut self, name: NameIn, inode: InodeId) {
        self.forget(&name);
        if self.young.len() >= ROOM {
            self.old = std::mem::take(&mut self.young);
        }
        self.young.insert(name, inode);
    }

    fn forget(&mut self, name: &NameIn) -> Option<InodeId> {
        let old = self.old.remove(name);
        self.young.remove(name).or(old)
    }

    /// A change of this client was executed.
    pub(super) fn executed(&mut self, change: &Change, changed: &Changed) {
        match change {
            Change::Create(create) => {
                if let Changed::Inode { attr, .. } = changed {
                    self.note((create.parent, create.name.as_bytes().to_vec()), attr.inode);
                }
            }
            Change::Link { inode, parent, name } => self.note((*parent, name.as_bytes().to_vec()), *inode),
            Change::Unlink { parent, name } | Change::Rmdir { parent, name } => {
                self.forget(&(*parent, name.as_bytes().to_vec()));
            }
            Change::Rename(rename) => {
                let from = (rename.parent, rename.name.as_bytes().to_vec());
                let to = (rename.new_parent, rename.new_name.as_bytes().to_vec());
                let (moved, replaced) = (self.forget(&from), self.forget(&to));
                let comes_back = replaced.filter(|_| rename.mode == RenameMode::Exchange);
                comes_back.into_iter().for_each(|inode| self.note(from.clone(), inode));
                moved.into_iter().for_each(|inode| self.note(to.clone(), inode));
            }
            Change::SetAttr(_)
            | Change::CommitExtents(_)
            | Change::ReleaseOrphans { .. }
            | Change::OpenChunk(_)
            | Change::SealChunk { .. } => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use dfs_proto::attr::{FileKind, Name};
    use dfs_proto::meta::{Create, NewInode, Rename};

    use super::*;
    use crate::names::copy::fixtures::{DIRECTORY, attr};

    const FILE: InodeId = InodeId(1000);
    const OTHER: InodeId = InodeId(1001);

    fn named(name: &str) -> NameIn {
        (DIRECTORY, name.into())
    }

    fn rename(name: &str, new_name: &str, mode: RenameMode) -> Change {
        let [name, new_name] = [name, new_name].map(|name| Name::new(name).unwrap());
        Change::Rename(Rename { parent: DIRECTORY, name, new_parent: DIRECTORY, new_name, mode })
    }

    /// `f` was made, and is the file.
    fn made() -> Hints {
        let (parent, name) = (DIRECTORY, Name::new("f").unwrap());
        let (mode, what) = (0o644, NewInode::File);
        let create = Create { parent, name, mode, what, or_existing: false, opens: false };
        let changed = Changed::Inode { attr: attr(FILE, FileKind::File, 1), existed: false, next_commit: 1 };
        let mut hints = Hints::default();
        hints.executed(&Change::Create(create), &changed);
        hints
    }

    #[test]
    fn a_name_leads_where_the_own_changes_have_led_it() {
        let removed = Changed::Removed { orphan: None };
        let after = |changes: &[Change]| {
            let mut hints = made();
            hints.note(named("g"), OTHER);
            changes.iter().for_each(|change| hints.executed(change, &removed));
            ["f", "g", "h"].map(|name| hints.leads_to(&named(name)))
        };
        let unlink = Change::Unlink { parent: DIRECTORY, name: Name::new("f").unwrap() };
        assert_eq!(after(&[]), [Some(FILE), Some(OTHER), None]);
        assert_eq!(after(&[unlink]), [None, Some(OTHER), None]);
        assert_eq!(after(&[rename("f", "g", RenameMode::Replace)]), [None, Some(FILE), None]);
        assert_eq!(after(&[rename("f", "h", RenameMode::NoReplace)]), [None, Some(OTHER), Some(FILE)]);
        assert_eq!(after(&[rename("f", "g", RenameMode::Exchange)]), [Some(OTHER), Some(FILE), None]);
        assert_eq!(after(&[rename("x", "g", RenameMode::Replace)]), [Some(FILE), None, None]);
    }

    #[test]
    fn what_was_noted_long_ago_makes_room() {
        let mut hints = made();
        for number in 0..3 * ROOM as u64 {
            hints.note((DIRECTORY, number.to_le_bytes().to_vec()), InodeId(5000 + number));
            assert!(hints.young.len() + hints.old.len() <= 2 * ROOM);
        }
        assert_eq!(hints.leads_to(&named("f")), None);
    }
}
