//! Who has set locks, and through which open file: locks end with both.
//!
//! The kernel keeps no locks of this mount's files. It numbers owners: a process (fcntl), or an open file (flock, and fcntl's OFD
//! locks). It tells when an owner closes any of its descriptors (FLUSH, with the process's number), and when an open file is gone
//! (RELEASE). Which kind a number is of is not told.
//!
//! K1  An owner is in this table, with the open file, from before its lock is asked for: FLUSH and RELEASE find it. An owner that
//!     holds nothing and asks for nothing is not in it, so a close costs a request only where there may be locks.
//! K2  Locks that end belong to a number that is not used again: whoever has the kernel's number meanwhile has another
//!     [`LockOwner`]. So what unlocks late unlocks nothing new.
//! K3  RELEASE is asynchronous. Until it comes, an open file that is gone has locks, and the kernel may have given its number
//!     to the next one. Both look so: the file has seen FLUSH, and nothing came through it since. Who meets that waits for a moment
//!     (`settled`). A file that outlives that wait is not taken for one that is gone until its next FLUSH.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, PoisonError};

use dfs_proto::ids::{InodeId, LockOwner};
use tokio::sync::Notify;
use tokio::time::{Instant, timeout_at};

use crate::handles::Handle;

/// The kernel's number of an owner. It is used again when the owner is gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct KernelOwner(pub(crate) u64);

/// The owners of all files of a mount. The lock is held for one look and never with another.
pub(crate) struct LockOwners {
    table: Mutex<Table>,
    /// Somebody's locks have ended.
    ended: Notify,
}

#[derive(Default)]
struct Table {
    /// The number of the last [`LockOwner`].
    last: u64,
    files: HashMap<InodeId, Owners>,
}

/// The owners of one file.
#[derive(Default)]
struct Owners {
    by_kernel: HashMap<KernelOwner, Owner>,
    /// Open files that have seen FLUSH, and nothing since (K3).
    flushed: HashSet<Handle>,
    /// Owners that are no longer here, and whose locks are being ended.
    ending: usize,
    /// How many owners' locks have ended.
    ended: u64,
}

struct Owner {
    number: LockOwner,
    /// The open files through which it has asked for locks.
    handles: HashSet<Handle>,
    /// Requests without an answer.
    asking: usize,
    /// How many requests were not refused. 0: it holds nothing.
    grants: u64,
}

/// What a request may meet that is about to end.
struct SoonEnding {
    flushed: Vec<Handle>,
    ending: usize,
    ended: u64,
}

impl LockOwners {
    pub(crate) fn new() -> Arc<LockOwners> {
        Arc::new(LockOwners { table: Mutex::new(Table::default()), ended: Notify::new() })
    }

