//! The table of Write leases: what is held, asked for and recalled. Pure; the time is handed in.
//!
//! ```text
//!             ask                granted            recalled, or idle; no holds      flushed
//!   (nothing) ───▶ Acquiring ────────────▶ Held ──────────────────────────────▶ Returning ──────▶ (nothing)
//!       │                                   ▲
//!       └── with a create ──────────────────┘
//! ```

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use dfs_proto::error::MetaError;
use dfs_proto::ids::{Attachment, InodeId, SessionId, WriteGrant};
use dfs_proto::meta::{HeldWrite, WriteRecall};

use crate::session::leases::Bound;

/// The clocks of two machines may run apart by less than this in one term: a tenth of it, but no more than this.
const MARGIN_MAX: Duration = Duration::from_millis(500);
/// Leases that are held at the same time. The leader gives a session no more than 16,384, and those that are just being asked for or
/// returned count there too.
pub(super) const HELD_MAX: usize = 12_288;
/// Above this, those that were not used for longest are given back.
pub(super) const HELD_MANY: usize = 8_192;

/// What the leader of the present attachment does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Leader {
    /// No attachment was taken yet.
    Unknown,
    GivesNone,
    Gives {
        term: Duration,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Acquiring,
    Held,
    /// Nothing is written under it any more: what was is being flushed.
    Returning,
}

#[derive(Debug)]
struct File {
    grant: WriteGrant,
    stage: Stage,
    /// The largest number of a recall.
    recalled: Option<WriteGrant>,
    /// Writes that are being laid into the buffer.
    holds: u32,
    /// Writers that were there before the grant: each has one hold, whatever is recalled (WL3).
    waiting: u32,
    /// When the last hold began, by CLOCK_BOOTTIME.
    used: Duration,
    failure: Failure,
}

impl File {
    fn new(grant: WriteGrant, stage: Stage, now: Duration) -> File {
        let failure = Failure::default();
        File { grant, stage, recalled: None, holds: 0, waiting: 0, used: now, failure }
    }

    fn is_unused(&self) -> bool {
        self.stage == Stage::Held && self.holds == 0 && self.waiting == 0
    }
}

/// Why a question was not answered with a grant.
pub(super) type Failure = Arc<OnceLock<MetaError>>;

/// The place of a writer among those who wait for one grant.
#[derive(Clone, Debug)]
pub(super) struct Ticket {
    pub(super) write: HeldWrite,
    pub(super) failure: Failure,
}

/// What a writer is to do.
#[derive(Clone, Debug)]
pub(super) enum Decision {
    /// It may write, and says when it has. Its ticket is used up.
    Hold(HeldWrite, SessionId),
    /// The leader gives no Write: everybody writes as they like.
    Free,
    /// It has the leader asked, and waits with this ticket.
    Ask(Ticket),
    /// It looks again when something has changed.
    WaitWith(Ticket),
    Wait,
}

#[derive(Debug)]
pub(super) struct State {
    session: SessionId,
    /// The last one that was begun.
    attachment: Attachment,
    /// The leader has taken it.
    is_attached: bool,
    leader: Leader,
    /// By CLOCK_BOOTTIME.
    valid_until: Duration,
    last_grant: u64,
    files: BTreeMap<InodeId, File>,
    /// Creates that have no answer yet, and want Write of what they make.
    creating: BTreeSet<WriteGrant>,
    /// Nothing is written under these any more.
    to_flush: Vec<HeldWrite>,
    /// The leader is to be told that these are not held.
    returned: BTreeSet<HeldWrite>,
}

impl State {
    pub(super) fn new() -> State {
        State {
            session: SessionId(0),
            attachment: Attachment(0),
            is_attached: false,
            leader: Leader::Unknown,
            valid_until: Duration::ZERO,
            last_grant: 0,
            files: BTreeMap::new(),
            creating: BTreeSet::new(),
            to_flush: Vec::new(),
            returned: BTreeSet::new(),
        }
    }

    // --- the session ---

    /// Returns what the attachment tells.
    pub(super) fn attaching(&mut self, bound: Bound) -> Vec<HeldWrite> {
        (self.session, self.attachment, self.is_attached) = (bound.session, bound.attachment, false);
        self.creating.clear();
        self.files.retain(|_, file| file.stage != Stage::Acquiring); // keeps WL4
        self.held()
    }

    fn held(&self) -> Vec<HeldWrite> {
        let held = |(inode, file): (&InodeId, &File)| HeldWrite { inode: *inode, grant: file.grant };
        self.files.iter().map(held).collect()
    }

    pub(super) fn attached(&mut self, attachment: Attachment, sent: Duration, term: Option<Duration>) {
        if attachment != self.attachment {
            return;
        }
        self.is_attached = true;
        match term.filter(|term| !term.is_zero()) {
            Some(term) => {
                self.leader = Leader::Gives { term };
                self.count(sent);
            }
            None => {
                self.leader = Leader::GivesNone;
                self.forget_all();
            }
        }
    }

