//! Drops pages and attributes from the kernel's cache.
//!
//! To drop pages means to wait for those that are being read or written, so no thread that answers the kernel may do
//! it (P5.4): it is done on threads of their own, so many that some that are stuck hold up no other inode. Requests are
//! queued here; if the queue is full, a request is dropped and logged, and nobody waits. A caller that wants to know when
//! the pages are dropped waits as a task; not for long where the very request of the kernel that this task answers may
//! hold a page.

use std::fs::File;
use std::io::{self, Write as _};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use dfs_proto::ids::InodeId;
use fuser::{INodeNo, Notifier};

use tokio::sync::oneshot;

use crate::fs::{DropPages, Dropped, Fs};
use crate::kernel_attrs::Invalidate;

/// The most files whose pages wait to be dropped, mostly because their writes failed. So many at once mean that the
/// whole federation is away. The pages of further files are dropped at the next change that the kernel sees
/// (AUTO_INVAL_DATA).
const WAITING_MAX: usize = 4096;

/// The most inodes whose pages are dropped at the same time.
const THREADS: usize = 16;

/// How often the kernel is told again to forget the attributes of an inode that it does not know yet (KA5), for a fifth of a second in all:
/// a thread that has its answer is scheduled by then.
const REPEATED_MAX: u32 = 400;
const REPEAT_INTERVAL: Duration = Duration::from_micros(500);
const _: () = assert!(cfg!(target_endian = "little"), "messages to the kernel are in its byte order");

/// Pages of a file, and the sender for the caller that waits until they are dropped.
struct Pages {
    inode: InodeId,
    dropped: Dropped,
    done: oneshot::Sender<()>,
}

/// Makes the kernel forget attributes (KA2 of `kernel_attrs`), through a duplicate of the mount's descriptor: fuser hides whether the
/// kernel knows the inode. This waits for nothing that a request of this mount may hold. Only where the kernel is dropping that very inode
/// from its memory, it waits for the end of that, and so for pages that are still being read; and it may have to be repeated (KA5). So it
/// does not keep the runtime's thread from its other tasks.
pub(crate) fn invalidate_attrs(device: File, fs: &Arc<Fs>) -> Invalidate {
    let fs = Arc::downgrade(fs);
    let told = fs.clone();
    // After the unmount the kernel knows no inode, and takes no look-ups back.
    let is_looked_up =
        move |inode| fs.upgrade().is_some_and(|fs| !fs.is_closed() && fs.inodes().is_known(inode));
    Box::new(move |inode| {
        tokio::task::block_in_place(|| {
            for _ in 0..REPEATED_MAX {
                match telling(&told, inode, || invalidate(&device, inode)) {
                    Err(error) if error.kind() == io::ErrorKind::NotFound && is_looked_up(inode) => {
                        std::thread::park_timeout(REPEAT_INTERVAL); // keeps KA5
                    }
                    _ => return, // the kernel does not know it, or the mount is gone, or it is done
                }
            }
            tracing::warn!("{inode}: the kernel has looked it up and does not know it");
        });
    })
}

/// Notes before and after `tell` that the kernel is told to forget the attributes (KA6).
fn telling<T>(fs: &Weak<Fs>, inode: InodeId, tell: impl FnOnce() -> T) -> T {
    let note = || {
        if let Some(fs) = fs.upgrade() {
            fs.inodes().invalidated(inode);
        }
    };
    note();
    let told = tell();
    note();
    told
}

fn invalidate(mut device: &File, inode: InodeId) -> io::Result<()> {
    const LEN: u32 = 40;
    const INVAL_INODE: i32 = 2;
    const NO_PAGES: i64 = -1;
    let mut message = Vec::with_capacity(LEN as usize);
    message.extend_from_slice(&LEN.to_le_bytes());
    message.extend_from_slice(&INVAL_INODE.to_le_bytes());
    message.extend_from_slice(&0_u64.to_le_bytes()); // it answers nothing
    message.extend_from_slice(&inode.0.to_le_bytes());
    message.extend_from_slice(&NO_PAGES.to_le_bytes());
    message.extend_from_slice(&0_i64.to_le_bytes());
    device.write_all(&message)
}

/// Starts the threads. They end when the returned function is dropped. What drops no pages waits for none, so it has a thread of
/// its own and is not held up by those.
pub(crate) fn start(notifier: Notifier, fs: &Arc<Fs>) -> io::Result<DropPages> {
    let pages = start_threads("dfs-pages", THREADS, &notifier, fs)?;
    let attributes = start_threads("dfs-attributes", 1, &notifier, fs)?;
    Ok(Box::new(move |inode, dropped| {
        enqueue(if dropped == Dropped::None { &attributes } else { &pages }, inode, dropped)
    }))
}

fn start_threads(
    name: &str,
    number: usize,
    notifier: &Notifier,
    fs: &Arc<Fs>,
) -> io::Result<SyncSender<Pages>> {
    let (sender, receiver) = sync_channel(WAITING_MAX);
    let receiver = Arc::new(Mutex::new(receiver));
    for _ in 0..number {
        let (receiver, notifier, fs) = (receiver.clone(), notifier.clone(), Arc::downgrade(fs));
        std::thread::Builder::new()
            .name(name.to_owned())
            .spawn(move || drop_all(&receiver, &notifier, &fs))?;
    }
    Ok(sender)
}

fn enqueue(sender: &SyncSender<Pages>, inode: InodeId, dropped: Dropped) -> oneshot::Receiver<()> {
    let (done, is_done) = oneshot::channel();
    match sender.try_send(Pages { inode, dropped, done }) {
        Ok(()) | Err(TrySendError::Disconnected(_)) => {}
        Err(TrySendError::Full(_)) => {
            tracing::warn!("{inode}: pages that are not the file's stay in the kernel's cache");
        }
    }
    is_done
}

/// Until the sender is gone.
fn drop_all(receiver: &Mutex<Receiver<Pages>>, notifier: &Notifier, fs: &Weak<Fs>) {
    let next = || receiver.lock().unwrap_or_else(PoisonError::into_inner).recv().ok();
    while let Some(Pages { inode, dropped, done }) = next() {
        let (offset, len) = range_of(&dropped);
        // It fails only when the mount is gone.
        if let Err(error) = telling(fs, inode, || notifier.inval_inode(INodeNo(inode.0), offset, len)) {
            tracing::debug!("{inode}: drop pages: {error}");
        }
        let _ = done.send(()); // nobody waits any longer
    }
}

/// The range as the kernel takes it: a length of 0 means up to the end, and behind the largest offset there are no pages.
fn range_of(dropped: &Dropped) -> (i64, i64) {
    let number = |at: u64| i64::try_from(at).unwrap_or(i64::MAX);
    match dropped {
        Dropped::All => (0, 0),
        Dropped::With(bytes) => (number(bytes.start), number(bytes.end - bytes.start)),
        Dropped::None => (i64::MAX, 0),
    }
}
