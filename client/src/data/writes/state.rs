//! The table of Write leases: what is held, asked for and recalled. Pure; the time is handed in.
//!
//! ```text
//!             ask                  granted               recalled, or idle; no holds      flushed
//!   (nothing) ───▶ Acquiring ──────────────▶ Held ──────────────────────────────▶ Returning ──────▶ (nothing)
//!       │                                     ▲
//!       └── with an open or a create ─────────┘
//! ```

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use dfs_proto::ids::{Attachment, InodeId, SessionId, WriteGrant};
use dfs_proto::meta::{HeldWrite, WriteRecall};

use crate::session::held::Bound;

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
    Gives { term: Duration },
}

/// How a lease is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// With an open, which needs no Write itself.
    Opening,
    /// For a write.
    Acquiring,
    Held,
    /// Nothing is written under it any more: what was is being flushed.
    Returning,
}

#[derive(Debug)]
struct File {
    grant: WriteGrant,
    stage: Stage,
    is_recalled: bool,
    /// Writes that are being laid into the buffer.
    holds: u32,
    /// When the last of them began, by CLOCK_BOOTTIME.
    used: Duration,
}

/// What a writer is to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Decision {
    /// It may write, and says when it has.
    Hold(HeldWrite, SessionId),
    /// The leader gives no Write: everybody writes as they like.
    Free,
    /// It asks the leader.
    Ask(HeldWrite),
    /// It looks again when something has changed.
    Wait,
}

#[derive(Debug)]
pub(super) struct State {
    session: SessionId,
    /// The last one that was begun.
    attachment: Attachment,
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
        (self.session, self.attachment) = (bound.session, bound.attachment);
        self.creating.clear();
        self.files.retain(|_, file| matches!(file.stage, Stage::Held | Stage::Returning)); // keeps WL4
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

    pub(super) fn hold(&mut self, inode: InodeId, now: Duration) -> Decision {
        if self.leader == Leader::GivesNone {
            return Decision::Free;
        }
        let is_valid = self.is_valid(now);
        let has_no_room = self.leader == Leader::Unknown || self.files.len() >= HELD_MAX;
        match self.files.get_mut(&inode) {
            Some(file) if file.stage == Stage::Held && !file.is_recalled && is_valid => {
                file.holds += 1;
                file.used = now;
                Decision::Hold(HeldWrite { inode, grant: file.grant }, self.session)
            }
            Some(_) => Decision::Wait,
            None if has_no_room => Decision::Wait,
            None => Decision::Ask(self.ask(inode, Stage::Acquiring, now)),
        }
    }

    fn ask(&mut self, inode: InodeId, stage: Stage, now: Duration) -> HeldWrite {
        let grant = self.next_grant();
        self.files.insert(inode, File { grant, stage, is_recalled: false, holds: 0, used: now });
        HeldWrite { inode, grant }
    }

    fn next_grant(&mut self) -> WriteGrant {
        self.last_grant += 1;
        WriteGrant(self.last_grant)
    }

    fn of(&mut self, write: HeldWrite) -> Option<&mut File> {
        self.files.get_mut(&write.inode).filter(|file| file.grant == write.grant)
    }

    /// The leader has granted what a writer asked for: it may write once, whatever was recalled meanwhile (P3.5). `None`: it is void.
    pub(super) fn acquired(&mut self, write: HeldWrite, now: Duration) -> Option<SessionId> {
        let session = self.session;
        let file = self.of(write).filter(|file| file.stage == Stage::Acquiring)?;
        (file.stage, file.holds, file.used) = (Stage::Held, 1, now);
        Some(session)
    }

