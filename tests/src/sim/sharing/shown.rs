//! What one directory, in which several clients work at once, may show to each of them: its names, the times of its files,
//! and the content of some. Each is a [`Register`]; this says which of them a change writes and a look reads.

use std::collections::BTreeMap;

use dfs_proto::attr::{InodeAttr, Timestamp};
use dfs_proto::ids::InodeId;

use super::register::{Moment, Register, Span, WriteId, Written};

/// Names in the directory, by number.
pub(super) const NAMES: usize = 6;
/// Files of which the content changes, by number. They keep their names.
pub(super) const PAPERS: usize = 2;

type Checked = Result<(), String>;

#[derive(Debug)]
pub(super) struct Shown {
    names: Vec<Register<Option<InodeId>>>,
    times: BTreeMap<InodeId, Register<Timestamp>>,
    papers: Vec<Register<u64>>,
    /// Files that certainly had no name any more at this moment.
    nameless: BTreeMap<InodeId, Moment>,
    /// What was written last and not synced, until somebody else has seen it.
    unsynced: [Option<u64>; PAPERS],
    /// Looks at what was written by another client and not synced.
    pub(super) fetches: u64,
    /// Looks that were checked.
    pub(super) looks: u64,
}

/// A change of the name `from`, and of `to` if it is a rename.
#[derive(Clone, Copy, Debug)]
pub(super) struct Renaming {
    from: (usize, WriteId),
    to: (usize, WriteId),
}

fn certain(values: &[Written<Option<InodeId>>]) -> Option<InodeId> {
    let mut only = None;
    for value in values {
        match value {
            Written::Is(None) => {}
            Written::Is(Some(inode)) if only.is_none_or(|only| only == *inode) => only = Some(*inode),
            Written::Is(Some(_)) | Written::OneOf(_) | Written::Not(_) | Written::Anything => return None,
        }
    }
    only
}

/// `None` if that could be any.
fn inodes(values: &[Written<Option<InodeId>>]) -> Option<Vec<Option<InodeId>>> {
    let mut all = Vec::new();
    for value in values {
        match value {
            Written::Is(inode) => all.push(*inode),
            Written::OneOf(some) => all.extend(some),
            Written::Not(_) | Written::Anything => return None,
        }
    }
    all.retain(|inode| inode.is_some());
    Some(all)
}

impl Shown {
    /// Of a directory without names, where nobody has written anything.
    pub(super) fn new() -> Shown {
        Shown {
            names: (0..NAMES).map(|_| Register::with(Written::Is(None))).collect(),
            times: BTreeMap::new(),
            papers: (0..PAPERS).map(|_| Register::with(Written::Is(0))).collect(),
            nameless: BTreeMap::new(),
            unsynced: [None; PAPERS],
            fetches: 0,
            looks: 0,
        }
    }

    pub(super) fn begin_create(&mut self, name: usize, began: Moment) -> WriteId {
        self.names[name].begin(Written::Not(None), began)
    }

    pub(super) fn created(&mut self, name: usize, id: WriteId, attr: &InodeAttr, span: Span) -> Checked {
        self.require_absent(name, id, span)?;
        self.names[name].end(id, Written::Is(Some(attr.inode)), span.ended);
        self.times.entry(attr.inode).or_insert_with(|| Register::with(Written::Is(attr.mtime)));
        Ok(())
    }

    pub(super) fn begin_unlink(&mut self, name: usize, began: Moment) -> WriteId {
        self.names[name].begin(Written::Is(None), began)
    }

    pub(super) fn unlinked(&mut self, name: usize, id: WriteId, span: Span) -> Checked {
        self.require_present(name, id, span)?;
        let had = self.names[name].values(span, Some(id));
        self.names[name].end(id, Written::Is(None), span.ended);
        self.lost_its_name(certain(&had), span.ended);
        Ok(())
    }

