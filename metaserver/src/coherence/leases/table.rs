//! Who holds Read of what, and which recalls of it are under way; pure.
//!
//! LE1  A session holds an inode from its grant until a recall of it is over, or until the session attaches anew or ends. Not until
//!      the recall is issued: a second change of the same inode waits for the first one's recall.
//! LE2  A recall is over when the session has answered it or a later one, has attached anew, has ended, or when its lease has run
//!      out: [`READ_ENDS`] after the receipt of the last heartbeat that was answered before the recall was issued.
//!      Heartbeats that are answered afterwards name the recall, and renew nothing at the client before it has handled it (P3.4).
//! LE3  When a recall has run out, the session is renewed and granted nothing more until it attaches anew, and is told so. It is *silent*:
//!      nobody knows what it has open of what it was granted (OP5 of `opens`).
//! LE4  A recall of names leaves the session a holder of the directory (P3.7). A recall of a directory's attributes does too, because
//!      the names that it was shown stay in its copy.
//! LE5  There are at most `Bounds::leases` leases, and `Bounds::of_session` of one session. What is beyond is not granted; everything
//!      is recalled from whoever has too much, and nothing is granted to it before that is over.
//!
//! Not here: what is frozen (`freezes`), sending and waiting (`leases`).

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::time::Duration;

use dfs_proto::frame::PUSH_LEN_MAX;
use dfs_proto::ids::{Attachment, InodeId, SessionId, VolumeId};
use dfs_proto::meta::{Recall, Recalled};
use tokio::time::Instant;

/// For how long a heartbeat renews Read (P3.6).
pub(crate) const READ_TERM: Duration = Duration::from_secs(2);
/// How much longer a leader waits, because its clock and the client's may run apart.
const MARGIN: Duration = Duration::from_millis(200);
/// So long after the receipt of the last heartbeat that counts, no lease on what was read is used any more.
pub(crate) const READ_ENDS: Duration = READ_TERM.saturating_add(MARGIN);

/// LE5. A hash map of this many entries is as full as it gets (7/8 of 2^22 places).
pub(super) const BOUNDS: Bounds = Bounds { leases: 7 << 19, of_session: 7 << 16 };
/// Of changes of names of one directory that a session was told since it last read the directory. Beyond it is cheaper for it to
/// ask again.
const TOLD_MAX: u32 = 1000;
/// Of a push, without its inodes; and of an inode, without its names.
const RECALL_LEN: usize = 64;
const INODE_LEN: usize = 16;
const NAME_LEN: usize = 4;

#[derive(Clone, Copy)]
pub(super) struct Bounds {
    pub(super) leases: usize,
    pub(super) of_session: usize,
}

/// An inode that a change alters, and of a directory the names that it alters.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Touched {
    pub(crate) inode: InodeId,
    pub(crate) is_directory: bool,
    pub(crate) names: Vec<Vec<u8>>,
}

/// A recall that is to be sent. Those of one session are sent in the order of their numbers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Issued {
    pub(super) session: SessionId,
    pub(super) recall: Recall,
}

/// What a change waits for: this recall, and all before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Outstanding {
    pub(super) session: SessionId,
    pub(super) attachment: Attachment,
    pub(super) number: u64,
    /// When it has run out (LE2).
    pub(super) until: Instant,
}

/// What became of a grant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Granted {
    Yes,
    /// The session is not attached by this number, or its leases are being taken from it.
    No,
    /// LE5.
    TooMany,
}

impl Default for Table {
    fn default() -> Table {
        Table::new(BOUNDS)
    }
}

pub(super) struct Table {
    bounds: Bounds,
    holders: HashMap<InodeId, Holders>,
    sessions: BTreeMap<SessionId, OfSession>,
    count: usize,
}

/// Most inodes have one holder, so that one takes no room of its own.
#[expect(
    clippy::box_collection,
    reason = "the set itself would take twice the room of one holder, in every place of the map"
)]
enum Holders {
    One(SessionId),
    Several(Box<BTreeSet<SessionId>>),
}

/// What one session holds by its present attachment.
struct OfSession {
    attachment: Attachment,
    /// When the last heartbeat that was answered, or the attachment, was received.
    renewed: Instant,
    /// Numbers of recalls (LE2).
    issued: u64,
    over: u64,
    held: HashSet<InodeId>,
    /// Of what is held, what is being recalled, and by which recall. No directory (LE4).
    recalling: BTreeMap<InodeId, u64>,
    /// A recall of everything that is not over.
    everything: Option<Outstanding>,
    /// LE3.
    has_run_out: bool,
    /// The last inode of a volume when this session was first found silent there: of younger ones it was granted nothing.
    silent_from: BTreeMap<VolumeId, InodeId>,
    /// How many names of these directories were recalled since it last read them.
    told: HashMap<InodeId, u32>,
}

