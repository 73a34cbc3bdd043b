//! Write leases of this leader's term: whoever reads or changes a file waits until what others have written to it is committed, and
//! whoever writes acquires the file first (P3.2 to P3.8, P4.1, P4.2).
//!
//! A read:     [reading](Leases::reading) → confirmed read → [show](Leases::show) it, or [want](Leases::want) back what others hold, and
//!             read again.
//! A change:   freeze → [want](Leases::want) Write back → recall Read → propose.
//! A commit:   [freeze](Leases::freeze_commit), if the lease under which its bytes were written is held → propose.
//! An acquire: [turn](Leases::turn) → [mark](Leases::acquire) → [look](Acquiring::look) until it is granted → confirmed read → unmark.
//!
//! WG1  Grants of Write and of Read are decided under one lock, because each excludes the other.
//! WG2  An answer shows a file only if nobody else holds Write of it after the state was read, and none has ended since before that: who
//!      has written has returned it after the commit. *A holder could write and flush and return its lease between the look at
//!      the state and the look at the holders.*
//! WG3  Nobody waits in here: whoever waits looks again each time something has [moved](Leases::moves).
//! WG4  A commit is executed only if its session holds the very grants under which it was written, at the moment when it freezes the
//!      files. *A commit that its client has given up arrives after Write was returned, and somebody else has written since.*
//! WG5  A session that is about to be ended (SS2 of `sessions`) is granted nothing, which is looked at under the lock: whoever has
//!      marked it sees in the table all that it was granted.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use dfs_proto::convert;
use dfs_proto::error::MetaError;
use dfs_proto::ids::{Attachment, InodeId, SessionId, VolumeId, WriteGrant};
use dfs_proto::meta::{HeldWrite, MetaResult, WriteRecall};
use dfs_proto::planted::{self, Bug};
use tokio::sync::futures::Notified;
use tokio::time::Instant;

use super::table::Outstanding;
use super::turns::Turn;
use super::writers::Given;
use super::{Frozen, Known, Leases, Reading, Touched, led_by_another};

/// Who is shown something.
#[derive(Clone, Copy)]
pub(crate) struct Reader {
    pub(crate) session: SessionId,
    /// It wants Read of what it is shown, by this attachment.
    pub(crate) leases: Option<Attachment>,
    /// Until those who write have returned Write of what it is shown. Else it is not shown that.
    pub(crate) waits: bool,
}

/// What an answer shows.
#[derive(Default)]
pub(crate) struct Seen {
    /// Files whose attributes or content are shown.
    pub(crate) files: Vec<InodeId>,
    /// What may be leased for Read.
    pub(crate) leasable: Vec<InodeId>,
}

/// Somebody waits until Write of these is back. Dropped, it waits no longer.
pub(crate) struct Wanted {
    leases: Arc<Leases>,
    term: u64,
    by: Option<SessionId>,
    inodes: Vec<InodeId>,
}

/// A session acquires Write of a file. While this lives, nobody else is granted anything of it.
pub(crate) struct Acquiring {
    leases: Arc<Leases>,
    term: u64,
    by: (SessionId, Attachment),
    write: HeldWrite,
}

/// How far an acquire is.
pub(crate) enum Look {
    Granted,
    NotAttached,
    /// Something has to move.
    Wait,
    /// These recalls of Read have to be over.
    Recalled(Vec<Outstanding>),
}

