//! Files that lose their last name stay for those who have them open (P6.5): what passes the gate for that.
//!
//!     unlink   freeze what is behind the name (`changes`) → note the removal → wait for creates → who has it open, or may have it open?
//!              → propose → applied
//!     open     register → wait for removals of this file → read the state
//!     create   note the last inode → propose → register
//!
//! `opens` says why nobody is missed. The name is resolved from the local state, which may be old: `apply` compares (CH3).

use std::collections::BTreeSet;
use std::time::Duration;

use dfs_net::rpc::push::PushSender;
use dfs_proto::error::MetaError;
use dfs_proto::ids::{Attachment, InodeId, SessionId, VolumeId};
use dfs_proto::meta::{Change, ChangeRequest, Changed, Dropped, HeldWrite, MetaResult, RecallsDone};
use dfs_proto::planted::{self, Bug};
use dfs_proto::scope::{Scope, Unleased};
use tokio::time::{Instant, sleep, timeout};

use super::attachments::Told;
use super::executed::Executed;
use super::gate::Gate;
use super::landing::Kept;
use super::leases::Frozen;
use super::opens::{Opening, Opens};
use dfs_state::command::{Answered, Command, NamedInode, RELEASE_MAX, Reply};
use dfs_state::kv::Snapshot;
use dfs_state::read::{self, Behind};

/// Before a release that failed is tried again.
const RELEASE_PAUSE: Duration = Duration::from_millis(200);
/// No volume has this number: a record that a session may hold something there makes nobody wait.
const NOWHERE: VolumeId = VolumeId((1 << 24) - 1);
/// One try waits so long for a session that is awaited; the client tries again.
const AWAIT_MAX: Duration = Duration::from_secs(1);

impl Gate {
    /// Proposes a change of names with what was found behind them, and with those who have open what may lose its last name.
    pub(super) async fn take_names(
        &self,
        term: u64,
        frozen: Frozen,
        behind: &[Behind],
        (session, asker): (SessionId, Option<(SessionId, Attachment)>),
        with: impl Fn(Vec<NamedInode>) -> Command,
    ) -> MetaResult<Executed> {
        let last = behind.iter().find(|behind| behind.loses_last_name).map(|behind| behind.inode);
        let mut kept = Kept { frozen: Some(frozen), removing: Vec::new(), asker };
        let mut openers = Vec::new();
        if let Some(inode) = last {
            kept.removing.push(self.opens.removing(inode)?); // keeps OP3
            let created = timeout(AWAIT_MAX, self.opens.not_being_created(inode)).await; // keeps OP2
            created.map_err(|_| unavailable("the create of the file is under way"))?;
            if !planted::has(Bug::OrphanForgotten) {
                openers = self.openers(inode).await?; // keeps OP1 and OP4
            }
            self.writes_for_openers_come_back(term, session, inode, &openers).await?;
        }
        let named = |behind: &Behind| NamedInode {
            inode: behind.inode,
            openers: (Some(behind.inode) == last).then(|| openers.clone()),
        };
        let command = with(behind.iter().map(named).collect());
        let proposed = last.map(|inode| ProposedOpeners { opens: &self.opens, inode, sessions: openers });
        let executed = self.send_keeping(term, kept, command).await?;
        let openers = proposed.map_or_else(Vec::new, ProposedOpeners::answered);
        if let Reply::Changed(Ok(Answered { changed: Changed::Removed { orphan: Some(orphan) }, .. })) =
            &executed.reply
        {
            self.leases.forget(*orphan);
            self.release_for_those_who_closed(*orphan, openers);
        }
        Ok(executed)
    }

    /// Whoever removes the last name of a file drops what it has not committed of it. So it commits that first if others have the file open.
    async fn writes_for_openers_come_back(
        &self,
        term: u64,
        asker: SessionId,
        inode: InodeId,
        openers: &[SessionId],
    ) -> MetaResult<()> {
        match openers.iter().any(|opener| *opener != asker) {
            true => self.writes_come_back(term, None, &[inode]).await,
            false => Ok(()),
        }
    }

