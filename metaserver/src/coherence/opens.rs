//! Which session has which file open, as this leader knows (P6.5), and what is under way at this moment and must not miss each
//! other: opens, removals of last names, and creates that open what they make.
//!
//! OP1  An open is registered first, then waits while the last name of its file is being taken, and then the state is read for
//!      it. A removal is noted first, and then looks who has the file open. So one of the two sees the other.
//! OP2  A create that opens what it makes is noted before it is proposed, with the last inode that its volume had made by then,
//!      and its open is registered before the note goes. A removal of a later inode waits for it: it may be the one that is made.
//! OP3  A removal is noted until its command is applied or cannot be applied any more.
//! OP4  A session that may hold something in a volume, as the state says, and has not told this leader what, is awaited: until it
//!      attaches or ends, nobody gets a lock there, and it holds each file that loses its last name there. (Removals once waited for
//!      it too. A client that had died held them up for a term after each change of leader.)
//! OP5  A lease on what was read covers opens of which the leader is not told. So whoever has handled a recall is no longer a holder of
//!      the lease only after what it has open of that was registered: from its answer ([`Opens::told`]) or its attachment
//!      ([`Opens::attaching`]). Who has not answered until its lease had run out is *silent* (`leases::table`), and holds each file
//!      that loses its last name in its volumes, until it attaches or ends; not one that was made after it was first found silent, of
//!      which it was granted nothing. The look at the silent ones comes before the one at the opens.
//!
//! What sessions have told is of one term ([`Soft`]), and stays after a while in which nobody could be heard: only the time to
//! attach begins anew. What is under way is not: what an earlier leadership of this member has
//! proposed may still be applied.
//!
//! Not here: the state, and what is proposed (`last_names`).

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use dfs_proto::error::MetaError;
use dfs_proto::ids::{Attachment, InodeId, SessionId, VolumeId};
use dfs_proto::meta::{Change, MetaResult};
use tokio::sync::Notify;
use tokio::sync::futures::Notified;
use tokio::time::Instant;

use super::soft::{BeginsAnew, Soft};

/// Open files of all sessions together; each takes about 100 bytes.
const OPENS_MAX: usize = 4_000_000;
/// Removals under way, those among them whose outcome nobody knows: as many as calls that wait.
const REMOVALS_MAX: usize = 100_000;

/// The change opens what it makes.
pub(super) fn opens_new(change: &Change) -> bool {
    matches!(change, Change::Create(create) if create.opens)
}

pub(crate) struct Opens {
    known: Soft<Known>,
    under_way: Mutex<UnderWay>,
    /// Something has ended, or somebody has attached.
    changed: Notify,
    /// Something is to be released.
    releases: Notify,
    /// A removal was given up.
    given_up: Notify,
}

/// What sessions have told in this term.
#[derive(Default)]
struct Known {
    /// Of sessions that have attached, and of those that opened something and will.
    sessions: BTreeMap<SessionId, OpenFiles>,
    by_file: BTreeMap<InodeId, BTreeSet<SessionId>>,
    count: usize,
    /// Where it is recorded that a session may hold something; a cache of the state.
    recorded: BTreeSet<(SessionId, VolumeId)>,
    /// OP4, read from the state in this term; `None`: not yet.
    awaited: Option<Awaited>,
    /// Awaited sessions that a lock waits for.
    waited_for: BTreeSet<SessionId>,
    /// Nameless files that a session no longer has open. As many as it had open.
    to_release: BTreeSet<(SessionId, InodeId)>,
}

struct Awaited {
    term: u64,
    /// They may hold something.
    holders: Those,
    /// They may hold Write of files.
    writers: Those,
}

/// Sessions, each in some volumes.
#[derive(Default)]
struct Those {
    by_volume: BTreeSet<(VolumeId, SessionId)>,
    by_session: BTreeMap<SessionId, Vec<VolumeId>>,
}

impl Those {
    fn of(pairs: impl Iterator<Item = (VolumeId, SessionId)>) -> Those {
        let mut those = Those::default();
        for (volume, session) in pairs {
            if those.by_volume.insert((volume, session)) {
                those.by_session.entry(session).or_default().push(volume);
            }
        }
        those
    }

