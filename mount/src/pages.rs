//! Takes pages out of the kernel's cache, on a thread of its own.
//!
//! Dropping pages waits for those that are being read or written, so no thread that answers the kernel may do it (P5.4):
//! requests are queued here, and a full queue is a logged miss, never a wait. Whoever wants to know when it is done waits for
//! the answer as a task, and not for long: it may be the kernel's request of that very task that holds a page.

use std::io;
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};

use dfs_proto::ids::InodeId;
use dfs_proto::units::Offset;
use fuser::{INodeNo, Notifier};

use tokio::sync::oneshot;

use crate::fs::DropPages;

/// Files whose pages wait to be dropped, mostly because their writes failed. Many at once means that the whole federation is away;
/// those beyond are dropped by the next change that the kernel sees (AUTO_INVAL_DATA).
const WAITING_MAX: usize = 4096;

/// Pages of a file, from the one with this byte in it on, and who wants to know that they are gone.
struct Pages {
    inode: InodeId,
    from: Offset,
    done: oneshot::Sender<()>,
}

/// Starts the thread; it ends when the answer is dropped.
pub(crate) fn start(notifier: Notifier) -> io::Result<DropPages> {
    let (sender, receiver) = sync_channel(WAITING_MAX);
    std::thread::Builder::new().name("dfs-pages".to_owned()).spawn(move || drop_all(&receiver, &notifier))?;
    Ok(Box::new(move |inode, from| enqueue(&sender, inode, from)))
}

fn enqueue(sender: &SyncSender<Pages>, inode: InodeId, from: Offset) -> oneshot::Receiver<()> {
    let (done, is_done) = oneshot::channel();
    match sender.try_send(Pages { inode, from, done }) {
        Ok(()) | Err(TrySendError::Disconnected(_)) => {}
        Err(TrySendError::Full(_)) => {
            tracing::warn!("{inode}: pages that are not the file's stay in the kernel's cache");
        }
    }
    is_done
}

fn drop_all(receiver: &Receiver<Pages>, notifier: &Notifier) {
    for Pages { inode, from, done } in receiver {
        let from = i64::try_from(from.0).unwrap_or(i64::MAX);
        // Without an end. Fails only when the mount is gone.
        if let Err(error) = notifier.inval_inode(INodeNo(inode.0), from, 0) {
            tracing::debug!("{inode}: drop pages: {error}");
        }
        let _ = done.send(()); // nobody waits any longer
    }
}
