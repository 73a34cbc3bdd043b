//! What the copy knows, and what may enter it. Pure: time comes in as CLOCK_BOOTTIME.

use std::time::Duration;

use dfs_proto::attr::{AccessMask, Caller, FileKind, InodeAttr, Name};
use dfs_proto::error::MetaError;
use dfs_proto::ids::{Attachment, InodeId};
use dfs_proto::meta::{
    Change, Changed, DirEntry, Dropped, MetaResult, Read, ReadReply, Recall, Recalled, Shown,
};
use dfs_proto::scope::{NameIn, Scope};

use crate::names::copy::drops::{Began, Drops};
use crate::names::copy::hints::Hints;
use crate::names::copy::kept::{Kept, LeadsTo};
use crate::names::copy::lease::{Counted, Lease, Order};
use crate::names::copy::listings::{Listings, Page, Room};
use crate::names::copy::own_answers::ShownByChange;
use crate::names::copy::own_changes::{ChangeNumber, OwnChanges, Reach};
use crate::names::copy::permission::{clearly_may, clearly_may_search};
use crate::session::leases::{Handled, Taken};

/// Entries that one answer holds at most, as the server bounds them.
const PAGE_LEN_MAX: u32 = 1000;

/// A read that asks for leases, and has no answer yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Question {
    pub(super) attachment: Attachment,
    began: Began,
}

/// A change of this client that is under way.
#[derive(Clone, Copy, Debug)]
pub(super) struct OwnChange {
    number: ChangeNumber,
    /// It may be answered with leases.
    question: Option<Question>,
}

/// Inodes whose attributes were dropped.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum DroppedAttrs {
    Of(Vec<InodeId>),
    Everything,
}

/// What outer caches are to be told of.
#[derive(Debug)]
pub(super) struct Untold {
    pub(super) attrs: DroppedAttrs,
    pub(super) names: Vec<NameIn>,
    /// All names in these.
    pub(super) directories: Vec<InodeId>,
}

impl Untold {
    const NOTHING: Untold =
        Untold { attrs: DroppedAttrs::Of(Vec::new()), names: Vec::new(), directories: Vec::new() };
}

pub(super) struct State {
    lease: Lease,
    kept: Kept,
    listings: Listings,
    drops: Drops,
    changes: OwnChanges,
    /// Outer caches are to be told of these (CY8).
    untold: Untold,
    hints: Hints,
}

impl State {
    /// `kept`: attributes and names.
    pub(super) fn with_room(kept: usize, listings: Room) -> State {
        State {
            lease: Lease::none(),
            kept: Kept::with_room(kept),
            listings: Listings::with_room(listings),
            drops: Drops::default(),
            changes: OwnChanges::default(),
            untold: Untold::NOTHING,
            hints: Hints::default(),
        }
    }

    // --- the session ---

    pub(super) fn attaching(&mut self, attachment: Attachment) {
        if self.lease.attaching(attachment) {
            self.drop_everything();
        }
    }

    pub(super) fn attached(&mut self, attachment: Attachment, sent: Duration, term: Duration) {
        self.lease.attached(attachment, sent, term);
    }

    pub(super) fn detached(&mut self, attachment: Attachment) {
        if self.lease.detached(attachment) {
            self.drop_everything();
        }
    }

    pub(super) fn renewed(
        &mut self,
        attachment: Attachment,
        sent_and_now: (Duration, Duration),
        recalls: u64,
    ) {
        let counted = self.lease.renewed(attachment, sent_and_now, recalls);
        self.counted(counted);
    }

    fn counted(&mut self, counted: Counted) {
        if counted == Counted::Lapsed {
            self.drop_everything();
        }
    }

    pub(super) fn recalled(&mut self, recall: &Recall, now: Duration) -> Taken {
        match self.lease.order(recall.attachment, recall.number) {
            Order::Old => return Taken::Old,
            Order::Next => self.take_back(&recall.what),
            // The leader sends them in order, over one connection. Nobody knows what the missing one was about.
            Order::Gap => {
                self.detached(recall.attachment);
                return Taken::Gap;
            }
        }
        let counted = self.lease.handled(recall.number, now);
        self.counted(counted);
        Taken::Handled(Handled { attachment: recall.attachment, number: recall.number })
    }

    fn take_back(&mut self, what: &Recalled) {
        let Recalled::Inodes(inodes) = what else { return self.drop_everything() };
        for (inode, names) in inodes {
            if names.is_empty() {
                self.drop_whole(*inode);
                continue;
            }
            self.drop_attr(*inode);
            for name in names {
                self.drop_name(&(*inode, name.clone()));
            }
        }
    }