    fn within(&self, volume: VolumeId) -> impl Iterator<Item = SessionId> {
        let of_volume = (volume, SessionId(0))..=(volume, SessionId(u64::MAX));
        self.by_volume.range(of_volume).map(|(_, session)| *session)
    }

    fn remove(&mut self, session: SessionId) {
        for volume in self.by_session.remove(&session).unwrap_or_default() {
            self.by_volume.remove(&(volume, session));
        }
    }
}

#[derive(Default)]
struct OpenFiles {
    /// The last attachment in this term.
    attached: Option<Attachment>,
    files: BTreeSet<InodeId>,
}

/// What becomes of the files that a session has told before.
#[derive(Clone, Copy)]
enum Adds {
    More,
    /// Until [`Opens::attach`] all of them stay, beyond the bound if need be.
    InPlaceOfAll,
}

#[derive(Default)]
struct UnderWay {
    /// How many of each.
    opening: BTreeMap<(InodeId, SessionId), usize>,
    removing: BTreeMap<InodeId, usize>,
    /// The last inode made before.
    creating: BTreeMap<u64, InodeId>,
    creates: u64,
    /// Removals that their callers have given up, with the openers that their commands name.
    given_up: BTreeMap<InodeId, BTreeSet<SessionId>>,
}

fn lower<K: Ord>(counts: &mut BTreeMap<K, usize>, key: &K) {
    if let Some(count) = counts.get_mut(key) {
        *count -= 1;
        if *count == 0 {
            counts.remove(key);
        }
    }
}

impl Known {
    fn open(&mut self, session: SessionId, inode: InodeId) {
        if self.sessions.entry(session).or_default().files.insert(inode) {
            self.by_file.entry(inode).or_default().insert(session);
            self.count += 1;
        }
    }

    fn close(&mut self, session: SessionId, inode: InodeId) {
        let is_known = self.sessions.get_mut(&session).is_some_and(|open| open.files.remove(&inode));
        if !is_known {
            return;
        }
        self.count -= 1;
        if let Some(sessions) = self.by_file.get_mut(&inode) {
            sessions.remove(&session);
            if sessions.is_empty() {
                self.by_file.remove(&inode);
            }
        }
    }

    fn close_all(&mut self, session: SessionId) {
        let files = self.sessions.get(&session).map(|open| open.files.clone()).unwrap_or_default();
        for inode in files {
            self.close(session, inode);
        }
    }

    fn awaited(&self, term: u64) -> Option<&Awaited> {
        self.awaited.as_ref().filter(|awaited| awaited.term == term)
    }

    fn awaited_in(&self, term: u64, volume: VolumeId) -> Option<Vec<SessionId>> {
        Some(self.awaited(term)?.holders.within(volume).collect())
    }

    fn waited_for(&self) -> BTreeSet<SessionId> {
        // One that attached while somebody looked may have been noted afterwards.
        let has_told = |session| self.sessions.get(session).is_some_and(|open| open.attached.is_some());
        self.waited_for.iter().filter(|session| !has_told(session)).copied().collect()
    }

    fn no_longer_awaited(&mut self, session: SessionId) {
        self.waited_for.remove(&session);
        if let Some(awaited) = &mut self.awaited {
            awaited.holders.remove(session);
            awaited.writers.remove(session);
        }
    }
}

impl BeginsAnew for Opens {
    fn enter_term(&self, term: u64, since: Instant) {
        self.known.enter_term(term, since);
    }

    fn begin_anew(&self, now: Instant) {
        self.known.lock().since = now;
    }
}

impl Opens {
    pub(crate) fn new(now: Instant) -> Opens {
        Opens {
            known: Soft::new(now),
            under_way: Mutex::default(),
            changed: Notify::new(),
            releases: Notify::new(),
            given_up: Notify::new(),
        }
    }

    /// For the gate.
    pub(crate) fn soft(&self) -> &dyn BeginsAnew {
        self
    }