    pub(super) fn renewed(&mut self, attachment: Attachment, sent: Duration) {
        if attachment == self.attachment {
            self.count(sent);
        }
    }

    /// Keeps WL1.
    fn count(&mut self, sent: Duration) {
        if let Leader::Gives { term } = self.leader {
            let margin = (term / 10).min(MARGIN_MAX);
            self.valid_until = self.valid_until.max((sent + term).saturating_sub(margin));
        }
    }

    pub(super) fn session_ended(&mut self) {
        self.valid_until = Duration::ZERO;
        self.leader = Leader::Unknown; // until the next session has attached
        self.forget_all();
    }

    fn forget_all(&mut self) {
        self.files.clear();
        self.creating.clear();
        self.to_flush.clear();
        self.returned.clear();
    }

    /// What was written under leases may be relied upon: they have not lapsed, or the leader gives none.
    pub(super) fn is_valid(&self, now: Duration) -> bool {
        match self.leader {
            Leader::Unknown => false,
            Leader::GivesNone => true,
            Leader::Gives { .. } => now < self.valid_until,
        }
    }

    // --- writers ---

    /// `ticket`: the writer's place, if it has one.
    pub(super) fn hold(&mut self, inode: InodeId, now: Duration, ticket: Option<WriteGrant>) -> Decision {
        if self.leader == Leader::GivesNone {
            return Decision::Free;
        }
        let (is_valid, session) = (self.is_valid(now), self.session);
        let has_no_room = self.leader == Leader::Unknown || self.files.len() >= HELD_MAX;
        let Some(file) = self.files.get_mut(&inode) else {
            return if has_no_room { Decision::Wait } else { self.ask(inode, now) };
        };
        let (write, has_turn) = (HeldWrite { inode, grant: file.grant }, ticket == Some(file.grant));
        match file.stage {
            Stage::Held if is_valid && (has_turn || file.recalled.is_none()) => {
                file.waiting -= u32::from(has_turn);
                file.holds += 1;
                file.used = now;
                Decision::Hold(write, session)
            }
            Stage::Acquiring if !has_turn => {
                file.waiting += 1;
                Decision::WaitWith(Ticket { write, failure: file.failure.clone() })
            }
            Stage::Acquiring | Stage::Held | Stage::Returning => Decision::Wait,
        }
    }

    fn ask(&mut self, inode: InodeId, now: Duration) -> Decision {
        let file = File { waiting: 1, ..File::new(self.next_grant(), Stage::Acquiring, now) };
        let ticket = Ticket { write: HeldWrite { inode, grant: file.grant }, failure: file.failure.clone() };
        self.files.insert(inode, file);
        Decision::Ask(ticket)
    }

    fn next_grant(&mut self) -> WriteGrant {
        self.last_grant += 1;
        WriteGrant(self.last_grant)
    }

    fn of(&mut self, write: HeldWrite) -> Option<&mut File> {
        self.files.get_mut(&write.inode).filter(|file| file.grant == write.grant)
    }

    /// A writer does not wait any more.
    pub(super) fn leave(&mut self, write: HeldWrite) {
        if let Some(file) = self.of(write) {
            file.waiting = file.waiting.saturating_sub(1);
            self.end_if_recalled(write);
        }
    }

    /// The leader has granted what writers asked for.
    pub(super) fn acquired(&mut self, write: HeldWrite, now: Duration) {
        if let Some(file) = self.of(write).filter(|file| file.stage == Stage::Acquiring) {
            (file.stage, file.used) = (Stage::Held, now);
            self.end_if_recalled(write);
        }
    }

    /// The question has ended without a grant that anybody knows of.
    pub(super) fn given_up(&mut self, write: HeldWrite) {
        let Some(file) = self.of(write).filter(|file| file.stage == Stage::Acquiring) else { return };
        let recalled = file.recalled;
        self.files.remove(&write.inode);
        if let Some(grant) = recalled {
            self.give_back(HeldWrite { inode: write.inode, grant });
        }
    }

    /// The bytes are in the buffer. True if something is to be flushed.
    pub(super) fn end_hold(&mut self, write: HeldWrite) -> bool {
        if let Some(file) = self.of(write) {
            file.holds = file.holds.saturating_sub(1);
            self.end_if_recalled(write);
        }
        !self.to_flush.is_empty()
    }

    fn end_if_recalled(&mut self, write: HeldWrite) {
        if let Some(file) = self.of(write).filter(|file| file.is_unused() && file.recalled.is_some()) {
            file.stage = Stage::Returning;
            self.to_flush.push(write);
        }
    }