    /// The file is an orphan that is held by these. Who has told of a close since they were named is no longer in the table, and told
    /// it before the file was an orphan.
    fn release_for_those_who_closed(&self, orphan: InodeId, named: impl IntoIterator<Item = SessionId>) {
        for session in named {
            // One that has not told yet releases it when it attaches (`attach`), or ends.
            let has_told = !self.leases.is_silent(session) && self.opens.is_attached(session);
            if has_told && !self.opens.has_open(session, orphan) {
                self.opens.release_later(session, &[orphan]);
            }
        }
    }

    /// Those who have the file open, and those who may: sessions that have not told this leader yet (OP4), or not answered it (OP5).
    async fn openers(&self, inode: InodeId) -> MetaResult<Vec<SessionId>> {
        loop {
            self.awaited(inode.volume()).await?; // from here on it is known who is awaited
            let silent = self.leases.silent(); // before the look at the opens (OP5)
            if let Some(mut openers) = self.opens.openers(self.enter_term()?, inode) {
                let may_hold = |session| self.local(|state| read::has_holds(state, session, inode.volume()));
                let silent: Vec<SessionId> =
                    silent.into_iter().filter(|session| may_hold(*session)).collect();
                if let (false, Some(last)) =
                    (silent.is_empty(), self.local(|state| read::last_inode(state, inode.volume())))
                {
                    openers.extend(self.leases.may_have_held(silent, inode, last));
                }
                return Ok(openers.into_iter().collect());
            }
        }
    }

    /// Registers an open. The state is read for it afterwards, and then it has [succeeded](Opening::succeeded) or is dropped.
    /// `None`: a session that does not tell what it has open.
    pub(crate) async fn opening(&self, session: SessionId, inode: InodeId) -> MetaResult<Option<Opening>> {
        self.enter_term()?;
        if !self.tells(session).await? || !self.record_holds(session, inode.volume()).await? {
            return Ok(None);
        }
        let opening = self.opens.opening(session, inode)?;
        // Keeps OP1. A leader that has lost its quorum lets the client go on to the next one.
        let removed = timeout(AWAIT_MAX, self.opens.not_being_removed(inode)).await;
        removed.map_err(|_| unavailable("a removal of the file is under way"))?;
        Ok(Some(opening))
    }

    /// The session has attached here, or to a leader before: a client of an earlier release never does.
    async fn tells(&self, session: SessionId) -> MetaResult<bool> {
        let tells = |state: &dyn Snapshot| read::may_hold_something(state, session);
        // A new leader may not have applied yet what says so.
        Ok(self.opens.knows(session)
            || self.local(tells)
            || self.read_unleased(Unleased::Sessions, |state| Ok(tells(state))).await?)
    }

    /// Before a session holds something in a volume: the next leaders have to know that it may. False: the volume is not here.
    pub(crate) async fn record_holds(&self, session: SessionId, volume: VolumeId) -> MetaResult<bool> {
        if self.opens.is_recorded(session, volume) {
            return Ok(true);
        }
        let is_here = |state: &dyn Snapshot| read::last_inode(state, volume).is_some();
        // A new leader may not have applied yet what made the volume.
        let is_here =
            self.local(is_here) || self.read_unleased(Unleased::Volumes, |state| Ok(is_here(state))).await?;
        if !is_here {
            return Ok(false);
        }
        let is_recorded = self.local(|state| read::has_holds(state, session, volume));
        if !is_recorded {
            let recorded = self.send(self.term(), Command::RecordHolds { session, volume }).await?;
            if let Reply::Refused(refused) = recorded {
                return Err(refused);
            }
        }
        self.opens.recorded(session, volume);
        Ok(true)
    }