    // --- drops ---

    fn drop_everything(&mut self) {
        self.kept.clear();
        self.listings.clear();
        self.drops.everything();
        self.untold = Untold { attrs: DroppedAttrs::Everything, ..Untold::NOTHING };
    }

    /// Outer caches may have attributes that were forgotten here for want of room, so they are told in any case.
    fn drop_attr(&mut self, inode: InodeId) {
        self.kept.drop_attr(inode);
        self.drops.attr(inode);
        if let DroppedAttrs::Of(inodes) = &mut self.untold.attrs {
            inodes.push(inode);
        }
    }

    /// What was dropped since this was last called.
    pub(super) fn take_untold(&mut self) -> Untold {
        std::mem::replace(&mut self.untold, Untold::NOTHING)
    }

    fn drop_name(&mut self, name: &NameIn) {
        self.kept.drop_name(name.0, &name.1);
        self.listings.drop_of(name.0); // keeps LI2
        self.drops.name(name.0, &name.1);
        self.untold.names.push(name.clone());
    }

    /// With all names in it.
    fn drop_whole(&mut self, inode: InodeId) {
        self.drop_attr(inode);
        self.kept.drop_names_in(inode);
        self.listings.drop_of(inode); // keeps LI2
        self.drops.names_in(inode);
        self.untold.directories.push(inode);
    }

    fn drop_reach(&mut self, reach: &Reach) {
        reach.whole.iter().for_each(|inode| self.drop_whole(*inode));
        reach.directories.iter().for_each(|inode| self.drop_attr(*inode));
        reach.names.iter().for_each(|name| self.drop_name(name));
    }

    // --- changes of this client ---

    /// To be called before the change is sent, which then says what was dropped for it. It says so only where leases are asked for.
    pub(super) fn begin_change(&mut self, scope: Scope, now: Duration) -> (OwnChange, Option<Dropped>) {
        let is_valid = self.lease.is_valid(now);
        let reach = Reach::of(scope, |name| {
            match is_valid.then(|| self.kept.name(name.0, &name.1)).flatten() {
                Some(leads_to) => leads_to.inode().inspect(|inode| {
                    self.hints.note(name.clone(), *inode); // a rename takes it along
                }),
                None => self.hints.leads_to(name),
            }
        });
        self.drop_reach(&reach);
        let dropped = |attachment| Dropped {
            attachment,
            behind: reach.behind.clone(),
            wants_write: None,
            wants_read: true,
            writes: Vec::new(),
        };
        let dropped = self.lease.attachment().map(dropped);
        let question = self.ask(); // behind its own drops
        (OwnChange { number: self.changes.begin(reach), question }, dropped)
    }

    /// To be called before the change ends, if it was executed.
    pub(super) fn executed(&mut self, change: &Change, changed: &Changed) {
        self.hints.executed(change, changed);
    }

    #[cfg(test)]
    pub(super) fn end_change(&mut self, own: OwnChange) {
        self.change_answered(own, ShownByChange::default());
    }

    /// The change was answered, or nobody waits for its answer any more: then nothing is shown. What the answer shows under leases enters if
    /// nothing has overtaken it. What was asked for before the answer does not any more.
    pub(super) fn change_answered(&mut self, own: OwnChange, mut shown: ShownByChange) {
        let Some(reach) = self.changes.end(own.number) else { return };
        if let Some(Question { attachment, began }) = own.question {
            let is_present = self.lease.attachment() == Some(attachment);
            shown.attrs.retain(|attr| is_present && self.may_enter_attr(began, attr.inode));
            shown.names.retain(|(named, _)| is_present && self.may_enter_name(began, named));
            self.drops.end(began);
        }
        self.drop_reach(&reach);
        shown.attrs.into_iter().for_each(|attr| self.kept.put_attr(attr));
        for ((directory, name), leads_to) in shown.names {
            self.kept.put_name(directory, &name, leads_to);
        }
    }

    // --- questions ---

    /// What to ask for instead: a page of a listing is as long as all of those before it that are known. So a long directory takes few
    /// requests, and whoever stops in the middle, or changes names while he lists, was sent at most twice what he used.
    pub(super) fn widened(&self, read: &Read) -> Read {
        match read {
            Read::ReadDir { inode, cookie, limit, plus } if *limit != 0 => {
                let before = self.listings.read_before(*inode, *cookie).min(PAGE_LEN_MAX as usize) as u32;
                Read::ReadDir { inode: *inode, cookie: *cookie, limit: before.max(*limit), plus: *plus }
            }
            other => other.clone(),
        }
    }

