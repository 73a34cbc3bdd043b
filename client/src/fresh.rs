//! Attributes that the answer of a change has told, for the kernel's question that follows at once: after a change it forgets
//! what it knew of the directory, and of a new file it believes nothing (`mount::fuse`), so that each `open(O_CREAT)` came
//! with two questions to the metaserver. NFSv3 answers changes with post-operation attributes for the same reason
//! (RFC 1813, 2.6).
//!
//! U1  What is told is never older than a change of this client that returned without an error. A change forgets, when it
//!     begins, what it may alter; what its answer tells is kept only if no other that may alter the same was under way
//!     meanwhile.
//! U2  It is told for [`FRESH_FOR`] only, time asleep included: other clients change things too (SEMANTICS.md, "Between
//!     mounts").

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use dfs_net::env::Clock;
use dfs_proto::attr::{FileKind, InodeAttr};
use dfs_proto::ids::InodeId;
use dfs_proto::meta::{Change, Changed};

/// The kernel asks within a fraction of a millisecond.
const FRESH_FOR: Duration = Duration::from_millis(10);
/// With as many, those that are not fresh any more go. What is known is looked through at changes that may alter anything.
const KNOWN_MAX: usize = 64;

/// See the module.
pub(crate) struct Fresh {
    clock: Arc<dyn Clock>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// With when it was told, by CLOCK_BOOTTIME.
    known: BTreeMap<InodeId, (InodeAttr, Duration)>,
    running: BTreeMap<u64, Running>,
    begun: u64,
}

/// A change under way.
struct Running {
    reach: Reach,
    /// No other was under way meanwhile that may alter the directories that this one names, …
    has_directories: bool,
    /// … or the file that it makes.
    has_file: bool,
}

/// What a change may alter: inodes that it names, and those behind names.
struct Reach {
    named: Vec<InodeId>,
    behind: Behind,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Behind {
    /// A new inode, or none.
    New,
    /// Whatever is not a directory.
    File,
    Anything,
}

impl Reach {
    fn of(change: &Change) -> Reach {
        let reach = |named: &[InodeId], behind| Reach { named: named.to_vec(), behind };
        match change {
            // Of a name that is there, it changes nothing.
            Change::Create(create) => reach(&[create.parent], Behind::New),
            Change::Link { inode, parent, .. } => reach(&[*inode, *parent], Behind::File),
            Change::Unlink { parent, .. } => reach(&[*parent], Behind::File),
            Change::Rmdir { parent, .. } => reach(&[*parent], Behind::Anything),
            Change::Rename(rename) => reach(&[rename.parent, rename.new_parent], Behind::Anything),
            Change::SetAttr(set) => reach(&[set.inode], Behind::File),
            Change::CommitExtents(commit) => {
                Reach { named: commit.files.iter().map(|file| file.inode).collect(), behind: Behind::File }
            }
            Change::ReleaseOrphans { .. } | Change::OpenChunk(_) | Change::SealChunk { .. } => {
                reach(&[], Behind::New)
            }
        }
    }

    fn alters(&self, attr: &InodeAttr) -> bool {
        let is_behind = match self.behind {
            Behind::New => false,
            Behind::File => attr.kind != FileKind::Directory,
            Behind::Anything => true,
        };
        is_behind || self.named.contains(&attr.inode)
    }

    /// The other may alter a directory that this one names.
    fn meets(&self, other: &Reach) -> bool {
        other.behind == Behind::Anything || self.named.iter().any(|inode| other.named.contains(inode))
    }
}

/// A change under way; it has ended when this is dropped.
pub(crate) struct Changing<'f> {
    fresh: &'f Fresh,
    number: u64,
}

impl Fresh {
    pub(crate) fn new(clock: Arc<dyn Clock>) -> Fresh {
        Fresh { clock, state: Mutex::default() }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Keeps U1.
    pub(crate) fn begin(&self, change: &Change) -> Changing<'_> {
        let mut state = self.state();
        let mut new = Running { reach: Reach::of(change), has_directories: true, has_file: true };
        for other in state.running.values_mut() {
            other.has_directories &= !other.reach.meets(&new.reach);
            new.has_directories &= !new.reach.meets(&other.reach);
            other.has_file &= new.reach.behind == Behind::New;
            new.has_file &= other.reach.behind == Behind::New;
        }
        match new.reach.behind {
            Behind::New => {
                for inode in &new.reach.named {
                    state.known.remove(inode);
                }
            }
            Behind::File | Behind::Anything => state.known.retain(|_, (attr, _)| !new.reach.alters(attr)),
        }
        state.begun += 1;
        let number = state.begun;
        state.running.insert(number, new);
        Changing { fresh: self, number }
    }

    /// What the inode's attributes were a moment ago, if that is known.
    pub(crate) fn get(&self, inode: InodeId) -> Option<InodeAttr> {
        let state = self.state();
        let (attr, since) = state.known.get(&inode)?;
        is_fresh(*since, self.clock.boottime()).then(|| attr.clone()) // keeps U2
    }
}

fn is_fresh(since: Duration, now: Duration) -> bool {
    now.saturating_sub(since) < FRESH_FOR
}

impl Changing<'_> {
    /// It was answered. What a repeated request answers was remembered: the file may be another by now.
    pub(crate) fn answered(self, changed: &Changed, directories: Vec<InodeAttr>, is_first_try: bool) {
        let mut state = self.fresh.state();
        let Some(own) = state.running.remove(&self.number) else { return };
        let now = self.fresh.clock.boottime();
        if state.known.len() >= KNOWN_MAX {
            state.known.retain(|_, (_, since)| is_fresh(*since, now));
        }
        if own.has_directories {
            state.known.extend(directories.into_iter().map(|attr| (attr.inode, (attr, now))));
        }
        // A new directory may have got a name in it already, by a change that does not meet this one.
        if let Changed::Inode { attr, existed: false, .. } = changed
            && attr.kind != FileKind::Directory
            && own.reach.behind == Behind::New
            && own.has_file
            && is_first_try
        {
            state.known.insert(attr.inode, (attr.clone(), now));
        }
    }
}

