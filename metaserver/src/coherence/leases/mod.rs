//! Who may cache what, and who may write what: leases of this leader's term (P3.2 to P3.8, P4.1 to P4.3).
//!
//! A read: note the [thaws](Leases::reading) → confirmed read → grant what it [showed](Leases::show) and nothing has changed since.
//! A change: [freeze](Leases::freeze) → [recall](Frozen::recall) what others hold of it → propose → applied → [grant](Frozen::grant) what
//! its answer shows → thaw.
//!
//! | file | what |
//! |---|---|
//! | `table` | who holds what, and which recalls are not over; pure |
//! | `freezes` | what is being changed, and what was lately; pure |
//! | `past` | what has happened to which inode, for whoever has looked before; pure |
//! | `writers` | who holds Write of what, and who waits for it; pure |
//! | `writing` | grants of Write, and who wants it back |
//! | `turns` | who acquires Write of a file next |
//!
//! RL1  A holder is registered after the state was read, and only if no change of the inode was under way since before that (FZ2); or with
//!      the answer to its own change, if that was alone (FZ3). A change that begins later finds the holder.
//! RL2  All of it is of one term, and stays for the whole term: what was granted or frozen in an earlier one does not count, and a
//!      change that was frozen in an earlier one is not proposed (`Consensus::propose_in`).
//! RL3  The recalls of one attachment are pushed in the order of their numbers: under the lock.
//! RL4  A session is attached here after the state says that it may hold something (P6.5), so the next leader waits for it.

mod freezes;
mod past;
mod table;
mod turns;
mod writers;
mod writing;

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use dfs_net::rpc::push::PushSender;
use dfs_proto::convert;
use dfs_proto::error::MetaError;
use dfs_proto::ids::{Attachment, InodeId, SessionId, VolumeId};
use dfs_proto::meta::{HeldWrite, MetaResult, WriteRecall};
use dfs_proto::planted::{self, Bug};
use prometheus_client::metrics::counter::Counter;
use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until};

use super::soft::{BeginsAnew, OfTerm, Soft};
use freezes::Freezes;
use past::Moment;
use table::{Granted, Issued, Outstanding, Table};
pub(crate) use table::{READ_ENDS, READ_TERM, Touched};
use turns::Turns;
pub(crate) use writers::WRITES_OF_SESSION_MAX;
use writers::Writers;
pub(crate) use writing::{Acquiring, Look, Reader, Seen, Wanted};

/// Freezes, those among them of changes of which nobody knows whether they are still under way.
const FREEZES_MAX: usize = 1_000_000;
/// In one push.
const LOST_MAX: usize = 128;

pub(crate) struct Leases {
    known: Soft<Known>,
    /// A recall may be over.
    changed: Notify,
    /// Write was given back, or nobody waits for it any more, or what was frozen can be acquired.
    moved: Notify,
    turns: Arc<Turns>,
    /// The last term in which all have told what they hold for Write.
    told_in: AtomicU64,
    counts: RecallCounts,
}

#[derive(Default)]
struct Known {
    table: Table,
    freezes: Freezes,
    writers: Writers,
    /// Where it is recorded that a session may write; a cache of the state.
    recorded: BTreeSet<(SessionId, VolumeId)>,
    /// Of each attached session.
    pushes: HashMap<SessionId, PushSender>,
    /// What earlier leaders granted has ended (P3.6).
    may_change: bool,
}

/// For the metrics.
#[derive(Clone, Default)]
pub(crate) struct RecallCounts {
    /// Pushed.
    pub(crate) issued: Counter,
    /// Waited for, by a change each.
    pub(crate) waited_for: Counter,
    /// Not answered until the lease ended.
    pub(crate) run_out: Counter,
    /// Grants of Write.
    pub(crate) writes_granted: Counter,
    /// Write leases that were asked for.
    pub(crate) writes_recalled: Counter,
    /// Reads and changes that have waited for Write to come back.
    pub(crate) writes_waited_for: Counter,
}

/// A read that is under way, or a change that shows something.
#[derive(Clone, Copy)]
pub(crate) struct Reading {
    term: u64,
    since: Moment,
    /// Of Write leases that have ended.
    ends: Moment,
}

