//! The copy behind a lock, which is held for one look and with no other.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use dfs_net::env::Clock;
use dfs_proto::attr::{AccessMask, Caller, InodeAttr, Name};
use dfs_proto::error::MetaError;
use dfs_proto::ids::{Attachment, InodeId};
use dfs_proto::meta::{Change, MetaResult, Read, ReadReply, Recall, Shown};
use tokio::time::Instant;

use crate::names::copy::listings::Room;
use crate::names::copy::own_answers::ShownByChange;
use crate::names::copy::state::{DroppedAttrs, OwnChange, Question, State, Untold};
use crate::names::outer::{ChangedBy, DroppedNames, OuterCache};
use crate::session::calls::Answer;
use crate::session::leases::{ReadLeases, Sending, Taken};
use crate::session::meta::MetaClient;

/// Attributes and names together. An attribute takes some 200 bytes, a name some 100.
const KEPT_MAX: usize = 200_000;
/// An entry takes some 100 bytes. What is longer than one of these is listed seldom, and would push out all the rest.
const LISTINGS_MAX: Room = Room { in_all: 200_000, of_one: 50_000 };

/// What this client was shown under leases at one cluster.
pub(crate) struct LeasedCopy {
    clock: Arc<dyn Clock>,
    outer: Arc<dyn OuterCache>,
    state: Mutex<State>,
    /// Outer caches may use something until then that others change.
    used_until: Mutex<Option<Instant>>,
}

/// A read that asks for leases, until this is dropped.
pub(crate) struct Asking<'c> {
    copy: &'c LeasedCopy,
    question: Option<Question>,
}

/// A change of this client, until this is dropped. Without an answer, nobody knows what has become of it.
pub(crate) struct Changing<'c> {
    copy: &'c LeasedCopy,
    meta: &'c MetaClient,
    own: OwnChange,
    shown: ShownByChange,
    pub(crate) sending: Sending,
    is_settled: bool,
}

impl LeasedCopy {
    /// `outer` is told what is dropped.
    pub(crate) fn new(clock: Arc<dyn Clock>, outer: Arc<dyn OuterCache>) -> Arc<LeasedCopy> {
        let state = Mutex::new(State::with_room(KEPT_MAX, LISTINGS_MAX));
        Arc::new(LeasedCopy { clock, outer, state, used_until: Mutex::default() })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Something that may drop attributes and names. Keeps CY8.
    fn dropping<T>(&self, by: ChangedBy, act: impl FnOnce(&mut State) -> T) -> T {
        let (acted, Untold { attrs, names, directories }) = {
            let mut state = self.state();
            (act(&mut state), state.take_untold())
        };
        let (names, directories) = (names.as_slice(), directories.as_slice());
        match attrs {
            DroppedAttrs::Of(inodes) if inodes.is_empty() && names.is_empty() => {}
            DroppedAttrs::Of(inodes) => {
                self.outer.drop_attrs(&inodes);
                self.told(&DroppedNames::Of { names, directories }, by);
            }
            DroppedAttrs::Everything => {
                self.outer.drop_all_attrs();
                self.told(&DroppedNames::Everything, by);
            }
        }
        acted
    }

    fn told(&self, dropped: &DroppedNames<'_>, by: ChangedBy) {
        let until = self.outer.drop_names(dropped, by);
        if by == ChangedBy::Others && until.is_some() {
            let mut used_until = self.used_until.lock().unwrap_or_else(PoisonError::into_inner);
            *used_until = until.max(*used_until);
        }
    }

    /// [`OuterCache::content_moved`].
    pub(crate) fn content_moved(&self, inode: InodeId, from: u64, to: u64) {
        self.outer.content_moved(inode, from, to);
    }

    /// [`OuterCache::content_lost`].
    pub(crate) fn content_lost(&self, inode: InodeId) {
        self.outer.content_lost(inode);
    }

    /// What the cluster would answer now, if that is known.
    pub(crate) fn answer(&self, caller: &Caller, read: &Read) -> Option<MetaResult<ReadReply>> {
        self.state().answer(caller, read, self.clock.boottime())
    }

    /// What enters it now is used.
    pub(crate) fn is_valid(&self) -> bool {
        self.state().is_valid(self.clock.boottime())
    }

    /// The attributes of an inode, if they are known, and for how long an outer cache may use them (CY8).
    pub(crate) fn leased_attr(&self, inode: InodeId) -> Option<(InodeAttr, Duration)> {
        self.state().leased_attr(inode, self.clock.boottime())
    }

    /// The inode that a name leads to, if that is known, or `None` in it if the name is not there; and for how long an outer cache may use
    /// that (CY8).
    pub(crate) fn leased_name(&self, directory: InodeId, name: &[u8]) -> Option<(Option<InodeId>, Duration)> {
        let (leads_to, valid_for) = self.state().leased_name((directory, name), self.clock.boottime())?;
        Some((leads_to.inode(), valid_for))
    }

    /// The attributes of a file, if they are known and clearly let the caller open it. The open is in the table of open files by then, so
    /// that whoever recalls the attributes later finds it there (UO1 of `session::held::untold`).
    pub(crate) fn open(&self, caller: &Caller, inode: InodeId, mask: AccessMask) -> Option<InodeAttr> {
        self.state().open(caller, (inode, mask), self.clock.boottime())
    }

    /// What to ask for instead of this read: it may be a longer page.
    pub(crate) fn widened(&self, read: &Read) -> Read {
        self.state().widened(read)
    }

    /// To be called before a read is sent.
    pub(crate) fn ask(&self, read: &Read) -> Asking<'_> {
        let is_kept = match read {
            Read::Lookup { name, .. } => Name::new(name.as_slice()).is_ok(), // `.` and `..` are no entries
            Read::GetAttr { .. } | Read::Open { .. } | Read::ReadDir { .. } | Read::ReadAhead { .. } => true,
            Read::Access { .. }
            | Read::ReadLink { .. }
            | Read::Extents { .. }
            | Read::ExtentsNear { .. }
            | Read::StatFs { .. } => false,
        };
        Asking { copy: self, question: is_kept.then(|| self.state().ask()).flatten() }
    }

