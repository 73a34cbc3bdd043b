//! One open file: reading, writing, flushing and closing.
//!
//! O1  A write that returned is seen by every read and `stat` of any client that starts later (P6.1). `sync` returns when all of it
//!     is durable on every replica and committed.
//! O2  A close commits nothing of a file of which this client holds Write: whoever asks for the file has it committed, and the
//!     background does so after a while (`commit_interval`). With [`Durability::Operation`] each close commits.
//! O3  A failure to commit is reported once by each file that was open then: by its next write, flush or sync. If all were closed,
//!     the next one that is opened reports it.
//! O4  A lost lock is reported once by each open file through which it was set: by its next write, flush or sync, and until then by
//!     every read (the kernel reads ahead, and drops the errors of that). With a failure to commit it is one report.
//! O5  The cluster knows that the file is open, from before it was asked to open it (H6 of `held`) until the last close.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use dfs_proto::attr::{Caller, InodeAttr};
use dfs_proto::ids::InodeId;
use dfs_proto::meta::Read;
use dfs_proto::units::Offset;

use crate::config::Durability;
use crate::data::core::Core;
use crate::data::flush::FLUSH_SLICE_LEN;
use crate::data::node::{Node, NodeState};
use crate::data::nodes::Pin;
use crate::data::readahead::ReadAhead;
use crate::data::unfinished::Unfinished;
use crate::error::{ClientError, Result};
use crate::session::held::Opened;
use crate::session::ranges::LockLoss;
use crate::session::replies;
use crate::session::retry::Deadline;

/// The rights that a file is opened with.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct OpenMode {
    pub read: bool,
    pub write: bool,
    /// The file is cut to size 0 once it is open.
    pub truncate: bool,
}

/// One open file. If it is dropped without [`File::release`], the background commits what is buffered.
pub struct File {
    pub(super) core: Arc<Core>,
    pub(super) node: Arc<Node>,
    /// Until the last close.
    pin: Mutex<Option<(Pin, Opened)>>,
    pub(super) mode: OpenMode,
    /// How many failures of the inode this file has reported, or came before it was opened.
    reported: AtomicU64,
    /// Whether a lock that was set through this file is lost (O4).
    pub(super) lock_loss: LockLoss,
    read_ahead: ReadAhead,
    pub(super) unfinished: Arc<Unfinished>,
}

impl File {
    pub(crate) fn new(core: Arc<Core>, (pin, opened): (Pin, Opened), mode: OpenMode) -> Arc<File> {
        let node = pin.node.clone();
        let reported = node.with(core.meta.session_id(), |state| state.reported_failures());
        let reported = AtomicU64::new(reported);
        Arc::new(File {
            core,
            node,
            pin: Mutex::new(Some((pin, opened))),
            mode,
            reported,
            lock_loss: LockLoss::default(),
            read_ahead: ReadAhead::default(),
            unfinished: Arc::default(),
        })
    }

    pub fn inode(&self) -> InodeId {
        self.node.inode
    }

    pub fn mode(&self) -> OpenMode {
        self.mode
    }

    pub(super) fn look<T>(&self, look: impl FnOnce(&mut NodeState) -> T) -> T {
        self.node.with(self.core.meta.session_id(), look)
    }

    /// The attributes as this client sees them now: the newest committed ones that it knows, under what is buffered.
    pub fn attr(&self) -> InodeAttr {
        let shown = self.look(|state| state.shown());
        shown.expect("a file is made after its attributes were taken in, and those stay")
    }

    /// The size as this client sees it now.
    pub fn size(&self) -> u64 {
        self.look(|state| state.size())
    }

    /// Reads the bytes at `offset`; fewer than `len` only at the end of the file.
    pub async fn read_at(&self, offset: Offset, len: u64) -> Result<Bytes> {
        if !self.mode.read {
            return Err(ClientError::NotOpenFor { inode: self.inode(), wanted: "reading" });
        }
        let bytes = self.read_known(offset, len).await?;
        // Afterwards: the read itself may have shown that the session has ended. Every read says so until something else has
        // reported it: the kernel reads ahead, and tells nobody what became of that.
        match self.lock_loss.is_noted() {
            true => Err(ClientError::LockLost),
            false => Ok(bytes),
        }
    }