/// While it lives, nothing is granted on what a change touches; dropping it thaws.
pub(crate) struct Frozen {
    leases: Arc<Leases>,
    term: u64,
    inodes: Vec<InodeId>,
    /// Of the moment of the freeze.
    since: Reading,
}

/// What the answer to a change shows.
#[derive(Default)]
pub(crate) struct ShownByChange {
    /// Directories in which it has altered names.
    pub(crate) directories: Vec<InodeId>,
    /// What it has made, unless an earlier try has.
    pub(crate) made: Option<InodeId>,
}

impl Leases {
    pub(crate) fn new(counts: RecallCounts, now: Instant) -> Leases {
        let (changed, moved) = (Notify::new(), Notify::new());
        let (turns, told_in) = (Arc::default(), AtomicU64::new(0));
        Leases { known: Soft::new(now), changed, moved, turns, told_in, counts }
    }

    /// The session has attached over this connection, and holds these for Write; `received`: when that came. How many of them others
    /// hold: it does not get those, and is asked for them.
    pub(crate) fn attach(
        &self,
        term: u64,
        (session, attachment): (SessionId, Attachment),
        writes: &[HeldWrite],
        pushes: PushSender,
        received: Instant,
    ) -> usize {
        let mut soft = self.known.lock();
        let mut count = 0;
        if soft.term() == term && soft.known.table.attach(session, attachment, received) {
            soft.known.pushes.insert(session, pushes);
            let lost = soft.known.writers.attach(session, writes);
            count = lost.len();
            for part in lost.chunks(LOST_MAX) {
                self.push_write(&soft.known, session, &WriteRecall { attachment, writes: part.to_vec() });
            }
        }
        drop(soft);
        self.has_changed();
        count
    }

    fn has_changed(&self) {
        self.changed.notify_waiters();
        self.moved.notify_waiters();
    }

    /// A heartbeat that was received then is about to be answered: with this number of the last recall. `None`: the session has to
    /// attach again.
    pub(crate) fn renew(&self, session: SessionId, attachment: Attachment, received: Instant) -> Option<u64> {
        self.known.lock().known.table.renew(session, attachment, received)
    }

    /// The session has ended in the state. If it held Write, its end was proposed when that had lapsed (`worker::expire`).
    pub(crate) fn end(&self, session: SessionId) {
        let mut soft = self.known.lock();
        let Known { table, pushes, writers, recorded, .. } = &mut soft.known;
        writers.end(session);
        table.end(session, Instant::now());
        pushes.retain(|session, _| table.is_known(*session));
        recorded.retain(|(recorded, _)| *recorded != session);
        drop(soft);
        self.has_changed();
    }

    /// Its client has ended the session, and uses nothing of it any more.
    pub(crate) fn close(&self, session: SessionId) {
        let mut soft = self.known.lock();
        soft.known.table.remove(session);
        soft.known.pushes.remove(&session);
        soft.known.writers.end(session);
        drop(soft);
        self.has_changed();
    }

    /// All of which something may be known here, those that have ended among them.
    pub(crate) fn sessions(&self) -> Vec<SessionId> {
        let soft = self.known.lock();
        let mut sessions = soft.known.table.sessions();
        sessions.extend(soft.known.writers.sessions());
        sessions
    }

    /// The session has handled this recall and all before it.
    pub(crate) fn answered(&self, session: SessionId, attachment: Attachment, number: u64) {
        self.known.lock().known.table.answered(session, attachment, number);
        self.changed.notify_waiters();
    }

    /// Sessions that have not answered a recall until their leases had run out, and have not attached anew: what they have open under
    /// these leases nobody knows.
    pub(crate) fn silent(&self) -> Vec<SessionId> {
        self.known.lock().known.table.silent()
    }

    /// Of the silent sessions, those that may have this inode open. `last`: see [`Table::may_have_held`].
    pub(crate) fn may_have_held(
        &self,
        silent: Vec<SessionId>,
        inode: InodeId,
        last: InodeId,
    ) -> Vec<SessionId> {
        self.known.lock().known.table.may_have_held(silent, inode, last)
    }

