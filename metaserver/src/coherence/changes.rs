//! A change of what may be leased (P4.1):
//!
//!     resolve its names → freeze → recall Write from others → recall Read → propose with what was found behind the names → applied
//!     → thaw
//!
//! CH1  Nobody else uses what the change alters from before it is proposed until it is applied: nothing is granted on it meanwhile, and
//!      what was granted is recalled first.
//! CH2  The freeze outlives the caller (`landing`). A change is proposed in the term in which it was frozen, or not at all.
//! CH3  `apply` refuses, without a trace, a change that would alter another inode behind a name than was found. It is frozen and
//!      recalled anew then.
//! CH4  A new leader executes no such change before all that earlier leaders granted has ended (P3.6; `awaited`).
//! CH5  Write comes back before Read is recalled: what its holder commits meanwhile is a change itself, which passes the freeze and recalls
//!      Read. The asker keeps its own Write.
//! CH6  A commit recalls no Write, and waits for no session that has yet to attach: it is executed under the leases under which it was
//!      written, or refused (WG4 of `leases::writing`). *A flush waits for nobody; and what its client has given up must not be laid
//!      over what somebody else has written since.*

use dfs_proto::attr::FileKind;
use dfs_proto::error::MetaError;
use dfs_proto::ids::{Attachment, InodeId, SessionId};
use dfs_proto::meta::{Change, Dropped, MetaResult};
use dfs_proto::planted::{self, Bug};
use dfs_proto::scope::{self, Scope, Unleased};

use super::executed::Executed;
use super::gate::Gate;
use super::landing::Kept;
use super::leases::{Frozen, Touched};
use super::opens;
use dfs_state::command::{Command, Reply};
use dfs_state::kv::Snapshot;
use dfs_state::read::{self, Behind};

/// A name that changes at each look is used by many at once: their clients ask again.
const LOOKS_MAX: usize = 4;

/// Who asks for a change, and what it has dropped by itself.
pub(super) struct Asker {
    session: SessionId,
    dropped: Option<Dropped>,
}

impl Asker {
    /// It has dropped this by itself, if `attachment` is its present one.
    fn dropped(&self) -> Option<(SessionId, Attachment)> {
        self.dropped.as_ref().map(|dropped| (self.session, dropped.attachment))
    }

    /// The same, if it wants leases on what it is shown.
    fn wants_read(&self) -> Option<(SessionId, Attachment)> {
        self.dropped().filter(|_| self.dropped.as_ref().is_some_and(|dropped| dropped.wants_read))
    }
}

impl Gate {
    /// A part of [`Gate::change`]: for a command that touches inodes.
    pub(super) async fn change_inodes(
        &self,
        term: u64,
        scope: &Scope,
        dropped: Option<Dropped>,
        command: Command,
    ) -> MetaResult<Executed> {
        if dropped.as_ref().is_none_or(|dropped| dropped.writes.is_empty()) || !is_commit(&command) {
            self.earlier_leases_have_ended(term).await?; // keeps CH4
            if !planted::has(Bug::ChangesBeforeLeasesEnd) {
                self.writers_have_told(term, &scope.volumes).await?; // keeps WS1
            }
        }
        let asker = command.asked_by().map(|session| Asker { session, dropped });
        let asker = asker.as_ref();
        let executed = match scope.behind.values().all(|behind| *behind == scope::Behind::Shown) {
            true => self.change_known_inodes(term, scope, asker, command).await?,
            false => self.change_names(term, scope, asker, command).await?,
        };
        if planted::has(Bug::RecallsAfterApply) {
            let late = self.leases.freeze(term, scope.inodes.iter().copied().collect())?;
            self.recall(&late, scope, asker).await;
        }
        Ok(executed)
    }

    /// None of them is found through a name.
    async fn change_known_inodes(
        &self,
        term: u64,
        scope: &Scope,
        asker: Option<&Asker>,
        command: Command,
    ) -> MetaResult<Executed> {
        let frozen = match is_commit(&command) {
            true => self.freeze_commit(term, scope, asker).await?, // keeps CH6
            false => self.freeze(term, scope, &[], asker, releases(&command)).await?,
        };
        let reading = self.leases.reading(term);
        let mut executed = match &command {
            Command::Change { request, .. } if opens::opens_new(&request.change) => {
                let wanted = asker.and_then(|asker| asker.dropped.as_ref());
                self.create_open(term, frozen, command, wanted).await?
            }
            _ => self.send_frozen(term, frozen, command, asker.and_then(Asker::wants_read)).await?,
        };
        let session = asker.map(|asker| asker.session);
        self.show_existing(term, reading, session, &mut executed.reply).await?;
        Ok(executed)
    }

    /// `asker`: is granted what the answer shows.
    pub(super) async fn send_frozen(
        &self,
        term: u64,
        frozen: Frozen,
        command: Command,
        asker: Option<(SessionId, Attachment)>,
    ) -> MetaResult<Executed> {
        let kept = Kept { frozen: Some(frozen), removing: Vec::new(), asker };
        self.send_keeping(term, kept, command).await // keeps CH2
    }

