//! The table of inodes that are open or kept, or have something buffered.
//!
//! D1  While an inode is pinned it stays in the table, so everybody who has it open shares one buffer.
//! D2  An inode without a name is handed over for its release when its last pin goes. A caller that pins it later
//!     finds it among the chores that wait, and takes it back.
//! The lock of this table is the third in the order that `node` gives.

use std::collections::BTreeMap;
use std::num::NonZeroUsize;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use dfs_proto::attr::InodeAttr;
use dfs_proto::ids::{InodeId, SessionId};
use lru::LruCache;

use crate::data::extents::ExtentCache;
use crate::data::memory::SessionMemory;
use crate::data::node::{Node, NodeState};
use crate::names::interim::closed::ClosedAttrs;

/// Inodes that nobody has open and that are kept for a failure that nobody has reported.
const UNREPORTED_MAX: usize = 1024;

/// Closed files whose extents are kept, and extents that are kept of one file. Each takes some 200 bytes with its chunk's place.
const CLOSED_EXTENTS_MAX: NonZeroUsize = NonZeroUsize::new(4096).expect("not zero");
const CLOSED_EXTENTS_OF_FILE_MAX: usize = 32;

struct Entry {
    node: Arc<Node>,
    /// Counts open files, opens that are under way, and a removed directory that is kept.
    pins: u32,
    /// The inode has no name left. It is released with the last pin.
    is_orphan: bool,
    /// It had no pin when this client removed its last name, and is being flushed.
    is_unlinked: bool,
}

/// The inodes of one session.
pub(crate) struct Nodes {
    table: Mutex<Table>,
    memory: Arc<SessionMemory>,
    /// It is called under the table's lock, so that a caller that pins the inode later finds it where it waits for
    /// its release (D2).
    on_orphan: Box<dyn Fn(InodeId) + Send + Sync>,
}

struct Table {
    open: BTreeMap<InodeId, Entry>,
    /// N3, for answers that arrive after the close.
    closed: ClosedAttrs,
    /// Of files that were closed, where their bytes are at the version that was known then. Equal versions mean equal bytes.
    extents: LruCache<InodeId, ExtentCache>,
}

/// Keeps an inode in the table.
pub(crate) struct Pin {
    pub(crate) node: Arc<Node>,
    nodes: Arc<Nodes>,
}