    fn under_way(&self) -> MutexGuard<'_, UnderWay> {
        self.under_way.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Created before the look at what is waited for, so that nothing is missed in between.
    pub(super) fn changes(&self) -> Notified<'_> {
        self.changed.notified()
    }

    /// The session has told what it has open, or opened something here before it could tell.
    pub(super) fn knows(&self, session: SessionId) -> bool {
        self.known.lock().known.sessions.contains_key(&session)
    }

    pub(super) fn is_recorded(&self, session: SessionId, volume: VolumeId) -> bool {
        self.known.lock().known.recorded.contains(&(session, volume))
    }

    /// The state says that the session may hold something in the volume.
    pub(super) fn recorded(&self, session: SessionId, volume: VolumeId) {
        self.known.lock().known.recorded.insert((session, volume));
    }

    /// The session is attaching, and has these files open; what it has told before stays until [`Opens::attach`]. Leases of its earlier
    /// attachments may be forgotten from here on (OP5).
    pub(super) fn attaching(
        &self,
        term: u64,
        (session, attachment): (SessionId, Attachment),
        open: &[InodeId],
    ) -> MetaResult<()> {
        let is_next = |attached: Option<Attachment>| attached.is_none_or(|attached| attached < attachment);
        self.add(term, session, (open, Adds::InPlaceOfAll), is_next)
    }

    /// The session has these files open, as the answer to a recall of this attachment says (OP5).
    pub(super) fn told(
        &self,
        term: u64,
        (session, attachment): (SessionId, Attachment),
        open: &[InodeId],
    ) -> MetaResult<()> {
        let is_known = |attached: Option<Attachment>| attached.is_some_and(|attached| attached <= attachment);
        self.add(term, session, (open, Adds::More), is_known)
    }

    /// Adds to what the session has open, if its last attachment in this term is as it should be.
    fn add(
        &self,
        term: u64,
        session: SessionId,
        (open, adds): (&[InodeId], Adds),
        is_right: impl FnOnce(Option<Attachment>) -> bool,
    ) -> MetaResult<()> {
        let mut soft = self.known.lock();
        require_term(soft.term(), term)?;
        let known = &mut soft.known;
        if !is_right(known.sessions.get(&session).and_then(|open| open.attached)) {
            return Err(MetaError::Unavailable { what: "the session has attached again".to_owned() });
        }
        let had = known.sessions.get(&session).map(|open| &open.files);
        let is_new = |inode: &&InodeId| had.is_none_or(|had| !had.contains(inode));
        let count = match adds {
            Adds::More => known.count + open.iter().filter(is_new).count(),
            Adds::InPlaceOfAll => known.count - had.map_or(0, BTreeSet::len) + open.len(),
        };
        if count > OPENS_MAX {
            return Err(too_many());
        }
        open.iter().for_each(|inode| known.open(session, *inode));
        Ok(())
    }

    /// The session has these files open, and no others but those that it is opening. The caller has recorded that it may hold
    /// something in their volumes.
    pub(super) fn attach(
        &self,
        term: u64,
        (session, attachment): (SessionId, Attachment),
        open: &[InodeId],
    ) -> MetaResult<()> {
        let mut soft = self.known.lock();
        require_term(soft.term(), term)?;
        let known = &mut soft.known;
        let present = known.sessions.get(&session).and_then(|open| open.attached);
        if present.is_some_and(|present| present >= attachment) {
            return Err(MetaError::Unavailable { what: "the session has attached again".to_owned() });
        }
        let had = known.sessions.get(&session).map_or(0, |open| open.files.len());
        if known.count - had + open.len() > OPENS_MAX {
            return Err(too_many());
        }
        known.close_all(session);
        known.sessions.entry(session).or_default().attached = Some(attachment);
        for inode in open {
            known.open(session, *inode);
        }
        known.no_longer_awaited(session);
        drop(soft);
        self.changed.notify_waiters();
        Ok(())
    }

    /// Every session that has an entry here.
    pub(crate) fn sessions(&self) -> Vec<SessionId> {
        self.known.lock().known.sessions.keys().copied().collect()
    }

    /// The session has told what it has open, in this term.
    pub(crate) fn is_attached(&self, session: SessionId) -> bool {
        self.known.lock().known.sessions.get(&session).is_some_and(|open| open.attached.is_some())
    }

    /// The session no longer has these files open, unless it is opening them again.
    pub(super) fn closed(&self, session: SessionId, inodes: &[InodeId]) {
        let mut soft = self.known.lock();
        for inode in inodes {
            soft.known.close(session, *inode);
        }
    }

    /// The session has ended in the state, and with it all that it had open.
    pub(crate) fn end(&self, session: SessionId) {
        let mut soft = self.known.lock();
        let known = &mut soft.known;
        known.close_all(session);
        known.sessions.remove(&session);
        known.no_longer_awaited(session);
        known
            .recorded
            .extract_if((session, VolumeId(0))..=(session, VolumeId(u32::MAX)), |_| true)
            .for_each(drop);
        known
            .to_release
            .extract_if((session, InodeId(0))..=(session, InodeId(u64::MAX)), |_| true)
            .for_each(drop);
        drop(soft);
        self.changed.notify_waiters();
    }

    /// The sessions that have the file open, are opening it, or may have it open because they are awaited in its volume (OP4).
    /// `None`: it is not known in this term who is awaited.
    pub(super) fn openers(&self, term: u64, inode: InodeId) -> Option<BTreeSet<SessionId>> {
        let opening: Vec<SessionId> = {
            let under_way = self.under_way();
            let of_file = (inode, SessionId(0))..=(inode, SessionId(u64::MAX));
            under_way.opening.range(of_file).map(|((_, session), _)| *session).collect()
        };
        let soft = self.known.lock();
        let awaited = soft.known.awaited_in(term, inode.volume())?;
        let mut all = soft.known.by_file.get(&inode).cloned().unwrap_or_default();
        all.extend(awaited);
        all.extend(opening);
        Some(all)
    }

    pub(super) fn has_open(&self, session: SessionId, inode: InodeId) -> bool {
        let is_opening = self.under_way().opening.contains_key(&(inode, session));
        is_opening
            || self.known.lock().known.sessions.get(&session).is_some_and(|open| open.files.contains(&inode))
    }

    /// Registers an open that is under way. Await [`Opens::not_being_removed`] before the state is read for it (OP1).
    pub(super) fn opening(self: &Arc<Opens>, session: SessionId, inode: InodeId) -> MetaResult<Opening> {
        if self.known.lock().known.count >= OPENS_MAX {
            return Err(too_many());
        }
        *self.under_way().opening.entry((inode, session)).or_default() += 1;
        Ok(Opening { opens: self.clone(), session, inode })
    }

    /// Keeps OP1.
    pub(super) async fn not_being_removed(&self, inode: InodeId) {
        self.until(|under_way| !under_way.removing.contains_key(&inode)).await;
    }

    /// Notes a removal of the file's last name; [`Opens::openers`] may be asked then (OP1).
    pub(super) fn removing(self: &Arc<Opens>, inode: InodeId) -> MetaResult<Removing> {
        let mut under_way = self.under_way();
        if under_way.removing.len() >= REMOVALS_MAX {
            return Err(MetaError::Unavailable { what: format!("{REMOVALS_MAX} removals are under way") });
        }
        *under_way.removing.entry(inode).or_default() += 1;
        drop(under_way);
        Ok(Removing { opens: self.clone(), inode })
    }

    /// Whoever has proposed a removal for these openers does not look who of them had closed the file when it was applied.
    pub(super) fn removal_was_given_up(&self, inode: InodeId, openers: Vec<SessionId>) {
        let mut under_way = self.under_way();
        // Beyond the bound the file stays until these sessions attach anew.
        if under_way.given_up.len() < REMOVALS_MAX {
            under_way.given_up.entry(inode).or_default().extend(openers);
            self.given_up.notify_one();
        }
    }

    /// Waits for removals that were given up, and takes them.
    pub(super) async fn removals_given_up(&self) -> BTreeMap<InodeId, BTreeSet<SessionId>> {
        loop {
            let given_up = std::mem::take(&mut self.under_way().given_up);
            if !given_up.is_empty() {
                return given_up;
            }
            self.given_up.notified().await;
        }
    }

    /// Notes a create that opens what it makes. `last`: an inode of its volume, and no later one than any of those that are
    /// made after this call.
    pub(super) fn creating(self: &Arc<Opens>, last: InodeId) -> Creating {
        let mut under_way = self.under_way();
        under_way.creates += 1;
        let number = under_way.creates;
        under_way.creating.insert(number, last);
        drop(under_way);
        Creating { opens: self.clone(), number, last }
    }

    /// Keeps OP2: returns when no create is under way that may have made this inode. Those that begin later know a later one.
    pub(super) async fn not_being_created(&self, inode: InodeId) {
        let may_make = |last: &InodeId| last.volume() == inode.volume() && last.number() < inode.number();
        self.until(|under_way| !under_way.creating.values().any(may_make)).await;
    }

    async fn until(&self, holds: impl Fn(&UnderWay) -> bool) {
        loop {
            let mut changes = std::pin::pin!(self.changes());
            changes.as_mut().enable();
            if holds(&self.under_way()) {
                return;
            }
            changes.await;
        }
    }

    /// The sessions that are awaited in this volume (OP4). `None`: what the state says was not read in this term.
    pub(crate) fn awaited(&self, term: u64, volume: VolumeId) -> Option<Vec<SessionId>> {
        self.known.lock().known.awaited_in(term, volume)
    }

    /// Nobody is awaited in any volume, as is known in this term.
    pub(super) fn is_nobody_awaited(&self, term: u64) -> bool {
        let soft = self.known.lock();
        soft.known.awaited(term).is_some_and(|awaited| awaited.holders.by_session.is_empty())
    }

    /// Of the sessions that may hold Write of files in these volumes, those that are awaited. `None`: what the state says was not read
    /// in this term.
    pub(super) fn awaited_writers(&self, term: u64, volumes: &BTreeSet<VolumeId>) -> Option<Vec<SessionId>> {
        let soft = self.known.lock();
        let awaited = soft.known.awaited(term)?;
        Some(volumes.iter().flat_map(|volume| awaited.writers.within(*volume)).collect())
    }

    /// It may hold Write of files, and has not told yet which (OP4).
    pub(crate) fn is_awaited_writer(&self, session: SessionId) -> bool {
        let soft = self.known.lock();
        soft.known.awaited.iter().any(|awaited| awaited.writers.by_session.contains_key(&session))
    }

    /// Nobody is awaited who may hold Write of files, in whatever volume, as is known in this term.
    pub(super) fn is_no_writer_awaited(&self, term: u64) -> bool {
        let soft = self.known.lock();
        soft.known.awaited(term).is_some_and(|awaited| awaited.writers.by_session.is_empty())
    }

    /// All that are awaited in some volume.
    pub(crate) fn all_awaited(&self) -> Vec<SessionId> {
        let soft = self.known.lock();
        let awaited = soft.known.awaited.iter();
        awaited
            .flat_map(|awaited| awaited.holders.by_session.keys().chain(awaited.writers.by_session.keys()))
            .copied()
            .collect()
    }

    /// Every session that may hold something, or may hold Write of files, as the state said after this leader was elected.
    pub(crate) fn await_those(
        &self,
        term: u64,
        may_hold: Vec<(VolumeId, SessionId)>,
        may_write: Vec<(VolumeId, SessionId)>,
    ) {
        let mut soft = self.known.lock();
        let known = &mut soft.known;
        let has_told =
            |session: &SessionId| known.sessions.get(session).is_some_and(|open| open.attached.is_some());
        let awaited = |those: Vec<(VolumeId, SessionId)>| {
            Those::of(those.into_iter().filter(|(_, session)| !has_told(session)))
        };
        let (holders, writers) = (awaited(may_hold), awaited(may_write));
        known.awaited = Some(Awaited { term, holders, writers });
    }

    /// Somebody waits for these.
    pub(crate) fn wait_for(&self, sessions: &[SessionId]) {
        self.known.lock().known.waited_for.extend(sessions);
    }

    /// Awaited sessions whom somebody has waited for, and that could have attached for a whole term.
    pub(crate) fn missing(&self, lease_term: Duration, now: Instant) -> BTreeSet<SessionId> {
        let soft = self.known.lock();
        if now.saturating_duration_since(soft.since) < lease_term {
            return BTreeSet::new();
        }
        soft.known.waited_for()
    }

    /// Awaited sessions whom somebody waits for.
    pub(crate) fn waited_for(&self) -> BTreeSet<SessionId> {
        self.known.lock().known.waited_for()
    }

    /// How many files the session has open.
    pub(crate) fn open_files(&self, session: SessionId) -> usize {
        self.known.lock().known.sessions.get(&session).map_or(0, |open| open.files.len())
    }

    /// The session no longer has this nameless file open, and is to hold it no longer.
    pub(super) fn release_later(&self, session: SessionId, inodes: &[InodeId]) {
        if !inodes.is_empty() {
            self.known.lock().known.to_release.extend(inodes.iter().map(|inode| (session, *inode)));
            self.releases.notify_one();
        }
    }

    /// Waits for something to release, and takes it: of one session, at most `limit` files.
    pub(super) async fn next_releases(&self, limit: usize) -> (SessionId, Vec<InodeId>) {
        loop {
            if let Some(taken) = self.take_releases(limit) {
                return taken;
            }
            self.releases.notified().await;
        }
    }

    fn take_releases(&self, limit: usize) -> Option<(SessionId, Vec<InodeId>)> {
        let mut soft = self.known.lock();
        let waiting = &mut soft.known.to_release;
        let (session, _) = *waiting.first()?;
        let of_session = waiting.iter().take_while(|(other, _)| *other == session);
        let inodes: Vec<InodeId> = of_session.take(limit).map(|(_, inode)| *inode).collect();
        for inode in &inodes {
            waiting.remove(&(session, *inode));
        }
        Some((session, inodes))
    }
}