    async fn change_names(
        &self,
        term: u64,
        scope: &Scope,
        asker: Option<&Asker>,
        command: Command,
    ) -> MetaResult<Executed> {
        let Command::Change { request, placement, volumes, .. } = command else {
            return Err(MetaError::Internal {
                what: "only a request alters what is behind a name".to_owned(),
            });
        };
        let look = || self.local(|state| read::behind(state, &request.change));
        let with = |named| {
            let (request, placement, volumes) = (request.clone(), placement.clone(), volumes.clone());
            Command::Change { request, placement, volumes, named: Some(named) }
        };
        let mut behind = look();
        for _ in 0..LOOKS_MAX {
            let frozen = self.freeze(term, scope, &behind, asker, false).await?;
            let by = (request.session, asker.and_then(Asker::wants_read));
            let executed = self.take_names(term, frozen, &behind, by, with).await?;
            if !matches!(executed.reply, Reply::Refused(MetaError::Undecided { .. })) {
                return Ok(executed);
            }
            let before = std::mem::replace(&mut behind, look()); // keeps CH3
            if behind == before {
                return Ok(executed); // for another reason
            }
        }
        Err(MetaError::Undecided { what: "the name leads to another inode at each look".to_owned() })
    }

    /// Keeps CH1.
    async fn freeze(
        &self,
        term: u64,
        scope: &Scope,
        behind: &[Behind],
        asker: Option<&Asker>,
        only_releases: bool,
    ) -> MetaResult<Frozen> {
        let inodes = scope.inodes.iter().copied().chain(behind.iter().map(|behind| behind.inode));
        let inodes: Vec<InodeId> = inodes.collect();
        let frozen = self.leases.freeze(term, inodes.clone())?;
        if !only_releases {
            self.writes_come_back(term, asker.map(|asker| asker.session), &inodes).await?; // keeps CH5
        }
        if !planted::has(Bug::RecallsAfterApply) {
            self.recall(&frozen, scope, asker).await;
        }
        Ok(frozen)
    }

    async fn freeze_commit(&self, term: u64, scope: &Scope, asker: Option<&Asker>) -> MetaResult<Frozen> {
        let inodes = scope.inodes.iter().copied().collect();
        let asker_is_known = || MetaError::Internal { what: "a commit is of a session".to_owned() };
        let session = asker.ok_or_else(asker_is_known)?.session;
        let dropped = asker.and_then(|asker| asker.dropped.as_ref());
        let under = dropped.map_or(&[][..], |dropped| &dropped.writes);
        let frozen = match self.leases.freeze_commit(term, session, inodes, under) {
            Err(undecided @ MetaError::Undecided { .. }) => {
                // A session that has ended will not attach, and what it has sent must not be asked for again until a deadline.
                self.require_session(session).await?;
                return Err(undecided);
            }
            frozen => frozen?,
        };
        if !planted::has(Bug::RecallsAfterApply) {
            self.recall(&frozen, scope, asker).await;
        }
        Ok(frozen)
    }

    async fn require_session(&self, session: SessionId) -> MetaResult<()> {
        let lives = |state: &dyn Snapshot| Ok(read::session(state, session).is_some());
        let lives = self.read_unleased(Unleased::Sessions, lives).await?;
        if lives { Ok(()) } else { Err(MetaError::SessionExpired { session }) }
    }

    /// From whoever asks only what it has not dropped by itself: it may be asked for under an attachment that has ended, and the
    /// leader may find another inode behind a name than the asker knew.
    async fn recall(&self, frozen: &Frozen, scope: &Scope, asker: Option<&Asker>) {
        let has_dropped = |inode: InodeId| {
            let dropped = asker.and_then(|asker| asker.dropped.as_ref());
            scope.inodes.contains(&inode) || dropped.is_some_and(|dropped| dropped.behind.contains(&inode))
        };
        let by = asker.and_then(Asker::dropped);
        let held = frozen.held_by_others(by, has_dropped);
        if !held.is_empty() {
            // Who was granted it has been shown it: this member has applied what made it, and the kind of an inode stays.
            let touched =
                self.local(|state| held.iter().map(|inode| touched(state, scope, *inode)).collect());
            frozen.recall(touched, by, has_dropped).await;
        }
    }
}

fn is_commit(command: &Command) -> bool {
    matches!(command, Command::Change { request, .. } if matches!(request.change, Change::CommitExtents(_)))
}

/// What has no name is released: whoever else writes it holds it.
fn releases(command: &Command) -> bool {
    matches!(command, Command::Change { request, .. } if matches!(request.change, Change::ReleaseOrphans { .. }))
}

/// What the change alters of this inode: names, if it is a directory.
fn touched(state: &dyn Snapshot, scope: &Scope, inode: InodeId) -> Touched {
    let is_directory = read::getattr(state, inode).is_ok_and(|attr| attr.kind == FileKind::Directory);
    let names = scope.names.range((inode, Vec::new())..).take_while(|(directory, _)| *directory == inode);
    let mut names: Vec<Vec<u8>> = names.map(|(_, name)| name.clone()).collect();
    if is_directory && !scope.inodes.contains(&inode) {
        names.push(b"..".to_vec()); // it may be moved
    }
    Touched { inode, is_directory, names }
}