    /// Who holds Write of the file knows what it is; others ask, and whoever holds it commits first (P6.1).
    async fn read_known(&self, offset: Offset, len: u64) -> Result<Bytes> {
        if len == 0 {
            return Ok(Bytes::new());
        }
        let deadline = Deadline::after(self.core.config.data_timeout);
        if !self.core.writes.is_held(self.inode(), deadline).await? {
            self.ask_for_attr().await?;
        }
        let size = self.look(|state| state.size());
        let (from, to) = (offset.0, offset.0.saturating_add(len).min(size));
        if from >= to {
            return Ok(Bytes::new());
        }
        if let Some(bytes) = self.read_ahead.read(&self.core, &self.node, from, to, size).await {
            return Ok(bytes);
        }
        let (bytes, _) = self.core.read(&self.node, NodeState::view, from, to).await?;
        Ok(bytes)
    }

    /// Asks the cluster for the attributes.
    pub(super) async fn ask_for_attr(&self) -> Result<()> {
        let read = Read::GetAttr { inode: self.inode() };
        let attr = replies::attr(self.core.names.read(&Caller::ROOT, read).await?)?;
        self.look(|state| state.observe(&attr));
        Ok(())
    }

    /// close(2): keeps O2. What was written to a file without a name is never committed for that if nobody else has it open.
    pub async fn flush(&self) -> Result<()> {
        if self.core.nodes.is_unread_orphan(self.inode()) || self.is_committed_later() {
            return self.report();
        }
        self.sync().await
    }

    /// Not what takes long to commit, which an unmount would have to wait for; nor what replaces bytes that were cut off, so that after a
    /// power cut there are the old ones or the new ones.
    fn is_committed_later(&self) -> bool {
        let is_large_or_replaces = |state: &mut NodeState| {
            state.buffer.dirty_bytes() > FLUSH_SLICE_LEN || state.replaces_cut_bytes()
        };
        self.core.config.durability == Durability::Fsync
            && self.core.writes.may_commit_later(self.inode())
            && !self.look(is_large_or_replaces)
    }

    /// fsync(2): everything written to the file until now, through whichever open file, is durable and visible.
    pub async fn sync(&self) -> Result<()> {
        self.noting(self.core.flush(&self.node).await)?;
        self.report()
    }

    /// The last close: commits what is left (pages that mmap wrote back) as a close does, and releases a file without a name.
    ///
    /// An error means that what was written after the last `close` is lost.
    pub async fn release(&self) -> Result<()> {
        let inode = self.inode();
        let mut released = Ok(());
        if self.core.nodes.is_last(inode) {
            if self.core.nodes.is_unread_orphan(inode) {
                self.look(|state| state.drop_buffered());
            } else if !self.is_committed_later() {
                released = self.core.flush(&self.node).await;
            }
        }
        // What was set through this file ends with it, whoever the owner is (P5.7).
        if let Err(error) = self.core.meta.unlock_through(inode, &self.lock_loss).await {
            tracing::debug!(%inode, %error, "unlock a file that is closed");
        }
        let pin = self.pin.lock().unwrap_or_else(PoisonError::into_inner).take();
        drop(pin);
        self.core.return_unused_write(inode);
        released
    }

    /// Reports a failure that this file has not reported yet (O3), or a lost lock.
    pub(super) fn report(&self) -> Result<()> {
        let lost_lock = self.report_lost_lock();
        let (failures, last) = self.look(|state| state.failure());
        if self.reported.swap(failures, Ordering::Relaxed) >= failures {
            return lost_lock;
        }
        self.look(|state| state.failure_was_reported());
        last.map_or(Ok(()), Err)
    }

    /// Keeps O4.
    fn report_lost_lock(&self) -> Result<()> {
        if self.lock_loss.take() { Err(ClientError::LockLost) } else { Ok(()) }
    }

    /// Notes that this file reports a failure now, so that it does not report it again.
    pub(super) fn noting(&self, result: Result<()>) -> Result<()> {
        if result.is_err() {
            let (failures, _) = self.look(|state| {
                state.failure_was_reported();
                state.failure()
            });
            self.reported.store(failures, Ordering::Relaxed);
            self.lock_loss.take();
        }
        result
    }
}

impl Drop for File {
    fn drop(&mut self) {
        self.core.meta.held.forget_through(self.inode(), &self.lock_loss);
    }
}
