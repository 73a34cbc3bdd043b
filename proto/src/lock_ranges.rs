//! What one owner has locked of one file, with the rules of POSIX: a lock takes the place of what its owner held of its range, and
//! may split it; neighbours that are alike are one.

use crate::lock::LockRange;

/// Bytes, and what is held of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Piece<T> {
    pub range: LockRange,
    pub what: T,
}

impl<T: Clone + PartialEq> Piece<T> {
    fn cut_to(&self, start: u64, end: u64) -> Piece<T> {
        Piece { range: LockRange { start, end }, what: self.what.clone() }
    }

    fn clipped(&self, range: LockRange) -> Piece<T> {
        self.cut_to(self.range.start.max(range.start), self.range.end.min(range.end))
    }

    /// `next` is right behind, and alike.
    fn goes_on_with(&self, next: &Piece<T>) -> bool {
        self.range.end + 1 == next.range.start && self.what == next.what
    }
}

/// Disjoint pieces in order, of which no two neighbours are alike.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ranges<T>(Vec<Piece<T>>);

impl<T> Default for Ranges<T> {
    fn default() -> Ranges<T> {
        Ranges(Vec::new())
    }
}

impl<T: Clone + PartialEq> Ranges<T> {
    pub fn pieces(&self) -> &[Piece<T>] {
        &self.0
    }

    fn touched(&self, range: LockRange) -> std::ops::Range<usize> {
        let first = self.0.partition_point(|piece| piece.range.end < range.start);
        first..self.0.partition_point(|piece| piece.range.start <= range.end)
    }

    /// The first one that touches `range` and is wanted.
    pub fn first_overlap(&self, range: LockRange, is_wanted: impl Fn(&T) -> bool) -> Option<&Piece<T>> {
        self.0[self.touched(range)].iter().find(|piece| is_wanted(&piece.what))
    }

    /// What is held within `range`, cut to it.
    pub fn within(&self, range: LockRange) -> Vec<Piece<T>> {
        self.0[self.touched(range)].iter().map(|piece| piece.clipped(range)).collect()
    }

    /// What is not held of `range`.
    pub fn gaps(&self, range: LockRange) -> Vec<LockRange> {
        let (mut gaps, mut from) = (Vec::new(), range.start);
        for piece in &self.0[self.touched(range)] {
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

    /// How many pieces there would be after [`Ranges::clear`].
    pub fn len_without(&self, range: LockRange) -> usize {
        let touched = &self.0[self.touched(range)];
        let is_cut_in_front = touched.first().is_some_and(|first| first.range.start < range.start);
        let is_cut_behind = touched.last().is_some_and(|last| last.range.end > range.end);
        self.0.len() - touched.len() + usize::from(is_cut_in_front) + usize::from(is_cut_behind)
    }

    /// How many pieces there would be after [`Ranges::set`].
    pub fn len_with(&self, range: LockRange, what: &T) -> usize {
        let is_alike = |byte: u64| {
            self.first_overlap(LockRange { start: byte, end: byte }, |held| held == what).is_some()
        };
        let joins_in_front = range.start.checked_sub(1).is_some_and(is_alike);
        self.len_without(range) + 1 - usize::from(joins_in_front) - usize::from(is_alike(range.end + 1))
    }

    /// Puts `what` in place of what is held of the range.
    pub fn set(&mut self, range: LockRange, what: T) {
        self.clear(range);
        let at = self.0.partition_point(|piece| piece.range.end < range.start);
        self.0.insert(at, Piece { range, what });
        self.join(at);
        if at > 0 {
            self.join(at - 1);
        }
    }

    /// Takes `range` out, and returns what was held of it.
    pub fn clear(&mut self, range: LockRange) -> Vec<Piece<T>> {
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