impl Nodes {
    /// `on_orphan` is called when an inode without a name has no pin left.
    pub(crate) fn new(
        memory: Arc<SessionMemory>,
        on_orphan: impl Fn(InodeId) + Send + Sync + 'static,
    ) -> Arc<Nodes> {
        let extents = LruCache::new(CLOSED_EXTENTS_MAX);
        let table = Table { open: BTreeMap::new(), closed: ClosedAttrs::new(), extents };
        Arc::new(Nodes { table: Mutex::new(table), memory, on_orphan: Box::new(on_orphan) })
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Pins an inode that is being opened. To be called before the request, so that what the answer says about
    /// commits is not outdated by another open file.
    pub(crate) fn pin(self: &Arc<Nodes>, inode: InodeId, session: SessionId) -> Pin {
        let mut table = self.table();
        let Table { open, closed, extents } = &mut *table;
        let entry = open.entry(inode).or_insert_with(|| {
            let node = Arc::new(Node::new(inode, self.memory.clone(), session));
            let (attr, kept) = (closed.reopened(inode), extents.pop(&inode));
            if let Some(attr) = attr {
                node.with(session, |state| state.reopened(&attr, kept));
            }
            Entry { node, pins: 0, is_orphan: false, is_unlinked: false }
        });
        entry.pins += 1;
        Pin { node: entry.node.clone(), nodes: self.clone() }
    }

    pub(crate) fn pin_open(self: &Arc<Nodes>, inode: InodeId) -> Option<Pin> {
        let mut table = self.table();
        let entry = table.open.get_mut(&inode)?;
        entry.pins += 1;
        Some(Pin { node: entry.node.clone(), nodes: self.clone() })
    }

    /// An inode that is open or kept here, or has something buffered.
    pub(crate) fn get(&self, inode: InodeId) -> Option<Arc<Node>> {
        self.table().open.get(&inode).map(|entry| entry.node.clone())
    }

    pub(crate) fn all(&self) -> Vec<Arc<Node>> {
        self.table().open.values().map(|entry| entry.node.clone()).collect()
    }

    /// The attributes as this client sees them: with what is buffered, and with newer content that is known.
    pub(crate) fn show(&self, attr: InodeAttr, session: SessionId) -> InodeAttr {
        let table = self.table();
        if let Some(entry) = table.open.get(&attr.inode) {
            let node = entry.node.clone();
            drop(table);
            return node.with(session, |state| {
                state.observe(&attr);
                state.shown().unwrap_or(attr)
            });
        }
        table.closed.newest(attr)
    }

    /// Something of the inode is buffered.
    pub(crate) fn is_dirty(&self, inode: InodeId) -> bool {
        let node = self.table().open.get(&inode).map(|entry| entry.node.clone());
        node.is_some_and(|node| node.dirty_since().is_some())
    }

    /// The inode has lost its last name: it is released once it is not open here any more.
    pub(crate) fn orphaned(&self, inode: InodeId) {
        let mut table = self.table();
        match table.open.get_mut(&inode) {
            Some(entry) if entry.pins > 0 => entry.is_orphan = true,
            Some(entry) => {
                // Nobody can read what is buffered any more: it is dropped, now or when the flush under way has ended.
                entry.is_unlinked = true;
                if entry.node.flushing.try_lock().is_ok() {
                    entry.node.with(SessionId(0), NodeState::drop_buffered);
                    table.open.remove(&inode);
                }
                (self.on_orphan)(inode);
            }
            None => (self.on_orphan)(inode),
        }
    }

    /// Nobody has the inode open here, and its last name is gone: what is buffered of it is read by nobody who could be told.
    pub(crate) fn is_unlinked(&self, inode: InodeId) -> bool {
        let is_unlinked =
            |entry: &Entry| entry.is_unlinked || (entry.pins == 0 && entry.node.was_acquired_without_name());
        self.table().open.get(&inode).is_some_and(is_unlinked)
    }

    /// The same for an inode that is being opened: its last pin releases it.
    pub(crate) fn reopened_orphan(&self, inode: InodeId) {
        if let Some(entry) = self.table().open.get_mut(&inode) {
            entry.is_orphan = true;
        }
    }

    /// It has no name left, and nobody else has it open: what is buffered of it is never read.
    pub(crate) fn is_unread_orphan(&self, inode: InodeId) -> bool {
        let table = self.table();
        table.open.get(&inode).is_some_and(|entry| entry.is_orphan && !entry.node.was_acquired_without_name())
    }

    /// At most one pin keeps the inode.
    pub(crate) fn is_last(&self, inode: InodeId) -> bool {
        self.table().open.get(&inode).is_none_or(|entry| entry.pins <= 1)
    }

    /// Drops an inode that nobody has open and that has nothing buffered.
    pub(crate) fn forget_if_closed(&self, inode: InodeId) {
        let mut table = self.table();
        let Some(entry) = table.open.get(&inode) else { return };
        let is_dirty = entry.node.dirty_since().is_some();
        let is_needed = is_dirty || (entry.node.has_unreported_failure() && self.has_room_for_failures());
        let is_unread = entry.is_unlinked || (entry.is_orphan && !entry.node.was_acquired_without_name());
        if entry.pins > 0 || (is_needed && !is_unread) {
            return;
        }
        let Some(entry) = table.open.remove(&inode) else { return };
        let base = entry.node.base();
        if let Some(attr) = base.filter(|_| !entry.is_orphan) {
            table.closed.closed(attr);
            if let Some(extents) = entry.node.extents_to_keep(CLOSED_EXTENTS_OF_FILE_MAX) {
                table.extents.put(inode, extents);
            }
        }
        if entry.is_orphan {
            (self.on_orphan)(inode);
        }
    }

    /// A failure that nobody has reported stays with its inode (P6.4), unless there are too many.
    fn has_room_for_failures(&self) -> bool {
        self.memory.unreported() <= UNREPORTED_MAX
    }

    fn unpin(&self, inode: InodeId) {
        if let Some(entry) = self.table().open.get_mut(&inode) {
            entry.pins = entry.pins.saturating_sub(1);
        }
        self.forget_if_closed(inode);
    }
}

impl Drop for Pin {
    fn drop(&mut self) {
        self.nodes.unpin(self.node.inode);
    }
}