fn require_term(present: u64, term: u64) -> MetaResult<()> {
    match present == term {
        true => Ok(()),
        false => Err(MetaError::Unavailable { what: "another member has led meanwhile".to_owned() }),
    }
}

fn too_many() -> MetaError {
    MetaError::Unavailable { what: format!("{OPENS_MAX} files are open") }
}

/// An open under way. Dropped, it has failed.
pub(crate) struct Opening {
    opens: Arc<Opens>,
    session: SessionId,
    inode: InodeId,
}

impl Opening {
    /// The session has the file open from here on.
    pub(crate) fn succeeded(self) {
        self.opens.known.lock().known.open(self.session, self.inode);
    }
}

impl Drop for Opening {
    fn drop(&mut self) {
        lower(&mut self.opens.under_way().opening, &(self.inode, self.session));
    }
}

/// A removal of a last name under way (OP3).
pub(super) struct Removing {
    opens: Arc<Opens>,
    inode: InodeId,
}

impl Drop for Removing {
    fn drop(&mut self) {
        lower(&mut self.opens.under_way().removing, &self.inode);
        self.opens.changed.notify_waiters();
    }
}

/// A create under way that opens what it makes (OP2).
pub(super) struct Creating {
    opens: Arc<Opens>,
    number: u64,
    last: InodeId,
}