    /// To be called before a read is sent. `None`: there are no leases to ask for.
    pub(super) fn ask(&mut self) -> Option<Question> {
        let attachment = self.lease.attachment()?;
        Some(Question { attachment, began: self.drops.begin() })
    }

    pub(super) fn given_up(&mut self, question: Question) {
        self.drops.end(question.began);
    }

    /// Takes in what the answer shows under leases, if nothing has overtaken it.
    pub(super) fn answered(&mut self, question: Question, read: &Read, shown: &Shown) {
        if self.lease.attachment() == Some(question.attachment) && !shown.leased.is_empty() {
            self.take_in(question.began, read, shown);
        }
        self.drops.end(question.began);
    }

    fn take_in(&mut self, began: Began, read: &Read, shown: &Shown) {
        let mut leased = shown.leased.clone();
        leased.sort_unstable();
        let leased = |inode: InodeId| leased.binary_search(&inode).is_ok();
        match &shown.answered {
            Ok(ReadReply::Attr(attr) | ReadReply::Opened { attr, .. }) => {
                self.take_in_attr(began, attr, &leased);
            }
            Ok(ReadReply::Entries { entries, .. }) => {
                for DirEntry { attr, .. } in entries {
                    attr.iter().for_each(|attr| self.take_in_attr(began, attr, &leased));
                }
            }
            _ => {}
        }
        let (directory, found) = match (read, &shown.answered) {
            (Read::Lookup { parent, name }, Ok(ReadReply::Attr(attr))) => {
                (*parent, vec![(name.as_slice(), LeadsTo::Inode(attr.inode))])
            }
            (Read::Lookup { parent, name }, Ok(ReadReply::Elsewhere(inode))) => {
                (*parent, vec![(name.as_slice(), LeadsTo::Elsewhere(*inode))])
            }
            (Read::Lookup { parent, name }, Err(MetaError::NotFound)) => {
                (*parent, vec![(name.as_slice(), LeadsTo::Nothing)])
            }
            (
                Read::ReadDir { inode, .. } | Read::ReadAhead { inode, .. },
                Ok(ReadReply::Entries { entries, .. }),
            ) => {
                // Of what is elsewhere, a listing does not say so.
                let names = entries.iter().filter(|entry| entry.inode.volume() == inode.volume());
                (*inode, names.map(|entry| (entry.name.as_bytes(), LeadsTo::Inode(entry.inode))).collect())
            }
            _ => return,
        };
        if !leased(directory) {
            return;
        }
        if let (
            Read::ReadDir { cookie, .. } | Read::ReadAhead { cookie, .. },
            Ok(ReadReply::Entries { entries, end, parent }),
        ) = (read, &shown.answered)
        {
            self.take_in_page(began, (directory, *cookie), Page { entries, end: *end, parent: *parent });
        }
        found.into_iter().for_each(|(name, leads_to)| self.take_in_name(began, directory, name, leads_to));
    }

    fn take_in_attr(&mut self, began: Began, attr: &InodeAttr, leased: &dyn Fn(InodeId) -> bool) {
        if leased(attr.inode) && self.may_enter_attr(began, attr.inode) {
            self.kept.put_attr(attr.clone());
        }
    }

    /// Keeps CY4.
    fn may_enter_attr(&self, began: Began, inode: InodeId) -> bool {
        !self.drops.has_attr_since(began, inode) && !self.changes.have(inode)
    }

    /// Keeps CY4.
    fn may_enter_name(&self, began: Began, named: &NameIn) -> bool {
        !self.drops.has_name_since(began, named) && !self.changes.have_name(named)
    }

    fn take_in_name(&mut self, began: Began, directory: InodeId, name: &[u8], leads_to: LeadsTo) {
        if Name::new(name).is_err() {
            return; // `.` and `..` are no entries
        }
        let named = (directory, name.to_vec());
        if self.may_enter_name(began, &named) {
            self.kept.put_name(directory, name, leads_to);
        }
    }

    fn take_in_page(&mut self, began: Began, (directory, cookie): (InodeId, u64), page: Page<'_, DirEntry>) {
        let is_overtaken = self.drops.has_any_name_since(began, directory) || self.changes.have(directory); // keeps CY4
        if !is_overtaken {
            self.listings.add(directory, cookie, page);
        }
    }

