//! Who writes a file, and who reads it meanwhile: what passes the gate for Write leases (P3.2, P3.6, P4.1, P4.2).
//!
//! WS1  Nothing of a volume is shown, changed or granted before each session that an earlier leader may have granted Write there has
//!      told this leader what it holds, or has ended (P3.6).
//! WS2  Before a session is granted Write in a volume, the state says that it may have it: the next leader knows whom to wait for.
//! WS3  A read is answered from a state that shows what every other session has written under its lease (WG2 of
//!      `leases::writing`). Whoever waits for that holds nothing but its place.
//! WS4  Whoever waits is answered after [`WAIT_MAX`] that it is to ask again. So a call hangs on no leader that is none any more, and
//!      what asks again over the same connection gives nobody up.
//! WS5  What a session's own Write covers waits for nobody: its commits, and its reads of that file by number.

use std::collections::BTreeSet;
use std::time::Duration;

use dfs_proto::attr::{AccessMask, Caller, FileKind, InodeAttr};
use dfs_proto::error::MetaError;
use dfs_proto::ids::{Attachment, InodeId, SessionId, VolumeId};
use dfs_proto::meta::{
    Acquire, Acquired, Changed, HeldWrite, MetaResult, Read, ReadReply, ReadRequest, Shown,
};
use dfs_proto::scope::Scope;
use tokio::time::{Instant, timeout_at};

use super::gate::Gate;
use super::leases::{Acquiring, Look, Reader, Reading, Seen, Wanted, led_by_another};
use dfs_state::command::{Answered, Command, Reply};
use dfs_state::kv::Snapshot;
use dfs_state::read;

/// WS4.
pub(super) const WAIT_MAX: Duration = Duration::from_secs(1);

impl Gate {
    /// [`Gate::read`] for a client: what it is shown of files is what others have written (WS3), and it is granted Read of what it may be, as `look`
    /// says with the answer.
    pub(crate) async fn read_for(
        &self,
        shown: &Scope,
        reader: Reader,
        look: impl Fn(&dyn Snapshot) -> (MetaResult<ReadReply>, Vec<InodeId>),
    ) -> Shown {
        match self.try_read_for(shown, reader, look).await {
            Ok(shown) => shown,
            Err(error) => Shown::without_leases(Err(error)),
        }
    }

    async fn try_read_for(
        &self,
        shown: &Scope,
        reader: Reader,
        look: impl Fn(&dyn Snapshot) -> (MetaResult<ReadReply>, Vec<InodeId>),
    ) -> MetaResult<Shown> {
        let term = self.enter_term()?;
        if !self.is_covered(term, reader.session, shown) {
            self.writers_have_told(term, &shown.volumes).await?; // keeps WS1
        }
        let mut wanted = Vec::new(); // until it is answered: nobody is granted it before
        let mut hidden = BTreeSet::new();
        loop {
            let reading = self.leases.reading(term); // keeps G2
            let mut leasable = Vec::new();
            let look = |state: &dyn Snapshot| {
                let (answered, may_be_leased) = look(state);
                leasable = may_be_leased;
                answered
            };
            let answered = self.read(shown, look).await.map(|reply| without_attributes_of(&hidden, reply));
            leasable.retain(|inode| !hidden.contains(inode));
            let seen = Seen { files: files(&answered), leasable };
            let unseen = match self.leases.show(reading, reader, seen) {
                Ok(leased) => return Ok(Shown { answered, leased }),
                Err(unseen) if unseen.is_empty() => return Err(led_by_another()),
                Err(unseen) => unseen,
            };
            if !reader.waits {
                hidden.extend(unseen);
                continue;
            }
            wanted.push(self.want_back(term, Some(reader.session), unseen).await?);
        }
    }

    /// Keeps WS5: all that is shown are files by their numbers, which the session holds Write of.
    fn is_covered(&self, term: u64, session: SessionId, shown: &Scope) -> bool {
        !self.leases.have_writers_told(term) // else it does not matter
            && shown.names.is_empty()
            && shown.behind.is_empty()
            && shown.listed.is_none()
            && !shown.inodes.is_empty()
            && self.leases.holds_write(session, &shown.inodes)
    }