    pub(super) fn begin_rename(
        &mut self,
        (from, to): (usize, usize),
        exchange: bool,
        began: Moment,
    ) -> Renaming {
        let left = if exchange { Written::Not(None) } else { Written::Is(None) };
        Renaming {
            from: (from, self.names[from].begin(left, began)),
            to: (to, self.names[to].begin(Written::Not(None), began)),
        }
    }

    pub(super) fn renamed(&mut self, renaming: Renaming, exchange: bool, span: Span) -> Checked {
        let Renaming { from: (from, left), to: (to, taken) } = renaming;
        self.require_present(from, left, span)?;
        let moved = self.names[from].values(span, Some(left));
        let replaced = self.names[to].values(span, Some(taken));
        let one_of = |values: &[_]| inodes(values).map_or(Written::Not(None), Written::OneOf);
        if exchange {
            self.require_present(to, taken, span)?;
            self.names[from].end(left, one_of(&replaced), span.ended);
        } else {
            self.names[from].end(left, Written::Is(None), span.ended);
            let was_absent = replaced.contains(&Written::Is(None));
            self.lost_its_name(certain(&replaced).filter(|_| !was_absent), span.ended);
        }
        self.names[to].end(taken, one_of(&moved), span.ended);
        Ok(())
    }

    fn lost_its_name(&mut self, inode: Option<InodeId>, by: Moment) {
        if let Some(inode) = inode {
            self.nameless.entry(inode).or_insert(by);
        }
    }

    /// Refused because the name is there.
    pub(super) fn refused_as_present(&mut self, name: usize, id: WriteId, span: Span) -> Checked {
        let checked = self.require_present(name, id, span);
        self.names[name].cancel(id);
        checked
    }

    /// Refused because the name is not there.
    pub(super) fn refused_as_absent(&mut self, name: usize, id: WriteId, span: Span) -> Checked {
        let checked = self.require_absent(name, id, span);
        self.names[name].cancel(id);
        checked
    }

    /// Refused because a name is not there.
    pub(super) fn refused_rename(&mut self, renaming: Renaming, exchange: bool, span: Span) -> Checked {
        let Renaming { from, to } = renaming;
        let is_absent = |(name, id): (usize, WriteId)| self.names[name].may_have_been(None, span, id);
        let is_right = is_absent(from) || exchange && is_absent(to);
        self.names[from.0].cancel(from.1);
        self.names[to.0].cancel(to.1);
        let what = || {
            format!("a rename of {renaming:?} finds nothing between {:?} and {:?}", span.began, span.ended)
        };
        is_right.then_some(()).ok_or_else(what)
    }

    fn require_absent(&self, name: usize, id: WriteId, span: Span) -> Checked {
        let may_be = self.names[name].may_have_been(None, span, id);
        may_be
            .then_some(())
            .ok_or_else(|| format!("name {name} is absent at {:?}, and was there", span.ended))
    }

    fn require_present(&self, name: usize, id: WriteId, span: Span) -> Checked {
        let values = self.names[name].values(span, Some(id));
        let may_be = values.iter().any(|value| *value != Written::Is(None));
        may_be
            .then_some(())
            .ok_or_else(|| format!("name {name} is there at {:?}, and was absent", span.ended))
    }

    pub(super) fn begin_set_time(&mut self, inode: InodeId, time: Timestamp, began: Moment) -> WriteId {
        let times = self.times.entry(inode).or_insert_with(|| Register::with(Written::Anything));
        times.begin(Written::Is(time), began)
    }

    /// `None`: the file is gone.
    pub(super) fn time_is_set(
        &mut self,
        inode: InodeId,
        id: WriteId,
        time: Option<Timestamp>,
        ended: Moment,
    ) {
        let Some(times) = self.times.get_mut(&inode) else { return };
        match time {
            Some(time) => times.end(id, Written::Is(time), ended),
            None => times.cancel(id),
        }
    }

    pub(super) fn begin_write(&mut self, paper: usize, value: u64, began: Moment) -> WriteId {
        self.papers[paper].begin(Written::Is(value), began)
    }

