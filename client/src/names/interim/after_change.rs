//! V4: the attributes that the answer to a change of this client brought are used again for [`VALID_FOR`].
//!
//! After a change the kernel forgets what it knew of the directory, and it trusts no attributes of a new file. So it asked the
//! metaserver twice more for each `open(O_CREAT)`. NFSv3 answers changes with post-operation attributes for the same reason
//! (RFC 1813, 2.6).
//!
//! U1  An attribute that is used again is never older than a change of this client that returned without an error. When a
//!     change begins, it drops the attributes that it may alter; the attributes in its answer are kept only if no other change
//!     that may alter the same inodes was under way at the same time.
//! U2  It is used for [`VALID_FOR`] only, and the time for which the machine slept counts: other clients change things too
//!     (SEMANTICS.md, "Between mounts").

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use dfs_net::env::Clock;
use dfs_proto::attr::{FileKind, InodeAttr};
use dfs_proto::ids::InodeId;
use dfs_proto::meta::{Change, Changed};

/// The kernel asks within a fraction of a millisecond.
const VALID_FOR: Duration = Duration::from_millis(10);
/// When there are this many attributes, those that are no longer valid are dropped. A change that may alter anything looks at
/// all of them, so there must not be many.
const KNOWN_MAX: usize = 64;

/// The attributes that answers to changes brought, and the changes that are under way.
pub(crate) struct AttrsAfterChange {
    clock: Arc<dyn Clock>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// Each with the time of its answer, by CLOCK_BOOTTIME.
    known: BTreeMap<InodeId, (InodeAttr, Duration)>,
    under_way: BTreeMap<u64, UnderWay>,
    begun: u64,
}

/// What the answer of a change that is under way may bring.
struct UnderWay {
    reach: Reach,
    /// No other change was under way at the same time that may alter the directories which this one names.
    has_directories: bool,
    /// No other change was under way at the same time that may alter the file which this one makes.
    has_file: bool,
}

/// What a change may alter: the inodes that it names by number, and those that it reaches by name.
struct Reach {
    named: Vec<InodeId>,
    by_name: ByName,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum ByName {
    /// A new inode, or none at all.
    New,
    /// Any inode that is not a directory.
    File,
    /// Any inode.
    Anything,
}

impl Reach {
    fn of(change: &Change) -> Reach {
        let reach = |named: &[InodeId], by_name| Reach { named: named.to_vec(), by_name };
        match change {
            // It changes nothing of an inode that already has the name.
            Change::Create(create) => reach(&[create.parent], ByName::New),
            Change::Link { inode, parent, .. } => reach(&[*inode, *parent], ByName::File),
            Change::Unlink { parent, .. } => reach(&[*parent], ByName::File),
            Change::Rmdir { parent, .. } => reach(&[*parent], ByName::Anything),
            Change::Rename(rename) => reach(&[rename.parent, rename.new_parent], ByName::Anything),
            Change::SetAttr(set) => reach(&[set.inode], ByName::File),
            Change::CommitExtents(commit) => {
                Reach { named: commit.files.iter().map(|file| file.inode).collect(), by_name: ByName::File }
            }
            Change::ReleaseOrphans { .. } | Change::OpenChunk(_) | Change::SealChunk { .. } => {
                reach(&[], ByName::New)
            }
        }
    }

    fn alters(&self, attr: &InodeAttr) -> bool {
        let is_reached_by_name = match self.by_name {
            ByName::New => false,
            ByName::File => attr.kind != FileKind::Directory,
            ByName::Anything => true,
        };
        is_reached_by_name || self.named.contains(&attr.inode)
    }

    /// True if the other change may alter a directory that this one names.
    fn meets(&self, other: &Reach) -> bool {
        other.by_name == ByName::Anything || self.named.iter().any(|inode| other.named.contains(inode))
    }
}

/// A change that is under way; it has ended when this is dropped.
pub(crate) struct ChangeUnderWay<'k> {
    attrs: &'k AttrsAfterChange,
    number: u64,
}

impl AttrsAfterChange {
    pub(crate) fn new(clock: Arc<dyn Clock>) -> AttrsAfterChange {
        AttrsAfterChange { clock, state: Mutex::default() }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// To be called before `change` is sent. Keeps U1.
    pub(crate) fn begin(&self, change: &Change) -> ChangeUnderWay<'_> {
        let mut state = self.state();
        let mut new = UnderWay { reach: Reach::of(change), has_directories: true, has_file: true };
        for other in state.under_way.values_mut() {
            other.has_directories &= !other.reach.meets(&new.reach);
            new.has_directories &= !new.reach.meets(&other.reach);
            other.has_file &= new.reach.by_name == ByName::New;
            new.has_file &= other.reach.by_name == ByName::New;
        }
        match new.reach.by_name {
            ByName::New => {
                for inode in &new.reach.named {
                    state.known.remove(inode);
                }
            }
            ByName::File | ByName::Anything => state.known.retain(|_, (attr, _)| !new.reach.alters(attr)),
        }
        state.begun += 1;
        let number = state.begun;
        state.under_way.insert(number, new);
        ChangeUnderWay { attrs: self, number }
    }

    /// The attributes of `inode`, if a change brought them a moment ago.
    pub(crate) fn get(&self, inode: InodeId) -> Option<InodeAttr> {
        let state = self.state();
        let (attr, since) = state.known.get(&inode)?;
        is_valid(*since, self.clock.boottime()).then(|| attr.clone()) // keeps U2
    }
}

fn is_valid(since: Duration, now: Duration) -> bool {
    now.saturating_sub(since) < VALID_FOR
}