    /// Returns when nobody but `by` holds Write of these. Until what it returns is dropped, nobody is granted it.
    async fn want_back(&self, term: u64, by: Option<SessionId>, inodes: Vec<InodeId>) -> MetaResult<Wanted> {
        let wanted = self.leases.want(term, by, inodes)?;
        let end = Instant::now() + WAIT_MAX;
        loop {
            let mut moves = std::pin::pin!(self.leases.moves());
            moves.as_mut().enable();
            if wanted.is_back() {
                self.require_term(term)?;
                return Ok(wanted);
            }
            self.ask_again_after(end, moves, "another client has the file, and is asked for it").await?;
        }
    }

    /// Keeps CH5 of `changes`: returns when nobody but `by` holds Write of these. The caller has frozen them.
    pub(super) async fn writes_come_back(
        &self,
        term: u64,
        by: Option<SessionId>,
        inodes: &[InodeId],
    ) -> MetaResult<()> {
        let written = self.leases.written_by_others(by, inodes);
        if !written.is_empty() {
            self.want_back(term, by, written).await?;
        }
        Ok(())
    }

    /// Returns when something has moved; keeps WS4.
    pub(super) async fn ask_again_after(
        &self,
        end: Instant,
        moves: impl Future<Output = ()>,
        what: &str,
    ) -> MetaResult<()> {
        let undecided = || MetaError::Undecided { what: what.to_owned() };
        timeout_at(end, moves).await.map_err(|_| undecided())
    }

    /// A change that shows a file which existed before shows what others have written to it.
    pub(super) async fn show_existing(
        &self,
        term: u64,
        reading: Reading,
        session: Option<SessionId>,
        reply: &mut Reply,
    ) -> MetaResult<()> {
        let (
            Some(session),
            Reply::Changed(Ok(Answered { changed: Changed::Inode { attr, existed: true, .. }, .. })),
        ) = (session, reply)
        else {
            return Ok(());
        };
        let (inode, reader) = (attr.inode, Reader { session, leases: None, waits: true });
        let seen = Seen { files: vec![inode], leasable: Vec::new() };
        if self.leases.show(reading, reader, seen).is_err() {
            let look = |state: &dyn Snapshot| (read::getattr(state, inode).map(ReadReply::Attr), Vec::new());
            let shown = self.try_read_for(&Scope::of_inode(inode), reader, look).await?;
            if let Ok(ReadReply::Attr(now)) = shown.answered {
                *attr = now;
            }
        }
        self.require_term(term)
    }

    /// Keeps WS2. False: the volume is not here.
    pub(crate) async fn record_writes(
        &self,
        term: u64,
        session: SessionId,
        volume: VolumeId,
    ) -> MetaResult<bool> {
        if self.leases.is_write_recorded(session, volume) {
            return Ok(true);
        }
        let (is_here, is_recorded) = self.local(|state| {
            (read::last_inode(state, volume).is_some(), read::may_write(state, session, volume))
        });
        if !is_here {
            return Ok(false);
        }
        if !is_recorded
            && let Reply::Refused(refused) =
                self.send(term, Command::RecordWrites { session, volume }).await?
        {
            return Err(refused);
        }
        self.leases.write_is_recorded(term, session, volume);
        Ok(true)
    }

    /// Grants Write of a file to the session, after whoever else uses it has given it back. The caller has confirmed that the session
    /// lives.
    pub(crate) async fn acquire(&self, asked: &Acquire) -> MetaResult<Acquired> {
        let term = self.enter_term()?;
        let by = (asked.session, asked.attachment);
        match self.leases.keep(term, by, asked.write)? {
            None => return Ok(Acquired::NotAttached),
            Some(true) => return self.acquired(term, asked).await,
            Some(false) => {}
        }
        let inode = asked.write.inode;
        let kind = self.local(|state| read::getattr(state, inode).map(|attr| attr.kind));
        if kind.is_ok_and(|kind| kind != FileKind::File) {
            return Err(files_only());
        }
        self.earlier_leases_have_ended(term).await?;
        self.writers_have_told(term, &BTreeSet::from([inode.volume()])).await?; // keeps WS1
        if !self.record_writes(term, asked.session, inode.volume()).await? {
            return Err(MetaError::Stale); // no volume of this cluster
        }
        let end = Instant::now() + WAIT_MAX;
        let turn = timeout_at(end, self.leases.turn(inode)).await;
        let _turn = turn.map_err(|_| MetaError::Undecided { what: "others come first".to_owned() })??;
        let acquiring = self.leases.acquire(term, by, asked.write)?;
        if !self.until_granted(end, &acquiring).await? {
            return Ok(Acquired::NotAttached);
        }
        // If this is an error, the client gives the grant back when it is asked for: another try may have told it of it.
        self.acquired(term, asked).await
    }