    pub(crate) fn is_silent(&self, session: SessionId) -> bool {
        self.known.lock().known.table.is_silent(session)
    }

    /// Before the state is read, in this term.
    pub(crate) fn reading(&self, term: u64) -> Reading {
        let soft = self.known.lock();
        Reading { term, since: soft.known.freezes.now(), ends: soft.known.writers.now() }
    }

    /// Those of the inodes of which the session holds Read from here on (RL1).
    fn grant(
        &self,
        known: &mut Known,
        reading: Reading,
        (session, attachment): (SessionId, Attachment),
        mut inodes: Vec<InodeId>,
    ) -> Vec<InodeId> {
        let Known { table, freezes, writers, .. } = known;
        let mut are_too_many = false;
        inodes.retain(|inode| {
            let is_still = freezes.is_still(*inode, reading.since) || planted::has(Bug::GrantsWhileFrozen);
            let may_be = is_still && writers.may_read(*inode, session);
            let granted = if may_be { table.grant(session, attachment, *inode) } else { Granted::No };
            are_too_many |= granted == Granted::TooMany;
            granted == Granted::Yes
        });
        if are_too_many {
            self.make_room(known, session);
        }
        inodes
    }

    fn make_room(&self, known: &mut Known, asking: SessionId) {
        if let Some(issued) = known.table.make_room(asking, Instant::now()) {
            self.push(&known.pushes, &[issued]);
        }
    }

    /// Nothing is granted on these inodes until the freeze is dropped.
    pub(crate) fn freeze(self: &Arc<Leases>, term: u64, inodes: Vec<InodeId>) -> MetaResult<Frozen> {
        let mut soft = self.known.lock();
        match soft.term() == term {
            true => self.freeze_in(&mut soft, inodes),
            false => Err(led_by_another()),
        }
    }

    fn freeze_in(self: &Arc<Leases>, soft: &mut OfTerm<Known>, inodes: Vec<InodeId>) -> MetaResult<Frozen> {
        if soft.known.freezes.count() >= FREEZES_MAX {
            return Err(MetaError::Unavailable {
                what: format!("{FREEZES_MAX} changes of inodes are under way"),
            });
        }
        let (term, ends) = (soft.term(), soft.known.writers.now());
        let since = Reading { term, since: soft.known.freezes.now(), ends };
        inodes.iter().for_each(|inode| soft.known.freezes.freeze(*inode));
        Ok(Frozen { leases: self.clone(), term, inodes, since })
    }

    /// Pushes the recalls under the lock of the table (RL3). One that cannot be sent has lost its connection: the session finds that
    /// it is not attached any more, or its lease ends.
    fn push(&self, pushes: &HashMap<SessionId, PushSender>, issued: &[Issued]) {
        for Issued { session, recall } in issued {
            self.counts.issued.inc();
            if let Some(pushes) = pushes.get(session) {
                let _ = pushes.send(&convert::recall_to_push(recall));
            }
        }
    }

    /// One after the other: whoever waits for many looks at each of them once.
    pub(crate) async fn until_over(&self, outstanding: Vec<Outstanding>) {
        self.counts.waited_for.inc_by(outstanding.len() as u64);
        for recall in &outstanding {
            loop {
                let mut changes = std::pin::pin!(self.changed.notified());
                changes.as_mut().enable();
                if self.is_over(recall) {
                    break;
                }
                tokio::select! {
                    () = changes => {}
                    () = sleep_until(recall.until) => {}
                }
            }
        }
    }

    /// It was answered, or has run out.
    fn is_over(&self, recall: &Outstanding) -> bool {
        let mut soft = self.known.lock();
        let table = &mut soft.known.table;
        if table.is_over(recall) {
            return true;
        }
        let has_run_out = Instant::now() >= recall.until;
        if has_run_out {
            tracing::debug!(session = %recall.session, "does not answer a recall until its lease has ended");
            table.has_run_out(recall);
            self.counts.run_out.inc();
            self.changed.notify_waiters();
        }
        has_run_out
    }

    /// What earlier leaders granted has ended, as is known in this term.
    pub(crate) fn may_change(&self, term: u64) -> bool {
        let soft = self.known.lock();
        soft.term() == term && soft.known.may_change
    }