impl Leases {
    /// Created before the look, so that nothing is missed in between (WG3).
    pub(crate) fn moves(&self) -> Notified<'_> {
        self.moved.notified()
    }

    /// Each session that may write in a volume has told this leader what it holds, or has ended, as is known in this term.
    pub(crate) fn have_writers_told(&self, term: u64) -> bool {
        self.told_in.load(Ordering::Acquire) == term
    }

    pub(crate) fn writers_have_told(&self, term: u64) {
        self.told_in.fetch_max(term, Ordering::AcqRel);
    }

    pub(crate) fn is_write_recorded(&self, session: SessionId, volume: VolumeId) -> bool {
        self.known.lock().known.recorded.contains(&(session, volume))
    }

    /// The state says that the session may write in the volume; as was read, or decided, in this term.
    pub(crate) fn write_is_recorded(&self, term: u64, session: SessionId, volume: VolumeId) {
        let mut soft = self.known.lock();
        if soft.term() == term {
            soft.known.recorded.insert((session, volume));
        }
    }

    /// The session holds Write of these files.
    pub(crate) fn holds_write(&self, session: SessionId, inodes: &BTreeSet<InodeId>) -> bool {
        let soft = self.known.lock();
        inodes.iter().all(|inode| soft.known.writers.grant_of(session, *inode).is_some())
    }

    /// After the state was read: what the reader holds of it from here on (RL1). Or the files of which it does not show all that others
    /// have written (WG2); none, if another term has begun.
    pub(crate) fn show(
        &self,
        reading: Reading,
        reader: Reader,
        seen: Seen,
    ) -> Result<Vec<InodeId>, Vec<InodeId>> {
        let mut soft = self.known.lock();
        if soft.term() != reading.term {
            return Err(Vec::new()); // keeps RL2; and who may write in the other term was not asked
        }
        let known = &mut soft.known;
        if !known.writers.are_none_since(reading.ends) && !planted::has(Bug::WritesUnseen) {
            let is_unseen = |file: &InodeId| !known.writers.is_seen(*file, reader.session, reading.ends);
            let unseen: Vec<InodeId> = seen.files.into_iter().filter(is_unseen).collect();
            if !unseen.is_empty() {
                return Err(unseen); // keeps WG2
            }
        }
        let Some(attachment) = reader.leases else { return Ok(Vec::new()) };
        Ok(self.grant(known, reading, (reader.session, attachment), seen.leasable))
    }

    /// Write of a file that the session has made after `reading`, unless somebody was faster.
    pub(crate) fn grant_new(
        &self,
        reading: Reading,
        (session, attachment): (SessionId, Attachment),
        write: HeldWrite,
        is_ending: impl FnOnce() -> bool,
    ) -> bool {
        let mut soft = self.known.lock();
        let is_of_term = soft.term() == reading.term;
        let Known { table, freezes, writers, recorded, may_change, .. } = &mut soft.known;
        let is_free = is_of_term
            && *may_change
            && recorded.contains(&(session, write.inode.volume()))
            && freezes.is_still(write.inode, reading.since)
            && !table.is_held_by_others(write.inode, Some(session))
            && table.may_be_granted(session, attachment)
            && !is_ending(); // keeps WG5
        let is_granted = is_free && writers.grant(session, write) == Given::Yes;
        if is_granted {
            self.counts.writes_granted.inc();
        }
        is_granted
    }

    /// Nothing is granted of these files to others until the freeze of the commit is dropped: of bytes that the session has written
    /// under these leases, or under none (WG4).
    pub(crate) fn freeze_commit(
        self: &Arc<Leases>,
        term: u64,
        session: SessionId,
        inodes: Vec<InodeId>,
        under: &[HeldWrite],
    ) -> MetaResult<Frozen> {
        let mut soft = self.known.lock();
        let is_of_term = soft.term() == term;
        let Known { table, writers, .. } = &mut soft.known;
        let grants: BTreeMap<InodeId, WriteGrant> = under.iter().map(|w| (w.inode, w.grant)).collect();
        let may_commit = |inode: &InodeId| match grants.get(inode) {
            Some(grant) => writers.may_commit(session, *inode, Some(*grant)),
            None => under.is_empty() && writers.may_commit(session, *inode, None),
        };
        if !is_of_term || (!under.is_empty() && !table.is_known(session)) {
            // It is asked again, and by then it has.
            return Err(MetaError::Undecided { what: "the session has not attached yet".to_owned() });
        }
        if !inodes.iter().all(may_commit) {
            return Err(MetaError::CommitRefused { what: "it was written under another lease".to_owned() });
        }
        inodes.iter().for_each(|inode| writers.commits(*inode, Instant::now()));
        self.freeze_in(&mut soft, inodes)
    }

    /// Of these, what others than `by` hold for Write is asked for from here on, and nobody is granted any of them.
    pub(crate) fn want(
        self: &Arc<Leases>,
        term: u64,
        by: Option<SessionId>,
        inodes: Vec<InodeId>,
    ) -> MetaResult<Wanted> {
        let mut soft = self.known.lock();
        if soft.term() != term {
            return Err(led_by_another());
        }
        inodes.iter().for_each(|inode| soft.known.writers.begin_wait(*inode));
        self.counts.writes_waited_for.inc();
        Ok(Wanted { leases: self.clone(), term, by, inodes })
    }

    /// How many hold Write of something.
    pub(crate) fn writing_sessions(&self) -> usize {
        self.known.lock().known.writers.sessions().count()
    }

    /// Those of which somebody else than `by` holds Write.
    pub(crate) fn written_by_others(&self, by: Option<SessionId>, inodes: &[InodeId]) -> Vec<InodeId> {
        let soft = self.known.lock();
        let writers = &soft.known.writers;
        if writers.count() == 0 {
            return Vec::new(); // the usual case
        }
        inodes.iter().copied().filter(|inode| writers.is_held_by_others(*inode, by)).collect()
    }

    /// Asks those who hold these, if they were not asked in their present attachments.
    fn ask_back(&self, known: &mut Known, inodes: &[InodeId], than: Option<SessionId>) {
        let Known { writers, table, .. } = known;
        let asked = writers.ask(inodes, than, |session| table.attachment_of(session), Instant::now());
        for (session, recall) in asked {
            self.push_write(known, session, &recall);
        }
    }

    /// What cannot be sent has lost its connection: the session attaches anew, and is asked anew.
    pub(super) fn push_write(&self, known: &Known, session: SessionId, recall: &WriteRecall) {
        self.counts.writes_recalled.inc_by(recall.writes.len() as u64);
        if let Some(pushes) = known.pushes.get(&session) {
            let _ = pushes.send(&convert::write_recall_to_push(recall));
        }
    }

    /// The session holds these no longer: what it wrote under them is committed.
    pub(crate) fn return_writes(&self, session: SessionId, writes: &[HeldWrite]) {
        let mut soft = self.known.lock();
        for write in writes {
            soft.known.writers.returned(session, *write);
        }
        drop(soft);
        self.moved.notify_waiters();
    }

    /// Waits for the turn to acquire this file.
    pub(crate) async fn turn(&self, inode: InodeId) -> MetaResult<Turn> {
        self.turns.take(inode).await
    }

    /// The session holds the file already, and keeps it by the larger number. `None`: it is not attached by this number.
    pub(crate) fn keep(
        &self,
        term: u64,
        (session, attachment): (SessionId, Attachment),
        write: HeldWrite,
    ) -> MetaResult<Option<bool>> {
        let mut soft = self.known.lock();
        if soft.term() != term {
            return Err(led_by_another());
        }
        if !soft.known.table.may_be_granted(session, attachment) {
            return Ok(None);
        }
        let is_kept = soft.known.writers.keep(session, write);
        drop(soft);
        self.moved.notify_waiters(); // who waits asks for the larger number
        Ok(Some(is_kept))
    }

    /// From here on nobody else is granted anything of the file. The caller has its [turn](Leases::turn).
    pub(crate) fn acquire(
        self: &Arc<Leases>,
        term: u64,
        by: (SessionId, Attachment),
        write: HeldWrite,
    ) -> MetaResult<Acquiring> {
        let mut soft = self.known.lock();
        if soft.term() != term {
            return Err(led_by_another());
        }
        soft.known.writers.begin_acquire(by.0, write.inode);
        Ok(Acquiring { leases: self.clone(), term, by, write })
    }

    /// Sessions that hold Write of what somebody waits for; and those among them that were asked long ago.
    pub(crate) fn writers_in_the_way(&self, now: Instant) -> (BTreeSet<SessionId>, BTreeSet<SessionId>) {
        let soft = self.known.lock();
        (soft.known.writers.in_the_way(), soft.known.writers.late(now))
    }

    /// Write leases that are held.
    pub(crate) fn write_count(&self) -> usize {
        self.known.lock().known.writers.count()
    }

    pub(crate) fn write_count_of(&self, session: SessionId) -> usize {
        self.known.lock().known.writers.count_of(session)
    }
}