    fn with<T>(&self, act: impl FnOnce(&mut Table) -> T) -> T {
        act(&mut self.table.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// The owner is about to ask for a lock (K1).
    pub(crate) fn ask(&self, inode: InodeId, by: KernelOwner, handle: Handle) -> Asking<'_> {
        let number = self.with(|table| {
            let next = LockOwner(table.last + 1);
            let owners = table.files.entry(inode).or_default();
            owners.flushed.remove(&handle);
            let owner = owners.by_kernel.entry(by).or_insert_with(|| Owner {
                number: next,
                handles: HashSet::new(),
                asking: 0,
                grants: 0,
            });
            owner.handles.insert(handle);
            owner.asking += 1;
            let number = owner.number;
            table.last = table.last.max(number.0);
            number
        });
        Asking { owners: self, inode, by, number, is_refused: false }
    }

    /// The owner, if it may hold locks, and how many it was granted.
    pub(crate) fn holder(&self, inode: InodeId, owner: KernelOwner) -> Option<Holder> {
        self.with(|table| {
            let found = table.files.get(&inode)?.by_kernel.get(&owner)?;
            Some(Holder { inode, owner, number: found.number, grants: found.grants })
        })
    }

    /// A number of an owner that holds nothing.
    pub(crate) fn nobody(&self) -> LockOwner {
        self.with(|table| {
            table.last += 1;
            LockOwner(table.last)
        })
    }

    /// All of the owner's locks were unlocked. Those that it was granted since the look stay.
    pub(crate) fn unlocked_all(&self, holder: Holder) {
        self.with(|table| {
            let Some(owners) = table.files.get_mut(&holder.inode) else { return };
            if let Some(owner) = owners.by_kernel.get_mut(&holder.owner)
                && (owner.number, owner.grants) == (holder.number, holder.grants)
            {
                owner.grants = 0;
            }
            table.tidy(holder.inode, holder.owner);
        });
    }

    /// FLUSH: `owner` has closed a descriptor of `handle`. Its locks of that file end, whichever handle they were set through.
    pub(crate) fn closed(
        self: &Arc<Self>,
        inode: InodeId,
        owner: KernelOwner,
        handle: Handle,
    ) -> Option<Ending> {
        let number = self.with(|table| {
            let owners = table.files.get_mut(&inode)?;
            if owners.by_kernel.values().any(|owner| owner.handles.contains(&handle)) {
                owners.flushed.insert(handle);
            }
            owners.by_kernel.get(&owner).filter(|owner| owner.grants > 0)?;
            owners.end(owner)
        });
        number.map(|number| Ending { owners: self.clone(), inode, number })
    }

    /// RELEASE: the open file is gone. Every lock that was set through it alone ends.
    pub(crate) fn released(self: &Arc<Self>, inode: InodeId, handle: Handle) -> Vec<Ending> {
        let numbers = self.with(|table| {
            let Some(owners) = table.files.get_mut(&inode) else { return Vec::new() };
            owners.flushed.remove(&handle);
            let mut last_of = Vec::new();
            for (kernel, owner) in &mut owners.by_kernel {
                if owner.handles.remove(&handle) && owner.handles.is_empty() {
                    last_of.push(*kernel);
                }
            }
            let numbers: Vec<LockOwner> =
                last_of.into_iter().filter_map(|kernel| owners.end(kernel)).collect();
            if owners.is_empty() {
                table.files.remove(&inode);
            }
            numbers
        });
        self.ended.notify_waiters(); // who waited to see whether the file is gone (K3)
        numbers.into_iter().map(|number| Ending { owners: self.clone(), inode, number }).collect()
    }

    /// Waits until `end` while the kernel's number of an owner may be that of an open file that is gone (K3).
    pub(crate) async fn settled(&self, inode: InodeId, owner: KernelOwner, handle: Handle, end: Instant) {
        let is_unclear = |table: &mut Table| {
            let owners = table.files.get(&inode)?;
            let known = owners.by_kernel.get(&owner)?;
            let may_be_gone = !known.handles.contains(&handle) && known.handles.is_subset(&owners.flushed);
            may_be_gone.then(|| known.handles.clone())
        };
        loop {
            let ended = self.ended.notified();
            tokio::pin!(ended);
            ended.as_mut().enable();
            let Some(handles) = self.with(is_unclear) else { return };
            if timeout_at(end, ended).await.is_err() {
                return self.with(|table| table.stay_open(inode, &handles));
            }
        }
    }

    /// Waits until `end` for locks of others, on this mount, that are about to end (K3). True if some have: a lock that was refused
    /// is worth another try.
    pub(crate) async fn others_ended(&self, inode: InodeId, owner: KernelOwner, end: Instant) -> bool {
        let look = |table: &mut Table| table.files.get(&inode).map(|owners| owners.soon_ending(owner));
        let Some(before) = self.with(look).filter(SoonEnding::is_any) else { return false };
        loop {
            let ended = self.ended.notified();
            tokio::pin!(ended);
            ended.as_mut().enable();
            match self.with(look) {
                Some(now) if now.ended == before.ended && now.is_any() => {}
                _ => return true,
            }
            if timeout_at(end, ended).await.is_err() {
                let outlived: HashSet<Handle> = before.flushed.into_iter().collect();
                self.with(|table| table.stay_open(inode, &outlived));
                return false;
            }
        }
    }

    #[cfg(test)]
    fn is_empty(&self) -> bool {
        self.with(|table| table.files.is_empty())
    }
}

impl Table {
    /// These open files were not gone (K3).
    fn stay_open(&mut self, inode: InodeId, handles: &HashSet<Handle>) {
        if let Some(owners) = self.files.get_mut(&inode) {
            owners.flushed.retain(|handle| !handles.contains(handle));
        }
    }

    /// Takes out an owner that holds and asks nothing, and the file if nobody is left.
    fn tidy(&mut self, inode: InodeId, owner: KernelOwner) {
        let Some(owners) = self.files.get_mut(&inode) else { return };
        if owners.by_kernel.get(&owner).is_some_and(|owner| owner.grants == 0 && owner.asking == 0) {
            owners.by_kernel.remove(&owner);
        }
        if owners.is_empty() {
            self.files.remove(&inode);
        }
    }
}

impl Owners {
    fn is_empty(&self) -> bool {
        self.by_kernel.is_empty() && self.ending == 0
    }

    /// Takes the owner out (K2).
    fn end(&mut self, owner: KernelOwner) -> Option<LockOwner> {
        let number = self.by_kernel.remove(&owner)?.number;
        self.ending += 1;
        Some(number)
    }