    pub(super) fn written(&mut self, paper: usize, id: WriteId, value: u64, ended: Moment) {
        self.papers[paper].end(id, Written::Is(value), ended);
    }

    /// It was written without a sync.
    pub(super) fn is_unsynced(&mut self, paper: usize, value: u64) {
        self.unsynced[paper] = Some(value);
    }

    /// Another client than the one that wrote it was shown this.
    pub(super) fn fetched(&mut self, paper: usize, value: u64) {
        if self.unsynced[paper].take_if(|unsynced| *unsynced == value).is_some() {
            self.fetches += 1;
        }
    }

    /// A look-up or a listing has shown this behind the name; `None`: that it is absent.
    pub(super) fn saw_name(&mut self, name: usize, inode: Option<InodeId>, span: Span) -> Checked {
        self.looks += 1;
        self.names[name].read(inode, span).map_err(|what| format!("name {name} shows {what}"))
    }

    pub(super) fn saw_attr(&mut self, attr: &InodeAttr, span: Span) -> Checked {
        self.looks += 1;
        let InodeAttr { inode, mtime, nlink, .. } = *attr;
        if nlink > 0 && self.nameless.get(&inode).is_some_and(|since| *since < span.began) {
            return Err(format!(
                "{inode} has a name at {:?}, and had lost it at {:?}",
                span.began, self.nameless[&inode]
            ));
        }
        let Some(times) = self.times.get_mut(&inode) else { return Ok(()) };
        times.read(mtime, span).map_err(|what| format!("the time of {inode} is {what}"))
    }

    pub(super) fn saw_paper(&mut self, paper: usize, value: u64, span: Span) -> Checked {
        self.looks += 1;
        self.papers[paper].read(value, span).map_err(|what| format!("paper {paper} has {what}"))
    }
}

#[cfg(test)]
mod tests {
    use dfs_proto::attr::FileKind;

    use super::*;

    fn span(began: u64, ended: u64) -> Span {
        Span { began: Moment::from_secs(began), ended: Moment::from_secs(ended) }
    }

    fn attr(inode: u64, mtime: i64, nlink: u32) -> InodeAttr {
        let time = Timestamp { seconds: mtime, nanos: 0 };
        InodeAttr {
            inode: InodeId(inode),
            kind: FileKind::File,
            mode: 0o644,
            nlink,
            uid: 0,
            gid: 0,
            size: dfs_proto::units::ByteLen(0),
            allocated: dfs_proto::units::ByteLen(0),
            rdev: 0,
            atime: time,
            mtime: time,
            ctime: time,
            content_version: 0,
        }
    }

    fn with_file(name: usize, inode: u64) -> Shown {
        let mut shown = Shown::new();
        let id = shown.begin_create(name, Moment::from_secs(1));
        assert_eq!(shown.created(name, id, &attr(inode, 0, 1), span(1, 2)), Ok(()));
        shown
    }

    #[test]
    fn a_name_that_was_made_or_removed_before_is_seen_so() {
        let mut shown = with_file(0, 7);
        assert!(shown.saw_name(0, None, span(3, 4)).is_err());
        assert_eq!(shown.saw_name(0, Some(InodeId(7)), span(3, 4)), Ok(()));
        let id = shown.begin_unlink(0, Moment::from_secs(5));
        assert_eq!(shown.saw_name(0, Some(InodeId(7)), span(5, 6)), Ok(()));
        assert_eq!(shown.unlinked(0, id, span(5, 7)), Ok(()));
        assert!(shown.saw_name(0, Some(InodeId(7)), span(8, 9)).is_err());
        assert_eq!(shown.saw_name(0, None, span(8, 9)), Ok(()));
    }

    #[test]
    fn a_file_without_a_name_has_none() {
        let mut shown = with_file(0, 7);
        let id = shown.begin_unlink(0, Moment::from_secs(5));
        assert_eq!(shown.unlinked(0, id, span(5, 7)), Ok(()));
        assert_eq!(shown.saw_attr(&attr(7, 0, 1), span(6, 9)), Ok(()));
        assert_eq!(shown.saw_attr(&attr(7, 0, 0), span(8, 9)), Ok(()));
        assert!(shown.saw_attr(&attr(7, 0, 1), span(8, 9)).is_err());
    }