impl Wanted {
    /// Nobody else holds any of them. Whoever does is asked, in each of its attachments once.
    pub(crate) fn is_back(&self) -> bool {
        let mut soft = self.leases.known.lock();
        if soft.term() != self.term {
            return true; // the caller finds that it leads in this term no longer
        }
        self.leases.ask_back(&mut soft.known, &self.inodes, self.by);
        !self.inodes.iter().any(|inode| soft.known.writers.is_held_by_others(*inode, self.by))
    }
}

impl Drop for Wanted {
    fn drop(&mut self) {
        let mut soft = self.leases.known.lock();
        if soft.term() == self.term {
            self.inodes.iter().for_each(|inode| soft.known.writers.end_wait(*inode));
        }
        drop(soft);
        self.leases.moved.notify_waiters();
    }
}

impl Acquiring {
    pub(crate) fn by(&self) -> (SessionId, Attachment) {
        self.by
    }

    /// Grants it if nothing is in the way, and asks for what is.
    pub(crate) fn look(&self, is_ending: impl FnOnce() -> bool) -> MetaResult<Look> {
        let mut soft = self.leases.known.lock();
        if soft.term() != self.term {
            return Err(led_by_another());
        }
        let ((session, attachment), inode) = (self.by, self.write.inode);
        let known = &mut soft.known;
        if !known.table.may_be_granted(session, attachment) || is_ending() {
            return Ok(Look::NotAttached); // keeps WG5
        }
        if known.writers.keep(session, self.write) {
            return Ok(Look::Granted); // an earlier try got it meanwhile
        }
        if known.writers.is_held_by_others(inode, Some(session)) {
            self.leases.ask_back(known, &[inode], Some(session));
            return Ok(Look::Wait);
        }
        let touched = [Touched { inode, is_directory: false, names: Vec::new() }];
        let (issued, outstanding) = known.table.recall(&touched, |_| Some(session), Instant::now());
        self.leases.push(&known.pushes, &issued);
        if !outstanding.is_empty() {
            return Ok(Look::Recalled(outstanding));
        }
        if known.freezes.is_frozen(inode) {
            return Ok(Look::Wait); // what is changed is not seen before it is applied
        }
        Ok(self.grant(known))
    }

    fn grant(&self, known: &mut Known) -> Look {
        let (session, _) = self.by;
        match known.writers.grant_acquired(session, self.write) {
            Given::Yes => {
                self.leases.counts.writes_granted.inc();
                Look::Granted
            }
            Given::No => Look::Wait,
            Given::TooMany => {
                let oldest = known.writers.oldest_of(session);
                self.leases.ask_back(known, &oldest, None);
                Look::Wait
            }
        }
    }
}

impl Drop for Acquiring {
    fn drop(&mut self) {
        let mut soft = self.leases.known.lock();
        if soft.term() == self.term {
            soft.known.writers.end_acquire(self.write.inode);
        }
        drop(soft);
        self.leases.moved.notify_waiters();
    }
}