    fn soon_ending(&self, owner: KernelOwner) -> SoonEnding {
        let others = self.by_kernel.iter().filter(|(other, _)| **other != owner);
        let handles = others.flat_map(|(_, other)| &other.handles);
        let flushed = handles.filter(|handle| self.flushed.contains(handle)).copied().collect();
        SoonEnding { flushed, ending: self.ending, ended: self.ended }
    }
}

impl SoonEnding {
    fn is_any(&self) -> bool {
        !self.flushed.is_empty() || self.ending > 0
    }
}

/// An owner that may hold locks, as it was at a look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Holder {
    inode: InodeId,
    owner: KernelOwner,
    pub(crate) number: LockOwner,
    grants: u64,
}

/// A request for a lock, from before it is sent. If it is dropped without an answer, the lock may be held.
pub(crate) struct Asking<'o> {
    owners: &'o LockOwners,
    inode: InodeId,
    by: KernelOwner,
    pub(crate) number: LockOwner,
    is_refused: bool,
}

impl Asking<'_> {
    /// The lock is held. False if the owner has closed the file meanwhile: then its locks end, this one too (K2).
    pub(crate) fn granted(self) -> bool {
        self.owners.with(|table| {
            let owner = table.files.get(&self.inode).and_then(|owners| owners.by_kernel.get(&self.by));
            owner.is_some_and(|owner| owner.number == self.number)
        })
    }

    pub(crate) fn refused(mut self) {
        self.is_refused = true;
    }
}

impl Drop for Asking<'_> {
    fn drop(&mut self) {
        self.owners.with(|table| {
            let Some(owners) = table.files.get_mut(&self.inode) else { return };
            if let Some(owner) =
                owners.by_kernel.get_mut(&self.by).filter(|owner| owner.number == self.number)
            {
                owner.asking -= 1;
                owner.grants += u64::from(!self.is_refused);
            }
            table.tidy(self.inode, self.by);
        });
    }
}

/// An owner whose locks are to be ended: they have when this is dropped.
pub(crate) struct Ending {
    owners: Arc<LockOwners>,
    inode: InodeId,
    pub(crate) number: LockOwner,
}

