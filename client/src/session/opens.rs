//! The files that a session has open, and those that it has closed and the leader does not know it of.
//!
//! OF1  The leader is told of a close when no open of the file is under way that it may have heard of first: what is opened
//!      again while its close is on the way waits until that was answered ([`OpenFiles::is_in_doubt`]).
//! OF2  An open that a lease covers is untold: the leader hears of it, if at all, from the answer to the recall of that lease, or from
//!      an attachment. The close of an untold file is told to nobody.
//! OF3  The answer to a recall names all recalled files that are open, whether the leader knows of them or not; to a recall of everything
//!      those that it does not know. Until it is confirmed, no close of these files is told: it could arrive first, and the leader
//!      would take the file for open for ever.

use std::collections::{BTreeMap, BTreeSet};

use dfs_proto::ids::InodeId;
use dfs_proto::lock::TOLD_FILES_MAX;
use dfs_proto::meta::Recalled;

/// Files that one session opens. An attachment may tell of some more: those that are open for a flush after they were closed, and those
/// that were being made when the bound was reached.
pub(super) const OPEN_FILES_MAX: usize = TOLD_FILES_MAX - (1 << 16);

/// Closed files that one heartbeat may name. When there are more, all that is open is told anew instead.
pub(super) const CLOSED_MAX: usize = 10_000;

/// Open files of which the leader has not been told. Beyond it, it is asked. All of them may have to be told at once.
pub(super) const UNTOLD_MAX: usize = 100_000;

/// Open files that the answers to recalls name in one call. When there are more, all that is open is told anew instead.
pub(super) const NAMED_MAX: usize = 10_000;

#[derive(Default)]
pub(super) struct OpenFiles {
    open: BTreeMap<InodeId, Open>,
    /// How many of them the leader certainly does not know (OF2).
    untold: usize,
    /// The leader is to be told.
    closed: BTreeSet<InodeId>,
    /// It was told, and has not answered.
    told: BTreeSet<InodeId>,
    /// Named as open in the answer to this recall, which the leader has not confirmed (OF3).
    named: BTreeMap<InodeId, u64>,
}

struct Open {
    count: u32,
    /// The leader may know of it: its close is told.
    may_be_known: bool,
}

impl OpenFiles {
    /// The leader is asked to open it, or has made it.
    pub(super) fn opened(&mut self, inode: InodeId) {
        self.add(inode, true);
    }

    /// Of this open the leader is not told. False: it has to be asked (OF1), or too many are untold.
    pub(super) fn opened_untold(&mut self, inode: InodeId) -> bool {
        let has_room = self.untold < UNTOLD_MAX || self.open.contains_key(&inode);
        let may_open = has_room && !self.is_in_doubt(inode);
        if may_open {
            self.add(inode, false);
        }
        may_open
    }

    fn add(&mut self, inode: InodeId, may_be_known: bool) {
        let may_be_known = self.closed.remove(&inode) || may_be_known;
        let open = self.open.entry(inode).or_insert_with(|| {
            self.untold += 1;
            Open { count: 0, may_be_known: false }
        });
        open.count += 1;
        if may_be_known {
            self.untold -= usize::from(!std::mem::replace(&mut open.may_be_known, true));
        }
    }

