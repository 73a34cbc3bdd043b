//! The files that a session has open, and those that it has closed and the leader does not know it of.
//!
//! OF1  The leader is told of a close when no open of the file is under way that it may have heard of first: what is opened
//!      again while its close is on the way waits until that was answered ([`OpenFiles::is_in_doubt`]).

use std::collections::{BTreeMap, BTreeSet};

use dfs_proto::ids::InodeId;
use dfs_proto::lock::TOLD_FILES_MAX;

/// Files that one session opens. An attachment may tell of some more: those that are open for a flush after they were closed, and those
/// that were being made when the bound was reached.
pub(super) const OPEN_FILES_MAX: usize = TOLD_FILES_MAX - (1 << 16);

/// Closed files that one heartbeat may name. When there are more, all that is open is told anew instead.
pub(super) const CLOSED_MAX: usize = 10_000;

#[derive(Default)]
pub(super) struct OpenFiles {
    /// How often each is open.
    open: BTreeMap<InodeId, u32>,
    /// The leader is to be told.
    closed: BTreeSet<InodeId>,
    /// It was told, and has not answered.
    told: BTreeSet<InodeId>,
}

impl OpenFiles {
    pub(super) fn opened(&mut self, inode: InodeId) {
        *self.open.entry(inode).or_default() += 1;
        self.closed.remove(&inode);
    }

    /// False if there are too many to be told one by one.
    pub(super) fn closed(&mut self, inode: InodeId) -> bool {
        let Some(count) = self.open.get_mut(&inode) else { return true };
        *count -= 1; // above 0, or it would not be there
        if *count > 0 {
            return true;
        }
        self.open.remove(&inode);
        self.closed.insert(inode);
        let fits = self.closed.len() <= CLOSED_MAX;
        if !fits {
            self.closed.clear();
        }
        fits
    }

    /// The leader may hear of its close later than of an open that begins now (OF1).
    pub(super) fn is_in_doubt(&self, inode: InodeId) -> bool {
        self.told.contains(&inode)
    }

    pub(super) fn is_open(&self, inode: InodeId) -> bool {
        self.open.contains_key(&inode)
    }

    pub(super) fn count(&self) -> usize {
        self.open.len()
    }

    pub(super) fn all(&self) -> Vec<InodeId> {
        self.open.keys().copied().collect()
    }

    /// What a heartbeat tells.
    pub(super) fn tell(&mut self) -> Vec<InodeId> {
        if self.told.is_empty() {
            let next = std::iter::from_fn(|| self.closed.pop_first());
            self.told = next.take(CLOSED_MAX).collect();
        }
        self.told.iter().copied().collect()
    }

    pub(super) fn has_told(&self) -> bool {
        !self.told.is_empty()
    }

    /// The leader knows what it was told.
    pub(super) fn was_heard(&mut self) {
        self.told.clear();
    }

    /// The leader was told all that is open, and may have missed what it was told before: that is told again.
    pub(super) fn was_attached(&mut self) {
        let told = std::mem::take(&mut self.told);
        self.closed.extend(told.into_iter().filter(|inode| !self.open.contains_key(inode)));
    }

    /// Another session does not have open what this one had closed.
    pub(super) fn forget_closed(&mut self) {
        self.closed.clear();
        self.told.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: InodeId = InodeId(7);

    #[test]
    fn a_close_is_told_again_until_it_was_heard_unless_the_file_was_opened_again() {
        for is_opened_again in [false, true] {
            let mut files = OpenFiles::default();
            files.opened(FILE);
            files.opened(FILE);
            assert!(files.closed(FILE) && files.tell().is_empty(), "it is still open");
            assert!(files.closed(FILE));
            assert_eq!(files.tell(), [FILE]);
            assert!(files.is_in_doubt(FILE));
            if is_opened_again {
                files.opened(FILE);
            }
            files.was_attached(); // the heartbeat got no answer
            assert!(!files.is_in_doubt(FILE));
            assert_eq!(files.tell().is_empty(), is_opened_again);
            files.was_heard();
            assert!(files.tell().is_empty());
        }
    }

    #[test]
    fn what_is_opened_again_before_its_close_was_told_was_never_closed() {
        let mut files = OpenFiles::default();
        files.opened(FILE);
        files.closed(FILE);
        files.opened(FILE);
        assert!(files.tell().is_empty());
    }

    #[test]
    fn more_closed_files_than_a_heartbeat_may_name_are_forgotten() {
        let mut files = OpenFiles::default();
        for number in 0..CLOSED_MAX as u64 {
            files.opened(InodeId(number));
            assert!(files.closed(InodeId(number)));
        }
        files.opened(InodeId(u64::MAX));
        assert!(!files.closed(InodeId(u64::MAX)));
        assert!(files.tell().is_empty());
    }
}
