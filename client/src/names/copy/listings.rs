//! Listings of directories: their entries in cookie order, without attributes, as the pages of one reader or of several have shown
//! them. As many as there is room for; the least recently used makes room first.
//!
//! LI1  What is kept of a directory begins at its start and has no gap: a page is added only where it touches what is there.
//! LI2  All that is kept of a directory is there at this moment. A page enters only if no name of the directory was dropped since the
//!      page was asked for, and with any name that is dropped the whole listing goes (`state`): nobody knows the cookie of a new name.

use std::collections::BTreeMap;

use dfs_proto::attr::{FileKind, Name};
use dfs_proto::ids::InodeId;
use dfs_proto::meta::DirEntry;

/// What may be kept, in entries; a directory counts as one more, so that empty ones are bounded too.
#[derive(Clone, Copy, Debug)]
pub(super) struct Room {
    pub(super) in_all: usize,
    /// A directory with more entries is not kept.
    pub(super) of_one: usize,
}

/// An entry without attributes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Entry {
    cookie: u64,
    name: Name,
    pub(super) inode: InodeId,
    kind: FileKind,
}

/// A part of a listing, as the server shows one.
#[derive(Clone, Copy, Debug)]
pub(super) struct Page<'e, E> {
    pub(super) entries: &'e [E],
    /// There are no entries behind these.
    pub(super) end: bool,
    /// The directory's parent.
    pub(super) parent: InodeId,
}

struct Listing {
    entries: Vec<Entry>,
    /// They are all that the directory has.
    is_whole: bool,
    parent: InodeId,
    /// The number of its last use.
    used: u64,
}

pub(super) struct Listings {
    kept: BTreeMap<InodeId, Listing>,
    /// By the last use.
    by_use: BTreeMap<u64, InodeId>,
    uses: u64,
    len: usize,
    room: Room,
}

impl Entry {
    pub(super) fn shown(&self, attr: Option<dfs_proto::attr::InodeAttr>) -> DirEntry {
        DirEntry { name: self.name.clone(), inode: self.inode, kind: self.kind, cookie: self.cookie, attr }
    }
}

impl From<&DirEntry> for Entry {
    fn from(entry: &DirEntry) -> Entry {
        Entry { cookie: entry.cookie, name: entry.name.clone(), inode: entry.inode, kind: entry.kind }
    }
}

impl Listing {
    /// There is no gap before what is behind this cookie.
    fn reaches(&self, cookie: u64) -> bool {
        self.is_whole || cookie <= self.last()
    }

    /// The last cookie.
    fn last(&self) -> u64 {
        self.entries.last().map_or(0, |entry| entry.cookie)
    }

    fn len(&self) -> usize {
        self.entries.len() + 1
    }
}

impl Listings {
    pub(super) fn with_room(room: Room) -> Listings {
        Listings { kept: BTreeMap::new(), by_use: BTreeMap::new(), uses: 0, len: 0, room }
    }

    /// The directory has this behind `cookie`, and LI2 holds.
    pub(super) fn add(&mut self, directory: InodeId, cookie: u64, page: Page<'_, DirEntry>) {
        let new = Listing { entries: Vec::new(), is_whole: false, parent: page.parent, used: 0 };
        let mut listing = self.take(directory).unwrap_or(new);
        if listing.reaches(cookie) && !listing.is_whole {
            let last = listing.last();
            let behind = page.entries.iter().filter(|entry| entry.cookie > last);
            listing.entries.extend(behind.map(Entry::from));
            listing.is_whole = page.end;
        }
        let is_kept = !listing.entries.is_empty() || listing.is_whole;
        if is_kept && listing.entries.len() <= self.room.of_one {
            self.put(directory, listing);
        }
        self.make_room();
    }