impl Creating {
    /// It was made, and the session has it open. False: it was made by an earlier try, and the caller opens it as any other.
    pub(super) fn made(self, session: SessionId, inode: InodeId) -> bool {
        let is_new = inode.number() > self.last.number();
        if is_new {
            self.opens.known.lock().known.open(session, inode);
        }
        is_new
    }
}

impl Drop for Creating {
    fn drop(&mut self) {
        self.opens.under_way().creating.remove(&self.number);
        self.opens.changed.notify_waiters();
    }
}

#[cfg(test)]
mod tests {
    use futures::poll;

    use super::*;

    const A: SessionId = SessionId(1);
    const B: SessionId = SessionId(2);
    const FILE: InodeId = InodeId(10);
    const VOLUME: VolumeId = VolumeId(0);

    fn opens() -> Arc<Opens> {
        let opens = Arc::new(Opens::new(Instant::now()));
        opens.await_those(1, Vec::new(), Vec::new());
        opens
    }

    #[tokio::test]
    async fn an_open_that_comes_first_is_seen_by_the_removal_and_one_that_comes_later_waits_for_it() {
        let opens = opens();
        let before = opens.opening(A, FILE).expect("few are open");
        assert!(poll!(std::pin::pin!(opens.not_being_removed(FILE))).is_ready());
        let (first, second) = (opens.removing(FILE).expect("few"), opens.removing(FILE).expect("few"));
        assert_eq!(opens.openers(1, FILE), Some(BTreeSet::from([A])));
        before.succeeded();
        let late = opens.opening(B, FILE).expect("few are open");
        let mut waits = std::pin::pin!(opens.not_being_removed(FILE));
        assert!(poll!(&mut waits).is_pending());
        drop(first);
        assert!(poll!(&mut waits).is_pending(), "another removal is under way");
        drop(second);
        assert!(poll!(&mut waits).is_ready());
        drop(late); // it found nothing
        assert_eq!(opens.openers(1, FILE), Some(BTreeSet::from([A])));
    }

