//! What the fake metaserver makes of files that somebody writes: whoever reads or changes one waits until it was given back.

use std::collections::BTreeSet;
use std::time::Duration;

use dfs_proto::attr::{AccessMask, Caller};
use dfs_proto::error::MetaError;
use dfs_proto::ids::{InodeId, SessionId};
use dfs_proto::meta::{
    Acquire, Acquired, Change, ChangeRequest, Changed, Dropped, HeldWrite, MetaResult, Read, ReadReply,
    ReadRequest, Shown,
};
use dfs_state::read;
use tokio::time::{Instant, sleep};

use crate::fakes::leader::{away, pause};
use crate::fakes::leases::Touched;
use crate::fakes::metaserver::{DELAY, FakeMeta, State};

impl State {
    /// The answer, unless another session may have written what it shows.
    pub(super) fn shown_if_unwritten(&mut self, request: &ReadRequest) -> Option<Shown> {
        let mut files = match request.read {
            Read::Access { .. } | Read::ReadLink { .. } | Read::StatFs { .. } => BTreeSet::new(),
            _ => request.read.scope().inodes,
        };
        match self.view(|view| read::answer(view, request)) {
            Ok(ReadReply::Attr(attr)) => drop(files.insert(attr.inode)),
            Ok(ReadReply::Entries { entries, .. }) => {
                files.extend(entries.iter().filter(|entry| entry.attr.is_some()).map(|entry| entry.inode));
            }
            Ok(_) | Err(_) => {}
        }
        let is_unwritten = self.leader.is_written_by_nobody_but(request.session, files);
        is_unwritten.then(|| self.shown(request))
    }

    /// Write of the file that a change has made and opened.
    pub(super) fn give_write_of_new(
        &mut self,
        session: SessionId,
        made: &MetaResult<Changed>,
        wish: Option<Dropped>,
    ) -> bool {
        match (made, wish) {
            (
                Ok(Changed::Inode { attr, existed: false, .. }),
                Some(Dropped { attachment, wants_write: Some(grant), .. }),
            ) => {
                let write = HeldWrite { inode: attr.inode, grant };
                self.leader.give_write(session, Some(attachment), write)
            }
            _ => false,
        }
    }

    /// A commit names the leases under which its files were written, and the session holds exactly these.
    pub(super) fn require_written_under(
        &self,
        request: &ChangeRequest,
        dropped: &Option<Dropped>,
    ) -> MetaResult<()> {
        let Change::CommitExtents(commit) = &request.change else { return Ok(()) };
        if !self.leader.writers.gives {
            return Ok(());
        }
        let attachment = dropped.as_ref().map(|dropped| dropped.attachment);
        if attachment.is_none() || self.leader.attachment(request.session) != attachment {
            return Err(MetaError::Unavailable { what: "attach first".to_owned() });
        }
        let named = dropped.iter().flat_map(|dropped| &dropped.writes);
        let named: BTreeSet<InodeId> = named
            .filter(|write| self.leader.writers.is_held(request.session, write))
            .map(|write| write.inode)
            .collect();
        match commit.files.iter().find(|file| !named.contains(&file.inode)) {
            Some(file) => Err(MetaError::CommitRefused { what: format!("{} is not held", file.inode) }),
            None => Ok(()),
        }
    }

    /// Whether nobody else writes what changes. A commit waits for nobody.
    pub(super) fn may_change(&mut self, session: SessionId, change: &Change) -> bool {
        if let Change::CommitExtents(_) = change {
            return true;
        }
        let Touched { named, names, behind } = self.touched(change);
        let alters_nothing = named.is_empty() && names.is_empty();
        if !alters_nothing && !self.leader.writers.may_grant() {
            return false;
        }
        self.leader.is_written_by_nobody_but(session, named.into_iter().chain(behind))
    }

    /// `None`: not yet.
    pub(super) fn acquire(&mut self, acquire: &Acquire) -> Option<MetaResult<Acquired>> {
        let Acquire { session, attachment, write, .. } = *acquire;
        if let Err(ended) = self.require_session(session) {
            return Some(Err(ended));
        }
        if self.leader.attachment(session) != Some(attachment) {
            return Some(Ok(Acquired::NotAttached));
        }
        if !self.leader.writers.may_grant()
            || !self.leader.writers.is_first(write.inode, session)
            || !self.leader.is_written_by_nobody_but(session, [write.inode])
        {
            return None;
        }
        let (cluster, caller, inode) = (acquire.cluster, Caller::ROOT, write.inode);
        let read = Read::Open { inode, mask: AccessMask::NONE };
        let open = ReadRequest { cluster, session, caller, leases: None, read };
        let (attr, next_commit) = match self.view(|view| read::answer(view, &open)) {
            Ok(ReadReply::Opened { attr, next_commit, .. }) => (attr, next_commit),
            Ok(other) => panic!("an open is answered {other:?}"),
            Err(error) => return Some(Err(error)),
        };
        let named = BTreeSet::from([write.inode]);
        let touched = Touched { named, names: BTreeSet::new(), behind: BTreeSet::new() };
        let dropped = Dropped {
            attachment,
            behind: Vec::new(),
            wants_write: None,
            wants_read: false,
            writes: Vec::new(),
        };
        self.leader.recall((session, Some(dropped)), &touched);
        self.leader.writers.grant(session, write);
        self.leader.leases.give(session, &[write.inode]);
        self.leader.writers.acquired.push((session, write.inode));
        Some(Ok(Acquired::Granted { attr, next_commit }))
    }
}

impl FakeMeta {
    /// False: they did not give it back in time.
    pub(super) async fn wait_for_writers(&self, request: &ChangeRequest, timeout: Duration) -> bool {
        let deadline = Instant::now() + timeout;
        while !self.state().may_change(request.session, &request.change) {
            if Instant::now() >= deadline {
                return false;
            }
            sleep(DELAY).await;
        }
        true
    }

    pub(super) async fn acquire(&self, acquire: Acquire, timeout: Duration) -> MetaResult<Acquired> {
        let deadline = Instant::now() + timeout;
        sleep(DELAY).await;
        let (inode, session) = (acquire.write.inode, acquire.session);
        let _place = InLine::new(self, inode, session);
        loop {
            let (acquired, delay) = {
                let mut state = self.state();
                (state.acquire(&acquire), state.leader.acquire_answer_delay)
            };
            if let Some(acquired) = acquired {
                pause(delay).await;
                return acquired;
            }
            if Instant::now() >= deadline {
                return Err(away());
            }
            sleep(DELAY).await;
        }
    }
}

/// A session that waits for Write of a file.
struct InLine<'m> {
    meta: &'m FakeMeta,
    inode: InodeId,
    session: SessionId,
}

impl InLine<'_> {
    fn new(meta: &FakeMeta, inode: InodeId, session: SessionId) -> InLine<'_> {
        meta.state().leader.writers.line_up(inode, session);
        InLine { meta, inode, session }
    }
}

impl Drop for InLine<'_> {
    fn drop(&mut self) {
        self.meta.state().leader.writers.leave(self.inode, self.session);
    }
}