impl Holders {
    fn others(&self, than: Option<SessionId>) -> impl Iterator<Item = SessionId> {
        let (one, several) = match self {
            Holders::One(session) => (Some(*session), None),
            Holders::Several(sessions) => (None, Some(sessions.iter().copied())),
        };
        one.into_iter().chain(several.into_iter().flatten()).filter(move |holder| Some(*holder) != than)
    }

    fn add(&mut self, session: SessionId) {
        match self {
            Holders::One(one) => *self = Holders::Several(Box::new(BTreeSet::from([*one, session]))),
            Holders::Several(sessions) => {
                sessions.insert(session);
            }
        }
    }
}

impl OfSession {
    fn new(attachment: Attachment, renewed: Instant) -> OfSession {
        OfSession {
            attachment,
            renewed,
            issued: 0,
            over: 0,
            held: HashSet::new(),
            recalling: BTreeMap::new(),
            everything: None,
            has_run_out: false,
            silent_from: BTreeMap::new(),
            told: HashMap::new(),
        }
    }

    fn issue(&mut self, session: SessionId, what: Recalled) -> Issued {
        self.issued += 1;
        Issued { session, recall: Recall { attachment: self.attachment, number: self.issued, what } }
    }

    fn outstanding(&self, session: SessionId, number: u64) -> Outstanding {
        let until = self.renewed + READ_ENDS; // keeps LE2
        Outstanding { session, attachment: self.attachment, number, until }
    }
}

impl Table {
    pub(super) fn new(bounds: Bounds) -> Table {
        Table { bounds, holders: HashMap::new(), sessions: BTreeMap::new(), count: 0 }
    }

    /// The session has attached: what it held is void (P3.5). `received`: when its message came. False: it was held up, and the
    /// session has attached by this number or a later one.
    pub(super) fn attach(&mut self, session: SessionId, attachment: Attachment, received: Instant) -> bool {
        let is_new = self.sessions.get(&session).is_none_or(|of| of.attachment < attachment);
        if is_new {
            self.remove(session);
            self.sessions.insert(session, OfSession::new(attachment, received));
        }
        is_new
    }

    /// The session has ended in the state, which its client may not know yet: what it was granted counts until that has run out.
    pub(super) fn end(&mut self, session: SessionId, now: Instant) {
        let Some(of) = self.sessions.get_mut(&session) else { return };
        match now >= of.outstanding(session, 0).until {
            true => self.remove(session),
            false => of.has_run_out = true, // keeps LE3 until then
        }
    }

    /// Its client has ended the session, and uses nothing of it any more.
    pub(super) fn remove(&mut self, session: SessionId) {
        self.drop_all(session);
        self.sessions.remove(&session);
    }

    pub(super) fn is_known(&self, session: SessionId) -> bool {
        self.sessions.contains_key(&session)
    }

    /// Those that are attached, or were when they ended.
    pub(super) fn sessions(&self) -> Vec<SessionId> {
        self.sessions.keys().copied().collect()
    }

    /// A heartbeat that was `received` then is about to be answered: with the number of the last recall. `None`: the session is not
    /// attached by this number, or has to attach anew (LE3).
    pub(super) fn renew(
        &mut self,
        session: SessionId,
        attachment: Attachment,
        received: Instant,
    ) -> Option<u64> {
        let of = self.sessions.get_mut(&session).filter(|of| of.attachment == attachment)?;
        if of.everything.is_some_and(|everything| received >= everything.until) {
            of.has_run_out = true;
        }
        if of.has_run_out {
            return None; // keeps LE3
        }
        of.renewed = of.renewed.max(received);
        Some(of.issued)
    }

    /// Makes the session a holder, if it is attached by this number.
    pub(super) fn grant(&mut self, session: SessionId, attachment: Attachment, inode: InodeId) -> Granted {
        let is_full = self.count >= self.bounds.leases;
        let Some(of) = self.sessions.get_mut(&session).filter(|of| of.attachment == attachment) else {
            return Granted::No;
        };
        if of.has_run_out || of.everything.is_some() {
            return Granted::No;
        }
        if !of.held.contains(&inode) {
            if is_full || of.held.len() >= self.bounds.of_session {
                return Granted::TooMany; // keeps LE5
            }
            of.held.insert(inode);
            self.count += 1;
            let add = |holders: &mut Holders| holders.add(session);
            self.holders.entry(inode).and_modify(add).or_insert(Holders::One(session));
        }
        of.told.remove(&inode);
        of.recalling.remove(&inode); // it is shown the new state, whatever becomes of the recall
        Granted::Yes
    }

