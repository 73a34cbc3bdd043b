//! On which of the inodes that a read shows whoever is shown them may hold a lease (P3.2). This is noted where their records are
//! read for the answer, so that none is read twice.

use dfs_proto::attr::InodeAttr;
use dfs_proto::error::MetaError;
use dfs_proto::ids::InodeId;
use dfs_proto::meta::{MetaResult, ReadReply};

use crate::kv::Snapshot;
use crate::table::space;
use crate::value::inode::InodeRecord;
use crate::value::space::SpaceRecord;

/// The inodes that were noted of one read.
pub(crate) struct Leasable {
    /// `None`: no leases are asked for.
    noted: Option<Vec<InodeId>>,
}

impl Leasable {
    pub(crate) fn asked_for() -> Leasable {
        Leasable { noted: Some(Vec::new()) }
    }

    pub(crate) fn not_asked_for() -> Leasable {
        Leasable { noted: None }
    }

    /// The answer shows something of this inode, or of its names.
    pub(crate) fn note(&mut self, view: &dyn Snapshot, inode: InodeId, record: &InodeRecord) {
        if self.noted.is_some() {
            self.note_with(inode, record, &space::of(view, inode, record));
        }
    }

    pub(crate) fn note_with(&mut self, inode: InodeId, record: &InodeRecord, space: &SpaceRecord) {
        if let Some(noted) = &mut self.noted
            && may_be_leased(record, space)
        {
            noted.push(inode);
        }
    }

    /// The attributes of this inode, which the answer shows.
    pub(crate) fn attr(&mut self, view: &dyn Snapshot, inode: InodeId, record: &InodeRecord) -> InodeAttr {
        let space = space::of(view, inode, record);
        self.note_with(inode, record, &space);
        record.attr_with(inode, space.allocated)
    }

    /// Those that were noted, if this is what was answered. A refusal shows nothing, but that a name is not there.
    pub(crate) fn shown_by(self, answered: &MetaResult<ReadReply>) -> Vec<InodeId> {
        let shows = matches!(answered, Ok(_) | Err(MetaError::NotFound));
        let mut inodes = self.noted.filter(|_| shows).unwrap_or_default();
        inodes.sort_unstable();
        inodes.dedup(); // a file may have several names in a directory
        inodes
    }
}

/// Not what has no name any more, because that is reaped without a change of it; and not what is being reaped behind a cut, because so
/// changes how much it takes.
fn may_be_leased(record: &InodeRecord, space: &SpaceRecord) -> bool {
    record.nlink > 0 && space.cuts == 0
}