    /// From here on changes are executed in this term (P3.6).
    pub(crate) fn earlier_ones_have_ended(&self, term: u64) {
        let mut soft = self.known.lock();
        if soft.term() == term {
            soft.known.may_change = true;
        }
    }

    /// When what earlier leaders granted has ended at the latest.
    pub(crate) fn earlier_ones_end(&self) -> Instant {
        self.known.lock().since + READ_ENDS
    }

    pub(crate) fn forget(&self, inode: InodeId) {
        self.known.lock().known.table.forget(inode);
    }

    /// Leases that are held.
    pub(crate) fn count(&self) -> usize {
        self.known.lock().known.table.count()
    }
}

impl Frozen {
    /// The change was applied a moment ago, and is not thawed yet: those of what its answer shows of which the session holds Read from
    /// here on (RL1).
    pub(crate) fn grant(
        &self,
        (session, attachment): (SessionId, Attachment),
        shown: ShownByChange,
    ) -> Vec<InodeId> {
        let mut soft = self.leases.known.lock();
        if soft.term() != self.term {
            return Vec::new();
        }
        let Known { table, freezes, writers, .. } = &mut soft.known;
        let mut granted = shown.directories;
        // Keeps FZ3.
        granted.retain(|inode| {
            self.inodes.contains(inode)
                && freezes.is_alone(*inode)
                && writers.may_read(*inode, session)
                && table.grant(session, attachment, *inode) == Granted::Yes
        });
        let made = Vec::from_iter(shown.made);
        granted.extend(self.leases.grant(&mut soft.known, self.since, (session, attachment), made));
        granted
    }

    /// Of the inodes that are frozen, those that others hold.
    pub(crate) fn held_by_others(
        &self,
        by: Option<(SessionId, Attachment)>,
        has_dropped: impl Fn(InodeId) -> bool,
    ) -> Vec<InodeId> {
        let soft = self.leases.known.lock();
        let by = by.filter(|(session, attachment)| soft.known.table.is_attached(*session, *attachment));
        let than = |inode| by.map(|(session, _)| session).filter(|_| has_dropped(inode));
        let is_held = |inode: &InodeId| soft.known.table.is_held_by_others(*inode, than(*inode));
        self.inodes.iter().copied().filter(is_held).collect()
    }

    /// Takes back what others hold of this, and waits until nobody uses it any more.
    pub(crate) async fn recall(
        &self,
        touched: Vec<Touched>,
        by: Option<(SessionId, Attachment)>,
        has_dropped: impl Fn(InodeId) -> bool,
    ) {
        let outstanding = {
            let mut soft = self.leases.known.lock();
            if soft.term() != self.term {
                return; // the change is not proposed (RL2)
            }
            let Known { table, pushes, .. } = &mut soft.known;
            // Attachments may have changed since the look at the holders: what counts is the present one.
            let by = by.filter(|(session, attachment)| table.is_attached(*session, *attachment));
            let than = |inode| by.map(|(session, _)| session).filter(|_| has_dropped(inode));
            let (issued, outstanding) = table.recall(&touched, than, Instant::now());
            self.leases.push(pushes, &issued); // keeps RL3
            outstanding
        };
        self.leases.until_over(outstanding).await;
    }
}

impl Drop for Frozen {
    fn drop(&mut self) {
        let mut soft = self.leases.known.lock();
        if soft.term() != self.term {
            return;
        }
        let mut is_acquired = false;
        for inode in &self.inodes {
            soft.known.freezes.thaw(*inode);
            is_acquired |= soft.known.writers.is_acquired(*inode);
        }
        drop(soft);
        if is_acquired {
            self.leases.moved.notify_waiters();
        }
    }
}

pub(super) fn led_by_another() -> MetaError {
    MetaError::Unavailable { what: "another member has led meanwhile".to_owned() }
}

impl BeginsAnew for Leases {
    fn enter_term(&self, term: u64, since: Instant) {
        self.known.enter_term(term, since);
    }

    /// A while in which nobody could be heard ends no lease, of Write neither, and no term (RL2).
    fn begin_anew(&self, _now: Instant) {}
}