    /// The file that is made may get another name and lose both before its creator is registered.
    #[tokio::test]
    async fn a_removal_waits_for_creates_that_may_have_made_the_file() {
        let opens = opens();
        let [earlier, later] = [9, 10].map(|number| opens.creating(InodeId(number)));
        let elsewhere = opens.creating(InodeId::new(VolumeId(3), 5).expect("in range"));
        let mut waits = std::pin::pin!(opens.not_being_created(FILE));
        assert!(poll!(&mut waits).is_pending());
        assert!(earlier.made(A, FILE));
        assert!(poll!(&mut waits).is_ready());
        assert_eq!(opens.openers(1, FILE), Some(BTreeSet::from([A])), "it is registered by then");
        assert!(!later.made(B, FILE), "an earlier try made it");
        assert_eq!(opens.openers(1, FILE), Some(BTreeSet::from([A])));
        drop(elsewhere);
    }

    #[tokio::test]
    async fn what_a_session_tells_replaces_what_it_had_open_and_not_what_it_is_opening() {
        let opens = opens();
        let [kept, closed, opening] = [10, 11, 12].map(InodeId);
        opens.attach(0, (A, Attachment(1)), &[kept, closed]).expect("few");
        let under_way = opens.opening(A, opening).expect("few");
        opens.attach(0, (A, Attachment(2)), &[kept]).expect("few");
        assert!(opens.has_open(A, kept) && opens.has_open(A, opening) && !opens.has_open(A, closed));
        opens.closed(A, &[kept, opening]);
        assert!(opens.has_open(A, opening), "it is being opened again");
        under_way.succeeded();
        assert_eq!(opens.openers(1, opening), Some(BTreeSet::from([A])));
        opens.end(A);
        assert!(
            opens.openers(1, opening) == Some(BTreeSet::new())
                && opens.openers(1, kept) == Some(BTreeSet::new())
        );
        assert_eq!(opens.known.lock().known.count, 0);
    }

