//! Reads that fill the kernel's pages of one inode, for the writes that they may miss.
//!
//! The kernel puts the bytes of a write(2) into its pages, or drops these pages for a direct one, and then sends a request. Meanwhile
//! another process may have the same pages filled again, because an open or a direct write has dropped them. Requests are taken by several
//! threads, so a read that was sent after the write may be performed before it. Then the page shows the bytes of before, and for the
//! kernel they are the new ones: `mmap` and `sendfile` find them until something drops the page.
//!
//! PR1  A read that fills pages is noted here, with the number of its request, before it looks at the file.
//! PR2  A write looks at the notes when its bytes can be read, and before it is answered. Pages of it that a read has filled which was sent
//!      later than the write are dropped. So it either finds the note, or the read finds the bytes.
//! PR3  For a direct write any read of its pages counts: the kernel may send it in several requests and drops the pages before the first one,
//!      and before 6.6 it drops none.
//!
//! The kernel numbers requests in the order in which it queues them. A read that it sends between putting bytes into a page and
//! sending them is not found; the next answer about attributes shows another mtime and drops that page.

use std::collections::VecDeque;
use std::ops::Range;

/// The length of the kernel's pages. A shorter one than the real one would be wrong, a longer one is only slower.
pub(crate) const PAGE_LEN: u64 = 4096;
/// Older reads are remembered only as reads of some page.
const NOTES_MAX: usize = 16;

/// The number that the kernel gave to a request.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct RequestNumber(pub(crate) u64);

/// The reads of one inode.
#[derive(Debug, Default)]
pub(crate) struct PageReads {
    notes: VecDeque<(RequestNumber, Range<u64>)>,
    /// What is known of older ones: the newest number, and a range that holds all of them.
    older: Option<(RequestNumber, Range<u64>)>,
}

impl PageReads {
    /// A read of these bytes begins (PR1).
    pub(crate) fn begin(&mut self, number: RequestNumber, bytes: Range<u64>) {
        if self.notes.len() == NOTES_MAX
            && let Some((oldest, read)) = self.notes.pop_front()
        {
            self.older = Some(match self.older.take() {
                Some((newest, all)) => (newest.max(oldest), hull(all, read)),
                None => (oldest, read),
            });
        }
        self.notes.push_back((number, bytes));
    }

    /// Pages of these bytes that may have been read by a request that was sent after `write` (PR2).
    pub(crate) fn overtook(&self, write: RequestNumber, bytes: &Range<u64>) -> Option<Range<u64>> {
        self.met(bytes, |number| number > write)
    }

    /// Pages of these bytes that may have been read. They are dropped, so only newer reads count later.
    pub(crate) fn take(&mut self, bytes: &Range<u64>) -> Option<Range<u64>> {
        let met = self.met(bytes, |_| true)?;
        self.notes.retain(|(_, read)| common(read, &met).is_none());
        self.older = self.older.take().filter(|(_, all)| all.start < met.start || met.end < all.end);
        if let Some((_, all)) = &mut self.older
            && met.start < all.end
            && all.end <= met.end
        {
            all.end = met.start;
        }
        Some(met)
    }

    fn met(&self, bytes: &Range<u64>, is_meant: impl Fn(RequestNumber) -> bool) -> Option<Range<u64>> {
        let pages = bytes.start / PAGE_LEN * PAGE_LEN..bytes.end.next_multiple_of(PAGE_LEN);
        let reads = self.notes.iter().chain(&self.older);
        reads
            .filter(|(number, _)| is_meant(*number))
            .filter_map(|(_, read)| common(read, &pages))
            .reduce(hull)
    }
}

fn common(one: &Range<u64>, other: &Range<u64>) -> Option<Range<u64>> {
    let common = one.start.max(other.start)..one.end.min(other.end);
    (!common.is_empty()).then_some(common)
}

fn hull(one: Range<u64>, other: Range<u64>) -> Range<u64> {
    one.start.min(other.start)..one.end.max(other.end)
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAGE: Range<u64> = PAGE_LEN..2 * PAGE_LEN;

    fn read_by(number: u64, bytes: Range<u64>) -> PageReads {
        let mut reads = PageReads::default();
        reads.begin(RequestNumber(number), bytes);
        reads
    }

    #[test]
    fn a_write_finds_the_reads_of_its_pages_that_were_sent_later() {
        let reads = read_by(7, PAGE);
        let overtook = |write, bytes: Range<u64>| reads.overtook(RequestNumber(write), &bytes);
        let in_page = PAGE.start + 10..PAGE.start + 20;
        assert_eq!(overtook(6, in_page.clone()), Some(PAGE));
        assert_eq!(overtook(8, in_page), None, "the kernel sent the read before");
        assert_eq!(overtook(6, 0..PAGE.start + 1), Some(PAGE), "not the page before");
        assert_eq!(overtook(6, 0..PAGE.start), None);
        assert_eq!(overtook(6, PAGE.end - 1..PAGE.end), Some(PAGE));
        assert_eq!(overtook(6, PAGE.end..PAGE.end + 1), None);
    }

    #[test]
    fn whoever_drops_pages_takes_their_reads_of_any_time_and_leaves_the_others() {
        let mut reads = read_by(7, PAGE);
        reads.begin(RequestNumber(8), 0..PAGE.start);
        assert_eq!(reads.take(&(PAGE.start..PAGE.start + 1)), Some(PAGE));
        assert_eq!(reads.take(&PAGE), None);
        assert_eq!(reads.take(&(0..1)), Some(0..PAGE.start));
        assert_eq!(reads.take(&(0..u64::MAX - PAGE_LEN)), None);
    }

    #[test]
    fn of_reads_that_are_too_many_to_remember_each_may_have_been_of_any_page_between_them() {
        let mut reads = read_by(100, PAGE);
        reads.begin(RequestNumber(1), 9 * PAGE_LEN..10 * PAGE_LEN);
        for number in 2..2 + NOTES_MAX as u64 {
            reads.begin(RequestNumber(number), 0..PAGE_LEN);
        }
        let (between, behind) = (4 * PAGE_LEN..5 * PAGE_LEN, 10 * PAGE_LEN..11 * PAGE_LEN);
        assert_eq!(reads.overtook(RequestNumber(99), &between), Some(between.clone()));
        assert_eq!(reads.overtook(RequestNumber(100), &between), None);
        assert_eq!(reads.overtook(RequestNumber(99), &behind), None);
        assert_eq!(reads.take(&(between.start..behind.end)), Some(between.start..behind.start));
        assert_eq!(reads.take(&between), None);
        assert_eq!(reads.take(&PAGE), Some(PAGE));
    }
}