impl ChangeUnderWay<'_> {
    /// The change was answered, and altered `directories`. A request that was repeated is answered from the server's memory:
    /// the file may have changed since, so the answer's attributes of the file are kept only after a first try.
    pub(crate) fn answered(self, changed: &Changed, directories: Vec<InodeAttr>, is_first_try: bool) {
        let mut state = self.attrs.state();
        let Some(own) = state.under_way.remove(&self.number) else { return };
        let now = self.attrs.clock.boottime();
        if state.known.len() >= KNOWN_MAX {
            state.known.retain(|_, (_, since)| is_valid(*since, now));
        }
        if own.has_directories {
            state.known.extend(directories.into_iter().map(|attr| (attr.inode, (attr, now))));
        }
        // A new directory may have got a name in it already, by a change that does not meet this one.
        if let Changed::Inode { attr, existed: false, .. } = changed
            && attr.kind != FileKind::Directory
            && own.reach.by_name == ByName::New
            && own.has_file
            && is_first_try
        {
            state.known.insert(attr.inode, (attr.clone(), now));
        }
    }
}

impl Drop for ChangeUnderWay<'_> {
    fn drop(&mut self) {
        self.attrs.state().under_way.remove(&self.number);
    }
}

#[cfg(test)]
mod tests {
    use dfs_proto::attr::{Name, Timestamp};
    use dfs_proto::meta::{Create, NewInode, SetAttr};
    use dfs_proto::units::ByteLen;

    use super::*;
    use crate::fakes::clock::TokioClock;

    const DIRECTORY: InodeId = InodeId(7);
    const FILE: InodeId = InodeId(8);

    fn attrs() -> AttrsAfterChange {
        AttrsAfterChange::new(Arc::new(TokioClock::start()))
    }

    fn name() -> Name {
        Name::new(b"f").unwrap()
    }

    fn create_in(parent: InodeId) -> Change {
        let (mode, what) = (0o644, NewInode::File);
        Change::Create(Create { parent, name: name(), mode, what, or_existing: false, opens: false })
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

    fn answer(under_way: ChangeUnderWay<'_>) {
        let changed = Changed::Inode { attr: attr(FILE, FileKind::File), existed: false, next_commit: 1 };
        under_way.answered(&changed, vec![attr(DIRECTORY, FileKind::Directory)], true);
    }

    fn known(attrs: &AttrsAfterChange) -> [bool; 2] {
        [DIRECTORY, FILE].map(|inode| attrs.get(inode).is_some())
    }

    #[tokio::test(start_paused = true)]
    async fn the_answer_to_a_create_gives_the_attributes_of_its_directory_and_file_for_a_moment() {
        let attrs = attrs();
        answer(attrs.begin(&create_in(DIRECTORY)));
        assert_eq!(known(&attrs), [true, true]);
        tokio::time::advance(VALID_FOR).await;
        assert_eq!(known(&attrs), [false, false]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_change_that_begins_drops_the_attributes_that_it_may_alter() {
        let elsewhere = InodeId(99);
        for (change, left) in [
            (create_in(DIRECTORY), [false, true]),
            (create_in(elsewhere), [true, true]),
            (unlink_in(elsewhere), [true, false]),
            (chmod(DIRECTORY), [false, false]),
            (chmod(FILE), [true, false]),
            (Change::Rmdir { parent: elsewhere, name: name() }, [false, false]),
        ] {
            let attrs = attrs();
            answer(attrs.begin(&create_in(DIRECTORY)));
            drop(attrs.begin(&change));
            assert_eq!(known(&attrs), left, "{change:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn the_attributes_of_a_file_from_a_repeated_create_and_of_any_new_directory_are_not_kept() {
        for (kind, is_first_try) in [(FileKind::File, false), (FileKind::Directory, true)] {
            let attrs = attrs();
            let changed = Changed::Inode { attr: attr(FILE, kind), existed: false, next_commit: 1 };
            let directories = vec![attr(DIRECTORY, FileKind::Directory)];
            attrs.begin(&create_in(DIRECTORY)).answered(&changed, directories, is_first_try);
            assert_eq!(known(&attrs), [true, false], "{kind:?}");
        }
    }

    /// Whichever began first, and whether or not the other has ended by the time of the answer.
    #[tokio::test(start_paused = true)]
    async fn an_answer_brings_no_attributes_of_inodes_that_another_change_may_have_altered_meanwhile() {
        let elsewhere = InodeId(99);
        for (change, kept) in [
            (create_in(DIRECTORY), [false, true]),
            (create_in(elsewhere), [true, true]),
            (unlink_in(elsewhere), [true, false]),
            (chmod(DIRECTORY), [false, false]),
            (Change::Rmdir { parent: elsewhere, name: name() }, [false, false]),
        ] {
            for began_before in [false, true] {
                let attrs = attrs();
                let before = began_before.then(|| attrs.begin(&change));
                let create = attrs.begin(&create_in(DIRECTORY));
                let after = (!began_before).then(|| attrs.begin(&change));
                drop((before, after));
                answer(create);
                assert_eq!(known(&attrs), kept, "{change:?}, began before: {began_before}");
            }
        }
    }

    /// A laptop that slept was shown attributes of the evening before: its monotonic clock had stood still.
    #[test]
    fn what_was_told_before_a_sleep_is_not_told_after_it() {
        let clock = Arc::new(TokioClock::stopped());
        let attrs = AttrsAfterChange::new(clock.clone());
        answer(attrs.begin(&create_in(DIRECTORY)));
        assert_eq!(known(&attrs), [true, true]);
        clock.sleep_through(Duration::from_secs(3600));
        assert_eq!(known(&attrs), [false, false]);
    }
}