    /// False: it is not the session's present attachment.
    async fn until_granted(&self, end: Instant, acquiring: &Acquiring) -> MetaResult<bool> {
        let (session, _) = acquiring.by();
        loop {
            let mut moves = std::pin::pin!(self.leases.moves());
            moves.as_mut().enable();
            let what = "others use the file, and are asked for it";
            match acquiring.look(|| self.sessions.is_ending(session))? {
                Look::Granted => return Ok(true),
                Look::NotAttached => return Ok(false),
                Look::Recalled(recalls) => {
                    self.ask_again_after(end, self.leases.until_over(recalls), what).await?;
                }
                Look::Wait => self.ask_again_after(end, moves, what).await?,
            }
        }
    }

    async fn acquired(&self, term: u64, asked: &Acquire) -> MetaResult<Acquired> {
        let (attr, next_commit) = self.read_written(asked).await?;
        self.require_term(term)?;
        Ok(Acquired::Granted { attr, next_commit })
    }

    /// After it was granted: all that others have written is there.
    async fn read_written(&self, asked: &Acquire) -> MetaResult<(InodeAttr, u64)> {
        let HeldWrite { inode, .. } = asked.write;
        let request = ReadRequest {
            cluster: asked.cluster,
            session: asked.session,
            caller: Caller::ROOT,
            leases: None,
            read: Read::Open { inode, mask: AccessMask::WRITE },
        };
        let look = |state: &dyn Snapshot| read::answer(state, &request);
        match self.read(&Scope::of_inode(inode), look).await? {
            ReadReply::Opened { attr, next_commit, .. } if attr.kind == FileKind::File => {
                Ok((attr, next_commit))
            }
            _ => Err(files_only()),
        }
    }

    /// Write of a file that the session has just made, which it wants by this number.
    pub(super) fn grant_new(
        &self,
        term: u64,
        reading: Reading,
        (session, attachment): (SessionId, Attachment),
        write: HeldWrite,
    ) -> bool {
        let is_ending = || self.sessions.is_ending(session);
        self.have_earlier_leases_ended(term)
            && self.leases.grant_new(reading, (session, attachment), write, is_ending)
    }
}

fn files_only() -> MetaError {
    MetaError::InvalidArgument { what: "Write is of files only".to_owned() }
}

/// A page of a listing does not show attributes of these.
fn without_attributes_of(hidden: &BTreeSet<InodeId>, reply: ReadReply) -> ReadReply {
    match reply {
        ReadReply::Entries { mut entries, end, parent } if !hidden.is_empty() => {
            let to_hide = entries.iter_mut().filter(|entry| hidden.contains(&entry.inode));
            to_hide.for_each(|entry| entry.attr = None);
            ReadReply::Entries { entries, end, parent }
        }
        other => other,
    }
}

/// Those of which the answer shows attributes or content.
fn files(answered: &MetaResult<ReadReply>) -> Vec<InodeId> {
    let is_file = |attr: &&InodeAttr| attr.kind == FileKind::File;
    match answered {
        Ok(ReadReply::Attr(attr) | ReadReply::Opened { attr, .. }) => {
            Some(attr).filter(is_file).map(|attr| attr.inode).into_iter().collect()
        }
        Ok(ReadReply::Extents(extents)) => vec![extents.attr.inode],
        Ok(ReadReply::Entries { entries, .. }) => entries
            .iter()
            .filter_map(|entry| entry.attr.as_ref())
            .filter(is_file)
            .map(|attr| attr.inode)
            .collect(),
        // Neither attributes nor content, but where bytes are at some version.
        Ok(ReadReply::FewExtents(_)) => Vec::new(),
        Ok(ReadReply::Granted | ReadReply::Target(_) | ReadReply::StatFs(_) | ReadReply::Elsewhere(_))
        | Err(_) => Vec::new(),
    }
}
