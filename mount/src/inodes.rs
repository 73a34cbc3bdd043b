//! The inodes that the kernel knows: how often it looked each up, and under which name last.
//!
//! I1  An inode is here exactly while the kernel's count of look-ups that it has not taken back (`forget`) is above 0:
//!     the kernel bounds the table, by its own inode cache.
//! I2  Pages of an inode are in the kernel's cache only while it is here. All of them were filled since an open that saw
//!     `content_version`: another open that sees the same may keep them, since versions only grow.
//! I3  A directory that this mount removed stays, without a name, while the kernel knows it: a process may stand in it, or
//!     have it open. (An open file keeps itself; a removed one that is not open the kernel may know for long.)
//! I4  Names are for people (which file could not be written); nothing is decided by them. They may be outdated.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use dfs_client::Orphan;
use dfs_proto::attr::FileKind;
use dfs_proto::ids::{InodeId, VolumeId};

/// Parents followed when a path is put together: deeper ones are shown as `…`.
const PATH_DEPTH_MAX: usize = 64;

struct Known {
    lookups: u64,
    kind: FileKind,
    parent: InodeId,
    name: Box<[u8]>,
    /// Of the last open; none: nobody opened it since the kernel knows it.
    content_version: Option<u64>,
    /// Keeps I3.
    orphan: Option<Orphan>,
}

/// The lock is held for one look-up or one path and never with another.
pub(crate) struct Inodes(Mutex<HashMap<InodeId, Known>>);

impl Inodes {
    pub(crate) fn new() -> Inodes {
        Inodes(Mutex::new(HashMap::new()))
    }

