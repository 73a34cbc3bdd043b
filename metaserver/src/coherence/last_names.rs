//! Files that lose their last name stay for those who have them open (P6.5): what passes the gate for that.
//!
//!     unlink   resolve the name → note the removal → wait for creates → who has it open, or may have it open?
//!              → propose → applied
//!     open     register → wait for removals of this file → read the state
//!     create   note the last inode → propose → register
//!
//! `opens` says why nobody is missed. The name is resolved from the local state, which may be old: `apply` compares (what loses
//! its last name must be the file that was named), and answers a command that is wrong with a refusal that leaves no trace.

use std::collections::BTreeSet;
use std::time::Duration;

use dfs_proto::error::MetaError;
use dfs_proto::ids::{Attachment, InodeId, SessionId, VolumeId};
use dfs_proto::meta::{Change, ChangeRequest, Changed, MetaResult};
use dfs_proto::planted::{self, Bug};
use dfs_proto::scope::Scope;
use tokio::time::{sleep, timeout};

use super::gate::{Gate, Landing};
use super::opens::Opening;
use dfs_state::command::{Answered, Command, Openers, RELEASE_MAX, Reply};
use dfs_state::kv::Snapshot;
use dfs_state::read;

/// A name that changes at each look is used by many at once: their clients ask again.
const LOOKS_MAX: usize = 4;
/// Before a release that failed is tried again.
const RELEASE_PAUSE: Duration = Duration::from_millis(200);
/// No volume has this number: a record that a session may hold something there makes nobody wait.
const NOWHERE: VolumeId = VolumeId((1 << 24) - 1);
/// One try waits so long for a session that is awaited; the client tries again.
const AWAIT_MAX: Duration = Duration::from_secs(1);

impl Gate {
    /// Proposes a change that may take a last name, with those who have the file open.
    pub(super) async fn take_last_name(&self, command: Command) -> MetaResult<Reply> {
        let Command::Change { request, placement, volumes, .. } = command else {
            return Err(MetaError::Internal { what: "only a request takes a last name".to_owned() });
        };
        let change = request.change.clone();
        let with = |openers: Vec<Openers>| {
            let (request, placement, volumes) = (request.clone(), placement.clone(), volumes.clone());
            Command::Change { request, placement, volumes, openers: Some(openers) }
        };
        let look = || self.local(|state| read::last_name_taken(state, &change));
        let mut taken = look();
        for _ in 0..LOOKS_MAX {
            let reply = match taken {
                Some(inode) => self.take_last_name_of(inode, with).await?,
                None => self.send(with(Vec::new())).await?,
            };
            if !matches!(reply, Reply::Refused(MetaError::Undecided { .. })) {
                return Ok(reply);
            }
            let before = std::mem::replace(&mut taken, look());
            if taken == before {
                return Ok(reply); // for another reason
            }
        }
        Err(undecided("the name leads to another file at each look"))
    }

    async fn take_last_name_of(
        &self,
        inode: InodeId,
        with: impl Fn(Vec<Openers>) -> Command,
    ) -> MetaResult<Reply> {
        let removing = self.opens.removing(inode)?;
        let created = timeout(AWAIT_MAX, self.opens.not_being_created(inode)).await; // keeps OP2
        created.map_err(|_| unavailable("the create of the file is under way"))?;
        let sessions = match planted::has(Bug::OrphanForgotten) {
            false => self.openers(inode).await?, // keeps OP1 and OP4
            true => Vec::new(),
        };
        let command = with(vec![Openers { inode, sessions: sessions.clone() }]);
        let landing = Landing::of(self, vec![removing]); // keeps OP3
        let reply = landing.of_command(self, command).await?;
        // Who has told of a close since the look is no longer in the table, and told it before the file was an orphan.
        let is_orphan = matches!(
            &reply,
            Reply::Changed(Ok(Answered { changed: Changed::Removed { orphan: Some(orphan) }, .. })) if *orphan == inode
        );
        for session in sessions.into_iter().filter(|_| is_orphan) {
            // One that has not told yet releases it when it attaches (`attach_opens`), or ends.
            if self.opens.is_attached(session) && !self.opens.has_open(session, inode) {
                self.opens.release_later(session, &[inode]);
            }
        }
        Ok(reply)
    }

    /// Those who have the file open, and those who may: sessions that have not told this leader yet (OP4).
    async fn openers(&self, inode: InodeId) -> MetaResult<Vec<SessionId>> {
        loop {
            self.awaited(inode.volume()).await?; // from here on it is known who is awaited
            if let Some(openers) = self.opens.openers(self.enter_term()?, inode) {
                return Ok(openers);
            }
        }
    }

