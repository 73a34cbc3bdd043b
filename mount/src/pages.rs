//! Takes pages out of the kernel's cache, on a thread of its own.
//!
//! Dropping pages waits for those that are being read, so nothing that answers the kernel may do it (P5.4): requests
//! are queued here, and a full queue is a logged miss, never a wait.

use std::io;
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};

use dfs_proto::ids::InodeId;
use fuser::{INodeNo, Notifier};

use crate::fs::DropPages;

/// Files whose writes failed and whose pages wait to be dropped. Many at once means that the whole federation is away;
/// those beyond are dropped by the next change that the kernel sees (AUTO_INVAL_DATA).
const WAITING_MAX: usize = 4096;

/// Starts the thread; it ends when the answer is dropped.
pub(crate) fn start(notifier: Notifier) -> io::Result<DropPages> {
    let (sender, receiver) = sync_channel(WAITING_MAX);
    std::thread::Builder::new().name("dfs-pages".to_owned()).spawn(move || drop_all(&receiver, &notifier))?;
    Ok(Box::new(move |inode| enqueue(&sender, inode)))
}

fn enqueue(sender: &SyncSender<InodeId>, inode: InodeId) {
    match sender.try_send(inode) {
        Ok(()) | Err(TrySendError::Disconnected(_)) => {}
        Err(TrySendError::Full(inode)) => {
            tracing::warn!("{inode}: pages that were not written stay in the kernel's cache");
        }
    }
}

fn drop_all(receiver: &Receiver<InodeId>, notifier: &Notifier) {
    for inode in receiver {
        // From the first byte, without an end. Fails only when the mount is gone.
        if let Err(error) = notifier.inval_inode(INodeNo(inode.0), 0, 0) {
            tracing::debug!("{inode}: drop pages: {error}");
        }
    }
}