    fn with<T>(&self, act: impl FnOnce(&mut HashMap<InodeId, Known>) -> T) -> T {
        act(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// The kernel is being told of `inode`: one look-up more.
    pub(crate) fn looked_up(&self, inode: InodeId, kind: FileKind, (parent, name): (InodeId, &[u8])) {
        self.with(|known| {
            let entry = known.entry(inode).or_insert_with(|| Known {
                lookups: 0,
                kind,
                parent,
                name: name.into(),
                content_version: None,
                orphan: None,
            });
            entry.lookups += 1;
            if entry.parent != parent || *entry.name != *name {
                entry.parent = parent;
                entry.name = name.into();
            }
        });
    }

    /// An open saw `content_version`. True: the one before it saw the same, so pages in the kernel's cache hold (I2).
    pub(crate) fn opened_at(&self, inode: InodeId, content_version: u64) -> bool {
        self.with(|known| {
            let entry = known.get_mut(&inode);
            entry.is_some_and(|entry| entry.content_version.replace(content_version) == Some(content_version))
        })
    }

    /// The kernel's pages show what was not stored: the next open does not keep them.
    pub(crate) fn pages_differ(&self, inode: InodeId) {
        self.with(|known| {
            if let Some(entry) = known.get_mut(&inode) {
                entry.content_version = None;
            }
        });
    }

    /// It was removed, or replaced: before the kernel hears of that.
    pub(crate) fn orphaned(&self, orphan: Option<Orphan>) {
        let Some(orphan) = orphan else { return };
        let not_kept = self.with(|known| match known.get_mut(&orphan.inode()) {
            Some(entry) if entry.kind == FileKind::Directory => entry.orphan.replace(orphan), // keeps I3
            _ => Some(orphan),
        });
        drop(not_kept); // not under the lock
    }

    /// The kernel takes `count` look-ups back.
    pub(crate) fn forget(&self, inode: InodeId, count: u64) {
        let forgotten = self.with(|known| {
            let entry = known.get_mut(&inode)?;
            entry.lookups = entry.lookups.saturating_sub(count);
            if entry.lookups == 0 { known.remove(&inode) } else { None } // keeps I1
        });
        drop(forgotten); // not under the lock
    }

    /// How messages name `inode`: its path from the root of the mount as far as it is known, else its number.
    pub(crate) fn describe(&self, inode: InodeId) -> String {
        let names = self.with(|known| {
            let mut names = Vec::new();
            let mut at = inode;
            while let (true, Some(entry)) = (names.len() < PATH_DEPTH_MAX, known.get(&at)) {
                names.push(entry.name.escape_ascii().to_string());
                at = entry.parent;
            }
            if at != InodeId::ROOT && !names.is_empty() {
                names.push("…".to_owned());
            }
            names
        });
        if names.is_empty() {
            return inode.to_string();
        }
        let path: Vec<String> = names.into_iter().rev().collect();
        format!("{} ({inode})", path.join("/"))
    }

    /// A message of the client library, which starts with an inode's number, with the path instead.
    pub(crate) fn with_path(&self, message: &str) -> String {
        let parts = message.strip_prefix("inode ").and_then(|rest| {
            let (volume, rest) = rest.split_once(':')?;
            let (number, why) = rest.split_once(':')?;
            Some((InodeId::new(VolumeId(volume.parse().ok()?), number.parse().ok()?)?, why))
        });
        match parts {
            Some((inode, why)) => format!("{}:{why}", self.describe(inode)),
            None => message.to_owned(),
        }
    }

    #[cfg(test)]
    fn count(&self) -> usize {
        self.with(|known| known.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_inode_is_known_until_every_lookup_is_taken_back() {
        let inodes = Inodes::new();
        for _ in 0..3 {
            inodes.looked_up(InodeId(5), FileKind::File, (InodeId::ROOT, b"five"));
        }
        inodes.forget(InodeId(5), 2);
        assert_eq!(inodes.count(), 1);
        inodes.forget(InodeId(5), 1);
        assert_eq!(inodes.count(), 0);
        inodes.forget(InodeId(5), 1);
        assert_eq!(inodes.count(), 0);
    }

    #[test]
    fn pages_hold_only_over_opens_that_saw_the_same_content() {
        let inodes = Inodes::new();
        assert!(!inodes.opened_at(InodeId(5), 1), "unknown to the kernel");
        inodes.looked_up(InodeId(5), FileKind::File, (InodeId::ROOT, b"five"));
        assert!(!inodes.opened_at(InodeId(5), 1), "the first open");
        assert!(inodes.opened_at(InodeId(5), 1));
        assert!(!inodes.opened_at(InodeId(5), 2), "changed");
        assert!(inodes.opened_at(InodeId(5), 2));
        inodes.forget(InodeId(5), 1);
        inodes.looked_up(InodeId(5), FileKind::File, (InodeId::ROOT, b"five"));
        assert!(!inodes.opened_at(InodeId(5), 2), "the kernel had dropped it");
    }

    #[test]
    fn a_message_names_the_path_as_far_as_it_is_known() {
        let inodes = Inodes::new();
        assert_eq!(inodes.describe(InodeId(9)), InodeId(9).to_string());
        inodes.looked_up(InodeId(8), FileKind::Directory, (InodeId::ROOT, b"directory"));
        inodes.looked_up(InodeId(9), FileKind::File, (InodeId(8), b"old name"));
        inodes.looked_up(InodeId(9), FileKind::File, (InodeId(8), b"file\n"));
        assert_eq!(inodes.describe(InodeId(9)), "directory/file\\n (inode 0:9)");
        inodes.forget(InodeId(8), 1);
        assert_eq!(inodes.describe(InodeId(9)), "…/file\\n (inode 0:9)");
    }

    #[test]
    fn a_message_of_the_client_gets_the_path() {
        let inodes = Inodes::new();
        inodes.looked_up(InodeId(9), FileKind::File, (InodeId::ROOT, b"file"));
        let message = format!("{}: 12 bytes: no answer", InodeId(9));
        assert_eq!(inodes.with_path(&message), "file (inode 0:9): 12 bytes: no answer");
        assert_eq!(inodes.with_path("everything: 0:9: x"), "everything: 0:9: x");
    }

    #[test]
    fn names_that_lead_in_a_circle_still_make_an_end() {
        let inodes = Inodes::new();
        inodes.looked_up(InodeId(8), FileKind::File, (InodeId(9), b"a"));
        inodes.looked_up(InodeId(9), FileKind::File, (InodeId(8), b"b"));
        assert!(inodes.describe(InodeId(8)).starts_with("…/"));
    }
}
