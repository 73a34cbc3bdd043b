//! Which size and mtime of an inode the kernel has for certain.
//!
//! The kernel does not take an answer with attributes if they were changed or invalidated there since it asked. Who reads then reads up to
//! the size of before, and in pages that the new mtime would have dropped. So the kernel may be told to forget attributes only while
//! every answer that could be under way says what it has taken already (KA6 of `kernel_attrs`).
//!
//! TK1  The first answer that makes an inode known to the kernel is taken.
//! TK2  Another one is taken, within [`SETTLED_AFTER`], if neither an invalidation nor an answer that said something else came since
//!      that long before its question arrived.
//!
//! A time is all that tells: nobody hears when the kernel looks at an answer, nor how long a question lay before it was read. Where a
//! thread of the kernel is scheduled later than that *and* an invalidation comes at that moment, one read is short.

use std::time::Duration;

use dfs_proto::attr::{InodeAttr, Timestamp};
use tokio::time::Instant;

/// Longer than a question waits to be read, and than a thread of the kernel that has its answer waits for a processor.
const SETTLED_AFTER: Duration = Duration::from_millis(20);

/// What decides which bytes a read through the page cache shows.
type Value = (u64, Timestamp);

fn value_of(attr: &InodeAttr) -> Value {
    (attr.size.0, attr.mtime)
}

/// Of one inode.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Taken {
    /// What the last answer said.
    said: Option<Value>,
    /// From here on the kernel has it. `None`: perhaps never.
    settled: Option<Instant>,
    /// Questions from before this have answers that perhaps are not taken.
    disturbed: Option<Instant>,
}

impl Taken {
    /// The kernel knows the inode by an answer with these attributes (TK1).
    pub(crate) fn began(attr: &InodeAttr, now: Instant) -> Taken {
        Taken { said: Some(value_of(attr)), settled: Some(now), disturbed: Some(now) }
    }

    /// An answer with these attributes goes to the kernel. `asked`: when its question arrived, if that is known.
    pub(crate) fn answered(&mut self, attr: &InodeAttr, asked: Option<Instant>, now: Instant) {
        let is_undisturbed = asked.is_some_and(|asked| {
            self.disturbed.is_none_or(|disturbed| asked.saturating_duration_since(disturbed) >= SETTLED_AFTER)
        });
        if self.said != Some(value_of(attr)) {
            (self.said, self.settled, self.disturbed) = (Some(value_of(attr)), None, Some(now));
        }
        if is_undisturbed {
            self.settled.get_or_insert(now + SETTLED_AFTER); // keeps TK2
        }
    }

    /// The kernel is told to forget the attributes.
    pub(crate) fn invalidated(&mut self, now: Instant) {
        self.disturbed = Some(now);
        self.settled = self.settled.filter(|settled| *settled <= now);
    }

    /// The kernel has the size and the mtime of these attributes.
    pub(crate) fn are(&self, attr: &InodeAttr, now: Instant) -> bool {
        self.said == Some(value_of(attr)) && self.settled.is_some_and(|settled| settled <= now)
    }
}

#[cfg(test)]
mod tests {
    use dfs_proto::attr::FileKind;
    use dfs_proto::ids::InodeId;
    use dfs_proto::units::ByteLen;

    use super::*;

    fn attr(size: u64) -> InodeAttr {
        let time = Timestamp::default();
        InodeAttr {
            inode: InodeId(5),
            kind: FileKind::File,
            mode: 0,
            nlink: 1,
            uid: 0,
            gid: 0,
            size: ByteLen(size),
            allocated: ByteLen(0),
            rdev: 0,
            atime: time,
            mtime: time,
            ctime: time,
            content_version: 1,
        }
    }

    /// `n` times a bit more than what settles an answer.
    fn after(start: Instant, n: u32) -> Instant {
        start + n * (SETTLED_AFTER + Duration::from_millis(1))
    }

    #[test]
    fn what_makes_an_inode_known_is_taken_and_what_says_something_else_a_while_after_it_was_said() {
        let start = Instant::now();
        let mut taken = Taken::began(&attr(1), start);
        assert!(taken.are(&attr(1), start));
        assert!(!taken.are(&attr(2), start));
        taken.answered(&attr(2), Some(after(start, 1)), after(start, 1));
        assert!(!taken.are(&attr(2), after(start, 1)), "it is under way");
        assert!(taken.are(&attr(2), after(start, 2)));
        assert!(!taken.are(&attr(1), after(start, 2)));
    }

    #[test]
    fn an_answer_that_an_invalidation_overtakes_is_not_taken_and_the_next_one_is() {
        let start = Instant::now();
        let mut taken = Taken::began(&attr(1), start);
        taken.answered(&attr(2), Some(start), start);
        taken.invalidated(start);
        assert!(!taken.are(&attr(2), after(start, 9)));
        taken.answered(&attr(2), Some(start), after(start, 9));
        assert!(!taken.are(&attr(2), after(start, 18)), "it was asked for before the invalidation");
        taken.answered(&attr(2), Some(after(start, 18)), after(start, 18));
        assert!(taken.are(&attr(2), after(start, 19)));
        taken.invalidated(after(start, 19));
        assert!(
            taken.are(&attr(2), after(start, 19)),
            "the kernel forgets for how long it holds, not what it was"
        );
    }

    #[test]
    fn of_two_answers_that_cross_none_is_taken_for_certain() {
        let start = Instant::now();
        let mut taken = Taken::began(&attr(1), start);
        taken.answered(&attr(3), Some(start), start);
        taken.answered(&attr(2), Some(start), start);
        assert!(!taken.are(&attr(2), after(start, 9)));
        assert!(!taken.are(&attr(3), after(start, 9)));
        taken.answered(&attr(2), None, after(start, 9));
        assert!(!taken.are(&attr(2), after(start, 18)), "nobody knows when that was asked for");
    }
}