    // --- answers ---

    pub(super) fn is_valid(&self, now: Duration) -> bool {
        self.lease.is_valid(now)
    }

    /// The attributes of an inode, if they are known now, and for how long they may be used unless they are dropped before.
    pub(super) fn leased_attr(&mut self, inode: InodeId, now: Duration) -> Option<(InodeAttr, Duration)> {
        let attr = self.attr(inode, now)?;
        Some((attr, self.lease.left(now)))
    }

    /// The attributes of an inode, if they are known now.
    pub(super) fn attr(&mut self, inode: InodeId, now: Duration) -> Option<InodeAttr> {
        if !self.lease.is_valid(now) {
            return None;
        }
        self.kept.attr(inode)
    }

    /// Where a name leads, if that is known now, and for how long that may be used unless it is dropped before.
    pub(super) fn leased_name(
        &mut self,
        (directory, name): (InodeId, &[u8]),
        now: Duration,
    ) -> Option<(LeadsTo, Duration)> {
        if !self.lease.is_valid(now) {
            return None;
        }
        Some((self.kept.name(directory, name)?, self.lease.left(now)))
    }

    /// The attributes of a file with a name, if they are known now and clearly let the caller open it.
    pub(super) fn open(
        &mut self,
        caller: &Caller,
        (inode, mask): (InodeId, AccessMask),
        now: Duration,
    ) -> Option<InodeAttr> {
        let is_open = |attr: &InodeAttr| {
            attr.kind == FileKind::File && attr.nlink > 0 && clearly_may(attr, caller, mask)
        };
        self.attr(inode, now).filter(is_open)
    }

    /// What the server would answer to this read, if that is known now.
    pub(super) fn answer(
        &mut self,
        caller: &Caller,
        read: &Read,
        now: Duration,
    ) -> Option<MetaResult<ReadReply>> {
        match read {
            Read::GetAttr { inode } => Some(Ok(ReadReply::Attr(self.attr(*inode, now)?))),
            Read::Lookup { parent, name } => {
                let directory = self.attr(*parent, now)?;
                if !clearly_may_search(&directory, caller) {
                    return None;
                }
                match self.kept.name(*parent, name)? {
                    LeadsTo::Nothing => Some(Err(MetaError::NotFound)),
                    LeadsTo::Elsewhere(inode) => Some(Ok(ReadReply::Elsewhere(inode))),
                    LeadsTo::Inode(inode) => Some(Ok(ReadReply::Attr(self.kept.attr(inode)?))),
                }
            }
            Read::ReadDir { inode, cookie, limit, plus } => {
                let rights =
                    if *plus { AccessMask::READ.union(AccessMask::EXECUTE) } else { AccessMask::READ };
                if !self.clearly_may(caller, *inode, rights, now) {
                    return None;
                }
                self.page(*inode, *cookie, *limit, *plus).map(Ok)
            }
            Read::Access { inode, mask } => {
                let attr = self.attr(*inode, now)?;
                clearly_may(&attr, caller, *mask).then_some(Ok(ReadReply::Granted))
            }
            Read::Open { .. }
            | Read::ReadLink { .. }
            | Read::ReadAhead { .. }
            | Read::Extents { .. }
            | Read::ExtentsNear { .. }
            | Read::StatFs { .. } => None,
        }
    }

    /// The caller has these rights now in a directory, of which something may be known.
    fn clearly_may(
        &mut self,
        caller: &Caller,
        directory: InodeId,
        rights: AccessMask,
        now: Duration,
    ) -> bool {
        if caller.is_root() {
            return self.lease.is_valid(now);
        }
        self.attr(directory, now).is_some_and(|attr| clearly_may(&attr, caller, rights))
    }

    /// With `plus` only if the attributes of all its entries are known. Otherwise the whole page is asked for: that is one request,
    /// however many are missing.
    fn page(&mut self, directory: InodeId, cookie: u64, limit: u32, plus: bool) -> Option<ReadReply> {
        let limit = if limit == 0 { PAGE_LEN_MAX } else { limit.min(PAGE_LEN_MAX) };
        let Page { entries, end, parent } = self.listings.page(directory, cookie, limit as usize)?;
        let mut shown = Vec::with_capacity(entries.len());
        for entry in entries {
            let attr = if plus { Some(self.kept.attr(entry.inode)?) } else { None };
            shown.push(entry.shown(attr));
        }
        Some(ReadReply::Entries { entries: shown, end, parent })
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.kept.len() + self.listings.len()
    }
}
