//! Operations that open files.

use std::sync::Arc;

use dfs_proto::attr::{AccessMask, Caller, InodeAttr};
use dfs_proto::error::MetaError;
use dfs_proto::ids::InodeId;
use dfs_proto::meta::{Change, Create, Read, SetAttr};
use dfs_proto::units::ByteLen;

use crate::cluster::client::ClusterClient;
use crate::data::chores::Reopened;
use crate::data::core::Core;
use crate::data::file::{File, OpenMode};
use crate::error::{ClientError, Result};
use crate::inode::operation::AtOneCluster;
use crate::route::routes::ChangedEntry;
use crate::session::held::Opened;
use crate::session::replies::{self, OpenedFile};

/// Opens a file. The rights that are checked here belong to the open file from now on (P2.4). It sees what others closed before.
#[derive(Clone, Copy, Debug)]
pub struct Open {
    pub inode: InodeId,
    pub mode: OpenMode,
}

impl AtOneCluster for Open {
    type Reply = Arc<File>;

    fn at(&self) -> InodeId {
        self.inode
    }

    async fn perform_at(self, cluster: &ClusterClient, caller: &Caller) -> Result<Arc<File>> {
        let (Open { inode, mode }, core) = (self, &cluster.core);
        core.meta.require_answering()?;
        let session = core.meta.session_id();
        let pin = core.nodes.pin(inode, session);
        let (opened, attr, asked) = match open_untold(core, caller, self) {
            Some((opened, attr)) => (opened, attr, None),
            None => {
                let opened = core.meta.held.opening(inode).await?;
                let asked = ask_to_open(core, caller, self).await?;
                (opened, asked.attr.clone(), Some(asked))
            }
        };
        match core.chores.take_back(session, inode) {
            Reopened::NotWaiting => {}
            Reopened::TakenBack => core.nodes.reopened_orphan(inode),
            // The kernel looks the name up again, and finds the inode that has it now.
            Reopened::TooLate => return Err(ClientError::Stale),
        }
        let known = core.near.take(inode);
        pin.node.with(session, |state| {
            state.observe(&attr);
            known.into_iter().for_each(|known| state.install_known(known));
            if let Some(OpenedFile { next_commit, extents, .. }) = &asked {
                state.learn_next_commit(session, *next_commit);
                extents.iter().for_each(|extents| state.install_extents(0, extents));
            }
        });
        let file = File::new(core.clone(), (pin, opened), mode);
        if mode.truncate && mode.write {
            let size = Some(ByteLen(0));
            let cut = SetAttr { inode, size, by_handle: true, ..SetAttr::default() };
            cluster.set_attr(caller, cut).await?;
        }
        Ok(file)
    }
}

/// Who opens a file for reading whose attributes are leased does not ask the leader. (Who writes has to ask it for Write anyway.)
fn open_untold(core: &Core, caller: &Caller, open: Open) -> Option<(Opened, InodeAttr)> {
    let is_only_read = open.mode.read && !open.mode.write;
    is_only_read.then(|| core.names.open_untold(caller, open.inode, AccessMask::READ)).flatten()
}

/// To be called when the file is in the table of open files (H6).
async fn ask_to_open(core: &Core, caller: &Caller, Open { inode, mode }: Open) -> Result<OpenedFile> {
    let recorded = core.meta.held.recorded_when_it_opens();
    let read = if mode.read { AccessMask::READ } else { AccessMask::NONE };
    let write = if mode.write { AccessMask::WRITE } else { AccessMask::NONE };
    let mask = read.union(write);
    let opened = replies::opened(core.names.read(caller, Read::Open { inode, mask }).await?)?;
    let asked = core.meta.session_id(); // of before, too, if it is the recorded one: sessions only follow each other
    if mask != AccessMask::NONE && recorded == Some(asked) {
        core.meta.held.was_opened(asked, inode);
    }
    Ok(opened)
}

/// Makes a file and opens it. With `or_existing` it opens the file that has the name already, with the rights that `mode` needs.
#[derive(Clone, Debug)]
pub struct CreateOpen {
    pub create: Create,
    pub mode: OpenMode,
}

impl AtOneCluster for CreateOpen {
    type Reply = (Arc<File>, InodeAttr);

    fn at(&self) -> InodeId {
        self.create.parent
    }

    fn changed_entries(&self) -> Vec<ChangedEntry<'_>> {
        vec![ChangedEntry::of_new(self.create.parent, &self.create.name)]
    }

    async fn perform_at(self, cluster: &ClusterClient, caller: &Caller) -> Result<(Arc<File>, InodeAttr)> {
        let (CreateOpen { create, mode }, core) = (self, &cluster.core);
        let create = Create { opens: true, ..create };
        let (making, maker) = (core.clone(), caller.clone());
        // Also when its caller gives up: only the answer says which file the leader has to be told the close of.
        let made = core.see_through(async move { make(&making, &maker, create, mode).await }).await?;
        match made {
            Made::New(file, attr) => Ok((file, attr)),
            Made::Existed(inode) => {
                let file = Open { inode, mode }.perform_at(cluster, caller).await?;
                let attr = file.attr();
                Ok((file, attr))
            }
        }
    }
}

enum Made {
    New(Arc<File>, InodeAttr),
    Existed(InodeId),
}

async fn make(core: &Arc<Core>, caller: &Caller, create: Create, mode: OpenMode) -> Result<Made> {
    let held = &core.meta.held;
    core.meta.require_answering()?;
    held.require_room_to_create()?;
    let attachment = held.attachment();
    let wish = mode.write.then(|| core.writes.creating()).flatten();
    let grant = wish.as_ref().map(|wish| wish.grant());
    let created =
        core.names.change_wanting(caller, Change::Create(create), grant).await.inspect_err(|error| {
            if let MetaError::Unavailable { .. } = error {
                held.may_have_created(attachment);
            }
        });
    let (created, writes) = created?;
    let created = replies::inode(created)?;
    let inode = created.attr.inode;
    if created.existed {
        return Ok(Made::Existed(inode));
    }
    let session = core.meta.session_id();
    let (pin, opened) = (core.nodes.pin(inode, session), held.was_created(inode));
    if attachment.is_none() || held.attachment() != attachment {
        // What was attached meanwhile did not name the new file: it is opened like any other (H6).
        let _again = held.opening(inode).await?;
        let open = Read::Open { inode, mask: AccessMask::READ };
        replies::opened(core.names.read(&Caller::ROOT, open).await?)?;
    }
    pin.node.with(session, |state| {
        state.was_created(&created.attr);
        state.learn_next_commit(session, created.next_commit);
    });
    if let Some(wish) = wish {
        wish.answered(writes.then_some(inode));
    }
    let file = File::new(core.clone(), (pin, opened), mode);
    let attr = file.attr();
    Ok(Made::New(file, attr))
}