    /// Nobody waits for the answer any more, or there is none.
    pub(super) fn given_up(&mut self, write: HeldWrite) {
        let Some(file) = self.of(write) else { return };
        let is_asked = matches!(file.stage, Stage::Opening | Stage::Acquiring);
        let is_recalled = file.is_recalled;
        if is_asked {
            self.files.remove(&write.inode);
        }
        if is_asked && is_recalled {
            self.returned.insert(write);
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
        if let Some(file) = self.of(write)
            && file.is_recalled
            && file.stage == Stage::Held
            && file.holds == 0
        {
            file.stage = Stage::Returning;
            self.to_flush.push(write);
        }
    }

    // --- opens and creates ---

    /// An open asks for Write with this, if it is of use.
    pub(super) fn wish_to_open(&mut self, inode: InodeId, now: Duration) -> Option<HeldWrite> {
        let asks = self.wishes() && !self.files.contains_key(&inode);
        asks.then(|| self.ask(inode, Stage::Opening, now))
    }

    /// The same for a create.
    pub(super) fn wish_to_create(&mut self) -> Option<WriteGrant> {
        let grant = self.wishes().then(|| self.next_grant())?;
        self.creating.insert(grant);
        Some(grant)
    }

    fn wishes(&self) -> bool {
        matches!(self.leader, Leader::Gives { .. }) && self.files.len() + self.creating.len() < HELD_MANY
    }

    pub(super) fn opened(&mut self, write: HeldWrite, now: Duration) {
        if let Some(file) = self.of(write).filter(|file| file.stage == Stage::Opening) {
            (file.stage, file.used) = (Stage::Held, now);
        }
    }

    /// `made`: the new file, if the session got Write of it.
    pub(super) fn created(&mut self, grant: WriteGrant, made: Option<InodeId>, now: Duration) {
        let is_void = !self.creating.remove(&grant);
        if let Some(inode) = made.filter(|inode| !is_void && !self.files.contains_key(inode)) {
            self.files.insert(
                inode,
                File { grant, stage: Stage::Held, is_recalled: false, holds: 0, used: now },
            );
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

    fn recall(&mut self, write: HeldWrite) {
        let stage = self.of(write).map(|file| {
            file.is_recalled = true;
            file.stage
        });
        match stage {
            Some(Stage::Held) => self.end_if_recalled(write),
            Some(Stage::Acquiring | Stage::Returning) => {}
            Some(Stage::Opening) => {
                self.files.remove(&write.inode); // keeps WL3
                self.returned.insert(write);
            }
            None => {
                self.creating.remove(&write.grant); // keeps WL3
                self.returned.insert(write);
            }
        }
    }

    /// Gives back what nobody has used for `age` and has nothing buffered, and what is too much.
    pub(super) fn return_idle(&mut self, now: Duration, age: Duration, is_clean: impl Fn(InodeId) -> bool) {
        let unused = |file: &File| file.stage == Stage::Held && file.holds == 0 && !file.is_recalled;
        let mut idle: Vec<(Duration, HeldWrite)> = Vec::new();
        for (inode, file) in self.files.iter().filter(|(_, file)| unused(file)) {
            idle.push((file.used, HeldWrite { inode: *inode, grant: file.grant }));
        }
        idle.sort_unstable();
        let too_many = self.files.len().saturating_sub(HELD_MANY);
        for (number, (used, write)) in idle.into_iter().enumerate() {
            let is_old = now.saturating_sub(used) >= age;
            if number < too_many || (is_old && is_clean(write.inode)) {
                self.recall(write);
            }
        }
    }

    pub(super) fn take_to_flush(&mut self) -> Vec<HeldWrite> {
        std::mem::take(&mut self.to_flush)
    }

    /// What was written under it is committed, or lost and noted.
    pub(super) fn flushed(&mut self, write: HeldWrite) {
        if self.of(write).is_some_and(|file| file.stage == Stage::Returning) {
            self.files.remove(&write.inode); // before it is sent: keeps WL5
            self.returned.insert(write);
        }
    }

    pub(super) fn take_returned(&mut self) -> Vec<HeldWrite> {
        std::mem::take(&mut self.returned).into_iter().collect()
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
        self.files.get(&write.inode).is_some_and(|file| {
            file.grant == write.grant && matches!(file.stage, Stage::Opening | Stage::Acquiring)
        })
    }

    /// Nobody else writes the file, and this client shows what it has written.
    pub(super) fn is_held(&self, inode: InodeId) -> bool {
        self.files.get(&inode).is_some_and(|file| matches!(file.stage, Stage::Held | Stage::Returning))
    }

    #[cfg(test)]
    pub(super) fn all_held(&self) -> Vec<HeldWrite> {
        self.held()
    }
}