    /// Proposes a create that opens what it makes. Its session may want Write of that.
    pub(super) async fn create_open(
        &self,
        term: u64,
        frozen: Frozen,
        command: Command,
        wants: Option<&Dropped>,
    ) -> MetaResult<Executed> {
        let Command::Change {
            request: ChangeRequest { session, change: Change::Create(create), .. }, ..
        } = &command
        else {
            return Err(MetaError::Internal { what: "only a create opens what it makes".to_owned() });
        };
        let (session, volume) = (*session, create.parent.volume());
        let asker = wants.filter(|wants| wants.wants_read).map(|wants| (session, wants.attachment));
        // Only a client that attaches asks for it.
        if !self.record_holds(session, volume).await? {
            return self.send_frozen(term, frozen, command, asker).await;
        }
        let wants = wants.and_then(|wants| Some((wants.attachment, wants.wants_write?)));
        if wants.is_some() {
            self.record_writes(term, session, volume).await?; // keeps WS2
        }
        let Some(last) = self.local(|state| read::last_inode(state, volume)) else {
            return self.send_frozen(term, frozen, command, asker).await;
        };
        let creating = self.opens.creating(last); // keeps OP2
        let reading = self.leases.reading(term);
        let executed = self.send_frozen(term, frozen, command, asker).await?;
        let Reply::Changed(Ok(Answered { changed: Changed::Inode { attr, existed: false, .. }, .. })) =
            &executed.reply
        else {
            return Ok(executed);
        };
        let inode = attr.inode;
        if !creating.made(session, inode) {
            self.open_what_was_made(session, inode).await?;
            return Ok(executed); // somebody else may use it by now
        }
        let grant = |(attachment, grant)| {
            self.grant_new(term, reading, (session, attachment), HeldWrite { inode, grant })
        };
        Ok(Executed { writes: wants.is_some_and(grant), ..executed })
    }

    /// An earlier try has made it, and its answer was lost: somebody may have removed it since.
    async fn open_what_was_made(&self, session: SessionId, inode: InodeId) -> MetaResult<()> {
        let Some(opening) = self.opening(session, inode).await? else { return Ok(()) };
        let look = |state: &dyn Snapshot| {
            let has_name = read::getattr(state, inode)?.nlink > 0;
            Ok(has_name || read::holds_orphan(state, session, inode))
        };
        match self.read(&Scope::of_inode(inode), look).await? {
            true => opening.succeeded(),
            false => return Err(MetaError::Stale),
        }
        Ok(())
    }

    /// The session has attached in this term, and told its locks: it has the files open that it names and no others, holds what it has
    /// open, and holds Write of the files that it names. From here on it is not awaited.
    pub(crate) async fn attach(
        &self,
        term: u64,
        (session, attachment): (SessionId, Attachment),
        Told { open, writes, .. }: &Told,
        (pushes, received): (PushSender, Instant),
    ) -> MetaResult<()> {
        self.enter_term()?;
        let is_recorded = self.local(|state| read::may_hold_something(state, session));
        if !is_recorded && !planted::has(Bug::AttachesAfterTheEnd) {
            // So the next leader knows that this session tells what it has open, before it has attached there.
            let nothing = Command::RecordHolds { session, volume: NOWHERE };
            if let Reply::Refused(refused) = self.send(term, nothing).await? {
                return Err(refused);
            }
        }
        let volumes: BTreeSet<VolumeId> = open.iter().map(|inode| inode.volume()).collect();
        for volume in volumes {
            self.record_holds(session, volume).await?;
        }
        let volumes: BTreeSet<VolumeId> = writes.iter().map(|write| write.inode.volume()).collect();
        for volume in volumes {
            self.record_writes(term, session, volume).await?; // keeps WS2
        }
        self.opens.attaching(term, (session, attachment), open)?; // keeps OP5
        // Keeps RL4. Before it is not awaited any more: from then on somebody else may be shown what it has written.
        let lost = self.leases.attach(term, (session, attachment), writes, pushes, received);
        if lost > 0 {
            tracing::warn!("{session} has attached without {lost} Write leases that others hold");
        }
        self.opens.attach(term, (session, attachment), open)?;
        self.release_what_is_closed(session, self.local(|state| read::orphaned_files_of(state, session)));
        Ok(())
    }