impl Drop for Ending {
    fn drop(&mut self) {
        self.owners.with(|table| {
            let Some(owners) = table.files.get_mut(&self.inode) else { return };
            owners.ending -= 1;
            owners.ended += 1;
            if owners.is_empty() {
                table.files.remove(&self.inode);
            }
        });
        self.owners.ended.notify_waiters();
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const FILE: InodeId = InodeId(5);
    /// Two processes, and the owner that an open file is.
    const ONE: KernelOwner = KernelOwner(0xa1);
    const TWO: KernelOwner = KernelOwner(0xa2);
    const OPEN_FILE: KernelOwner = KernelOwner(0xf1);

    fn grant(owners: &LockOwners, owner: KernelOwner, handle: u64) -> LockOwner {
        let asking = owners.ask(FILE, owner, Handle(handle));
        let number = asking.number;
        assert!(asking.granted());
        number
    }

    fn in_a_moment() -> Instant {
        Instant::now() + Duration::from_millis(50)
    }

    #[test]
    fn a_process_that_closes_any_descriptor_of_a_file_loses_all_its_locks_of_it() {
        let owners = LockOwners::new();
        let number = grant(&owners, ONE, 1);
        assert_eq!(grant(&owners, ONE, 2), number, "one owner, whichever open file it uses");
        grant(&owners, TWO, 1);
        assert_eq!(owners.closed(FILE, ONE, Handle(9)).map(|ending| ending.number), Some(number));
        assert!(owners.closed(FILE, ONE, Handle(1)).is_none(), "they have ended");
        assert!(owners.holder(FILE, TWO).is_some());
        assert!(owners.closed(InodeId(6), TWO, Handle(1)).is_none(), "another file");
    }

    #[test]
    fn an_open_file_that_is_gone_takes_the_locks_along_that_were_set_through_it_alone() {
        let owners = LockOwners::new();
        let number = grant(&owners, OPEN_FILE, 1);
        grant(&owners, ONE, 1);
        grant(&owners, ONE, 2);
        let ended = owners.released(FILE, Handle(1));
        assert_eq!(ended.iter().map(|ending| ending.number).collect::<Vec<_>>(), [number]);
        assert!(owners.holder(FILE, ONE).is_some());
        assert_eq!(owners.released(FILE, Handle(2)).len(), 1);
        drop(ended);
        assert!(owners.is_empty());
    }

    #[test]
    fn who_holds_nothing_leaves_nothing_to_unlock() {
        let owners = LockOwners::new();
        owners.ask(FILE, ONE, Handle(1)).refused();
        assert!(owners.is_empty());
        grant(&owners, ONE, 1);
        owners.ask(FILE, ONE, Handle(1)).refused();
        let holder = owners.holder(FILE, ONE).unwrap();
        owners.unlocked_all(holder);
        assert!(owners.is_empty());
        assert!(owners.closed(FILE, ONE, Handle(1)).is_none() && owners.released(FILE, Handle(1)).is_empty());
    }

    #[test]
    fn a_request_that_was_given_up_counts_as_granted() {
        let owners = LockOwners::new();
        drop(owners.ask(FILE, ONE, Handle(1)));
        assert!(owners.closed(FILE, ONE, Handle(1)).is_some());
    }

    #[test]
    fn a_lock_that_was_granted_while_others_were_unlocked_stays() {
        let owners = LockOwners::new();
        grant(&owners, ONE, 1);
        let holder = owners.holder(FILE, ONE).unwrap();
        grant(&owners, ONE, 1);
        owners.unlocked_all(holder);
        assert!(owners.closed(FILE, ONE, Handle(1)).is_some());
    }

    #[test]
    fn what_unlocks_late_unlocks_nothing_new() {
        let owners = LockOwners::new();
        let old = grant(&owners, ONE, 1);
        let waits = owners.ask(FILE, ONE, Handle(2));
        assert_eq!(waits.number, old);
        let ending = owners.closed(FILE, ONE, Handle(1)).unwrap();
        assert_ne!(grant(&owners, ONE, 2), old);
        assert!(!waits.granted(), "its owner has closed the file: it is unlocked and asked for again");
        assert_eq!(ending.number, old);
        assert!(owners.holder(FILE, ONE).is_some());
    }

    #[test]
    fn an_owner_that_only_waits_loses_nothing_by_a_close() {
        let owners = LockOwners::new();
        let waits = owners.ask(FILE, ONE, Handle(2));
        assert!(owners.closed(FILE, ONE, Handle(1)).is_none());
        assert!(waits.granted());
    }

    #[tokio::test(start_paused = true)]
    async fn a_refused_request_waits_for_an_open_file_that_is_closing_and_not_for_others() {
        let owners = LockOwners::new();
        grant(&owners, OPEN_FILE, 1);
        assert!(!owners.others_ended(FILE, TWO, in_a_moment()).await, "nobody closes");
        assert!(owners.closed(FILE, ONE, Handle(1)).is_none());
        let asks = {
            let owners = owners.clone();
            tokio::spawn(async move { owners.others_ended(FILE, TWO, in_a_moment()).await })
        };
        tokio::task::yield_now().await;
        let ending = owners.released(FILE, Handle(1));
        tokio::task::yield_now().await;
        assert!(!asks.is_finished(), "it is not unlocked yet");
        drop(ending);
        assert!(asks.await.unwrap());
    }

    #[tokio::test(start_paused = true)]
    async fn an_open_file_that_outlives_the_wait_is_waited_for_once() {
        let owners = LockOwners::new();
        grant(&owners, OPEN_FILE, 1);
        assert!(owners.closed(FILE, ONE, Handle(1)).is_none(), "a child closes what it has inherited");
        let began = Instant::now();
        assert!(!owners.others_ended(FILE, TWO, in_a_moment()).await);
        assert_eq!(began.elapsed(), Duration::from_millis(50));
        assert!(!owners.others_ended(FILE, TWO, in_a_moment()).await);
        assert_eq!(began.elapsed(), Duration::from_millis(50));
    }

    #[tokio::test(start_paused = true)]
    async fn the_number_of_an_open_file_that_is_gone_is_another_owner_when_the_kernel_gives_it_again() {
        let owners = LockOwners::new();
        let old = grant(&owners, OPEN_FILE, 1);
        assert!(owners.closed(FILE, ONE, Handle(1)).is_none());
        let next = {
            let owners = owners.clone();
            tokio::spawn(async move {
                owners.settled(FILE, OPEN_FILE, Handle(2), in_a_moment()).await;
                grant(&owners, OPEN_FILE, 2)
            })
        };
        tokio::task::yield_now().await;
        let ending = owners.released(FILE, Handle(1));
        assert_ne!(next.await.unwrap(), old);
        drop(ending);
        assert!(owners.released(FILE, Handle(1)).is_empty());
        assert_eq!(owners.released(FILE, Handle(2)).len(), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn a_process_that_uses_a_second_open_file_stays_the_same_owner() {
        let owners = LockOwners::new();
        let number = grant(&owners, ONE, 1);
        assert!(owners.closed(FILE, TWO, Handle(1)).is_none(), "a child closes what it has inherited");
        owners.settled(FILE, ONE, Handle(2), in_a_moment()).await;
        assert_eq!(grant(&owners, ONE, 2), number);
        let began = Instant::now();
        owners.settled(FILE, ONE, Handle(3), in_a_moment()).await;
        assert_eq!(began.elapsed(), Duration::ZERO);
    }
}