    // --- creates ---

    /// A create asks for Write with this, if it is of use.
    pub(super) fn wish_to_create(&mut self) -> Option<WriteGrant> {
        let has_room = self.files.len() + self.creating.len() < HELD_MANY;
        let wishes = has_room && matches!(self.leader, Leader::Gives { .. });
        let grant = wishes.then(|| self.next_grant())?;
        self.creating.insert(grant);
        Some(grant)
    }

    /// `made`: the new file, if the session got Write of it.
    pub(super) fn created(&mut self, grant: WriteGrant, made: Option<InodeId>, now: Duration) {
        let is_void = !self.creating.remove(&grant);
        if let Some(inode) = made.filter(|inode| !is_void && !self.files.contains_key(inode)) {
            self.files.insert(inode, File::new(grant, Stage::Held, now));
        }
    }

    // --- recalls ---

    pub(super) fn recalled(&mut self, recall: &WriteRecall) {
        if recall.attachment != self.attachment {
            return; // it is recalled again under the present one
        }
        for write in &recall.writes {
            self.recall(*write);
        }
    }

    /// Ends everything of the inode that is numbered so or lower.
    fn recall(&mut self, write: HeldWrite) {
        let file = self.files.get_mut(&write.inode).filter(|file| file.grant <= write.grant);
        match file {
            Some(file) => {
                file.recalled = file.recalled.max(Some(write.grant));
                let of_file = HeldWrite { grant: file.grant, ..write };
                self.end_if_recalled(of_file);
            }
            None => self.give_back(write),
        }
    }

    /// It is not held. A create with such a number may be of this inode: nobody knows before its answer, which then means nothing.
    fn give_back(&mut self, write: HeldWrite) {
        self.creating.retain(|creating| *creating > write.grant); // keeps WL3
        self.returned.insert(write);
    }

    /// Gives back what nobody has used for `age` and has nothing buffered, and what is too much.
    pub(super) fn return_idle(&mut self, now: Duration, age: Duration, is_clean: impl Fn(InodeId) -> bool) {
        let unused = self.files.iter().filter(|(_, file)| file.is_unused());
        let mut idle: Vec<(Duration, InodeId)> = unused.map(|(inode, file)| (file.used, *inode)).collect();
        idle.sort_unstable();
        let too_many = self.files.len().saturating_sub(HELD_MANY);
        for (number, (used, inode)) in idle.into_iter().enumerate() {
            let is_old = now.saturating_sub(used) >= age;
            if number < too_many || (is_old && is_clean(inode)) {
                self.return_unused(inode);
            }
        }
    }

    /// Gives back what nobody has open any more, unless it is being used.
    pub(super) fn return_unused(&mut self, inode: InodeId) {
        if let Some(file) = self.files.get(&inode).filter(|file| file.is_unused()) {
            self.recall(HeldWrite { inode, grant: file.grant });
        }
    }

    pub(super) fn take_to_flush(&mut self) -> Vec<HeldWrite> {
        std::mem::take(&mut self.to_flush)
    }

    /// What was written under it is committed, or lost and noted.
    pub(super) fn flushed(&mut self, write: HeldWrite) {
        let Some(file) = self.of(write).filter(|file| file.stage == Stage::Returning) else { return };
        let grant = file.recalled.unwrap_or(write.grant);
        self.files.remove(&write.inode); // before it is sent: keeps WL5
        self.give_back(HeldWrite { inode: write.inode, grant });
    }

    /// Nothing while an attachment is on its way, which may name them (WL5).
    pub(super) fn take_returned(&mut self) -> Vec<HeldWrite> {
        match self.is_attached {
            true => std::mem::take(&mut self.returned).into_iter().collect(),
            false => Vec::new(),
        }
    }

    /// The leader was not told.
    pub(super) fn not_told(&mut self, session: SessionId, writes: Vec<HeldWrite>) {
        if session == self.session {
            self.returned.extend(writes);
        }
    }

    pub(super) fn session(&self) -> SessionId {
        self.session
    }

    // --- questions ---

    pub(super) fn is_bound(&self, bound: Bound) -> bool {
        (self.session, self.attachment) == (bound.session, bound.attachment)
    }

    /// The question stands.
    pub(super) fn is_asked(&self, write: HeldWrite) -> bool {
        let file = self.files.get(&write.inode);
        file.is_some_and(|file| file.grant == write.grant && file.stage == Stage::Acquiring)
    }

    /// Nobody else writes the file, and this client shows what it has written.
    pub(super) fn is_held(&self, inode: InodeId) -> bool {
        self.files.get(&inode).is_some_and(|file| file.stage != Stage::Acquiring)
    }

    #[cfg(test)]
    pub(super) fn all_held(&self) -> Vec<HeldWrite> {
        self.held()
    }
}