    /// To be called before a change is sent by `meta`.
    pub(crate) fn changing<'c>(&'c self, change: &Change, meta: &'c MetaClient) -> Changing<'c> {
        let now = self.clock.boottime();
        let (own, dropped) = self.dropping(ChangedBy::Own, |state| state.begin_change(change.scope(), now));
        let (shown, sending) = (ShownByChange::default(), Sending::after(dropped));
        Changing { copy: self, meta, own, shown, sending, is_settled: false }
    }
}

impl Asking<'_> {
    /// The attachment under which leases are wanted.
    pub(crate) fn leases(&self) -> Option<Attachment> {
        self.question.map(|question| question.attachment)
    }

    pub(crate) fn answered(mut self, read: &Read, shown: &Shown) {
        if let Some(question) = self.question.take() {
            self.copy.state().answered(question, read, shown);
        }
    }
}

impl Drop for Asking<'_> {
    fn drop(&mut self) {
        if let Some(question) = self.question.take() {
            self.copy.state().given_up(question);
        }
    }
}

impl Changing<'_> {
    /// To be called before [`Changing::answered`] of a change that an application asked for: what its answer shows is kept.
    pub(crate) fn shown(&mut self, change: &Change, answer: &Answer) {
        if let Ok((changed, _)) = &answer.answered {
            self.copy.state().executed(change, changed);
            self.shown = ShownByChange::of(change, answer);
        }
    }

    pub(crate) fn answered(mut self, answer: &Answer) {
        self.is_settled = is_settled(answer);
    }
}

/// The change was executed, or does not happen any more.
fn is_settled(answer: &Answer) -> bool {
    match &answer.answered {
        Ok(_) | Err(MetaError::SessionExpired { .. }) => true,
        // These do not say that nothing was proposed.
        Err(
            MetaError::Unavailable { .. }
            | MetaError::NotLeader { .. }
            | MetaError::Away { .. }
            | MetaError::Undecided { .. }
            | MetaError::Internal { .. },
        ) => false,
        // A try before the last one may still be under way at another member.
        Err(_) => answer.is_first_try,
    }
}

impl Drop for Changing<'_> {
    fn drop(&mut self) {
        if let Some(dropped) = &self.sending.dropped
            && self.sending.was_sent()
            && !self.is_settled
        {
            self.meta.change_in_doubt(dropped.attachment); // keeps CY4
        }
        let shown = std::mem::take(&mut self.shown);
        self.copy.dropping(ChangedBy::Own, |state| state.change_answered(self.own, shown)); // last: from here on things are kept again
    }
}

impl ReadLeases for LeasedCopy {
    fn used_until(&self) -> Option<Instant> {
        *self.used_until.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn attaching(&self, attachment: Attachment) {
        self.dropping(ChangedBy::Others, |state| state.attaching(attachment));
    }

    fn attached(&self, attachment: Attachment, sent: Duration, term: Duration) {
        self.state().attached(attachment, sent, term);
    }

    fn detached(&self, attachment: Attachment) {
        self.dropping(ChangedBy::Others, |state| state.detached(attachment));
    }

    fn renewed(&self, attachment: Attachment, sent: Duration, recalls: u64) {
        let now = self.clock.boottime();
        self.dropping(ChangedBy::Others, |state| state.renewed(attachment, (sent, now), recalls));
    }

    fn recalled(&self, recall: &Recall) -> Taken {
        let now = self.clock.boottime();
        self.dropping(ChangedBy::Others, |state| state.recalled(recall, now))
    }
}
