//! What one owner has locked of one file, with the rules of POSIX: a lock takes the place of what its owner held of its
//! range, and may split it; neighbours that are alike are one lock.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use dfs_proto::ids::{InodeId, LockOwner};
use dfs_proto::lock::{HeldLock, LockKind, LockRange};

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
pub(super) struct Piece {
    pub(super) range: LockRange,
    pub(super) kind: LockKind,
    pub(super) process: u32,
    /// The open file that it was set through.
    pub(super) through: LockLoss,
}

impl Piece {
    pub(super) fn of(lock: &HeldLock, through: &LockLoss) -> Piece {
        Piece { range: lock.range, kind: lock.kind, process: lock.process, through: through.clone() }
    }

    pub(super) fn held(&self, inode: InodeId, owner: LockOwner) -> HeldLock {
        HeldLock { inode, owner, range: self.range, kind: self.kind, process: self.process }
    }

    fn cut_to(&self, start: u64, end: u64) -> Piece {
        Piece { range: LockRange { start, end }, ..self.clone() }
    }

    fn clipped(&self, range: LockRange) -> Piece {
        self.cut_to(self.range.start.max(range.start), self.range.end.min(range.end))
    }

    /// `next` is right behind, and alike.
    fn goes_on_with(&self, next: &Piece) -> bool {
        self.range.end + 1 == next.range.start
            && (self.kind, self.process) == (next.kind, next.process)
            && self.through == next.through
    }
}

/// Disjoint pieces in order, of which no two neighbours are alike.
#[derive(Clone, Debug, Default)]
pub(super) struct Ranges(Vec<Piece>);

impl Ranges {
    pub(super) fn pieces(&self) -> &[Piece] {
        &self.0
    }

    /// As the leader has them: it does not know through which open file each was set.
    pub(super) fn locks(&self, inode: InodeId, owner: LockOwner) -> Vec<HeldLock> {
        let mut locks: Vec<HeldLock> = Vec::new();
        for piece in &self.0 {
            match locks.last_mut() {
                Some(last)
                    if last.range.end + 1 == piece.range.start
                        && (last.kind, last.process) == (piece.kind, piece.process) =>
                {
                    last.range.end = piece.range.end;
                }
                _ => locks.push(piece.held(inode, owner)),
            }
        }
        locks
    }

    fn touched(&self, range: LockRange) -> std::ops::Range<usize> {
        let first = self.0.partition_point(|piece| piece.range.end < range.start);
        first..self.0.partition_point(|piece| piece.range.start <= range.end)
    }

    /// What is held within `range`, cut to it.
    pub(super) fn within(&self, range: LockRange) -> Vec<Piece> {
        self.0[self.touched(range)].iter().map(|piece| piece.clipped(range)).collect()
    }

    /// What is not held of `range`.
    pub(super) fn gaps(&self, range: LockRange) -> Vec<LockRange> {
        let (mut gaps, mut from) = (Vec::new(), range.start);
        for piece in self.within(range) {
            if from < piece.range.start {
                gaps.push(LockRange { start: from, end: piece.range.start - 1 });
            }
            from = piece.range.end + 1; // it fits: no lock ends behind LOCK_END_MAX
        }
        if from <= range.end {
            gaps.push(LockRange { start: from, end: range.end });
        }
        gaps
    }

    /// Puts `new` in place of what is held of its range.
    pub(super) fn set(&mut self, new: Piece) {
        self.clear(new.range);
        let at = self.0.partition_point(|piece| piece.range.end < new.range.start);
        self.0.insert(at, new);
        self.join(at);
        if at > 0 {
            self.join(at - 1);
        }
    }

    /// Takes `range` out, and returns what was held of it.
    pub(super) fn clear(&mut self, range: LockRange) -> Vec<Piece> {
        let (touched, removed) = (self.touched(range), self.within(range));
        let mut kept = Vec::new();
        if let [first, ..] = &self.0[touched.clone()]
            && first.range.start < range.start
        {
            kept.push(first.cut_to(first.range.start, range.start - 1));
        }
        if let [.., last] = &self.0[touched.clone()]
            && last.range.end > range.end
        {
            kept.push(last.cut_to(range.end + 1, last.range.end));
        }
        self.0.splice(touched, kept);
        removed
    }

    /// Makes one of this piece and the next, if they are alike.
    fn join(&mut self, at: usize) {
        if let [this, next, ..] = &self.0[at..]
            && this.goes_on_with(next)
        {
            self.0[at].range.end = next.range.end;
            self.0.remove(at + 1);
        }
    }
}

#[cfg(test)]
mod tests {
    use dfs_proto::lock::LOCK_END_MAX;
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
    fn bytes(pieces: &[Piece], files: &[LockLoss]) -> Vec<Byte> {
        let mut bytes = vec![None; BYTES as usize];
        for piece in pieces {
            let file = files.iter().position(|file| *file == piece.through).unwrap();
            for at in piece.range.start..=piece.range.end {
                bytes[at as usize] = Some((piece.kind, piece.process, file));
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
                match kind {
                    Some(kind) => {
                        held.set(Piece { range, kind, process, through: files[file].clone() });
                        model[of_range].fill(Some((kind, process, file)));
                    }
                    None => {
                        let removed = held.clear(range);
                        prop_assert_eq!(&bytes(&removed, &files)[of_range.clone()], &model[of_range.clone()]);
                        model[of_range].fill(None);
                    }
                }
                prop_assert_eq!(&bytes(held.pieces(), &files), &model);
                for pair in held.pieces().windows(2) {
                    prop_assert!(pair[0].range.end < pair[1].range.start && !pair[0].goes_on_with(&pair[1]));
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
        held.set(Piece { range, kind, process: 1, through: through.clone() });
        assert_eq!(held.gaps(LockRange::WHOLE), [LockRange { start: 0, end: LOCK_END_MAX - 1 }]);
        held.set(Piece { range: LockRange::WHOLE, kind, process: 1, through });
        assert_eq!((held.pieces().len(), held.gaps(LockRange::WHOLE).len()), (1, 0));
    }
}