    /// Registers an open. The state is read for it afterwards, and then it has [succeeded](Opening::succeeded) or is dropped.
    /// `None`: a session that does not tell what it has open.
    pub(crate) async fn opening(&self, session: SessionId, inode: InodeId) -> MetaResult<Option<Opening>> {
        self.enter_term()?;
        if !self.tells(session) || !self.record_holds(session, inode.volume()).await? {
            return Ok(None);
        }
        let opening = self.opens.opening(session, inode)?;
        // Keeps OP1. A leader that has lost its quorum lets the client go on to the next one.
        let removed = timeout(AWAIT_MAX, self.opens.not_being_removed(inode)).await;
        removed.map_err(|_| unavailable("a removal of the file is under way"))?;
        Ok(Some(opening))
    }

    /// The session has attached here, or to a leader before: a client of an earlier release never does.
    fn tells(&self, session: SessionId) -> bool {
        self.opens.knows(session) || self.local(|state| read::may_hold_something(state, session))
    }

    /// Before a session holds something in a volume: the next leaders have to know that it may. False: the volume is not here.
    pub(crate) async fn record_holds(&self, session: SessionId, volume: VolumeId) -> MetaResult<bool> {
        if self.opens.is_recorded(session, volume) {
            return Ok(true);
        }
        let (is_here, is_recorded) = self.local(|state| {
            (read::last_inode(state, volume).is_some(), read::has_holds(state, session, volume))
        });
        if !is_here {
            return Ok(false);
        }
        if !is_recorded {
            let recorded = self.send(Command::RecordHolds { session, volume }).await?;
            if let Reply::Refused(refused) = recorded {
                return Err(refused);
            }
        }
        self.opens.recorded(session, volume);
        Ok(true)
    }

    /// Proposes a create that opens what it makes.
    pub(super) async fn create_open(&self, command: Command) -> MetaResult<Reply> {
        let Command::Change {
            request: ChangeRequest { session, change: Change::Create(create), .. }, ..
        } = &command
        else {
            return Err(MetaError::Internal { what: "only a create opens what it makes".to_owned() });
        };
        let (session, volume) = (*session, create.parent.volume());
        // Only a client that attaches asks for it.
        if !self.record_holds(session, volume).await? {
            return self.send(command).await;
        }
        let Some(last) = self.local(|state| read::last_inode(state, volume)) else {
            return self.send(command).await;
        };
        let creating = self.opens.creating(last); // keeps OP2
        let reply = self.send(command).await?;
        let Reply::Changed(Ok(Answered { changed: Changed::Inode { attr, existed: false, .. }, .. })) =
            &reply
        else {
            return Ok(reply);
        };
        if !creating.made(session, attr.inode) {
            self.open_what_was_made(session, attr.inode).await?;
        }
        Ok(reply)
    }

    /// An earlier try has made it, and its answer was lost: somebody may have removed it since.
    async fn open_what_was_made(&self, session: SessionId, inode: InodeId) -> MetaResult<()> {
        let Some(opening) = self.opening(session, inode).await? else { return Ok(()) };
        let look = |state: &dyn Snapshot| {
            let has_name = read::getattr(state, inode)?.nlink > 0;
            Ok(has_name || read::holds_orphan(state, session, inode))
        };
        match self.read(&Scope::of_inode(inode), Some(session), look).await? {
            true => opening.succeeded(),
            false => return Err(MetaError::Stale),
        }
        Ok(())
    }

    /// The session has attached in this term, and told its locks: it has these files open and no others, and holds what it has
    /// open. From here on it is not awaited.
    pub(crate) async fn attach_opens(
        &self,
        term: u64,
        (session, attachment): (SessionId, Attachment),
        open: Vec<InodeId>,
    ) -> MetaResult<()> {
        self.enter_term()?;
        if !self.local(|state| read::may_hold_something(state, session)) {
            // So the next leader knows that this session tells what it has open, before it has attached there.
            let nothing = Command::RecordHolds { session, volume: NOWHERE };
            if let Reply::Refused(refused) = self.send(nothing).await? {
                return Err(refused);
            }
        }
        let volumes: BTreeSet<VolumeId> = open.iter().map(|inode| inode.volume()).collect();
        for volume in volumes {
            self.record_holds(session, volume).await?;
        }
        self.opens.attach(term, (session, attachment), &open)?;
        self.release_what_is_closed(session, self.local(|state| read::orphaned_files_of(state, session)));
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
        self.sessions.forget(session);
        self.opens.end(session);
        self.attachments.end(session);
    }

    /// Releases what sessions have closed; for ever. What is left over when the lead is lost, the next leader finds when the
    /// session attaches there.
    pub(crate) async fn release_closed(&self) {
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
        let landing = Landing::of(self, removing.collect::<MetaResult<Vec<_>>>()?);
        inodes.retain(|inode| !self.opens.has_open(session, *inode)); // it may have it open again
        match landing.of_command(self, Command::ReleaseFor { session, inodes }).await? {
            Reply::Refused(refused) => Err(refused),
            _ => Ok(()),
        }
    }
}

fn unavailable(what: &str) -> MetaError {
    MetaError::Unavailable { what: what.to_owned() }
}

fn undecided(what: &str) -> MetaError {
    MetaError::Undecided { what: what.to_owned() }
}
