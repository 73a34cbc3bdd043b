//! What one owner has locked of one file, as a client keeps it: with the open file through which each lock was set.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use dfs_proto::ids::{InodeId, LockOwner};
use dfs_proto::lock::{HeldLock, LockKind};
use dfs_proto::lock_ranges::{Piece, Ranges};

/// Tells one open file that a lock which was set through it is lost.
#[derive(Clone, Debug, Default)]
pub(crate) struct LockLoss(Arc<AtomicBool>);

impl LockLoss {
    pub(super) fn note(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    pub(crate) fn is_noted(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }

    /// True once after a loss.
    pub(crate) fn take(&self) -> bool {
        self.0.load(Ordering::Relaxed) && self.0.swap(false, Ordering::Relaxed)
    }
}

impl PartialEq for LockLoss {
    fn eq(&self, other: &LockLoss) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

/// A lock of one owner and file.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct SetLock {
    pub(super) kind: LockKind,
    pub(super) process: u32,
    /// The open file that it was set through.
    pub(super) through: LockLoss,
}

pub(super) type SetRanges = Ranges<SetLock>;

impl SetLock {
    pub(super) fn of(lock: &HeldLock, through: &LockLoss) -> SetLock {
        SetLock { kind: lock.kind, process: lock.process, through: through.clone() }
    }
}

/// As the leader has them: it does not know through which open file each was set.
pub(super) fn as_held(pieces: &[Piece<SetLock>], inode: InodeId, owner: LockOwner) -> Vec<HeldLock> {
    let mut ranges = Ranges::default();
    for Piece { range, what } in pieces {
        ranges.set(*range, (what.kind, what.process));
    }
    let held = |Piece { range, what: (kind, process) }: &Piece<(LockKind, u32)>| HeldLock {
        inode,
        owner,
        range: *range,
        kind: *kind,
        process: *process,
    };
    ranges.pieces().iter().map(held).collect()
}

#[cfg(test)]
mod tests {
    use dfs_proto::lock::{LOCK_END_MAX, LockRange};
    use proptest::prelude::*;

    use super::*;

    const BYTES: u64 = 24;

    type Byte = Option<(LockKind, u32, usize)>;

    fn ranges() -> impl Strategy<Value = LockRange> {
        (0..BYTES, 0..BYTES).prop_map(|(a, b)| LockRange { start: a.min(b), end: a.max(b) })
    }

    fn kinds() -> impl Strategy<Value = Option<LockKind>> {
        prop_oneof![Just(None), Just(Some(LockKind::Shared)), Just(Some(LockKind::Exclusive))]
    }

    /// The same, byte by byte.
    fn bytes(pieces: &[Piece<SetLock>], files: &[LockLoss]) -> Vec<Byte> {
        let mut bytes = vec![None; BYTES as usize];
        for piece in pieces {
            let file = files.iter().position(|file| *file == piece.what.through).unwrap();
            for at in piece.range.start..=piece.range.end {
                bytes[at as usize] = Some((piece.what.kind, piece.what.process, file));
            }
        }
        bytes
    }

    proptest! {
        #[test]
        fn locks_replace_split_and_join_as_single_bytes_do(
            steps in prop::collection::vec((ranges(), kinds(), 0u32..2, 0usize..2), 1..60),
            look in ranges(),
        ) {
            let files = [LockLoss::default(), LockLoss::default()];
            let (mut held, mut model) = (Ranges::default(), vec![None; BYTES as usize]);
            for (range, kind, process, file) in steps {
                let of_range = range.start as usize..=range.end as usize;
                let told = match kind {
                    Some(kind) => held.len_with(range, &SetLock { kind, process, through: files[file].clone() }),
                    None => held.len_without(range),
                };
                match kind {
                    Some(kind) => {
                        held.set(range, SetLock { kind, process, through: files[file].clone() });
                        model[of_range].fill(Some((kind, process, file)));
                    }
                    None => {
                        let removed = held.clear(range);
                        prop_assert_eq!(&bytes(&removed, &files)[of_range.clone()], &model[of_range.clone()]);
                        model[of_range].fill(None);
                    }
                }
                prop_assert_eq!(&bytes(held.pieces(), &files), &model);
                prop_assert_eq!(held.pieces().len(), told);
                for pair in held.pieces().windows(2) {
                    prop_assert!(pair[0].range.end < pair[1].range.start && (pair[0].range.end + 1 < pair[1].range.start || pair[0].what != pair[1].what));
                }
            }
            let within = bytes(&held.within(look), &files);
            let gaps = held.gaps(look);
            for at in 0..BYTES {
                let is_looked_at = look.start <= at && at <= look.end;
                let expected = model[at as usize].filter(|_| is_looked_at);
                prop_assert_eq!(within[at as usize], expected);
                let is_gap = gaps.iter().any(|gap| gap.start <= at && at <= gap.end);
                prop_assert_eq!(is_gap, is_looked_at && expected.is_none());
            }
        }
    }

    #[test]
    fn a_lock_may_reach_to_the_end_of_the_largest_file() {
        let through = LockLoss::default();
        let (range, kind) = (LockRange { start: LOCK_END_MAX, end: LOCK_END_MAX }, LockKind::Shared);
        let mut held = Ranges::default();
        held.set(range, SetLock { kind, process: 1, through: through.clone() });
        assert_eq!(held.gaps(LockRange::WHOLE), [LockRange { start: 0, end: LOCK_END_MAX - 1 }]);
        held.set(LockRange::WHOLE, SetLock { kind, process: 1, through });
        assert_eq!((held.pieces().len(), held.gaps(LockRange::WHOLE).len()), (1, 0));
    }
}