    /// The session has handled recalls, and has some of what was recalled open: that is known before whoever waits for them goes on (OP5).
    pub(crate) async fn recalled(&self, done: &RecallsDone) -> MetaResult<()> {
        let RecallsDone { session, attachment, number, ref open, .. } = *done;
        let term = self.enter_term()?;
        let volumes: BTreeSet<VolumeId> = open.iter().map(|inode| inode.volume()).collect();
        for volume in volumes {
            self.record_holds(session, volume).await?;
        }
        if !open.is_empty() {
            self.opens.told(term, (session, attachment), open)?;
        }
        self.leases.answered(session, attachment, number);
        Ok(())
    }

    /// The session has closed these files, as it tells with a heartbeat.
    pub(crate) fn closed(&self, session: SessionId, inodes: &[InodeId]) {
        self.opens.closed(session, inodes);
        let held = self.local(|state| {
            let is_held = |inode: &InodeId| read::holds_orphan(state, session, *inode);
            inodes.iter().copied().filter(is_held).collect()
        });
        self.release_what_is_closed(session, held);
    }

    fn release_what_is_closed(&self, session: SessionId, mut orphans: Vec<InodeId>) {
        orphans.retain(|inode| !self.opens.has_open(session, *inode));
        self.opens.release_later(session, &orphans);
    }

    /// The session has ended in the state.
    pub(crate) fn session_ended(&self, session: SessionId) {
        self.leases.end(session);
        self.sessions.forget(session);
        self.opens.end(session);
        self.attachments.end(session);
    }

    /// Releases what sessions have closed; for ever. What is left over when the lead is lost, the next leader finds when the
    /// session attaches there.
    pub(crate) async fn release_closed(&self) {
        tokio::join!(self.keep_releasing(), self.keep_looking_behind_removals());
    }

    /// Does for the removals whose callers have given up what these would have done.
    async fn keep_looking_behind_removals(&self) {
        loop {
            let given_up = self.opens.removals_given_up().await;
            // Behind them, since commands are applied in the order of their proposals: they are applied, or never will be.
            let nothing = Command::ReleaseFor { session: SessionId(0), inodes: Vec::new() };
            while self.send(self.term(), nothing.clone()).await.is_err() {
                sleep(RELEASE_PAUSE).await;
            }
            for (inode, mut sessions) in given_up {
                self.local(|state| sessions.retain(|session| read::holds_orphan(state, *session, inode)));
                self.release_for_those_who_closed(inode, sessions);
            }
        }
    }

    async fn keep_releasing(&self) {
        loop {
            let (session, inodes) = self.opens.next_releases(RELEASE_MAX).await;
            if let Err(error) = self.release_for(session, inodes.clone()).await {
                tracing::debug!(%session, %error, "release what was closed");
                if self.is_leading() {
                    sleep(RELEASE_PAUSE).await;
                    self.opens.release_later(session, &inodes);
                }
            }
        }
    }

    async fn release_for(&self, session: SessionId, mut inodes: Vec<InodeId>) -> MetaResult<()> {
        // As a removal: an open of the file waits, and then finds that it is gone.
        let removing = inodes.iter().map(|inode| self.opens.removing(*inode));
        let removing = removing.collect::<MetaResult<Vec<_>>>()?;
        let kept = Kept { removing, ..Kept::default() };
        inodes.retain(|inode| !self.opens.has_open(session, *inode)); // it may have it open again
        match self.send_keeping(self.term(), kept, Command::ReleaseFor { session, inodes }).await?.reply {
            Reply::Refused(refused) => Err(refused),
            _ => Ok(()),
        }
    }
}

/// The openers that the command of a removal names. If its caller gives up before it has the answer, somebody else looks who of them
/// has closed the file meanwhile.
struct ProposedOpeners<'g> {
    opens: &'g Opens,
    inode: InodeId,
    sessions: Vec<SessionId>,
}

impl ProposedOpeners<'_> {
    /// The command was answered.
    fn answered(mut self) -> Vec<SessionId> {
        std::mem::take(&mut self.sessions)
    }
}

impl Drop for ProposedOpeners<'_> {
    fn drop(&mut self) {
        if !self.sessions.is_empty() {
            self.opens.removal_was_given_up(self.inode, std::mem::take(&mut self.sessions));
        }
    }
}

fn unavailable(what: &str) -> MetaError {
    MetaError::Unavailable { what: what.to_owned() }
}