    #[tokio::test]
    async fn a_session_is_awaited_until_it_attaches_or_ends_and_only_in_its_volumes_and_term() {
        let opens = Arc::new(Opens::new(Instant::now()));
        assert_eq!(opens.awaited(1, VOLUME), None, "the state was not asked");
        assert_eq!(opens.openers(1, FILE), None);
        opens.await_those(1, vec![(VOLUME, A), (VOLUME, B), (VolumeId(3), A)], Vec::new());
        assert_eq!(opens.awaited(1, VOLUME), Some(vec![A, B]));
        assert_eq!(opens.openers(1, FILE), Some(BTreeSet::from([A, B])), "they may have it open");
        assert_eq!(opens.awaited(1, VolumeId(2)), Some(vec![]));
        assert_eq!(opens.awaited(2, VOLUME), None);
        opens.wait_for(&[A, B]);
        opens.attach(0, (A, Attachment(3)), &[]).expect("few");
        opens.wait_for(&[A]); // whoever noted it had looked before
        let missing = || opens.missing(Duration::ZERO, Instant::now());
        assert_eq!((opens.awaited(1, VOLUME), missing()), (Some(vec![B]), BTreeSet::from([B])));
        opens.end(B);
        assert_eq!((opens.awaited(1, VOLUME), missing()), (Some(vec![]), BTreeSet::new()));
        opens.await_those(2, vec![(VOLUME, A), (VOLUME, B)], Vec::new());
        assert_eq!(opens.awaited(2, VOLUME), Some(vec![B]), "who has told is not awaited");
        opens.soft().enter_term(3, Instant::now());
        assert_eq!(opens.awaited(3, VOLUME), None);
        assert!(!opens.knows(A), "a new leader knows nothing");
    }

