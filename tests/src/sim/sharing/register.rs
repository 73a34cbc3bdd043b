//! What one thing that several clients write and read may show to whom: a name, or an attribute of an inode.
//!
//! A change takes effect at some moment between its call and its return, and nobody sees which. So a read may show what a change
//! wrote unless the change began after the read had ended, or was certainly overwritten before the read began. It is certainly
//! overwritten when
//! * a change that began after it had returned has returned, or
//! * a read that began after it had returned has shown something else, and has ended.
//!
//! A change that somebody was shown has taken effect by the end of that read, whether or not it has returned. One that never
//! returned (its client died) may take effect at any time.

use std::fmt::Debug;
use std::time::Duration;

/// Simulated time.
pub(super) type Moment = Duration;

/// From the call to the return.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Span {
    pub(super) began: Moment,
    pub(super) ended: Moment,
}

/// What is known of what a change writes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Written<V> {
    Is(V),
    /// Whoever makes the change does not know which of these.
    OneOf(Vec<V>),
    /// Anything but this.
    Not(V),
    Anything,
}

impl<V: Copy + Eq> Written<V> {
    fn may_be(&self, value: V) -> bool {
        match self {
            Written::Is(is) => *is == value,
            Written::OneOf(all) => all.contains(&value),
            Written::Not(not) => *not != value,
            Written::Anything => true,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct WriteId(u64);

#[derive(Debug)]
struct Write<V> {
    id: WriteId,
    written: Written<V>,
    began: Moment,
    /// It has taken effect by then.
    done: Option<Moment>,
    /// It is overwritten by then.
    gone: Option<Moment>,
}

/// The changes of one thing.
#[derive(Debug)]
pub(super) struct Register<V> {
    writes: Vec<Write<V>>,
    last: u64,
}

fn earlier(known: &mut Option<Moment>, moment: Moment) {
    *known = Some(known.map_or(moment, |known| known.min(moment)));
}

impl<V: Copy + Eq + Debug> Register<V> {
    /// It has this value since long ago.
    pub(super) fn with(written: Written<V>) -> Register<V> {
        let (began, done) = (Moment::ZERO, Some(Moment::ZERO));
        Register { writes: vec![Write { id: WriteId(0), written, began, done, gone: None }], last: 0 }
    }

    /// A change is called.
    pub(super) fn begin(&mut self, written: Written<V>, began: Moment) -> WriteId {
        self.last += 1;
        let id = WriteId(self.last);
        self.writes.push(Write { id, written, began, done: None, gone: None });
        id
    }

    /// It has returned, and wrote this.
    pub(super) fn end(&mut self, id: WriteId, written: Written<V>, ended: Moment) {
        if let Some(write) = self.writes.iter_mut().find(|write| write.id == id) {
            write.written = written;
            self.is_done(id, ended);
        }
    }

    /// It was refused, and wrote nothing.
    pub(super) fn cancel(&mut self, id: WriteId) {
        self.writes.retain(|write| write.id != id);
    }

    fn is_done(&mut self, id: WriteId, by: Moment) {
        let Some(write) = self.writes.iter_mut().find(|write| write.id == id) else { return };
        earlier(&mut write.done, by);
        let began = write.began;
        for other in self.writes.iter_mut().filter(|other| other.id != id) {
            if other.done.is_some_and(|done| done < began) {
                earlier(&mut other.gone, by);
            }
        }
    }

    fn shown(&self, span: Span) -> impl Iterator<Item = &Write<V>> {
        self.writes.iter().filter(move |write| {
            write.began <= span.ended && write.gone.is_none_or(|gone| gone >= span.began)
        })
    }

    /// A read has shown this. The error says what it might have shown.
    pub(super) fn read(&mut self, value: V, span: Span) -> Result<(), String> {
        let candidates: Vec<WriteId> =
            self.shown(span).filter(|write| write.written.may_be(value)).map(|write| write.id).collect();
        if candidates.is_empty() {
            let could: Vec<_> = self.shown(span).map(|write| &write.written).collect();
            return Err(format!(
                "{value:?} between {:?} and {:?}; it could be {could:?}",
                span.began, span.ended
            ));
        }
        for write in self.writes.iter_mut().filter(|write| !candidates.contains(&write.id)) {
            if write.done.is_some_and(|done| done < span.began) {
                earlier(&mut write.gone, span.ended);
            }
        }
        if let [only] = candidates[..] {
            if let Some(write) = self.writes.iter_mut().find(|write| write.id == only) {
                write.written = Written::Is(value);
            }
            self.is_done(only, span.ended);
        }
        Ok(())
    }

    /// What it may have had meanwhile, but for what this change wrote, where that is known.
    pub(super) fn values(&self, span: Span, but: Option<WriteId>) -> Vec<Written<V>> {
        self.shown(span).filter(|write| Some(write.id) != but).map(|write| write.written.clone()).collect()
    }

    /// Whether it may have had this value meanwhile, before this change.
    pub(super) fn may_have_been(&self, value: V, span: Span, but: WriteId) -> bool {
        self.values(span, Some(but)).iter().any(|written| written.may_be(value))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(time: u64) -> Moment {
        Moment::from_secs(time)
    }

    fn span(began: u64, ended: u64) -> Span {
        Span { began: at(began), ended: at(ended) }
    }

    fn write(register: &mut Register<u32>, value: u32, span: Span) {
        let id = register.begin(Written::Is(value), span.began);
        register.end(id, Written::Is(value), span.ended);
    }

    #[test]
    fn what_returned_before_a_read_began_is_seen_by_it() {
        let mut register = Register::with(Written::Is(0));
        write(&mut register, 1, span(10, 20));
        assert!(register.read(0, span(21, 22)).is_err());
        assert_eq!(register.read(1, span(21, 22)), Ok(()));
    }

    #[test]
    fn a_read_beside_a_change_may_show_either() {
        for shown in [0, 1] {
            let mut register = Register::with(Written::Is(0));
            let id = register.begin(Written::Is(1), at(10));
            assert_eq!(register.read(shown, span(11, 12)), Ok(()));
            register.end(id, Written::Is(1), at(20));
            assert!(register.read(2, span(11, 30)).is_err());
        }
    }

    #[test]
    fn what_one_read_has_shown_no_later_read_takes_back() {
        let mut register = Register::with(Written::Is(0));
        register.begin(Written::Is(1), at(10));
        assert_eq!(register.read(1, span(11, 12)), Ok(()));
        assert_eq!(register.read(0, span(11, 13)), Ok(()), "it began before the other one had ended");
        assert!(register.read(0, span(13, 14)).is_err());
    }

    #[test]
    fn of_two_changes_at_once_either_is_the_last_until_somebody_was_shown() {
        for (first, last) in [(1, 2), (2, 1)] {
            let mut register = Register::with(Written::Is(0));
            let (one, two) = (register.begin(Written::Is(1), at(10)), register.begin(Written::Is(2), at(11)));
            register.end(one, Written::Is(1), at(20));
            register.end(two, Written::Is(2), at(20));
            assert_eq!(register.read(first, span(12, 13)), Ok(()));
            assert_eq!(register.read(last, span(30, 31)), Ok(()));
            assert!(register.read(first, span(32, 33)).is_err());
            assert_eq!(register.read(last, span(32, 33)), Ok(()));
        }
    }

    #[test]
    fn a_change_that_never_returned_may_take_effect_at_any_time_and_stays_when_it_has() {
        let mut register = Register::with(Written::Is(0));
        register.begin(Written::Is(1), at(10));
        assert_eq!(register.read(0, span(100, 101)), Ok(()));
        assert_eq!(register.read(1, span(200, 201)), Ok(()));
        assert!(register.read(0, span(300, 301)).is_err());
    }

    #[test]
    fn what_was_refused_was_not_written() {
        let mut register = Register::with(Written::Is(0));
        let id = register.begin(Written::Is(1), at(10));
        register.cancel(id);
        assert!(register.read(1, span(11, 12)).is_err());
        assert_eq!(register.read(0, span(11, 12)), Ok(()));
    }

    #[test]
    fn a_value_that_nobody_knew_is_known_once_it_was_shown() {
        let mut register = Register::with(Written::Is(0));
        register.begin(Written::Not(0), at(10));
        assert_eq!(register.read(7, span(11, 12)), Ok(()));
        assert!(register.read(8, span(13, 14)).is_err());
        let id = register.begin(Written::Anything, at(20));
        register.end(id, Written::OneOf(vec![3, 4]), at(21));
        assert!(register.read(7, span(22, 23)).is_err());
        assert_eq!(register.read(4, span(22, 23)), Ok(()));
        assert!(register.read(3, span(24, 25)).is_err());
    }

    #[test]
    fn what_it_was_before_a_change_does_not_count_the_change() {
        let mut register = Register::with(Written::Is(0));
        let id = register.begin(Written::Is(1), at(10));
        assert!(register.may_have_been(0, span(10, 12), id));
        assert!(!register.may_have_been(1, span(10, 12), id));
        assert_eq!(register.values(span(10, 12), Some(id)), [Written::Is(0)]);
    }
}