    /// At most `limit` entries behind `cookie`, fewer if more are not known. `None`: not a single one is known, nor that there are none.
    pub(super) fn page(&mut self, directory: InodeId, cookie: u64, limit: usize) -> Option<Page<'_, Entry>> {
        let listing = self.take(directory)?;
        self.put(directory, listing);
        let listing = self.kept.get(&directory)?;
        let from = listing.entries.partition_point(|entry| entry.cookie <= cookie);
        let behind = listing.entries.get(from..).unwrap_or_default();
        let entries = behind.get(..limit).unwrap_or(behind);
        let end = listing.is_whole && entries.len() == behind.len();
        (end || !entries.is_empty()).then_some(Page { entries, end, parent: listing.parent })
    }

    /// How many entries have been read before the first one behind `cookie`, if nothing of what is behind it is known.
    pub(super) fn read_before(&self, directory: InodeId, cookie: u64) -> usize {
        let listing = self.kept.get(&directory);
        listing
            .filter(|listing| !listing.is_whole && listing.last() == cookie)
            .map_or(0, |it| it.entries.len())
    }

    pub(super) fn drop_of(&mut self, directory: InodeId) {
        drop(self.take(directory));
    }

    pub(super) fn clear(&mut self) {
        *self = Listings::with_room(self.room);
    }

    fn take(&mut self, directory: InodeId) -> Option<Listing> {
        let listing = self.kept.remove(&directory)?;
        self.by_use.remove(&listing.used);
        self.len -= listing.len();
        Some(listing)
    }

    /// It is used now.
    fn put(&mut self, directory: InodeId, listing: Listing) {
        self.uses += 1;
        self.len += listing.len();
        self.by_use.insert(self.uses, directory);
        self.kept.insert(directory, Listing { used: self.uses, ..listing });
    }

    fn make_room(&mut self) {
        while self.len > self.room.in_all {
            let Some((_, directory)) = self.by_use.first_key_value() else { return };
            self.drop_of(*directory);
        }
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.len
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::names::copy::fixtures::{DIRECTORY, entry};

    const PARENT: InodeId = InodeId(499);
    const OTHER: InodeId = InodeId(501);
    const ROOM: Room = Room { in_all: 100, of_one: 50 };

    fn add(listings: &mut Listings, directory: InodeId, cookie: u64, (cookies, end): (&[u64], bool)) {
        let entries: Vec<DirEntry> = cookies.iter().map(|cookie| entry(*cookie)).collect();
        listings.add(directory, cookie, Page { entries: &entries, end, parent: PARENT });
    }

    /// The cookies, and whether that is the end.
    fn page(
        listings: &mut Listings,
        directory: InodeId,
        cookie: u64,
        limit: usize,
    ) -> Option<(Vec<u64>, bool)> {
        let page = listings.page(directory, cookie, limit)?;
        assert_eq!(page.parent, PARENT);
        Some((page.entries.iter().map(|entry| entry.cookie).collect(), page.end))
    }

    #[test]
    fn pages_that_touch_are_one_listing_and_are_cut_anew_as_the_server_cuts_them() {
        let mut listings = Listings::with_room(ROOM);
        add(&mut listings, DIRECTORY, 0, (&[20, 30, 40], false));
        assert_eq!(page(&mut listings, DIRECTORY, 0, 2), Some((vec![20, 30], false)));
        assert_eq!(
            page(&mut listings, DIRECTORY, 20, 5),
            Some((vec![30, 40], false)),
            "as far as it is known"
        );
        assert_eq!(page(&mut listings, DIRECTORY, 40, 5), None);
        assert_eq!([0, 30, 40, 50].map(|cookie| listings.read_before(DIRECTORY, cookie)), [0, 0, 3, 0]);
        // From within, by another reader.
        add(&mut listings, DIRECTORY, 30, (&[40, 50], false));
        add(&mut listings, DIRECTORY, 50, (&[60], true));
        assert_eq!(page(&mut listings, DIRECTORY, 0, 5), Some((vec![20, 30, 40, 50, 60], true)));
        assert_eq!(page(&mut listings, DIRECTORY, 0, 4), Some((vec![20, 30, 40, 50], false)));
        assert_eq!(page(&mut listings, DIRECTORY, 35, 5), Some((vec![40, 50, 60], true)), "behind no entry");
        assert_eq!(page(&mut listings, DIRECTORY, 60, 5), Some((vec![], true)));
        assert_eq!(listings.read_before(DIRECTORY, 60), 0, "there is nothing behind it");
        assert_eq!(page(&mut listings, DIRECTORY, 70, 5), Some((vec![], true)));
        add(&mut listings, DIRECTORY, 0, (&[20, 30], false));
        assert_eq!(
            page(&mut listings, DIRECTORY, 0, 5),
            Some((vec![20, 30, 40, 50, 60], true)),
            "it stays whole"
        );
        assert_eq!(listings.len(), 6);
        listings.drop_of(DIRECTORY);
        assert_eq!((page(&mut listings, DIRECTORY, 0, 5), listings.len()), (None, 0));
    }

    #[test]
    fn a_gap_is_never_jumped() {
        let mut listings = Listings::with_room(ROOM);
        add(&mut listings, DIRECTORY, 30, (&[40], true));
        assert_eq!(
            (page(&mut listings, DIRECTORY, 30, 5), listings.len()),
            (None, 0),
            "the start is not known"
        );
        add(&mut listings, DIRECTORY, 0, (&[20], false));
        add(&mut listings, DIRECTORY, 30, (&[40], true));
        assert_eq!(page(&mut listings, DIRECTORY, 0, 5), Some((vec![20], false)));
        assert_eq!(page(&mut listings, DIRECTORY, 20, 5), None);
        add(&mut listings, DIRECTORY, 20, (&[30], false));
        assert_eq!(page(&mut listings, DIRECTORY, 0, 5), Some((vec![20, 30], false)));
    }

    #[test]
    fn that_a_directory_is_empty_is_known_too() {
        let mut listings = Listings::with_room(ROOM);
        add(&mut listings, DIRECTORY, 0, (&[], true));
        assert_eq!(page(&mut listings, DIRECTORY, 0, 5), Some((vec![], true)));
        listings.clear();
        assert_eq!((page(&mut listings, DIRECTORY, 0, 5), listings.len()), (None, 0));
    }

    #[test]
    fn the_least_recently_used_listing_makes_room_and_a_long_one_is_not_kept() {
        let mut listings = Listings::with_room(ROOM);
        for (cookie, limit) in [(0, 50), (50, 1)] {
            let cookies: Vec<u64> = (cookie + 1..=cookie + limit).collect();
            add(&mut listings, OTHER, cookie, (&cookies, false));
        }
        assert_eq!((page(&mut listings, OTHER, 0, 5), listings.len()), (None, 0), "51 entries are too many");
        add(&mut listings, DIRECTORY, 0, (&[20], true));
        for number in 0..1000 {
            add(&mut listings, InodeId(1000 + number), 0, (&[20, 30], number % 2 == 0));
            assert_eq!(page(&mut listings, DIRECTORY, 0, 5), Some((vec![20], true)), "it is in use");
            assert!(listings.len() <= ROOM.in_all && listings.kept.len() == listings.by_use.len());
        }
        assert_eq!(page(&mut listings, InodeId(1000), 0, 5), None);
        assert!(page(&mut listings, InodeId(1999), 0, 5).is_some());
    }
}