    #[tokio::test]
    async fn an_attachment_that_was_held_up_does_not_replace_a_later_one() {
        let opens = opens();
        opens.attach(0, (A, Attachment(6)), &[FILE]).expect("few");
        assert!(opens.attach(0, (A, Attachment(5)), &[]).is_err());
        assert!(opens.has_open(A, FILE));
        opens.attach(0, (A, Attachment(7)), &[]).expect("few");
        assert!(!opens.has_open(A, FILE));
    }

    #[tokio::test]
    async fn the_answer_to_a_recall_adds_to_what_is_open_unless_it_is_of_an_earlier_attachment() {
        let opens = opens();
        let other = InodeId(11);
        assert!(opens.told(0, (A, Attachment(2)), &[FILE]).is_err(), "it has not attached");
        opens.attach(0, (A, Attachment(2)), &[]).expect("few");
        assert!(opens.told(0, (A, Attachment(1)), &[FILE]).is_err());
        assert!(opens.told(1, (A, Attachment(2)), &[FILE]).is_err(), "of another term");
        assert!(!opens.has_open(A, FILE));
        opens.told(0, (A, Attachment(2)), &[FILE]).expect("few");
        opens.attaching(0, (A, Attachment(3)), &[other]).expect("few");
        assert!(opens.has_open(A, FILE) && opens.has_open(A, other), "until it has attached");
        assert!(opens.attaching(0, (A, Attachment(2)), &[FILE]).is_err(), "it was held up");
        opens.attach(0, (A, Attachment(3)), &[other]).expect("few");
        assert!(!opens.has_open(A, FILE) && opens.has_open(A, other));
        assert_eq!(opens.known.lock().known.count, 1);
    }

    #[tokio::test]
    async fn a_while_in_which_nobody_could_be_heard_forgets_nothing_and_gives_a_whole_term_to_attach() {
        const TERM: Duration = Duration::from_secs(10);
        let (opens, start) = (opens(), Instant::now());
        opens.soft().enter_term(1, start);
        opens.await_those(1, Vec::new(), Vec::new());
        opens.attach(1, (A, Attachment(4)), &[FILE]).expect("few");
        opens.wait_for(&[B]);
        opens.soft().begin_anew(start + TERM / 2);
        assert_eq!(opens.openers(1, FILE), Some(BTreeSet::from([A])));
        assert_eq!(opens.missing(TERM, start + TERM), BTreeSet::new());
        assert_eq!(opens.missing(TERM, start + TERM + TERM / 2), BTreeSet::from([B]));
        assert!(opens.attach(0, (A, Attachment(5)), &[]).is_err(), "it was told to an earlier leader");
    }

    #[tokio::test]
    async fn what_is_released_is_taken_of_one_session_and_within_the_limit() {
        let opens = opens();
        opens.release_later(B, &[InodeId(9)]);
        opens.release_later(A, &[10, 11, 12].map(InodeId));
        assert_eq!(opens.next_releases(2).await, (A, vec![InodeId(10), InodeId(11)]));
        assert_eq!(opens.next_releases(2).await, (A, vec![InodeId(12)]));
        assert_eq!(opens.next_releases(2).await, (B, vec![InodeId(9)]));
        assert!(poll!(std::pin::pin!(opens.next_releases(2))).is_pending());
    }
}