    /// Somebody else holds it.
    pub(super) fn is_held_by_others(&self, inode: InodeId, than: Option<SessionId>) -> bool {
        self.holders.get(&inode).is_some_and(|holders| holders.others(than).next().is_some())
    }

    /// This is the session's present attachment.
    pub(super) fn is_attached(&self, session: SessionId, attachment: Attachment) -> bool {
        self.sessions.get(&session).is_some_and(|of| of.attachment == attachment)
    }

    /// The session's present attachment.
    pub(super) fn attachment_of(&self, session: SessionId) -> Option<Attachment> {
        self.sessions.get(&session).map(|of| of.attachment)
    }

    /// This is the session's present attachment, it has not ended, and does not have to attach anew (LE3).
    pub(super) fn may_be_granted(&self, session: SessionId, attachment: Attachment) -> bool {
        self.sessions.get(&session).is_some_and(|of| of.attachment == attachment && !of.has_run_out)
    }

    /// Takes back what is held of this, by all others than the one that `than` names for an inode. What is to be sent, and what is to be waited for.
    pub(super) fn recall(
        &mut self,
        touched: &[Touched],
        than: impl Fn(InodeId) -> Option<SessionId>,
        now: Instant,
    ) -> (Vec<Issued>, Vec<Outstanding>) {
        let mut by_session: BTreeMap<SessionId, Vec<&Touched>> = BTreeMap::new();
        for touched in touched {
            let Some(holders) = self.holders.get(&touched.inode) else { continue };
            for session in holders.others(than(touched.inode)) {
                by_session.entry(session).or_default().push(touched);
            }
        }
        let (mut issued, mut outstanding) = (Vec::new(), Vec::new());
        for (session, touched) in by_session {
            let Some(of) = self.sessions.get_mut(&session) else { continue };
            if now >= of.outstanding(session, 0).until {
                of.has_run_out = true; // nothing of it counts any more, nor again (LE3)
                self.drop_all(session);
                continue;
            }
            outstanding.push(of.recall(session, &touched, &mut issued));
        }
        (issued, outstanding)
    }

    /// The session has handled this recall and all before it.
    pub(super) fn answered(&mut self, session: SessionId, attachment: Attachment, number: u64) {
        let Some(of) = self.sessions.get_mut(&session).filter(|of| of.attachment == attachment) else {
            return;
        };
        of.over = of.over.max(number.min(of.issued));
        let over = of.over;
        if of.everything.is_some_and(|everything| everything.number <= over) {
            of.everything = None;
            return self.drop_all(session);
        }
        let given_back: Vec<InodeId> =
            of.recalling.extract_if(.., |_, number| *number <= over).map(|(inode, _)| inode).collect();
        for inode in given_back {
            self.drop_one(session, inode);
        }
    }

    pub(super) fn is_over(&self, outstanding: &Outstanding) -> bool {
        self.sessions.get(&outstanding.session).is_none_or(|of| {
            of.attachment != outstanding.attachment || of.over >= outstanding.number // keeps LE2
        })
    }

    /// It has not been answered until the lease ended.
    pub(super) fn has_run_out(&mut self, outstanding: &Outstanding) {
        let Outstanding { session, attachment, number, .. } = *outstanding;
        if let Some(of) = self.sessions.get_mut(&session).filter(|of| of.attachment == attachment) {
            of.has_run_out = true; // keeps LE3
        }
        self.answered(session, attachment, number);
    }

    /// Those of whom LE3 is true.
    pub(super) fn silent(&self) -> Vec<SessionId> {
        self.sessions.iter().filter(|(_, of)| of.has_run_out).map(|(session, _)| *session).collect()
    }

    /// Of these sessions, those that may have held a lease on this inode before they fell silent. `last` is the last inode of its
    /// volume, as it was looked up after these sessions were found silent.
    pub(super) fn may_have_held(
        &mut self,
        silent: Vec<SessionId>,
        inode: InodeId,
        last: InodeId,
    ) -> Vec<SessionId> {
        let may_have_held = |session: &SessionId| {
            let Some(of) = self.sessions.get_mut(session) else { return true };
            inode <= *of.silent_from.entry(inode.volume()).or_insert(last)
        };
        silent.into_iter().filter(may_have_held).collect()
    }

    pub(super) fn is_silent(&self, session: SessionId) -> bool {
        self.sessions.get(&session).is_some_and(|of| of.has_run_out)
    }