    #[test]
    fn a_rename_moves_what_was_behind_the_name() {
        let mut shown = with_file(0, 7);
        let id = shown.begin_create(1, Moment::from_secs(1));
        assert_eq!(shown.created(1, id, &attr(8, 0, 1), span(1, 2)), Ok(()));
        let renaming = shown.begin_rename((0, 1), false, Moment::from_secs(3));
        assert_eq!(shown.renamed(renaming, false, span(3, 4)), Ok(()));
        assert!(shown.saw_name(1, Some(InodeId(8)), span(5, 6)).is_err());
        assert_eq!(shown.saw_name(1, Some(InodeId(7)), span(5, 6)), Ok(()));
        assert_eq!(shown.saw_name(0, None, span(5, 6)), Ok(()));
        assert!(shown.saw_attr(&attr(8, 0, 1), span(5, 6)).is_err());
    }

    #[test]
    fn an_exchange_leaves_both_names() {
        let mut shown = with_file(0, 7);
        let id = shown.begin_create(1, Moment::from_secs(1));
        assert_eq!(shown.created(1, id, &attr(8, 0, 1), span(1, 2)), Ok(()));
        let renaming = shown.begin_rename((0, 1), true, Moment::from_secs(3));
        assert_eq!(shown.renamed(renaming, true, span(3, 4)), Ok(()));
        assert_eq!(shown.saw_name(0, Some(InodeId(8)), span(5, 6)), Ok(()));
        assert!(shown.saw_name(1, Some(InodeId(8)), span(5, 6)).is_err());
        assert_eq!(shown.saw_attr(&attr(8, 0, 1), span(5, 6)), Ok(()));
    }

    #[test]
    fn a_refusal_must_have_had_its_reason() {
        let mut shown = with_file(0, 7);
        let id = shown.begin_create(0, Moment::from_secs(3));
        assert_eq!(shown.refused_as_present(0, id, span(3, 4)), Ok(()));
        let id = shown.begin_unlink(0, Moment::from_secs(3));
        assert!(shown.refused_as_absent(0, id, span(3, 4)).is_err());
        let renaming = shown.begin_rename((1, 0), false, Moment::from_secs(3));
        assert_eq!(shown.refused_rename(renaming, false, span(3, 4)), Ok(()));
        let renaming = shown.begin_rename((0, 1), false, Moment::from_secs(3));
        assert!(shown.refused_rename(renaming, false, span(3, 4)).is_err());
        assert_eq!(shown.saw_name(0, Some(InodeId(7)), span(5, 6)), Ok(()));
    }

    #[test]
    fn the_time_that_was_set_last_is_seen() {
        let mut shown = with_file(0, 7);
        let time = Timestamp { seconds: 9, nanos: 0 };
        let id = shown.begin_set_time(InodeId(7), time, Moment::from_secs(3));
        shown.time_is_set(InodeId(7), id, Some(time), Moment::from_secs(4));
        assert!(shown.saw_attr(&attr(7, 0, 1), span(5, 6)).is_err());
        assert_eq!(shown.saw_attr(&attr(7, 9, 1), span(5, 6)), Ok(()));
        assert_eq!(shown.saw_attr(&attr(8, 0, 1), span(5, 6)), Ok(()), "nothing is known of it");
    }

    #[test]
    fn what_was_closed_before_is_read() {
        let mut shown = Shown::new();
        let id = shown.begin_write(1, 5, Moment::from_secs(1));
        assert_eq!(shown.saw_paper(1, 0, span(1, 2)), Ok(()));
        shown.written(1, id, 5, Moment::from_secs(3));
        assert!(shown.saw_paper(1, 0, span(4, 5)).is_err());
        assert_eq!(shown.saw_paper(1, 5, span(4, 5)), Ok(()));
    }
}