impl Drop for Changing<'_> {
    fn drop(&mut self) {
        self.fresh.state().running.remove(&self.number);
    }
}

#[cfg(test)]
mod tests {
    use dfs_proto::attr::{Name, Timestamp};
    use dfs_proto::meta::{Create, NewInode, SetAttr};
    use dfs_proto::units::ByteLen;

    use super::*;
    use crate::fakes::TokioClock;

    const DIRECTORY: InodeId = InodeId(7);
    const FILE: InodeId = InodeId(8);

    fn fresh() -> Fresh {
        Fresh::new(Arc::new(TokioClock::start()))
    }

    fn name() -> Name {
        Name::new(b"f").unwrap()
    }

    fn create_in(parent: InodeId) -> Change {
        let (mode, what) = (0o644, NewInode::File);
        Change::Create(Create { parent, name: name(), mode, what, or_existing: false })
    }

    fn unlink_in(parent: InodeId) -> Change {
        Change::Unlink { parent, name: name() }
    }

    fn chmod(inode: InodeId) -> Change {
        Change::SetAttr(SetAttr { inode, mode: Some(0), ..SetAttr::default() })
    }

    fn attr(inode: InodeId, kind: FileKind) -> InodeAttr {
        let time = Timestamp { seconds: 0, nanos: 0 };
        InodeAttr {
            inode,
            kind,
            mode: 0,
            nlink: 1,
            uid: 0,
            gid: 0,
            size: ByteLen(0),
            allocated: ByteLen(0),
            rdev: 0,
            atime: time,
            mtime: time,
            ctime: time,
            content_version: 0,
        }
    }

    fn answer(changing: Changing<'_>) {
        let changed = Changed::Inode { attr: attr(FILE, FileKind::File), existed: false, next_commit: 1 };
        changing.answered(&changed, vec![attr(DIRECTORY, FileKind::Directory)], true);
    }

    fn known(fresh: &Fresh) -> [bool; 2] {
        [DIRECTORY, FILE].map(|inode| fresh.get(inode).is_some())
    }

    #[tokio::test(start_paused = true)]
    async fn a_create_tells_of_its_directory_and_its_file_for_a_moment() {
        let fresh = fresh();
        answer(fresh.begin(&create_in(DIRECTORY)));
        assert_eq!(known(&fresh), [true, true]);
        tokio::time::advance(FRESH_FOR).await;
        assert_eq!(known(&fresh), [false, false]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_change_that_begins_makes_forgotten_what_it_may_alter() {
        let elsewhere = InodeId(99);
        for (change, left) in [
            (create_in(DIRECTORY), [false, true]),
            (create_in(elsewhere), [true, true]),
            (unlink_in(elsewhere), [true, false]),
            (chmod(DIRECTORY), [false, false]),
            (chmod(FILE), [true, false]),
            (Change::Rmdir { parent: elsewhere, name: name() }, [false, false]),
        ] {
            let fresh = fresh();
            answer(fresh.begin(&create_in(DIRECTORY)));
            drop(fresh.begin(&change));
            assert_eq!(known(&fresh), left, "{change:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn what_a_repeated_create_answers_of_its_file_and_any_of_a_new_directory_is_not_believed() {
        for (kind, is_first_try) in [(FileKind::File, false), (FileKind::Directory, true)] {
            let fresh = fresh();
            let changed = Changed::Inode { attr: attr(FILE, kind), existed: false, next_commit: 1 };
            let directories = vec![attr(DIRECTORY, FileKind::Directory)];
            fresh.begin(&create_in(DIRECTORY)).answered(&changed, directories, is_first_try);
            assert_eq!(known(&fresh), [true, false], "{kind:?}");
        }
    }

    /// Whichever began first, and whether or not the other has ended by the time of the answer.
    #[tokio::test(start_paused = true)]
    async fn an_answer_is_not_believed_of_what_another_change_may_have_altered_meanwhile() {
        let elsewhere = InodeId(99);
        for (change, kept) in [
            (create_in(DIRECTORY), [false, true]),
            (create_in(elsewhere), [true, true]),
            (unlink_in(elsewhere), [true, false]),
            (chmod(DIRECTORY), [false, false]),
            (Change::Rmdir { parent: elsewhere, name: name() }, [false, false]),
        ] {
            for began_before in [false, true] {
                let fresh = fresh();
                let before = began_before.then(|| fresh.begin(&change));
                let create = fresh.begin(&create_in(DIRECTORY));
                let after = (!began_before).then(|| fresh.begin(&change));
                drop((before, after));
                answer(create);
                assert_eq!(known(&fresh), kept, "{change:?}, began before: {began_before}");
            }
        }
    }

    /// A laptop that slept was shown attributes of the evening before: its monotonic clock had stood still.
    #[test]
    fn what_was_told_before_a_sleep_is_not_told_after_it() {
        let clock = Arc::new(TokioClock::stopped());
        let fresh = Fresh::new(clock.clone());
        answer(fresh.begin(&create_in(DIRECTORY)));
        assert_eq!(known(&fresh), [true, true]);
        clock.sleep_through(Duration::from_secs(3600));
        assert_eq!(known(&fresh), [false, false]);
    }
}