    /// Something was not granted to the session (LE5): recalls everything from it if it has its share, and else from the one that has
    /// most. Nobody waits for that.
    pub(super) fn make_room(&mut self, asking: SessionId, now: Instant) -> Option<Issued> {
        let has_its_share =
            self.sessions.get(&asking).is_some_and(|of| of.held.len() >= self.bounds.of_session);
        let most = || self.sessions.iter().max_by_key(|(_, of)| of.held.len()).map(|(session, _)| *session);
        let session = if has_its_share { asking } else { most()? };
        let of = self.sessions.get_mut(&session)?;
        if let Some(everything) = of.everything {
            if everything.until <= now {
                self.has_run_out(&everything);
            }
            return None; // it is under way, or over
        }
        let issued = of.issue(session, Recalled::Everything);
        of.everything = Some(of.outstanding(session, of.issued));
        Some(issued)
    }

    /// The inode has lost its last name: nobody is granted it again.
    pub(super) fn forget(&mut self, inode: InodeId) {
        let holders: Vec<SessionId> =
            self.holders.get(&inode).into_iter().flat_map(|holders| holders.others(None)).collect();
        for session in holders {
            self.drop_one(session, inode);
        }
    }

    pub(super) fn count(&self) -> usize {
        self.count
    }

    fn drop_all(&mut self, session: SessionId) {
        let Some(of) = self.sessions.get_mut(&session) else { return };
        of.recalling.clear();
        of.told.clear();
        for inode in std::mem::take(&mut of.held) {
            self.forget_holder(session, inode);
        }
    }

    fn drop_one(&mut self, session: SessionId, inode: InodeId) {
        let Some(of) = self.sessions.get_mut(&session) else { return };
        of.recalling.remove(&inode);
        of.told.remove(&inode);
        if of.held.remove(&inode) {
            self.forget_holder(session, inode);
        }
    }

    /// Its session has it no longer among what it holds.
    fn forget_holder(&mut self, session: SessionId, inode: InodeId) {
        self.count -= 1;
        match self.holders.get_mut(&inode) {
            Some(Holders::Several(sessions)) => {
                sessions.remove(&session);
                if let (1, Some(one)) = (sessions.len(), sessions.first().copied()) {
                    self.holders.insert(inode, Holders::One(one));
                }
            }
            Some(Holders::One(_)) => {
                self.holders.remove(&inode);
            }
            None => {}
        }
    }
}

impl OfSession {
    /// Of what this session holds. What is being recalled already is waited for and not recalled again.
    fn recall(&mut self, session: SessionId, touched: &[&Touched], issued: &mut Vec<Issued>) -> Outstanding {
        if let Some(everything) = self.everything {
            return everything;
        }
        let mut wait_for = 0;
        let mut taken = Vec::new();
        for touched in touched {
            match self.recalling.get(&touched.inode) {
                Some(number) => wait_for = wait_for.max(*number),
                None => taken.push(*touched),
            }
        }
        if taken.iter().any(|touched| self.was_told_too_often(touched)) {
            issued.push(self.issue(session, Recalled::Everything));
            let everything = self.outstanding(session, self.issued);
            self.everything = Some(everything);
            return everything;
        }
        for part in parts(&taken) {
            let inodes = part.iter().map(|touched| (touched.inode, touched.names.clone())).collect();
            issued.push(self.issue(session, Recalled::Inodes(inodes)));
            wait_for = self.issued;
            for touched in part.iter().filter(|touched| !touched.is_directory) {
                self.recalling.insert(touched.inode, self.issued); // a directory stays (LE4)
            }
        }
        self.outstanding(session, wait_for)
    }

    /// It no longer looks at this directory, in which others change one name after the other.
    fn was_told_too_often(&mut self, touched: &Touched) -> bool {
        if !touched.is_directory {
            return false;
        }
        let told = self.told.entry(touched.inode).or_default();
        *told += 1;
        *told > TOLD_MAX
    }
}

/// Each fits into one push.
fn parts<'t>(touched: &[&'t Touched]) -> Vec<Vec<&'t Touched>> {
    let mut parts: Vec<Vec<&Touched>> = Vec::new();
    let mut len = PUSH_LEN_MAX;
    for touched in touched {
        let own = INODE_LEN + touched.names.iter().map(|name| name.len() + NAME_LEN).sum::<usize>();
        if len + own > PUSH_LEN_MAX {
            parts.push(Vec::new());
            len = RECALL_LEN;
        }
        len += own;
        parts.last_mut().into_iter().for_each(|part| part.push(touched));
    }
    parts
}

#[cfg(test)]
mod tests;