    /// False if there are too many to be told one by one.
    pub(super) fn closed(&mut self, inode: InodeId) -> bool {
        let Some(open) = self.open.get_mut(&inode) else { return true };
        open.count -= 1; // above 0, or it would not be there
        if open.count > 0 {
            return true;
        }
        let may_be_known = open.may_be_known;
        self.open.remove(&inode);
        if !may_be_known {
            self.untold -= 1;
            return true; // nobody was told
        }
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

    /// What an attachment tells: all.
    pub(super) fn tell_all(&mut self) -> Vec<InodeId> {
        self.open.values_mut().for_each(|open| open.may_be_known = true);
        self.untold = 0;
        self.named.clear(); // the answers to recalls belong to the attachment before
        self.open.keys().copied().collect()
    }

    /// What the answer to this recall tells (OF3). `None` if that is too much.
    pub(super) fn tell_recalled(&mut self, what: &Recalled, recall: u64) -> Option<BTreeSet<InodeId>> {
        let is_open = |inode: &InodeId| self.open.contains_key(inode);
        let untold = || self.open.iter().filter(|(_, open)| !open.may_be_known).map(|(inode, _)| *inode);
        let open: BTreeSet<InodeId> = match what {
            Recalled::Everything => untold().take(NAMED_MAX + 1).collect(),
            Recalled::Inodes(inodes) => inodes.iter().map(|(inode, _)| *inode).filter(is_open).collect(),
        };
        if open.len() > NAMED_MAX {
            return None;
        }
        for inode in &open {
            if let Some(open) = self.open.get_mut(inode) {
                self.untold -= usize::from(!std::mem::replace(&mut open.may_be_known, true));
            }
            self.named.insert(*inode, recall);
        }
        Some(open)
    }

    /// The leader has the answers to all recalls up to this one.
    pub(super) fn recalls_were_answered(&mut self, up_to: u64) {
        self.named.retain(|_, recall| *recall > up_to);
    }

    /// What a heartbeat tells.
    pub(super) fn tell(&mut self) -> Vec<InodeId> {
        if self.told.is_empty() {
            let may_be_told = self.closed.iter().filter(|inode| !self.named.contains_key(inode)); // keeps OF3
            self.told = may_be_told.take(CLOSED_MAX).copied().collect();
            self.closed.retain(|inode| !self.told.contains(inode));
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

    #[test]
    fn the_close_of_a_file_is_told_only_if_the_leader_may_know_of_its_open() {
        let named = Recalled::Inodes(vec![(FILE, Vec::new()), (InodeId(8), Vec::new())]);
        let told_after = |act: &dyn Fn(&mut OpenFiles)| {
            let mut files = OpenFiles::default();
            assert!(files.opened_untold(FILE));
            act(&mut files);
            assert!(files.closed(FILE));
            assert_eq!(files.untold, 0);
            !files.tell().is_empty()
        };
        assert!(!told_after(&|_| {}));
        assert!(told_after(&|files| drop(files.tell_all())));
        let asked = |files: &mut OpenFiles| {
            files.opened(FILE);
            files.closed(FILE);
        };
        assert!(told_after(&asked));
        let recalled = |files: &mut OpenFiles| {
            assert_eq!(files.tell_recalled(&named, 1), Some(BTreeSet::from([FILE])));
            files.recalls_were_answered(1);
        };
        assert!(told_after(&recalled));
    }

    /// The two calls may overtake each other.
    #[test]
    fn no_close_is_told_before_the_answer_that_names_the_file_as_open_is_confirmed() {
        let mut files = OpenFiles::default();
        assert!(files.opened_untold(FILE));
        assert_eq!(files.tell_recalled(&Recalled::Everything, 3), Some(BTreeSet::from([FILE])));
        files.closed(FILE);
        assert!(files.tell().is_empty());
        files.recalls_were_answered(2);
        assert!(files.tell().is_empty(), "it was named later");
        files.recalls_were_answered(3);
        assert_eq!(files.tell(), [FILE]);
        assert!(!files.opened_untold(FILE), "its close may arrive after the answer to another recall");
        files.was_heard();
        assert!(files.opened_untold(FILE));
    }

    /// A mount with more files than an answer may name would attach anew for each of these recalls.
    #[test]
    fn the_answer_to_a_recall_of_everything_names_only_what_the_leader_does_not_know() {
        let mut files = OpenFiles::default();
        for number in 0..=NAMED_MAX as u64 {
            files.opened(InodeId(100 + number));
        }
        assert!(files.opened_untold(FILE));
        assert_eq!(files.tell_recalled(&Recalled::Everything, 1), Some(BTreeSet::from([FILE])));
        assert_eq!(
            files.tell_recalled(&Recalled::Everything, 2),
            Some(BTreeSet::new()),
            "the first answer names it"
        );
    }

    #[test]
    fn a_file_whose_close_was_not_told_yet_is_known_to_the_leader_when_it_is_opened_again() {
        let mut files = OpenFiles::default();
        files.opened(FILE);
        files.closed(FILE);
        assert!(files.opened_untold(FILE));
        assert_eq!((files.untold, files.tell()), (0, Vec::new()));
        files.closed(FILE);
        assert_eq!(files.tell(), [FILE]);
    }

    #[test]
    fn more_untold_files_than_the_bound_are_asked_for_and_more_named_ones_told_anew() {
        let mut files = OpenFiles::default();
        for number in 0..UNTOLD_MAX as u64 {
            assert!(files.opened_untold(InodeId(number)));
        }
        assert!(!files.opened_untold(InodeId(u64::MAX)));
        assert!(files.opened_untold(InodeId(5)), "it is open already");
        assert_eq!(files.tell_recalled(&Recalled::Everything, 1), None);
        files.closed(InodeId(6));
        assert!(files.opened_untold(InodeId(u64::MAX)));
    }
}
